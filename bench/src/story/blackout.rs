//! A power cut of the whole region, and its return (rule R14): every node starts what it ran without waiting for a leader,
//! nothing is placed anew, and what was confirmed is still there.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    stage::{Stage, now_ms},
    step,
};
use crate::interrupt::Interrupt;

/// How long the region stays dark.
const DARK: Duration = Duration::from_secs(5);
/// Traffic that is watched once all is back; the budget for losses begins after it.
const CALM: Duration = Duration::from_secs(3);
/// The last power back → every edge answers (a start, an election, the instances' own start).
const SERVES_WITHIN_MS: u64 = 15_000;

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let names: Vec<&str> = stage.nodes.iter().map(|node| node.name.as_str()).collect();
    let placed = placements(stage, names[0])?;
    step("power cut of every node at once");
    stage.lab.run(&[&["poweroff"][..], &names].concat())?;
    interrupt.sleep(DARK)?;

    step("power back, node after node");
    for name in &names {
        stage.lab.run(&["poweron", name])?;
    }
    let back_ms = now_ms();
    for node in &stage.nodes {
        let ms = stage.await_ms("the edge", back_ms, interrupt, || stage.edge_answers(node, back_ms))?;
        println!("   {:>6.2} s  the edge of {} answers", ms as f64 / 1000.0, node.name);
        if ms > SERVES_WITHIN_MS {
            broken.push(format!("the edge of {} answered after {ms} ms, later than {SERVES_WITHIN_MS}", node.name));
        }
    }
    for name in &names {
        let ms = stage.await_ms("the state", back_ms, interrupt, || stage.state_answers(name))?;
        println!("   {:>6.2} s  {name} sees every node up, and takes commands", ms as f64 / 1000.0);
    }
    let ms = stage.await_ms("all instances", back_ms, interrupt, || all_ready(stage, names[0]))?;
    println!("   {:>6.2} s  three of three instances are ready", ms as f64 / 1000.0);
    let calm_ms = now_ms();
    interrupt.sleep(CALM)?;

    let now = placements(stage, names[0])?;
    println!("   placements: {} of {} as before", placed.intersection(&now).count(), placed.len());
    if now != placed {
        broken.push(format!("placements changed: {placed:?}, then {now:?}"));
    }
    for node in &stage.nodes {
        let losses = super::kills::later_losses(stage, node.edge(), calm_ms);
        println!("   edge of {}: {} requests since, {} lost", node.name, losses.sent, losses.lost);
        if losses.lost > 0 {
            losses.shown.iter().for_each(|line| println!("   lost: {line}"));
            broken.push(format!("the edge of {} lost {} requests after all was back", node.name, losses.lost));
        }
    }
    Ok(broken)
}

/// Instances and their nodes.
fn placements(stage: &Stage, node: &str) -> Result<BTreeSet<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let items = stage.lab.items(node, &["ps"])?;
    items
        .iter()
        .map(|item| Some(format!("{} on {}", text(&item["id"])?, text(&item["node_name"])?)))
        .collect::<Option<_>>()
        .with_context(|| format!("understand insula ps: {items:?}"))
}

fn all_ready(stage: &Stage, node: &str) -> Result<()> {
    let items = stage.lab.items(node, &["ps"])?;
    let ready = items.iter().filter(|item| item["is_ready"] == true).count();
    anyhow::ensure!(ready == stage.instances.len(), "{ready} of {} are ready", stage.instances.len());
    Ok(())
}
