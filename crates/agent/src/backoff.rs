//! Waits that grow with each failure in a row, jittered.

use std::time::Duration;

use insula_env::Rng;
use insula_types::RestartSpec;

/// Counts failures in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// One more failure: how long to wait now.
    pub(crate) fn fail(&mut self, spec: &RestartSpec, rng: &Rng) -> Duration {
        self.failures = self.failures.saturating_add(1);
        rng.jitter(spec.wait(self.failures))
    }

    /// It went well.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}
