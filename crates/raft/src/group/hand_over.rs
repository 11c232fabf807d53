//! Giving the leadership away: before a drain, a stop, or when this node's disk is nearly full (rule R18). openraft 0.9
//! has no transfer, so the leader takes no more commands, waits until another voter has its whole log, and asks that one
//! to campaign; the voters then do not wait for the old leader's lease.

use std::{sync::atomic::Ordering, time::Duration};

use insula_env::clock::{sleep, timeout};
use insula_types::NodeId;
use tokio::sync::oneshot;

use super::{CORE_LIMIT, Group, Inner};
use crate::{
    election::Seen,
    error::HandOverError,
    transport::Class,
    wire::{Answer, Position, Refusal, Request},
};

/// How often the leader looks whether its log has arrived, and whether another leads.
const POLL: Duration = Duration::from_millis(2);
/// How long one voter may take to be elected before the next one is asked.
const TRY_LIMIT: Duration = Duration::from_secs(1);

impl Group {
    /// Lets another voter lead, the most up to date first, and gives its id. Commands that come meanwhile are turned
    /// away and go to the new leader; nothing that was confirmed is lost. Fine when this node does not lead.
    ///
    /// # Errors
    /// [`HandOverError`] when no other voter could take over; this node then leads on.
    pub async fn hand_over(&self, limit: Duration) -> Result<Option<NodeId>, HandOverError> {
        let inner = &self.0;
        if inner.is_handing_over.swap(true, Ordering::Relaxed) {
            return Err(HandOverError::InProgress);
        }
        // Also when whoever asked for it waits no longer.
        let _over = TakesCommandsAgain(inner);
        timeout(limit, inner.give_away()).await.unwrap_or(Err(HandOverError::Late))
    }
}

/// Ends the time in which this node takes no commands.
struct TakesCommandsAgain<'a>(&'a Inner);

impl Drop for TakesCommandsAgain<'_> {
    fn drop(&mut self) {
        self.0.is_handing_over.store(false, Ordering::Relaxed);
    }
}

impl Inner {
    async fn give_away(&self) -> Result<Option<NodeId>, HandOverError> {
        // An entry that came to the log once the successor was asked would make it lose its election.
        let (tell, flushed) = oneshot::channel();
        if self.flush.send(tell).await.is_ok() {
            flushed.await.ok();
        }
        let mut asked = Vec::new();
        loop {
            let Some((term, candidates)) = self.successors() else { return Ok(self.leader()) };
            let next = candidates.into_iter().find(|node| !asked.contains(node));
            let next = next.ok_or(HandOverError::Nobody)?;
            asked.push(next);
            if timeout(TRY_LIMIT, self.promote(next, term)).await.unwrap_or(false) {
                tracing::info!(group = %self.config.group, to = %NodeId::new(next), "leadership handed over");
                return Ok(Some(NodeId::new(next)));
            }
        }
    }

    /// The term that this node leads, and the other voters, who has most of the log first.
    fn successors(&self) -> Option<(u64, Vec<u64>)> {
        let metrics = self.raft.metrics().borrow().clone();
        let matched = metrics.replication.filter(|_| metrics.state.is_leader())?;
        let voters = metrics.membership_config.membership().voter_ids().filter(|node| *node != self.me());
        let mut voters: Vec<u64> = voters.collect();
        voters.sort_by_key(|node| std::cmp::Reverse(matched.get(node).copied().flatten()));
        Some((metrics.current_term, voters))
    }

    /// Waits until `node` has the whole log, asks it to campaign, and waits until it has won. False when it does not.
    async fn promote(&self, node: u64, term: u64) -> bool {
        loop {
            let metrics = self.raft.metrics().borrow().clone();
            let Some(matched) = metrics.replication.filter(|_| metrics.current_term == term) else { return true };
            let has_all = matched.get(&node).copied().flatten().map(|at| at.index) >= metrics.last_log_index;
            let last = self.raft.data_metrics().borrow().last_log.map(Position::from);
            if has_all && !self.ask_to_campaign(node, term, last).await {
                return false;
            }
            if has_all {
                break;
            }
            sleep(POLL).await;
        }
        let mut server = self.raft.server_metrics();
        server.wait_for(|now| now.vote.leader_id.term > term).await.is_ok()
    }

    async fn ask_to_campaign(&self, node: u64, term: u64, last: Option<Position>) -> bool {
        let answer = self.caller.call(node, &Request::TakeOver { term, last }, Class::Vote, TRY_LIMIT).await;
        matches!(answer, Ok(Answer::TakingOver { is_campaigning: true }))
    }

    /// Campaigns at once because the leader of `term`, who is `from`, asks for it.
    pub(super) async fn take_over(&self, from: NodeId, term: u64, last: Option<Position>) -> Result<bool, Refusal> {
        let seen = timeout(CORE_LIMIT, Seen::ask(&self.raft)).await.map_err(|_| Refusal::Busy)?;
        let seen = seen.map_err(|_| Refusal::Stopped)?;
        if self.caller.is_short.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let is_asked_by_leader = seen.term == term && seen.is_elected && seen.vote_for == Some(from.get());
        if !is_asked_by_leader || seen.last < last || !seen.is_voter(self.me()) {
            return Ok(false);
        }
        self.caller.handed_over.store(term + 1, Ordering::Relaxed);
        tracing::info!(group = %self.config.group, term = term + 1, %from, "campaigning, as the leader asks");
        self.raft.trigger().elect().await.map_err(|_| Refusal::Stopped)?;
        Ok(true)
    }
}
