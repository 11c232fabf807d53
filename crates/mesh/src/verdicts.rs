//! What pings say of the other nodes, at one moment.

use std::collections::{BTreeMap, BTreeSet};

use insula_types::NodeId;

/// Why a node is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It does not answer.
    Silent,
    /// Its connection was reset or refused.
    Reset,
}

/// Which of the watched nodes are in trouble.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// The nodes that are pinged.
    pub watched: BTreeSet<NodeId>,
    /// Those of them that are in trouble.
    pub bad: BTreeMap<NodeId, Trouble>,
}

impl Verdicts {
    /// Whether the node is in trouble. A node that is not watched is not.
    pub fn is_bad(&self, node: NodeId) -> bool {
        self.bad.contains_key(&node)
    }

    /// Whether every watched node is in trouble: then it is rather this node that is cut off, and the verdicts say
    /// nothing about the others (rule R10).
    pub fn is_cut_off(&self) -> bool {
        !self.watched.is_empty() && self.bad.len() == self.watched.len()
    }
}
