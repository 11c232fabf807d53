//! Decides which node each wanted instance goes to.
//!
//! Pure: no clock, no I/O. The same snapshot gives the same placements whatever the order of its parts; ties break by
//! [`NodeId`]. Never gives away more than [`Capacity::allocatable`].
//!
//! Filters, in this order: the node is up and not cordoned, has the runtime class, has the required labels, has the room.
//! Of what is left, the least is chosen by: instances of the service in the group (nodes with the same value of the label
//! that the service is spread over, its data centre by default), instances on the node, preferred labels that it
//! lacks; then the one with the most free. So what is preferred never costs what spreading protects from.
//!
//! Starts nothing and changes nothing: `control` commits the placements, `agent` acts on them.
//!
//! Cost: O((nodes + existing + wanted) × log nodes) for a round, however many services it holds; a service that asks for
//! labels looks at every node once more, and once for each label that it prefers.

mod batch;
mod error;
mod filter;
mod giving;
mod index;
mod survey;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use insula_types::{
    Capacity, DatacenterName, InstanceId, Labels, NodeHealth, NodeId, NodeName, PlacementSpec, Priority, Resources,
    RuntimeName, ServiceRef,
};

use crate::{
    batch::Batch,
    filter::Filter,
    index::{Index, Room},
};
pub use error::{PlaceError, Tightest, WhyNot};
pub use giving::{Giving, Holder, Spare, make_room};
pub use survey::{Standing, Surveyed, survey};

/// A node as the scheduler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView<'a> {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: &'a NodeName,
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
    /// Its labels, besides `datacenter` and `node`.
    pub labels: Option<&'a Labels>,
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

/// The only node that an instance can go to. It may be cordoned: what is bound to it is no newcomer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The node.
    pub node: NodeId,
    /// Why it is the only one.
    pub why: WhyBound,
}

/// Why an instance can go to one node only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyBound {
    /// Its volumes are there.
    Volumes,
    /// Each node is to have one.
    EachNode,
    /// Others have given it their places there.
    Given,
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
    /// The only node that it can go to.
    pub bound_to: Option<Bound>,
    /// The runtime class that its node must have.
    pub runtime: Option<&'a RuntimeName>,
    /// What it asks of nodes besides.
    pub placement: &'a PlacementSpec,
    /// Those of a higher one are placed first.
    pub priority: Priority,
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
/// Those of the highest priority are placed first; among them those first that have no choice, then the largest, since small
/// ones fit in what is left.
///
/// # Errors
/// Per instance: [`PlaceError::NoNode`] when nothing may be placed anywhere, [`PlaceError::NoCapacity`] when no node has
/// the room, naming the tightest resource and its shortfall; [`PlaceError::NoRuntime`], [`PlaceError::NoLabel`] or
/// [`PlaceError::NoLabels`] when none has what it asks for; [`PlaceError::Bound`] when its only node cannot take it.
pub fn schedule<'a>(
    snapshot: &Snapshot<'a>,
    wanted: &[Wanted<'a>],
) -> BTreeMap<InstanceId, Result<Choice, PlaceError>> {
    let mut index = Index::new(snapshot, wanted);
    let mut tiers: BTreeMap<Reverse<Priority>, Vec<&Wanted<'a>>> = BTreeMap::new();
    for one in wanted {
        tiers.entry(Reverse(one.priority)).or_default().push(one);
    }
    let mut decisions = BTreeMap::new();
    for tier in tiers.into_values() {
        place_alike(&mut index, &tier, &mut decisions);
    }
    decisions
}

/// Places what has one priority.
fn place_alike<'a>(
    index: &mut Index<'a>,
    wanted: &[&Wanted<'a>],
    decisions: &mut BTreeMap<InstanceId, Result<Choice, PlaceError>>,
) {
    // Those first that have no choice.
    let bound: BTreeMap<InstanceId, _> =
        wanted.iter().filter_map(|one| Some((one.instance, (*one, one.bound_to?)))).collect();
    decisions.extend(bound.into_iter().map(|(instance, (one, to))| (instance, index.place_bound(one, to))));
    let mut batches: BTreeMap<_, BTreeSet<InstanceId>> = BTreeMap::new();
    for one in wanted.iter().filter(|one| one.bound_to.is_none()) {
        let size = (Reverse(one.resources.memory), Reverse(one.resources.cpu));
        batches.entry((size, one.service, one.runtime, one.placement)).or_default().insert(one.instance);
    }
    for (((Reverse(memory), Reverse(cpu)), service, runtime, placement), instances) in batches {
        let filter = Filter { need: Capacity { cpu, memory }, runtime, placement };
        let mut batch = Batch::new(index, service, filter);
        decisions.extend(instances.into_iter().map(|instance| (instance, batch.place())));
        batch.finish();
    }
}

/// Whether a node has what is asked for: the runtime class and the required labels. Room and health are not looked at.
pub fn is_asked_for(node: &NodeView<'_>, runtime: Option<&RuntimeName>, placement: &PlacementSpec) -> bool {
    Filter { need: Capacity::default(), runtime, placement }.asks_for(&Room::new(node))
}
