//! The accepting end: who may have a stream to which instance, and the relaying of it.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use insula_catalog::{Catalog, Holder, frame};
use insula_env::{clock::timeout, net};
use insula_types::{NodeId, RegionName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    Caller, Entry, Refusal, Stream,
    header::{Answer, Opening, Purpose, StreamHeader, VERSION},
    limits,
    relay::relay,
};

/// Pings come four times a second; a peer that has sent none for so long is gone.
const PING_SILENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Whether `peer` may have this stream, and where it leads. Pure.
fn authorize(catalog: &Catalog, peer: NodeId, header: &StreamHeader) -> Result<SocketAddr, (Refusal, String)> {
    if catalog.tombstones.contains(&peer) {
        return Err((Refusal::NotAllowed, format!("{peer} has been removed from the region")));
    }
    match &header.caller {
        Caller::Edge(node) if *node != peer => {
            return Err((Refusal::NotAllowed, format!("{peer} says that it is the edge of {node}")));
        }
        Caller::Edge(_) if !catalog.is_routed(&header.service) => {
            return Err((Refusal::NotAllowed, format!("no route leads to {}", header.service)));
        }
        Caller::Edge(_) => {}
        Caller::Service(_) => {
            return Err((Refusal::NotAllowed, "streams between services are not served yet".to_owned()));
        }
    }
    local_endpoint(catalog, header.instance, &header.service, &header.port)
        .ok_or_else(|| (Refusal::UnknownInstance, format!("{} of {} is not here", header.instance, header.service)))
}

/// Where a port of an instance of the own node is reached.
pub(crate) fn local_endpoint(
    catalog: &Catalog,
    instance: insula_types::InstanceId,
    service: &insula_types::ServiceRef,
    port: &insula_types::PortName,
) -> Option<SocketAddr> {
    let found = catalog.instance(service, instance)?;
    if found.node == catalog.own { found.endpoints.get(port).copied() } else { None }
}

/// Serves the connections of peers.
pub(crate) struct Receiver {
    holder: Arc<Holder>,
    places: Arc<Semaphore>,
    /// Whether peers shall look for another dataplane of this node.
    leaving: CancellationToken,
    /// Takes what comes from other regions.
    edge: OnceLock<EnterBy>,
}

/// An edge, as it takes streams.
type EnterBy = Box<dyn Fn(Entry) + Send + Sync>;

impl Receiver {
    pub(crate) fn new(holder: Arc<Holder>) -> Self {
        let leaving = CancellationToken::new();
        Self { holder, places: Arc::new(Semaphore::new(limits::STREAMS_MAX)), leaving, edge: OnceLock::new() }
    }

    pub(crate) fn enter_by(&self, edge: EnterBy) {
        // Set once, by whoever puts the parts together.
        self.edge.set(edge).ok();
    }

    /// Serves one connection of a node of another region: pings, and streams for this node's edge.
    pub(crate) async fn serve_far(
        &self,
        region: &RegionName,
        node: NodeId,
        address: SocketAddr,
        mut stream: Stream,
    ) -> std::io::Result<()> {
        let opening: Opening = timeout(limits::HEADER, frame::read(&mut stream, limits::HEADER_BYTES)).await??;
        let refused = if !self.holder.current().far.contains_key(region) {
            Some((Refusal::NotAllowed, format!("region {region} is not known as one of this cluster here")))
        } else if matches!(opening.purpose, Purpose::Stream(_)) {
            Some((
                Refusal::NotAllowed,
                format!("region {region} has no instances here, and asks the edge for those of others"),
            ))
        } else {
            None
        };
        if let Some((code, why)) = refused {
            answer(&mut stream, &Answer::Refused { code, why }).await?;
            return stream.shutdown().await;
        }
        let Purpose::Enter { trace } = opening.purpose else { return self.echo(node, stream).await };
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let Some((edge, place)) = self.edge.get().zip(place) else {
            let why = format!("this node carries {} streams", limits::STREAMS_MAX);
            return answer(&mut stream, &Answer::Refused { code: Refusal::Busy, why }).await;
        };
        answer(&mut stream, &Answer::Ok).await?;
        edge(Entry { region: region.clone(), node, address, trace, stream, place });
        Ok(())
    }

    /// How many streams are carried.
    pub(crate) fn open_streams(&self) -> usize {
        limits::STREAMS_MAX - self.places.available_permits()
    }

    /// Ends the connections for pings, in an orderly way; completes when no stream is carried, if none is accepted any more.
    pub(crate) async fn drain(&self) {
        self.leaving.cancel();
        // All places at once; never closed.
        let all = u32::try_from(limits::STREAMS_MAX).expect("16,384");
        self.places.acquire_many(all).await.ok();
    }

    /// Serves one connection of `peer` to its end. The transport has already proven that it is a node of this region.
    /// Ends it at once when the peer is removed.
    pub(crate) async fn serve(&self, peer: NodeId, stream: Stream) -> std::io::Result<()> {
        tokio::select! {
            // First what the peer gets told, then the cut.
            biased;
            served = self.answer(peer, stream) => served,
            error = self.removed_later(peer) => Err(error),
        }
    }

    /// Completes when a peer that is a member now is removed. Whoever comes when it is removed already is told so.
    async fn removed_later(&self, peer: NodeId) -> std::io::Error {
        let mut catalogs = self.holder.watch();
        if !catalogs.borrow_and_update().tombstones.contains(&peer)
            && catalogs.wait_for(|catalog| catalog.tombstones.contains(&peer)).await.is_ok()
        {
            let why = format!("{peer} has been removed from the region");
            return std::io::Error::new(std::io::ErrorKind::PermissionDenied, why);
        }
        std::future::pending().await
    }

    async fn answer(&self, peer: NodeId, mut stream: Stream) -> std::io::Result<()> {
        let opening: Opening = timeout(limits::HEADER, frame::read(&mut stream, limits::HEADER_BYTES)).await??;
        if opening.version > VERSION {
            debug!(%peer, version = opening.version, "a peer with a newer mesh");
        }
        match opening.purpose {
            Purpose::Ping => self.echo(peer, stream).await,
            Purpose::Stream(header) => self.carry(peer, stream, header).await,
            Purpose::Enter { .. } => {
                let why = format!("{peer} is of this region, and reaches instances by their nodes");
                answer(&mut stream, &Answer::Refused { code: Refusal::NotAllowed, why }).await?;
                stream.shutdown().await
            }
        }
    }

    async fn echo(&self, peer: NodeId, mut stream: Stream) -> std::io::Result<()> {
        if self.holder.current().tombstones.contains(&peer) {
            let why = format!("{peer} has been removed from the region");
            return answer(&mut stream, &Answer::Refused { code: Refusal::NotAllowed, why }).await;
        }
        answer(&mut stream, &Answer::Ok).await?;
        let mut ping = [0u8; 8];
        loop {
            tokio::select! {
                read = timeout(PING_SILENCE, stream.read_exact(&mut ping)) => read??,
                // Said in words, since the peer takes it for a crash otherwise.
                () = self.leaving.cancelled() => return timeout(PING_SILENCE, stream.shutdown()).await?,
            };
            timeout(PING_SILENCE, async {
                stream.write_all(&ping).await?;
                stream.flush().await
            })
            .await??;
        }
    }

    async fn carry(&self, peer: NodeId, mut stream: Stream, header: StreamHeader) -> std::io::Result<()> {
        let instance = match self.reach(peer, &header).await {
            Ok(instance) => instance,
            Err((code, why)) => {
                debug!(%peer, instance = %header.instance, trace = %header.trace, ?code, %why, "stream refused");
                answer(&mut stream, &Answer::Refused { code, why }).await?;
                return stream.shutdown().await;
            }
        };
        let Some((connection, _place)) = instance else {
            let why = format!("this node carries {} streams", limits::STREAMS_MAX);
            return answer(&mut stream, &Answer::Refused { code: Refusal::Busy, why }).await;
        };
        answer(&mut stream, &Answer::Ok).await?;
        relay(stream, connection, limits::STREAM_IDLE).await
    }

    /// Connects to the instance when the peer may; none when there is no place for one more stream.
    async fn reach(
        &self,
        peer: NodeId,
        header: &StreamHeader,
    ) -> Result<Option<(net::TcpStream, tokio::sync::OwnedSemaphorePermit)>, (Refusal, String)> {
        let endpoint = authorize(&self.holder.current(), peer, header)?;
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Ok(None) };
        match net::connect(endpoint, limits::LOCAL_CONNECT).await {
            Ok(connection) => Ok(Some((connection, place))),
            Err(error) => {
                Err((Refusal::Unreachable, format!("{} does not take connections: {error}", header.instance)))
            }
        }
    }
}

async fn answer(stream: &mut Stream, answer: &Answer) -> std::io::Result<()> {
    timeout(limits::HEADER, frame::write(stream, answer, limits::HEADER_BYTES)).await?
}
