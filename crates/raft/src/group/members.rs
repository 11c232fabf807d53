//! Changes of who votes, one at a time, each finished before the next.

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

    /// Makes exactly these vote. New ones first follow as learners, until they have nearly the whole log; then all
    /// changes take place in one step, which a majority of the old and of the new voters confirms: no set in between has
    /// a say. Leader only; a leader that is not among them gives way. Fine if these vote already. The same call again
    /// goes on where an earlier one stopped.
    ///
    /// # Errors
    /// [`MembershipError`]; all but a stopped group can be retried.
    pub async fn set_voters(&self, wanted: &BTreeSet<NodeId>, limit: Duration) -> Result<(), MembershipError> {
        if wanted.is_empty() {
            return Err(MembershipError::Nobody);
        }
        let mut lagging = None;
        let change = async {
            let _alone = self.0.membership.try_lock().map_err(|_| MembershipError::InProgress)?;
            self.settle().await?;
            let members = self.metrics();
            for node in wanted.difference(&members.voters) {
                let learner = self.0.raft.add_learner(node.get(), EmptyNode {}, false).await;
                learner.map_err(|error| self.refused(error))?;
            }
            for node in wanted.difference(&members.voters) {
                lagging = Some(*node);
                self.caught_up(*node).await?;
            }
            lagging = None;
            let ids: BTreeSet<u64> = wanted.iter().map(|node| node.get()).collect();
            if *wanted != members.voters {
                let replace = ChangeMembers::ReplaceAllVoters(ids.clone());
                self.0.raft.change_membership(replace, false).await.map_err(|error| self.refused(error))?;
            }
            // Those that an earlier call wanted, and this one does not.
            let left: BTreeSet<u64> = self.metrics().learners.iter().map(|node| node.get()).collect();
            let left: BTreeSet<u64> = left.difference(&ids).copied().collect();
            if !left.is_empty() && wanted.contains(&self.0.config.node) {
                let remove = ChangeMembers::RemoveNodes(left);
                self.0.raft.change_membership(remove, false).await.map_err(|error| self.refused(error))?;
            }
            Ok(())
        };
        match timeout(limit, change).await {
            Ok(outcome) => outcome,
            Err(_) => Err(lagging.map_or(MembershipError::Unknown, |node| MembershipError::Lagging { node })),
        }
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
