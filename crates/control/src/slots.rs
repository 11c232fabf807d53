//! Services with volumes: each instance has a slot, and each slot its volumes, on one node.
//!
//! Two instances never share a slot, so a new release comes slot by slot: the old one goes first, the new one comes to the
//! same node. A slot whose node is down waits for it: nobody else has its data, and an empty volume in its place would be
//! worse than none.

use std::collections::BTreeMap;

use insula_state::RegionState;
use insula_types::{Desired, InstanceId, NodeId, Placement, RegionalService, Scale, ServiceRef, Slot, VolumeRef};

/// The next step with one service that has volumes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Slots that get an instance, and the node that they are bound to; none: any.
    pub add: Vec<(Slot, Option<NodeId>)>,
    /// Instances to drain.
    pub drain: Vec<InstanceId>,
    /// Why a slot gets none, in words.
    pub waits: Option<String>,
}

/// How fast a new release may come to the slots.
pub(crate) struct Pace<'a> {
    /// No instance is replaced.
    pub is_held: bool,
    /// Whether an instance has been ready for long enough to count.
    pub is_good: &'a dyn Fn(InstanceId) -> bool,
}

/// Whether a service is one of slots: it has volumes, or still has instances with some.
pub(crate) fn has_slots(wanted: Option<&RegionalService>, placed: &[&Placement]) -> bool {
    wanted.is_some_and(|wanted| !wanted.spec.volumes.is_empty())
        || placed.iter().any(|placement| placement.slot.is_some())
}

/// The next step towards `wanted`; `placed` are all placements of the service, whatever they shall do.
pub(crate) fn step(
    state: &RegionState,
    service: &ServiceRef,
    wanted: Option<&RegionalService>,
    placed: &[&Placement],
    pace: &Pace<'_>,
) -> Step {
    let mut step = Step::default();
    let scale = match wanted.filter(|wanted| !wanted.spec.volumes.is_empty()).map(|wanted| wanted.scale) {
        None => 0,
        Some(Scale::Count(scale)) => scale,
        Some(Scale::EachNode) => {
            // The API refuses it; what runs is left alone, since volumes hang on it.
            step.waits = Some(format!(
                "place instances of {service}: it has volumes, which the scale each-node is not for: give it a number"
            ));
            return step;
        }
    };
    let by_slot: BTreeMap<Slot, &Placement> = placed.iter().filter_map(|one| Some((one.slot?, *one))).collect();
    let runs = |placement: &&&Placement| placement.desired == Desired::Run;
    step.drain.extend(by_slot.range(scale..).map(|(_, one)| one).filter(runs).map(|one| one.instance));
    if let Some(wanted) = wanted {
        for slot in (0..scale).filter(|slot| !by_slot.contains_key(slot)) {
            match home(state, service, wanted, slot) {
                Ok(node) => step.add.push((slot, node)),
                Err(why) => step.waits = Some(why),
            }
        }
        for lost in by_slot.range(..scale).map(|(_, one)| one).filter(|one| !is_up(state, one.node)) {
            step.waits = lost.slot.and_then(|slot| home(state, service, wanted, slot).err());
        }
        // One at a time, and the next only while all the others are well.
        let is_well = |one: &&Placement| {
            let is_ready = || state.statuses.get(&one.instance).is_some_and(|status| status.is_ready);
            // Nobody has to wait for what is to be replaced anyway.
            let counts = || is_ready() && (one.spec != wanted.spec || (pace.is_good)(one.instance));
            one.desired == Desired::Run && is_up(state, one.node) && counts()
        };
        let may_go = |one: &&Placement| one.spec != wanted.spec && !pace.is_held;
        let is_stale = |one: &&&Placement| may_go(one) && one.desired == Desired::Run && is_up(state, one.node);
        let stale: Vec<_> = by_slot.range(..scale).map(|(_, one)| one).filter(is_stale).collect();
        let are_well = |mut slots: std::ops::Range<Slot>| slots.all(|slot| by_slot.get(&slot).is_some_and(is_well));
        let is_alone = |candidate: &&&&Placement| {
            let slot = candidate.slot.unwrap_or_default();
            are_well(0..slot) && are_well(slot + 1..scale)
        };
        // One that is not well itself has nothing to lose by going first.
        let next = stale.iter().find(|one| !is_well(one)).or_else(|| stale.first());
        step.drain.extend(next.filter(is_alone).map(|one| one.instance));
        // From before it had volumes.
        let before = placed.iter().filter(|one| one.slot.is_none()).filter(runs);
        step.drain.extend(before.filter(|_| are_well(0..scale)).map(|one| one.instance));
    }
    step
}

/// The node that has the volumes of a slot; none: no volume has been made yet.
fn home(
    state: &RegionState,
    service: &ServiceRef,
    wanted: &RegionalService,
    slot: Slot,
) -> Result<Option<NodeId>, String> {
    let mut node = None;
    for spec in &wanted.spec.volumes {
        let volume = VolumeRef { service: service.clone(), name: spec.name.clone(), slot };
        let Some(present) = state.volumes.get(&volume) else { continue };
        if present.is_deleted {
            return Err(format!("place an instance of {service}: volume {volume} is being deleted"));
        }
        match state.nodes.get(&present.node) {
            None => {
                return Err(format!(
                    "place an instance of {service}: volume {volume} was on node {}, which was removed, and its data with \
                     it: `insula volume rm {volume}` begins with an empty one",
                    present.node
                ));
            }
            Some(holder) if !holder.health.is_up() => {
                let name = &holder.name;
                return Err(format!(
                    "place an instance of {service}: volume {volume} is on node {name}, which is down: bring {name} back, \
                     or remove it and the volume to begin with an empty one"
                ));
            }
            Some(holder) => node = Some(holder.id),
        }
    }
    Ok(node)
}

fn is_up(state: &RegionState, node: NodeId) -> bool {
    state.nodes.get(&node).is_some_and(|node| node.health.is_up())
}
