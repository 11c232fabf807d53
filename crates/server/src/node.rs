//! `insula server`: control and agent of one node, and the supervision of its dataplane.

use std::{path::Path, sync::Arc, time::Duration};

use insula_catalog::{Catalog, link::Link};
use insula_control::{Control, DEAD_AFTER, level::BAKE, start_levels, start_voters};
use insula_env::{Env, beat, net, watchdog};
use insula_identity::{Material, NodeDirectory, Tombstones};
use insula_raft::{Config as GroupConfig, GroupId, RpcGroups, RpcTransport};
use insula_rpc::{AddressBook, HandedReceiver, Handler, Peers, PortServer, Protocol, Settings};
use insula_state::{GlobalState, RegionCommand, RegionState, Replica, Store};
use insula_types::{NodeId, Revision};
use tokio::sync::Mutex;
use tracing::info;

use crate::{
    Error, authorize,
    calls::Calls,
    config::NodeConfig,
    expiry, follow, founding,
    group::StateGroup,
    handler::NodeApi,
    home::{Home, ValueFile},
    init::{capacity, describe},
    join::Joins,
    level, members,
    membership::GroupMembership,
    methods::StateName,
    push::push_changes,
    renewal::{self, Renewal},
    route::Route,
    signals, supervisor, work,
};

/// Number of the region group on the wire.
const REGION_GROUP: GroupId = GroupId(1);
/// Number of the global group on the wire.
const GLOBAL_GROUP: GroupId = GroupId(2);
/// How long the parts may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long another node may take to lead instead of one that stops.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);
/// How long this node's word on itself may take to be committed before it is given again.
const UPDATE_LIMIT: Duration = Duration::from_secs(10);

/// Runs a node until it is told to stop by a signal. Instances and the dataplane go on.
///
/// # Errors
/// Whatever keeps it from starting; what fails later is healed or reported, not fatal.
pub async fn run(config_path: &Path) -> Result<(), Error> {
    let config = NodeConfig::read(config_path)?;
    let env = Env::real("server");
    watchdog::start(&env.tasks, "server", &config.data_dir);
    let node = Node::open(config, &env).await?;
    let dataplane = Link::start(node.config.paths().dataplane_socket(), &node.env);
    supervisor::start(&env, config_path, node.config.paths().dataplane_socket());
    node.start(dataplane).await?;
    info!(node = %node.id, name = %node.config.name, region = %node.config.region, "server is up");
    let outgrown = tokio::select! {
        () = signals::told_to_stop(&env.tasks) => None,
        error = level::outgrown(&node.region, &node.global) => Some(error),
    };
    info!("server stops; instances and the dataplane go on");
    for group in [node.region_group.raft(), node.global_group.raft()] {
        // Others need not find out that this leader is gone. Alone, there is nobody to give the leadership to.
        if let Err(error) = group.hand_over(HAND_OVER_LIMIT).await {
            info!(%error, "stopping without a successor");
        }
        group.shutdown().await;
    }
    env.tasks.join(STOP_LIMIT).await;
    outgrown.map_or(Ok(()), Err)
}

/// The parts that everything else is built on.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) config: NodeConfig,
    pub(crate) env: Env,
    directory: NodeDirectory,
    material: Material,
    home: Home,
    book: AddressBook,
    pub(crate) rpc: Peers,
    all_peers: Vec<Peers>,
    region_group: Arc<StateGroup<RegionState>>,
    global_group: Arc<StateGroup<GlobalState>>,
    pub(crate) route: Arc<Route<RegionState>>,
    pub(crate) region: Store<RegionState>,
    global: Store<GlobalState>,
}

impl Node {
    async fn open(config: NodeConfig, env: &Env) -> Result<Self, Error> {
        let paths = config.paths();
        let directory = NodeDirectory::new(&paths.data(), Arc::clone(&env.disk));
        let tombstones = Tombstones::default();
        let material = Material::new(&directory.load()?, env.clock.clone(), Arc::new(tombstones.clone()))?;
        let id = material.identity().node;
        let home_file = ValueFile::new(paths.home(), Arc::clone(&env.disk));
        let mut home: Home = home_file.load()?.ok_or_else(|| Error::File {
            attempt: "read",
            path: paths.home(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;

        let book = AddressBook::default();
        let peers = |protocol| Peers::new(material.clone(), book.clone(), protocol, env.clone());
        let (rpc, raft, bulk) = (peers(Protocol::Rpc), peers(Protocol::Raft), peers(Protocol::Bulk));
        let all_peers = vec![rpc.clone(), raft.clone(), bulk.clone()];
        let transport = Arc::new(RpcTransport::new(raft, bulk));

        let members: Arc<Replica<RegionState>> = Replica::new();
        let admit = {
            let (members, book) = (Arc::clone(&members), book.clone());
            Arc::new(move |node: NodeId| {
                let is_removed = members.read(|region| region.tombstones.contains(&node));
                authorize::admits(is_removed, book.nodes().contains(&node))
            })
        };
        let mut region = GroupConfig::new(id, REGION_GROUP, home.region_incarnation, paths.group("region"));
        region.admit = admit.clone();
        region.must_exist = home.has_state;
        let mut global = GroupConfig::new(id, GLOBAL_GROUP, home.global_incarnation, paths.group("global"));
        global.admit = admit;
        global.must_exist = home.has_state;
        let region_group =
            StateGroup::open(StateName::Region, region, env, transport.clone(), Arc::clone(&members)).await?;
        let global_group = StateGroup::open(StateName::Global, global, env, transport, Replica::new()).await?;
        let (region_group, global_group) = (Arc::new(region_group), Arc::new(global_group));
        if !home.has_state {
            home.has_state = true;
            home_file.save(&home)?;
        }

        members::start(env, id, &members, book.clone(), tombstones, (home.clone(), home_file));
        let time = || env.clock.clone();
        let route = Route::new(id, region_group.clone(), rpc.clone(), book.clone(), time(), &env.tasks);
        let global_route = Route::new(id, global_group.clone(), rpc.clone(), book.clone(), time(), &env.tasks);
        let region = Store::new(members, route.clone(), time(), env.rng.fork());
        let global = Store::new(Arc::clone(global_group.replica()), global_route, time(), env.rng.fork());
        Ok(Self {
            id,
            config,
            env: env.clone(),
            directory,
            material,
            home,
            book,
            rpc,
            all_peers,
            region_group,
            global_group,
            route,
            region,
            global,
        })
    }

    async fn start(&self, dataplane: Link) -> Result<(), Error> {
        let (env, paths) = (&self.env, self.config.paths());
        founding::start(
            env,
            ValueFile::new(paths.founding(), Arc::clone(&env.disk)),
            (self.region_group.clone(), self.global_group.clone()),
            (self.region.clone(), self.global.clone()),
            (self.material.clone(), self.directory.load_key()?.public_hash()),
        )?;
        let leads = self.region_group.raft().clone();
        let confirmed = Arc::new(move || leads.is_confirmed());
        let control = Control::start(env, self.id, self.region.clone(), self.global.clone(), confirmed);
        let work = work::start(self, &control, &dataplane).await?;
        self.serve_nodes(&control, &work).await?;
        self.serve_api(&work, &dataplane).await?;

        follow::start(env, self.id, &self.region_group, StateName::Region, self.rpc.clone(), self.book.clone());
        follow::start(env, self.id, &self.global_group, StateName::Global, self.rpc.clone(), self.book.clone());
        self.keep_voters();
        start_levels(env, self.region.clone(), self.global.clone(), BAKE);
        self.push_catalogs(&dataplane);
        self.tell_of_itself();
        let renewal = Renewal {
            node: self.id,
            material: self.material.clone(),
            directory: self.directory.clone(),
            peers: self.rpc.clone(),
            book: self.book.clone(),
            dataplane,
            address: self.config.advertise.ip(),
            lifetimes: self.config.lifetimes(),
            region: self.region.clone(),
            global: self.global.clone(),
        };
        renewal::start(env, renewal);
        expiry::start(env, &self.material);
        Ok(())
    }

    /// Serves the connections that the dataplane hands over.
    async fn serve_nodes(&self, control: &Arc<Control>, work: &work::Work) -> Result<(), Error> {
        let (region, global) = (self.region_group.clone(), self.global_group.clone());
        let groups = RpcGroups::default();
        groups.insert(region.raft().clone());
        groups.insert(global.raft().clone());
        let groups: Arc<dyn Handler> = Arc::new(groups);
        let calls = Calls {
            node: self.id,
            region,
            global,
            control: Arc::clone(control),
            directory: self.directory.clone(),
            material: self.material.clone(),
            logs: Arc::clone(&work.logs),
            lifetimes: self.config.lifetimes(),
            clock: self.env.clock.clone(),
        };
        let joins = Joins {
            home: self.home.clone(),
            directory: self.directory.clone(),
            region: self.region.clone(),
            material: self.material.clone(),
            lifetimes: self.config.lifetimes(),
            clock: self.env.clock.clone(),
        };
        let path = self.config.paths().port_socket();
        let receiver = HandedReceiver::bind(&path, &self.env).map_err(|source| Error::ListenUnix {
            what: "connections of other nodes",
            path,
            source,
        })?;
        let server = PortServer::new(self.material.clone(), Settings::default())
            .with(Protocol::Raft, groups.clone())
            .with(Protocol::Bulk, groups)
            .with(Protocol::Rpc, Arc::new(calls))
            .with_join(Arc::new(joins))
            .on_connection({
                let peers = self.all_peers.clone();
                move |node| peers.iter().for_each(|peers| peers.wake(node))
            });
        let (server, receiver, env) = (Arc::new(server), Arc::new(Mutex::new(receiver)), self.env.clone());
        self.env.tasks.supervise("port", beat::QUICK, move |beat| {
            let (server, receiver, env) = (Arc::clone(&server), Arc::clone(&receiver), env.clone());
            // Free at once: the run before has been dropped.
            async move { server.run(&mut *receiver.lock().await, &env, beat).await }
        });
        Ok(())
    }

    async fn serve_api(&self, work: &work::Work, dataplane: &Link) -> Result<(), Error> {
        let api = Arc::new(NodeApi {
            node: self.id,
            config: self.config.clone(),
            region: self.region.clone(),
            global: self.global.clone(),
            region_group: self.region_group.clone(),
            global_group: self.global_group.clone(),
            logs: Arc::clone(&work.logs),
            material: self.material.clone(),
            directory: self.directory.clone(),
            rpc: self.rpc.clone(),
            authority: Default::default(),
            clock: self.env.clock.clone(),
            rng: self.env.rng.fork(),
            started_ms: self.env.clock.wall_ms(),
            dataplane: dataplane.clone(),
            tasks: self.env.tasks.clone(),
            clock_ahead_ms: work.clock_ahead_ms.clone(),
        });
        let address = self.config.api;
        let listener = net::bind(address).await.map_err(|source| Error::Listen { what: "the API", address, source })?;
        let path = self.config.paths().api_socket();
        let local =
            net::bind_unix(&path).map_err(|source| Error::ListenUnix { what: "the local API", path, source })?;
        let tls = insula_identity::api_server_config(&self.material)?;
        let tasks = self.env.tasks.child("api");
        self.env.tasks.critical("api", beat::QUICK, |beat| {
            insula_api::serve_tls(listener, tls, api.clone(), tasks.clone(), beat)
        });
        self.env.tasks.critical("local api", beat::QUICK, |beat| insula_api::serve_unix(local, api, tasks, beat));
        Ok(())
    }

    fn keep_voters(&self) {
        let region = GroupMembership {
            group: self.region_group.clone(),
            directory: self.directory.clone(),
            peers: self.rpc.clone(),
        };
        let global = GroupMembership {
            group: self.global_group.clone(),
            directory: self.directory.clone(),
            peers: self.rpc.clone(),
        };
        start_voters(&self.env, self.region.clone(), self.region.leadership(), Arc::new(region), DEAD_AFTER);
        start_voters(&self.env, self.region.clone(), self.global.leadership(), Arc::new(global), DEAD_AFTER);
    }

    /// Gives the dataplane each new state of the region.
    fn push_catalogs(&self, dataplane: &Link) {
        let (region, node, dataplane) = (Arc::clone(self.region.replica()), self.id, dataplane.clone());
        self.env.tasks.supervise("catalog", beat::QUICK, move |beat| {
            let (region, dataplane) = (Arc::clone(&region), dataplane.clone());
            push_changes(region.changed(), beat, move || {
                let catalog = region.read_at(|state, revision| Catalog::derive(state, revision, node));
                if let Some(catalog) = catalog {
                    dataplane.push(Arc::new(catalog));
                }
            })
        });
    }

    /// Brings the region's record of this node up to date: its address, size and version may have changed.
    fn tell_of_itself(&self) {
        let node = describe(&self.config, self.id);
        let update = RegionCommand::UpdateNode {
            id: self.id,
            address: node.address,
            capacity: capacity(&self.config),
            version: node.version,
        };
        let (region, id) = (self.region.clone(), self.id);
        self.env.tasks.spawn("introduction", async move {
            // Before it is a member there is nothing to bring up to date.
            let mut changed = region.replica().changed();
            let is_member = |_: &Revision| region.read(|state| state.nodes.contains(&id));
            if changed.wait_for(is_member).await.is_err() {
                return;
            }
            while let Err(error) = region.propose(&update, UPDATE_LIMIT).await {
                tracing::debug!(%error, "the region has not taken this node's record yet");
            }
        });
    }
}
