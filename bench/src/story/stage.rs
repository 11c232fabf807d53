//! Where the stories of three nodes are told: a lab, an app of three instances, traffic to every edge.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use insula_env::Clock;

use super::{HOST, Telling, outage, step};
use crate::{
    interrupt::Interrupt,
    lab::{Lab, LabNode, Programs},
    traffic::Traffic,
};

/// What is deployed; IMAGE becomes the reference, by digest, of the image that was made and pushed.
pub(super) const DEFINITION: &str = include_str!("../../../demo/shop.toml");
/// How long the app may take until every edge has answered from every instance.
pub(super) const SERVING_WITHIN: Duration = Duration::from_secs(90);
/// How long a node may take until its parts are back; a story says what it took.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Between looks at something that is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A lab with an app under traffic.
pub(super) struct Stage {
    /// Sends steady requests to the edge of each node. Ends before the lab does.
    pub(super) traffic: Traffic,
    pub(super) lab: Lab,
    pub(super) nodes: Vec<LabNode>,
    /// The instances that serve.
    pub(super) instances: BTreeSet<String>,
    /// What was deployed.
    pub(super) definition: String,
}

/// Wall time in milliseconds since 1970: what processes of one machine can compare.
pub(super) fn now_ms() -> u64 {
    Clock::real().wall_ms()
}

impl Stage {
    /// Makes it; every edge has answered from every instance.
    pub(super) fn set(
        programs: &Programs,
        telling: &Telling,
        certificates: Option<&str>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        step("lab: one region, three nodes in two data centres, an image registry");
        let begun = now_ms();
        let lab = Lab::up(programs, &telling.name, 3, certificates)?;
        print!("{}", lab.run(&["status"])?);
        say_took(begun);
        step("image: static busybox that serves a page, pushed to the registry");
        let image = lab.run(&["image", "shop", "--tag", "v1"])?.trim().to_owned();
        println!("   {image}");
        step("deploy demo/shop.toml: three instances");
        let begun = now_ms();
        let definition = DEFINITION.replace("IMAGE", &image);
        print!("{}", lab.on("n1", &["deploy", "-", "--wait", "2m"], &definition)?);
        say_took(begun);
        print!("{}", lab.on("n1", &["ps"], "")?);
        let nodes = lab.nodes()?;
        let edges: Vec<SocketAddr> = nodes.iter().map(LabNode::edge).collect();
        step(&format!("traffic: {} requests/s to the edge of each node, a new connection each", telling.rate));
        let traffic = Traffic::start(&lab, &edges, HOST, telling.rate)?;
        let instances = serving(&traffic, &edges, interrupt)?;
        Ok(Self { traffic, lab, nodes, instances, definition })
    }

    /// The first process of each instance, by the machine's numbers: the same one as long as it does not restart.
    pub(super) fn workloads(&self) -> Result<BTreeMap<String, u32>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process that has just ended has no files any more, and is none.
            let read = |name| fs::read(entry.path().join(name)).unwrap_or_default();
            let status = String::from_utf8_lossy(&read("status")).into_owned();
            let mut own_pids = status.lines().filter_map(|line| line.strip_prefix("NSpid:"));
            if own_pids.next().and_then(|pids| pids.split_whitespace().next_back()) != Some("1") {
                continue;
            }
            let environment = read("environ");
            let mut words = environment.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok());
            let instance = words.find_map(|word| word.strip_prefix("INSULA_INSTANCE="));
            if let Some(instance) = instance.filter(|instance| self.instances.contains(*instance)) {
                found.insert(instance.to_owned(), pid);
            }
        }
        Ok(found)
    }

    /// A node as it is now.
    pub(super) fn node(&self, name: &str) -> Result<LabNode> {
        let found = self.lab.nodes()?.into_iter().find(|node| node.name == name);
        found.with_context(|| format!("{name} is no node of the lab"))
    }

    /// Waits for something about the lab; gives how long after `since_ms` it came, in milliseconds.
    pub(super) fn await_ms(
        &self,
        what: &str,
        since_ms: u64,
        interrupt: &Interrupt,
        holds: impl Fn() -> Result<()>,
    ) -> Result<u64> {
        self.await_within(BACK_WITHIN, what, since_ms, interrupt, holds)
    }

    /// The same with a time that it may take.
    pub(super) fn await_within(
        &self,
        limit: Duration,
        what: &str,
        since_ms: u64,
        interrupt: &Interrupt,
        holds: impl Fn() -> Result<()>,
    ) -> Result<u64> {
        loop {
            let looked_ms = now_ms();
            let Err(error) = holds() else { return Ok(looked_ms.saturating_sub(since_ms)) };
            if now_ms() > since_ms + limit.as_millis() as u64 {
                return Err(error.context(format!("waited {} s for {what}", limit.as_secs())));
            }
            interrupt.sleep(LOOK_EVERY)?;
        }
    }

    /// A page of a host, as the edge of a node gives it to that node; an answer other than 200 is an error.
    pub(super) fn page(&self, at: &str, host: &str, path: &str) -> Result<String> {
        let request = format!("GET {path} HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n");
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/80 && printf '{request}' >&3 && timeout 2 cat <&3");
        let answer = self.lab.run(&["exec", at, "--", "/bin/bash", "-c", &script])?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        ensure!(head.contains(" 200 "), "{head}");
        Ok(body.to_owned())
    }

    /// Whether a node, asked by itself, sees every node up, and takes a command.
    pub(super) fn state_answers(&self, node: &str) -> Result<()> {
        let nodes = self.lab.items(node, &["nodes"])?;
        if let Some(other) = nodes.iter().find(|node| node["state"] != "up") {
            bail!("{} is {}", other["name"], other["state"]);
        }
        self.lab.on(node, &["scale", "shop/web", "3"], "").map(drop)
    }

    /// Whether the edge of a node has answered a request that was sent after a moment.
    pub(super) fn edge_answers(&self, node: &LabNode, since_ms: u64) -> Result<()> {
        let edge = node.edge();
        match self.traffic.with(|records| outage::first_answer_ms(records, edge, since_ms)) {
            Some(_) => Ok(()),
            None => bail!("the edge of {} does not answer", node.name),
        }
    }
}

pub(super) fn say_took(begun_ms: u64) {
    println!("   {:.1} s", now_ms().saturating_sub(begun_ms) as f64 / 1000.0);
}

/// Waits until every edge has answered from three instances; gives the instances.
fn serving(traffic: &Traffic, edges: &[SocketAddr], interrupt: &Interrupt) -> Result<BTreeSet<String>> {
    let deadline = now_ms() + SERVING_WITHIN.as_millis() as u64;
    loop {
        interrupt.sleep(LOOK_EVERY)?;
        let seen = traffic.with(outage::instances_by_edge);
        if edges.iter().all(|edge| seen.get(edge).is_some_and(|instances| instances.len() >= 3)) {
            return Ok(seen.into_values().flatten().collect());
        }
        if now_ms() > deadline {
            let said = traffic.with(|records| records.last().map(|record| format!("{record:?}")));
            bail!("not every edge answers from three instances: {seen:?}; last: {said:?}");
        }
    }
}
