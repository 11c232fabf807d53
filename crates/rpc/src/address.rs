//! Where nodes are. State tells it, and connections are made by it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use insula_types::NodeId;
use parking_lot::RwLock;

/// Addresses by node. Clones share it; changes count from the next connection on.
#[derive(Debug, Clone, Default)]
pub struct AddressBook(Arc<RwLock<BTreeMap<NodeId, Vec<SocketAddr>>>>);

impl AddressBook {
    /// Replaces everything.
    pub fn set(&self, addresses: BTreeMap<NodeId, Vec<SocketAddr>>) {
        *self.0.write() = addresses;
    }

    /// Adds a node or replaces its addresses, which are tried in order.
    pub fn insert(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        self.0.write().insert(node, addresses);
    }

    /// Forgets a node.
    pub fn remove(&self, node: NodeId) {
        self.0.write().remove(&node);
    }

    /// A node's addresses; empty when it is not known.
    pub fn get(&self, node: NodeId) -> Vec<SocketAddr> {
        self.0.read().get(&node).cloned().unwrap_or_default()
    }

    /// The nodes that it knows.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.0.read().keys().copied().collect()
    }
}
