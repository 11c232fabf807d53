//! Places the wanted instances of one service and size, one after the other.
//!
//! While a batch runs, only the batch itself takes room. So the nodes that it has not touched keep the index's order,
//! which is read once from front to back for each number of preferred labels that a node may lack; the nodes that run the
//! service wait in a heap. A node that does not fit once will not fit later in the same batch, and is dropped. That is what
//! keeps a placement at O(log nodes).

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use insula_types::ServiceRef;

use crate::{
    Choice, PlaceError,
    filter::Filter,
    index::{FreeOrder, Index, Spread},
};

/// A node that could take the next instance; the least one is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    instances: u32,
    /// Preferred labels that it lacks.
    missed: usize,
    share_ppm: Reverse<u32>,
    room: usize,
}

/// A group of nodes that could take the next instance; the least one is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Offer {
    instances: u32,
    best: Candidate,
    group: usize,
}

/// Where in an order the last node is that was looked at; those before it are touched, full, or not asked for.
type Cursor = Option<(Reverse<u32>, usize)>;

/// The nodes of one group during a batch.
#[derive(Debug, Default)]
struct Queue {
    /// Instances of the service in the group.
    instances: u32,
    /// Untouched nodes, by the number of preferred labels that they lack.
    cursors: Vec<Cursor>,
    /// Nodes that run the service.
    touched: BinaryHeap<Reverse<Candidate>>,
}

pub(crate) struct Batch<'b, 'a> {
    index: &'b mut Index<'a>,
    service: &'a ServiceRef,
    filter: Filter<'a>,
    /// Which grouping of the index.
    grouping: usize,
    spread: Spread,
    queues: Vec<Queue>,
    offers: BinaryHeap<Reverse<Offer>>,
    /// Groups that take no more.
    full: BTreeSet<usize>,
    changed: BTreeSet<usize>,
    /// The answer to all further instances, once there is no room for one.
    refusal: Option<PlaceError>,
}

impl<'b, 'a> Batch<'b, 'a> {
    pub fn new(index: &'b mut Index<'a>, service: &'a ServiceRef, filter: Filter<'a>) -> Self {
        let spread = index.spreads.remove(service).unwrap_or_default();
        let at = index.grouping_of(&filter.placement.spread);
        let grouping = &index.groupings[at];
        let cursors = vec![None; filter.placement.prefer.len() + 1];
        let queue = || Queue { cursors: cursors.clone(), ..Queue::default() };
        let mut queues: Vec<Queue> = grouping.groups.iter().map(|_| queue()).collect();
        for (&room, &instances) in &spread {
            let (at, queue) = (&index.rooms[room], &mut queues[grouping.of_room[room]]);
            queue.instances += instances;
            if at.is_open {
                let (missed, share_ppm) = (filter.missed(at), Reverse(at.share_ppm));
                queue.touched.push(Reverse(Candidate { instances, missed, share_ppm, room }));
            }
        }
        let (offers, full, changed) = Default::default();
        let mut batch =
            Self { index, service, filter, grouping: at, spread, queues, offers, full, changed, refusal: None };
        for group in 0..batch.queues.len() {
            batch.offer(group);
        }
        batch
    }

    /// Places one instance.
    pub fn place(&mut self) -> Result<Choice, PlaceError> {
        let Some(Reverse(offer)) = self.offers.pop() else {
            return Err(self.refusal.get_or_insert_with(|| self.filter.refuse(self.index, self.service)).clone());
        };
        let Offer { group, best, .. } = offer;
        let choice = Choice { node: self.index.rooms[best.room].id, reasons: self.explain(&offer) };

        *self.spread.entry(best.room).or_default() += 1;
        self.changed.insert(best.room);
        let room = &mut self.index.rooms[best.room];
        room.take(self.filter.need);
        let share_ppm = Reverse(room.share_now_ppm());
        let queue = &mut self.queues[group];
        queue.instances += 1;
        queue.touched.push(Reverse(Candidate { instances: best.instances + 1, share_ppm, ..best }));
        self.offer(group);
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

    /// Takes the best node out of a group's queue and enters it for the next choice.
    fn offer(&mut self, group: usize) {
        let order = &self.index.groupings[self.grouping].groups[group].order;
        let (rooms, filter, spread) = (&self.index.rooms, &self.filter, &self.spread);
        let queue = &mut self.queues[group];
        let untouched = queue.cursors.iter_mut().enumerate().find_map(|(missed, cursor)| {
            let is_next = |room: usize| {
                filter.admits(&rooms[room]) && !spread.contains_key(&room) && filter.missed(&rooms[room]) == missed
            };
            let (share_ppm, room) = next_untouched(order, cursor, is_next)?;
            Some(Candidate { instances: 0, missed, share_ppm, room })
        });
        let best = untouched.or_else(|| {
            let mut touched = std::iter::from_fn(|| queue.touched.pop()).map(|Reverse(next)| next);
            touched.find(|next| filter.admits(&rooms[next.room]))
        });
        match best {
            Some(best) => self.offers.push(Reverse(Offer { instances: queue.instances, best, group })),
            None => {
                self.full.insert(group);
            }
        }
    }

    fn explain(&self, offer: &Offer) -> Vec<String> {
        let service = self.service;
        let grouping = &self.index.groupings[self.grouping];
        let free_percent = offer.best.share_ppm.0 / 10_000;
        let among = if grouping.label.is_some() { " there" } else { "" };
        let mut reasons = Vec::new();
        if let Some(label) = grouping.label {
            let group = group_text(label.as_str(), grouping.groups[offer.group].value);
            reasons.push(match self.offers.len() + 1 {
                1 => format!("{group} is the only one with room"),
                choices => format!("{group} has {} of {service}, the fewest of {choices} with room", offer.instances),
            });
        }
        reasons.push(format!(
            "the node has {} of {service}, the fewest{among}, and the most free of these: {free_percent} %",
            offer.best.instances
        ));
        reasons.extend(self.filter.reasons(&self.index.rooms[offer.best.room]));
        if !self.full.is_empty() {
            let name = |group: &usize| grouping.groups[*group].value.unwrap_or("the rest");
            let full: Vec<&str> = self.full.iter().map(name).collect();
            let what = if self.filter.is_picky() { "nothing suitable" } else { "no room" };
            reasons.push(format!("{what} in {}", full.join(", ")));
        }
        reasons
    }
}

/// A group as a reason names it.
fn group_text(label: &str, value: Option<&str>) -> String {
    value.map_or_else(|| format!("the group without {label}"), |value| format!("{label} {value}"))
}

/// The next node in the index's order that `is_wanted`, never one that was looked at before.
fn next_untouched(
    order: &FreeOrder,
    looked_at: &mut Cursor,
    is_wanted: impl Fn(usize) -> bool,
) -> Option<(Reverse<u32>, usize)> {
    use std::ops::Bound::{Excluded, Unbounded};
    let rest = order.range((looked_at.map_or(Unbounded, Excluded), Unbounded));
    for &next in rest {
        *looked_at = Some(next);
        if is_wanted(next.1) {
            return Some(next);
        }
    }
    None
}
