//! The image registry is gone, and the only node that runs an app loses its power: another node has the image.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};

use super::{
    outage::{self, Cut},
    stage::{Stage, now_ms},
    step,
};
use crate::{interrupt::Interrupt, lab::LabNode, traffic::Traffic};

/// The app of which one instance runs.
const DEFINITION: &str = r#"
app = "solo"

[services.web]
image = "IMAGE"
scale = 1
ports = [{ name = "http", port = 8080, protocol = "http" }]
routes = [{ host = "solo.example", path = "/" }]
resources = { cpu = "50m", memory = "32MiB", pids = 32 }
health = { http = "/healthz", interval = "500ms", timeout = "400ms", grace = "10s" }
"#;
const HOST: &str = "solo.example";
/// From the power cut to the first answer of the instance that takes its place; the check tolerates twice that.
const BUDGET: Duration = Duration::from_secs(8);

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, rate: u32, interrupt: &Interrupt) -> Result<Vec<String>> {
    let Stage { lab, nodes, .. } = stage;
    step("deploy solo: one instance, done when two nodes have its image");
    let image = lab.run(&["image", "solo", "--tag", "alone"])?.trim().to_owned();
    let begun_ms = now_ms();
    print!("{}", lab.on("n1", &["deploy", "-", "--wait", "2m"], &DEFINITION.replace("IMAGE", &image))?);
    println!("   {:.1} s", now_ms().saturating_sub(begun_ms) as f64 / 1000.0);
    print!("{}", lab.on("n1", &["status", "solo"], "")?);
    print!("{}", lab.on("n1", &["image", "ls"], "")?);
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let placed = lab.items("n1", &["ps", "solo"])?;
    let one = placed.first().context("solo has no instance")?;
    let (instance, victim) = text(&one["id"]).zip(text(&one["node_name"])).context("an instance without a node")?;

    step("a command in its only instance, from each node");
    let mut broken = Vec::new();
    for node in nodes {
        let said = lab.on(&node.name, &["exec", "-i", "solo/web", "--", "busybox", "cat"], "there and back\n");
        if !matches!(&said, Ok(said) if said == "there and back\n") {
            broken.push(format!("a command from {} said {said:?}", node.name));
        }
    }

    step("a command in an instance of its own, from each node");
    for node in nodes {
        let command = ["run", "-i", "solo", "--", "busybox", "sh", "-c", "cat; echo $INSULA_INSTANCE $PORT"];
        let said = lab.on(&node.name, &command, "there and back\n");
        let is_well = said.as_ref().is_ok_and(|said| {
            said.starts_with("there and back\ni-") && said.ends_with(" 8080\n") && !said.contains(&instance)
        });
        if !is_well {
            broken.push(format!("a command in an instance of its own, from {}, said {said:?}", node.name));
        }
    }
    let after = lab.items("n1", &["ps", "solo"])?;
    if after.len() != 1 || text(&after[0]["id"]).as_ref() != Some(&instance) {
        broken.push(format!("instances that were made for one command are placed: {after:?}"));
    }

    step("the image registry is stopped");
    lab.run(&["registry", "off"])?;
    let edges: Vec<_> = nodes.iter().filter(|node| node.name != victim).map(LabNode::edge).collect();
    let traffic = Traffic::start(lab, &edges, HOST, rate)?;
    let answers = || match traffic.with(|records| outage::instances_by_edge(records).len() == edges.len()) {
        true => Ok(()),
        false => anyhow::bail!("not every edge answers for {HOST}"),
    };
    stage.await_ms("answers of solo", now_ms(), interrupt, answers)?;

    step(&format!("power cut of {victim}, the only node that runs solo"));
    let begun_ms = now_ms();
    lab.run(&["poweroff", &victim])?;
    let cut = Cut {
        begun_ms,
        at_ms: begun_ms,
        edge: stage.node(&victim)?.edge(),
        node: victim,
        instances: BTreeSet::from([instance]),
    };
    let elsewhere = || traffic.with(|records| outage::elsewhere_ms(records, &cut)).context("no other instance answers");
    match stage.await_ms("another instance of solo", begun_ms, interrupt, || elsewhere().map(drop)) {
        Ok(_) => {
            let took_ms = elsewhere()?;
            println!("   {:.2} s  another instance serves (budget {} s)", took_ms as f64 / 1000.0, BUDGET.as_secs());
            if u128::from(took_ms) > 2 * BUDGET.as_millis() {
                broken.push(format!("solo was served again only after {took_ms} ms"));
            }
        }
        Err(error) => broken.push(format!("solo was not served again: {error:#}")),
    }
    let left = nodes.iter().map(|node| node.name.as_str()).find(|name| *name != cut.node).unwrap_or("n1");
    print!("{}", lab.on(left, &["ps", "solo"], "")?);

    step("solo on both nodes that are left: one of them gets the image from the other");
    let begun_ms = now_ms();
    lab.on(left, &["scale", "solo/web", "2"], "")?;
    let both = || {
        let ready = lab.items(left, &["ps", "solo"])?;
        let on: BTreeSet<_> =
            ready.iter().filter(|one| one["is_ready"] == true).map(|one| text(&one["node_name"])).collect();
        anyhow::ensure!(on.len() == 2, "instances are ready on {on:?}");
        Ok(())
    };
    match stage.await_ms("solo on both nodes", begun_ms, interrupt, both) {
        Ok(ms) => println!("   {:.2} s", ms as f64 / 1000.0),
        Err(error) => broken.push(format!("solo was not started on both nodes: {error:#}")),
    }

    step("the registry and the node come back");
    lab.run(&["registry", "on"])?;
    lab.run(&["poweron", &cut.node])?;
    Ok(broken)
}
