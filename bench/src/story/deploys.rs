//! All that changes an app and the nodes below it, under traffic: what may be sent twice never fails, and what else fails is
//! explained by a kill.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    stage::{Stage, now_ms},
    step,
    upgrade::{install, restart},
};
use crate::{
    interrupt::Interrupt,
    lab::{Lab, LabNode, output},
    report::{Outcome, Record},
    traffic::Traffic,
};

/// The host of the app, which is deployed beside that of the stage.
const HOST: &str = "visited.example";
const DEFINITION: &str = r#"
app = "visited"

[services.web]
image = "IMAGE"
env = { VERSION = "RELEASE", PORT = "8080" }
resources = { cpu = "250m", memory = "64MiB", pids = 64 }
ports = [{ name = "http", port = 8080, protocol = "http" }]
routes = [{ host = "visited.example", path = "/" }]
health = { http = "/healthz", interval = "300ms", timeout = "250ms" }
update = { min_healthy = "1s", bake = "2s", MORE }
stop = { grace = "15s" }
"#;
const ROLLING: &str = "max_surge = 1";
const CANARY: &str = r#"strategy = "canary", weight = "30%""#;
/// Traffic that is watched after each change.
const CALM: Duration = Duration::from_secs(1);
/// How long before or after a request an instance may have been killed that hurt it.
const HURT_MS: u64 = 500;

/// What visitors do: its name, requests a second and edge, arguments of the load, and whether it may be sent twice.
const VISITORS: [(&str, u32, &[&str], bool); 5] = [
    ("GET, new connections", 10, &[], true),
    ("GET, kept connections", 10, &["--connections", "keep-alive"], true),
    ("POST, kept connections", 10, &["--connections", "keep-alive", "--kind", "post"], false),
    ("GET, two seconds long", 1, &["--path", "/slow"], false),
    ("WebSockets", 1, &["--path", "/socket", "--kind", "socket", "--timeout", "30"], false),
];

/// What is done in a round, and how often.
const ROUND: [(Change, u32); 7] = [
    (Change::Rolling, 5),
    (Change::Canary, 2),
    (Change::Rollback, 2),
    (Change::Scale, 5),
    (Change::Drain, 2),
    (Change::Kill, 2),
    (Change::Upgrade, 1),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Rolling,
    Canary,
    Rollback,
    Scale,
    Drain,
    Kill,
    Upgrade,
}

/// An app that is visited, and what has been done to it.
struct Visited<'a> {
    stage: &'a Stage,
    interrupt: &'a Interrupt,
    image: String,
    release: u32,
    /// Counts the changes of each kind.
    done: BTreeMap<Change, u32>,
    /// When instances were killed.
    kills_ms: Vec<u64>,
}

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, rounds: u32, interrupt: &Interrupt) -> Result<Vec<String>> {
    step("an app that is visited: GET, POST, long answers and WebSockets");
    let image = image(&stage.lab)?;
    let (done, kills_ms) = Default::default();
    let mut visited = Visited { stage, interrupt, image, release: 0, done, kills_ms };
    visited.deploy(ROLLING, &["--wait", "2m"])?;
    visited.scale(3)?;
    let edges: Vec<SocketAddr> = stage.nodes.iter().map(LabNode::edge).collect();
    let start = |(_, rate, arguments, _): (&str, u32, &[&str], bool)| {
        Traffic::start_as(&stage.lab, &edges, HOST, rate, arguments)
    };
    let mut visitors = VISITORS.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    interrupt.sleep(CALM)?;
    for round in 1..=rounds {
        step(&format!("round {round} of {rounds}"));
        for (change, count) in ROUND {
            let begun_ms = now_ms();
            for _ in 0..count {
                visited.change(change).with_context(|| format!("{change:?}"))?;
                interrupt.sleep(CALM)?;
            }
            println!("   {count} × {change:?}: {:.1} s", now_ms().saturating_sub(begun_ms) as f64 / 1000.0);
        }
    }
    step("the visitors end");
    let mut broken = Vec::new();
    for ((what, _, _, is_repeatable), traffic) in VISITORS.into_iter().zip(&mut visitors) {
        broken.extend(judge(what, is_repeatable, &traffic.stop()?, &visited.kills_ms));
    }
    println!("   done: {:?}", visited.done);
    Ok(broken)
}

impl Visited<'_> {
    fn change(&mut self, change: Change) -> Result<()> {
        let nodes = &self.stage.nodes;
        let number = self.done.entry(change).or_default();
        *number += 1;
        let number = *number as usize;
        let node = &nodes[number % nodes.len()];
        let other = &nodes[(number + 1) % nodes.len()];
        match change {
            Change::Rolling => self.deploy(ROLLING, &["--wait", "2m"]),
            Change::Canary => self.deploy(CANARY, &["--wait", "2m"]),
            Change::Rollback => self.on(&other.name, &["rollback", "visited", "--wait", "2m"]),
            Change::Scale => self.scale([2, 4, 3, 5, 3][number % 5]),
            Change::Drain => {
                self.on(&other.name, &["drain", &node.name, "--wait", "2m"])?;
                self.on(&other.name, &["uncordon", &node.name])
            }
            Change::Kill => self.kill(),
            Change::Upgrade => self.upgrade(node),
        }
    }

    fn on(&self, node: &str, arguments: &[&str]) -> Result<()> {
        self.stage.lab.on(node, arguments, "").map(drop)
    }

    fn deploy(&mut self, update: &str, arguments: &[&str]) -> Result<()> {
        self.release += 1;
        let definition = DEFINITION.replace("IMAGE", &self.image).replace("RELEASE", &self.release.to_string());
        let arguments: Vec<&str> = ["deploy", "-"].iter().chain(arguments).copied().collect();
        self.stage.lab.on("n1", &arguments, &definition.replace("MORE", update)).map(drop)
    }

    fn scale(&self, scale: u32) -> Result<()> {
        self.on("n1", &["scale", "visited/web", &scale.to_string()])?;
        self.settled(scale as usize)
    }

    /// Waits until so many run, all ready.
    fn settled(&self, scale: usize) -> Result<()> {
        let what = format!("{scale} ready instances");
        let settled = self.stage.await_ms(&what, now_ms(), self.interrupt, || {
            let instances = self.stage.lab.items("n1", &["ps", "visited"])?;
            let ready = instances.iter().filter(|instance| instance["is_ready"] == true).count();
            ensure!((instances.len(), ready) == (scale, scale), "{ready} of {} instances are ready", instances.len());
            Ok(())
        });
        settled.map(drop)
    }

    /// Kills the first process of an instance.
    fn kill(&mut self) -> Result<()> {
        let instances = self.stage.lab.items("n1", &["ps", "visited"])?;
        let victim = &instances[self.kills_ms.len() % instances.len()];
        let id = victim["id"].as_str().context("an instance without an id")?.to_owned();
        let pid = first_process(&id)?;
        self.kills_ms.push(now_ms());
        kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill {id}"))?;
        let restarted = self.stage.await_ms("the instance", now_ms(), self.interrupt, || {
            let pid_now = first_process(&id)?;
            ensure!(pid_now != pid, "{id} has not been started again");
            Ok(())
        });
        restarted?;
        self.settled(instances.len())
    }

    /// Puts the program anew, as an upgrade does, and restarts the server: the dataplane is taken over.
    fn upgrade(&self, node: &LabNode) -> Result<()> {
        let programs = self.stage.lab.programs();
        let before = self.stage.node(&node.name)?.dataplane;
        install(&self.stage.node(&node.name)?, &programs.insula)?;
        restart(self.stage, node, "server", |node| node.server, self.interrupt)?;
        let taken = self.stage.await_ms("another dataplane", now_ms(), self.interrupt, || {
            let now = self.stage.node(&node.name)?.dataplane;
            ensure!(now.is_some() && now != before, "the dataplane of {} is the one before", node.name);
            Ok(())
        });
        taken?;
        self.stage.await_ms("the state", now_ms(), self.interrupt, || self.stage.state_answers(&node.name)).map(drop)
    }
}

/// The process that an instance begins with, by the machine's number.
fn first_process(instance: &str) -> Result<i32> {
    for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that has just ended has no files any more, and is none.
        let read = |name| fs::read(entry.path().join(name)).unwrap_or_default();
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        let own = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        if own.and_then(|pids| pids.split_whitespace().next_back()) != Some("1") {
            continue;
        }
        let wanted = format!("INSULA_INSTANCE={instance}");
        if read("environ").split(|byte| *byte == 0).any(|word| word == wanted.as_bytes()) {
            return Ok(pid);
        }
    }
    anyhow::bail!("{instance} has no process")
}

/// Says what became of visitors of one kind; gives the promises that were broken.
fn judge(what: &str, is_repeatable: bool, records: &[Record], kills_ms: &[u64]) -> Vec<String> {
    let failed: Vec<&Record> = records.iter().filter(|record| record.outcome != Outcome::Ok).collect();
    let is_hurt = |record: &&&Record| {
        // One that began a moment after may have been sent to the instance before its end was known.
        let hurt_ms = record.start_ms.saturating_sub(HURT_MS)..=record.end_ms + HURT_MS;
        kills_ms.iter().any(|kill_ms| hurt_ms.contains(kill_ms))
    };
    let (explained, unexplained): (Vec<&Record>, Vec<&Record>) =
        failed.iter().partition(|record| !is_repeatable && is_hurt(record));
    println!("   {what}: {} in all, {} failed, of these {} by a kill", records.len(), failed.len(), explained.len());
    let shown = |record: &&Record| {
        println!(
            "      {:?} from {} to {} of {}: {}",
            record.outcome,
            record.start_ms,
            record.end_ms,
            record.target,
            record.detail.as_deref().unwrap_or("-")
        );
    };
    unexplained.iter().take(10).for_each(shown);
    match (records.is_empty(), unexplained.len()) {
        (true, _) => vec![format!("{what}: there was no traffic")],
        (false, 0) => Vec::new(),
        (false, count) => vec![format!("{what}: {count} of {} failed, and no kill explains it", records.len())],
    }
}

/// Makes the image of the page, which is a part of this program, with the libraries that it needs.
pub(super) fn image(lab: &Lab) -> Result<String> {
    let directory = std::env::temp_dir().join(format!("insula-visited-{}", std::process::id()));
    let made = pack(&lab.programs().bench, &directory).and_then(|layer| {
        let run = r#"{"Cmd": ["/page", "page"], "Env": ["PATH=/"], "ExposedPorts": {"8080/tcp": {}}}"#;
        let layer = layer.to_str().context("the temporary directory has a strange name")?;
        let image = lab.run(&["image", "visited", "--tag", "v1", "--layer", layer, "--config", run])?;
        Ok(image.trim().to_owned())
    });
    fs::remove_dir_all(&directory).ok();
    made
}

fn pack(program: &Path, directory: &Path) -> Result<PathBuf> {
    let root = directory.join("root");
    fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
    output(Command::new("strip").arg("-o").arg(root.join("page")).arg(program), "")?;
    let libraries = output(Command::new("ldd").arg(program), "")?;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(place.parent().context("a library at the root")?)?;
        fs::copy(library, &place).with_context(|| format!("copy {library}"))?;
    }
    let layer = directory.join("layer.tar.gz");
    output(Command::new("tar").arg("-czf").arg(&layer).arg("-C").arg(&root).arg("."), "")?;
    Ok(layer)
}
