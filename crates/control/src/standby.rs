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

use std::collections::{BTreeMap, BTreeSet};

use insula_state::RegionState;
use insula_types::{
    Deployment, DeploymentState, Desired, InstanceId, Phase, Placement, RegionalDefinition, ServiceName, ServiceRef,
    ServiceSpec,
};

use crate::{
    placements::{View, deployment_of},
    replace::{Live, Step},
};

/// Instances of one service that wait.
#[derive(Debug, Default)]
pub(crate) struct Standby {
    /// All of them; those that are not ready by now may be so again.
    waiting: BTreeSet<InstanceId>,
    ready: BTreeSet<InstanceId>,
    /// They are of what is wanted, since a release is taken back.
    is_wanted: bool,
}

impl Standby {
    /// Those that shall run again: in the place of any that would be started anew, and of those that were ready and are not, while
    /// fewer than `scale` are. The step has so many fewer to start.
    pub(crate) fn call_back(&self, step: &mut Step, scale: usize, live: &[Live<'_>]) -> Vec<InstanceId> {
        let ready = live.iter().filter(|one| one.is_ready).count();
        let relapsed = live.iter().filter(|one| one.has_relapsed).count();
        let added = if self.is_wanted { &mut step.add } else { &mut step.add_old };
        let count = relapsed.min(scale.saturating_sub(ready)).max(*added).min(self.ready.len());
        *added -= count.min(*added);
        self.ready.iter().take(count).copied().collect()
    }

    /// All that wait.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.waiting.iter().copied()
    }
}

/// All that could take requests at once, should what has taken their place fail: of each service as many as its scale. None while
/// somebody has given a place to another: it is meant for that one.
pub(crate) fn standby(state: &RegionState, view: &View<'_>) -> BTreeMap<ServiceRef, Standby> {
    let mut standby: BTreeMap<ServiceRef, Standby> = BTreeMap::new();
    if state.shortfalls.iter().any(|(_, row)| row.awaits.is_some()) {
        return standby;
    }
    for one in state.placements.values().filter(|one| may_wait(state, view, one)) {
        let Some(definition) = state.definitions.get(&one.service.app) else { continue };
        let Some(deployment) = deployment_of(state, &one.service.app, definition) else { continue };
        let Some((good, scale)) = good(deployment, definition, &one.service.service) else { continue };
        let of_service = standby.entry(one.service.clone()).or_default();
        if *good == one.spec && of_service.waiting.len() < scale {
            of_service.is_wanted = deployment.is_return;
            of_service.waiting.insert(one.instance);
            if state.statuses.get(&one.instance).is_some_and(|status| status.is_ready) {
                of_service.ready.insert(one.instance);
            }
        }
    }
    standby
}

/// What instances of a service wait for a deployment to end, and how many of them; none: its instances are not to be kept.
///
/// Who allows fewer ready instances than the scale, or watches for no time, does not ask for it; what has waited serves when a release is
/// taken back, whatever the one before says. What has no ports gets no requests: it would not wait, but work beside its successor.
fn good<'a>(
    deployment: &'a Deployment,
    definition: &'a RegionalDefinition,
    service: &ServiceName,
) -> Option<(&'a ServiceSpec, usize)> {
    let wanted = definition.services.get(service)?;
    let scale = wanted.scale.count()? as usize;
    let is_watched = !matches!(deployment.state, DeploymentState::After | DeploymentState::Done);
    let is_asked_for = deployment.is_return || wanted.update.max_unavailable == 0 && !wanted.update.bake.is_zero();
    if !is_watched || !is_asked_for {
        return None;
    }
    let spec = match deployment.is_return {
        true => &wanted.spec,
        false => {
            let old = deployment.from.as_ref()?.services.get(service)?;
            (old.spec != wanted.spec).then_some(&old.spec)?
        }
    };
    (!spec.ports.is_empty()).then_some((spec, scale))
}

/// Whether it has been replaced, runs, and its place is not to be left.
fn may_wait(state: &RegionState, view: &View<'_>, one: &Placement) -> bool {
    if one.desired != Desired::Drain || one.slot.is_some() || one.hook.is_some() || view.moving == Some(one.instance) {
        return false;
    }
    let runs = state.statuses.get(&one.instance).is_some_and(|status| status.phase == Phase::Running);
    runs && state.nodes.get(&one.node).is_some_and(|node| node.health.is_up() && !node.is_draining)
}
