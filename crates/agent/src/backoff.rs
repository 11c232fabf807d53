//! Waits that grow with each failure in a row, jittered.

use std::time::Duration;

use insula_env::Rng;

/// Shortest and longest wait: at once would burn the CPU in a crash loop, longer would leave a healed service down.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Counts failures in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// One more failure: how long to wait now.
    pub(crate) fn fail(&mut self, rng: &Rng) -> Duration {
        let wait = WAIT.0.saturating_mul(1 << self.failures.min(16)).min(WAIT.1);
        self.failures = self.failures.saturating_add(1);
        rng.jitter(wait)
    }

    /// It went well.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}
