//! Serves the API on a TLS listener and on the node's own Unix socket. HTTP/1.1: an administrator's few connections
//! need no more.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, middleware::map_response, response::Response};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use insula_env::{
    Beat, TaskGroup, clock,
    net::{TcpListener, UnixListener},
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::{Access, Handler, router};

/// Connections of one listener at a time. People and scripts; a follower of logs or events keeps one.
const CONNECTIONS_MAX: usize = 1024;

/// How long a caller may take for the TLS handshake, and for the header of a request.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Wait after a failed accept: out of file descriptors, most often.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Requests that were answered, by class of the status.
#[derive(Debug, Default)]
pub struct Requests([AtomicU64; CLASSES.len()]);

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Requests {
    /// How many since the start, from `1xx` to `5xx`.
    pub fn read(&self) -> [(&'static str, u64); CLASSES.len()] {
        std::array::from_fn(|class| (CLASSES[class], self.0[class].load(Ordering::Relaxed)))
    }

    fn count(&self, response: &Response) {
        let class = usize::from(response.status().as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.0[class].fetch_add(1, Ordering::Relaxed);
    }
}

/// The router, whose answers are counted.
fn counting(router: Router, requests: Arc<Requests>) -> Router {
    router.layer(map_response(move |response: Response| {
        requests.count(&response);
        async move { response }
    }))
}

/// Answers on `listener` until the task is dropped; connections run in `tasks`. Callers prove themselves by a token.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    handler: Arc<dyn Handler>,
    requests: Arc<Requests>,
    tasks: TaskGroup,
    beat: Beat,
) {
    let acceptor = TlsAcceptor::from(tls);
    let router = counting(router(handler, Access::Token, tasks.clone()), requests);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Some(slot) = beat.idle(take(&slots)).await else { return };
        let Some((stream, peer)) = accepted(beat.idle(listener.accept()).await).await else { continue };
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tasks.spawn("api connection", async move {
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%peer, %error, "cannot switch off Nagle's delay");
            }
            match clock::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, router, slot).await,
                Ok(Err(error)) => debug!(%peer, %error, "no TLS handshake with an API caller"),
                Err(_) => debug!(%peer, "TLS handshake with an API caller took too long"),
            }
        });
    }
}

/// Whether a process of user `uid` may use the node's own socket: root, or whoever runs the node.
fn may_enter(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Answers on the node's own socket until the task is dropped. The file's mode lets only its owner open it; who has
/// opened it all the same, before the mode was set or after it was changed, is asked for by the kernel's word.
pub async fn serve_unix(
    listener: UnixListener,
    handler: Arc<dyn Handler>,
    requests: Arc<Requests>,
    tasks: TaskGroup,
    beat: Beat,
) {
    let router = counting(router(handler, Access::Root, tasks.clone()), requests);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Some(slot) = beat.idle(take(&slots)).await else { return };
        let Some((stream, _)) = accepted(beat.idle(listener.accept()).await).await else { continue };
        match stream.peer_cred() {
            Ok(caller) if may_enter(caller.uid()) => {}
            Ok(caller) => {
                warn!(uid = caller.uid(), "a caller of the local API is not root: refused");
                continue;
            }
            Err(error) => {
                warn!(%error, "cannot tell who calls the local API: refused");
                continue;
            }
        }
        tasks.spawn("local api connection", connection(stream, router.clone(), slot));
    }
}

/// Room for one more connection. None never happens: the semaphore is not closed.
async fn take(slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(slots).acquire_owned().await.ok()
}

async fn accepted<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            warn!(%error, "cannot accept an API connection");
            clock::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    _slot: OwnedSemaphorePermit,
) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_LIMIT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    if let Err(error) = served.await {
        debug!(%error, "an API connection ended early");
    }
}
