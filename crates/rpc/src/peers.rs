//! A pool of connections: one per node, made when needed, replaced when old, tried again with jittered back-off.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use insula_env::{
    Env,
    clock::{Instant, timeout},
    net,
};
use insula_identity::Material;
use insula_types::{NodeId, codec};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tracing::debug;

use crate::{
    AddressBook, Caller, Connection, Handler, ItemStream, Method, Protocol, Settings, TypedStream,
    connect::dial,
    method::decode_response,
    serve::serve,
    status::{Code, Status},
};

/// Shortest and longest wait between attempts to connect to one node.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Attempts that one call waits for: they are given up when the node is reached elsewhere, and when this side stops.
const ATTEMPTS_MAX: usize = 4;
/// Bytes that wait inside a connection of this node to itself.
const LOCAL_BUFFER: usize = 64 * 1024;

/// Calls to other nodes over one protocol. Clones share the connections.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    material: Material,
    book: AddressBook,
    protocol: Protocol,
    settings: Settings,
    env: Env,
    slots: Mutex<BTreeMap<NodeId, Slot>>,
    /// Answers this node's calls to itself.
    local: Mutex<Option<Arc<dyn Handler>>>,
}

/// The way to one node.
enum Slot {
    /// Being connected; the channel tells how it went. The attempt ends with the slot.
    Dialing(watch::Receiver<Option<Dialed>>, #[expect(dead_code, reason = "held")] oneshot::Sender<()>),
    Open(Connection),
    /// Not reached; not tried again before a time.
    Failed {
        why: Status,
        retry_at: Instant,
        wait: Duration,
    },
}

type Dialed = Result<Connection, Status>;

impl Peers {
    /// A pool without connections yet.
    pub fn new(material: Material, book: AddressBook, protocol: Protocol, env: Env) -> Self {
        Self::with_settings(material, book, protocol, env, Settings::default())
    }

    /// The same with other times.
    pub fn with_settings(
        material: Material,
        book: AddressBook,
        protocol: Protocol,
        env: Env,
        settings: Settings,
    ) -> Self {
        let (slots, local) = (Mutex::default(), Mutex::new(None));
        Self(Arc::new(Inner { material, book, protocol, settings, env, slots, local }))
    }

    /// Lets this node call itself: such calls go to `handler` without a network.
    pub fn set_local(&self, handler: Arc<dyn Handler>) {
        *self.0.local.lock() = Some(handler);
    }

    /// The addresses that it uses.
    pub fn addresses(&self) -> &AddressBook {
        &self.0.book
    }

    /// Calls a method of a node, within `limit` all told.
    ///
    /// # Errors
    /// What the node says, or a [`Status`] with the reason why it was not reached or did not answer.
    pub async fn call<M: Method>(
        &self,
        node: NodeId,
        request: &M::Request,
        limit: Duration,
    ) -> Result<M::Response, Status> {
        let body = self.call_raw(node, M::ID, codec::encode(request).into(), limit).await?;
        decode_response::<M>(&body)
    }

    /// Calls a method by number, bytes in and bytes out.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_raw(&self, node: NodeId, method: u16, body: Bytes, limit: Duration) -> Result<Bytes, Status> {
        let start = self.0.env.clock.now();
        let connection = self.connection(node, limit).await?;
        let left = limit.saturating_sub(self.0.env.clock.now() - start);
        connection.call(method, body, left).await
    }

    /// Calls a streaming method of a node; `limit` is for reaching it.
    ///
    /// # Errors
    /// When the node was not reached; what it says comes as the stream's first item.
    pub async fn stream<M: Method>(
        &self,
        node: NodeId,
        request: &M::Request,
        limit: Duration,
    ) -> Result<TypedStream<M>, Status> {
        let items = self.stream_raw(node, M::ID, codec::encode(request).into(), limit).await?;
        Ok(TypedStream::new(items))
    }

    /// Calls a streaming method by number.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub async fn stream_raw(
        &self,
        node: NodeId,
        method: u16,
        body: Bytes,
        limit: Duration,
    ) -> Result<ItemStream, Status> {
        self.connection(node, limit).await?.stream(method, body).await
    }

    /// The last measured round trip to a node with an open connection.
    pub fn round_trip(&self, node: NodeId) -> Option<Duration> {
        match self.0.slots.lock().get(&node) {
            Some(Slot::Open(connection)) => connection.round_trip(),
            _ => None,
        }
    }

    /// Measures the round trip to a node: that of the next ping that is answered, over a connection that is made within `connect_max` where there
    /// is none. Making it is no part of what is measured.
    ///
    /// # Errors
    /// [`Status`]: the node was not reached, or answered no ping within `limit`.
    pub async fn measure(&self, node: NodeId, connect_max: Duration, limit: Duration) -> Result<Duration, Status> {
        let connection = self.connection(node, connect_max).await?;
        let measured = connection.next_round_trip(limit).await;
        measured.ok_or_else(|| {
            Status::retryable(Code::DeadlineExceeded, format!("{node} answered no ping within {limit:?}"))
        })
    }

    /// Whether there is a usable connection to the node.
    pub fn is_connected(&self, node: NodeId) -> bool {
        matches!(self.0.slots.lock().get(&node), Some(Slot::Open(connection)) if connection.is_usable())
    }

    /// The same; where there is none, an attempt to make one begins, if it is time for one, and nobody waits for it.
    pub fn reach(&self, node: NodeId) -> bool {
        matches!(self.slot(node), Ok(Way::Open(_)))
    }

    /// Whether there is a usable connection to the node within `limit`, which may be made for it.
    pub async fn connects(&self, node: NodeId, limit: Duration) -> bool {
        self.connection(node, limit).await.is_ok()
    }

    /// Forgets that a node was not reached: it has been heard of, so the next call tries at once.
    pub fn wake(&self, node: NodeId) {
        let mut slots = self.0.slots.lock();
        if matches!(slots.get(&node), Some(Slot::Failed { .. })) {
            slots.remove(&node);
        }
    }

    /// Uses the present connection to a node, or the attempt to make one, for nothing new: it is no peer any more, or it is
    /// reached elsewhere. The connection is closed as soon as its calls have ended; who waits for the attempt gets another.
    pub fn forget(&self, node: NodeId) {
        self.0.slots.lock().remove(&node);
    }

    async fn connection(&self, node: NodeId, limit: Duration) -> Result<Connection, Status> {
        let attempts = async {
            for _ in 0..ATTEMPTS_MAX {
                let mut dialed = match self.slot(node)? {
                    Way::Open(connection) => return Ok(connection),
                    Way::Wait(dialed) => dialed,
                };
                // Without a word when it was forgotten.
                if let Ok(outcome) = dialed.wait_for(Option::is_some).await
                    && let Some(outcome) = &*outcome
                {
                    return outcome.clone();
                }
            }
            Err(Status::retryable(
                Code::Unavailable,
                format!(
                    "{ATTEMPTS_MAX} attempts to reach {node} were given up: its address changes, or this side is stopping"
                ),
            ))
        };
        timeout(limit, attempts)
            .await
            .map_err(|_| Status::retryable(Code::Unavailable, format!("no connection to {node} within {limit:?}")))?
    }

    /// The connection, or the attempt to make one; starts an attempt when it is time for one.
    fn slot(&self, node: NodeId) -> Result<Way, Status> {
        let mut slots = self.0.slots.lock();
        let mut wait = BACKOFF.0;
        match slots.get(&node) {
            Some(Slot::Open(connection)) if connection.is_usable() => return Ok(Way::Open(connection.clone())),
            // When the sender is gone without a word, the attempt was stopped; make another.
            Some(Slot::Dialing(dialed, _)) if dialed.has_changed().is_ok() || dialed.borrow().is_some() => {
                return Ok(Way::Wait(dialed.clone()));
            }
            Some(Slot::Failed { why, retry_at, wait: waited }) => {
                if self.0.env.clock.now() < *retry_at {
                    return Err(why.clone());
                }
                wait = (*waited * 2).min(BACKOFF.1);
            }
            Some(Slot::Open(_) | Slot::Dialing(..)) | None => {}
        }
        let (tell, dialed) = watch::channel(None);
        let (held, is_forgotten) = oneshot::channel();
        slots.insert(node, Slot::Dialing(dialed.clone(), held));
        drop(slots);
        let (peers, attempt) = (self.clone(), dialed.clone());
        self.0.env.tasks.spawn("rpc dial", async move {
            let outcome = tokio::select! {
                biased;
                outcome = peers.dial(node) => outcome,
                _ = is_forgotten => return,
            };
            peers.settle(node, &outcome, wait, &attempt);
            // Nobody may be waiting any more.
            let _ = tell.send(Some(outcome));
        });
        Ok(Way::Wait(dialed))
    }

    /// Notes how an attempt went, unless it was forgotten meanwhile.
    fn settle(&self, node: NodeId, outcome: &Dialed, wait: Duration, attempt: &watch::Receiver<Option<Dialed>>) {
        let slot = match outcome {
            Ok(connection) => Slot::Open(connection.clone()),
            Err(why) => {
                debug!(peer = %node, protocol = %self.0.protocol, error = %why, "peer not reached");
                let retry_at = self.0.env.clock.now() + self.0.env.rng.jitter(wait);
                Slot::Failed { why: why.clone(), retry_at, wait }
            }
        };
        let mut slots = self.0.slots.lock();
        if matches!(slots.get(&node), Some(Slot::Dialing(present, _)) if present.same_channel(attempt)) {
            slots.insert(node, slot);
        }
    }

    async fn dial(&self, node: NodeId) -> Dialed {
        let own = self.0.material.identity();
        if node == own.node
            && let Some(handler) = self.0.local.lock().clone()
        {
            return Ok(
                self.connect_local(Caller { identity: own, address: SocketAddr::from(([127, 0, 0, 1], 0)) }, handler)
            );
        }
        let Inner { protocol, material, settings, .. } = &*self.0;
        let versions = protocol.versions();
        let attempt = |address| {
            Box::pin(dial(
                address,
                *protocol,
                &versions,
                material,
                Some(node),
                settings.ping_interval,
                settings.connect_max,
            ))
        };
        match net::first_of(&self.0.book.get(node), attempt).await {
            Ok((_, link)) => {
                let (material, peer) = (material.clone(), link.caller.identity);
                let refused = async move {
                    let refusal = material.refused(&peer).await;
                    Status::retryable(Code::ConnectionLost, refusal.to_string())
                };
                Ok(Connection::start_until(link.stream, *settings, &self.0.env, refused))
            }
            Err(Some(error)) => Err(error.to_status()),
            Err(None) => Err(Status::retryable(Code::Unavailable, format!("the address of {node} is not known"))),
        }
    }

    fn connect_local(&self, own: Caller, handler: Arc<dyn Handler>) -> Connection {
        let (near, far) = tokio::io::duplex(LOCAL_BUFFER);
        let (settings, env) = (self.0.settings, self.0.env.clone());
        self.0.env.tasks.spawn("rpc local", async move {
            serve(far, own, handler, settings.ping_interval, settings, &env).await;
        });
        Connection::start(near, self.0.settings, &self.0.env)
    }
}

enum Way {
    Open(Connection),
    Wait(watch::Receiver<Option<Dialed>>),
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peers({})", self.0.protocol)
    }
}
