//! Standby: instances of the release before that have been replaced, and run on without new requests until the new release has been watched.
//!
//! A release that gets worse after it was healthy has replaced instances by then. Those that wait take its requests over within a
//! round of the controllers; instances that had to be started anew would be missed meanwhile.
//!
//! ```text
//! Run ─► Drain ─► (standby) ─► Stop      the release is good, or somebody needs the room
//!  ▲                  │
//!  └──────────────────┘                  what took its place is not ready, or has failed
//! ```

use std::collections::BTreeMap;

use insula_state::RegionState;
use insula_types::{
    Deployment, DeploymentState, Desired, InstanceId, Placement, RegionalDefinition, Scale, ServiceName, ServiceRef,
    ServiceSpec,
};

use crate::{
    placements::{View, deployment_of},
    replace::{Live, Step},
};

/// Instances of one service that wait.
#[derive(Debug, Default)]
pub(crate) struct Standby {
    instances: Vec<InstanceId>,
    /// They are of what is wanted, since a release is taken back.
    is_wanted: bool,
}

impl Standby {
    /// Takes those that shall run again: in the place of any that would be started anew, and of those that were ready and are not, while
    /// fewer than `scale` are.
    pub(crate) fn call_back(&mut self, step: &mut Step, scale: usize, live: &[Live<'_>]) -> Vec<InstanceId> {
        let ready = live.iter().filter(|one| one.is_ready).count();
        let relapsed = live.iter().filter(|one| one.has_relapsed).count();
        let added = if self.is_wanted { &mut step.add } else { &mut step.add_old };
        let count = relapsed.min(scale.saturating_sub(ready)).max(*added).min(self.instances.len());
        *added -= count.min(*added);
        self.instances.drain(..count).collect()
    }

    pub(crate) fn contains(&self, instance: InstanceId) -> bool {
        self.instances.contains(&instance)
    }
}

/// All that could take requests at once, should what has taken their place fail. None while somebody has given a place to another: it
/// is meant for that one.
pub(crate) fn standby(state: &RegionState, view: &View<'_>) -> BTreeMap<ServiceRef, Standby> {
    let mut standby: BTreeMap<ServiceRef, Standby> = BTreeMap::new();
    if state.shortfalls.iter().any(|(_, row)| row.awaits.is_some()) {
        return standby;
    }
    for one in state.placements.values().filter(|one| may_wait(state, view, one)) {
        let Some(definition) = state.definitions.get(&one.service.app) else { continue };
        let Some(deployment) = deployment_of(state, &one.service.app, definition) else { continue };
        if good(deployment, definition, &one.service.service) == Some(&one.spec) {
            let waiting = standby.entry(one.service.clone()).or_default();
            waiting.is_wanted = deployment.is_return;
            waiting.instances.push(one.instance);
        }
    }
    standby
}

/// What instances of a service wait for a deployment to end; none: its instances are not to be kept.
///
/// Who allows fewer ready instances than the scale, or watches for no time, does not ask for it; what has waited serves when a release is
/// taken back, whatever the one before says. What has no ports gets no requests:
/// it would not wait, but work beside its successor.
fn good<'a>(
    deployment: &'a Deployment,
    definition: &'a RegionalDefinition,
    service: &ServiceName,
) -> Option<&'a ServiceSpec> {
    let wanted = definition.services.get(service)?;
    let is_watched = !matches!(deployment.state, DeploymentState::After | DeploymentState::Done);
    let is_asked_for = deployment.is_return || wanted.update.max_unavailable == 0 && !wanted.update.bake.is_zero();
    if !is_watched || !is_asked_for || wanted.scale == Scale::EachNode {
        return None;
    }
    let spec = match deployment.is_return {
        true => &wanted.spec,
        false => {
            let old = deployment.from.as_ref()?.services.get(service)?;
            (old.spec != wanted.spec).then_some(&old.spec)?
        }
    };
    (!spec.ports.is_empty()).then_some(spec)
}

fn may_wait(state: &RegionState, view: &View<'_>, one: &Placement) -> bool {
    let is_idle = one.desired == Desired::Drain && one.slot.is_none() && one.hook.is_none();
    let is_ready = || state.statuses.get(&one.instance).is_some_and(|status| status.is_ready);
    let is_welcome = || {
        let node = state.nodes.get(&one.node);
        node.is_some_and(|node| node.health.is_up() && !node.is_draining) && view.moving != Some(one.instance)
    };
    is_idle && is_ready() && is_welcome()
}
