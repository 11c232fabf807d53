//! A real edge over a catalog that does not change, for profiles: `fixed LISTEN INSTANCE…` serves every path of
//! `bench.example` on one address from the instances at the others, with as many threads as the dataplane has at least.
//! An instance that speaks HTTP/2 is written `h2c:ADDRESS:PORT`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
};

use futures::{FutureExt, future::BoxFuture};
use insula_catalog::{Catalog, CatalogInstance, CatalogNode, Holder, RouteTarget};
use insula_edge::{Config, Edge};
use insula_env::{Env, beat, net};
use insula_mesh::{DialError, Dialer, FarTarget, Stream, Target, Verdicts, limits};
use insula_types::{ClusterId, Incarnation, InstanceId, NodeId, PortName, RegionName, Revision, ServiceRef};
use tokio::sync::watch;

/// As a dataplane reaches instances of its own node.
struct Local {
    addresses: BTreeMap<InstanceId, SocketAddr>,
    verdicts: watch::Sender<Arc<Verdicts>>,
}

impl Dialer for Local {
    fn dial(&self, target: Target) -> BoxFuture<'_, Result<Stream, DialError>> {
        let instance = target.instance;
        async move {
            let address = self.addresses.get(&instance).ok_or(DialError::Unknown { instance })?;
            let stream = net::connect(*address, limits::DIAL).await;
            let stream = stream.map_err(|source| DialError::Connect { instance, node: target.node, source })?;
            Ok(Box::new(stream) as Stream)
        }
        .boxed()
    }

    fn dial_far(&self, target: FarTarget) -> BoxFuture<'_, Result<Stream, DialError>> {
        let FarTarget { region, node, .. } = target;
        std::future::ready(Err(DialError::Far { region, node, source: io::ErrorKind::Unsupported.into() })).boxed()
    }

    fn far_verdicts(&self) -> watch::Receiver<Arc<Verdicts>> {
        self.verdicts.subscribe()
    }

    fn verdicts(&self) -> watch::Receiver<Arc<Verdicts>> {
        self.verdicts.subscribe()
    }
}

fn catalog(
    region: RegionName,
    port: PortName,
    addresses: &BTreeMap<InstanceId, SocketAddr>,
    framed: &BTreeSet<InstanceId>,
) -> io::Result<Catalog> {
    let mut catalog = Catalog::empty(ClusterId::new(1), region, NodeId::new(1));
    (catalog.incarnation, catalog.revision) = (Incarnation(1), Revision(1));
    let name = |text: &str| text.parse().map_err(io::Error::other);
    let node = CatalogNode {
        name: "n1".parse().map_err(io::Error::other)?,
        datacenter: "dc1".parse().map_err(io::Error::other)?,
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        others: Vec::new(),
        is_up: true,
    };
    catalog.nodes.insert(catalog.own, node);
    let service = ServiceRef::new(name("bench")?, "web".parse().map_err(io::Error::other)?);
    let entry = catalog.services.entry(service.clone()).or_default();
    for (id, address) in addresses {
        let instance = CatalogInstance {
            node: catalog.own,
            is_ready: true,
            was_ready: true,
            is_draining: false,
            is_first: false,
            release: None,
            ports: BTreeMap::from([(port.clone(), 80)]),
            h2c: framed.iter().filter(|framed| *framed == id).map(|_| port.clone()).collect(),
            endpoints: BTreeMap::from([(port.clone(), *address)]),
        };
        entry.instances.insert(*id, instance);
    }
    catalog.routes.entry("bench.example".to_owned()).or_default().insert("/".to_owned(), RouteTarget { service, port });
    Ok(catalog)
}

async fn serve(listen: SocketAddr, instances: Vec<(bool, SocketAddr)>) -> io::Result<()> {
    let env = Env::real("edge");
    let numbered: Vec<_> = (1..).map(InstanceId::new).zip(instances).collect();
    let framed = numbered.iter().filter(|(_, (is_framed, _))| *is_framed).map(|(id, _)| *id).collect();
    let addresses: BTreeMap<_, _> = numbered.iter().map(|(id, (_, address))| (*id, *address)).collect();
    let region: RegionName = "fra".parse().map_err(io::Error::other)?;
    let holder = Holder::new(ClusterId::new(1), region.clone(), NodeId::new(1));
    holder.offer(catalog(region, "http".parse().map_err(io::Error::other)?, &addresses, &framed)?);
    let dialer = Arc::new(Local { addresses, verdicts: watch::Sender::default() });
    let edge = Edge::new(Config::default(), holder, dialer, &env);
    let listener = Arc::new(net::bind(listen).await?);
    env.tasks.spawn_watched("serve", beat::QUICK, |beat| async move { edge.serve(listener, beat).await });
    std::future::pending().await
}

fn main() -> io::Result<()> {
    let mut said = std::env::args().skip(1);
    let listen = said.next().ok_or_else(|| io::Error::other("usage: fixed LISTEN INSTANCE…"))?;
    let listen = listen.parse().map_err(io::Error::other)?;
    let instance = |text: String| {
        let framed = text.strip_prefix("h2c:");
        Ok((framed.is_some(), framed.unwrap_or(&text).parse().map_err(io::Error::other)?))
    };
    let instances = said.map(instance).collect::<io::Result<Vec<(bool, SocketAddr)>>>()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(listen, instances))
}
