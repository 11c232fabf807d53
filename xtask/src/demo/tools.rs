//! The programs that the demo drives, as a person at a terminal would.

use std::{
    io::Write,
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::run::hears;

/// Where the program is inside a node.
const PROGRAM_IN_NODE: &str = "/usr/local/bin/insula";

/// A node, as `insula lab status --json` tells.
#[derive(Debug, Deserialize)]
pub(crate) struct LabNode {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
}

/// `insula` and `insula-bench` as built, and the lab that they are about.
pub(crate) struct Tools {
    program: PathBuf,
    bench: PathBuf,
    lab: String,
}

/// Wall time in milliseconds since 1970: what processes of one machine can compare.
pub(crate) fn now_ms() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "a tool that watches real programs; nothing simulates it")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// Runs to the end with that input; what it wrote, or an error with what it complained about.
pub(crate) fn output(command: &mut Command, input: &str) -> Result<String> {
    let what = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = hears(command).spawn().with_context(|| format!("start {what}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading tells why by its status.
        stdin.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output().with_context(|| format!("wait for {what}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{what} failed ({}): {}{said}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

impl Tools {
    pub(crate) fn new(dir: &Path, lab: &str) -> Self {
        Self { program: dir.join("insula"), bench: dir.join("insula-bench"), lab: lab.to_owned() }
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn bench(&self) -> &Path {
        &self.bench
    }

    fn lab_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["lab", "--name", &self.lab]).args(arguments);
        command
    }

    /// `insula lab …`
    pub(crate) fn lab(&self, arguments: &[&str]) -> Result<String> {
        output(&mut self.lab_command(arguments), "")
    }

    /// Takes the lab down; Ctrl-C does not reach it.
    pub(crate) fn down(&self) -> Result<String> {
        output(self.lab_command(&["down"]).process_group(0), "")
    }

    /// `insula …` on a node.
    pub(crate) fn on(&self, node: &str, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.lab_command(&["exec", node, "--", PROGRAM_IN_NODE]);
        output(command.args(arguments), input)
    }

    /// The same for what answers in JSON.
    pub(crate) fn on_json(&self, node: &str, arguments: &[&str]) -> Result<Value> {
        let said = self.on(node, arguments, "")?;
        serde_json::from_str(&said).with_context(|| format!("understand what insula {arguments:?} said: {said}"))
    }

    /// A command in the network of the lab's services.
    pub(crate) fn in_services(&self, program: &Path) -> Command {
        let mut command = self.lab_command(&["exec", "services", "--"]);
        command.arg(program);
        command
    }

    /// The lab's nodes.
    pub(crate) fn nodes(&self) -> Result<Vec<LabNode>> {
        let said = self.lab(&["status", "--json"])?;
        serde_json::from_str(&said).with_context(|| format!("understand insula lab status: {said}"))
    }
}
