//! Volumes: file systems that outlive instances.
//!
//! ```text
//! volumes/shop.db.data.0.img       a volume; its directory `data` is what an instance sees
//! volumes/shop.db.data.0.img.new   one that is being made; worth nothing after a crash
//! volumes/snapshots/               copies of volumes: see `snapshots`
//! ```
//! Always true: a file without `.new` is a whole file system; no volume is made by a start, and none is mounted for two
//! instances. Who deletes one has said so: nothing is taken away because it seems not to be needed.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use insula_types::{ByteSize, VolumeRef};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};

use super::ext4::{self, Kind};
use crate::users;

/// What the names of volumes' files end with.
pub(super) const SUFFIX: &str = ".img";
/// What the names of half-made ones end with.
pub(super) const NEW: &str = ".img.new";
/// The directory of a volume's file system that an instance sees, beside what the file system itself keeps.
const DATA: &str = "data";

/// A volume on this node's disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredVolume {
    /// Which.
    pub volume: VolumeRef,
    /// Bytes that are set aside for it.
    pub size: ByteSize,
}

/// The volumes of this node. All calls block.
#[derive(Debug, Clone)]
pub(crate) struct Volumes(PathBuf);

impl Volumes {
    /// Opens the directory, and removes what a crash left half-made.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(NEW) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self(directory))
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Those that are here, in the order of their names.
    pub fn list(&self) -> io::Result<Vec<StoredVolume>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if let Some(volume) = entry.file_name().to_str().and_then(named) {
                // One that is damaged is here all the same; whoever wants to make it larger is told.
                let size = ByteSize(ext4::size(&entry.path()).unwrap_or_default());
                found.push(StoredVolume { volume, size });
            }
        }
        found.sort();
        Ok(found)
    }

    /// Whether it is here.
    pub fn has(&self, volume: &VolumeRef) -> bool {
        self.image(volume).exists()
    }

    /// The file that holds it.
    pub fn image(&self, volume: &VolumeRef) -> PathBuf {
        self.0.join(plain(volume) + SUFFIX)
    }

    /// Makes a volume, or makes it larger; it never gets smaller.
    pub fn make(&self, volume: &VolumeRef, size: ByteSize) -> io::Result<()> {
        let image = self.image(volume);
        match ext4::size(&image) {
            Ok(found) if found >= size.0 => Ok(()),
            Ok(_) => ext4::grow(&image, size.0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let new = image.with_extension("img.new");
                let made = ext4::make(&new, size.0, Kind::Durable).and_then(|()| fs::rename(&new, &image));
                if made.is_err() {
                    // What lacked may have been room.
                    fs::remove_file(&new).ok();
                }
                made.and_then(|()| self.sync())
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes a volume with all that is in it. Fine when it is not here.
    pub fn delete(&self, volume: &VolumeRef) -> io::Result<()> {
        let image = self.image(volume);
        if !image.exists() {
            return Ok(());
        }
        ensure_unmounted(&image)?;
        fs::remove_file(&image).and_then(|()| self.sync())
    }

    /// Shows a volume at the directory `at`, its owners shifted as the user namespace says. `by_way_of` is an empty
    /// directory for the meantime. A new volume gets the owner and the mode of the directory in the image that it covers.
    pub fn mount(
        &self,
        volume: &VolumeRef,
        (by_way_of, at): (&Path, &Path),
        covered: Option<(u32, u32, u32)>,
        users: Option<&OwnedFd>,
    ) -> io::Result<()> {
        for directory in [by_way_of, at] {
            fs::create_dir_all(directory)?;
        }
        ext4::mount(&self.image(volume), by_way_of)?;
        let data = by_way_of.join(DATA);
        let shown = begin(&data, covered).and_then(|()| users::mount_as(&data, at, users));
        shown.and(ext4::unmount_at(by_way_of))
    }

    /// Makes names durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

/// Fails while a file's file system is mounted. The kernel lets go of it a moment after the last instance did.
pub(super) fn ensure_unmounted(image: &Path) -> io::Result<()> {
    let Some(device) = ext4::loop_device(image)? else { return Ok(()) };
    let why = format!("it is still mounted, by way of {}", device.display());
    Err(io::Error::new(io::ErrorKind::ResourceBusy, why))
}

/// Unmounts a volume from where an instance had it, and waits for all to be written.
pub(crate) fn unmount(at: &Path) -> io::Result<()> {
    ext4::unmount_at(at)
}

/// Makes the directory that instances see, when it is not there yet.
fn begin(data: &Path, covered: Option<(u32, u32, u32)>) -> io::Result<()> {
    if data.exists() {
        return Ok(());
    }
    // Whole or not at all: its owner must be right even after a crash.
    let new = data.with_extension("new");
    fs::create_dir_all(&new)?;
    let (user, group, mode) = covered.unwrap_or((0, 0, 0o755));
    std::os::unix::fs::chown(&new, Some(user), Some(group))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode & 0o7777))?;
    fs::rename(&new, data)
}

/// User, group and mode of a directory in a mounted root whose ids begin at `first`; none: there is no such directory.
pub(crate) fn covered(rootfs: &Path, path: &str, first: u32) -> io::Result<Option<(u32, u32, u32)>> {
    let root = openat(CWD, rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Links in the image lead to its own directories, never to the node's.
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(&root, path, flags, Mode::empty(), inside) {
        Ok(directory) => {
            let found = File::from(directory).metadata()?;
            let id = |id: u32| id.saturating_sub(first);
            Ok(Some((id(found.uid()), id(found.gid()), found.mode())))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The volume that a file holds, by its name.
fn named(file: &str) -> Option<VolumeRef> {
    of_plain(file.strip_suffix(SUFFIX)?)
}

/// A volume's name as one name of a file.
pub(super) fn plain(volume: &VolumeRef) -> String {
    let VolumeRef { service, name, slot } = volume;
    format!("{}.{}.{name}.{slot}", service.app, service.service)
}

/// The volume that [`plain`] has written so.
pub(super) fn of_plain(text: &str) -> Option<VolumeRef> {
    let mut parts = text.split('.');
    let mut part = || parts.next();
    let (app, service, name, slot) = (part()?, part()?, part()?, part()?);
    let volume = format!("{app}/{service}/{name}.{slot}").parse().ok()?;
    parts.next().is_none().then_some(volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_their_volumes() {
        let volumes = Volumes(PathBuf::from("/v"));
        let volume: VolumeRef = "shop/db/data.12".parse().expect("valid");
        assert_eq!(volumes.image(&volume), Path::new("/v/shop.db.data.12.img"));
        assert_eq!(named("shop.db.data.12.img"), Some(volume));
        for other in ["shop.db.data.12.img.new", "lost+found", "a.b.c.img", "a.b.c.1.2.img", ".img"] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn a_volume_is_made_grown_and_deleted_and_a_half_made_one_forgotten() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let volumes = Volumes::open(directory.path().to_owned()).expect("a directory");
        let volume: VolumeRef = "shop/db/data.0".parse().expect("valid");
        volumes.make(&volume, ByteSize::mib(16)).expect("made");
        volumes.make(&volume, ByteSize::mib(8)).expect("never smaller");
        let size = |mib| vec![StoredVolume { volume: volume.clone(), size: ByteSize::mib(mib) }];
        assert_eq!(volumes.list().expect("listed"), size(16));
        volumes.make(&volume, ByteSize::mib(40)).expect("larger");
        assert_eq!(volumes.list().expect("listed"), size(40));
        let used = rustix::fs::stat(volumes.image(&volume)).expect("there").st_blocks as u64 * 512;
        assert!(used >= 40 << 20, "its space is set aside: {used}");

        let half = directory.path().join("shop.db.other.0.img.new");
        fs::write(&half, "half").expect("written");
        let volumes = Volumes::open(directory.path().to_owned()).expect("again");
        assert!(!half.exists());
        volumes.delete(&volume).expect("deleted");
        volumes.delete(&volume).expect("gone already");
        assert!(volumes.list().expect("listed").is_empty());
    }

    #[test]
    fn a_volume_for_which_there_is_no_room_leaves_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let volumes = Volumes::open(directory.path().to_owned()).expect("a directory");
        let volume: VolumeRef = "shop/db/data.0".parse().expect("valid");
        volumes.make(&volume, ByteSize::mib(1 << 40)).expect_err("more than any disk");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 0);
    }
}
