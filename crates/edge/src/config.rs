//! Timeouts and limits of the edge.

use std::time::Duration;

/// What can be set. The defaults are for production; tests shorten the waits.
#[derive(Debug, Clone)]
pub struct Config {
    /// From the request's end to the head of the response.
    pub response_head: Duration,
    /// For a client to send a whole request head, idle keep-alive time included.
    pub request_head: Duration,
    /// Between two parts of a request body.
    pub request_body_idle: Duration,
    /// How long an idle connection to an instance is kept. Shorter than what servers commonly allow (nginx: 75 s, Node.js:
    /// 5 s), so that it is the edge that closes first.
    pub pool_idle: Duration,
    /// Idle connections kept to one instance.
    pub pool_per_instance: usize,
    /// New connections that are made to one instance at a time. Each costs two handshakes where the instance is on another
    /// node: without a bound, clients of one app take the processors of both nodes from all others. Meant for nodes a few
    /// milliseconds apart: where a handshake takes a second, four at a time are four requests a second of clients whose
    /// instances close each connection.
    pub dials_per_instance: usize,
    /// Requests that wait for their turn to make a connection to one instance; further ones go to another, or are refused.
    pub dials_waiting_max: usize,
    /// How long they wait.
    pub dial_wait: Duration,
    /// Client connections at a time; further ones wait in the kernel's queue. One client has at most as many as are free.
    pub connections_max: usize,
    /// Connections at a time that have not said a request yet. One client has at most as many as are free; a further one of
    /// its is closed at once.
    pub quiet_max: usize,
    /// Requests in flight at a time. One app has at most as many as are free; a further one of its is refused.
    pub requests_max: usize,
    /// How long open requests may take to end once the edge is told to stop.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            response_head: Duration::from_secs(30),
            request_head: Duration::from_secs(30),
            request_body_idle: Duration::from_secs(60),
            pool_idle: Duration::from_secs(4),
            pool_per_instance: 64,
            dials_per_instance: 4,
            dials_waiting_max: 128,
            dial_wait: Duration::from_secs(1),
            connections_max: 10_000,
            quiet_max: 4_000,
            requests_max: 10_000,
            drain: Duration::from_secs(10),
        }
    }
}

/// Bytes of a request head, and of a response head.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Headers of a request or a response.
pub(crate) const HEADERS_MAX: usize = 128;
/// A request body of a known length up to this is held, so that it can be sent again.
pub(crate) const REPLAY_BYTES_MAX: u64 = 16 << 10;
/// Tries per request, the first included.
pub(crate) const TRIES_MAX: u32 = 3;
