//! A region in memory whose agents do what is placed, at once or not at all; and what the controllers make of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use insula_env::{Clock, Rng, clock::Instant};
use insula_state::{
    Machine, Outcome, RegionCommand, RegionState, Replica,
    region::{JoinToken, NodeDuty, RegionMeta, RegionReply},
    seal,
};
use insula_types::{
    ByteSize, Capacity, ClusterId, CpuMillis, Desired, Incarnation, InstanceId, InstanceStatus, Node, NodeHealth,
    NodeId, Phase, Placement, PortSpec, Protocol, RegionalDefinition, RegionalService, ReleaseNumber, Renewal,
    RequestId, RestartPolicy, Revision, ServiceSpec, Traffic, codec,
};
use proptest::prelude::*;

use crate::{LeaseTable, round::Memory};

pub(super) fn node(id: u64, datacenter: &str) -> Node {
    Node {
        id: NodeId::new(id),
        name: format!("n{id}").parse().expect("a name"),
        region: "fra".parse().expect("a name"),
        datacenter: datacenter.parse().expect("a name"),
        address: "10.0.0.1:7443".parse().expect("an address"),
        capacity: Capacity { cpu: CpuMillis(4000), memory: ByteSize::mib(4096) },
        version: "test".into(),
        health: NodeHealth::Up,
        is_cordoned: false,
        is_draining: false,
        joined_ms: 0,
    }
}

pub(super) fn spec(tag: u64) -> ServiceSpec {
    ServiceSpec {
        driver: insula_types::DriverKind::Process,
        command: vec![format!("./server-{tag}")],
        ports: vec![PortSpec { name: "http".parse().expect("a name"), port: 8080, protocol: Protocol::Http }],
        ..ServiceSpec::default()
    }
}

pub(super) fn definition(release: u64, scale: u32) -> RegionalDefinition {
    let service = RegionalService { spec: spec(release), scale: scale.into(), ..RegionalService::default() };
    RegionalDefinition {
        app: "shop".parse().expect("a name"),
        release: ReleaseNumber(release),
        services: BTreeMap::from([("web".parse().expect("a name"), service)]),
        again_of: None,
    }
}

/// A state machine without a group.
#[derive(Debug)]
pub(super) struct Plain {
    pub replica: Arc<Replica<RegionState>>,
    machine: Machine<RegionState>,
    requests: u64,
}

impl Plain {
    /// Nodes 1 to `nodes`: odd ones in fra1, even ones in fra2.
    pub(super) fn new(nodes: u64) -> Self {
        Self::of_version(nodes, "test")
    }

    pub(super) fn of_version(nodes: u64, version: &str) -> Self {
        let node = |id, datacenter| Node { version: version.to_owned(), ..node(id, datacenter) };
        let replica = Replica::new();
        let mut plain = Self { machine: Machine::new(Arc::clone(&replica)), replica, requests: 0 };
        let meta = RegionMeta {
            cluster: ClusterId::new(1),
            region: "fra".parse().expect("a name"),
            incarnation: Incarnation(1),
        };
        plain.apply(1, &RegionCommand::Init { meta, node: Box::new(node(1, "fra1")) }).expect("empty");
        let token = JoinToken { id: "t".into(), secret_hash: "7".into(), expires_ms: u64::MAX, uses_left: 99 };
        plain.apply(1, &RegionCommand::CreateJoinToken(token)).expect("new");
        for id in 2..=nodes {
            let node = Box::new(node(id, if id % 2 == 1 { "fra1" } else { "fra2" }));
            let join = RegionCommand::Join { token: "t".into(), secret_hash: "7".into(), node };
            plain.apply(id, &join).expect("good");
        }
        plain
    }

    pub(super) fn apply_bytes(&mut self, request: RequestId, at_ms: u64, command: Vec<u8>) -> Vec<u8> {
        self.machine.apply(&seal(request, at_ms, command)).expect("decodes").replies[0].clone()
    }

    pub(super) fn apply(&mut self, at_ms: u64, command: &RegionCommand) -> Result<RegionReply, String> {
        self.requests += 1;
        let reply = self.apply_bytes(RequestId(self.requests, 0), at_ms, codec::encode(command));
        let outcome: Outcome<RegionReply> = codec::decode(&reply).expect("an outcome");
        outcome.result.map_err(|why| why.message)
    }
}

/// A region with nodes that are on or off, and a controller that never changes.
pub(super) struct World {
    pub(super) plain: Plain,
    now: Instant,
    pub(super) now_ms: u64,
    leases: LeaseTable,
    memory: Memory,
    rng: Rng,
    pub(super) off: BTreeSet<NodeId>,
    /// Instances whose checks fail.
    pub(super) sick: BTreeSet<InstanceId>,
    /// Services with this command line never get ready.
    pub(super) broken: Option<u64>,
    /// Nothing gets ready on this node.
    pub(super) unready: Option<NodeId>,
    /// Nodes whose disks are full: nothing begins there any more.
    pub(super) full: BTreeSet<NodeId>,
    /// Nodes whose data plane acknowledges nothing.
    mute: BTreeSet<NodeId>,
    /// What edges have counted, by node.
    pub(super) traffic: BTreeMap<NodeId, Traffic>,
    pub(super) hooks: Hooks,
}

/// What agents make of hooks.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    /// Half seconds that one runs.
    pub(super) takes: usize,
    /// Those with this program end with exit code 1.
    pub(super) broken: Option<String>,
    /// They are not started, and this is said.
    pub(super) stuck: Option<(Phase, String)>,
    /// Programs in the order in which they were begun, and who ran them.
    pub(super) begun: Vec<(String, InstanceId)>,
    /// For how many half seconds instances have run.
    ages: BTreeMap<InstanceId, usize>,
}

impl Hooks {
    fn report(&mut self, placement: &Placement) -> InstanceStatus {
        let id = placement.instance;
        let age = self.ages.get(&id).copied();
        let (phase, is_ready, message) = match (&self.stuck, age) {
            _ if placement.desired == Desired::Stop => (Phase::Stopped, false, String::new()),
            (Some((phase, why)), None) => (*phase, false, why.clone()),
            _ => {
                if age.is_none() {
                    self.begun.push((placement.spec.command[0].clone(), id));
                }
                let is_over = age.unwrap_or_default() >= self.takes;
                self.ages.insert(id, age.unwrap_or_default() + 1);
                let is_broken = self.broken.as_ref() == Some(&placement.spec.command[0]);
                match (is_over, is_broken) {
                    (false, _) => (Phase::Running, true, String::new()),
                    (true, false) => (Phase::Stopped, true, "ended with exit code 0".to_owned()),
                    (true, true) => (Phase::Stopped, false, "ended with exit code 1".to_owned()),
                }
            }
        };
        InstanceStatus {
            instance: id,
            node: placement.node,
            phase,
            is_ready,
            was_ready: is_ready,
            endpoints: BTreeMap::new(),
            restarts: 0,
            message,
            since_ms: 0,
        }
    }
}

impl World {
    /// A region whose programs know all commands.
    pub(super) fn at_level(nodes: u64) -> Self {
        Self { plain: Plain::of_version(nodes, &insula_state::LEVEL.mark("test")), ..Self::new(nodes) }
    }

    pub(super) fn new(nodes: u64) -> Self {
        let now = Clock::simulated(0).now();
        Self {
            plain: Plain::new(nodes),
            now,
            now_ms: 1_000_000,
            leases: LeaseTable::begin(now, (1..=nodes).map(NodeId::new)),
            memory: Memory::default(),
            rng: Rng::from_seed(5),
            off: BTreeSet::new(),
            sick: BTreeSet::new(),
            broken: None,
            unready: None,
            full: BTreeSet::new(),
            mute: BTreeSet::new(),
            traffic: BTreeMap::new(),
            hooks: Hooks::default(),
        }
    }

    pub(super) fn deploy(&mut self, definition: RegionalDefinition) {
        self.plain.apply(self.now_ms, &RegionCommand::SetDefinition(definition)).expect("newer");
    }

    /// Half a second: renewals, agents, one round of the controllers. Gives what was decided.
    pub(super) fn step(&mut self) -> Vec<RegionCommand> {
        self.now += Duration::from_millis(500);
        self.now_ms += 500;
        self.leases.look(self.now);
        let revision = self.plain.replica.revision();
        let nodes: Vec<NodeId> = self.read(|state| state.nodes.iter().map(|(id, _)| *id).collect());
        for node in nodes.into_iter().filter(|node| !self.off.contains(node)).collect::<Vec<_>>() {
            let catalog_revision = if self.mute.contains(&node) { Revision(0) } else { revision };
            let traffic = self.traffic.get(&node).cloned();
            let is_disk_full = self.full.contains(&node);
            let renewal = Renewal { catalog_revision, traffic, is_disk_full, ..Renewal::default() };
            self.leases.renew(self.now, node, &renewal);
            self.agent(node);
        }
        let rng = self.rng.clone();
        let (memory, leases, time) = (&mut self.memory, &self.leases, (self.now, self.now_ms));
        let mut new_id = || InstanceId::new(rng.next());
        let commands = self.plain.replica.read(|state| memory.round(state, None, leases, time, &mut new_id));
        for command in &commands {
            self.plain.apply(self.now_ms, command).expect("decisions fit the state that they were made on");
        }
        commands
    }

    /// What an agent reports that does everything at once.
    fn agent(&mut self, node: NodeId) {
        let status = |placement: &Placement| {
            let is_broken = self.unready == Some(node)
                || self.broken.is_some_and(|tag| placement.spec.command == spec(tag).command);
            let runs = placement.desired != Desired::Stop;
            let before = self.read(|state| state.statuses.get(&placement.instance).map(|status| status.was_ready));
            let has_space = !self.full.contains(&node) || before == Some(true);
            // Broken ones end, and are left so.
            let is_over = is_broken && placement.spec.restart.policy == RestartPolicy::Never;
            InstanceStatus {
                instance: placement.instance,
                node,
                phase: match runs && !is_over {
                    true if has_space => Phase::Running,
                    true => Phase::Backoff,
                    false => Phase::Stopped,
                },
                is_ready: runs && has_space && !is_broken && !is_over && !self.sick.contains(&placement.instance),
                was_ready: runs && has_space && !is_broken && !is_over,
                endpoints: BTreeMap::new(),
                restarts: if is_broken && !is_over { 3 } else { 0 },
                message: match (is_broken, has_space) {
                    (true, _) => "ended with exit code 1".to_owned(),
                    (_, false) => "no space left on device".to_owned(),
                    _ => String::new(),
                },
                since_ms: 0,
            }
        };
        let placed: Vec<Placement> = self.read(|state| state.placements_of(node).cloned().collect());
        let (of_hooks, placed): (Vec<_>, Vec<_>) = placed.into_iter().partition(|one| one.hook.is_some());
        let statuses: Vec<_> = placed.iter().map(status).collect();
        let statuses = of_hooks.iter().map(|one| self.hooks.report(one)).chain(statuses).collect();
        self.plain.apply(self.now_ms, &RegionCommand::ReportStatus { node, statuses }).expect("a member");
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&RegionState) -> R) -> R {
        self.plain.replica.read(read)
    }

    /// Instances that get requests: ready, shall run, on a node that is on.
    pub(super) fn serving(&self) -> Vec<Placement> {
        self.read(|state| {
            let serves = |p: &&Placement| {
                p.desired == Desired::Run
                    && p.hook.is_none()
                    && !self.off.contains(&p.node)
                    && state.statuses.get(&p.instance).is_some_and(|status| status.is_ready)
            };
            state.placements.values().filter(serves).cloned().collect()
        })
    }

    pub(super) fn placed(&self) -> usize {
        self.read(|state| state.placements.len())
    }

    /// Another leads from now on, which has seen nothing yet of what only a leader's memory holds.
    pub(super) fn change_leader(&mut self) {
        self.memory = Memory::default();
        let nodes: Vec<NodeId> = self.read(|state| state.nodes.iter().map(|(id, _)| *id).collect());
        self.leases = LeaseTable::begin(self.now, nodes);
    }

    pub(super) fn duty(&mut self, id: u64, duty: NodeDuty) {
        self.plain.apply(0, &RegionCommand::SetNodeDuty { id: NodeId::new(id), duty }).expect("a member");
    }

    pub(super) fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }
}

pub(super) fn tokio_time<R>(run: impl FnOnce() -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("runtime").block_on(async { run() })
}

#[tokio::test(start_paused = true)]
async fn places_scales_and_takes_away() {
    let mut world = World::new(3);
    world.deploy(definition(1, 3));
    world.steps(2);
    let nodes: BTreeSet<NodeId> = world.serving().iter().map(|placement| placement.node).collect();
    assert_eq!(nodes.len(), 3, "one on each");
    assert!(world.serving().iter().all(|placement| !placement.reasons.is_empty()));
    world.deploy(definition(1, 1));
    world.steps(6);
    assert_eq!((world.serving().len(), world.placed()), (1, 1));
    world.deploy(definition(1, 4));
    world.steps(3);
    assert_eq!((world.serving().len(), world.placed()), (4, 4));
    world.plain.apply(0, &RegionCommand::RemoveDefinition { app: "shop".parse().expect("a name") }).expect("there");
    world.steps(6);
    assert_eq!(world.placed(), 0);
    assert_eq!(world.step(), [], "nothing is left to do");
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_gives_away_what_it_runs_and_no_request_is_lost() {
    let mut world = World::new(3);
    world.deploy(definition(1, 4));
    world.steps(3);
    for id in 1..=3 {
        world.duty(id, NodeDuty::Drain);
        let mut steps = 0;
        while world.read(|state| state.placements_of(NodeId::new(id)).count()) > 0 {
            world.step();
            steps += 1;
            assert!(world.serving().len() >= 4, "always as many as are wanted");
            assert!(world.placed() <= 6, "one more, and those that stop");
            assert!(steps < 40, "node {id} is not empty");
        }
        world.duty(id, NodeDuty::Serve);
    }
    world.steps(4);
    assert_eq!((world.serving().len(), world.placed()), (4, 4));

    for id in 1..=3 {
        world.duty(id, NodeDuty::Drain);
    }
    world.steps(10);
    assert_eq!((world.serving().len(), world.placed()), (4, 4), "with nowhere to go they stay");
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_replaced_and_stops_its_own_when_it_is_back() {
    let mut world = World::new(3);
    world.deploy(definition(1, 3));
    world.steps(3);
    let lost = NodeId::new(2);
    world.off.insert(lost);
    let silent_at = world.now;
    while world.serving().len() < 3 {
        world.step();
        assert!(world.now - silent_at <= Duration::from_secs(5), "lease 2.5 s and some rounds");
    }
    let of_lost = |state: &RegionState| state.placements_of(lost).map(|p| p.desired).collect::<Vec<_>>();
    assert_eq!(world.read(of_lost), [Desired::Stop], "a node that comes back shall stop it");
    world.off.clear();
    world.steps(1);
    assert!(world.read(|state| !state.nodes.get(&lost).expect("member").health.is_up()), "one renewal is not enough");
    world.steps(5);
    assert!(world.read(|state| state.nodes.get(&lost).expect("member").health.is_up()));
    assert_eq!(world.placed(), 3);
    world.steps(20);
    assert_eq!((world.serving().len(), world.placed()), (3, 3), "and nothing is moved back");

    world.off.insert(lost);
    world.off.insert(NodeId::new(3));
    world.steps(140);
    assert!(world.read(|state| state.placements.values().all(|p| p.node == NodeId::new(1))), "forgotten in the end");
    assert_eq!(world.serving().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_release_never_takes_a_ready_one_away_too_early() {
    let mut world = World::new(3);
    world.deploy(definition(1, 3));
    world.steps(3);
    world.deploy(definition(2, 3));
    for step in 0.. {
        world.step();
        assert!(world.serving().len() >= 3, "never fewer than wanted");
        let running = world.read(|state| state.placements.values().filter(|p| p.desired == Desired::Run).count());
        assert!(running <= 4, "one more than wanted at most");
        if world.placed() == 3 && world.serving().iter().all(|p| p.spec == spec(2)) {
            break;
        }
        assert!(step < 60, "the release comes to its end");
    }
    let nodes: BTreeSet<NodeId> = world.serving().iter().map(|placement| placement.node).collect();
    assert_eq!(nodes.len(), 3, "spread as before");

    // A broken release stops at its first instance, and the next one goes over it.
    world.broken = Some(3);
    world.deploy(definition(3, 3));
    world.steps(20);
    assert_eq!((world.serving().len(), world.placed()), (3, 4));
    world.deploy(definition(4, 3));
    world.steps(60);
    assert!(world.serving().iter().all(|placement| placement.spec == spec(4)));
    assert_eq!((world.serving().len(), world.placed()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_drained_one_is_stopped_when_all_edges_know_or_after_a_while() {
    let mut world = World::new(2);
    world.deploy(definition(1, 2));
    world.steps(3);
    world.mute.insert(NodeId::new(1));
    world.deploy(definition(1, 1));
    let stopped = |world: &World| world.read(|state| state.placements.values().any(|p| p.desired == Desired::Stop));
    world.steps(20);
    assert!(!stopped(&world), "node 1 still sends requests there");
    assert_eq!(world.placed(), 2);
    world.steps(16);
    assert_eq!(world.placed(), 1, "it has had its time");

    world.deploy(definition(1, 2));
    world.steps(3);
    world.off.insert(NodeId::new(1));
    world.steps(20);
    assert_eq!(world.serving().len(), 2, "a mute node that is down is not waited for");
}

#[tokio::test(start_paused = true)]
async fn what_fits_nowhere_is_told_once_and_placed_later() {
    let mut world = World::new(1);
    let mut large = definition(1, 2);
    for service in large.services.values_mut() {
        service.spec.resources.memory = ByteSize::mib(3000);
    }
    world.deploy(large);
    world.steps(10);
    assert_eq!(world.serving().len(), 1);
    let told = world.read(|state| state.events.values().filter(|e| e.text.contains("no room")).count());
    assert_eq!(told, 1);
    let join = RegionCommand::Join { token: "t".into(), secret_hash: "7".into(), node: Box::new(node(2, "fra2")) };
    world.plain.apply(0, &join).expect("good");
    world.steps(3);
    assert_eq!(world.serving().len(), 2);
}

#[derive(Debug, Clone)]
enum Happening {
    Deploy(u32),
    Scale(u32),
    Toggle(u64),
    Duty(u64, NodeDuty),
    Sick(prop::sample::Index),
    Steps(usize),
}

fn happenings() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..5u32).prop_map(Happening::Deploy),
        (0..7u32).prop_map(Happening::Scale),
        (1..=4u64).prop_map(Happening::Toggle),
        (1..=4u64, prop::sample::select(vec![NodeDuty::Serve, NodeDuty::Cordon, NodeDuty::Drain]))
            .prop_map(|(id, duty)| Happening::Duty(id, duty)),
        any::<prop::sample::Index>().prop_map(Happening::Sick),
        (1..12usize).prop_map(Happening::Steps),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_happens_it_ends_as_wanted(happenings in prop::collection::vec(happenings(), 0..20)) {
        tokio_time(|| {
            let mut world = World::new(4);
            let (mut release, mut scale) = (1, 2);
            for happening in happenings {
                match happening {
                    Happening::Deploy(by) => release += u64::from(by),
                    Happening::Scale(to) => scale = to,
                    Happening::Toggle(id) => {
                        let id = NodeId::new(id);
                        if !world.off.remove(&id) {
                            world.off.insert(id);
                        }
                    }
                    Happening::Duty(id, duty) => world.duty(id, duty),
                    Happening::Sick(which) => {
                        let all: Vec<InstanceId> = world.read(|s| s.placements.iter().map(|(id, _)| *id).collect());
                        if !all.is_empty() {
                            world.sick.insert(*which.get(&all));
                        }
                    }
                    Happening::Steps(count) => world.steps(count),
                }
                world.deploy(definition(release, scale));
            }
            world.off.clear();
            world.sick.clear();
            for id in 1..=4 {
                world.duty(id, NodeDuty::Serve);
            }
            world.deploy(definition(release, scale));
            world.steps(160);
            assert_eq!((world.serving().len(), world.placed()), (scale as usize, scale as usize));
            assert!(world.serving().iter().all(|placement| placement.spec == spec(release)));
            assert_eq!(world.step(), [], "and then there is nothing to do");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn stopped_instances_of_a_dead_node_are_forgotten_by_whatever_clock() {
    for ahead_ms in [0, 900_000] {
        let mut world = World::new(3);
        world.deploy(definition(1, 3));
        world.steps(20);
        let dead = NodeId::new(3);
        world.off.insert(dead);
        world.steps(20);
        let left = |world: &World| world.read(|state| state.placements_of(dead).count());
        assert_eq!(left(&world), 1, "it may come back and confirm");
        // Another leads from now on, and its clock was not ahead.
        world.now_ms -= ahead_ms;
        world.steps(130);
        assert_eq!(left(&world), 0, "{ahead_ms} ms ahead");
    }
}
