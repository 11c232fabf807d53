//! Decides which node each wanted instance goes to.
//!
//! Pure: no clock, no I/O. The same snapshot gives the same placements whatever the order of its parts; ties break by
//! [`NodeId`]. Never gives away more than [`Capacity::allocatable`]. Spreads a service over data centres first (the one
//! with the fewest of it), then over nodes (the one with the fewest of it, then the one with the most free).
//! Starts nothing and changes nothing: `control` commits the placements, `agent` acts on them.
//!
//! Cost: O((nodes + existing + wanted) × log nodes) for a round, however many services it holds.

mod batch;
mod error;
mod index;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use insula_types::{Capacity, DatacenterName, InstanceId, NodeHealth, NodeId, Resources, RuntimeName, ServiceRef};

use crate::{batch::Batch, index::Index};
pub use error::{PlaceError, Tightest, WhyNot};

/// A node as the scheduler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView<'a> {
    /// Its id.
    pub id: NodeId,
    /// Its failure domain.
    pub datacenter: &'a DatacenterName,
    /// What it can hold, reserve included.
    pub capacity: Capacity,
    /// Nothing is placed on a node that is not up.
    pub health: NodeHealth,
    /// Nothing is placed on a cordoned node; what runs there still counts.
    pub is_cordoned: bool,
    /// The runtime classes that it has; none: no class.
    pub runtimes: Option<&'a BTreeSet<RuntimeName>>,
}

/// Room on a node that is taken already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken<'a> {
    /// The node.
    pub node: NodeId,
    /// What takes it.
    pub service: &'a ServiceRef,
    /// How much.
    pub resources: Resources,
    /// Whether it counts when its service is spread. What is about to go takes room and does not count.
    pub is_staying: bool,
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Snapshot<'a> {
    /// All nodes of the region, in any order, each id once.
    pub nodes: Vec<NodeView<'a>>,
    /// All placements of the region, in any order.
    pub taken: Vec<Taken<'a>>,
}

/// An instance that needs a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The instance, each id once.
    pub instance: InstanceId,
    /// What it is an instance of.
    pub service: &'a ServiceRef,
    /// What it reserves.
    pub resources: Resources,
    /// The only node that it can go to, where its volumes are. That one may be cordoned: it is no newcomer there.
    pub bound_to: Option<NodeId>,
    /// The runtime class that its node must have.
    pub runtime: Option<&'a RuntimeName>,
}

/// Where an instance goes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: NodeId,
    /// In words; the first is the main reason.
    pub reasons: Vec<String>,
}

/// Chooses a node for every wanted instance, or says why there is none.
/// The largest instances are placed first, since small ones fit in what is left.
///
/// # Errors
/// Per instance: [`PlaceError::NoNode`] when nothing may be placed anywhere, [`PlaceError::NoCapacity`] when no node has
/// the room, naming the tightest resource and its shortfall; [`PlaceError::NoRuntime`] when none has its runtime class;
/// [`PlaceError::Bound`] when its only node cannot take it.
pub fn schedule<'a>(
    snapshot: &Snapshot<'a>,
    wanted: &[Wanted<'a>],
) -> BTreeMap<InstanceId, Result<Choice, PlaceError>> {
    let services: BTreeSet<&ServiceRef> = wanted.iter().map(|one| one.service).collect();
    let mut index = Index::new(snapshot, &services);
    // Those first that have no choice.
    let bound: BTreeMap<InstanceId, _> =
        wanted.iter().filter_map(|one| Some((one.instance, (one, one.bound_to?)))).collect();
    let place = |(instance, (one, node)): (InstanceId, (&Wanted<'a>, NodeId))| (instance, index.place_bound(one, node));
    let mut decisions: BTreeMap<_, _> = bound.into_iter().map(place).collect();
    let mut batches: BTreeMap<_, BTreeSet<InstanceId>> = BTreeMap::new();
    for one in wanted.iter().filter(|one| one.bound_to.is_none()) {
        let size = (Reverse(one.resources.memory), Reverse(one.resources.cpu));
        batches.entry((size, one.service, one.runtime)).or_default().insert(one.instance);
    }
    for (((Reverse(memory), Reverse(cpu)), service, runtime), instances) in batches {
        let mut batch = Batch::new(&mut index, service, Capacity { cpu, memory }, runtime);
        decisions.extend(instances.into_iter().map(|instance| (instance, batch.place())));
        batch.finish();
    }
    decisions
}
