//! What a node sees of its instances. Written by that node alone.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{InstanceId, NodeId, PortName};

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Assigned; nothing done yet.
    Pending,
    /// Its image is being fetched.
    Pulling,
    /// Its process is being started.
    Starting,
    /// Its process runs.
    Running,
    /// It ended and waits to be started again.
    Backoff,
    /// It ended and will not be started again.
    Stopped,
}

/// One instance as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// The instance.
    pub instance: InstanceId,
    /// The node that reports.
    pub node: NodeId,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it may get requests: running, and its readiness check passes.
    pub is_ready: bool,
    /// Whether it has ever been ready; an edge that must choose among unready ones prefers these (rule R10).
    #[serde(default)]
    pub was_ready: bool,
    /// Where its ports are reached from its own node.
    pub endpoints: BTreeMap<PortName, SocketAddr>,
    /// How often it has been started again after an end.
    pub restarts: u32,
    /// What went wrong last, in words; while its image is fetched, how far that is. Empty when there is nothing to say.
    pub message: String,
    /// When this phase began, milliseconds since 1970 by the node's clock.
    pub since_ms: u64,
}
