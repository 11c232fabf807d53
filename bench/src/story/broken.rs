//! Releases that come to nothing: each ends as it was before, says why in one sentence, and the instances of the release before are
//! what they were, the same processes, running all the time. Those that a rolling release had already replaced have waited.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    kills::losses,
    stage::{Stage, now_ms},
    step,
};
use crate::interrupt::Interrupt;

/// How long such a release may take to its end.
const ENDS_WITHIN: Duration = Duration::from_secs(120);
/// Instances of the app.
const SCALE: usize = 3;
const ROLLING: &str = r#"min_healthy = "1s", bake = "3s", deadline = "15s""#;
/// It fails for not staying ready, not for what its few requests came to.
const CANARY: &str = r#"strategy = "canary", min_healthy = "1s", bake = "20s", deadline = "15s", max_errors = "100%""#;

/// What is wrong with a release.
struct Fault {
    what: &'static str,
    update: &'static str,
    /// A line of the definition that takes the place of that with its key.
    line: &'static str,
    /// A part of the sentence that it ends with.
    why: &'static str,
}

const FAULTS: [Fault; 5] = [
    Fault {
        what: "never gets healthy",
        update: ROLLING,
        line: r#"command = ["/bin/busybox", "sleep", "600"]"#,
        why: "not ready within 10s",
    },
    Fault {
        what: "gets worse once it was healthy, tried by a canary",
        update: CANARY,
        line: r#"command = ["/bin/busybox", "sh", "-c", "/bin/busybox timeout 4 /start; exec /bin/busybox sleep 600"]"#,
        why: "was ready and did not stay so",
    },
    Fault {
        what: "has an image that is gone",
        update: ROLLING,
        line: r#"image = "REPOSITORY@sha256:00000000000000000000000000000000000000000000000000000000000000aa""#,
        why: "cannot be started: pull ",
    },
    Fault {
        what: "needs more than the region has",
        update: ROLLING,
        line: r#"resources = { cpu = "200m", memory = "4TiB", pids = 64 }"#,
        why: "no room on any of 3 nodes",
    },
    Fault {
        what: "gets worse once it was healthy",
        update: ROLLING,
        line: r#"command = ["/bin/busybox", "sh", "-c", "/bin/busybox timeout 4 /start; exec /bin/busybox sleep 600"]"#,
        why: "was ready and did not stay so",
    },
];

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let begun_ms = now_ms();
    for fault in FAULTS {
        step(&format!("a release that {}", fault.what));
        broken.extend(fault.released(stage, interrupt).with_context(|| format!("a release that {}", fault.what))?);
    }
    for node in &stage.nodes {
        let losses = losses(stage, node.edge(), begun_ms);
        println!("   edge of {}: {} requests, {} lost", node.name, losses.sent, losses.lost);
        if losses.lost > 0 {
            losses.shown.iter().for_each(|line| println!("   lost: {line}"));
            broken.push(format!("the edge of {} lost {} requests", node.name, losses.lost));
        }
    }
    Ok(broken)
}

impl Fault {
    /// The app's definition with this in it. The moment makes it another release each time.
    fn definition(&self, stage: &Stage) -> Result<String> {
        let mut lines: Vec<String> = stage.definition.lines().map(str::to_owned).collect();
        let begins = lines.iter().position(|line| line == "[services.web]").context("no service web")?;
        let image = lines.iter().find(|line| line.starts_with("image")).context("no image")?;
        let repository = image.split('"').nth(1).and_then(|image| image.split('@').next()).context("no repository")?;
        let repository = repository.to_owned();
        let update = format!("update = {{ {} }}", self.update);
        for line in [self.line, update.as_str()] {
            let key = line.split(' ').next().unwrap_or_default();
            lines.retain(|other| other.split(' ').next() != Some(key));
            lines.insert(begins + 1, line.replace("REPOSITORY", &repository));
        }
        Ok(lines.join("\n"))
    }

    /// Releases it, and looks on until all is as before; gives the promises that were broken.
    fn released(&self, stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
        let before = open(stage)?;
        ensure!(before.len() == SCALE, "{} of {SCALE} instances are ready before", before.len());
        let processes = stage.workloads()?;
        let begun_ms = now_ms();
        stage.lab.on("n1", &["deploy", "-", "--detach"], &self.definition(stage)?)?;
        let made = newest(stage)?["number"].as_u64().context("a release")?;
        let (mut fewest, mut fewest_open) = (usize::MAX, usize::MAX);
        let why = loop {
            let (now, open) = (present(stage)?, open(stage)?);
            fewest = fewest.min(now.intersection(&before).count());
            fewest_open = fewest_open.min(open.len());
            let newest = newest(stage)?;
            let is_back = newest["number"].as_u64() > Some(made) && !newest["again_of"].is_null();
            if is_back && open == before && newest["outcomes"][0]["state"] == "done" {
                break newest["why"].as_str().unwrap_or_default().to_owned();
            }
            let took_ms = now_ms().saturating_sub(begun_ms);
            ensure!(u128::from(took_ms) < ENDS_WITHIN.as_millis(), "not back after {took_ms} ms: {newest}");
            interrupt.sleep(Duration::from_millis(100))?;
        };
        println!("   {:.1} s  {why}", now_ms().saturating_sub(begun_ms) as f64 / 1000.0);
        println!(
            "   at every look {fewest} of {SCALE} of the release before got requests or waited; {fewest_open} and more got some"
        );
        let mut broken = Vec::new();
        if !why.contains(self.why) || why.contains(". ") || why.contains('\n') {
            broken.push(format!("a release that {} does not say so in a sentence: {why}", self.what));
        }
        if fewest < SCALE {
            broken.push(format!("a release that {} took capacity away: {fewest} of {SCALE} were left", self.what));
        }
        if stage.workloads()? != processes {
            broken.push(format!("a release that {} restarted instances of the one before", self.what));
        }
        Ok(broken)
    }
}

/// The instances that get requests, or wait to.
fn present(stage: &Stage) -> Result<BTreeSet<String>> {
    instances(stage, |instance| instance["is_ready"] == true || instance["state"] == "draining")
}

/// The instances that get requests.
fn open(stage: &Stage) -> Result<BTreeSet<String>> {
    instances(stage, |instance| instance["is_ready"] == true)
}

fn instances(stage: &Stage, is_meant: impl Fn(&Value) -> bool) -> Result<BTreeSet<String>> {
    let instances = stage.lab.items("n1", &["ps", "shop"])?;
    let meant = instances.iter().filter(|instance| is_meant(instance));
    Ok(meant.filter_map(|instance| instance["id"].as_str().map(str::to_owned)).collect())
}

fn newest(stage: &Stage) -> Result<Value> {
    let releases = stage.lab.items("n1", &["releases", "shop"])?;
    releases.into_iter().max_by_key(|release| release["number"].as_u64()).context("no release")
}
