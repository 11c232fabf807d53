//! The mesh of one node: dials instances, watches peers, serves what peers dial.

use std::{io, net::SocketAddr, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use insula_catalog::Holder;
use insula_env::{Env, beat, clock::timeout, net};
use insula_types::{NodeId, RegionName};
use tokio::sync::watch;
use tracing::debug;

use crate::{
    DialError, Dialer, Entry, FarTarget, Guarded, Stream, Target, Transport, Verdicts,
    header::{Answer, Opening, Purpose, StreamHeader, VERSION},
    limits,
    monitor::open,
    peers::{self, Board},
    receiver::{Receiver, local_endpoint},
};

/// The mesh of one node. Clones share it.
#[derive(Clone)]
pub struct Mesh {
    holder: Arc<Holder>,
    transport: Arc<dyn Transport>,
    board: Arc<Board>,
    /// The same of other regions' gateways.
    far: Arc<Board>,
    receiver: Arc<Receiver>,
    env: Env,
}

impl Mesh {
    /// Starts the mesh: from now on peers are watched. Connections of peers come by [`Mesh::accept_loop`].
    pub fn start(holder: Arc<Holder>, transport: Arc<dyn Transport>, env: &Env) -> Self {
        let mesh = Self {
            receiver: Arc::new(Receiver::new(Arc::clone(&holder))),
            holder,
            transport,
            board: Arc::default(),
            far: Arc::new(Board::far()),
            env: env.clone(),
        };
        let watching = mesh.clone();
        env.tasks.supervise("peers", beat::QUICK, move |beat| {
            let mesh = watching.clone();
            peers::watch(peers::to_watch, mesh.holder, mesh.transport, mesh.board, mesh.env, beat)
        });
        let watching = mesh.clone();
        env.tasks.supervise("far peers", beat::QUICK, move |beat| {
            let mesh = watching.clone();
            peers::watch(peers::far_to_watch, mesh.holder, mesh.transport, mesh.far, mesh.env, beat)
        });
        mesh
    }

    /// Serves one connection of a peer to its end, in a task of its own. `peer` is what the transport has proven.
    pub fn serve(&self, peer: NodeId, stream: Stream) {
        let receiver = Arc::clone(&self.receiver);
        self.env.tasks.spawn("mesh stream", async move {
            if let Err(error) = receiver.serve(peer, stream).await {
                debug!(%peer, %error, "a peer's stream ended");
            }
        });
    }

    /// Gives what comes from other regions to this node's edge. Until it is called, and after the first call, nothing changes that.
    pub fn enter_by(&self, edge: impl Fn(Entry) + Send + Sync + 'static) {
        self.receiver.enter_by(Box::new(edge));
    }

    /// Serves one connection of a node of another region to its end, in a task of its own; the transport has proven who it is.
    pub fn serve_far(&self, region: RegionName, node: NodeId, address: SocketAddr, stream: Stream) {
        let receiver = Arc::clone(&self.receiver);
        self.env.tasks.spawn("far stream", async move {
            if let Err(error) = receiver.serve_far(&region, node, address, stream).await {
                debug!(%region, %node, %error, "a stream of another region ended");
            }
        });
    }

    /// How many streams of peers are carried to instances of this node.
    pub fn open_streams(&self) -> usize {
        self.receiver.open_streams()
    }

    /// Lets peers send their pings to the dataplane that has taken over, and completes when no stream of theirs is carried; to be
    /// called when none is accepted any more.
    pub async fn drain(&self) {
        self.receiver.drain().await;
    }

    pub(crate) fn tasks(&self) -> &insula_env::TaskGroup {
        &self.env.tasks
    }

    async fn dial_now(&self, target: Target) -> Result<Stream, DialError> {
        let (instance, node) = (target.instance, target.node);
        let unknown = DialError::Unknown { instance };
        let failed = |source| DialError::Connect { instance, node, source };
        let catalog = self.holder.current();
        if node == catalog.own {
            let endpoint = local_endpoint(&catalog, instance, &target.service, &target.port).ok_or(unknown)?;
            return Ok(Box::new(net::connect(endpoint, limits::DIAL).await.map_err(failed)?));
        }
        let addresses: Vec<_> = catalog.nodes.get(&node).ok_or(unknown)?.addresses().collect();
        let lost = self.board.lost(node);
        let header = StreamHeader {
            service: target.service,
            instance,
            port: target.port,
            caller: target.caller,
            client: target.client,
            trace: target.trace,
        };
        let opening = Opening { version: VERSION, purpose: Purpose::Stream(header) };
        let opened = tokio::select! {
            opened = timeout(limits::DIAL, open(&*self.transport, (None, node, &addresses), &opening)) => {
                opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).and_then(|opened| opened)
            }
            () = lost.cancelled() => Err(io::Error::new(io::ErrorKind::ConnectionReset, "the node stopped answering")),
        };
        match opened.map_err(failed)? {
            (stream, Answer::Ok) => Ok(Box::new(Guarded::new(stream, lost))),
            (_, Answer::Refused { code, why }) => Err(DialError::Refused { instance, node, code, why }),
        }
    }
}

impl Mesh {
    async fn dial_far_now(&self, target: FarTarget) -> Result<Stream, DialError> {
        let FarTarget { region, node, trace } = target;
        let failed = |source| DialError::Far { region: region.clone(), node, source };
        let catalog = self.holder.current();
        let gateways = catalog.far.get(&region).map(|far| far.gateways.as_slice()).unwrap_or_default();
        let gateway = gateways.iter().find(|gateway| gateway.node == node);
        let gateway = gateway.ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?;
        let lost = self.far.lost(node);
        let opening = Opening { version: VERSION, purpose: Purpose::Enter { trace } };
        let way = (Some(&region), node, gateway.addresses.as_slice());
        let opened = tokio::select! {
            opened = timeout(limits::FAR_DIAL, open(&*self.transport, way, &opening)) => {
                opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).and_then(|opened| opened)
            }
            () = lost.cancelled() => Err(io::Error::new(io::ErrorKind::ConnectionReset, "the node stopped answering")),
        };
        match opened.map_err(failed)? {
            (stream, Answer::Ok) => Ok(Box::new(Guarded::new(stream, lost))),
            (_, Answer::Refused { code, why }) => {
                Err(failed(io::Error::new(io::ErrorKind::ConnectionRefused, format!("{why} ({code:?})"))))
            }
        }
    }
}

impl Dialer for Mesh {
    fn dial(&self, target: Target) -> BoxFuture<'_, Result<Stream, DialError>> {
        self.dial_now(target).boxed()
    }

    fn dial_far(&self, target: FarTarget) -> BoxFuture<'_, Result<Stream, DialError>> {
        self.dial_far_now(target).boxed()
    }

    fn far_verdicts(&self) -> watch::Receiver<Arc<Verdicts>> {
        self.far.verdicts()
    }

    fn verdicts(&self) -> watch::Receiver<Arc<Verdicts>> {
        self.board.verdicts()
    }
}
