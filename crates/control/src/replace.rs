//! One service, going to what is wanted of it: how many instances to add, and which to take away, in the next step.
//!
//! A new release or a new scale is reached without ever having fewer ready instances than the service's `update` allows, and
//! without more beside its scale than that allows. While a new release comes out and nobody knows that it is good, what is lost of
//! the old one comes back as it was; once all of it has come out, nothing comes back as the old one unless it fails.

use std::collections::BTreeMap;

use insula_types::{InstanceId, NodeId, UpdateSpec};

/// What an instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What is wanted now.
    New,
    /// What was good before.
    Old,
    /// Neither: left over from a release between the two.
    Other,
}

/// An instance that shall run and whose node is up.
#[derive(Debug, Clone)]
pub(crate) struct Live<'a> {
    pub instance: InstanceId,
    pub node: NodeId,
    /// Data centre of its node, or the value of the label that its service is spread over.
    pub datacenter: &'a str,
    pub kind: Kind,
    /// Its node is not drained.
    pub may_stay: bool,
    pub is_ready: bool,
    /// It has been ready for long enough to count.
    pub is_healthy: bool,
    /// It was ready, and is not any more.
    pub has_relapsed: bool,
}

impl Live<'_> {
    fn is_fresh(&self) -> bool {
        self.kind == Kind::New && self.may_stay
    }
}

/// Where a service shall get.
#[derive(Debug, Clone)]
pub(crate) struct Goal<'a> {
    /// Instances.
    pub scale: usize,
    pub way: Way,
    /// There is an old release that lost instances can come back as.
    pub has_old: bool,
    pub update: &'a UpdateSpec,
}

/// How it may get there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// All become new.
    Go,
    /// So many new ones beside all of the old ones.
    First(usize),
    /// Nothing more becomes new.
    Hold,
    /// What runs stays, whatever it is; what is lost comes back as what is wanted.
    Wait,
}

/// What to do next with one service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Instances of the new release to place.
    pub add: usize,
    /// Instances of the old release to place.
    pub add_old: usize,
    /// Instances to drain.
    pub drain: Vec<InstanceId>,
}

/// The next step towards a goal.
pub(crate) fn step(goal: &Goal<'_>, live: &[Live<'_>]) -> Step {
    let (new, old): (Vec<_>, Vec<_>) = live.iter().cloned().partition(|one| one.kind == Kind::New);
    match goal.way {
        Way::Go => go(goal, live),
        Way::First(count) => {
            let (first, rest) = (keep(count, count, &new), keep(goal.scale, goal.scale, &old));
            Step { add: first.0, add_old: rest.0, drain: [first.1, rest.1].concat() }
        }
        Way::Wait => {
            let (add, drain) = keep(goal.scale, goal.scale, live);
            Step { add, add_old: 0, drain }
        }
        Way::Hold if goal.has_old => {
            let good = new.iter().filter(|one| one.is_healthy).count();
            let most = goal.scale + goal.update.max_surge as usize;
            let (kept, rest) =
                (keep(new.len().min(most), most, &new), keep(goal.scale.saturating_sub(good), goal.scale, &old));
            Step { add: kept.0, add_old: rest.0, drain: [kept.1, rest.1].concat() }
        }
        // Without an old release there is nothing that the new one could harm.
        Way::Hold => go(goal, live),
    }
}

/// Replaces what is not fresh.
fn go(goal: &Goal<'_>, live: &[Live<'_>]) -> Step {
    let (scale, surge) = (goal.scale, goal.update.max_surge as usize);
    let unavailable = (goal.update.max_unavailable as usize).min(scale);
    let counts = |one: &Live<'_>| if goal.has_old && one.is_fresh() { one.is_healthy } else { one.is_ready };
    let fresh = live.iter().filter(|one| one.is_fresh()).count();
    let unproven = live.iter().filter(|one| one.is_fresh() && !counts(one)).count();
    let lack = scale.saturating_sub(live.len());
    let room = (scale + surge).saturating_sub(live.len());
    // The next ones only once those that were added before are good: a release that never gets there stops here.
    let tries = (surge + unavailable).max(1).saturating_sub(unproven);
    let some = scale.saturating_sub(fresh).min(room).min(tries);
    let (add, add_old) = if goal.has_old { (some, lack.saturating_sub(some)) } else { (some.max(lack), 0) };

    let excess = (live.len() + unavailable).saturating_sub(scale).min(live.len() - fresh);
    let floor = scale - unavailable;
    let mut drain = victims(live, |one| !one.is_fresh(), excess, floor, counts);
    drain.extend(victims(live, |one| one.is_fresh(), fresh.saturating_sub(scale), scale, counts));
    Step { add, add_old, drain }
}

/// Keeps a group as it is: at least `least` of it, at most `most`, and none on nodes that are drained. How many to add, and whom
/// to drain.
fn keep(least: usize, most: usize, group: &[Live<'_>]) -> (usize, Vec<InstanceId>) {
    let leaving = group.iter().filter(|one| !one.may_stay).count();
    let staying = group.len() - leaving;
    let is_settled = group.iter().all(|one| one.is_ready || !one.may_stay);
    let for_leaving = usize::from(group.len() == least && leaving > 0 && is_settled);
    let add = least.saturating_sub(group.len()).max(for_leaving);
    let excess = group.len().saturating_sub(least).min(leaving);
    let is_ready = |one: &Live<'_>| one.is_ready;
    let mut drain = victims(group, |one| !one.may_stay, excess, least, is_ready);
    drain.extend(victims(group, |one| one.may_stay, staying.saturating_sub(most), most, is_ready));
    (add, drain)
}

/// Chooses `count` to take away of those that are `meant`: those that do not count as available first, then where most of the
/// service are, so that what stays is spread. An available one goes only while more than `floor` are.
fn victims(
    live: &[Live<'_>],
    is_meant: impl Fn(&Live<'_>) -> bool,
    count: usize,
    floor: usize,
    is_available: impl Fn(&Live<'_>) -> bool,
) -> Vec<InstanceId> {
    let mut by_datacenter: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_node: BTreeMap<NodeId, usize> = BTreeMap::new();
    for one in live {
        *by_datacenter.entry(one.datacenter).or_default() += 1;
        *by_node.entry(one.node).or_default() += 1;
    }
    let mut available = live.iter().filter(|one| is_available(one)).count();
    let mut candidates: Vec<&Live<'_>> = live.iter().filter(|one| is_meant(one)).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let crowd = |one: &&Live<'_>| (by_datacenter.get(one.datacenter).copied(), by_node.get(&one.node).copied());
        let may_go = |one: &&Live<'_>| !is_available(one) || available > floor;
        let best = candidates
            .iter()
            .enumerate()
            .filter(|(_, one)| may_go(one))
            .max_by_key(|(_, one)| (!is_available(one), crowd(one), one.instance))
            .map(|(at, _)| at);
        let Some(best) = best else { break };
        let gone = candidates.swap_remove(best);
        chosen.push(gone.instance);
        available -= usize::from(is_available(gone));
        by_datacenter.entry(gone.datacenter).and_modify(|count| *count -= 1);
        by_node.entry(gone.node).and_modify(|count| *count -= 1);
    }
    chosen
}
