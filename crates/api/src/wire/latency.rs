//! How far regions and nodes are from each other, as measured in the last ten minutes.

use insula_types::{NodeId, NodeName, RegionName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SilentNode;

/// Round trips between regions, and between nodes of the region that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// The region that answers.
    pub region: RegionName,
    /// Every region with what one of its nodes has measured, by their names.
    pub regions: Vec<RegionLatency>,
    /// Nodes of the region that answers, by their names; empty unless `nodes` was asked for.
    pub nodes: Vec<NodeLatency>,
    /// Nodes of it that do not tell, so that what they have measured is not among these.
    pub silent: Vec<SilentNode>,
}

/// How far others are from a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegionLatency {
    /// The region.
    pub region: RegionName,
    /// The node of it that tells: the one that answers, or one by which others reach the region; none: nobody tells.
    pub node: Option<NodeId>,
    /// Why nobody tells, as in: it `does not answer`.
    pub why: Option<String>,
    /// Other regions, by the nearest of their gateways that answers. Those of which nothing is known are missing.
    pub to: Vec<RegionRoundTrip>,
}

/// How far a region is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegionRoundTrip {
    /// The region.
    pub region: RegionName,
    /// What probes of it say.
    pub measured: RoundTrip,
}

/// How far others are from a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeLatency {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Other nodes of the region. Those that it does not probe are missing: it probes eight at most.
    pub to: Vec<NodeRoundTrip>,
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeRoundTrip {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// What probes of it say.
    pub measured: RoundTrip,
}

/// What probes say: at most 120, one about every five seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RoundTrip {
    /// Half of the answers came within so many microseconds; none: nothing was answered.
    pub p50_us: Option<u64>,
    /// 99 in 100 did.
    pub p99_us: Option<u64>,
    /// Probes.
    pub probes: u32,
    /// Those of them that were not answered within two seconds, or for which no connection was made.
    pub lost: u32,
}
