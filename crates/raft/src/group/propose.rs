//! Proposals: commands that wait are put into one log entry together, so that one fsync serves many; each gets its own
//! reply. At most two entries of this node wait for their commit at a time.

use std::{future::Future, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use insula_env::{Beat, clock::timeout};
use insula_types::NodeId;
use openraft::error::{ClientWriteError, ForwardToLeader};
use tokio::sync::{mpsc, oneshot};

use super::Group;
use crate::{
    config::{BATCH_BYTES, BATCH_COMMANDS_MAX, BATCHES_IN_FLIGHT_MAX, COMMAND_BYTES_MAX},
    engine::{Batch, Raft},
    error::ProposeError,
};

/// A command that waits for its outcome.
pub(super) struct Proposal {
    command: Bytes,
    reply: oneshot::Sender<Result<Vec<u8>, ProposeError>>,
}

impl Group {
    /// Commits a command and gives the state machine's reply. Only the leader can; a command must carry an id by which
    /// the state machine knows it again, since it may have to be proposed twice.
    ///
    /// # Errors
    /// [`ProposeError`]; only [`ProposeError::Unknown`] leaves open whether it was, or will be, committed.
    pub async fn propose(&self, command: Vec<u8>, limit: Duration) -> Result<Vec<u8>, ProposeError> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: command.len(), max: COMMAND_BYTES_MAX });
        }
        if !self.0.is_running() {
            return Err(ProposeError::Stopped);
        }
        if self.0.is_handing_over.load(Ordering::Relaxed) {
            return Err(ProposeError::NotLeader { leader: None });
        }
        let (reply, outcome) = oneshot::channel();
        self.0.queue.try_send(Proposal { command: command.into(), reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Busy,
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        match timeout(limit, outcome).await {
            Ok(Ok(Err(ProposeError::NotLeader { leader }))) => {
                Err(ProposeError::NotLeader { leader: leader.or(self.0.leader()) })
            }
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }
}

/// Entries whose outcome is awaited.
type InFlight = FuturesUnordered<BoxFuture<'static, ()>>;

/// What the proposer waits for.
enum Arrival {
    /// An entry had its outcome, and its proposers were answered.
    Answered,
    Proposal(Proposal),
    /// Whoever waits here hands over: what waits is turned away, what is under way has its outcome first.
    Flush(Flushed),
    /// The group is dropped.
    End,
}

/// Told when no entry of this node is under way.
pub(super) type Flushed = oneshot::Sender<()>;

/// What comes to the proposer.
pub(super) struct Inbox {
    pub(super) proposals: mpsc::Receiver<Proposal>,
    pub(super) flushes: mpsc::Receiver<Flushed>,
}

async fn arrival(in_flight: &mut InFlight, inbox: &mut Inbox) -> Arrival {
    tokio::select! {
        biased;
        Some(()) = in_flight.next() => Arrival::Answered,
        Some(flushed) = inbox.flushes.recv() => Arrival::Flush(flushed),
        proposal = inbox.proposals.recv() => proposal.map_or(Arrival::End, Arrival::Proposal),
    }
}

async fn flush(in_flight: &mut InFlight, queue: &mut mpsc::Receiver<Proposal>, mut flushed: Flushed) {
    while let Ok(proposal) = queue.try_recv() {
        answer_all(vec![proposal], &ProposeError::NotLeader { leader: None });
    }
    let settled = async { while in_flight.next().await.is_some() {} };
    tokio::select! {
        () = settled => drop(flushed.send(())),
        // The hand-over has ended without this.
        () = flushed.closed() => {}
    }
}

/// Takes proposals until the group is dropped.
pub(super) async fn run(raft: Raft, mut inbox: Inbox, beat: Beat) {
    let mut in_flight = InFlight::new();
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(proposal) => proposal,
            None => match beat.idle(arrival(&mut in_flight, &mut inbox)).await {
                Arrival::Answered => continue,
                Arrival::Proposal(proposal) => proposal,
                Arrival::Flush(flushed) => {
                    beat.idle(flush(&mut in_flight, &mut inbox.proposals, flushed)).await;
                    continue;
                }
                Arrival::End => return,
            },
        };
        if in_flight.len() >= BATCHES_IN_FLIGHT_MAX {
            // What arrives meanwhile joins this proposal.
            beat.idle(in_flight.next()).await;
        }
        let batch;
        (batch, next) = gather(first, &mut inbox.proposals);
        if !batch.is_empty() {
            let writing = write(&raft, batch).await;
            in_flight.push(writing.boxed());
        }
    }
}

/// Takes what waits, as much as one entry may hold; what did not fit comes second. Leaves out whom nobody waits for.
fn gather(first: Proposal, queue: &mut mpsc::Receiver<Proposal>) -> (Vec<Proposal>, Option<Proposal>) {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(proposal) = next.take().or_else(|| queue.try_recv().ok()) {
        if proposal.reply.is_closed() {
            continue;
        }
        if batch.len() >= BATCH_COMMANDS_MAX || !batch.is_empty() && bytes + proposal.command.len() > BATCH_BYTES {
            next = Some(proposal);
            break;
        }
        bytes += proposal.command.len();
        batch.push(proposal);
    }
    (batch, next)
}

/// Hands a batch to openraft, and gives what waits for its outcome.
async fn write(raft: &Raft, proposals: Vec<Proposal>) -> impl Future<Output = ()> + Send + 'static + use<> {
    let batch = Batch::new(proposals.iter().map(|proposal| proposal.command.clone()).collect());
    let mut server = raft.server_metrics();
    let term = server.borrow().vote.leader_id.term;
    let written = raft.client_write_ff(batch.clone()).await;
    async move {
        let outcome = match written {
            Ok(outcome) => outcome,
            Err(_stopped) => return answer_all(proposals, &ProposeError::Stopped),
        };
        // When a new leader's snapshot replaces the end of this log, openraft 0.9 forgets to answer for the entries
        // that were there; they would hold their places in flight for ever (sim seed 96).
        let outcome = tokio::select! {
            biased;
            outcome = outcome => outcome,
            _ = server.wait_for(|now| now.vote.leader_id.term != term) => {
                Ok(Err(ClientWriteError::ForwardToLeader(ForwardToLeader::empty())))
            }
        };
        let refusal = match outcome {
            Ok(Ok(response)) => return answer_each(proposals, response.data.0),
            Ok(Err(ClientWriteError::ForwardToLeader(to))) => {
                ProposeError::NotLeader { leader: to.leader_id.map(NodeId::new) }
            }
            Ok(Err(ClientWriteError::ChangeMembershipError(_))) | Err(_) => ProposeError::Stopped,
        };
        // Once in the log, an entry that a new leader replaced here may live on elsewhere and be committed after all.
        let refusal = if batch.was_appended() { ProposeError::Unknown } else { refusal };
        answer_all(proposals, &refusal);
    }
}

fn answer_each(proposals: Vec<Proposal>, replies: Vec<Vec<u8>>) {
    for (proposal, reply) in proposals.into_iter().zip(replies) {
        proposal.reply.send(Ok(reply)).ok();
    }
}

fn answer_all(proposals: Vec<Proposal>, error: &ProposeError) {
    for proposal in proposals {
        proposal.reply.send(Err(error.clone())).ok();
    }
}
