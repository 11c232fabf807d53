//! File systems in files. All calls block.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, unmount,
    },
};
use serde::Deserialize;

/// How long what is in it shall last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Survives power cuts; its space is set aside.
    Durable,
    /// Is thrown away with its instance; takes the space that is written to.
    Scratch,
}

/// How a file system is made that is thrown away: as little as can be is written to it, and it has as many files as mkfs gives
/// to large ones, also when it is small. It has no name, since many are the same. Where the disk below is full it goes on as well
/// as it can, and has checksums for what it could not write.
const SCRATCH: &[&str] = &[
    "-b",
    "4096",
    "-i",
    "16384",
    "-e",
    "continue",
    "-U",
    "00000000-0000-0000-0000-000000000000",
    "-O",
    "^has_journal,^resize_inode,sparse_super2",
    "-E",
    "nodiscard,lazy_itable_init=1,num_backup_sb=0",
];

/// Makes a file with an empty file system of `size` bytes in it. What was at `image` is replaced.
pub(super) fn make(image: &Path, size: u64, kind: Kind) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(image)?;
    let features: &[&str] = match kind {
        Kind::Durable => {
            set_aside(&file, size)?;
            &["-E", "nodiscard,lazy_itable_init=1"]
        }
        Kind::Scratch => {
            file.set_len(size)?;
            SCRATCH
        }
    };
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-m", "0"]).args(features).arg("--").arg(image);
    run(&mut command)?;
    if kind == Kind::Durable { file.sync_all() } else { Ok(()) }
}

/// Bytes of the file system in a file; the file's length when all of it is used. A growth that broke off shows here.
///
/// The superblock is at byte 1024 (<https://docs.kernel.org/filesystems/ext4/super.html>).
pub(super) fn size(image: &Path) -> io::Result<u64> {
    let file = File::open(image)?;
    let mut superblock = [0; 1024];
    file.read_exact_at(&mut superblock, 1024)?;
    let word = |at: usize| u32::from_le_bytes([at, at + 1, at + 2, at + 3].map(|at| superblock[at]));
    let is_ext4 = superblock[0x38..0x3a] == [0x53, 0xef] && word(0x18) <= 6;
    if !is_ext4 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no ext4 file system"));
    }
    let block = 1024_u64 << word(0x18);
    let blocks = u64::from(word(0x150)) << 32 | u64::from(word(0x4));
    let (used, len) = (blocks.saturating_mul(block), file.metadata()?.len());
    Ok(if used <= len && len - used < block { len } else { used.min(len) })
}

/// Makes the file system larger, whether or not it is mounted. While it is, that takes CAP_SYS_RESOURCE.
pub(super) fn grow(image: &Path, size: u64) -> io::Result<()> {
    set_aside(&OpenOptions::new().write(true).open(image)?, size)?;
    match loop_device(image)? {
        Some(device) => {
            run(Command::new("losetup").arg("--set-capacity").arg(&device))?;
            run(Command::new("resize2fs").arg(&device))
        }
        None => {
            check(image)?;
            run(Command::new("resize2fs").arg(image))
        }
    }
}

/// Mounts the durable file system in a file at a directory. What a power cut left half-done is finished by its journal. A loop
/// device that still shows the file, since its last mount went a moment ago, is taken again.
pub(super) fn mount(image: &Path, at: &Path) -> io::Result<()> {
    run(Command::new("mount").args(["-t", "ext4", "-o", "loop,nosuid,nodev,noatime", "--"]).arg(image).arg(at))
}

/// The mount of a file system on a device that is thrown away, at no directory yet; it goes with the descriptor until it is.
pub(super) fn open(device: &Path) -> rustix::io::Result<OwnedFd> {
    let filesystem = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&filesystem, "source", device)?;
    for option in ["discard", "noinit_itable", "nobarrier"] {
        fsconfig_set_flag(&filesystem, option)?;
    }
    fsconfig_create(&filesystem)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOATIME;
    fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Unmounts what is at a directory, and waits for it to be written back; fine when nothing is.
pub(super) fn unmount_at(at: &Path) -> io::Result<()> {
    match unmount(at, UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The loop device that shows a file, while it is mounted anywhere.
pub(super) fn loop_device(image: &Path) -> io::Result<Option<PathBuf>> {
    let output = Command::new("losetup").args(["--noheadings", "--output", "NAME", "--associated"]).arg(image).output();
    let output = output.map_err(|error| missing("losetup", error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().map(str::trim).filter(|line| !line.is_empty()).map(PathBuf::from))
}

/// The files that loop devices show, one for each device, as far as they are on the disk that their names lead to: nodes that
/// share a kernel, as in a lab, see each other's devices, with files of the same names on other disks.
pub(crate) fn loop_files() -> io::Result<Vec<PathBuf>> {
    let mut command = Command::new("losetup");
    command.args(["--list", "--json", "--output", "BACK-MAJ:MIN,BACK-FILE"]);
    let output = command.output().map_err(|error| missing("losetup", error))?;
    if output.stdout.is_empty() {
        return Ok(Vec::new());
    }
    let listed: LoopDevices = serde_json::from_slice(&output.stdout)?;
    let files = listed.devices.into_iter().filter_map(|one| {
        let file = PathBuf::from(one.file?.trim_end_matches(" (deleted)"));
        let device = file.ancestors().skip(1).find_map(|above| fs::metadata(above).ok())?.dev();
        (one.disk.trim() == format!("{}:{}", libc::major(device), libc::minor(device))).then_some(file)
    });
    Ok(files.collect())
}

/// What losetup(8) lists.
#[derive(Deserialize)]
struct LoopDevices {
    #[serde(rename = "loopdevices")]
    devices: Vec<LoopDevice>,
}

#[derive(Deserialize)]
struct LoopDevice {
    #[serde(rename = "back-maj:min")]
    disk: String,
    #[serde(rename = "back-file")]
    file: Option<String>,
}

/// Repairs what can be repaired without a question. `resize2fs` asks for it.
fn check(image: &Path) -> io::Result<()> {
    let status = Command::new("e2fsck").args(["-f", "-p"]).arg(image).stdout(Stdio::null()).status();
    match status.map_err(|error| missing("e2fsck", error))?.code() {
        // Nothing wrong, or all of it repaired.
        Some(0 | 1) => Ok(()),
        _ => Err(io::Error::other("its file system is damaged: run e2fsck on it by hand")),
    }
}

/// Takes the space now, so that what an instance writes later is never refused for lack of it.
pub(super) fn set_aside(file: &File, size: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(()),
        // Not every file system can; then places are found when they are written.
        Err(Errno::OPNOTSUPP) => file.set_len(size.max(file.metadata()?.len())),
        Err(error) => Err(error.into()),
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| missing(&program, error))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}", words.trim().replace('\n', "; "))))
}

fn missing(program: &str, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::new(error.kind(), format!("{program} is not installed: it is in e2fsprogs or util-linux"))
        }
        _ => error,
    }
}
