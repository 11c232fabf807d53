//! The seam between edge and mesh: who can make streams to instances.

use std::{io, net::SocketAddr, sync::Arc};

use futures::future::BoxFuture;
use insula_types::{InstanceId, NodeId, PortName, ServiceRef};
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
}

/// Makes streams to instances, and knows which nodes answer.
pub trait Dialer: Send + Sync + 'static {
    /// Makes a stream. It ends with an error, never by hanging, when its node falls silent.
    ///
    /// # Errors
    /// [`DialError`] within [`crate::limits::DIAL`].
    fn dial(&self, target: Target) -> BoxFuture<'_, Result<Stream, DialError>>;

    /// Which nodes do not answer now; changes are seen.
    fn verdicts(&self) -> watch::Receiver<Arc<Verdicts>>;
}
