//! How long the scheduler takes for a large region: 5,000 nodes, 1,000,000 instances, on one core. Prints a table, and ends with
//! an error when something does not hold that has to: `cargo bench -p insula-scheduler`.
//!
//! Services are like those of the public measurements that docs/design/scheduler.md compares with: a thousand of a thousand
//! instances, some of which ask for labels.

#![allow(clippy::disallowed_methods, reason = "measures the real clock; the scheduler knows no environment")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    time::{Duration, Instant},
};

use insula_scheduler::{Choice, NodeView, PlaceError, Snapshot, Taken, Wanted, schedule};
use insula_types::{
    ByteSize, Capacity, CpuMillis, DatacenterName, InstanceId, Labels, NodeHealth, NodeId, NodeName, PlacementSpec,
    Priority, Resources, ServiceRef,
};

const NODES: usize = 5_000;
const DATACENTERS: usize = 10;
const RACKS: usize = 200;
const SERVICES: usize = 1_000;
const PER_SERVICE: usize = 1_000;
/// Services of the first 100,000 instances.
const FIRST: usize = 100;
const LOST: usize = 100;
/// What has to be reached for the first 100,000, in placements a second.
const LEAST_A_SECOND: f64 = 20_000.0;

type Decisions = BTreeMap<InstanceId, Result<Choice, PlaceError>>;

/// What the nodes and services are, for views to borrow from.
struct Region {
    datacenters: Vec<DatacenterName>,
    names: Vec<NodeName>,
    labels: Vec<Labels>,
    services: Vec<(ServiceRef, Resources, PlacementSpec)>,
}

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

fn label(key: &str, value: &str) -> Labels {
    [(name(key), name(value))].into()
}

impl Region {
    fn new() -> Self {
        let disk = |node: usize| if node.is_multiple_of(2) { "ssd" } else { "hdd" };
        let labels = |node: usize| {
            let mut labels = label("disk", disk(node));
            labels.extend(label("rack", &format!("r{}", node % RACKS)));
            labels
        };
        Self {
            datacenters: (0..DATACENTERS).map(|at| name(&format!("fra{at}"))).collect(),
            names: (0..NODES).map(|at| name(&format!("n{at}"))).collect(),
            labels: (0..NODES).map(labels).collect(),
            services: (0..SERVICES).map(service).collect(),
        }
    }

    /// All nodes; the first `lost` are down.
    fn nodes(&self, lost: usize) -> Vec<NodeView<'_>> {
        let view = |at: usize| NodeView {
            id: NodeId::new(at as u64),
            name: &self.names[at],
            datacenter: &self.datacenters[at % DATACENTERS],
            capacity: Capacity { cpu: CpuMillis(64_000), memory: ByteSize::mib(64 << 10) },
            health: if at < lost { NodeHealth::Down { since_ms: 1 } } else { NodeHealth::Up },
            is_cordoned: false,
            runtimes: None,
            labels: Some(&self.labels[at]),
        };
        (0..NODES).map(view).collect()
    }

    fn wanted(&self, instance: InstanceId) -> Wanted<'_> {
        let (service, resources, placement) = &self.services[service_of(instance)];
        Wanted {
            instance,
            service,
            resources: *resources,
            bound_to: None,
            runtime: None,
            placement,
            priority: Priority::USUAL,
        }
    }

    fn taken(&self, instance: InstanceId, node: NodeId) -> Taken<'_> {
        let (service, resources, _) = &self.services[service_of(instance)];
        Taken { node, service, resources: *resources, is_staying: true }
    }
}

/// Three sizes; of ten services one requires a label, one prefers two, and one is spread over racks.
fn service(at: usize) -> (ServiceRef, Resources, PlacementSpec) {
    let (cpu, mib) = [(100, 128), (150, 192), (250, 256)][at % 3];
    let resources = Resources { cpu: CpuMillis(cpu), memory: ByteSize::mib(mib), ..Resources::default() };
    let mut placement = PlacementSpec::default();
    match at % 10 {
        7 => placement.require = label("disk", "ssd"),
        8 => {
            placement.prefer = label("disk", "ssd");
            placement.prefer.extend(label("datacenter", "fra3"));
        }
        9 => placement.spread = name("rack"),
        _ => {}
    }
    (ServiceRef::new(name(&format!("app{at}")), name("web")), resources, placement)
}

const fn service_of(instance: InstanceId) -> usize {
    instance.get() as usize / PER_SERVICE
}

fn instances(services: std::ops::Range<usize>) -> impl Iterator<Item = InstanceId> {
    (services.start * PER_SERVICE..services.end * PER_SERVICE).map(|id| InstanceId::new(id as u64))
}

/// Where everything runs; none of it may have been refused.
fn placed(decisions: &Decisions) -> Vec<(InstanceId, NodeId)> {
    let node = |(id, decision): (&InstanceId, &Result<Choice, PlaceError>)| match decision {
        Ok(choice) => (*id, choice.node),
        Err(why) => panic!("the region has room for all: {why}"),
    };
    decisions.iter().map(node).collect()
}

/// A measurement: what, how many placements, how long.
struct Row(String, usize, Duration);

fn timed<T>(rows: &mut Vec<Row>, what: &str, count: usize, run: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = run();
    rows.push(Row(what.to_owned(), count, began.elapsed()));
    done
}

/// The greatest difference between data centres in instances of one service that is spread over them.
fn unevenness(region: &Region, placements: &[(InstanceId, NodeId)]) -> u32 {
    let mut counts = vec![[0_u32; DATACENTERS]; SERVICES];
    for (instance, node) in placements {
        counts[service_of(*instance)][node.get() as usize % DATACENTERS] += 1;
    }
    let is_spread = |at: &usize| {
        region.services[*at].2.require.is_empty() && region.services[*at].2.spread.as_str() == "datacenter"
    };
    let difference =
        |at: usize| counts[at].iter().max().zip(counts[at].iter().min()).map_or(0, |(most, least)| most - least);
    (0..SERVICES).filter(is_spread).map(difference).max().unwrap_or(0)
}

fn run() -> Result<Vec<Row>, String> {
    let region = Region::new();
    let mut rows = Vec::new();

    let empty = Snapshot { nodes: region.nodes(0), taken: Vec::new() };
    let first: Vec<Wanted<'_>> = instances(0..FIRST).map(|id| region.wanted(id)).collect();
    let decisions = timed(&mut rows, "the first 100,000, in one round", first.len(), || schedule(&empty, &first));
    placed(&decisions);
    drop(decisions);
    for (what, at) in [("ask for nothing", 0), ("require a label", 7), ("prefer two", 8), ("are spread over racks", 9)]
    {
        let placement = &region.services[at].2;
        let same: Vec<Wanted<'_>> = first.iter().map(|one| Wanted { placement, ..one.clone() }).collect();
        let what = format!("the same, where all {what}");
        placed(&timed(&mut rows, &what, same.len(), || schedule(&empty, &same)));
    }
    drop(first);

    // All of them, a hundred services a round: each round orders what is there anew.
    let mut running: Vec<(InstanceId, NodeId)> = Vec::new();
    let mut whole = Duration::ZERO;
    for from in (0..SERVICES).step_by(FIRST) {
        let wanted: Vec<Wanted<'_>> = instances(from..from + FIRST).map(|id| region.wanted(id)).collect();
        let began = Instant::now();
        let taken = running.iter().map(|(id, node)| region.taken(*id, *node)).collect();
        let decisions = schedule(&Snapshot { nodes: region.nodes(0), taken }, &wanted);
        whole += began.elapsed();
        running.extend(placed(&decisions));
    }
    rows.push(Row("all 1,000,000, in ten rounds".to_owned(), running.len(), whole));

    let taken: Vec<Taken<'_>> = running.iter().map(|(id, node)| region.taken(*id, *node)).collect();
    let full = Snapshot { nodes: region.nodes(0), taken };
    let more: Vec<Wanted<'_>> = instances(SERVICES - 1..SERVICES)
        .map(|id| Wanted { instance: InstanceId::new(id.get() + 1_000_000), ..region.wanted(id) })
        .collect();
    timed(&mut rows, "1,000 more of one service, where all runs", more.len(), || schedule(&full, &more));

    let (lost, stay): (Vec<_>, Vec<_>) = running.iter().partition(|(_, node)| (node.get() as usize) < LOST);
    let taken: Vec<Taken<'_>> = stay.iter().map(|(id, node): &(InstanceId, NodeId)| region.taken(*id, *node)).collect();
    let after = Snapshot { nodes: region.nodes(LOST), taken };
    let mut wanted: Vec<Wanted<'_>> = lost.iter().map(|(id, _): &(InstanceId, NodeId)| region.wanted(*id)).collect();
    let decisions = timed(&mut rows, "what ran on 100 lost nodes", wanted.len(), || schedule(&after, &wanted));
    let replaced = placed(&decisions);

    let asked: BTreeSet<InstanceId> = wanted.iter().map(|one| one.instance).collect();
    let moved = decisions.keys().filter(|id| !asked.contains(*id)).count();
    if moved > 0 || replaced.len() != asked.len() {
        return Err(format!("{moved} instances that stay were moved, {} of {} replaced", replaced.len(), asked.len()));
    }
    if replaced.iter().any(|(_, node)| (node.get() as usize) < LOST) {
        return Err("something was placed on a node that is lost".to_owned());
    }
    wanted.reverse();
    let Snapshot { nodes, taken } = &after;
    let turned =
        Snapshot { nodes: nodes.iter().rev().cloned().collect(), taken: taken.iter().rev().cloned().collect() };
    if schedule(&turned, &wanted) != decisions {
        return Err("the same snapshot in another order gave other placements".to_owned());
    }
    let everything: Vec<(InstanceId, NodeId)> = stay.into_iter().chain(replaced).collect();
    for (when, placements) in [("at first", &running), ("after the loss", &everything)] {
        println!("greatest difference between data centres {when}: {}", unevenness(&region, placements));
    }
    println!("instances that stayed and were moved: {moved}; same snapshot in another order: same placements\n");
    Ok(rows)
}

fn main() -> ExitCode {
    let rows = match run() {
        Ok(rows) => rows,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    println!("{:<45} {:>10} {:>10} {:>14}", "5,000 nodes, one core", "placements", "seconds", "placements/s");
    let rate = |Row(_, count, took): &Row| *count as f64 / took.as_secs_f64();
    for row in &rows {
        println!("{:<45} {:>10} {:>10.3} {:>14.0}", row.0, row.1, row.2.as_secs_f64(), rate(row));
    }
    if rate(&rows[0]) < LEAST_A_SECOND {
        eprintln!("the first 100,000 came to less than {LEAST_A_SECOND} placements a second");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
