//! The server's end of the port: authenticates what was handed over, and serves it.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use insula_env::{Beat, Env, clock::timeout};
use insula_identity::Material;
use insula_types::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, info, warn};

use crate::{Handed, HandedReceiver, Handler, JoinHandler, Protocol, Settings, accept, join::serve_join, serve};

/// Connections in their TLS and version handshakes. Beyond it new ones are closed, and peers try again.
const HANDSHAKES_MAX: usize = 256;
/// Requests to join that are being decided on.
const JOINS_MAX: usize = 32;
/// Limit of one request to join, handshake included.
const JOIN_MAX: Duration = Duration::from_secs(20);

/// Called with a node whose connection came in.
type Heard = Arc<dyn Fn(NodeId) + Send + Sync>;

/// Who answers on which protocol.
#[derive(Clone)]
pub struct PortServer {
    material: Material,
    settings: Settings,
    handlers: BTreeMap<Protocol, Arc<dyn Handler>>,
    join: Option<Arc<dyn JoinHandler>>,
    heard: Option<Heard>,
}

impl PortServer {
    /// Answers nothing yet.
    pub fn new(material: Material, settings: Settings) -> Self {
        Self { material, settings, handlers: BTreeMap::new(), join: None, heard: None }
    }

    /// Answers calls on `protocol`.
    #[must_use]
    pub fn with(mut self, protocol: Protocol, handler: Arc<dyn Handler>) -> Self {
        self.handlers.insert(protocol, handler);
        self
    }

    /// Answers requests to join.
    #[must_use]
    pub fn with_join(mut self, handler: Arc<dyn JoinHandler>) -> Self {
        self.join = Some(handler);
        self
    }

    /// Tells of each node that connected; good for [`Peers::wake`](crate::Peers::wake).
    #[must_use]
    pub fn on_connection(mut self, heard: impl Fn(NodeId) + Send + Sync + 'static) -> Self {
        self.heard = Some(Arc::new(heard));
        self
    }

    /// Serves what `receiver` yields until the task group of `env` is stopped. Each connection is a task in it.
    pub async fn run(&self, receiver: &mut HandedReceiver, env: &Env, beat: Beat) {
        let (handshakes, joins) = (Arc::new(Semaphore::new(HANDSHAKES_MAX)), Arc::new(Semaphore::new(JOINS_MAX)));
        while let Some(handed) = beat.idle(receiver.next()).await {
            let limit = if handed.protocol == Protocol::Join { &joins } else { &handshakes };
            let Ok(permit) = Arc::clone(limit).try_acquire_owned() else {
                warn!(peer = %handed.peer, protocol = %handed.protocol, "connection closed: too many handshakes");
                continue;
            };
            let (server, task_env) = (self.clone(), env.clone());
            env.tasks.spawn("port connection", async move {
                if handed.protocol == Protocol::Join {
                    server.serve_join(handed).await;
                    drop(permit);
                } else {
                    server.serve(handed, permit, &task_env).await;
                }
            });
        }
    }

    async fn serve(&self, Handed { protocol, stream, peer }: Handed, permit: OwnedSemaphorePermit, env: &Env) {
        let Some(handler) = self.handlers.get(&protocol) else {
            debug!(%peer, %protocol, "connection closed: nothing here speaks it");
            return;
        };
        let link = match Box::pin(accept(stream, peer, protocol, &self.material, self.settings.connect_max)).await {
            Ok(link) => link,
            Err(error) => {
                // A peer that was removed or whose certificate ended comes again and again: one line each is right.
                info!(%peer, %protocol, error = error.to_status().message, "connection refused");
                return;
            }
        };
        drop(permit);
        let node = link.caller.identity.node;
        if let Some(heard) = &self.heard {
            heard(node);
        }
        let identity = link.caller.identity.clone();
        let served = serve(link.stream, link.caller, Arc::clone(handler), link.peer_ping, self.settings, env);
        let ended = tokio::select! {
            ended = Box::pin(served) => ended.to_string(),
            refusal = self.material.refused(&identity) => refusal.to_string(),
        };
        debug!(peer = %node, %protocol, why = %ended, "connection ended");
    }

    async fn serve_join(&self, Handed { stream, peer, .. }: Handed) {
        let Some(handler) = &self.join else {
            debug!(%peer, "connection closed: this node takes no joins");
            return;
        };
        match timeout(JOIN_MAX, Box::pin(serve_join(stream, peer, &self.material, &**handler))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => info!(%peer, %error, "request to join ended"),
            Err(_) => info!(%peer, limit = ?JOIN_MAX, "request to join ended: too slow"),
        }
    }
}

impl fmt::Debug for PortServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortServer({:?})", self.handlers.keys())
    }
}
