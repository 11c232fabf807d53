//! Answers to the messages of other nodes. Nothing that a peer sends can stop the group or fill its memory.

use std::sync::Arc;

use bytes::Bytes;
use insula_env::clock::timeout;
use insula_types::NodeId;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use tokio::sync::oneshot;

use super::{CORE_LIMIT, Inner};
use crate::{
    config::Timers,
    election::{Seen, would_vote},
    engine::{Snapshot, Vote},
    store::{Stage, chain},
    wire::{self, Answer, Blob, Refusal, Request, SnapshotMeta},
};

/// Messages handled at the same time; further ones are turned away, and sent again later.
pub(super) const HANDLED_MAX: usize = 64;

/// A snapshot on its way to this node. Only one is taken at a time: a new one replaces it, unless it is being installed.
#[derive(Default)]
pub(super) enum Transfer {
    /// None.
    #[default]
    Idle,
    /// Its rows are coming.
    Receiving(Receiving),
    /// Rows are being written, or all of them installed.
    Busy,
}

pub(super) struct Receiving {
    from: NodeId,
    transfer: u64,
    vote: Vote,
    meta: SnapshotMeta,
    chain: Bytes,
}

impl Inner {
    pub(super) async fn handle(self: &Arc<Self>, from: NodeId, message: &[u8]) -> Bytes {
        let incarnation = self.config.incarnation;
        let answer = match wire::decode::<Request>(message) {
            Err(_) => Err(Refusal::Malformed),
            Ok(frame) if frame.incarnation != incarnation => Err(Refusal::OtherIncarnation),
            Ok(_) if !self.is_running() => Err(Refusal::Stopped),
            Ok(_) if !self.may_speak(from) => Err(Refusal::NotAMember),
            Ok(frame) => match self.handling.try_acquire() {
                Ok(_permit) if frame.body.is_of_a_snapshot() => self.apart(from, frame.body).await,
                Ok(_permit) => self.answer(from, frame.body).await,
                Err(_) => Err(Refusal::Busy),
            },
        };
        wire::encode(incarnation, answer.unwrap_or_else(Answer::Refused))
    }

    /// Members may, and whom the server vouches for. A node that is no member yet listens to whoever adds it.
    fn may_speak(&self, from: NodeId) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let mut members = membership.nodes().peekable();
        members.peek().is_none() || members.any(|(node, _)| *node == from.get()) || (self.config.admit)(from)
    }

    /// Answers in a task of its own. The sender may give up, and the transport then drops the answering future; what
    /// has begun on the disk goes on all the same, and nobody else may touch the transfer until it has ended.
    async fn apart(self: &Arc<Self>, from: NodeId, request: Request) -> Result<Answer, Refusal> {
        let (done, answer) = oneshot::channel();
        let inner = Arc::clone(self);
        self.env.tasks.spawn("receive a snapshot", async move {
            done.send(inner.answer(from, request).await).ok();
        });
        answer.await.unwrap_or(Err(Refusal::Stopped))
    }

    async fn answer(&self, from: NodeId, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::Append { vote, previous, entries, commit, timers } => {
                if !follow_on(previous, &entries) {
                    return Err(Refusal::Malformed);
                }
                let rpc = AppendEntriesRequest {
                    vote: own_vote(from, vote, true)?,
                    prev_log_id: previous.map(Into::into),
                    entries: entries.into_iter().map(Into::into).collect(),
                    leader_commit: commit.map(Into::into),
                };
                let answered = timeout(CORE_LIMIT, self.raft.append_entries(rpc)).await.map_err(|_| Refusal::Busy)?;
                let answered = answered.map_err(|_| Refusal::Stopped)?;
                if let Some(timers) = timers.filter(|_| answered.is_success()) {
                    self.take_timers(timers).await?;
                }
                Ok(match answered {
                    AppendEntriesResponse::Success => Answer::Appended,
                    AppendEntriesResponse::PartialSuccess(last) => Answer::AppendedTo(last.map(Into::into)),
                    AppendEntriesResponse::Conflict => Answer::Conflict,
                    AppendEntriesResponse::HigherVote(vote) => Answer::HigherVote(vote.into()),
                })
            }
            Request::Vote { vote, last, is_handed_over } => {
                let seen = self.seen().await?;
                let is_led = seen.live_leader(self.me(), &self.timing.now(), self.env.clock.now()).is_some();
                if is_led && !is_handed_over {
                    return Ok(Answer::Voted { vote: self.vote(), is_granted: false, last: seen.last });
                }
                let rpc = VoteRequest::new(own_vote(from, vote, false)?, last.map(Into::into));
                let answered = timeout(CORE_LIMIT, self.raft.vote(rpc)).await.map_err(|_| Refusal::Busy)?;
                let voted = answered.map_err(|_| Refusal::Stopped)?;
                Ok(Answer::Voted {
                    vote: voted.vote.into(),
                    is_granted: voted.vote_granted,
                    last: voted.last_log_id.map(Into::into),
                })
            }
            Request::PreVote { last } => {
                let seen = self.seen().await?;
                let is_led = self.leadership.borrow().leader == Some(self.config.node) && seen.is_leader;
                let (me, timers, now) = (self.me(), self.timing.now(), self.env.clock.now());
                let is_granted = would_vote(me, &seen, &timers, from.get(), last, is_led, now);
                Ok(Answer::PreVoted { is_granted })
            }
            Request::Ping => Ok(Answer::Pong),
            Request::TakeOver { term, last } => {
                Ok(Answer::TakingOver { is_campaigning: self.take_over(from, term, last).await? })
            }
            Request::SnapshotBegin { vote, meta, transfer } => {
                self.begin(from, own_vote(from, vote, true)?, meta, transfer).await
            }
            Request::SnapshotRows { transfer, rows, chain } => self.rows(from, transfer, rows, chain).await,
            Request::SnapshotEnd { transfer, chain } => self.install(from, transfer, &chain).await,
        }
    }

    async fn seen(&self) -> Result<Seen, Refusal> {
        let seen = timeout(CORE_LIMIT, Seen::ask(&self.raft)).await.map_err(|_| Refusal::Busy)?;
        seen.map_err(|_| Refusal::Stopped)
    }

    /// Takes over the timers of the leader; they are on the disk before it hears that its append arrived.
    async fn take_timers(&self, timers: Timers) -> Result<(), Refusal> {
        if timers == self.timing.now() || !timers.are_sound() {
            return Ok(());
        }
        let log = self.files.lock().as_ref().map(|files| files.log.clone()).ok_or(Refusal::Stopped)?;
        log.save_timers(timers).await.map_err(|error| self.not_stored(&error))?;
        tracing::info!(group = %self.config.group, ?timers, "timers of the leader");
        self.timing.set(timers);
        Ok(())
    }

    fn vote(&self) -> wire::Vote {
        self.raft.server_metrics().borrow().vote.into()
    }

    fn stage(&self) -> Result<Stage, Refusal> {
        self.files.lock().as_ref().map(|files| files.stage.clone()).ok_or(Refusal::Stopped)
    }

    async fn begin(&self, from: NodeId, vote: Vote, meta: SnapshotMeta, transfer: u64) -> Result<Answer, Refusal> {
        let mine = self.vote();
        if vote < Vote::from(mine) {
            return Ok(Answer::Taken { vote: mine });
        }
        let busy = self.occupy(|state| !matches!(state, Transfer::Busy)).ok_or(Refusal::Busy)?;
        self.stage()?.clear().await.map_err(|error| self.not_stored(&error))?;
        busy.leave(Transfer::Receiving(Receiving { from, transfer, vote, meta, chain: Bytes::new() }));
        Ok(Answer::Taken { vote: mine })
    }

    async fn rows(&self, from: NodeId, transfer: u64, rows: Vec<(Blob, Blob)>, check: Blob) -> Result<Answer, Refusal> {
        let (busy, mut receiving) = self.take(from, transfer)?;
        receiving.chain = chain(&receiving.chain, &rows);
        if receiving.chain != check.0 {
            return Err(Refusal::Damaged);
        }
        self.stage()?.add(rows).await.map_err(|error| self.not_stored(&error))?;
        busy.leave(Transfer::Receiving(receiving));
        Ok(Answer::Taken { vote: self.vote() })
    }

    async fn install(&self, from: NodeId, transfer: u64, check: &Blob) -> Result<Answer, Refusal> {
        let (_busy, receiving) = self.take(from, transfer)?;
        if receiving.chain != check.0 {
            return Err(Refusal::Damaged);
        }
        let snapshot = Snapshot { meta: receiving.meta.into(), snapshot: Box::new(self.stage()?.complete()) };
        let installed = self.raft.install_full_snapshot(receiving.vote, snapshot);
        Ok(Answer::Taken { vote: installed.await.map_err(|_| Refusal::Stopped)?.vote.into() })
    }

    fn not_stored(&self, error: &crate::error::StoreError) -> Refusal {
        // The leader tries again; a disk that stays bad stops the group, which is told where that is seen.
        let error = crate::error::chain_text(error);
        tracing::warn!(group = %self.config.group, error, "what the leader sent was not stored");
        Refusal::Stopped
    }

    /// Takes the transfer under way out, if it is this one.
    fn take(&self, from: NodeId, transfer: u64) -> Result<(Busy<'_>, Receiving), Refusal> {
        let mut state = self.receiving.lock();
        match std::mem::replace(&mut *state, Transfer::Busy) {
            Transfer::Receiving(receiving) if receiving.from == from && receiving.transfer == transfer => {
                Ok((Busy(&self.receiving), receiving))
            }
            other => {
                *state = other;
                Err(Refusal::OtherTransfer)
            }
        }
    }

    fn occupy(&self, may: impl FnOnce(&Transfer) -> bool) -> Option<Busy<'_>> {
        let mut state = self.receiving.lock();
        may(&state).then(|| {
            *state = Transfer::Busy;
            Busy(&self.receiving)
        })
    }
}

/// While it lives, no other message touches the transfer. Dropped, it leaves none under way.
struct Busy<'a>(&'a parking_lot::Mutex<Transfer>);

impl Busy<'_> {
    fn leave(self, state: Transfer) {
        *self.0.lock() = state;
        std::mem::forget(self);
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        *self.0.lock() = Transfer::Idle;
    }
}

/// Whether entries follow on each other, and the first on `previous`. openraft would take others, and have a log with a
/// hole.
fn follow_on(previous: Option<wire::Position>, entries: &[wire::Entry]) -> bool {
    let mut last = previous.map(|previous| previous.index);
    entries.iter().all(|entry| {
        let expected = last.map_or(Some(0), |last| last.checked_add(1));
        last = Some(entry.at.index);
        Some(entry.at.index) == expected
    })
}

/// A node speaks for itself only: as the elected leader, or as a candidate.
fn own_vote(from: NodeId, vote: wire::Vote, is_elected: bool) -> Result<Vote, Refusal> {
    let vote = Vote::from(vote);
    let is_own = vote.leader_id.voted_for == Some(from.get()) && vote.committed == is_elected;
    if is_own { Ok(vote) } else { Err(Refusal::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_with_a_hole_are_no_entries() {
        let at = |index| wire::Position { term: 1, index };
        let entries = |indexes: &[u64]| {
            let entry = |index: &u64| wire::Entry { at: at(*index), payload: wire::Payload::Blank };
            indexes.iter().map(entry).collect::<Vec<_>>()
        };
        assert!(follow_on(None, &entries(&[0, 1])));
        assert!(follow_on(Some(at(4)), &entries(&[5, 6, 7])));
        assert!(follow_on(Some(at(4)), &[]));
        assert!(!follow_on(None, &entries(&[1])));
        assert!(!follow_on(Some(at(4)), &entries(&[6])));
        assert!(!follow_on(Some(at(4)), &entries(&[5, 7])));
        assert!(!follow_on(Some(at(4)), &entries(&[4, 5])));
        assert!(!follow_on(Some(at(u64::MAX)), &entries(&[0])));
    }
}
