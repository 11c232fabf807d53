//! Digests: what each region tells the others of its services, so that their edges know where else a service is ready. It is told from
//! region to region, never by way of the global group, and goes on when that is gone.
//!
//! ```text
//! another region's gateways ── every second (ask-digest) ──► voters of this region ── (read-digests) ──► its other nodes
//! ```
//! A voter that does not reach a region itself asks another voter like everybody else. What is told has an age, which only grows on
//! its way, so that no circle keeps anything alive.

mod table;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, stream};
use insula_catalog::{Catalog, Digest, link::Link, mark};
use insula_env::{Beat, Env, beat, clock};
use insula_raft::Group;
use insula_rpc::{Code, Peers, Status};
use insula_state::{GlobalState, RegionState, Replica};
use insula_types::{Incarnation, NodeId, RegionName, Revision};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, warn};

use self::table::{Kept, Table};
use crate::{
    home::ValueFile,
    methods::{AskDigest, AskDigestRequest, ReadDigests, ReadDigestsRequest, ReadDigestsResponse, ToldDigest},
};

/// Time between two questions to a region.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ASK_LIMIT: Duration = Duration::from_secs(3);
/// Regions that are asked at the same time.
const ASKED_MAX: usize = 16;
/// Least time between two writes.
const WRITE_EVERY: Duration = Duration::from_secs(2);

/// What is known of other regions, and what they are told of this one. Clones share it.
#[derive(Clone)]
pub(crate) struct Digests(Arc<Inner>);

struct Inner {
    node: NodeId,
    peers: Peers,
    voters: Group,
    region: Arc<Replica<RegionState>>,
    global: Arc<Replica<GlobalState>>,
    table: Mutex<Table>,
    /// What this node tells of its region.
    own: Mutex<Option<ToldDigest>>,
    /// Counts changes of the table.
    changed: watch::Sender<u64>,
}

/// Whom to ask next, by region, and of the own voters.
#[derive(Debug, Default)]
struct Turns {
    gateways: BTreeMap<RegionName, usize>,
    voters: usize,
}

impl Digests {
    /// Begins with what is on disk. Nobody is asked before [`Self::start`].
    pub(crate) fn open(
        file: &ValueFile,
        (node, peers, voters): (NodeId, Peers, Group),
        (region, global): (Arc<Replica<RegionState>>, Arc<Replica<GlobalState>>),
    ) -> Self {
        let kept = file.load::<Kept>().unwrap_or_else(|error| {
            let cause = insula_telemetry::chain(&error);
            warn!(cause, "what is on disk of other regions is of no use; they tell it again");
            None
        });
        let table = Mutex::new(Table::new(kept.unwrap_or_default()));
        let changed = watch::Sender::new(0);
        Self(Arc::new(Inner { node, peers, voters, region, global, table, own: Mutex::default(), changed }))
    }

    /// Asks others from now on, and keeps on disk what they say.
    pub(crate) fn start(&self, env: &Env, file: ValueFile) {
        let (digests, asking) = (self.clone(), env.clone());
        env.tasks.supervise("digests", beat::QUICK, move |beat| {
            let (digests, env) = (digests.clone(), asking.clone());
            async move { digests.ask_all(&env, &beat).await }
        });
        let digests = self.clone();
        env.tasks.supervise("digests on disk", beat::DISK, move |beat| {
            let (digests, file) = (digests.clone(), file.clone());
            async move { digests.keep(&file, &beat).await }
        });
    }

    /// Gives the dataplane the catalog of a node, with what other regions have, after each change of either; notes what this region has.
    pub(crate) fn pusher(&self, dataplane: Link) -> impl Fn() + use<> {
        let (digests, pushed) = (self.clone(), Mutex::<Option<Arc<Catalog>>>::default());
        move || {
            let Some(catalog) = digests.catalog() else { return };
            let mut pushed = pushed.lock();
            let is_known = pushed.as_ref().is_some_and(|before| {
                (before.revision, before.incarnation) == (catalog.revision, catalog.incarnation)
                    && catalog.says_the_same_as(before)
            });
            if is_known {
                return;
            }
            let catalog = Arc::new(catalog);
            *pushed = Some(Arc::clone(&catalog));
            drop(pushed);
            dataplane.push(catalog);
        }
    }

    fn catalog(&self) -> Option<Catalog> {
        let inner = &self.0;
        let table = inner.table.lock();
        let heard = table.heard();
        let (catalog, digest) = inner.region.read_at(|state, revision| {
            let catalog = Catalog::derive(state, revision, inner.node)?;
            let digest = catalog.digest();
            Some((inner.global.read(|global| catalog.with_world(state, global, &heard)), digest))
        })?;
        drop(heard);
        drop(table);
        self.tell_of_itself((catalog.region.clone(), catalog.incarnation, catalog.revision), digest);
        Some(catalog)
    }

    fn tell_of_itself(&self, (region, incarnation, revision): (RegionName, Incarnation, Revision), services: Digest) {
        let mark = mark(&services);
        *self.0.own.lock() = Some(ToldDigest { region, incarnation, revision, mark, services: Some(services) });
    }

    /// Sees every change of what is known of other regions.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// What another region is told.
    ///
    /// # Errors
    /// Retryable, before this node knows its region.
    pub(crate) fn tell(&self, request: &AskDigestRequest) -> Result<ToldDigest, Status> {
        let Some(mut told) = self.0.own.lock().clone() else {
            return Err(Status::retryable(Code::FailedPrecondition, "this node does not know its region yet"));
        };
        // Of a state in which much changes that is nobody else's business, the revision says how new the rest is.
        told.revision = told.revision.max(self.0.region.revision());
        if request.known == Some(told.mark) {
            told.services = None;
        }
        Ok(told)
    }

    /// What another node of this region is told of the others.
    pub(crate) fn tell_all(&self, request: &ReadDigestsRequest) -> ReadDigestsResponse {
        let now = clock::Clock::real().now();
        ReadDigestsResponse { regions: self.0.table.lock().tell(&request.known, now) }
    }

    async fn ask_all(&self, env: &Env, beat: &Beat) {
        let rng = env.rng.fork();
        let mut turns = Turns::default();
        loop {
            let regions = self.regions();
            if !regions.is_empty() {
                let mut is_new = self.ask_regions(&regions, &mut turns, env, beat).await;
                is_new |= self.ask_voter(&regions, &mut turns, env, beat).await;
                let names: Vec<RegionName> = regions.into_iter().map(|(name, _)| name).collect();
                is_new |= self.0.table.lock().look(&names, env.clock.now());
                if is_new {
                    self.0.changed.send_modify(|count| *count += 1);
                }
            }
            beat.idle(clock::sleep(rng.jitter(ASK_EVERY))).await;
        }
    }

    /// The other regions, with their gateways.
    fn regions(&self) -> Vec<(RegionName, Vec<NodeId>)> {
        let own = self.0.region.read(|region| region.meta.as_ref().map(|meta| meta.region.clone()));
        let Some(own) = own else { return Vec::new() };
        self.0.global.read(|global| {
            let others = global.regions.values().filter(|region| region.name != own);
            let gateways = |gateways: &[insula_state::global::Gateway]| gateways.iter().map(|one| one.node).collect();
            others.map(|region| (region.name.clone(), gateways(&region.gateways))).collect()
        })
    }

    /// A voter asks a gateway of each other region, the same one as long as it answers with what is of use. Whether anything is new.
    async fn ask_regions(
        &self,
        regions: &[(RegionName, Vec<NodeId>)],
        turns: &mut Turns,
        env: &Env,
        beat: &Beat,
    ) -> bool {
        let inner = &self.0;
        if !inner.voters.voters().contains(&inner.node) {
            return false;
        }
        let mut asked = Vec::new();
        for (name, gateways) in regions.iter().filter(|(_, gateways)| !gateways.is_empty()) {
            let turn = turns.gateways.get(name).copied().unwrap_or(0);
            let (peers, name, gateway) = (inner.peers.clone(), name.clone(), gateways[turn % gateways.len()]);
            let request = AskDigestRequest { known: inner.table.lock().mark(&name) };
            let asks = async move {
                let answer = peers.call::<AskDigest>(gateway, &request, ASK_LIMIT).await;
                (name, gateway, answer)
            };
            asked.push(asks.boxed());
        }
        let answers: Vec<_> = beat.idle(stream::iter(asked).buffer_unordered(ASKED_MAX).collect()).await;
        let (mut table, now) = (inner.table.lock(), env.clock.now());
        let mut is_new = false;
        for (name, gateway, answer) in answers {
            let round_trip = inner.peers.round_trip(gateway);
            let taken = match answer {
                Ok(told) => table.take(&name, told, round_trip, now, now),
                Err(error) => {
                    debug!(region = %name, %gateway, %error, "a gateway of another region does not tell what is there");
                    None
                }
            };
            is_new |= taken == Some(true);
            if taken.is_none() {
                *turns.gateways.entry(name).or_default() += 1;
            }
        }
        is_new
    }

    /// Asks a voter of this region, where this node does not hear of all regions itself. Whether anything is new.
    async fn ask_voter(
        &self,
        regions: &[(RegionName, Vec<NodeId>)],
        turns: &mut Turns,
        env: &Env,
        beat: &Beat,
    ) -> bool {
        let inner = &self.0;
        let voters = inner.voters.voters();
        let is_all_fresh = || {
            let (table, now) = (inner.table.lock(), env.clock.now());
            regions.iter().all(|(name, _)| table.is_fresh(name, now))
        };
        let is_told = voters.contains(&inner.node) && is_all_fresh();
        // A node that never voted does not know who does: it asks all in turn, until one knows.
        let known = if voters.is_empty() {
            self.0.region.read(|region| region.nodes.iter().map(|(node, _)| *node).collect())
        } else {
            voters
        };
        let others: Vec<NodeId> = known.into_iter().filter(|other| *other != inner.node).collect();
        if is_told || others.is_empty() {
            return false;
        }
        let voter = others[turns.voters % others.len()];
        let request = ReadDigestsRequest { known: inner.table.lock().marks() };
        let answer = match beat.idle(inner.peers.call::<ReadDigests>(voter, &request, ASK_LIMIT)).await {
            Ok(answer) => answer,
            Err(error) => {
                debug!(%voter, %error, "a voter does not tell of other regions");
                turns.voters += 1;
                return false;
            }
        };
        let (mut table, now) = (inner.table.lock(), env.clock.now());
        let mut is_new = false;
        for (name, heard) in answer.regions {
            let at = now.checked_sub(Duration::from_millis(heard.age_ms));
            let is_region = regions.iter().any(|(region, _)| *region == name);
            let Some(at) = at.filter(|_| is_region) else { continue };
            let round_trip = heard.round_trip_us.map(Duration::from_micros);
            is_new |= table.take(&name, heard.digest, round_trip, at, now) == Some(true);
        }
        drop(table);
        if !is_all_fresh() {
            turns.voters += 1;
        }
        is_new
    }

    async fn keep(&self, file: &ValueFile, beat: &Beat) {
        let mut changed = self.changed();
        while beat.idle(changed.changed()).await.is_ok() {
            let kept = self.0.table.lock().kept();
            if let Err(error) = file.save(&kept) {
                let cause = insula_telemetry::chain(&error);
                warn!(cause, "what is known of other regions is not kept; after a restart now older things are");
            }
            beat.idle(clock::sleep(WRITE_EVERY)).await;
        }
    }
}
