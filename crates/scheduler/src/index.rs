//! The nodes that are up, ordered by what they have free, and who runs where already.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use insula_types::{
    Capacity, DatacenterName, LabelName, LabelValue, Labels, NodeId, NodeName, Resources, RuntimeName, ServiceRef,
};

use crate::{Bound, Choice, NodeView, PlaceError, Snapshot, Wanted, WhyBound, WhyNot, filter::Filter};

/// A whole, in parts per million.
const WHOLE_PPM: u64 = 1_000_000;

/// A node that is up. Its place in [`Index::rooms`] orders like its id.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    pub id: NodeId,
    pub name: &'a NodeName,
    datacenter: &'a DatacenterName,
    labels: Option<&'a Labels>,
    runtimes: Option<&'a BTreeSet<RuntimeName>>,
    total: Capacity,
    pub free: Capacity,
    /// Free share of the scarcer resource, in parts per million, as the orders know it.
    pub share_ppm: u32,
    /// Takes more than what is bound to it.
    pub is_open: bool,
}

impl<'a> Room<'a> {
    pub fn new(node: &NodeView<'a>) -> Self {
        let total = node.capacity.allocatable();
        Self {
            id: node.id,
            name: node.name,
            datacenter: node.datacenter,
            labels: node.labels,
            runtimes: node.runtimes,
            total,
            free: total,
            share_ppm: 0,
            is_open: !node.is_cordoned,
        }
    }

    /// What may be given away of it.
    pub const fn total(&self) -> Capacity {
        self.total
    }

    /// Whether it has a runtime class, if one is needed.
    pub fn has(&self, runtime: Option<&RuntimeName>) -> bool {
        runtime.is_none_or(|class| self.runtimes.is_some_and(|classes| classes.contains(class)))
    }

    /// The value of a label.
    pub fn label(&self, name: &LabelName) -> Option<&'a str> {
        label_of(name, self.datacenter, self.name, self.labels)
    }

    /// Whether a label has that value.
    pub fn is_labelled(&self, name: &LabelName, value: &LabelValue) -> bool {
        self.label(name) == Some(value.as_str())
    }

    /// Whether `need` fits.
    pub fn fits(&self, need: Capacity) -> bool {
        self.free.cpu >= need.cpu && self.free.memory >= need.memory
    }

    /// Takes `need` away; nothing is left when more is taken than there is.
    pub fn take(&mut self, need: Capacity) {
        self.free.cpu.0 = self.free.cpu.0.saturating_sub(need.cpu.0);
        self.free.memory.0 = self.free.memory.0.saturating_sub(need.memory.0);
    }

    /// The free share of the scarcer resource now.
    pub fn share_now_ppm(&self) -> u32 {
        let share = |free: u64, total: u64| {
            let ppm = u128::from(free) * u128::from(WHOLE_PPM) / u128::from(total.max(1));
            ppm.min(u128::from(WHOLE_PPM)) as u32
        };
        let cpu = share(self.free.cpu.0.into(), self.total.cpu.0.into());
        cpu.min(share(self.free.memory.0, self.total.memory.0))
    }
}

/// The value of a node's label, those included that nodes have of themselves.
fn label_of<'a>(
    name: &LabelName,
    datacenter: &'a DatacenterName,
    node: &'a NodeName,
    labels: Option<&'a Labels>,
) -> Option<&'a str> {
    match name.as_str() {
        LabelName::DATACENTER => Some(datacenter.as_str()),
        LabelName::NODE => Some(node.as_str()),
        _ => labels?.get(name).map(LabelValue::as_str),
    }
}

/// Nodes from the most free to the least.
pub(crate) type FreeOrder = BTreeSet<(Reverse<u32>, usize)>;

/// Open nodes that have the same value of a label.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    /// The value; none: those without the label.
    pub value: Option<&'a str>,
    pub order: FreeOrder,
}

/// The nodes, grouped by the value of a label.
#[derive(Debug)]
pub(crate) struct Grouping<'a> {
    /// The label; none: all nodes are one group.
    pub label: Option<&'a LabelName>,
    pub groups: Vec<Group<'a>>,
    /// The group of each room.
    pub of_room: Vec<usize>,
}

impl<'a> Grouping<'a> {
    /// Groups of `nodes`, also of those that are down, in the order of the values; `rooms` are those that are up.
    fn new(label: Option<&'a LabelName>, nodes: &BTreeMap<NodeId, &NodeView<'a>>, rooms: &[Room<'a>]) -> Self {
        let value = |node: &NodeView<'a>| label_of(label?, node.datacenter, node.name, node.labels);
        let values: BTreeSet<Option<&'a str>> = nodes.values().map(|node| value(node)).collect();
        let mut groups: Vec<Group<'a>> =
            values.into_iter().map(|value| Group { value, order: FreeOrder::new() }).collect();
        let mut of_room = Vec::with_capacity(rooms.len());
        for (at, room) in rooms.iter().enumerate() {
            let value = label.and_then(|label| room.label(label));
            let group = groups.partition_point(|group| group.value < value);
            of_room.push(group);
            if room.is_open {
                groups[group].order.insert((Reverse(room.share_ppm), at));
            }
        }
        Self { label, groups, of_room }
    }
}

/// Instances of a service by room.
pub(crate) type Spread = BTreeMap<usize, u32>;

pub(crate) fn need(resources: &Resources) -> Capacity {
    Capacity { cpu: resources.cpu, memory: resources.memory }
}

#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub rooms: Vec<Room<'a>>,
    pub groupings: Vec<Grouping<'a>>,
    pub spreads: BTreeMap<&'a ServiceRef, Spread>,
    pub nodes: usize,
    pub down: usize,
    pub cordoned: usize,
}

impl<'a> Index<'a> {
    /// Orders a snapshot for what is wanted. Only the services of that are counted.
    pub fn new(snapshot: &Snapshot<'a>, wanted: &[Wanted<'a>]) -> Self {
        let nodes: BTreeMap<NodeId, &NodeView<'a>> = snapshot.nodes.iter().map(|node| (node.id, node)).collect();
        let up = nodes.values().filter(|node| node.health.is_up());
        let mut rooms: Vec<Room<'a>> = up.map(|node| Room::new(node)).collect();
        let mut spreads: BTreeMap<&'a ServiceRef, Spread> =
            wanted.iter().map(|one| (one.service, Spread::new())).collect();
        for taken in &snapshot.taken {
            let Ok(at) = rooms.binary_search_by_key(&taken.node, |room| room.id) else { continue };
            rooms[at].take(need(&taken.resources));
            if taken.is_staying
                && let Some(spread) = spreads.get_mut(taken.service)
            {
                *spread.entry(at).or_default() += 1;
            }
        }
        for room in &mut rooms {
            room.share_ppm = room.share_now_ppm();
        }
        let labels: BTreeSet<Option<&'a LabelName>> =
            wanted.iter().filter(|one| one.bound_to.is_none()).map(|one| grouped_by(&nodes, one)).collect();
        let groupings = labels.into_iter().map(|label| Grouping::new(label, &nodes, &rooms)).collect();
        let cordoned = rooms.iter().filter(|room| !room.is_open).count();
        let (nodes, down) = (nodes.len(), nodes.len() - rooms.len());
        Self { rooms, groupings, spreads, nodes, down, cordoned }
    }

    /// The grouping that a service is spread over.
    pub fn grouping_of(&self, label: &LabelName) -> usize {
        // What has none of its own is spread over the nodes alone.
        let named = self.groupings.iter().position(|grouping| grouping.label == Some(label));
        named.or_else(|| self.groupings.iter().position(|grouping| grouping.label.is_none())).unwrap_or(0)
    }

    /// Places an instance on the only node that it can go to.
    pub fn place_bound(&mut self, wanted: &Wanted<'a>, to: Bound) -> Result<Choice, PlaceError> {
        let refuse = |node: &dyn Display, why| {
            Err(PlaceError::Bound { service: wanted.service.clone(), to: bound_text(to, node), why })
        };
        let Ok(at) = self.rooms.binary_search_by_key(&to.node, |room| room.id) else {
            return refuse(&to.node, WhyNot::Down);
        };
        let filter = Filter::of(wanted);
        if let Some(why) = filter.why_not(&self.rooms[at]) {
            return refuse(self.rooms[at].name, why);
        }
        self.rooms[at].take(filter.need);
        *self.spreads.entry(wanted.service).or_default().entry(at).or_default() += 1;
        self.reorder(at);
        let why = match to.why {
            WhyBound::Volumes => "its volumes are on this node",
            WhyBound::EachNode => "each node has one that takes it, and this one needs one",
            WhyBound::Given => "services of lower priority gave their places here to it, since it had lost an instance",
        };
        let reasons = [why.to_owned()].into_iter().chain(filter.reasons(&self.rooms[at])).collect();
        Ok(Choice { node: to.node, reasons })
    }

    /// Puts a node whose free room changed in its right place.
    pub fn reorder(&mut self, at: usize) {
        let Some(room) = self.rooms.get_mut(at) else { return };
        let (before, now) = (room.share_ppm, room.share_now_ppm());
        room.share_ppm = now;
        if !room.is_open || before == now {
            return;
        }
        for grouping in &mut self.groupings {
            let order = &mut grouping.groups[grouping.of_room[at]].order;
            order.remove(&(Reverse(before), at));
            order.insert((Reverse(now), at));
        }
    }
}

/// Why there is no other node, as the middle of an error.
fn bound_text(to: Bound, node: &dyn Display) -> String {
    match to.why {
        WhyBound::Volumes => "its volumes are on one node".to_owned(),
        WhyBound::EachNode => format!("each node is to have one, {node} too"),
        WhyBound::Given => format!("services of lower priority give it their places on {node}"),
    }
}

/// The label whose values make the groups; none for what would be a group of one node each, or one of all: those are
/// spread over the nodes alone.
fn grouped_by<'a>(nodes: &BTreeMap<NodeId, &NodeView<'a>>, wanted: &Wanted<'a>) -> Option<&'a LabelName> {
    let label = &wanted.placement.spread;
    let is_known = |node: &&NodeView<'a>| node.labels.is_some_and(|labels| labels.contains_key(label));
    match label.as_str() {
        LabelName::NODE => None,
        LabelName::DATACENTER => Some(label),
        _ => nodes.values().any(is_known).then_some(label),
    }
}
