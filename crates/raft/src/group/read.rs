//! Linearizable reads: the leader confirms that it leads and says how far its log was committed; whoever has applied so
//! much may answer from its own state. Reads that wait share one confirmation, which begins after all of them.

use std::time::Duration;

use insula_env::{Beat, clock::timeout};
use insula_types::NodeId;
use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::Group;
use crate::{engine::Raft, error::ReadError};

/// How long a majority may take to confirm that this node leads.
const ROUND_LIMIT: Duration = Duration::from_secs(2);

/// A read that waits for its index.
pub(super) type Waiting = oneshot::Sender<Result<u64, ReadError>>;

impl Group {
    /// The index that a linearizable read, on any node, has to wait for ([`Group::wait_applied`]). Only the leader can
    /// tell, after a majority has confirmed that it still leads.
    ///
    /// # Errors
    /// [`ReadError`]; all can be retried.
    pub async fn read_index(&self, limit: Duration) -> Result<u64, ReadError> {
        if !self.0.is_running() {
            return Err(ReadError::Stopped);
        }
        if cfg!(feature = "planted-stale-leader-reads") && self.0.raft.server_metrics().borrow().state.is_leader() {
            return Ok(self.0.applied.borrow().map_or(0, |at| at.index));
        }
        let (waiting, index) = oneshot::channel();
        self.0.reads.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Busy,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        match timeout(limit, index).await {
            Ok(Ok(Err(ReadError::NotLeader { leader }))) => {
                Err(ReadError::NotLeader { leader: leader.or(self.0.leader()) })
            }
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Late),
        }
    }

    /// Waits until this node has applied the entry at `index`.
    ///
    /// # Errors
    /// [`ReadError::Late`] after `limit`, [`ReadError::Stopped`] when the group stops meanwhile.
    pub async fn wait_applied(&self, index: u64, limit: Duration) -> Result<(), ReadError> {
        let mut applied = self.0.applied.clone();
        match timeout(limit, applied.wait_for(|at| at.is_some_and(|at| at.index >= index))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Late),
        }
    }
}

/// Confirms reads until the group is dropped, one round for all that have come until it begins.
pub(super) async fn run(raft: Raft, mut reads: mpsc::Receiver<Waiting>, beat: Beat) {
    while let Some(first) = beat.idle(reads.recv()).await {
        let mut round = vec![first];
        while let Ok(next) = reads.try_recv() {
            round.push(next);
        }
        round.retain(|waiting| !waiting.is_closed());
        let answer = confirm(&raft).await;
        for waiting in round {
            waiting.send(answer.clone()).ok();
        }
    }
}

async fn confirm(raft: &Raft) -> Result<u64, ReadError> {
    match timeout(ROUND_LIMIT, raft.get_read_log_id()).await {
        Ok(Ok((Some(at), _))) => Ok(at.index),
        Ok(Ok((None, _))) => Err(ReadError::NoQuorum),
        Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to)))) => {
            Err(ReadError::NotLeader { leader: to.leader_id.map(NodeId::new) })
        }
        Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) => Err(ReadError::NoQuorum),
        Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
        Err(_) => Err(ReadError::Late),
    }
}
