//! Nodes, regions, and how this node sees them.

use std::time::Duration;

use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use insula_api::{
    Answer, Code, Problem,
    handler::NodeKey,
    wire::{self, GroupStatus, Leader, List, Node, NodeAddress, NodeState, NodeStatus, NodeUse, Region, Versioned},
};
use insula_raft::{Group, GroupState};
use insula_state::{RegionState, global::Phase};
use insula_types::{Addresses, ByteSize, Capacity, CpuMillis, NodeHealth, NodeId, RegionName, Revision, text::utc};

use super::NodeApi;
use crate::methods::{AskLives, AskLivesRequest};

/// Nodes of another region that are asked whether it is there, at once.
const ASKED_MAX: usize = 3;
/// How long they may take.
const REACH_LIMIT: Duration = Duration::from_secs(2);

/// The node with exactly that id or name.
pub(super) fn find_node<'a>(region: &'a RegionState, key: &NodeKey) -> Answer<&'a insula_types::Node> {
    let (found, said) = match key {
        NodeKey::Id(id) => (region.nodes.get(id), id.to_string()),
        NodeKey::Name(name) => (region.node_named(name.as_str()), name.to_string()),
    };
    found.ok_or_else(|| Problem::new(Code::NoSuchNode, format!("{said}: `insula nodes` lists those there are")))
}

/// What is said of a region whose nodes nobody tells of the global state.
pub(super) fn cut_off(region: &RegionName, since_ms: u64) -> String {
    format!(
        "nobody tells region {region} of the global state since {} UTC: what the world changes waits, the region goes on",
        utc(since_ms)
    )
}

/// Addresses for callers of the API.
pub(super) fn shown(addresses: &Addresses) -> Vec<NodeAddress> {
    addresses.list().iter().map(|known| NodeAddress { scope: known.scope, address: known.at }).collect()
}

impl NodeApi {
    pub(super) fn list_nodes(&self) -> List<Node> {
        self.region.replica().read_at(|region, revision| {
            let items = region.nodes.values().map(|node| self.describe_node(region, node));
            let mut items: Vec<_> = items.collect();
            items.sort_by(|a, b| (&a.datacenter, &a.name).cmp(&(&b.datacenter, &b.name)));
            List { revision, items }
        })
    }

    pub(super) fn show_node(&self, key: &NodeKey) -> Answer<Versioned<Node>> {
        self.region.replica().read_at(|region, revision| {
            Ok(Versioned { revision, value: self.describe_node(region, find_node(region, key)?) })
        })
    }

    fn describe_node(&self, region: &RegionState, node: &insula_types::Node) -> Node {
        let raft = self.region_group.raft();
        let mut used = NodeUse::default();
        let mut instances = 0;
        for placement in region.placements_of(node.id) {
            instances += 1;
            used.cpu_millis = CpuMillis(used.cpu_millis.0 + placement.spec.resources.cpu.0);
            used.memory_bytes = ByteSize(used.memory_bytes.0 + placement.spec.resources.memory.0);
        }
        let amount = |capacity: Capacity| NodeUse { cpu_millis: capacity.cpu, memory_bytes: capacity.memory };
        Node {
            id: node.id,
            name: node.name.clone(),
            region: node.region.clone(),
            datacenter: node.datacenter.clone(),
            address: node.address,
            addresses: shown(&region.addresses_of(node)),
            state: if node.health.is_up() { NodeState::Up } else { NodeState::Down },
            down_since_ms: match node.health {
                NodeHealth::Up => None,
                NodeHealth::Down { since_ms } => Some(since_ms),
            },
            is_cordoned: node.is_cordoned,
            is_draining: node.is_draining,
            changed: region.nodes.revision(&node.id).unwrap_or(Revision(0)),
            is_voter: raft.voters().contains(&node.id),
            is_leader: raft.leadership().borrow().leader == Some(node.id),
            capacity: amount(node.capacity),
            allocatable: amount(node.capacity.allocatable()),
            allocated: used,
            instances,
            runtimes: region.runtimes.get(&node.id).into_iter().flatten().cloned().collect(),
            labels: region.labels.get(&node.id).cloned().unwrap_or_default(),
            version: node.program().to_owned(),
            joined_ms: node.joined_ms,
        }
    }

    /// All regions; those that this node could ask are asked whether they are there.
    pub(super) async fn list_regions(&self) -> List<Region> {
        let mut list = self.known_regions();
        let others = list.items.iter_mut().filter(|region| !region.is_own && !region.gateways.is_empty());
        join_all(others.map(async |region| region.is_reached = Some(self.reaches(&region.gateways).await))).await;
        list
    }

    /// Whether one of the first of these nodes answers.
    async fn reaches(&self, gateways: &[NodeId]) -> bool {
        let asked = gateways.iter().take(ASKED_MAX).map(async |gateway| {
            self.rpc.call::<AskLives>(*gateway, &AskLivesRequest {}, REACH_LIMIT).await.ok().map(drop)
        });
        let mut asked = asked.collect::<FuturesUnordered<_>>();
        while let Some(answer) = asked.next().await {
            if answer.is_some() {
                return true;
            }
        }
        false
    }

    fn known_regions(&self) -> List<Region> {
        let (own, total, up, datacenters) = self.region.read(|region| {
            let mut datacenters: Vec<_> = region.nodes.values().map(|node| node.datacenter.clone()).collect();
            datacenters.sort();
            datacenters.dedup();
            let up = region.nodes.values().filter(|node| node.health.is_up()).count() as u32;
            (region.meta.as_ref().map(|meta| meta.region.clone()), region.nodes.len() as u32, up, datacenters)
        });
        self.global.replica().read_at(|global, revision| {
            let describe = |region: &insula_state::global::Region| {
                let is_own = Some(&region.name) == own.as_ref();
                Region {
                    name: region.name.clone(),
                    created_ms: region.created_ms,
                    continent: region.continent.clone(),
                    state: match region.phase {
                        Phase::Joining => wire::RegionState::Joining,
                        Phase::Serving => wire::RegionState::Serving,
                        Phase::Leaving => wire::RegionState::Leaving,
                    },
                    is_own,
                    is_reached: None,
                    level: region.level().0,
                    gateways: region.gateways.iter().map(|gateway| gateway.node).collect(),
                    nodes: if is_own { Some(total) } else { region.nodes },
                    nodes_up: is_own.then_some(up),
                    datacenters: if is_own { datacenters.clone() } else { Vec::new() },
                }
            };
            List { revision, items: global.regions.values().map(describe).collect() }
        })
    }

    pub(super) fn node_status(&self) -> NodeStatus {
        let region = self.region_group.raft();
        let global = self.global_group.raft();
        let groups = vec![
            self.group_status("region", region, self.region.replica().revision()),
            self.group_status("global", global, self.global.replica().revision()),
        ];
        let mut problems = Vec::new();
        for (name, raft) in [("region", region), ("global", global)] {
            if let GroupState::Failed { why } = &*raft.state().borrow() {
                problems.push(format!("the {name} group has stopped on this node: {why}"));
            }
        }
        for group in &groups {
            if group.group == "global" && group.voters.is_empty() {
                if let Some(since_ms) = self.feed.alone_since_ms() {
                    problems.push(cut_off(&self.config.region, since_ms));
                }
            } else if group.leader.is_none() {
                problems.push(format!("the {} group has no leader: changes wait, traffic goes on", group.group));
            }
        }
        let now = self.clock.wall();
        problems.extend(self.material.expiries().iter().filter_map(|expiry| expiry.alarm(now)));
        NodeStatus {
            cluster: self.material.identity().cluster,
            region: self.config.region.clone(),
            node: self.node,
            name: self.config.name.clone(),
            datacenter: self.config.datacenter.clone(),
            version: insula_rpc::PROGRAM_VERSION.to_owned(),
            started_ms: self.started_ms,
            groups,
            problems,
        }
    }

    pub(super) fn group_status(&self, name: &str, raft: &Group, revision: Revision) -> GroupStatus {
        let leadership = *raft.leadership().borrow();
        let voters: Vec<NodeId> = raft.voters().into_iter().collect();
        let is_voter = voters.contains(&self.node);
        let named = |node: NodeId| Leader {
            node,
            name: self.region.read(|region| region.nodes.get(&node).map(|node| node.name.clone())),
        };
        let leader = leadership.leader.map(named);
        let alone_since = (leader.is_none() && is_voter).then(|| {
            let ago = self.clock.now().saturating_duration_since(leadership.since);
            self.clock.wall_ms().saturating_sub(ago.as_millis() as u64)
        });
        GroupStatus {
            group: name.to_owned(),
            leader,
            term: leadership.term,
            revision,
            voters,
            is_voter,
            alone_since_ms: alone_since,
        }
    }
}
