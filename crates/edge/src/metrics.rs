//! What the edge counts.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

/// Why a request got an answer of the edge itself, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It was malformed.
    BadRequest,
    /// No route leads anywhere.
    NoRoute,
    /// There is no catalog yet.
    NoCatalog,
    /// No instance can take it.
    NoInstance,
    /// Its app has its share of the requests in flight, or more wait for its instances than may.
    Busy,
    /// No instance took a connection.
    Connect,
    /// The instance, or the way to it, broke off before an answer.
    BrokenOff,
    /// The instance gave no answer in time.
    TimedOut,
    /// The response broke off after its head was passed on.
    BodyBrokenOff,
}

const CAUSES: [(Cause, &str); 9] = [
    (Cause::BadRequest, "bad_request"),
    (Cause::NoRoute, "no_route"),
    (Cause::NoCatalog, "no_catalog"),
    (Cause::NoInstance, "no_instance"),
    (Cause::Busy, "busy"),
    (Cause::Connect, "connect"),
    (Cause::BrokenOff, "broken_off"),
    (Cause::TimedOut, "timed_out"),
    (Cause::BodyBrokenOff, "body_broken_off"),
];

impl Cause {
    /// Whether no instance has seen the request, which another region may have then.
    pub(crate) const fn is_before_all(self) -> bool {
        matches!(self, Self::NoInstance | Self::NoRoute | Self::NoCatalog | Self::Connect | Self::Busy)
    }

    /// As metrics name it.
    pub(crate) const fn name(self) -> &'static str {
        CAUSES[self as usize].1
    }
}

/// Counters since the start, and gauges.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) connections: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) retries_refused: AtomicU64,
    pub(crate) dials: AtomicU64,
    pub(crate) dials_failed: AtomicU64,
    pub(crate) tunnels: AtomicU64,
    /// Connections that were closed since their client took back most of what it asked for.
    pub(crate) floods: AtomicU64,
    failures: [AtomicU64; CAUSES.len()],
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    pub(crate) fn fail(&self, cause: Cause) {
        add(&self.failures[cause as usize]);
    }

    /// Requests that failed for this cause.
    pub fn failed(&self, cause: Cause) -> u64 {
        self.failures[cause as usize].load(Ordering::Relaxed)
    }

    /// Requests that were sent once more.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// All of them by name.
    pub fn read(&self) -> BTreeMap<String, u64> {
        let plain = [
            ("connections", &self.connections),
            ("connections_refused_total", &self.connections_refused),
            ("requests_total", &self.requests),
            ("retries_total", &self.retries),
            ("retries_refused_total", &self.retries_refused),
            ("dials_total", &self.dials),
            ("dials_failed_total", &self.dials_failed),
            ("tunnels_total", &self.tunnels),
            ("floods_total", &self.floods),
        ];
        let failures = CAUSES.iter().map(|(cause, name)| (format!("failed_{name}_total"), self.failed(*cause)));
        plain
            .into_iter()
            .map(|(name, counter)| (name.to_owned(), counter.load(Ordering::Relaxed)))
            .chain(failures)
            .map(|(name, value)| (format!("insula_edge_{name}"), value))
            .collect()
    }
}
