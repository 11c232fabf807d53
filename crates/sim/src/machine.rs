//! A machine: what outlives its process (disk, clock, instances), and its process (group, controllers, agent).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use insula_agent::{Agent, Parts, testing::FakeRuntime};
use insula_container::NodeLabels;
use insula_control::{Control, start_voters};
use insula_env::{Clock, Env, Rng, TaskGroup, clock::sleep, memory::MemoryDisk};
use insula_raft::{Config, Group, GroupId, GroupState};
use insula_state::{GlobalState, Leadership, Machine as StateMachine, RegionState, Replica, Store};
use insula_types::{Incarnation, Node, NodeId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    checks::Checks,
    net::{Endpoint, Net, Wire},
    proposer::{Glue, Reports, ToLeader, Voters},
};

/// The region's group.
const GROUP: GroupId = GroupId(1);
/// Disk work takes so long when nothing is wrong.
pub(crate) const DISK_DELAY: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(4));

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
    pub(crate) node: Node,
    pub(crate) disk: MemoryDisk,
    pub(crate) runtime: FakeRuntime,
    pub(crate) clock: Clock,
    around: Surroundings,
    rng: Rng,
    lives: AtomicU64,
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
    pub(crate) fn new(node: Node, clock: Clock, rng: &Rng, around: Surroundings) -> Self {
        let disk = MemoryDisk::new(clock.clone(), rng.fork());
        disk.set_delay(DISK_DELAY.0, DISK_DELAY.1);
        Self {
            node,
            disk,
            runtime: FakeRuntime::new(clock.clone()),
            clock,
            around,
            rng: rng.fork(),
            lives: AtomicU64::new(0),
            tasks: Mutex::new(None),
            process: Arc::default(),
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.node.id
    }

    /// Its process, once it is up.
    pub(crate) fn process(&self) -> Option<Process> {
        self.process.lock().clone()
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
        self.around.net.set_dark(self.id(), false);
        let start = Start {
            node: self.node.clone(),
            env: Env {
                clock: self.clock.clone(),
                rng: self.rng.fork(),
                disk: Arc::new(self.disk.clone()),
                tasks: tasks.clone(),
            },
            runtime: self.runtime.clone(),
            around: self.around.clone(),
            life: self.lives.fetch_add(1, Ordering::Relaxed),
            process: Arc::clone(&self.process),
        };
        tasks.spawn("start", start.run());
    }

    /// Kills the process at once.
    pub(crate) fn kill(&self) {
        self.around.net.detach(self.id());
        self.process.lock().take();
        if let Some(tasks) = self.tasks.lock().take() {
            tasks.crash();
        }
        self.disk.kill_process();
    }

    /// Cuts the power.
    pub(crate) fn power_off(&self) {
        self.around.net.set_dark(self.id(), true);
        self.kill();
        self.disk.lose_power(self.rng.next());
        self.disk.set_delay(DISK_DELAY.0, DISK_DELAY.1);
        self.runtime.power_off();
    }

    /// Whether the group has stopped by itself, which only a restart mends.
    pub(crate) fn has_failed(&self) -> bool {
        self.process().is_some_and(|process| *process.group.state().borrow() != GroupState::Running)
    }
}

/// A process that is coming up.
struct Start {
    node: Node,
    env: Env,
    runtime: FakeRuntime,
    around: Surroundings,
    life: u64,
    process: Arc<Mutex<Option<Process>>>,
}

impl Start {
    async fn run(self) {
        let replica = Replica::<RegionState>::new();
        let group = loop {
            let mut config = Config::new(self.node.id, GROUP, Incarnation(1), "state/region");
            config.snapshot_every = self.around.snapshot_every;
            config.entries_kept = self.around.snapshot_every / 4;
            let wire = Arc::new(Wire { net: self.around.net.clone(), node: self.node.id });
            let machine = Glue(StateMachine::new(Arc::clone(&replica)));
            match Group::open(config, self.env.clone(), wire, machine).await {
                Ok(group) => break group,
                Err(error) => {
                    self.around.checks.may_not_open(self.node.id, &error);
                    sleep(Duration::from_secs(1)).await;
                }
            }
        };
        self.around.checks.follow(&self.env.tasks, self.node.id, &replica, &group);
        let (node, env, around) = (self.node.id, &self.env, &self.around);
        let to_leader = ToLeader {
            node,
            net: around.net.clone(),
            group: group.clone(),
            clock: env.clock.clone(),
            leadership: leadership(&env.tasks, &group),
        };
        let region = Store::new(Arc::clone(&replica), Arc::new(to_leader.clone()), env.clock.clone(), env.rng.fork());
        let control = Control::start(env, node, region.clone(), around.global.clone());
        start_voters(env, region.clone(), to_leader.leadership.clone(), Arc::new(Voters(group.clone())));
        let parts = Parts {
            node,
            labels: NodeLabels {
                name: self.node.name.clone(),
                region: self.node.region.clone(),
                datacenter: self.node.datacenter.clone(),
            },
            path: "agent/placements".into(),
            region: region.clone(),
            runtime: Arc::new(self.runtime.clone()),
            prober: Arc::new(self.runtime.clone()),
            reporter: Arc::new(Reports { node, region: region.clone() }),
        };
        Agent::start(env, parts);
        // The data plane is not here: what this node knows counts as routed by.
        insula_agent::start_renewals(env, Arc::new(to_leader), replica.changed(), Default::default);
        around.net.attach(node, Endpoint { life: self.life, group: group.clone(), control });
        *self.process.lock() = Some(Process { group, region });
    }
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
