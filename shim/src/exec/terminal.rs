//! A terminal of the container's own kind, made from within.

use std::{
    fs::OpenOptions,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, fchown},
    },
};

use nix::{
    errno::Errno,
    libc,
    sys::statfs::{FsType, fstatfs},
    unistd::{self, Uid},
};

/// Where terminals are made. Not `/dev/ptmx`, which is the container's to replace.
const MAKER: &str = "/dev/pts/ptmx";
/// Number of that device.
const MAKER_DEVICE: (u32, u32) = (5, 2);
/// The file system that it is on (`DEVPTS_SUPER_MAGIC`).
const DEVPTS: libc::__fsword_t = 0x1cd1;

/// Makes a terminal that controls this session and is all of its standard streams; gives its other side.
pub fn open((rows, columns): (u16, u16), user: Uid) -> std::io::Result<OwnedFd> {
    let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
    let master = OpenOptions::new().read(true).write(true).custom_flags(flags).open(MAKER)?;
    let found = master.metadata()?;
    let device = (libc::major(found.rdev()), libc::minor(found.rdev()));
    let is_real = found.file_type().is_char_device() && device == MAKER_DEVICE;
    if !is_real || fstatfs(&master)?.filesystem_type() != FsType(DEVPTS) {
        return Err(std::io::Error::other(format!("{MAKER} is not what the container was given")));
    }
    let (master, unlock) = (OwnedFd::from(master), 0);
    // SAFETY: reads one number, which lives through the call.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    // By the descriptor, not by a name, which could lead elsewhere.
    // SAFETY: no memory is concerned.
    let terminal = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | flags) };
    // SAFETY: the kernel has just given it to us.
    let terminal = unsafe { OwnedFd::from_raw_fd(Errno::result(terminal)?) };
    fchown(&terminal, Some(user.as_raw()), None)?;
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: reads one structure, which lives through the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    // SAFETY: no memory is concerned.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    unistd::dup2_stdin(&terminal)?;
    unistd::dup2_stdout(&terminal)?;
    unistd::dup2_stderr(&terminal)?;
    Ok(master)
}
