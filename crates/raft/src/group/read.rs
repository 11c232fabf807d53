//! Linearizable reads: the leader confirms that it leads and says how far its log was committed; whoever has applied so
//! much may answer from its own state.

use std::time::Duration;

use insula_env::clock::timeout;
use insula_types::NodeId;
use openraft::error::{CheckIsLeaderError, RaftError};

use super::Group;
use crate::error::ReadError;

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
        match timeout(limit, self.0.raft.get_read_log_id()).await {
            Ok(Ok((Some(at), _))) => Ok(at.index),
            Ok(Ok((None, _))) => Err(ReadError::NoQuorum),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to)))) => {
                Err(ReadError::NotLeader { leader: to.leader_id.map(NodeId::new).or(self.0.leader()) })
            }
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) => Err(ReadError::NoQuorum),
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
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
