//! Changes of the voters, one at a time, each finished before the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use insula_env::clock::{sleep, timeout};
use insula_types::NodeId;
use openraft::{
    ChangeMembers, EmptyNode, ServerState,
    error::{ChangeMembershipError, ClientWriteError, RaftError},
};

use super::Group;
use crate::{
    engine::{Raft, RaftMetrics},
    error::MembershipError,
};

/// A learner that lacks no more entries than this may vote.
const LAG_MAX: u64 = 16;
/// How often the lag of a learner is looked at.
const LAG_POLL: Duration = Duration::from_millis(20);

type Refused = RaftError<u64, ClientWriteError<u64, EmptyNode>>;

impl Group {
    /// Who votes now: of both sets, while one gives way to the other.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.metrics().voters
    }

    /// Makes `node` a voter: first a learner, then, once it has caught up, a voter. Leader only. Fine if it votes.
    ///
    /// # Errors
    /// [`MembershipError`]; all but a stopped group can be retried.
    pub async fn add_voter(&self, node: NodeId, limit: Duration) -> Result<(), MembershipError> {
        let change = async {
            let _alone = self.0.membership.try_lock().map_err(|_| MembershipError::InProgress)?;
            self.settle().await?;
            if self.voters().contains(&node) {
                return Ok(());
            }
            let learner = self.0.raft.add_learner(node.get(), EmptyNode {}, false).await;
            learner.map_err(|error| self.refused(error))?;
            self.caught_up(node).await?;
            let promote = ChangeMembers::AddVoterIds(BTreeSet::from([node.get()]));
            self.0.raft.change_membership(promote, false).await.map_err(|error| self.refused(error))?;
            Ok(())
        };
        match timeout(limit, change).await {
            Ok(outcome) => outcome,
            Err(_) if !self.voters().contains(&node) => Err(MembershipError::Lagging { node }),
            Err(_) => Err(MembershipError::Unknown),
        }
    }

    /// Takes `node` out of the group, as voter or learner. Leader only; a leader may remove itself, and then gives way.
    /// Fine if it is not a member.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn remove(&self, node: NodeId, limit: Duration) -> Result<(), MembershipError> {
        let change = async {
            let _alone = self.0.membership.try_lock().map_err(|_| MembershipError::InProgress)?;
            self.settle().await?;
            let members = self.metrics();
            let id = node.get();
            let change = if members.voters.contains(&node) {
                if members.voters.len() == 1 {
                    return Err(MembershipError::LastVoter { node });
                }
                ChangeMembers::RemoveVoters(BTreeSet::from([id]))
            } else if members.learners.contains(&node) {
                ChangeMembers::RemoveNodes(BTreeSet::from([id]))
            } else {
                return Ok(());
            };
            self.0.raft.change_membership(change, false).await.map_err(|error| self.refused(error))?;
            Ok(())
        };
        timeout(limit, change).await.unwrap_or(Err(MembershipError::Unknown))
    }

    /// Waits until a learner's log is nearly as long as this leader's.
    async fn caught_up(&self, node: NodeId) -> Result<(), MembershipError> {
        let metrics = self.0.raft.metrics();
        loop {
            let lag = lag(&metrics.borrow(), node);
            match lag {
                None => return Err(MembershipError::NotLeader { leader: self.0.leader() }),
                Some(lag) if lag <= LAG_MAX => return Ok(()),
                Some(_) => sleep(LAG_POLL).await,
            }
        }
    }

    /// Before a change: this node leads, and no other change is half done.
    async fn settle(&self) -> Result<(), MembershipError> {
        if self.0.raft.server_metrics().borrow().state != ServerState::Leader {
            return Err(MembershipError::NotLeader { leader: self.0.leader() });
        }
        finish(&self.0.raft).await.map_err(|error| self.refused(error))
    }

    fn refused(&self, error: Refused) -> MembershipError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                MembershipError::NotLeader { leader: to.leader_id.map(NodeId::new).or(self.0.leader()) }
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
                ChangeMembershipError::InProgress(_) => MembershipError::InProgress,
                // It has been removed since it was looked at.
                ChangeMembershipError::EmptyMembership(_) | ChangeMembershipError::LearnerNotFound(_) => {
                    MembershipError::Unknown
                }
            },
            RaftError::Fatal(_) => MembershipError::Stopped,
        }
    }
}

/// How many entries `node` lacks; none when this node does not lead. All of them when it has not answered yet.
fn lag(metrics: &RaftMetrics, node: NodeId) -> Option<u64> {
    let replication: &BTreeMap<_, _> = metrics.replication.as_ref()?;
    let last = metrics.last_log_index.unwrap_or(0);
    match replication.get(&node.get()) {
        Some(Some(matched)) => Some(last.saturating_sub(matched.index)),
        Some(None) | None => Some(u64::MAX),
    }
}

/// Finishes a change that a crash of an earlier leader has left half done: from two sets of voters to the second.
pub(super) async fn finish(raft: &Raft) -> Result<(), Refused> {
    let sets = raft.metrics().borrow().membership_config.membership().get_joint_config().clone();
    if let [_, target] = sets.as_slice() {
        raft.change_membership(target.clone(), false).await?;
    }
    Ok(())
}
