//! Which peers are watched, and what is published about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use insula_catalog::{Catalog, Holder};
use insula_env::{Beat, Env, TaskGroup, beat};
use insula_types::{NodeId, RegionName};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Verdicts, limits,
    monitor::{Health, Monitor},
    transport::Transport,
};

/// Where monitors write and everybody reads.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// Whether it is of other regions, which may well be gone all together.
    is_far: bool,
    verdicts: watch::Sender<Arc<Verdicts>>,
    /// For each peer, the token that its present streams carry.
    lost: Mutex<BTreeMap<NodeId, CancellationToken>>,
}

impl Board {
    /// One of nodes of other regions.
    pub(crate) fn far() -> Self {
        Self { is_far: true, ..Self::default() }
    }

    pub(crate) fn verdicts(&self) -> watch::Receiver<Arc<Verdicts>> {
        self.verdicts.subscribe()
    }

    /// The token for a new stream to a peer; cancelled when the peer turns bad.
    pub(crate) fn lost(&self, node: NodeId) -> CancellationToken {
        self.lost.lock().entry(node).or_default().clone()
    }

    /// A peer's health has changed.
    pub(crate) fn set(&self, node: NodeId, health: Health) {
        self.verdicts.send_modify(|verdicts| {
            let verdicts = Arc::make_mut(verdicts);
            if !verdicts.watched.contains(&node) {
                return;
            }
            match health {
                Health::Bad(trouble) => {
                    verdicts.bad.insert(node, trouble);
                    warn!(%node, ?trouble, "peer is not used until it answers again");
                }
                Health::Good => {
                    if verdicts.bad.remove(&node).is_some() {
                        info!(%node, "peer answers again");
                    }
                }
                Health::Unknown => {}
            }
            if verdicts.is_cut_off() && !self.is_far {
                warn!("no peer answers: this node seems cut off, traffic stays on what was last known");
            }
        });
        if matches!(health, Health::Bad(_)) {
            // Streams made from now on, as a last resort, get a token of their own.
            if let Some(token) = self.lost.lock().remove(&node) {
                token.cancel();
            }
        }
    }

    /// Ends the streams to nodes that were removed.
    fn cut(&self, removed: &BTreeSet<NodeId>) {
        let mut lost = self.lost.lock();
        for node in removed {
            if let Some(token) = lost.remove(node) {
                token.cancel();
            }
        }
    }

    fn set_watched(&self, watched: BTreeSet<NodeId>) {
        self.lost.lock().retain(|node, _| watched.contains(node));
        self.verdicts.send_modify(|verdicts| {
            let verdicts = Arc::make_mut(verdicts);
            verdicts.bad.retain(|node, _| watched.contains(node));
            verdicts.watched = watched;
        });
    }
}

/// A peer's region, where that is another one, and its addresses.
pub(crate) type Watched = (Option<RegionName>, Arc<[SocketAddr]>);

/// Gateways of other regions to watch: those that requests may be brought to.
pub(crate) fn far_to_watch(catalog: &Catalog) -> BTreeMap<NodeId, Watched> {
    let used = catalog.far_in_use().into_iter();
    used.map(|(node, (region, gateway))| (node, (Some(region.clone()), gateway.addresses.clone().into()))).collect()
}

/// Peers to watch: those with instances, and a few more, so that one dead peer does not look like our own isolation.
pub(crate) fn to_watch(catalog: &Catalog) -> BTreeMap<NodeId, Watched> {
    let mut watched = catalog.peers_in_use();
    // The next ones in the ring of ids, so that the witnesses spread over the region.
    let after = catalog.nodes.range(catalog.own..).chain(catalog.nodes.range(..catalog.own));
    watched.extend(
        after.filter(|(id, node)| **id != catalog.own && node.is_up).map(|(id, _)| *id).take(limits::WITNESSES),
    );
    let addresses = |id| catalog.nodes.get(&id).map(|node| (id, (None, node.addresses().collect())));
    watched.into_iter().filter_map(addresses).collect()
}

/// Starts and stops monitors as the catalog changes. Runs until the task group stops.
pub(crate) async fn watch(
    wanted: fn(&Catalog) -> BTreeMap<NodeId, Watched>,
    holder: Arc<Holder>,
    transport: Arc<dyn Transport>,
    board: Arc<Board>,
    env: Env,
    beat: Beat,
) {
    let mut running: Running = Running::default();
    let mut catalogs = holder.watch();
    loop {
        let catalog = catalogs.borrow_and_update().clone();
        board.cut(&catalog.tombstones);
        let wanted = wanted(&catalog);
        running.0.retain(|id, (watched, group)| {
            let stays = wanted.get(id) == Some(watched);
            if !stays {
                group.stop();
            }
            stays
        });
        board.set_watched(wanted.keys().copied().collect());
        for (node, watched) in wanted {
            running.0.entry(node).or_insert_with(|| {
                let group = env.tasks.child("peer");
                let monitor = Monitor {
                    node,
                    region: watched.0.clone(),
                    addresses: Arc::clone(&watched.1),
                    transport: Arc::clone(&transport),
                    board: Arc::clone(&board),
                    clock: env.clock.clone(),
                    rng: env.rng.fork(),
                };
                group.supervise(&format!("pings to {node}"), beat::QUICK, move |beat| {
                    let monitor = monitor.clone();
                    async move { monitor.run(&beat).await }
                });
                (watched, group)
            });
        }
        if beat.idle(catalogs.changed()).await.is_err() {
            return;
        }
    }
}

/// The monitors that run; they stop with it.
#[derive(Default)]
struct Running(BTreeMap<NodeId, (Watched, TaskGroup)>);

impl Drop for Running {
    fn drop(&mut self) {
        for (_, group) in self.0.values() {
            group.stop();
        }
    }
}
