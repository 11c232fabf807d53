//! The log: entries in `log.redb`, the newest of them also in memory, where they can be read as soon as they are
//! appended. An append or a vote is confirmed only once it is on the disk.
//!
//! One commit of the file costs one sync: redb then tells a torn commit by its checksums, which are fast but not made
//! against an adversary. Entries hold tenants' bytes, so what is written is masked with a key that only the file knows
//! (docs/adr/2026-11-21-one-sync-per-append.md).
//!
//! openraft waits for each append before it does anything else. A follower's is on the disk then; a leader's is written
//! while it is sent (`ahead`), one write at a time, which takes all entries that wait.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::Arc,
    time::Duration,
};

use insula_env::Rng;
use insula_types::{Incarnation, codec};
use openraft::{
    EntryPayload, LogIdOptionExt, LogState, OptionalSend, RaftLogReader,
    storage::{LogFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use redb::{Durability, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use super::{
    ahead::Ahead,
    file::{Commit, File, failed, fatal},
    mask::Mask,
};
use crate::{
    config::{APPEND_BYTES, Config, Timers},
    contacts::age,
    engine::{Entry, LogId, StorageError, Types, Vote},
    error::{OpenError, StoreError},
    runtime::Runtime,
    wire::{self, Position},
};

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Entries kept in memory, by their size on disk.
const TAIL_BYTES: usize = 4 << 20;
/// An append or a vote that takes longer than this is worth a line: elections and commits wait for it.
const SLOW: Duration = Duration::from_millis(250);

/// The log of a group. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore(Arc<Shared>);

struct Shared {
    file: File,
    mask: Mask,
    view: Mutex<View>,
    me: u64,
    ahead: Ahead,
    /// Up to which entry the state is on the disk; the log may be dropped so far and no further.
    durable: watch::Receiver<Option<Position>>,
}

/// What is known without reading the file.
#[derive(Default)]
struct View {
    /// The newest entries, without a gap up to the last, with their sizes.
    tail: BTreeMap<u64, (Entry, usize)>,
    tail_bytes: usize,
    /// What a leader has yet to write; whether it is writing.
    unwritten: Vec<Written>,
    is_writing: bool,
    purged: Option<LogId>,
    last: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    is_founder: bool,
    timers: Option<Timers>,
}

/// An entry as it is in the file: its index, and its masked bytes.
type Written = (u64, Vec<u8>);

impl LogStore {
    /// Opens the log, or makes an empty one for this incarnation.
    pub(crate) async fn open(
        disk: &Arc<dyn insula_env::Disk>,
        config: &Config,
        durable: watch::Receiver<Option<Position>>,
        ahead: Ahead,
        rng: &Rng,
    ) -> Result<Self, OpenError> {
        let file = open_log(disk, &config.directory).await?;
        let (wanted, me) = (config.incarnation, config.node.get());
        let may_be_new = !config.must_exist || cfg!(feature = "planted-reused-id");
        let fresh = Mask::draw(rng);
        let opened = file
            .write("read the log in", Durability::Immediate, move |transaction| {
                let mut meta = transaction.open_table(META)?;
                let found: Option<Incarnation> = get(&meta, "incarnation")?;
                if found.is_none() && !may_be_new {
                    return Ok(None);
                }
                if found.is_none() {
                    meta.insert("incarnation", &*codec::encode(&wanted))?;
                    meta.insert("mask", &*codec::encode(&fresh))?;
                }
                let mask: Mask =
                    get(&meta, "mask")?.ok_or_else(|| redb::Error::Corrupted("it has no mask".to_owned()))?;
                let position = |key| get::<Option<Position>>(&meta, key).map(|at| at.flatten().map(LogId::from));
                let purged = position("purged")?;
                let last = match transaction.open_table(ENTRIES)?.last()? {
                    Some((index, entry)) => Some(mask.entry(index.value(), entry.value())?.log_id),
                    None => purged,
                };
                let view = View {
                    purged,
                    last,
                    vote: get::<wire::Vote>(&meta, "vote")?.map(|vote| resigned(vote.into(), me)),
                    committed: position("committed")?,
                    is_founder: get(&meta, "founder")?.unwrap_or(false),
                    timers: get(&meta, "timers")?,
                    ..View::default()
                };
                Ok(Some((found.unwrap_or(wanted), mask, view)))
            })
            .await?;
        let Some((found, mask, view)) = opened else {
            return Err(OpenError::Gone { path: config.directory.clone() });
        };
        if found != wanted {
            return Err(OpenError::OtherIncarnation { path: config.directory.clone(), found, wanted });
        }
        Ok(Self(Arc::new(Shared { file, mask, view: Mutex::new(view), me, ahead, durable })))
    }

    /// The life of the group that a log in a directory belongs to; none when it is of none yet.
    pub(crate) async fn incarnation(
        disk: &Arc<dyn insula_env::Disk>,
        directory: &Path,
    ) -> Result<Option<Incarnation>, StoreError> {
        let file = open_log(disk, directory).await?;
        file.read("look at", |transaction| get(&transaction.open_table(META)?, "incarnation")).await
    }

    /// Lets an empty log begin after `at`, as if it had been dropped up to there, with `node` as the last leader.
    pub(crate) async fn begin_after(&self, at: Position, node: u64) -> Result<(), StoreError> {
        let vote = wire::Vote::from(Vote::new(at.term, node));
        self.0
            .file
            .write("restore", Durability::Immediate, move |transaction| {
                put(transaction, "vote", &vote)?;
                put(transaction, "committed", &Some(at))?;
                put(transaction, "purged", &at)
            })
            .await
    }

    /// Whether this node once recorded that it starts the group.
    pub(crate) fn is_founder(&self) -> bool {
        self.0.view.lock().is_founder
    }

    /// Records on disk that this node starts the group.
    pub(crate) async fn set_founder(&self) -> Result<(), StoreError> {
        self.0
            .file
            .write("record the founding in", Durability::Immediate, |transaction| put(transaction, "founder", &true))
            .await?;
        self.0.view.lock().is_founder = true;
        Ok(())
    }

    /// The timers that were last in use here.
    pub(crate) fn timers(&self) -> Option<Timers> {
        self.0.view.lock().timers
    }

    /// Keeps the timers in use.
    pub(crate) async fn save_timers(&self, timers: Timers) -> Result<(), StoreError> {
        self.0
            .file
            .write("keep the timers in", Durability::Immediate, move |transaction| put(transaction, "timers", &timers))
            .await?;
        self.0.view.lock().timers = Some(timers);
        Ok(())
    }

    /// Up to where the log was dropped: the state must hold all of that.
    pub(crate) fn purged(&self) -> Option<Position> {
        self.0.view.lock().purged.map(Into::into)
    }

    pub(crate) fn file(&self) -> &File {
        &self.0.file
    }

    /// Entries of `[start, end)` that are there; stops after about `bytes_max`, but not before the first.
    async fn entries(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let (mut found, mut bytes, mut next) = (Vec::new(), 0, start);
        while next < end {
            let stop = {
                let view = self.0.view.lock();
                let tail_start = view.tail.keys().next().copied().unwrap_or_else(|| view.last.next_index());
                if next >= tail_start {
                    for (entry, size) in view.tail.range(next..end).map(|(_, held)| held) {
                        if !found.is_empty() && bytes + size > bytes_max {
                            break;
                        }
                        bytes += size;
                        found.push(entry.clone());
                    }
                    return Ok(found);
                }
                end.min(tail_start)
            };
            // Meanwhile memory may be trimmed: the next turn sees it.
            let stored = self.stored(next, stop, bytes_max.saturating_sub(bytes)).await?;
            next = stored.last().map_or(stop, |(entry, _)| entry.log_id.index + 1);
            for (entry, size) in stored {
                if !found.is_empty() && bytes + size > bytes_max {
                    return Ok(found);
                }
                bytes += size;
                found.push(entry);
            }
        }
        Ok(found)
    }

    /// Entries of `[start, end)` on the disk, with their sizes; a little more than `bytes_max`.
    async fn stored(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<(Entry, usize)>, StorageError> {
        let mask = self.0.mask.clone();
        let read = self.0.file.read("read entries of", move |transaction| {
            let table = transaction.open_table(ENTRIES)?;
            let (mut found, mut bytes) = (Vec::new(), 0);
            for row in table.range(start..end)? {
                let (index, entry) = row?;
                let size = entry.value().len();
                found.push((mask.entry(index.value(), entry.value())?, size));
                bytes += size;
                if bytes > bytes_max {
                    break;
                }
            }
            Ok(found)
        });
        read.await.map_err(|error| fatal(&error))
    }

    /// Whether what is appended now are this node's own entries, as the leader that the vote names.
    fn leads(&self) -> bool {
        self.0.view.lock().vote.is_some_and(|vote| vote.committed && vote.leader_id.voted_for == Some(self.0.me))
    }

    /// Makes entries readable, and lets them wait to be written; true when somebody has to begin.
    fn hold(&self, entries: impl IntoIterator<Item = Entry>) -> bool {
        let mut view = self.0.view.lock();
        self.0.ahead.begin(view.last);
        for entry in entries {
            if let EntryPayload::Normal(batch) = &entry.payload {
                batch.set_appended();
            }
            let mut bytes = codec::encode(&wire::Entry::from(&entry));
            self.0.mask.apply(entry.log_id.index, &mut bytes);
            view.last = Some(entry.log_id);
            view.tail_bytes += bytes.len();
            view.tail.insert(entry.log_id.index, (entry.clone(), bytes.len()));
            view.unwritten.push((entry.log_id.index, bytes));
        }
        !std::mem::replace(&mut view.is_writing, true)
    }

    /// Writes what waits, until nothing does.
    async fn write_held(self) {
        loop {
            let (rows, last, committed) = {
                let mut view = self.0.view.lock();
                if view.unwritten.is_empty() {
                    view.is_writing = false;
                    self.0.ahead.reach(view.last, true);
                    return;
                }
                (std::mem::take(&mut view.unwritten), view.last, view.committed.map(Into::into))
            };
            if let Err(error) = self.write_entries(rows, committed).await {
                // Says so for ever: whoever wants to write after this has to fail too.
                self.0.ahead.fail(error);
                return;
            }
            self.0.ahead.reach(last, false);
            self.trim();
        }
    }

    /// Waits until all that was appended is on the disk.
    async fn settle(&self) -> Result<(), StorageError> {
        self.0.ahead.wait(None).await.map_err(|error| fatal(&error))
    }

    /// Drops from memory what is too much and on the disk.
    fn trim(&self) {
        let mut view = self.0.view.lock();
        let written = self.0.ahead.held_back(view.last).map_or(0, |last| last.index);
        while view.tail_bytes > TAIL_BYTES && view.tail.keys().next().is_some_and(|first| *first <= written) {
            let Some((_, (_, size))) = view.tail.pop_first() else { break };
            view.tail_bytes -= size;
        }
    }

    /// Says so when a write is slow.
    async fn timed<T>(&self, write: impl Future<Output = T>) -> T {
        let begun = self.0.ahead.now();
        let output = write.await;
        let took = age(self.0.ahead.now(), begun);
        if took > SLOW {
            tracing::warn!(file = %self.0.file.path().display(), ?took, "the disk is slow");
        }
        output
    }

    async fn write_entries(&self, rows: Vec<Written>, committed: Option<Position>) -> Result<(), StoreError> {
        // The planted bug: says "on the disk" before it is. The simulation must notice.
        let is_late = cfg!(feature = "planted-ack-before-fsync");
        let durability = if is_late { Durability::None } else { Durability::Immediate };
        let append = self.0.file.write("append to", durability, move |transaction| {
            let mut table = transaction.open_table(ENTRIES)?;
            for (index, bytes) in &rows {
                table.insert(index, bytes.as_slice())?;
            }
            // Only a hint for the next start, so it rides on this write instead of costing one of its own.
            put(transaction, "committed", &committed)
        });
        self.timed(append).await?;
        if is_late {
            let file = self.0.file.clone();
            let sync = async move { file.write("sync", Durability::Immediate, |_| Ok(())).await };
            drop(<Runtime as openraft::AsyncRuntime>::spawn(sync));
        }
        Ok(())
    }
}

/// Opens `log.redb` in a directory, or makes an empty one.
async fn open_log(disk: &Arc<dyn insula_env::Disk>, directory: &Path) -> Result<File, StoreError> {
    File::open(disk, directory.join("log.redb"), Commit::OneSync, |transaction| {
        transaction.open_table(ENTRIES)?;
        transaction.open_table(META)?;
        Ok(())
    })
    .await
}

/// A leader that starts again is a voter like any other. openraft 0.9 would let it lead on in the same term without
/// knowing how far its log was committed: it would answer reads from too old a state (sim seed 3).
fn resigned(mut vote: Vote, me: u64) -> Vote {
    vote.committed &= vote.leader_id.voted_for != Some(me);
    vote
}

impl Mask {
    /// The entry that was written at an index.
    fn entry(&self, index: u64, masked: &[u8]) -> Result<Entry, redb::Error> {
        let mut bytes = masked.to_vec();
        self.apply(index, &mut bytes);
        Ok(decode::<wire::Entry>(&bytes)?.into())
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, redb::Error> {
    codec::decode(bytes).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

fn get<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<T>, redb::Error> {
    match table.get(key)? {
        Some(bytes) => decode(bytes.value()).map(Some),
        None => Ok(None),
    }
}

fn put<T: Serialize>(transaction: &WriteTransaction, key: &'static str, value: &T) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert(key, &*codec::encode(value))?;
    Ok(())
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let mut entries = self.entries(start, end, APPEND_BYTES).await?;
        // Of what is sent to another node, each follows on the one before, and the first on `start - 1`. The start may have
        // been dropped while this was on its way; then the other node gets a snapshot next.
        let unbroken = entries.iter().zip(start..).take_while(|(entry, index)| entry.log_id.index == *index).count();
        entries.truncate(unbroken);
        Ok(entries)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let view = self.0.view.lock();
        Ok(LogState { last_purged_log_id: view.purged, last_log_id: view.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let saved = wire::Vote::from(*vote);
        let durability =
            if cfg!(feature = "planted-vote-not-synced") { Durability::None } else { Durability::Immediate };
        self.settle().await?;
        let save = self.0.file.write("save a vote in", durability, move |transaction| put(transaction, "vote", &saved));
        self.timed(save).await.map_err(|error| fatal(&error))?;
        self.0.view.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.0.view.lock().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.0.view.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        // What was committed may have been written before an append that the crash then lost.
        let view = self.0.view.lock();
        Ok(view.committed.min(view.last))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        if let Some(error) = self.0.ahead.error() {
            return Err(fatal(&error));
        }
        if self.leads() {
            if self.hold(entries) {
                drop(<Runtime as openraft::AsyncRuntime>::spawn(self.clone().write_held()));
            }
        } else {
            self.settle().await?;
            self.hold(entries);
            self.clone().write_held().await;
            self.settle().await?;
        }
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.settle().await?;
        let mask = self.0.mask.clone();
        let last = self
            .0
            .file
            .write("truncate", Durability::Immediate, move |transaction| {
                let mut table = transaction.open_table(ENTRIES)?;
                table.retain_in(log_id.index.., |_, _| false)?;
                let last = table.last()?;
                last.map(|(index, entry)| Ok(mask.entry(index.value(), entry.value())?.log_id)).transpose()
            })
            .await
            .map_err(|error| fatal(&error))?;
        let mut view = self.0.view.lock();
        let cut = view.tail.split_off(&log_id.index);
        view.tail_bytes -= cut.values().map(|(_, size)| size).sum::<usize>();
        view.last = last.or(view.purged);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.settle().await?;
        // openraft drops the log as soon as it has handed a received snapshot to the state machine. Were the power
        // lost between the two, there would be a gap that nothing can fill.
        let mut durable = self.0.durable.clone();
        let wanted = Position::from(log_id);
        durable
            .wait_for(|at| *at >= Some(wanted))
            .await
            .map_err(|_| fatal(&failed("drop the start of", self.0.file.path(), "the state machine has stopped")))?;
        self.0
            .file
            .write("drop the start of", Durability::Immediate, move |transaction| {
                transaction.open_table(ENTRIES)?.retain_in(..=log_id.index, |_, _| false)?;
                put(transaction, "purged", &wanted)
            })
            .await
            .map_err(|error| fatal(&error))?;
        let mut view = self.0.view.lock();
        let kept = view.tail.split_off(&(log_id.index + 1));
        view.tail_bytes = kept.values().map(|(_, size)| size).sum();
        view.tail = kept;
        view.purged = Some(log_id);
        view.last = view.last.max(Some(log_id));
        Ok(())
    }
}
