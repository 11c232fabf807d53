//! What happened, as one number: FNV-1a over every event with its time.

use std::sync::Arc;

use insula_env::{Clock, clock::Instant};
use parking_lot::Mutex;

/// Collects events. Clones share it.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Inner>);

struct Inner {
    clock: Clock,
    start: Instant,
    hash: Mutex<u64>,
    is_verbose: bool,
}

impl Trace {
    pub(crate) fn new(clock: Clock, is_verbose: bool) -> Self {
        let start = clock.now();
        Self(Arc::new(Inner { clock, start, hash: Mutex::new(0xcbf2_9ce4_8422_2325), is_verbose }))
    }

    /// An event that people may want to read.
    pub(crate) fn event(&self, text: &str) {
        if self.0.is_verbose {
            println!("{:>9.3} {text}", self.elapsed().as_secs_f64());
        }
        self.bytes(text.as_bytes());
    }

    /// An event that only counts for the hash.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        let micros = self.elapsed().as_micros() as u64;
        let mut hash = self.0.hash.lock();
        *hash = fnv(fnv(*hash, &micros.to_be_bytes()), bytes);
    }

    pub(crate) fn elapsed(&self) -> std::time::Duration {
        self.0.clock.now() - self.0.start
    }

    pub(crate) fn hash(&self) -> u64 {
        *self.0.hash.lock()
    }
}

/// One step of FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
