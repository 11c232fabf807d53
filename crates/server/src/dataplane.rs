//! `insula dataplane`: owns the public listeners, serves from the node's own catalog, needs nobody.

use std::{collections::BTreeMap, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use insula_catalog::{CatalogFile, Holder, link};
use insula_edge::Edge;
use insula_env::{Env, beat, clock, net, watchdog};
use insula_identity::{Material, NodeDirectory, Tombstones};
use insula_mesh::{Mesh, PortTransport};
use insula_rpc::Dispatcher;
use insula_types::{HttpRequestId, Remembered, Traffic};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::{
    Error,
    config::{NodeConfig, Paths},
    metrics, refused,
    signals::Signals,
    takeover::{self, Listeners, Offer, Predecessor},
};

/// How long the rest may take to stop once the edge has drained.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// How long what is open may take to end once another dataplane has taken over. Nobody waits for that: users' new connections, and
/// those of other nodes, are served there.
const HANDED_OVER_LIMIT: Duration = Duration::from_secs(120);

/// Runs the dataplane until it is told to stop by a signal.
///
/// # Errors
/// Whatever keeps it from starting: configuration, identity, a listener that is taken.
pub async fn run(config_path: &Path) -> Result<(), Error> {
    let mut signals = Signals::listen();
    let config = NodeConfig::read(config_path)?;
    let env = Env::real("dataplane");
    watchdog::start(&env.tasks, "dataplane", &config.data_dir);
    let paths = config.paths();
    let directory = NodeDirectory::new(&paths.data(), Arc::clone(&env.disk));
    let tombstones = Tombstones::default();
    let material = Material::new(&directory.load()?, env.clock.clone(), Arc::new(tombstones.clone()))?;
    let identity = material.identity();

    let (listeners, predecessor) = listen(&config, &paths).await?;
    let file = CatalogFile::new(Arc::clone(&env.disk), paths.catalog());
    let holder = Holder::open(file, identity.cluster.clone(), identity.region.clone(), identity.node, &env);
    follow_tombstones(&env, &holder, tombstones);
    let transport = Arc::new(PortTransport::new(material.clone(), env.clock.clone()));
    let mesh = Mesh::start(Arc::clone(&holder), transport, &env);
    // They were checked when the configuration was read.
    let trusted_proxies = config.trusted_networks().unwrap_or_default();
    let edge_config = insula_edge::Config { trusted_proxies, ..insula_edge::Config::default() };
    let edge = Edge::new(edge_config, Arc::clone(&holder), Arc::new(mesh.clone()), &env);

    let entered = edge.clone();
    mesh.enter_by(move |entry| entered.enter(entry));

    // What another dataplane may take over, and what accepts nothing more once it has.
    let front = Env { tasks: env.tasks.child("front"), ..env.clone() };
    let socket = paths.takeover_socket();
    let unoffered = |source| {
        let what = "the dataplane that comes after this one";
        Error::ListenUnix { what, path: socket.clone(), source }
    };
    let descriptors = listeners.descriptors().map_err(unoffered)?;
    let Listeners { nodes, users, control } = listeners;
    let dispatcher = Dispatcher::start(nodes, &paths.port_socket(), &front).map_err(|source| Error::Listen {
        what: "other nodes",
        address: config.listen(),
        source,
    })?;
    let (dispatcher, accepting, streams) = (Arc::new(Mutex::new(dispatcher)), material.clone(), mesh.clone());
    front.tasks.supervise("mesh accept", beat::QUICK, move |beat| {
        let (mesh, material, dispatcher) = (mesh.clone(), accepting.clone(), Arc::clone(&dispatcher));
        // Free at once: the run before has been dropped.
        async move { mesh.accept_loop(&mut *dispatcher.lock().await, material, beat).await }
    });
    let users = Arc::new(users);
    front.tasks.supervise("edge", beat::QUICK, {
        let edge = edge.clone();
        move |beat| {
            let (edge, users) = (edge.clone(), Arc::clone(&users));
            async move { edge.serve(users, beat).await }
        }
    });
    let dataplane = Arc::new(Asked { directory, material, edge: edge.clone() });
    let tasks = front.clone();
    front.tasks.critical("catalog link", beat::QUICK, |beat| link::listen(control, holder, dataplane, tasks, beat));
    if let Some(predecessor) = predecessor
        && let Err(error) = predecessor.release().await
    {
        // It has ended, or hangs: its socket is looked at again below.
        warn!(%error, "the dataplane before this one did not say that it lets go");
    }
    let offer = Offer::new(&socket, descriptors).map_err(unoffered)?;
    info!(node = %identity.node, nodes = %config.listen(), edge = %config.edge, "dataplane is up");

    let taken = tokio::select! {
        () = signals.told_to_stop(&front.tasks) => None,
        taken = offer.taken() => Some(taken),
    };
    match taken {
        None => {
            info!("dataplane drains");
            // It accepts during its notice, and what it begins there it also ends.
            edge.drain().await;
            front.tasks.stop();
        }
        Some(taken) => {
            front.tasks.stop();
            info!("another dataplane has taken over: this one ends when what is open has");
            taken.let_go(offer).await;
            let ends = async {
                // Each time the edge gives what is open some time, and there may be more to give.
                let users = async { while !edge.drain().await {} };
                tokio::join!(users, streams.drain());
            };
            tokio::select! {
                outcome = clock::timeout(HANDED_OVER_LIMIT, ends) => if outcome.is_err() {
                    warn!(streams = streams.open_streams(), "what is still open is cut off");
                },
                () = signals.told_to_stop(&env.tasks) => {}
            }
        }
    }
    env.tasks.join(STOP_LIMIT).await;
    Ok(())
}

/// The listeners of the dataplane that serves, if there is one and it listens where this one shall; new ones otherwise.
async fn listen(config: &NodeConfig, paths: &Paths) -> Result<(Listeners, Option<Predecessor>), Error> {
    match takeover::ask(&paths.takeover_socket()).await {
        Ok((predecessor, listeners)) if listeners.are_at(config.listen(), config.edge) => {
            info!("taking over from the dataplane that serves");
            return Ok((listeners, Some(predecessor)));
        }
        Ok(_) => warn!("the dataplane that serves listens at other addresses than the configuration says"),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
        Err(error) => warn!(%error, "the listeners of a dataplane that serves were not given"),
    }
    let tcp = |what, address: SocketAddr| async move {
        net::bind(address).await.map_err(|source| Error::Listen { what, address, source })
    };
    let nodes = tcp("other nodes", config.listen()).await?;
    let users = tcp("the edge", config.edge).await?;
    let path = paths.dataplane_socket();
    let what = "the server's catalogs";
    let control = net::bind_unix(&path).map_err(|source| Error::ListenUnix { what, path, source })?;
    Ok((Listeners { nodes, users, control }, None))
}

/// Keeps removed nodes out, as the catalog names them.
fn follow_tombstones(env: &Env, holder: &Arc<Holder>, tombstones: Tombstones) {
    let catalog = holder.watch();
    env.tasks.supervise("tombstones", beat::QUICK, move |beat| {
        let (mut catalog, tombstones) = (catalog.clone(), tombstones.clone());
        async move {
            loop {
                let removed = catalog.borrow_and_update().tombstones.clone();
                tombstones.set(removed);
                if beat.idle(catalog.changed()).await.is_err() {
                    return;
                }
            }
        }
    });
}

/// Answers the server's questions.
struct Asked {
    directory: NodeDirectory,
    material: Material,
    edge: Edge,
}

impl link::Dataplane for Asked {
    fn reload_identity(&self) -> Result<(), String> {
        let credentials = self.directory.load().map_err(|error| insula_telemetry::chain(&error))?;
        self.material.replace(&credentials).map_err(|error| insula_telemetry::chain(&error))
    }

    fn stats(&self) -> BTreeMap<String, u64> {
        let plain = self.edge.metrics().read().into_iter();
        plain.chain(refused::named(self.edge.refused())).chain(metrics::named(self.edge.services())).collect()
    }

    fn traffic(&self) -> Traffic {
        self.edge.traffic()
    }

    fn requests(&self, id: &HttpRequestId) -> Remembered {
        self.edge.requests(id)
    }
}
