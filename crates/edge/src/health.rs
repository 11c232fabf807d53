//! What an edge makes of how an instance has answered it: which share of its requests it gets. Pure.
//!
//! One that takes no connection is put out at once; one whose answers are of the kind that a gateway gives (502, 503, 504, none
//! at all, half of one) after several in a row. An answer that says that the request is at fault, or a 500, says nothing about
//! the instance: one bad page must not take the others away. Who was put out comes back slowly.

use std::time::Duration;

use http::StatusCode;
use insula_env::clock::Instant;

/// How long an instance is put out; doubles each time, as long as it has not come back in full in between.
const OUT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// How long it takes to come back in full, and the percentage that it begins with.
const RETURN: Duration = Duration::from_secs(5);
const RETURN_FROM: u32 = 10;
/// Disappointments in a row.
const IN_A_ROW_MAX: u32 = 5;

/// What an instance may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// So many hundredths of a full share.
    Share(u32),
    /// Nothing, as long as others are there: it takes no connections.
    Unreachable,
    /// The same: it answers, and not well. When most do so, the judge is suspect and nobody is put out.
    Suspect,
}

/// Of one instance. What happens when:
///
/// ```text
/// sound ──(no connection, or several disappointments)──► out ──(time)──► returning ──(time)──► sound
///                                                         ▲                  │
///                                                         └────(the same)────┘ for twice as long
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Health {
    /// Disappointments in a row.
    in_a_row: u32,
    out: Option<Out>,
}

#[derive(Debug, Clone, Copy)]
struct Out {
    until: Instant,
    length: Duration,
    verdict: Verdict,
}

impl Health {
    /// It took no connection. Whether it is put out for that now.
    pub(crate) fn unreachable(&mut self, now: Instant) -> bool {
        self.put_out(now, Verdict::Unreachable)
    }

    /// It gave no good answer. Whether it is put out for that now.
    pub(crate) fn disappointed(&mut self, now: Instant) -> bool {
        self.in_a_row += 1;
        // One that is coming back is not given as many chances.
        (self.in_a_row >= IN_A_ROW_MAX || self.is_returning(now)) && self.put_out(now, Verdict::Suspect)
    }

    /// It answered with that. Whether it is put out for that now.
    pub(crate) fn answered(&mut self, status: StatusCode, now: Instant) -> bool {
        match status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                self.disappointed(now)
            }
            _ => {
                self.in_a_row = 0;
                false
            }
        }
    }

    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        match self.out {
            Some(out) if now < out.until => out.verdict,
            Some(out) if now < out.until + RETURN => {
                let passed = (now - out.until).as_millis() * u128::from(100 - RETURN_FROM) / RETURN.as_millis();
                Verdict::Share(RETURN_FROM + passed as u32)
            }
            _ => Verdict::Share(100),
        }
    }

    fn is_returning(&self, now: Instant) -> bool {
        self.out.is_some_and(|out| now >= out.until && now < out.until + RETURN)
    }

    fn put_out(&mut self, now: Instant, verdict: Verdict) -> bool {
        let length = match self.out {
            // Failures of the same moment count once.
            Some(out) if now < out.until => return false,
            Some(out) if now < out.until + RETURN => (out.length * 2).min(OUT.1),
            _ => OUT.0,
        };
        (self.in_a_row, self.out) = (0, Some(Out { until: now + length, length, verdict }));
        true
    }
}

#[cfg(test)]
mod tests {
    use insula_env::Clock;

    use super::*;

    const OK: StatusCode = StatusCode::OK;
    const BAD: StatusCode = StatusCode::BAD_GATEWAY;

    #[test]
    fn one_without_connections_goes_at_once_and_comes_back_slowly() {
        let start = Clock::real().now();
        let mut health = Health::default();
        assert_eq!(health.verdict(start), Verdict::Share(100));
        health.unreachable(start);
        health.unreachable(start);
        assert_eq!(health.verdict(start + OUT.0 / 2), Verdict::Unreachable, "once for a moment");
        let back = start + OUT.0;
        assert_eq!(health.verdict(back), Verdict::Share(RETURN_FROM));
        assert_eq!(health.verdict(back + RETURN / 2), Verdict::Share(55));
        assert_eq!(health.verdict(back + RETURN), Verdict::Share(100));
        // Again while it comes back: twice as long, up to the limit.
        let (mut at, mut length) = (back, OUT.0);
        for _ in 0..10 {
            health.unreachable(at);
            length = (length * 2).min(OUT.1);
            assert_eq!(health.verdict(at + length - Duration::from_millis(1)), Verdict::Unreachable);
            at += length;
            assert_eq!(health.verdict(at), Verdict::Share(RETURN_FROM));
        }
        assert_eq!(length, OUT.1);
        at += RETURN;
        health.unreachable(at);
        assert_eq!(
            health.verdict(at + OUT.0),
            Verdict::Share(RETURN_FROM),
            "after it was back in full: as the first time"
        );
    }

    #[test]
    fn several_bad_answers_in_a_row_are_needed() {
        let start = Clock::real().now();
        let mut health = Health::default();
        for _ in 0..3 {
            (1..IN_A_ROW_MAX).for_each(|_| {
                health.answered(BAD, start);
            });
            health.answered(OK, start);
        }
        assert_eq!(health.verdict(start), Verdict::Share(100));
        (0..100).for_each(|_| {
            health.answered(StatusCode::INTERNAL_SERVER_ERROR, start);
        });
        assert_eq!(health.verdict(start), Verdict::Share(100), "that is the request's fault");
        (0..IN_A_ROW_MAX).for_each(|_| {
            health.answered(BAD, start);
        });
        assert_eq!(health.verdict(start), Verdict::Suspect);
        let back = start + OUT.0;
        assert_eq!(health.verdict(back), Verdict::Share(RETURN_FROM));
        health.answered(BAD, back);
        assert_eq!(health.verdict(back), Verdict::Suspect, "one is enough while it comes back");
    }
}
