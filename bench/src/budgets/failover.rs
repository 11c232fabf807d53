//! kill -9 of the server that leads the region, again and again: how long until somebody confirms a write.

use anyhow::{Context, Result};
use insula_env::Clock;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Line, ms,
    probe::{Probe, settled_leader},
};
use crate::{lab::Lab, report::percentile};

/// Budgets of 90 % and of 99 % of the kills.
const P90_MS_BUDGET: f64 = 1500.0;
const P99_MS_BUDGET: f64 = 2000.0;

/// Kills so many leaders.
pub(super) fn measure(lab: &Lab, kills: usize) -> Result<Vec<Line>> {
    eprintln!("killing the leader {kills} times …");
    let probe = Probe::start(lab)?;
    let clock = Clock::real();
    probe.confirmed_ms(clock.wall_ms())?;
    let mut times_ms = Vec::new();
    for number in 1..=kills {
        let name = settled_leader(lab)?;
        let node = lab.nodes()?.into_iter().find(|node| node.name == name);
        let server = node.and_then(|node| node.server).with_context(|| format!("no server runs on {name}"))?;
        let killed_ms = clock.wall_ms();
        kill(Pid::from_raw(server as i32), Signal::SIGKILL).context("kill the leader")?;
        let took_ms = probe.confirmed_ms(killed_ms)?.saturating_sub(killed_ms);
        eprintln!("  {number:>3}: {name}, {took_ms} ms");
        times_ms.push(took_ms);
    }
    times_ms.sort_unstable();
    let line = |percent: usize, budget| Line {
        what: format!("leader killed to write confirmed, p{percent} of {kills}"),
        measured: ms(percentile(&times_ms, percent) * 1000),
        budget,
        unit: "ms",
        peer: None,
    };
    Ok(vec![line(50, None), line(90, Some(P90_MS_BUDGET)), line(99, Some(P99_MS_BUDGET))])
}
