//! The running service over a proposer that applies at once, on one or two nodes, in virtual time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use insula_env::{Clock, Env, RealDisk, Rng, TaskGroup, clock};
use insula_state::{GlobalState, Leadership, ProposeError, Proposer, RegionCommand, RegionState, Replica, Store};
use insula_types::{Desired, InstanceStatus, NodeId, Phase, Renewal, RequestId, Term};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::region::{Plain, definition};
use crate::{Control, NotLeader};

/// One region group that all nodes of the test share.
#[derive(Debug, Clone)]
struct Group {
    plain: Arc<Mutex<Plain>>,
    clock: Clock,
}

/// One node's way into it.
#[derive(Debug)]
struct Seat {
    group: Group,
    leadership: watch::Sender<Leadership>,
    /// Commands hang while it is cut off, and are committed when it is not any more.
    is_cut: watch::Sender<bool>,
    /// Whether a majority confirms that it leads.
    is_confirmed: Arc<AtomicBool>,
}

#[async_trait]
impl Proposer for Seat {
    async fn propose(&self, request: RequestId, command: Vec<u8>, _: Duration) -> Result<Vec<u8>, ProposeError> {
        let mut is_cut = self.is_cut.subscribe();
        let _ = is_cut.wait_for(|is| !is).await;
        clock::sleep(Duration::from_millis(5)).await;
        Ok(self.group.plain.lock().apply_bytes(request, self.group.clock.wall_ms(), command))
    }
    async fn barrier(&self, _: Duration) -> Result<(), ProposeError> {
        Ok(())
    }
    async fn recall(&self, _: RequestId, _: Duration) -> Result<Option<Vec<u8>>, ProposeError> {
        Ok(None)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}

/// The global group is away: the region goes on alone.
#[derive(Debug)]
struct Away;

#[async_trait]
impl Proposer for Away {
    async fn propose(&self, _: RequestId, _: Vec<u8>, _: Duration) -> Result<Vec<u8>, ProposeError> {
        Err(ProposeError::Unavailable { why: "away".into() })
    }
    async fn barrier(&self, limit: Duration) -> Result<(), ProposeError> {
        clock::sleep(limit).await;
        Err(ProposeError::Unavailable { why: "away".into() })
    }
    async fn recall(&self, _: RequestId, _: Duration) -> Result<Option<Vec<u8>>, ProposeError> {
        Ok(None)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        watch::channel(Leadership::default()).1
    }
}

struct Bench {
    group: Group,
    env: Env,
    seats: Vec<(Arc<Seat>, Arc<Control>)>,
}

impl Bench {
    /// Three nodes, of which each has a controller and the first leads.
    fn new() -> Self {
        let clock = Clock::simulated(1_000_000);
        let env = Env {
            clock: clock.clone(),
            rng: Rng::from_seed(11),
            disk: Arc::new(RealDisk),
            tasks: TaskGroup::new("bench"),
        };
        let group = Group { plain: Arc::new(Mutex::new(Plain::new(3))), clock };
        let replica = Arc::clone(&group.plain.lock().replica);
        let seats = (1..=3).map(|id| {
            let (leadership, is_cut) = (watch::channel(Leadership::default()).0, watch::channel(false).0);
            let is_confirmed = Arc::new(AtomicBool::new(true));
            let confirmed = Arc::clone(&is_confirmed);
            let seat = Arc::new(Seat { group: group.clone(), leadership, is_cut, is_confirmed });
            let region =
                Store::<RegionState>::new(Arc::clone(&replica), seat.clone(), env.clock.clone(), env.rng.fork());
            let global = Store::<GlobalState>::new(Replica::new(), Arc::new(Away), env.clock.clone(), env.rng.fork());
            let control = Control::start(
                &env,
                NodeId::new(id),
                region,
                global,
                Arc::new(move || confirmed.load(Ordering::Relaxed)),
            );
            (seat, control)
        });
        let seats = seats.collect();
        let bench = Self { group, env, seats };
        bench.lead(0, 1);
        bench
    }

    fn lead(&self, seat: usize, term: u64) {
        for (at, (one, _)) in self.seats.iter().enumerate() {
            let leader = Some(NodeId::new(seat as u64 + 1));
            if at == seat {
                one.leadership.send_replace(Leadership { leader, term: Term(term), is_me: true });
            }
        }
    }

    fn unseat(&self, seat: usize) {
        self.seats[seat].0.leadership.send_replace(Leadership::default());
    }

    /// Nodes renew with `leader` and do what is placed, for so long.
    async fn live(&self, leader: usize, nodes: &[u64], time: Duration) {
        let until = self.env.clock.now() + time;
        while self.env.clock.now() < until {
            for id in nodes {
                let node = NodeId::new(*id);
                let catalog_revision = self.read(|_, revision| revision);
                let _ = self.seats[leader].1.renew(node, &Renewal { catalog_revision, ..Renewal::default() });
                let statuses = self.read(|state, _| {
                    state
                        .placements_of(node)
                        .map(|placement| InstanceStatus {
                            instance: placement.instance,
                            node,
                            phase: if placement.desired == Desired::Stop { Phase::Stopped } else { Phase::Running },
                            is_ready: placement.desired != Desired::Stop,
                            was_ready: true,
                            endpoints: BTreeMap::new(),
                            restarts: 0,
                            message: String::new(),
                            since_ms: 0,
                        })
                        .collect()
                });
                self.commit(&RegionCommand::ReportStatus { node, statuses });
            }
            clock::sleep(Duration::from_millis(250)).await;
        }
    }

    fn commit(&self, command: &RegionCommand) {
        self.group.plain.lock().apply(self.env.clock.wall_ms(), command).expect("good");
    }

    fn read<R>(&self, read: impl FnOnce(&RegionState, insula_types::Revision) -> R) -> R {
        let replica = Arc::clone(&self.group.plain.lock().replica);
        replica.read_at(read)
    }

    fn up(&self) -> usize {
        self.read(|state, _| state.nodes.values().filter(|node| node.health.is_up()).count())
    }

    fn run(&self) -> Vec<u64> {
        self.read(|state, _| {
            let run = state.placements.values().filter(|placement| placement.desired == Desired::Run);
            let mut nodes: Vec<u64> = run.map(|placement| placement.node.get()).collect();
            nodes.sort_unstable();
            nodes
        })
    }
}

#[tokio::test(start_paused = true)]
async fn leads_places_and_replaces_without_the_global_group() {
    let bench = Bench::new();
    bench.commit(&RegionCommand::SetDefinition(definition(1, 3)));
    bench.live(0, &[1, 2, 3], Duration::from_secs(4)).await;
    assert_eq!(bench.run(), [1, 2, 3]);
    assert_eq!(bench.seats[1].1.renew(NodeId::new(1), &Renewal::default()), Err(NotLeader));
    assert_eq!(bench.seats[0].1.loads().map(|loads| loads.len()), Some(3));
    bench.live(0, &[1, 2], Duration::from_millis(4500)).await;
    assert_eq!(bench.run().len(), 3);
    assert!(!bench.run().contains(&3), "{:?}", bench.run());
    bench.live(0, &[1, 2, 3], Duration::from_secs(4)).await;
    assert_eq!(bench.up(), 3);
    assert_eq!(bench.read(|state, _| state.placements.len()), 3, "what the node had is gone");
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_gives_everyone_a_full_lease() {
    let bench = Bench::new();
    bench.commit(&RegionCommand::SetDefinition(definition(1, 3)));
    bench.live(0, &[1, 2, 3], Duration::from_secs(4)).await;
    bench.unseat(0);
    clock::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.seats[0].1.renew(NodeId::new(1), &Renewal::default()), Err(NotLeader));
    bench.lead(1, 2);
    clock::sleep(Duration::from_millis(2400)).await;
    assert_eq!(bench.up(), 3, "nobody could renew for a minute, and nobody is blamed");
    bench.live(1, &[2, 3], Duration::from_secs(2)).await;
    assert_eq!(bench.up(), 2, "but one that stays silent is down");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_nobody_reached_for_a_while_blames_nobody() {
    for unreached in [Duration::from_millis(800), Duration::from_secs(6)] {
        let bench = Bench::new();
        bench.commit(&RegionCommand::SetDefinition(definition(1, 3)));
        bench.live(0, &[1, 2, 3], Duration::from_secs(4)).await;
        bench.seats[0].0.is_confirmed.store(false, Ordering::Relaxed);
        bench.live(0, &[1, 2, 3], unreached).await;
        bench.seats[0].0.is_confirmed.store(true, Ordering::Relaxed);
        clock::sleep(Duration::from_millis(2300)).await;
        assert_eq!(bench.up(), 3, "it took no renewals for {unreached:?}");
        bench.live(0, &[1, 2], Duration::from_secs(2)).await;
        assert_eq!(bench.up(), 2, "but one that stays silent is down");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_replaced_leader_still_wants_is_refused() {
    let bench = Bench::new();
    bench.live(0, &[1, 2, 3], Duration::from_secs(2)).await;
    // The leader is cut off: it hears no renewals, and wants everyone to be down.
    bench.seats[0].0.is_cut.send_replace(true);
    bench.lead(1, 2);
    bench.live(1, &[1, 2, 3], Duration::from_secs(5)).await;
    assert_eq!(bench.up(), 3);
    bench.seats[0].0.is_cut.send_replace(false);
    clock::sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.up(), 3, "its old decision came through and was refused");
    bench.unseat(0);
    bench.live(1, &[1, 2, 3], Duration::from_secs(3)).await;
    assert_eq!(bench.up(), 3);
    let epoch = bench.read(|state, _| state.control.map(|control| (control.epoch, control.node)));
    assert!(epoch.is_some_and(|(epoch, _)| epoch >= 2));
    let stale = RegionCommand::Controlled { epoch: 1, command: Box::new(RegionCommand::RemovePlacements(Vec::new())) };
    assert!(bench.group.plain.lock().apply(0, &stale).is_err());
}
