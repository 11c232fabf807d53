//! The day on which all voters are lost: the states of every node are deleted, only keys and a backup are left. One node is
//! restored; the others adopt its life. Traffic and instances go on meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    kills::{losses, told},
    stage::{Stage, now_ms},
    step,
};
use crate::interrupt::Interrupt;

/// Traffic that is watched after all is back.
const CALM: Duration = Duration::from_secs(4);
/// Where the backup is taken, and later restored.
const NODE: &str = "n1";
/// The backup, on the disk of that node.
const FILE: &str = "/var/lib/insula/states.backup";
/// Deletes what Raft knows, and leaves keys, identity and home.
const DELETE: &str = "rm -rf /var/lib/insula/state/region /var/lib/insula/state/global";

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let workloads = stage.workloads()?;
    ensure!(workloads.len() == stage.instances.len(), "of {:?} only {workloads:?} run", stage.instances);
    step(&format!("insula state backup on {NODE}"));
    print!("{}", stage.lab.on(NODE, &["state", "backup", FILE], "")?);

    step("stop every insula server, delete the states of the region and of the world on every node");
    let begun_ms = now_ms();
    for node in &stage.nodes {
        stage.lab.run(&["stop", &node.name])?;
        stage.lab.run(&["exec", &node.name, "--", "sh", "-c", DELETE])?;
    }
    ensure!(stage.lab.nodes()?.iter().all(|node| node.server.is_none()), "a server still runs");

    step(&format!("insula state restore on {NODE}, then start the servers, {NODE} last"));
    print!("{}", stage.lab.on(NODE, &["state", "restore", FILE, "--yes"], "")?);
    let started_ms = now_ms();
    let others = stage.nodes.iter().filter(|node| node.name != NODE).map(|node| node.name.as_str());
    for name in others.chain([NODE]) {
        stage.lab.run(&["start", name])?;
    }
    for node in &stage.nodes {
        let ms = stage.await_ms("the state", started_ms, interrupt, || stage.state_answers(&node.name))?;
        println!("   {:>6.2} s  {} sees every node up, and takes commands", ms as f64 / 1000.0, node.name);
    }
    let ms = stage.await_ms("three voters", started_ms, interrupt, || all_vote(stage))?;
    println!("   {:>6.2} s  all three vote again, in both groups", ms as f64 / 1000.0);
    interrupt.sleep(CALM)?;

    let now = stage.workloads()?;
    println!("   instances: {}", told(&workloads, &now, stage));
    if now != workloads {
        broken.push(format!("instances changed: {workloads:?}, then {now:?}"));
    }
    let apps = stage.lab.items(NODE, &["apps"])?;
    if !apps.iter().any(|app| app["name"] == "shop") {
        broken.push(format!("the app is not listed: {apps:?}"));
    }
    step("deploy another release through a node that adopted");
    let next = stage.definition.replace("scale     = 3", "scale     = 3\nenv       = { LIFE = \"second\" }");
    ensure!(next != stage.definition, "the definition has no scale to put another key after");
    print!("{}", stage.lab.on("n2", &["deploy", "-", "--wait", "1m"], &next)?);
    for node in &stage.nodes {
        let losses = losses(stage, node.edge(), begun_ms);
        println!("   edge of {}: {} requests, {} lost", node.name, losses.sent, losses.lost);
        if losses.lost > 0 {
            losses.shown.iter().for_each(|line| println!("   lost: {line}"));
            broken.push(format!("the edge of {} lost {} requests", node.name, losses.lost));
        }
    }
    Ok(broken)
}

/// Whether every group has three voters, by the word of the restored node.
fn all_vote(stage: &Stage) -> Result<()> {
    let said = stage.lab.on(NODE, &["status", "--json"], "")?;
    let status: Value = serde_json::from_str(&said).with_context(|| format!("understand insula status: {said}"))?;
    let groups = status["groups"].as_array().context("insula status names no groups")?;
    for group in groups {
        let voters = group["voters"].as_array().map_or(0, Vec::len);
        ensure!(voters == stage.nodes.len(), "{} of {} vote in {}", voters, stage.nodes.len(), group["group"]);
    }
    Ok(())
}
