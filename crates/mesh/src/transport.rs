//! How a peer is reached: over the port for nodes in production, over anything in tests.

use std::{io, net::SocketAddr};

use futures::future::BoxFuture;
use insula_types::NodeId;

use crate::Stream;

/// Makes connections on which both ends know who the other is.
pub trait Transport: Send + Sync + 'static {
    /// Connects to the mesh of `node` at `address`; fails when another node answers there.
    fn connect(&self, node: NodeId, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>>;
}
