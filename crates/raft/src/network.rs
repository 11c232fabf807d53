//! How openraft sends: its messages become frames of ours and go through the [`Transport`].

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use insula_env::{
    Env,
    clock::{Instant, timeout},
};
use insula_types::{Incarnation, NodeId};
use openraft::{
    EmptyNode, RaftNetwork, RaftNetworkFactory,
    error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};

use crate::{
    config::{Config, SNAPSHOT_CHUNK_LIMIT, SNAPSHOT_INSTALL_LIMIT},
    contacts::{Contacts, age},
    engine::{Raft, Snapshot, Types, Vote},
    error::TransportError,
    group::CORE_LIMIT,
    store::{Ahead, SnapshotData, chain},
    timing::Timing,
    transport::{Class, Transport},
    wire::{self, Answer, Refusal, Request},
};

/// Why a request has no useful answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("be heard: {0}")]
    Refused(#[from] Refusal),
    #[error("understand the answer")]
    Answer,
    #[error("send: no majority answers this leader, it keeps silent")]
    Mute,
    #[error("send: the disk of this leader hangs or fails, it keeps silent")]
    Stalled,
    #[error("send: this node leads no more")]
    Former,
    #[error("take an answer: this node's disk is too slow at present")]
    Busy,
}

/// Sends requests to one group on other nodes.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) contacts: Arc<Contacts>,
    pub(crate) timing: Arc<Timing>,
    /// What this node leads with and has yet to write.
    pub(crate) ahead: Ahead,
    /// The term in which this node campaigns because the leader asked it to.
    pub(crate) handed_over: Arc<AtomicU64>,
    /// The newest term that this node has noticed. openraft 0.9.25 keeps the tasks of a former leader; one whose entries
    /// have been dropped from the log meanwhile sends empty appends for ever, and a follower that comes back and knows
    /// nothing newer would keep faith with that leader.
    pub(crate) term: Arc<AtomicU64>,
    /// This node's disk is nearly full.
    pub(crate) is_short: Arc<AtomicBool>,
    pub(crate) config: Arc<Config>,
    pub(crate) env: Env,
    /// openraft itself, once it runs.
    pub(crate) core: Arc<OnceLock<Raft>>,
}

impl Caller {
    /// Sends a request and decodes the answer; a refusal is an error.
    pub(crate) async fn call(
        &self,
        target: u64,
        request: &Request,
        class: Class,
        limit: Duration,
    ) -> Result<Answer, CallError> {
        let sent = self.env.clock.now();
        let message = wire::encode(self.config.incarnation, request);
        let answer = self.transport.send(NodeId::new(target), self.config.group, message, class, limit).await?;
        let answer = decode(&answer, self.config.incarnation)?;
        self.contacts.heard(target, sent);
        Ok(answer)
    }

    fn now(&self) -> Instant {
        self.env.clock.now()
    }

    /// Before openraft hears of a higher vote: lets it work off what is in its queue. Hearing of it ends openraft's task for
    /// the peer at once; should an answer that still waits in the queue, or a command that waits for the disk, make it send
    /// that peer a snapshot, it would find the task gone and stop the group (0.9.25, `Command::Replicate`). When openraft
    /// does not come to it, the peer counts as not heard; it will say so again.
    async fn let_core_catch_up(&self) -> Result<(), CallError> {
        let Some(core) = self.core.get() else { return Ok(()) };
        // The first may be answered in the same turn of the core as what came before it; the second one is not.
        for _ in 0..2 {
            timeout(CORE_LIMIT, core.with_raft_state(|_| ())).await.map_err(|_| CallError::Busy)?.ok();
        }
        Ok(())
    }
}

fn decode(answer: &[u8], incarnation: Incarnation) -> Result<Answer, CallError> {
    let frame = wire::decode::<Answer>(answer).map_err(|_| CallError::Answer)?;
    match frame.body {
        Answer::Refused(refusal) => Err(refusal.into()),
        _ if frame.incarnation != incarnation => Err(Refusal::OtherIncarnation.into()),
        answer => Ok(answer),
    }
}

impl RaftNetworkFactory<Types> for Caller {
    type Network = Link;
    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Link {
        Link { caller: self.clone(), target }
    }
}

/// openraft's way to one peer.
pub(crate) struct Link {
    caller: Caller,
    target: u64,
}

type Failed = RPCError<u64, EmptyNode, RaftError<u64>>;

/// Such a failure makes openraft wait for [`Link::backoff`] before the next attempt, so that it never spins.
fn unreachable(error: &CallError) -> Failed {
    RPCError::Unreachable(Unreachable::new(error))
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        let Caller { contacts, timing, ahead, .. } = &self.caller;
        if contacts.is_mute() {
            return Err(unreachable(&CallError::Mute));
        }
        if rpc.vote.leader_id.term < self.caller.term.load(Ordering::Relaxed) {
            return Err(unreachable(&CallError::Former));
        }
        // What carries no entries may be there to say what is committed, which is said once: it waits until that is true.
        let patience = timing.now().election_min;
        let news = rpc.leader_commit.filter(|_| rpc.entries.is_empty());
        if news.is_some() && !matches!(timeout(patience, ahead.wait(news)).await, Ok(Ok(()))) {
            return Err(unreachable(&CallError::Stalled));
        }
        // A leader that cannot write is of no use: its followers shall miss it as if it were gone (rule R18).
        if ahead.since(self.caller.now()) > patience {
            return Err(unreachable(&CallError::Stalled));
        }
        let (sent, limit) = (self.caller.now(), contacts.patience(self.target, timing.heartbeat()));
        let request = Request::Append {
            vote: rpc.vote.into(),
            previous: rpc.prev_log_id.map(Into::into),
            entries: rpc.entries.iter().map(Into::into).collect(),
            commit: ahead.held_back(rpc.leader_commit).map(Into::into),
            timers: Some(timing.announced()),
        };
        let answered = self.caller.call(self.target, &request, Class::Append, limit).await;
        match &answered {
            Ok(_) => contacts.appended(self.target, age(self.caller.now(), sent)),
            Err(CallError::Transport(TransportError::Late { .. })) => contacts.missed(self.target, limit),
            Err(_) => {}
        }
        match answered {
            Ok(Answer::Appended) => Ok(AppendEntriesResponse::Success),
            Ok(Answer::AppendedTo(last)) => Ok(AppendEntriesResponse::PartialSuccess(last.map(Into::into))),
            Ok(Answer::Conflict) => Ok(AppendEntriesResponse::Conflict),
            Ok(Answer::HigherVote(vote)) => {
                self.caller.let_core_catch_up().await.map_err(|error| unreachable(&error))?;
                Ok(AppendEntriesResponse::HigherVote(vote.into()))
            }
            Ok(_) => Err(unreachable(&CallError::Answer)),
            // It has waited already: the peer may have it by now, and say so when it is asked again.
            Err(error @ CallError::Transport(TransportError::Late { .. })) => {
                Err(RPCError::Network(NetworkError::new(&error)))
            }
            Err(error) => Err(unreachable(&error)),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, _option: RPCOption) -> Result<VoteResponse<u64>, Failed> {
        let limit = self.caller.timing.now().election_min;
        let is_handed_over = self.caller.handed_over.load(Ordering::Relaxed) == rpc.vote.leader_id.term;
        let request = Request::Vote { vote: rpc.vote.into(), last: rpc.last_log_id.map(Into::into), is_handed_over };
        match self.caller.call(self.target, &request, Class::Vote, limit).await {
            Ok(Answer::Voted { vote, is_granted, last }) => {
                Ok(VoteResponse::new(Vote::from(vote), last.map(Into::into), is_granted))
            }
            Ok(_) => Err(unreachable(&CallError::Answer)),
            Err(error) => Err(unreachable(&error)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let sending = self.send_snapshot(vote, (&snapshot.meta).into(), &snapshot.snapshot);
        let sent = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            sent = sending => sent,
        };
        if sent.as_ref().is_ok_and(|answer| answer.vote > vote) {
            self.caller.let_core_catch_up().await.map_err(|error| Unreachable::new(&error))?;
        }
        sent
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.caller.timing.heartbeat()))
    }
}

impl Link {
    /// Sends a whole snapshot, chunk by chunk. Ends early when the receiver has seen a higher vote.
    async fn send_snapshot(
        &self,
        vote: Vote,
        meta: wire::SnapshotMeta,
        data: &SnapshotData,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let started = self.caller.now();
        let transfer = self.caller.env.rng.next();
        let begin = Request::SnapshotBegin { vote: vote.into(), meta, transfer };
        let theirs = self.part(&begin, SNAPSHOT_CHUNK_LIMIT).await?;
        if theirs > vote {
            return Ok(SnapshotResponse::new(theirs));
        }
        let (mut after, mut check, mut count) = (None, Bytes::new(), 0_usize);
        loop {
            let rows =
                data.rows_after(after).await.map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
            let Some((key, _)) = rows.last() else { break };
            after = Some(key.0.clone());
            count += rows.len();
            check = chain(&check, &rows);
            let part = Request::SnapshotRows { transfer, rows, chain: wire::Blob(check.clone()) };
            self.part(&part, SNAPSHOT_CHUNK_LIMIT).await?;
        }
        let end = Request::SnapshotEnd { transfer, chain: wire::Blob(check) };
        let theirs = self.part(&end, SNAPSHOT_INSTALL_LIMIT).await?;
        let took = self.caller.now() - started;
        tracing::info!(target = %NodeId::new(self.target), rows = count, ?took, "snapshot sent");
        Ok(SnapshotResponse::new(theirs))
    }

    /// Sends one part, and gives the receiver's vote.
    async fn part(&self, request: &Request, limit: Duration) -> Result<Vote, StreamingError<Types, Fatal<u64>>> {
        match self.caller.call(self.target, request, Class::Snapshot, limit).await {
            Ok(Answer::Taken { vote }) => Ok(vote.into()),
            Ok(_) => Err(Unreachable::new(&CallError::Answer).into()),
            Err(error) => Err(Unreachable::new(&error).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use insula_env::clock::sleep;
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::{GroupId, engine::LogId};

    /// Counts what is sent; nobody answers.
    #[derive(Default)]
    struct Nobody(AtomicU64);

    #[async_trait]
    impl Transport for Nobody {
        async fn send(
            &self,
            target: NodeId,
            _group: GroupId,
            _message: Bytes,
            _class: Class,
            limit: Duration,
        ) -> Result<Bytes, TransportError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            sleep(limit).await;
            Err(TransportError::Late { target })
        }
    }

    fn caller(nobody: &Arc<Nobody>, ahead: &Ahead, term: &Arc<AtomicU64>) -> Caller {
        let env = Env::real("raft");
        let config = Config::new(NodeId::new(1), GroupId(1), Incarnation(1), "group");
        Caller {
            transport: Arc::clone(nobody) as Arc<dyn Transport>,
            contacts: Arc::default(),
            timing: Arc::new(Timing::new(config.timers)),
            ahead: ahead.clone(),
            handed_over: Arc::default(),
            term: Arc::clone(term),
            is_short: Arc::default(),
            config: Arc::new(config),
            env,
            core: Arc::default(),
        }
    }

    fn at(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    /// Whether the leader of the first term sends so many entries, and what is committed.
    async fn sends(link: &mut Link, nobody: &Nobody, count: usize, commit: u64) -> bool {
        let before = nobody.0.load(Ordering::Relaxed);
        let entry = openraft::Entry { log_id: at(2), payload: openraft::EntryPayload::Blank };
        let rpc = AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(at(1)),
            entries: vec![entry; count],
            leader_commit: Some(at(commit)),
        };
        let option = RPCOption::new(Duration::from_secs(1));
        link.append_entries(rpc, option).await.expect_err("nobody answers");
        nobody.0.load(Ordering::Relaxed) > before
    }

    #[tokio::test(start_paused = true)]
    async fn a_former_leader_sends_nothing() {
        let (nobody, term) = (Arc::new(Nobody::default()), Arc::new(AtomicU64::new(0)));
        let caller = caller(&nobody, &Ahead::new(insula_env::Clock::real()), &term);
        let mut link = Link { caller, target: 2 };
        for (noticed, is_sent) in [(0, true), (1, true), (2, false)] {
            term.store(noticed, Ordering::Relaxed);
            assert_eq!(sends(&mut link, &nobody, 1, 1).await, is_sent, "entries, term {noticed}");
            assert_eq!(sends(&mut link, &nobody, 0, 1).await, is_sent, "heartbeat, term {noticed}");
        }
    }

    /// A follower that is fed a long log hears entries all the time: it would keep faith for as long as that takes.
    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_disk_hangs_sends_not_even_entries() {
        let nobody = Arc::new(Nobody::default());
        let ahead = Ahead::new(insula_env::Clock::real());
        let caller = caller(&nobody, &ahead, &Arc::default());
        let election_min = caller.config.timers.election_min;
        let mut link = Link { caller, target: 2 };
        let mut sent = async |count: usize, commit: u64| sends(&mut link, &nobody, count, commit).await;
        ahead.begin(Some(at(1)));
        assert!(sent(1, 1).await && sent(0, 1).await, "it writes while it sends");
        sleep(election_min).await;
        assert!(!sent(1, 1).await && !sent(0, 1).await && !sent(0, 2).await, "the write takes too long");
        ahead.reach(Some(at(2)), true);
        assert!(sent(1, 1).await && sent(0, 2).await);
    }
}
