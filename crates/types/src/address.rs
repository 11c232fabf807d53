//! Where a node is reached, and from where.

use std::{fmt, net::SocketAddr, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most addresses of one node.
pub const ADDRESSES_MAX: usize = 8;

/// Who can use an address. Ordered: the narrower comes first, and is preferred where it can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Nodes of the same data centre.
    Datacenter,
    /// Nodes of the same region.
    Region,
    /// Everybody.
    World,
}

impl Scope {
    /// All of them, the narrowest first.
    pub const ALL: [Self; 3] = [Self::Datacenter, Self::Region, Self::World];

    /// Its name in configuration and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Datacenter => "datacenter",
            Self::Region => "region",
            Self::World => "world",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One address of a node's port for nodes. As text `SCOPE=ADDR:PORT`, or `ADDR:PORT` for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeAddress {
    /// Who can use it.
    pub scope: Scope,
    /// The address.
    pub at: SocketAddr,
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            Scope::World => write!(f, "{}", self.at),
            scope => write!(f, "{scope}={}", self.at),
        }
    }
}

impl FromStr for NodeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scope, at) = text.split_once('=').unwrap_or((Scope::World.as_str(), text));
        let scope = Scope::ALL.into_iter().find(|known| known.as_str() == scope);
        let scope = scope.ok_or_else(|| AddressError::Scope(text.to_owned()))?;
        let at = at.parse().map_err(|_| AddressError::Syntax(text.to_owned()))?;
        Ok(Self { scope, at })
    }
}

/// Why something is no address of a node, or no list of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It does not look like one.
    #[error("{0:?} is not an address with port: write one like 192.0.2.7:7443 or [2001:db8::7]:7443")]
    Syntax(String),
    /// Its scope is unknown.
    #[error("{0:?} begins with an unknown scope: write datacenter=, region= or world=, or nothing for world")]
    Scope(String),
    /// Nobody can connect to it.
    #[error("{0}: nobody can connect to that address: give one that others reach, with a port")]
    Unusable(NodeAddress),
    /// Named twice.
    #[error("{0} is listed twice")]
    Twice(SocketAddr),
    /// Nodes of other data centres could not reach the node.
    #[error("one address must be for the region or the world: nodes of other data centres need it")]
    TooNarrow,
    /// Too many, or none.
    #[error("{0} addresses: expected from 1 to {ADDRESSES_MAX}")]
    Count(usize),
}

/// The addresses of one node, as it says itself: never empty, and one of them is good for the whole region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Counts the node's changes: of two lists the one with the greater number is in force.
    edition: u64,
    /// Narrowest first; in the order given within a scope.
    list: Vec<NodeAddress>,
}

impl Addresses {
    /// A node's list with its number.
    ///
    /// # Errors
    /// [`AddressError`], saying what is wrong.
    pub fn new(edition: u64, mut list: Vec<NodeAddress>) -> Result<Self, AddressError> {
        if list.is_empty() || list.len() > ADDRESSES_MAX {
            return Err(AddressError::Count(list.len()));
        }
        for (index, address) in list.iter().enumerate() {
            let ip = address.at.ip();
            if address.at.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
                return Err(AddressError::Unusable(*address));
            }
            if list[..index].iter().any(|other| other.at == address.at) {
                return Err(AddressError::Twice(address.at));
            }
        }
        if list.iter().all(|address| address.scope == Scope::Datacenter) {
            return Err(AddressError::TooNarrow);
        }
        list.sort_by_key(|address| address.scope);
        Ok(Self { edition, list })
    }

    /// A node that has only said where everybody reaches it.
    pub fn single(at: SocketAddr) -> Self {
        Self { edition: 0, list: vec![NodeAddress { scope: Scope::World, at }] }
    }

    /// Its number.
    pub const fn edition(&self) -> u64 {
        self.edition
    }

    /// The addresses, narrowest first.
    pub fn list(&self) -> &[NodeAddress] {
        &self.list
    }

    /// The same addresses under another number.
    #[must_use]
    pub fn with_edition(self, edition: u64) -> Self {
        Self { edition, ..self }
    }

    /// What came from outside, checked again.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn checked(self) -> Result<Self, AddressError> {
        Self::new(self.edition, self.list)
    }

    /// In which order a node tries them that shares a data centre, only the region, or only the world with this one.
    /// Empty when none is meant for it.
    pub fn within(&self, shared: Scope) -> Vec<SocketAddr> {
        self.list.iter().filter(|address| address.scope >= shared).map(|address| address.at).collect()
    }

    /// The address for those who know but one: it reaches as far as any.
    pub fn widest(&self) -> SocketAddr {
        let scope = self.list.last().map(|address| address.scope);
        let first = self.list.iter().find(|address| Some(address.scope) == scope);
        // Never empty.
        first.map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |address| address.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Addresses, AddressError> {
        let list: Result<Vec<NodeAddress>, _> = text.split_whitespace().map(str::parse).collect();
        Addresses::new(1, list?)
    }

    #[test]
    fn the_nearest_that_can_be_used_comes_first() {
        let node =
            list("203.0.113.7:7443 203.0.113.8:7443 datacenter=10.0.0.7:7443 region=172.16.0.7:1").expect("good");
        let within = |shared| node.within(shared).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(within(Scope::World), "203.0.113.7:7443 203.0.113.8:7443");
        assert_eq!(within(Scope::Region), "172.16.0.7:1 203.0.113.7:7443 203.0.113.8:7443");
        assert_eq!(within(Scope::Datacenter), "10.0.0.7:7443 172.16.0.7:1 203.0.113.7:7443 203.0.113.8:7443");
        assert_eq!(node.widest().to_string(), "203.0.113.7:7443");
        assert_eq!(list("region=[fd00::7]:7443").expect("good").within(Scope::World), []);
    }

    #[test]
    fn text_and_value_are_the_same() {
        for text in ["datacenter=10.0.0.7:7443", "region=[fd00::7]:7443", "203.0.113.7:1"] {
            let address: NodeAddress = text.parse().expect("good");
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("world=192.0.2.1:1".parse::<NodeAddress>(), "192.0.2.1:1".parse());
    }

    #[test]
    fn what_nobody_can_use_is_refused() {
        for (text, why) in [
            ("", "0 addresses"),
            ("10.0.0.7", "with port"),
            ("city=10.0.0.7:1", "unknown scope"),
            ("10.0.0.7:0", "nobody can connect"),
            ("0.0.0.0:7443", "nobody can connect"),
            ("[ff02::1]:7443", "nobody can connect"),
            ("10.0.0.7:1 region=10.0.0.7:1", "twice"),
            ("datacenter=10.0.0.7:1", "other data centres"),
        ] {
            let error = list(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let many: Vec<String> = (1..=9).map(|port| format!("10.0.0.7:{port}")).collect();
        assert_eq!(list(&many.join(" ")), Err(AddressError::Count(9)));
    }
}
