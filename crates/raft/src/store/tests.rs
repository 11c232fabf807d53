//! The stores under openraft's own test suite, and under crashes.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use insula_env::{Clock, Disk, Rng, TaskGroup, memory::MemoryDisk};
use insula_types::{Incarnation, NodeId};
use openraft::{
    RaftLogReader, RaftSnapshotBuilder,
    storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine},
    testing::{StoreBuilder, Suite},
};
use tokio::sync::watch;

use super::{
    rows::{WRITE_EVERY, newest},
    *,
};
use crate::{
    config::{Config, GroupId},
    engine::{Batch, Entry, LogId, StorageError, Types, Vote},
    machine::{Applied, LoadError, Row, StateMachine, UnknownCommand},
    wire::Position,
};

/// Keeps each command as a row under its own bytes.
#[derive(Default)]
struct Keeper;

impl StateMachine for Keeper {
    fn apply(&mut self, commands: &[Bytes]) -> Result<Applied, UnknownCommand> {
        let rows = commands.iter().map(|command| Row { key: command.to_vec(), value: Some(Vec::new()) });
        Ok(Applied { replies: vec![Vec::new(); commands.len()], rows: rows.collect() })
    }
    fn load(&mut self, _rows: &mut dyn Iterator<Item = Row>) -> Result<(), LoadError> {
        Ok(())
    }
}

fn config() -> Config {
    Config::new(NodeId::new(1), GroupId(1), Incarnation(1), PathBuf::from("group"))
}

fn memory() -> MemoryDisk {
    MemoryDisk::new(Clock::real(), Rng::from_seed(1))
}

fn level() -> Ahead {
    Ahead::new(Clock::real())
}

async fn rows(disk: &MemoryDisk) -> RowStore<Keeper> {
    let disk = Arc::new(disk.clone()) as Arc<dyn Disk>;
    RowStore::open(&disk, &config(), Keeper, watch::channel(None).0, level(), &TaskGroup::new("store"))
        .await
        .expect("open the state")
}

async fn log(disk: &MemoryDisk) -> LogStore {
    let disk = Arc::new(disk.clone()) as Arc<dyn Disk>;
    // The suite purges a log without applying it: let the state seem to be on disk.
    let (_, durable) = watch::channel(Some(Position { term: u64::MAX, index: u64::MAX }));
    LogStore::open(&disk, &config(), durable, level(), &Rng::from_seed(1)).await.expect("open the log")
}

struct Builder;

impl StoreBuilder<Types, LogStore, RowStore<Keeper>> for Builder {
    async fn build(&self) -> Result<((), LogStore, RowStore<Keeper>), StorageError> {
        let disk = memory();
        Ok(((), log(&disk).await, rows(&disk).await))
    }
}

#[test]
fn the_suite_of_openraft_passes() {
    Suite::test_all(Builder).expect("conforms");
}

#[test]
fn of_rows_with_the_same_key_the_last_is_written() {
    let row = |key: &str, value: Option<&str>| Row { key: key.into(), value: value.map(Into::into) };
    let rows = vec![row("b", Some("1")), row("a", Some("1")), row("b", None), row("a", Some("2")), row("b", Some("3"))];
    assert_eq!(newest(rows), [row("a", Some("2")), row("b", Some("3"))]);
    assert_eq!(newest(vec![row("a", Some("1")), row("a", None)]), [row("a", None)], "gone in the end");
}

fn entry(term: u64, index: u64) -> Entry {
    let batch = Batch::new(Arc::from([Bytes::from(vec![index as u8; 700])]));
    Entry { log_id: LogId::from(Position { term, index }), payload: openraft::EntryPayload::Normal(batch) }
}

async fn ids(log: &LogStore) -> Vec<(u64, u64)> {
    let entries = log.clone().try_get_log_entries(..).await.expect("read");
    entries.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)).collect()
}

#[tokio::test]
async fn a_power_loss_leaves_what_was_confirmed_and_no_gap() {
    for seed in 0..40 {
        let disk = memory();
        let mut store = log(&disk).await;
        store.save_vote(&Vote::new(3, 1)).await.expect("vote");
        let confirmed = seed % 7 + 1;
        for index in 1..=confirmed {
            store.blocking_append([entry(1, index)]).await.expect("append");
        }
        // One more append, which the power loss overtakes: at its first sync, or at the second.
        let late = store.clone();
        let cut = disk.clone();
        disk.set_delay(std::time::Duration::from_millis(1), std::time::Duration::from_millis(2));
        let append = async move {
            let mut late = late;
            late.blocking_append([entry(1, confirmed + 1)]).await
        };
        tokio::select! {
            biased;
            _ = append => {}
            () = insula_env::clock::sleep(std::time::Duration::from_micros(seed * 60)) => {}
        }
        cut.lose_power(seed);
        drop(store);
        disk.set_delay(std::time::Duration::ZERO, std::time::Duration::ZERO);
        let mut store = log(&disk).await;
        let found = ids(&store).await;
        let expected: Vec<(u64, u64)> = (1..=confirmed + 1).map(|index| (1, index)).collect();
        assert!(found == expected || found == expected[..expected.len() - 1], "seed {seed}: {found:?} of {expected:?}");
        assert_eq!(store.read_vote().await.expect("read"), Some(Vote::new(3, 1)));
        store.blocking_append([entry(2, confirmed + 2)]).await.expect("goes on");
    }
}

#[tokio::test]
async fn truncation_and_purge_outlive_a_power_loss() {
    let disk = memory();
    let mut store = log(&disk).await;
    store.blocking_append((1..=9).map(|index| entry(1, index))).await.expect("append");
    store.truncate(LogId::from(Position { term: 1, index: 7 })).await.expect("truncate");
    store.purge(LogId::from(Position { term: 1, index: 3 })).await.expect("purge");
    store.blocking_append([entry(2, 7)]).await.expect("append");
    let expected = [(1, 4), (1, 5), (1, 6), (2, 7)];
    assert_eq!(ids(&store).await, expected);
    disk.lose_power(1);
    drop(store);
    let mut store = log(&disk).await;
    assert_eq!(ids(&store).await, expected);
    let state = store.get_log_state().await.expect("read");
    assert_eq!(state.last_purged_log_id, Some(LogId::from(Position { term: 1, index: 3 })));
}

#[tokio::test]
async fn a_failing_sync_confirms_nothing() {
    let disk = memory();
    let mut store = log(&disk).await;
    disk.fail_syncs(true);
    store.blocking_append([entry(1, 1)]).await.expect_err("not confirmed");
    store.save_vote(&Vote::new(1, 1)).await.expect_err("not confirmed");
}

/// The log and the state of node 1, which leads in term 2.
async fn led(disk: &MemoryDisk) -> (LogStore, RowStore<Keeper>, Ahead) {
    let (opener, ahead) = (Arc::new(disk.clone()) as Arc<dyn Disk>, level());
    let (durable, is_durable) = watch::channel(None);
    let tasks = TaskGroup::new("store");
    let state = RowStore::open(&opener, &config(), Keeper, durable, ahead.clone(), &tasks).await;
    let log = LogStore::open(&opener, &config(), is_durable, ahead.clone(), &Rng::from_seed(1)).await;
    let mut log = log.expect("open the log");
    log.save_vote(&Vote::new_committed(2, 1)).await.expect("vote");
    (log, state.expect("open the state"), ahead)
}

#[tokio::test(start_paused = true)]
async fn a_leader_sends_what_it_writes_but_applies_only_what_it_has_written() {
    let clock = Clock::simulated(0);
    let disk = MemoryDisk::new(clock.clone(), Rng::from_seed(1));
    let (mut log, mut state, ahead) = led(&disk).await;
    let stall = std::time::Duration::from_secs(5);
    let begun = clock.now();
    disk.stall_until(begun + stall);
    for index in 1..=3 {
        log.blocking_append([entry(2, index)]).await.expect("does not wait");
        tokio::task::yield_now().await;
    }
    assert_eq!(log.limited_get_log_entries(1, 4).await.expect("read").len(), 3, "can be sent");
    assert_eq!(begun.elapsed(), std::time::Duration::ZERO);
    let last = Some(LogId::from(Position { term: 2, index: 3 }));
    assert_eq!(ahead.held_back(last), None, "nobody is told that it is committed");
    insula_env::clock::sleep(stall / 2).await;
    assert_eq!(ahead.since(clock.now()), stall / 2);
    state.apply([entry(2, 1), entry(2, 2), entry(2, 3)]).await.expect("apply");
    assert!(begun.elapsed() >= stall, "waits for the disk");
    assert_eq!(ahead.held_back(last), last);
    drop((log, state));
    disk.lose_power(1);
    let (log, ..) = led(&disk).await;
    assert_eq!(ids(&log).await, [(2, 1), (2, 2), (2, 3)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_written_before_the_log_is_changed_otherwise() {
    let clock = Clock::simulated(0);
    let disk = MemoryDisk::new(clock.clone(), Rng::from_seed(1));
    let (mut log, ..) = led(&disk).await;
    disk.stall_until(clock.now() + std::time::Duration::from_secs(5));
    log.blocking_append((1..=6).map(|index| entry(2, index))).await.expect("append");
    // Another leads now, who knows only the first two.
    log.save_vote(&Vote::new_committed(3, 2)).await.expect("vote");
    log.truncate(LogId::from(Position { term: 2, index: 3 })).await.expect("truncate");
    log.blocking_append([entry(3, 3)]).await.expect("append");
    disk.lose_power(1);
    let expected = [(2, 1), (2, 2), (3, 3)];
    assert_eq!(ids(&log).await, expected);
    drop(log);
    assert_eq!(ids(&self::log(&disk).await).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_write_applies_nothing_and_appends_nothing() {
    let disk = memory();
    let (mut log, mut state, ahead) = led(&disk).await;
    log.blocking_append([entry(2, 1)]).await.expect("append");
    state.apply([entry(2, 1)]).await.expect("apply");
    disk.fail_syncs(true);
    log.blocking_append([entry(2, 2)]).await.expect("not known yet");
    state.apply([entry(2, 2)]).await.expect_err("not on the disk");
    disk.fail_syncs(false);
    log.blocking_append([entry(2, 3)]).await.expect_err("would leave a gap");
    log.save_vote(&Vote::new(3, 2)).await.expect_err("the group has to stop");
    assert!(ahead.error().is_some());
}

#[tokio::test]
async fn messages_to_followers_are_bounded_and_never_empty() {
    let disk = memory();
    let mut store = log(&disk).await;
    let large = |index| {
        let batch = Batch::new(Arc::from([Bytes::from(vec![1; 400 << 10])]));
        Entry { log_id: LogId::from(Position { term: 1, index }), payload: openraft::EntryPayload::Normal(batch) }
    };
    // More than memory keeps, so that old ones come from the file.
    for index in 1..=20 {
        store.blocking_append([large(index)]).await.expect("append");
    }
    let mut next = 1;
    while next <= 20 {
        let some = store.limited_get_log_entries(next, 21).await.expect("read");
        assert_eq!(some.len(), 1, "one of these fills a message");
        assert_eq!(some[0].log_id.index, next);
        next += 1;
    }
    assert_eq!(ids(&store).await.len(), 20);
}

#[tokio::test]
async fn what_has_been_dropped_is_not_passed_over() {
    let disk = memory();
    let mut store = log(&disk).await;
    store.blocking_append((1..=9).map(|index| entry(1, index))).await.expect("append");
    store.purge(LogId::from(Position { term: 1, index: 3 })).await.expect("purge");
    // A follower that has 1 would take 4 for 2.
    let indexes = |entries: Vec<Entry>| entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>();
    assert!(store.limited_get_log_entries(2, 9).await.expect("read").is_empty());
    assert_eq!(indexes(store.limited_get_log_entries(4, 9).await.expect("read")), [4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn the_log_is_not_dropped_before_the_state_is_on_disk() {
    let disk = memory();
    let (durable, is_durable) = watch::channel(None);
    let opener = Arc::new(disk.clone()) as Arc<dyn Disk>;
    let mut store = LogStore::open(&opener, &config(), is_durable, level(), &Rng::from_seed(1)).await.expect("open");
    store.blocking_append((1..=5).map(|index| entry(1, index))).await.expect("append");
    let upto = Position { term: 1, index: 4 };
    let purge = store.purge(LogId::from(upto));
    assert!(futures::FutureExt::now_or_never(purge).is_none(), "waits");
    assert_eq!(ids(&store).await.len(), 5);
    durable.send_replace(Some(upto));
    store.purge(LogId::from(upto)).await.expect("purge");
    assert_eq!(ids(&store).await, [(1, 5)]);
}

#[tokio::test]
async fn the_state_on_disk_never_skips_what_could_not_be_written() {
    let disk = memory();
    let mut state = rows(&disk).await;
    let applied = async |state: &mut RowStore<Keeper>| state.applied_state().await.expect("read").0.map(|at| at.index);
    state.apply([entry(1, 1)]).await.expect("apply");
    state.get_snapshot_builder().await.build_snapshot().await.expect("written");
    state.apply([entry(1, 2)]).await.expect("apply");
    disk.fail_syncs(true);
    state.get_snapshot_builder().await.build_snapshot().await.expect_err("not written");
    disk.fail_syncs(false);
    state.apply([entry(1, 3)]).await.expect_err("the group has to stop");
    state.get_snapshot_builder().await.build_snapshot().await.expect_err("would leave a gap");
    drop(state);
    disk.lose_power(1);
    assert_eq!(applied(&mut rows(&disk).await).await, Some(1), "the log goes on from here");
}

#[tokio::test(start_paused = true)]
async fn entries_are_applied_while_the_state_is_written() {
    let clock = Clock::simulated(0);
    let disk = MemoryDisk::new(clock.clone(), Rng::from_seed(1));
    let (durable, is_durable) = watch::channel(None);
    let opener = Arc::new(disk.clone()) as Arc<dyn Disk>;
    let opened = RowStore::open(&opener, &config(), Keeper, durable, level(), &TaskGroup::new("store")).await;
    let mut state = opened.expect("open the state");
    let stall = std::time::Duration::from_secs(5);
    disk.stall_until(clock.now() + stall);
    let due = |from: u64| (from..from + WRITE_EVERY).map(|index| entry(1, index));
    state.apply(due(1)).await.expect("apply");
    tokio::task::yield_now().await;
    let applied = futures::FutureExt::now_or_never(state.apply([entry(1, WRITE_EVERY + 1)]));
    applied.expect("no wait for the disk").expect("apply");
    assert_eq!(*is_durable.borrow(), None);
    insula_env::clock::sleep(2 * stall).await;
    assert_eq!(*is_durable.borrow(), Some(Position { term: 1, index: WRITE_EVERY }));

    disk.fail_syncs(true);
    state.apply(due(WRITE_EVERY + 2)).await.expect("apply");
    insula_env::clock::sleep(2 * stall).await;
    disk.fail_syncs(false);
    for _ in 0..2 {
        state
            .apply([entry(1, 2 * WRITE_EVERY + 2)])
            .await
            .expect_err("it has failed, and what comes would leave a gap");
    }
    assert_eq!(*is_durable.borrow(), Some(Position { term: 1, index: WRITE_EVERY }));
}

#[tokio::test]
async fn files_whose_making_was_cut_short_are_made_anew_and_foreign_ones_are_not() {
    let path = config().directory.join("log.redb");
    for (first, is_taken) in [(0, true), (7, false)] {
        let disk = memory();
        let file = disk.open(&path).expect("open");
        file.set_len(8192).expect("extend");
        file.write(0, &[first; 9]).expect("write");
        file.write(4096, &[9; 1000]).expect("write");
        file.sync_data().expect("sync");
        drop(file);
        let opener = Arc::new(disk.clone()) as Arc<dyn Disk>;
        let (_, durable) = watch::channel(None);
        let opened = LogStore::open(&opener, &config(), durable, level(), &Rng::from_seed(1)).await;
        assert_eq!(opened.is_ok(), is_taken, "{:?}", opened.err());
    }
}
