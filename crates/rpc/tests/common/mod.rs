//! Nodes of one cluster on loopback, with the port as the server and the dataplane run it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    collections::BTreeSet,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use insula_env::{Beat, Env, net};
use insula_identity::{Credentials, Lifetimes, Material, NodeKey, RegionAuthority, RootAuthority, Tombstones};
use insula_rpc::{
    AddressBook, Caller, Code, Dispatcher, HandedReceiver, Handler, Method, Peers, PortServer, Protocol, Settings,
    Status, StreamSink, decode_request, encode_response,
};
use insula_types::{ClusterId, NodeId};

/// Waits for a condition, at most ten seconds.
pub async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let wait = async {
        while !check() {
            insula_env::clock::sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, wait).await;
}

/// Awaits at most ten seconds.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    insula_env::clock::timeout(Duration::from_secs(10), work).await.unwrap_or_else(|_| panic!("took too long: {what}"))
}

pub struct World {
    pub root: RootAuthority,
    pub fra: RegionAuthority,
    pub env: Env,
}

impl World {
    pub fn new(cluster: u64) -> Self {
        let env = Env::real("test");
        let now = env.clock.wall();
        let root = RootAuthority::create(ClusterId::new(cluster), &Lifetimes::default(), now).expect("root");
        let fra = root.issue_region(&"fra".parse().expect("name"), &Lifetimes::default(), now).expect("region CA");
        Self { root, fra, env }
    }

    pub fn credentials(&self) -> Credentials {
        self.credentials_for(Lifetimes::default().node)
    }

    /// A node with a certificate that was made a minute ago for so long.
    pub fn credentials_for(&self, life: Duration) -> Credentials {
        let key = NodeKey::generate(&self.env.rng).expect("key");
        let request = key.request().expect("request");
        let then = self.env.clock.wall() - Duration::from_secs(60);
        let lifetimes = Lifetimes { node: life, ..Lifetimes::default() };
        let chain = self.fra.issue_node(&request, key.id(), &[], &lifetimes, then).expect("issue");
        Credentials { key, chain, roots: vec![self.root.certificate().clone()] }
    }

    pub fn material(&self) -> (Material, Tombstones) {
        let tombstones = Tombstones::default();
        let policy = Arc::new(tombstones.clone());
        (Material::new(&self.credentials(), self.env.clock.clone(), policy).expect("material"), tombstones)
    }

    /// A node whose port is open and whose server answers with [`Echo`].
    pub async fn node(&self) -> Node {
        let (material, tombstones) = self.material();
        let dir = tempfile::tempdir().expect("directory");
        let listener = net::bind(([127, 0, 0, 1], 0).into()).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let mut node = Node {
            material,
            tombstones,
            address,
            socket: dir.path().join("port.sock"),
            env: self.env.clone(),
            dataplane: self.part("dataplane"),
            server: self.part("server"),
            mesh: Arc::default(),
            echo: Arc::default(),
            _dir: dir,
        };
        node.start_dataplane(listener);
        node.start_server(Settings::default());
        node
    }

    fn part(&self, name: &'static str) -> Env {
        Env { tasks: self.env.tasks.child(name), ..self.env.clone() }
    }
}

pub struct Node {
    pub material: Material,
    pub tombstones: Tombstones,
    pub address: SocketAddr,
    pub socket: PathBuf,
    env: Env,
    dataplane: Env,
    server: Env,
    /// Mesh connections that the dataplane got.
    pub mesh: Arc<AtomicUsize>,
    pub echo: Arc<Echo>,
    _dir: tempfile::TempDir,
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.material.identity().node
    }

    fn start_dataplane(&mut self, listener: net::TcpListener) {
        self.dataplane = Env { tasks: self.env.tasks.child("dataplane"), ..self.env.clone() };
        let mut dispatcher = Dispatcher::start(listener, &self.socket, &self.dataplane).expect("dispatcher");
        let mesh = Arc::clone(&self.mesh);
        self.dataplane.tasks.spawn("mesh", async move {
            while let Some(connection) = dispatcher.next_mesh().await {
                drop(connection);
                mesh.fetch_add(1, Ordering::SeqCst);
            }
        });
    }

    pub async fn restart_dataplane(&mut self) {
        self.dataplane.tasks.stop();
        let mut listener = net::bind(self.address).await;
        while listener.is_err() {
            insula_env::clock::sleep(Duration::from_millis(5)).await;
            listener = net::bind(self.address).await;
        }
        self.start_dataplane(listener.expect("bound"));
    }

    pub fn start_server(&mut self, settings: Settings) {
        self.server = Env { tasks: self.env.tasks.child("server"), ..self.env.clone() };
        let mut receiver = HandedReceiver::bind(&self.socket, &self.server).expect("bind the port's socket");
        let server = PortServer::new(self.material.clone(), settings)
            .with(Protocol::Rpc, self.echo.clone())
            .with(Protocol::Raft, self.echo.clone());
        let env = self.server.clone();
        self.server.tasks.spawn("port", async move { server.run(&mut receiver, &env, Beat::unwatched()).await });
    }

    /// Ends the server's tasks; its socket file stays, as after a kill.
    pub async fn stop_server(&self) {
        self.server.tasks.stop();
        let socket = &self.socket;
        within("the server's end", async {
            while net::connect_unix(socket, Duration::from_secs(1)).await.is_ok() {
                insula_env::clock::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    pub fn peers(&self, others: &[&Node], settings: Settings) -> Peers {
        let book = AddressBook::default();
        for node in others {
            book.insert(node.id(), vec![node.address]);
        }
        Peers::with_settings(self.material.clone(), book, Protocol::Rpc, self.env.clone(), settings)
    }
}

/// Gives back what it gets.
pub struct EchoMethod;
impl Method for EchoMethod {
    const ID: u16 = 1;
    const NAME: &'static str = "echo";
    type Request = String;
    type Response = String;
}

/// Says who calls.
pub struct WhoAmI;
impl Method for WhoAmI {
    const ID: u16 = 2;
    const NAME: &'static str = "who-am-i";
    type Request = ();
    type Response = NodeId;
}

/// Never answers.
pub const HANG: u16 = 3;
/// Fails with a conflict.
pub const FAIL: u16 = 4;
/// Panics.
pub const PANIC: u16 = 5;

/// Counts from 0 up to the request.
pub struct Count;
impl Method for Count {
    const ID: u16 = 6;
    const NAME: &'static str = "count";
    type Request = u64;
    type Response = u64;
}
/// Sends 64 KiB items without end.
pub const FLOOD: u16 = 7;

#[derive(Default)]
pub struct Echo {
    /// Handlers that run now.
    pub running: Arc<AtomicUsize>,
    /// Items that the flood has sent.
    pub flooded: AtomicUsize,
    /// Why the flood ended.
    pub flood_end: std::sync::Mutex<Option<Status>>,
}

struct Counted(Arc<AtomicUsize>);
impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Echo {
    fn counted(&self) -> Counted {
        self.running.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(&self.running))
    }

    pub fn is_idle(&self) -> bool {
        self.running.load(Ordering::SeqCst) == 0
    }
}

#[async_trait]
impl Handler for Echo {
    async fn call(&self, caller: &Caller, method: u16, body: Bytes) -> Result<Bytes, Status> {
        let _counted = self.counted();
        match method {
            EchoMethod::ID => Ok(encode_response::<EchoMethod>(&decode_request::<EchoMethod>(&body)?)),
            WhoAmI::ID => Ok(encode_response::<WhoAmI>(&caller.identity.node)),
            HANG => std::future::pending().await,
            FAIL => Err(Status::new(Code::Conflict, "it has changed").with_detail(vec![1, 2])),
            PANIC => panic!("as planned"),
            other => Err(Status::unknown_method(other)),
        }
    }

    async fn stream(&self, _: &Caller, method: u16, body: Bytes, sink: StreamSink) -> Result<(), Status> {
        let _counted = self.counted();
        match method {
            Count::ID => {
                for number in 0..decode_request::<Count>(&body)? {
                    sink.send_item::<Count>(&number).await?;
                }
                Ok(())
            }
            FLOOD => loop {
                if let Err(status) = sink.send(Bytes::from(vec![0; 64 * 1024])).await {
                    *self.flood_end.lock().expect("not poisoned") = Some(status.clone());
                    return Err(status);
                }
                self.flooded.fetch_add(1, Ordering::SeqCst);
            },
            HANG => std::future::pending().await,
            other => Err(Status::unknown_method(other)),
        }
    }
}

/// A TCP proxy that can fall silent: it keeps its sockets and stops moving bytes.
pub struct Proxy {
    pub address: SocketAddr,
    stalled: tokio::sync::watch::Sender<bool>,
}

impl Proxy {
    pub async fn start(target: SocketAddr, env: &Env) -> Self {
        let listener = net::bind(([127, 0, 0, 1], 0).into()).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (stalled, stall) = tokio::sync::watch::channel(false);
        let tasks = env.tasks.clone();
        env.tasks.spawn("proxy", async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut stall = stall.clone();
                tasks.spawn("proxied", async move {
                    let Ok(mut far) = net::connect(target, Duration::from_secs(1)).await else { return };
                    let mut stalled = stall.clone();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                        _ = async { stalled.wait_for(|stalled| *stalled).await.map(|_| ()) } => {}
                    }
                    // Both sockets stay open, and nothing moves.
                    stall.wait_for(|stalled| !*stalled).await.ok();
                });
            }
        });
        Self { address, stalled }
    }

    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    pub fn resume(&self) {
        self.stalled.send_replace(false);
    }
}

pub fn tombstones(nodes: &[NodeId]) -> BTreeSet<NodeId> {
    nodes.iter().copied().collect()
}
