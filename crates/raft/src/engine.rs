//! openraft, set up for bytes: its types as used here, and its configuration.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use openraft::{EmptyNode, SnapshotPolicy};

use crate::{config::Config, runtime::Runtime, store::SnapshotData};

openraft::declare_raft_types!(
    /// What openraft works with. Node ids are `u64` inside, [`insula_types::NodeId`] outside.
    pub Types:
        D = Batch,
        R = Replies,
        NodeId = u64,
        Node = EmptyNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = SnapshotData,
        AsyncRuntime = Runtime,
);

pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Membership = openraft::Membership<u64, EmptyNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, EmptyNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, EmptyNode>;
pub(crate) type Snapshot = openraft::Snapshot<Types>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type RaftMetrics = openraft::RaftMetrics<u64, EmptyNode>;

/// Commands that share one log entry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The commands, in order.
    pub(crate) commands: Arc<[Bytes]>,
    /// Set when the entry reaches this node's log: from then on a refusal no longer means "not taken".
    appended: Arc<AtomicBool>,
}

impl Batch {
    pub(crate) fn new(commands: Arc<[Bytes]>) -> Self {
        Self { commands, appended: Arc::default() }
    }

    pub(crate) fn set_appended(&self) {
        self.appended.store(true, Ordering::Release);
    }

    pub(crate) fn was_appended(&self) -> bool {
        self.appended.load(Ordering::Acquire)
    }
}

/// One reply for each command of a batch.
#[derive(Clone, Debug, Default)]
pub struct Replies(pub(crate) Vec<Vec<u8>>);

/// Milliseconds between two looks of openraft at whether a leader that was removed shall stop leading.
const TICK_MS: u64 = 75;

/// The configuration of openraft. Its timers are fixed when it starts, ours change while it runs (`timing`): elections,
/// heartbeats, the leader's lease and the limits of calls are therefore ours, and its own are set so that they never
/// act. It would refuse such values, so they are not put to its check.
pub(crate) fn configure(config: &Config) -> openraft::Config {
    openraft::Config {
        cluster_name: config.group.to_string(),
        // Its tick is half as long again. Limits of calls that it derives from these are replaced (`runtime`).
        heartbeat_interval: TICK_MS * 2 / 3,
        enable_heartbeat: false,
        enable_elect: false,
        // A follower would refuse its vote for so long after it heard the leader; ours is in `group::receive`.
        election_timeout_min: 0,
        election_timeout_max: 1,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every),
        max_in_snapshot_log_to_keep: config.entries_kept,
        purge_batch_size: config.entries_kept.clamp(1, 256),
        ..openraft::Config::default()
    }
}
