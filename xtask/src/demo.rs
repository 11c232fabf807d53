//! `cargo xtask demo`: an app on three real nodes outlives the power cut of one of them, under traffic, with a timeline
//! of what was measured. Without root, the same story as far as one node can tell it.

mod alone;
mod measure;
mod tools;
mod traffic;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::{
    measure::{Cut, Report},
    tools::{Tools, now_ms},
    traffic::Traffic,
};
use crate::{bench, interrupt::Interrupt, packages, run::top};

/// The host that the demo's app answers to.
const HOST: &str = "shop.example";
/// How long the app may take until every edge has answered from every instance.
const SERVING_WITHIN: Duration = Duration::from_secs(90);
/// Traffic before the power cut, to compare with.
const CALM: Duration = Duration::from_secs(8);
/// How long after the cut is measured at most, and beyond the last event.
const WATCHED: Duration = Duration::from_secs(40);
const WATCHED_AFTER: Duration = Duration::from_secs(4);

/// How to run the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End after the measurement; fail on a broken promise, or on a time beyond twice its budget
    #[arg(long)]
    check: bool,
    /// The node that loses its power [default: one with an instance that does not lead]
    #[arg(long)]
    node: Option<String>,
    /// Requests per second and edge
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Name of the lab
    #[arg(long, default_value = "demo")]
    name: String,
    /// Leave the lab standing after a failure, to look around
    #[arg(long)]
    keep: bool,
    /// Do not build: use what is in target/release
    #[arg(long)]
    no_build: bool,
}

/// Runs the demo.
///
/// # Errors
/// What failed, or which promise was broken.
pub(crate) fn run(arguments: &DemoArgs) -> Result<()> {
    let interrupt = Interrupt::hold_back()?;
    packages::ensure(packages::BUILD)?;
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        packages::ensure(packages::LAB)?;
    }
    if !arguments.no_build {
        bench::build()?;
    }
    let tools = Tools::new(&top().join("target/release"), &arguments.name);
    if !is_root {
        println!(
            "── not root: no lab of three nodes; the story of one node instead (sudo cargo xtask demo for all of it)"
        );
        return alone::run(&tools, arguments.check, &interrupt);
    }
    step("take down what an earlier run left");
    print!("{}", tools.down()?);
    let told = in_lab(&tools, arguments, &interrupt);
    if arguments.keep && told.is_err() {
        println!("── the lab is kept: {} lab --name {} …", tools.program().display(), arguments.name);
        return told;
    }
    step("take the lab down");
    let down = tools.down();
    // The story's error is the one to tell.
    told?;
    print!("{}", down?);
    Ok(())
}

fn step(what: &str) {
    println!("── {what}");
}

fn in_lab(tools: &Tools, arguments: &DemoArgs, interrupt: &Interrupt) -> Result<()> {
    step("lab: one region, three nodes in two data centres, an image registry");
    let begun = now_ms();
    print!("{}", tools.lab(&["up", "--regions", "fra:3"])?);
    println!("   {:.1} s", (now_ms() - begun) as f64 / 1000.0);
    step("image: static busybox that serves a page, pushed to the registry");
    let image = tools.lab(&["image", "shop", "--tag", "v1"])?.trim().to_owned();
    println!("   {image}");
    step("deploy demo/shop.toml: three instances");
    let path = top().join("demo/shop.toml");
    let definition = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let begun = now_ms();
    print!("{}", tools.on("n1", &["deploy", "-", "--wait", "2m"], &definition.replace("IMAGE", &image))?);
    println!("   {:.1} s", (now_ms() - begun) as f64 / 1000.0);
    print!("{}", tools.on("n1", &["ps"], "")?);

    let nodes = tools.nodes()?;
    let edges: Vec<SocketAddr> = nodes.iter().map(|node| SocketAddr::from((node.address, 80))).collect();
    step(&format!("traffic: {} requests/s to the edge of each node, a new connection each", arguments.rate));
    let mut traffic = Traffic::start(tools, &edges, HOST, arguments.rate)?;
    let instances = serving(&traffic, &edges, interrupt)?;
    interrupt.sleep(CALM)?;

    let victim = victim(tools, arguments.node.as_deref())?;
    let address = nodes.iter().find(|node| node.name == victim).context("no node of that name")?.address;
    step(&format!("power cut of {victim}"));
    let said = tools.lab(&["poweroff", &victim])?;
    let mut numbers = said.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let at_ms = numbers.next().with_context(|| format!("insula lab poweroff said {said:?}"))?;
    let cut = Cut { at_ms, node: victim, edge: SocketAddr::from((address, 80)), instances };
    watch(&traffic, &cut, interrupt)?;
    let records = traffic.stop()?;
    let report = Report::new(&records, &cut);
    print!("{report}");
    let broken = report.broken_promises();
    if arguments.check {
        ensure!(broken.is_empty(), "{}", broken.join("; "));
        return Ok(());
    }
    for promise in broken {
        println!("   BROKEN: {promise}");
    }
    println!("\nThe lab stays up until Ctrl-C. Look around in another terminal:");
    let program = tools.program().display();
    println!("   {program} lab --name {name} status", name = arguments.name);
    println!("   {program} lab --name {name} exec n1 -- insula ps", name = arguments.name);
    println!("   {program} lab --name {name} poweron {node}", name = arguments.name, node = cut.node);
    interrupt.wait();
    Ok(())
}

/// Waits until every edge has answered from three instances; gives the instances.
fn serving(traffic: &Traffic, edges: &[SocketAddr], interrupt: &Interrupt) -> Result<Vec<String>> {
    let deadline = now_ms() + SERVING_WITHIN.as_millis() as u64;
    loop {
        interrupt.sleep(Duration::from_millis(200))?;
        let seen = traffic.with(measure::instances_by_edge);
        if edges.iter().all(|edge| seen.get(edge).is_some_and(|instances| instances.len() >= 3)) {
            return Ok(seen.into_values().flatten().collect());
        }
        if now_ms() > deadline {
            let said = traffic.with(|records| records.last().map(|record| format!("{record:?}")));
            bail!("not every edge answers from three instances: {seen:?}; last: {said:?}");
        }
    }
}

/// A node that has an instance, whose loss is no change of leader.
fn victim(tools: &Tools, wanted: Option<&str>) -> Result<String> {
    if let Some(name) = wanted {
        return Ok(name.to_owned());
    }
    let listing = tools.on_json("n1", &["nodes", "--json"])?;
    let nodes = listing["items"].as_array().context("insula nodes --json has no items")?;
    let placed = tools.on_json("n1", &["ps", "shop", "--json"])?;
    let placed = placed["items"].as_array().context("insula ps --json has no items")?;
    let has_instance = |name: &str| placed.iter().any(|instance| instance["node_name"] == name);
    let mut names = nodes.iter().filter(|node| node["is_leader"] != true).filter_map(|node| node["name"].as_str());
    names.rfind(|name| has_instance(name)).map(str::to_owned).context("no node fits: every one with an instance leads")
}

/// Lets traffic go on until the instance serves elsewhere and a while longer, but not for ever.
fn watch(traffic: &Traffic, cut: &Cut, interrupt: &Interrupt) -> Result<()> {
    let until = |time: Duration| cut.at_ms + time.as_millis() as u64;
    loop {
        interrupt.sleep(Duration::from_millis(100))?;
        let elsewhere = traffic.with(|records| measure::elsewhere_ms(records, cut));
        let end = elsewhere.map_or(until(WATCHED), |ms| until(WATCHED_AFTER) + ms);
        if now_ms() > end {
            return Ok(());
        }
    }
}
