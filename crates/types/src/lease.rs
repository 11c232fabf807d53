//! What a node says when it renews its lease with the region's leader. Carried by rpc, never replicated.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, CpuMillis, Revision, Traffic};

/// How busy a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    /// CPU time used, averaged since the renewal before.
    pub cpu: CpuMillis,
    /// Memory in use.
    pub memory: ByteSize,
    /// Instances that run.
    pub instances: u32,
}

/// One renewal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Renewal {
    /// How busy the node is.
    pub load: Load,
    /// The region revision that the node's data plane routes by, as it has acknowledged. 0 before the first.
    pub catalog_revision: Revision,
    /// What the node's edge has counted of services whose releases are being tried. None: there are none, or nothing is known of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// The node's disk is so full that nothing can be started there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_disk_full: bool,
}

/// A lease, from the moment that the leader answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// How long it holds without another renewal.
    pub lease: Duration,
    /// The leader's wall time, milliseconds since 1970; 0 from a leader of an earlier version.
    #[serde(default)]
    pub wall_ms: u64,
}
