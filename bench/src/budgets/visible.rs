//! Changes of the world: from the commit until every node of every region shows them.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use insula_env::Clock;

use super::Line;
use crate::{
    lab::{Lab, Programs},
    report::percentile,
    visible::Sight,
};

/// Two nodes each; the round trips between them.
const REGIONS: &str = "fra:2,was:2,nrt:2";
const RTTS: [&str; 3] = ["fra-was=90ms", "was-nrt=150ms", "fra-nrt=266ms"];
/// Half the greatest round trip and 150 ms, from the commit on.
const BUDGET_MS: f64 = 133.0 + 150.0;
/// How long a change may take at most.
const WITHIN: Duration = Duration::from_secs(20);
/// After a change was seen everywhere, so that what follows from it (instances, what regions report of them) is mostly over.
const PAUSE: Duration = Duration::from_millis(300);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long the regions may take to be formed and to run the app.
const FORMED_WITHIN: Duration = Duration::from_secs(120);

const DEFINITION: &str = r#"
app = "seen"
[services.web]
image = "IMAGE"
regions = ["*"]
scale = 1
resources = { cpu = "20m", memory = "16MiB", pids = 16 }
update = { min_healthy = "0s", bake = "0s" }
stop = { grace = "0s" }
"#;

/// What all watchers have seen, by node.
type Seen = Arc<Mutex<BTreeMap<String, Vec<Sight>>>>;

/// Measures in a lab of its own.
pub(super) fn measure(programs: &Programs, name: &str, changes: usize) -> Result<Vec<Line>> {
    eprintln!("making a lab of three regions …");
    let mut arguments = vec!["--regions", REGIONS];
    RTTS.iter().for_each(|rtt| arguments.extend(["--rtt", rtt]));
    let lab = Lab::up_as(programs, name, &arguments)?;
    let nodes: Vec<String> = lab.nodes()?.into_iter().map(|node| node.name).collect();
    let first = nodes.first().context("the lab has no node")?;
    let image = lab.run(&["image", "seen", "--tag", "v1"])?.trim().to_owned();
    lab.on(first, &["deploy", "-", "--wait", "2m"], &DEFINITION.replace("IMAGE", &image))?;
    let context = lab.context()?;
    let watching = Watching::start(&lab, &context, &nodes)?;
    await_all(FORMED_WITHIN, || watching.all_show(1))?;
    let mut changer = Changer::start(&lab, &context, first)?;
    eprintln!("changing a scale {changes} times …");
    let (mut since_commit, mut since_request, mut slowest) = (Vec::new(), Vec::new(), BTreeMap::new());
    for turn in 0..changes {
        let scale = 2 - (turn % 2) as u32;
        watching.forget();
        let made = changer.set(scale)?;
        await_all(WITHIN, || watching.all_show(scale)).with_context(|| format!("change {turn}, to {scale}"))?;
        let shown = watching.shown();
        // It is committed when the first node shows it, at the latest when it is confirmed.
        let committed_ms = shown.values().copied().chain([made.at_ms]).min().unwrap_or(made.at_ms);
        let (node, last_ms) = shown.into_iter().max_by_key(|(_, at_ms)| *at_ms).context("no node")?;
        since_commit.push(last_ms.saturating_sub(committed_ms));
        since_request.push(last_ms.saturating_sub(made.sent_ms));
        *slowest.entry(node).or_insert(0) += 1;
        sleep(PAUSE);
    }
    eprintln!("  the last to show it: {slowest:?}");
    since_commit.sort_unstable();
    since_request.sort_unstable();
    let line = |what: String, sorted: &[u64], percent, budget| Line {
        what: format!("{what}, p{percent} of {changes}"),
        measured: percentile(sorted, percent) as f64,
        budget,
        unit: "ms",
        peer: None,
    };
    let commit = "3 regions, ≤ 266 ms apart: commit to shown by every node".to_owned();
    let request = "  the same from the request".to_owned();
    Ok(vec![
        line(commit.clone(), &since_commit, 50, None),
        line(commit, &since_commit, 99, Some(BUDGET_MS)),
        line(request.clone(), &since_request, 50, None),
        line(request, &since_request, 99, None),
    ])
}

fn await_all(limit: Duration, mut holds: impl FnMut() -> Result<()>) -> Result<()> {
    let clock = Clock::real();
    let begun = clock.now();
    while let Err(error) = holds() {
        ensure!(begun.elapsed() < limit, error);
        sleep(LOOK_EVERY);
    }
    Ok(())
}

/// A program in a node's network, that ends with this.
struct Beside(Child);

impl Beside {
    fn start(lab: &Lab, context: &str, node: &str, arguments: &[&str]) -> Result<Self> {
        let target = lab.nodes()?.into_iter().find(|one| one.name == node).context("no such node")?.api().to_string();
        let mut command: Command = lab.command_at(node, &lab.programs().bench);
        command.args(["visible", "--target", &target, "--app", "seen", "--service", "web"]).args(arguments);
        command.env("INSULA_CONTEXT", context).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Self(command.spawn().with_context(|| format!("start a watcher at {node}"))?))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A watcher at each node.
struct Watching {
    nodes: Vec<String>,
    seen: Seen,
    _watchers: Vec<Beside>,
}

impl Watching {
    fn start(lab: &Lab, context: &str, nodes: &[String]) -> Result<Self> {
        let seen = Seen::default();
        let mut watchers = Vec::new();
        for node in nodes {
            let mut beside = Beside::start(lab, context, node, &[])?;
            let stdout = beside.0.stdout.take().context("read what a watcher says")?;
            watchers.push(beside);
            let (seen, node) = (Arc::clone(&seen), node.clone());
            #[allow(clippy::disallowed_methods, reason = "a blocking read beside the measurement; no tasks in here")]
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if let Ok(sight) = serde_json::from_str::<Sight>(&line) {
                        seen.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .entry(node.clone())
                            .or_default()
                            .push(sight);
                    }
                }
            });
        }
        Ok(Self { nodes: nodes.to_vec(), seen, _watchers: watchers })
    }

    /// Forgets all but the last sight of each node.
    fn forget(&self) {
        for sights in self.seen.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            sights.drain(..sights.len().saturating_sub(1));
        }
    }

    fn all_show(&self, scale: u32) -> Result<()> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for node in &self.nodes {
            let last = seen.get(node).and_then(|sights| sights.last());
            ensure!(last.is_some_and(|last| last.scale == scale), "{node} shows {last:?}, not {scale}");
        }
        Ok(())
    }

    /// When each has shown what it shows.
    fn shown(&self) -> BTreeMap<String, u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter_map(|(node, sights)| Some((node.clone(), sights.last()?.at_ms))).collect()
    }
}

/// Makes changes at one node.
struct Changer {
    beside: Beside,
    said: BufReader<std::process::ChildStdout>,
}

impl Changer {
    fn start(lab: &Lab, context: &str, node: &str) -> Result<Self> {
        let mut beside = Beside::start(lab, context, node, &["--set"])?;
        let said = BufReader::new(beside.0.stdout.take().context("read what the changer says")?);
        Ok(Self { beside, said })
    }

    fn set(&mut self, scale: u32) -> Result<Sight> {
        writeln!(self.beside.0.stdin.as_mut().context("the changer's input")?, "{scale}")?;
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the changer said {line:?}"))
    }
}
