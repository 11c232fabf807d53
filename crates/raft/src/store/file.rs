//! A redb database on a block file of `env::Disk`, and its work off the async threads.

use std::{
    fmt, io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use insula_env::{BlockFile, Disk};
use openraft::{AnyError, StorageIOError};
use redb::{BackendError, Database, Durability, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction};
use tokio::sync::{oneshot, watch};

use crate::{
    engine::StorageError,
    error::{StoreError, chain_text},
};

/// redb's cache for each file (its default is 1 GiB).
const CACHE_BYTES: usize = 4 << 20;

#[derive(Debug)]
struct Backend(Box<dyn BlockFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    /// `env::Disk` has locked the whole file already.
    fn try_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }
}

/// A database, and after it, since fields are dropped in their order, what tells that it is closed.
struct Open {
    database: Database,
    closed: watch::Sender<()>,
}

/// What a durable commit costs, and what opening a file costs that was not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    /// One sync. A torn commit is told by redb's fast checksums, so nobody outside may choose the bytes; opening walks
    /// through the whole file, so it must stay small.
    OneSync,
    /// Two syncs, and the list of free pages with each: a torn commit cannot look whole, and opening is quick.
    TwoSyncs,
}

/// An open database. Clones share it.
#[derive(Clone)]
pub(crate) struct File {
    open: Arc<Open>,
    commit: Commit,
    disk: Arc<dyn Disk>,
    path: Arc<PathBuf>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({})", self.path.display())
    }
}

/// Bytes with which redb marks a database that is whole (its design document, "Super-header"). It writes and syncs all else
/// first, so while they are zero nothing was ever committed.
const MARK_BYTES: u64 = 9;

/// Whether a crash has cut the making of a database short. redb itself would refuse it for ever.
fn is_half_made(file: &dyn BlockFile) -> io::Result<bool> {
    let length = file.len()?;
    let mut mark = vec![0; length.min(MARK_BYTES) as usize];
    file.read(0, &mut mark)?;
    Ok(length > 0 && mark.iter().all(|byte| *byte == 0))
}

impl File {
    /// Opens or makes the database at `path`, and lets `prepare` make its tables.
    pub(crate) async fn open(
        disk: &Arc<dyn Disk>,
        path: PathBuf,
        commit: Commit,
        prepare: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let path = Arc::new(path);
        let (opener, at) = (Arc::clone(disk), Arc::clone(&path));
        let database = off_thread(disk.as_ref(), move || -> Result<Database, redb::Error> {
            let file = opener.open(&at)?;
            if is_half_made(file.as_ref())? {
                file.set_len(0)?;
            }
            let backend = Backend(file);
            let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
            let transaction = database.begin_write()?;
            prepare(&transaction)?;
            transaction.commit()?;
            Ok(database)
        })
        .await
        .and_then(|opened| opened)
        .map_err(|source| failed("open", &path, source))?;
        let open = Arc::new(Open { database, closed: watch::Sender::new(()) });
        Ok(Self { open, commit, disk: Arc::clone(disk), path })
    }

    /// Runs `job` in one write transaction off the async threads. With [`Durability::Immediate`] the change is on the
    /// disk when this returns.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        attempt: &'static str,
        durability: Durability,
        job: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let open = Arc::clone(&self.open);
        let is_careful = self.commit == Commit::TwoSyncs && matches!(durability, Durability::Immediate);
        off_thread(self.disk.as_ref(), move || -> Result<T, redb::Error> {
            let mut transaction = open.database.begin_write()?;
            transaction.set_durability(durability)?;
            transaction.set_two_phase_commit(is_careful);
            transaction.set_quick_repair(is_careful);
            let output = job(&transaction)?;
            transaction.commit()?;
            Ok(output)
        })
        .await
        .and_then(|written| written)
        .map_err(|source| failed(attempt, &self.path, source))
    }

    /// Runs `job` on what is committed now, off the async threads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        attempt: &'static str,
        job: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let open = Arc::clone(&self.open);
        off_thread(self.disk.as_ref(), move || job(&open.database.begin_read()?))
            .await
            .and_then(|read| read)
            .map_err(|source| failed(attempt, &self.path, source))
    }

    /// What is committed now, held still.
    pub(crate) fn view(&self) -> Result<ReadTransaction, StoreError> {
        self.open.database.begin_read().map_err(|source| failed("read", &self.path, source))
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends, with an error, when the file is closed.
    pub(crate) fn closed(&self) -> watch::Receiver<()> {
        self.open.closed.subscribe()
    }
}

/// Runs blocking work where the disk wants it done.
pub(crate) async fn off_thread<T: Send + 'static>(
    disk: &dyn Disk,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, redb::Error> {
    let (done, result) = oneshot::channel();
    disk.run(Box::new(move || {
        done.send(job()).ok();
    }))
    .await;
    result.await.map_err(|_| redb::Error::Io(io::Error::other("the runtime is stopping")))
}

/// A failed attempt on a file.
pub(crate) fn failed(
    attempt: &'static str,
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError { attempt, path: path.to_owned(), source: source.into() }
}

/// The same, in the way that openraft passes on: it keeps only the text.
pub(crate) fn fatal(error: &StoreError) -> StorageError {
    StorageIOError::write(AnyError::error(chain_text(error))).into()
}
