//! What groups say to each other and keep on disk. These shapes are ours: openraft's may change with its version.

use std::collections::BTreeSet;

use bytes::Bytes;
use insula_types::{
    Incarnation,
    codec::{self, DecodeError},
};
use openraft::{CommittedLeaderId, EmptyNode, EntryPayload, LeaderId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{config::Timers, engine};

/// Bytes that are written as bytes, not as a list of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Blob(pub(crate) Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(bytes)))
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes.into()))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

/// A place in the log: which leader's term wrote it, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
}

impl From<engine::LogId> for Position {
    fn from(id: engine::LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<Position> for engine::LogId {
    fn from(at: Position) -> Self {
        Self::new(CommittedLeaderId::new(at.term, 0), at.index)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vote {
    pub(crate) term: u64,
    pub(crate) node: Option<u64>,
    pub(crate) committed: bool,
}

impl From<engine::Vote> for Vote {
    fn from(vote: engine::Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<Vote> for engine::Vote {
    fn from(vote: Vote) -> Self {
        Self { leader_id: LeaderId { term: vote.term, voted_for: vote.node }, committed: vote.committed }
    }
}

/// The members of a group. Two sets of voters while it changes from one to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedMembership")]
pub(crate) struct Membership {
    pub(crate) voters: Vec<BTreeSet<u64>>,
    pub(crate) nodes: BTreeSet<u64>,
}

/// As it comes from a peer or a disk.
#[derive(Deserialize)]
struct UncheckedMembership {
    voters: Vec<BTreeSet<u64>>,
    nodes: BTreeSet<u64>,
}

impl TryFrom<UncheckedMembership> for Membership {
    type Error = String;

    fn try_from(UncheckedMembership { voters, nodes }: UncheckedMembership) -> Result<Self, String> {
        match voters.iter().flatten().find(|voter| !nodes.contains(voter)) {
            Some(voter) => Err(format!("node {voter} votes, but is no member")),
            None => Ok(Self { voters, nodes }),
        }
    }
}

impl From<&engine::Membership> for Membership {
    fn from(membership: &engine::Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(node, _)| *node).collect(),
        }
    }
}

impl From<Membership> for engine::Membership {
    fn from(membership: Membership) -> Self {
        let nodes: std::collections::BTreeMap<u64, EmptyNode> =
            membership.nodes.into_iter().map(|node| (node, EmptyNode {})).collect();
        Self::new(membership.voters, nodes)
    }
}

/// A membership, and the entry that set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredMembership {
    pub(crate) at: Option<Position>,
    pub(crate) membership: Membership,
}

impl StoredMembership {
    /// One voter and nobody else.
    pub(crate) fn only(at: Position, node: u64) -> Self {
        let voters = BTreeSet::from([node]);
        Self { at: Some(at), membership: Membership { voters: vec![voters.clone()], nodes: voters } }
    }
}

impl From<&engine::StoredMembership> for StoredMembership {
    fn from(stored: &engine::StoredMembership) -> Self {
        Self { at: stored.log_id().map(Into::into), membership: stored.membership().into() }
    }
}

impl From<StoredMembership> for engine::StoredMembership {
    fn from(stored: StoredMembership) -> Self {
        Self::new(stored.at.map(Into::into), stored.membership.into())
    }
}

/// What a snapshot holds: everything up to `last`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotMeta {
    pub(crate) last: Option<Position>,
    pub(crate) membership: StoredMembership,
}

impl From<&engine::SnapshotMeta> for SnapshotMeta {
    fn from(meta: &engine::SnapshotMeta) -> Self {
        Self { last: meta.last_log_id.map(Into::into), membership: (&meta.last_membership).into() }
    }
}

impl From<SnapshotMeta> for engine::SnapshotMeta {
    fn from(meta: SnapshotMeta) -> Self {
        Self {
            snapshot_id: meta.last.map_or_else(String::new, |last| format!("{}-{}", last.term, last.index)),
            last_log_id: meta.last.map(Into::into),
            last_membership: meta.membership.into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Payload {
    Blank,
    Commands(Vec<Blob>),
    Membership(Membership),
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) at: Position,
    pub(crate) payload: Payload,
}

impl From<&engine::Entry> for Entry {
    fn from(entry: &engine::Entry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => Payload::Blank,
            EntryPayload::Normal(batch) => Payload::Commands(batch.commands.iter().cloned().map(Blob).collect()),
            EntryPayload::Membership(membership) => Payload::Membership(membership.into()),
        };
        Self { at: entry.log_id.into(), payload }
    }
}

impl From<Entry> for engine::Entry {
    fn from(entry: Entry) -> Self {
        let payload = match entry.payload {
            Payload::Blank => EntryPayload::Blank,
            Payload::Commands(commands) => {
                EntryPayload::Normal(engine::Batch::new(commands.into_iter().map(|blob| blob.0).collect()))
            }
            Payload::Membership(membership) => EntryPayload::Membership(membership.into()),
        };
        Self { log_id: entry.at.into(), payload }
    }
}

/// One message between two nodes, in one life of the group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Frame<T> {
    pub(crate) incarnation: Incarnation,
    pub(crate) body: T,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Entries after `previous`, or none: a heartbeat. With the timers that shall hold for all voters.
    Append {
        vote: Vote,
        previous: Option<Position>,
        entries: Vec<Entry>,
        commit: Option<Position>,
        #[serde(default)]
        timers: Option<Timers>,
    },
    /// Grant me this vote. A leader that hands over has asked for it, so its lease does not count.
    Vote {
        vote: Vote,
        last: Option<Position>,
        #[serde(default)]
        is_handed_over: bool,
    },
    /// Would you grant me a vote now? Changes nothing.
    PreVote { last: Option<Position> },
    /// Are you there? Sent by a leader that no majority answers.
    Ping,
    /// A snapshot begins.
    SnapshotBegin { vote: Vote, meta: SnapshotMeta, transfer: u64 },
    /// Its next rows. `chain` is the SHA-256 of the chain before and of these rows.
    SnapshotRows { transfer: u64, rows: Vec<(Blob, Blob)>, chain: Blob },
    /// All rows were sent: take them.
    SnapshotEnd { transfer: u64, chain: Blob },
    /// Campaign now, if your log ends here: this leader wants to give way.
    TakeOver { term: u64, last: Option<Position> },
}

impl Request {
    pub(crate) fn is_of_a_snapshot(&self) -> bool {
        matches!(self, Self::SnapshotBegin { .. } | Self::SnapshotRows { .. } | Self::SnapshotEnd { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Appended,
    AppendedTo(Option<Position>),
    Conflict,
    HigherVote(Vote),
    Voted {
        vote: Vote,
        is_granted: bool,
        last: Option<Position>,
    },
    PreVoted {
        is_granted: bool,
    },
    Pong,
    /// Go on with the snapshot, or it is installed.
    Taken {
        vote: Vote,
    },
    Refused(Refusal),
    /// It campaigns, or not, because it lacks entries or votes for another term.
    TakingOver {
        is_campaigning: bool,
    },
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it is of another incarnation of the group")]
    OtherIncarnation,
    #[error("the sender is not a member of the group")]
    NotAMember,
    #[error("it could not be decoded: is the sender newer?")]
    Malformed,
    #[error("it has too much to do, try later")]
    Busy,
    #[error("the group has stopped there")]
    Stopped,
    #[error("the transfer of the snapshot is not the one under way: begin again")]
    OtherTransfer,
    #[error("the snapshot was damaged on its way: begin again")]
    Damaged,
}

/// Encodes a message.
pub(crate) fn encode<T: Serialize>(incarnation: Incarnation, body: T) -> Bytes {
    codec::encode(&Frame { incarnation, body }).into()
}

/// Decodes a message.
pub(crate) fn decode<T: de::DeserializeOwned>(message: &[u8]) -> Result<Frame<T>, DecodeError> {
    codec::decode(message)
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn positions() -> impl Strategy<Value = Position> {
        (any::<u64>(), any::<u64>()).prop_map(|(term, index)| Position { term, index })
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let blobs = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5)
            .prop_map(|blobs| Payload::Commands(blobs.into_iter().map(|blob| Blob(blob.into())).collect()));
        let members = prop::collection::btree_set(any::<u64>(), 1..5)
            .prop_map(|nodes| Payload::Membership(Membership { voters: vec![nodes.clone()], nodes }));
        (positions(), prop_oneof![Just(Payload::Blank), blobs, members]).prop_map(|(at, payload)| Entry { at, payload })
    }

    proptest! {
        #[test]
        fn entries_survive_the_wire_and_the_engine(entry in entries()) {
            let request = Request::Append {
                vote: Vote { term: 3, node: Some(7), committed: true },
                previous: None,
                entries: vec![Entry::from(&engine::Entry::from(entry.clone()))],
                commit: Some(entry.at),
                timers: Some(Timers::default()),
            };
            let bytes = encode(Incarnation(5), &request);
            let frame: Frame<Request> = decode(&bytes).expect("decodes");
            prop_assert_eq!(&frame.body, &request);
            let Request::Append { entries, .. } = frame.body else { unreachable!("as encoded") };
            prop_assert_eq!(entries, vec![entry]);
        }

        #[test]
        fn noise_is_refused_without_a_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            decode::<Request>(&noise).ok();
            decode::<Answer>(&noise).ok();
        }
    }
}
