//! `insula server`: control and agent of one node, and the supervision of its dataplane.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use insula_api::Requests;
use insula_catalog::link::Link;
use insula_control::{Control, DEAD_AFTER, level::BAKE, start_levels, start_voters};
use insula_env::{Env, beat, clock, net, watchdog};
use insula_identity::{Material, NodeDirectory, Tombstones};
use insula_raft::{Config as GroupConfig, GroupId, OpenError, RpcGroups, RpcTransport};
use insula_rpc::{AddressBook, HandedReceiver, Handler, Peers, PortServer, Protocol, Settings};
use insula_state::{Domain, GlobalCommand, GlobalState, RegionCommand, RegionState, Replica, Store};
use insula_telemetry::chain;
use insula_types::{Labels, Level, NodeId, Revision, RuntimeName};
use serde_bytes::ByteBuf;
use tokio::sync::{Mutex, Semaphore};
use tracing::info;

use crate::{
    Error,
    authorize::{self, OwnRegion},
    calls::Calls,
    config::{MetricsListener, NodeConfig, Paths},
    copy::Copy,
    digests::Digests,
    exec, expiry,
    follow::{self, Feed, Sources},
    founding, gateways,
    group::StateGroup,
    handler::NodeApi,
    home::{Home, ValueFile},
    images::{Bulk, tags::Tags},
    init::{capacity, describe},
    join::Joins,
    latency::{LatencyMap, Prober},
    level,
    lives::{self, Census},
    members::{self, Members},
    membership::GroupMembership,
    mend::{self, Mend},
    methods::StateName,
    metrics, program,
    push::push_changes,
    renewal::{self, Renewal},
    route::Route,
    secrets::Opener,
    signals::Signals,
    supervisor,
    whereabouts::Whereabouts,
    work,
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
/// Wait before that, when it was refused at once.
const UPDATE_PAUSE: Duration = Duration::from_secs(1);
/// From this level on there are secrets.
const SECRETS: Level = Level(6);

/// Runs a node until it is told to stop by a signal. Instances and the dataplane go on.
///
/// # Errors
/// Whatever keeps it from starting; what fails later is healed or reported, not fatal.
pub async fn run(config_path: &Path) -> Result<(), Error> {
    run_until(config_path, &mut Signals::listen()).await
}

/// The same with signals that were listened for before; it stops for them at any point of its start.
pub(crate) async fn run_until(config_path: &Path, signals: &mut Signals) -> Result<(), Error> {
    let config = NodeConfig::read(config_path)?;
    let env = Env::real("server");
    watchdog::start(&env.tasks, "server", &config.data_dir);
    let opened = tokio::select! {
        opened = Node::open(config, config_path, &env) => Some(opened),
        () = signals.told_to_stop(&env.tasks) => None,
    };
    let ran = match opened {
        Some(Ok(node)) => node.run(signals).await,
        Some(Err(error)) => Err(error),
        None => Ok(Ending::Told),
    };
    env.tasks.join(STOP_LIMIT).await;
    // Nothing of this process writes its files or starts a dataplane any more.
    match ran? {
        Ending::Told => Ok(()),
        Ending::Outgrown(error) => Err(error),
        Ending::Mends(times) => Err(program::start_again(times)),
        Ending::Adopts(lives, paths) => {
            lives::adopt(&env.disk, &paths, &lives)?;
            Err(program::start_again(0))
        }
    }
}

/// Why a server stops.
enum Ending {
    /// It was told to.
    Told,
    /// It goes on in other lives of its groups.
    Adopts(lives::Adopted, Paths),
    /// It opens a group again, for so many times in a row.
    Mends(u32),
    /// The others have agreed on more than this program knows.
    Outgrown(Error),
}

/// The parts that everything else is built on.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) config: NodeConfig,
    config_path: PathBuf,
    pub(crate) env: Env,
    directory: NodeDirectory,
    material: Material,
    home: Home,
    book: AddressBook,
    members: Members,
    pub(crate) rpc: Peers,
    /// For what is large: snapshots, and parts of images.
    pub(crate) bulk: Peers,
    /// The same protocol, for what may take hours: commands in instances.
    pub(crate) sessions: Peers,
    all_peers: Vec<Peers>,
    region_group: Arc<StateGroup<RegionState>>,
    global_group: Arc<StateGroup<GlobalState>>,
    /// How this node hears of the global state, where it does not vote on it.
    feed: Feed,
    copy: Copy,
    latency: LatencyMap,
    /// What other regions have of services.
    digests: Digests,
    pub(crate) route: Arc<Route<RegionState>>,
    pub(crate) region: Store<RegionState>,
    pub(crate) global: Store<GlobalState>,
}

impl Node {
    async fn open(config: NodeConfig, config_path: &Path, env: &Env) -> Result<Self, Error> {
        let paths = config.paths();
        let directory = NodeDirectory::new(&paths.data(), Arc::clone(&env.disk));
        let tombstones = Tombstones::default();
        let material = Material::new(&directory.load()?, env.clock.clone(), Arc::new(tombstones.clone()))?;
        let id = material.identity().node;
        let home_file = ValueFile::new(paths.home(), Arc::clone(&env.disk));
        let mut home: Home = home_file.load()?.ok_or_else(|| Error::Homeless { path: paths.home() })?;
        crate::restore::refuse_half_done(&paths, &env.disk)?;

        let book = AddressBook::default();
        let peers = |protocol| Peers::new(material.clone(), book.clone(), protocol, env.clone());
        let (rpc, raft, bulk) = (peers(Protocol::Rpc), peers(Protocol::Raft), peers(Protocol::Bulk));
        let sessions =
            Peers::with_settings(material.clone(), book.clone(), Protocol::Bulk, env.clone(), exec::settings());
        let all_peers = vec![rpc.clone(), raft.clone(), bulk.clone(), sessions.clone()];
        let transport = Arc::new(RpcTransport::new(raft, bulk.clone()));

        let members: Arc<Replica<RegionState>> = Replica::new();
        let admit = {
            let (members, book) = (Arc::clone(&members), book.clone());
            Arc::new(move |node: NodeId| {
                let is_removed = members.read(|region| region.tombstones.contains(&node));
                authorize::admits(is_removed, book.nodes().contains(&node))
            })
        };
        book.set(members::book(&home));
        let opening = Opening {
            env,
            paths: &paths,
            transport,
            census: Census {
                node: id,
                peers: rpc.clone(),
                book: book.clone(),
                clock: env.clock.clone(),
                rng: env.rng.fork(),
            },
        };
        let mut region = group_config(StateName::Region, id, &home, &paths);
        region.admit = admit.clone();
        let mut global = group_config(StateName::Global, id, &home, &paths);
        global.admit = admit;
        let region_group = Arc::new(opening.open(StateName::Region, region, Arc::clone(&members)).await?);
        let global_group = Arc::new(opening.open(StateName::Global, global, Replica::new()).await?);
        // Waiting for a restored state may have brought another life.
        home = home_file.load()?.unwrap_or(home);
        let latency = LatencyMap::default();
        let copy = Copy::new(&paths, Arc::clone(&env.disk), &home);
        copy.load(global_group.replica());
        members.belongs_to(&home.cluster, home.life(StateName::Region));
        global_group.replica().belongs_to(&home.cluster, home.life(StateName::Global));
        global_group.replica().read(|global| gateways::note(global, &home.region, &home.gateways, (&book, &latency)));
        if !home.has_state || !home.new.is_empty() {
            home.has_state = true;
            home.new.clear();
            home_file.save(&home)?;
        }

        let place = (id, config.datacenter.clone());
        let reached = (book.clone(), all_peers.clone());
        let known = Members::open(place, config.advertise.addresses(), &members, reached, (home.clone(), home_file));
        known.start(env, tombstones);
        let time = || env.clock.clone();
        let route = Route::new(id, region_group.clone(), rpc.clone(), book.clone(), time(), &env.tasks);
        let global_route = Route::new(id, global_group.clone(), rpc.clone(), book.clone(), time(), &env.tasks);
        let region = Store::new(members, route.clone(), time(), env.rng.fork());
        let global = Store::new(Arc::clone(global_group.replica()), global_route, time(), env.rng.fork());
        let digests = Digests::open(
            &ValueFile::new(paths.digests(), Arc::clone(&env.disk)),
            (id, rpc.clone(), region_group.raft().clone()),
            (Arc::clone(region.replica()), Arc::clone(global_group.replica())),
        );
        Ok(Self {
            id,
            config,
            config_path: config_path.to_owned(),
            env: env.clone(),
            directory,
            material,
            home,
            book,
            members: known,
            rpc,
            bulk,
            sessions,
            all_peers,
            region_group,
            global_group,
            feed: Feed::new(time()),
            copy,
            latency,
            digests,
            route,
            region,
            global,
        })
    }

    /// Asks others of the region for their lives.
    fn census(&self) -> Census {
        Census {
            node: self.id,
            peers: self.rpc.clone(),
            book: self.book.clone(),
            clock: self.env.clock.clone(),
            rng: self.env.rng.fork(),
        }
    }

    /// What it takes to find others, and to be found.
    fn whereabouts(&self) -> Whereabouts {
        Whereabouts {
            node: self.id,
            members: self.members.clone(),
            region: self.region.clone(),
            group: self.region_group.raft().clone(),
            material: self.material.clone(),
            book: self.book.clone(),
            peers: self.rpc.clone(),
            clock: self.env.clock.clone(),
            rng: self.env.rng.fork(),
        }
    }

    fn mend(&self) -> Mend {
        let groups = [self.region_group.raft().clone(), self.global_group.raft().clone()];
        Mend {
            space: groups[0].config().space_min,
            groups,
            directory: self.config.paths().groups(),
            before: program::mended(),
            disk: Arc::clone(&self.env.disk),
            rng: self.env.rng.fork(),
        }
    }

    /// Runs what is open until something ends it; then gives its groups up in order.
    async fn run(&self, signals: &mut Signals) -> Result<Ending, Error> {
        let ran = tokio::select! {
            () = signals.told_to_stop(&self.env.tasks) => Ok(Ending::Told),
            ran = self.serve() => ran,
        };
        info!("server stops; instances and the dataplane go on");
        for group in [self.region_group.raft(), self.global_group.raft()] {
            // Others need not find out that this leader is gone. Alone, there is nobody to give the leadership to.
            if let Err(error) = group.hand_over(HAND_OVER_LIMIT).await {
                info!(%error, "stopping without a successor");
            }
            group.shutdown().await;
        }
        ran
    }

    /// Starts all parts and serves until this process cannot go on as it is.
    async fn serve(&self) -> Result<Ending, Error> {
        let (env, paths) = (&self.env, self.config.paths());
        let dataplane = Link::start(paths.dataplane_socket(), env);
        supervisor::start(env, &self.config_path, paths.dataplane_socket(), paths.takeover_socket());
        self.start(dataplane).await?;
        info!(node = %self.id, name = %self.config.name, region = %self.config.region, "server is up");
        let (region, global) = (self.region_group.raft().clone(), self.global_group.raft().clone());
        let mut adopted = lives::start(env, self.census(), region, global);
        let mut mended = mend::start(env, self.mend());
        Ok(tokio::select! {
            Ok(lives) = adopted.wait_for(|lives| !lives.is_empty()) => Ending::Adopts(lives.clone(), paths),
            Ok(times) = mended.wait_for(Option::is_some) => Ending::Mends(times.unwrap_or_default()),
            error = level::outgrown(&self.region, &self.global) => Ending::Outgrown(error),
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
        let requests = Arc::<Requests>::default();
        self.serve_api(&work, &dataplane, &requests).await?;
        self.serve_metrics(&work, &dataplane, requests);

        self.follow_states();
        self.keep_voters();
        start_levels(env, self.region.clone(), self.global.clone(), BAKE);
        self.push_catalogs(&dataplane);
        self.tell_of_itself();
        self.tell_of_sealing_key();
        self.tell_what_it_has(work.runtime.runtimes().cloned().collect());
        self.whereabouts().start(env);
        let renewal = Renewal {
            node: self.id,
            material: self.material.clone(),
            directory: self.directory.clone(),
            peers: self.rpc.clone(),
            book: self.book.clone(),
            dataplane,
            addresses: self.members.own(),
            lifetimes: self.config.lifetimes(),
            region: self.region.clone(),
            global: self.global.clone(),
        };
        renewal::start(env, renewal);
        expiry::start(env, &self.material);
        Ok(())
    }

    /// Keeps up with the states where this node's logs do not, and with where other regions are.
    fn follow_states(&self) {
        let (env, votes) = (&self.env, self.region_group.raft().clone());
        let sources = |may_ask_far, feed| Sources { node: self.id, book: self.book.clone(), may_ask_far, feed };
        let of_region = sources(Box::new(|| false), Feed::new(env.clock.clone()));
        follow::start(env, &self.region_group, StateName::Region, self.rpc.clone(), of_region);
        let of_world = sources(Box::new(move || votes.takes_part()), self.feed.clone());
        follow::start(env, &self.global_group, StateName::Global, self.rpc.clone(), of_world);
        self.copy.clone().keep(env, &self.global_group);
        let others = (self.config.region.clone(), self.home.gateways.clone());
        let known = (self.book.clone(), self.latency.clone(), self.all_peers.clone(), self.members.clone());
        gateways::follow(env, self.global.clone(), others, known);
        let groups = (self.region_group.raft().clone(), self.global_group.raft().clone());
        gateways::tell(env, (self.region.clone(), self.global.clone()), groups);
        let prober = Prober {
            node: self.id,
            name: self.config.region.clone(),
            map: self.latency.clone(),
            region: Arc::clone(self.region.replica()),
            global: Arc::clone(self.global.replica()),
            clock: env.clock.clone(),
            rng: env.rng.fork(),
        };
        prober.start(env, &self.rpc);
        let kept = ValueFile::new(self.config.paths().digests(), Arc::clone(&env.disk));
        self.digests.start(env, kept);
    }

    /// Serves the connections that the dataplane hands over.
    async fn serve_nodes(&self, control: &Arc<Control>, work: &work::Work) -> Result<(), Error> {
        let (region, global) = (self.region_group.clone(), self.global_group.clone());
        let groups = RpcGroups::default();
        groups.insert(region.raft().clone());
        groups.insert(global.raft().clone());
        let groups = OwnRegion { region: self.config.region.clone(), groups: Arc::new(groups) };
        let groups: Arc<dyn Handler> = Arc::new(groups);
        let calls = Calls {
            node: self.id,
            region,
            global,
            feed: self.feed.clone(),
            control: Arc::clone(control),
            members: self.members.clone(),
            directory: self.directory.clone(),
            material: self.material.clone(),
            logs: Arc::clone(&work.logs),
            execs: work.execs.clone(),
            snapshots: work.snapshots.clone(),
            meter: work.usages.meter.clone(),
            edge_requests: work.edge_requests.clone(),
            latency: self.latency.clone(),
            digests: self.digests.clone(),
            secrets: work.secrets.clone(),
            runtime: work.runtime.clone(),
            disk: Arc::clone(&self.env.disk),
            lifetimes: self.config.lifetimes(),
            clock: self.env.clock.clone(),
            peers: self.rpc.clone(),
        };
        let calls = Arc::new(calls);
        let bulk = Bulk { groups: Arc::clone(&groups), calls: Arc::clone(&calls) };
        let joins = Joins {
            node: self.id,
            home: self.home.clone(),
            directory: self.directory.clone(),
            region: self.region.clone(),
            global: self.global.clone(),
            groups: (self.region_group.raft().clone(), self.global_group.raft().clone()),
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
            .with(Protocol::Raft, groups)
            .with(Protocol::Bulk, Arc::new(bulk))
            .with(Protocol::Rpc, calls)
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

    async fn serve_api(&self, work: &work::Work, dataplane: &Link, requests: &Arc<Requests>) -> Result<(), Error> {
        let api = Arc::new(NodeApi {
            node: self.id,
            config: self.config.clone(),
            config_path: self.config_path.clone(),
            whereabouts: self.whereabouts(),
            region: self.region.clone(),
            global: self.global.clone(),
            region_group: self.region_group.clone(),
            global_group: self.global_group.clone(),
            feed: self.feed.clone(),
            logs: Arc::clone(&work.logs),
            execs: work.execs.clone(),
            census: work.census.clone(),
            tags: Tags::new(work.runtime.clone()),
            snapshots: work.snapshots.clone(),
            usages: work.usages.clone(),
            edge_requests: work.edge_requests.clone(),
            latency: self.latency.clone(),
            material: self.material.clone(),
            directory: self.directory.clone(),
            rpc: self.rpc.clone(),
            authority: Default::default(),
            imports: Semaphore::new(crate::handler::images::IMPORTS_MAX),
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
        let counted = || Arc::clone(requests);
        self.env.tasks.critical("api", beat::QUICK, |beat| {
            insula_api::serve_tls(listener, tls, api.clone(), counted(), tasks.clone(), beat)
        });
        self.env
            .tasks
            .critical("local api", beat::QUICK, |beat| insula_api::serve_unix(local, api, counted(), tasks, beat));
        Ok(())
    }

    fn serve_metrics(&self, work: &work::Work, dataplane: &Link, api: Arc<Requests>) {
        let MetricsListener::At(address) = self.config.metrics else { return };
        let sources = metrics::Sources {
            node: self.id,
            version: insula_rpc::PROGRAM_VERSION.to_owned(),
            started_ms: self.env.clock.wall_ms(),
            capacity: capacity(&self.config),
            data_dir: self.config.data_dir.clone(),
            region: self.region_group.clone(),
            global: self.global_group.clone(),
            dataplane: dataplane.clone(),
            runtime: work.runtime.clone(),
            api,
            clock: self.env.clock.clone(),
            clock_ahead_ms: work.clock_ahead_ms.clone(),
        };
        metrics::start(&self.env, address, sources);
    }

    fn keep_voters(&self) {
        let region = GroupMembership {
            group: self.region_group.clone(),
            directory: self.directory.clone(),
            peers: self.rpc.clone(),
            global: self.global_group.raft().clone(),
        };
        let global = GroupMembership {
            group: self.global_group.clone(),
            directory: self.directory.clone(),
            peers: self.rpc.clone(),
            global: self.global_group.raft().clone(),
        };
        start_voters(&self.env, self.region.clone(), self.region.leadership(), Arc::new(region), DEAD_AFTER);
        start_voters(&self.env, self.region.clone(), self.global.leadership(), Arc::new(global), DEAD_AFTER);
    }

    /// Gives the dataplane each new state of the region, and what is new of others.
    fn push_catalogs(&self, dataplane: &Link) {
        let (region, global) = (Arc::clone(self.region.replica()), Arc::clone(self.global.replica()));
        let (digests, dataplane) = (self.digests.clone(), dataplane.clone());
        self.env.tasks.supervise("catalog", beat::QUICK, move |beat| {
            let others = (global.changed(), digests.changed());
            push_changes(region.changed(), others, beat, digests.pusher(dataplane.clone()))
        });
    }

    /// Brings the region's record of this node up to date: its size and version may have changed.
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
                clock::sleep(UPDATE_PAUSE).await;
            }
        });
    }

    /// Opens secrets on this node.
    pub(crate) fn opener(&self) -> Opener {
        Opener {
            identity: self.material.identity(),
            directory: self.directory.clone(),
            region: self.region.clone(),
            peers: self.rpc.clone(),
            book: self.book.clone(),
            disk: Arc::clone(&self.env.disk),
            path: self.config.paths().secrets(),
            turn: Arc::default(),
        }
    }

    /// Says to which key the region's secrets are sealed, once all programs know of such, and if this node has the key from which
    /// it is derived.
    fn tell_of_sealing_key(&self) {
        let (global, directory, own) = (self.global.clone(), self.directory.clone(), self.config.region.clone());
        self.env.tasks.spawn("key of secrets", async move {
            let mut changed = global.replica().changed();
            let is_awaited =
                |_: &Revision| global.read(|state| state.regions.contains(&own) && state.level() >= SECRETS);
            if changed.wait_for(is_awaited).await.is_err() {
                return;
            }
            while !global.read(|state| state.sealing_keys.contains(&own)) {
                let key =
                    directory.load_region_authority().and_then(|held| held.map(|held| held.opening_key()).transpose());
                let told = match key {
                    Ok(Some(key)) => {
                        let key = ByteBuf::from(key.public());
                        let command = GlobalCommand::SetSealingKey { region: own.clone(), key };
                        global.propose(&command, UPDATE_LIMIT).await.map(drop).map_err(|error| chain(&error))
                    }
                    // Another node tells, unless this one gets the key first.
                    Ok(None) => Ok(()),
                    Err(error) => Err(chain(&error)),
                };
                if let Err(error) = told {
                    tracing::debug!(%error, "the key that secrets are sealed to is not known yet");
                }
                clock::sleep(UPDATE_PAUSE).await;
            }
        });
    }

    /// Says which runtime classes and labels this node has, once all programs know of such. Those that have none need not
    /// say so, unless they had some.
    fn tell_what_it_has(&self, runtimes: BTreeSet<RuntimeName>) {
        let (id, own, none) = (self.id, runtimes.clone(), BTreeSet::new());
        let command = RegionCommand::SetRuntimes { node: id, runtimes };
        self.tell("runtime classes", command, move |state| state.runtimes.get(&id).unwrap_or(&none) == &own);
        let (own, none) = (self.config.labels.clone(), Labels::new());
        let command = RegionCommand::SetLabels { node: id, labels: own.clone() };
        self.tell("labels", command, move |state| state.labels.get(&id).unwrap_or(&none) == &own);
    }

    /// Gives this node's word on itself until the region has taken it.
    fn tell(
        &self,
        what: &'static str,
        command: RegionCommand,
        is_stated: impl Fn(&RegionState) -> bool + Send + Sync + 'static,
    ) {
        let (region, id) = (self.region.clone(), self.id);
        self.env.tasks.spawn(what, async move {
            let mut changed = region.replica().changed();
            let is_known = |state: &RegionState| state.nodes.contains(&id) && state.level() >= command.level();
            if changed.wait_for(|_: &Revision| region.read(is_known)).await.is_err() {
                return;
            }
            while !region.read(&is_stated)
                && let Err(error) = region.propose(&command, UPDATE_LIMIT).await
            {
                tracing::debug!(%error, what, "the region has not taken this node's word yet");
                clock::sleep(UPDATE_PAUSE).await;
            }
        });
    }
}

/// A group as `home` knows it.
pub(crate) fn group_config(state: StateName, node: NodeId, home: &Home, paths: &Paths) -> GroupConfig {
    let group = match state {
        StateName::Region => REGION_GROUP,
        StateName::Global => GLOBAL_GROUP,
    };
    let mut config = GroupConfig::new(node, group, home.life(state), paths.group(state.as_str()));
    config.must_exist = home.has_state && !home.new.contains(&state);
    config
}

/// What opening a group takes.
struct Opening<'a> {
    env: &'a Env,
    paths: &'a Paths,
    transport: Arc<RpcTransport>,
    census: Census,
}

impl Opening<'_> {
    /// Opens a group. When its files are gone, this node must not come back as the voter that it was; it waits for a
    /// restored life of the group on another node, and adopts that.
    async fn open<D: Domain>(
        &self,
        state: StateName,
        mut config: GroupConfig,
        replica: Arc<Replica<D>>,
    ) -> Result<StateGroup<D>, Error> {
        let again = (config.clone(), Arc::clone(&replica));
        let opened = StateGroup::open(state, config, self.env, self.transport.clone(), replica).await;
        let Err(Error::OpenState { source: OpenError::Gone { .. }, .. }) = &opened else { return opened };
        let Some(life) = self.census.wait_for_life(state, again.0.incarnation).await else { return opened };
        lives::adopt(&self.env.disk, self.paths, &lives::Adopted::from([(state, life)]))?;
        config = GroupConfig { incarnation: life, must_exist: false, ..again.0 };
        StateGroup::open(state, config, self.env, self.transport.clone(), again.1).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_has_lost_what_it_has_says_what_to_do() {
        let dir = tempfile::tempdir().expect("directory");
        let text = format!(
            "name = \"n1\"\nregion = \"fra\"\ndatacenter = \"fra1\"\nadvertise = \"127.0.0.1:7443\"\ndata_dir = {:?}",
            dir.path()
        );
        let (config, env) = (NodeConfig::parse(&text).expect("complete"), Env::real("test"));
        crate::init::init(&config, &env).expect("initialized");
        std::fs::remove_file(config.paths().home()).expect("there was one");
        let error = Node::open(config, Path::new("insula.toml"), &env).await.err().expect("refused");
        assert!(matches!(error, Error::Homeless { .. }), "{error}");
        assert!(error.to_string().contains("insula node rm"), "{error}");
    }
}
