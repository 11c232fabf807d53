//! A rolling upgrade: node after node gets the program of a later version (another version, one more field in a
//! replicated object), then node after node goes back. Other edges lose nothing, no write is lost, and each version
//! reads what the other wrote (rule R5).

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use insula_env::Rng;

use super::{
    kills::{losses, told},
    outage,
    stage::{Stage, now_ms},
    step,
};
use crate::{
    histories::{check, observed::Observed},
    interrupt::Interrupt,
    lab::LabNode,
};

/// Traffic that is watched after each node.
const CALM: Duration = Duration::from_secs(3);
/// Between two operations of a client: rows are written to the disk after a thousand commands or so.
const PAUSE_MS: u64 = 5;
/// The program, and the rows of the global state, in a node's file tree.
const PROGRAM: &str = "usr/local/bin/insula";
const ROWS: &str = "var/lib/insula/state/global/state.redb";
/// The field that only the later version writes.
const FIELD: &[u8] = b"deployed_ms";

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let programs = stage.lab.programs();
    let next = programs.next.as_ref().context("there is no insula-next: `cargo xtask demo upgrade` builds it")?;
    let workloads = stage.workloads()?;
    let first = version(stage, "n1")?;
    step("clients write, read and compare-and-set through every node");
    let mut observed = Observed::start(&stage.lab, &stage.nodes, Rng::from_os().next(), PAUSE_MS)?;
    let mut broken = Vec::new();
    for node in &stage.nodes {
        broken.extend(replace(stage, node, next, interrupt)?);
        let now = version(stage, &node.name)?;
        ensure!(now != first, "{} says version {now} with either program", node.name);
    }
    let begun_ms = now_ms();
    let took_ms = stage.await_ms("a row with the new field on n1", begun_ms, interrupt, || {
        ensure!(has_field(&stage.node("n1")?)?, "no row on n1 has the field of the later version");
        Ok(())
    })?;
    println!("   {:>6.2} s  rows on disk have the field of the later version", took_ms as f64 / 1000.0);
    for node in &stage.nodes {
        broken.extend(replace(stage, node, &programs.insula, interrupt)?);
        let now = version(stage, &node.name)?;
        ensure!(now == first, "{} says version {now} after its way back to {first}", node.name);
    }
    step("the clients look for all that was acknowledged");
    observed.stop()?;
    let count = observed.with(|records| records.iter().filter_map(crate::histories::record::Record::confirmed).count());
    println!("   {count} writes were confirmed");
    ensure!(count > 0, "no write was confirmed");
    broken.extend(observed.with(check::all).err().map(|found| found.to_string()));
    // Told, not promised: a node that takes longer than its lease to come back is down, and its instances are replaced.
    println!("   instances: {}", told(&workloads, &stage.workloads()?, stage));
    Ok(broken)
}

/// Gives a node another program: the file, then the server, then the dataplane.
fn replace(stage: &Stage, node: &LabNode, program: &Path, interrupt: &Interrupt) -> Result<Vec<String>> {
    step(&format!("{}: {}", node.name, program.display()));
    let at_ms = now_ms();
    install(&stage.node(&node.name)?, program)?;
    restart(stage, node, "server", |node| node.server, interrupt)?;
    let state_ms = stage.await_ms("the state", at_ms, interrupt, || stage.state_answers(&node.name))?;
    let from_ms = now_ms();
    restart(stage, node, "dataplane", |node| node.dataplane, interrupt)?;
    stage.await_ms("the edge", from_ms, interrupt, || stage.edge_answers(node, now_ms().saturating_sub(500)))?;
    interrupt.sleep(CALM)?;
    println!("   {:>6.2} s  its server sees every node up, and takes commands", state_ms as f64 / 1000.0);
    let mut broken = Vec::new();
    for other in &stage.nodes {
        let outage::Losses { sent, lost, shown, .. } = losses(stage, other.edge(), at_ms);
        println!("   edge of {}: {sent} requests, {lost} lost", other.name);
        if lost > 0 && other.name != node.name {
            shown.iter().for_each(|line| println!("   lost: {line}"));
            broken.push(format!("the edge of {} lost {lost} requests while {} changed", other.name, node.name));
        }
    }
    Ok(broken)
}

/// Puts the program in its place, all of it or nothing, as a package manager would.
pub(super) fn install(node: &LabNode, program: &Path) -> Result<()> {
    let place = tree(node)?.join(PROGRAM);
    let fresh = place.with_extension("new");
    fs::copy(program, &fresh).with_context(|| format!("copy to {}", fresh.display()))?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o755))?;
    File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, &place).with_context(|| format!("replace {}", place.display()))
}

/// Asks a process to end and waits for the one that comes in its place.
pub(super) fn restart(
    stage: &Stage,
    node: &LabNode,
    part: &str,
    pid_of: fn(&LabNode) -> Option<u32>,
    interrupt: &Interrupt,
) -> Result<()> {
    let before = pid_of(&stage.node(&node.name)?);
    stage.lab.run(&["kill", &node.name, "--process", part, "--signal", "TERM"])?;
    let waited = stage.await_ms("another process", now_ms(), interrupt, || {
        let now = pid_of(&stage.node(&node.name)?);
        ensure!(now.is_some() && now != before, "the {part} of {} is not back", node.name);
        Ok(())
    });
    waited.map(drop)
}

fn tree(node: &LabNode) -> Result<PathBuf> {
    let server = node.server.with_context(|| format!("no server runs on {}", node.name))?;
    Ok(PathBuf::from(format!("/proc/{server}/root")))
}

fn has_field(node: &LabNode) -> Result<bool> {
    let path = tree(node)?.join(ROWS);
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(bytes.windows(FIELD.len()).any(|window| window == FIELD))
}

/// The version that a node says it has.
fn version(stage: &Stage, name: &str) -> Result<String> {
    let nodes = stage.lab.items(name, &["nodes"])?;
    let node = nodes.iter().find(|node| node["name"] == name);
    let version = node.and_then(|node| node["version"].as_str());
    version.map(str::to_owned).with_context(|| format!("{name} does not say its version"))
}
