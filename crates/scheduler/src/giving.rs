//! Who would have to go so that one instance finds a place: of the least important as few as will do.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use insula_types::{Capacity, InstanceId, NodeId, Priority, Resources, ServiceRef};

use crate::{
    Snapshot, Wanted,
    filter::Filter,
    index::{Index, need},
};

/// An instance that may give its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder<'a> {
    /// The instance.
    pub instance: InstanceId,
    /// Where it is. The snapshot counts it as taken there.
    pub node: NodeId,
    /// What it is an instance of.
    pub service: &'a ServiceRef,
    /// What it has taken.
    pub resources: Resources,
    /// How important it is.
    pub priority: Priority,
    /// Whether it serves.
    pub is_ready: bool,
}

/// How many instances a service may give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spare {
    /// In all.
    pub all: usize,
    /// Of those that are ready.
    pub ready: usize,
}

/// A place that would be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Giving {
    /// The node.
    pub node: NodeId,
    /// What would go there, in order of id.
    pub instances: BTreeSet<InstanceId>,
}

/// Which instances make room for one that finds none: those whose most important is least important, then the fewest, then those on the node
/// that is best for its spread. Only what is clearly less important goes, and of a service no more than it can spare; none: that would not do, or it is bound
/// to a node, or there is room already. `spare` of a service that is not named is none.
pub fn make_room<'a>(
    snapshot: &Snapshot<'a>,
    wanted: &Wanted<'a>,
    holders: &[Holder<'a>],
    spare: &BTreeMap<&'a ServiceRef, Spare>,
) -> Option<Giving> {
    if wanted.bound_to.is_some() {
        return None;
    }
    let mut by_node: BTreeMap<NodeId, Vec<&Holder<'a>>> = BTreeMap::new();
    for one in holders.iter().filter(|one| wanted.priority.is_clearly_above(one.priority)) {
        by_node.entry(one.node).or_default().push(one);
    }
    if by_node.is_empty() {
        return None;
    }
    let index = Index::new(snapshot, std::slice::from_ref(wanted));
    let filter = Filter::of(wanted);
    if index.rooms.iter().any(|room| filter.admits(room)) {
        return None;
    }
    // More may be taken than there is, on a node that has become smaller.
    let mut taken: BTreeMap<NodeId, Sum> = BTreeMap::new();
    for one in snapshot.taken.iter().filter(|one| by_node.contains_key(&one.node)) {
        taken.entry(one.node).or_default().add(need(&one.resources));
    }
    let grouping = index.groupings.get(index.grouping_of(&wanted.placement.spread))?;
    let spread = index.spreads.get(wanted.service);
    let mut in_group: BTreeMap<usize, u32> = BTreeMap::new();
    for (room, count) in spread.into_iter().flatten() {
        *in_group.entry(grouping.of_room[*room]).or_default() += count;
    }
    let rooms = index.rooms.iter().enumerate().filter(|(_, room)| room.is_open && filter.asks_for(room));
    let ways = rooms.filter_map(|(at, room)| {
        let (holders, taken) = (by_node.remove(&room.id)?, taken.get(&room.id).copied().unwrap_or_default());
        let lacks = taken.lacking(room.total(), filter.need);
        let chosen = choose(holders, lacks, spare)?;
        let highest = chosen.iter().map(|one| one.priority).max()?;
        let on_node = spread.and_then(|spread| spread.get(&at)).copied().unwrap_or_default();
        let in_group = in_group.get(&grouping.of_room[at]).copied().unwrap_or_default();
        let rank = (highest, chosen.len(), in_group, on_node, filter.missed(room), room.id);
        Some((rank, Giving { node: room.id, instances: chosen.into_iter().map(|one| one.instance).collect() }))
    });
    ways.min_by_key(|(rank, _)| *rank).map(|(_, giving)| giving)
}

/// The least important first, until as much is free as lacks; then those are let off that are not needed, the most important first.
fn choose<'h, 'a>(
    mut holders: Vec<&'h Holder<'a>>,
    lacks: Sum,
    spare: &BTreeMap<&'a ServiceRef, Spare>,
) -> Option<Vec<&'h Holder<'a>>> {
    holders.sort_by_key(|one| {
        let size = (Reverse(one.resources.memory), Reverse(one.resources.cpu));
        (one.priority, one.is_ready, size, one.instance)
    });
    let mut given: BTreeMap<&ServiceRef, Spare> = BTreeMap::new();
    let (mut chosen, mut freed) = (Vec::new(), Sum::default());
    for one in holders {
        if freed.covers(lacks) {
            break;
        }
        let (least, given) =
            (spare.get(one.service).copied().unwrap_or_default(), given.entry(one.service).or_default());
        if given.all >= least.all || one.is_ready && given.ready >= least.ready {
            continue;
        }
        given.all += 1;
        given.ready += usize::from(one.is_ready);
        freed.add(need(&one.resources));
        chosen.push(one);
    }
    if !freed.covers(lacks) {
        return None;
    }
    for at in (0..chosen.len()).rev() {
        let rest = freed.without(need(&chosen[at].resources));
        if rest.covers(lacks) {
            freed = rest;
            chosen.remove(at);
        }
    }
    Some(chosen)
}

/// CPU time and memory, of any number of instances.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    cpu: u64,
    memory: u64,
}

impl Sum {
    fn add(&mut self, one: Capacity) {
        self.cpu = self.cpu.saturating_add(one.cpu.0.into());
        self.memory = self.memory.saturating_add(one.memory.0);
    }

    fn without(self, one: Capacity) -> Self {
        let Self { cpu, memory } = self;
        Self { cpu: cpu.saturating_sub(one.cpu.0.into()), memory: memory.saturating_sub(one.memory.0) }
    }

    fn covers(self, lacks: Self) -> bool {
        self.cpu >= lacks.cpu && self.memory >= lacks.memory
    }

    /// What is too little of `total` for one more, where so much is taken.
    fn lacking(mut self, total: Capacity, more: Capacity) -> Self {
        self.add(more);
        self.without(total)
    }
}
