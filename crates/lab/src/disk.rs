//! Faults of a node's disk, made in its own file system (ext4 on a loop image): no device-mapper is needed.
//!
//! *Power loss* shuts the file system down without a flush (what xfstests calls `godown`): writes that were not synced
//! are gone, as they are when a machine loses its power, and the next mount recovers the journal. *Full* takes every
//! free block for one file. *Stall* freezes the file system: writes and syncs wait until it is thawed; what was
//! written before is synced by the freeze itself.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::fstatvfs,
    unistd::syncfs,
};

use crate::{Error, Lab, Process, error::Attempt, init::DATA, machine};

/// What a full disk is full of, at the top of the node's file tree.
const BALLAST: &str = "disk-is-full";
/// `EXT4_GOING_FLAGS_NOLOGFLUSH` (fs/ext4/ext4.h): neither data nor the journal is written any more.
const WITHOUT_FLUSH: u32 = 2;

mod call {
    // <linux/fs.h>: FIFREEZE, FITHAW; fs/ext4/ext4.h: EXT4_IOC_SHUTDOWN.
    nix::ioctl_readwrite!(freeze, b'X', 119, i32);
    nix::ioctl_readwrite!(thaw, b'X', 120, i32);
    nix::ioctl_read!(shutdown, b'X', 125, u32);
}

impl Lab {
    /// Fills a node's disk: what needs a new block fails. [`Lab::mend_disk`] empties it.
    ///
    /// # Errors
    /// When the node is not on, or its disk is stalled.
    pub fn fill_disk(&self, node: &str) -> Result<(), Error> {
        self.change(|state| {
            let node = state.node(node)?;
            if node.is_stalled {
                return Err(Error::Invalid(format!("the disk of {} is stalled: nothing can fill it", node.plan.name)));
            }
            fill(machine::running(node)?)
        })
    }

    /// Stalls the disks of nodes, all within milliseconds: writes and syncs wait until [`Lab::mend_disk`], or until the
    /// node is killed.
    ///
    /// # Errors
    /// When a node is not on, or its disk is stalled.
    pub fn stall_disks(&self, nodes: &[&str]) -> Result<(), Error> {
        self.change(|state| {
            // What takes time is to write what waits in memory: done before the first one stalls.
            for node in nodes {
                let node = state.node(node)?;
                if node.is_stalled {
                    return Err(Error::Invalid(format!("the disk of {} is stalled already", node.plan.name)));
                }
                syncfs(data(machine::running(node)?)?.as_fd()).attempt(|| "write what waits".to_owned())?;
            }
            for node in nodes {
                let node = state.node_mut(node)?;
                freeze(machine::running(node)?)?;
                node.is_stalled = true;
            }
            Ok(())
        })
    }

    /// Ends the stall of a node's disk, and empties a full one.
    ///
    /// # Errors
    /// When the node is not on.
    pub fn mend_disk(&self, node: &str) -> Result<(), Error> {
        self.change(|state| {
            let node = state.node_mut(node)?;
            let init = machine::running(node)?;
            if std::mem::take(&mut node.is_stalled) {
                thaw(init)?;
            }
            empty(init)
        })
    }

    /// Whether a node's disk is stalled.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn is_stalled(&self, node: &str) -> Result<bool, Error> {
        Ok(self.state()?.node(node)?.is_stalled)
    }

    /// Gives a node that is off an empty disk, with nothing on it but the program: it is another machine from here on.
    ///
    /// # Errors
    /// When the node is on.
    pub fn wipe_disk(&self, node: &str) -> Result<(), Error> {
        self.change(|state| machine::wipe_disk(self.files(), state.node(node)?))
    }
}

/// The tree of the node whose first process this is.
fn tree(init: Process) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", init.pid))
}

fn data(init: Process) -> Result<File, Error> {
    let path = tree(init).join(DATA.trim_start_matches('/'));
    File::open(&path).attempt(|| format!("open {}", path.display()))
}

/// Loses what was not synced: from here on nothing reaches the disk.
pub(crate) fn lose_power(init: Process) -> Result<(), Error> {
    let disk = data(init)?;
    let mut how = WITHOUT_FLUSH;
    // SAFETY: the descriptor is open, and the kernel reads one number that outlives the call.
    unsafe { call::shutdown(disk.as_raw_fd(), &raw mut how) }.attempt(|| "cut the disk's power".to_owned()).map(drop)
}

/// Makes every write and sync wait.
pub(crate) fn freeze(init: Process) -> Result<(), Error> {
    let (disk, mut unused) = (data(init)?, 0);
    // SAFETY: the descriptor is open; the argument is not used.
    unsafe { call::freeze(disk.as_raw_fd(), &raw mut unused) }.attempt(|| "stall the disk".to_owned()).map(drop)
}

/// Undoes [`freeze`].
pub(crate) fn thaw(init: Process) -> Result<(), Error> {
    let (disk, mut unused) = (data(init)?, 0);
    // SAFETY: the descriptor is open; the argument is not used.
    match unsafe { call::thaw(disk.as_raw_fd(), &raw mut unused) } {
        // It was not stalled.
        Ok(_) | Err(Errno::EINVAL) => Ok(()),
        Err(error) => Err(error).attempt(|| "end the stall of the disk".to_owned()),
    }
}

/// Takes every free block.
pub(crate) fn fill(init: Process) -> Result<(), Error> {
    let path = tree(init).join(BALLAST);
    let what = || format!("fill the disk with {}", path.display());
    let file = OpenOptions::new().create(true).append(true).open(&path).attempt(what)?;
    // The statistics are those of the disk; the ballast lies on it by way of an overlay.
    let disk = data(init)?;
    loop {
        let free = fstatvfs(disk.as_fd()).attempt(what)?;
        let mut bytes = free.blocks_available() * free.fragment_size();
        if bytes == 0 {
            return Ok(());
        }
        // The file system needs blocks of its own to note which ones are taken.
        while let Err(error) = grow(&file, bytes) {
            if error != Errno::ENOSPC {
                return Err(error).attempt(what);
            }
            bytes /= 2;
            if bytes < free.fragment_size() {
                return Ok(());
            }
        }
    }
}

fn grow(file: &File, bytes: u64) -> Result<(), Errno> {
    let from = file.metadata().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?.len();
    fallocate(file, FallocateFlags::empty(), from as i64, bytes as i64)
}

/// Undoes [`fill`], durably: after a power cut the disk would be full again.
pub(crate) fn empty(init: Process) -> Result<(), Error> {
    let path = tree(init).join(BALLAST);
    let what = || format!("remove {}", path.display());
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.attempt(what)?,
    }
    syncfs(data(init)?.as_fd()).attempt(what)
}
