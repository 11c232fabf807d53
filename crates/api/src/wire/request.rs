//! What became of requests that came to the edges, as these remember it.

use std::net::IpAddr;

use insula_types::{HttpRequestId, InstanceId, NodeId, NodeName, ServiceRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SilentNode;

/// What the edges of the region remember of the requests with an id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestReport {
    /// The id.
    pub id: HttpRequestId,
    /// Requests with it, the newest first: one, unless a client gave it to several; at most 100, and 16 of an edge.
    pub found: Vec<HandledRequest>,
    /// How many there are beside these.
    pub more: u64,
    /// Edges that have told, by the names of their nodes.
    pub edges: Vec<EdgeMemory>,
    /// Nodes whose edge has not, so that what it remembers is not among these.
    pub silent: Vec<SilentNode>,
}

/// How far back an edge remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EdgeMemory {
    /// Its node.
    pub node: NodeId,
    /// That node's name.
    pub name: NodeName,
    /// Since when it remembers every request, milliseconds since 1970 by its clock.
    pub since_ms: u64,
    /// Since when it remembers those that it refused, that failed, that were tried more than once, or that took more than a second.
    pub odd_since_ms: u64,
}

/// What became of a request. Of texts that the client sent the beginning is kept, with `%` and two digits for bytes that are no visible
/// ASCII sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandledRequest {
    /// The node whose edge answered.
    pub node: NodeId,
    /// That node's name.
    pub node_name: NodeName,
    /// When the request came, milliseconds since 1970 by that edge's clock.
    pub came_ms: u64,
    /// Who asked that edge; where there is a proxy before it, the proxy.
    pub client: IpAddr,
    /// The method; 16 bytes.
    pub method: String,
    /// The host, with port where one was said; 128 bytes. Empty: none was said.
    pub host: String,
    /// The path without the query, which may hold secrets; 128 bytes.
    pub path: String,
    /// The service that it was for; none: no route led to one.
    pub service: Option<ServiceRef>,
    /// Instances that it was sent to, in this order.
    pub tries: Vec<TriedInstance>,
    /// The status that the client was told; none: it went away before there was an answer. Of a call by gRPC that the edge refused, what
    /// HTTP would have said.
    pub status: Option<u16>,
    /// Why there was no answer of an instance, or not all of it, as in the metric `insula_edge_failures_total`; none: there was, or
    /// nobody waited.
    pub cause: Option<String>,
    /// The same in words, as the client was told.
    pub text: Option<String>,
    /// Time until the head of the answer, in microseconds.
    pub took_us: u64,
}

/// An instance that a request was sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TriedInstance {
    /// The instance.
    pub instance: InstanceId,
    /// Its node.
    pub node: NodeId,
    /// That node's name; none: it was removed.
    pub node_name: Option<NodeName>,
    /// Why it gave no answer, as in: it `took no connection`; none: it answered, or nobody waited any more.
    pub failure: Option<String>,
}
