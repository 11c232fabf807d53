//! What clients write down: one line of JSON for each thing that they did or saw.

use serde::{Deserialize, Serialize};

/// When something was asked and answered: microseconds of one monotonic clock, the same for all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Before the request was sent.
    pub start_us: u64,
    /// After the answer was read.
    pub end_us: u64,
}

/// How an operation ended, as its caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<T> {
    /// It was done, with this answer.
    Ok(T),
    /// It was surely not done.
    Failed,
    /// It may have been done, or be done yet: open for ever.
    Unknown,
}

/// An operation on a register: an app whose one service carries the value in its environment. Its release number
/// counts writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// A linearizable read of the app.
    Read,
    /// A deploy.
    Write(u64),
    /// A deploy of `value` when the present release is `expect`.
    Cas {
        /// The release that must be the present one; 0: none yet.
        expect: u64,
        /// The value to write.
        value: u64,
    },
}

/// The answer to an operation on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ret {
    /// The release, and its value; zeros before the first write.
    Read {
        /// The release.
        release: u64,
        /// The value.
        value: u64,
    },
    /// The release that the write made.
    Written(u64),
    /// The release was another one.
    Mismatch,
}

/// A replicated state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Nodes, placements, join tokens.
    Region,
    /// Apps, API tokens.
    Global,
}

/// What a client did or saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Record {
    /// An operation on a register of the global group.
    Register {
        /// Which register.
        register: u64,
        /// Whose operation; a client does one after the other.
        client: u64,
        /// When.
        span: Span,
        /// What.
        op: Op,
        /// How it ended.
        outcome: Outcome<Ret>,
    },
    /// A write to the region (a join token), or a linearizable read of it (its nodes): the revision that it gave.
    Revision {
        /// When.
        span: Span,
        /// Whether it is a write, which makes a revision of its own.
        is_write: bool,
        /// How it ended.
        outcome: Outcome<u64>,
    },
    /// A write to the region sent again under the key of one that was acknowledged.
    Again {
        /// When it was sent again.
        span: Span,
        /// The key.
        key: String,
        /// The revision of the first acknowledgement.
        first: u64,
        /// The revision now: another one when the write had been lost.
        again: u64,
    },
    /// A write to the global group of a member of a set (an API token).
    Member {
        /// When.
        span: Span,
        /// Its name.
        id: String,
        /// How it ended.
        outcome: Outcome<()>,
    },
    /// Whether a member of the set that was acknowledged is there at the end, in the eyes of a node.
    Kept {
        /// Its name.
        id: String,
        /// The node.
        node: String,
        /// Whether.
        is_kept: bool,
    },
    /// An event that a watch of one node gave.
    Event {
        /// The node that was watched.
        node: String,
        /// Its revision, and its number within.
        id: (u64, u16),
        /// What it says.
        text: String,
    },
    /// How a node sees a group.
    Status {
        /// When it was asked and answered.
        span: Span,
        /// The node.
        node: String,
        /// The group.
        group: Group,
        /// The term that it has seen; 0 before it knows.
        term: u64,
        /// The name of the leader in it, when it knows.
        leader: Option<String>,
        /// Whether it votes.
        is_voter: bool,
        /// Whether the group has stopped there after an error of its storage.
        has_stopped: bool,
    },
}

impl Record {
    /// When a write was confirmed by which group.
    pub fn confirmed(&self) -> Option<(Group, u64)> {
        match self {
            Self::Register {
                span, op: Op::Write(_) | Op::Cas { .. }, outcome: Outcome::Ok(Ret::Written(_)), ..
            }
            | Self::Member { span, outcome: Outcome::Ok(()), .. } => Some((Group::Global, span.end_us)),
            Self::Revision { span, is_write: true, outcome: Outcome::Ok(_) } => Some((Group::Region, span.end_us)),
            _ => None,
        }
    }

    /// When the operation was begun, and how it ended, for those that can end in three ways.
    pub fn ended(&self) -> Option<(u64, Outcome<()>)> {
        const fn blank<T>(outcome: &Outcome<T>) -> Outcome<()> {
            match outcome {
                Outcome::Ok(_) => Outcome::Ok(()),
                Outcome::Failed => Outcome::Failed,
                Outcome::Unknown => Outcome::Unknown,
            }
        }
        match self {
            Self::Register { span, outcome, .. } => Some((span.start_us, blank(outcome))),
            Self::Revision { span, outcome, .. } => Some((span.start_us, blank(outcome))),
            Self::Member { span, outcome, .. } => Some((span.start_us, blank(outcome))),
            _ => None,
        }
    }
}
