//! What a loss would do, by this node's copy of the region's state.

use std::collections::{BTreeMap, BTreeSet};

use insula_api::{
    Answer, Code, Problem,
    handler::Lost,
    wire::{LossKind, LossOutcome, LossPlan, Versioned},
};
use insula_control::loss::{Foretold, Loss, Outcome, Short, Then, outcomes};
use insula_state::RegionState;
use insula_types::{NodeId, NodeName, ServiceRef};

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
        Then::Takes { to, from } => {
            let gives = |service: ServiceRef| format!("{service} gives way to it there, which has a lower priority");
            (LossKind::Replaced, name(&to), from.into_iter().map(gives).collect())
        }
        Then::Gives { to, goes } => {
            let why = format!("it would give its place to {to}, which has a higher priority");
            (LossKind::GivesWay, goes.as_ref().and_then(name), vec![why])
        }
        Then::Waits(why) => (LossKind::Short, None, vec![why]),
        Then::Ends => (LossKind::Ends, None, vec!["each node has one of its own".to_owned()]),
    };
    let (instance, service) = (placement.instance, placement.service.clone());
    Some(LossOutcome { instance, service, from: name(&placement.node)?, outcome, to, reasons })
}

/// Nodes that are named in a warning.
const NODES_MAX: usize = 3;

/// What is foretold, in sentences: nodes of which the same is to be said are in one.
pub(super) fn warnings(region: &RegionState, foretold: &Foretold) -> Vec<String> {
    let mut out = Vec::new();
    if !foretold.unplaced.is_empty() {
        out.push(format!("{}, as things are now", no_place(&foretold.unplaced, "find")));
    }
    let mut nodes: Vec<(&BTreeMap<ServiceRef, Short>, Vec<&str>)> = Vec::new();
    for (loss, short) in &foretold.losses {
        match loss {
            Loss::Datacenter(name) => {
                out.push(format!("were data centre {name} lost, {}", no_place(short, "would find")));
            }
            Loss::Node(id) => {
                let Some(node) = region.nodes.get(id) else { continue };
                let alike = nodes.iter_mut().find(|(other, _)| counts(other).eq(counts(short)));
                match alike {
                    Some((_, names)) => names.push(node.name.as_str()),
                    None => nodes.push((short, vec![node.name.as_str()])),
                }
            }
        }
    }
    out.extend(
        nodes.iter().map(|(short, names)| format!("were {} lost, {}", any(names), no_place(short, "would find"))),
    );
    out
}

fn counts(short: &BTreeMap<ServiceRef, Short>) -> impl Iterator<Item = (&ServiceRef, usize)> {
    short.iter().map(|(service, short)| (service, short.count))
}

fn any(names: &[&str]) -> String {
    match names {
        [one] => format!("node {one}"),
        [all @ .., last] if names.len() <= NODES_MAX => format!("node {} or {last}", all.join(", ")),
        _ => format!("any of {} nodes ({}, …)", names.len(), names[..NODES_MAX].join(", ")),
    }
}

fn no_place(short: &BTreeMap<ServiceRef, Short>, find: &str) -> String {
    let each: Vec<String> = short
        .iter()
        .map(|(service, short)| match &short.gives_to {
            Some(to) => format!("{} of {service} would find no place, or give its place to {to}", short.count),
            None => format!("{} of {service} {find} no place: {}{}", short.count, short.why, held(&short.held_by)),
        })
        .collect();
    each.join("; ")
}

/// Who has the room, for the end of a sentence.
fn held(by: &BTreeSet<ServiceRef>) -> String {
    if by.is_empty() {
        return String::new();
    }
    let names: Vec<String> = by.iter().map(ToString::to_string).collect();
    format!(" (of lower priority, and in its place: {}; what runs gives way to losses alone)", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_together() {
        assert_eq!(any(&["n1"]), "node n1");
        assert_eq!(any(&["n1", "n2", "n3"]), "node n1, n2 or n3");
        assert_eq!(any(&["n1", "n2", "n3", "n4"]), "any of 4 nodes (n1, n2, n3, …)");
        let short = |count| Short { count, why: "no room".to_owned(), ..Short::default() };
        let service = |name: &str| ServiceRef::new("shop".parse().expect("a name"), name.parse().expect("a name"));
        let services = ["web", "db"].map(service);
        let both: BTreeMap<_, _> = services.into_iter().zip([short(2), short(1)]).collect();
        assert_eq!(
            no_place(&both, "would find"),
            "1 of shop/db would find no place: no room; 2 of shop/web would find no place: no room"
        );
        let gives = Short { gives_to: Some(service("web")), ..short(1) };
        assert_eq!(
            no_place(&[(service("work"), gives)].into(), "would find"),
            "1 of shop/work would find no place, or give its place to shop/web"
        );
        let held_by = [service("work")].into();
        assert_eq!(
            no_place(&[(service("web"), Short { held_by, ..short(1) })].into(), "find"),
            "1 of shop/web find no place: no room (of lower priority, and in its place: shop/work; what runs gives way to \
             losses alone)"
        );
    }
}
