//! What a connection between nodes is for, told by its ALPN name.

use std::{fmt, ops::RangeInclusive};

use insula_identity::Lapse;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Votes and log entries.
    Raft,
    /// Everything else that nodes ask of each other.
    Rpc,
    /// Large transfers, apart so that they do not hold up the others.
    Bulk,
    /// Streams to instances; stays in the dataplane.
    Mesh,
    /// One request of a machine that has no certificate yet.
    Join,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Raft, Self::Rpc, Self::Bulk, Self::Mesh, Self::Join];

    /// The ALPN name. The number is that of the framing, which changes only when even the version handshake must.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Raft => b"insula-raft/1",
            Self::Rpc => b"insula-rpc/1",
            Self::Bulk => b"insula-bulk/1",
            Self::Mesh => b"insula-mesh/1",
            Self::Join => b"insula-join/1",
        }
    }

    /// The protocol with this ALPN name.
    pub fn from_alpn(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.alpn() == name)
    }

    /// Whether expired certificates are taken on it: only for traffic (rule R6).
    pub const fn lapse(self) -> Lapse {
        match self {
            Self::Mesh => Lapse::WithinRegion,
            Self::Raft | Self::Rpc | Self::Bulk | Self::Join => Lapse::Refuse,
        }
    }

    /// Versions that this program speaks; both sides agree on the highest that they share.
    pub const fn versions(self) -> RangeInclusive<u16> {
        1..=1
    }

    /// One byte that stands for it beside a handed descriptor. For ever: dataplane and server are upgraded apart.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Raft => 1,
            Self::Rpc => 2,
            Self::Bulk => 3,
            Self::Mesh => 4,
            Self::Join => 5,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.code() == code)
    }

    /// Its name in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Rpc => "rpc",
            Self::Bulk => "bulk",
            Self::Mesh => "mesh",
            Self::Join => "join",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_lead_back() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::from_alpn(protocol.alpn()), Some(protocol));
            assert_eq!(Protocol::from_code(protocol.code()), Some(protocol));
        }
        assert_eq!(Protocol::from_alpn(b"h2"), None);
        assert_eq!(Protocol::from_code(0), None);
    }
}
