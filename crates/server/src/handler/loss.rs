//! What a loss would do, by this node's copy of the region's state.

use std::collections::BTreeSet;

use insula_api::{
    Answer, Code, Problem,
    handler::Lost,
    wire::{LossKind, LossOutcome, LossPlan, Versioned},
};
use insula_control::loss::{Outcome, Then, outcomes};
use insula_state::RegionState;
use insula_types::{NodeId, NodeName};

use super::{NodeApi, cluster::find_node};

impl NodeApi {
    pub(super) fn plan_loss(&self, lost: &Lost) -> Answer<Versioned<LossPlan>> {
        let voters = self.region_group.raft().voters();
        self.region.replica().read_at(|region, revision| {
            let lost = nodes(region, lost)?;
            let is_left = |node: &&NodeId| {
                !lost.contains(*node) && region.nodes.get(node).is_some_and(|node| node.health.is_up())
            };
            let keeps_majority = voters.iter().filter(is_left).count() * 2 > voters.len();
            let names = lost.iter().filter_map(|node| region.nodes.get(node)).filter(|node| node.health.is_up());
            let nodes = names.map(|node| node.name.clone()).collect();
            let instances = outcomes(region, &lost).into_iter().filter_map(|one| wire(region, one)).collect();
            Ok(Versioned { revision, value: LossPlan { nodes, keeps_majority, instances } })
        })
    }
}

fn nodes(region: &RegionState, lost: &Lost) -> Answer<BTreeSet<NodeId>> {
    match lost {
        Lost::Node(key) => Ok(BTreeSet::from([find_node(region, key)?.id])),
        Lost::Datacenter(name) => {
            let there: BTreeSet<NodeId> =
                region.nodes.values().filter(|node| node.datacenter == *name).map(|node| node.id).collect();
            if there.is_empty() {
                let detail = format!("no node is in data centre {name}: `insula nodes` lists those there are");
                return Err(Problem::new(Code::NoSuchNode, detail));
            }
            Ok(there)
        }
    }
}

fn wire(region: &RegionState, Outcome { placement, then }: Outcome<'_>) -> Option<LossOutcome> {
    let name = |node: &NodeId| -> Option<NodeName> { region.nodes.get(node).map(|node| node.name.clone()) };
    let (outcome, to, reasons) = match then {
        Then::Goes { to, reasons } => (LossKind::Replaced, name(&to), reasons),
        Then::Waits(why) => (LossKind::Short, None, vec![why]),
        Then::Ends => (LossKind::Ends, None, vec!["each node has one of its own".to_owned()]),
    };
    let (instance, service) = (placement.instance, placement.service.clone());
    Some(LossOutcome { instance, service, from: name(&placement.node)?, outcome, to, reasons })
}
