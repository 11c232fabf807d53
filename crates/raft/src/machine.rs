//! What a group replicates for: a state machine that takes commands as bytes and keeps its state as rows.

use bytes::Bytes;

/// A deterministic state machine: the same commands in the same order give the same replies and rows on every node.
/// No clock, no randomness, no order of hashing may reach its results.
pub trait StateMachine: Send + 'static {
    /// Applies the commands of one committed entry, in order.
    ///
    /// # Errors
    /// [`UnknownCommand`] when this version cannot read one. The group then stops on this node (rule R2): skipping it
    /// would let the copies drift apart.
    fn apply(&mut self, commands: &[Bytes]) -> Result<Applied, UnknownCommand>;

    /// Replaces the whole state by these rows: at start, and when a snapshot is installed. Rows come in the order of
    /// their keys, each with a value.
    ///
    /// # Errors
    /// [`LoadError`] when a row does not decode. The group then stops on this node.
    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), LoadError>;
}

/// What the commands of an entry did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// For each the answer for whoever proposed it.
    pub replies: Vec<Vec<u8>>,
    /// The rows that changed. Of those with the same key the last counts.
    pub rows: Vec<Row>,
}

/// A row of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value; none: the row is gone.
    pub value: Option<Vec<u8>>,
}

/// A committed command that this version does not know, or cannot decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read a committed command ({why}): is this node older than the leader?")]
pub struct UnknownCommand {
    /// What is wrong with it.
    pub why: String,
}

/// A stored row that this version cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("load the state ({why}): was it written by a newer version?")]
pub struct LoadError {
    /// Which row, and what is wrong with it.
    pub why: String,
}
