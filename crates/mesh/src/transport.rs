//! How a peer is reached: over the port for nodes in production, over anything in tests.

use std::{error::Error, io, net::SocketAddr, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use insula_env::Beat;
use insula_identity::Material;
use insula_rpc::{ConnectError, Dispatcher, Protocol};
use insula_types::NodeId;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::{Mesh, Stream, limits};

/// Makes connections on which both ends know who the other is.
pub trait Transport: Send + Sync + 'static {
    /// Connects to the mesh of `node` at `address`; fails when another node answers there.
    fn connect(&self, node: NodeId, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>>;
}

/// Mutual TLS on the port between nodes.
#[derive(Clone)]
pub struct PortTransport {
    material: Material,
}

impl PortTransport {
    /// A transport that shows this node's certificate.
    pub fn new(material: Material) -> Self {
        Self { material }
    }
}

impl Transport for PortTransport {
    fn connect(&self, node: NodeId, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>> {
        async move {
            let link = insula_rpc::connect(address, Protocol::Mesh, &self.material, Some(node), limits::DIAL)
                .await
                .map_err(|error| to_io(&error))?;
            Ok(Box::new(link.stream) as Stream)
        }
        .boxed()
    }
}

fn to_io(error: &ConnectError) -> io::Error {
    let kind = match error {
        ConnectError::Deadline { .. } => io::ErrorKind::TimedOut,
        ConnectError::Tcp { source, .. } => source.kind(),
        _ => io::ErrorKind::ConnectionAborted,
    };
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    io::Error::new(kind, format!("{error}{cause}"))
}

impl Mesh {
    /// Takes what peers connect, from the port between nodes, until the task group stops. A peer is served once its
    /// certificate has proven it to be a node of this region.
    pub async fn accept_loop(&self, port: &mut Dispatcher, material: Material, beat: Beat) {
        let places = Arc::new(Semaphore::new(limits::HANDSHAKES_MAX));
        while let Some((stream, address)) = beat.idle(port.next_mesh()).await {
            let Ok(place) = beat.idle(Arc::clone(&places).acquire_owned()).await else { return };
            let (mesh, material) = (self.clone(), material.clone());
            self.tasks().spawn("mesh handshake", async move {
                let accepted = insula_rpc::accept(stream, address, Protocol::Mesh, &material, limits::HEADER)
                    .await
                    .map_err(|error| to_io(&error));
                drop(place);
                match accepted {
                    Ok(link) => {
                        let (peer, own) = (&link.caller.identity, material.identity());
                        if peer.cluster == own.cluster && peer.region == own.region {
                            mesh.serve(peer.node, Box::new(link.stream));
                        } else {
                            debug!(%address, %peer, "a node of another region is not served");
                        }
                    }
                    Err(error) => debug!(%address, %error, "a peer's connection failed"),
                }
            });
        }
    }
}
