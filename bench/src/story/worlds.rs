//! A second region far away: founded by its first machine with a token, it runs what the cluster runs, takes a deploy, lives
//! while it is cut off, also through a power cut of all of its nodes, and catches up when the link is back.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    HOST, Telling, end,
    kills::{later_losses, losses},
    stage::{DEFINITION, Stage, now_ms, say_took},
    step,
};
use crate::{
    interrupt::Interrupt,
    lab::{Lab, LabNode, Programs},
    traffic::Traffic,
};

/// The lab: two nodes each, and the round trip between them.
const REGIONS: &str = "fra:2,nrt:2";
const RTT: &str = "fra-nrt=266ms";
/// What the first pull of the new region goes over, and what the image holds beside a megabyte of program.
const RATE: &str = "100Mb/s";
const BALLAST: &str = "40MiB";
/// A node of the first region, the one that founds the second, and another one there.
const NEAR: &str = "n1";
const FAR: &str = "n3";
const FAR_TOO: &str = "n4";
/// How long the first request may take from the making of the token on.
const SERVED_WITHIN_MS: u64 = 60_000;
/// How long a release may take to be served by the other region, once the link is back.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);
/// How long the cut may take to be noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);
/// Traffic that is watched.
const CALM: Duration = Duration::from_secs(4);

/// Tells it.
pub(super) fn tell(programs: &Programs, telling: &Telling, interrupt: &Interrupt) -> Result<()> {
    step(&format!("lab: two regions, {RTT}; the second one's machines are bare"));
    let begun = now_ms();
    let arguments = ["--regions", REGIONS, "--rtt", RTT, "--leave", "nrt"];
    let mut lab = Lab::up_as(programs, &telling.name, &arguments)?;
    print!("{}", lab.run(&["status"])?);
    say_took(begun);
    if telling.keep {
        lab.keep();
    }
    let broken = play(lab, telling.rate, interrupt)?;
    end(&broken, telling, interrupt, || println!("\nThe lab goes with Ctrl-C."))
}

/// What every page of an edge says of the version that answers.
fn serves(stage: &Stage, at: &str, version: &str) -> Result<()> {
    let page = stage.page(at, HOST, "/")?;
    ensure!(page.contains(&format!("version={version}")), "{at} serves {page:?}, not {version}");
    let own: BTreeSet<&str> = if at < FAR { ["n1", "n2"].into() } else { ["n3", "n4"].into() };
    let node = page.split_whitespace().find_map(|word| word.strip_prefix("node=")).context("no node in the page")?;
    ensure!(own.contains(node), "the edge of {at} was answered by an instance on {node}, in another region");
    Ok(())
}

fn deploy(stage: &Stage, at: &str, version: &str) -> Result<()> {
    let image = stage.lab.run(&["image", "shop", "--tag", version, "--ballast", BALLAST])?.trim().to_owned();
    let definition = DEFINITION
        .replace("IMAGE", &image)
        .replace("scale     = 3", "scale     = 2\nregions   = [\"*\"]\nsecrets   = [\"KEY\"]");
    ensure!(definition.contains("regions"), "the definition has another scale by now");
    stage.lab.on(at, &["deploy", "-", "--wait", "2m"], &definition).map(drop)
}

/// Tokens for regions that cannot be, and machines that come too late.
fn refused(stage: &Stage) -> Result<()> {
    let lab = &stage.lab;
    let key = ["--recovery-key-file", "/var/lib/insula/recovery-key"];
    for (at, arguments, why) in [
        (NEAR, &["--region", "nrt", key[0], key[1]][..], "there is a region nrt already"),
        (NEAR, &["--region", "sin"], "takes the recovery key"),
        (NEAR, &["--region", "sin", "--uses", "2", key[0], key[1]], "has one use"),
        (FAR, &["--region", "sin", key[0], "/proc/sys/kernel/hostname"], "ask a node of region fra"),
    ] {
        let said = lab.on(at, &[&["token", "create"], arguments].concat(), "");
        let error = said.err().with_context(|| format!("{at} made a token: {arguments:?}"))?;
        ensure!(format!("{error:#}").contains(why), "{at} refuses {arguments:?} without {why:?}: {error:#}");
    }
    let token = lab.on(NEAR, &["token", "create", "--region", "sin", key[0], key[1]], "")?;
    let join = |home: &str| {
        let (data, config) = (format!("/tmp/{home}"), format!("/tmp/{home}.toml"));
        let place = ["--no-service", "--datacenter", "sin1", "--advertise", "10.200.1.75:7999"];
        let files = ["--name", home, "--data", &data, "--config", &config];
        lab.on("n2", &[&["join", token.trim()][..], &place, &files].concat(), "")
    };
    join("first").context("the first machine with the token")?;
    let error = join("second").err().context("two machines have founded a region")?;
    ensure!(format!("{error:#}").contains("region sin was founded meanwhile"), "{error:#}");
    let tokens = lab.items(NEAR, &["token", "list"])?;
    let founding = tokens.iter().find(|token| token["region"] == "sin").context("the token is not listed")?;
    lab.on(NEAR, &["token", "rm", founding["id"].as_str().unwrap_or_default()], "")?;
    ensure!(lab.items(NEAR, &["regions"])?.len() == 2, "region sin is still there");
    ensure!(join("third").is_err(), "a token that was ended founds a region");
    Ok(())
}

/// The first region is left without an instance for a while: its edges bring requests to the other one.
fn elsewhere(stage: &Stage, edge: SocketAddr, interrupt: &Interrupt, broken: &mut Vec<String>) -> Result<()> {
    step("no instance in fra: its edges are served by nrt, and come back");
    let begun = now_ms();
    stage.lab.on(NEAR, &["scale", "shop/web", "0", "--region", "fra"], "")?;
    let ms = stage.await_ms("answers from nrt", begun, interrupt, || {
        let page = stage.page(NEAR, HOST, "/")?;
        ensure!([FAR, FAR_TOO].iter().any(|node| page.contains(&format!("node={node} "))), "{NEAR} serves {page:?}");
        Ok(())
    })?;
    println!("   {:>6.2} s  {NEAR} is served by nrt", ms as f64 / 1000.0);
    interrupt.sleep(CALM)?;
    let back = now_ms();
    stage.lab.on(NEAR, &["scale", "shop/web", "2", "--region", "fra"], "")?;
    let ms = stage.await_ms("instances in fra", back, interrupt, || serves(stage, NEAR, "v2"))?;
    println!("   {:>6.2} s  {NEAR} is served by fra again", ms as f64 / 1000.0);
    interrupt.sleep(CALM)?;
    let lost = losses(stage, edge, begun);
    println!("   edge of {NEAR}: {} requests, {} lost", lost.sent, lost.lost);
    if lost.lost > 0 {
        lost.shown.iter().for_each(|line| println!("   lost: {line}"));
        broken.push(format!("the edge of {NEAR} lost {} requests without instances in its region", lost.lost));
    }
    Ok(())
}

fn play(lab: Lab, rate: u32, interrupt: &Interrupt) -> Result<Vec<String>> {
    let nodes = lab.nodes()?;
    let edge = |name: &str| nodes.iter().find(|node| node.name == name).map(LabNode::edge).context("no such node");
    let edges: Vec<SocketAddr> = [NEAR, FAR].iter().map(|name| edge(name)).collect::<Result<_>>()?;
    let traffic = Traffic::start(&lab, &edges, HOST, rate)?;
    let stage = Stage { traffic, lab, nodes: nodes.clone(), instances: BTreeSet::new(), definition: String::new() };
    let mut broken = Vec::new();

    step("deploy to the first region, with a secret");
    let begun = now_ms();
    // The other region has to get it sealed to its own key: without it nothing starts there.
    stage.lab.on(NEAR, &["secrets", "set", "shop", "KEY"], "set before there was another region")?;
    deploy(&stage, NEAR, "v1")?;
    stage.await_ms("the first region", begun, interrupt, || serves(&stage, NEAR, "v1"))?;
    say_took(begun);

    // The registry is in the first region as far as the new one is concerned.
    stage.lab.run(&["link", "nrt", "services", "--rtt", "266ms", "--rate", RATE])?;
    stage.lab.run(&["link", "fra", "nrt", "--rate", RATE])?;
    step(&format!(
        "found region nrt over {RATE}: token at n1, join at n3 and n4, until an edge there answers from an instance there"
    ));
    let begun = now_ms();
    stage.lab.run(&["form", "nrt"])?;
    let ms = stage.await_ms("the new region", begun, interrupt, || serves(&stage, FAR, "v1"))?;
    println!("   {:>6.2} s  from the token to the first answer", ms as f64 / 1000.0);
    if ms > SERVED_WITHIN_MS {
        broken.push(format!(
            "the new region served {ms} ms after its token was asked for, not within {SERVED_WITHIN_MS}"
        ));
    }
    stage.await_ms("n4", begun, interrupt, || serves(&stage, FAR_TOO, "v1"))?;
    stage.lab.run(&["link", "nrt", "services", "--rtt", "0s", "--rate", "none"])?;
    stage.lab.run(&["link", "fra", "nrt", "--rate", "none"])?;
    for at in [NEAR, FAR, FAR_TOO] {
        print!("{}", stage.lab.on(at, &["regions"], "")?);
        let regions = stage.lab.items(at, &["regions"])?;
        let is_good = |region: &serde_json::Value| region["is_own"] == true || region["is_reached"] == true;
        ensure!(regions.len() == 2 && regions.iter().all(is_good), "{at} does not reach both regions");
    }

    step("what is refused, in words");
    refused(&stage)?;

    step("deploy v2 on a node of nrt");
    let begun = now_ms();
    deploy(&stage, FAR_TOO, "v2")?;
    for at in [NEAR, FAR, FAR_TOO] {
        let ms = stage.await_ms("v2", begun, interrupt, || serves(&stage, at, "v2"))?;
        println!("   {:>6.2} s  served by {at}", ms as f64 / 1000.0);
    }

    elsewhere(&stage, edges[0], interrupt, &mut broken)?;

    step("cut all links between the regions, and deploy v3 in the first one");
    let cut_ms = now_ms();
    stage.lab.run(&["cut", "fra", "nrt"])?;
    for at in [FAR, FAR_TOO] {
        let ms = stage.await_within(NOTICED_WITHIN, "the cut to be noticed", cut_ms, interrupt, || {
            let said = stage.lab.on(at, &["status"], "")?;
            ensure!(
                said.contains("nobody tells region nrt of the global state since"),
                "{at} does not say that it is alone"
            );
            Ok(())
        })?;
        println!("   {:>6.2} s  {at} knows", ms as f64 / 1000.0);
    }
    deploy(&stage, NEAR, "v3")?;
    stage.await_ms("v3", cut_ms, interrupt, || serves(&stage, NEAR, "v3"))?;
    interrupt.sleep(CALM)?;
    for at in [FAR, FAR_TOO] {
        serves(&stage, at, "v2").with_context(|| format!("{at}, cut off"))?;
    }
    for (at, edge) in [NEAR, FAR].iter().zip(&edges) {
        let lost = losses(&stage, *edge, cut_ms);
        println!("   edge of {at}: {} requests, {} lost", lost.sent, lost.lost);
        if lost.lost > 0 {
            lost.shown.iter().for_each(|line| println!("   lost: {line}"));
            broken.push(format!("the edge of {at} lost {} requests when the link was cut", lost.lost));
        }
    }

    step("cut the power of both nodes of nrt, and give it back: nobody else is reached");
    stage.lab.run(&["poweroff", FAR, FAR_TOO])?;
    let begun = now_ms();
    for node in [FAR, FAR_TOO] {
        stage.lab.run(&["poweron", node])?;
    }
    for at in [FAR, FAR_TOO] {
        let ms = stage.await_ms("the region to serve alone", begun, interrupt, || serves(&stage, at, "v2"))?;
        println!("   {:>6.2} s  {at} serves v2 again", ms as f64 / 1000.0);
        let apps = stage.lab.items(at, &["apps"])?;
        ensure!(apps.len() == 1, "{at} does not know the app from its disk: {apps:?}");
    }

    step("heal");
    let healed_ms = now_ms();
    stage.lab.run(&["heal"])?;
    for at in [FAR, FAR_TOO] {
        let ms =
            stage.await_within(CAUGHT_UP_WITHIN, "v3 in nrt", healed_ms, interrupt, || serves(&stage, at, "v3"))?;
        println!("   {:>6.2} s  {at} serves v3", ms as f64 / 1000.0);
    }
    interrupt.sleep(CALM)?;
    // Of the node that was off, only what began afterwards: others may have met it on its way down or up.
    let (near, far) = (losses(&stage, edges[0], cut_ms), later_losses(&stage, edges[1], healed_ms));
    println!("   edge of {NEAR} since the cut: {} requests, {} lost", near.sent, near.lost);
    println!("   edge of {FAR} since the heal: {} requests, {} lost", far.sent, far.lost);
    for (at, lost) in [(NEAR, near), (FAR, far)] {
        if lost.lost > 0 {
            lost.shown.iter().for_each(|line| println!("   lost: {line}"));
            broken.push(format!("the edge of {at} lost {} requests", lost.lost));
        }
    }
    Ok(broken)
}
