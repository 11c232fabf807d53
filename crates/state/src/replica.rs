//! A readable copy of one state: local, ordered reads, and watches without gaps.
//!
//! On a voter the [`Machine`](crate::Machine) writes it; on other nodes a watch of a voter does.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

use insula_types::{ClusterId, Incarnation, RequestId, Revision, codec};
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

/// Why a copy does not take over what a watch of another one delivered: watch anew, from scratch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A revision is missing.
    #[error("it leaves out what is between revisions {known} and {told}")]
    Gap {
        /// What is shown.
        known: Revision,
        /// What came.
        told: Revision,
    },
    /// It is another cluster's.
    #[error("it is of cluster {told}, and this node of cluster {known}")]
    OtherCluster {
        /// This copy's.
        known: ClusterId,
        /// The other one's.
        told: ClusterId,
    },
    /// It is of a life that is over, or does not say of which.
    #[error("it is of {}, which is over: this node knows of life {known}", told.map_or_else(|| "an unknown life".to_owned(), |life| format!("life {life}")))]
    OlderLife {
        /// The greatest that is known.
        known: Incarnation,
        /// The other one's.
        told: Option<Incarnation>,
    },
}

/// A readable copy of one state. Shared behind `Arc`.
#[derive(Debug)]
pub struct Replica<D: Domain> {
    inner: RwLock<Inner<D>>,
    revision: watch::Sender<Revision>,
    /// Outcomes of recent requests, encoded; only where the machine is that decides on them.
    pub(crate) outcomes: RwLock<BTreeMap<RequestId, Vec<u8>>>,
}

#[derive(Debug)]
struct Inner<D: Domain> {
    state: D,
    revision: Revision,
    /// Grows with every reset, so that watches notice that the sequence was broken.
    resets: u64,
    /// What this node knows of where it belongs, whatever the state says.
    home: Option<(ClusterId, Incarnation)>,
    recent: VecDeque<Arc<Batch<D>>>,
}

impl<D: Domain> Inner<D> {
    fn absorb(&mut self, batch: Batch<D>) {
        for change in &batch.changes {
            self.state.absorb(batch.revision, change.key.clone(), change.object.clone());
        }
        self.revision = batch.revision;
        self.recent.push_back(Arc::new(batch));
        if self.recent.len() > BATCHES_MAX {
            self.recent.pop_front();
        }
    }

    /// Whether a state is of a later life of the same cluster: its revisions need not be beyond those that are shown.
    fn is_left_for(&self, state: &D) -> bool {
        let lives = self.state.origin().zip(state.origin());
        lives.is_some_and(|((_, known), (_, told))| told > known)
    }

    /// Whether another node's state may be taken over.
    fn check(&self, state: &D) -> Result<(), Unfit> {
        let told = state.origin();
        let home = self.home.as_ref().map(|(cluster, life)| (cluster, *life));
        for (cluster, life) in [home, self.state.origin()].into_iter().flatten() {
            match told {
                Some((other, _)) if other != cluster => {
                    return Err(Unfit::OtherCluster { known: cluster.clone(), told: other.clone() });
                }
                Some((_, told)) if told >= life => {}
                _ => return Err(Unfit::OlderLife { known: life, told: told.map(|(_, life)| life) }),
            }
        }
        Ok(())
    }

    fn reset(&mut self, revision: Revision, state: D) {
        self.state = state;
        self.revision = revision;
        self.resets += 1;
        self.recent.clear();
    }
}

fn build<D: Domain>(objects: impl IntoIterator<Item = (D::Key, Revision, D::Object)>) -> D {
    let mut state = D::default();
    for (key, changed, object) in objects {
        state.absorb(changed, key, Some(object));
    }
    state
}

fn copy<D: Domain>(state: &D) -> D {
    build(state.objects())
}

impl<D: Domain> Default for Replica<D> {
    fn default() -> Self {
        let (state, recent) = (D::default(), VecDeque::new());
        let inner = Inner { state, revision: Revision(0), resets: 0, home: None, recent };
        Self { inner: RwLock::new(inner), revision: watch::channel(Revision(0)).0, outcomes: RwLock::default() }
    }
}

impl<D: Domain> Replica<D> {
    /// An empty copy at revision 0.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on takes over only what is of this cluster, and of this life or a later one.
    pub fn belongs_to(&self, cluster: &ClusterId, life: Incarnation) {
        self.inner.write().home = Some((cluster.clone(), life));
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

    /// What became of a request, as an encoded [`Outcome`](crate::Outcome): none on a node that does not vote, and of one that was not
    /// decided on, or long ago.
    pub fn outcome(&self, request: RequestId) -> Option<Vec<u8>> {
        self.outcomes.read().get(&request).cloned()
    }

    /// Tells when the revision changes.
    pub fn changed(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Waits until reads reflect `revision` or a later one.
    pub async fn wait_for(&self, revision: Revision) {
        if self.revision() >= revision {
            return;
        }
        let mut changed = self.changed();
        // The sender lives as long as `self`.
        let _ = changed.wait_for(|now| *now >= revision).await;
    }

    /// Watches from `from` (exclusive); without one, or with one too old, the first update is a reset.
    pub fn watch(self: &Arc<Self>, from: Option<Revision>) -> Watch<D> {
        let resets = self.inner.read().resets;
        Watch { replica: Arc::clone(self), changed: self.changed(), at: from, resets }
    }

    /// Takes over batches of the log, in their order, but for those that this copy shows already; `state` is the log's state
    /// after the last. Who follows this copy is told once.
    pub(crate) fn publish(&self, batches: Vec<Batch<D>>, state: &D) {
        let Some(last) = batches.last().map(|batch| batch.revision) else { return };
        let mut inner = self.inner.write();
        if inner.is_left_for(state) {
            inner.reset(last, copy(state));
        }
        for batch in batches {
            if batch.revision == inner.revision.next() {
                inner.absorb(batch);
            } else if batch.revision > inner.revision {
                inner.reset(last, copy(state));
            }
        }
        let revision = inner.revision;
        drop(inner);
        self.revision.send_replace(revision);
    }

    /// Takes over a whole state of the log, unless this copy is ahead of it.
    pub(crate) fn catch_up(&self, revision: Revision, state: &D) {
        let mut inner = self.inner.write();
        if revision >= inner.revision || inner.is_left_for(state) {
            inner.reset(revision, copy(state));
        }
        let revision = inner.revision;
        drop(inner);
        self.revision.send_replace(revision);
    }

    /// Takes over what a watch of another copy delivered.
    ///
    /// # Errors
    /// [`Unfit`]; what is shown stays then.
    pub fn follow(&self, update: Update<D>) -> Result<(), Unfit> {
        let mut inner = self.inner.write();
        match update {
            // Not older than what is shown: the node that is asked may lag behind the one before.
            Update::Reset { revision, objects } => {
                let state = build(objects);
                inner.check(&state)?;
                if revision >= inner.revision || inner.is_left_for(&state) {
                    inner.reset(revision, state);
                }
            }
            Update::Batch(batch) if batch.revision == inner.revision.next() => {
                inner.absorb(Batch { revision: batch.revision, changes: batch.changes.clone() });
            }
            // Known already, from the log or another watch.
            Update::Batch(batch) if batch.revision <= inner.revision => {}
            Update::Batch(batch) => return Err(Unfit::Gap { known: inner.revision, told: batch.revision }),
        }
        let revision = inner.revision;
        drop(inner);
        self.revision.send_replace(revision);
        Ok(())
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
