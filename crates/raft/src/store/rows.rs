//! The state: the machine's rows in `state.redb`, each change with the log position that it comes from.
//!
//! Changes wait in memory, since the log has them; they are written together now and then, while others are applied, before
//! a snapshot, and before the log is dropped ([`RowStore::durable`]). After a crash the state is an earlier one, and the
//! log goes on from there.

use std::{path::Path, sync::Arc};

use insula_env::TaskGroup;
use insula_types::codec;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError, storage::RaftStateMachine};
use parking_lot::Mutex;
use redb::{Durability, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{oneshot, watch};

use super::{
    ahead::Ahead,
    file::{Commit, File, failed, fatal},
    snapshot::{ROWS, STAGED, SnapshotData, Source, Stage, View},
};
use crate::{
    config::Config,
    engine::{Entry, LogId, Replies, Snapshot, SnapshotMeta, StorageError, StoredMembership, Types},
    error::StoreError,
    machine::{Row, StateMachine},
    wire::{self, Position},
};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The state is written after so many entries: what a start has to apply again at most.
pub(super) const WRITE_EVERY: u64 = 1000;
/// Or after so many bytes of rows.
const WRITE_BYTES: usize = 16 << 20;

/// The state of a group on this node.
pub(crate) struct RowStore<M> {
    /// Only for the compiler: a machine need not be `Sync`, and is only ever used through `get_mut`.
    machine: Mutex<M>,
    file: File,
    applied: Option<LogId>,
    membership: StoredMembership,
    has_snapshot: bool,
    unwritten: Unwritten,
    /// How the write under way went; one at a time, since a later one must not be overtaken.
    writing: Option<oneshot::Receiver<Result<(), StoreError>>>,
    /// A write failed: what it held is only in the log now, so nothing later may be written.
    is_broken: bool,
    /// What is not on the disk of the log yet, and so must not be applied.
    ahead: Ahead,
    published: watch::Sender<Option<Position>>,
    durable: watch::Sender<Option<Position>>,
    tasks: TaskGroup,
}

/// Changes that only the log has so far.
#[derive(Default)]
struct Unwritten {
    /// The rows that changed, one after the other; few change twice. Put in order only when they are written: to keep tens
    /// of thousands of them in order was 4 % of the processor time of a command.
    rows: Vec<Row>,
    bytes: usize,
    entries: u64,
}

impl Unwritten {
    fn add(&mut self, rows: Vec<Row>) {
        self.bytes += rows.iter().map(|row| row.key.len() + row.value.as_ref().map_or(0, Vec::len)).sum::<usize>();
        self.rows.extend(rows);
    }

    const fn is_due(&self) -> bool {
        self.entries >= WRITE_EVERY || self.bytes >= WRITE_BYTES
    }
}

/// What `state.redb` says besides the rows.
#[derive(Default)]
struct Meta {
    applied: Option<LogId>,
    membership: StoredMembership,
    has_snapshot: bool,
}

impl<M: StateMachine> RowStore<M> {
    /// Opens the state and loads it into the machine.
    pub(crate) async fn open(
        disk: &Arc<dyn insula_env::Disk>,
        config: &Config,
        machine: M,
        durable: watch::Sender<Option<Position>>,
        ahead: Ahead,
        tasks: &TaskGroup,
    ) -> Result<Self, StoreError> {
        let file = open_state(disk, &config.directory).await?;
        let meta = file.read("read", read_meta).await?;
        let at = meta.applied.map(Position::from);
        durable.send_replace(at);
        let mut store = Self {
            machine: Mutex::new(machine),
            file,
            applied: meta.applied,
            membership: meta.membership,
            has_snapshot: meta.has_snapshot,
            unwritten: Unwritten::default(),
            writing: None,
            is_broken: false,
            ahead,
            published: watch::Sender::new(at),
            durable,
            tasks: tasks.clone(),
        };
        store.load().await?;
        Ok(store)
    }

    /// Follows what is applied.
    pub(crate) fn published(&self) -> watch::Receiver<Option<Position>> {
        self.published.subscribe()
    }

    /// Where snapshots are received.
    pub(crate) fn stage(&self) -> Stage {
        Stage(self.file.clone())
    }

    /// Gives all rows to the machine.
    async fn load(&mut self) -> Result<(), StoreError> {
        // The whole state is in the machine's memory anyway, so it may be so here for a moment.
        let rows = self.file.read("load", all_rows).await?;
        self.machine.get_mut().load(&mut rows.into_iter()).map_err(|error| failed("load", self.file.path(), error))
    }

    /// Applies one entry to the machine; its rows wait to be written.
    fn apply_entry(&mut self, entry: &Entry) -> Result<Replies, Box<StorageError>> {
        let mut replies = Vec::new();
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
            EntryPayload::Normal(batch) => {
                let lost = if cfg!(feature = "planted-lossy-batch") { batch.commands.len() / 2 } else { 0 };
                let applied = self
                    .machine
                    .get_mut()
                    .apply(batch.commands.get(lost..).unwrap_or_default())
                    .map_err(|error| StorageIOError::apply(entry.log_id, openraft::AnyError::new(&error)))
                    .map_err(|error| Box::new(error.into()))?;
                self.unwritten.add(applied.rows);
                replies = applied.replies;
                replies.extend(replies.first().cloned().into_iter().cycle().take(lost));
            }
        }
        self.applied = Some(entry.log_id);
        self.unwritten.entries += 1;
        Ok(Replies(replies))
    }

    /// Writes what has changed, with the position that it belongs to; durable when this returns.
    async fn write(&mut self) -> Result<(), StoreError> {
        self.begin_write().await?;
        self.end_write().await
    }

    /// Begins to write what has changed, after the write before has ended.
    async fn begin_write(&mut self) -> Result<(), StoreError> {
        self.end_write().await?;
        let rows = std::mem::take(&mut self.unwritten).rows;
        let (applied, membership) = (self.applied.map(Position::from), wire::StoredMembership::from(&self.membership));
        let has_snapshot = self.has_snapshot;
        let (file, durable) = (self.file.clone(), self.durable.clone());
        let (tell, told) = oneshot::channel();
        self.writing = Some(told);
        self.tasks.spawn("state write", async move {
            let write = file.write("apply to", Durability::Immediate, move |transaction| {
                let mut table = transaction.open_table(ROWS)?;
                for row in newest(rows) {
                    match row.value {
                        Some(value) => table.insert(row.key.as_slice(), value.as_slice())?,
                        None => table.remove(row.key.as_slice())?,
                    };
                }
                put_position(transaction, applied, &membership, has_snapshot)
            });
            let outcome = write.await;
            if outcome.is_ok() {
                advance(&durable, applied);
            }
            // The store may be gone.
            let _ = tell.send(outcome);
        });
        Ok(())
    }

    /// Waits for the write under way, if there is one.
    async fn end_write(&mut self) -> Result<(), StoreError> {
        let Some(writing) = self.writing.take() else { return self.unbroken() };
        // Until it is known to have gone well; also when this wait is given up.
        self.is_broken = true;
        let outcome = writing.await.ok();
        self.note_write(outcome)
    }

    /// Notes how the write under way went, if it has ended.
    fn look_at_write(&mut self) -> Result<(), StoreError> {
        let outcome = match self.writing.as_mut().map(oneshot::Receiver::try_recv) {
            None | Some(Err(oneshot::error::TryRecvError::Empty)) => return self.unbroken(),
            Some(outcome) => outcome.ok(),
        };
        self.writing = None;
        self.note_write(outcome)
    }

    /// Notes how a write went; none: its task has ended before it.
    fn note_write(&mut self, outcome: Option<Result<(), StoreError>>) -> Result<(), StoreError> {
        self.is_broken = !matches!(outcome, Some(Ok(())));
        outcome.unwrap_or_else(|| Err(failed("apply to", self.file.path(), "this group is stopping")))
    }

    fn unbroken(&self) -> Result<(), StoreError> {
        if self.is_broken {
            return Err(failed("apply to", self.file.path(), "an earlier write failed"));
        }
        Ok(())
    }

    /// A snapshot of what is on the disk now. It is as good as the one that was last built, since the state there only
    /// grows newer.
    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let transaction = Arc::new(self.file.view()?);
        let meta = read_meta(&transaction).map_err(|source| failed("read", self.file.path(), source))?;
        Ok(Snapshot {
            meta: snapshot_meta(&meta),
            snapshot: Box::new(SnapshotData(Source::View(View { transaction, file: self.file.clone() }))),
        })
    }

    /// Puts the rows of another state of ours aside as if they had been received (openraft's own tests do that).
    async fn copy_to_stage(&self, data: &SnapshotData) -> Result<(), StoreError> {
        let stage = self.stage();
        stage.clear().await?;
        let mut after = None;
        loop {
            let rows = data.rows_after(after.take()).await?;
            let Some((key, _)) = rows.last() else { return Ok(()) };
            after = Some(key.0.clone());
            stage.add(rows).await?;
        }
    }
}

/// The rows in the order of their keys; of those with the same key the last.
pub(super) fn newest(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(|one, other| one.key.cmp(&other.key));
    // The later one has the same key: its value takes the place of the earlier one's.
    rows.dedup_by(|later, earlier| {
        let is_same = later.key == earlier.key;
        if is_same {
            earlier.value = later.value.take();
        }
        is_same
    });
    rows
}

/// Opens `state.redb` in a directory, or makes an empty one.
pub(super) async fn open_state(disk: &Arc<dyn insula_env::Disk>, directory: &Path) -> Result<File, StoreError> {
    File::open(disk, directory.join("state.redb"), Commit::TwoSyncs, |transaction| {
        transaction.open_table(ROWS)?;
        transaction.open_table(STAGED)?;
        transaction.open_table(META)?;
        Ok(())
    })
    .await
}

/// All rows of the state, in the order of their keys.
pub(super) fn all_rows(transaction: &ReadTransaction) -> Result<Vec<Row>, redb::Error> {
    let mut rows = Vec::new();
    for row in transaction.open_table(ROWS)?.iter()? {
        let (key, value) = row?;
        rows.push(Row { key: key.value().to_vec(), value: Some(value.value().to_vec()) });
    }
    Ok(rows)
}

/// Says which part of the log the rows of the same transaction reflect.
pub(super) fn put_position(
    transaction: &WriteTransaction,
    applied: Option<Position>,
    membership: &wire::StoredMembership,
    has_snapshot: bool,
) -> Result<(), redb::Error> {
    put(transaction, "applied", &applied)?;
    put(transaction, "membership", membership)?;
    put(transaction, "snapshot", &has_snapshot)
}

/// Moves a position forward, never back.
fn advance(position: &watch::Sender<Option<Position>>, to: Option<Position>) {
    position.send_if_modified(|at| {
        let is_newer = to > *at;
        if is_newer {
            *at = to;
        }
        is_newer
    });
}

fn snapshot_meta(meta: &Meta) -> SnapshotMeta {
    wire::SnapshotMeta { last: meta.applied.map(Into::into), membership: (&meta.membership).into() }.into()
}

fn read_meta(transaction: &ReadTransaction) -> Result<Meta, redb::Error> {
    let table = transaction.open_table(META)?;
    fn get<T: DeserializeOwned + Default>(
        table: &impl ReadableTable<&'static str, &'static [u8]>,
        key: &'static str,
    ) -> Result<T, redb::Error> {
        match table.get(key)? {
            Some(bytes) => codec::decode(bytes.value()).map_err(|error| redb::Error::Corrupted(error.to_string())),
            None => Ok(T::default()),
        }
    }
    Ok(Meta {
        applied: get::<Option<Position>>(&table, "applied")?.map(Into::into),
        membership: get::<Option<wire::StoredMembership>>(&table, "membership")?.map(Into::into).unwrap_or_default(),
        has_snapshot: get(&table, "snapshot")?,
    })
}

fn put<T: Serialize>(transaction: &WriteTransaction, key: &'static str, value: &T) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert(key, &*codec::encode(value))?;
    Ok(())
}

impl<M: StateMachine> RaftStateMachine<Types> for RowStore<M> {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let last = entries.last().map(|entry| entry.log_id);
        self.ahead.wait(last).await.map_err(|error| fatal(&error))?;
        let replies = entries.iter().map(|entry| self.apply_entry(entry));
        let replies = replies.collect::<Result<Vec<_>, _>>().map_err(|error| *error)?;
        let written = if self.unwritten.is_due() { self.begin_write().await } else { self.look_at_write() };
        written.map_err(|error| fatal(&error))?;
        advance(&self.published, self.applied.map(Into::into));
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.has_snapshot = true;
        Builder(self.write().await.and_then(|()| self.snapshot()))
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, StorageError> {
        Ok(Box::new(self.stage().complete()))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Box<SnapshotData>) -> Result<(), StorageError> {
        let fatal = |error: StoreError| fatal(&error);
        self.end_write().await.map_err(fatal)?;
        if let Source::View(_) = &snapshot.0 {
            self.copy_to_stage(&snapshot).await.map_err(fatal)?;
        }
        let (applied, membership) =
            (meta.last_log_id.map(Position::from), wire::StoredMembership::from(&meta.last_membership));
        self.file
            .write("install a snapshot in", Durability::Immediate, move |transaction| {
                transaction.delete_table(ROWS)?;
                transaction.rename_table(STAGED, ROWS)?;
                transaction.open_table(STAGED)?;
                put_position(transaction, applied, &membership, true)
            })
            .await
            .map_err(fatal)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.has_snapshot = true;
        // What was applied before is part of the snapshot, or was replaced by it.
        self.unwritten = Unwritten::default();
        self.load().await.map_err(fatal)?;
        advance(&self.durable, self.applied.map(Into::into));
        advance(&self.published, self.applied.map(Into::into));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        if !self.has_snapshot {
            return Ok(None);
        }
        self.snapshot().map(Some).map_err(|error| fatal(&error))
    }
}

/// Gives the snapshot that was taken when it was made: the state is on the disk, so there is nothing left to build.
pub(crate) struct Builder(Result<Snapshot, StoreError>);

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        self.0.as_ref().map(Snapshot::clone).map_err(fatal)
    }
}
