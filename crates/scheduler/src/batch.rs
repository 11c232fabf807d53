//! Places the wanted instances of one service and size, one after the other.
//!
//! While a batch runs, only the batch itself takes room. So the nodes that it has not touched keep the index's order,
//! which is read once from front to back; the nodes that run the service wait in a heap. A node that does not fit once
//! will not fit later in the same batch, and is dropped. That is what keeps a placement at O(log nodes).

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use insula_types::{ByteSize, Capacity, CpuMillis, DatacenterName, RuntimeName, ServiceRef};

use crate::{
    Choice, PlaceError, Tightest,
    index::{FreeOrder, Index, Spread},
};

/// A node that could take the next instance; the least one is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    instances: u32,
    share_ppm: Reverse<u32>,
    room: usize,
}

/// A data centre that could take the next instance; the least one is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Offer {
    instances: u32,
    best: Candidate,
    datacenter: usize,
}

/// The nodes of one data centre during a batch.
#[derive(Debug, Default)]
struct Queue {
    /// Last untouched node that was looked at; those before it are touched or full.
    looked_at: Option<(Reverse<u32>, usize)>,
    /// Nodes that run the service.
    touched: BinaryHeap<Reverse<Candidate>>,
}

pub(crate) struct Batch<'b, 'a> {
    index: &'b mut Index<'a>,
    service: &'a ServiceRef,
    need: Capacity,
    runtime: Option<&'a RuntimeName>,
    spread: Spread,
    queues: Vec<Queue>,
    offers: BinaryHeap<Reverse<Offer>>,
    full: BTreeSet<&'a DatacenterName>,
    changed: BTreeSet<usize>,
    /// The answer to all further instances, once there is no room for one.
    refusal: Option<PlaceError>,
}

impl<'b, 'a> Batch<'b, 'a> {
    pub fn new(
        index: &'b mut Index<'a>,
        service: &'a ServiceRef,
        need: Capacity,
        runtime: Option<&'a RuntimeName>,
    ) -> Self {
        let spread = index.spreads.remove(service).unwrap_or_default();
        let mut queues: Vec<Queue> = index.datacenters.iter().map(|_| Queue::default()).collect();
        for (&room, &instances) in &spread.by_room {
            let at = &index.rooms[room];
            let candidate = Candidate { instances, share_ppm: Reverse(at.share_ppm), room };
            queues[at.datacenter].touched.push(Reverse(candidate));
        }
        let (offers, full, changed) = Default::default();
        let mut batch = Self { index, service, need, runtime, spread, queues, offers, full, changed, refusal: None };
        for datacenter in 0..batch.queues.len() {
            batch.offer(datacenter);
        }
        batch
    }

    /// Places one instance.
    pub fn place(&mut self) -> Result<Choice, PlaceError> {
        let Some(Reverse(offer)) = self.offers.pop() else {
            return Err(self
                .refusal
                .get_or_insert_with(|| refuse(self.index, self.service, self.need, self.runtime))
                .clone());
        };
        let Offer { datacenter, best, .. } = offer;
        let choice = Choice { node: self.index.rooms[best.room].id, reasons: self.explain(&offer) };

        *self.spread.by_datacenter.entry(datacenter).or_default() += 1;
        *self.spread.by_room.entry(best.room).or_default() += 1;
        self.changed.insert(best.room);
        let room = &mut self.index.rooms[best.room];
        room.take(self.need);
        let share_ppm = Reverse(room.share_now_ppm());
        let again = Candidate { instances: best.instances + 1, share_ppm, room: best.room };
        self.queues[datacenter].touched.push(Reverse(again));
        self.offer(datacenter);
        Ok(choice)
    }

    /// Gives the room that was taken back to the index's order, for the batches that follow.
    pub fn finish(self) {
        for room in self.changed {
            self.index.reorder(room);
        }
        // Another batch may hold the same service in another size.
        self.index.spreads.insert(self.service, self.spread);
    }

    /// Takes the best node out of a data centre's queue and enters it for the next choice.
    fn offer(&mut self, datacenter: usize) {
        let (name, order) = &self.index.datacenters[datacenter];
        let rooms = &self.index.rooms;
        let queue = &mut self.queues[datacenter];
        let fits = |room: usize| rooms[room].fits(self.need) && rooms[room].has(self.runtime);
        let by_room = &self.spread.by_room;
        let untouched = |room: usize| fits(room) && !by_room.contains_key(&room);
        let best = next_untouched(order, &mut queue.looked_at, untouched).or_else(|| {
            std::iter::from_fn(|| queue.touched.pop()).map(|Reverse(next)| next).find(|next| fits(next.room))
        });
        match best {
            Some(best) => {
                let instances = self.spread.by_datacenter.get(&datacenter).copied().unwrap_or(0);
                self.offers.push(Reverse(Offer { instances, best, datacenter }));
            }
            None => {
                self.full.insert(name);
            }
        }
    }

    fn explain(&self, offer: &Offer) -> Vec<String> {
        let service = self.service;
        let datacenter = self.index.datacenters[offer.datacenter].0;
        let choices = self.offers.len() + 1;
        let free_percent = offer.best.share_ppm.0 / 10_000;
        let mut reasons = vec![
            match choices {
                1 => format!("datacenter {datacenter} is the only one with room"),
                _ => format!(
                    "datacenter {datacenter} has {} of {service}, the fewest of {choices} with room",
                    offer.instances
                ),
            },
            format!(
                "the node has {} of {service}, the fewest there, and the most free of these: {free_percent} %",
                offer.best.instances
            ),
        ];
        if let Some(class) = self.runtime {
            reasons.push(format!("the node has the runtime {class}"));
        }
        if !self.full.is_empty() {
            let full: Vec<&str> = self.full.iter().map(|name| name.as_str()).collect();
            reasons.push(format!("no room in {}", full.join(", ")));
        }
        reasons
    }
}

/// The next node in the index's order that `is_wanted`, never one that was looked at before.
fn next_untouched(
    order: &FreeOrder,
    looked_at: &mut Option<(Reverse<u32>, usize)>,
    is_wanted: impl Fn(usize) -> bool,
) -> Option<Candidate> {
    use std::ops::Bound::{Excluded, Unbounded};
    let rest = order.range((looked_at.map_or(Unbounded, Excluded), Unbounded));
    for &(share_ppm, room) in rest {
        *looked_at = Some((share_ppm, room));
        if is_wanted(room) {
            return Some(Candidate { instances: 0, share_ppm, room });
        }
    }
    None
}

/// Says why nothing fits: the resource that lacks on most nodes, by what it lacks on the nearest of them.
fn refuse(index: &Index<'_>, service: &ServiceRef, need: Capacity, runtime: Option<&RuntimeName>) -> PlaceError {
    let service = service.clone();
    if index.rooms.is_empty() {
        return PlaceError::NoNode { service, nodes: index.nodes, down: index.down, cordoned: index.cordoned };
    }
    let rooms: Vec<_> = index.rooms.iter().filter(|room| room.has(runtime)).collect();
    if let Some(class) = runtime.filter(|_| rooms.is_empty()) {
        return PlaceError::NoRuntime { service, runtime: class.clone(), nodes: index.rooms.len() };
    }
    let short = |lacks: &dyn Fn(&Capacity) -> u64| {
        let lacking: Vec<u64> = rooms.iter().map(|room| lacks(&room.free)).filter(|lack| *lack > 0).collect();
        (lacking.len(), lacking.into_iter().min().unwrap_or(0))
    };
    let (cpu_nodes, cpu) = short(&|free| need.cpu.0.saturating_sub(free.cpu.0).into());
    let (memory_nodes, memory) = short(&|free| need.memory.0.saturating_sub(free.memory.0));
    let tightest = if cpu_nodes > memory_nodes {
        Tightest::Cpu(CpuMillis(u32::try_from(cpu).unwrap_or(u32::MAX)))
    } else {
        Tightest::Memory(ByteSize(memory))
    };
    PlaceError::NoCapacity { service, nodes: rooms.len(), tightest }
}
