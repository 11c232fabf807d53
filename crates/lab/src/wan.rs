//! The wide-area network between regions: how long a packet is under way from one to another, and whether it gets there. Pure; the
//! process that moves the packets is in [`crate::init`].
//!
//! Each direction between two regions is a way of its own. A rate takes its time first, with a bounded queue before it, then comes
//! the delay. Packets of one way keep their order, whatever the jitter.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use insula_env::Rng;
use serde::{Deserialize, Serialize};

/// Longest queue before a rate: what would wait longer is lost, as in a router whose buffer is full.
const QUEUE_MAX: Duration = Duration::from_millis(500);
/// Bytes under way at most, on all ways together: what comes then is lost.
const BYTES_MAX: usize = 256 << 20;
/// Parts of a loss.
pub(crate) const MILLION: u32 = 1_000_000;

/// What a way does to what it carries. Nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// How long a packet is under way.
    pub delay: Duration,
    /// It may be up to so much longer.
    pub jitter: Duration,
    /// Packets of a million that are lost.
    pub loss_ppm: u32,
    /// Bits per second at most.
    pub rate: Option<u64>,
}

/// From one region to another, by their numbers: the third bytes of their addresses.
pub(crate) type Way = (u8, u8);

/// What is under way.
pub(crate) struct Wan {
    ways: BTreeMap<Way, Traffic>,
    waiting: BinaryHeap<Reverse<Packet>>,
    /// Packets taken so far.
    count: u64,
    /// Bytes that wait.
    bytes: usize,
    rng: Rng,
}

#[derive(Default)]
struct Traffic {
    shape: Shape,
    /// When the last packet is sent as far as the rate lets it.
    free_at: Duration,
    /// When the last packet arrives.
    last_due: Duration,
}

/// Ordered by when it arrives, then by when it came.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    due: Duration,
    number: u64,
    bytes: Vec<u8>,
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This packet arrives now.
    Packet(Vec<u8>),
    /// Nothing before this time.
    At(Duration),
    /// Nothing before another packet comes.
    Idle,
}

impl Wan {
    pub fn new(rng: Rng) -> Self {
        Self { ways: BTreeMap::new(), waiting: BinaryHeap::new(), count: 0, bytes: 0, rng }
    }

    /// Shapes ways; what is under way arrives as it would have. Those that are not named carry everything at once.
    pub fn shape(&mut self, shapes: impl IntoIterator<Item = (Way, Shape)>) {
        self.ways.values_mut().for_each(|traffic| traffic.shape = Shape::default());
        for (way, shape) in shapes {
            self.ways.entry(way).or_default().shape = shape;
        }
    }

    /// Takes an IP packet on its way, at a time since the start; or loses it.
    pub fn take(&mut self, now: Duration, packet: &[u8]) {
        let Some(way) = way_of(packet) else { return };
        let Traffic { shape, free_at, last_due } = self.ways.entry(way).or_default();
        let is_lost = self.rng.range(0, MILLION.into()) < shape.loss_ppm.into();
        if is_lost || self.bytes + packet.len() > BYTES_MAX {
            return;
        }
        let mut sent = now;
        if let Some(rate) = shape.rate {
            let begin = now.max(*free_at);
            if begin - now > QUEUE_MAX {
                return;
            }
            sent = begin + Duration::from_secs_f64(packet.len() as f64 * 8.0 / rate.max(1) as f64);
            *free_at = sent;
        }
        let jitter = Duration::from_nanos(self.rng.range(0, shape.jitter.as_nanos() as u64));
        let due = (sent + shape.delay + jitter).max(*last_due);
        *last_due = due;
        self.count += 1;
        self.bytes += packet.len();
        self.waiting.push(Reverse(Packet { due, number: self.count, bytes: packet.to_vec() }));
    }

    /// What arrives by `now`, one by one.
    pub fn next(&mut self, now: Duration) -> Next {
        match self.waiting.peek() {
            None => Next::Idle,
            Some(Reverse(first)) if first.due > now => Next::At(first.due),
            Some(_) => self.waiting.pop().map_or(Next::Idle, |Reverse(packet)| {
                self.bytes -= packet.bytes.len();
                Next::Packet(packet.bytes)
            }),
        }
    }
}

/// Of an IPv4 packet (RFC 791, section 3.1) between addresses of regions.
fn way_of(packet: &[u8]) -> Option<Way> {
    let addresses = packet.get(12..20).filter(|_| packet[0] >> 4 == 4)?;
    Some((addresses[2], addresses[6]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn packet(from: u8, to: u8, mark: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![0; len.max(21)];
        packet[0] = 0x45;
        packet[12..20].copy_from_slice(&[10, 200, from, 11, 10, 200, to, 11]);
        packet[20] = mark;
        packet
    }

    fn wan(shapes: impl IntoIterator<Item = (Way, Shape)>) -> Wan {
        let mut wan = Wan::new(Rng::from_seed(7));
        wan.shape(shapes);
        wan
    }

    /// Marks of what has arrived by then.
    fn arrived(wan: &mut Wan, now: Duration) -> Vec<u8> {
        let mut marks = Vec::new();
        while let Next::Packet(packet) = wan.next(now) {
            marks.push(packet[20]);
        }
        marks
    }

    #[test]
    fn each_direction_has_its_delay() {
        let mut wan = wan([((1, 2), Shape { delay: 45 * MS, ..Shape::default() })]);
        wan.take(Duration::ZERO, &packet(1, 2, 1, 0));
        wan.take(Duration::ZERO, &packet(2, 1, 2, 0));
        assert_eq!(arrived(&mut wan, Duration::ZERO), [2]);
        assert_eq!(wan.next(44 * MS), Next::At(45 * MS));
        assert_eq!(arrived(&mut wan, 45 * MS), [1]);
        assert_eq!(wan.next(45 * MS), Next::Idle);
        wan.take(50 * MS, b"no packet");
        wan.take(50 * MS, &[0x60; 40]);
        assert_eq!(wan.next(50 * MS), Next::Idle);
    }

    #[test]
    fn jitter_does_not_change_the_order() {
        let mut wan = wan([((1, 2), Shape { delay: MS, jitter: 20 * MS, ..Shape::default() })]);
        (0..100).for_each(|mark| wan.take(u32::from(mark) * MS, &packet(1, 2, mark, 0)));
        let mut all = arrived(&mut wan, 10 * MS);
        assert!(all.len() < 10, "{all:?}");
        all.extend(arrived(&mut wan, 200 * MS));
        assert_eq!(all, (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn a_rate_takes_its_time_and_its_queue_is_bounded() {
        // 1,000 bytes take 1 ms.
        let mut wan = wan([((1, 2), Shape { delay: 10 * MS, rate: Some(8_000_000), ..Shape::default() })]);
        for _ in 0..1000 {
            wan.take(Duration::ZERO, &packet(1, 2, 1, 1000));
        }
        assert_eq!(arrived(&mut wan, 10 * MS).len(), 0);
        assert_eq!(arrived(&mut wan, 60 * MS).len(), 50);
        assert_eq!(
            arrived(&mut wan, Duration::from_secs(60)).len(),
            451,
            "half a second of queue, and the one that was sent"
        );
        assert_eq!(wan.bytes, 0);
    }

    #[test]
    fn as_many_are_lost_as_is_said() {
        let mut wan = wan([((1, 2), Shape { loss_ppm: 200_000, ..Shape::default() })]);
        (0..10_000).for_each(|_| wan.take(Duration::ZERO, &packet(1, 2, 1, 0)));
        let arrived = arrived(&mut wan, MS).len();
        assert!((7700..8300).contains(&arrived), "{arrived}");
    }

    #[test]
    fn what_is_not_named_any_more_carries_everything() {
        let mut wan = wan([((1, 2), Shape { loss_ppm: MILLION, ..Shape::default() })]);
        wan.take(Duration::ZERO, &packet(1, 2, 1, 0));
        wan.shape([]);
        wan.take(MS, &packet(1, 2, 2, 0));
        assert_eq!(arrived(&mut wan, MS), [2]);
    }
}
