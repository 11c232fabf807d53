//! What this node knows of the ways to its peers: when it last heard from whom, and how long answers take. The leader's
//! check that it still has a majority, and the measurements that the timers follow.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use insula_env::clock::Instant;
use parking_lot::Mutex;

/// Round trips kept of each peer.
const ROUND_TRIPS_MAX: usize = 512;
/// Fewer say nothing about the slowest in a hundred.
const ROUND_TRIPS_MIN: usize = 50;
/// Patience with a peer follows the slowest of so many of its latest answers.
const LATEST: usize = 64;
/// A peer that misses more appends in a row is away, not slow.
const SILENCES_MAX: u32 = 3;
/// Longest that one append may take, however slow the way.
const PATIENCE_MAX: Duration = Duration::from_secs(3);

/// Peers that answered. Shared by all that send.
#[derive(Debug, Default)]
pub(crate) struct Contacts {
    peers: Mutex<BTreeMap<u64, Peer>>,
    /// Whether this node, though it leads, keeps silent (see [`Contacts::mute`]).
    is_mute: AtomicBool,
}

#[derive(Debug, Default)]
struct Peer {
    /// When the last message was sent that it answered.
    heard: Option<Instant>,
    /// How long its latest answers to appends took.
    round_trips: VecDeque<Duration>,
    /// Appends since the last answer that got none, and how long they were waited for.
    silences: u32,
    waited: Duration,
}

impl Contacts {
    /// `peer` answered a message that was sent at `sent`.
    pub(crate) fn heard(&self, peer: u64, sent: Instant) {
        let mut peers = self.peers.lock();
        let peer = peers.entry(peer).or_default();
        peer.heard = peer.heard.max(Some(sent));
    }

    /// `peer` answered an append, its fsync included, after so long.
    pub(crate) fn appended(&self, peer: u64, took: Duration) {
        let mut peers = self.peers.lock();
        let peer = peers.entry(peer).or_default();
        let is_slow = peer.silences <= SILENCES_MAX;
        let took = if is_slow { took + peer.waited } else { took };
        (peer.silences, peer.waited) = (0, Duration::ZERO);
        if peer.round_trips.len() >= ROUND_TRIPS_MAX {
            peer.round_trips.pop_front();
        }
        peer.round_trips.push_back(took);
    }

    /// `peer` did not answer an append within `limit`.
    pub(crate) fn missed(&self, peer: u64, limit: Duration) {
        let mut peers = self.peers.lock();
        let peer = peers.entry(peer).or_default();
        peer.waited += limit;
        peer.silences = peer.silences.saturating_add(1);
    }

    /// How long an append to `peer` may take: twice as long after each that got no answer (as in RFC 6298, section 5),
    /// since a peer may be farther away than anybody has measured yet.
    pub(crate) fn patience(&self, peer: u64, heartbeat: Duration) -> Duration {
        let peers = self.peers.lock();
        let Some(peer) = peers.get(&peer) else { return heartbeat };
        let slowest = peer.round_trips.iter().rev().take(LATEST).max().copied().unwrap_or_default();
        let usual = heartbeat.max(slowest * 2);
        (usual * 2_u32.saturating_pow(peer.silences.min(8))).min(PATIENCE_MAX)
    }

    /// The 99th percentile of the round trips to the farthest of `peers` that was heard since `start`. None before
    /// there are enough of each.
    pub(crate) fn round_trip(&self, of: &BTreeSet<u64>, start: Instant) -> Option<Duration> {
        let peers = self.peers.lock();
        let alive = of.iter().filter_map(|id| peers.get(id)).filter(|peer| peer.heard >= Some(start));
        let each = alive.map(|peer| {
            let mut sorted: Vec<_> = peer.round_trips.iter().copied().collect();
            sorted.sort_unstable();
            sorted.get(sorted.len() * 99 / 100).copied().filter(|_| sorted.len() >= ROUND_TRIPS_MIN)
        });
        each.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// Forgets what was measured: a new leader's appends go other ways.
    pub(crate) fn forget_round_trips(&self) {
        for peer in self.peers.lock().values_mut() {
            peer.round_trips.clear();
        }
    }

    /// The latest moment by which a majority of each set of voters had answered. Counted from `start` at the
    /// earliest: a new leader has not been able to hear anything yet. `now` when this node is a majority alone.
    pub(crate) fn quorum(&self, me: u64, voters: &[BTreeSet<u64>], start: Instant, now: Instant) -> Instant {
        let peers = self.peers.lock();
        let heard = |id: &u64| peers.get(id).and_then(|peer| peer.heard).unwrap_or(start).max(start);
        let of_set = |set: &BTreeSet<u64>| {
            let mut times: Vec<Instant> = set.iter().map(|id| if *id == me { now } else { heard(id) }).collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            times.get(times.len() / 2).copied().unwrap_or(now)
        };
        voters.iter().map(of_set).min().unwrap_or(now)
    }

    /// A leader that no majority answers stops sending (rule R17): a link that works one way only would otherwise
    /// keep its followers waiting for ever. It goes on asking whether anybody is there.
    pub(crate) fn mute(&self, is_mute: bool) -> bool {
        self.is_mute.swap(is_mute, Ordering::Relaxed) != is_mute
    }

    pub(crate) fn is_mute(&self) -> bool {
        self.is_mute.load(Ordering::Relaxed)
    }
}

/// Whether `granted` holds a majority of each set.
pub(crate) fn is_quorum(voters: &[BTreeSet<u64>], granted: &BTreeSet<u64>) -> bool {
    voters.iter().all(|set| set.intersection(granted).count() > set.len() / 2)
}

/// How long ago `then` was.
pub(crate) fn age(now: Instant, then: Instant) -> Duration {
    now.saturating_duration_since(then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_as_fresh_as_its_slowest_member() {
        let contacts = Contacts::default();
        let start = insula_env::Clock::real().now();
        let at = |ms| start + Duration::from_millis(ms);
        let three = [BTreeSet::from([1, 2, 3])];
        assert_eq!(contacts.quorum(1, &three, start, at(9)), start);
        contacts.heard(2, at(5));
        contacts.heard(2, at(4));
        assert_eq!(contacts.quorum(1, &three, start, at(9)), at(5));
        assert_eq!(contacts.quorum(1, &[BTreeSet::from([1])], start, at(9)), at(9));
        let joint = [BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 3, 4])];
        assert_eq!(contacts.quorum(1, &joint, start, at(9)), start, "both sets count");
        assert!(is_quorum(&three, &BTreeSet::from([1, 3])));
        assert!(!is_quorum(&joint, &BTreeSet::from([1, 2])));
        assert!(!is_quorum(&[BTreeSet::from([1, 2])], &BTreeSet::from([1])));
    }

    #[test]
    fn patience_grows_with_silence_and_with_distance() {
        let ms = Duration::from_millis;
        let contacts = Contacts::default();
        assert_eq!(contacts.patience(2, ms(100)), ms(100));
        contacts.missed(2, ms(100));
        contacts.missed(2, ms(200));
        assert_eq!(contacts.patience(2, ms(100)), ms(400));
        contacts.appended(2, ms(20));
        assert_eq!(contacts.patience(2, ms(100)), ms(640), "it was slow");
        (0..20).for_each(|_| contacts.missed(2, ms(640)));
        assert_eq!(contacts.patience(2, ms(100)), PATIENCE_MAX);
        (0..LATEST).for_each(|_| contacts.appended(2, ms(20)));
        assert_eq!(contacts.patience(2, ms(100)), ms(100), "it was away");
    }

    #[test]
    fn the_farthest_voter_that_answers_counts() {
        let (contacts, start) = (Contacts::default(), insula_env::Clock::real().now());
        let ms = Duration::from_millis;
        let others = BTreeSet::from([2, 3]);
        for _ in 0..100 {
            contacts.appended(2, ms(3));
            contacts.appended(3, ms(90));
        }
        contacts.heard(2, start);
        assert_eq!(contacts.round_trip(&others, start), Some(ms(3)), "the third is not heard");
        contacts.heard(3, start);
        contacts.appended(3, ms(120));
        assert_eq!(contacts.round_trip(&others, start), Some(ms(90)));
        contacts.appended(3, ms(130));
        assert_eq!(contacts.round_trip(&others, start), Some(ms(120)));
        contacts.forget_round_trips();
        assert_eq!(contacts.round_trip(&others, start), None);
    }
}
