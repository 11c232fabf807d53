//! Probes, all the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use insula_env::{
    Beat, Clock, Env, Rng, beat,
    clock::{self, Instant},
};
use insula_rpc::Peers;
use insula_state::{GlobalState, RegionState, Replica, global::REGIONS_MAX};
use insula_types::{NodeId, RegionName};
use tracing::debug;

use super::{
    LatencyMap,
    choose::{self, Target},
};
use crate::methods::{AskLatency, AskLatencyRequest};

/// Time between two probes of a node.
const EVERY: Duration = Duration::from_secs(5);
/// The first one is within so long: who has just started knows soon.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// Probes that are under way at a time.
const AT_A_TIME: usize = 8;
/// Longest time between two looks at whom there is to probe.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a connection may take to be made. It is no part of the round trip.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long the answer to a ping may take, and the time until the ping is sent. What takes longer is lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// For so long another gateway is probed instead of one that is silent, where there is another.
const PASSED_OVER: Duration = Duration::from_secs(60);
/// Time between two questions to a gateway of this region, where only those look far, and the wait after none has answered.
const HEAR_EVERY: Duration = Duration::from_secs(30);
const HEAR_RETRY: Duration = Duration::from_secs(5);

/// What it takes to probe.
#[derive(Clone)]
pub(crate) struct Prober {
    pub node: NodeId,
    pub name: RegionName,
    pub map: LatencyMap,
    pub region: Arc<Replica<RegionState>>,
    pub global: Arc<Replica<GlobalState>>,
    pub clock: Clock,
    pub rng: Rng,
}

impl Prober {
    pub(crate) fn start(&self, env: &Env, peers: &Peers) {
        let both = (self.clone(), peers.clone());
        env.tasks.supervise("latency", beat::QUICK, move |beat| {
            let (this, peers) = both.clone();
            async move {
                let peers = &peers;
                let measure = move |node| async move { peers.measure(node, CONNECT_LIMIT, ANSWER_LIMIT).await.ok() };
                this.probe(&beat, measure).await;
            }
        });
        let both = (self.clone(), peers.clone());
        env.tasks.supervise("latency of gateways", beat::QUICK, move |beat| {
            let (this, peers) = both.clone();
            async move { this.hear(&beat, &peers).await }
        });
    }

    /// Probes whom it shall, each at a time of its own; one that does not answer keeps nobody else waiting.
    pub(super) async fn probe<F>(&self, beat: &Beat, measure: impl Fn(NodeId) -> F)
    where
        F: Future<Output = Option<Duration>>,
    {
        let mut passed_over: BTreeMap<NodeId, Instant> = BTreeMap::new();
        // Of those that are being probed: none.
        let mut due: BTreeMap<NodeId, Option<Instant>> = BTreeMap::new();
        let mut under_way = FuturesUnordered::new();
        let mut look_at = self.clock.now();
        loop {
            let now = self.clock.now();
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                passed_over.retain(|_, until| *until > now);
                let (targets, others) = self.targets(|node| passed_over.contains_key(&node));
                self.map.set(&targets, &others);
                let wanted: BTreeSet<NodeId> = targets.iter().map(|target| target.node).collect();
                due.retain(|node, at| wanted.contains(node) || at.is_none());
                for node in wanted {
                    let first = || Duration::from_micros(self.rng.range(0, FIRST_WITHIN.as_micros() as u64));
                    due.entry(node).or_insert_with(|| Some(now + first()));
                }
            }
            for (node, at) in &mut due {
                if under_way.len() < AT_A_TIME && at.is_some_and(|at| at <= now) {
                    *at = None;
                    let (node, outcome) = (*node, measure(*node));
                    under_way.push(async move { (node, now, outcome.await) });
                }
            }
            // With all under way, the next one begins when one of them ends.
            let is_full = under_way.len() >= AT_A_TIME;
            let next = due.values().flatten().min().copied().filter(|_| !is_full);
            let next = next.unwrap_or(look_at).min(look_at);
            let ended = beat.idle(async {
                tokio::select! {
                    Some(ended) = under_way.next() => Some(ended),
                    () = clock::sleep_until(next) => None,
                }
            });
            let Some((node, begun, outcome)) = ended.await else { continue };
            if self.map.note(node, outcome) && passed_over.insert(node, self.clock.now() + PASSED_OVER).is_none() {
                look_at = self.clock.now();
            }
            due.insert(node, Some(begun + self.rng.jitter(EVERY)));
        }
    }

    /// Who is to be probed; and all gateways of other regions, of which something may be known though they are not probed now.
    fn targets(&self, is_passed_over: impl Fn(NodeId) -> bool) -> (Vec<Target>, BTreeSet<NodeId>) {
        self.region.read(|region| {
            self.global.read(|global| {
                let mut targets = choose::near(region, self.node);
                if !choose::looks_far(global, region, (self.node, &self.name)) {
                    return (targets, BTreeSet::new());
                }
                targets.extend(choose::far(global, region, (self.node, &self.name), is_passed_over));
                let others = global.regions.values().filter(|region| region.name != self.name);
                let others = others.flat_map(|region| region.gateways.iter().map(|gateway| gateway.node));
                (targets, others.collect())
            })
        })
    }

    /// Asks a gateway of this region how far others are, while this node does not look itself.
    async fn hear(&self, beat: &Beat, peers: &Peers) {
        loop {
            let mut wait = LOOK_EVERY;
            for gateway in self.to_be_asked() {
                let request = AskLatencyRequest { with_nodes: false };
                match beat.idle(peers.call::<AskLatency>(gateway, &request, ANSWER_LIMIT)).await {
                    Ok(told) => {
                        self.map.hear(told.regions.into_iter().take(REGIONS_MAX).collect());
                        wait = HEAR_EVERY;
                        break;
                    }
                    Err(error) => {
                        debug!(%gateway, %error, "it is not known how far other regions are");
                        wait = HEAR_RETRY;
                    }
                }
            }
            beat.idle(clock::sleep(self.rng.jitter(wait))).await;
        }
    }

    /// Another one first each time; nobody while this node looks itself.
    fn to_be_asked(&self) -> Vec<NodeId> {
        let mut gateways = self.region.read(|region| {
            self.global.read(|global| match choose::looks_far(global, region, (self.node, &self.name)) {
                true => Vec::new(),
                false => choose::told_by(global, &self.name),
            })
        });
        if !gateways.is_empty() {
            let begin = self.rng.range(0, gateways.len() as u64) as usize;
            gateways.rotate_left(begin);
        }
        gateways
    }
}
