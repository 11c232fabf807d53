//! An app on three real nodes outlives the power cut of one of them, with a timeline of what was measured.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    outage::{self, Cut, Report},
    stage::{Stage, now_ms},
    step,
};
use crate::{interrupt::Interrupt, lab::Lab};

/// Traffic before the power cut, to compare with.
const CALM: Duration = Duration::from_secs(8);
/// How long after the cut is measured at most, and beyond the last event.
const WATCHED: Duration = Duration::from_secs(40);
const WATCHED_AFTER: Duration = Duration::from_secs(4);

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &mut Stage, node: Option<&str>, interrupt: &Interrupt) -> Result<Vec<String>> {
    interrupt.sleep(CALM)?;
    let victim = match node {
        Some(name) => name.to_owned(),
        None => victim(&stage.lab)?,
    };
    let edge = stage.node(&victim)?.edge();
    step(&format!("power cut of {victim}"));
    let begun_ms = now_ms();
    let said = stage.lab.run(&["poweroff", &victim])?;
    let mut numbers = said.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let at_ms = numbers.next().with_context(|| format!("insula lab poweroff said {said:?}"))?;
    let cut = Cut { begun_ms, at_ms, node: victim, edge, instances: stage.instances.clone() };
    watch(stage, &cut, interrupt)?;
    let records = stage.traffic.stop()?;
    let report = Report::new(&records, &cut);
    print!("{report}");
    Ok(report.broken_promises())
}

/// A node that has an instance, whose loss is no change of leader.
fn victim(lab: &Lab) -> Result<String> {
    let nodes = lab.items("n1", &["nodes"])?;
    let placed = lab.items("n1", &["ps", "shop"])?;
    let has_instance = |name: &str| placed.iter().any(|instance| instance["node_name"] == name);
    let mut names = nodes.iter().filter(|node| node["is_leader"] != true).filter_map(|node| node["name"].as_str());
    names.rfind(|name| has_instance(name)).map(str::to_owned).context("no node fits: every one with an instance leads")
}

/// Lets traffic go on until the instance serves elsewhere and a while longer, but not for ever.
fn watch(stage: &Stage, cut: &Cut, interrupt: &Interrupt) -> Result<()> {
    let until = |time: Duration| cut.at_ms + time.as_millis() as u64;
    loop {
        interrupt.sleep(Duration::from_millis(100))?;
        let elsewhere = stage.traffic.with(|records| outage::elsewhere_ms(records, cut));
        let end = elsewhere.map_or(until(WATCHED), |ms| until(WATCHED_AFTER) + ms);
        if now_ms() > end {
            return Ok(());
        }
    }
}
