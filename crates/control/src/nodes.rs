//! Health of the nodes: down when the lease ended, up when it is renewed steadily again.

use insula_env::clock::Instant;
use insula_state::{RegionCommand, RegionState};
use insula_types::NodeHealth;

use crate::LeaseTable;

/// The changes of health that the leases ask for.
pub fn reconcile(state: &RegionState, leases: &LeaseTable, now: Instant, now_ms: u64) -> Vec<RegionCommand> {
    let health = |node: &insula_types::Node| match node.health {
        NodeHealth::Up if !leases.is_live(now, node.id) => Some(NodeHealth::Down { since_ms: now_ms }),
        NodeHealth::Down { .. } if leases.is_steady(now, node.id) => Some(NodeHealth::Up),
        _ => None,
    };
    let nodes = state.nodes.values();
    nodes.filter_map(|node| health(node).map(|health| RegionCommand::SetNodeHealth { id: node.id, health })).collect()
}
