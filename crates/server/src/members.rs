//! Keeps what this process knows of its region's members up to date: addresses, tombstones, and the file that lets it
//! start without anybody to ask.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use insula_env::{Env, beat};
use insula_identity::Tombstones;
use insula_rpc::AddressBook;
use insula_state::{RegionState, Replica};
use insula_telemetry::chain;
use insula_types::NodeId;
use parking_lot::Mutex;
use tracing::warn;

use crate::home::{Home, ValueFile};

/// Starts to follow the region's members.
pub(crate) fn start(
    env: &Env,
    node: NodeId,
    region: &Arc<Replica<RegionState>>,
    book: AddressBook,
    tombstones: Tombstones,
    (home, file): (Home, ValueFile),
) {
    book.set(addresses(&home.peers));
    let region = Arc::clone(region);
    let (home, file) = (Arc::new(Mutex::new(home)), Arc::new(file));
    env.tasks.supervise("members", beat::DISK, move |beat| {
        let (region, book, tombstones) = (Arc::clone(&region), book.clone(), tombstones.clone());
        let (home, file) = (Arc::clone(&home), Arc::clone(&file));
        async move {
            let mut changed = region.changed();
            loop {
                let (peers, removed) = region.read(|state| {
                    let others = state.nodes.values().filter(|other| other.id != node);
                    let peers: BTreeMap<_, _> = others.map(|other| (other.id, other.address)).collect();
                    (peers, state.tombstones.iter().map(|(id, _)| *id).collect())
                });
                tombstones.set(removed);
                // Nothing yet (or a lone node): what the file says may be all there is to go by.
                let is_new = !peers.is_empty() && peers != home.lock().peers;
                if is_new {
                    book.set(addresses(&peers));
                    home.lock().peers = peers;
                    let kept = home.lock().clone();
                    if let Err(error) = file.save(&kept) {
                        warn!(error = %chain(&error), "the list of members was not kept; a restart uses the older one");
                    }
                }
                if beat.idle(changed.changed()).await.is_err() {
                    return;
                }
            }
        }
    });
}

/// Where nodes are reached, as the address book wants it.
pub(crate) fn addresses(peers: &BTreeMap<NodeId, SocketAddr>) -> BTreeMap<NodeId, Vec<SocketAddr>> {
    peers.iter().map(|(node, address)| (*node, vec![*address])).collect()
}
