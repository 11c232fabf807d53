//! What becomes of an instance that has ended by itself.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

/// Whether an instance is started again on its node after it has ended, and how long that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartSpec {
    /// Whether.
    pub policy: RestartPolicy,
    /// The wait after the first end in a row; it doubles with each further one. At least one millisecond.
    pub backoff_min: Duration,
    /// The longest wait; not below the shortest.
    pub backoff_max: Duration,
}

/// When an instance that has ended by itself is started again. One that somebody stops is not, and one whose node is lost is
/// replaced, whatever is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Always.
    #[default]
    Always,
    /// Unless its program said that all went well: it ended with exit code 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// As users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OnFailure => "on-failure",
            Self::Never => "never",
        }
    }

    /// Whether one whose program has ended, well or not, is not started again.
    pub const fn is_over(self, is_well: bool) -> bool {
        match self {
            Self::Always => false,
            Self::OnFailure => is_well,
            Self::Never => true,
        }
    }
}

impl RestartSpec {
    /// Waits that can be asked for: shorter ones would fill a node with starts, longer ones are no restarts any more.
    pub const BACKOFF: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

    /// Whether it is what is done where nobody says anything.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// The wait after so many ends in a row, from 1.
    pub fn wait(&self, ends: u32) -> Duration {
        self.backoff_min.saturating_mul(1 << ends.saturating_sub(1).min(16)).min(self.backoff_max)
    }
}

impl Default for RestartSpec {
    /// At once would burn the processor in a crash loop; beyond a minute a healed service would stay down.
    fn default() -> Self {
        let (backoff_min, backoff_max) = (Duration::from_secs(1), Duration::from_secs(60));
        Self { policy: RestartPolicy::Always, backoff_min, backoff_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let spec = RestartSpec { backoff_max: Duration::from_secs(5), ..RestartSpec::default() };
        let waits: Vec<u64> = [1, 2, 3, 4, u32::MAX].iter().map(|ends| spec.wait(*ends).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }
}
