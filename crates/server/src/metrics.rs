//! Metrics for Prometheus: `GET /metrics` on an address of its own, in plain HTTP, by default on loopback only.
//!
//! All is looked at when somebody asks; what the dataplane counts is asked of it. That nobody can listen there keeps a node from nothing:
//! it is tried again.

pub(crate) mod edge;
mod families;
mod gather;
mod page;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use insula_env::{
    Beat, Env, TaskGroup, beat, clock,
    net::{self, TcpListener, TcpStream},
};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

pub(crate) use self::{edge::named, gather::Sources};

/// Connections at a time: a few Prometheus servers, each of which keeps one.
const CONNECTIONS_MAX: usize = 16;
/// Time for the head of a request, which is also how long a connection may be idle. Longer than the time between two looks of a Prometheus server.
const HEAD_LIMIT: Duration = Duration::from_secs(120);
/// How long one answer may take, and to be read.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Wait before it is tried again to listen where somebody else does.
const LISTEN_AGAIN: Duration = Duration::from_secs(10);
/// Wait after a failed accept: out of file descriptors, most often.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves metrics at `address` for as long as the task group lives.
pub(crate) fn start(env: &Env, address: SocketAddr, sources: Sources) {
    let (sources, tasks) = (Arc::new(sources), env.tasks.child("metrics"));
    env.tasks.supervise("metrics", beat::QUICK, move |beat| {
        let (sources, tasks) = (Arc::clone(&sources), tasks.clone());
        async move {
            let listener = listen(address, &beat).await;
            serve(listener, sources, &tasks, &beat).await;
        }
    });
}

async fn listen(address: SocketAddr, beat: &Beat) -> TcpListener {
    let mut was_told = false;
    loop {
        match net::bind(address).await {
            Ok(listener) => {
                info!(%address, "metrics are served");
                return listener;
            }
            Err(error) if !was_told => {
                warn!(%address, %error, "metrics are not served, trying on: give another address as `metrics` in the configuration, or \"off\"");
                was_told = true;
            }
            Err(_) => {}
        }
        beat.idle(clock::sleep(LISTEN_AGAIN)).await;
    }
}

async fn serve(listener: TcpListener, sources: Arc<Sources>, tasks: &TaskGroup, beat: &Beat) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = beat.idle(Arc::clone(&places).acquire_owned()).await else { return };
        let stream = match beat.idle(listener.accept()).await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a connection for metrics");
                clock::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let sources = Arc::clone(&sources);
        tasks.spawn("metrics connection", async move {
            connection(stream, &sources).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, sources: &Sources) {
    let service = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(answer(request.method(), request.uri().path(), sources).await)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection for metrics ended");
    }
}

async fn answer(method: &Method, path: &str, sources: &Sources) -> Response<Full<Bytes>> {
    let said = |status: StatusCode, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response
    };
    if path != "/metrics" {
        return said(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return said(StatusCode::METHOD_NOT_ALLOWED, "metrics can only be read\n");
    }
    match clock::timeout(ANSWER_LIMIT, sources.page()).await {
        Ok(page) => {
            let mut response = Response::new(Full::new(Bytes::from(page.text())));
            let kind = HeaderValue::from_static(page::CONTENT_TYPE);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(_) => said(StatusCode::SERVICE_UNAVAILABLE, "the node could not be looked at in time\n"),
    }
}
