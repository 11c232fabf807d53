//! A disk in memory that fails the way disks do: for tests and the simulation (feature `memory-disk`).
//!
//! At a power loss every write since the last sync is kept, torn at sectors, or lost, each by itself; what was synced
//! stays. Handles from before the loss only give errors. A sync can be slow, and can fail.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;

use crate::{
    BlockFile, Clock, Disk, Rng,
    clock::{Instant, sleep, sleep_until},
    disk::DiskJob,
};

/// What a power loss keeps or loses as a whole.
const SECTOR_BYTES: usize = 512;

/// One machine's disk. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryDisk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    rng: Rng,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<PathBuf, Contents>,
    /// Counts power losses; a handle belongs to one life.
    life: u64,
    /// Shortest and longest time that work takes.
    delay: (Duration, Duration),
    stalled_until: Option<Instant>,
    fails_syncs: bool,
    is_full: bool,
    syncs: u64,
}

#[derive(Debug, Default)]
struct Contents {
    /// What reads give.
    current: Vec<u8>,
    /// What a power loss leaves.
    durable: Vec<u8>,
    /// What leads from `durable` to `current`.
    unsynced: Vec<Change>,
    is_open: bool,
}

#[derive(Debug, Clone)]
enum Change {
    SetLen(usize),
    Write(usize, Vec<u8>),
}

impl Change {
    /// The length that the file has afterwards at least.
    fn end(&self) -> usize {
        match self {
            Self::SetLen(len) => *len,
            Self::Write(offset, data) => offset + data.len(),
        }
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::SetLen(len) => bytes.resize(*len, 0),
            Self::Write(offset, data) => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
        }
    }
}

impl MemoryDisk {
    /// An empty disk that fails only when told to.
    pub fn new(clock: Clock, rng: Rng) -> Self {
        Self(Arc::new(Inner { clock, rng, state: Mutex::default() }))
    }

    /// Work takes from `shortest` to `longest`.
    pub fn set_delay(&self, shortest: Duration, longest: Duration) {
        self.0.state.lock().delay = (shortest, longest);
    }

    /// No work ends before that moment.
    pub fn stall_until(&self, until: Instant) {
        self.0.state.lock().stalled_until = Some(until);
    }

    /// Syncs fail from now on, or work again.
    pub fn fail_syncs(&self, fails: bool) {
        self.0.state.lock().fails_syncs = fails;
    }

    /// Nothing can grow from now on, or there is room again. What has its place can be written all the same.
    pub fn fill(&self, is_full: bool) {
        self.0.state.lock().is_full = is_full;
    }

    /// Whether syncs fail, or nothing can grow.
    pub fn is_failing(&self) -> bool {
        let state = self.0.state.lock();
        state.fails_syncs || state.is_full
    }

    /// Syncs that were done so far.
    pub fn syncs(&self) -> u64 {
        self.0.state.lock().syncs
    }

    /// Cuts the power and brings it back. The same `seed` decides the same about the same writes, in whatever order
    /// they were made.
    pub fn lose_power(&self, seed: u64) {
        let mut state = self.0.state.lock();
        state.life += 1;
        state.fails_syncs = false;
        state.stalled_until = None;
        for (path, contents) in &mut state.files {
            for change in std::mem::take(&mut contents.unsynced) {
                survive(&change, path, seed, &mut contents.durable);
            }
            contents.current = contents.durable.clone();
            contents.is_open = false;
        }
    }

    /// The process was killed: its handles are void, what it wrote stays, synced or not.
    pub fn kill_process(&self) {
        let mut state = self.0.state.lock();
        state.life += 1;
        for contents in state.files.values_mut() {
            contents.is_open = false;
        }
    }

    /// Removes everything, as a new disk would.
    pub fn wipe(&self) {
        let mut state = self.0.state.lock();
        state.life += 1;
        state.files.clear();
    }

    fn with<R>(&self, life: u64, path: &Path, act: impl FnOnce(&mut Contents) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.0.state.lock();
        if state.life != life {
            return Err(io::Error::other("the machine has lost power"));
        }
        act(state.files.get_mut(path).ok_or(io::ErrorKind::NotFound)?)
    }
}

/// What a power loss makes of one change: one in three is kept, one is lost, one is torn.
fn survive(change: &Change, path: &Path, seed: u64, durable: &mut Vec<u8>) {
    let draw = |at: usize| {
        let mut hasher = Fnv(seed ^ 0xcbf2_9ce4_8422_2325);
        (path, at).hash(&mut hasher);
        hasher.finish() >> 32
    };
    match change {
        Change::SetLen(len) if draw(*len) % 2 == 0 => change.apply(durable),
        Change::SetLen(_) => {}
        Change::Write(offset, data) => {
            let fate = draw(*offset) % 3;
            for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                let at = offset + index * SECTOR_BYTES;
                if fate == 0 || fate == 1 && draw(at) % 2 == 0 {
                    Change::Write(at, sector.to_vec()).apply(durable);
                }
            }
        }
    }
}

/// FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>: the same on every run, unlike the standard library's.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    fn finish(&self) -> u64 {
        // Mix once more: FNV's high bits are weak for short input.
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn BlockFile>> {
        let mut state = self.0.state.lock();
        let life = state.life;
        if state.is_full && !state.files.contains_key(path) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let contents = state.files.entry(path.to_owned()).or_default();
        if std::mem::replace(&mut contents.is_open, true) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "it is open already"));
        }
        drop(state);
        Ok(Box::new(MemoryFile { disk: self.clone(), path: path.to_owned(), life }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.0.state.lock();
        state.files.get(path).map(|contents| contents.current.clone()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.state.lock();
        if state.fails_syncs {
            return Err(io::Error::other("a sync failed, as planned"));
        }
        if state.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.syncs += 1;
        let contents = state.files.entry(path.to_owned()).or_default();
        contents.current = bytes.to_vec();
        contents.durable = bytes.to_vec();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.state.lock().files.remove(path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.state.lock();
        if state.files.keys().any(|path| path.starts_with(to)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let moved: Vec<PathBuf> = state.files.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in &moved {
            if let (Ok(rest), Some(contents)) = (path.strip_prefix(from), state.files.remove(path)) {
                let renamed = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
                state.files.insert(renamed, contents);
            }
        }
        if moved.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }

    fn free(&self, _: &Path) -> io::Result<u64> {
        Ok(if self.0.state.lock().is_full { 0 } else { u64::MAX })
    }

    fn run(&self, job: DiskJob) -> BoxFuture<'static, ()> {
        let disk = self.clone();
        async move {
            let (life, delay, stalled) = {
                let state = disk.0.state.lock();
                (state.life, state.delay, state.stalled_until)
            };
            if delay.1 > Duration::ZERO {
                let micros = disk.0.rng.range(delay.0.as_micros() as u64, delay.1.as_micros() as u64);
                sleep(Duration::from_micros(micros)).await;
            }
            if let Some(until) = stalled.filter(|until| *until > disk.0.clock.now()) {
                sleep_until(until).await;
            }
            if disk.0.state.lock().life != life {
                // The machine is gone; so is whoever waits here.
                std::future::pending::<()>().await;
            }
            job();
        }
        .boxed()
    }
}

/// An open file of a [`MemoryDisk`].
#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    path: PathBuf,
    life: u64,
}

impl MemoryFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let is_full = self.disk.0.state.lock().is_full;
        self.disk.with(self.life, &self.path, |contents| {
            if is_full && change.end() > contents.current.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            change.apply(&mut contents.current);
            contents.unsynced.push(change);
            Ok(())
        })
    }
}

impl BlockFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        self.disk.with(self.life, &self.path, |contents| Ok(contents.current.len() as u64))
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.with(self.life, &self.path, |contents| {
            let start = offset as usize;
            let bytes = contents.current.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        {
            let mut state = self.disk.0.state.lock();
            if state.life == self.life && state.fails_syncs {
                return Err(io::Error::other("a sync failed, as planned"));
            }
            state.syncs += 1;
        }
        self.disk.with(self.life, &self.path, |contents| {
            let Contents { durable, unsynced, .. } = contents;
            for change in unsynced.drain(..) {
                change.apply(durable);
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset as usize, data.to_vec()))
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        self.disk
            .with(self.life, &self.path, |contents| {
                contents.is_open = false;
                Ok(())
            })
            .ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> MemoryDisk {
        MemoryDisk::new(Clock::real(), Rng::from_seed(1))
    }

    #[test]
    fn a_power_loss_keeps_what_was_synced_and_tears_the_rest() {
        let (path, mut fates) = (Path::new("a"), std::collections::BTreeSet::new());
        for seed in 0..50 {
            let disk = disk();
            let file = disk.open(path).expect("open");
            file.write(0, &[1; 2048]).expect("write");
            file.sync_data().expect("sync");
            file.write(1024, &[2; 1024]).expect("write");
            disk.lose_power(seed);
            assert!(file.len().is_err(), "a handle does not outlive its machine");
            let left = disk.read(path).expect("read");
            assert_eq!((left.len(), &left[..1024]), (2048, &[1; 1024][..]));
            fates.insert((left[1024], left[1536]));
        }
        assert_eq!(fates.len(), 4, "kept, lost, and torn either way: {fates:?}");
    }

    #[test]
    fn a_full_disk_takes_what_has_its_place() {
        let disk = disk();
        let file = disk.open(Path::new("a")).expect("open");
        file.set_len(100).expect("room");
        disk.fill(true);
        file.write(50, &[1; 50]).expect("it is there");
        assert_eq!(file.write(51, &[1; 50]).expect_err("full").kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.write_atomic(Path::new("b"), b"x").expect_err("full").kind(), io::ErrorKind::StorageFull);
        disk.fill(false);
        file.write(51, &[1; 50]).expect("room again");
    }

    #[test]
    fn a_failing_sync_makes_nothing_durable_and_a_file_has_one_opener() {
        let disk = disk();
        let file = disk.open(Path::new("a")).expect("open");
        assert!(disk.open(Path::new("a")).is_err());
        disk.fail_syncs(true);
        file.write(0, &[1; 10]).expect("write");
        assert!(file.sync_data().is_err());
        drop(file);
        disk.open(Path::new("a")).expect("open again");
    }
}
