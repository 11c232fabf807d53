//! Nodes, regions, tokens, and how the node that answers sees the cluster.

use std::net::SocketAddr;

use insula_types::{
    ByteSize, ClusterId, ContinentName, CpuMillis, DatacenterName, Labels, NodeId, NodeName, RegionName, Revision,
    RuntimeName, Scope, Term,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::number;

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its region.
    pub region: RegionName,
    /// Its data centre.
    pub datacenter: DatacenterName,
    /// Where other nodes reach it: the address that reaches farthest.
    pub address: SocketAddr,
    /// All its addresses, those for the nearest first.
    #[serde(default)]
    pub addresses: Vec<NodeAddress>,
    /// Whether its lease holds.
    pub state: NodeState,
    /// When its lease ended.
    pub down_since_ms: Option<u64>,
    /// No new placements when true.
    pub is_cordoned: bool,
    /// What runs on it is placed elsewhere, then taken away.
    #[serde(default)]
    pub is_draining: bool,
    /// The revision that last changed its record; a removal names it in `If-Match`.
    #[serde(default)]
    pub changed: Revision,
    /// Whether it votes in its region.
    pub is_voter: bool,
    /// Whether it leads its region.
    pub is_leader: bool,
    /// What it has.
    pub capacity: NodeUse,
    /// What may be given to instances.
    pub allocatable: NodeUse,
    /// What has been given to instances.
    pub allocated: NodeUse,
    /// Instances placed on it.
    pub instances: u32,
    /// The runtime classes that services may name there, besides `container` and `process`.
    #[serde(default)]
    pub runtimes: Vec<RuntimeName>,
    /// Its labels, besides `datacenter` and `node`.
    #[serde(default)]
    pub labels: Labels,
    /// Version of the program that it runs.
    pub version: String,
    /// When it joined.
    pub joined_ms: u64,
}

/// An address of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeAddress {
    /// Who can use it.
    pub scope: Scope,
    /// The address.
    pub address: SocketAddr,
}

/// What the node that answers took over from its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// Where it is reached now.
    pub addresses: Vec<NodeAddress>,
    /// Whether that is new.
    pub is_moved: bool,
    /// Keys of the configuration that have changed and count only after a restart of the server.
    pub needs_restart: Vec<String>,
}

/// Where another node may be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FindBody {
    /// An address of its port for nodes.
    pub address: SocketAddr,
}

/// A node was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Found {
    /// Its id.
    pub node: NodeId,
    /// Its name, when it is known as a member.
    pub name: Option<NodeName>,
}

/// Says what a node shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DutyBody {
    /// What it shall do.
    pub duty: NodeDuty,
}

/// What a node is given to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeDuty {
    /// Run what it has, and take more.
    Serve,
    /// Run what it has; take no more.
    Cordon,
    /// Give away what it has; take no more.
    Drain,
}

/// A node was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeRemoved {
    /// Its id, which may never come back.
    pub id: NodeId,
    /// Its name, which is free again.
    pub name: NodeName,
    /// Instances that were placed on it and are replaced.
    pub instances: u32,
}

/// An amount of what a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct NodeUse {
    /// Thousandths of a CPU.
    pub cpu_millis: CpuMillis,
    /// Bytes of memory.
    pub memory_bytes: ByteSize,
}

/// Whether a node's lease holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It holds.
    Up,
    /// It ended.
    Down,
    /// A state of a later version.
    #[serde(other)]
    Other,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Region {
    /// Its name.
    pub name: RegionName,
    /// When it was added.
    pub created_ms: u64,
    /// On which continent it is, where somebody has said so.
    #[serde(default)]
    pub continent: Option<ContinentName>,
    /// How far it is in its life.
    #[serde(default)]
    pub state: RegionState,
    /// Whether it is the region of the node that answers.
    #[serde(default)]
    pub is_own: bool,
    /// Whether the node that answers reaches it; none for its own, and for one without nodes that other regions reach.
    #[serde(default)]
    pub is_reached: Option<bool>,
    /// The level of commands that its programs have agreed on.
    #[serde(default)]
    pub level: u32,
    /// By which of its nodes other regions reach it.
    #[serde(default)]
    pub gateways: Vec<NodeId>,
    /// Its nodes; for a region that is not that of the node that answers, as it said last.
    pub nodes: Option<u32>,
    /// How many of them have a lease; only of the region of the node that answers.
    pub nodes_up: Option<u32>,
    /// Its data centres; only of the region of the node that answers.
    pub datacenters: Vec<DatacenterName>,
}

/// How far a region is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegionState {
    /// Its first machine has not come yet.
    Joining,
    /// It runs what it is told to.
    #[default]
    Serving,
    /// It gives up what it runs.
    Leaving,
    /// A state of a later version.
    #[serde(other)]
    Other,
}

/// How the node that answers is, and how it sees the groups. Answered without any other node (rule R12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its region.
    pub region: RegionName,
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its data centre.
    pub datacenter: DatacenterName,
    /// Version of the program that it runs.
    pub version: String,
    /// When `insula server` was started.
    pub started_ms: u64,
    /// The groups that it takes part in or watches.
    pub groups: Vec<GroupStatus>,
    /// What is not as it shall be, each in one sentence.
    pub problems: Vec<String>,
}

/// One replicated group as the node that answers sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupStatus {
    /// `region` or `global`.
    pub group: String,
    /// Its leader, when one is known.
    pub leader: Option<Leader>,
    /// The term that it saw last.
    pub term: Term,
    /// The revision that it has applied.
    pub revision: Revision,
    /// Its voters.
    pub voters: Vec<NodeId>,
    /// Whether the node that answers is one.
    pub is_voter: bool,
    /// Since when it has heard of no leader; none when it does.
    pub alone_since_ms: Option<u64>,
}

/// A leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Leader {
    /// Its id.
    pub node: NodeId,
    /// Its name, when known.
    pub name: Option<NodeName>,
}

/// Longest life of a token: longer ones are forgotten, and stolen unnoticed.
pub(crate) const TOKEN_TTL_MS_MAX: u64 = 366 * 24 * 3600 * 1000;

/// Greatest number of machines that join with one token.
pub(crate) const TOKEN_USES_MAX: u32 = 1000;

/// Longest name of a token in characters.
pub(crate) const TOKEN_NAME_LEN_MAX: usize = 128;

/// Asks for a token with which machines join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenBody {
    /// The region to join; none: that of the node that answers. One that there is not yet is founded by the machine that comes
    /// with the token.
    #[serde(default)]
    pub region: Option<RegionName>,
    /// On which continent a new region is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continent: Option<ContinentName>,
    /// Of a new region: the recovery key, with which the root signs the region's CA. Six groups of six characters; a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<String>,
    /// How long it is good for.
    #[schemars(range(min = 1, max = TOKEN_TTL_MS_MAX))]
    #[serde(deserialize_with = "number::whole")]
    pub ttl_ms: u64,
    /// How many machines may use it.
    #[schemars(range(min = 1, max = TOKEN_USES_MAX))]
    #[serde(deserialize_with = "number::whole")]
    pub uses: u32,
}

/// A token with which machines join. Shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinTokenCreated {
    /// The line to paste after `insula join`. A secret.
    pub token: String,
    /// Names it in lists and logs.
    pub id: String,
    /// The region that it leads to.
    pub region: RegionName,
    /// When it ends.
    pub expires_ms: u64,
    /// How many machines may use it.
    pub uses: u32,
}

/// Asks for a token for the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiTokenBody {
    /// Whose it is, for people.
    #[schemars(length(min = 1, max = TOKEN_NAME_LEN_MAX))]
    pub name: String,
    /// What it allows.
    pub role: TokenRole,
    /// How long it is good for.
    #[schemars(range(min = 1, max = TOKEN_TTL_MS_MAX))]
    #[serde(deserialize_with = "number::whole")]
    pub ttl_ms: u64,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenRole {
    /// Read.
    Viewer,
    /// Read, and change apps.
    Deployer,
    /// Everything.
    Admin,
}

/// A token for the API. Shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiTokenCreated {
    /// The token. A secret.
    pub token: String,
    /// The same with addresses and the hash of the CA: the line for `INSULA_CONTEXT`. A secret.
    pub context: String,
    /// Names it in lists and logs.
    pub id: String,
    /// When it ends.
    pub expires_ms: u64,
}

/// Secrets are not printed.
macro_rules! hide {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.id)
            }
        }
    )*};
}
hide!(JoinTokenCreated, ApiTokenCreated);

impl std::fmt::Debug for JoinTokenBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinTokenBody({:?}, {} uses, …)", self.region, self.uses)
    }
}
