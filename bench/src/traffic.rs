//! Steady traffic by `insula-bench load`, running beside the story.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use anyhow::{Context, Result};

use crate::{
    interrupt::hears,
    lab::{Lab, Programs},
    report::Record,
};

/// Load that runs until it is stopped; ended when dropped.
#[derive(Debug)]
pub(crate) struct Traffic {
    child: Child,
    records: Arc<Mutex<Vec<Record>>>,
    reader: Option<JoinHandle<()>>,
}

impl Traffic {
    /// Starts it in the network of the lab's services.
    pub(crate) fn start(lab: &Lab, edges: &[SocketAddr], host: &str, rate: u32) -> Result<Self> {
        Self::spawn(lab.command_at("services", &lab.programs().bench), edges, host, rate)
    }

    /// Starts it there, by nice(1): less of it leaves the processors to the nodes, more makes what is measured theirs alone.
    pub(crate) fn start_nice(lab: &Lab, edges: &[SocketAddr], host: &str, rate: u32, nice: i8) -> Result<Self> {
        let mut command = lab.command_at("services", Path::new("nice"));
        command.args(["-n", &nice.to_string()]).arg(&lab.programs().bench);
        Self::spawn(command, edges, host, rate)
    }

    /// Starts it on this machine.
    pub(crate) fn start_here(programs: &Programs, edge: SocketAddr, host: &str, rate: u32) -> Result<Self> {
        Self::spawn(Command::new(&programs.bench), &[edge], host, rate)
    }

    /// Starts it in the network of the lab's services, with further arguments of `insula-bench load`.
    pub(crate) fn start_as(lab: &Lab, edges: &[SocketAddr], host: &str, rate: u32, arguments: &[&str]) -> Result<Self> {
        let mut command = lab.command_at("services", &lab.programs().bench);
        command.arg("load").args(arguments);
        Self::begin(command, edges, host, rate)
    }

    fn spawn(mut command: Command, edges: &[SocketAddr], host: &str, rate: u32) -> Result<Self> {
        command.arg("load");
        Self::begin(command, edges, host, rate)
    }

    fn begin(mut command: Command, edges: &[SocketAddr], host: &str, rate: u32) -> Result<Self> {
        command.args(["--until-eof", "--host", host, "--rate", &rate.to_string()]);
        for edge in edges {
            command.args(["--target", &edge.to_string()]);
        }
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = hears(&mut command).spawn().context("start insula-bench")?;
        let stdout = child.stdout.take().context("read from insula-bench")?;
        let records = Arc::<Mutex<Vec<Record>>>::default();
        let kept = Arc::clone(&records);
        #[allow(clippy::disallowed_methods, reason = "a blocking read beside the story; there are no tasks in here")]
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // A line cut short by the end of the program says nothing.
                if let Ok(record) = serde_json::from_str(&line) {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(record);
                }
            }
        });
        Ok(Self { child, records, reader: Some(reader) })
    }

    /// Looks at what came in so far.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&[Record]) -> T) -> T {
        look(&self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts no more requests, waits for those in flight, gives all.
    pub(crate) fn stop(&mut self) -> Result<Vec<Record>> {
        drop(self.child.stdin.take());
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| anyhow::anyhow!("reading from insula-bench panicked"))?;
        }
        self.child.wait().context("wait for insula-bench")?;
        Ok(std::mem::take(&mut *self.records.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        // Ended already when it was stopped.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
