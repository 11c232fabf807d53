//! `insula dataplane`: owns the public listeners, serves from the node's own catalog, needs nobody.

use std::{collections::BTreeMap, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use insula_catalog::{CatalogFile, Holder, link};
use insula_edge::Edge;
use insula_env::{Env, net};
use insula_identity::{Material, NodeDirectory, Tombstones};
use insula_mesh::{Mesh, Stream};
use insula_rpc::{Dispatcher, Protocol};
use insula_types::NodeId;
use tracing::{debug, info};

use crate::{Error, config::NodeConfig, signals};

/// How long a mesh connection to a peer may take, handshakes included.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
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
    let transport = Arc::new(MeshTransport { material: material.clone() });
    let mesh = Mesh::start(Arc::clone(&holder), transport, &env);
    let edge = Edge::new(insula_edge::Config::default(), Arc::clone(&holder), Arc::new(mesh.clone()), &env);

    let dispatcher = Dispatcher::start(nodes, &paths.port_socket(), &env).map_err(|source| Error::Listen {
        what: "other nodes",
        address: config.listen(),
        source,
    })?;
    accept_nodes(&env, dispatcher, &material, &mesh);
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

/// Serves the port between nodes: mesh here, everything else handed to the server.
fn accept_nodes(env: &Env, mut dispatcher: Dispatcher, material: &Material, mesh: &Mesh) {
    let (material, mesh, tasks) = (material.clone(), mesh.clone(), env.tasks.clone());
    env.tasks.critical("mesh accept", async move {
        while let Some((stream, peer)) = dispatcher.next_mesh().await {
            let (material, mesh) = (material.clone(), mesh.clone());
            tasks.spawn("mesh handshake", async move {
                match insula_rpc::accept(stream, peer, Protocol::Mesh, &material, CONNECT_LIMIT).await {
                    Ok(link) => mesh.serve(link.caller.identity.node, Box::new(link.stream)),
                    Err(error) => debug!(%peer, error = %insula_telemetry::chain(&error), "no mesh with a peer"),
                }
            });
        }
    });
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

/// Mesh connections over the port between nodes.
struct MeshTransport {
    material: Material,
}

impl insula_mesh::Transport for MeshTransport {
    fn connect(&self, node: NodeId, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>> {
        async move {
            let connected =
                insula_rpc::connect(address, Protocol::Mesh, &self.material, Some(node), CONNECT_LIMIT).await;
            connected.map(|link| Box::new(link.stream) as Stream).map_err(io::Error::other)
        }
        .boxed()
    }
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
