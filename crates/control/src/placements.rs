//! Placements: what is missing is placed, what is too much or out of date is drained, stopped and removed, and what was
//! on a node that is down is replaced at once.
//!
//! ```text
//! (none) ─► Run ─► Drain ─► Stop ─► (removed)
//!             │   all edges  the node says
//!             │     know     that it is gone
//!             └── node down ──┘
//! ```
//! What has volumes stays where they are, also while its node is down (`slots`). What runs on each node has no other (`each_node`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use insula_scheduler::{Bound, Choice, NodeView, PlaceError, Snapshot, Taken, Wanted, WhyBound, schedule};
use insula_state::{RegionCommand, RegionState};
use insula_types::{
    AppName, Deployment, DeploymentState, Desired, HookKind, InstanceId, LabelName, LabelValue, Node, NodeHealth,
    NodeId, Phase, Placement, RegionalDefinition, RegionalService, ReleaseNumber, Revision, Scale, ServiceName,
    ServiceRef, Slot, UpdateSpec,
};

use crate::{
    each_node,
    giving::{self, Unplaced},
    hooks::{self, Due, Held},
    replace::{self, Goal, Kind, Live, Way},
    slots,
    standby::{Standby, standby},
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
    /// How long an instance has been ready without a break, as far as this leader saw; none: it is not.
    pub ready_for: &'a dyn Fn(InstanceId) -> Option<Duration>,
    /// An instance that is to be replaced elsewhere, though nothing is wrong with it or its node.
    pub moving: Option<InstanceId>,
    /// Nodes on which nothing can be started, since their disks are full: what has not begun there goes elsewhere.
    pub full: &'a BTreeSet<NodeId>,
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
    /// Services that find no place for what losses have taken of them, each once.
    pub(crate) unplaced: Vec<Unplaced>,
}

/// One service of the region: what is wanted of it and what there is.
#[derive(Default)]
struct Service<'a> {
    wanted: Option<(ReleaseNumber, &'a RegionalService)>,
    /// What is good of it while nobody knows whether what is wanted is. None: the same, or there is nothing.
    old: Option<(ReleaseNumber, &'a RegionalService)>,
    way: Option<Way>,
    live: Vec<Live<'a>>,
    /// All its placements, whatever they shall do.
    placed: Vec<&'a Placement>,
}

/// An instance that is to be placed.
struct Added {
    instance: InstanceId,
    service: ServiceRef,
    slot: Option<Slot>,
    bound_to: Option<Bound>,
    /// It is one of the old release.
    is_old: bool,
    /// It runs this hook.
    hook: Option<HookKind>,
}

impl<'a> Service<'a> {
    /// What an instance of it runs.
    fn of(&self, is_old: bool) -> Option<(ReleaseNumber, &'a RegionalService)> {
        if is_old { self.old } else { self.wanted }
    }

    fn kind(&self, placement: &Placement) -> Kind {
        let is_of = |known: Option<(_, &RegionalService)>| known.is_some_and(|(_, known)| known.spec == placement.spec);
        match (is_of(self.wanted), is_of(self.old)) {
            (true, _) => Kind::New,
            (false, true) => Kind::Old,
            (false, false) => Kind::Other,
        }
    }

    /// Where it shall get; a service that only the old release has is kept until the new one has shown that it is good.
    fn goal(&self) -> Option<Goal<'a>> {
        let (_, service) = self.wanted.or(self.old)?;
        Some(Goal {
            scale: service.scale.count()? as usize,
            way: self.way.unwrap_or(Way::Go),
            has_old: self.old.is_some(),
            update: &service.update,
        })
    }
}

/// Compares what shall run with what is placed, and takes one step. `new_id` gives random ids.
pub fn reconcile(state: &RegionState, view: &View<'_>, new_id: &mut dyn FnMut() -> InstanceId) -> Plan {
    let held = hooks::held(state);
    let services = services(state, &held, view);
    let standby = standby(state, view);
    let mut called_back: Vec<InstanceId> = Vec::new();
    let mut plan = Plan::default();
    let mut add: Vec<Added> = Vec::new();
    let mut drain: Vec<InstanceId> = Vec::new();
    let mut used = BTreeSet::new();
    for (name, service) in &services {
        let mut new = |slot, bound_to, is_old| {
            let instance = unused_id(state, &mut used, new_id);
            add.push(Added { instance, service: name.clone(), slot, bound_to, is_old, hook: None });
        };
        let wanted = service.wanted.map(|(_, wanted)| wanted);
        let waits = service.way == Some(Way::Wait);
        if waits && wanted.is_none() {
            // What may not be started yet has nothing that could take the place of what is lost.
            continue;
        }
        if slots::has_slots(wanted, &service.placed) {
            let is_held = waits || service.way == Some(Way::Hold) && service.old.is_some();
            let is_healthy = |instance| service.live.iter().any(|one| one.instance == instance && one.is_healthy);
            let is_good = |instance| service.old.is_none() || is_healthy(instance);
            let step = slots::step(state, name, wanted, &service.placed, &slots::Pace { is_held, is_good: &is_good });
            let is_old = is_held && service.of(true).is_some_and(|(_, old)| slots::has_slots(Some(old), &[]));
            let bound = |node| Bound { node, why: WhyBound::Volumes };
            step.add.into_iter().for_each(|(slot, node)| new(Some(slot), node.map(bound), is_old));
            drain.extend(step.drain);
            plan.unplaceable.extend(step.waits.map(|why| (name.clone(), why)));
        } else if let Some(wanted) = wanted.filter(|wanted| wanted.scale == Scale::EachNode) {
            let is_held = waits || service.way == Some(Way::Hold) && service.old.is_some();
            let step = each_node::step(state, wanted, &service.placed, is_held);
            if step.is_nowhere {
                let why = "no node that takes instances has the runtime and the labels that it asks for";
                plan.unplaceable.insert(name.clone(), format!("place {name} on each node: {why}"));
            }
            step.add.into_iter().for_each(|node| new(None, Some(Bound { node, why: WhyBound::EachNode }), false));
            drain.extend(step.drain);
        } else if wanted.is_some() || service.old.is_none_or(|(_, old)| old.scale != Scale::EachNode) {
            let gone = Goal { scale: 0, way: Way::Go, has_old: false, update: &UpdateSpec::default() };
            let goal = service.goal().unwrap_or(gone);
            let mut step = replace::step(&goal, &service.live);
            if let Some(waiting) = standby.get(name) {
                called_back.extend(waiting.call_back(&mut step, goal.scale, &service.live));
            }
            (0..step.add).for_each(|_| new(None, None, false));
            (0..step.add_old).for_each(|_| new(None, None, true));
            drain.extend(step.drain);
        }
    }
    let due = hooks::due(state);
    for (service, hook) in &due {
        let instance = unused_id(state, &mut used, new_id);
        let (service, hook) = (service.clone(), Some(hook.kind));
        add.push(Added { instance, service, slot: None, bound_to: None, is_old: false, hook });
    }
    place(state, &services, &due, &add, view.full, &mut plan);
    set_desired(&mut plan, &hooks::unwanted(state), Desired::Stop, "its hook has ended, or is not wanted any more");
    let why = "its node is down";
    set_desired(&mut plan, &on_down_nodes(state), Desired::Stop, why);
    set_desired(&mut plan, &called_back, Desired::Run, "what took its place is not ready, or is gone");
    set_desired(&mut plan, &drain, Desired::Drain, "no longer wanted here");
    let mut kept: BTreeSet<InstanceId> = called_back.into_iter().collect();
    if plan.unplaceable.is_empty() {
        // Otherwise the room of those that wait may be what is missing.
        kept.extend(standby.values().flat_map(Standby::waiting));
    }
    set_desired(&mut plan, &drained(state, view, &kept), Desired::Stop, "no edge sends requests to it any more");
    let gone = gone(state, view);
    plan.commands.extend(chunks(&gone).map(RegionCommand::RemovePlacements));
    plan
}

fn services<'a>(state: &'a RegionState, held: &'a Held, view: &View<'_>) -> BTreeMap<ServiceRef, Service<'a>> {
    let mut services: BTreeMap<ServiceRef, Service<'_>> = BTreeMap::new();
    for (app, definition) in state.definitions.iter() {
        for (name, wanted) in &definition.services {
            let name = ServiceRef::new(app.clone(), name.clone());
            let is_held = held.get(&name);
            let service = services.entry(name).or_default();
            match is_held {
                None => service.wanted = Some((definition.release, wanted)),
                Some(good) => {
                    service.wanted = good.as_ref().map(|(release, good)| (*release, good));
                    service.way = Some(Way::Wait);
                }
            }
        }
        if let Some(deployment) = deployment_of(state, app, definition) {
            add_old(&mut services, deployment, definition);
        }
    }
    for placement in state.placements.values().filter(|one| one.hook.is_none()) {
        let service = services.entry(placement.service.clone()).or_default();
        service.placed.push(placement);
        let node = state.nodes.get(&placement.node).filter(|node| node.health.is_up());
        let Some(node) = node.filter(|_| placement.desired == Desired::Run) else { continue };
        let status = state.statuses.get(&placement.instance);
        let is_ready = status.is_some_and(|status| status.is_ready);
        let can_begin = status.is_some_and(|status| status.was_ready) || !view.full.contains(&placement.node);
        let min_healthy = service.wanted.map(|(_, wanted)| wanted.update.min_healthy).unwrap_or_default();
        service.live.push(Live {
            instance: placement.instance,
            node: placement.node,
            datacenter: group(state, node, &placement.spec.placement.spread),
            // A release that does not touch this service leaves its instances alone.
            kind: service.kind(placement),
            // What is on a node that is drained is replaced just as what is out of date: the new one is ready before the old
            // one goes.
            may_stay: !node.is_draining && view.moving != Some(placement.instance) && can_begin,
            is_ready,
            has_relapsed: !is_ready && status.is_some_and(|status| status.was_ready),
            is_healthy: is_ready && (view.ready_for)(placement.instance).is_some_and(|time| time >= min_healthy),
        });
    }
    services
}

/// Of nodes whose disks are full those that are to be avoided: all, unless no other takes instances either.
pub(crate) fn avoided(state: &RegionState, full: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let is_open = |node: &Node| node.health.is_up() && !node.is_cordoned && !node.is_draining;
    let has_others = state.nodes.values().any(|node| is_open(node) && !full.contains(&node.id));
    if has_others { full } else { BTreeSet::new() }
}

/// What the instances of a service on a node are counted with when it is spread: the value of that label.
pub(crate) fn group<'a>(state: &'a RegionState, node: &'a Node, spread: &LabelName) -> &'a str {
    match spread.as_str() {
        LabelName::DATACENTER => node.datacenter.as_str(),
        // Nodes are counted apart from groups in any case.
        LabelName::NODE => "",
        _ => state.labels.get(&node.id).and_then(|labels| labels.get(spread)).map_or("", LabelValue::as_str),
    }
}

/// The deployment of a definition, while it is not known to be good.
pub(crate) fn deployment_of<'a>(
    state: &'a RegionState,
    app: &AppName,
    definition: &RegionalDefinition,
) -> Option<&'a Deployment> {
    state
        .deployments
        .get(app)
        .filter(|deployment| deployment.release == definition.release && deployment.state != DeploymentState::Done)
}

/// Adds what is good of the services of a definition that is being rolled out, and how it may go on.
fn add_old<'a>(
    services: &mut BTreeMap<ServiceRef, Service<'a>>,
    deployment: &'a Deployment,
    definition: &'a RegionalDefinition,
) {
    let Some(from) = &deployment.from else { return };
    for (name, old) in &from.services {
        let wanted = definition.services.get(name);
        let is_kept = match wanted {
            // While it is watched, all of it has run well: what is lost of it, or added, is of itself. What waits is what is good.
            Some(wanted) => {
                let is_watched = matches!(deployment.state, DeploymentState::Baking | DeploymentState::After);
                wanted.spec != old.spec && !is_watched && !deployment.is_held()
            }
            None => match deployment.state {
                DeploymentState::Before | DeploymentState::First | DeploymentState::Going | DeploymentState::Failed => {
                    true
                }
                DeploymentState::Baking | DeploymentState::After | DeploymentState::Done => false,
            },
        };
        if is_kept {
            let service = services.entry(ServiceRef::new(deployment.app.clone(), name.clone())).or_default();
            service.old = Some((from.release, old));
            service.way = Some(way(deployment, name, wanted));
        }
    }
}

fn way(deployment: &Deployment, name: &ServiceName, wanted: Option<&RegionalService>) -> Way {
    let Some(wanted) = wanted else { return Way::Hold };
    let first = || deployment.first_instances(name, &wanted.update, wanted.scale);
    match deployment.state {
        DeploymentState::First => first().map_or(Way::Hold, |count| Way::First(count as usize)),
        DeploymentState::Going if deployment.is_paused => Way::Hold,
        DeploymentState::Going | DeploymentState::Baking | DeploymentState::After | DeploymentState::Done => Way::Go,
        DeploymentState::Before | DeploymentState::Failed => Way::Hold,
    }
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

/// Whether an instance counts when its service is spread.
fn is_staying(one: &Live<'_>) -> bool {
    one.may_stay && one.kind == Kind::New
}

/// Chooses nodes for what is to be added, and says what finds none.
fn place(
    state: &RegionState,
    services: &BTreeMap<ServiceRef, Service<'_>>,
    due: &BTreeMap<ServiceRef, Due>,
    add: &[Added],
    full: &BTreeSet<NodeId>,
    plan: &mut Plan,
) {
    if add.is_empty() {
        return;
    }
    let fresh: BTreeSet<InstanceId> =
        services.values().flat_map(|s| &s.live).filter(|one| is_staying(one)).map(|one| one.instance).collect();
    let mut snapshot = snapshot(state, |placement| fresh.contains(&placement.instance));
    for node in snapshot.nodes.iter_mut().filter(|node| full.contains(&node.id)) {
        node.is_cordoned = true;
    }
    let of = |one: &Added| match one.hook {
        Some(_) => due.get(&one.service).map(|due| (due.release, &due.spec, due.priority)),
        None => {
            let (release, service) = services.get(&one.service)?.of(one.is_old)?;
            Some((release, &service.spec, service.priority))
        }
    };
    let mut wanted: Vec<Wanted<'_>> = add
        .iter()
        .filter_map(|added @ Added { instance, service, bound_to, .. }| {
            let (_, spec, priority) = of(added)?;
            Some(Wanted { instance: *instance, bound_to: *bound_to, ..giving::ask(service, spec, priority) })
        })
        .collect();
    let of_hook = |instance| add.iter().any(|one| one.instance == instance && one.hook.is_some());
    let mut decisions = place_given(state, full, &mut snapshot, &mut wanted, &of_hook);
    decisions.extend(schedule(&snapshot, &wanted));
    let (mut placements, mut of_hooks) = (Vec::new(), Vec::new());
    for added @ Added { instance, service: name, slot, is_old, hook, .. } in add {
        let (Some(decision), Some((release, spec, _))) = (decisions.remove(instance), of(added)) else {
            continue;
        };
        let into = if hook.is_some() { &mut of_hooks } else { &mut placements };
        match decision {
            Ok(choice) => into.push(Placement {
                instance: *instance,
                service: name.clone(),
                node: choice.node,
                release,
                spec: spec.clone(),
                desired: Desired::Run,
                reasons: choice.reasons,
                placed_ms: 0,
                slot: *slot,
                hook: *hook,
            }),
            Err(error) => {
                let text = match (hook, state.shortfalls.get(name)) {
                    (Some(hook), _) => format!("hook {}: {error}", hook.as_str()),
                    (None, Some(short)) if matches!(error, PlaceError::NoCapacity { .. }) => {
                        if !plan.unplaced.iter().any(|one| one.service == *name) {
                            plan.unplaced.push(Unplaced { service: name.clone(), is_old: *is_old });
                        }
                        format!("{}: {error}", short.text(name))
                    }
                    (None, _) => error.to_string(),
                };
                plan.unplaceable.insert(name.clone(), text);
            }
        }
    }
    plan.commands.extend(chunks(&placements).map(RegionCommand::Place));
    // One by one: what somebody has steered meanwhile keeps nothing else from being placed.
    plan.commands.extend(of_hooks.into_iter().map(|placement| RegionCommand::Place(vec![placement])));
}

/// Places that others have given are for the services that they gave them to: what can go there does, and what cannot yet has its
/// room kept.
fn place_given<'a>(
    state: &'a RegionState,
    full: &BTreeSet<NodeId>,
    snapshot: &mut Snapshot<'a>,
    wanted: &mut Vec<Wanted<'a>>,
    of_hook: &dyn Fn(InstanceId) -> bool,
) -> BTreeMap<InstanceId, Result<Choice, PlaceError>> {
    let mut decisions = BTreeMap::new();
    for (service, row) in state.shortfalls.iter() {
        let Some(node) = giving::awaited(state, full, service, row) else { continue };
        let can_go = |one: &Wanted<'_>| one.service == service && one.bound_to.is_none() && !of_hook(one.instance);
        let Some(at) = wanted.iter().position(can_go) else { continue };
        let there = Wanted { bound_to: Some(giving::bound(node.id)), ..wanted[at].clone() };
        let decided = schedule(snapshot, std::slice::from_ref(&there));
        snapshot.taken.push(Taken { node: node.id, service, resources: there.resources, is_staying: true });
        if decided.values().all(Result::is_ok) {
            wanted.remove(at);
            decisions.extend(decided);
        }
    }
    decisions
}

/// What the scheduler looks at; `is_staying` says what counts when a service is spread.
pub(crate) fn snapshot(state: &RegionState, is_staying: impl Fn(&Placement) -> bool) -> Snapshot<'_> {
    Snapshot {
        nodes: state.nodes.values().map(|node| node_view(state, node)).collect(),
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

/// A node as the scheduler sees it.
pub(crate) fn node_view<'a>(state: &'a RegionState, node: &'a Node) -> NodeView<'a> {
    NodeView {
        id: node.id,
        name: &node.name,
        datacenter: &node.datacenter,
        capacity: node.capacity,
        health: node.health,
        is_cordoned: node.is_cordoned || node.is_draining,
        runtimes: state.runtimes.get(&node.id),
        labels: state.labels.get(&node.id),
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

/// Draining placements to which no edge sends requests any more, and which are not kept.
fn drained(state: &RegionState, view: &View<'_>, kept: &BTreeSet<InstanceId>) -> Vec<InstanceId> {
    let is_done = |placement: &&Placement| {
        let id = &placement.instance;
        let is_known = state.placements.revision(id).is_some_and(|revision| (view.is_acknowledged)(revision));
        is_known || view.overdue.contains(id)
    };
    let is_up = |placement: &&Placement| state.nodes.get(&placement.node).is_some_and(|node| node.health.is_up());
    let draining = state.placements.values().filter(|placement| placement.desired == Desired::Drain);
    let over = draining.filter(is_up).filter(is_done).filter(|one| !kept.contains(&one.instance));
    over.map(|placement| placement.instance).collect()
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
