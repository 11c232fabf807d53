//! What one client may have of the edge: its share of the connections, and of those that have not said a request yet.

use std::net::{IpAddr, Ipv6Addr};

use parking_lot::Mutex;

use crate::{
    Config,
    share::{Share, Shares},
};

/// Connections of all clients. Those behind one IPv4 address, or within one IPv6 network of 64 bits, count as one.
#[derive(Debug)]
pub(crate) struct Clients {
    connections: Shares<IpAddr>,
    quiet: Shares<IpAddr>,
}

impl Clients {
    pub(crate) fn new(config: &Config) -> Self {
        Self { connections: Shares::new(config.connections_max), quiet: Shares::new(config.quiet_max) }
    }

    /// Takes a connection in; none when the client has its share of them.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Admitted> {
        let client = client(address);
        let connection = self.connections.take(&client)?;
        let quiet = self.quiet.take(&client)?;
        Some(Admitted { _connection: Some(connection), quiet: Mutex::new(Some(quiet)) })
    }
}

/// A connection that was taken in.
#[derive(Debug)]
pub(crate) struct Admitted {
    _connection: Option<Share<IpAddr>>,
    quiet: Mutex<Option<Share<IpAddr>>>,
}

impl Admitted {
    /// A connection of another region's edge, whose clients have their shares there.
    pub(crate) fn of_edge() -> Self {
        Self { _connection: None, quiet: Mutex::new(None) }
    }

    /// It has said a request.
    pub(crate) fn spoke(&self) {
        self.quiet.lock().take();
    }
}

fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_apart_by_what_they_can_choose() {
        let check = |address: &str, expected: &str| {
            let [address, expected] = [address, expected].map(|text| text.parse::<IpAddr>().expect("an address"));
            assert_eq!(client(address), expected);
        };
        check("192.0.2.7", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
    }

    #[test]
    fn quiet_connections_are_bounded_until_they_speak() {
        let clients = Clients::new(&Config { connections_max: 100, quiet_max: 8, ..Config::default() });
        let (one, other) = ("192.0.2.1".parse().expect("address"), "192.0.2.2".parse().expect("address"));
        let mut admitted: Vec<_> = std::iter::from_fn(|| clients.admit(one)).collect();
        assert_eq!(admitted.len(), 4);
        assert!(clients.admit(other).is_some());
        admitted.iter().for_each(Admitted::spoke);
        admitted.extend(std::iter::from_fn(|| clients.admit(one)));
        assert_eq!(admitted.len(), 8, "those that spoke are not quiet any more");
    }
}
