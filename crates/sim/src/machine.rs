//! A machine: what outlives its process (disk, clock, instances), and its process (group, controllers, agent).

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use insula_agent::{
    Agent, Parts,
    testing::{FakeRuntime, FakeSecrets},
};
use insula_container::NodeLabels;
use insula_control::{Control, start_levels, start_voters};
use insula_env::{Clock, Disk, Env, Rng, TaskGroup, clock::sleep, memory::MemoryDisk};
use insula_raft::{Config, Group, GroupId, GroupState, OpenError};
use insula_state::{
    GlobalState, LEVEL, Leadership, Machine as StateMachine, ProposeError, RegionCommand, RegionState, Replica, Store,
    region::NodeTrust,
};
use insula_types::{Incarnation, Level, Node, NodeId, codec};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    checks::Checks,
    follow,
    net::{Endpoint, Net, Wire, node_of},
    proposer::{Answer, Glue, Reports, ToLeader, Voters},
    world::node,
};

/// The region's group.
const GROUP: GroupId = GroupId(1);
/// Disk work takes so long when nothing is wrong.
pub(crate) const DISK_DELAY: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(4));
/// A voter that is away for longer is replaced: sooner than in life, so that runs see it.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(20);
/// The timers follow what is measured so often: sooner than in life, too.
const RETIME_EVERY: Duration = Duration::from_secs(8);
/// The level is raised so soon: sooner than in life, and later than a join takes.
const BAKE: Duration = Duration::from_secs(6);
/// Wait after a start, or a join, that did not succeed.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// Who this machine is: an encoded node id. Gone with the disk.
const IDENTITY: &str = "identity";
/// Says that it is a member of the region.
const MEMBER: &str = "member";
/// Says that the group's files have been made.
const HOME: &str = "home";
/// The group's files.
const STATE: [&str; 2] = ["state/region/log.redb", "state/region/state.redb"];

/// What all machines share.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) net: Net,
    pub(crate) checks: Checks,
    pub(crate) global: Store<GlobalState>,
    /// Entries between two snapshots.
    pub(crate) snapshot_every: u64,
}

/// One machine.
pub(crate) struct Machine {
    pub(crate) number: u64,
    pub(crate) disk: MemoryDisk,
    pub(crate) runtime: FakeRuntime,
    pub(crate) clock: Clock,
    around: Surroundings,
    rng: Rng,
    /// What its program knows.
    level: AtomicU32,
    lives: AtomicU64,
    /// How often it was given a new identity, which is one more than its node's number of births.
    births: Arc<AtomicU64>,
    tasks: Mutex<Option<TaskGroup>>,
    process: Arc<Mutex<Option<Process>>>,
}

/// A started process, as clients and checks see it.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) group: Group,
    pub(crate) region: Store<RegionState>,
}

impl Machine {
    pub(crate) fn new(number: u64, level: Level, clock: Clock, rng: &Rng, around: Surroundings) -> Self {
        let disk = MemoryDisk::new(clock.clone(), rng.fork());
        disk.set_delay(DISK_DELAY.0, DISK_DELAY.1);
        Self {
            number,
            disk,
            runtime: FakeRuntime::new(clock.clone()),
            clock,
            around,
            rng: rng.fork(),
            level: AtomicU32::new(level.0),
            lives: AtomicU64::new(0),
            births: Arc::default(),
            tasks: Mutex::new(None),
            process: Arc::default(),
        }
    }

    /// The node that it is now.
    pub(crate) fn id(&self) -> NodeId {
        node_of(self.number, self.births.load(Ordering::Relaxed).saturating_sub(1))
    }

    /// What its program knows.
    pub(crate) fn level(&self) -> Level {
        Level(self.level.load(Ordering::Relaxed))
    }

    /// Kills the process; the next one will know all.
    pub(crate) fn upgrade(&self) {
        self.kill();
        self.level.store(LEVEL.0, Ordering::Relaxed);
    }

    /// Its process, once it is up.
    pub(crate) fn process(&self) -> Option<Process> {
        self.process.lock().clone()
    }

    /// Whether it has ever been started.
    pub(crate) fn has_joined(&self) -> bool {
        self.lives.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn is_started(&self) -> bool {
        self.tasks.lock().is_some()
    }

    /// Starts the process, unless it runs. It comes up by itself, and tries again while its disk does not let it.
    pub(crate) fn start(&self) {
        let tasks = TaskGroup::new("process");
        {
            let mut current = self.tasks.lock();
            if current.is_some() {
                return;
            }
            *current = Some(tasks.clone());
        }
        self.around.net.set_dark(self.number, false);
        let start = Start {
            number: self.number,
            level: self.level(),
            env: Env {
                clock: self.clock.clone(),
                rng: self.rng.fork(),
                disk: Arc::new(self.disk.clone()),
                tasks: tasks.clone(),
            },
            disk: self.disk.clone(),
            runtime: self.runtime.clone(),
            around: self.around.clone(),
            life: self.lives.fetch_add(1, Ordering::Relaxed),
            births: Arc::clone(&self.births),
            process: Arc::clone(&self.process),
        };
        tasks.spawn("start", start.run());
    }

    /// Kills the process at once.
    pub(crate) fn kill(&self) {
        self.around.net.detach(self.number);
        self.process.lock().take();
        if let Some(tasks) = self.tasks.lock().take() {
            tasks.crash();
        }
        self.disk.kill_process();
    }

    /// Cuts the power.
    pub(crate) fn power_off(&self) {
        self.around.net.set_dark(self.number, true);
        self.kill();
        self.disk.lose_power(self.rng.next());
        self.disk.set_delay(DISK_DELAY.0, DISK_DELAY.1);
        self.runtime.power_off();
    }

    /// The group's files are gone; who it is, it still knows. Only while it is not running.
    pub(crate) fn forget_state(&self) {
        for path in STATE {
            self.disk.remove(Path::new(path)).expect("a disk in memory removes files");
        }
    }

    /// Whether the group has stopped by itself, which only a restart mends.
    pub(crate) fn has_failed(&self) -> bool {
        self.process().is_some_and(|process| *process.group.state().borrow() != GroupState::Running)
    }
}

/// A process that is coming up.
struct Start {
    number: u64,
    level: Level,
    env: Env,
    disk: MemoryDisk,
    runtime: FakeRuntime,
    around: Surroundings,
    life: u64,
    births: Arc<AtomicU64>,
    process: Arc<Mutex<Option<Process>>>,
}

impl Start {
    async fn run(self) {
        let replica = Replica::<RegionState>::new();
        let (node, group) = loop {
            let Some(id) = self.identity() else {
                sleep(RETRY_WAIT).await;
                continue;
            };
            let node = node(id, self.level);
            self.join(&node).await;
            let mut config = Config::new(id, GROUP, Incarnation(1), "state/region");
            config.snapshot_every = self.around.snapshot_every;
            config.entries_kept = self.around.snapshot_every / 4;
            config.retime_every = RETIME_EVERY;
            config.must_exist = self.has(HOME);
            let members = Arc::clone(&replica);
            config.admit = Arc::new(move |node| !members.read(|region| region.tombstones.contains(&node)));
            let wire = Arc::new(Wire { net: self.around.net.clone(), node: id });
            let machine = StateMachine::new(Arc::clone(&replica)).knowing(self.level);
            let machine = Glue { node: id, machine, checks: self.around.checks.clone() };
            match Group::open(config, self.env.clone(), wire, machine).await {
                Ok(group) if self.write(HOME, b"") => break (node, group),
                // Without the mark, a lost state would go unnoticed.
                Ok(group) => group.shutdown().await,
                Err(OpenError::Gone { .. }) => {
                    self.around.checks.trace().event(&format!("{id} has lost its state, and begins anew"));
                    self.disk.wipe();
                    continue;
                }
                Err(error) => self.around.checks.may_not_open(id, &error),
            }
            sleep(RETRY_WAIT).await;
        };
        self.begin(node, group, &replica);
    }

    /// Starts all parts over a group that is open.
    fn begin(&self, node: Node, group: Group, replica: &Arc<Replica<RegionState>>) {
        let (id, env, around) = (node.id, &self.env, &self.around);
        around.checks.follow(&env.tasks, id, replica, &group);
        let to_leader = ToLeader {
            node: id,
            net: around.net.clone(),
            group: group.clone(),
            replica: Arc::clone(replica),
            clock: env.clock.clone(),
            rng: env.rng.fork(),
            leadership: leadership(&env.tasks, &group),
        };
        let region = Store::new(Arc::clone(replica), Arc::new(to_leader.clone()), env.clock.clone(), env.rng.fork())
            .knowing(self.level);
        let leads = group.clone();
        let confirmed = Arc::new(move || leads.is_confirmed());
        let control = Control::start(env, id, region.clone(), around.global.clone(), confirmed);
        let voters = Arc::new(Voters(group.clone()));
        start_voters(env, region.clone(), to_leader.leadership.clone(), voters, DEAD_AFTER);
        start_levels(env, region.clone(), around.global.clone(), BAKE);
        introduce(env, &node, region.clone(), around.checks.clone());
        follow::start(env, around, &node, group.clone(), Arc::clone(replica));
        let parts = Parts {
            node: id,
            labels: NodeLabels { name: node.name, region: node.region, datacenter: node.datacenter },
            path: "agent/placements".into(),
            region: region.clone(),
            runtime: Arc::new(self.runtime.clone()),
            prober: Arc::new(self.runtime.clone()),
            reporter: Arc::new(Reports { node: id, region: region.clone() }),
            secrets: Arc::new(FakeSecrets::default()),
            other_images: Arc::new(std::collections::BTreeSet::new),
            refused: Arc::new(|| Box::pin(async { Default::default() })),
        };
        Agent::start(env, parts);
        // The data plane is not here: what this node knows counts as routed by.
        insula_agent::start_renewals(env, Arc::new(to_leader), replica.changed(), Default::default);
        let endpoint = Endpoint { life: self.life, group: group.clone(), region: region.clone(), control };
        around.net.attach(id, endpoint);
        *self.process.lock() = Some(Process { group, region });
    }

    fn has(&self, path: &str) -> bool {
        self.disk.read(Path::new(path)).is_ok()
    }

    fn write(&self, path: &str, bytes: &[u8]) -> bool {
        self.disk.write_atomic(Path::new(path), bytes).is_ok()
    }

    /// Who this machine is: on an empty disk, somebody new. None when the disk does not keep it.
    fn identity(&self) -> Option<NodeId> {
        if let Ok(bytes) = self.disk.read(Path::new(IDENTITY)) {
            return Some(codec::decode(&bytes).expect("as written"));
        }
        let id = node_of(self.number, self.births.load(Ordering::Relaxed));
        self.write(IDENTITY, &codec::encode(&id)).then(|| self.births.fetch_add(1, Ordering::Relaxed))?;
        Some(id)
    }

    /// Asks any member to be taken in, unless it is one. The first node of all founds the region instead.
    async fn join(&self, node: &Node) {
        let is_first = node.id == node_of(1, 0);
        while !is_first && !self.has(MEMBER) {
            let others = self.around.net.others(self.number);
            if let Some(other) = others.get(self.env.rng.range(0, others.len().max(1) as u64) as usize) {
                let node = Box::new(node.clone());
                let command = RegionCommand::Join { token: "join".to_owned(), secret_hash: "7".into(), node };
                let (from, limit) = (node_of(self.number, 0), Duration::from_secs(5));
                let joined = self.around.net.call((from, *other), limit, b"join", |to: Endpoint| async move {
                    let (RegionCommand::Join { node, .. }, region) = (&command, &to.region) else {
                        return Answer(false);
                    };
                    // A program of the first level knows nothing of levels.
                    let takes = region.read(|state| state.takes_in(&node.version).is_ok());
                    let takes = takes || region.known() == Level::FIRST;
                    Answer(takes && region.propose(&command, limit).await.is_ok())
                });
                if joined.await.is_ok_and(|joined| joined.0) && self.write(MEMBER, b"") {
                    return;
                }
            }
            sleep(self.env.rng.jitter(RETRY_WAIT)).await;
        }
    }
}

/// What a process says of itself when it starts. What it trusts, only a program says that knows the command for it.
fn introduce(env: &Env, node: &Node, region: Store<RegionState>, checks: Checks) {
    let (Node { id, address, capacity, version, .. }, rng) = (node.clone(), env.rng.fork());
    env.tasks.spawn("introduction", async move {
        let limit = Duration::from_secs(3);
        let update = RegionCommand::UpdateNode { id, address, capacity, version };
        let trust = NodeTrust { roots: vec!["root".to_owned()], authorities: Vec::new() };
        let report = RegionCommand::ReportTrust { node: id, trust };
        for command in [update, report] {
            while command.level() <= region.known()
                && let Err(error) = region.propose(&command, limit).await
            {
                if let ProposeError::NotYet(_) = error {
                    checks.count("commands that came too early");
                }
                sleep(rng.jitter(RETRY_WAIT)).await;
            }
        }
    });
}

/// Raft's word for who leads, in the state's words.
fn leadership(tasks: &TaskGroup, group: &Group) -> watch::Receiver<Leadership> {
    let mut source = group.leadership();
    let of = |from: insula_raft::Leadership| Leadership { leader: from.leader, term: from.term, is_me: from.is_me };
    let (sender, receiver) = watch::channel(of(*source.borrow()));
    tasks.spawn("leadership", async move {
        while source.changed().await.is_ok() {
            let now = of(*source.borrow_and_update());
            sender.send_if_modified(|known| std::mem::replace(known, now) != now);
        }
    });
    receiver
}
