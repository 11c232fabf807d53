//! Where a one-off instance goes: one that is made for one command, outside of the placements.
//!
//! Secrets are opened on nodes alone where an instance that has them is placed, so that one-off instances that have them go there.
//! Pure, by the scheduler's rules: the node takes new instances, has the room, and the runtime class and labels
//! that are asked for. One-off instances are not in the state: the
//! node that is chosen adds those that it has, and looks again ([`admit`]).

use std::collections::BTreeSet;

use insula_scheduler::{Choice, NodeView, PlaceError, Snapshot, Taken, Wanted, schedule};
use insula_state::RegionState;
use insula_types::{Desired, InstanceId, NodeId, Priority, Resources, ServiceRef, ServiceSpec};

use crate::placements;

/// Chooses a node for one more instance of a service: one that runs its image before others, and of those `here`.
///
/// # Errors
/// [`PlaceError`]: no node takes it.
pub fn choose(
    state: &RegionState,
    service: &ServiceRef,
    spec: &ServiceSpec,
    here: NodeId,
) -> Result<NodeId, PlaceError> {
    let runs_image =
        state.placements.values().filter(|one| one.desired == Desired::Run && one.spec.image == spec.image);
    let with_image: BTreeSet<NodeId> = runs_image.map(|one| one.node).collect();
    let mut snapshot = placements::snapshot(state, |_| true);
    snapshot.nodes.retain(|node| may_know_secrets(state, service, spec, node.id));
    let among = |is_asked: &dyn Fn(&NodeView<'_>) -> bool| {
        let nodes = snapshot.nodes.iter().filter(|node| is_asked(node)).cloned().collect();
        place(&Snapshot { nodes, taken: snapshot.taken.clone() }, service, spec)
    };
    among(&|node| node.id == here && with_image.contains(&here))
        .or_else(|_| among(&|node| with_image.contains(&node.id)))
        .or_else(|_| among(&|_| true))
        .map(|choice| choice.node)
}

/// Whether a node takes one more instance of a service, besides the one-off instances with these resources.
///
/// # Errors
/// [`PlaceError`]: it does not.
pub fn admit(
    state: &RegionState,
    service: &ServiceRef,
    spec: &ServiceSpec,
    node: NodeId,
    one_offs: &[Resources],
) -> Result<(), PlaceError> {
    let Snapshot { nodes, mut taken } = placements::snapshot(state, |_| true);
    taken.extend(one_offs.iter().map(|resources| Taken { node, service, resources: *resources, is_staying: true }));
    let nodes = nodes.into_iter().filter(|one| one.id == node).collect();
    place(&Snapshot { nodes, taken }, service, spec).map(drop)
}

/// Whether the secrets of a service are opened for a one-off instance anywhere; always, when it has none.
pub fn may_be_told(state: &RegionState, service: &ServiceRef, spec: &ServiceSpec) -> bool {
    state.nodes.values().any(|node| may_know_secrets(state, service, spec, node.id))
}

/// Whether a node may have the secrets of one more instance of a service: an instance is placed there that has them.
fn may_know_secrets(state: &RegionState, service: &ServiceRef, spec: &ServiceSpec, node: NodeId) -> bool {
    let mut placed = state.placements_of(node).filter(|one| one.service.app == service.app);
    spec.secrets.is_empty()
        || placed.any(|one| spec.secrets.iter().all(|secret| one.spec.secrets.get(secret.0) == Some(secret.1)))
}

fn place<'a>(snapshot: &Snapshot<'a>, service: &'a ServiceRef, spec: &'a ServiceSpec) -> Result<Choice, PlaceError> {
    // The scheduler answers by this name; nobody else sees it.
    let instance = InstanceId::default();
    let (resources, runtime, placement) = (spec.resources, spec.runtime.as_ref(), &spec.placement);
    let wanted =
        [Wanted { instance, service, resources, bound_to: None, runtime, placement, priority: Priority::USUAL }];
    schedule(snapshot, &wanted).remove(&instance).expect("it answers for every instance that is wanted")
}
