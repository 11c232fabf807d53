//! What would become of what runs on some nodes, were they lost. Pure, by the rules of the scheduler that would decide then;
//! it changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use insula_scheduler::{Snapshot, Taken, Wanted, schedule};
use insula_state::RegionState;
use insula_types::{Desired, NodeHealth, NodeId, Placement, RegionalService, Scale, ServiceRef};

use crate::placements::node_view;

/// What becomes of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// The instance, where it is.
    pub placement: &'a Placement,
    /// What then.
    pub then: Then,
}

/// What becomes of an instance of a lost node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// It is replaced.
    Goes {
        /// There.
        to: NodeId,
        /// For these reasons.
        reasons: Vec<String>,
    },
    /// It is not replaced before something changes; says why.
    Waits(String),
    /// It goes with its node, as it shall: nothing is short of it.
    Ends,
}

/// What becomes of everything that shall run on these nodes, in order of id. Nodes that are down already are as they are.
pub fn outcomes<'a>(state: &'a RegionState, lost: &BTreeSet<NodeId>) -> Vec<Outcome<'a>> {
    let is_up = |node: &NodeId| state.nodes.get(node).is_some_and(|node| node.health.is_up());
    let on_lost = |one: &&Placement| lost.contains(&one.node) && is_up(&one.node) && one.desired == Desired::Run;
    let hit: Vec<&Placement> = state.placements.values().filter(on_lost).collect();
    let moving: Vec<(&Placement, &RegionalService)> =
        hit.iter().filter_map(|one| Some((*one, wanted(state, &one.service)?))).filter(is_replaced).collect();
    let asked: Vec<Wanted<'_>> = moving
        .iter()
        .map(|(placement, service)| Wanted {
            instance: placement.instance,
            service: &placement.service,
            resources: service.spec.resources,
            bound_to: None,
            runtime: service.spec.runtime.as_ref(),
            placement: &service.spec.placement,
        })
        .collect();
    let mut decisions = schedule(&snapshot(state, lost), &asked);
    let mut then = |placement: &Placement| match decisions.remove(&placement.instance) {
        Some(Ok(choice)) => Then::Goes { to: choice.node, reasons: choice.reasons },
        Some(Err(why)) => Then::Waits(why.to_string()),
        None if placement.slot.is_some() => Then::Waits("its volumes are on the node that is lost".to_owned()),
        None => Then::Ends,
    };
    hit.into_iter().map(|placement| Outcome { placement, then: then(placement) }).collect()
}

fn wanted<'a>(state: &'a RegionState, service: &ServiceRef) -> Option<&'a RegionalService> {
    state.definitions.get(&service.app)?.services.get(&service.service)
}

/// Whether another node would get it: no volumes hold it, and its service is not one for each node.
fn is_replaced((placement, service): &(&Placement, &RegionalService)) -> bool {
    placement.slot.is_none() && service.scale != Scale::EachNode
}

/// The region after the loss.
fn snapshot<'a>(state: &'a RegionState, lost: &BTreeSet<NodeId>) -> Snapshot<'a> {
    let health = |id: &NodeId, health| if lost.contains(id) { NodeHealth::Down { since_ms: 0 } } else { health };
    let nodes = state.nodes.values().map(|node| {
        let view = node_view(state, node);
        insula_scheduler::NodeView { health: health(&view.id, view.health), ..view }
    });
    let is_current: BTreeMap<&ServiceRef, &RegionalService> =
        state.placements.values().filter_map(|one| Some((&one.service, wanted(state, &one.service)?))).collect();
    let taken = state.placements.values().map(|placement| Taken {
        node: placement.node,
        service: &placement.service,
        resources: placement.spec.resources,
        is_staying: placement.desired == Desired::Run
            && is_current.get(&placement.service).is_some_and(|service| service.spec == placement.spec),
    });
    Snapshot { nodes: nodes.collect(), taken: taken.collect() }
}
