//! Where a one-off instance goes: one that is made for one command, outside of the placements.
//!
//! Pure, by the scheduler's rules: the node takes new instances, has the room, and the runtime class if one is asked for. One-off instances are not in the state: the
//! node that is chosen adds those that it has, and looks again ([`admit`]).

use std::collections::BTreeSet;

use insula_scheduler::{Choice, NodeView, PlaceError, Snapshot, Taken, Wanted, schedule};
use insula_state::RegionState;
use insula_types::{Desired, InstanceId, NodeId, Resources, ServiceRef, ServiceSpec};

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
    let snapshot = placements::snapshot(state, |_| true);
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

fn place<'a>(snapshot: &Snapshot<'a>, service: &'a ServiceRef, spec: &'a ServiceSpec) -> Result<Choice, PlaceError> {
    // The scheduler answers by this name; nobody else sees it.
    let instance = InstanceId::default();
    let (resources, runtime) = (spec.resources, spec.runtime.as_ref());
    let wanted = [Wanted { instance, service, resources, bound_to: None, runtime }];
    schedule(snapshot, &wanted).remove(&instance).expect("it answers for every instance that is wanted")
}
