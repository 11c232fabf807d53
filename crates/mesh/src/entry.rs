//! What comes in from other regions: streams for this node's edge.

use std::{fmt, net::SocketAddr};

use insula_types::{NodeId, RegionName};
use tokio::sync::OwnedSemaphorePermit;

use crate::{Stream, TraceId};

/// A stream on which the edge of another region asks this one's for what instances of this region serve.
pub struct Entry {
    /// The region that asks; the transport has proven it.
    pub region: RegionName,
    /// Its node.
    pub node: NodeId,
    /// From where it comes.
    pub address: SocketAddr,
    /// Ties together what both nodes log.
    pub trace: TraceId,
    /// HTTP.
    pub stream: Stream,
    /// To be held for as long as the stream is.
    pub place: OwnedSemaphorePermit,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({} of {}, {})", self.node, self.region, self.trace)
    }
}
