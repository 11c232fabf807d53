//! One service: how many instances to add, and which to take away, in the next step.
//!
//! A new release or a new scale is reached without ever having fewer ready instances than wanted, and with at most one
//! more than wanted on account of a release (max_surge 1, max_unavailable 0).

use std::collections::BTreeMap;

use insula_types::{InstanceId, NodeId, RegionalService};

/// An instance that shall run and whose node is up.
#[derive(Debug, Clone)]
pub(crate) struct Live<'a> {
    pub instance: InstanceId,
    pub node: NodeId,
    /// Data centre of its node.
    pub datacenter: &'a str,
    /// Runs what is wanted now, on a node that it may stay on.
    pub is_fresh: bool,
    pub is_ready: bool,
}

/// What to do next with one service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Instances to place.
    pub add: usize,
    /// Instances to drain.
    pub drain: Vec<InstanceId>,
}

/// The next step towards `wanted`; none is wanted when the service is gone.
pub(crate) fn step(wanted: Option<&RegionalService>, live: &[Live<'_>]) -> Step {
    let scale = wanted.map_or(0, |wanted| wanted.scale) as usize;
    let fresh = live.iter().filter(|one| one.is_fresh).count();
    let stale = live.len() - fresh;
    let add = if live.len() < scale {
        scale - live.len()
    } else {
        // One more, once all that were added before are ready: a release that never gets ready stops here.
        let is_settled = live.iter().all(|one| one.is_ready || !one.is_fresh);
        usize::from(live.len() == scale && fresh < scale && is_settled)
    };
    let excess = live.len().saturating_sub(scale).min(stale);
    let mut drain = victims(live, false, excess, scale);
    drain.extend(victims(live, true, fresh.saturating_sub(scale), scale));
    Step { add, drain }
}

/// Chooses `count` to take away: those that are not ready first, then where most of the service are, so that what stays
/// is spread. A ready one goes only while more than `scale` are ready.
fn victims(live: &[Live<'_>], is_fresh: bool, count: usize, scale: usize) -> Vec<InstanceId> {
    let mut by_datacenter: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_node: BTreeMap<NodeId, usize> = BTreeMap::new();
    for one in live {
        *by_datacenter.entry(one.datacenter).or_default() += 1;
        *by_node.entry(one.node).or_default() += 1;
    }
    let mut ready = live.iter().filter(|one| one.is_ready).count();
    let mut candidates: Vec<&Live<'_>> = live.iter().filter(|one| one.is_fresh == is_fresh).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let crowd = |one: &&Live<'_>| (by_datacenter.get(one.datacenter).copied(), by_node.get(&one.node).copied());
        let may_go = |one: &&Live<'_>| !one.is_ready || ready > scale;
        let best = candidates
            .iter()
            .enumerate()
            .filter(|(_, one)| may_go(one))
            .max_by_key(|(_, one)| (!one.is_ready, crowd(one), one.instance))
            .map(|(at, _)| at);
        let Some(best) = best else { break };
        let gone = candidates.swap_remove(best);
        chosen.push(gone.instance);
        ready -= usize::from(gone.is_ready);
        by_datacenter.entry(gone.datacenter).and_modify(|count| *count -= 1);
        by_node.entry(gone.node).and_modify(|count| *count -= 1);
    }
    chosen
}
