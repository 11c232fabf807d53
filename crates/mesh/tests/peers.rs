//! Two meshes over real sockets: streams, refusals, and peers that die in every way.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use insula_catalog::{Catalog, CatalogInstance, CatalogNode, Holder, RouteTarget};
use insula_env::{
    Env, TaskGroup,
    clock::timeout,
    net::{self, TcpListener},
};
use insula_mesh::{Caller, DialError, Dialer, Mesh, Refusal, Stream, Target, TraceId, Transport, Trouble, Verdicts};
use insula_types::{ClusterId, Incarnation, InstanceId, NodeId, PortName, RegionName, Revision, ServiceRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(20);
const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Plain TCP; the connecting side says who it is. What TLS proves in production, this test believes.
struct Plain(NodeId);

impl Transport for Plain {
    fn connect<'a>(&'a self, _node: NodeId, addresses: &'a [SocketAddr]) -> BoxFuture<'a, io::Result<Stream>> {
        async move {
            let mut stream = net::connect(addresses[0], Duration::from_secs(1)).await?;
            stream.write_u64(self.0.get()).await?;
            Ok(Box::new(stream) as Stream)
        }
        .boxed()
    }

    fn connect_far<'a>(
        &'a self,
        _region: &'a RegionName,
        node: NodeId,
        addresses: &'a [SocketAddr],
    ) -> BoxFuture<'a, io::Result<Stream>> {
        self.connect(node, addresses)
    }
}

fn node(number: u64) -> NodeId {
    NodeId::new(number)
}

fn service(app: &str) -> ServiceRef {
    ServiceRef::new(app.parse().expect("name"), "web".parse().expect("name"))
}

fn port() -> PortName {
    "http".parse().expect("name")
}

/// A region of three nodes at these addresses. Instance 2 of the routed shop and instance 3 of the inner service run on
/// node 2, at `endpoint`.
fn catalog(own: u64, revision: u64, addresses: &[SocketAddr], endpoint: SocketAddr) -> Catalog {
    let mut catalog = Catalog {
        incarnation: Incarnation(1),
        revision: Revision(revision),
        ..Catalog::empty(ClusterId::new(1), "fra".parse().expect("name"), node(own))
    };
    for (place, address) in addresses.iter().enumerate() {
        let entry = CatalogNode {
            name: format!("n{}", place + 1).parse().expect("name"),
            datacenter: "fra1".parse().expect("name"),
            address: *address,
            others: Vec::new(),
            is_up: true,
        };
        catalog.nodes.insert(node(place as u64 + 1), entry);
    }
    for (number, app) in [(2, "shop"), (3, "inner")] {
        let entry = CatalogInstance {
            node: node(2),
            is_ready: true,
            was_ready: true,
            is_draining: false,
            is_first: false,
            release: None,
            ports: BTreeMap::from([(port(), 80)]),
            h2c: BTreeSet::new(),
            endpoints: if own == 2 { BTreeMap::from([(port(), endpoint)]) } else { BTreeMap::new() },
        };
        catalog.services.entry(service(app)).or_default().instances.insert(InstanceId::new(number), entry);
    }
    let target = RouteTarget { service: service("shop"), port: port() };
    catalog.routes.entry("shop.example".to_owned()).or_default().insert("/".to_owned(), target);
    catalog
}

fn target(app: &str, instance: u64) -> Target {
    Target {
        node: node(2),
        service: service(app),
        instance: InstanceId::new(instance),
        port: port(),
        caller: Caller::Edge(node(1)),
        client: None,
        trace: TraceId(7),
    }
}

struct Node {
    env: Env,
    holder: Arc<Holder>,
    mesh: Mesh,
}

fn start(number: u64) -> Node {
    let env = Env::real("node");
    let holder = Holder::new(ClusterId::new(1), "fra".parse().expect("name"), node(number));
    let mesh = Mesh::start(Arc::clone(&holder), Arc::new(Plain(node(number))), &env);
    Node { env, holder, mesh }
}

/// Takes connections for a mesh.
fn accept(listener: TcpListener, mesh: Mesh, tasks: &TaskGroup) {
    tasks.spawn("accept", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Ok(peer) = stream.read_u64().await {
                mesh.serve(node(peer), Box::new(stream));
            }
        }
    });
}

/// An instance that sends back what it gets, then half-closes.
fn echo(listener: TcpListener, tasks: &TaskGroup) {
    let inner = tasks.clone();
    tasks.spawn("instance", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            inner.spawn("echo", async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await.ok();
                writer.shutdown().await.ok();
            });
        }
    });
}

/// A wire that can be cut: it relays until it is told to go silent, without closing anything.
struct Wire {
    address: SocketAddr,
    silent: tokio::sync::watch::Sender<bool>,
    tasks: TaskGroup,
}

async fn wire(to: SocketAddr) -> Wire {
    let listener = net::bind(LOCALHOST).await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (silent, seen) = tokio::sync::watch::channel(false);
    let tasks = TaskGroup::new("wire");
    let inner = tasks.clone();
    tasks.spawn("wire", async move {
        while let Ok((client, _)) = listener.accept().await {
            let mut seen = seen.clone();
            inner.spawn("one", async move {
                let (mut a, mut server) = (client, None);
                if !*seen.borrow() {
                    server = net::connect(to, LIMIT).await.ok();
                }
                if let Some(mut b) = server {
                    tokio::select! {
                        biased;
                        _ = seen.wait_for(|silent| *silent) => {}
                        _ = tokio::io::copy_bidirectional(&mut a, &mut b) => return,
                    }
                    // Silence: both sockets stay open, nothing passes any more.
                    std::future::pending::<()>().await;
                }
                std::future::pending::<()>().await;
            });
        }
    });
    Wire { address, silent, tasks }
}

/// Node 1 and node 2; node 1 reaches node 2 through a wire.
struct World {
    one: Node,
    two: Node,
    wire: Wire,
    addresses: Vec<SocketAddr>,
    endpoint: SocketAddr,
}

async fn world() -> World {
    let (one, two) = (start(1), start(2));
    let listener = net::bind(LOCALHOST).await.expect("bind");
    let wire = wire(listener.local_addr().expect("address")).await;
    accept(listener, two.mesh.clone(), &two.env.tasks);
    let instance = net::bind(LOCALHOST).await.expect("bind");
    let endpoint = instance.local_addr().expect("address");
    echo(instance, &two.env.tasks);
    // Node 3 is a witness that always answers, so that a silent node 2 does not look like our own isolation.
    let third = start(3);
    let listener = net::bind(LOCALHOST).await.expect("bind");
    let addresses = vec![LOCALHOST, wire.address, listener.local_addr().expect("address")];
    accept(listener, third.mesh, &one.env.tasks);
    one.holder.offer(catalog(1, 1, &addresses, endpoint));
    two.holder.offer(catalog(2, 1, &addresses, endpoint));
    World { one, two, wire, addresses, endpoint }
}

impl World {
    async fn until(&self, what: &str, is_right: impl FnMut(&Arc<Verdicts>) -> bool) {
        let mut verdicts = self.one.mesh.verdicts();
        timeout(LIMIT, verdicts.wait_for(is_right)).await.unwrap_or_else(|_| panic!("{what} in time")).expect("alive");
    }

    fn end(&self) {
        self.one.env.tasks.crash();
        self.two.env.tasks.crash();
        self.wire.tasks.crash();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_pass_both_ways_with_half_close() {
    let world = world().await;
    let mut stream = world.one.mesh.dial(target("shop", 2)).await.expect("dial");
    stream.write_all(b"question").await.expect("write");
    stream.shutdown().await.expect("half-close");
    let mut answer = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("in time").expect("read");
    assert_eq!(answer, b"question");
    // The node's own instance is reached without a detour.
    let mut own = world.two.mesh.dial(target("shop", 2)).await.expect("dial own");
    own.write_all(b"x").await.expect("write");
    assert_eq!(own.read_u8().await.expect("read"), b'x');
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_receiver_decides() {
    let world = world().await;
    let refusal = |outcome: Result<Stream, DialError>| match outcome {
        Err(DialError::Refused { code, .. }) => Some(code),
        _ => None,
    };
    let dial = |target: Target| async { refusal(world.one.mesh.dial(target).await) };
    assert_eq!(dial(target("inner", 3)).await, Some(Refusal::NotAllowed), "no route leads there");
    assert_eq!(dial(target("shop", 9)).await, Some(Refusal::UnknownInstance));
    let other_port = Target { port: "admin".parse().expect("name"), ..target("shop", 2) };
    assert_eq!(dial(other_port).await, Some(Refusal::UnknownInstance));
    let forged = Target { caller: Caller::Edge(node(3)), ..target("shop", 2) };
    assert_eq!(dial(forged).await, Some(Refusal::NotAllowed), "the caller must be who the certificate says");
    let inner = Target { caller: Caller::Service(service("shop")), ..target("inner", 3) };
    assert_eq!(dial(inner).await, Some(Refusal::NotAllowed), "not served yet");

    // The instance is gone, the catalog does not know yet.
    let nobody = net::bind(LOCALHOST).await.expect("bind").local_addr().expect("address");
    world.two.holder.offer(catalog(2, 2, &world.addresses, nobody));
    assert_eq!(dial(target("shop", 2)).await, Some(Refusal::Unreachable));

    // A removed node gets nothing, whatever its certificate says.
    let mut removed = catalog(2, 3, &world.addresses, world.endpoint);
    removed.tombstones.insert(node(1));
    world.two.holder.offer(removed);
    // Its pings are cut at once; a dial that they break is none that was refused.
    let refused = async { while dial(target("shop", 2)).await != Some(Refusal::NotAllowed) {} };
    timeout(LIMIT, refused).await.expect("in time");
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_found_and_its_streams_end() {
    let world = world().await;
    let clock = world.one.env.clock.clone();
    let mut stream = world.one.mesh.dial(target("shop", 2)).await.expect("dial");
    stream.write_all(b"x").await.expect("write");
    assert_eq!(stream.read_u8().await.expect("read"), b'x');
    // Two rounds of pings, so that the peer is known to be good.
    insula_env::clock::sleep(Duration::from_millis(600)).await;
    assert!(!world.one.mesh.verdicts().borrow().is_bad(node(2)));

    let cut = clock.now();
    world.wire.silent.send_replace(true);
    let error = timeout(LIMIT, stream.read_u8()).await.expect("in time").expect_err("the stream ends");
    let found = clock.now() - cut;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let verdicts = Arc::clone(&world.one.mesh.verdicts().borrow());
    assert_eq!(verdicts.bad.get(&node(2)), Some(&Trouble::Silent));
    assert!(!verdicts.is_cut_off(), "the witness answers");
    assert!(found <= Duration::from_millis(1500), "found after {found:?}");
    assert!(found >= Duration::from_millis(700), "and not by a mere delay: {found:?}");
    // A dial does not hang either.
    let started = clock.now();
    assert!(world.one.mesh.dial(target("shop", 2)).await.is_err());
    assert!(clock.now() - started < Duration::from_secs(3));

    world.wire.silent.send_replace(false);
    world.until("it answers again", |verdicts| !verdicts.is_bad(node(2))).await;
    world.one.mesh.dial(target("shop", 2)).await.expect("and is used again");
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_is_found_at_once() {
    let world = world().await;
    let clock = world.one.env.clock.clone();
    let mut stream = world.one.mesh.dial(target("shop", 2)).await.expect("dial");
    insula_env::clock::sleep(Duration::from_millis(400)).await;
    let killed = clock.now();
    world.wire.tasks.crash();
    world.until("found", |verdicts| verdicts.bad.get(&node(2)) == Some(&Trouble::Reset)).await;
    assert!(clock.now() - killed < Duration::from_millis(700), "after {:?}", clock.now() - killed);
    assert!(timeout(LIMIT, stream.read_u8()).await.expect("in time").is_err());
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_nobody_answers_is_cut_off_itself() {
    let lonely = start(1);
    let nobody = net::bind(LOCALHOST).await.expect("bind").local_addr().expect("address");
    lonely.holder.offer(catalog(1, 1, &[LOCALHOST, nobody, nobody], nobody));
    let mut verdicts = lonely.mesh.verdicts();
    timeout(LIMIT, verdicts.wait_for(|v| v.is_cut_off())).await.expect("in time").expect("alive");
    assert_eq!(verdicts.borrow().watched.len(), 2);
    // A node that leaves the catalog is not watched any more.
    lonely.holder.offer(catalog(1, 2, &[LOCALHOST, nobody], nobody));
    timeout(LIMIT, verdicts.wait_for(|v| v.watched.len() == 1 && v.bad.len() == 1))
        .await
        .expect("in time")
        .expect("alive");
    lonely.env.tasks.crash();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_removed_node_end_at_once_whoever_learns_of_it() {
    for learner in [1, 2] {
        let world = world().await;
        let mut stream = world.one.mesh.dial(target("shop", 2)).await.expect("dial");
        stream.write_all(b"x").await.expect("write");
        assert_eq!(stream.read_u8().await.expect("read"), b'x');
        let mut removed = catalog(learner, 2, &world.addresses, world.endpoint);
        // The one who learns of it cuts the other off.
        let (holder, other) = if learner == 1 { (&world.one.holder, 2) } else { (&world.two.holder, 1) };
        removed.tombstones.insert(node(other));
        let clock = world.one.env.clock.clone();
        let begun = clock.now();
        holder.offer(removed);
        assert!(timeout(LIMIT, stream.read_u8()).await.expect("in time").is_err(), "learner {learner}");
        assert!(clock.now() - begun < Duration::from_secs(2), "learner {learner}");
        world.end();
    }
}
