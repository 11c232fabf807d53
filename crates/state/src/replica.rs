//! A readable copy of one state: local, ordered reads, and watches without gaps.
//!
//! On a voter the [`Machine`](crate::Machine) writes it; on other nodes a watch of a voter does.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

use insula_types::{Revision, codec};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{Batch, Domain};

/// Batches kept for watches that resume; an older one gets a reset. At some hundred bytes each this is a few MiB.
pub(crate) const BATCHES_MAX: usize = 8_192;

/// What a watch delivers: first what is missed since the given revision, then each batch as it comes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Update<D: Domain> {
    /// Everything, because the batches since the given revision are no longer kept (or it is from another life).
    Reset {
        /// The revision of this copy.
        revision: Revision,
        /// All objects, each with the revision that last changed it.
        objects: Vec<(D::Key, Revision, D::Object)>,
    },
    /// The next batch; revisions follow each other without a gap.
    Batch(Arc<Batch<D>>),
}

/// A readable copy of one state. Shared behind `Arc`.
#[derive(Debug)]
pub struct Replica<D: Domain> {
    inner: RwLock<Inner<D>>,
    revision: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Inner<D: Domain> {
    state: D,
    revision: Revision,
    /// Grows with every reset, so that watches notice that the sequence was broken.
    resets: u64,
    recent: VecDeque<Arc<Batch<D>>>,
}

impl<D: Domain> Default for Replica<D> {
    fn default() -> Self {
        let inner = Inner { state: D::default(), revision: Revision(0), resets: 0, recent: VecDeque::new() };
        Self { inner: RwLock::new(inner), revision: watch::channel(Revision(0)).0 }
    }
}

impl<D: Domain> Replica<D> {
    /// An empty copy at revision 0.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Reads the state. Keep it short: writers wait.
    pub fn read<R>(&self, read: impl FnOnce(&D) -> R) -> R {
        read(&self.inner.read().state)
    }

    /// Reads the state with the revision that it reflects.
    pub fn read_at<R>(&self, read: impl FnOnce(&D, Revision) -> R) -> R {
        let inner = self.inner.read();
        read(&inner.state, inner.revision)
    }

    /// The revision that reads reflect.
    pub fn revision(&self) -> Revision {
        self.inner.read().revision
    }

    /// Tells when the revision changes.
    pub fn changed(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Waits until reads reflect `revision` or a later one.
    pub async fn wait_for(&self, revision: Revision) {
        let mut changed = self.changed();
        // The sender lives as long as `self`.
        let _ = changed.wait_for(|now| *now >= revision).await;
    }

    /// Watches from `from` (exclusive); without one, or with one too old, the first update is a reset.
    pub fn watch(self: &Arc<Self>, from: Option<Revision>) -> Watch<D> {
        let resets = self.inner.read().resets;
        Watch { replica: Arc::clone(self), changed: self.changed(), at: from, resets }
    }

    /// Takes over the next batch.
    pub(crate) fn absorb(&self, batch: Batch<D>) {
        let mut inner = self.inner.write();
        let batch = Arc::new(batch);
        for change in &batch.changes {
            inner.state.absorb(batch.revision, change.key.clone(), change.object.clone());
        }
        inner.revision = batch.revision;
        inner.recent.push_back(batch);
        if inner.recent.len() > BATCHES_MAX {
            inner.recent.pop_front();
        }
        let revision = inner.revision;
        drop(inner);
        self.revision.send_replace(revision);
    }

    /// Replaces everything.
    pub(crate) fn reset(&self, revision: Revision, state: D) {
        let mut inner = self.inner.write();
        inner.state = state;
        inner.revision = revision;
        inner.resets += 1;
        inner.recent.clear();
        drop(inner);
        self.revision.send_replace(revision);
    }

    /// Takes over what a watch of another copy delivered. False when it does not follow: watch anew from scratch.
    pub fn follow(&self, update: Update<D>) -> bool {
        match update {
            Update::Reset { revision, objects } => {
                let mut state = D::default();
                for (key, changed, object) in objects {
                    state.absorb(changed, key, Some(object));
                }
                self.reset(revision, state);
                true
            }
            Update::Batch(batch) if batch.revision == self.revision().next() => {
                self.absorb(Batch { revision: batch.revision, changes: batch.changes.clone() });
                true
            }
            Update::Batch(_) => false,
        }
    }

    /// A number that equal states share, for comparisons in tests.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&codec::encode(&self.read(Domain::objects)));
        hasher.finish()
    }

    /// The next update after `at`, if there is one.
    fn after(&self, at: Option<Revision>, resets: &mut u64) -> Option<Update<D>> {
        let inner = self.inner.read();
        if let Some(at) = at.filter(|_| *resets == inner.resets) {
            if at == inner.revision {
                return None;
            }
            let first = inner.recent.front().map(|batch| batch.revision.0);
            if let Some(index) = first.and_then(|first| (at.0 + 1).checked_sub(first))
                && let Some(batch) = inner.recent.get(index as usize)
            {
                return Some(Update::Batch(Arc::clone(batch)));
            }
        }
        *resets = inner.resets;
        Some(Update::Reset { revision: inner.revision, objects: inner.state.objects() })
    }
}

/// A stream of [`Update`]s without gaps. Dropping it ends the watch; being slow costs nothing but a reset.
#[derive(Debug)]
pub struct Watch<D: Domain> {
    replica: Arc<Replica<D>>,
    changed: watch::Receiver<Revision>,
    at: Option<Revision>,
    resets: u64,
}

impl<D: Domain> Watch<D> {
    /// The next update; waits for it.
    pub async fn next(&mut self) -> Update<D> {
        loop {
            self.changed.mark_unchanged();
            if let Some(update) = self.replica.after(self.at, &mut self.resets) {
                self.at = Some(match &update {
                    Update::Reset { revision, .. } => *revision,
                    Update::Batch(batch) => batch.revision,
                });
                return update;
            }
            // The sender lives as long as `self.replica`.
            let _ = self.changed.changed().await;
        }
    }
}
