//! What can go wrong, and whether a retry helps.

use std::path::PathBuf;

use insula_types::{Incarnation, NodeId};

/// A file of a group could not be used. The group stops; the process lives.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} {}", path.display())]
pub struct StoreError {
    pub(crate) attempt: &'static str,
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: Box<dyn std::error::Error + Send + Sync>,
}

/// A group could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its files could not be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its files belong to another life of the group.
    #[error("open the group in {}: it is of incarnation {found}, not {wanted}: was the group restored?", path.display())]
    OtherIncarnation {
        /// Its directory.
        path: PathBuf,
        /// What the files say.
        found: Incarnation,
        /// What was asked for.
        wanted: Incarnation,
    },
    /// This node has had the files before, and they are gone.
    #[error(
        "open the group in {}: its files are gone, and with them what this node has voted for and confirmed: \
         remove the node from the region, empty its data directory and join as a new node",
        path.display()
    )]
    Gone {
        /// Its directory.
        path: PathBuf,
    },
    /// The stored state or the log after it could not be applied, or timers make no sense.
    #[error("start the group in {}: {why}", path.display())]
    Start {
        /// Its directory.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
}

/// A command was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was not taken: this node does not lead. Ask the leader.
    #[error("propose a command: another node leads")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// It may or may not be committed, now or later. Ask again with the same request id.
    #[error("propose a command: no outcome within its time, it may still be committed")]
    Unknown,
    /// It was not taken: too many wait already. Retry later.
    #[error("propose a command: {PROPOSALS_QUEUED_MAX} already wait, retry later", PROPOSALS_QUEUED_MAX = crate::config::PROPOSALS_QUEUED_MAX)]
    Busy,
    /// It was not taken: the group has stopped on this node.
    #[error("propose a command: the group has stopped on this node")]
    Stopped,
    /// It was not taken, and never will be.
    #[error("propose a command of {bytes} bytes: at most {max} fit")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What fits.
        max: usize,
    },
}

/// A linearizable read could not be prepared. All of these may be retried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead. Ask the leader.
    #[error("confirm a read: another node leads")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// No majority of voters confirmed that this node leads.
    #[error("confirm a read: no majority of voters answers")]
    NoQuorum,
    /// Too many wait already. Retry later.
    #[error("confirm a read: too many already wait, retry later")]
    Busy,
    /// It took longer than allowed.
    #[error("wait for a read: not caught up within its time")]
    Late,
    /// The group has stopped on this node.
    #[error("confirm a read: the group has stopped on this node")]
    Stopped,
}

/// The set of voters was not changed, or not confirmed to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// This node does not lead. Ask the leader.
    #[error("change the voters: another node leads")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Another change is under way. Retry later.
    #[error("change the voters: another change is under way")]
    InProgress,
    /// The new node did not catch up in time. It stays a learner; retry.
    #[error("let {node} vote: it has not caught up within its time, is it running and reachable?")]
    Lagging {
        /// The node.
        node: NodeId,
    },
    /// Somebody must vote.
    #[error("change the voters: to none is not possible")]
    Nobody,
    /// It may or may not have been changed. Look, and retry.
    #[error("change the voters: no outcome within its time, it may still happen")]
    Unknown,
    /// The group has stopped on this node.
    #[error("change the voters: the group has stopped on this node")]
    Stopped,
}

/// The leadership was not handed over; this node leads on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// It is being handed over already.
    #[error("hand the leadership over: that is under way already")]
    InProgress,
    /// No other voter has the whole log and answers.
    #[error("hand the leadership over: no other voter can take it, are they up?")]
    Nobody,
    /// It took longer than allowed.
    #[error("hand the leadership over: no other leader within its time")]
    Late,
}

/// A message did not reach its target, or its answer did not come back in time.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No connection can be made: wait before the next attempt.
    #[error("reach {target}")]
    Unreachable {
        /// The peer.
        target: NodeId,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("hear from {target} in time")]
    Late {
        /// The peer.
        target: NodeId,
    },
}

/// A group was not started by this node.
#[derive(Debug, thiserror::Error)]
pub enum InitializeError {
    /// It is part of the group already, and did not start it.
    #[error("start the group: this node has joined it already")]
    AlreadyMember,
    /// The intention could not be recorded. Nothing was started.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The group has stopped on this node.
    #[error("start the group: it has stopped on this node")]
    Stopped,
}

/// An error with all its causes, for the one who logs it.
pub(crate) fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
