//! How far other nodes and regions are: round trips and lost probes, measured all the time.
//!
//! A probe waits for the answer to the next ping that a connection of [`insula_rpc::Peers`] sends anyway: it sends nothing itself, and
//! nothing waits for it. Each node probes members of its region and gateways of others, a bounded number of each ([`choose`]), every
//! five seconds, each at a time of its own ([`measure`]). What was seen of a node is bounded, too ([`window`]). Nothing of it is replicated.

mod choose;
mod measure;
mod window;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use insula_types::{NodeId, RegionName};
use parking_lot::Mutex;

pub(crate) use self::measure::Prober;
use self::{choose::Target, window::Window};
use crate::methods::{LatencyTold, Measured};

/// Round trips that differ by less are alike for the order in which nodes are asked.
const STEP: Duration = Duration::from_millis(10);

/// What this node knows of round trips. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct LatencyMap(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    peers: BTreeMap<NodeId, Peer>,
    /// What a gateway of this region says, where this node does not look itself.
    heard: BTreeMap<RegionName, Measured>,
}

struct Peer {
    /// Of which it is a gateway; none: it is of this node's region.
    region: Option<RegionName>,
    /// Whether it is one of those that are probed now.
    is_probed: bool,
    window: Window,
}

impl LatencyMap {
    /// The round trip to each other region: the median of the last minute to the nearest of its gateways that answers. It says how far a
    /// region is, not whether it is reached: one that is cut off keeps what was seen last. Regions of which nothing is known are absent.
    #[cfg_attr(not(test), expect(dead_code, reason = "for edges, which look for the nearest region"))]
    pub(crate) fn regions(&self) -> BTreeMap<RegionName, Duration> {
        let known = self.0.lock();
        let heard = known.heard.iter().filter_map(|(region, heard)| Some((region, heard.p50_us?)));
        let mut regions: BTreeMap<_, _> =
            heard.map(|(region, us)| (region.clone(), Duration::from_micros(us))).collect();
        let far = known.peers.values().filter_map(|peer| {
            // What is not probed any more may have been true long ago.
            let rank = |round_trip| (!peer.is_probed, peer.window.is_silent(), round_trip);
            Some((peer.region.as_ref()?, rank(peer.window.lately()?)))
        });
        for (region, (_, _, round_trip)) in least(far) {
            regions.insert(region.clone(), round_trip);
        }
        regions
    }

    /// Puts nodes that are clearly farther away than the nearest one behind the others, and silent ones last. Otherwise they stay in their
    /// order: it says who votes, which spares more time than a few milliseconds of the way.
    pub(crate) fn nearest_first<T>(&self, nodes: &mut [T], node: impl Fn(&T) -> NodeId) {
        let known = self.0.lock();
        let seen = |one: &T| known.peers.get(&node(one)).map(|peer| (peer.window.is_silent(), peer.window.lately()));
        let least = nodes.iter().filter_map(|one| seen(one)?.1).min().unwrap_or_default();
        let steps = |time: Duration| time.saturating_sub(least).as_millis() / STEP.as_millis();
        nodes.sort_by_key(|one| {
            let (is_silent, lately) = seen(one).unwrap_or_default();
            (is_silent, lately.map_or(0, steps))
        });
    }

    /// What this node tells others: of each region what was seen of the nearest of its gateways that answers, and of members of its own
    /// if it is asked for those.
    pub(crate) fn tell(&self, with_nodes: bool) -> LatencyTold {
        let known = self.0.lock();
        let probed = || known.peers.iter().filter(|(_, peer)| peer.is_probed && !peer.window.is_empty());
        let mut regions = known.heard.clone();
        let far = probed().filter_map(|(_, peer)| {
            let measured = peer.window.measured();
            let rank = (peer.window.is_silent(), measured.p50_us.is_none(), measured.p50_us, measured);
            Some((peer.region.as_ref()?, rank))
        });
        regions.extend(least(far).into_iter().map(|(region, (_, _, _, measured))| (region.clone(), measured)));
        let near = probed().filter(|(_, peer)| with_nodes && peer.region.is_none());
        LatencyTold {
            regions: regions.into_iter().collect(),
            nodes: near.map(|(node, peer)| (*node, peer.window.measured())).collect(),
        }
    }

    /// Who is probed from now on. Of `others` is kept what was seen; the rest is forgotten.
    fn set(&self, targets: &[Target], others: &BTreeSet<NodeId>) {
        let mut known = self.0.lock();
        known.peers.retain(|node, peer| {
            peer.is_probed = false;
            others.contains(node) || targets.iter().any(|target| target.node == *node)
        });
        for target in targets {
            let fresh = || Peer { region: target.region.clone(), is_probed: true, window: Window::default() };
            match known.peers.entry(target.node) {
                Entry::Occupied(mut entry) if entry.get().region != target.region => {
                    entry.insert(fresh());
                }
                Entry::Occupied(mut entry) => entry.get_mut().is_probed = true,
                Entry::Vacant(entry) => {
                    entry.insert(fresh());
                }
            }
        }
        let seen: BTreeSet<&RegionName> = targets.iter().filter_map(|target| target.region.as_ref()).collect();
        known.heard.retain(|region, _| !seen.contains(region));
    }

    /// Notes the outcome of a probe; true when the node is silent.
    fn note(&self, node: NodeId, outcome: Option<Duration>) -> bool {
        let mut known = self.0.lock();
        // It may have left meanwhile.
        known.peers.get_mut(&node).is_some_and(|peer| {
            peer.window.put(outcome);
            peer.window.is_silent()
        })
    }

    /// Takes over what a gateway of this region says.
    fn hear(&self, regions: BTreeMap<RegionName, Measured>) {
        self.0.lock().heard = regions;
    }
}

/// The least rank of each region.
fn least<'a, R: Ord>(ranks: impl Iterator<Item = (&'a RegionName, R)>) -> BTreeMap<&'a RegionName, R> {
    let mut all = BTreeMap::new();
    for (region, rank) in ranks {
        match all.entry(region) {
            Entry::Vacant(entry) => {
                entry.insert(rank);
            }
            Entry::Occupied(mut entry) if rank < *entry.get() => {
                entry.insert(rank);
            }
            Entry::Occupied(_) => {}
        }
    }
    all
}

#[cfg(test)]
mod tests;
