//! An ordered map that remembers which revision last changed each value.

use std::collections::BTreeMap;

use insula_types::Revision;

/// Objects of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<K, V>(BTreeMap<K, (Revision, V)>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    /// The value under `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key).map(|(_, value)| value)
    }

    /// The revision that last changed the value under `key`.
    pub fn revision(&self, key: &K) -> Option<Revision> {
        self.0.get(key).map(|(revision, _)| *revision)
    }

    /// Whether there is a value under `key`.
    pub fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, in key order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, (_, value))| (key, value))
    }

    /// Values, in key order.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.0.values().map(|(_, value)| value)
    }

    /// Keys, revisions and values, in key order, beginning at `from`.
    pub fn from(&self, from: K) -> impl DoubleEndedIterator<Item = (&K, Revision, &V)> {
        self.0.range(from..).map(|(key, (revision, value))| (key, *revision, value))
    }

    pub(crate) fn set(&mut self, revision: Revision, key: K, value: Option<V>) {
        match value {
            Some(value) => self.0.insert(key, (revision, value)),
            None => self.0.remove(&key),
        };
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = (&K, Revision, &V)> {
        self.0.iter().map(|(key, (revision, value))| (key, *revision, value))
    }
}
