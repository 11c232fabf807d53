//! File systems that are kept still while they are copied. All calls block.
//!
//! Whatever writes to a frozen file system waits, and cannot be killed meanwhile. So a process of its own freezes, and thaws
//! when this one says so, ends or takes too long; should that be killed too, [`thaw`] follows when the runtime is opened.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::io::Errno;

use super::loops::is_of;
use crate::shim::protocol::{FROZEN, FROZEN_MAX, FROZEN_TOO_LONG};

/// `FITHAW` of linux/fs.h: `_IOWR('X', 120, int)`.
const THAW: libc::c_ulong = 0xc004_5878;
/// Longest line of the process that freezes, in bytes.
const WORD_LEN_MAX: u64 = 1024;

/// A file system that is frozen until this is ended or dropped, or [`FROZEN_MAX`] has passed.
#[derive(Debug)]
pub(super) struct Frozen {
    holder: Child,
    mounted: File,
}

impl Frozen {
    /// Freezes the file system of `image`, which is mounted at `directory`; all that was written to it before is in the
    /// image then. Fails when anything else is there: whatever that is, it must not stand still.
    pub fn begin(shim: &Path, image: &Path, directory: &Path) -> io::Result<Self> {
        let elsewhere = || {
            let why = "its instance is being started or removed: try again in a moment";
            io::Error::new(io::ErrorKind::ResourceBusy, why)
        };
        let mounted = File::open(directory).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => elsewhere(),
            _ => error,
        })?;
        if !is_of(&mounted, image)? {
            return Err(elsewhere());
        }
        // The very directory that was looked at, whatever is mounted or unmounted there meanwhile.
        let same = format!("/proc/{}/fd/{}", std::process::id(), mounted.as_raw_fd());
        let mut command = Command::new(shim);
        command
            .args(["--freeze", &same])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut frozen = Self { holder: command.spawn()?, mounted };
        let mut word = String::new();
        if let Some(said) = frozen.holder.stdout.take() {
            BufReader::new(said.take(WORD_LEN_MAX)).read_line(&mut word)?;
        }
        match word.trim() {
            FROZEN => Ok(frozen),
            why => Err(io::Error::other(format!(
                "its file system cannot be kept still while it is copied ({why}): scale its service to 0 first"
            ))),
        }
    }

    /// Fails once it is frozen no more.
    pub fn check(&mut self) -> io::Result<()> {
        self.holder.try_wait()?.map_or(Ok(()), |_| Err(too_long()))
    }

    /// Thaws it. Fails when that has happened before: then what was copied is of no use.
    pub fn end(mut self) -> io::Result<()> {
        drop(self.holder.stdin.take());
        judge(self.holder.wait()?)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().ok();
        // Somebody may have killed it.
        thaw_now(&self.mounted).ok();
    }
}

fn judge(status: ExitStatus) -> io::Result<()> {
    match status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(FROZEN_TOO_LONG) => Err(too_long()),
        _ => Err(io::Error::other(format!("the process that kept its file system still ended with {status}"))),
    }
}

fn too_long() -> io::Error {
    let why = format!(
        "to copy it took longer than {FROZEN_MAX:?}, for which its instance could not write: scale its service to 0 first"
    );
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// Thaws the file system that is mounted at a directory below `above`; fine when it is not frozen, or none is. True: it was.
pub(crate) fn thaw(directory: &Path, above: &Path) -> io::Result<bool> {
    let directory = File::open(directory)?;
    if directory.metadata()?.dev() == above.metadata()?.dev() {
        return Ok(false);
    }
    thaw_now(&directory)
}

fn thaw_now(directory: &File) -> io::Result<bool> {
    // SAFETY: the argument is ignored.
    if unsafe { libc::ioctl(directory.as_raw_fd(), THAW, 0) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if Errno::from_io_error(&error) == Some(Errno::INVAL) { Ok(false) } else { Err(error) }
}
