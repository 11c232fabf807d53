//! Writes confirmed by a majority of three nodes: Insula's API beside etcd on the same nodes and disks, in turns.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use insula_env::Clock;

use super::{Line, ms};
use crate::{
    lab::{Lab, LabNode, output},
    report::percentile,
    writes::Write,
};

/// Where etcd listens.
const ETCD: &str = "127.0.0.1:2379";
/// Turns of each store; the median counts.
const TURNS: usize = 3;
/// Length of a turn, in seconds, and of the trial that finds the leader.
const TURN: &str = "5";
const TRIAL: &str = "2";
/// Clients of the busy turns.
const CLIENTS: &str = "64";
/// How long etcd may take to elect.
const ETCD_WITHIN: Duration = Duration::from_secs(30);
/// Syncs that are timed.
const SYNCS: usize = 300;
/// Budgets: three syncs, and a fixed time for nearly all.
const SYNCS_BUDGET: f64 = 3.0;
const P99_MS_BUDGET: f64 = 50.0;

/// A node, and the store on it: Insula when there is a context.
#[derive(Clone, Copy)]
struct Target<'a> {
    node: &'a LabNode,
    context: Option<&'a str>,
}

/// What a turn gave.
struct Turn {
    p50_us: u64,
    p99_us: u64,
    per_second: f64,
}

/// Measures both in turns.
pub(super) fn measure(lab: &Lab) -> Result<Vec<Line>> {
    let nodes = lab.nodes()?;
    let sync_us = sync_us(&nodes)?;
    eprintln!("writing to Insula and to etcd in turns …");
    let context = lab.context()?;
    start_etcd(lab, &nodes)?;
    let measured = in_turns(lab, &nodes, &context);
    stop_etcd(lab, &nodes);
    let [ours, etcd] = measured?;
    let pair = |what: &str, pick: fn(&Turn) -> f64, of: usize, budget, unit| Line {
        what: what.to_owned(),
        measured: median(ours[of].iter().map(pick)),
        budget,
        unit,
        peer: Some(("etcd".to_owned(), median(etcd[of].iter().map(pick)))),
    };
    let line = |what: &str, measured, unit| Line { what: what.to_owned(), measured, budget: None, unit, peer: None };
    let p50: fn(&Turn) -> f64 = |turn| ms(turn.p50_us);
    let p99: fn(&Turn) -> f64 = |turn| ms(turn.p99_us);
    let rate: fn(&Turn) -> f64 = |turn| turn.per_second;
    Ok(vec![
        line("sync of a node's disk, p50", ms(sync_us), "ms"),
        pair("commit, 1 client, p50 (3 syncs)", p50, 0, Some(SYNCS_BUDGET * ms(sync_us)), "ms"),
        pair("commit, 1 client, p99", p99, 0, Some(P99_MS_BUDGET), "ms"),
        pair("commit, 64 clients, p50", p50, 1, None, "ms"),
        pair("commit, 64 clients, p99", p99, 1, Some(P99_MS_BUDGET), "ms"),
        pair("writes, 64 clients (more is better)", rate, 1, None, "/s"),
    ])
}

/// Turns with one client, and with many, of Insula and of etcd.
fn in_turns(lab: &Lab, nodes: &[LabNode], context: &str) -> Result<[[Vec<Turn>; 2]; 2]> {
    let leader_of = |context| leader(lab, nodes.iter().map(|node| Target { node, context }).collect());
    let targets = [leader_of(Some(context))?, leader_of(None)?];
    let mut measured = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for _ in 0..TURNS {
        for (target, measured) in targets.iter().zip(&mut measured) {
            for (clients, turns) in ["1", CLIENTS].into_iter().zip(measured) {
                turns.push(turn(lab, *target, clients, TURN)?);
            }
        }
    }
    Ok(measured)
}

/// The one whose writes need no hop: the fastest.
fn leader<'a>(lab: &Lab, targets: Vec<Target<'a>>) -> Result<Target<'a>> {
    let mut best: Option<(u64, Target<'_>)> = None;
    for target in targets {
        let p50_us = turn(lab, target, "1", TRIAL)?.p50_us;
        if best.as_ref().is_none_or(|(best_us, _)| p50_us < *best_us) {
            best = Some((p50_us, target));
        }
    }
    best.map(|(_, target)| target).context("nobody takes writes")
}

fn turn(lab: &Lab, Target { node, context }: Target<'_>, clients: &str, seconds: &str) -> Result<Turn> {
    let mut command = lab.command_at(&node.name, &lab.programs().bench);
    command.args(["writes", "--clients", clients, "--duration", seconds]);
    match context {
        Some(context) => command.args(["--target", &node.api().to_string()]).env("INSULA_CONTEXT", context),
        None => command.args(["--target", ETCD]),
    };
    let said = output(&mut command, "")?;
    let writes = said.lines().map(serde_json::from_str).collect::<Result<Vec<Write>, _>>()?;
    let mut took_us: Vec<u64> = writes.iter().filter(|write| write.is_ok).map(|write| write.took_us).collect();
    ensure!(!took_us.is_empty(), "{} confirmed no write", node.name);
    let failed = writes.len() - took_us.len();
    ensure!(failed == 0, "{failed} of {} writes on {} failed", writes.len(), node.name);
    took_us.sort_unstable();
    let end_us = |write: &Write| write.start_ms * 1000 + write.took_us;
    let first_us = writes.iter().map(|write| write.start_ms * 1000).min().unwrap_or_default();
    let last_us = writes.iter().map(end_us).max().unwrap_or_default();
    Ok(Turn {
        p50_us: percentile(&took_us, 50),
        p99_us: percentile(&took_us, 99),
        per_second: took_us.len() as f64 * 1e6 / (last_us - first_us).max(1) as f64,
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Half of the syncs of a small append to a node's disk are faster.
fn sync_us(nodes: &[LabNode]) -> Result<u64> {
    let server = nodes.first().and_then(|node| node.server).context("no server runs")?;
    let path = format!("/proc/{server}/root/var/lib/insula/sync-probe");
    let mut times_us = Vec::new();
    let mut file = File::create(Path::new(&path)).with_context(|| format!("make {path}"))?;
    let clock = Clock::real();
    for _ in 0..SYNCS {
        file.write_all(&[7; 512])?;
        let begun = clock.now();
        file.sync_data()?;
        times_us.push(begun.elapsed().as_micros() as u64);
    }
    fs::remove_file(&path)?;
    times_us.sort_unstable();
    Ok(percentile(&times_us, 50))
}

/// Starts etcd on every node, its data on the disk that Insula's is on, with its own defaults.
fn start_etcd(lab: &Lab, nodes: &[LabNode]) -> Result<()> {
    let members: Vec<_> = nodes.iter().map(|node| format!("{0}=http://{1}:2380", node.name, node.address)).collect();
    for LabNode { name, address, .. } in nodes {
        let script = format!(
            "rm -rf /var/lib/insula/etcd; setsid etcd --name {name} --data-dir /var/lib/insula/etcd \
             --listen-client-urls http://{ETCD} --advertise-client-urls http://{ETCD} \
             --listen-peer-urls http://{address}:2380 --initial-advertise-peer-urls http://{address}:2380 \
             --initial-cluster {} --logger zap </dev/null >/var/lib/insula/etcd.log 2>&1 & echo $! > /run/etcd.pid",
            members.join(",")
        );
        lab.run(&["exec", name, "--", "sh", "-c", &script])?;
    }
    let deadline = Clock::real().now() + ETCD_WITHIN;
    let first = nodes.first().context("the lab has no node")?;
    while let Err(error) = turn(lab, Target { node: first, context: None }, "1", "0.2") {
        if Clock::real().now() > deadline {
            bail!("etcd does not take writes: {error:#}");
        }
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn stop_etcd(lab: &Lab, nodes: &[LabNode]) {
    for node in nodes {
        let script = "kill -9 $(cat /run/etcd.pid); rm -rf /var/lib/insula/etcd*";
        if let Err(error) = lab.run(&["exec", &node.name, "--", "sh", "-c", script]) {
            eprintln!("etcd may still run on {}: {error:#}", node.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_counts() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert!(median(std::iter::empty()).is_nan());
    }
}
