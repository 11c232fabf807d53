//! Randomness: from the operating system, or from a seed in simulation.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::SeedableRng;
pub use rand::{Rng as RngExt, RngCore, seq::SliceRandom};
use rand_chacha::ChaCha12Rng;

/// A shared generator (ChaCha with 12 rounds: fit for secrets when seeded by the operating system).
#[derive(Clone)]
pub struct Rng(Arc<Mutex<ChaCha12Rng>>);

impl Rng {
    /// Seeded by the operating system.
    pub fn from_os() -> Self {
        Self(Arc::new(Mutex::new(ChaCha12Rng::from_entropy())))
    }

    /// The same seed gives the same numbers.
    pub fn from_seed(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(ChaCha12Rng::seed_from_u64(seed))))
    }

    /// The same key gives the same numbers, and nobody without it can tell them.
    pub fn from_key(key: [u8; 32]) -> Self {
        Self(Arc::new(Mutex::new(ChaCha12Rng::from_seed(key))))
    }

    /// A generator of its own for a part, so that one part's draws do not shift another's.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(ChaCha12Rng::seed_from_u64(self.next()))))
    }

    /// Sixty-four random bits.
    pub fn next(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// Fills a buffer, for keys and secrets.
    pub fn fill(&self, buffer: &mut [u8]) {
        self.0.lock().fill_bytes(buffer);
    }

    /// A number in `[low, high)`. `low` when the range is empty.
    pub fn range(&self, low: u64, high: u64) -> u64 {
        if low >= high { low } else { self.0.lock().gen_range(low..high) }
    }

    /// True with probability `share` (0 to 1).
    pub fn chance(&self, share: f64) -> bool {
        self.0.lock().gen_bool(share.clamp(0.0, 1.0))
    }

    /// `base` ± 25 %, for intervals and back-off that must not march in step (rule R7).
    pub fn jitter(&self, base: Duration) -> Duration {
        let micros = base.as_micros() as u64;
        Duration::from_micros(self.range(micros - micros / 4, micros + micros / 4 + 1))
    }

    /// Runs `draw` with the generator behind this handle.
    pub fn with<R>(&self, draw: impl FnOnce(&mut dyn RngCore) -> R) -> R {
        draw(&mut *self.0.lock())
    }
}

impl std::fmt::Debug for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rng")
    }
}
