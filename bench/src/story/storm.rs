//! Kills at random, one upon the other: instances, their shims, servers, dataplanes, and power cuts of nodes. In the end all
//! that shall run runs and answers, data is there, and nothing is left over of what was killed.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use insula_env::Rng;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    Telling,
    stage::{Stage, now_ms},
    step,
};
use crate::interrupt::Interrupt;

/// Two services: one whose layers have a size of their own, and one with a volume, which says who made its data.
const DEFINITION: &str = r#"
app = "storm"

[services.web]
image = "IMAGE"
scale = 5
resources = { cpu = "50m", memory = "16MiB", pids = 32, disk = "16MiB" }
ports = [{ name = "http", port = 8080, protocol = "http" }]
routes = [{ host = "storm.example", path = "/" }]
health = { http = "/healthz", interval = "1s", timeout = "1s", grace = "20s" }

[services.store]
image = "IMAGE"
command = ["/bin/busybox", "sh", "-c", """
cd /data
[ -e first ] || { echo "$INSULA_INSTANCE" >new && /bin/busybox sync && /bin/busybox mv new first && /bin/busybox sync; }
exec /bin/busybox httpd -f -p 8080 -h /data
"""]
init = true
scale = 1
resources = { cpu = "50m", memory = "16MiB", pids = 32 }
ports = [{ name = "http", port = 8080, protocol = "http" }]
routes = [{ host = "store.example", path = "/" }]
health = { http = "/first", interval = "1s", timeout = "1s", grace = "20s" }
volumes = [{ name = "data", path = "/data", size = "16MiB" }]
"#;
/// Of the definition.
const INSTANCES: usize = 6;
/// Longest pause between two kills: less than what it takes to come back from one.
const PAUSE_MS_MAX: u64 = 600;
/// Longest time without power.
const DARK_MS_MAX: u64 = 5_000;
/// How long all may take to run again. What was killed again and again waits up to a minute for its next start.
const CALM_WITHIN: Duration = Duration::from_secs(180);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Instance,
    Shim,
    Server,
    Dataplane,
    Power,
}

impl Target {
    fn draw(rng: &Rng) -> Self {
        match rng.range(0, 100) {
            0..40 => Self::Instance,
            40..65 => Self::Shim,
            65..80 => Self::Server,
            80..95 => Self::Dataplane,
            _ => Self::Power,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Instance => "instances",
            Self::Shim => "shims",
            Self::Server => "servers",
            Self::Dataplane => "dataplanes",
            Self::Power => "power cuts",
        }
    }
}

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, telling: &Telling, interrupt: &Interrupt) -> Result<Vec<String>> {
    let lab = &stage.lab;
    step("deploy storm: five instances with bounded layers, one with a volume");
    let image = lab.run(&["image", "storm", "--tag", "v1"])?.trim().to_owned();
    let definition = DEFINITION.replace("IMAGE", &image);
    print!("{}", lab.on("n1", &["deploy", "-", "--wait", "2m"], &definition)?);
    let maker = stage.page("n1", "store.example", "/first")?;

    let seed = telling.seed.unwrap_or_else(|| Rng::from_os().range(0, u64::from(u32::MAX)));
    step(&format!("{} kills at random, seed {seed}", telling.kills));
    let rng = Rng::from_seed(seed);
    let mut done: BTreeMap<Target, u32> = BTreeMap::new();
    while done.values().sum::<u32>() < telling.kills {
        let target = Target::draw(&rng);
        if strike(stage, target, &telling.name, &rng, interrupt)? {
            *done.entry(target).or_default() += 1;
        }
        interrupt.sleep(Duration::from_millis(rng.range(0, PAUSE_MS_MAX)))?;
    }
    let told: Vec<_> = done.iter().map(|(target, count)| format!("{count} {}", target.words())).collect();
    println!("   {}", told.join(", "));

    step("calm: what shall run runs, and nothing is left over");
    let mut broken = Vec::new();
    let begun_ms = now_ms();
    let mut promise = |what: &str, holds: &dyn Fn() -> Result<()>| match stage.await_within(
        CALM_WITHIN,
        what,
        begun_ms,
        interrupt,
        holds,
    ) {
        Ok(ms) => println!("   {:>6.2} s  {what}", ms as f64 / 1000.0),
        Err(error) => broken.push(format!("{what}: {error:#}; seed {seed}")),
    };
    promise("every node sees every node up", &|| {
        stage.nodes.iter().try_for_each(|node| stage.state_answers(&node.name))
    });
    promise("all instances are ready", &|| all_ready(stage));
    promise("every edge answers, with the data that was there", &|| answers(stage, &maker));
    promise("as many first processes, each with its shim", &|| {
        let (found, wanted) = (instances(&telling.name)?.len(), INSTANCES + stage.instances.len());
        ensure!(found == wanted, "{found} instances have a shim, and {wanted} shall run");
        Ok(())
    });
    promise("nothing is left over on any node", &|| {
        stage.nodes.iter().try_for_each(|node| nothing_left(stage, &node.name))
    });
    Ok(broken)
}

/// Kills one of these; gives whether there was one.
fn strike(stage: &Stage, target: Target, lab: &str, rng: &Rng, interrupt: &Interrupt) -> Result<bool> {
    let node = &stage.nodes[rng.range(0, stage.nodes.len() as u64) as usize].name;
    match target {
        Target::Instance | Target::Shim => {
            let found = instances(lab)?;
            if found.is_empty() {
                return Ok(false);
            }
            let (first, shim) = found[rng.range(0, found.len() as u64) as usize];
            // It may have ended by itself, after its shim or its node.
            Ok(kill(if target == Target::Shim { shim } else { first }, Signal::SIGKILL).is_ok())
        }
        // One that was just killed may not be back yet.
        Target::Server => Ok(stage.lab.run(&["kill", node, "--process", "server"]).is_ok()),
        Target::Dataplane => Ok(stage.lab.run(&["kill", node, "--process", "dataplane"]).is_ok()),
        Target::Power => {
            stage.lab.run(&["poweroff", node])?;
            interrupt.sleep(Duration::from_millis(rng.range(0, DARK_MS_MAX)))?;
            stage.lab.run(&["poweron", node])?;
            Ok(true)
        }
    }
}

/// The first processes of the instances of a lab, and their shims.
fn instances(lab: &str) -> Result<Vec<(Pid, Pid)>> {
    let cgroups = format!("/insula-lab-{lab}-");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that has just ended has no files any more.
        let read = |path: PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let status = read(entry.path().join("status"));
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
        if field("NSpid:").and_then(|pids| pids.split_whitespace().next_back()) != Some("1") {
            continue;
        }
        let Some(parent) = field("PPid:").and_then(|pid| pid.trim().parse::<i32>().ok()) else { continue };
        let is_of_lab = read(entry.path().join("cgroup")).contains(&cgroups);
        if is_of_lab && read(format!("/proc/{parent}/cmdline").into()).contains("/insula-shim-") {
            found.push((Pid::from_raw(pid), Pid::from_raw(parent)));
        }
    }
    Ok(found)
}

fn all_ready(stage: &Stage) -> Result<()> {
    let items = stage.lab.items("n1", &["ps"])?;
    let wanted = INSTANCES + stage.instances.len();
    ensure!(items.len() == wanted, "{} instances, and {wanted} shall run", items.len());
    match items.iter().find(|one| one["is_ready"] != true) {
        Some(one) => bail!("{} is {}: {}", one["id"], one["state"], one["message"]),
        None => Ok(()),
    }
}

fn answers(stage: &Stage, maker: &str) -> Result<()> {
    for node in &stage.nodes {
        stage.page(&node.name, "storm.example", "/healthz")?;
        let now = stage.page(&node.name, "store.example", "/first")?;
        ensure!(now == maker, "the data is of {now}, not of {maker}");
    }
    Ok(())
}

fn nothing_left(stage: &Stage, node: &str) -> Result<()> {
    let said = stage.lab.on(node, &["doctor", "--json"], "")?;
    let report: Value = serde_json::from_str(&said).with_context(|| format!("understand insula doctor: {said}"))?;
    let mut checks = report["checks"].as_array().into_iter().flatten();
    let check = checks.find(|check| check["subject"] == "leftovers").context("doctor looks for no leftovers")?;
    ensure!(check["grade"] == "ok", "{node}: {} {}", check["found"], check["items"]);
    Ok(())
}
