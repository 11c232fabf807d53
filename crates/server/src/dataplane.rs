//! `insula dataplane`: owns the public listeners, serves from the node's own catalog, needs nobody.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use insula_catalog::{CatalogFile, Holder, link};
use insula_edge::Edge;
use insula_env::{Env, beat, net, watchdog};
use insula_identity::{Material, NodeDirectory, Tombstones};
use insula_mesh::{Mesh, PortTransport};
use insula_rpc::Dispatcher;
use tokio::sync::Mutex;
use tracing::info;

use crate::{Error, config::NodeConfig, refused, signals};

/// How long the rest may take to stop once the edge has drained.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Runs the dataplane until it is told to stop by a signal.
///
/// # Errors
/// Whatever keeps it from starting: configuration, identity, a listener that is taken.
pub async fn run(config_path: &Path) -> Result<(), Error> {
    let config = NodeConfig::read(config_path)?;
    let env = Env::real("dataplane");
    watchdog::start(&env.tasks, "dataplane", &config.data_dir);
    let paths = config.paths();
    let directory = NodeDirectory::new(&paths.data(), Arc::clone(&env.disk));
    let tombstones = Tombstones::default();
    let material = Material::new(&directory.load()?, env.clock.clone(), Arc::new(tombstones.clone()))?;
    let identity = material.identity();

    let listen = |what, address: SocketAddr| async move {
        net::bind(address).await.map_err(|source| Error::Listen { what, address, source })
    };
    let nodes = listen("other nodes", config.listen()).await?;
    let users = listen("the edge", config.edge).await?;
    let socket = paths.dataplane_socket();
    let control = net::bind_unix(&socket).map_err(|source| Error::ListenUnix {
        what: "the server's catalogs",
        path: socket.clone(),
        source,
    })?;

    let file = CatalogFile::new(Arc::clone(&env.disk), paths.catalog());
    let holder = Holder::open(file, identity.cluster.clone(), identity.region.clone(), identity.node, &env);
    follow_tombstones(&env, &holder, tombstones);
    let transport = Arc::new(PortTransport::new(material.clone(), env.clock.clone()));
    let mesh = Mesh::start(Arc::clone(&holder), transport, &env);
    let edge = Edge::new(insula_edge::Config::default(), Arc::clone(&holder), Arc::new(mesh.clone()), &env);

    let dispatcher = Dispatcher::start(nodes, &paths.port_socket(), &env).map_err(|source| Error::Listen {
        what: "other nodes",
        address: config.listen(),
        source,
    })?;
    let (dispatcher, accepting) = (Arc::new(Mutex::new(dispatcher)), material.clone());
    env.tasks.supervise("mesh accept", beat::QUICK, move |beat| {
        let (mesh, material, dispatcher) = (mesh.clone(), accepting.clone(), Arc::clone(&dispatcher));
        // Free at once: the run before has been dropped.
        async move { mesh.accept_loop(&mut *dispatcher.lock().await, material, beat).await }
    });
    let users = Arc::new(users);
    env.tasks.supervise("edge", beat::QUICK, {
        let edge = edge.clone();
        move |beat| {
            let (edge, users) = (edge.clone(), Arc::clone(&users));
            async move { edge.serve(users, beat).await }
        }
    });
    let dataplane = Arc::new(Asked { directory, material, edge: edge.clone() });
    let tasks = env.clone();
    env.tasks.critical("catalog link", beat::QUICK, |beat| link::listen(control, holder, dataplane, tasks, beat));
    info!(node = %identity.node, nodes = %config.listen(), edge = %config.edge, "dataplane is up");

    signals::told_to_stop(&env.tasks).await;
    info!("dataplane drains");
    edge.drain().await;
    env.tasks.join(STOP_LIMIT).await;
    Ok(())
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
        self.edge.metrics().read().into_iter().chain(refused::named(self.edge.refused())).collect()
    }
}
