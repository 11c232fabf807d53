//! What would become of what runs on some nodes, were they lost. Pure, by the rules of the scheduler that would decide then;
//! it changes nothing.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use insula_scheduler::{Choice, NodeView, PlaceError, Snapshot, Taken, Wanted, is_asked_for, schedule};
use insula_state::RegionState;
use insula_types::{
    DatacenterName, Desired, InstanceId, NodeHealth, NodeId, Placement, PlacementSpec, RegionalDefinition,
    RegionalService, Resources, Scale, ServiceRef,
};

use crate::{
    giving::{self, Settled},
    placements::node_view,
};

/// What becomes of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// The instance, where it is.
    pub placement: Cow<'a, Placement>,
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
    /// It is replaced, in the place of others.
    Takes {
        /// There.
        to: NodeId,
        /// Those give way to it.
        from: BTreeSet<ServiceRef>,
    },
    /// It is on a node that is not lost, and gives way to another that was.
    Gives {
        /// To that service.
        to: ServiceRef,
        /// Where it goes itself; none: nowhere before something changes.
        goes: Option<NodeId>,
    },
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Short {
    /// How many.
    pub count: usize,
    /// Why the last of them, in words.
    pub why: String,
    /// To which service those give way of them that are not lost themselves.
    pub gives_to: Option<ServiceRef>,
    /// Which services of clearly lower priority have the room. They give way to losses, and to nothing that comes.
    pub held_by: BTreeSet<ServiceRef>,
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

/// What becomes of everything that shall run on these nodes, in order of id, then of what gives way to that. Nodes that are down
/// already are as they are.
pub fn outcomes<'a>(state: &'a RegionState, lost: &BTreeSet<NodeId>) -> Vec<Outcome<'a>> {
    Layout { state, placements: state.placements.values().collect(), coming: None }.outcomes(lost)
}

/// What a definition would do, were it all out. What has volumes is not judged: it goes nowhere else in any case.
pub fn foretell(state: &RegionState, definition: RegionalDefinition) -> Foretold {
    let mut foretelling = Foretelling::begin(state, definition);
    while foretelling.step(state) {}
    foretelling.end()
}

/// A [`foretell`] in parts, each of which takes some tens of milliseconds at most: whoever reads a state holds up its changes.
/// What changes between the parts makes it no worse than any look ahead.
#[derive(Debug)]
pub struct Foretelling {
    definition: RegionalDefinition,
    /// The app as it would be.
    placed: Vec<Placement>,
    /// What may leave something short, the last one first.
    left: Vec<(Loss, BTreeSet<NodeId>)>,
    told: Foretold,
}

impl Foretelling {
    /// Places the definition, and finds out which losses have to be looked at.
    pub fn begin(state: &RegionState, definition: RegionalDefinition) -> Self {
        let (placed, unplaced) = place_all(state, &definition);
        let mut this = Self { definition, placed, left: Vec::new(), told: Foretold { unplaced, losses: Vec::new() } };
        let then = this.then(state);
        let slack = Slack::new(&then);
        let looks = 2 * then.placements.len() + 1;
        let risky = losses(&then).filter(|(_, lost)| !slack.is_enough_without(lost));
        this.left = risky.take(LOOKS_MAX / looks).collect();
        this.left.reverse();
        this
    }

    /// Looks at one loss. False when there is none left.
    pub fn step(&mut self, state: &RegionState) -> bool {
        let Some((loss, lost)) = self.left.pop() else { return false };
        let now = Layout { state, placements: state.placements.values().collect(), coming: None };
        let short = short(self.then(state).outcomes(&lost));
        if !short.is_empty() && self::short(now.outcomes(&lost)).is_empty() {
            self.told.losses.push((loss, short));
        }
        true
    }

    /// What was found.
    pub fn end(mut self) -> Foretold {
        self.told.losses.sort_by(|left, right| left.0.cmp(&right.0));
        self.told
    }

    fn then<'a>(&'a self, state: &'a RegionState) -> Layout<'a> {
        let others = state.placements.values().filter(|one| one.service.app != self.definition.app);
        Layout { state, placements: others.chain(&self.placed).collect(), coming: Some(&self.definition) }
    }
}

/// What may be lost: data centres, then nodes, those with the most instances first.
fn losses(then: &Layout<'_>) -> impl Iterator<Item = (Loss, BTreeSet<NodeId>)> + use<> {
    let up = || then.state.nodes.values().filter(|node| node.health.is_up());
    let mut of_datacenter: BTreeMap<DatacenterName, BTreeSet<NodeId>> = BTreeMap::new();
    for node in up() {
        of_datacenter.entry(node.datacenter.clone()).or_default().insert(node.id);
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
    let datacenters = datacenters.map(|(name, nodes)| (Loss::Datacenter(name), nodes));
    let nodes = nodes.into_iter().map(|(_, node)| (Loss::Node(node), BTreeSet::from([node])));
    // With nothing left, no place is left either, and nobody needs to be told.
    datacenters.chain(nodes).filter(move |(_, lost)| lost.len() < count)
}

/// A first look at losses, which tells of most that they leave nothing short. As many of the largest instances as fit on the nodes that any
/// of them may go to find a place there, whoever comes first: each takes the room of one at most.
struct Slack {
    /// Instances that would have to go elsewhere, by node.
    going: BTreeMap<NodeId, u64>,
    /// For each thing that is asked of nodes: how many of the largest fit, by node, and in all.
    fitting: Vec<(BTreeMap<NodeId, u64>, u64)>,
}

impl Slack {
    fn new(then: &Layout<'_>) -> Self {
        let mut going: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut taken: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
        let mut largest = (1, 1);
        let mut known: BTreeMap<&ServiceRef, Option<&RegionalService>> = BTreeMap::new();
        for one in &then.placements {
            let Resources { cpu, memory, .. } = one.spec.resources;
            let sum = taken.entry(one.node).or_default();
            *sum = (sum.0.saturating_add(cpu.0.into()), sum.1.saturating_add(memory.0));
            let wanted = *known.entry(&one.service).or_insert_with(|| then.wanted(&one.service));
            if let Some(wanted) =
                wanted.filter(|wanted| is_replaced(&(one, wanted)) && one.desired == Desired::Run && one.hook.is_none())
            {
                *going.entry(one.node).or_default() += 1;
                let Resources { cpu, memory, .. } = wanted.spec.resources;
                largest = (largest.0.max(cpu.0.into()), largest.1.max(memory.0));
            }
        }
        let views: Vec<_> = then.state.nodes.values().map(|node| node_view(then.state, node)).collect();
        let open: Vec<_> = views.iter().filter(|node| node.health.is_up() && !node.is_cordoned).collect();
        let fits = |node: &NodeView<'_>| {
            let (room, taken) = (node.capacity.allocatable(), taken.get(&node.id).copied().unwrap_or_default());
            let of_cpu = u64::from(room.cpu.0).saturating_sub(taken.0) / largest.0;
            of_cpu.min(room.memory.0.saturating_sub(taken.1) / largest.1)
        };
        let asked: BTreeSet<_> = known
            .into_values()
            .flatten()
            .map(|wanted| (wanted.spec.runtime.as_ref(), &wanted.spec.placement.require))
            .collect();
        let fitting = asked.into_iter().map(|(runtime, require)| {
            let placement = PlacementSpec { require: require.clone(), ..PlacementSpec::default() };
            let suit = open.iter().filter(|node| is_asked_for(node, runtime, &placement));
            let by_node: BTreeMap<NodeId, u64> = suit.map(|node| (node.id, fits(node))).collect();
            let all = by_node.values().sum();
            (by_node, all)
        });
        Self { going, fitting: fitting.collect() }
    }

    /// Whether all that runs on these nodes finds a place elsewhere for sure.
    fn is_enough_without(&self, lost: &BTreeSet<NodeId>) -> bool {
        let of = |by_node: &BTreeMap<NodeId, u64>| lost.iter().filter_map(|node| by_node.get(node)).sum::<u64>();
        let going = of(&self.going);
        self.fitting.iter().all(|(by_node, all)| all - of(by_node) >= going)
    }
}

/// What finds no place, of what could be elsewhere.
fn short(outcomes: Vec<Outcome<'_>>) -> BTreeMap<ServiceRef, Short> {
    let waits = outcomes.into_iter().filter(|outcome| outcome.placement.slot.is_none());
    let waits = waits.filter_map(|Outcome { placement, then }| match then {
        Then::Waits(why) => Some((placement.service.clone(), why, None)),
        Then::Gives { to, goes: None } => {
            Some((placement.service.clone(), format!("it would give its place to {to}"), Some(to)))
        }
        Then::Goes { .. } | Then::Takes { .. } | Then::Gives { .. } | Then::Ends => None,
    });
    count(waits)
}

fn count(short: impl Iterator<Item = (ServiceRef, String, Option<ServiceRef>)>) -> BTreeMap<ServiceRef, Short> {
    let mut counted: BTreeMap<ServiceRef, Short> = BTreeMap::new();
    for (service, why, gives_to) in short {
        let one = counted.entry(service).or_default();
        (one.count, one.why) = (one.count + 1, why);
        one.gives_to = gives_to.or(one.gives_to.take());
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
            Some(Err(why)) => unplaced.push((name.clone(), why.to_string(), None)),
            None => {}
        }
    }
    let mut unplaced = count(unplaced.into_iter());
    let others = state.placements.values().filter(|one| one.service.app != definition.app);
    let there = Layout { state, placements: others.chain(&placed).collect(), coming: Some(definition) };
    for (name, short) in unplaced.iter_mut().take(giving::looks(there.placements.len())) {
        short.held_by = there.held_by(name);
    }
    (placed, unplaced)
}

fn asked<'a>(instance: InstanceId, service: &'a ServiceRef, wanted: &'a RegionalService) -> Wanted<'a> {
    Wanted {
        instance,
        service,
        resources: wanted.spec.resources,
        bound_to: None,
        runtime: wanted.spec.runtime.as_ref(),
        placement: &wanted.spec.placement,
        priority: wanted.priority,
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
        let mut others = self.give_way(lost, &moving, &decisions);
        let mut then =
            |placement: &Placement| match (others.remove(&placement.instance), decisions.remove(&placement.instance)) {
                (Some(Settled { to: Some(to), from, .. }), _) if from.is_empty() => {
                    Then::Goes { to, reasons: vec!["there is room once others have given their places".to_owned()] }
                }
                (Some(Settled { to: Some(to), from, .. }), _) => Then::Takes { to, from },
                (_, Some(Ok(choice))) => Then::Goes { to: choice.node, reasons: choice.reasons },
                (_, Some(Err(why))) => Then::Waits(why.to_string()),
                (_, None) if placement.slot.is_some() => {
                    Then::Waits("its volumes are on the node that is lost".to_owned())
                }
                (_, None) => Then::Ends,
            };
        let mut outcomes: Vec<Outcome<'a>> = hit
            .into_iter()
            .map(|placement| Outcome { placement: Cow::Borrowed(placement), then: then(placement) })
            .collect();
        let gives = others.into_values().filter_map(|Settled { placement, to: goes, gave_to, .. }| {
            Some(Outcome { placement, then: Then::Gives { to: gave_to?, goes } })
        });
        outcomes.extend(gives);
        outcomes
    }

    /// What becomes of those that found no place, and of those that give way to them.
    fn give_way(
        &self,
        lost: &BTreeSet<NodeId>,
        moving: &[(&'a Placement, &RegionalService)],
        decisions: &BTreeMap<InstanceId, Result<Choice, PlaceError>>,
    ) -> BTreeMap<InstanceId, Settled<'a>> {
        let find = |one: &Placement| decisions.get(&one.instance).and_then(|decided| decided.as_ref().ok());
        let failed: Vec<&'a Placement> = moving.iter().map(|(one, _)| *one).filter(|one| find(one).is_none()).collect();
        if failed.is_empty() {
            return BTreeMap::new();
        }
        let placed = moving.iter().filter_map(|(one, wanted)| {
            let (node, spec) = (find(one)?.node, wanted.spec.clone());
            Some(Placement { node, spec, ..(*one).clone() })
        });
        let settled = self.giving(lost).settle(failed, placed);
        settled.into_iter().map(|one| (one.placement.instance, one)).collect()
    }

    fn giving<'l>(&'l self, lost: &'l BTreeSet<NodeId>) -> giving::Layout<'l, 'a> {
        giving::Layout::new(self.state, self.placements.iter().copied(), lost, Box::new(|service| self.wanted(service)))
    }

    /// Services of lower priority whose room one that finds none could use.
    fn held_by(&self, service: &ServiceRef) -> BTreeSet<ServiceRef> {
        let none = BTreeSet::new();
        let giving =
            self.wanted(service).and_then(|one| self.giving(&none).make_room(service, &one.spec, one.priority));
        let instances = giving.map(|giving| giving.instances).unwrap_or_default();
        let held = self.placements.iter().filter(|one| instances.contains(&one.instance));
        held.map(|one| one.service.clone()).collect()
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
            NodeView { health: health(&view.id, view.health), ..view }
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
