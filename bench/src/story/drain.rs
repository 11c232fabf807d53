//! Each node is drained in turn, and given work again: no edge loses a request, also not the one of the node.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    kills::losses,
    stage::{Stage, now_ms},
    step,
};
use crate::interrupt::Interrupt;

/// Traffic that is watched after each drain.
const CALM: Duration = Duration::from_secs(3);

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let begun_ms = now_ms();
    for node in &stage.nodes {
        let name = node.name.as_str();
        step(&format!("insula drain {name}"));
        let at_ms = now_ms();
        // From another node, as one would before a repair.
        let from = stage.nodes.iter().find(|other| other.name != name).map_or(name, |other| other.name.as_str());
        print!("{}", stage.lab.on(from, &["drain", name, "--wait", "2m"], "")?);
        println!("   {:.1} s", now_ms().saturating_sub(at_ms) as f64 / 1000.0);
        let left = stage.lab.items(from, &["ps"])?;
        let here = left.iter().filter(|instance| instance["node_name"] == name).count();
        ensure!(here == 0, "{here} instances are on {name}, which says that it is drained");
        let ready = left.iter().filter(|instance| instance["is_ready"] == true).count();
        ensure!(ready == stage.instances.len(), "{ready} instances are ready elsewhere");
        interrupt.sleep(CALM)?;
        print!("{}", stage.lab.on(from, &["uncordon", name], "")?);
    }
    for node in &stage.nodes {
        let losses = losses(stage, node.edge(), begun_ms);
        println!("   edge of {}: {} requests, {} lost", node.name, losses.sent, losses.lost);
        if losses.lost > 0 {
            losses.shown.iter().for_each(|line| println!("   lost: {line}"));
            broken.push(format!("the edge of {} lost {} requests while nodes were drained", node.name, losses.lost));
        }
    }
    Ok(broken)
}
