//! What components hold of a state: local reads and watches from the replica, changes through a proposer.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use insula_env::{Clock, Rng, clock};
use insula_types::{Level, NodeId, RequestId, Revision, Term, codec};
use tokio::sync::watch;

use crate::{Domain, LEVEL, NotYet, Outcome, Rejection, Replica};

/// Wait between two tries of one proposal.
const RETRY_WAIT: Duration = Duration::from_millis(50);

/// Who leads a group, as far as this node knows. For routing and for starting work; never proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The leader.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: Term,
    /// Whether it is this node, and it has applied all of its predecessors' commands.
    pub is_me: bool,
}

/// Brings encoded commands to the group's leader, wherever it is.
#[async_trait]
pub trait Proposer: Send + Sync + Debug {
    /// Proposes once. The same `request` may be proposed again and takes effect once.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when it surely took no effect, [`ProposeError::Unknown`] when it may have,
    /// [`ProposeError::NotYet`] when the leader found somebody who does not know the command.
    async fn propose(&self, request: RequestId, command: Vec<u8>, deadline: Duration) -> Result<Vec<u8>, ProposeError>;

    /// Waits until this node's replica reflects everything that was committed before the call.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when no leader confirmed it in time.
    async fn barrier(&self, deadline: Duration) -> Result<(), ProposeError>;

    /// What became of a request that was proposed before; none: nothing that is known. Nothing is proposed.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when no leader said so in time.
    async fn recall(&self, request: RequestId, deadline: Duration) -> Result<Option<Vec<u8>>, ProposeError>;

    /// Who leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;
}

/// A committed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed<R> {
    /// The state's revision after it.
    pub revision: Revision,
    /// Its answer.
    pub reply: R,
}

/// Why a proposal has no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// It was committed and refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It may take effect yet, or have taken effect.
    #[error("the command's outcome is unknown: {why}; it may take effect yet")]
    Unknown {
        /// What is known.
        why: String,
    },
    /// It took no effect.
    #[error("no leader took the command: {why}; try again")]
    Unavailable {
        /// What is known.
        why: String,
    },
    /// It took no effect: not all programs that may have to apply it know it.
    #[error(transparent)]
    NotYet(#[from] NotYet),
    /// The outcome came but could not be read.
    #[error("the outcome cannot be read: is this node older than its peers?")]
    Unreadable,
}

/// One state as its users see it. Cheap to clone.
#[derive(Debug)]
pub struct Store<D: Domain> {
    replica: Arc<Replica<D>>,
    proposer: Arc<dyn Proposer>,
    clock: Clock,
    rng: Rng,
    known: Level,
}

impl<D: Domain> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self {
            replica: Arc::clone(&self.replica),
            proposer: Arc::clone(&self.proposer),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            known: self.known,
        }
    }
}

impl<D: Domain> Store<D> {
    /// Joins a replica and the way to change it.
    pub fn new(replica: Arc<Replica<D>>, proposer: Arc<dyn Proposer>, clock: Clock, rng: Rng) -> Self {
        Self { replica, proposer, clock, rng, known: LEVEL }
    }

    /// As a program would that knows no more than `known`.
    #[must_use]
    pub fn knowing(self, known: Level) -> Self {
        Self { known, ..self }
    }

    /// The level of commands that this program knows.
    pub const fn known(&self) -> Level {
        self.known
    }

    /// The local copy.
    pub const fn replica(&self) -> &Arc<Replica<D>> {
        &self.replica
    }

    /// Reads the local copy.
    pub fn read<R>(&self, read: impl FnOnce(&D) -> R) -> R {
        self.replica.read(read)
    }

    /// Reads after waiting until the local copy reflects all that was committed before the call.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when no leader confirmed it in time.
    pub async fn read_linearizable<R>(
        &self,
        deadline: Duration,
        read: impl FnOnce(&D) -> R,
    ) -> Result<R, ProposeError> {
        self.proposer.barrier(deadline).await?;
        Ok(self.replica.read(read))
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.proposer.leadership()
    }

    /// Whether a command may be proposed, by a copy that is as new as can be. Once it may, it always may.
    ///
    /// # Errors
    /// [`ProposeError::NotYet`] when not all programs know it, [`ProposeError::Unavailable`] when no leader confirmed so.
    pub async fn admit(&self, command: &D::Command, deadline: Duration) -> Result<(), ProposeError> {
        let admits = |state: &D| state.admits(command);
        if self.read(admits).is_ok() {
            return Ok(());
        }
        // This copy may lag behind.
        Ok(self.read_linearizable(deadline, admits).await??)
    }

    /// What became of a request that was proposed before, by the leader's memory; none: nothing that is known.
    ///
    /// # Errors
    /// As [`Self::propose_as`] was answered then; [`ProposeError::Unavailable`] when no leader said so in time.
    pub async fn recall(
        &self,
        request: RequestId,
        deadline: Duration,
    ) -> Result<Option<Committed<D::Reply>>, ProposeError> {
        self.proposer.recall(request, deadline).await?.map(|reply| open(&reply)).transpose()
    }

    /// Commits a command, trying again until `deadline` (which deduplication makes safe).
    ///
    /// # Errors
    /// As [`ProposeError`] says.
    pub async fn propose(&self, command: &D::Command, deadline: Duration) -> Result<Committed<D::Reply>, ProposeError> {
        let request = RequestId(self.rng.next(), self.rng.next());
        self.propose_as(request, command, deadline).await
    }

    /// As [`Self::propose`], under a request id of the caller's, which makes a later call with it safe too.
    ///
    /// # Errors
    /// As [`ProposeError`] says.
    pub async fn propose_as(
        &self,
        request: RequestId,
        command: &D::Command,
        deadline: Duration,
    ) -> Result<Committed<D::Reply>, ProposeError> {
        let until = self.clock.now() + deadline;
        self.admit(command, deadline).await?;
        let bytes = codec::encode(command);
        let mut may_have_taken_effect = None;
        loop {
            let left = until.saturating_duration_since(self.clock.now());
            let error = match self.proposer.propose(request, bytes.clone(), left).await {
                Ok(reply) => return open(&reply),
                Err(ProposeError::Unknown { why }) => {
                    may_have_taken_effect = Some(why.clone());
                    ProposeError::Unknown { why }
                }
                Err(ProposeError::Unavailable { why }) => match may_have_taken_effect.clone() {
                    Some(why) => ProposeError::Unknown { why },
                    None => ProposeError::Unavailable { why },
                },
                Err(other) => return Err(other),
            };
            let wait = self.rng.jitter(RETRY_WAIT);
            if self.clock.now() + wait >= until {
                return Err(error);
            }
            clock::sleep(wait).await;
        }
    }
}

fn open<R: serde::de::DeserializeOwned>(reply: &[u8]) -> Result<Committed<R>, ProposeError> {
    let outcome: Outcome<R> = codec::decode(reply).map_err(|_| ProposeError::Unreadable)?;
    Ok(Committed { revision: outcome.revision, reply: outcome.result? })
}
