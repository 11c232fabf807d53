//! Evens out what runs, when nodes have come: one instance at a time moves to where the scheduler would put it now, if that is
//! better for the spread of its service, or much emptier. Slowly, and only while nothing else goes on.
//!
//! A move is a drain of one instance: its replacement is ready before it goes. Only the leader's memory knows of it. A leader that
//! comes in the middle finds one instance too many, and takes away one of those that are crowded most.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use insula_env::clock::Instant;
use insula_scheduler::{Wanted, schedule};
use insula_state::RegionState;
use insula_types::{Desired, InstanceId, Node, NodeId, Placement, RegionalService, ServiceRef};

use crate::placements::{group, snapshot};

/// How long nothing else may have gone on before the first move: a node that has just come back may go again.
const CALM: Duration = Duration::from_secs(300);
/// Between two moves.
const PAUSE: Duration = Duration::from_secs(20);
/// How long a replacement may take to get ready.
const MOVE_MAX: Duration = Duration::from_secs(120);
/// By how much emptier the other node has to be, after the move, where the spread does not decide. Percent of a node.
const EMPTIER: u64 = 20;
/// How many instances the scheduler is asked about in one look; each costs a look at the whole region.
const TRIES_MAX: usize = 8;
/// Services times nodes that are compared in one look, so that it takes the leader some tens of milliseconds at most; in regions that
/// have more, the services with the first names are evened out.
const LOOKS_MAX: usize = 500_000;

/// What a leader remembers of it.
#[derive(Debug, Default)]
pub(crate) struct Rebalance {
    /// When the next move may begin; none while something else goes on.
    next_at: Option<Instant>,
    /// What is on its way, and since when.
    moving: Option<(InstanceId, Instant)>,
    /// Services whose replacement did not get ready. They are left alone until something else has gone on.
    given_up: BTreeSet<ServiceRef>,
}

impl Rebalance {
    /// Looks at the region; gives the instance that shall be replaced elsewhere, if there is one.
    pub(crate) fn look(&mut self, region: &RegionState, now: Instant) -> Option<InstanceId> {
        if let Some((instance, since)) = self.moving {
            let placement = region.placements.get(&instance).filter(|one| one.desired == Desired::Run);
            match placement {
                Some(_) if now - since < MOVE_MAX && !is_deploying(region) => return Some(instance),
                Some(placement) => {
                    self.given_up.insert(placement.service.clone());
                }
                None => {}
            }
            self.moving = None;
            self.next_at = Some(now + PAUSE);
        }
        if !is_settled(region) {
            // What a move has left behind is no reason to begin anew, as long as that does not take long.
            if self.next_at.is_none_or(|at| now >= at) {
                *self = Self::default();
            }
            return None;
        }
        let at = *self.next_at.get_or_insert(now + CALM);
        if now < at {
            return None;
        }
        let Some(instance) = choose(region, &self.given_up) else {
            self.next_at = Some(now + CALM);
            return None;
        };
        self.moving = Some((instance, now));
        Some(instance)
    }

    /// When time alone makes a difference.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let given_up = self.moving.map(|(_, since)| since + MOVE_MAX);
        given_up.or(self.next_at).filter(|at| *at > now)
    }
}

fn is_deploying(region: &RegionState) -> bool {
    region.deployments.values().any(|deployment| !deployment.state.is_over())
}

/// Whether all that shall run does, and nothing is about to change.
fn is_settled(region: &RegionState) -> bool {
    let is_up = |node: &NodeId| region.nodes.get(node).is_some_and(|node| node.health.is_up() && !node.is_draining);
    let is_ready = |one: &Placement| region.statuses.get(&one.instance).is_some_and(|status| status.is_ready);
    !is_deploying(region)
        && region
            .placements
            .values()
            .all(|one| one.hook.is_none() && one.desired == Desired::Run && is_up(&one.node) && is_ready(one))
}

/// Instances of a service in the group of a node, and on the node itself, one that may be moved included: fewer is better.
type Crowd = (usize, usize);

/// How the instances of a service lie.
struct Lie<'a> {
    wanted: &'a RegionalService,
    placed: Vec<(&'a Placement, &'a Node)>,
    by_group: BTreeMap<&'a str, usize>,
    by_node: BTreeMap<NodeId, usize>,
}

impl<'a> Lie<'a> {
    fn group(&self, region: &'a RegionState, node: &'a Node) -> &'a str {
        group(region, node, &self.wanted.spec.placement.spread)
    }

    fn add(&mut self, region: &'a RegionState, placement: &'a Placement, node: &'a Node) {
        *self.by_group.entry(self.group(region, node)).or_default() += 1;
        *self.by_node.entry(node.id).or_default() += 1;
        self.placed.push((placement, node));
    }

    /// What there would be at a node, were the instance that is now at another moved there.
    fn crowd(&self, region: &'a RegionState, from: &'a Node, to: &'a Node) -> Crowd {
        let (group, group_before) = (self.group(region, to), self.group(region, from));
        let in_group = self.by_group.get(group).copied().unwrap_or_default();
        let on_node = self.by_node.get(&to.id).copied().unwrap_or_default();
        (in_group + usize::from(group != group_before), on_node + usize::from(from.id != to.id))
    }
}

/// The instance whose move is worth most: for the spread of its service, else from the fullest node that has one which would be
/// much better off.
fn choose(region: &RegionState, given_up: &BTreeSet<ServiceRef>) -> Option<InstanceId> {
    let lies = lies(region, given_up);
    let open = || region.nodes.values().filter(|node| node.health.is_up() && !node.is_cordoned && !node.is_draining);

    let mut crowded: Vec<(Crowd, &Lie<'_>, &Placement, &Node)> = Vec::new();
    for lie in lies.values().take(LOOKS_MAX / region.nodes.len().max(1)) {
        let of = |(one, node): &(&Placement, &Node)| (lie.crowd(region, node, node), one.instance);
        let Some((one, from)) = lie.placed.iter().max_by_key(|placed| of(placed)) else { continue };
        let now = lie.crowd(region, from, from);
        if open().any(|to| lie.crowd(region, from, to) < now) {
            crowded.push((now, lie, one, from));
        }
    }
    crowded.sort_by_key(|(crowd, _, one, _)| (Reverse(*crowd), one.instance));
    for (now, lie, one, from) in crowded.into_iter().take(TRIES_MAX) {
        if place_again(region, one, lie.wanted).is_some_and(|to| lie.crowd(region, from, to) < now) {
            return Some(one.instance);
        }
    }

    let shares: BTreeMap<NodeId, u64> = shares(region);
    let share = |node: &Node| shares.get(&node.id).copied().unwrap_or_default();
    let fullest = region.nodes.values().max_by_key(|node| (share(node), node.id))?;
    let emptiest = open().map(share).min()?;
    if share(fullest) < emptiest + EMPTIER {
        return None;
    }
    let there = lies.values().flat_map(|lie| lie.placed.iter().map(move |(one, node)| (lie, *one, *node)));
    let mut there: Vec<_> = there.filter(|(_, _, node)| node.id == fullest.id).collect();
    there.sort_by_key(|(_, one, node)| (Reverse(share_of(one, node)), one.instance));
    let is_better = |(lie, one, from): &(&Lie<'_>, &Placement, &Node)| {
        place_again(region, one, lie.wanted).is_some_and(|to| {
            let stays_spread = lie.crowd(region, from, to) <= lie.crowd(region, from, from);
            stays_spread && to.id != from.id && share(from) >= share(to) + share_of(one, to) + EMPTIER
        })
    };
    there.iter().take(TRIES_MAX).find(|one| is_better(one)).map(|(_, one, _)| one.instance)
}

/// What could move: without volumes, of services that are wanted as they run.
fn lies<'a>(region: &'a RegionState, given_up: &BTreeSet<ServiceRef>) -> BTreeMap<&'a ServiceRef, Lie<'a>> {
    let mut lies: BTreeMap<&ServiceRef, Lie<'_>> = BTreeMap::new();
    for one in region.placements.values() {
        let definition = region.definitions.get(&one.service.app);
        let wanted = definition.and_then(|definition| definition.services.get(&one.service.service));
        let (Some(wanted), Some(node)) = (wanted, region.nodes.get(&one.node)) else { continue };
        let may_move = one.slot.is_none() && wanted.scale.count().is_some() && !given_up.contains(&one.service);
        if may_move {
            let (placed, by_group, by_node) = Default::default();
            lies.entry(&one.service).or_insert(Lie { wanted, placed, by_group, by_node }).add(region, one, node);
        }
    }
    lies
}

/// Where the scheduler would put an instance, were it not there. Its room is taken until it has gone.
fn place_again<'a>(region: &'a RegionState, one: &Placement, wanted: &RegionalService) -> Option<&'a Node> {
    let snapshot = snapshot(region, |other| other.instance != one.instance);
    let asked = Wanted {
        instance: one.instance,
        service: &one.service,
        resources: wanted.spec.resources,
        bound_to: None,
        runtime: wanted.spec.runtime.as_ref(),
        placement: &wanted.spec.placement,
        priority: wanted.priority,
    };
    let choice = schedule(&snapshot, &[asked]).remove(&one.instance)?.ok()?;
    region.nodes.get(&choice.node)
}

/// How much of each node is taken, of what is scarcer there. Percent.
fn shares(region: &RegionState) -> BTreeMap<NodeId, u64> {
    let mut taken: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
    for one in region.placements.values() {
        let (cpu, memory) = taken.entry(one.node).or_default();
        *cpu += u64::from(one.spec.resources.cpu.0);
        *memory += one.spec.resources.memory.0;
    }
    let share = |(node, (cpu, memory))| Some((node, percent(cpu, memory, region.nodes.get(&node)?)));
    taken.into_iter().filter_map(share).collect()
}

fn share_of(one: &Placement, node: &Node) -> u64 {
    percent(one.spec.resources.cpu.0.into(), one.spec.resources.memory.0, node)
}

fn percent(cpu: u64, memory: u64, node: &Node) -> u64 {
    let room = node.capacity.allocatable();
    let of = |taken: u64, all: u64| taken.saturating_mul(100) / all.max(1);
    of(cpu, room.cpu.0.into()).max(of(memory, room.memory.0))
}
