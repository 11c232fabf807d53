//! What became of the last requests, for whoever asks by a request's id (`insula explain request`).
//!
//! Always: what is kept is bounded, in number and in bytes, whatever clients send. Of all requests the last are kept, and longer those
//! that somebody may ask about: refused by the edge, failed, tried more than once, slow.

mod asked;
mod record;

use std::time::Duration;

use insula_types::{HttpRequestId, Remembered};
use parking_lot::Mutex;

pub(crate) use self::asked::{Asked, Why};
use self::record::{Record, Ring};

/// Requests that are kept: of all, and of those that did not go as they should. With [`record::BYTES_MAX`] each, less than 5 MiB.
const LAST_MAX: usize = 4096;
const ODD_MAX: usize = 1024;
/// A request that took longer is kept longer.
const SLOW: Duration = Duration::from_secs(1);
/// Requests with one id that are told of; clients may give one to many.
const TOLD_MAX: usize = 16;

/// The last requests of this edge.
pub(crate) struct Requests {
    /// When the edge began: it has forgotten nothing since, as long as there is room.
    began_ms: u64,
    kept: Mutex<Kept>,
}

struct Kept {
    last: Ring,
    odd: Ring,
}

impl Requests {
    pub(crate) fn new(began_ms: u64) -> Self {
        Self { began_ms, kept: Mutex::new(Kept { last: Ring::new(LAST_MAX), odd: Ring::new(ODD_MAX) }) }
    }

    /// Keeps what `write` writes.
    fn keep(&self, write: impl FnOnce(&mut Record)) {
        let Kept { last, odd } = &mut *self.kept.lock();
        let record = last.next();
        write(record);
        if record.is_odd() {
            odd.next().copy(record);
        }
    }

    /// The answer to a request broke off behind its head, at this time, milliseconds since 1970. Of one that has been forgotten
    /// meanwhile only that is known: not everything odd is here.
    pub(crate) fn broke_off(&self, number: u64, now_ms: u64) {
        let Kept { last, odd } = &mut *self.kept.lock();
        match last.find(number) {
            Some(record) => {
                let was_odd = record.is_odd();
                record.break_off();
                if !was_odd || odd.find(number).map(Record::break_off).is_none() {
                    odd.next().copy(record);
                }
            }
            None if odd.find(number).map(Record::break_off).is_none() => odd.forget(now_ms),
            None => {}
        }
    }

    /// What is remembered of the requests with an id.
    pub(crate) fn find(&self, id: &HttpRequestId) -> Remembered {
        let kept = self.kept.lock();
        let has_id = |record: &&Record| record.id() == id.as_str().as_bytes();
        let mut found: Vec<&Record> = kept.last.iter().chain(kept.odd.iter()).filter(has_id).collect();
        // Those that are in both are the same there.
        found.sort_by_key(|record| std::cmp::Reverse((record.came_ms(), record.number())));
        found.dedup_by_key(|record| record.number());
        Remembered {
            more: found.len().saturating_sub(TOLD_MAX) as u64,
            found: found.into_iter().take(TOLD_MAX).map(Record::read).collect(),
            since_ms: kept.last.forgot_ms().unwrap_or(self.began_ms),
            odd_since_ms: kept.odd.forgot_ms().unwrap_or(self.began_ms),
        }
    }
}

#[cfg(test)]
mod tests;
