//! Instances.

use std::{collections::BTreeMap, net::SocketAddr};

use insula_types::{
    AppName, DatacenterName, HookKind, InstanceId, NodeId, NodeName, PortName, ReleaseNumber, ServiceName, ServiceRef,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One run of a service on one node: where it is and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// The app.
    pub app: AppName,
    /// The service.
    pub service: ServiceName,
    /// The release that it runs.
    pub release: ReleaseNumber,
    /// Its node.
    pub node: NodeId,
    /// That node's name.
    pub node_name: NodeName,
    /// That node's data centre.
    pub datacenter: DatacenterName,
    /// Where it is in its life.
    pub state: InstanceState,
    /// Whether it gets requests.
    pub is_ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// When it was placed.
    pub placed_ms: u64,
    /// When its state began; none before its node has said anything.
    pub since_ms: Option<u64>,
    /// What went wrong last, in words; empty when nothing did.
    pub message: String,
    /// Where its ports are reached from its own node.
    pub endpoints: BTreeMap<PortName, SocketAddr>,
    /// Why it is on this node, the main reason first.
    pub reasons: Vec<String>,
    /// The hook that it runs, once and to its end; none: it is one of its service's instances.
    #[serde(default)]
    pub hook: Option<HookKind>,
}

/// Instances that a loss of nodes has taken and that find no room, or that gave theirs to a service of higher priority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Waiting {
    /// What they are instances of.
    pub service: ServiceRef,
    /// How many went with nodes.
    pub lost: u32,
    /// How many gave their places.
    pub given: u32,
    /// To which service, the last time.
    pub gave_to: Option<ServiceRef>,
    /// On which node.
    pub gave_on: Option<NodeName>,
    /// The node on which others give their places to it now.
    pub awaits: Option<NodeName>,
    /// All of it in words.
    pub why: String,
}

/// Where an instance is in its life. What its node says, or what follows from the node's silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Placed; its node has done nothing yet.
    Pending,
    /// Its image is being fetched.
    Pulling,
    /// Its process is being started.
    Starting,
    /// Its process runs.
    Running,
    /// It ended and waits to be started again.
    Backoff,
    /// It gets no new requests and will be stopped.
    Draining,
    /// It is being stopped, or has ended for good.
    Stopped,
    /// Its node's lease has ended; it may run there yet, and nothing is sent to it.
    Lost,
    /// A state of a later version.
    #[serde(other)]
    Other,
}

impl InstanceState {
    /// The word that travels and is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Pulling => "pulling",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Backoff => "backoff",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
            Self::Other => "other",
        }
    }
}
