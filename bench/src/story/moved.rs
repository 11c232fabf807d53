//! Nodes are reached elsewhere: first one gets another address while it runs, then all change theirs at the same moment, so
//! that nobody knows any more where anybody is. A restart of a server or a node is not needed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    HOST,
    kills::{later_losses, losses, told},
    stage::{Stage, now_ms},
    step,
};
use crate::{
    interrupt::Interrupt,
    lab::{Lab, LabNode},
    traffic::Traffic,
};

/// How long the edges may lose requests after all addresses are gone: what it takes to see that no peer answers.
const UNSEEN: Duration = Duration::from_secs(2);
/// How long nodes may take to find each other, elect a leader and take a command, once each knows of one.
const FOUND_WITHIN_MS: u64 = 10_000;
/// Traffic that is watched at the end.
const CALM: Duration = Duration::from_secs(4);
/// What is added to the last number of an address for the second one of a node.
const BESIDE: u8 = 30;
/// Length of the prefix of a data centre's network in a lab.
const PREFIX: u8 = 26;
/// The port between nodes.
const PORT: u16 = 7443;

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &mut Stage, rate: u32, interrupt: &Interrupt) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let workloads = stage.workloads()?;
    step("each node gets a second address; traffic goes there from now on");
    for node in &stage.nodes {
        // Without the setting, an address would take those with it that were added after it.
        let script = format!(
            "echo 1 > /proc/sys/net/ipv4/conf/eth0/promote_secondaries && ip addr add {}/{PREFIX} dev eth0",
            second(node)
        );
        in_node(&stage.lab, node, &script)?;
    }
    let edges: Vec<SocketAddr> =
        stage.nodes.iter().map(|node| SocketAddr::from((second(node), node.edge().port()))).collect();
    stage.traffic = Traffic::start(&stage.lab, &edges, HOST, rate)?;

    step(
        "n2 says that its data centre reaches it at the second one: advertise in its configuration, insula node reload",
    );
    let begun_ms = now_ms();
    let two = stage.node("n2")?;
    let list = format!("\"{}:{PORT}\", \"datacenter={}:{PORT}\"", two.address, second(&two));
    print!("{}", advertise(&stage.lab, &two, &list)?);
    let ms = stage.await_ms("the other nodes to know", begun_ms, interrupt, || {
        stage.nodes.iter().try_for_each(|node| knows(&stage.lab, node, "n2", 2))
    })?;
    println!("   {:>6.2} s  every node knows both", ms as f64 / 1000.0);
    interrupt.sleep(CALM)?;
    for edge in &edges {
        let lost = losses(stage, *edge, begun_ms).lost;
        if lost > 0 {
            broken.push(format!("the edge at {edge} lost {lost} requests when n2 got an address"));
        }
    }

    step("the first address of every node is taken away: nobody reaches anybody");
    let gone_ms = now_ms();
    for node in &stage.nodes {
        in_node(&stage.lab, node, &format!("ip addr del {}/{PREFIX} dev eth0", node.address))?;
    }
    interrupt.sleep(UNSEEN)?;
    step("each gets its new one into its configuration, and is told where n1 is");
    let one = stage.node("n1")?;
    for node in &stage.nodes {
        print!("{}", advertise(&stage.lab, node, &format!("\"{}:{PORT}\"", second(node)))?);
    }
    let found_ms = now_ms();
    for node in stage.nodes.iter().filter(|node| node.name != one.name) {
        print!("{}", stage.lab.on(&node.name, &["node", "find", &format!("{}:{PORT}", second(&one))], "")?);
    }
    for node in &stage.nodes {
        let ms = stage.await_ms("the state", found_ms, interrupt, || stage.state_answers(&node.name))?;
        println!("   {:>6.2} s  {} sees every node up, and takes commands", ms as f64 / 1000.0, node.name);
        if ms > FOUND_WITHIN_MS {
            broken.push(format!("{} took {ms} ms to take commands again", node.name));
        }
    }
    interrupt.sleep(CALM)?;
    let now = stage.workloads()?;
    println!("   instances: {}", told(&workloads, &now, stage));
    // Told, and not promised: nobody was reached for longer than a lease, and a node that is late to renew after that has
    // its instances replaced.
    if now != workloads {
        print!("{}", stage.lab.on("n1", &["events"], "")?);
    }
    let seen_ms = gone_ms + UNSEEN.as_millis() as u64;
    for (node, edge) in stage.nodes.iter().zip(&edges) {
        let (all, late) = (losses(stage, *edge, gone_ms), later_losses(stage, *edge, seen_ms));
        println!("   edge of {}: {} requests, {} lost, {} of them late", node.name, all.sent, all.lost, late.lost);
        if late.lost > 0 {
            late.shown.iter().for_each(|line| println!("   lost: {line}"));
            broken
                .push(format!("the edge of {} lost {} requests after it had seen the others go", node.name, late.lost));
        }
    }
    Ok(broken)
}

/// The address that a node gets beside its first one.
fn second(node: &LabNode) -> Ipv4Addr {
    let [a, b, c, d] = node.address.octets();
    Ipv4Addr::new(a, b, c, d + BESIDE)
}

fn in_node(lab: &Lab, node: &LabNode, script: &str) -> Result<()> {
    lab.run(&["exec", &node.name, "--", "sh", "-c", script]).map(drop)
}

/// Puts addresses into a node's configuration, and lets it take them over.
fn advertise(lab: &Lab, node: &LabNode, list: &str) -> Result<String> {
    let line = format!("s/^advertise = .*/advertise = [{list}]/");
    in_node(lab, node, &format!("sed -i '{line}' /etc/insula/insula.toml"))?;
    lab.on(&node.name, &["node", "reload"], "")
}

/// Whether a node knows so many addresses of another one.
fn knows(lab: &Lab, node: &LabNode, other: &str, count: usize) -> Result<()> {
    let said = lab.on(&node.name, &["node", "show", other, "--json"], "")?;
    let shown: Value = serde_json::from_str(&said).with_context(|| format!("understand insula node show: {said}"))?;
    let known = shown["addresses"].as_array().map_or(0, Vec::len);
    ensure!(known == count, "{} knows {known} addresses of {other}", node.name);
    Ok(())
}
