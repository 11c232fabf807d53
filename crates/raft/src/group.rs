//! One node's part of one group: the public face. Opening and stopping are here, the rest in the rooms:
//! `propose` groups commands into entries, `read` confirms reads, `members` changes the voters, `hand_over` gives the
//! leadership away, `receive` answers other nodes, `watch` runs elections and says who leads, `space` looks how full the disk is.

mod hand_over;
mod members;
mod propose;
mod read;
mod receive;
mod space;
mod watch;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use insula_env::{
    Env, TaskGroup, beat,
    clock::{Instant, timeout},
};
use insula_types::{NodeId, Term};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch as channel};

use crate::{
    config::{Config, PROPOSALS_QUEUED_MAX, READS_QUEUED_MAX, Timers},
    contacts::Contacts,
    engine::{Raft, configure},
    error::{InitializeError, OpenError},
    machine::StateMachine,
    network::Caller,
    runtime::Scope,
    store::{Ahead, LogStore, RowStore, Stage},
    timing::Timing,
    transport::Transport,
    wire::Position,
};

/// How long stopping may take before the rest is dropped where it stands (which is as good as a crash: safe).
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// A member that has heard no leader for so long may have been taken out. Longer than an election near by.
const UNLED_MAX: Duration = Duration::from_secs(3);
/// How long one question to openraft may take before it counts as stalled.
pub(crate) const CORE_LIMIT: Duration = Duration::from_secs(2);

/// One node's part of one group. Clones share it.
#[derive(Clone)]
pub struct Group(Arc<Inner>);

struct Inner {
    config: Arc<Config>,
    env: Env,
    raft: Raft,
    caller: Caller,
    timing: Arc<Timing>,
    queue: mpsc::Sender<propose::Proposal>,
    flush: mpsc::Sender<propose::Flushed>,
    reads: mpsc::Sender<read::Waiting>,
    leadership: channel::Receiver<Leadership>,
    state: channel::Receiver<GroupState>,
    applied: channel::Receiver<Option<Position>>,
    /// Gone once the group is shut down, so that the files are closed.
    files: Mutex<Option<Files>>,
    receiving: Mutex<receive::Transfer>,
    handling: Semaphore,
    membership: Arc<tokio::sync::Mutex<()>>,
    is_stopping: Arc<AtomicBool>,
    /// It leads and wants to lead no more: it takes no commands.
    is_handing_over: AtomicBool,
}

struct Files {
    log: LogStore,
    stage: Stage,
}

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if it has been heard lately.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: Term,
    /// This node leads, a majority answers it, and it has applied all that its predecessors committed. May be true on
    /// two nodes for a moment; a command of the old one will not be committed.
    pub is_me: bool,
    /// Since when all of this is so.
    pub since: Instant,
}

/// Whether a group works on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupState {
    /// It runs.
    Running,
    /// It stopped because of an error; the process goes on without it.
    Failed {
        /// What went wrong, with all causes.
        why: String,
    },
    /// It was told to stop.
    Stopped,
}

/// Figures of a group on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetrics {
    /// The term.
    pub term: Term,
    /// Index of the last entry in the log.
    pub last_log: Option<u64>,
    /// Last position that the state machine has applied.
    pub applied: Option<Position>,
    /// Where the last snapshot ends.
    pub snapshot: Option<u64>,
    /// Up to where the log was dropped.
    pub purged: Option<u64>,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who follows without a vote.
    pub learners: BTreeSet<NodeId>,
}

impl Group {
    /// Opens the group's files, loads the state into `machine`, and takes part. A new group waits until it is
    /// initialized or added by a leader.
    ///
    /// # Errors
    /// [`OpenError`] when the files cannot be used, or hold something that this version cannot read.
    pub async fn open(
        config: Config,
        env: Env,
        transport: Arc<dyn Transport>,
        machine: impl StateMachine,
    ) -> Result<Self, OpenError> {
        let tasks = env.tasks.child(&format!("raft-{}", config.group));
        let env = Env { tasks, ..env };
        let opened = Self::start(config, env.clone(), transport, machine).await;
        if opened.is_err() {
            env.tasks.stop();
        }
        opened
    }

    async fn start(
        config: Config,
        env: Env,
        transport: Arc<dyn Transport>,
        machine: impl StateMachine,
    ) -> Result<Self, OpenError> {
        let config = Arc::new(config);
        let path = config.directory.clone();
        let start = |why: String| OpenError::Start { path: path.clone(), why };
        let settings = Arc::new(configure(&config));
        let (durable, is_durable) = channel::channel(None);
        let ahead = Ahead::new(env.clock.clone());
        let rows = RowStore::open(&env.disk, &config, machine, durable, ahead.clone(), &env.tasks).await?;
        let log = LogStore::open(&env.disk, &config, is_durable, ahead.clone(), &env.rng).await?;
        let (applied, stage) = (rows.published(), rows.stage());
        if log.purged() > *applied.borrow() {
            return Err(OpenError::Gone { path });
        }
        let timing = Arc::new(Timing::new(log.timers().unwrap_or(config.timers)));
        let caller = Caller {
            transport,
            contacts: Arc::new(Contacts::default()),
            timing: Arc::clone(&timing),
            ahead,
            handed_over: Arc::default(),
            term: Arc::default(),
            is_short: Arc::default(),
            config: Arc::clone(&config),
            env: env.clone(),
            core: Arc::default(),
        };
        let me = config.node.get();
        let scope = Scope { tasks: env.tasks.clone(), rng: env.rng.fork() };
        let raft = scope
            .enter(Raft::new(me, settings, caller.clone(), log.clone(), rows))
            .await
            .map_err(|error| start(error.to_string()))?;
        // Nobody else sets it.
        let _ = caller.core.set(raft.clone());

        let (queue, proposals) = mpsc::channel(PROPOSALS_QUEUED_MAX);
        let (flush, flushes) = mpsc::channel(1);
        let (reads, waiting) = mpsc::channel(READS_QUEUED_MAX);
        let nobody = Leadership { leader: None, term: Term(0), is_me: false, since: env.clock.now() };
        let (leads, leadership) = channel::channel(nobody);
        let (runs, state) = channel::channel(GroupState::Running);
        let membership = Arc::new(tokio::sync::Mutex::new(()));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let inbox = propose::Inbox { proposals, flushes };
        env.tasks.spawn_watched("proposer", beat::DISK, |beat| propose::run(raft.clone(), inbox, beat));
        env.tasks.spawn_watched("reads", beat::QUICK, |beat| read::run(raft.clone(), waiting, beat));
        let files = (log.clone(), applied.clone());
        let watcher = watch::Watcher::new(caller.clone(), raft.clone(), files, Arc::clone(&membership), leads);
        let stopping = Arc::clone(&is_stopping);
        env.tasks.spawn_watched("elections", beat::DISK, |beat| watcher.run(runs, stopping, beat));
        let group = Self(Arc::new(Inner {
            config,
            env,
            raft,
            caller,
            timing,
            queue,
            flush,
            reads,
            leadership,
            state,
            applied,
            files: Mutex::new(Some(Files { log: log.clone(), stage })),
            receiving: Mutex::default(),
            handling: Semaphore::new(receive::HANDLED_MAX),
            membership,
            is_stopping,
            is_handing_over: AtomicBool::new(false),
        }));
        let looking = Self(Arc::clone(&group.0));
        group.0.env.tasks.spawn_watched("space", beat::DISK, |beat| space::watch(looking, beat));
        if log.is_founder() {
            // Recorded, then perhaps cut short by a crash: nobody else can have joined.
            group.found().await.map_err(|error| start(error.to_string()))?;
        }
        Ok(group)
    }

    /// Starts the group with this node as its only voter. To be called on exactly one node in the group's life: the
    /// intention is recorded first, so a crash in between is made good when the group is opened again. Doing it again
    /// on the same node changes nothing.
    ///
    /// # Errors
    /// [`InitializeError`] when this node has joined the group already, or its log cannot be written.
    pub async fn initialize_single(&self) -> Result<(), InitializeError> {
        let log = self.0.files.lock().as_ref().map(|files| files.log.clone()).ok_or(InitializeError::Stopped)?;
        if log.is_founder() {
            return self.found().await;
        }
        if self.0.raft.is_initialized().await.map_err(|_| InitializeError::Stopped)? {
            return Err(InitializeError::AlreadyMember);
        }
        log.set_founder().await?;
        self.found().await
    }

    /// Makes the first entry, unless it is there.
    async fn found(&self) -> Result<(), InitializeError> {
        if self.0.raft.is_initialized().await.map_err(|_| InitializeError::Stopped)? {
            return Ok(());
        }
        match self.0.raft.initialize(BTreeSet::from([self.0.config.node.get()])).await {
            Ok(()) => Ok(()),
            Err(openraft::error::RaftError::Fatal(_)) => Err(InitializeError::Stopped),
            Err(openraft::error::RaftError::APIError(_)) => Err(InitializeError::AlreadyMember),
        }
    }

    /// Follows who leads.
    pub fn leadership(&self) -> channel::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Follows whether the group works on this node.
    pub fn state(&self) -> channel::Receiver<GroupState> {
        self.0.state.clone()
    }

    /// Follows what the state machine has applied.
    pub fn applied(&self) -> channel::Receiver<Option<Position>> {
        self.0.applied.clone()
    }

    /// The group's configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Figures as of now.
    pub fn metrics(&self) -> GroupMetrics {
        let metrics = self.0.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        GroupMetrics {
            term: Term(metrics.current_term),
            last_log: metrics.last_log_index,
            applied: *self.0.applied.borrow(),
            snapshot: metrics.snapshot.map(|at| at.index),
            purged: metrics.purged.map(|at| at.index),
            voters: membership.voter_ids().map(NodeId::new).collect(),
            learners: membership.learner_ids().map(NodeId::new).collect(),
        }
    }

    /// Whether the group's log brings this node up to date: it is a member as far as it knows, and has heard a leader of
    /// late. One that was taken out while it was away may never hear of it.
    pub fn takes_part(&self) -> bool {
        let metrics = self.metrics();
        let me = &self.0.config.node;
        let leadership = *self.0.leadership.borrow();
        let is_led = leadership.leader.is_some()
            || self.0.env.clock.now().saturating_duration_since(leadership.since) < UNLED_MAX;
        is_led && (metrics.voters.contains(me) || metrics.learners.contains(me))
    }

    /// The timers in use.
    pub fn timers(&self) -> Timers {
        self.0.timing.now()
    }

    /// Makes these timers hold for all voters, as far as this node leads; false when it does not. They follow what is
    /// measured all the same.
    pub fn set_timers(&self, timers: Timers) -> bool {
        let is_leader = self.0.leadership.borrow().is_me;
        if is_leader && timers.are_sound() {
            self.0.timing.announce(timers, self.0.env.clock.now());
        }
        is_leader && timers.are_sound()
    }

    /// Whether a majority has answered this leader within the shortest time in which others could elect another. Who
    /// acts on the world outside on behalf of a leader asks this first.
    pub fn is_confirmed(&self) -> bool {
        self.quorum_contact().is_some_and(|age| age <= self.0.timing.now().election_min)
    }

    /// How long ago a majority has answered this leader; none when this node does not lead.
    pub fn quorum_contact(&self) -> Option<Duration> {
        let leadership = *self.0.leadership.borrow();
        if !leadership.is_me {
            return None;
        }
        let now = self.0.env.clock.now();
        let membership =
            self.0.raft.server_metrics().borrow().membership_config.membership().get_joint_config().clone();
        let heard = self.0.caller.contacts.quorum(self.0.me(), &membership, leadership.since, now);
        Some(now.saturating_duration_since(heard))
    }

    /// Makes a snapshot now and drops the log before it, as far as the configuration says. Returns before it is done.
    pub async fn snapshot(&self) {
        self.0.raft.trigger().snapshot().await.ok();
    }

    /// Stops this node's part of the group, and closes its files. What was confirmed stays.
    pub async fn shutdown(&self) {
        self.0.is_stopping.store(true, Ordering::Relaxed);
        if timeout(SHUTDOWN_LIMIT, self.0.raft.shutdown()).await.is_err() {
            tracing::warn!(group = %self.0.config.group, "group did not stop in time, dropping it where it stands");
        }
        self.0.env.tasks.stop();
        let Some(files) = self.0.files.lock().take() else { return };
        let open = [files.log.file().closed(), files.stage.file().closed()];
        drop(files);
        let closed = async {
            for mut file in open {
                while file.changed().await.is_ok() {}
            }
        };
        if timeout(SHUTDOWN_LIMIT, closed).await.is_err() {
            tracing::warn!(group = %self.0.config.group, "files of the group are still in use");
        }
    }

    /// Answers a message that `from` has sent to this group; `from` is proven by the transport.
    pub async fn handle(&self, from: NodeId, message: Bytes) -> Bytes {
        self.0.handle(from, &message).await
    }

    /// The tasks of this group.
    pub fn tasks(&self) -> &TaskGroup {
        &self.0.env.tasks
    }
}

impl Inner {
    fn me(&self) -> u64 {
        self.config.node.get()
    }

    fn leader(&self) -> Option<NodeId> {
        self.leadership.borrow().leader
    }

    fn is_running(&self) -> bool {
        *self.state.borrow() == GroupState::Running && !self.is_stopping.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({} on {})", self.0.config.group, self.0.config.node)
    }
}
