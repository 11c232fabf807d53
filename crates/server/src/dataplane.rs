//! `insula dataplane`: owns the public listeners, serves from the node's own catalog, needs nobody.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use insula_catalog::{CatalogFile, Holder, link};
use insula_edge::Edge;
use insula_env::{Env, net};
use insula_identity::{Material, NodeDirectory, Tombstones};
use insula_mesh::{Mesh, PortTransport};
use insula_rpc::Dispatcher;
use tracing::info;

use crate::{Error, config::NodeConfig, signals};

/// How long the rest may take to stop once the edge has drained.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Runs the dataplane until it is told to stop by a signal.
///
/// # Errors
/// Whatever keeps it from starting: configuration, identity, a listener that is taken.
pub async fn run(config_path: &Path) -> Result<(), Error> {
    let config = NodeConfig::read(config_path)?;
    let env = Env::real("dataplane");
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
    let transport = Arc::new(PortTransport::new(material.clone()));
    let mesh = Mesh::start(Arc::clone(&holder), transport, &env);
    let edge = Edge::new(insula_edge::Config::default(), Arc::clone(&holder), Arc::new(mesh.clone()), &env);

    let dispatcher = Dispatcher::start(nodes, &paths.port_socket(), &env).map_err(|source| Error::Listen {
        what: "other nodes",
        address: config.listen(),
        source,
    })?;
    env.tasks.critical("mesh accept", {
        let (mesh, material) = (mesh.clone(), material.clone());
        async move { mesh.accept_loop(dispatcher, material).await }
    });
    let users = Arc::new(users);
    env.tasks.supervise("edge", {
        let edge = edge.clone();
        move || {
            let (edge, users) = (edge.clone(), Arc::clone(&users));
            async move { edge.serve(users).await }
        }
    });
    let dataplane = Arc::new(Asked { directory, material, edge: edge.clone() });
    env.tasks.critical("catalog link", link::listen(control, holder, dataplane, env.clone()));
    info!(node = %identity.node, nodes = %config.listen(), edge = %config.edge, "dataplane is up");

    signals::told_to_stop(&env.tasks).await;
    info!("dataplane drains");
    edge.drain().await;
    env.tasks.join(STOP_LIMIT).await;
    Ok(())
}

/// Keeps removed nodes out, as the catalog names them.
fn follow_tombstones(env: &Env, holder: &Arc<Holder>, tombstones: Tombstones) {
    let mut catalog = holder.watch();
    env.tasks.spawn("tombstones", async move {
        loop {
            let removed = catalog.borrow_and_update().tombstones.clone();
            tombstones.set(removed);
            if catalog.changed().await.is_err() {
                return;
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
        self.edge.metrics().read()
    }
}
