//! Applies proposed commands to a state, byte for byte the same on every voter.
//!
//! Also keeps what surrounds the objects: the revision counter, and the outcomes of recent requests, so that a command
//! that is proposed twice (because its first answer was lost) takes effect once.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use insula_types::{Level, RequestId, Revision, codec};
use serde::{Deserialize, Serialize};

use crate::{Batch, Changes, Domain, LEVEL, Rejection, Replica};

/// Outcomes kept for deduplication; the oldest go first. A proposer gives up after seconds, and a region commits at
/// most some thousand commands a second, so this covers every retry that can still come.
const REQUESTS_MAX: usize = 16_384;

/// From which level on a key is good for one request.
const NAMESAKES: Level = Level(6);
/// From which level on a rejection says which conflict it is.
const CONFLICTS: Level = Level(6);

/// A stored row: put when there is a value, else removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Unique within the state.
    pub key: Vec<u8>,
    /// The bytes to store.
    pub value: Option<Vec<u8>>,
}

/// What applying the commands of an entry gave.
#[derive(Debug, Default)]
pub struct Applied {
    /// An encoded [`Outcome`] for each.
    pub replies: Vec<Vec<u8>>,
    /// What to store, atomically. Of rows with the same key the last counts.
    pub rows: Vec<Row>,
}

/// A command that this version cannot apply, or rows that it cannot read. The group must stop (rule R2): going on
/// would let this voter differ from the others.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Written by a newer version, or damaged.
    #[error("apply a command to the {domain} state: is this node older than its peers?")]
    Command {
        /// Which state.
        domain: &'static str,
        /// Why.
        #[source]
        source: codec::DecodeError,
    },
    /// Written by a newer version, or damaged.
    #[error("load row {key:?} of the {domain} state")]
    Row {
        /// Which state.
        domain: &'static str,
        /// The row's key, readable.
        key: String,
        /// Why.
        #[source]
        source: codec::DecodeError,
    },
    /// The programs of the state have agreed on more than this one knows.
    #[error("the {domain} state is at level {needed}, and this program knows no more than level {known}: {advice}")]
    TooOld {
        /// Which state.
        domain: &'static str,
        /// What is agreed on, or what a command needs.
        needed: Level,
        /// What this program knows.
        known: Level,
        /// What to install.
        advice: String,
    },
}

/// A command on its way through the log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub request: RequestId,
    /// The leader's wall clock when it took the command.
    pub at_ms: u64,
    #[serde(with = "bytes")]
    pub command: Vec<u8>,
}

/// Wraps an encoded command for the log. Called by the leader, whose clock this is.
pub fn seal(request: RequestId, at_ms: u64, command: Vec<u8>) -> Vec<u8> {
    codec::encode(&Envelope { request, at_ms, command })
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome<R> {
    /// The state's revision after it.
    pub revision: Revision,
    /// Its answer.
    pub result: Result<R, Rejection>,
}

/// A remembered outcome.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Remembered {
    /// Position among all remembered; gives the order of eviction.
    sequence: u64,
    #[serde(with = "bytes")]
    outcome: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    revision: Revision,
    at_ms: u64,
    sequence: u64,
}

const META_KEY: &[u8] = b"m";
const OBJECT_PREFIX: u8 = b'o';
const REQUEST_PREFIX: u8 = b'r';

/// The state machine of one domain. Publishes into a [`Replica`] that everyone else reads.
///
/// It keeps a state of its own: a node that begins to vote has followed another node's copy until then, and its log
/// starts far behind what that copy shows. The copy is written only where it would otherwise fall behind.
#[derive(Debug)]
pub struct Machine<D: Domain> {
    replica: Arc<Replica<D>>,
    known: Level,
    state: D,
    meta: Meta,
    order: VecDeque<(u64, RequestId)>,
}

impl<D: Domain> Machine<D> {
    /// An empty state that is read through `replica`.
    pub fn new(replica: Arc<Replica<D>>) -> Self {
        // What one before it remembered is in its rows.
        replica.outcomes.write().clear();
        let (state, meta, order) = Default::default();
        Self { replica, known: LEVEL, state, meta, order }
    }

    /// As a program would that knows no more than `known`.
    #[must_use]
    pub fn knowing(self, known: Level) -> Self {
        Self { known, ..self }
    }

    /// Applies one command from the log: an entry with nothing else.
    ///
    /// # Errors
    /// As [`apply_all`](Self::apply_all).
    pub fn apply(&mut self, sealed: &[u8]) -> Result<Applied, MachineError> {
        self.apply_all([sealed])
    }

    /// Applies the commands of an entry of the log, in order. Whoever follows the state is told once for all of them.
    ///
    /// # Errors
    /// [`MachineError::Command`] when one cannot be decoded, [`MachineError::TooOld`] when one is of a level that this
    /// program does not know. That one and those after it have changed nothing, and nobody is told of those before it: the
    /// group has to stop.
    pub fn apply_all<'a>(&mut self, sealed: impl IntoIterator<Item = &'a [u8]>) -> Result<Applied, MachineError> {
        let (mut applied, mut batches) = (Applied::default(), Vec::new());
        for sealed in sealed {
            let reply = self.apply_one(sealed, &mut applied.rows, &mut batches)?;
            applied.replies.push(reply);
        }
        if !applied.rows.is_empty() {
            applied.rows.push(Row { key: META_KEY.to_vec(), value: Some(codec::encode(&self.meta)) });
        }
        self.replica.publish(batches, &self.state);
        Ok(applied)
    }

    /// Applies a command; gives its outcome, and adds its rows and what watches shall show of it.
    fn apply_one(
        &mut self,
        sealed: &[u8],
        rows: &mut Vec<Row>,
        batches: &mut Vec<Batch<D>>,
    ) -> Result<Vec<u8>, MachineError> {
        let wrong = |source| MachineError::Command { domain: D::NAME, source };
        let envelope: Envelope = codec::decode(sealed).map_err(wrong)?;
        if let Some(reply) = self.replica.outcome(envelope.request) {
            return Ok(reply);
        }
        if let Some(other) = self.namesake(envelope.request) {
            let why = format!(
                "the key of this request was that of another one before, {other}; use each key for one request"
            );
            let outcome = Outcome::<D::Reply> { revision: self.meta.revision, result: Err(Rejection::reused(why)) };
            return Ok(codec::encode(&outcome));
        }
        let command: D::Command = codec::decode(&envelope.command).map_err(wrong)?;
        if D::needs(&command) > self.known {
            return Err(self.too_old(&self.state, D::needs(&command)));
        }
        let at_ms = envelope.at_ms.max(self.meta.at_ms);
        let next = self.meta.revision.next();
        let mut changes = Changes::new();
        let names_conflicts = self.state.level() >= CONFLICTS;
        let decided = self.state.apply(&command, at_ms, next, &mut changes);
        // Programs that knew less remember the outcome without.
        let decided = decided.map_err(|why| Rejection { conflict: why.conflict.filter(|_| names_conflicts), ..why });
        let changes = if decided.is_ok() { changes.into_vec() } else { Vec::new() };

        self.meta.at_ms = at_ms;
        if !changes.is_empty() {
            self.meta.revision = next;
            rows.extend(changes.iter().map(|change| object_row::<D>(next, &change.key, change.object.as_ref())));
            for change in &changes {
                self.state.absorb(next, change.key.clone(), change.object.clone());
            }
            batches.push(Batch { revision: next, changes });
        }
        let reply = codec::encode(&Outcome { revision: self.meta.revision, result: decided });
        self.remember(envelope.request, reply.clone(), rows);
        Ok(reply)
    }

    /// Another request under the same key: the first half of a name is of its key, the second of what it asks. Programs that
    /// knew less let both take effect, and decide alike until all know more.
    fn namesake(&self, request: RequestId) -> Option<RequestId> {
        if self.state.level() < NAMESAKES {
            return None;
        }
        let same_key = RequestId(request.0, 0)..=RequestId(request.0, u64::MAX);
        self.replica.outcomes.read().range(same_key).next().map(|(other, _)| *other)
    }

    fn remember(&mut self, request: RequestId, outcome: Vec<u8>, rows: &mut Vec<Row>) {
        self.meta.sequence += 1;
        let remembered = Remembered { sequence: self.meta.sequence, outcome };
        rows.push(Row { key: request_key(request), value: Some(codec::encode(&(request, &remembered))) });
        let mut outcomes = self.replica.outcomes.write();
        outcomes.insert(request, remembered.outcome);
        self.order.push_back((remembered.sequence, request));
        while self.order.len() > REQUESTS_MAX {
            if let Some((_, oldest)) = self.order.pop_front() {
                outcomes.remove(&oldest);
                rows.push(Row { key: request_key(oldest), value: None });
            }
        }
    }

    /// Replaces everything by stored rows: at start, and when a snapshot is installed.
    ///
    /// # Errors
    /// [`MachineError::Row`] when a row cannot be read, [`MachineError::TooOld`] when the rows say that later programs have
    /// agreed on more than this one knows; the present state is kept then.
    pub fn load(&mut self, rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<(), MachineError> {
        let mut meta = Meta::default();
        let mut requests = BTreeMap::new();
        let mut order = Vec::new();
        let mut state = D::default();
        let mut unreadable = None;
        for (key, value) in rows {
            let wrong =
                |source| MachineError::Row { domain: D::NAME, key: String::from_utf8_lossy(&key).into_owned(), source };
            match key.first() {
                Some(&OBJECT_PREFIX) => match codec::decode::<(Revision, D::Key, D::Object)>(&value) {
                    Ok((revision, key, object)) => state.absorb(revision, key, Some(object)),
                    // It goes on: the level, which says why, may be in a later row.
                    Err(source) => unreadable = Some(wrong(source)),
                },
                Some(&REQUEST_PREFIX) => {
                    let (request, remembered): (RequestId, Remembered) = codec::decode(&value).map_err(wrong)?;
                    order.push((remembered.sequence, request));
                    requests.insert(request, remembered.outcome);
                }
                _ => meta = codec::decode(&value).map_err(wrong)?,
            }
        }
        if state.level() > self.known {
            return Err(self.too_old(&state, state.level()));
        }
        if let Some(error) = unreadable {
            return Err(error);
        }
        order.sort_unstable();
        self.meta = meta;
        *self.replica.outcomes.write() = requests;
        self.order = order.into();
        self.state = state;
        self.replica.catch_up(meta.revision, &self.state);
        Ok(())
    }

    fn too_old(&self, state: &D, needed: Level) -> MachineError {
        let agreed = state.agreed().filter(|agreed| agreed.level >= needed);
        let advice = agreed.map_or_else(
            || "install the version that the other nodes run".to_owned(),
            |agreed| format!("install version {} or later", agreed.version),
        );
        MachineError::TooOld { domain: D::NAME, needed, known: self.known, advice }
    }

    /// The state's revision.
    pub const fn revision(&self) -> Revision {
        self.meta.revision
    }
}

/// The rows of a state that has these objects at `revision`, last changed at `at_ms`, and remembers no requests.
pub(crate) fn rows_of<'a, D: Domain>(
    objects: impl IntoIterator<Item = &'a (D::Key, Revision, D::Object)>,
    revision: Revision,
    at_ms: u64,
) -> Vec<Row> {
    let objects = objects.into_iter().map(|(key, changed, object)| object_row::<D>(*changed, key, Some(object)));
    let meta = Meta { revision, at_ms, sequence: 0 };
    objects.chain([Row { key: META_KEY.to_vec(), value: Some(codec::encode(&meta)) }]).collect()
}

/// The row of an object that was put at `revision`, or removed.
fn object_row<D: Domain>(revision: Revision, key: &D::Key, object: Option<&D::Object>) -> Row {
    let mut bytes = vec![OBJECT_PREFIX];
    bytes.extend(codec::encode(key));
    Row { key: bytes, value: object.map(|object| codec::encode(&(revision, key, object))) }
}

fn request_key(request: RequestId) -> Vec<u8> {
    let mut bytes = vec![REQUEST_PREFIX];
    bytes.extend(request.0.to_be_bytes());
    bytes.extend(request.1.to_be_bytes());
    bytes
}

/// Byte strings as MessagePack `bin` instead of an array of numbers.
mod bytes {
    use serde::{Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        d.deserialize_bytes(Visitor)
    }
}

#[cfg(test)]
mod tests;
