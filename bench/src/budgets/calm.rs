//! What must hardly be noticed: a leader that is drained hands over, and a follower that was cut off comes back.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result};
use insula_env::Clock;

use super::{
    Line,
    disk::DiskProbe,
    ms,
    probe::{Probe, settled_leader},
};
use crate::{lab::Lab, report::percentile, writes::Write};

/// How often each.
const TIMES: usize = 20;
/// Writes that are watched after a drain was asked for, or a follower is back.
const WATCHED: Duration = Duration::from_secs(2);
/// How long a follower is cut off: several elections long.
const CUT: Duration = Duration::from_secs(5);
/// Longest time without a confirmed write while the leader is drained.
const GAP_MS_BUDGET: f64 = 300.0;
/// The disk under the lab holds all nodes up together; a sync on it that takes longer than this disturbs what is measured.
const QUIET_MS: u64 = 100;

/// Measures both.
pub(super) fn measure(lab: &Lab) -> Result<Vec<Line>> {
    let probe = Probe::start(lab)?;
    probe.confirmed_ms(Clock::real().wall_ms())?;
    let mut lines = drains(lab, &probe)?;
    lines.extend(cuts(lab, &probe)?);
    Ok(lines)
}

fn drains(lab: &Lab, probe: &Probe) -> Result<Vec<Line>> {
    eprintln!("draining the leader {TIMES} times …");
    let nodes = lab.nodes()?;
    let disk = DiskProbe::start(nodes.first().context("the lab has no node")?)?;
    let (mut gaps_ms, mut quiet_ms) = (Vec::new(), Vec::new());
    for number in 1..=TIMES {
        let leader = settled_leader(lab)?;
        let begun_ms = Clock::real().wall_ms();
        probe.until(begun_ms)?;
        lab.on(&leader, &["drain", &leader, "--yes"], "")?;
        sleep(WATCHED);
        let writes = probe.until(Clock::real().wall_ms())?;
        let ((from_ms, to_ms), next) = (longest_gap(&writes), settled_leader(lab)?);
        let (gap_ms, sync_ms) = (to_ms - from_ms, disk.longest_ms(from_ms, to_ms));
        anyhow::ensure!(next != leader, "{leader} is drained, and leads all the same");
        lab.on(&next, &["uncordon", &leader], "")?;
        eprintln!("  {number:>3}: {leader} to {next}, {gap_ms} ms; longest sync of the disk meanwhile {sync_ms} ms");
        gaps_ms.push(gap_ms);
        quiet_ms.extend((sync_ms <= QUIET_MS).then_some(gap_ms));
    }
    gaps_ms.sort_unstable();
    quiet_ms.sort_unstable();
    let line =
        |what: String, gap_ms: u64, budget| Line { what, measured: ms(gap_ms * 1000), budget, unit: "ms", peer: None };
    let all = |percent| format!("leader drained: longest time without a write, p{percent} of {TIMES}");
    let quiet = format!("  p100 of the {} with no sync of the disk over {QUIET_MS} ms", quiet_ms.len());
    let mut lines = vec![
        line(all(50), percentile(&gaps_ms, 50), None),
        line(all(100), percentile(&gaps_ms, 100), Some(GAP_MS_BUDGET)),
    ];
    lines.extend(quiet_ms.last().map(|gap_ms| line(quiet, *gap_ms, Some(GAP_MS_BUDGET))));
    Ok(lines)
}

/// The longest time between two confirmations, of whatever node: from when to when.
fn longest_gap(writes: &[Write]) -> (u64, u64) {
    let confirmed = writes.iter().filter(|write| write.is_ok);
    let mut ends_ms: Vec<u64> = confirmed.map(|write| write.start_ms + write.took_us / 1000).collect();
    ends_ms.sort_unstable();
    let gaps = ends_ms.windows(2).map(|pair| (pair[0], pair[1]));
    gaps.max_by_key(|(from_ms, to_ms)| to_ms - from_ms).unwrap_or_default()
}

fn cuts(lab: &Lab, probe: &Probe) -> Result<Vec<Line>> {
    eprintln!("cutting off a follower {TIMES} times …");
    let nodes = lab.nodes()?;
    let (mut failed, mut made, mut changes) = (0, 0, 0);
    for number in 1..=TIMES {
        let leader = settled_leader(lab)?;
        let followers: Vec<_> = nodes.iter().filter(|node| node.name != leader).collect();
        let victim = followers.get(number % followers.len()).context("a region of one")?;
        probe.until(Clock::real().wall_ms())?;
        for other in nodes.iter().filter(|node| node.name != victim.name) {
            lab.run(&["cut", &victim.name, &other.name])?;
        }
        sleep(CUT);
        lab.run(&["heal"])?;
        sleep(WATCHED);
        let writes = probe.until(Clock::real().wall_ms())?;
        let others: Vec<_> = writes.iter().filter(|write| write.target != victim.api()).collect();
        let lost = others.iter().filter(|write| !write.is_ok).count();
        (failed, made) = (failed + lost, made + others.len());
        changes += usize::from(settled_leader(lab)? != leader);
        eprintln!("  {number:>3}: {}, {lost} of {} writes of the others failed", victim.name, others.len());
    }
    eprintln!("  of {made} writes {failed} failed; another leader {changes} times");
    let line = |what: &str, count: usize| Line {
        what: format!("follower cut off {} s and back, {TIMES} times: {what}", CUT.as_secs()),
        measured: count as f64,
        budget: Some(0.0),
        unit: "",
        peer: None,
    };
    Ok(vec![line("failed writes of the others", failed), line("changes of leader", changes)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_lies_between_confirmations_of_any_node() {
        let write = |port: u16, start_ms, took_ms: u64, is_ok| Write {
            target: ([127, 0, 0, 1], port).into(),
            start_ms,
            took_us: took_ms * 1000,
            is_ok,
        };
        let writes =
            [write(1, 100, 5, true), write(2, 150, 200, false), write(2, 160, 30, true), write(1, 105, 2, true)];
        assert_eq!(longest_gap(&writes), (107, 190));
        assert_eq!(longest_gap(&[]), (0, 0));
    }
}
