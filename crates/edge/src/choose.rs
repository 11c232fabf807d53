//! Which instance gets a request. Pure: the same candidates and the same draws give the same choice.

use insula_catalog::{Catalog, RouteTarget};
use insula_mesh::Verdicts;
use insula_types::{InstanceId, NodeId, ReleaseNumber};

use crate::health::Verdict;

/// How good a choice an instance is; less is better. Only the best there is are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// Ready, on a node that is up and answers.
    Ready,
    /// The same, but it does not answer well.
    Suspect,
    /// The same, but it just failed to take a connection.
    Unreachable,
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
    /// Its share of the requests beside the others', in hundredths of a full one.
    pub weight: u32,
    /// Whether it is one of the first of a release, which are tried.
    pub is_first: bool,
    /// Whether it speaks HTTP/2 on the port that the route leads to.
    pub is_h2c: bool,
    /// Whether it is the edge of another region's gateway.
    pub is_far: bool,
    /// What it is counted with; none where the catalog does not say.
    pub release: Option<ReleaseNumber>,
}

/// What this region has for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    /// Something ready, that was reached lately.
    Good,
    /// Something that was ready, or just failed to take a connection.
    Poor,
    /// Nothing.
    None,
}

/// The best candidates for a route, without those in `tried`, and how good they are. `judge` tells how each has answered lately.
pub(crate) fn candidates(
    catalog: &Catalog,
    target: &RouteTarget,
    verdicts: &Verdicts,
    tried: &[InstanceId],
    judge: impl Fn(InstanceId) -> Verdict,
) -> (Local, Vec<Candidate>) {
    let Some(service) = catalog.services.get(&target.service) else { return (Local::None, Vec::new()) };
    let mut best: Vec<Candidate> = Vec::with_capacity(service.instances.len());
    let mut best_tier = Tier::LastKnown;
    let (mut ready, mut suspects) = (0, Vec::new());
    for (id, instance) in &service.instances {
        if instance.is_draining || !instance.ports.contains_key(&target.port) {
            continue;
        }
        let Some(node) = catalog.nodes.get(&instance.node) else { continue };
        let is_own = instance.node == catalog.own;
        let answers = is_own || !verdicts.is_bad(instance.node);
        let mut weight = 100;
        let tier = match (answers, is_own || node.is_up) {
            (true, true) if instance.is_ready => match judge(*id) {
                Verdict::Share(share) => {
                    weight = share;
                    Tier::Ready
                }
                Verdict::Suspect => Tier::Suspect,
                Verdict::Unreachable => Tier::Unreachable,
            },
            (true, true) if instance.was_ready => Tier::WasReady,
            (true, false) if instance.was_ready => Tier::NodeDown,
            (false, _) if instance.was_ready && verdicts.is_cut_off() => Tier::LastKnown,
            _ => continue,
        };
        ready += usize::from(matches!(tier, Tier::Ready | Tier::Suspect));
        let is_tried = tried.contains(id);
        let (node, is_first, release) = (instance.node, instance.is_first, instance.release);
        let is_h2c = instance.h2c.contains(&target.port);
        let candidate = Candidate { instance: *id, node, weight, is_first, is_h2c, is_far: false, release };
        if tier == Tier::Suspect {
            suspects.push((candidate, is_tried));
        }
        if is_tried {
            continue;
        }
        if tier < best_tier {
            best.clear();
            best_tier = tier;
        }
        if tier == best_tier {
            best.push(candidate);
        }
    }
    // Most of them do not answer well: then it is rather the judge, or what they all hang on, and the few others would
    // not bear the load of all (rule R10).
    if best_tier == Tier::Ready && suspects.len() * 2 > ready {
        best.extend(suspects.into_iter().filter(|(_, is_tried)| !is_tried).map(|(candidate, _)| candidate));
    }
    let local = match best_tier {
        _ if best.is_empty() => Local::None,
        // When instances do not answer well, those of other regions will hardly do better.
        Tier::Ready | Tier::Suspect => Local::Good,
        Tier::Unreachable | Tier::WasReady | Tier::NodeDown | Tier::LastKnown => Local::Poor,
    };
    (local, best)
}

/// While the first instances of a release are tried: leaves those for a request, or the others, by their share of the requests. Leaves
/// all where there are none of the kind that was drawn. `draw(n)` gives a number below `n`.
pub(crate) fn split(
    catalog: &Catalog,
    target: &RouteTarget,
    mut candidates: Vec<Candidate>,
    draw: impl Fn(usize) -> usize,
) -> Vec<Candidate> {
    let weight = catalog.services.get(&target.service).and_then(|service| service.first_weight);
    if let Some(weight) = weight {
        let is_first = draw(100) < usize::from(weight);
        if candidates.iter().any(|candidate| candidate.is_first == is_first) {
            candidates.retain(|candidate| candidate.is_first == is_first);
        }
    }
    candidates
}

/// The less loaded of two drawn by their weights, the first of equals: so all get their share, also of little traffic.
/// `draw(n)` gives a number below `n`.
pub(crate) fn pick(
    candidates: &[Candidate],
    in_flight: impl Fn(InstanceId) -> usize,
    draw: impl Fn(usize) -> usize,
) -> Option<Candidate> {
    if let [] | [_] = candidates {
        return candidates.first().copied();
    }
    let first = draw_one(candidates, None, &draw)?;
    let Some(second) = draw_one(candidates, Some(first.instance), &draw) else { return Some(first) };
    // With this request, for each hundredth of a share. One that has nothing to do needs no relief.
    let load = |of: Candidate, beside: Candidate| (in_flight(of.instance) + 1) * beside.weight as usize;
    let is_less = in_flight(first.instance) > 0 && load(second, first) < load(first, second);
    Some(if is_less { second } else { first })
}

/// One of them, but for the one that is left out, by their weights.
fn draw_one(
    candidates: &[Candidate],
    left_out: Option<InstanceId>,
    draw: impl Fn(usize) -> usize,
) -> Option<Candidate> {
    let others = || candidates.iter().filter(|candidate| Some(candidate.instance) != left_out);
    let total: usize = others().map(|candidate| candidate.weight as usize).sum();
    if total == 0 {
        return others().next().copied();
    }
    let mut place = draw(total);
    others()
        .find(|candidate| {
            let is_it = place < candidate.weight as usize;
            place = place.saturating_sub(candidate.weight as usize);
            is_it
        })
        .copied()
}

#[cfg(test)]
mod tests;
