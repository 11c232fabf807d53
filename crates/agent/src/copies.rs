//! Copies of images: what shall run here can be started without any registry, also when the node that runs it is lost.
//!
//! Each node computes by itself, and the same as all others, who keeps an image: the nodes that run it, and as many more as
//! it takes for [`COPIES`], in two data centres where there are two. The others are found by rendezvous hashing (Thaler and
//! Ravishankar, "Using name-based mappings to increase hit rates", 1998), so that a node which comes or goes moves only its
//! own share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use insula_container::{ImageRef, Runtime};
use insula_env::{Env, Rng, beat, clock::Instant};
use insula_state::RegionState;
use insula_types::{Desired, Node, NodeId};
use tracing::{debug, warn};

use crate::{Parts, renew::changed, service};

/// Nodes that have each image, at least, where there are so many.
pub const COPIES: usize = 2;
/// Time between two looks at what shall be kept, so that a busy region does not keep the node busy.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Copies that are pulled at the same time: one whose registry is slow holds up no other.
const PULLS_MAX: usize = 4;
/// Shortest and longest wait after a pull that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// The nodes that shall have an image, of those that are up.
pub fn keepers(state: &RegionState, image: &str) -> BTreeSet<NodeId> {
    let runners = runners(state).remove(image).unwrap_or_default();
    with_others(state, image, runners)
}

/// What a node shall have: of what shall run in the region, what still does, and what else is to be kept.
pub fn kept_by(state: &RegionState, others: &BTreeSet<String>, node: NodeId) -> BTreeSet<String> {
    let mut all = runners(state);
    for image in others {
        all.entry(image).or_default();
    }
    // What is lost of a release that is replaced comes back as it was until the new one is known to be good.
    let before = state.deployments.values().filter_map(|deployment| deployment.from.as_ref());
    for definition in state.definitions.values().chain(before) {
        for image in definition.services.values().filter_map(|service| service.spec.image.as_deref()) {
            all.entry(image).or_default();
        }
    }
    let is_mine =
        |(image, runners): &(&str, BTreeSet<NodeId>)| with_others(state, image, runners.clone()).contains(&node);
    all.into_iter().filter(is_mine).map(|(image, _)| image.to_owned()).collect()
}

/// Nodes that are up and run an image, or are about to; of each image.
fn runners(state: &RegionState) -> BTreeMap<&str, BTreeSet<NodeId>> {
    let mut runners: BTreeMap<&str, BTreeSet<NodeId>> = BTreeMap::new();
    for placement in state.placements.values().filter(|placement| placement.desired != Desired::Stop) {
        let Some(image) = placement.spec.image.as_deref() else { continue };
        let nodes = runners.entry(image).or_default();
        if state.nodes.get(&placement.node).is_some_and(may_keep) {
            nodes.insert(placement.node);
        }
    }
    runners
}

fn with_others(state: &RegionState, image: &str, runners: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let mut kept = runners;
    let mut places: BTreeSet<&str> =
        kept.iter().filter_map(|id| Some(state.nodes.get(id)?.datacenter.as_str())).collect();
    let others = by_weight(state, image);
    let all: BTreeSet<&str> = others.iter().map(|node| node.datacenter.as_str()).collect();
    for node in &others {
        let is_elsewhere = places.len() < all.len().min(COPIES) && !places.contains(node.datacenter.as_str());
        if is_elsewhere {
            kept.insert(node.id);
            places.insert(node.datacenter.as_str());
        }
    }
    for node in others {
        if kept.len() >= COPIES {
            break;
        }
        kept.insert(node.id);
    }
    kept
}

/// Whom a node asks for an image: first who shall have it, then the others; of each those in its own data centre first.
pub fn sources(state: &RegionState, image: &str, asking: NodeId) -> Vec<NodeId> {
    let kept = keepers(state, image);
    let own = state.nodes.get(&asking).map(|node| &node.datacenter);
    let mut nodes = by_weight(state, image);
    nodes.retain(|node| node.id != asking);
    // Stable: what is alike stays in the order of the weights, so that a new image is looked for on few nodes.
    nodes.sort_by_key(|node| (!kept.contains(&node.id), own != Some(&node.datacenter)));
    nodes.into_iter().map(|node| node.id).collect()
}

/// One that is being emptied is about to go.
fn may_keep(node: &Node) -> bool {
    node.health.is_up() && !node.is_draining
}

fn by_weight<'a>(state: &'a RegionState, image: &str) -> Vec<&'a Node> {
    let mut nodes: Vec<_> = state.nodes.values().filter(|node| may_keep(node)).collect();
    let image = image.rsplit_once("sha256:").map_or(image, |(_, digest)| digest);
    nodes.sort_by_key(|node| std::cmp::Reverse((weight(image, node.id), node.id)));
    nodes
}

/// The same on all nodes and in all versions: FNV-1a of the image (Fowler, Noll and Vo), mixed with the node by the
/// finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
fn weight(image: &str, node: NodeId) -> u64 {
    let hash = image
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut mixed = hash ^ node.get();
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Images that are to be kept though nothing shall run of them now.
pub type OtherImages = Arc<dyn Fn() -> BTreeSet<String> + Send + Sync>;

/// What a node has done of what it shall keep.
#[derive(Debug, Default)]
struct Kept {
    present: BTreeSet<String>,
    under_way: BTreeSet<String>,
    /// When to try again after a failure, and how long to wait after the next one.
    failed: BTreeMap<String, (Instant, Duration)>,
}

impl Kept {
    /// What to pull now, of what shall be there.
    fn next(&mut self, mine: &BTreeSet<String>, now: Instant) -> Vec<String> {
        self.present.retain(|image| mine.contains(image));
        self.failed.retain(|image, _| mine.contains(image));
        let is_due = |image: &&String| {
            let waits = self.failed.get(*image).is_some_and(|(again, _)| *again > now);
            !waits && !self.present.contains(*image) && !self.under_way.contains(*image)
        };
        let free = PULLS_MAX.saturating_sub(self.under_way.len());
        let due: Vec<_> = mine.iter().filter(is_due).take(free).cloned().collect();
        self.under_way.extend(due.iter().cloned());
        due
    }

    /// How a pull went.
    fn note(&mut self, image: String, outcome: Result<(), String>, now: Instant, rng: &Rng) {
        self.under_way.remove(&image);
        match outcome {
            Ok(()) => {
                self.failed.remove(&image);
                debug!(image, "copy kept");
                self.present.insert(image);
            }
            Err(error) => {
                let wait = self.failed.get(&image).map_or(RETRY.0, |(_, wait)| *wait);
                warn!(image, error, again_in = ?wait, "no copy of an image yet");
                self.failed.insert(image, (now + rng.jitter(wait), (wait * 2).min(RETRY.1)));
            }
        }
    }

    /// When the next failed one is due.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        self.failed.values().map(|(again, _)| *again).filter(|again| *again > now).min()
    }
}

/// Starts keeping what this node shall keep.
pub(crate) fn start(env: &Env, parts: &Parts) {
    let (parts, clock, rng) = (parts.clone(), env.clock.clone(), env.rng.fork());
    env.tasks.supervise("image copies", beat::QUICK, move |beat| {
        let (parts, clock, rng) = (parts.clone(), clock.clone(), rng.fork());
        async move {
            let mut revision = parts.region.replica().changed();
            let (mut kept, mut pulls) = (Kept::default(), FuturesUnordered::new());
            loop {
                revision.mark_unchanged();
                let others = (parts.other_images)();
                let mine = parts.region.read(|state| kept_by(state, &others, parts.node));
                for image in kept.next(&mine, clock.now()) {
                    pulls.push(pull(Arc::clone(&parts.runtime), image));
                }
                let due = kept.next_due(clock.now());
                let done = beat.idle(async {
                    tokio::select! {
                        biased;
                        done = pulls.next(), if !pulls.is_empty() => done,
                        () = async {
                            changed(&mut revision).await;
                            insula_env::clock::sleep(rng.jitter(LOOK_EVERY)).await;
                        } => None,
                        () = async {
                            match due {
                                Some(due) => insula_env::clock::sleep_until(due).await,
                                None => std::future::pending().await,
                            }
                        } => None,
                    }
                });
                if let Some((image, outcome)) = done.await {
                    kept.note(image, outcome, clock.now(), &rng);
                }
            }
        }
    });
}

async fn pull(runtime: Arc<dyn Runtime>, image: String) -> (String, Result<(), String>) {
    let pulled = async {
        let name: ImageRef = image.parse().map_err(|error| crate::chain(&error))?;
        service::within(service::PULL_LIMIT, "pull", runtime.ensure_image(&name)).await.map(drop)
    };
    let outcome = pulled.await;
    (image, outcome)
}

#[cfg(test)]
mod tests;
