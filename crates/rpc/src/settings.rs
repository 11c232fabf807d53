//! Limits and times of connections.

use std::time::Duration;

/// Longest body of a request, an answer or a stream's item, in bytes. Larger things go in parts.
pub const BODY_LEN_MAX: usize = 16 * 1024 * 1024;

/// Most calls that run at once on one connection; more are refused at once with `ResourceExhausted`.
pub const CALLS_MAX: usize = 4096;

/// Most bytes of request bodies that a server holds for one connection.
pub(crate) const REQUEST_BYTES_MAX: usize = 4 * BODY_LEN_MAX;

/// Most bytes that wait to be written to one connection; senders wait beyond it.
pub(crate) const OUTBOX_BYTES_MAX: usize = 2 * BODY_LEN_MAX;

/// What a frame costs beside its body when bytes are counted, so that empty ones are bounded too.
pub(crate) const FRAME_COST: usize = 64;

/// Times of a connection. Tests and far regions set others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How often the calling side pings.
    pub ping_interval: Duration,
    /// After how long without a byte from the peer the connection is given up.
    pub silence_max: Duration,
    /// How long a connection is used before it is replaced (rule R6); ± 25 %.
    pub age_max: Duration,
    /// How long calls that run on a replaced connection may go on.
    pub age_grace: Duration,
    /// Limit of connecting: TCP, TLS and the version handshake together.
    pub connect_max: Duration,
    /// Bytes of a stream that may be under way without having been taken.
    pub stream_window: u32,
    /// How long a stream's sender waits for a slow receiver before it cuts the stream.
    pub stream_stall_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_millis(500),
            silence_max: Duration::from_secs(2),
            age_max: Duration::from_secs(3600),
            age_grace: Duration::from_secs(30),
            connect_max: Duration::from_secs(3),
            stream_window: 4 * 1024 * 1024,
            stream_stall_max: Duration::from_secs(10),
        }
    }
}
