//! The nodes that take new instances, ordered by what they have free, and who runs where already.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use insula_types::{ByteSize, Capacity, CpuMillis, DatacenterName, NodeId, Resources, RuntimeName, ServiceRef};

use crate::{Choice, PlaceError, Snapshot, Tightest, Wanted, WhyNot};

/// A whole, in parts per million.
const WHOLE_PPM: u64 = 1_000_000;

/// A node with room to give. Its place in [`Index::rooms`] orders like its id.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    pub id: NodeId,
    pub datacenter: usize,
    pub total: Capacity,
    pub free: Capacity,
    /// Free share of the scarcer resource, in parts per million, as the order of its data centre knows it.
    pub share_ppm: u32,
    /// Its runtime classes.
    pub runtimes: Option<&'a BTreeSet<RuntimeName>>,
}

impl Room<'_> {
    /// Whether it has a runtime class, if one is needed.
    pub fn has(&self, runtime: Option<&RuntimeName>) -> bool {
        runtime.is_none_or(|class| self.runtimes.is_some_and(|classes| classes.contains(class)))
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

/// Nodes of a data centre from the most free to the least.
pub(crate) type FreeOrder = BTreeSet<(Reverse<u32>, usize)>;

/// Where a service that has something to place runs already.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    /// Instances by data centre, on nodes that are up.
    pub by_datacenter: BTreeMap<usize, u32>,
    /// Instances by node, for those that take new ones.
    pub by_room: BTreeMap<usize, u32>,
}

fn need(resources: &Resources) -> Capacity {
    Capacity { cpu: resources.cpu, memory: resources.memory }
}

#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub rooms: Vec<Room<'a>>,
    pub datacenters: Vec<(&'a DatacenterName, FreeOrder)>,
    pub spreads: BTreeMap<&'a ServiceRef, Spread>,
    pub nodes: usize,
    pub down: usize,
    pub cordoned: usize,
    /// Nodes that are up and take nothing but what is bound to them.
    apart: BTreeMap<NodeId, Room<'a>>,
}

impl<'a> Index<'a> {
    /// Orders a snapshot. Spreads are counted only for `services`.
    pub fn new(snapshot: &Snapshot<'a>, services: &BTreeSet<&ServiceRef>) -> Self {
        let nodes: BTreeMap<NodeId, _> = snapshot.nodes.iter().map(|node| (node.id, node)).collect();
        let names: BTreeSet<&'a DatacenterName> = nodes.values().map(|node| node.datacenter).collect();
        let mut datacenters: Vec<_> = names.into_iter().map(|name| (name, FreeOrder::new())).collect();
        let datacenter_of = |name: &DatacenterName| datacenters.partition_point(|(known, _)| *known < name);

        let (mut rooms, mut apart) = (Vec::new(), BTreeMap::new());
        let mut room_of = BTreeMap::new();
        for node in nodes.values().filter(|node| node.health.is_up()) {
            let total = node.capacity.allocatable();
            let datacenter = datacenter_of(node.datacenter);
            let runtimes = node.runtimes;
            let room = Room { id: node.id, datacenter, total, free: total, share_ppm: 0, runtimes };
            if node.is_cordoned {
                apart.insert(node.id, room);
            } else {
                room_of.insert(node.id, rooms.len());
                rooms.push(room);
            }
        }

        let mut spreads: BTreeMap<&'a ServiceRef, Spread> = BTreeMap::new();
        for taken in &snapshot.taken {
            let room = room_of.get(&taken.node).copied();
            let room_taken = room.map(|room| &mut rooms[room]).or_else(|| apart.get_mut(&taken.node));
            if let Some(room) = room_taken {
                room.take(need(&taken.resources));
            }
            let Some(node) = nodes.get(&taken.node).filter(|node| node.health.is_up()) else { continue };
            if taken.is_staying && services.contains(taken.service) {
                let spread = spreads.entry(taken.service).or_default();
                *spread.by_datacenter.entry(datacenter_of(node.datacenter)).or_default() += 1;
                if let Some(room) = room {
                    *spread.by_room.entry(room).or_default() += 1;
                }
            }
        }

        for (at, room) in rooms.iter_mut().enumerate() {
            room.share_ppm = room.share_now_ppm();
            datacenters[room.datacenter].1.insert((Reverse(room.share_ppm), at));
        }
        let up = nodes.values().filter(|node| node.health.is_up()).count();
        let (nodes, down, cordoned) = (nodes.len(), nodes.len() - up, up - rooms.len());
        Self { rooms, datacenters, spreads, nodes, down, cordoned, apart }
    }

    /// Places an instance on the only node that it can go to.
    pub fn place_bound(&mut self, wanted: &Wanted<'a>, node: NodeId) -> Result<Choice, PlaceError> {
        let need = need(&wanted.resources);
        let refuse = |why| Err(PlaceError::Bound { service: wanted.service.clone(), why });
        let at = self.rooms.binary_search_by_key(&node, |room| room.id).ok();
        let Some(room) = at.map(|at| &mut self.rooms[at]).or_else(|| self.apart.get_mut(&node)) else {
            return refuse(WhyNot::Down);
        };
        if let Some(class) = wanted.runtime.filter(|_| !room.has(wanted.runtime)) {
            return refuse(WhyNot::NoRuntime(class.clone()));
        }
        if !room.fits(need) {
            let (cpu, memory) =
                (need.cpu.0.saturating_sub(room.free.cpu.0), need.memory.0.saturating_sub(room.free.memory.0));
            let tightest = if cpu > 0 { Tightest::Cpu(CpuMillis(cpu)) } else { Tightest::Memory(ByteSize(memory)) };
            return refuse(WhyNot::Full(tightest));
        }
        room.take(need);
        let datacenter = room.datacenter;
        let spread = self.spreads.entry(wanted.service).or_default();
        *spread.by_datacenter.entry(datacenter).or_default() += 1;
        if let Some(at) = at {
            *spread.by_room.entry(at).or_default() += 1;
            self.reorder(at);
        }
        Ok(Choice { node, reasons: vec!["its volumes are on this node".to_owned()] })
    }

    /// Puts a node whose free room changed in its right place.
    pub fn reorder(&mut self, at: usize) {
        let Some(room) = self.rooms.get_mut(at) else { return };
        let order = &mut self.datacenters[room.datacenter].1;
        order.remove(&(Reverse(room.share_ppm), at));
        room.share_ppm = room.share_now_ppm();
        order.insert((Reverse(room.share_ppm), at));
    }
}
