//! Which instance gets a request. Pure: the same candidates and the same draws give the same choice.

use insula_catalog::{Catalog, RouteTarget};
use insula_mesh::Verdicts;
use insula_types::{InstanceId, NodeId};

/// How good a choice an instance is; less is better. Only the best there is are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// Ready, on a node that is up and answers.
    Ready,
    /// The same, but it just failed to take a connection.
    Doubtful,
    /// Was ready once; all went unready together, so the check itself is suspect (rule R10).
    WasReady,
    /// Its node's lease has ended, yet the node answers us.
    NodeDown,
    /// No node answers us: we are cut off, and what was last known is all there is.
    LastKnown,
}

/// An instance that may get the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub instance: InstanceId,
    pub node: NodeId,
}

/// The best candidates for a route, without those in `tried`. `is_doubtful` tells which failed lately.
pub(crate) fn candidates(
    catalog: &Catalog,
    target: &RouteTarget,
    verdicts: &Verdicts,
    tried: &[InstanceId],
    is_doubtful: impl Fn(InstanceId) -> bool,
) -> Vec<Candidate> {
    let Some(service) = catalog.services.get(&target.service) else { return Vec::new() };
    let mut best: Vec<Candidate> = Vec::new();
    let mut best_tier = Tier::LastKnown;
    for (id, instance) in &service.instances {
        if instance.is_draining || !instance.ports.contains_key(&target.port) || tried.contains(id) {
            continue;
        }
        let Some(node) = catalog.nodes.get(&instance.node) else { continue };
        let is_own = instance.node == catalog.own;
        let answers = is_own || !verdicts.is_bad(instance.node);
        let tier = match (answers, is_own || node.is_up) {
            (true, true) if instance.is_ready && is_doubtful(*id) => Tier::Doubtful,
            (true, true) if instance.is_ready => Tier::Ready,
            (true, true) if instance.was_ready => Tier::WasReady,
            (true, false) if instance.was_ready => Tier::NodeDown,
            (false, _) if instance.was_ready && verdicts.is_cut_off() => Tier::LastKnown,
            _ => continue,
        };
        if tier < best_tier {
            best.clear();
            best_tier = tier;
        }
        if tier == best_tier {
            best.push(Candidate { instance: *id, node: instance.node });
        }
    }
    best
}

/// The less loaded of two drawn at random, the first of equals: so all get their share, also of little traffic.
/// `draw(n)` gives a number below `n`.
pub(crate) fn pick(
    candidates: &[Candidate],
    in_flight: impl Fn(InstanceId) -> usize,
    draw: impl Fn(usize) -> usize,
) -> Option<Candidate> {
    let first = *candidates.get(draw(candidates.len().max(1)))?;
    if candidates.len() == 1 {
        return Some(first);
    }
    // The second of the others: the place of the first is skipped.
    let place = draw(candidates.len() - 1);
    let second = *candidates.iter().filter(|c| c.instance != first.instance).nth(place)?;
    Some(if in_flight(second.instance) < in_flight(first.instance) { second } else { first })
}

#[cfg(test)]
mod tests;
