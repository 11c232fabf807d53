//! One run: the region comes up, suffers, heals, and must come to rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use insula_env::{Clock, Rng, TaskGroup, clock::sleep, clock::timeout};
use insula_state::{GlobalCommand, RegionCommand, global::ClusterMeta, region::RegionMeta};
use insula_types::{
    ByteSize, Capacity, ClusterId, CpuMillis, Desired, Incarnation, Node, NodeHealth, NodeId, RegionName,
};

use crate::{
    Options, Outcome,
    checks::Checks,
    clients::{Clients, Global, serials},
    machine::{Machine, Surroundings},
    net::Net,
    plan::{self, CHAOS, Fault, MACHINES},
    trace::Trace,
};

/// Virtual wall time at which every run begins: some day in 2026.
const EPOCH_MS: u64 = 1_790_000_000_000;
/// How long the region may take to come up without faults.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to come to rest after all is healed: leases, elections, back-offs of instances.
const REST_LIMIT: Duration = Duration::from_secs(150);
/// Time between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn run(seed: u64, rng: Rng, options: Options) -> Outcome {
    let clock = Clock::simulated(EPOCH_MS);
    let trace = Trace::new(clock.clone(), options.is_verbose);
    let checks = Checks::new(trace.clone());
    let world = World::new(&clock, &rng, checks.clone());
    let tasks = TaskGroup::new("world");
    let faults = plan::draw(&rng);
    if options.is_entropic {
        sleep(Duration::from_micros(Rng::from_os().range(1, 1000))).await;
    }
    if world.come_up().await {
        world.clients.start(&tasks.child("users"));
        world.suffer(&tasks, faults).await;
        world.heal(&rng).await;
        world.rest().await;
    }
    tasks.crash();
    for machine in world.machines.values() {
        machine.kill();
        for violation in machine.runtime.violations() {
            checks.violation(format!("on {}: {violation}", machine.id()));
        }
    }
    let (violations, counts) = checks.result();
    Outcome { seed, trace: trace.hash(), violations, counts, virtual_time: trace.elapsed() }
}

struct World {
    machines: Arc<BTreeMap<u64, Machine>>,
    net: Net,
    checks: Checks,
    global: Arc<Global>,
    clients: Clients,
}

impl World {
    fn new(clock: &Clock, rng: &Rng, checks: Checks) -> Self {
        let net = Net::new(rng.fork(), checks.trace().clone());
        let (global, store) = Global::new(clock.clone(), rng.fork());
        let around = Surroundings {
            net: net.clone(),
            checks: checks.clone(),
            global: store.clone(),
            snapshot_every: rng.range(20, 200),
        };
        let machines: BTreeMap<u64, Machine> = (1..=MACHINES)
            .map(|number| {
                // Machines have clocks of their own, so that one can jump.
                (number, Machine::new(node(number), Clock::simulated(EPOCH_MS), rng, around.clone()))
            })
            .collect();
        let machines = Arc::new(machines);
        let clients = Clients {
            machines: Arc::clone(&machines),
            checks: checks.clone(),
            global: store,
            rng: rng.fork(),
            serials: Arc::default(),
        };
        Self { machines, net, checks, global, clients }
    }

    /// Founds the region on the first machine; the others join and get their vote. False when that does not happen.
    async fn come_up(&self) -> bool {
        for machine in self.machines.values() {
            machine.start();
        }
        let up = async {
            let first = loop {
                match self.machines[&1].process() {
                    Some(process) => break process,
                    None => sleep(LOOK_EVERY).await,
                }
            };
            first.group.initialize_single().await.expect("a new group on a good disk");
            let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(1), created_ms: EPOCH_MS };
            let init = GlobalCommand::Init { meta, region: region() };
            self.clients.global.propose(&init, START_LIMIT).await.expect("the global state takes it");
            let meta = RegionMeta { cluster: ClusterId::new(1), region: region(), incarnation: Incarnation(1) };
            let init = RegionCommand::Init { meta, node: Box::new(node(1)) };
            first.region.propose(&init, START_LIMIT).await.expect("a new region takes its first node");
            let token = insula_state::region::JoinToken {
                id: "join".to_owned(),
                secret_hash: "7".into(),
                expires_ms: u64::MAX,
                uses_left: 100,
            };
            let token = RegionCommand::CreateJoinToken(token);
            first.region.propose(&token, START_LIMIT).await.expect("the region makes a token");
            for number in 2..=MACHINES {
                let node = Box::new(node(number));
                let join = RegionCommand::Join { token: "join".to_owned(), secret_hash: "7".into(), node };
                first.region.propose(&join, START_LIMIT).await.expect("the region takes a node");
            }
            while !self
                .machines
                .values()
                .all(|m| m.process().is_some_and(|p| p.group.voters().len() as u64 == MACHINES))
            {
                sleep(LOOK_EVERY).await;
            }
        };
        let is_up = timeout(START_LIMIT, up).await.is_ok();
        if is_up {
            self.checks.trace().event("the region is up");
        } else {
            self.checks.violation(format!("the region did not come up within {START_LIMIT:?}"));
        }
        is_up
    }

    /// Lets the faults happen, each ended by a task of its own.
    async fn suffer(&self, tasks: &TaskGroup, faults: Vec<(Duration, Fault)>) {
        let start = self.checks.trace().elapsed();
        let ends = tasks.child("faults");
        for (at, fault) in faults {
            sleep((start + at).saturating_sub(self.checks.trace().elapsed())).await;
            self.checks.trace().event(&format!("fault: {fault:?}"));
            self.checks.count("faults");
            self.begin(&ends, fault);
        }
        sleep((start + CHAOS).saturating_sub(self.checks.trace().elapsed())).await;
        ends.crash();
    }

    fn begin(&self, tasks: &TaskGroup, fault: Fault) {
        let (net, checks, global) = (self.net.clone(), self.checks.clone(), Arc::clone(&self.global));
        let machines = Arc::clone(&self.machines);
        let all = move || (1..=MACHINES).map(NodeId::new);
        tasks.spawn("fault", async move {
            match fault {
                Fault::Kill { machine, away } => {
                    machines[&machine].kill();
                    sleep(away).await;
                    machines[&machine].start();
                }
                Fault::PowerCut { machine, away } => {
                    machines[&machine].power_off();
                    checks.set_failing_disk(NodeId::new(machine), false);
                    sleep(away).await;
                    machines[&machine].start();
                }
                Fault::Blackout { away } => {
                    for machine in machines.values() {
                        machine.power_off();
                        checks.set_failing_disk(machine.id(), false);
                    }
                    sleep(away).await;
                    for machine in machines.values() {
                        machine.start();
                    }
                }
                Fault::Cut { from, to, time } => {
                    net.set_cut(NodeId::new(from), NodeId::new(to), true);
                    sleep(time).await;
                    net.set_cut(NodeId::new(from), NodeId::new(to), false);
                }
                Fault::Isolate { machine, time } => {
                    let way = |is_cut| {
                        for other in all().filter(|other| other.get() != machine) {
                            net.set_cut(NodeId::new(machine), other, is_cut);
                            net.set_cut(other, NodeId::new(machine), is_cut);
                        }
                    };
                    way(true);
                    sleep(time).await;
                    way(false);
                }
                Fault::SlowDisk { machine, longest, time } => {
                    machines[&machine].disk.set_delay(longest / 2, longest);
                    sleep(time).await;
                    let usual = crate::machine::DISK_DELAY;
                    machines[&machine].disk.set_delay(usual.0, usual.1);
                }
                Fault::Stall { machine, time } => {
                    let machine = &machines[&machine];
                    machine.disk.stall_until(machine.clock.now() + time);
                }
                Fault::FailSyncs { machine, time } => {
                    let machine = &machines[&machine];
                    checks.set_failing_disk(machine.id(), true);
                    machine.disk.fail_syncs(true);
                    sleep(time).await;
                    machine.power_off();
                    checks.set_failing_disk(machine.id(), false);
                    machine.start();
                }
                Fault::Weather { longest, loss, time } => {
                    net.set_weather(longest, loss);
                    sleep(time).await;
                    net.set_weather(Duration::from_millis(2), 0.0);
                }
                Fault::ClockJump { machine, by_ms } => machines[&machine].clock.shift_wall(by_ms),
                Fault::Crash { machine } => {
                    let runtime = &machines[&machine].runtime;
                    if let Some(instance) = runtime.running().first() {
                        runtime.crash(*instance, insula_container::Exit::Code(1));
                    }
                }
                Fault::GlobalAway { time } => {
                    global.set_away(true);
                    sleep(time).await;
                    global.set_away(false);
                }
            }
        });
    }

    /// Everything works again, but perhaps one machine that stays away for good.
    async fn heal(&self, rng: &Rng) {
        self.net.heal();
        self.global.set_away(false);
        let lost = if rng.chance(0.3) { rng.range(1, MACHINES + 1) } else { 0 };
        for (number, machine) in self.machines.iter() {
            let usual = crate::machine::DISK_DELAY;
            machine.disk.set_delay(usual.0, usual.1);
            if *number == lost {
                self.checks.trace().event(&format!("machine {number} is lost"));
                machine.power_off();
            } else if !machine.is_started()
                || machine.has_failed()
                || machine.process().is_none()
                // A sync that is still to fail would stop its group after everything was healed.
                || self.checks.has_failing_disk(machine.id())
            {
                machine.power_off();
                machine.start();
            }
            self.checks.set_failing_disk(machine.id(), false);
        }
        self.checks.trace().event("healed");
    }

    /// Waits until the region is as its definitions say, while users go on; then compares all copies.
    async fn rest(&self) {
        let mut why = String::new();
        let rested = async {
            loop {
                match self.unrest().await {
                    None => return,
                    Some(reason) => why = reason,
                }
                sleep(LOOK_EVERY).await;
            }
        };
        if timeout(REST_LIMIT, rested).await.is_err() {
            self.checks.violation(format!("not at rest {REST_LIMIT:?} after all was healed: {why}"));
            return;
        }
        self.checks.trace().event("at rest");
        for machine in self.machines.values() {
            let Some(process) = machine.process() else { continue };
            match process.region.read_linearizable(Duration::from_secs(10), serials).await {
                Ok(found) => self.checks.all_kept(machine.id(), &found),
                Err(error) => self.checks.violation(format!("no read on {} at the end: {error}", machine.id())),
            }
            self.checks.copy(machine.id(), process.region.replica());
        }
    }

    /// Why the region is not at rest.
    async fn unrest(&self) -> Option<String> {
        if self.checks.has_violations() {
            // What comes after a broken promise says nothing.
            return None;
        }
        let alive: Vec<&Machine> = self.machines.values().filter(|machine| machine.is_started()).collect();
        for machine in &alive {
            if machine.has_failed() {
                return Some(format!("the group on {} has failed", machine.id()));
            }
        }
        let Some(process) = alive.first().and_then(|machine| machine.process()) else {
            return Some("a process has not come up".to_owned());
        };
        if !self.clients.write(&process.region).await {
            return Some("writes are not confirmed".to_owned());
        }
        for machine in &alive {
            let Some(process) = machine.process() else { return Some(format!("{} is not up", machine.id())) };
            let began = self.checks.read_begins();
            match process.region.read_linearizable(Duration::from_secs(3), serials).await {
                Ok(found) => self.checks.read_ends(machine.id(), &began, &found),
                Err(error) => return Some(format!("no read on {}: {error}", machine.id())),
            }
        }
        let alive_ids: BTreeSet<NodeId> = alive.iter().map(|machine| machine.id()).collect();
        let wanted = self
            .clients
            .global
            .read(|global| insula_control::derive::reconcile(global, &insula_state::RegionState::default()));
        process.region.read(|state| {
            for node in state.nodes.values() {
                if node.health.is_up() != alive_ids.contains(&node.id) {
                    return Some(format!("{} is taken for {:?}", node.id, node.health));
                }
            }
            for command in &wanted {
                let RegionCommand::SetDefinition(definition) = command else { continue };
                if state.definitions.get(&definition.app) != Some(definition) {
                    return Some(format!("{} is not yet defined as wanted", definition.app));
                }
                for (service, wanted) in &definition.services {
                    let ready = state
                        .placements
                        .values()
                        .filter(|p| p.service.app == definition.app && p.service.service == *service)
                        .filter(|p| p.desired == Desired::Run && p.release == definition.release)
                        .filter(|p| alive_ids.contains(&p.node))
                        .filter(|p| state.statuses.get(&p.instance).is_some_and(|status| status.is_ready))
                        .count();
                    if ready != wanted.scale as usize {
                        return Some(format!("{service} has {ready} of {} instances", wanted.scale));
                    }
                }
            }
            for machine in &alive {
                let placed: BTreeSet<_> = state
                    .placements_of(machine.id())
                    .filter(|placement| placement.desired == Desired::Run)
                    .map(|placement| placement.instance)
                    .collect();
                let running: BTreeSet<_> = machine.runtime.running().into_iter().collect();
                if placed != running {
                    return Some(format!("{} runs {running:?}, placed are {placed:?}", machine.id()));
                }
            }
            let is_elsewhere = |p: &&insula_types::Placement| !alive_ids.contains(&p.node);
            state.placements.values().find(is_elsewhere).map(|p| format!("{} is placed on a dead node", p.instance))
        })
    }
}

fn region() -> RegionName {
    "fra".parse().expect("a name")
}

fn node(number: u64) -> Node {
    Node {
        id: NodeId::new(number),
        name: format!("m{number}").parse().expect("a name"),
        region: region(),
        datacenter: format!("fra{}", number % 2 + 1).parse().expect("a name"),
        address: ([10, 0, 0, number as u8], 7443).into(),
        capacity: Capacity { cpu: CpuMillis(4000), memory: ByteSize::mib(4096) },
        version: "0.1.0".to_owned(),
        health: NodeHealth::Up,
        is_cordoned: false,
        is_draining: false,
        joined_ms: 0,
    }
}
