//! Where nodes are. State tells it, and connections are made by it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use insula_types::NodeId;
use parking_lot::RwLock;

/// Addresses by node: of the members of the own region, and, apart from them, of nodes by which other regions are reached.
/// Clones share it; changes count from the next connection on.
#[derive(Debug, Clone, Default)]
pub struct AddressBook(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    members: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// The best first.
    gateways: Vec<(NodeId, Vec<SocketAddr>)>,
    /// How many of them, from the first, speak for the global group.
    speakers: usize,
}

impl AddressBook {
    /// Replaces all members.
    pub fn set(&self, addresses: BTreeMap<NodeId, Vec<SocketAddr>>) {
        self.0.write().members = addresses;
    }

    /// Replaces all nodes of other regions, the best first; the first `speakers` of them are believed on the global group. Gives
    /// those that are reached elsewhere than before, or not at all any more.
    pub fn set_gateways(&self, gateways: Vec<(NodeId, Vec<SocketAddr>)>, speakers: usize) -> Vec<NodeId> {
        let mut known = self.0.write();
        known.speakers = speakers.min(gateways.len());
        let before = std::mem::replace(&mut known.gateways, gateways);
        before.into_iter().filter(|one| !known.gateways.contains(one)).map(|(node, _)| node).collect()
    }

    /// Adds a member or replaces its addresses, which are tried in order.
    pub fn insert(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        self.0.write().members.insert(node, addresses);
    }

    /// Forgets a member.
    pub fn remove(&self, node: NodeId) {
        self.0.write().members.remove(&node);
    }

    /// A node's addresses; empty when it is not known.
    pub fn get(&self, node: NodeId) -> Vec<SocketAddr> {
        let known = self.0.read();
        let gateway = || known.gateways.iter().find(|(gateway, _)| *gateway == node).map(|(_, addresses)| addresses);
        known.members.get(&node).or_else(gateway).cloned().unwrap_or_default()
    }

    /// The members that it knows.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.0.read().members.keys().copied().collect()
    }

    /// The nodes of other regions that are believed on the global group, the best first.
    pub fn speakers(&self) -> Vec<NodeId> {
        let known = self.0.read();
        known.gateways[..known.speakers].iter().map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_other_regions_are_reached_and_are_no_members() {
        let book = AddressBook::default();
        let (near, far) = (NodeId::new(1), NodeId::new(2));
        let at = |last| vec![SocketAddr::from(([192, 0, 2, last], 7443))];
        assert_eq!(book.set_gateways(vec![(far, at(2))], 9), []);
        book.set([(near, at(1))].into());
        assert_eq!((book.nodes(), book.speakers()), (vec![near], vec![far]), "members are replaced alone");
        assert_eq!((book.get(near), book.get(far)), (at(1), at(2)));
        assert_eq!(book.set_gateways(vec![(far, at(2))], 0), [], "nothing new");
        assert_eq!(book.speakers(), [], "it is reached, and not believed");
        assert_eq!(book.set_gateways(vec![(far, at(3))], 1), [far], "it is elsewhere");
        assert_eq!(book.get(far), at(3));
        assert_eq!(book.set_gateways(Vec::new(), 1), [far]);
        assert_eq!(book.get(far), []);
    }
}
