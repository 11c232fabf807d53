//! What a group is told when it is opened.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use insula_types::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};

/// Largest command, in bytes.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Most commands that share one log entry, and so one fsync.
pub const BATCH_COMMANDS_MAX: usize = 256;
/// A log entry takes no further command once it has so many bytes.
pub const BATCH_BYTES: usize = 256 << 10;
/// Log entries of one proposer that wait for their commit at the same time.
pub const BATCHES_IN_FLIGHT_MAX: usize = 2;
/// Proposals that wait for their turn; further ones are turned away.
pub const PROPOSALS_QUEUED_MAX: usize = 4096;
/// Reads that wait for a majority to confirm the leader; further ones are turned away.
pub const READS_QUEUED_MAX: usize = 16_384;
/// One message to a follower carries entries of about so many bytes: it must arrive within one heartbeat.
pub const APPEND_BYTES: usize = 512 << 10;
/// One message of a snapshot carries rows of about so many bytes.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// How long one message of a snapshot may take.
pub const SNAPSHOT_CHUNK_LIMIT: Duration = Duration::from_secs(10);
/// How long a receiver may take to put a whole snapshot in place of its state.
pub const SNAPSHOT_INSTALL_LIMIT: Duration = Duration::from_secs(60);

/// Which of the groups that a node hosts a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub u16);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How long a group waits for what. The leader's hold for all voters; they follow what it measures (`timing`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Shortest time between two attempts to win an election.
    pub election_min: Duration,
    /// How long a leader's last word keeps others from electing; also the longest time between two attempts.
    pub election_max: Duration,
    /// A follower starts its election this much later than the one ranked before it.
    pub stagger: Duration,
}

impl Timers {
    /// For voters at most so far apart. `round_trip` is the 99th percentile between voters, the peer's fsync included.
    pub fn for_round_trip(round_trip: Duration) -> Self {
        let heartbeat = (round_trip * 2).clamp(Duration::from_millis(100), Duration::from_millis(1500));
        let election_min = (heartbeat * 5 / 2).max(Duration::from_millis(300));
        Self {
            heartbeat,
            election_min,
            election_max: election_min * 2,
            stagger: (round_trip * 3 / 2).max(Duration::from_millis(50)),
        }
    }
}

impl Timers {
    /// Whether elections can work with these: what a peer sends is checked before it is used.
    pub fn are_sound(&self) -> bool {
        let longest = Self::for_round_trip(Duration::from_secs(60));
        let is_ordered = self.heartbeat * 2 <= self.election_min && self.election_min < self.election_max;
        is_ordered
            && !self.heartbeat.is_zero()
            && self.election_max <= longest.election_max
            && self.stagger <= longest.election_max
    }
}

impl Default for Timers {
    /// For voters inside one region.
    fn default() -> Self {
        Self::for_round_trip(Duration::from_millis(20))
    }
}

/// Says whether a node that this group does not know as a member may speak to it.
pub type Admit = Arc<dyn Fn(NodeId) -> bool + Send + Sync>;

/// A group on one node.
#[derive(Clone)]
pub struct Config {
    /// This node. An id with an empty directory is a new node: never give it an id that has voted before.
    pub node: NodeId,
    /// The group.
    pub group: GroupId,
    /// Which life of the group: messages of another are refused.
    pub incarnation: Incarnation,
    /// Where `log.redb` and `state.redb` are.
    pub directory: PathBuf,
    /// This node has had the group's files before. Should they be gone, opening fails: what it voted for and confirmed
    /// would be forgotten under the same id.
    pub must_exist: bool,
    /// The timers that a new group begins with; one that was open before goes on with those it had.
    pub timers: Timers,
    /// The leader fits the timers to what it has measured at most so often.
    pub retime_every: Duration,
    /// With fewer bytes left on the disk, this node leaves the lead to others as long as they can take it: a write that
    /// finds no place stops the group on this node.
    pub space_min: u64,
    /// A snapshot is made, and the log before it dropped, each time so many entries have been applied.
    pub snapshot_every: u64,
    /// So many of the newest entries are kept all the same, for followers that lag a little.
    pub entries_kept: u64,
    /// Asked about senders who are not members as far as this node knows: it may lag behind, and the sender be a
    /// member by now. The server answers from the region's list of nodes; tombstoned ones may not.
    pub admit: Admit,
}

impl Config {
    /// A group with the timers of a region and the usual snapshots, which admits every authenticated node.
    pub fn new(node: NodeId, group: GroupId, incarnation: Incarnation, directory: impl Into<PathBuf>) -> Self {
        Self {
            node,
            group,
            incarnation,
            directory: directory.into(),
            must_exist: false,
            timers: Timers::default(),
            retime_every: Duration::from_secs(600),
            space_min: 64 << 20,
            snapshot_every: 5000,
            entries_kept: 1000,
            admit: Arc::new(|_| true),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("node", &self.node)
            .field("group", &self.group)
            .field("incarnation", &self.incarnation)
            .field("directory", &self.directory)
            .field("timers", &self.timers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_follow_the_distance() {
        let ms = Duration::from_millis;
        let region = Timers::default();
        assert_eq!((region.heartbeat, region.election_min, region.election_max), (ms(100), ms(300), ms(600)));
        let ocean = Timers::for_round_trip(ms(300));
        assert_eq!((ocean.heartbeat, ocean.election_min, ocean.election_max), (ms(600), ms(1500), ms(3000)));
    }
}
