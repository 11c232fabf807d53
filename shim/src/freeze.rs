//! Keeps a file system still while the agent copies it. A process of its own does, because whatever writes to a frozen file
//! system waits, beyond any signal: it must go on when the agent is killed, is stopped or hangs.
//!
//! Says one line, `frozen` or why not, then waits for the end of its input, for [`FROZEN_MAX`] at most. The file system is as
//! it was when this ends, unless this is killed: then the agent thaws it when it starts again.

use std::{fs::File, io, os::fd::AsRawFd, path::Path, process::ExitCode};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::SigSet,
    unistd::{setsid, syncfs},
};

use crate::protocol::{FROZEN, FROZEN_MAX, FROZEN_TOO_LONG};

/// `FIFREEZE` and `FITHAW` of linux/fs.h: `_IOWR('X', 119, int)` and the next one.
const FREEZE: libc::c_ulong = 0xc004_5877;
const THAW: libc::c_ulong = 0xc004_5878;

pub fn run(directory: &Path) -> ExitCode {
    // What ends others, at a terminal or at the end of the service, must not end this in the middle.
    setsid().ok();
    if let Err(error) = SigSet::all().thread_block() {
        println!("block signals: {error}");
        return ExitCode::FAILURE;
    }
    match freeze(directory) {
        Ok(directory) => hold(&directory),
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn freeze(directory: &Path) -> io::Result<File> {
    let directory = File::open(directory)?;
    // Most of what has to be written, before anybody waits for it.
    syncfs(&directory)?;
    set(&directory, FREEZE)?;
    Ok(directory)
}

/// Nothing in here may return before the thaw.
fn hold(directory: &File) -> ExitCode {
    use io::Write;
    // One that went away has closed our input as well.
    writeln!(io::stdout(), "{FROZEN}").ok();
    let stdin = io::stdin();
    let mut ends = [PollFd::new(std::os::fd::AsFd::as_fd(&stdin), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(FROZEN_MAX).unwrap_or(PollTimeout::ZERO);
    // All signals are blocked, so nothing interrupts it.
    let is_in_time = poll(&mut ends, limit).is_ok_and(|ready| ready > 0);
    match set(directory, THAW) {
        Err(_) => ExitCode::FAILURE,
        Ok(()) if is_in_time => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(FROZEN_TOO_LONG),
    }
}

fn set(directory: &File, request: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the argument of both requests is ignored.
    match unsafe { libc::ioctl(directory.as_raw_fd(), request as _, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
