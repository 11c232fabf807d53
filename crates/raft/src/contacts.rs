//! When this node last heard from whom, and whether that makes a majority: the leader's check that it still has one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use insula_env::clock::Instant;
use parking_lot::Mutex;

/// Peers that answered. Shared by all that send.
#[derive(Debug, Default)]
pub(crate) struct Contacts {
    /// When the last message was sent that the peer answered.
    heard: Mutex<BTreeMap<u64, Instant>>,
    /// Whether this node, though it leads, keeps silent (see [`Contacts::mute`]).
    is_mute: AtomicBool,
}

impl Contacts {
    /// `peer` answered a message that was sent at `sent`.
    pub(crate) fn heard(&self, peer: u64, sent: Instant) {
        let mut heard = self.heard.lock();
        let last = heard.entry(peer).or_insert(sent);
        *last = (*last).max(sent);
    }

    /// The latest moment by which a majority of each set of voters had answered. Counted from `start` at the
    /// earliest: a new leader has not been able to hear anything yet. `now` when this node is a majority alone.
    pub(crate) fn quorum(&self, me: u64, voters: &[BTreeSet<u64>], start: Instant, now: Instant) -> Instant {
        let heard = self.heard.lock();
        let of_set = |set: &BTreeSet<u64>| {
            let mut times: Vec<Instant> = set
                .iter()
                .map(|peer| if *peer == me { now } else { heard.get(peer).copied().unwrap_or(start).max(start) })
                .collect();
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
}
