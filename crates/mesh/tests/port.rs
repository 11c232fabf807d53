//! The mesh over the real port: mutual TLS, the dispatcher, and peers that may not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use insula_catalog::{Catalog, CatalogInstance, CatalogNode, FarGateway, FarRegion, FarService, Holder, RouteTarget};
use insula_env::{
    Env, TaskGroup, beat,
    clock::timeout,
    net::{self, TcpListener},
};
use insula_identity::{
    AllowAll, Credentials, Lifetimes, Material, NodeKey, RegionAuthority, RootAuthority, install_provider,
};
use insula_mesh::{Caller, DialError, Dialer, FarTarget, Mesh, PortTransport, Target, TraceId, Trouble};
use insula_rpc::Dispatcher;
use insula_types::{ClusterId, Incarnation, InstanceId, NodeId, PortName, Revision, ServiceRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(20);
const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

struct World {
    root: RootAuthority,
    env: Env,
    _dir: tempfile::TempDir,
}

struct Node {
    id: NodeId,
    env: Env,
    /// What accepts.
    front: TaskGroup,
    address: SocketAddr,
    holder: Arc<Holder>,
    mesh: Mesh,
}

impl World {
    fn new() -> Self {
        install_provider();
        let env = Env::real("world");
        let root = RootAuthority::create(ClusterId::new(1), &Lifetimes::default(), env.clock.wall()).expect("root");
        Self { root, env, _dir: tempfile::tempdir().expect("temporary directory") }
    }

    fn region(&self, name: &str) -> RegionAuthority {
        let region = name.parse().expect("name");
        self.root.issue_region(&region, &Lifetimes::default(), self.env.clock.wall()).expect("region CA")
    }

    async fn node(&self, authority: &RegionAuthority) -> Node {
        self.dataplane(&self.credentials(authority), net::bind(LOCALHOST).await.expect("bind"))
    }

    fn credentials(&self, authority: &RegionAuthority) -> Credentials {
        let key = NodeKey::generate(&self.env.rng).expect("key");
        let request = key.request().expect("request");
        let chain = authority
            .issue_node(&request, key.id(), &[], &Lifetimes::default(), self.env.clock.wall())
            .expect("certificate");
        Credentials { key, chain, roots: vec![self.root.certificate().clone()] }
    }

    /// A node's dataplane at a listener.
    fn dataplane(&self, credentials: &Credentials, listener: TcpListener) -> Node {
        let env = Env::real("node");
        let material = Material::new(credentials, env.clock.clone(), Arc::new(AllowAll)).expect("material");
        let identity = material.identity();
        let address = listener.local_addr().expect("address");
        let front = Env { tasks: env.tasks.child("front"), ..env.clone() };
        let port = Dispatcher::start(listener, &self._dir.path().join("port.sock"), &front).expect("port");
        let holder = Holder::new(identity.cluster.clone(), identity.region.clone(), identity.node);
        let mesh =
            Mesh::start(Arc::clone(&holder), Arc::new(PortTransport::new(material.clone(), env.clock.clone())), &env);
        let serving = mesh.clone();
        front.tasks.critical("mesh", beat::QUICK, |beat| async move {
            let mut port = port;
            serving.accept_loop(&mut port, material, beat).await;
        });
        Node { id: identity.node, env, front: front.tasks, address, holder, mesh }
    }
}

impl Node {
    /// Tells it of `others`, and that instance 1 of the shop runs on `home`, at `endpoint` when that is itself.
    fn learn(&self, others: &[&Self], home: &Self, endpoint: SocketAddr) {
        let current = self.holder.current();
        let mut catalog =
            Catalog { incarnation: Incarnation(1), revision: Revision(current.revision.0 + 1), ..(*current).clone() };
        for (place, other) in others.iter().enumerate() {
            let entry = CatalogNode {
                name: format!("n{place}").parse().expect("name"),
                datacenter: "fra1".parse().expect("name"),
                address: other.address,
                others: Vec::new(),
                is_up: true,
            };
            catalog.nodes.insert(other.id, entry);
        }
        let target = target(home);
        let endpoints =
            if self.id == home.id { BTreeMap::from([(target.port.clone(), endpoint)]) } else { BTreeMap::new() };
        let instance = CatalogInstance {
            node: home.id,
            is_ready: true,
            was_ready: true,
            is_draining: false,
            is_first: false,
            release: None,
            ports: BTreeMap::from([(target.port.clone(), 80)]),
            h2c: BTreeSet::new(),
            endpoints,
        };
        catalog.services.entry(target.service.clone()).or_default().instances.insert(target.instance, instance);
        let route = RouteTarget { service: target.service, port: target.port };
        catalog.routes.entry("shop.example".to_owned()).or_default().insert("/".to_owned(), route);
        assert_eq!(self.holder.offer(catalog), insula_catalog::Offered::Taken);
    }

    async fn ask(&self, home: &Self) -> Result<u8, DialError> {
        let target = Target { caller: Caller::Edge(self.id), ..target(home) };
        let mut stream = self.mesh.dial(target).await?;
        stream.write_all(b"x").await.expect("write");
        Ok(timeout(LIMIT, stream.read_u8()).await.expect("in time").expect("read"))
    }
}

fn target(home: &Node) -> Target {
    Target {
        node: home.id,
        service: ServiceRef::new("shop".parse().expect("name"), "web".parse().expect("name")),
        instance: InstanceId::new(1),
        port: PortName::new("http").expect("name"),
        caller: Caller::Edge(home.id),
        client: None,
        trace: TraceId(1),
    }
}

/// An instance that answers each byte with the same.
async fn instance(env: &Env) -> SocketAddr {
    let listener = net::bind(LOCALHOST).await.expect("bind");
    let address = listener.local_addr().expect("address");
    let tasks = env.tasks.clone();
    env.tasks.spawn("instance", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tasks.spawn("echo", async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await.ok();
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_nodes_of_the_region_get_through_and_only_to_whom_they_mean() {
    let world = World::new();
    let (fra, was) = (world.region("fra"), world.region("was"));
    let (one, two, three) = (world.node(&fra).await, world.node(&fra).await, world.node(&fra).await);
    let stranger = world.node(&was).await;
    let endpoint = instance(&two.env).await;
    for node in [&one, &two, &stranger] {
        node.learn(&[&one, &two], &two, endpoint);
    }
    assert_eq!(one.ask(&two).await.expect("a neighbour"), b'x');
    let error = stranger.ask(&two).await.expect_err("a node of another region");
    assert!(error.to_string().contains("region was is not known as one of this cluster here"), "{error}");

    // At the address of node 2 answers node 3: the certificate tells.
    let impostor = Node { id: two.id, address: three.address, ..clone(&two) };
    one.learn(&[&one, &impostor], &two, endpoint);
    let error = one.ask(&two).await.expect_err("another node at that address");
    assert!(matches!(error, DialError::Connect { .. }), "{error}");

    for node in [&one, &two, &three, &stranger] {
        node.env.tasks.crash();
    }
}

fn clone(node: &Node) -> Node {
    Node {
        id: node.id,
        env: node.env.clone(),
        front: node.front.clone(),
        address: node.address,
        holder: Arc::clone(&node.holder),
        mesh: node.mesh.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_pass_over_tls_and_a_dead_dataplane_is_found() {
    let world = World::new();
    let fra = world.region("fra");
    let (one, two, three) = (world.node(&fra).await, world.node(&fra).await, world.node(&fra).await);
    let endpoint = instance(&world.env).await;
    for node in [&one, &two, &three] {
        node.learn(&[&one, &two, &three], &two, endpoint);
    }
    assert_eq!(one.ask(&two).await.expect("dial"), b'x');
    // Longer than silence takes: the pings must be answered.
    insula_env::clock::sleep(Duration::from_millis(1600)).await;
    let mut verdicts = one.mesh.verdicts();
    assert!(verdicts.borrow().bad.is_empty() && verdicts.borrow().watched.len() == 2);

    two.env.tasks.crash();
    let dead = verdicts.wait_for(|v| v.bad.get(&two.id) == Some(&Trouble::Reset));
    timeout(LIMIT, dead).await.expect("in time").expect("alive");
    assert!(one.ask(&two).await.is_err());
    assert!(!verdicts.borrow().is_bad(three.id));
    for node in [&one, &three] {
        node.env.tasks.crash();
    }
    world.env.tasks.crash();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dataplane_that_is_taken_over_cuts_nothing_off() {
    let world = World::new();
    let fra = world.region("fra");
    let listener = net::bind(LOCALHOST).await.expect("bind");
    let again = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned().expect("a descriptor"));
    let again = TcpListener::from_std(again).expect("listener");
    let credentials = world.credentials(&fra);
    let (one, two) = (world.node(&fra).await, world.dataplane(&credentials, listener));
    let endpoint = instance(&world.env).await;
    for node in [&one, &two] {
        node.learn(&[&one, &two], &two, endpoint);
    }
    let mut open = one.mesh.dial(Target { caller: Caller::Edge(one.id), ..target(&two) }).await.expect("dial");
    let mut verdicts = one.mesh.verdicts();
    // Longer than silence takes.
    insula_env::clock::sleep(Duration::from_millis(1600)).await;
    assert!(verdicts.borrow_and_update().bad.is_empty());

    let next = world.dataplane(&credentials, again);
    next.learn(&[&one, &next], &next, endpoint);
    two.front.stop();
    let (mesh, (done, mut drained)) = (two.mesh.clone(), tokio::sync::oneshot::channel());
    world.env.tasks.spawn("drain", async move {
        mesh.drain().await;
        done.send(()).ok();
    });
    for _ in 0..16 {
        assert_eq!(one.ask(&next).await.expect("the next one serves"), b'x');
        insula_env::clock::sleep(Duration::from_millis(100)).await;
    }
    open.write_all(b"y").await.expect("write");
    assert_eq!(timeout(LIMIT, open.read_u8()).await.expect("in time").expect("what is open goes on"), b'y');
    assert!(drained.try_recv().is_err(), "it waits for what is open");
    drop(open);
    timeout(LIMIT, drained).await.expect("in time").expect("drained");
    two.env.tasks.crash();
    insula_env::clock::sleep(Duration::from_millis(1600)).await;
    assert!(!verdicts.has_changed().expect("alive"), "nobody was blamed: {:?}", verdicts.borrow().bad);
    assert_eq!(one.ask(&next).await.expect("dial"), b'x');
    for node in [&one, &next] {
        node.env.tasks.crash();
    }
    world.env.tasks.crash();
}

impl Node {
    /// Tells it that the shop also runs in a region that is reached by `gateway`.
    fn learn_far(&self, region: &str, gateway: &Self) {
        let mut catalog = (*self.holder.current()).clone();
        catalog.incarnation = Incarnation(1);
        let service = target(gateway).service;
        catalog.services.entry(service.clone()).or_default();
        let far = FarRegion {
            rank: 0,
            is_fresh: true,
            gateways: vec![FarGateway { node: gateway.id, addresses: vec![gateway.address] }],
            services: [(service, FarService { ready: 1, was_ready: 1 })].into(),
        };
        catalog.far.insert(region.parse().expect("name"), far);
        assert_eq!(self.holder.offer(catalog), insula_catalog::Offered::Taken);
    }

    /// Asks the edge of a gateway.
    async fn ask_far(&self, region: &str, gateway: &Self) -> Result<u8, DialError> {
        let target = FarTarget { region: region.parse().expect("name"), node: gateway.id, trace: TraceId(1) };
        let mut stream = self.mesh.dial_far(target).await?;
        stream.write_all(b"x").await.expect("write");
        Ok(timeout(LIMIT, stream.read_u8()).await.expect("in time").expect("read"))
    }

    /// Has an edge that answers each byte with the same.
    fn with_edge(&self) {
        let tasks = self.env.tasks.clone();
        self.mesh.enter_by(move |mut entry| {
            tasks.spawn("edge", async move {
                assert_eq!(entry.region.as_str(), "fra", "the certificate says it");
                while let Ok(byte) = entry.stream.read_u8().await {
                    entry.stream.write_u8(byte).await.expect("write");
                }
            });
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_of_other_regions_are_reached_and_watched_and_ask_the_edge_alone() {
    let world = World::new();
    let (fra, was) = (world.region("fra"), world.region("was"));
    let (one, gateway) = (world.node(&fra).await, world.node(&was).await);
    gateway.with_edge();
    let endpoint = instance(&gateway.env).await;
    gateway.learn(&[&gateway], &gateway, endpoint);
    one.learn(&[&one], &one, endpoint);
    one.learn_far("was", &gateway);
    let why = |asked: Result<u8, DialError>| chain(&asked.expect_err("refused"));

    // The gateway has not heard of region fra.
    let mut verdicts = one.mesh.far_verdicts();
    timeout(LIMIT, verdicts.wait_for(|now| now.is_bad(gateway.id))).await.expect("in time").expect("alive");
    assert!(one.ask_far("was", &gateway).await.is_err());
    gateway.learn_far("fra", &one);
    let answers = verdicts.wait_for(|now| now.watched.contains(&gateway.id) && now.bad.is_empty());
    timeout(LIMIT, answers).await.expect("in time").expect("alive");
    assert_eq!(one.ask_far("was", &gateway).await.expect("it is known"), b'x');
    assert!(one.mesh.verdicts().borrow().watched.is_empty(), "it is none of this region's");

    // A node of a region that is not the one which is meant, whatever its id.
    one.learn_far("syd", &gateway);
    let said = why(one.ask_far("syd", &gateway).await);
    assert!(said.contains("is of region was, not syd"), "{said}");

    // Instances are reached by the edge alone.
    one.learn(&[&one, &gateway], &gateway, endpoint);
    let error = one.ask(&gateway).await.expect_err("a stream to an instance");
    assert!(matches!(&error, DialError::Refused { why, .. } if why.contains("has no instances here")), "{error}");

    gateway.env.tasks.crash();
    let dead = verdicts.wait_for(|now| now.is_bad(gateway.id));
    timeout(LIMIT, dead).await.expect("in time").expect("alive");
    one.env.tasks.crash();
    world.env.tasks.crash();
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
