//! A deadlock in each supervised loop of server and dataplane of each node (rule R3): an await that never ends is healed
//! by the loop's new start, a blocked thread by the process's. The edges of other nodes lose nothing meanwhile.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    kills::{losses, told},
    stage::{Stage, now_ms},
    step,
};
use crate::{interrupt::Interrupt, lab::LabNode};

/// Traffic that is watched after each process is back.
const CALM: Duration = Duration::from_secs(2);
/// Where a node's data is.
const DATA: &str = "/var/lib/insula";

/// A loop of a node, by the name of its task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Loop {
    process: String,
    name: String,
}

/// Tells it; gives the promises that were broken. Every node has the same loops, so each gets a share of them.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let workloads = stage.workloads()?;
    for (index, node) in stage.nodes.iter().enumerate() {
        let loops: Vec<Loop> = beats(stage, &node.name)?.into_keys().collect();
        step(&format!("{}: {} supervised loops", node.name, loops.len()));
        let own: Vec<&Loop> = loops.iter().skip(index).step_by(stage.nodes.len()).collect();
        ensure!(own.len() >= 3, "{} has too few loops for a share: {loops:?}", node.name);
        let at_ms = now_ms();
        await_for_ever(stage, node, &own, interrupt)?;
        for one in own {
            block(stage, node, one, interrupt)?;
        }
        for other in stage.nodes.iter().filter(|other| other.name != node.name) {
            let losses = losses(stage, other.edge(), at_ms);
            println!("   edge of {}: {} requests, {} lost", other.name, losses.sent, losses.lost);
            losses.shown.iter().for_each(|line| println!("   lost: {line}"));
            if losses.lost > 0 {
                let what = format!("when loops of {} hung", node.name);
                broken.push(format!("the edge of {} lost {} requests {what}", other.name, losses.lost));
            }
        }
    }
    // Told, not promised: a server that hangs for longer than its lease is down to the others, and its instances are
    // replaced.
    println!("   instances: {}", told(&workloads, &stage.workloads()?, stage));
    Ok(broken)
}

/// The restarts of each watched loop of a node that is well. One peer's pings stand for all.
fn beats(stage: &Stage, node: &str) -> Result<BTreeMap<Loop, u64>> {
    let said = stage.lab.run(&["exec", node, "--", "sh", "-c", "insula doctor --json || true"])?;
    let report: Value = serde_json::from_str(&said).with_context(|| format!("understand insula doctor: {said}"))?;
    let tasks = report["tasks"].as_array().context("no tasks")?;
    let mut found = BTreeMap::new();
    for task in tasks.iter().filter(|task| task["beat_limit_ms"].is_u64()) {
        let text = |key: &str| task[key].as_str().unwrap_or_default().to_owned();
        ensure!(task["beat_age_ms"].as_u64() <= task["beat_limit_ms"].as_u64(), "{} hangs", text("name"));
        *found.entry(Loop { process: text("process"), name: text("name") }).or_default() +=
            task["restarts"].as_u64().unwrap_or(0);
    }
    for process in ["server", "dataplane"] {
        ensure!(found.keys().any(|one| one.process == process), "the {process} of {node} shows no loops");
    }
    Ok(found)
}

/// Asks a loop to hang; returns once it does.
fn plant(stage: &Stage, node: &LabNode, what: &str, one: &Loop, interrupt: &Interrupt) -> Result<()> {
    let path = format!("{DATA}/planted-deadlock.{}", one.process);
    let ask = format!("echo '{what} {}' > {path}.new && mv {path}.new {path}", one.name);
    stage.lab.run(&["exec", &node.name, "--", "sh", "-c", &ask])?;
    let is_taken = || match stage.lab.run(&["exec", &node.name, "--", "test", "!", "-e", &path]) {
        Ok(_) => Ok(()),
        Err(_) => bail!("{one:?} does not take it: is the program built with --features planted-deadlock?"),
    };
    stage.await_ms("a loop that hangs", now_ms(), interrupt, is_taken).map(drop)
}

/// All of them at a time wait for ever: the watchdog starts each again, in the same process.
fn await_for_ever(stage: &Stage, node: &LabNode, loops: &[&Loop], interrupt: &Interrupt) -> Result<()> {
    let before = stage.node(&node.name)?;
    // What cannot be made anew ends its process; it gets its turn below.
    let restarts = beats(stage, &node.name)?;
    let at_ms = now_ms();
    for one in loops {
        plant(stage, node, "await", one, interrupt)?;
    }
    let ms = stage.await_ms("every loop", at_ms, interrupt, || {
        let now = beats(stage, &node.name)?;
        let after = stage.node(&node.name)?;
        let is_anew = |one: &Loop| match one.process.as_str() {
            "server" => after.server != before.server,
            _ => after.dataplane != before.dataplane,
        };
        let hangs = loops.iter().find(|one| !is_anew(one) && now.get(**one) <= restarts.get(**one));
        hangs.map_or(Ok(()), |one| bail!("{one:?} is not started again"))
    })?;
    println!("   {:>6.2} s  {} loops that waited for ever run again", ms as f64 / 1000.0, loops.len());
    stage.await_ms("the state", at_ms, interrupt, || stage.state_answers(&node.name)).map(drop)
}

/// Its thread is blocked: the watchdog ends the process, and it is started again.
fn block(stage: &Stage, node: &LabNode, one: &Loop, interrupt: &Interrupt) -> Result<()> {
    let pid = |node: &LabNode| if one.process == "server" { node.server } else { node.dataplane };
    let before = pid(&stage.node(&node.name)?);
    let at_ms = now_ms();
    plant(stage, node, "block", one, interrupt)?;
    let ms = stage.await_ms("another process", at_ms, interrupt, || {
        let now = pid(&stage.node(&node.name)?);
        ensure!(now.is_some() && now != before, "the {} of {} is not started again", one.process, node.name);
        beats(stage, &node.name).map(drop)
    })?;
    println!("   {:>6.2} s  {} runs again, after {} blocked a thread", ms as f64 / 1000.0, one.process, one.name);
    stage.await_ms("the state", at_ms, interrupt, || stage.state_answers(&node.name))?;
    stage.await_ms("the edge", at_ms, interrupt, || stage.edge_answers(node, at_ms + ms))?;
    interrupt.sleep(CALM)
}
