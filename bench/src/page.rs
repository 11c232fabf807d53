//! A page that says who serves it, as the demo's image does, and what else the stories' visitors ask for: an echo, an answer that
//! takes its time, a WebSocket. It is an instance of a kind that ends well: told to stop, it lets end what is open.

use std::{
    convert::Infallible,
    env,
    net::SocketAddr,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    Response,
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use insula_env::{TaskGroup, clock, net};
use tokio::signal::unix::{SignalKind, signal};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Pieces of an answer that takes its time, and the time between two.
const PIECES: u32 = 20;
const PIECE_EVERY: Duration = Duration::from_millis(100);
/// What never fails, whatever else does.
const HEALTH: &str = "/healthz";
/// Largest body that is echoed.
const ECHO_LEN_MAX: usize = 1 << 20;
/// How long WebSockets go on once the page is told to stop.
const SOCKETS_STAY: Duration = Duration::from_secs(3);
/// How long all else may take to end then.
const END_LIMIT: Duration = Duration::from_secs(8);

type Body = BoxBody<Bytes, Infallible>;

/// What all connections share.
struct Page {
    text: String,
    /// Of so many requests, in turn, one fails.
    fail_every: Option<u64>,
    asked: AtomicU64,
    /// Told to stop.
    stopping: CancellationToken,
    /// WebSockets shall close.
    closing: CancellationToken,
    open: TaskTracker,
}

/// Serves on `$PORT`, whatever path is asked for, until told to stop. With `$FAIL_EVERY` one of so many GETs is answered with 500.
///
/// # Errors
/// Without a port in the environment, or when it is taken.
pub async fn serve(tasks: &TaskGroup) -> anyhow::Result<()> {
    let port = port()?;
    let word = |name| env::var(name).unwrap_or_default();
    let version = env::var("VERSION").unwrap_or_else(|_| "v1".to_owned());
    let text = format!("instance={} node={} version={version}\n", word("INSULA_INSTANCE"), word("INSULA_NODE"));
    let fail_every = env::var("FAIL_EVERY").ok().map(|every| every.parse::<NonZeroU64>()).transpose();
    let fail_every = fail_every.context("FAIL_EVERY is no number of requests")?.map(NonZeroU64::get);
    let (asked, stopping, closing, open) = Default::default();
    let page = Arc::new(Page { text, fail_every, asked, stopping, closing, open });
    let listener =
        net::bind(SocketAddr::from(([0, 0, 0, 0], port))).await.with_context(|| format!("listen on {port}"))?;
    let mut term = signal(SignalKind::terminate()).context("listen to signals")?;
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.context("accept a connection")?,
            _ = term.recv() => break,
        };
        let connection = page.open.track_future(Arc::clone(&page).connection(stream, tasks.clone()));
        tasks.spawn("connection", connection);
    }
    drop(listener);
    page.stopping.cancel();
    page.open.close();
    clock::timeout(SOCKETS_STAY, page.open.wait()).await.ok();
    page.closing.cancel();
    clock::timeout(END_LIMIT, page.open.wait()).await.ok();
    Ok(())
}

impl Page {
    async fn connection(self: Arc<Self>, stream: net::TcpStream, tasks: TaskGroup) {
        let answer = service_fn(|request| {
            let (page, tasks) = (Arc::clone(&self), tasks.clone());
            async move { Ok::<_, Infallible>(page.answer(request, &tasks).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).with_upgrades();
        tokio::pin!(connection);
        // A visitor that goes away early is no matter.
        tokio::select! {
            ended = &mut connection => drop(ended.ok()),
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await.ok();
            }
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, tasks: &TaskGroup) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::POST, _) => {
                let body = Limited::new(request.into_body(), ECHO_LEN_MAX).collect().await;
                let len = body.map(|body| body.to_bytes().len());
                text(len.map_or_else(
                    |error| format!("{}error={error}\n", self.text),
                    |len| format!("{}length={len}\n", self.text),
                ))
            }
            (_, "/slow") => self.slow(),
            (_, "/socket") => self.socket(request, tasks),
            (_, path) => {
                let mut response = text(self.text.clone());
                if path != HEALTH && self.fails() {
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                }
                response
            }
        }
    }

    /// Whether this request is one of those that shall fail.
    fn fails(&self) -> bool {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        self.fail_every.is_some_and(|every| number.is_multiple_of(every))
    }

    /// An answer in pieces.
    fn slow(&self) -> Response<Body> {
        let page = self.text.clone();
        let pieces = futures::stream::unfold(0, move |piece| {
            let text = if piece == 0 { page.clone() } else { format!("piece={piece}\n") };
            async move {
                if piece == PIECES {
                    return None;
                }
                clock::sleep(PIECE_EVERY).await;
                Some((Ok(Frame::data(Bytes::from(text))), piece + 1))
            }
        });
        Response::new(BodyExt::boxed(StreamBody::new(pieces)))
    }

    /// Echoes each message of a WebSocket (RFC 6455).
    fn socket(self: Arc<Self>, request: Request<Incoming>, tasks: &TaskGroup) -> Response<Body> {
        let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
            let mut refused = text("this is for WebSockets\n".to_owned());
            *refused.status_mut() = StatusCode::UPGRADE_REQUIRED;
            return refused;
        };
        let page = Arc::clone(&self);
        let upgraded = self.open.track_future(async move {
            if let Ok(upgraded) = hyper::upgrade::on(request).await {
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                page.echo(socket).await;
            }
        });
        tasks.spawn("socket", upgraded);
        let mut response = text(String::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, http::HeaderValue::from_static("websocket"));
        if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
            headers.insert("sec-websocket-accept", accept);
        }
        response
    }

    async fn echo(&self, mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>) {
        loop {
            let message = tokio::select! {
                message = socket.next() => message,
                () = self.closing.cancelled() => {
                    let away = CloseFrame { code: CloseCode::Away, reason: "the page goes away".into() };
                    socket.close(Some(away)).await.ok();
                    // The visitor's own close.
                    while let Some(Ok(_)) = socket.next().await {}
                    return;
                }
            };
            let outcome = match message {
                Some(Ok(Message::Text(said))) => socket.send(Message::Text(said)).await,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => Ok(()),
            };
            if outcome.is_err() {
                return;
            }
        }
    }
}

fn text(text: String) -> Response<Body> {
    Response::new(BodyExt::boxed(Full::new(Bytes::from(text))))
}

/// Where an instance without a container is to listen.
///
/// # Errors
/// Without a port in the environment.
pub fn port() -> anyhow::Result<u16> {
    let port = env::var("PORT").context("the variable PORT says where to listen")?;
    port.parse().with_context(|| format!("PORT={port} is no port"))
}
