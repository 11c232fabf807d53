//! Timeouts and limits of the edge.

use std::{net::IpAddr, str::FromStr, time::Duration};

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
    /// A connection that has been idle for longer carries no request that cannot be sent twice: the instance may close it while
    /// the request is on its way. Below what servers close idle connections after (gunicorn: 2 s).
    pub probed_idle: Duration,
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
    /// Bytes of a request body at most.
    pub request_body_max: u64,
    /// For a client to take any part of what waits for it.
    pub response_idle: Duration,
    /// Proxies of the operator's, whose word counts on whom they ask for (`Forwarded`, `X-Forwarded-…`). Of nobody else.
    pub trusted_proxies: Vec<Network>,
    /// Once the edge is told to stop: how long it still takes requests and asks clients to go elsewhere (`Connection:
    /// close`), before it closes what is idle.
    pub notice: Duration,
    /// How long open requests and tunnels may take to end after that.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            response_head: Duration::from_secs(30),
            request_head: Duration::from_secs(30),
            request_body_idle: Duration::from_secs(60),
            pool_idle: Duration::from_secs(4),
            probed_idle: Duration::from_secs(1),
            pool_per_instance: 64,
            dials_per_instance: 4,
            dials_waiting_max: 128,
            dial_wait: Duration::from_secs(1),
            connections_max: 10_000,
            quiet_max: 4_000,
            requests_max: 10_000,
            request_body_max: u64::MAX,
            response_idle: Duration::from_secs(60),
            trusted_proxies: Vec::new(),
            notice: Duration::from_secs(1),
            drain: Duration::from_secs(10),
        }
    }
}

/// Bytes of a request head, and of a response head.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Headers of a request or a response. As many as the parser has room for without asking for memory.
pub(crate) const HEADERS_MAX: usize = 100;
/// Bytes of path and query.
pub(crate) const TARGET_BYTES_MAX: usize = 16 << 10;
/// A request body of a known length up to this is held, so that it can be sent again.
pub(crate) const REPLAY_BYTES_MAX: u64 = 16 << 10;
/// How long a connection to an instance is used. A dataplane that another has taken over from carries what its peers keep open,
/// and they do not know: so they come anew within this time.
pub(crate) const AGE_MAX: Duration = Duration::from_secs(60);
/// How long an idle connection to another region's edge is kept: that one keeps it for longer. It took several long round trips to make.
pub(crate) const FAR_IDLE: Duration = Duration::from_secs(20);
/// New connections that are made to one gateway at a time: each takes as long as several round trips.
pub(crate) const FAR_DIALS: usize = 128;
/// Tries per request, the first included.
pub(crate) const TRIES_MAX: u32 = 3;

/// Addresses that begin alike, as `192.0.2.0/24`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether the address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        // As numbers whose first bits count.
        let (own, other) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u128::from(own.to_bits()) << 96, u128::from(other.to_bits()) << 96)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits()),
            _ => return false,
        };
        (own ^ other).leading_zeros() >= u32::from(self.prefix)
    }
}

/// Why a text names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network; write ADDRESS or ADDRESS/PREFIX, as 192.0.2.0/24 or 2001:db8::/32")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.to_owned());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |prefix| prefix.parse().map_err(|_| wrong()))?;
        if prefix > bits { Err(wrong()) } else { Ok(Self { address, prefix }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_told_by_their_first_bits() {
        let check = |network: &str, address: &str, expected: bool| {
            let network: Network = network.parse().expect(network);
            assert_eq!(network.contains(address.parse().expect(address)), expected, "{network:?} {address}");
        };
        check("192.0.2.0/24", "192.0.2.255", true);
        check("192.0.2.0/24", "::ffff:192.0.2.255", true);
        check("192.0.2.0/24", "192.0.3.0", false);
        check("192.0.2.7", "192.0.2.7", true);
        check("192.0.2.7", "192.0.2.6", false);
        check("0.0.0.0/0", "203.0.113.1", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("2001:db8::/32", "2001:db8:ffff::1", true);
        for bad in ["", "a", "192.0.2.0/33", "192.0.2.0/", "2001:db8::/129", "192.0.2.0/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
