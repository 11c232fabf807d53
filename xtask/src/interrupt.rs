//! Ctrl-C as something to look at, so that what was made can be taken down first.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

/// Ctrl-C and a polite end, from now on held back until somebody looks. Programs that are started by way of
/// [`crate::run::hears`] get them as ever.
pub(crate) struct Interrupt(SignalFd);

impl Interrupt {
    /// Begins to hold them back. Call it before a thread is started.
    pub(crate) fn hold_back() -> Result<Self> {
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
    pub(crate) fn is_pressed(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }

    /// Waits for it.
    pub(crate) fn wait(&self) {
        while !self.is_pressed() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
