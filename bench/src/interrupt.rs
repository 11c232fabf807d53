//! Ctrl-C as something to look at, so that what was made can be taken down first.

use std::{os::unix::process::CommandExt, process::Command, time::Duration};

use anyhow::{Context, Result};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

/// Ctrl-C and a polite end, from now on held back until somebody looks. Programs that are started by way of
/// `hears` get them as ever.
#[derive(Debug)]
pub struct Interrupt(SignalFd);

impl Interrupt {
    /// Begins to hold them back. Call it before a thread is started.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn hold_back() -> Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().context("hold back Ctrl-C")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&signals, flags).context("watch for Ctrl-C")?))
    }

    /// Sleeps; an error when Ctrl-C was pressed.
    pub(crate) fn sleep(&self, time: Duration) -> Result<()> {
        std::thread::sleep(time);
        if self.is_pressed() { anyhow::bail!("interrupted") } else { Ok(()) }
    }

    /// Whether it was pressed since the last look.
    fn is_pressed(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }

    /// Waits for it.
    pub(crate) fn wait(&self) {
        while !self.is_pressed() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Lets a command hear Ctrl-C, also while we hold it back for ourselves.
pub(crate) fn hears(command: &mut Command) -> &mut Command {
    // SAFETY: setting the signal mask is allowed between fork and exec.
    unsafe { command.pre_exec(|| SigSet::empty().thread_set_mask().map_err(std::io::Error::from)) }
}
