//! The programs that a measurement drives, as a person at a terminal would: `insula lab …`, and `insula …` on its nodes.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::interrupt::hears;

/// Where the program is inside a node.
const PROGRAM_IN_NODE: &str = "/usr/local/bin/insula";
/// Where the edge of a node listens, and its API.
const EDGE_PORT: u16 = 80;
const API_PORT: u16 = 7480;

/// `insula` and `insula-bench`, built by the same command.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The program that is measured.
    pub insula: PathBuf,
    /// This one.
    pub bench: PathBuf,
    /// The program as if of a later version, where it was built.
    pub next: Option<PathBuf>,
}

impl Programs {
    /// Those in a directory of built programs, as `target/release`.
    ///
    /// # Errors
    /// When one is not there.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        let find = |name: &str| {
            let path = dir.join(name);
            let advice = "build it first: cargo build --package insula --package insula-bench";
            ensure!(path.exists(), "there is no {}; {advice}", path.display());
            Ok(path)
        };
        let next = Some(dir.join("insula-next")).filter(|path| path.exists());
        Ok(Self { insula: find("insula")?, bench: find("insula-bench")?, next })
    }

    /// Those beside the running program.
    ///
    /// # Errors
    /// When one is not there.
    pub fn beside_this() -> Result<Self> {
        let own = std::env::current_exe().context("find this program")?;
        Self::in_dir(own.parent().unwrap_or(Path::new(".")))
    }
}

/// A node, as `insula lab status --json` tells.
#[derive(Clone, Debug, Deserialize)]
pub struct LabNode {
    /// Its name.
    pub name: String,
    /// Its address in the lab.
    pub address: Ipv4Addr,
    /// Its server, by the machine's process number.
    pub server: Option<u32>,
    /// Its dataplane.
    pub dataplane: Option<u32>,
}

impl LabNode {
    /// Its edge.
    pub fn edge(&self) -> SocketAddr {
        SocketAddr::from((self.address, EDGE_PORT))
    }

    /// Its API.
    pub fn api(&self) -> SocketAddr {
        SocketAddr::from((self.address, API_PORT))
    }
}

/// Where labs are, unless `insula lab` is told otherwise.
const LABS: &str = "/var/lib/insula-lab";
/// Lines of a console that are shown of a node that is not well.
const LAST_LINES: usize = 30;

/// A lab; taken down when dropped, unless it was [kept](Lab::keep).
#[derive(Debug)]
pub struct Lab {
    programs: Programs,
    name: String,
    is_kept: bool,
}

impl Lab {
    /// Makes a lab of so many nodes in two data centres, whose region has formed. What an earlier lab of that name left
    /// is removed first. `certificates`: how long certificates live, as `insula init` takes it.
    ///
    /// # Errors
    /// As `insula lab up` says.
    pub fn up(programs: &Programs, name: &str, nodes: usize, certificates: Option<&str>) -> Result<Self> {
        let lives = certificates.map_or_else(Vec::new, |lives| vec!["--certificates", lives]);
        let regions = format!("fra:{nodes}");
        Self::up_as(programs, name, &[&["--regions", &regions][..], &lives].concat())
    }

    /// The same with what `insula lab up` is told.
    ///
    /// # Errors
    /// As it says.
    pub fn up_as(programs: &Programs, name: &str, arguments: &[&str]) -> Result<Self> {
        let lab = Self { programs: programs.clone(), name: name.to_owned(), is_kept: false };
        lab.down()?;
        lab.run(&[&["up"][..], arguments].concat())?;
        Ok(lab)
    }

    /// Leaves it standing.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    /// How a person names it at a terminal.
    pub fn command_line(&self) -> String {
        format!("{} lab --name {}", self.programs.insula.display(), self.name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.insula);
        command.args(["lab", "--name", &self.name]).args(arguments);
        command
    }

    /// `insula lab …`; what it wrote.
    ///
    /// # Errors
    /// What it complained about.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        output(&mut self.command(arguments), "")
    }

    /// Takes it down; Ctrl-C does not reach it.
    fn down(&self) -> Result<String> {
        output(self.command(&["down"]).process_group(0), "")
    }

    /// What a node's processes said on its console.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn console(&self, node: &str) -> Result<String> {
        let path = Path::new(LABS).join(&self.name).join("nodes").join(node).join("console.log");
        let said = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// The last of it, to read; why not, when it cannot be read.
    #[must_use]
    pub fn last_words(&self, node: &str) -> String {
        match self.console(node) {
            Ok(said) => {
                let lines: Vec<_> = said.lines().collect();
                lines.iter().skip(lines.len().saturating_sub(LAST_LINES)).map(|line| format!("   {line}\n")).collect()
            }
            Err(error) => format!("   {error:#}\n"),
        }
    }

    /// `insula …` on a node, with that input.
    ///
    /// # Errors
    /// What it complained about.
    pub fn on(&self, node: &str, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command(&["exec", node, "--", PROGRAM_IN_NODE]);
        output(command.args(arguments), input)
    }

    /// The same for what answers in JSON; gives the `items`.
    ///
    /// # Errors
    /// What it complained about, or an answer that is none.
    pub fn items(&self, node: &str, arguments: &[&str]) -> Result<Vec<Value>> {
        let said = self.on(node, &[arguments, &["--json"]].concat(), "")?;
        let mut answer: Value =
            serde_json::from_str(&said).with_context(|| format!("understand insula {arguments:?}: {said}"))?;
        match answer["items"].take() {
            Value::Array(items) => Ok(items),
            _ => bail!("insula {arguments:?} has no items: {said}"),
        }
    }

    /// A command on a node, or in the network of the lab's `services`.
    pub fn command_at(&self, place: &str, program: &Path) -> Command {
        let mut command = self.command(&["exec", place, "--"]);
        command.arg(program);
        command
    }

    /// Its nodes.
    ///
    /// # Errors
    /// When the lab does not say.
    pub fn nodes(&self) -> Result<Vec<LabNode>> {
        let said = self.run(&["status", "--json"])?;
        serde_json::from_str(&said).with_context(|| format!("understand insula lab status: {said}"))
    }

    /// A line that lets a program call the API of every node, whatever it wants.
    ///
    /// # Errors
    /// When no node makes one.
    pub fn context(&self) -> Result<String> {
        let nodes = self.nodes()?;
        let node = &nodes.first().context("the lab has no node")?.name;
        let said = self.on(node, &["token", "create", "--api", "--role", "admin"], "")?;
        let line = said.split_whitespace().find(|word| word.starts_with("insula-ctx-"));
        line.map(str::to_owned).with_context(|| format!("no context in {said:?}"))
    }

    /// The program that it drives, and the one that makes load.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = self.down() {
            eprintln!("the lab {} still stands: {error:#}", self.name);
        }
    }
}

/// Runs to the end with that input; what it wrote, or an error with what it complained about.
pub(crate) fn output(command: &mut Command, input: &str) -> Result<String> {
    Ok(output_and_complaints(command, input)?.0)
}

/// The same, and what it wrote to its standard error.
pub(crate) fn output_and_complaints(command: &mut Command, input: &str) -> Result<(String, String)> {
    let what = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = hears(command).spawn().with_context(|| format!("start {what}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading tells why by its status.
        stdin.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output().with_context(|| format!("wait for {what}"))?;
    let [said, complaints] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ensure!(output.status.success(), "{what} failed ({}): {complaints}{said}", output.status);
    Ok((said, complaints))
}
