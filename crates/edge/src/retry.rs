//! When a request may be sent again. Pure but for the counters.

use std::time::Duration;

use http::Method;
use insula_env::clock::Instant;

/// Length of the window in which retries are weighed against requests.
const WINDOW: Duration = Duration::from_secs(10);
/// Retries may be this share of requests …
const SHARE: u64 = 5;
/// … and this many in any case, so that a quiet edge can do its work. About what one instance has in flight.
const FLOOR: u64 = 100;

/// Keeps retries to a share of the requests (rule R7): when everything fails, retrying everything makes it worse.
#[derive(Debug)]
pub(crate) struct Budget {
    since: Instant,
    /// Requests and retries in the present window, and in the one before it.
    now: (u64, u64),
    before: (u64, u64),
}

impl Budget {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { since: now, now: (0, 0), before: (0, 0) }
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed >= WINDOW * 2 {
            (self.since, self.now, self.before) = (now, (0, 0), (0, 0));
        } else if passed >= WINDOW {
            (self.since, self.before, self.now) = (self.since + WINDOW, self.now, (0, 0));
        }
    }

    /// A request has come.
    pub(crate) fn request(&mut self, now: Instant) {
        self.turn(now);
        self.now.0 += 1;
    }

    /// Whether one more retry is within the budget; counts it when it is.
    pub(crate) fn retry(&mut self, now: Instant) -> bool {
        self.turn(now);
        let requests = self.now.0 + self.before.0;
        let is_allowed = self.now.1 + self.before.1 < FLOOR + requests / SHARE;
        self.now.1 += u64::from(is_allowed);
        is_allowed
    }
}

/// Whether sending it twice does as much as sending it once (RFC 9110 section 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE)
}

#[cfg(test)]
mod tests {
    use insula_env::Clock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_share_of_requests() {
        let start = Clock::real().now();
        let mut budget = Budget::new(start);
        for _ in 0..1000 {
            budget.request(start);
        }
        let allowed = (0..1000).filter(|_| budget.retry(start)).count() as u64;
        assert_eq!(allowed, FLOOR + 1000 / SHARE);
        assert!(!budget.retry(start + WINDOW), "the window before still counts");
        assert!(budget.retry(start + WINDOW * 3), "and is forgotten then");
    }

    #[test]
    fn methods() {
        assert!(is_idempotent(&Method::GET) && is_idempotent(&Method::DELETE));
        assert!(!is_idempotent(&Method::POST) && !is_idempotent(&Method::PATCH) && !is_idempotent(&Method::CONNECT));
    }
}
