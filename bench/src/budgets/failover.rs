//! kill -9 of the server that leads the region, again and again: how long until somebody confirms a write.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use insula_env::Clock;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Line, ms};
use crate::{lab::Lab, report::percentile, writes::Write};

/// Budgets of 90 % and of 99 % of the kills.
const P90_MS_BUDGET: f64 = 1500.0;
const P99_MS_BUDGET: f64 = 2000.0;
/// How long a kill may take until a write is confirmed, or until all nodes are back.
const WITHIN: Duration = Duration::from_secs(60);
/// Quiet after all are back, so that the next kill meets a settled group.
const SETTLE: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Writes on every node, to the node's own API, all the time.
struct Probe {
    writers: Vec<Child>,
    writes: Receiver<Write>,
}

impl Probe {
    fn start(lab: &Lab) -> Result<Self> {
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
    fn confirmed_ms(&self, since_ms: u64) -> Result<u64> {
        loop {
            let write = self.writes.recv_timeout(WITHIN).context("no write was confirmed")?;
            if write.is_ok && write.start_ms > since_ms {
                return Ok(write.start_ms + write.took_us / 1000);
            }
            ensure!(write.start_ms < since_ms + WITHIN.as_millis() as u64, "no write was confirmed");
        }
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

/// Kills so many leaders.
pub(super) fn measure(lab: &Lab, kills: usize) -> Result<Vec<Line>> {
    eprintln!("killing the leader {kills} times …");
    let probe = Probe::start(lab)?;
    let clock = Clock::real();
    probe.confirmed_ms(clock.wall_ms())?;
    let mut times_ms = Vec::new();
    for number in 1..=kills {
        let name = settled_leader(lab)?;
        let node = lab.nodes()?.into_iter().find(|node| node.name == name);
        let server = node.and_then(|node| node.server).with_context(|| format!("no server runs on {name}"))?;
        let killed_ms = clock.wall_ms();
        kill(Pid::from_raw(server as i32), Signal::SIGKILL).context("kill the leader")?;
        let took_ms = probe.confirmed_ms(killed_ms)?.saturating_sub(killed_ms);
        eprintln!("  {number:>3}: {name}, {took_ms} ms");
        times_ms.push(took_ms);
    }
    times_ms.sort_unstable();
    let line = |percent: usize, budget| Line {
        what: format!("leader killed to write confirmed, p{percent} of {kills}"),
        measured: ms(percentile(&times_ms, percent) * 1000),
        budget,
        unit: "ms",
        peer: None,
    };
    Ok(vec![line(50, None), line(90, Some(P90_MS_BUDGET)), line(99, Some(P99_MS_BUDGET))])
}

/// The region's leader, once every node is up and votes.
fn settled_leader(lab: &Lab) -> Result<String> {
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
