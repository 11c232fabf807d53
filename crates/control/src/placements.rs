//! Placements: what is missing is placed, what is too much or out of date is drained, stopped and removed, and what was
//! on a node that is down is replaced at once.
//!
//! ```text
//! (none) ─► Run ─► Drain ─► Stop ─► (removed)
//!             │   all edges  the node says
//!             │     know     that it is gone
//!             └── node down ──┘
//! ```
//! What has volumes stays where they are, also while its node is down (`slots`).

use std::collections::{BTreeMap, BTreeSet};

use insula_scheduler::{NodeView, Snapshot, Taken, Wanted, schedule};
use insula_state::{RegionCommand, RegionState};
use insula_types::{
    Desired, InstanceId, NodeHealth, NodeId, Phase, Placement, RegionalService, ReleaseNumber, Revision, ServiceRef,
    Slot,
};

use crate::{
    rollout::{self, Live},
    slots,
};

/// Placements in one command, so that an entry of the log stays small.
const PLACEMENTS_PER_COMMAND_MAX: usize = 64;

/// How long the stopped placements of a node that is down are kept for it to come back and confirm. After that they are
/// forgotten; should it come back later, it removes what is not placed on it any more.
const FORGET_AFTER_MS: u64 = 60_000;

/// What a decision needs besides the state.
pub struct View<'a> {
    /// Wall time, milliseconds since 1970.
    pub now_ms: u64,
    /// Whether every node that holds a lease routes by that revision or a later one.
    pub is_acknowledged: &'a dyn Fn(Revision) -> bool,
    /// Draining instances for which acknowledgements have been awaited long enough.
    pub overdue: &'a BTreeSet<InstanceId>,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("now_ms", &self.now_ms).field("overdue", &self.overdue).finish_non_exhaustive()
    }
}

/// The next step.
#[derive(Debug, Default)]
pub struct Plan {
    /// To be committed, the most urgent first.
    pub commands: Vec<RegionCommand>,
    /// Services that cannot be placed in full, and why.
    pub unplaceable: BTreeMap<ServiceRef, String>,
}

/// One service of the region: what is wanted of it and what there is.
#[derive(Default)]
struct Service<'a> {
    wanted: Option<(ReleaseNumber, &'a RegionalService)>,
    live: Vec<Live<'a>>,
    /// All its placements, whatever they shall do.
    placed: Vec<&'a Placement>,
}

/// An instance that is to be placed.
struct Added {
    instance: InstanceId,
    service: ServiceRef,
    slot: Option<Slot>,
    bound_to: Option<NodeId>,
}

/// Compares what shall run with what is placed, and takes one step. `new_id` gives random ids.
pub fn reconcile(state: &RegionState, view: &View<'_>, new_id: &mut dyn FnMut() -> InstanceId) -> Plan {
    let services = services(state);
    let mut plan = Plan::default();
    let mut add: Vec<Added> = Vec::new();
    let mut drain: Vec<InstanceId> = Vec::new();
    let mut used = BTreeSet::new();
    for (name, service) in &services {
        let mut new = |slot, bound_to| {
            let instance = unused_id(state, &mut used, new_id);
            add.push(Added { instance, service: name.clone(), slot, bound_to });
        };
        let wanted = service.wanted.map(|(_, wanted)| wanted);
        if slots::has_slots(wanted, &service.placed) {
            let step = slots::step(state, name, wanted, &service.placed);
            step.add.into_iter().for_each(|(slot, bound_to)| new(Some(slot), bound_to));
            drain.extend(step.drain);
            plan.unplaceable.extend(step.waits.map(|why| (name.clone(), why)));
        } else {
            let step = rollout::step(wanted, &service.live);
            (0..step.add).for_each(|_| new(None, None));
            drain.extend(step.drain);
        }
    }
    place(state, &services, &add, &mut plan);
    let why = "its node is down";
    set_desired(&mut plan, &on_down_nodes(state), Desired::Stop, why);
    set_desired(&mut plan, &drain, Desired::Drain, "no longer wanted here");
    set_desired(&mut plan, &drained(state, view), Desired::Stop, "no edge sends requests to it any more");
    let gone = gone(state, view);
    plan.commands.extend(chunks(&gone).map(RegionCommand::RemovePlacements));
    plan
}

fn services(state: &RegionState) -> BTreeMap<ServiceRef, Service<'_>> {
    let mut services: BTreeMap<ServiceRef, Service<'_>> = BTreeMap::new();
    for (app, definition) in state.definitions.iter() {
        for (name, wanted) in &definition.services {
            let name = ServiceRef::new(app.clone(), name.clone());
            services.entry(name).or_default().wanted = Some((definition.release, wanted));
        }
    }
    for placement in state.placements.values() {
        let service = services.entry(placement.service.clone()).or_default();
        service.placed.push(placement);
        let node = state.nodes.get(&placement.node).filter(|node| node.health.is_up());
        let Some(node) = node.filter(|_| placement.desired == Desired::Run) else { continue };
        service.live.push(Live {
            instance: placement.instance,
            node: placement.node,
            datacenter: node.datacenter.as_str(),
            // A release that does not touch this service leaves its instances alone. What is on a node that is drained is
            // replaced just as what is out of date: the new one is ready before the old one goes.
            is_fresh: !node.is_draining && service.wanted.is_some_and(|(_, wanted)| wanted.spec == placement.spec),
            is_ready: state.statuses.get(&placement.instance).is_some_and(|status| status.is_ready),
        });
    }
    services
}

fn unused_id(
    state: &RegionState,
    used: &mut BTreeSet<InstanceId>,
    new_id: &mut dyn FnMut() -> InstanceId,
) -> InstanceId {
    loop {
        let id = new_id();
        if !state.placements.contains(&id) && used.insert(id) {
            return id;
        }
    }
}

/// Chooses nodes for what is to be added, and says what finds none.
fn place(state: &RegionState, services: &BTreeMap<ServiceRef, Service<'_>>, add: &[Added], plan: &mut Plan) {
    if add.is_empty() {
        return;
    }
    let fresh: BTreeSet<InstanceId> =
        services.values().flat_map(|s| &s.live).filter(|one| one.is_fresh).map(|one| one.instance).collect();
    let snapshot = snapshot(state, |placement| fresh.contains(&placement.instance));
    let of = |name: &ServiceRef| services.get(name).and_then(|service| service.wanted);
    let wanted: Vec<Wanted<'_>> = add
        .iter()
        .filter_map(|Added { instance, service, bound_to, .. }| {
            let spec = &of(service)?.1.spec;
            let (resources, runtime) = (spec.resources, spec.runtime.as_ref());
            Some(Wanted { instance: *instance, service, resources, bound_to: *bound_to, runtime })
        })
        .collect();
    let mut decisions = schedule(&snapshot, &wanted);
    let mut placements = Vec::new();
    for Added { instance, service: name, slot, .. } in add {
        let (Some(decision), Some((release, wanted))) = (decisions.remove(instance), of(name)) else { continue };
        match decision {
            Ok(choice) => placements.push(Placement {
                instance: *instance,
                service: name.clone(),
                node: choice.node,
                release,
                spec: wanted.spec.clone(),
                desired: Desired::Run,
                reasons: choice.reasons,
                placed_ms: 0,
                slot: *slot,
            }),
            Err(error) => {
                plan.unplaceable.insert(name.clone(), error.to_string());
            }
        }
    }
    plan.commands.extend(chunks(&placements).map(RegionCommand::Place));
}

/// What the scheduler looks at; `is_staying` says what counts when a service is spread.
pub(crate) fn snapshot(state: &RegionState, is_staying: impl Fn(&Placement) -> bool) -> Snapshot<'_> {
    Snapshot {
        nodes: state
            .nodes
            .values()
            .map(|node| NodeView {
                id: node.id,
                datacenter: &node.datacenter,
                capacity: node.capacity,
                health: node.health,
                is_cordoned: node.is_cordoned || node.is_draining,
                runtimes: state.runtimes.get(&node.id),
            })
            .collect(),
        taken: state
            .placements
            .values()
            .map(|placement| Taken {
                node: placement.node,
                service: &placement.service,
                resources: placement.spec.resources,
                is_staying: is_staying(placement),
            })
            .collect(),
    }
}

fn set_desired(plan: &mut Plan, instances: &[InstanceId], desired: Desired, reason: &str) {
    plan.commands.extend(chunks(instances).map(|instances| RegionCommand::SetDesired {
        instances,
        desired,
        reason: reason.to_owned(),
    }));
}

fn chunks<T: Clone>(all: &[T]) -> impl Iterator<Item = Vec<T>> + '_ {
    all.chunks(PLACEMENTS_PER_COMMAND_MAX).map(<[T]>::to_vec)
}

/// Placements that are to be stopped because nobody can drain them: their node is down. One with volumes goes on there when
/// the node comes back, if it is still wanted.
fn on_down_nodes(state: &RegionState) -> Vec<InstanceId> {
    let is_down = |placement: &&Placement| state.nodes.get(&placement.node).is_some_and(|node| !node.health.is_up());
    let stays = |placement: &Placement| placement.slot.is_some() && placement.desired == Desired::Run;
    let running = state.placements.values().filter(|placement| placement.desired != Desired::Stop && !stays(placement));
    running.filter(is_down).map(|placement| placement.instance).collect()
}

/// Draining placements to which no edge sends requests any more.
fn drained(state: &RegionState, view: &View<'_>) -> Vec<InstanceId> {
    let is_done = |placement: &&Placement| {
        let id = &placement.instance;
        let is_known = state.placements.revision(id).is_some_and(|revision| (view.is_acknowledged)(revision));
        is_known || view.overdue.contains(id)
    };
    let is_up = |placement: &&Placement| state.nodes.get(&placement.node).is_some_and(|node| node.health.is_up());
    let draining = state.placements.values().filter(|placement| placement.desired == Desired::Drain);
    draining.filter(is_up).filter(is_done).map(|placement| placement.instance).collect()
}

/// Stopped placements that their node has taken away, or whose node is no more.
fn gone(state: &RegionState, view: &View<'_>) -> Vec<InstanceId> {
    let is_gone = |placement: &&Placement| {
        let Some(node) = state.nodes.get(&placement.node) else { return true };
        if placement.desired != Desired::Stop {
            return false;
        }
        let status = state.statuses.get(&placement.instance);
        let is_stopped = status.is_some_and(|status| status.phase == Phase::Stopped);
        let is_forgotten = match node.health {
            NodeHealth::Up => false,
            // By the clock of another leader perhaps, which may have been far ahead: then it is not waited for either.
            NodeHealth::Down { since_ms } => view.now_ms.abs_diff(since_ms) >= FORGET_AFTER_MS,
        };
        is_stopped || is_forgotten
    };
    state.placements.values().filter(is_gone).map(|placement| placement.instance).collect()
}
