//! Canaries that are judged by what the edges have counted, while the leader's disk is full or stalls, or an edge cannot reach the
//! leader: a good one comes out, a bad one is given back, in a sentence, and nothing waits for ever. The same for releases that roll.

use std::{cell::RefCell, collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    deploys,
    stage::{Stage, now_ms},
    step,
    successions::settled_leader,
};
use crate::{interrupt::Interrupt, lab::LabNode, traffic::Traffic};

const HOST: &str = "judged.example";
const DEFINITION: &str = r#"
app = "judged"

[services.web]
image = "IMAGE"
env = { AT = "MOMENT", PORT = "8080"FAILING }
scale = 3
resources = { cpu = "250m", memory = "64MiB", pids = 64 }
ports = [{ name = "http", port = 8080, protocol = "http" }]
routes = [{ host = "judged.example", path = "/" }]
health = { http = "/healthz", interval = "300ms", timeout = "250ms" }
update = { min_healthy = "500ms", bake = "4s", UPDATE }
"#;
const CANARY: &str = r#"strategy = "canary", weight = "50%""#;
/// The canary fails a quarter of its requests, or none.
const FAILING: &str = r#", FAIL_EVERY = "4""#;
/// What never gets ready.
const BROKEN: &str = "\ncommand = [\"/page\", \"nothing\"]\n";
/// Requests per second and edge.
const RATE: u32 = 25;
/// Fewer, so that an edge is cut off before it has counted enough to judge by.
const RATE_FEW: u32 = 10;
/// How long a release may take to its end, also when it has to come back, and the region to be whole again after a fault.
const ENDS_WITHIN: Duration = Duration::from_secs(120);
/// Longer than it takes to promote a canary.
const BEYOND_BAKE: Duration = Duration::from_secs(12);
const STALL: &str = "5s";

/// What goes wrong while a release comes out.
#[derive(Debug, Clone, Copy)]
enum Fault {
    LeadersDiskFull,
    LeadersDiskStalls,
    EdgeCutOff,
    EdgeCutOffOneWay,
}

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    step("an app that is visited, with releases that are tried");
    let image = deploys::image(&stage.lab)?;
    let app = App { stage, interrupt, image };
    app.deploy("", CANARY, &["--wait", "2m"])?;
    let edges: Vec<SocketAddr> = stage.nodes.iter().map(LabNode::edge).collect();
    let mut visitors = Traffic::start(&stage.lab, &edges, HOST, RATE)?;
    for fault in [Fault::LeadersDiskFull, Fault::LeadersDiskStalls, Fault::EdgeCutOff, Fault::EdgeCutOffOneWay] {
        for failing in ["", FAILING] {
            app.under(fault, failing, CANARY)?;
        }
    }
    for failing in ["", BROKEN] {
        app.under(Fault::LeadersDiskFull, failing, "max_surge = 1")?;
    }
    visitors.stop()?;
    app.only_edge_cut_off()?;
    Ok(Vec::new())
}

/// How a release ended.
struct End {
    release: u64,
    /// What is said of it where it failed.
    why: Option<String>,
    /// The nodes that its instances were seen on.
    homes: BTreeSet<String>,
}

impl End {
    /// Whether it is the right one; says it. An instance on a node whose disk stalls may be slow or fail, which is then the release's
    /// fault as far as anybody can tell.
    fn is_right(&self, is_good: bool, stalled: Option<&String>) -> Result<()> {
        let Self { release, why, homes } = self;
        match why {
            None => {
                println!("   release {release} is out");
                ensure!(is_good, "a bad release came out");
            }
            Some(why) => {
                println!("   release {release} failed: {why}");
                ensure!(!why.is_empty() && !why.contains(". "), "that is no sentence: {why}");
                let is_hurt = stalled.is_some_and(|node| homes.contains(node));
                ensure!(!is_good || is_hurt, "a good release failed, with instances on {homes:?}: {why}");
            }
        }
        Ok(())
    }
}

struct App<'a> {
    stage: &'a Stage,
    interrupt: &'a Interrupt,
    image: String,
}

impl App<'_> {
    /// Each is another release, also where nothing else differs. At a node that is asked for another's sake.
    fn deploy_at(&self, at: &str, failing: &str, update: &str, arguments: &[&str]) -> Result<u64> {
        let (env, more) = if failing == BROKEN { ("", BROKEN) } else { (failing, "") };
        let definition = DEFINITION.replace("IMAGE", &self.image).replace("MOMENT", &now_ms().to_string());
        let definition = definition.replace("FAILING", env).replace("UPDATE", update) + more;
        let arguments: Vec<&str> = ["deploy", "-"].iter().chain(arguments).copied().collect();
        self.stage.lab.on(at, &arguments, &definition)?;
        let newest = self.releases(at)?.into_iter().next();
        newest.and_then(|release| release["number"].as_u64()).context("no release was made")
    }

    fn deploy(&self, failing: &str, update: &str, arguments: &[&str]) -> Result<u64> {
        self.deploy_at("n1", failing, update, arguments)
    }

    /// The newest first.
    fn releases(&self, at: &str) -> Result<Vec<Value>> {
        let mut releases = self.stage.lab.items(at, &["releases", "judged"])?;
        releases.sort_by_key(|release| std::cmp::Reverse(release["number"].as_u64()));
        Ok(releases)
    }

    /// A release comes out, or does not, while something is wrong.
    fn under(&self, fault: Fault, failing: &str, update: &str) -> Result<()> {
        let lab = &self.stage.lab;
        let leader = settled_leader(self.stage, self.interrupt)?;
        let mut others = self.stage.nodes.iter().filter(|node| node.name != leader.name).map(|node| node.name.as_str());
        let (asked, far) = others.next().zip(others.next()).context("a lab of fewer than three nodes")?;
        let what = match failing {
            "" => "a good",
            BROKEN => "a broken",
            _ => "a bad",
        };
        let how = if update == CANARY { "canary" } else { "rolling release" };
        step(&format!("{what} {how}, {fault:?} ({} leads)", leader.name));
        let at_ms = now_ms();
        let made = self.deploy_at(asked, failing, update, &["--detach"])?;
        match fault {
            Fault::LeadersDiskFull => lab.run(&["disk", &leader.name, "--full"]),
            Fault::LeadersDiskStalls => lab.run(&["disk", &leader.name, "--stall", STALL]),
            Fault::EdgeCutOff => lab.run(&["cut", &leader.name, far]),
            Fault::EdgeCutOffOneWay => lab.run(&["cut", &leader.name, far, "--one-way"]),
        }?;
        let ended = self.ends(asked, made);
        match fault {
            Fault::LeadersDiskFull => drop(lab.run(&["disk", &leader.name, "--mend"])?),
            Fault::LeadersDiskStalls => {}
            Fault::EdgeCutOff | Fault::EdgeCutOffOneWay => drop(lab.run(&["heal"])?),
        }
        println!("   {:.1} s", now_ms().saturating_sub(at_ms) as f64 / 1000.0);
        ended?.is_right(failing.is_empty(), matches!(fault, Fault::LeadersDiskStalls).then_some(&leader.name))?;
        self.whole(asked)
    }

    /// Waits for its end, which for a bad one is that of what came back; gives what is said of it where it failed, and the nodes that
    /// its instances were seen on.
    fn ends(&self, at: &str, made: u64) -> Result<End> {
        let homes = RefCell::<BTreeSet<String>>::default();
        let look = || {
            let instances = self.stage.lab.items(at, &["ps", "judged"])?;
            let of_it = instances.iter().filter(|one| one["release"].as_u64() == Some(made));
            homes.borrow_mut().extend(of_it.filter_map(|one| one["node_name"].as_str()).map(str::to_owned));
            let releases = self.releases(at)?;
            let of = |number| releases.iter().find(|release| release["number"].as_u64() == Some(number));
            let outcome = |release: &Value| release["outcomes"][0]["state"].as_str().unwrap_or("not over").to_owned();
            let release = of(made).context("the release is not there")?;
            match outcome(release).as_str() {
                "done" => return Ok(None),
                "failed" => {}
                other => {
                    let status = self.stage.lab.on(at, &["status", "judged"], "")?;
                    bail!("release {made} is {other}: {}", status.lines().nth(1).unwrap_or_default())
                }
            }
            let back = of(made + 1).context("nothing came back")?;
            ensure!(!back["again_of"].is_null(), "release {} is none that came back", made + 1);
            ensure!(outcome(back) == "done", "what came back is {}", outcome(back));
            Ok(Some(release["outcomes"][0]["why"].as_str().unwrap_or_default().to_owned()))
        };
        self.stage.await_within(ENDS_WITHIN, "the release's end", now_ms(), self.interrupt, || look().map(drop))?;
        let why = look()?;
        Ok(End { release: made, why, homes: homes.into_inner() })
    }

    /// All nodes are up, and three instances ready.
    fn whole(&self, at: &str) -> Result<()> {
        let is_so = || {
            let nodes = self.stage.lab.items(at, &["nodes"])?;
            ensure!(nodes.iter().all(|node| node["state"] == "up"), "not every node is up");
            let instances = self.stage.lab.items(at, &["ps", "judged"])?;
            let ready = instances.iter().filter(|instance| instance["is_ready"] == true).count();
            ensure!((instances.len(), ready) == (3, 3), "{ready} of {} instances are ready", instances.len());
            Ok(())
        };
        self.stage.await_within(ENDS_WITHIN, "the region", now_ms(), self.interrupt, is_so).map(drop)
    }

    /// All visitors come to one edge, which the leader does not hear of any more once it has sent them to the canary.
    fn only_edge_cut_off(&self) -> Result<()> {
        for (failing, what) in [("", "good"), (FAILING, "bad")] {
            let leader = settled_leader(self.stage, self.interrupt)?;
            let mut others = self.stage.nodes.iter().filter(|node| node.name != leader.name);
            let (asked, far) = others.next().zip(others.next()).context("a lab of fewer than three nodes")?;
            step(&format!(
                "a {what} canary; {}, whose edge alone has visitors, cannot reach {}, which leads",
                far.name, leader.name
            ));
            let mut visitors = Traffic::start(&self.stage.lab, &[far.edge()], HOST, RATE_FEW)?;
            let made = self.deploy_at(&asked.name, failing, CANARY, &["--detach"])?;
            let is_tried = || {
                let instances = self.stage.lab.items(&asked.name, &["ps", "judged"])?;
                let is_it = |one: &Value| one["release"].as_u64() == Some(made) && one["is_ready"] == true;
                ensure!(instances.iter().any(is_it), "no instance of release {made} is ready");
                Ok(())
            };
            self.stage.await_ms("the canary", now_ms(), self.interrupt, is_tried)?;
            self.stage.lab.run(&["cut", &leader.name, &far.name])?;
            // It does not reach the leader of the region, or of the world; what is asked of it, another brings there.
            self.stage.lab.on(&far.name, &["scale", "shop/web", if failing.is_empty() { "4" } else { "3" }], "")?;
            let status = || -> Result<String> { self.stage.lab.on(&asked.name, &["status", "judged"], "") };
            let waits = || {
                let said = status()?;
                let is_said = said.contains(&format!("waits for what the edge of {}", far.name));
                ensure!(is_said, "its status does not say what it waits for: {said}");
                Ok(())
            };
            self.stage.await_ms("words", now_ms(), self.interrupt, waits)?;
            self.interrupt.sleep(BEYOND_BAKE)?;
            let said = status()?;
            let line = said.lines().find(|line| line.contains("waits for"));
            let Some(line) = line else { bail!("it did not wait: {said}") };
            println!("   {}", line.trim());
            self.stage.lab.run(&["heal"])?;
            self.ends(&asked.name, made)?.is_right(failing.is_empty(), None)?;
            visitors.stop()?;
            self.whole(&asked.name)?;
        }
        Ok(())
    }
}
