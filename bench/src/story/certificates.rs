//! Certificates that live for seconds: each node's is renewed ten times, then the root is replaced and the old one
//! retired, all under traffic. No request is lost, and the old recovery key opens nothing any more.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    kills::losses,
    stage::{Stage, now_ms},
    step,
};
use crate::interrupt::Interrupt;

/// How long certificates live in this story.
pub(super) const LIVES: &str = "node=16s,region=30d,root=60d";
/// Rotations of each node's certificate.
const ROTATIONS: u32 = 10;
/// Rotations under the new root alone.
const ROTATIONS_AFTER: u32 = 2;
/// How long a rotation may take: its half-life, and as much again for a busy machine.
const ROTATION_WITHIN: Duration = Duration::from_secs(16);
/// Between two looks at certificates.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Where a node keeps its chain, and the first node of a lab its recovery key.
const CHAIN: &str = "/var/lib/insula/identity/chain.pem";
const RECOVERY_KEY: &str = "/var/lib/insula/recovery-key";

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let begun_ms = now_ms();
    step(&format!("{ROTATIONS} rotations of each node's certificate, which lives for 16 s"));
    rotate(stage, ROTATIONS, interrupt)?;

    let before = active(stage)?;
    step("replace the root");
    print!("{}", replace(stage)?);
    let after = active(stage)?;
    ensure!(before != after, "the active root is still {before}");
    let since_ms = now_ms();
    let ms = stage.await_ms("every node to show the new chain", since_ms, interrupt, || {
        let status = status(stage)?;
        let behind: Vec<_> = list(&status, "nodes").iter().filter(|node| node["is_current"] != true).collect();
        ensure!(behind.is_empty(), "behind: {behind:?}");
        Ok(())
    })?;
    println!("   {:>6.2} s  every node trusts both and shows the new chain", ms as f64 / 1000.0);
    step("retire the old root");
    print!("{}", stage.lab.on("n1", &["ca", "retire-root"], "")?);
    ensure!(list(&status(stage)?, "roots").len() == 1, "the old root is still there");
    rotate(stage, ROTATIONS_AFTER, interrupt)?;
    for node in &stage.nodes {
        stage.await_ms("the state", now_ms(), interrupt, || stage.state_answers(&node.name))?;
    }
    ensure!(replace(stage).is_err(), "the old recovery key still opens the root's key");
    print!("{}", stage.lab.on("n1", &["ca", "status"], "")?);

    let mut broken = Vec::new();
    for node in &stage.nodes {
        let losses = losses(stage, node.edge(), begun_ms);
        println!("   edge of {}: {} requests, {} lost", node.name, losses.sent, losses.lost);
        losses.shown.iter().for_each(|line| println!("   lost: {line}"));
        if losses.lost > 0 {
            broken.push(format!("the edge of {} lost {} requests", node.name, losses.lost));
        }
    }
    Ok(broken)
}

fn replace(stage: &Stage) -> Result<String> {
    stage.lab.on("n1", &["ca", "replace-root", "--recovery-key-file", RECOVERY_KEY], "")
}

fn status(stage: &Stage) -> Result<Value> {
    let said = stage.lab.on("n1", &["ca", "status", "--json"], "")?;
    serde_json::from_str(&said).with_context(|| format!("understand insula ca status: {said}"))
}

fn list<'a>(status: &'a Value, field: &str) -> &'a [Value] {
    status[field].as_array().map_or(&[], Vec::as_slice)
}

/// The hash of the active root.
fn active(stage: &Stage) -> Result<String> {
    let status = status(stage)?;
    let root = list(&status, "roots").iter().find(|root| root["state"] == "active");
    Ok(root.and_then(|root| root["sha256"].as_str()).context("no root is active")?.to_owned())
}

/// The first certificate of each node's chain: its own.
fn leaves(stage: &Stage) -> Result<BTreeMap<String, String>> {
    let leaf = |name: &str| -> Result<String> {
        let chain = stage.lab.run(&["exec", name, "--", "cat", CHAIN])?;
        Ok(chain.split_inclusive("-----END CERTIFICATE-----").next().unwrap_or_default().to_owned())
    };
    stage.nodes.iter().map(|node| Ok((node.name.clone(), leaf(&node.name)?))).collect()
}

/// Waits until the certificate of each node has changed so often.
fn rotate(stage: &Stage, count: u32, interrupt: &Interrupt) -> Result<()> {
    let begun_ms = now_ms();
    let limit_ms = begun_ms + (ROTATION_WITHIN * count).as_millis() as u64;
    let (mut seen, mut counts) = (leaves(stage)?, BTreeMap::<String, u32>::new());
    while !stage.nodes.iter().all(|node| counts.get(&node.name).is_some_and(|rotations| *rotations >= count)) {
        if now_ms() > limit_ms {
            bail!("rotations after {} s: {counts:?}", (now_ms() - begun_ms) / 1000);
        }
        interrupt.sleep(LOOK_EVERY)?;
        for (node, leaf) in leaves(stage)? {
            if seen.insert(node.clone(), leaf.clone()).is_some_and(|before| before != leaf) {
                *counts.entry(node).or_default() += 1;
            }
        }
    }
    println!("   {:>6.2} s  {counts:?}", (now_ms() - begun_ms) as f64 / 1000.0);
    Ok(())
}
