//! One run: the region comes up, suffers, heals, and must come to rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use insula_control::{level::untold, wanted_voters};
use insula_env::{Clock, Rng, TaskGroup, clock::sleep, clock::timeout};
use insula_state::{
    Domain, GlobalCommand, LEVEL, ProposeError, RegionCommand, RegionState, global::ClusterMeta, region::RegionMeta,
};
use insula_types::{
    Agreed, ByteSize, Capacity, ClusterId, CpuMillis, Desired, Incarnation, Level, Node, NodeHealth, NodeId, RegionName,
};
use parking_lot::Mutex;

use crate::{
    Options, Outcome,
    checks::Checks,
    clients::{Clients, Global, serials},
    harm::Harm,
    machine::{DEAD_AFTER, DISK_DELAY, Machine, Surroundings},
    net::{Net, machine_of},
    plan::{CHAOS, Plan},
    trace::Trace,
};

/// Virtual wall time at which every run begins: some day in 2026.
const EPOCH_MS: u64 = 1_790_000_000_000;
/// How long the region may take to come up without faults.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to come to rest after all is healed: leases, elections, back-offs of instances.
const REST_LIMIT: Duration = Duration::from_secs(150);
/// Time between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(400);

pub(crate) async fn run(seed: u64, rng: Rng, options: Options) -> Outcome {
    let clock = Clock::simulated(EPOCH_MS);
    let trace = Trace::new(clock.clone(), options.is_verbose);
    let checks = Checks::new(trace.clone());
    let tasks = TaskGroup::new("world");
    let plan = Plan::draw(&rng);
    let world = World::new(&clock, &rng, checks.clone(), &plan);
    if options.is_entropic {
        sleep(Duration::from_micros(Rng::from_os().range(1, 1000))).await;
    }
    if world.come_up().await {
        world.clients.start(&tasks.child("users"));
        world.suffer(&tasks, &plan).await;
        world.heal(&plan);
        world.rest(&plan).await;
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
    /// Machines that are there from the beginning.
    founders: u64,
    /// Machines that will not come back.
    gone: Arc<Mutex<BTreeSet<u64>>>,
    net: Net,
    checks: Checks,
    global: Arc<Global>,
    clients: Clients,
}

impl World {
    fn new(clock: &Clock, rng: &Rng, checks: Checks, plan: &Plan) -> Self {
        let net = Net::new(rng.fork(), checks.trace().clone());
        let (global, store) = Global::new(clock.clone(), rng.fork());
        let around = Surroundings {
            net: net.clone(),
            checks: checks.clone(),
            global: store.clone(),
            snapshot_every: rng.range(20, 200),
        };
        let machines: BTreeMap<u64, Machine> = (1..=plan.machines)
            .map(|number| {
                // Machines have clocks of their own, so that one can jump.
                let level = if plan.old.contains(&number) { Level::FIRST } else { LEVEL };
                (number, Machine::new(number, level, Clock::simulated(EPOCH_MS), rng, around.clone()))
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
        Self { machines, founders: plan.founders, gone: Arc::default(), net, checks, global, clients }
    }

    /// Founds the region on the first machine; the others join, and who shall vote does. False when that does not happen.
    async fn come_up(&self) -> bool {
        let up = async {
            self.machines[&1].start();
            let first = loop {
                match self.machines[&1].process() {
                    Some(process) => break process,
                    None => sleep(LOOK_EVERY).await,
                }
            };
            first.group.initialize_single().await.expect("a new group on a good disk");
            let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(1), created_ms: EPOCH_MS };
            let founder = node(self.machines[&1].id(), self.machines[&1].level());
            let agreed = Agreed::of_version(&founder.version);
            let init = GlobalCommand::Init { meta, region: region(), agreed };
            self.clients.global.propose(&init, START_LIMIT).await.expect("the global state takes it");
            let meta = RegionMeta { cluster: ClusterId::new(1), region: region(), incarnation: Incarnation(1) };
            let init = RegionCommand::Init { meta, node: Box::new(founder) };
            first.region.propose(&init, START_LIMIT).await?;
            let token = insula_state::region::JoinToken {
                id: "join".to_owned(),
                secret_hash: "7".into(),
                expires_ms: u64::MAX,
                uses_left: 100,
            };
            let token = RegionCommand::CreateJoinToken(token);
            first.region.propose(&token, START_LIMIT).await?;
            for number in 2..=self.founders {
                self.machines[&number].start();
            }
            while (2..=self.founders).any(|number| self.machines[&number].process().is_none())
                || first.region.read(|state| state.nodes.len() as u64) < self.founders
                || !self.are_voters_settled()
            {
                sleep(LOOK_EVERY).await;
            }
            Ok::<_, ProposeError>(())
        };
        let is_up = timeout(START_LIMIT, up).await;
        match &is_up {
            Ok(Ok(())) => self.checks.trace().event("the region is up"),
            Ok(Err(error)) => self.checks.violation(format!("the region was not founded: {error}")),
            Err(_) => self.checks.violation(format!("the region did not come up within {START_LIMIT:?}")),
        }
        matches!(is_up, Ok(Ok(())))
    }

    /// Whether those vote who shall, as the leader sees it.
    fn are_voters_settled(&self) -> bool {
        let mut up = self.machines.values().filter_map(Machine::process);
        let Some(process) = up.find(|process| process.group.leadership().borrow().is_me) else { return false };
        // Whether somebody has been dead for long enough, the leader tells by its own clock, which may have jumped.
        let mut times = self.machines.values().map(|machine| machine.clock.wall_ms());
        let voters = process.group.voters();
        times.any(|now_ms| process.region.read(|state| wanted_voters(state, &voters, now_ms, DEAD_AFTER)).is_none())
    }

    /// Lets the faults happen, each ended by a task of its own.
    async fn suffer(&self, tasks: &TaskGroup, plan: &Plan) {
        let start = self.checks.trace().elapsed();
        let ends = tasks.child("faults");
        for (at, fault) in &plan.faults {
            sleep((start + *at).saturating_sub(self.checks.trace().elapsed())).await;
            self.checks.trace().event(&format!("fault: {fault:?}"));
            self.checks.count("faults");
            self.checks.count(fault.name());
            let harm = Harm {
                machines: Arc::clone(&self.machines),
                gone: Arc::clone(&self.gone),
                net: self.net.clone(),
                checks: self.checks.clone(),
                global: Arc::clone(&self.global),
                operators: tasks.clone(),
            };
            let fault = fault.clone();
            ends.spawn("fault", async move { harm.happen(fault).await });
        }
        sleep((start + CHAOS).saturating_sub(self.checks.trace().elapsed())).await;
        ends.crash();
    }

    /// Everything works again, but for what is gone for good.
    fn heal(&self, plan: &Plan) {
        self.net.heal();
        self.global.set_away(false);
        self.gone.lock().extend(plan.lost);
        let gone = self.gone.lock().clone();
        for (number, machine) in self.machines.iter() {
            if machine.level() < LEVEL && !gone.contains(number) {
                machine.upgrade();
            }
            machine.disk.set_delay(DISK_DELAY.0, DISK_DELAY.1);
            machine.disk.fill(false);
            if gone.contains(number) {
                self.checks.trace().event(&format!("machine {number} is gone"));
                machine.power_off();
            } else if !machine.is_started()
                || machine.has_failed()
                || machine.process().is_none()
                // A sync that is still to fail would stop its group after everything was healed.
                || self.checks.has_failing_disk(*number)
            {
                machine.power_off();
                machine.start();
            }
            self.checks.set_failing_disk(*number, false);
        }
        self.checks.trace().event("healed");
    }

    /// Waits until the region is as its definitions say, while users go on; then compares all copies.
    async fn rest(&self, plan: &Plan) {
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
        self.checks.count(if plan.old.is_empty() { "runs of one program" } else { "runs of mixed programs" });
        for machine in self.machines.values() {
            let Some(process) = machine.process() else { continue };
            match process.region.read_linearizable(Duration::from_secs(10), serials).await {
                Ok(found) => self.checks.all_kept(machine.id(), &found),
                Err(error) => self.checks.violation(format!("no read on {} at the end: {error}", machine.id())),
            }
            self.checks.copy(machine.id(), process.region.replica());
        }
    }

    /// Why the level is not what it shall be. A node that is gone and was not removed holds it back.
    fn unrest_of_level(&self, state: &RegionState, alive: &BTreeSet<NodeId>) -> Option<String> {
        let behind: Vec<NodeId> = state.behind(LEVEL).map(|node| node.id).collect();
        if let Some(id) = behind.iter().find(|id| alive.contains(id)) {
            return Some(format!("{id} has not said what it knows"));
        }
        if state.level() < LEVEL && behind.is_empty() {
            return Some(format!("the level is still {}", state.level()));
        }
        let is_untold = self.clients.global.read(|global| untold(state, global).is_some());
        is_untold.then(|| "the world has not heard of the level".to_owned())
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
        if !self.are_voters_settled() {
            return Some("not those vote who shall".to_owned());
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
        let wanted =
            self.clients.global.read(|global| insula_control::derive::reconcile(global, &RegionState::default()));
        let level = process.region.read(|state| self.unrest_of_level(state, &alive_ids));
        if level.is_some() {
            return level;
        }
        process.region.read(|state| {
            if let Some(id) = alive_ids.iter().find(|id| !state.nodes.contains(id)) {
                return Some(format!("{id} is no member"));
            }
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
                        .filter(|p| p.desired == Desired::Run && p.spec == wanted.spec)
                        .filter(|p| alive_ids.contains(&p.node))
                        .filter(|p| state.statuses.get(&p.instance).is_some_and(|status| status.is_ready))
                        .count();
                    if wanted.scale.count() != u32::try_from(ready).ok() {
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
            state.placements.values().find(is_elsewhere).map(|p| {
                let health = state.nodes.get(&p.node).map(|node| node.health);
                format!("{} ({:?}) is placed on the dead node {} ({health:?})", p.instance, p.desired, p.node)
            })
        })
    }
}

fn region() -> RegionName {
    "fra".parse().expect("a name")
}

/// What a machine says of its node.
pub(crate) fn node(id: NodeId, level: Level) -> Node {
    let number = machine_of(id);
    Node {
        id,
        name: format!("m{}", id.get()).parse().expect("a name"),
        region: region(),
        datacenter: format!("fra{}", number % 2 + 1).parse().expect("a name"),
        address: ([10, 0, 0, number as u8], 7443).into(),
        capacity: Capacity { cpu: CpuMillis(4000), memory: ByteSize::mib(4096) },
        version: if level == Level::FIRST { "0.1.0".to_owned() } else { level.mark("0.1.0") },
        health: NodeHealth::Up,
        is_cordoned: false,
        is_draining: false,
        joined_ms: 0,
    }
}
