//! The writable layers of instances: each a file system in a file, which takes the space that is written to and gives back
//! what is deleted.
//!
//! A layer goes with its instance, so it needs no journal, no `fsync` that reaches the disk, and no write that is still to be
//! done when the instance is gone. No program is started for one: what `mkfs.ext4` writes is remembered for each size, and
//! written again. A few of the usual size are made ahead, since the kernel writes to the disk and waits for other processors
//! when it makes a device (docs/adr/2026-11-23-every-layer-is-bounded.md).
//!
//! ```text
//! layers/7.img   one that is made ahead; mounted nowhere, so that it goes with the agent's process, but for the file
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use insula_types::{ByteSize, ServiceSpec};
use parking_lot::Mutex;
use rustix::{
    fs::{CWD, Mode, mkdirat, statvfs},
    mount::{MoveMountFlags, move_mount},
};

use super::{
    copy,
    ext4::{self, Kind},
    loops::{BLOCK_LEN, LoopDevice, is_of},
};

/// The directories of a layer that overlayfs wants: what is written, and one for itself. They are made with the layer, since
/// that reads what is free from the disk.
pub(crate) const UPPER: &str = "upper";
pub(crate) const WORK: &str = "work";

/// Layers that are made ahead: as many as the node agent starts at a time.
const READY_MAX: usize = 4;
/// What a layer may hold when nobody says; never more than this part of the disk.
const USUAL: u64 = 10 << 30;
const SHARE: u64 = 4;
/// With less room on the disk, an empty layer may not fit.
const FREE_MIN: u64 = 16 << 20;
/// Sizes that are remembered, and bytes of each; those of 10 GiB are 60 KiB.
const TEMPLATES_MAX: usize = 16;
const TEMPLATE_LEN_MAX: u64 = 4 << 20;

/// `EXT4_IOC_SHUTDOWN` of fs/ext4/ext4.h: `_IOR('X', 125, __u32)`, and `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
const WITHOUT_WRITING: u32 = 2;

/// Names those that are made ahead; never twice in a process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Makes layers.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    /// Where they are made ahead.
    directory: PathBuf,
    /// Bytes of a layer whose service does not say; none: this node cannot bound layers.
    usual: Option<u64>,
    templates: Mutex<BTreeMap<u64, Arc<Template>>>,
    ready: Mutex<Ready>,
    /// Held by whoever makes them ahead.
    turn: Mutex<()>,
}

/// Layers of the usual size that nobody has yet: their files and mounts.
#[derive(Debug, Default)]
struct Ready {
    layers: Vec<(PathBuf, OwnedFd)>,
    /// No more are made.
    is_closed: bool,
}

impl Layers {
    /// Removes what an earlier process had made ahead in `directory`, and makes a first one: it shows whether this node can have
    /// layers. One holds `usual` bytes, or what suits the disk, when its service does not say.
    pub fn open(directory: PathBuf, usual: Option<ByteSize>) -> io::Result<Self> {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                remove_file(&entry.path())?;
            }
        }
        let size = usual.map_or_else(|| suitable(&directory), |usual| Ok(usual.0))?;
        let layers = Self { directory, usual: Some(size), ..Self::default() };
        match layers.make_ahead(1) {
            // A disk that is full says nothing about what this node can do when it has room.
            Err(error) if free(&layers.directory)? > FREE_MIN => Err(error),
            _ => Ok(layers),
        }
    }

    /// Makes some ahead, up to as many as there shall be, unless another thread is at it.
    pub fn refill(&self) -> io::Result<()> {
        self.make_ahead(READY_MAX)
    }

    fn make_ahead(&self, count: usize) -> io::Result<()> {
        let (Some(size), Some(_turn)) = (self.usual, self.turn.try_lock()) else { return Ok(()) };
        loop {
            let is_enough = |ready: &Ready| ready.is_closed || ready.layers.len() >= count;
            if is_enough(&self.ready.lock()) {
                return Ok(());
            }
            let image = self.directory.join(format!("{}.img", NEXT.fetch_add(1, Ordering::Relaxed)));
            let made = self.make(&image, size);
            let mut ready = self.ready.lock();
            match made {
                Ok(mount) if !ready.is_closed => ready.layers.push((image, mount)),
                made => {
                    let made = made.map(drop);
                    return remove_file(&image).and(made);
                }
            }
        }
    }

    /// Lets go of those that were made ahead, and makes no more: the node goes away.
    pub fn close(&self) -> io::Result<()> {
        self.ready.lock().is_closed = true;
        // Whoever is at it stops after that one.
        let _turn = self.turn.lock();
        self.ready.lock().layers.drain(..).try_for_each(|(image, mount)| {
            drop(mount);
            remove_file(&image)
        })
    }

    /// Whether a file is that of a layer which is made ahead: its device is nobody else's to look after.
    pub fn is_ahead(&self, file: &Path) -> bool {
        file.parent() == Some(&self.directory)
    }

    /// Whether layers are bounded also when their services do not say.
    pub fn are_bounded(&self) -> bool {
        self.usual.is_some()
    }

    /// Bytes that the layer of such an instance may hold; none: it gets no file system of its own.
    pub fn size(&self, service: &ServiceSpec) -> Option<u64> {
        // Nothing writes to a root that is read-only.
        let usual = self.usual.filter(|_| !service.is_read_only);
        service.resources.disk.map(|size| size.0).or(usual)
    }

    /// Makes a layer of `size` bytes in the file `image` and mounts it at `at`.
    pub fn mount(&self, image: &Path, at: &Path, size: u64) -> io::Result<()> {
        fs::create_dir_all(at)?;
        let mount = match self.take(image, size) {
            Some(mount) => mount,
            None => self.make(image, size)?,
        };
        Ok(move_mount(&mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    }

    /// One that was made ahead, its file now at `image`.
    fn take(&self, image: &Path, size: u64) -> Option<OwnedFd> {
        let is_usual = self.usual == Some(size);
        let (ahead, mount) = is_usual.then(|| self.ready.lock().layers.pop())??;
        // Without its name nobody could tell whose it is.
        fs::rename(ahead, image).is_ok().then_some(mount)
    }

    fn make(&self, image: &Path, size: u64) -> io::Result<OwnedFd> {
        let device = LoopDevice::attach(&self.format(image, size / BLOCK_LEN * BLOCK_LEN)?)?;
        let mount = ext4::open(device.path())?;
        for directory in [UPPER, WORK] {
            mkdirat(&mount, directory, Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH)?;
        }
        Ok(mount)
    }

    /// An empty file system. What was at `image` is removed first, since a device may still show it.
    fn format(&self, image: &Path, size: u64) -> io::Result<File> {
        remove_file(image)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(image)?;
        let known = self.templates.lock().get(&size).cloned();
        if let Some(template) = known {
            file.set_len(size)?;
            template.write(&file)?;
            return Ok(file);
        }
        ext4::make(image, size, Kind::Scratch)?;
        if let Some(template) = Template::read(&file)? {
            let mut templates = self.templates.lock();
            if templates.len() >= TEMPLATES_MAX {
                templates.clear();
            }
            templates.insert(size, Arc::new(template));
        }
        Ok(file)
    }
}

/// What an empty file system has in it: its blocks that are not zero, and where they are.
#[derive(Debug)]
struct Template(Vec<(u64, Vec<u8>)>);

impl Template {
    /// None: it is too large to be kept in memory.
    fn read(file: &File) -> io::Result<Option<Self>> {
        let mut blocks = Vec::new();
        if copy::data_len(file)? > TEMPLATE_LEN_MAX {
            return Ok(None);
        }
        for (begin, end) in copy::parts(file)? {
            for at in (begin..end).step_by(BLOCK_LEN as usize) {
                let mut block = vec![0; BLOCK_LEN as usize];
                file.read_exact_at(&mut block, at)?;
                if block.iter().any(|byte| *byte != 0) {
                    blocks.push((at, block));
                }
            }
        }
        Ok(Some(Self(blocks)))
    }

    fn write(&self, file: &File) -> io::Result<()> {
        self.0.iter().try_for_each(|(at, block)| file.write_all_at(block, *at))
    }
}

/// To be called before the layer of an instance that has ended is unmounted: what it wrote and is not on the disk yet never gets
/// there. Fine when nothing is mounted.
pub(crate) fn give_up_layer(image: &Path, at: &Path) -> io::Result<()> {
    // Where the layer is not mounted, that directory is on the node's own disk, which must go on.
    if let Ok(mounted) = File::open(at)
        && is_of(&mounted, image)?
    {
        let how = WITHOUT_WRITING;
        // SAFETY: it reads a number, which lives through the call; the descriptor is open. After an error there is more to write.
        unsafe { libc::ioctl(mounted.as_raw_fd(), SHUTDOWN, &raw const how) };
    }
    Ok(())
}

/// What a layer may hold on the disk of a directory.
fn suitable(directory: &Path) -> io::Result<u64> {
    let disk = statvfs(directory)?;
    Ok(USUAL.min(disk.f_blocks.saturating_mul(disk.f_frsize) / SHARE))
}

fn free(directory: &Path) -> io::Result<u64> {
    let disk = statvfs(directory)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const SIZES: [u64; 3] = [8 << 20, 24 << 20, 10 << 30];

    fn data(path: &Path) -> Vec<(u64, Vec<u8>)> {
        let file = File::open(path).expect("there");
        Template::read(&file).expect("read").expect("small").0
    }

    #[test]
    fn what_is_written_again_is_what_mkfs_wrote() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let layers = Layers::default();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        for size in SIZES {
            layers.format(&first, size).expect("by mkfs");
            layers.format(&second, size).expect("again");
            assert_eq!(ext4::size(&second).expect("ext4"), size);
            assert_eq!(data(&first), data(&second), "{size}");
            let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(&second).output().expect("e2fsck");
            assert!(checked.status.success(), "{size}: {checked:?}");
        }
        let known: Vec<u64> = layers.templates.lock().keys().copied().collect();
        assert_eq!(known, SIZES);
        let usual = layers.templates.lock()[&(10 << 30)].0.len();
        assert!(usual <= 24, "a start writes few blocks: {usual}");
    }

    #[test]
    fn few_sizes_are_remembered_and_none_of_much_metadata() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let layers = Layers::default();
        let image = directory.path().join("image");
        for size in 8..8 + TEMPLATES_MAX as u64 + 1 {
            layers.format(&image, size << 20).expect("made");
        }
        assert_eq!(layers.templates.lock().len(), 1);
        fs::write(&image, vec![1; TEMPLATE_LEN_MAX as usize + 1]).expect("written");
        assert!(Template::read(&File::open(&image).expect("there")).expect("read").is_none());
    }

    #[test]
    fn a_layer_gets_what_its_service_says_or_what_is_usual() {
        let layers = Layers { usual: Some(7), ..Layers::default() };
        let mut service = ServiceSpec::default();
        assert_eq!((layers.size(&service), Layers::default().size(&service)), (Some(7), None));
        service.is_read_only = true;
        assert_eq!(layers.size(&service), None);
        service.resources.disk = Some(ByteSize(9));
        assert_eq!((layers.size(&service), Layers::default().size(&service)), (Some(9), Some(9)));
        let suits = suitable(&std::env::temp_dir()).expect("a disk");
        assert!(suits > 0 && suits <= USUAL, "{suits}");
    }
}
