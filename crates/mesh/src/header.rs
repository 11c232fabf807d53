//! What is said on a connection before bytes flow: one opening by who connects, one answer by who accepts.

use std::{fmt, net::SocketAddr};

use insula_types::{InstanceId, NodeId, PortName, ServiceRef};
use serde::{Deserialize, Serialize};

/// Version of the opening. Fields can be added without a new one (rule R5).
pub(crate) const VERSION: u16 = 1;

/// Ties together what different nodes log about one stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceId(pub u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Who asks for a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Caller {
    /// The edge of a node, for the public: allowed to services with a route.
    Edge(NodeId),
    /// An instance of a service, vouched for by its node. Not served yet: comes with the private network.
    Service(ServiceRef),
}

/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opening {
    /// [`VERSION`] of the sender.
    pub version: u16,
    /// What the connection is for.
    pub purpose: Purpose,
}

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// Eight bytes at a time, sent back as they came: is the peer there?
    Ping,
    /// Raw bytes to and from an instance.
    Stream(StreamHeader),
    /// From another region: HTTP with this node's edge, which brings it to instances of its own region.
    Enter { trace: TraceId },
}

/// Where a stream leads, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamHeader {
    pub service: ServiceRef,
    pub instance: InstanceId,
    pub port: PortName,
    pub caller: Caller,
    pub client: Option<SocketAddr>,
    pub trace: TraceId,
}

/// Why a stream was refused, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The opening is of a kind that this node does not know.
    Version,
    /// The peer or the caller may not.
    NotAllowed,
    /// The instance is not here (any more).
    UnknownInstance,
    /// The instance does not take connections.
    Unreachable,
    /// This node carries as many streams as it can.
    Busy,
}

/// The answer to an opening.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Bytes may flow.
    Ok,
    /// They may not.
    Refused { code: Refusal, why: String },
}
