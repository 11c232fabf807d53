//! The story without root: one node (`insula dev`), two instances as processes; kill -9 of an instance, of the server
//! and of the dataplane under traffic.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    HOST, Telling, end, outage,
    stage::{SERVING_WITHIN, now_ms},
    step,
};
use crate::{
    interrupt::{Interrupt, hears},
    lab::{Programs, output},
    traffic::Traffic,
};

/// Where the edge of `insula dev` listens in the demo.
const EDGE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// How long after each blow is measured.
const WATCHED: Duration = Duration::from_secs(8);
/// How long the node may take to end when asked.
const END_WITHIN: Duration = Duration::from_secs(30);
/// An edge whose dataplane was killed answers again within this, and twice as long fails the check.
const EDGE_BACK_BUDGET_MS: u64 = 3000;

/// The node of the story; ended, and its files removed, when dropped.
struct Node<'a> {
    programs: &'a Programs,
    dir: PathBuf,
    child: Child,
}

impl<'a> Node<'a> {
    fn start(programs: &'a Programs) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("insula-demo-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let child = Self::spawn(programs, &dir)?;
        Ok(Self { programs, dir, child })
    }

    fn spawn(programs: &Programs, dir: &Path) -> Result<Child> {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("demo.log")).context("open a log")?;
        let mut command = Command::new(&programs.insula);
        command.args(["dev", "--edge", &EDGE.to_string(), "--data"]).arg(dir.join("node")).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        hears(&mut command).spawn().context("start insula dev")
    }

    /// `insula …` against this node.
    fn insula(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(&self.programs.insula);
        command.args(arguments).env("INSULA_SOCKET", self.dir.join("node/run/api.sock"));
        output(&mut command, input)
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.dir.join("demo.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).ok();
        let deadline = now_ms() + END_WITHIN.as_millis() as u64;
        while matches!(self.child.try_wait(), Ok(None)) && now_ms() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// Tells it.
pub(super) fn tell(programs: &Programs, telling: &Telling, interrupt: &Interrupt) -> Result<()> {
    step("insula dev: one node, nothing to set up");
    let mut node = Node::start(programs)?;
    let told = go(programs, &mut node, telling, interrupt);
    told.with_context(|| format!("insula dev said last:\n{}", node.log_tail()))
}

fn go(programs: &Programs, node: &mut Node<'_>, telling: &Telling, interrupt: &Interrupt) -> Result<()> {
    let page = programs.bench.display();
    let definition = format!(
        "app = \"shop\"\n[services.web]\nruntime = \"process\"\ncommand = [\"{page}\", \"page\"]\nscale = 2\n\
         ports = [{{ name = \"http\", port = 8080, protocol = \"http\" }}]\n\
         routes = [{{ host = \"{HOST}\", path = \"/\" }}]\n\
         health = {{ http = \"/healthz\", interval = \"1s\", timeout = \"1s\", grace = \"10s\", unhealthy_after = 2 }}\n"
    );
    let deadline = now_ms() + SERVING_WITHIN.as_millis() as u64;
    while let Err(error) = node.insula(&["nodes"], "") {
        ensure!(now_ms() < deadline, "the node does not answer: {error:#}");
        interrupt.sleep(Duration::from_millis(200))?;
    }
    step("deploy: two instances as processes");
    print!("{}", node.insula(&["deploy", "-", "--wait", "1m"], &definition)?);
    step(&format!("traffic: {} requests/s to {EDGE}", telling.rate));
    let mut traffic = Traffic::start_here(programs, EDGE, HOST, telling.rate)?;
    while traffic.with(|records| outage::instances_by_edge(records).values().all(|seen| seen.len() < 2)) {
        ensure!(now_ms() < deadline, "the edge does not answer from two instances");
        interrupt.sleep(Duration::from_millis(200))?;
    }
    interrupt.sleep(Duration::from_secs(2))?;
    let instances = processes(&programs.bench, "page", None);
    let mut broken = Vec::new();

    let victim = *instances.first().context("no instance's process was found")?;
    let (lost, _) = blow("kill -9 of an instance", &traffic, interrupt, || strike(victim))?;
    ensure_none(&mut broken, lost, "when an instance was killed");
    let before = processes(&programs.bench, "page", None);

    let server = node.child.id() as i32;
    let (lost, _) = blow("kill -9 of the server, started again after 2 s", &traffic, interrupt, || {
        strike(server)?;
        node.child.wait().context("wait for insula dev")?;
        std::thread::sleep(Duration::from_secs(2));
        node.child = Node::spawn(programs, &node.dir)?;
        Ok(())
    })?;
    ensure_none(&mut broken, lost, "when the server was killed");
    let kept = instances.iter().skip(1).chain(&before).all(|pid| Path::new(&format!("/proc/{pid}")).exists());
    if !kept {
        broken.push("an instance was restarted with the server".to_owned());
    }

    let dataplane = processes(&programs.insula, "dataplane", Some(&node.dir));
    let dataplane = *dataplane.first().context("no dataplane was found")?;
    let (_, back_ms) = blow("kill -9 of the dataplane", &traffic, interrupt, || strike(dataplane))?;
    if back_ms > 2 * EDGE_BACK_BUDGET_MS {
        broken.push(format!("the edge was away for {back_ms} ms"));
    }
    traffic.stop()?;
    print!("{}", node.insula(&["ps"], "")?);
    end(&broken, telling, interrupt, || {
        println!("\nThe node stays up until Ctrl-C:  curl -H 'Host: {HOST}' http://{EDGE}/");
    })
}

/// Processes of a program in a role, whose arguments or environment speak of a directory.
fn processes(program: &Path, role: &str, dir: Option<&Path>) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |pid: &i32| {
        let read = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let is_program = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == program);
        let (line, environment) = (read("cmdline"), read("environ"));
        let is_role = line.split(|byte| *byte == 0).nth(1) == Some(role.as_bytes());
        let speaks_of = |dir: &Path| {
            let dir = dir.as_os_str().as_encoded_bytes();
            [&line, &environment].iter().any(|text| text.windows(dir.len()).any(|part| part == dir))
        };
        is_program && is_role && dir.is_none_or(speaks_of)
    };
    pids.filter(is_it).collect()
}

fn strike(pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill {pid}"))
}

fn ensure_none(broken: &mut Vec<String>, lost: usize, when: &str) {
    if lost > 0 {
        broken.push(format!("{lost} requests were lost {when}"));
    }
}

/// Does something bad, then counts: requests lost, and milliseconds until the last loss.
fn blow(
    what: &str,
    traffic: &Traffic,
    interrupt: &Interrupt,
    bad: impl FnOnce() -> Result<()>,
) -> Result<(usize, u64)> {
    step(what);
    let at_ms = now_ms();
    bad()?;
    interrupt.sleep(WATCHED)?;
    let losses = traffic.with(|records| outage::losses(records, EDGE, at_ms));
    let last = losses.last_ms as f64 / 1000.0;
    println!("   {} requests, {} lost, the last {last:.2} s after", losses.sent, losses.lost);
    Ok((losses.lost, losses.last_ms))
}
