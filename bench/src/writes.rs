//! Writes to a replicated store and reads from it, one after the other from each client, over connections that are kept:
//! Insula's API (a write is a join token, one command of the region; a read is the list of regions, linearizable), or
//! etcd's `Put` and `Range` (gRPC over HTTP/2, `etcdserverpb.KV`, version 3.4; linearizable unless asked otherwise).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use insula_api::Context;
use insula_env::{Clock, TaskGroup, clock, net};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// How long one write may take, its connection included.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long a client waits after a write that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);
/// Bytes of an etcd value: what a join token of ours has in the region's state.
const VALUE_LEN: usize = 200;

/// Where writes go.
#[derive(Clone)]
pub enum Store {
    /// Insula's API, in the name of a context.
    Insula(Insula),
    /// etcd, without TLS.
    Etcd,
}

/// What it takes to call Insula's API.
#[derive(Clone)]
pub struct Insula {
    tls: Arc<ClientConfig>,
    token: String,
}

impl Insula {
    /// Insula, as a pasted context names it.
    ///
    /// # Errors
    /// When the line is no context.
    pub fn new(context: &str) -> Result<Self> {
        insula_identity::install_provider();
        let context: Context = context.parse()?;
        let roots = context.ca_sha256.split(',').map(str::parse).collect::<Result<Vec<_>, _>>();
        let roots = roots.ok().context("the hash in the context")?;
        let tls = insula_identity::api_client_config(roots, Clock::real())?;
        Ok(Self { tls, token: context.token })
    }

    /// The token of the context.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// A connection to the API of a node, driven by a task of the group.
    pub(crate) async fn connect(
        &self,
        target: SocketAddr,
        tasks: &TaskGroup,
    ) -> Result<http1::SendRequest<Full<Bytes>>> {
        let stream = net::connect(target, WRITE_LIMIT).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(insula_identity::server_name(), stream).await?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        drive(tasks, driver);
        Ok(sender)
    }
}

fn drive(tasks: &TaskGroup, driver: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    tasks.spawn("connection", async move {
        // How it ended is told to whoever waits for an answer on it.
        driver.await.ok();
    });
}

/// One write. A line of JSON in the output of `insula-bench writes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Where it went.
    pub target: SocketAddr,
    /// When it was started, wall time in milliseconds since 1970.
    pub start_ms: u64,
    /// From start to end.
    pub took_us: u64,
    /// Whether it was confirmed.
    pub is_ok: bool,
}

/// How to write.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub targets: Vec<SocketAddr>,
    /// Clients per target.
    pub clients: usize,
    /// For how long writes are started; `None`: until stopped.
    pub duration: Option<Duration>,
    /// Between two writes of a client.
    pub pause: Duration,
    /// Whether what was written is read, instead.
    pub reads: bool,
}

/// Starts the clients, as tasks of a group; they end with the receiver, the duration or the group.
pub fn start(store: &Store, plan: &Plan, tasks: &TaskGroup) -> mpsc::Receiver<Write> {
    let (sender, receiver) = mpsc::channel(1024);
    for target in &plan.targets {
        for number in 0..plan.clients {
            let client = Client {
                store: store.clone(),
                target: *target,
                tasks: tasks.clone(),
                name: format!("{target}/{number}"),
                reads: plan.reads,
                connection: None,
            };
            tasks.spawn("client", client.run(plan.clone(), sender.clone()));
        }
    }
    receiver
}

enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

struct Client {
    store: Store,
    target: SocketAddr,
    tasks: TaskGroup,
    name: String,
    reads: bool,
    connection: Option<Connection>,
}

impl Client {
    async fn run(mut self, plan: Plan, sender: mpsc::Sender<Write>) {
        let clock = Clock::real();
        let begun = clock.now();
        for turn in 0u64.. {
            if plan.duration.is_some_and(|duration| begun.elapsed() >= duration) {
                return;
            }
            let (start, start_ms) = (clock.now(), clock.wall_ms());
            let written = clock::timeout(WRITE_LIMIT, self.write(turn)).await.map_err(anyhow::Error::from).flatten();
            if let Err(error) = &written {
                eprintln!("write to {}: {error:#}", self.target);
            }
            let is_ok = written.is_ok();
            let took_us = start.elapsed().as_micros() as u64;
            if sender.send(Write { target: self.target, start_ms, took_us, is_ok }).await.is_err() {
                return;
            }
            if !is_ok {
                self.connection = None;
                clock::sleep(PAUSE_AFTER_FAILURE).await;
            }
            clock::sleep(plan.pause).await;
        }
    }

    async fn write(&mut self, turn: u64) -> Result<()> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let connection = match (connection, &self.store) {
            (Connection::Http1(mut sender), Store::Insula(insula)) => {
                sender.ready().await?;
                let request = if self.reads { insula.read()? } else { insula.write(&self.name, turn)? };
                let (head, body) = sender.send_request(request).await?.into_parts();
                let body = body.collect().await?.to_bytes();
                ensure!(head.status.is_success(), "{}: {}", head.status, String::from_utf8_lossy(&body));
                Connection::Http1(sender)
            }
            (Connection::Http2(mut sender), Store::Etcd) => {
                sender.ready().await?;
                // Its first turn makes what a reader reads.
                let is_read = self.reads && turn > 0;
                let request =
                    if is_read { range(&self.target, &self.name)? } else { put(&self.target, &self.name, turn)? };
                let answer = sender.send_request(request).await?;
                let body = answer.into_body().collect().await?;
                let status = body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned());
                ensure!(status.as_ref().is_some_and(|status| status == "0"), "grpc-status {status:?}");
                Connection::Http2(sender)
            }
            _ => anyhow::bail!("a connection of another store"),
        };
        self.connection = Some(connection);
        Ok(())
    }

    async fn connect(&self) -> Result<Connection> {
        Ok(match &self.store {
            Store::Insula(insula) => Connection::Http1(insula.connect(self.target, &self.tasks).await?),
            Store::Etcd => {
                let stream = net::connect(self.target, WRITE_LIMIT).await?;
                let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                drive(&self.tasks, driver);
                Connection::Http2(sender)
            }
        })
    }
}

impl Insula {
    /// A request for a join token that nobody will use.
    fn write(&self, name: &str, turn: u64) -> Result<http::Request<Full<Bytes>>> {
        let key = format!("{name}/{turn}/{}", Clock::real().wall_ms());
        let request = self
            .head(http::Request::post("/v1/tokens/join"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", key);
        Ok(request.body(Full::from(r#"{"ttl_ms":60000,"uses":1}"#))?)
    }

    /// A request for what the cluster's regions are now, wherever that was decided.
    fn read(&self) -> Result<http::Request<Full<Bytes>>> {
        Ok(self.head(http::Request::get("/v1/regions?consistency=linearizable")).body(Full::default())?)
    }

    pub(crate) fn head(&self, request: http::request::Builder) -> http::request::Builder {
        request.header(http::header::HOST, "api").header(http::header::AUTHORIZATION, format!("Bearer {}", self.token))
    }
}

/// `Put` of a key of this client.
fn put(target: &SocketAddr, name: &str, turn: u64) -> Result<http::Request<Full<Bytes>>> {
    etcd(target, "Put", grpc(&[format!("{name}/{turn}").as_bytes(), &[b'v'; VALUE_LEN]]))
}

/// `Range` of the first key of this client.
fn range(target: &SocketAddr, name: &str) -> Result<http::Request<Full<Bytes>>> {
    etcd(target, "Range", grpc(&[format!("{name}/0").as_bytes()]))
}

fn etcd(target: &SocketAddr, method: &str, message: Bytes) -> Result<http::Request<Full<Bytes>>> {
    let request = http::Request::post(format!("http://{target}/etcdserverpb.KV/{method}"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers");
    Ok(request.body(Full::from(message))?)
}

/// A message with these fields from the first on (of `PutRequest` the key and the value, of `RangeRequest` the key) in
/// the frame of gRPC (no compression, length, message).
fn grpc(fields: &[&[u8]]) -> Bytes {
    let mut message = BytesMut::new();
    for (field, bytes) in (1u8..).zip(fields) {
        // Wire type 2: length, then bytes.
        message.put_u8(field << 3 | 2);
        let mut length = bytes.len();
        while length > 0x7f {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(bytes);
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_as_protobuf_writes_it() {
        assert_eq!(grpc(&[b"k", b"vv"]).as_ref(), b"\0\0\0\0\x07\x0a\x01k\x12\x02vv");
        assert_eq!(grpc(&[b"k", &[b'v'; 200]])[..11], *b"\0\0\0\0\xce\x0a\x01k\x12\xc8\x01");
    }
}
