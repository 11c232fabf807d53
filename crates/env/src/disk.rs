//! Durable files: whole small files written atomically, and block files under a database.

use std::{
    fmt::Debug,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use futures::{FutureExt, future::BoxFuture};
use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
};

/// A file that a database writes in blocks; the shape of redb's `StorageBackend`.
/// What was written is durable only after [`BlockFile::sync_data`] returned.
pub trait BlockFile: Send + Sync + Debug + 'static {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buffer` from `offset`.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Cuts or extends with zeros. What it extends by has its place on the disk when this returns, so later writes into it
    /// do not meet a full one. `StorageFull`, or `QuotaExceeded`, when there is none.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes everything written so far durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Writes `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
}

/// A job that does blocking disk work.
pub type DiskJob = Box<dyn FnOnce() + Send>;

/// Where a component keeps its files.
pub trait Disk: Send + Sync + Debug + 'static {
    /// Opens a block file, making it and its directory when missing. Only one opener at a time: the file is locked.
    fn open(&self, path: &Path) -> io::Result<Box<dyn BlockFile>>;
    /// Reads a whole file. `NotFound` when there is none.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Replaces a whole file: after a crash there is the old one or the new one, never a mix. Mode 0600.
    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Removes a file; fine when there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives a file, or a directory with all that is in it, another name; durable when this returns. `NotFound` when there
    /// is none, `AlreadyExists` when the other name is taken.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Bytes that can still be written below a directory.
    fn free(&self, directory: &Path) -> io::Result<u64>;
    /// Runs blocking work (writes and syncs of block files) off the async threads; in simulation inline, after the
    /// delay that the fault plan gives this disk.
    fn run(&self, job: DiskJob) -> BoxFuture<'static, ()>;
}

/// Files of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

impl BlockFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let present = self.0.metadata()?.len();
        if len <= present {
            return self.0.set_len(len);
        }
        match fallocate(&self.0, FallocateFlags::empty(), present, len - present) {
            Ok(()) => Ok(()),
            // Not every file system can; then places are found when they are written.
            Err(Errno::OPNOTSUPP) => self.0.set_len(len),
            Err(error) => Err(error.into()),
        }
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn BlockFile>> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process has it open: is insula already running here?",
            ),
            std::fs::TryLockError::Error(error) => error,
        })?;
        Ok(Box::new(RealFile(file)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent)?;
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".new");
        let temporary = parent.join(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        // The rename itself is durable only once the directory is.
        File::open(parent)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        // Nobody else makes names where a component keeps its files, so looking first is enough.
        from.symlink_metadata()?;
        if to.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        std::fs::rename(from, to)?;
        for path in [from, to] {
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(())
    }

    fn free(&self, directory: &Path) -> io::Result<u64> {
        let found = statvfs(directory)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn run(&self, job: DiskJob) -> BoxFuture<'static, ()> {
        #[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
        let work = tokio::task::spawn_blocking(job);
        work.map(|ended| {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_files_replace_and_locks_hold() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("a/b");
        RealDisk.write_atomic(&path, b"one").expect("write");
        RealDisk.write_atomic(&path, b"two").expect("replace");
        assert_eq!(RealDisk.read(&path).expect("read"), b"two");
        RealDisk.remove(&path).expect("remove");
        RealDisk.remove(&path).expect("remove again");
        assert_eq!(RealDisk.read(&path).expect_err("gone").kind(), io::ErrorKind::NotFound);

        let block = dir.path().join("block");
        let held = RealDisk.open(&block).expect("open");
        assert_eq!(RealDisk.open(&block).expect_err("held").kind(), io::ErrorKind::ResourceBusy);
        held.set_len(100_000).expect("extend");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&block.metadata().expect("metadata"));
        assert!(blocks * 512 >= 100_000, "{blocks} blocks: its place is taken");
        assert!(RealDisk.free(dir.path()).expect("free") > 100_000);
        drop(held);
        RealDisk.open(&block).expect("open again");

        RealDisk.write_atomic(&path, b"three").expect("write");
        let (from, to) = (dir.path().join("a"), dir.path().join("c"));
        RealDisk.rename(&from, &to).expect("rename");
        assert_eq!(RealDisk.read(&to.join("b")).expect("read"), b"three");
        assert_eq!(RealDisk.rename(&from, &to).expect_err("gone").kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(&from).expect("directory");
        assert_eq!(RealDisk.rename(&from, &to).expect_err("taken").kind(), io::ErrorKind::AlreadyExists);
    }
}
