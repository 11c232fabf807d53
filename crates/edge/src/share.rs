//! Places that nobody can take all of: whoever holds some may hold at most as many as are left for all others.
//!
//! One holder alone gets half of the places, two get a third each, and there is always room for one more who comes. Known
//! from packet switches as dynamic thresholds (Choudhury and Hahne, 1998, with a factor of one).

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;

/// Places, by who holds them. Clones share them.
#[derive(Debug)]
pub(crate) struct Shares<K>(Arc<Mutex<Held<K>>>);

#[derive(Debug)]
struct Held<K> {
    places: usize,
    taken: usize,
    by: HashMap<K, usize>,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    /// So many places.
    pub(crate) fn new(places: usize) -> Self {
        Self(Arc::new(Mutex::new(Held { places, taken: 0, by: HashMap::new() })))
    }

    /// Takes a place until the share is dropped; none when `who` holds as many as are free.
    pub(crate) fn take(&self, who: &K) -> Option<Share<K>> {
        let mut held = self.0.lock();
        let own = held.by.get(who).copied().unwrap_or(0);
        if own + held.taken >= held.places {
            return None;
        }
        held.taken += 1;
        *held.by.entry(who.clone()).or_default() += 1;
        Some(Share { of: Self(Arc::clone(&self.0)), who: who.clone() })
    }
}

/// A place that is held.
#[derive(Debug)]
pub(crate) struct Share<K: Clone + Eq + Hash> {
    of: Shares<K>,
    who: K,
}

impl<K: Clone + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.of.0.lock();
        held.taken = held.taken.saturating_sub(1);
        if let Some(own) = held.by.get_mut(&self.who) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                held.by.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as `who` gets.
    fn all(shares: &Shares<&'static str>, who: &'static str) -> Vec<Share<&'static str>> {
        std::iter::from_fn(|| shares.take(&who)).collect()
    }

    #[test]
    fn there_is_always_room_for_others() {
        let shares = Shares::new(12);
        let first = all(&shares, "first");
        assert_eq!(first.len(), 6);
        let second = all(&shares, "second");
        assert_eq!(second.len(), 3);
        assert_eq!(all(&shares, "third").len(), 2, "and given back at once");
        assert!(shares.take(&"first").is_none());
        drop((first, second));
        assert_eq!(all(&shares, "second").len(), 6);
        assert_eq!(shares.0.lock().taken, 0);
        assert!(shares.0.lock().by.is_empty(), "who holds nothing is forgotten");
    }
}
