//! How long the disk under the lab takes, so that what it did is told apart from what Insula did.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::Duration,
};

use anyhow::{Context, Result};
use insula_env::Clock;

use crate::{lab::LabNode, report::percentile};

/// Syncs in [`sync_us`].
const SYNCS: usize = 300;
/// Pause between two syncs of a [`DiskProbe`].
const PAUSE: Duration = Duration::from_millis(20);

/// Half of the syncs of a small append to a node's disk are faster.
pub(super) fn sync_us(node: &LabNode) -> Result<u64> {
    let mut appended = Appended::make(node)?;
    let mut times_us = (0..SYNCS).map(|_| appended.sync_us()).collect::<Result<Vec<_>>>()?;
    times_us.sort_unstable();
    Ok(percentile(&times_us, 50))
}

/// A file on a node's disk.
struct Appended {
    file: File,
    path: PathBuf,
}

impl Appended {
    fn make(node: &LabNode) -> Result<Self> {
        let server = node.server.context("no server runs")?;
        let path = Path::new("/proc").join(server.to_string()).join("root/var/lib/insula/sync-probe");
        let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { file, path })
    }

    fn sync_us(&mut self) -> Result<u64> {
        let begun = Clock::real().now();
        self.file.write_all(&[7; 512])?;
        self.file.sync_data()?;
        Ok(begun.elapsed().as_micros() as u64)
    }
}

impl Drop for Appended {
    fn drop(&mut self) {
        // Gone already when the node is.
        std::fs::remove_file(&self.path).ok();
    }
}

/// Small syncs on a node's disk, all the time.
pub(super) struct DiskProbe {
    syncs: Arc<Mutex<Vec<Sync>>>,
    is_over: Arc<AtomicBool>,
    prober: Option<JoinHandle<()>>,
}

/// One sync, in milliseconds of the wall clock.
#[derive(Clone, Copy, Debug)]
struct Sync {
    start_ms: u64,
    took_ms: u64,
}

impl DiskProbe {
    pub(super) fn start(node: &LabNode) -> Result<Self> {
        let mut appended = Appended::make(node)?;
        let (syncs, is_over) = (Arc::<Mutex<Vec<Sync>>>::default(), Arc::<AtomicBool>::default());
        let (kept, stop) = (Arc::clone(&syncs), Arc::clone(&is_over));
        #[allow(clippy::disallowed_methods, reason = "blocking syncs beside the measurement; no tasks in here")]
        let prober = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let start_ms = Clock::real().wall_ms();
                let Ok(took_us) = appended.sync_us() else { return };
                let sync = Sync { start_ms, took_ms: took_us / 1000 };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(sync);
                sleep(PAUSE);
            }
        });
        Ok(Self { syncs, is_over, prober: Some(prober) })
    }

    /// The longest sync of those that were under way at some time between two moments.
    pub(super) fn longest_ms(&self, from_ms: u64, to_ms: u64) -> u64 {
        longest_ms(&self.syncs.lock().unwrap_or_else(PoisonError::into_inner), from_ms, to_ms)
    }
}

impl Drop for DiskProbe {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(prober) = self.prober.take() {
            prober.join().ok();
        }
    }
}

fn longest_ms(syncs: &[Sync], from_ms: u64, to_ms: u64) -> u64 {
    let meanwhile = syncs.iter().filter(|sync| sync.start_ms <= to_ms && sync.start_ms + sync.took_ms >= from_ms);
    meanwhile.map(|sync| sync.took_ms).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_counts_when_it_was_under_way() {
        let syncs = [(100, 30), (150, 400), (600, 50)].map(|(start_ms, took_ms)| Sync { start_ms, took_ms });
        assert_eq!(
            [(0, 99), (110, 140), (540, 590), (560, 700)].map(|(from, to)| longest_ms(&syncs, from, to)),
            [0, 30, 400, 50]
        );
    }
}
