//! What is told of instances in the region's events.

use insula_types::{InstanceStatus, Phase};

use super::*;
use crate::region::apply::{TOLD_AGAIN_AFTER_MS, WHY_LEN_MAX};

const MINUTE_MS: u64 = 60_000;

/// A region with one instance on its node.
fn with_instance(level: Option<Level>) -> Region {
    let mut region = Region::new();
    if let Some(level) = level {
        region.raise(level);
    }
    region.at(1, &RegionCommand::Place(vec![with_volume(1, 1, 0)])).expect("a member");
    region
}

fn report(region: &mut Region, at_ms: u64, phase: Phase, is_ready: bool, message: &str) {
    let status = InstanceStatus {
        instance: InstanceId::new(1),
        node: NodeId::new(1),
        phase,
        is_ready,
        was_ready: is_ready,
        endpoints: BTreeMap::new(),
        restarts: 0,
        message: message.to_owned(),
        since_ms: at_ms,
    };
    region.at(at_ms, &RegionCommand::ReportStatus { node: NodeId::new(1), statuses: vec![status] }).expect("its node");
}

/// What was told of it since it was placed: when, in minutes, and the kind.
fn told(region: &Region) -> Vec<(u64, EventKind)> {
    let of_it = |event: &&Event| event.instance.is_some() && event.kind != EventKind::Placed;
    region
        .replica
        .read(|state| state.events.values().filter(of_it).map(|event| (event.at_ms / MINUTE_MS, event.kind)).collect())
}

/// Fails to start each half minute, for so long.
fn fail_for(region: &mut Region, minutes: std::ops::Range<u64>, why: &str) {
    for half in minutes.start * 2..minutes.end * 2 {
        report(region, half * MINUTE_MS / 2, Phase::Starting, false, why);
        report(region, half * MINUTE_MS / 2 + 1, Phase::Backoff, false, why);
    }
}

#[test]
fn what_repeats_itself_is_told_at_growing_intervals() {
    let mut region = with_instance(Some(Level(6)));
    fail_for(&mut region, 1..301, "no such image");
    let minutes: Vec<u64> = told(&region).into_iter().map(|(minute, _)| minute).collect();
    assert_eq!(minutes, [1, 2, 3, 5, 9, 17, 33, 65, 125, 185, 245]);
    assert!(TOLD_AGAIN_AFTER_MS.1 == 60 * MINUTE_MS, "each hour at last");
    // Another reason is news, also while it waits.
    report(&mut region, 301 * MINUTE_MS, Phase::Backoff, false, "no such host");
    assert_eq!(told(&region).last(), Some(&(301, EventKind::Restarting)));
}

#[test]
fn a_crash_loop_is_told_as_such_and_its_end_too() {
    let mut region = with_instance(Some(Level(6)));
    for half in 2..8 {
        report(&mut region, half * MINUTE_MS / 2, Phase::Running, true, "");
        report(&mut region, half * MINUTE_MS / 2 + 1, Phase::Backoff, false, "ended with exit code 3");
    }
    use EventKind::{Ready, Restarting};
    assert_eq!(
        told(&region),
        [(1, Ready), (1, Restarting), (1, Ready), (2, Restarting), (2, Ready), (3, Restarting), (3, Ready)]
    );
    report(&mut region, 4 * MINUTE_MS, Phase::Running, true, "");
    assert_eq!(told(&region).last(), Some(&(3, Ready)), "the last word is true");
}

#[test]
fn before_all_programs_know_that_it_is_told_each_time_and_in_full() {
    let why = "x".repeat(5000);
    let mut region = with_instance(None);
    fail_for(&mut region, 1..11, &why);
    assert_eq!(told(&region).len(), 20);
    let longest = |region: &Region| {
        let texts = region.replica.read(|state| state.events.values().map(|event| event.text.len()).max());
        texts.expect("told")
    };
    assert!(longest(&region) > 5000);
    let mut region = with_instance(Some(Level(6)));
    fail_for(&mut region, 1..11, &why);
    assert!(longest(&region) < WHY_LEN_MAX + 100);
}
