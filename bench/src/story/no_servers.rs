//! All servers stopped: every edge goes on serving from what its node knows, also across a restart of a dataplane. When
//! the servers are back, so is everything else.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    kills::{losses, told},
    stage::{Stage, now_ms},
    step,
};
use crate::interrupt::Interrupt;

/// Traffic that is watched after each step.
const CALM: Duration = Duration::from_secs(6);
/// Whose dataplane is restarted.
const NODE: &str = "n1";
/// Starts a dataplane as the server would: in a session of its own.
const START: &str =
    "setsid insula dataplane --config /etc/insula/insula.toml </dev/null >/var/lib/insula/dataplane.log 2>&1 &";

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let workloads = stage.workloads()?;
    ensure!(workloads.len() == stage.instances.len(), "of {:?} only {workloads:?} run", stage.instances);
    step("stop every insula server");
    let stopped_ms = now_ms();
    for node in &stage.nodes {
        stage.lab.run(&["stop", &node.name])?;
    }
    ensure!(stage.lab.nodes()?.iter().all(|node| node.server.is_none()), "a server still runs");
    interrupt.sleep(CALM)?;
    tell_losses(stage, stopped_ms, None, "while no server ran", &mut broken);

    step(&format!("kill -9 of insula dataplane on {NODE}, and start it: still no server"));
    let killed_ms = now_ms();
    let node = stage.node(NODE)?;
    stage.lab.run(&["kill", NODE, "--process", "dataplane"])?;
    stage.lab.run(&["exec", NODE, "--", "sh", "-c", START])?;
    stage.await_ms("the dataplane", killed_ms, interrupt, || {
        let now = stage.node(NODE)?.dataplane;
        ensure!(now.is_some() && now != node.dataplane, "the dataplane of {NODE} is not back");
        Ok(())
    })?;
    let back_ms = stage.await_ms("the edge", killed_ms, interrupt, || stage.edge_answers(&node, killed_ms + 1))?;
    interrupt.sleep(CALM)?;
    println!("   {:>6.2} s  its edge answers again, from the catalog on its disk", back_ms as f64 / 1000.0);
    tell_losses(stage, killed_ms, Some(NODE), "across the restart of a dataplane", &mut broken);
    ensure!(stage.lab.nodes()?.iter().all(|node| node.server.is_none()), "a server came back by itself");

    step("start the servers");
    let started_ms = now_ms();
    for node in &stage.nodes {
        stage.lab.run(&["start", &node.name])?;
    }
    for node in &stage.nodes {
        let ms = stage.await_ms("the state", started_ms, interrupt, || stage.state_answers(&node.name))?;
        println!("   {:>6.2} s  {} sees every node up, and takes commands", ms as f64 / 1000.0, node.name);
    }
    interrupt.sleep(CALM)?;
    tell_losses(stage, started_ms, None, "when the servers came back", &mut broken);
    let now = stage.workloads()?;
    println!("   instances: {}", told(&workloads, &now, stage));
    if now != workloads {
        broken.push(format!("instances changed: {workloads:?}, then {now:?}"));
    }
    Ok(broken)
}

/// Says what each edge lost; what one lost that had no reason to is a broken promise.
fn tell_losses(stage: &Stage, since_ms: u64, excused: Option<&str>, when: &str, broken: &mut Vec<String>) {
    for node in &stage.nodes {
        let losses = losses(stage, node.edge(), since_ms);
        println!("   edge of {}: {} requests, {} lost", node.name, losses.sent, losses.lost);
        if losses.lost > 0 && excused != Some(node.name.as_str()) {
            losses.shown.iter().for_each(|line| println!("   lost: {line}"));
            broken.push(format!("the edge of {} lost {} requests {when}", node.name, losses.lost));
        }
    }
}
