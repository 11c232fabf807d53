//! The leader is lost at ten different moments of a deployment, of a good release and of a broken one: it ends the same, and no
//! request is lost.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    kills::losses,
    stage::{Stage, now_ms},
    step,
};
use crate::{interrupt::Interrupt, lab::LabNode};

/// How long after the release is made its region's leader is killed: the last one of them is killed when a release without a fault is
/// out or nearly so.
const MOMENTS: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1500),
    Duration::from_millis(2500),
    Duration::from_millis(4000),
    Duration::from_secs(6),
    Duration::from_secs(8),
    Duration::from_secs(11),
    Duration::from_secs(14),
];
/// How long a release may take to its end, also when it has to come back.
const ENDS_WITHIN: Duration = Duration::from_secs(120);
const UPDATE: &str = r#"update = { min_healthy = "1s", bake = "3s" }"#;
/// What never gets ready.
const BROKEN: &str = r#"command = ["/bin/busybox", "false"]"#;

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let begun_ms = now_ms();
    for is_good in [true, false] {
        let what = if is_good { "good" } else { "broken" };
        step(&format!("a {what} release, and kill -9 of the region's leader at ten moments of its deployment"));
        for after in MOMENTS {
            let took_ms = succession(stage, is_good, after, interrupt)
                .with_context(|| format!("a {what} release, and its leader lost after {after:?}"))?;
            println!(
                "   leader lost after {:>5.1} s: at its end after {:.1} s",
                after.as_secs_f64(),
                took_ms as f64 / 1000.0
            );
        }
    }
    let mut broken = Vec::new();
    for node in &stage.nodes {
        let losses = losses(stage, node.edge(), begun_ms);
        println!("   edge of {}: {} requests, {} lost", node.name, losses.sent, losses.lost);
        if losses.lost > 0 {
            losses.shown.iter().for_each(|line| println!("   lost: {line}"));
            broken.push(format!("the edge of {} lost {} requests while leaders were lost", node.name, losses.lost));
        }
    }
    Ok(broken)
}

/// One deployment with its leader lost; gives how long it took, in milliseconds.
fn succession(stage: &Stage, is_good: bool, after: Duration, interrupt: &Interrupt) -> Result<u64> {
    let leader = settled_leader(stage, interrupt)?;
    let other = stage.nodes.iter().find(|node| node.name != leader.name).context("a lab of one node")?;
    let at_ms = now_ms();
    // Each of them is another release, whose instances take the place of those before.
    let again = format!("app = \"shop\"\n\n[services.web]\nenv = {{ AT = \"{at_ms}\" }}\n{UPDATE}\n");
    let mut definition = stage.definition.replace("app = \"shop\"\n\n[services.web]\n", &again);
    ensure!(definition.contains(UPDATE), "demo/shop.toml begins in another way than this story knows");
    if !is_good {
        definition = definition.replace(UPDATE, &format!("{UPDATE}\n{BROKEN}"));
    }
    stage.lab.on(&other.name, &["deploy", "-", "--detach"], &definition)?;
    let made =
        releases(stage, &other.name)?.first().and_then(|release| release["number"].as_u64()).context("a release")?;
    interrupt.sleep(after.saturating_sub(Duration::from_millis(now_ms().saturating_sub(at_ms))))?;
    stage.lab.run(&["kill", &leader.name, "--process", "server", "--signal", "KILL"])?;
    stage.await_within(ENDS_WITHIN, "the release's end", at_ms, interrupt, || {
        let releases = releases(stage, &other.name)?;
        let [newest, before @ ..] = releases.as_slice() else { bail!("no release") };
        let is_out = newest["outcomes"].as_array().is_some_and(|all| all.iter().any(|one| one["state"] == "done"));
        ensure!(is_out, "release {} is not out", newest["number"]);
        if is_good {
            ensure!(newest["number"] == made, "release {} is another", newest["number"]);
        } else {
            ensure!(!newest["again_of"].is_null(), "release {} is none that came back", newest["number"]);
            let failed = before.iter().find(|release| release["number"] == made).context("the broken release")?;
            ensure!(failed["outcomes"][0]["state"] == "failed", "release {made} did not fail");
        }
        let instances = stage.lab.items(&other.name, &["ps", "shop"])?;
        let ready = instances.iter().filter(|instance| instance["is_ready"] == true).count();
        ensure!((instances.len(), ready) == (3, 3), "{ready} of {} instances are ready", instances.len());
        Ok(())
    })
}

/// The newest first.
fn releases(stage: &Stage, at: &str) -> Result<Vec<Value>> {
    let mut releases = stage.lab.items(at, &["releases", "shop"])?;
    releases.sort_by_key(|release| std::cmp::Reverse(release["number"].as_u64()));
    Ok(releases)
}

/// The node that leads the region, once all are up.
pub(super) fn settled_leader(stage: &Stage, interrupt: &Interrupt) -> Result<LabNode> {
    let leader = || {
        let nodes = stage.lab.items("n1", &["nodes"])?;
        ensure!(nodes.iter().all(|node| node["state"] == "up"), "not every node is up");
        let leader = nodes.iter().find(|node| node["is_leader"] == true).context("nobody leads")?;
        stage.node(leader["name"].as_str().context("a node without a name")?)
    };
    stage.await_ms("a leader", now_ms(), interrupt, || leader().map(drop))?;
    leader()
}
