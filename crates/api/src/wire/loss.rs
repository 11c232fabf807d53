//! What would become of instances, were their nodes lost.

use insula_types::{InstanceId, NodeName, ServiceRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a loss would do, by the region's state of now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LossPlan {
    /// The nodes that would be lost. Those that are down already are not among them.
    pub nodes: Vec<NodeName>,
    /// Whether the region could still decide anything: without a majority of its voters nothing is replaced, and what is left
    /// goes on as it is.
    pub keeps_majority: bool,
    /// What would become of each instance that shall run there, and of each that would give way to one of those.
    pub instances: Vec<LossOutcome>,
}

/// What would become of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LossOutcome {
    /// The instance.
    pub instance: InstanceId,
    /// What it is an instance of.
    pub service: ServiceRef,
    /// Where it is.
    pub from: NodeName,
    /// What then.
    pub outcome: LossKind,
    /// Where its replacement would go; none: nowhere.
    pub to: Option<NodeName>,
    /// Why there, or why nowhere.
    pub reasons: Vec<String>,
}

/// What becomes of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// Another node gets one.
    Replaced,
    /// Its service would be short of one.
    Short,
    /// It is on a node that is not lost, and would give its place to one that was; without `to` its service would be short of it.
    GivesWay,
    /// It goes with its node, as it shall.
    Ends,
}
