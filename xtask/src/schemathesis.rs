//! `cargo xtask schemathesis`: a real server is sent what its own description of the API allows, and what it does not. Which
//! endpoints are left out, and why: `xtask/schemathesis.toml`. What is deployed meanwhile is made up, so the node is in
//! namespaces of its own, without a network, and all that it starts ends with them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    packages,
    run::{cargo, hears, run, top},
};

/// From PyPI. A later version finds more, and is taken on purpose.
const VERSION: &str = "4.32.5";
/// Where the API of `insula dev` listens.
const DESCRIPTION: &str = "https://127.0.0.1:7480/v1/openapi.json";
/// Answers about an app that runs are more than those about none.
const APP: &str = r#"
app = "shop"
[services.web]
runtime = "process"
command = ["sleep", "100000"]
"#;
/// How long the node may take to serve, and to end.
const SERVING_WITHIN: Duration = Duration::from_secs(60);
const END_WITHIN: Duration = Duration::from_secs(30);
/// How often it is asked whether it has.
const POLL: Duration = Duration::from_millis(100);

/// How to hold the API against its description.
#[derive(Debug, Args)]
pub(crate) struct SchemathesisArgs {
    /// Do not build: use what is in target/debug
    #[arg(long)]
    no_build: bool,
    /// We are in namespaces of our own already, and this is where the node may be
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
    /// What to pass on: `--max-examples 200`, `--include-path /v1/apps` …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// What cannot be prepared; or that something was found, which is printed by then.
pub(crate) fn schemathesis(arguments: &SchemathesisArgs) -> Result<()> {
    if let Some(dir) = &arguments.inside {
        return inside(dir, &arguments.rest);
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "the node is put into namespaces of its own, since what is deployed there is made up: run it as root"
    );
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::LAB)?;
    if !arguments.no_build {
        run("build (dev)", cargo().args(["build", "--quiet", "--package", "insula"]))?;
    }
    install()?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]);
    // Volumes of made-up sizes shall not fill this machine's disk.
    let disk = "mount -t tmpfs -o size=1g,mode=700 tmpfs \"$1\"";
    let script = format!("ip link set lo up && {disk} && exec \"$0\" schemathesis --inside \"$@\"");
    command.args(["sh", "-c", &script]);
    let dir = std::env::temp_dir().join(format!("insula-schemathesis-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    command.arg(std::env::current_exe().context("find this program")?).arg(&dir).arg("--").args(&arguments.rest);
    let ran = run("namespaces of its own", &mut command);
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    ran
}

fn programs() -> PathBuf {
    top().join("target/schemathesis/bin")
}

/// Installs it below `target/`, unless it is there.
fn install() -> Result<()> {
    let found = Command::new(programs().join("schemathesis")).arg("--version").output();
    if found.is_ok_and(|found| String::from_utf8_lossy(&found.stdout).trim_end().ends_with(VERSION)) {
        return Ok(());
    }
    run(
        "a place for Python packages",
        Command::new("python3").args(["-m", "venv"]).arg(top().join("target/schemathesis")),
    )?;
    let mut pip = Command::new(programs().join("pip"));
    run("install schemathesis", pip.args(["install", "--quiet", &format!("schemathesis=={VERSION}")]))
}

fn inside(dir: &Path, rest: &[String]) -> Result<()> {
    let node = Node::start(dir)?;
    let token = node.wait_until_it_serves()?;
    node.fill()?;
    let mut command = Command::new(programs().join("schemathesis"));
    command.arg("--config-file").arg(top().join("xtask/schemathesis.toml")).args(["run", DESCRIPTION]).args(rest);
    command.env("INSULA_API_TOKEN", token).env("INSULA_HOOKS", top().join("xtask/schemathesis.py")).current_dir(dir);
    let found = run("the API against its description", &mut command);
    let log = node.log();
    if found.is_err() {
        println!("── the end of the node's log\n{}", tail(&log));
    }
    ensure!(!log.contains("panicked at"), "the node panicked:\n{}", tail(&log));
    found
}

/// How often something is asked that may take so long.
fn polls(limit: Duration) -> u128 {
    limit.as_millis() / POLL.as_millis()
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// A node; told to end when dropped, and waited for.
struct Node<'a> {
    dir: &'a Path,
    child: Child,
}

impl<'a> Node<'a> {
    fn start(dir: &'a Path) -> Result<Self> {
        let log = fs::File::create(dir.join("log")).context("make a log")?;
        let mut command = Command::new(top().join("target/debug/insula"));
        command.args(["dev", "--data"]).arg(dir.join("node"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = hears(&mut command).spawn().context("start insula dev")?;
        Ok(Self { dir, child })
    }

    fn log(&self) -> String {
        fs::read(self.dir.join("log")).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Gives the token of its administrator.
    fn wait_until_it_serves(&self) -> Result<String> {
        for _ in 0..polls(SERVING_WITHIN) {
            let mut command = Command::new(top().join("target/debug/insula"));
            command.args(["nodes", "--json"]).env("INSULA_SOCKET", self.dir.join("node/run/api.sock"));
            if command.output().context("run insula nodes")?.status.success() {
                let path = self.dir.join("node/admin.token");
                return fs::read_to_string(&path).with_context(|| format!("read {}", path.display()));
            }
            thread::sleep(POLL);
        }
        bail!("the node does not serve after {SERVING_WITHIN:?}:\n{}", tail(&self.log()))
    }
}

impl Node<'_> {
    /// Something to answer with.
    fn fill(&self) -> Result<()> {
        let definition = self.dir.join("shop.toml");
        fs::write(&definition, APP).with_context(|| format!("write {}", definition.display()))?;
        let file = definition.to_str().context("a path of ours")?;
        let steps: [&[&str]; 2] =
            [&["deploy", file], &["volume", "create", "shop/db/data.0", "--node", "dev", "--size", "8MiB"]];
        for step in steps {
            let mut command = Command::new(top().join("target/debug/insula"));
            run("fill the node", command.args(step).env("INSULA_SOCKET", self.dir.join("node/run/api.sock")))?;
        }
        Ok(())
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).ok();
        for _ in 0..polls(END_WITHIN) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            thread::sleep(POLL);
        }
        // What is left ends with the namespaces.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
