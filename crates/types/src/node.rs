//! A node as the region knows it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, CpuMillis, DatacenterName, Level, NodeId, NodeName, RegionName};

/// A member of a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id, bound to its key.
    pub id: NodeId,
    /// Its name, unique in the region.
    pub name: NodeName,
    /// Its region, for life.
    pub region: RegionName,
    /// Its failure domain.
    pub datacenter: DatacenterName,
    /// Where other nodes reach its port for nodes (raft, rpc, bulk, mesh).
    pub address: SocketAddr,
    /// What it can hold.
    pub capacity: Capacity,
    /// Version of the program that it runs, with the level of commands that it knows; see [`Level::mark`].
    pub version: String,
    /// Whether its lease holds.
    pub health: NodeHealth,
    /// No new placements when true.
    #[serde(default)]
    pub is_cordoned: bool,
    /// What runs on it is placed elsewhere, then taken away. Implies that it is cordoned.
    #[serde(default)]
    pub is_draining: bool,
    /// When it joined, milliseconds since 1970 by the leader's clock.
    pub joined_ms: u64,
}

impl Node {
    /// The level of commands that its program knows.
    pub fn level(&self) -> Level {
        Level::split(&self.version).1
    }

    /// Version of the program that it runs, for people.
    pub fn program(&self) -> &str {
        Level::split(&self.version).0
    }
}

/// What a node has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// CPU time.
    pub cpu: CpuMillis,
    /// Memory.
    pub memory: ByteSize,
}

impl Capacity {
    /// What the scheduler may give away: all but the tenth that every node keeps in reserve.
    #[must_use]
    pub fn allocatable(self) -> Self {
        Self { cpu: CpuMillis(self.cpu.0 - self.cpu.0 / 10), memory: ByteSize(self.memory.0 - self.memory.0 / 10) }
    }
}

/// Whether a node's lease holds. Written by the leader's node controller alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeHealth {
    /// Its lease is renewed.
    Up,
    /// Its lease ended.
    Down {
        /// When, milliseconds since 1970 by the leader's clock.
        since_ms: u64,
    },
}

impl NodeHealth {
    /// Whether the lease holds.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up)
    }
}
