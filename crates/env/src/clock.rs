//! Time: monotonic for deadlines, wall time for people and certificates.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use tokio::time::{Instant, Interval, MissedTickBehavior, error::Elapsed, sleep, sleep_until, timeout, timeout_at};

/// Monotonic time, where no clock is at hand: it is the same for all.
#[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
pub fn now() -> Instant {
    Instant::now()
}

/// Reads monotonic and wall time. The wall time can be shifted, which is how tests make clocks jump.
#[derive(Clone, Debug)]
pub struct Clock {
    wall: Wall,
    shift_ms: Arc<AtomicI64>,
}

#[derive(Clone, Copy, Debug)]
enum Wall {
    /// The machine's clock.
    Real,
    /// Starts at `epoch_ms` when monotonic time is `start`, and goes with it.
    Virtual { start: Instant, epoch_ms: u64 },
}

impl Clock {
    /// The machine's clocks.
    pub fn real() -> Self {
        Self { wall: Wall::Real, shift_ms: Arc::default() }
    }

    /// Wall time that follows tokio's (paused) time from `epoch_ms`, milliseconds since 1970.
    #[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
    pub fn simulated(epoch_ms: u64) -> Self {
        Self { wall: Wall::Virtual { start: Instant::now(), epoch_ms }, shift_ms: Arc::default() }
    }

    /// Monotonic time.
    pub fn now(&self) -> Instant {
        now()
    }

    /// Wall time in milliseconds since 1970; may jump.
    #[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
    pub fn wall_ms(&self) -> u64 {
        let unshifted = match self.wall {
            Wall::Real => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64),
            Wall::Virtual { start, epoch_ms } => epoch_ms + (Instant::now() - start).as_millis() as u64,
        };
        unshifted.saturating_add_signed(self.shift_ms.load(Ordering::Relaxed))
    }

    /// Wall time as the standard library's type.
    pub fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.wall_ms())
    }

    /// Moves the wall time of this clock and its clones by so much, in addition to earlier shifts.
    pub fn shift_wall(&self, by_ms: i64) {
        self.shift_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// An interval whose first tick is at once and which, when late, keeps its distance instead of catching up.
    pub fn interval(&self, period: Duration) -> Interval {
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }
}
