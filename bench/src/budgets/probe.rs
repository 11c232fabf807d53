//! Writes on every node while something happens to the region, and its leader once it has settled.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use insula_env::Clock;

use crate::{lab::Lab, writes::Write};

/// How long it may take until a write is confirmed, or until all nodes are back.
const WITHIN: Duration = Duration::from_secs(60);
/// Quiet after all are back, so that the next fault meets a settled group.
const SETTLE: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Writes on every node, to the node's own API, all the time.
pub(super) struct Probe {
    writers: Vec<Child>,
    writes: Receiver<Write>,
}

impl Probe {
    /// Starts the writers.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let nodes = lab.nodes()?;
        let context = lab.context()?;
        let (sender, writes) = channel();
        let mut probe = Self { writers: Vec::new(), writes };
        for node in &nodes {
            let mut command = lab.command_at(&node.name, &lab.programs().bench);
            command
                .args(["writes", "--until-eof", "--pause-ms", "10", "--target", &node.api().to_string()])
                .env("INSULA_CONTEXT", &context);
            // Failures are what is expected here.
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().context("start writing")?;
            let stdout = child.stdout.take().context("read what is written")?;
            // Its standard input stays open with it.
            probe.writers.push(child);
            let sender = sender.clone();
            #[allow(clippy::disallowed_methods, reason = "a blocking read beside the measurement; no tasks in here")]
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // A line cut short by the end of the program says nothing.
                    if let Ok(write) = serde_json::from_str::<Write>(&line)
                        && sender.send(write).is_err()
                    {
                        return;
                    }
                }
            });
        }
        Ok(probe)
    }

    /// When the first write was confirmed that had been sent after a moment.
    pub(super) fn confirmed_ms(&self, since_ms: u64) -> Result<u64> {
        loop {
            let write = self.writes.recv_timeout(WITHIN).context("no write was confirmed")?;
            if write.is_ok && write.start_ms > since_ms {
                return Ok(write.start_ms + write.took_us / 1000);
            }
            ensure!(write.start_ms < since_ms + WITHIN.as_millis() as u64, "no write was confirmed");
        }
    }

    /// Every write that ended, from now until one that was sent after a moment has been confirmed on every node.
    pub(super) fn until(&self, after_ms: u64) -> Result<Vec<Write>> {
        let (mut seen, mut late) = (Vec::new(), BTreeSet::new());
        while late.len() < self.writers.len() {
            let write = self.writes.recv_timeout(WITHIN).context("no write ended")?;
            ensure!(write.start_ms < after_ms + WITHIN.as_millis() as u64, "a node confirms no write");
            if write.is_ok && write.start_ms > after_ms {
                late.insert(write.target);
            }
            seen.push(write);
        }
        Ok(seen)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        for child in &mut self.writers {
            // Ended already when its node went down.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The region's leader, once every node is up and votes.
pub(super) fn settled_leader(lab: &Lab) -> Result<String> {
    let clock = Clock::real();
    let deadline = clock.now() + WITHIN;
    loop {
        let running = lab.nodes()?.iter().all(|node| node.server.is_some());
        if running
            && let Ok(nodes) = lab.items("n1", &["nodes"])
            && nodes.iter().all(|node| node["state"] == "up" && node["is_voter"] == true)
            && let Some(leader) = nodes.iter().find(|node| node["is_leader"] == true)
        {
            sleep(SETTLE);
            return leader["name"].as_str().map(str::to_owned).context("a node without name");
        }
        ensure!(clock.now() < deadline, "not every node came back");
        sleep(LOOK_EVERY);
    }
}
