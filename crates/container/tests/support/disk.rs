//! The machine's disk, with a count of the work that is under way.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::BoxFuture;
use insula_env::{BlockFile, Disk, RealDisk, disk::DiskJob};

/// Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// Whether every job that was begun has ended.
    pub fn is_idle(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

impl Disk for Counted {
    fn open(&self, path: &Path) -> io::Result<Box<dyn BlockFile>> {
        RealDisk.open(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(path)
    }

    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        RealDisk.write_atomic(path, bytes)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn free(&self, directory: &Path) -> io::Result<u64> {
        RealDisk.free(directory)
    }

    fn run(&self, job: DiskJob) -> BoxFuture<'static, ()> {
        let count = Arc::clone(&self.0);
        count.fetch_add(1, Ordering::AcqRel);
        RealDisk.run(Box::new(move || {
            job();
            count.fetch_sub(1, Ordering::AcqRel);
        }))
    }
}
