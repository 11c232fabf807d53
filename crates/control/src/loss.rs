//! What would become of what runs on some nodes, were they lost. Pure, by the rules of the scheduler that would decide then;
//! it changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use insula_scheduler::{Snapshot, Taken, Wanted, schedule};
use insula_state::RegionState;
use insula_types::{
    DatacenterName, Desired, InstanceId, NodeHealth, NodeId, Placement, RegionalDefinition, RegionalService, Scale,
    ServiceRef,
};

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

/// What a definition would do to a region, before it is deployed there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foretold {
    /// Instances that would find no place, by service, and why.
    pub unplaced: BTreeMap<ServiceRef, Short>,
    /// Losses after which everything finds a place now, and would not then. Data centres before nodes.
    pub losses: Vec<(Loss, BTreeMap<ServiceRef, Short>)>,
}

/// Instances without a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Short {
    /// How many.
    pub count: usize,
    /// Why the last of them, in words.
    pub why: String,
}

/// What may be lost.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// All nodes of a data centre.
    Datacenter(DatacenterName),
    /// A node.
    Node(NodeId),
}

/// Placements that are looked at for [`foretell`], over all losses: a second or so. In regions that have more, nodes with the fewest
/// instances are not asked about.
const LOOKS_MAX: usize = 5_000_000;

/// What becomes of everything that shall run on these nodes, in order of id. Nodes that are down already are as they are.
pub fn outcomes<'a>(state: &'a RegionState, lost: &BTreeSet<NodeId>) -> Vec<Outcome<'a>> {
    Layout { state, placements: state.placements.values().collect(), coming: None }.outcomes(lost)
}

/// What a definition would do, were it all out. What has volumes is not judged: it goes nowhere else in any case.
pub fn foretell(state: &RegionState, definition: &RegionalDefinition) -> Foretold {
    let now = Layout { state, placements: state.placements.values().collect(), coming: None };
    let (placed, unplaced) = place_all(state, definition);
    let others = state.placements.values().filter(|one| one.service.app != definition.app);
    let then = Layout { state, placements: others.chain(&placed).collect(), coming: Some(definition) };

    let up = || state.nodes.values().filter(|node| node.health.is_up());
    let mut of_datacenter: BTreeMap<&DatacenterName, BTreeSet<NodeId>> = BTreeMap::new();
    for node in up() {
        of_datacenter.entry(&node.datacenter).or_default().insert(node.id);
    }
    let mut instances: BTreeMap<NodeId, usize> = up().map(|node| (node.id, 0)).collect();
    for placement in &then.placements {
        if let Some(count) = instances.get_mut(&placement.node) {
            *count += 1;
        }
    }
    let count = instances.len();
    let mut nodes: Vec<(usize, NodeId)> = instances.into_iter().map(|(node, instances)| (instances, node)).collect();
    nodes.sort_unstable_by_key(|(instances, node)| (std::cmp::Reverse(*instances), *node));
    // That of one node is lost with it.
    let datacenters = of_datacenter.into_iter().filter(|(_, nodes)| nodes.len() > 1);
    let datacenters = datacenters.map(|(name, nodes)| (Loss::Datacenter(name.clone()), nodes));
    let nodes = nodes.into_iter().map(|(_, node)| (Loss::Node(node), BTreeSet::from([node])));
    let mut losses: Vec<_> = datacenters
        .chain(nodes)
        // With nothing left, no place is left either, and nobody needs to be told.
        .filter(|(_, lost)| lost.len() < count)
        .take(LOOKS_MAX / (then.placements.len() + now.placements.len() + 1))
        .filter_map(|(loss, lost)| {
            let short = short(then.outcomes(&lost));
            (!short.is_empty() && self::short(now.outcomes(&lost)).is_empty()).then_some((loss, short))
        })
        .collect();
    losses.sort_by(|left, right| left.0.cmp(&right.0));
    Foretold { unplaced, losses }
}

/// What finds no place, of what could be elsewhere.
fn short(outcomes: Vec<Outcome<'_>>) -> BTreeMap<ServiceRef, Short> {
    let waits = outcomes.into_iter().filter(|outcome| outcome.placement.slot.is_none());
    let waits = waits.filter_map(|Outcome { placement, then }| match then {
        Then::Waits(why) => Some((placement.service.clone(), why)),
        Then::Goes { .. } | Then::Ends => None,
    });
    count(waits)
}

fn count(short: impl Iterator<Item = (ServiceRef, String)>) -> BTreeMap<ServiceRef, Short> {
    let mut counted: BTreeMap<ServiceRef, Short> = BTreeMap::new();
    for (service, why) in short {
        let one = counted.entry(service).or_insert(Short { count: 0, why: String::new() });
        (one.count, one.why) = (one.count + 1, why);
    }
    counted
}

/// The instances of an app once a definition of it is out: those that stay are where they are, the others where the scheduler
/// would put them now; and those for which it has no place. Instances with volumes, and those of each node, are as they are.
fn place_all(state: &RegionState, definition: &RegionalDefinition) -> (Vec<Placement>, BTreeMap<ServiceRef, Short>) {
    let mut placed = Vec::new();
    let mut missing = Vec::new();
    for (name, service) in &definition.services {
        let name = ServiceRef::new(definition.app.clone(), name.clone());
        let runs = |one: &&Placement| one.desired == Desired::Run && one.hook.is_none();
        let there = state.placements.values().filter(|one| one.service == name).filter(runs);
        let there = there.filter(|one| state.nodes.get(&one.node).is_some_and(|node| node.health.is_up()));
        let is_bound = service.scale == Scale::EachNode || !service.spec.volumes.is_empty();
        let wanted = service.scale.count().unwrap_or(u32::MAX) as usize;
        let stays = there.filter(|one| is_bound || one.spec == service.spec).take(wanted);
        let before = placed.len();
        placed.extend(stays.map(|one| Placement { spec: service.spec.clone(), ..one.clone() }));
        if !is_bound {
            missing.extend(std::iter::repeat_n((name, service), wanted - (placed.len() - before)));
        }
    }
    // Numbers of their own, below which nothing else is asked for in this batch.
    let ids = || (0..).map(InstanceId::new);
    let asked: Vec<Wanted<'_>> =
        ids().zip(&missing).map(|(instance, (name, service))| asked(instance, name, service)).collect();
    let others = state.placements.values().filter(|one| one.service.app != definition.app);
    let layout = Layout { state, placements: others.chain(&placed).collect(), coming: Some(definition) };
    let mut decisions = schedule(&layout.snapshot(&BTreeSet::new()), &asked);
    let mut unplaced = Vec::new();
    for (instance, (name, service)) in ids().zip(&missing) {
        match decisions.remove(&instance) {
            Some(Ok(choice)) => placed.push(Placement {
                instance,
                service: name.clone(),
                node: choice.node,
                release: definition.release,
                spec: service.spec.clone(),
                desired: Desired::Run,
                reasons: choice.reasons,
                placed_ms: 0,
                slot: None,
                hook: None,
            }),
            Some(Err(why)) => unplaced.push((name.clone(), why.to_string())),
            None => {}
        }
    }
    (placed, count(unplaced.into_iter()))
}

fn asked<'a>(instance: InstanceId, service: &'a ServiceRef, wanted: &'a RegionalService) -> Wanted<'a> {
    Wanted {
        instance,
        service,
        resources: wanted.spec.resources,
        bound_to: None,
        runtime: wanted.spec.runtime.as_ref(),
        placement: &wanted.spec.placement,
    }
}

/// Where everything is, or would be.
struct Layout<'a> {
    state: &'a RegionState,
    placements: Vec<&'a Placement>,
    /// In place of the definition that the region has of that app.
    coming: Option<&'a RegionalDefinition>,
}

impl<'a> Layout<'a> {
    fn outcomes(&self, lost: &BTreeSet<NodeId>) -> Vec<Outcome<'a>> {
        let is_up = |node: &NodeId| self.state.nodes.get(node).is_some_and(|node| node.health.is_up());
        let on_lost = |one: &&Placement| {
            lost.contains(&one.node) && is_up(&one.node) && one.desired == Desired::Run && one.hook.is_none()
        };
        let hit: Vec<&'a Placement> = self.placements.iter().copied().filter(on_lost).collect();
        let moving: Vec<(&Placement, &RegionalService)> =
            hit.iter().filter_map(|one| Some((*one, self.wanted(&one.service)?))).filter(is_replaced).collect();
        let asked: Vec<Wanted<'_>> =
            moving.iter().map(|(placement, service)| asked(placement.instance, &placement.service, service)).collect();
        let mut decisions = schedule(&self.snapshot(lost), &asked);
        let mut then = |placement: &Placement| match decisions.remove(&placement.instance) {
            Some(Ok(choice)) => Then::Goes { to: choice.node, reasons: choice.reasons },
            Some(Err(why)) => Then::Waits(why.to_string()),
            None if placement.slot.is_some() => Then::Waits("its volumes are on the node that is lost".to_owned()),
            None => Then::Ends,
        };
        hit.into_iter().map(|placement| Outcome { placement, then: then(placement) }).collect()
    }

    fn wanted(&self, service: &ServiceRef) -> Option<&'a RegionalService> {
        let coming = self.coming.filter(|coming| coming.app == service.app);
        coming.or_else(|| self.state.definitions.get(&service.app))?.services.get(&service.service)
    }

    /// The region after the loss.
    fn snapshot(&self, lost: &BTreeSet<NodeId>) -> Snapshot<'a> {
        let health = |id: &NodeId, health| if lost.contains(id) { NodeHealth::Down { since_ms: 0 } } else { health };
        let nodes = self.state.nodes.values().map(|node| {
            let view = node_view(self.state, node);
            insula_scheduler::NodeView { health: health(&view.id, view.health), ..view }
        });
        let is_current: BTreeMap<&ServiceRef, &RegionalService> =
            self.placements.iter().filter_map(|one| Some((&one.service, self.wanted(&one.service)?))).collect();
        let taken = self.placements.iter().map(|placement| Taken {
            node: placement.node,
            service: &placement.service,
            resources: placement.spec.resources,
            is_staying: placement.desired == Desired::Run
                && is_current.get(&placement.service).is_some_and(|service| service.spec == placement.spec),
        });
        Snapshot { nodes: nodes.collect(), taken: taken.collect() }
    }
}

/// Whether another node would get it: no volumes hold it, and its service is not one for each node.
fn is_replaced((placement, service): &(&Placement, &RegionalService)) -> bool {
    placement.slot.is_none() && service.scale != Scale::EachNode
}
