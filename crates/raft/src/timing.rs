//! The timers in use. They follow what the leader measures (rule R18), and may change at any time: the leader sends its
//! timers with every append, followers take them over and keep them on disk before they answer.
//!
//! ```text
//!   leader:  in use ──► announced (sent along; the shorter heartbeat of both) ──► in use
//! ```
//! A leader goes over to longer timers only after followers had time to hear of them, so that none misses a heartbeat.

use std::time::Duration;

use insula_env::clock::Instant;
use parking_lot::Mutex;

use crate::config::Timers;

/// Timers of the voters change only by more than this factor, in either direction.
const HYSTERESIS: f64 = 1.5;

/// The timers of one group on one node.
#[derive(Debug)]
pub(crate) struct Timing(Mutex<State>);

#[derive(Debug, Clone, Copy)]
struct State {
    in_use: Timers,
    /// What a leader has told its followers, and when.
    announced: Option<(Timers, Instant)>,
}

impl Timing {
    pub(crate) fn new(in_use: Timers) -> Self {
        Self(Mutex::new(State { in_use, announced: None }))
    }

    /// What holds now.
    pub(crate) fn now(&self) -> Timers {
        self.0.lock().in_use
    }

    /// What a leader sends along.
    pub(crate) fn announced(&self) -> Timers {
        let state = self.0.lock();
        state.announced.map_or(state.in_use, |(timers, _)| timers)
    }

    /// Time between a leader's heartbeats: the shorter one while timers change.
    pub(crate) fn heartbeat(&self) -> Duration {
        let state = self.0.lock();
        state.announced.map_or(state.in_use.heartbeat, |(timers, _)| timers.heartbeat.min(state.in_use.heartbeat))
    }

    /// A leader begins to change its timers.
    pub(crate) fn announce(&self, timers: Timers, now: Instant) {
        self.0.lock().announced = Some((timers, now));
    }

    /// What a leader shall go over to now: its followers had time to hear of it.
    pub(crate) fn due(&self, now: Instant) -> Option<Timers> {
        let state = self.0.lock();
        let (timers, since) = state.announced?;
        (now >= since + timers.election_max.max(state.in_use.election_max)).then_some(timers)
    }

    /// Goes over to these.
    pub(crate) fn set(&self, timers: Timers) {
        *self.0.lock() = State { in_use: timers, announced: None };
    }

    /// Forgets what was announced and not yet taken over.
    pub(crate) fn withdraw(&self) {
        self.0.lock().announced = None;
    }
}

/// The timers for what was measured, if they differ enough from those in use. `round_trip` is the 99th percentile to
/// the farthest voter that answers, fsyncs on both sides included.
pub(crate) fn fit(in_use: &Timers, round_trip: Duration) -> Option<Timers> {
    let fitting = Timers::for_round_trip(round_trip);
    let factor = fitting.heartbeat.as_secs_f64() / in_use.heartbeat.as_secs_f64();
    (!(1.0 / HYSTERESIS..=HYSTERESIS).contains(&factor)).then_some(fitting)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_leader_slows_down_only_after_it_was_heard() {
        let (near, far) = (Timers::default(), Timers::for_round_trip(ms(300)));
        let start = insula_env::Clock::real().now();
        let timing = Timing::new(near);
        timing.announce(far, start);
        assert_eq!((timing.now(), timing.announced(), timing.heartbeat()), (near, far, near.heartbeat));
        assert_eq!(timing.due(start + far.election_max - ms(1)), None);
        assert_eq!(timing.due(start + far.election_max), Some(far));
        timing.set(far);
        timing.announce(near, start);
        assert_eq!(timing.heartbeat(), near.heartbeat, "and speeds up at once");
        timing.withdraw();
        assert_eq!((timing.announced(), timing.due(start + ms(100_000))), (far, None));
    }

    #[test]
    fn small_differences_change_nothing() {
        let near = Timers::default();
        assert_eq!(fit(&near, ms(5)), None);
        assert_eq!(fit(&near, ms(74)), None);
        assert_eq!(fit(&near, ms(100)), Some(Timers::for_round_trip(ms(100))));
        assert_eq!(fit(&Timers::for_round_trip(ms(300)), ms(280)), None);
        assert_eq!(fit(&Timers::for_round_trip(ms(300)), ms(20)), Some(near));
    }
}
