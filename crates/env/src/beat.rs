//! A loop's sign of life (rule R3). It comes from the loop itself, at each turn; the [watchdog](crate::watchdog) looks
//! whether it is overdue.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// A wait that takes long on purpose is cut into so many pieces per limit, with a sign of life after each: one that
/// comes late still comes in time.
const SLICES: u32 = 4;

/// Limit of a loop whose turns only compute and hand on, which takes no time at all: so long a machine without a free
/// CPU may take for it, and clients of what hangs do not wait much longer.
pub const QUICK: Duration = Duration::from_secs(10);

/// Limit of a loop whose turns wait for the disk: an overloaded one has been seen to stall for half a minute.
pub const DISK: Duration = Duration::from_secs(60);

/// What a supervised loop shows that it is alive with. Clones share it.
#[derive(Clone, Debug)]
pub struct Beat(Arc<Pulse>);

impl Beat {
    pub(crate) fn new(pulse: &Arc<Pulse>) -> Self {
        Self(Arc::clone(pulse))
    }

    /// A beat that nobody watches: for a loop that is driven by hand.
    pub fn unwatched() -> Self {
        Self(Pulse::new("unwatched", Duration::MAX / SLICES))
    }

    /// The loop takes a turn. What comes until the next sign has to be done within the limit.
    pub fn alive(&self) {
        self.0.show(Duration::ZERO);
        #[cfg(feature = "planted-deadlock")]
        crate::planted::block(&self.0.name);
    }

    /// Waits for something that may take any time, as for an event or a timer, and goes on showing signs meanwhile: a
    /// loop that has nothing to do is not dead, but one whose thread is blocked, or that is never woken, is.
    pub async fn idle<T>(&self, wait: impl Future<Output = T>) -> T {
        tokio::pin!(wait);
        loop {
            self.alive();
            #[cfg(feature = "planted-deadlock")]
            crate::planted::wait(&self.0.name).await;
            tokio::select! {
                biased;
                done = &mut wait => {
                    self.alive();
                    return done;
                }
                () = tokio::time::sleep(self.0.limit / SLICES) => {}
            }
        }
    }
}

/// What the watchdog sees of a loop.
#[derive(Debug)]
pub(crate) struct Pulse {
    #[cfg_attr(not(feature = "planted-deadlock"), allow(dead_code, reason = "the planted deadlock asks for it"))]
    name: Arc<str>,
    pub(crate) limit: Duration,
    last: Mutex<Instant>,
    starts: AtomicU64,
    restart: Notify,
}

impl Pulse {
    pub(crate) fn new(name: &str, limit: Duration) -> Arc<Self> {
        let (starts, restart) = Default::default();
        // What is shown with a planted deadlock is that it is healed, not how long a disk may stall.
        #[cfg(feature = "planted-deadlock")]
        let limit = limit.min(QUICK);
        Arc::new(Self { name: name.into(), limit, last: Mutex::new(now()), starts, restart })
    }

    /// The last sign of life. In the future for a task that waits to be started again.
    pub(crate) fn last(&self) -> Instant {
        *self.last.lock()
    }

    /// Counts the starts: another number says that an abort took effect.
    pub(crate) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// Shows a sign; the next is due a limit after `rest`.
    pub(crate) fn show(&self, rest: Duration) {
        *self.last.lock() = now() + rest;
    }

    pub(crate) fn start(&self) {
        self.starts.fetch_add(1, Ordering::Relaxed);
        self.show(Duration::ZERO);
    }

    /// Tells the task to begin anew.
    pub(crate) fn restart(&self) {
        self.restart.notify_one();
    }

    /// Completes when the task has been told to begin anew.
    pub(crate) async fn told_to_restart(&self) {
        self.restart.notified().await;
    }
}

#[allow(clippy::disallowed_methods, reason = "a foundation beside the clock; in a simulation it is virtual too")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_shows_signs_and_long_work_does_not() {
        let limit = Duration::from_secs(8);
        let pulse = Pulse::new("test", limit);
        let beat = Beat::new(&pulse);
        let mut oldest = Duration::ZERO;
        let looks = async {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                oldest = oldest.max(now() - pulse.last());
            }
        };
        tokio::select! {
            () = looks => unreachable!("without an end"),
            () = beat.idle(tokio::time::sleep(limit * 10)) => {}
        }
        assert!(oldest <= limit / SLICES, "{oldest:?}");
        tokio::time::sleep(limit * 2).await;
        assert_eq!(now() - pulse.last(), limit * 2);
    }
}
