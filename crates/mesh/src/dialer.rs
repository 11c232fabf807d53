//! The seam between edge and mesh: who can make streams to instances.

use std::{io, net::SocketAddr, sync::Arc};

use futures::future::BoxFuture;
use insula_types::{InstanceId, NodeId, PortName, RegionName, ServiceRef};
use tokio::sync::watch;

use crate::{Caller, Refusal, Stream, TraceId, Verdicts};

/// Where a stream shall lead, and for whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// The node that runs the instance.
    pub node: NodeId,
    /// The service.
    pub service: ServiceRef,
    /// The instance.
    pub instance: InstanceId,
    /// Which of its ports.
    pub port: PortName,
    /// Who asks.
    pub caller: Caller,
    /// Whose traffic it is, when the stream is for one client alone.
    pub client: Option<SocketAddr>,
    /// Ties together what different nodes log about the stream.
    pub trace: TraceId,
}

/// A gateway of another region, to whose edge a stream shall lead.
#[derive(Debug, Clone)]
pub struct FarTarget {
    /// The region.
    pub region: RegionName,
    /// The gateway.
    pub node: NodeId,
    /// Ties together what different nodes log about the stream.
    pub trace: TraceId,
}

/// Why there is no stream. In every case not a byte has reached the instance, so any other may be tried.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The catalog of this node has no such node or endpoint: it has changed meanwhile.
    #[error("instance {instance} is not in the catalog any more")]
    Unknown {
        /// The instance.
        instance: InstanceId,
    },
    /// The connection failed.
    #[error("connect to instance {instance} on {node}")]
    Connect {
        /// The instance.
        instance: InstanceId,
        /// Its node.
        node: NodeId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other node said no.
    #[error("{node} refused a stream to instance {instance}: {why} ({code:?})")]
    Refused {
        /// The instance.
        instance: InstanceId,
        /// Its node.
        node: NodeId,
        /// For programs.
        code: Refusal,
        /// For people.
        why: String,
    },
    /// There is no stream to another region.
    #[error("connect to {node}, a gateway of region {region}")]
    Far {
        /// The region.
        region: RegionName,
        /// Its gateway.
        node: NodeId,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes streams to instances, and knows which nodes answer.
pub trait Dialer: Send + Sync + 'static {
    /// Makes a stream. It ends with an error, never by hanging, when its node falls silent.
    ///
    /// # Errors
    /// [`DialError`] within [`crate::limits::DIAL`].
    fn dial(&self, target: Target) -> BoxFuture<'_, Result<Stream, DialError>>;

    /// Makes a stream to the edge of another region's gateway. It ends as those to instances do.
    ///
    /// # Errors
    /// [`DialError`] within [`crate::limits::FAR_DIAL`].
    fn dial_far(&self, target: FarTarget) -> BoxFuture<'_, Result<Stream, DialError>>;

    /// Which nodes do not answer now; changes are seen.
    fn verdicts(&self) -> watch::Receiver<Arc<Verdicts>>;

    /// The same of gateways of other regions.
    fn far_verdicts(&self) -> watch::Receiver<Arc<Verdicts>>;
}
