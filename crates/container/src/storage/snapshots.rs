//! Snapshots: copies of volumes, on the same disk.
//!
//! ```text
//! volumes/snapshots/shop.db.data.0/before-upgrade.img       a snapshot
//! volumes/snapshots/shop.db.data.0/before-upgrade.img.new   one that is being made; worth nothing after a crash
//! ```
//! Always true: a file without `.new` is a whole file system, as it was at one moment, and is never written to; it has its own
//! blocks, so that what is set aside for a volume stays the volume's. A snapshot outlives its volume. All calls block.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use insula_types::{ByteSize, SnapshotName, VolumeRef};
use rustix::fs::statvfs;

use super::{
    copy, ext4,
    frozen::Frozen,
    volumes::{NEW, SUFFIX, Volumes, ensure_unmounted, of_plain, plain},
};
use crate::config::DISK_FREE_MIN;

/// Snapshots of one volume, at most: what piles up by itself is to be noticed.
const SNAPSHOTS_MAX: usize = 64;

/// A snapshot on this node's disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredSnapshot {
    /// Of which volume.
    pub volume: VolumeRef,
    /// Its name among that one's.
    pub snapshot: SnapshotName,
    /// Bytes that the volume had.
    pub size: ByteSize,
    /// Bytes that it takes of the disk.
    pub used: ByteSize,
    /// When it was made.
    pub created: SystemTime,
}

/// The snapshots of this node.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    directory: PathBuf,
    volumes: Volumes,
}

impl Snapshots {
    /// Opens their directory, which is below that of the volumes, and removes what a crash left half-made.
    pub fn open(volumes: &Volumes) -> io::Result<Self> {
        let directory = volumes.directory().join("snapshots");
        make_private(&directory)?;
        let snapshots = Self { directory, volumes: volumes.clone() };
        for (_, of_one) in snapshots.directories()? {
            for entry in fs::read_dir(&of_one)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().ends_with(NEW) {
                    fs::remove_file(entry.path())?;
                }
            }
            remove_if_empty(&of_one);
        }
        Ok(snapshots)
    }

    /// Those that are here, in the order of their names.
    pub fn list(&self) -> io::Result<Vec<StoredSnapshot>> {
        let mut found = Vec::new();
        for (volume, directory) in self.directories()? {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                let name = entry.file_name();
                let Some(snapshot) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok()) else {
                    continue;
                };
                found.push(stored(&volume, &snapshot, &entry.path())?);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Copies a volume, so far that it may be written to again. `mounted` is where an instance has it; none: nobody has, and
    /// nobody may get it meanwhile.
    pub fn begin(
        &self,
        volume: &VolumeRef,
        snapshot: &SnapshotName,
        mounted: Option<&Path>,
        shim: &Path,
        now: SystemTime,
    ) -> io::Result<Half> {
        let image = self.volumes.image(volume);
        let volume_file = open_present(&image, || format!("volume {volume} is not on this disk"))?;
        let path = self.path(volume, snapshot);
        self.refuse_another(volume, snapshot, &path)?;
        ensure_room(&self.directory, copy::data_len(&volume_file)?)?;
        let half = Half::begin(volume, snapshot, path, now)?;
        match mounted {
            Some(directory) => half.fill_frozen(&volume_file, Frozen::begin(shim, &image, directory)?),
            None => {
                ensure_unmounted(&image)?;
                half.fill(&volume_file, || Ok(()))
            }
        }
    }

    /// Puts what is in a snapshot into its volume, which nobody has mounted: all of it or nothing, also after a crash. The volume
    /// gets `size` bytes if those are more than the snapshot has.
    pub fn restore(&self, volume: &VolumeRef, snapshot: &SnapshotName, size: ByteSize) -> io::Result<()> {
        let (from, image) = (self.path(volume, snapshot), self.volumes.image(volume));
        let from = open_present(&from, || absent(volume, snapshot))?;
        if image.exists() {
            ensure_unmounted(&image)?;
        }
        let len = from.metadata()?.len();
        ensure_room(self.volumes.directory(), len.max(size.0))?;
        let new = Temporary(image.with_extension("img.new"));
        let file = new.create()?;
        // It takes its space first, as every volume does.
        ext4::set_aside(&file, len)?;
        copy::copy(&from, &file, || Ok(()))?;
        if ext4::size(&new.0)? < size.0 {
            ext4::grow(&new.0, size.0)?;
        }
        file.sync_all()?;
        fs::rename(&new.0, &image)?;
        self.volumes.sync()
    }

    /// Deletes a snapshot, and gives what it was.
    pub fn remove(&self, volume: &VolumeRef, snapshot: &SnapshotName) -> io::Result<StoredSnapshot> {
        let path = self.path(volume, snapshot);
        open_present(&path, || absent(volume, snapshot))?;
        let removed = stored(volume, snapshot, &path)?;
        fs::remove_file(&path)?;
        remove_if_empty(&self.directory_of(volume));
        File::open(&self.directory)?.sync_all()?;
        Ok(removed)
    }

    fn directory_of(&self, volume: &VolumeRef) -> PathBuf {
        self.directory.join(plain(volume))
    }

    fn path(&self, volume: &VolumeRef, snapshot: &SnapshotName) -> PathBuf {
        self.directory_of(volume).join(format!("{snapshot}{SUFFIX}"))
    }

    /// One for each volume that has any.
    fn directories(&self) -> io::Result<Vec<(VolumeRef, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if let Some(volume) = entry.file_name().to_str().and_then(of_plain) {
                found.push((volume, entry.path()));
            }
        }
        Ok(found)
    }

    fn refuse_another(&self, volume: &VolumeRef, snapshot: &SnapshotName, path: &Path) -> io::Result<()> {
        if path.exists() {
            let why = format!("{volume} has a snapshot {snapshot} already");
            return Err(io::Error::new(ErrorKind::AlreadyExists, why));
        }
        let count = match fs::read_dir(self.directory_of(volume)) {
            Ok(entries) => entries.count(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        if count >= SNAPSHOTS_MAX {
            let why = format!("{volume} has {count} snapshots, and may have {SNAPSHOTS_MAX}: remove one first");
            return Err(io::Error::new(ErrorKind::AlreadyExists, why));
        }
        Ok(())
    }
}

/// A snapshot whose data is safe from changes of its volume, and that is not yet on the disk under its name. Dropped, it leaves
/// nothing.
#[derive(Debug)]
pub(crate) struct Half {
    volume: VolumeRef,
    snapshot: SnapshotName,
    path: PathBuf,
    new: Temporary,
    file: File,
    /// It has the blocks of its volume.
    is_shared: bool,
    created: SystemTime,
}

impl Half {
    fn begin(volume: &VolumeRef, snapshot: &SnapshotName, path: PathBuf, created: SystemTime) -> io::Result<Self> {
        make_private(path.parent().unwrap_or(&path))?;
        let new = Temporary(path.with_extension("img.new"));
        let file = new.create()?;
        let (volume, snapshot) = (volume.clone(), snapshot.clone());
        Ok(Self { volume, snapshot, path, new, file, is_shared: false, created })
    }

    fn fill_frozen(self, from: &File, mut frozen: Frozen) -> io::Result<Self> {
        let half = self.fill(from, || frozen.check())?;
        frozen.end()?;
        Ok(half)
    }

    fn fill(mut self, from: &File, go_on: impl FnMut() -> io::Result<()>) -> io::Result<Self> {
        self.is_shared = copy::share(from, &self.file)?;
        if !self.is_shared {
            copy::copy(from, &self.file, go_on)?;
        }
        Ok(self)
    }

    /// Gives it blocks of its own and its name.
    pub fn finish(mut self) -> io::Result<StoredSnapshot> {
        if self.is_shared {
            let own = Temporary(self.path.with_extension("own.img.new"));
            let file = own.create()?;
            copy::copy(&self.file, &file, || Ok(()))?;
            (self.file, self.new) = (file, own);
        }
        self.file.set_modified(self.created)?;
        self.file.sync_all()?;
        fs::rename(&self.new.0, &self.path)?;
        // The name of the file, and that of its directory, which may be new.
        for above in self.path.ancestors().skip(1).take(2) {
            File::open(above)?.sync_all()?;
        }
        stored(&self.volume, &self.snapshot, &self.path)
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        fs::remove_file(&self.new.0).ok();
        remove_if_empty(self.path.parent().unwrap_or(&self.path));
    }
}

/// The name of a file that is gone when this is dropped, unless it was given another name.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    fn create(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&self.0)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

fn stored(volume: &VolumeRef, snapshot: &SnapshotName, path: &Path) -> io::Result<StoredSnapshot> {
    let found = fs::metadata(path)?;
    Ok(StoredSnapshot {
        volume: volume.clone(),
        snapshot: snapshot.clone(),
        // One that is damaged is here all the same.
        size: ByteSize(ext4::size(path).unwrap_or_default()),
        used: ByteSize(found.blocks() * 512),
        created: found.modified()?,
    })
}

fn absent(volume: &VolumeRef, snapshot: &SnapshotName) -> String {
    format!("{volume} has no snapshot {snapshot} on this disk: `insula volume snapshot ls` lists those there are")
}

fn open_present(path: &Path, absent: impl FnOnce() -> String) -> io::Result<File> {
    File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => io::Error::new(ErrorKind::NotFound, absent()),
        _ => error,
    })
}

/// Fails when the disk would have less free space afterwards than a node keeps.
fn ensure_room(directory: &Path, len: u64) -> io::Result<()> {
    let disk = statvfs(directory)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= len.saturating_add(DISK_FREE_MIN) {
        return Ok(());
    }
    let [len, kept, free] = [len, DISK_FREE_MIN, free].map(|bytes| format!("{} MiB", bytes >> 20));
    let why = format!("the copy takes {len} and {kept} of the disk are kept free, of which {free} are left");
    Err(io::Error::new(ErrorKind::StorageFull, why))
}

fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// A directory with something in it stays.
fn remove_if_empty(directory: &Path) {
    fs::remove_dir(directory).ok();
}
