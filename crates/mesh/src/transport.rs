//! How a peer is reached: over the port for nodes in production, over anything in tests.

use std::{collections::BTreeMap, error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use insula_env::{Beat, Clock, clock::Instant, net};
use insula_identity::Material;
use insula_rpc::{ConnectError, Dispatcher, Protocol};
use insula_types::{NodeId, RegionName};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::{Mesh, Stream, limits};

/// Makes connections on which both ends know who the other is.
pub trait Transport: Send + Sync + 'static {
    /// Connects to the mesh of `node` at one of its addresses, the first being preferred; fails when another node answers
    /// there.
    fn connect<'a>(&'a self, node: NodeId, addresses: &'a [SocketAddr]) -> BoxFuture<'a, io::Result<Stream>>;

    /// The same to a node of another region; fails when a node of a third one answers there, though it have the same id.
    fn connect_far<'a>(
        &'a self,
        region: &'a RegionName,
        node: NodeId,
        addresses: &'a [SocketAddr],
    ) -> BoxFuture<'a, io::Result<Stream>>;
}

/// How long an address that answered instead of a preferred one is tried first.
const FIRST_FOR: Duration = Duration::from_secs(30);

/// Mutual TLS on the port between nodes.
pub struct PortTransport {
    material: Material,
    clock: Clock,
    /// Which address answered last instead of a preferred one, and until when it goes first: a request does not wait for
    /// what did not answer the one before.
    answered: Mutex<BTreeMap<NodeId, (SocketAddr, Instant)>>,
}

impl PortTransport {
    /// A transport that shows this node's certificate.
    pub fn new(material: Material, clock: Clock) -> Self {
        Self { material, clock, answered: Mutex::default() }
    }

    /// The addresses in the order in which they are tried.
    fn ordered(&self, node: NodeId, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let now = self.clock.now();
        let mut answered = self.answered.lock();
        let first = answered.get(&node).filter(|(_, until)| now < *until).map(|(address, _)| *address);
        if first.is_none() {
            answered.remove(&node);
        }
        let mut ordered = addresses.to_vec();
        ordered.sort_by_key(|address| Some(*address) != first);
        ordered
    }
}

impl Transport for PortTransport {
    fn connect<'a>(&'a self, node: NodeId, addresses: &'a [SocketAddr]) -> BoxFuture<'a, io::Result<Stream>> {
        async move {
            let attempt =
                |address| insula_rpc::connect(address, Protocol::Mesh, &self.material, Some(node), limits::DIAL);
            match net::first_of(&self.ordered(node, addresses), |address| Box::pin(attempt(address))).await {
                Ok((address, link)) => {
                    if addresses.first() != Some(&address) {
                        let (mut answered, until) = (self.answered.lock(), self.clock.now() + FIRST_FOR);
                        // Not longer for answering again: the preferred one gets another try.
                        if answered.get(&node).is_none_or(|(first, _)| *first != address) {
                            answered.insert(node, (address, until));
                        }
                    }
                    Ok(Box::new(link.stream) as Stream)
                }
                Err(why) => {
                    self.answered.lock().remove(&node);
                    Err(why.map_or_else(|| io::ErrorKind::AddrNotAvailable.into(), |error| to_io(&error)))
                }
            }
        }
        .boxed()
    }

    fn connect_far<'a>(
        &'a self,
        region: &'a RegionName,
        node: NodeId,
        addresses: &'a [SocketAddr],
    ) -> BoxFuture<'a, io::Result<Stream>> {
        connect_far(&self.material, region, node, addresses).boxed()
    }
}

/// Connects to a node of another region. Which of its addresses answers is not remembered: connections to it are few, and kept.
async fn connect_far(
    material: &Material,
    region: &RegionName,
    node: NodeId,
    addresses: &[SocketAddr],
) -> io::Result<Stream> {
    let attempt = |address| insula_rpc::connect(address, Protocol::Mesh, material, Some(node), limits::FAR_DIAL);
    let found = net::first_of(addresses, |address| Box::pin(attempt(address))).await;
    let (_, link) =
        found.map_err(|why| why.map_or_else(|| io::ErrorKind::AddrNotAvailable.into(), |error| to_io(&error)))?;
    let theirs = &link.caller.identity.region;
    if theirs != region {
        // Each region's CA gives its nodes the ids that it likes.
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{node} is of region {theirs}, not {region}"),
        ));
    }
    Ok(Box::new(link.stream))
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
    /// certificate has proven it to be a node of this region, or of another one, of which this node's edge alone is asked.
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
                            // The roots that both trust are the cluster's.
                            mesh.serve_far(peer.region.clone(), peer.node, address, Box::new(link.stream));
                        }
                    }
                    Err(error) => debug!(%address, %error, "a peer's connection failed"),
                }
            });
        }
    }
}
