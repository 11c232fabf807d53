//! Writes confirmed by a majority of three nodes, and linearizable reads: Insula's API beside etcd on the same nodes and
//! disks, in turns.

use std::{fmt, thread::sleep, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use insula_env::Clock;

use super::{
    Line,
    disk::sync_us,
    ms,
    processes::{TICKS_PER_SECOND, beside, pss_mib, ticks},
};
use crate::{
    lab::{Lab, LabNode, output_and_complaints},
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
/// What is measured of each store, in this order.
const LOADS: [Load; 5] = [
    Load { clients: 1, reads: false },
    Load { clients: 64, reads: false },
    Load { clients: 512, reads: false },
    Load { clients: 64, reads: true },
    Load { clients: 512, reads: true },
];
/// How long etcd may take to elect.
const ETCD_WITHIN: Duration = Duration::from_secs(30);
/// Budgets: three syncs, and a fixed time for nearly all.
const SYNCS_BUDGET: f64 = 3.0;
const P99_MS_BUDGET: f64 = 50.0;

/// Clients that write, or read what is confirmed to be the newest.
#[derive(Clone, Copy)]
struct Load {
    clients: u32,
    reads: bool,
}

impl Load {
    /// A write, its key included, is confirmed within this in nearly all cases; nothing is promised for more clients.
    fn p99_ms_budget(self) -> Option<f64> {
        (!self.reads && self.clients <= 64).then_some(P99_MS_BUDGET)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.reads { "linearizable reads" } else { "writes" };
        write!(f, "{what}, {} client{}", self.clients, if self.clients == 1 { "" } else { "s" })
    }
}

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
    /// Of all nodes, for one of them.
    cpu_us: f64,
}

/// Measures both in turns.
pub(super) fn measure(lab: &Lab) -> Result<Vec<Line>> {
    let nodes = lab.nodes()?;
    let sync_us = sync_us(nodes.first().context("the lab has no node")?)?;
    eprintln!("writing to Insula and to etcd in turns …");
    let context = lab.context()?;
    start_etcd(lab, &nodes)?;
    let measured = in_turns(lab, &nodes, &context);
    stop_etcd(lab, &nodes);
    let ([ours, etcd], [our_mib, etcd_mib]) = measured?;
    let pair = |what: String, of: [f64; 2], budget, unit| Line {
        what,
        measured: of[0],
        budget,
        unit,
        peer: Some(("etcd".to_owned(), of[1])),
    };
    let sync = ms(sync_us);
    let what = "sync of a node's disk, p50".to_owned();
    let mut lines = vec![Line { what, measured: sync, budget: None, unit: "ms", peer: None }];
    for (load, turns) in LOADS.into_iter().zip(ours.iter().zip(&etcd)) {
        let both = |pick: fn(&Turn) -> f64| [turns.0, turns.1].map(|turns| median(turns.iter().map(pick)));
        let one_write = (!load.reads && load.clients == 1).then_some(SYNCS_BUDGET * sync);
        lines.push(pair(format!("{load}, p50"), both(|turn| ms(turn.p50_us)), one_write, "ms"));
        lines.push(pair("  p99".into(), both(|turn| ms(turn.p99_us)), load.p99_ms_budget(), "ms"));
        lines.push(pair("  in a second (more is better)".into(), both(|turn| turn.per_second), None, "/s"));
        lines.push(pair("  processor of three nodes, each".into(), both(|turn| turn.cpu_us), None, "µs"));
    }
    lines.push(pair("memory (PSS) of the largest after it".into(), [our_mib, etcd_mib], None, "MiB"));
    Ok(lines)
}

/// The turns of each load, of one store.
type Turns = Vec<Vec<Turn>>;

/// Turns with each load, of Insula and of etcd; then the memory of their largest process, in MiB.
fn in_turns(lab: &Lab, nodes: &[LabNode], context: &str) -> Result<([Turns; 2], [f64; 2])> {
    let servers: Vec<u32> = nodes.iter().filter_map(|node| node.server).collect();
    let processes = [servers.clone(), beside(&servers, |program| program.ends_with("etcd"))?];
    ensure!(processes.iter().all(|of| of.len() == nodes.len()), "found {processes:?} on {} nodes", nodes.len());
    let leader_of = |context| leader(lab, nodes.iter().map(|node| Target { node, context }).collect());
    let targets = [leader_of(Some(context))?, leader_of(None)?];
    let mut measured = [Turns::new(), Turns::new()].map(|_| LOADS.map(|_| Vec::new()).into());
    for _ in 0..TURNS {
        for ((target, processes), measured) in targets.iter().zip(&processes).zip(&mut measured) {
            let measured: &mut Turns = measured;
            for (load, turns) in LOADS.into_iter().zip(measured) {
                turns.push(turn(lab, *target, load, TURN, processes)?);
            }
        }
    }
    let largest = |pids: &Vec<u32>| {
        let sizes = pids.iter().map(|pid| pss_mib(*pid)).collect::<Result<Vec<_>>>()?;
        Ok::<_, anyhow::Error>(sizes.into_iter().fold(0.0, f64::max))
    };
    Ok((measured, [largest(&processes[0])?, largest(&processes[1])?]))
}

/// The one whose writes need no hop: the fastest.
fn leader<'a>(lab: &Lab, targets: Vec<Target<'a>>) -> Result<Target<'a>> {
    let mut best: Option<(u64, Target<'_>)> = None;
    for target in targets {
        let p50_us = turn(lab, target, LOADS[0], TRIAL, &[])?.p50_us;
        if best.as_ref().is_none_or(|(best_us, _)| p50_us < *best_us) {
            best = Some((p50_us, target));
        }
    }
    best.map(|(_, target)| target).context("nobody takes writes")
}

/// One turn on a node; the processes are those whose time it takes.
fn turn(lab: &Lab, target: Target<'_>, load: Load, seconds: &str, processes: &[u32]) -> Result<Turn> {
    let Target { node, context } = target;
    let mut command = lab.command_at(&node.name, &lab.programs().bench);
    command.args(["writes", "--clients", &load.clients.to_string(), "--duration", seconds]);
    if load.reads {
        command.arg("--reads");
    }
    match context {
        Some(context) => command.args(["--target", &node.api().to_string()]).env("INSULA_CONTEXT", context),
        None => command.args(["--target", ETCD]),
    };
    let used = || processes.iter().map(|pid| ticks(*pid)).sum::<Result<u64>>();
    let before = used()?;
    let (said, complaints) = output_and_complaints(&mut command, "")?;
    let used_us = (used()? - before) as f64 / TICKS_PER_SECOND * 1e6;
    let writes = said.lines().map(serde_json::from_str).collect::<Result<Vec<Write>, _>>()?;
    let mut took_us: Vec<u64> = writes.iter().filter(|write| write.is_ok).map(|write| write.took_us).collect();
    ensure!(!took_us.is_empty(), "{} confirmed no write", node.name);
    let failed = writes.len() - took_us.len();
    let why = complaints.lines().next().unwrap_or_default();
    ensure!(failed == 0, "{failed} of {} of {load} on {} failed: {why}", writes.len(), node.name);
    took_us.sort_unstable();
    let end_us = |write: &Write| write.start_ms * 1000 + write.took_us;
    let first_us = writes.iter().map(|write| write.start_ms * 1000).min().unwrap_or_default();
    let last_us = writes.iter().map(end_us).max().unwrap_or_default();
    Ok(Turn {
        p50_us: percentile(&took_us, 50),
        p99_us: percentile(&took_us, 99),
        per_second: took_us.len() as f64 * 1e6 / (last_us - first_us).max(1) as f64,
        cpu_us: used_us / took_us.len() as f64,
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
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
    while let Err(error) = turn(lab, Target { node: first, context: None }, LOADS[0], "0.2", &[]) {
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
