//! Why instances of a service are where they are: what the scheduler thinks of each node now. It changes nothing.

use insula_scheduler::{Surveyed, Wanted, survey};
use insula_state::RegionState;
use insula_types::{Desired, InstanceId, NodeId, Placement, ServiceRef};

use crate::placements::snapshot;

/// How each node looks to the next instance of a service, the best first; none: there is no such service here.
pub fn placement(state: &RegionState, service: &ServiceRef) -> Option<Vec<Surveyed>> {
    let wanted = state.definitions.get(&service.app)?.services.get(&service.service)?;
    let is_leaving = |node: &NodeId| state.nodes.get(node).is_some_and(|node| node.is_draining);
    let is_current = |one: &Placement| one.hook.is_none() && one.spec == wanted.spec;
    let is_staying = |one: &Placement| one.desired == Desired::Run && is_current(one) && !is_leaving(&one.node);
    let next = Wanted {
        instance: InstanceId::new(0),
        service,
        resources: wanted.spec.resources,
        bound_to: None,
        runtime: wanted.spec.runtime.as_ref(),
        placement: &wanted.spec.placement,
        priority: wanted.priority,
    };
    Some(survey(&snapshot(state, is_staying), &next))
}
