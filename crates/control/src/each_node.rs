//! Services that run once on each node that they ask for: `scale = "each-node"`.
//!
//! ```text
//! node comes, or comes back ─► an instance there, whatever else is going on
//! new release               ─► node by node: beside the old one, which goes once the new one is ready
//! node drained, or not asked for any more ─► its instance goes, and none comes in its place
//! ```
//! A cordoned node keeps the one that it has, new releases of it too, and gets none that it has not.

use std::collections::BTreeMap;

use insula_scheduler::is_asked_for;
use insula_state::RegionState;
use insula_types::{Desired, InstanceId, NodeId, Placement, RegionalService, ServiceRef, ServiceSpec};

use crate::placements::node_view;

/// The next step with one such service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Nodes that get an instance.
    pub add: Vec<NodeId>,
    /// Instances to drain.
    pub drain: Vec<InstanceId>,
    /// No node is one that the service asks for.
    pub is_nowhere: bool,
}

/// Instances that shall run by node, of nodes that are up.
type ByNode<'a> = BTreeMap<NodeId, Vec<&'a Placement>>;

/// How many nodes of the region shall run a service that runs on each.
pub fn wanted(state: &RegionState, service: &ServiceRef, spec: &ServiceSpec) -> usize {
    let of_service = state.placements.values().filter(|one| one.hook.is_none() && one.service == *service);
    nodes(state, spec, &by_node(state, of_service)).count()
}

/// The next step; `placed` are all placements of the service, whatever they shall do. While it is held, what runs an earlier
/// release is left as it is.
pub(crate) fn step(state: &RegionState, wanted: &RegionalService, placed: &[&Placement], is_held: bool) -> Step {
    let mut step = Step::default();
    let mut live = by_node(state, placed.iter().copied());
    let nodes: Vec<NodeId> = nodes(state, &wanted.spec, &live).collect();
    step.is_nowhere = nodes.is_empty();
    let is_ready = |one: &Placement| state.statuses.get(&one.instance).is_some_and(|status| status.is_ready);
    // Those that run the wanted release, and whether all of them are ready: one that never gets ready stops the rest.
    let mut is_settled = true;
    let mut stale_alone = Vec::new();
    for node in nodes {
        let (fresh, stale): (Vec<&Placement>, Vec<&Placement>) =
            live.remove(&node).unwrap_or_default().into_iter().partition(|one| one.spec == wanted.spec);
        let Some(best) = fresh.iter().max_by_key(|one| (is_ready(one), std::cmp::Reverse(one.instance))) else {
            match stale.iter().any(|one| is_ready(one)) {
                _ if stale.is_empty() => step.add.push(node),
                serves => stale_alone.push((serves, node)),
            }
            continue;
        };
        is_settled &= is_ready(best);
        step.drain.extend(fresh.iter().filter(|one| one.instance != best.instance).map(|one| one.instance));
        step.drain.extend(stale.iter().filter(|one| is_ready(best) || !is_ready(one)).map(|one| one.instance));
    }
    // Where nothing is left to lose first.
    step.add.extend(stale_alone.into_iter().min().filter(|_| is_settled && !is_held).map(|(_, node)| node));
    step.drain.extend(live.into_values().flatten().map(|one| one.instance));
    step
}

fn by_node<'a>(state: &RegionState, placed: impl Iterator<Item = &'a Placement>) -> ByNode<'a> {
    let mut live = ByNode::new();
    let is_up = |node: &NodeId| state.nodes.get(node).is_some_and(|node| node.health.is_up());
    for placement in placed.filter(|one| one.desired == Desired::Run && is_up(&one.node)) {
        live.entry(placement.node).or_default().push(placement);
    }
    live
}

/// The nodes that shall run it, in order of id.
fn nodes(state: &RegionState, spec: &ServiceSpec, live: &ByNode<'_>) -> impl Iterator<Item = NodeId> {
    let is_wanted = |node: &&insula_types::Node| {
        let is_kept = !node.is_cordoned || live.contains_key(&node.id);
        let is_asked_for = || is_asked_for(&node_view(state, node), spec.runtime.as_ref(), &spec.placement);
        node.health.is_up() && !node.is_draining && is_kept && is_asked_for()
    };
    state.nodes.values().filter(is_wanted).map(|node| node.id)
}
