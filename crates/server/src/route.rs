//! Brings commands and questions to a state's leader, from whichever node they arise on.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use insula_env::{Clock, TaskGroup, beat};
use insula_rpc::{AddressBook, Method, Peers, Status, decode_response};
use insula_state::{Domain, Leadership, ProposeError, Proposer};
use insula_types::{NodeId, RequestId, codec};
use parking_lot::Mutex;
use serde_bytes::ByteBuf;
use tokio::sync::watch;

use crate::{
    group::StateGroup,
    methods::{
        Barrier, BarrierRequest, Led, Propose, ProposeRequest, Recall, RecallRequest, Relay, RelayRequest, StateName,
    },
};

/// How long one node may take to say that it leads, or to commit; then another is asked.
const TRY_LIMIT: Duration = Duration::from_secs(2);
/// Nodes asked for one answer: a few may be down, and each may name another.
const TRIES_MAX: usize = 6;

/// What other voters bring to a leader that this node does not reach.
const RELAYED: [u16; 3] = [Propose::ID, Barrier::ID, Recall::ID];

/// The way to the leader of one state.
pub(crate) struct Route<D: Domain> {
    node: NodeId,
    group: Arc<StateGroup<D>>,
    peers: Peers,
    book: AddressBook,
    clock: Clock,
    /// Who led when last asked; where to begin on a node that does not vote.
    hint: Mutex<Option<NodeId>>,
    /// Who did not answer, the latest last. They are asked after the others: a question with a short limit, like a lease's
    /// renewal, would else spend all of it on the same dead node each time.
    silent: Mutex<Vec<NodeId>>,
    /// The leader that this node did not reach when it asked last, though others may.
    lost: Mutex<Option<NodeId>>,
    leadership: watch::Receiver<Leadership>,
}

impl<D: Domain> fmt::Debug for Route<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Route({})", D::NAME)
    }
}

impl<D: Domain> Route<D> {
    pub(crate) fn new(
        node: NodeId,
        group: Arc<StateGroup<D>>,
        peers: Peers,
        book: AddressBook,
        clock: Clock,
        tasks: &TaskGroup,
    ) -> Arc<Self> {
        let leadership = follow_leadership(&group, tasks);
        let (hint, silent, lost) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { node, group, peers, book, clock, hint, silent, lost, leadership })
    }

    /// Asks `here` when this node leads, else `M` of whoever does, until `limit`. Where this node does not reach the leader, and the
    /// request is one of [`RELAYED`], another voter may bring it there.
    async fn ask<M, T, F>(&self, request: &M::Request, limit: Duration, here: impl Fn(Duration) -> F) -> Led<T>
    where
        M: Method<Response = Led<T>>,
        F: Future<Output = Led<T>>,
    {
        let until = self.clock.now() + limit;
        let mut leader = self.leadership.borrow().leader;
        let (mut asked, mut relays) = (Vec::new(), Vec::new());
        let mut next = Some(leader.or_else(|| *self.hint.lock()).unwrap_or(self.node));
        let mut doubt = None;
        let mut last = Led::Unavailable(format!("no node of the {} group answers", D::NAME));
        loop {
            let relay = leader.filter(|_| RELAYED.contains(&M::ID)).and_then(|leader| self.relay_to(leader, &relays));
            let Some(node) = relay.or_else(|| next.take()).or_else(|| self.another(&asked)) else { break };
            let left = until.saturating_duration_since(self.clock.now()).min(TRY_LIMIT);
            if left.is_zero() || asked.len() + relays.len() >= TRIES_MAX {
                break;
            }
            last = if relay.is_some() {
                relays.push(node);
                known(self.relayed::<M, T>(node, request, left).await)
            } else {
                asked.push(node);
                // Until it answers; also when this question is given up meanwhile.
                self.note(node, true);
                let answer = match node == self.node {
                    true => here(left).await,
                    false => known(self.peers.call::<M>(node, request, left).await),
                };
                let is_silent = matches!(answer, Led::Unknown(_) | Led::Unavailable(_));
                self.note(node, is_silent);
                if is_silent && node != self.node && leader == Some(node) {
                    *self.lost.lock() = Some(node);
                }
                answer
            };
            match &last {
                // Both are a leader's word.
                Led::Done(_) | Led::NotYet(_) => {
                    *self.hint.lock() = if relay.is_some() { leader } else { Some(node) };
                    return last;
                }
                Led::Elsewhere(Some(told)) => {
                    leader = Some(*told);
                    next = leader.filter(|told| !asked.contains(told));
                    if next.is_none() && *told != self.node {
                        // It was asked before anybody said that it leads, and did not answer.
                        *self.lost.lock() = leader;
                    }
                }
                Led::Elsewhere(None) | Led::Unavailable(_) => {}
                Led::Unknown(why) => doubt = Some(why.clone()),
            }
        }
        *self.hint.lock() = None;
        match doubt {
            Some(why) => Led::Unknown(why),
            None => last,
        }
    }

    /// The same by way of a voter.
    async fn relayed<M, T>(&self, voter: NodeId, request: &M::Request, left: Duration) -> Result<Led<T>, Status>
    where
        M: Method<Response = Led<T>>,
    {
        let body = ByteBuf::from(codec::encode(request));
        let deadline_ms = left.as_millis() as u64;
        let relay =
            RelayRequest { state: self.group.name(), asking: None, region: None, method: M::ID, body, deadline_ms };
        Ok(match self.peers.call::<Relay>(voter, &relay, left).await? {
            Led::Done(answer) => decode_response::<M>(&answer)?,
            Led::Elsewhere(leader) => Led::Elsewhere(leader),
            Led::Unknown(why) => Led::Unknown(why),
            Led::Unavailable(why) => Led::Unavailable(why),
            Led::NotYet(why) => Led::NotYet(why),
        })
    }

    /// A voter that may bring a request to a leader which this node does not reach, and did not yet.
    fn relay_to(&self, leader: NodeId, relays: &[NodeId]) -> Option<NodeId> {
        if !self.is_lost(leader) {
            return None;
        }
        let voters = self.group.raft().voters().into_iter().chain(self.far());
        next_of(voters.filter(|voter| ![self.node, leader].contains(voter)), relays, &self.silent.lock())
    }

    /// Whether the leader was not reached when it was asked last, and is not yet; tries to reach it again meanwhile.
    fn is_lost(&self, leader: NodeId) -> bool {
        *self.lost.lock() == Some(leader) && !self.peers.reach(leader)
    }

    /// A node that may know the leader and was not asked yet.
    fn another(&self, asked: &[NodeId]) -> Option<NodeId> {
        let voters = self.group.raft().voters().into_iter();
        let others = in_turns(self.book.nodes(), self.far());
        next_of(voters.chain([self.node]).chain(others), asked, &self.silent.lock())
    }

    /// Nodes of other regions, which may vote in the global group.
    fn far(&self) -> Vec<NodeId> {
        match self.group.name() {
            StateName::Region => Vec::new(),
            StateName::Global => self.book.speakers(),
        }
    }

    fn note(&self, node: NodeId, is_silent: bool) {
        let mut silent = self.silent.lock();
        silent.retain(|known| *known != node);
        if is_silent && node != self.node {
            silent.push(node);
        }
    }

    /// Asks the region's leader something else than a change; see [`crate::methods`].
    pub(crate) async fn ask_leader<M, T>(
        &self,
        request: &M::Request,
        limit: Duration,
        here: impl Fn() -> Led<T>,
    ) -> Led<T>
    where
        M: Method<Response = Led<T>>,
    {
        self.ask::<M, T, _>(request, limit, |_| std::future::ready(here())).await
    }
}

#[async_trait]
impl<D: Domain> Proposer for Route<D> {
    async fn propose(&self, request: RequestId, command: Vec<u8>, limit: Duration) -> Result<Vec<u8>, ProposeError> {
        let asked = ProposeRequest {
            state: self.group.name(),
            request,
            command: ByteBuf::from(command),
            deadline_ms: limit.min(TRY_LIMIT).as_millis() as u64,
        };
        let here = |left| self.group.propose(request, asked.command.to_vec(), left);
        match self.ask::<Propose, _, _>(&asked, limit, here).await {
            Led::Done(reply) => Ok(reply.into_vec()),
            Led::Elsewhere(_) => Err(ProposeError::Unavailable { why: "an election is under way".to_owned() }),
            Led::Unknown(why) => Err(ProposeError::Unknown { why }),
            Led::Unavailable(why) => Err(ProposeError::Unavailable { why }),
            Led::NotYet(why) => Err(ProposeError::NotYet(why)),
        }
    }

    async fn barrier(&self, limit: Duration) -> Result<(), ProposeError> {
        let asked = BarrierRequest { state: self.group.name(), deadline_ms: limit.min(TRY_LIMIT).as_millis() as u64 };
        let here = |left| self.group.barrier(left);
        let revision = match self.ask::<Barrier, _, _>(&asked, limit, here).await {
            Led::Done(revision) => revision,
            Led::Elsewhere(_) => return Err(ProposeError::Unavailable { why: "an election is under way".to_owned() }),
            Led::Unknown(why) | Led::Unavailable(why) => return Err(ProposeError::Unavailable { why }),
            Led::NotYet(why) => return Err(ProposeError::NotYet(why)),
        };
        insula_env::clock::timeout(limit, self.group.replica().wait_for(revision))
            .await
            .map_err(|_| ProposeError::Unavailable { why: format!("this node lags behind revision {revision}") })
    }

    async fn recall(&self, request: RequestId, limit: Duration) -> Result<Option<Vec<u8>>, ProposeError> {
        let deadline_ms = limit.min(TRY_LIMIT).as_millis() as u64;
        let asked = RecallRequest { state: self.group.name(), request, deadline_ms };
        let here = |left| self.group.recall(request, left);
        match self.ask::<Recall, _, _>(&asked, limit, here).await {
            Led::Done(outcome) => Ok(outcome.map(ByteBuf::into_vec)),
            Led::Elsewhere(_) => Err(ProposeError::Unavailable { why: "an election is under way".to_owned() }),
            Led::Unknown(why) | Led::Unavailable(why) => Err(ProposeError::Unavailable { why }),
            Led::NotYet(why) => Err(ProposeError::NotYet(why)),
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }
}

/// What is known after a call.
fn known<T>(answer: Result<Led<T>, Status>) -> Led<T> {
    match answer {
        Ok(answer) => answer,
        // It may have been done before the connection broke.
        Err(error) if error.is_outcome_unknown() => Led::Unknown(error.to_string()),
        Err(error) => Led::Unavailable(error.to_string()),
    }
}

/// The first that was not asked yet; of those that did not answer lately, the one for which that is longest ago.
fn next_of(known: impl Iterator<Item = NodeId>, asked: &[NodeId], silent: &[NodeId]) -> Option<NodeId> {
    let rank = |node: &NodeId| silent.iter().position(|silent| silent == node).map_or(0, |at| at + 1);
    known.filter(|node| !asked.contains(node)).min_by_key(rank)
}

/// One of these, one of those, and so on: which of them know the leader depends on where its voters are.
fn in_turns(near: Vec<NodeId>, far: Vec<NodeId>) -> impl Iterator<Item = NodeId> {
    let (mut near, mut far) = (near.into_iter().fuse(), far.into_iter().fuse());
    std::iter::from_fn(move || {
        let pair = [near.next(), far.next()];
        pair.iter().any(Option::is_some).then_some(pair)
    })
    .flatten()
    .flatten()
}

/// Raft's word on who leads, in the words of `state`.
fn follow_leadership<D: Domain>(group: &StateGroup<D>, tasks: &TaskGroup) -> watch::Receiver<Leadership> {
    let convert = |now: &insula_raft::Leadership| Leadership { leader: now.leader, term: now.term, is_me: now.is_me };
    let source = group.raft().leadership();
    let (tell, told) = watch::channel(convert(&source.borrow()));
    tasks.spawn_watched(&format!("{} leadership", D::NAME), beat::QUICK, |beat| async move {
        let mut source = source;
        while beat.idle(source.changed()).await.is_ok() {
            let now = convert(&source.borrow_and_update());
            tell.send_if_modified(|before| std::mem::replace(before, now) != now);
        }
        // The group is gone: whoever waits for leadership sees the channel close.
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_here_and_elsewhere_are_asked_in_turns() {
        let turns = |near: &[u64], far: &[u64]| {
            let of = |ids: &[u64]| ids.iter().copied().map(NodeId::new).collect::<Vec<_>>();
            in_turns(of(near), of(far)).map(NodeId::get).collect::<Vec<_>>()
        };
        assert_eq!(turns(&[1, 2, 3], &[7]), [1, 7, 2, 3]);
        assert_eq!(turns(&[1], &[7, 8, 9]), [1, 7, 8, 9]);
        assert_eq!(turns(&[1, 2], &[]), [1, 2]);
    }

    #[test]
    fn who_does_not_answer_is_asked_last() {
        let node = NodeId::new;
        let next = |asked: &[u64], silent: &[u64]| {
            let of = |ids: &[u64]| ids.iter().copied().map(node).collect::<Vec<_>>();
            next_of([1, 2, 3, 1].map(node).into_iter(), &of(asked), &of(silent)).map(NodeId::get)
        };
        assert_eq!(next(&[], &[]), Some(1));
        assert_eq!(next(&[], &[1]), Some(2));
        assert_eq!(next(&[2], &[1]), Some(3));
        assert_eq!(next(&[2, 3], &[1]), Some(1), "and yet it is asked");
        assert_eq!(next(&[], &[3, 1, 2]), Some(3), "silent for longest");
        assert_eq!(next(&[1, 2, 3], &[]), None);
    }
}
