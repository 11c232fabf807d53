//! A region of fake instances behind a fake dialer, with a real edge in front, over real sockets.
#![allow(dead_code, reason = "each test file uses its part of it")]

pub mod framed;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use insula_catalog::{Catalog, CatalogInstance, CatalogNode, FarRegion, Holder, RouteTarget};
use insula_edge::{Config, Edge};
use insula_env::{
    Env, beat,
    clock::timeout,
    net::{self, TcpListener, TcpStream},
};
use insula_mesh::{DialError, Dialer, Entry, FarTarget, Guarded, Refusal, Stream, Target, Trouble, Verdicts};
use insula_types::{
    ClusterId, Incarnation, InstanceId, NodeId, PortName, RegionName, ReleaseNumber, Revision, ServiceRef,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

/// Length of `/big`: more than all buffers on the way take.
pub const BIG_BYTES: usize = 64 << 20;
pub const LIMIT: Duration = Duration::from_secs(30);
pub const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub fn node(number: u64) -> NodeId {
    NodeId::new(number)
}

fn port() -> PortName {
    "http".parse().expect("name")
}

/// Connects to the instances' addresses; nodes can be silenced.
pub struct FakeDialer {
    pub addresses: Mutex<BTreeMap<InstanceId, SocketAddr>>,
    lost: Mutex<BTreeMap<NodeId, CancellationToken>>,
    verdicts: watch::Sender<Arc<Verdicts>>,
    pub dials: AtomicU64,
    /// Edges of other regions, by their gateways.
    pub far: Mutex<BTreeMap<NodeId, Edge>>,
    far_verdicts: watch::Sender<Arc<Verdicts>>,
    /// Instances that take no connections, and do not refuse them either.
    pub stuck: Mutex<BTreeSet<InstanceId>>,
    /// Dials to those; none ends.
    pub stuck_dials: AtomicU64,
}

impl FakeDialer {
    /// The same of a gateway of another region.
    pub fn silence_far(&self, number: u64) {
        self.far_verdicts.send_modify(|verdicts| {
            Arc::make_mut(verdicts).bad.insert(node(number), Trouble::Silent);
        });
        if let Some(token) = self.lost.lock().remove(&node(number)) {
            token.cancel();
        }
    }

    /// The node stops answering: what is in flight to it ends, and it is not used.
    pub fn silence(&self, number: u64) {
        self.verdicts.send_modify(|verdicts| {
            Arc::make_mut(verdicts).bad.insert(node(number), Trouble::Silent);
        });
        if let Some(token) = self.lost.lock().remove(&node(number)) {
            token.cancel();
        }
    }
}

impl Dialer for FakeDialer {
    fn dial(&self, target: Target) -> BoxFuture<'_, Result<Stream, DialError>> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        let (instance, node) = (target.instance, target.node);
        let address = self.addresses.lock().get(&instance).copied();
        let lost = self.lost.lock().entry(node).or_default().clone();
        async move {
            let failed = |source| DialError::Connect { instance, node, source };
            if self.stuck.lock().contains(&instance) {
                self.stuck_dials.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<()>().await;
            }
            let address = address.ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?;
            // As the node of the instance says it.
            let stream = net::connect(address, Duration::from_secs(1)).await.map_err(|error| {
                let (code, why) = (Refusal::Unreachable, error.to_string());
                DialError::Refused { instance, node, code, why }
            })?;
            Ok(Box::new(Guarded::new(stream, lost)) as Stream)
        }
        .boxed()
    }

    fn dial_far(&self, target: FarTarget) -> BoxFuture<'_, Result<Stream, DialError>> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        let FarTarget { region, node, trace } = target;
        let (edge, lost) = (self.far.lock().get(&node).cloned(), self.lost.lock().entry(node).or_default().clone());
        async move {
            let edge = edge.ok_or_else(|| DialError::Far {
                region: region.clone(),
                node,
                source: io::ErrorKind::ConnectionRefused.into(),
            })?;
            let (near, far) = tokio::io::duplex(64 << 10);
            let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("one place");
            edge.enter(Entry { region, node, address: LOCALHOST, trace, stream: Box::new(far), place });
            Ok(Box::new(Guarded::new(near, lost)) as Stream)
        }
        .boxed()
    }

    fn far_verdicts(&self) -> watch::Receiver<Arc<Verdicts>> {
        self.far_verdicts.subscribe()
    }

    fn verdicts(&self) -> watch::Receiver<Arc<Verdicts>> {
        self.verdicts.subscribe()
    }
}

/// One request as an instance got it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Request line and headers.
    pub head: String,
    /// The body, chunks put together by nobody: as it came.
    pub body: Vec<u8>,
}

/// How an instance behaves; for each request the head tells it what to do (`/slow`, `/hang`, `/die` …).
pub struct Instance {
    pub number: u64,
    pub env: Env,
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections that are open.
    pub open: Arc<AtomicU64>,
    /// How many requests for `/held` get an answer: one more for each that is added.
    pub held: Arc<Semaphore>,
}

impl Instance {
    pub async fn start(number: u64) -> Self {
        let env = Env::real("instance");
        let listener = net::bind(LOCALHOST).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let open = Arc::<AtomicU64>::default();
        let held = Arc::new(Semaphore::new(0));
        let (tasks, kept, counted) = (env.tasks.clone(), Arc::clone(&seen), Arc::clone(&open));
        let waited = Arc::clone(&held);
        env.tasks.spawn("instance", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, counted, held) = (Arc::clone(&kept), Arc::clone(&counted), Arc::clone(&waited));
                counted.fetch_add(1, Ordering::Relaxed);
                tasks.spawn("connection", async move {
                    converse(stream, number, kept, &held).await.ok();
                    counted.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { number, env, address, seen, open, held }
    }

    /// Ends it as SIGKILL does: listener and connections are gone at once.
    pub fn kill(&self) {
        self.env.tasks.crash();
    }

    pub fn heads(&self) -> Vec<String> {
        self.seen.lock().iter().map(|seen| seen.head.clone()).collect()
    }
}

/// A bare HTTP/1.1 server: what it reads and writes is exactly what a test says, without a library in between.
async fn converse(mut stream: TcpStream, number: u64, kept: Arc<Mutex<Vec<Seen>>>, held: &Semaphore) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(place) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break place + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let mut body = buffer.split_off(end);
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        if path == "/eager" {
            stream
                .write_all(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await?;
            return stream.shutdown().await;
        }
        if path == "/die" {
            kept.lock().push(Seen { head, body });
            return Ok(());
        }
        if lower.contains("transfer-encoding: chunked") {
            while !body.ends_with(b"0\r\n\r\n") {
                if stream.read_buf(&mut body).await? == 0 {
                    return Ok(());
                }
            }
            buffer = Vec::new();
        } else {
            while body.len() < length.unwrap_or(0) {
                if stream.read_buf(&mut body).await? == 0 {
                    return Ok(());
                }
            }
            buffer = body.split_off(length.unwrap_or(0));
        }
        kept.lock().push(Seen { head: head.clone(), body: body.clone() });
        let name = format!("instance {number}");
        let reply = match path.split('?').next().unwrap_or_default() {
            "/held" => {
                held.acquire().await.map_err(io::Error::other)?.forget();
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len())
            }
            "/hang" => std::future::pending().await,
            "/slow" => {
                insula_env::clock::sleep(Duration::from_millis(300)).await;
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len())
            }
            "/echo" => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", body.len(), String::from_utf8_lossy(&body)),
            "/chunked" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n\
                           5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 11\r\n\r\n".to_owned(),
            "/half" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await?;
                return Ok(());
            }
            "/close" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end").await?;
                return Ok(());
            }
            "/early" => "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(),
            "/once" => {
                let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                return stream.write_all(reply.as_bytes()).await;
            }
            "/bad" if number == 1 => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "/big" => {
                stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {BIG_BYTES}\r\n\r\n").as_bytes()).await?;
                for _ in 0..BIG_BYTES >> 20 {
                    stream.write_all(&vec![b'x'; 1 << 20]).await?;
                }
                continue;
            }
            "/empty" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "/unmodified" => "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n".to_owned(),
            "/rubbish" => "this is not HTTP\r\n\r\n".to_owned(),
            "/ws" => {
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await?;
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await?;
                return writer.shutdown().await;
            }
            _ if head.starts_with("HEAD ") => "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n".to_owned(),
            _ => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len()),
        };
        stream.write_all(reply.as_bytes()).await?;
    }
}

/// An edge on node 1, and what is behind it: instance N on node N.
pub struct World {
    pub env: Env,
    pub edge: Edge,
    pub address: SocketAddr,
    pub holder: Arc<Holder>,
    pub dialer: Arc<FakeDialer>,
    pub instances: Vec<Instance>,
    /// Those of them that speak HTTP/2.
    framed: BTreeSet<u64>,
    revision: AtomicU64,
    /// What catalogs say of other regions.
    pub far: Mutex<BTreeMap<RegionName, FarRegion>>,
}

impl World {
    pub async fn start(instances: &[u64], config: Config) -> Self {
        let env = Env::real("edge");
        let holder = Holder::new(ClusterId::new(1), "fra".parse().expect("name"), node(1));
        let verdicts = Verdicts { watched: (2..=9).map(node).collect(), bad: BTreeMap::new() };
        let dialer = Arc::new(FakeDialer {
            addresses: Mutex::default(),
            lost: Mutex::default(),
            verdicts: watch::Sender::new(Arc::new(verdicts)),
            dials: AtomicU64::new(0),
            far: Mutex::default(),
            far_verdicts: watch::Sender::default(),
            stuck: Mutex::default(),
            stuck_dials: AtomicU64::new(0),
        });
        let edge = Edge::new(config, Arc::clone(&holder), Arc::clone(&dialer) as Arc<dyn Dialer>, &env);
        let listener: Arc<TcpListener> = Arc::new(net::bind(LOCALHOST).await.expect("bind"));
        let address = listener.local_addr().expect("address");
        let serving = edge.clone();
        env.tasks.supervise("serve", beat::QUICK, move |beat| {
            let (edge, listener) = (serving.clone(), Arc::clone(&listener));
            async move { edge.serve(listener, beat).await }
        });
        let mut world = Self {
            env,
            edge,
            address,
            holder,
            dialer,
            instances: Vec::new(),
            framed: BTreeSet::new(),
            revision: AtomicU64::new(0),
            far: Mutex::default(),
        };
        for number in instances {
            world.add(*number).await;
        }
        if !instances.is_empty() {
            world.publish(instances);
        }
        world
    }

    pub async fn add(&mut self, number: u64) {
        let instance = Instance::start(number).await;
        self.dialer.addresses.lock().insert(InstanceId::new(number), instance.address);
        self.instances.push(instance);
    }

    /// Adds an instance that speaks HTTP/2.
    pub async fn add_framed(&mut self, number: u64) {
        self.add_this(framed::start(number).await);
    }

    /// Adds this one, which speaks HTTP/2.
    pub fn add_this(&mut self, instance: Instance) {
        let number = instance.number;
        self.dialer.addresses.lock().insert(InstanceId::new(number), instance.address);
        self.framed.insert(number);
        self.instances.push(instance);
    }

    pub fn instance(&self, number: u64) -> &Instance {
        self.instances.iter().find(|i| i.number == number).expect("started")
    }

    /// Gives the edge a catalog with these instances of `shop`, all ready, each of the release of its number.
    pub fn publish(&self, ready: &[u64]) {
        self.publish_apps(&[("shop", ready)]);
    }

    /// Gives the edge a catalog of apps, each at `APP.example` with these instances, all ready.
    pub fn publish_apps(&self, apps: &[(&str, &[u64])]) {
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        let mut catalog = Catalog {
            incarnation: Incarnation(1),
            revision: Revision(revision),
            ..Catalog::empty(ClusterId::new(1), "fra".parse().expect("name"), node(1))
        };
        catalog.far = self.far.lock().clone();
        for number in 1..=9 {
            let entry = CatalogNode {
                name: format!("n{number}").parse().expect("name"),
                datacenter: format!("dc{number}").parse().expect("name"),
                address: LOCALHOST,
                others: Vec::new(),
                is_up: true,
            };
            catalog.nodes.insert(node(number), entry);
        }
        for (app, ready) in apps {
            let service = ServiceRef::new(app.parse().expect("name"), "web".parse().expect("name"));
            let of_service = catalog.services.entry(service.clone()).or_default();
            for number in *ready {
                let entry = CatalogInstance {
                    node: node(*number),
                    is_ready: true,
                    was_ready: true,
                    is_draining: false,
                    is_first: false,
                    release: Some(ReleaseNumber(*number)),
                    ports: BTreeMap::from([(port(), 80)]),
                    h2c: self.framed.iter().filter(|framed| *framed == number).map(|_| port()).collect(),
                    endpoints: BTreeMap::new(),
                };
                of_service.instances.insert(InstanceId::new(*number), entry);
            }
            let target = RouteTarget { service, port: port() };
            catalog.routes.entry(format!("{app}.example")).or_default().insert("/".to_owned(), target);
        }
        assert_eq!(self.holder.offer(catalog), insula_catalog::Offered::Taken);
    }

    pub async fn client(&self) -> Client {
        Client { stream: net::connect(self.address, LIMIT).await.expect("connect to the edge"), buffer: Vec::new() }
    }

    /// One GET on a connection of its own: status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let mut client = self.client().await;
        client.get(path).await.expect("an answer")
    }

    pub fn end(self) {
        self.env.tasks.crash();
        for instance in &self.instances {
            instance.kill();
        }
    }
}

/// A bare HTTP/1.1 client.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.expect("send");
    }

    pub async fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        self.stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\n\r\n").as_bytes()).await?;
        let (head, body) = self.read().await?;
        Ok((status(&head), String::from_utf8_lossy(&body).into_owned()))
    }

    /// One response: head, and body by its length (chunks as they came).
    pub async fn read(&mut self) -> io::Result<(String, Vec<u8>)> {
        timeout(LIMIT, self.read_now()).await?
    }

    async fn read_now(&mut self) -> io::Result<(String, Vec<u8>)> {
        let end = loop {
            if let Some(place) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break place + 4;
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        let mut body = self.buffer.split_off(end);
        self.buffer.clear();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if head.contains("transfer-encoding: chunked") {
            while !body.ends_with(b"0\r\n\r\n") {
                if self.stream.read_buf(&mut body).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        } else if let Some(length) = length {
            while body.len() < length {
                if self.stream.read_buf(&mut body).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok((head, body))
    }

    /// Everything until the edge closes.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.buffer);
        timeout(LIMIT, self.stream.read_to_end(&mut all)).await.expect("closed in time").ok();
        all
    }
}

pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
}
