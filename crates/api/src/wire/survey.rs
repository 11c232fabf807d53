//! What the scheduler thinks of nodes.

use insula_types::{NodeName, ServiceRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the next instance of a service would go, by the region's state of now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlacementSurvey {
    /// The service.
    pub service: ServiceRef,
    /// Every node: those that would take it, the best first; then the others.
    pub nodes: Vec<SurveyedNode>,
    /// Which instances of it wait after a loss, and why; none do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

/// A node, as it looks to the next instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SurveyedNode {
    /// The node.
    pub node: NodeName,
    /// How good it is; none: it takes none.
    pub standing: Option<Standing>,
    /// Why it takes none; empty: it would.
    pub why_not: String,
}

/// What decides between nodes: the least of the first that differs, then the most free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Standing {
    /// Instances of the service in the node's group (`placement.spread`).
    pub in_group: u32,
    /// Instances of the service on the node.
    pub on_node: u32,
    /// Labels in `placement.prefer` that the node lacks.
    pub lacks: u32,
    /// What is free of CPU or memory, whichever is scarcer, percent.
    pub free_percent: u32,
}
