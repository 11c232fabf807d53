//! kill -9 of the server and of the dataplane of each node in turn: no instance restarts, the edges of other nodes lose
//! nothing, state and traffic come back by themselves.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    outage,
    stage::{Stage, now_ms},
    step,
};
use crate::{interrupt::Interrupt, lab::LabNode};

/// Traffic that is watched after all is back.
const CALM: Duration = Duration::from_secs(3);

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for node in &stage.nodes {
        for part in ["server", "dataplane"] {
            broken.extend(kill(stage, &node.name, part, interrupt)?);
        }
    }
    Ok(broken)
}

fn kill(stage: &Stage, name: &str, part: &str, interrupt: &Interrupt) -> Result<Vec<String>> {
    let pid_of = |node: &LabNode| if part == "server" { node.server } else { node.dataplane };
    let node = stage.node(name)?;
    let pid = pid_of(&node).with_context(|| format!("no {part} runs on {name}"))?;
    let workloads = stage.workloads()?;
    ensure!(workloads.len() == stage.instances.len(), "of {:?} only {workloads:?} run", stage.instances);
    step(&format!("kill -9 of insula {part} on {name}"));
    let at_ms = now_ms();
    stage.lab.run(&["kill", name, "--process", part])?;
    let process_ms = stage.await_ms("another process", at_ms, interrupt, || {
        let now = pid_of(&stage.node(name)?);
        ensure!(now.is_some_and(|now| now != pid), "the {part} of {name} is not back");
        Ok(())
    })?;
    let state_ms = stage.await_ms("the state", at_ms, interrupt, || stage.state_answers(name))?;
    let back_ms = at_ms + process_ms;
    stage.await_ms("the edge", at_ms, interrupt, || stage.edge_answers(&node, back_ms))?;
    interrupt.sleep(CALM)?;

    let mut broken = Vec::new();
    let mut total = outage::Losses::default();
    for other in stage.nodes.iter().filter(|other| other.name != name) {
        let losses = losses(stage, other.edge(), at_ms);
        losses.shown.iter().for_each(|line| println!("   lost: {line}"));
        if losses.lost > 0 {
            broken.push(format!(
                "the edge of {} lost {} requests when the {part} of {name} was killed",
                other.name, losses.lost
            ));
        }
        total.sent += losses.sent;
        total.lost += losses.lost;
    }
    let own = losses(stage, node.edge(), at_ms);
    let seconds = |ms: u64| ms as f64 / 1000.0;
    println!("   {:>6.2} s  the {part} runs again", seconds(process_ms));
    println!("   {:>6.2} s  the node sees every node up, and takes commands", seconds(state_ms));
    println!("   other edges: {} requests, {} lost", total.sent, total.lost);
    println!("   its own edge: {} requests, {} lost, the last {:.2} s after", own.sent, own.lost, seconds(own.last_ms));
    if part == "server" && own.lost > 0 {
        broken.push(format!("the edge of {name} lost {} requests when its server was killed", own.lost));
    }
    let now = stage.workloads()?;
    println!("   instances: {}", told(&workloads, &now, stage));
    if now != workloads {
        broken.push(format!("instances changed when the {part} of {name} was killed: {workloads:?}, then {now:?}"));
    }
    Ok(broken)
}

/// How many first processes of instances are the same as before, in words.
pub(super) fn told(before: &BTreeMap<String, u32>, now: &BTreeMap<String, u32>, stage: &Stage) -> String {
    let same = before.iter().filter(|(instance, pid)| now.get(*instance) == Some(*pid)).count();
    format!("{same} of {} run on as the same process", stage.instances.len())
}

/// What an edge lost of the requests that began after a moment.
pub(super) fn later_losses(stage: &Stage, edge: SocketAddr, since_ms: u64) -> outage::Losses {
    stage.traffic.with(|records| outage::later_losses(records, edge, since_ms))
}

pub(super) fn losses(stage: &Stage, edge: SocketAddr, since_ms: u64) -> outage::Losses {
    stage.traffic.with(|records| outage::losses(records, edge, since_ms))
}
