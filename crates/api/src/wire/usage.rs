//! What nodes and instances use now. Rates are over the last second or a few.

use insula_types::{AppName, ByteSize, DatacenterName, InstanceId, NodeId, NodeName, Revision, ServiceName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NodeUse;

/// What is used in the region that answers, as its nodes tell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// The region's revision.
    pub revision: Revision,
    /// Nodes, those that use the most CPU first.
    pub nodes: Vec<NodeUsage>,
    /// Services with instances that run, or requests: those that use the most CPU first.
    pub services: Vec<ServiceUsage>,
    /// Instances that run, those that use the most CPU first; at most as many as were asked for.
    pub instances: Vec<InstanceUsage>,
    /// Instances that run on these nodes.
    pub running: u32,
    /// Nodes that do not tell, so that what they use is not among these.
    pub silent: Vec<SilentNode>,
}

/// What a node uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeUsage {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its data centre.
    pub datacenter: DatacenterName,
    /// What its machine uses, be it for instances or not.
    pub used: NodeUse,
    /// What it has.
    pub capacity: NodeUse,
    /// Bytes in use of the disk that has its data.
    pub disk_bytes: ByteSize,
    /// Bytes that this disk has.
    pub disk_size_bytes: ByteSize,
    /// Instances that run; with `app`, of that one.
    pub instances: u32,
    /// Requests a second that its edge answers; with `app`, of that one. None: its edge does not say.
    pub requests_per_second: Option<f64>,
    /// Those of them that clients got a status from 500 on for.
    pub failed_per_second: Option<f64>,
}

/// What the instances of a service use together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceUsage {
    /// Its app.
    pub app: AppName,
    /// The service.
    pub service: ServiceName,
    /// Instances that run.
    pub instances: u32,
    /// What they use.
    pub used: NodeUse,
    /// Requests a second that edges answer for it.
    pub requests_per_second: f64,
    /// Those of them that clients got a status from 500 on for.
    pub failed_per_second: f64,
}

/// What an instance uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceUsage {
    /// The instance.
    pub instance: InstanceId,
    /// Its app.
    pub app: AppName,
    /// Its service.
    pub service: ServiceName,
    /// The node that runs it.
    pub node: NodeId,
    /// That node's name.
    pub node_name: NodeName,
    /// Made for one command, by `insula run`.
    pub is_one_off: bool,
    /// What it uses. Memory is without caches of files that were not used lately.
    pub used: NodeUse,
    /// What it may use. Of plain processes, CPU and memory are not bounded.
    pub limits: NodeUse,
    /// Processes and threads; of a plain process, processes.
    pub pids: u32,
    /// How many it may have.
    pub pids_max: u32,
    /// Bytes in the layer above its image; none of what has no such layer, or one without a bound.
    pub disk_bytes: Option<ByteSize>,
    /// Bytes that fit there.
    pub disk_size_bytes: Option<ByteSize>,
    /// Bytes a second that its network interface gets; none of a plain process, which has none of its own.
    pub received_bytes_per_second: Option<u64>,
    /// Bytes a second that it sends.
    pub sent_bytes_per_second: Option<u64>,
}

/// A node that does not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SilentNode {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Why, as in: it `is down`.
    pub why: String,
}
