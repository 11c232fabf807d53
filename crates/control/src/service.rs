//! Runs the controllers while this node leads the region: woken by every change, by leases, and by a timer.

use std::{fmt, sync::Arc, time::Duration};

use insula_env::{Beat, Env, clock};
use insula_state::{GlobalState, Leadership, ProposeError, RegionCommand, RegionState, Store, region::RegionReply};
use insula_types::{Granted, InstanceId, Load, NodeId, Renewal, Term};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use crate::{
    LeaseTable,
    gate::is_tried,
    lease::{LEASE, STALL},
    progress,
    round::Memory,
    voters::chain,
};

/// Longest time between two rounds: what no wake-up told is seen then.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two rounds, so that a burst of changes costs one.
const ROUND_GAP: Duration = Duration::from_millis(10);
/// How long one command may take. More than an election, so that a round does not give up during one.
const PROPOSE_LIMIT: Duration = Duration::from_secs(5);
/// A turn is one command, or the two questions before the first: three of these limits, and something hangs.
const TURN_LIMIT: Duration = PROPOSE_LIMIT.saturating_mul(3);
/// Wait after a round that failed.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// How long a node that was fenced out waits to learn who leads. Should it still lead then, it begins anew, with a full
/// lease for everyone, since it may have been cut off from those that renewed elsewhere.
const STEP_BACK: Duration = Duration::from_secs(1);

/// Says whether a majority of voters has confirmed of late that this node leads. Whoever leads without that may have been
/// replaced already, and must not act on anything outside the replicated state.
pub type Confirmed = Arc<dyn Fn() -> bool + Send + Sync>;

/// The caller must ask the region's leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node does not lead the region: ask the leader")]
pub struct NotLeader;

/// The controllers of one node. Idle unless the node leads.
pub struct Control {
    me: NodeId,
    env: Env,
    region: Store<RegionState>,
    global: Store<GlobalState>,
    confirmed: Confirmed,
    /// Present while this node leads.
    leases: Mutex<Option<LeaseTable>>,
    wake: Notify,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({})", self.me)
    }
}

impl Control {
    /// Starts the controllers in `env`'s task group.
    pub fn start(
        env: &Env,
        me: NodeId,
        region: Store<RegionState>,
        global: Store<GlobalState>,
        confirmed: Confirmed,
    ) -> Arc<Self> {
        let env = Env { rng: env.rng.fork(), ..env.clone() };
        let (leases, wake) = Default::default();
        let control = Arc::new(Self { me, env, region, global, confirmed, leases, wake });
        let run = Arc::clone(&control);
        control.env.tasks.supervise("control", TURN_LIMIT, move |beat| Arc::clone(&run).run(beat));
        control
    }

    /// A node renews its lease. The caller has proved that it is that node.
    ///
    /// # Errors
    /// [`NotLeader`] when another node, or none, leads, or this one is not sure of it.
    pub fn renew(&self, node: NodeId, renewal: &Renewal) -> Result<Granted, NotLeader> {
        if !(self.confirmed)() {
            return Err(NotLeader);
        }
        let is_news = match self.leases.lock().as_mut() {
            Some(leases) => leases.renew(self.env.clock.now(), node, renewal),
            None => return Err(NotLeader),
        };
        if is_news {
            self.wake.notify_one();
        }
        Ok(Granted { lease: LEASE, wall_ms: self.env.clock.wall_ms() })
    }

    /// What the nodes said of their load; none when this node does not lead.
    pub fn loads(&self) -> Option<std::collections::BTreeMap<NodeId, Load>> {
        self.leases.lock().as_ref().map(LeaseTable::loads)
    }

    async fn run(self: Arc<Self>, beat: Beat) {
        let mut leadership = self.region.leadership();
        loop {
            // An error means that the group itself is gone; the task ends and its supervisor looks again.
            let Ok(now) = beat.idle(leadership.wait_for(|now| now.is_me)).await.map(|now| *now) else { return };
            let _reign = self.begin(now.term);
            let is_over = |later: &Leadership| !later.is_me || later.term != now.term;
            let is_fenced = tokio::select! {
                biased;
                over = leadership.wait_for(is_over) => match over {
                    Ok(_) => false,
                    Err(_) => return,
                },
                () = self.lead(&beat) => true,
            };
            info!(term = %now.term, is_fenced, "no longer the region's leader");
            if is_fenced {
                self.pause(self.env.rng.jitter(STEP_BACK)).await;
            }
        }
    }

    /// Gives everyone who is up a full lease. They end with the guard.
    fn begin(&self, term: Term) -> Reign<'_> {
        info!(%term, "leading the region");
        let up = self.region.read(|state| {
            let up = state.nodes.values().filter(|node| node.health.is_up());
            up.map(|node| node.id).collect::<Vec<_>>()
        });
        *self.leases.lock() = Some(LeaseTable::begin(self.env.clock.now(), up));
        Reign(self)
    }

    /// Decides for as long as nobody else does.
    async fn lead(&self, beat: &Beat) {
        let mut memory = Memory::default();
        let mut epoch = None;
        let mut is_global_fresh = false;
        let mut changed = (self.region.replica().changed(), self.global.replica().changed());
        loop {
            beat.alive();
            changed.0.mark_unchanged();
            changed.1.mark_unchanged();
            if !(self.confirmed)() {
                self.pause(ROUND_GAP).await;
                continue;
            }
            self.look(self.env.clock.now());
            match self.round(&mut memory, &mut epoch, &mut is_global_fresh, beat).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    warn!(error = %chain(&error), "controllers' round failed, trying again");
                    self.pause(self.env.rng.jitter(RETRY_WAIT)).await;
                    continue;
                }
            }
            self.pause(ROUND_GAP).await;
            let now = self.env.clock.now();
            let timer = self.env.rng.jitter(ROUND_EVERY);
            let next = self.next_end(&memory).map_or(now + timer, |next| next.min(now + timer));
            beat.idle(async {
                tokio::select! {
                    biased;
                    _ = changed.0.changed() => {}
                    _ = changed.1.changed() => {}
                    () = self.wake.notified() => {}
                    () = self.look_until(next) => {}
                }
            })
            .await;
        }
    }

    /// Sleeps, but goes on looking at the leases: not to look is how the table tells that the leader itself was paused.
    async fn pause(&self, time: Duration) {
        self.look_until(self.env.clock.now() + time).await;
    }

    /// Looks at the leases, unless no majority confirms that this node leads: it takes no renewals then, and must not blame
    /// the nodes for that.
    fn look(&self, now: clock::Instant) {
        if let Some(leases) = self.leases.lock().as_mut() {
            if (self.confirmed)() { leases.look(now) } else { leases.doubt() }
        }
    }

    async fn look_until(&self, until: clock::Instant) {
        loop {
            let now = self.env.clock.now();
            self.look(now);
            if now >= until {
                return;
            }
            clock::sleep_until(until.min(now + STALL / 4)).await;
        }
    }

    fn next_end(&self, memory: &Memory) -> Option<clock::Instant> {
        let now = self.env.clock.now();
        let lease = self.leases.lock().as_ref().and_then(|leases| leases.next_end(now));
        lease.into_iter().chain(memory.next_due(now)).min()
    }

    /// Decides and commits. False when another node has taken control.
    async fn round(
        &self,
        memory: &mut Memory,
        epoch: &mut Option<u64>,
        is_global_fresh: &mut bool,
        beat: &Beat,
    ) -> Result<bool, ProposeError> {
        let epoch_now = match *epoch {
            Some(epoch) => epoch,
            None => *epoch.insert(self.take_control().await?),
        };
        if !*is_global_fresh {
            // Deriving from a copy older than the one an earlier leader saw would take back what it did. Without the
            // global group the region goes on with the definitions that it has.
            let barrier = self.with_looks(self.global.read_linearizable(ROUND_EVERY, |_| ())).await;
            *is_global_fresh = barrier.is_ok();
        }
        for command in self.decide(memory, *is_global_fresh) {
            beat.alive();
            debug!(?command, "decided");
            let command = RegionCommand::Controlled { epoch: epoch_now, command: Box::new(command) };
            match self.with_looks(self.region.propose(&command, PROPOSE_LIMIT)).await {
                Ok(committed) => self.region.replica().wait_for(committed.revision).await,
                Err(ProposeError::Rejected(why)) => {
                    info!(error = %why, "decision refused, deciding again");
                    self.pause(self.env.rng.jitter(RETRY_WAIT)).await;
                    return Ok(self.region.read(|state| state.control).is_some_and(|held| held.epoch == epoch_now));
                }
                Err(error) => return Err(error),
            }
        }
        if *is_global_fresh && memory.may_tell_world(self.env.clock.now()) && !self.tell_world(beat).await {
            memory.world_is_deaf(self.env.clock.now());
        }
        Ok(true)
    }

    /// Tells the global group what became of releases here. It may be out of reach: then it is told later, and the region goes
    /// on as it is. Whether all was told.
    async fn tell_world(&self, beat: &Beat) -> bool {
        let commands = self.region.read(|region| self.global.read(|global| progress::tell_world(global, region)));
        for command in commands {
            beat.alive();
            debug!(?command, "to be told");
            match self.with_looks(self.global.propose(&command, ROUND_EVERY)).await {
                Ok(committed) => {
                    // Another region may have to bring it here, and be cut off in this moment.
                    let known = clock::timeout(ROUND_EVERY, self.global.replica().wait_for(committed.revision));
                    if self.with_looks(known).await.is_err() {
                        return false;
                    }
                }
                Err(error) => {
                    info!(error = %chain(&error), "the world was not told what became of a release, trying again");
                    return false;
                }
            }
        }
        true
    }

    async fn take_control(&self) -> Result<u64, ProposeError> {
        let command = RegionCommand::TakeControl { node: self.me };
        let committed = self.with_looks(self.region.propose(&command, PROPOSE_LIMIT)).await?;
        self.region.replica().wait_for(committed.revision).await;
        match committed.reply {
            RegionReply::Control { epoch } => Ok(epoch),
            RegionReply::Done => Err(ProposeError::Unreadable),
        }
    }

    /// Waits for `work`, looking at the leases meanwhile.
    async fn with_looks<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.pause(STALL / 4) => {}
            }
        }
    }

    fn decide(&self, memory: &mut Memory, is_global_fresh: bool) -> Vec<RegionCommand> {
        let now = self.env.clock.now();
        self.look(now);
        let leases = {
            let mut leases = self.leases.lock();
            let Some(leases) = leases.as_mut().filter(|_| (self.confirmed)()) else { return Vec::new() };
            self.region.read(|state| {
                leases.keep(|node| state.nodes.contains(&node), |service| is_tried(state, service));
                for node in state.nodes.values().filter(|node| node.health.is_up()) {
                    leases.grant(now, node.id);
                }
            });
            leases.clone()
        };
        let time = (now, self.env.clock.wall_ms());
        let mut new_id = || InstanceId::new(self.env.rng.next());
        self.region.read(|region| {
            self.global
                .read(|global| memory.round(region, is_global_fresh.then_some(global), &leases, time, &mut new_id))
        })
    }
}

/// While it lives, this node takes renewals.
struct Reign<'a>(&'a Control);

impl Drop for Reign<'_> {
    fn drop(&mut self) {
        *self.0.leases.lock() = None;
    }
}
