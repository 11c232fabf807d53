//! How far the log of a leader is ahead of its disk. A leader sends its entries to the others while it writes them (Ongaro,
//! "Consensus: Bridging Theory and Practice", section 10.2.1), but openraft 0.9 takes an entry to be on the disk before it
//! sends it. It is told so too early, and what it then believes to be committed is held back here: nothing is applied, and
//! no other node hears that anything is committed, before it is on this disk as well.
//!
//! ```text
//!   append ─► in memory ─► sent ─► on the disks of others ─┐
//!                   └────► on this disk ───────────────────┴─► applied, answered, told as committed
//! ```

use std::{sync::Arc, time::Duration};

use insula_env::{Clock, clock::Instant};
use tokio::sync::watch;

use crate::{contacts::age, engine::LogId, error::StoreError};

/// How far the log is ahead of the disk. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Ahead {
    clock: Clock,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Entries that are not on the disk; none when all are.
    missing: Option<Missing>,
    /// Why they never will be: nothing can be appended any more.
    error: Option<Arc<StoreError>>,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    /// The entry before the first of them.
    after: Option<LogId>,
    since: Instant,
}

impl State {
    fn has(&self, entry: Option<LogId>) -> bool {
        self.missing.is_none_or(|missing| entry <= missing.after)
    }
}

impl Ahead {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, state: watch::Sender::new(State::default()) }
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Entries after this one are in the log, and not on the disk, unless that was so already.
    pub(crate) fn begin(&self, after: Option<LogId>) {
        let since = self.now();
        self.state.send_if_modified(|state| {
            state.missing.get_or_insert(Missing { after, since });
            false
        });
    }

    /// Entries up to `last` are on the disk; `is_all`: there are no others.
    pub(crate) fn reach(&self, last: Option<LogId>, is_all: bool) {
        let since = self.now();
        self.state.send_modify(|state| state.missing = (!is_all).then_some(Missing { after: last, since }));
    }

    /// What is not on the disk could not be written.
    pub(super) fn fail(&self, error: StoreError) {
        self.state.send_modify(|state| state.error = Some(Arc::new(error)));
    }

    /// Of two entries the earlier: this one, or the last on the disk.
    pub(crate) fn held_back(&self, entry: Option<LogId>) -> Option<LogId> {
        self.state.borrow().missing.map_or(entry, |missing| entry.min(missing.after))
    }

    /// Waits until this entry of the log is on the disk. None: until all are.
    pub(crate) async fn wait(&self, entry: Option<LogId>) -> Result<(), Arc<StoreError>> {
        let is_there = |state: &State| if entry.is_some() { state.has(entry) } else { state.missing.is_none() };
        let mut state = self.state.subscribe();
        match state.wait_for(|state| is_there(state) || state.error.is_some()).await {
            Ok(state) if !is_there(&state) => state.error.clone().map_or(Ok(()), Err),
            // The other half of the channel is in `self`.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// How long the entry has waited that is to be on the disk next.
    pub(crate) fn since(&self, now: Instant) -> Duration {
        self.state.borrow().missing.map_or(Duration::ZERO, |missing| age(now, missing.since))
    }

    /// Why the log takes no more entries.
    pub(crate) fn error(&self) -> Option<Arc<StoreError>> {
        self.state.borrow().error.clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::{store::file::failed, wire::Position};

    fn at(index: u64) -> Option<LogId> {
        Some(LogId::from(Position { term: 2, index }))
    }

    #[test]
    fn nothing_is_committed_before_it_is_on_the_disk() {
        let ahead = Ahead::new(Clock::real());
        let is_there = |index| ahead.wait(at(index)).now_or_never().is_some_and(|there| there.is_ok());
        assert!(is_there(9), "what a start found on the disk");
        ahead.begin(at(9));
        ahead.begin(at(10));
        assert_eq!((ahead.held_back(at(8)), ahead.held_back(at(12))), (at(8), at(9)));
        assert_eq!((is_there(9), is_there(10)), (true, false));
        ahead.reach(at(10), false);
        assert_eq!((is_there(10), is_there(11), ahead.held_back(at(11))), (true, false, at(10)));
        ahead.reach(at(12), true);
        assert_eq!((is_there(12), ahead.held_back(at(12))), (true, at(12)));
        // Entries of an earlier term beyond it were replaced.
        let later = Some(LogId::from(Position { term: 3, index: 4 }));
        ahead.begin(at(12));
        assert_eq!(ahead.held_back(later), at(12));
    }

    #[test]
    fn what_cannot_be_written_is_never_there() {
        let ahead = Ahead::new(Clock::real());
        ahead.begin(at(1));
        ahead.fail(failed("append to", "log.redb".as_ref(), "no space left"));
        let result =
            |entry| ahead.wait(entry).now_or_never().expect("does not wait").map_err(|error| error.to_string());
        assert_eq!((result(at(1)), result(at(2))), (Ok(()), Err("append to log.redb".to_owned())));
        assert!(result(None).is_err() && ahead.error().is_some());
        assert_eq!(ahead.held_back(at(2)), at(1));
    }
}
