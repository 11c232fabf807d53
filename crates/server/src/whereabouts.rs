//! Tells others where this node is, and hears where they are: through the region's state, and directly for as long as
//! nobody leads. The rules are in [`crate::members`].

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use insula_env::{Beat, Clock, Env, Rng, beat, clock};
use insula_identity::Material;
use insula_raft::Group;
use insula_rpc::{AddressBook, Peers, Protocol, Status};
use insula_state::{Domain, RegionCommand, RegionState, Store};
use insula_telemetry::chain;
use insula_types::{Addresses, Level, NodeId};
use tracing::debug;

use crate::{
    members::Members,
    methods::{TellAddresses, TellAddressesRequest},
};

/// Time between two exchanges with another node while nobody leads.
const ALONE_EVERY: Duration = Duration::from_millis(500);
/// The same while the state brings what is new.
const EVERY: Duration = Duration::from_secs(30);
/// How long one exchange may take.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// Exchanges at a time when all are told.
const CALLS_MAX: usize = 8;
/// How long this node's word on itself may take to be committed.
const COMMIT_LIMIT: Duration = Duration::from_secs(10);
/// Wait after it was not.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// From this level on a node gives more than one address.
const LISTS: Level = Level(3);

/// What it takes to find each other.
#[derive(Clone)]
pub(crate) struct Whereabouts {
    pub node: NodeId,
    pub members: Members,
    pub region: Store<RegionState>,
    pub group: Group,
    pub material: Material,
    pub book: AddressBook,
    pub peers: Peers,
    pub clock: Clock,
    pub rng: Rng,
}

/// Why a node was not found at an address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    /// Nobody of the cluster answers there.
    #[error("{0}")]
    Nobody(String),
    /// Somebody does who cannot help.
    #[error("{address} is node {node}, {why}")]
    Useless {
        /// The address.
        address: SocketAddr,
        /// Who answered there.
        node: NodeId,
        /// Why it cannot help.
        why: String,
    },
}

impl Whereabouts {
    pub(crate) fn start(&self, env: &Env) {
        let this = self.clone();
        env.tasks.supervise("addresses", beat::QUICK, move |beat| {
            let this = this.clone();
            async move { this.keep_stated(&beat).await }
        });
        let this = self.clone();
        env.tasks.supervise("whereabouts", beat::QUICK, move |beat| {
            let this = this.clone();
            async move { this.exchange(&beat).await }
        });
    }

    /// Keeps the region's record of where this node is as it is.
    async fn keep_stated(&self, beat: &Beat) {
        let (mut own, mut changed) = (self.members.own(), self.region.replica().changed());
        loop {
            let said = own.borrow_and_update().clone();
            changed.mark_unchanged();
            if let Some(command) = self.to_state(&said)
                && let Err(error) = beat.idle(self.region.propose(&command, COMMIT_LIMIT)).await
            {
                debug!(%error, "the region has not taken this node's addresses yet");
                beat.idle(clock::sleep(self.rng.jitter(RETRY_WAIT))).await;
                continue;
            }
            let ended = beat.idle(async {
                tokio::select! {
                    ended = own.changed() => ended.is_err(),
                    ended = changed.changed() => ended.is_err(),
                }
            });
            if ended.await {
                return;
            }
        }
    }

    /// What the region must be told; nothing when it knows, or this node is no member yet.
    fn to_state(&self, own: &Addresses) -> Option<RegionCommand> {
        let (node, id) = (self.region.read(|state| state.nodes.get(&self.node).cloned())?, self.node);
        if self.region.read(Domain::level) < LISTS {
            let (address, capacity) = (own.widest(), node.capacity);
            let update = RegionCommand::UpdateNode { id, address, capacity, version: node.version };
            return (node.address != address).then_some(update);
        }
        let stated = self.region.read(|state| state.addresses.get(&id).cloned());
        match stated {
            Some(stated) if stated.list() == own.list() && node.address == own.widest() => None,
            // This node's files are older than the state: it has been there before, and counts on from that.
            Some(stated) if stated.edition() >= own.edition() => {
                self.members.outdo(stated.edition());
                None
            }
            _ => Some(RegionCommand::SetAddresses { node: id, addresses: own.clone() }),
        }
    }

    /// Exchanges what is known with others: with all when this node has moved, or has heard of one that did and nobody
    /// leads; else with one now and then. News do not wait for those that do not answer.
    async fn exchange(&self, beat: &Beat) {
        let (mut own, mut heard) = (self.members.own(), self.members.heard());
        let (mut waiting, mut calls) = (VecDeque::new(), FuturesUnordered::new());
        let mut turn = 0_usize;
        let mut next = self.next();
        loop {
            while calls.len() < CALLS_MAX
                && let Some(other) = waiting.pop_front()
            {
                calls.push(self.exchange_with(other));
            }
            let tell_all = beat.idle(async {
                tokio::select! {
                    ended = own.changed() => Some(ended.is_ok()),
                    ended = heard.changed() => Some(ended.is_ok() && self.is_alone()),
                    () = clock::sleep_until(next) => Some(false),
                    Some(outcome) = calls.next() => {
                        outcome.unwrap_or_else(|error| debug!(%error, "addresses were not exchanged"));
                        None
                    }
                }
            });
            let Some(tell_all) = tell_all.await else { continue };
            let others: Vec<NodeId> = self.book.nodes().into_iter().filter(|other| *other != self.node).collect();
            if tell_all {
                calls.clear();
                waiting = others.into();
            } else if waiting.is_empty() {
                turn = turn.wrapping_add(1);
                waiting.extend(others.get(turn % others.len().max(1)));
            }
            next = self.next();
        }
    }

    /// When to exchange with another node without news.
    fn next(&self) -> clock::Instant {
        let wait = if self.is_alone() { ALONE_EVERY } else { EVERY };
        self.clock.now() + self.rng.jitter(wait)
    }

    /// Whether nothing new can come by the state.
    fn is_alone(&self) -> bool {
        if self.group.takes_part() {
            return self.group.leadership().borrow().leader.is_none();
        }
        !self.book.nodes().into_iter().any(|other| other != self.node && self.peers.is_connected(other))
    }

    async fn exchange_with(&self, other: NodeId) -> Result<(), Status> {
        let request = TellAddressesRequest { known: self.members.tell() };
        let answer = self.peers.call::<TellAddresses>(other, &request, CALL_LIMIT).await?;
        self.members.hear(answer.known);
        Ok(())
    }

    /// Looks for a member of the region at an address, and exchanges what is known with it.
    ///
    /// # Errors
    /// [`FindError`]: nobody answers there, or somebody of no use.
    pub(crate) async fn find(&self, address: SocketAddr) -> Result<NodeId, FindError> {
        let link = insula_rpc::connect(address, Protocol::Rpc, &self.material, None, CALL_LIMIT).await;
        let found = link.map_err(|error| FindError::Nobody(chain(&error)))?.caller.identity;
        let (node, own) = (found.node, self.material.identity());
        let useless = |why: String| FindError::Useless { address, node, why };
        if node == own.node {
            return Err(useless("which is this one".into()));
        }
        if (&found.cluster, &found.region) != (&own.cluster, &own.region) {
            return Err(useless(format!("of region {}, and this one is of {}", found.region, own.region)));
        }
        // For this exchange; what it says itself counts afterwards.
        let known = self.book.get(node);
        self.book
            .insert(node, std::iter::once(address).chain(known.iter().copied().filter(|at| *at != address)).collect());
        self.peers.forget(node);
        if let Err(status) = self.exchange_with(node).await {
            self.book.insert(node, known);
            return Err(useless(format!("which does not say where it is: {status}")));
        }
        // Other ones may do as well, like one that is meant for this node; those from before do not.
        if !known.contains(&address) && self.book.get(node) == known {
            let why = "which gives other addresses for itself: change `advertise` there and run `insula node reload`";
            return Err(useless(why.into()));
        }
        Ok(node)
    }
}
