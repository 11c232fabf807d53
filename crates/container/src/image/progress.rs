//! How far pulls are.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::PullProgress;

/// Bytes of one image's layers, counted as they come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    fetched: AtomicU64,
    size: AtomicU64,
}

impl Progress {
    pub fn set_size(&self, bytes: u64) {
        self.size.store(bytes, Ordering::Relaxed);
    }

    pub fn add(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was counted has to be fetched again.
    pub fn take_back(&self, bytes: u64) {
        self.fetched.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The images that are being pulled, by digest. Who pulls holds the count; with it the image goes.
#[derive(Debug, Default)]
pub(super) struct Pulls(Mutex<BTreeMap<String, Weak<Progress>>>);

impl Pulls {
    /// Begins to count for an image.
    pub fn begin(&self, digest: &str) -> Arc<Progress> {
        let progress = Arc::new(Progress::default());
        let mut pulls = self.0.lock();
        pulls.retain(|_, pull| pull.strong_count() > 0);
        pulls.insert(digest.to_owned(), Arc::downgrade(&progress));
        progress
    }

    /// None: it is not being pulled, or its size is not known yet.
    pub fn of(&self, digest: &str) -> Option<PullProgress> {
        let progress = self.0.lock().get(digest)?.upgrade()?;
        let size_bytes = progress.size.load(Ordering::Relaxed);
        let fetched_bytes = progress.fetched.load(Ordering::Relaxed).min(size_bytes);
        (size_bytes > 0).then_some(PullProgress { fetched_bytes, size_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_being_pulled_has_no_progress() {
        let pulls = Pulls::default();
        let progress = pulls.begin("sha256:a");
        assert_eq!((pulls.of("sha256:a"), pulls.of("sha256:b")), (None, None), "no size yet");
        progress.set_size(100);
        progress.add(70);
        progress.take_back(40);
        progress.add(5);
        let half = pulls.of("sha256:a").expect("it is being pulled");
        assert_eq!((half.fetched_bytes, half.size_bytes), (35, 100));
        drop(progress);
        assert_eq!(pulls.of("sha256:a"), None);
    }
}
