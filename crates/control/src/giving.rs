//! Services of lower priority give way to one that a loss of nodes has left without a place: one place at a time, slowly, and for nothing
//! else. A deploy or a new scale takes nothing from anybody.
//!
//! What was lost, who has given, and for whom a place is being made free is in the region's state ([`Shortfall`]), so that another leader
//! goes on where the last one was. Only the pace is in the leader's memory.
//!
//! ```text
//! node lost ─► shortfall ─► no place for so long ─► GiveWay: others drain ─► room is kept ─► placed there
//!                  └──────── a place turned up ──────────────────────────────────────────────────┘
//! ```
//! It ends: each place that is given fills one that was lost, and what gave it is less important by ten at least.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use insula_env::clock::Instant;
use insula_scheduler::{
    Bound, Giving, Holder, NodeView, Snapshot, Spare, Taken, Wanted, WhyBound, make_room, schedule,
};
use insula_state::{RegionCommand, RegionState};
use insula_types::{
    Desired, InstanceId, Node, NodeId, Placement, Priority, RegionalService, ServiceRef, ServiceSpec, Shortfall,
};

use crate::placements::{self, deployment_of};

/// How long a service has to have found no place: a node that starts anew is back by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two places that are given.
const PAUSE: Duration = Duration::from_secs(10);
/// Between two looks while there are more services to look at.
const NEXT_LOOK: Duration = Duration::from_millis(500);
/// Placements that are looked at at once: some tens of milliseconds.
const LOOKS_MAX: usize = 200_000;

/// What a leader remembers of it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Since when services have found no place for what they have lost.
    since: BTreeMap<ServiceRef, Instant>,
    /// Nothing is given before.
    next_at: Option<Instant>,
    /// Services to which nobody can give way, since all were looked at anew.
    tried: BTreeSet<ServiceRef>,
}

impl Pace {
    /// Looks at what found no place; gives who shall give way, if it is time. While something else goes on, the region is not
    /// `is_still`, and nobody does.
    pub(crate) fn look(
        &mut self,
        region: &RegionState,
        unplaced: &[Unplaced],
        (is_still, full): (bool, &BTreeSet<NodeId>),
        now: Instant,
    ) -> Option<RegionCommand> {
        self.since.retain(|service, _| unplaced.iter().any(|one| one.service == *service));
        for one in unplaced {
            self.since.entry(one.service.clone()).or_insert(now);
        }
        let is_due = |one: &&Unplaced| self.since.get(&one.service).is_some_and(|since| now - *since >= PATIENCE);
        let wanted = |one| Some((one, Unplaced::wanted(one, region)?));
        let mut unplaced: Vec<_> = unplaced.iter().filter(is_due).filter_map(wanted).collect();
        let is_awaited =
            || region.shortfalls.iter().any(|(service, row)| awaited(region, full, service, row).is_some());
        if unplaced.is_empty() || !is_still || self.next_at.is_some_and(|at| now < at) || is_awaited() {
            return None;
        }
        unplaced.retain(|(one, _)| !self.tried.contains(&one.service));
        unplaced.sort_by_key(|(one, wanted)| (Reverse(wanted.priority), &one.service));
        let at_once = looks(region.placements.len());
        let is_last = unplaced.len() <= at_once;
        self.next_at = Some(now + if is_last { PAUSE } else { NEXT_LOOK });
        let there = Layout::of(region, full);
        let found = unplaced.iter().take(at_once).find_map(|(one, wanted)| {
            let giving = there.make_room(&one.service, &wanted.spec, wanted.priority)?;
            let instances = giving.instances.into_iter().collect();
            Some(RegionCommand::GiveWay { instances, to: one.service.clone(), node: giving.node })
        });
        if is_last || found.is_some() {
            self.tried.clear();
            self.next_at = Some(now + PAUSE);
        } else {
            self.tried.extend(unplaced.iter().take(at_once).map(|(one, _)| one.service.clone()));
        }
        found
    }

    /// When time alone makes a difference.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let patient = self.since.values().map(|since| *since + PATIENCE).filter(|at| *at > now);
        let paused = self.next_at.filter(|at| *at > now && !self.since.is_empty());
        patient.chain(paused).min()
    }
}

/// How many looks at so many placements are made at once.
pub(crate) fn looks(placements: usize) -> usize {
    (LOOKS_MAX / placements.max(1)).max(1)
}

/// A service that has lost an instance which finds no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unplaced {
    pub service: ServiceRef,
    /// It would be one of the old release.
    pub is_old: bool,
}

impl Unplaced {
    /// What it shall run; none while a deployment of its app goes on.
    fn wanted<'a>(&self, region: &'a RegionState) -> Option<&'a RegionalService> {
        let ServiceRef { app, service } = &self.service;
        let definition = region.definitions.get(app)?;
        let deployment = deployment_of(region, app, definition);
        if deployment.is_some_and(|deployment| !deployment.state.is_over()) {
            return None;
        }
        let definition = if self.is_old { deployment?.from.as_ref()? } else { definition };
        definition.services.get(service)
    }
}

/// Where a place is being made free for a service: a node that can still become its own. Its instance then needs no more than to wait.
pub(crate) fn awaited<'a>(
    region: &'a RegionState,
    full: &BTreeSet<NodeId>,
    service: &ServiceRef,
    row: &Shortfall,
) -> Option<&'a Node> {
    let node = region.nodes.get(&row.awaits?).filter(|node| !full.contains(&node.id))?;
    let wanted = region.definitions.get(&service.app)?.services.get(&service.service)?;
    let taken = region.placements_of(node.id).filter(|one| !is_going(one)).map(taken);
    let snapshot = Snapshot { nodes: vec![placements::node_view(region, node)], taken: taken.collect() };
    find(&snapshot, &ask(service, &wanted.spec, wanted.priority)).is_some().then_some(node)
}

/// The only place of an instance for which others have gone.
pub(crate) const fn bound(node: NodeId) -> Bound {
    Bound { node, why: WhyBound::Given }
}

/// Whether what an instance has taken is about to be free, for anybody. The volumes of a slot keep its room for the next one.
fn is_going(one: &Placement) -> bool {
    one.desired != Desired::Run && one.slot.is_none()
}

fn taken(one: &Placement) -> Taken<'_> {
    let is_staying = one.desired == Desired::Run && one.hook.is_none();
    Taken { node: one.node, service: &one.service, resources: one.spec.resources, is_staying }
}

pub(crate) fn ask<'a>(service: &'a ServiceRef, spec: &'a ServiceSpec, priority: Priority) -> Wanted<'a> {
    Wanted {
        instance: InstanceId::new(0),
        service,
        resources: spec.resources,
        bound_to: None,
        runtime: spec.runtime.as_ref(),
        placement: &spec.placement,
        priority,
    }
}

fn find(snapshot: &Snapshot<'_>, wanted: &Wanted<'_>) -> Option<NodeId> {
    schedule(snapshot, std::slice::from_ref(wanted)).remove(&wanted.instance)?.ok().map(|choice| choice.node)
}

/// What is wanted of a service.
type WantedOf<'l, 'a> = Box<dyn Fn(&ServiceRef) -> Option<&'a RegionalService> + 'l>;

/// What becomes of an instance that was lost, or gave way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settled<'a> {
    pub placement: Cow<'a, Placement>,
    /// Where its replacement goes; none: it waits.
    pub to: Option<NodeId>,
    /// Which services give way to it there.
    pub from: BTreeSet<ServiceRef>,
    /// To which one it gave way.
    pub gave_to: Option<ServiceRef>,
}

/// Where everything is, or would be, once that has gone which is going.
pub(crate) struct Layout<'l, 'a> {
    region: &'a RegionState,
    placements: Vec<Cow<'a, Placement>>,
    lost: &'l BTreeSet<NodeId>,
    /// Nothing can be started there.
    full: &'l BTreeSet<NodeId>,
    wanted: WantedOf<'l, 'a>,
    /// It is not now: deployments that go on have come to their ends then.
    is_later: bool,
}

static NO_NODES: BTreeSet<NodeId> = BTreeSet::new();

impl<'l, 'a: 'l> Layout<'l, 'a> {
    /// A region as it is.
    pub(crate) fn of(region: &'a RegionState, full: &'l BTreeSet<NodeId>) -> Self {
        let wanted = |service: &ServiceRef| region.definitions.get(&service.app)?.services.get(&service.service);
        Self { is_later: false, full, ..Self::new(region, region.placements.values(), &NO_NODES, Box::new(wanted)) }
    }

    /// A region with other placements, less some nodes and what is on them.
    pub(crate) fn new(
        region: &'a RegionState,
        placements: impl Iterator<Item = &'a Placement>,
        lost: &'l BTreeSet<NodeId>,
        wanted: WantedOf<'l, 'a>,
    ) -> Self {
        let placements = placements.filter(|one| !is_going(one) && !lost.contains(&one.node));
        let placements = placements.map(Cow::Borrowed).collect();
        Self { region, placements, lost, full: &NO_NODES, wanted, is_later: true }
    }

    /// What becomes of instances that are `lost` and found no place, and of those that give way to them; in order of id. In large
    /// regions those are missing that would come last: nobody is taken to give way to them.
    pub(crate) fn settle(
        mut self,
        lost: Vec<&'a Placement>,
        placed: impl Iterator<Item = Placement>,
    ) -> Vec<Settled<'a>> {
        self.placements.extend(placed.map(Cow::Owned));
        let mut waiting = BTreeMap::new();
        let add =
            |layout: &Self, waiting: &mut BTreeMap<_, _>, one: Cow<'a, Placement>, gave_to: Option<ServiceRef>| {
                if let Some(wanted) = (layout.wanted)(&one.service) {
                    let key = (Reverse(wanted.priority), one.service.clone(), one.instance);
                    waiting.insert(key, (one, wanted, gave_to));
                }
            };
        for one in lost {
            add(&self, &mut waiting, Cow::Borrowed(one), None);
        }
        let mut settled = Vec::new();
        let mut left = looks(self.placements.len());
        // Nothing has changed since this one found nothing.
        let mut hopeless: BTreeSet<ServiceRef> = BTreeSet::new();
        while let Some((_, (one, wanted, gave_to))) = waiting.pop_first() {
            let mut from = BTreeSet::new();
            let mut to = None;
            let is_looked_at = left > 0 && !hopeless.contains(&one.service);
            if is_looked_at {
                left -= 1;
                to = find(&self.snapshot(), &ask(&one.service, &wanted.spec, wanted.priority));
            }
            if is_looked_at
                && to.is_none()
                && let Some(giving) = self.make_room(&one.service, &wanted.spec, wanted.priority)
            {
                to = Some(giving.node);
                let is_given = |other: &Cow<'_, Placement>| giving.instances.contains(&other.instance);
                let (gone, stay): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.placements).into_iter().partition(is_given);
                self.placements = stay;
                for other in gone {
                    from.insert(other.service.clone());
                    add(&self, &mut waiting, other, Some(one.service.clone()));
                }
            }
            if to.is_none() {
                hopeless.insert(one.service.clone());
            }
            if let Some(node) = to {
                hopeless.clear();
                let there = Placement { node, spec: wanted.spec.clone(), ..one.clone().into_owned() };
                self.placements.push(Cow::Owned(there));
            }
            settled.push(Settled { placement: one, to, from, gave_to });
        }
        settled.sort_by_key(|one| one.placement.instance);
        settled
    }

    fn snapshot(&self) -> Snapshot<'_> {
        let nodes = self.region.nodes.values().filter(|node| !self.lost.contains(&node.id));
        let nodes = nodes.map(|node| {
            let view = placements::node_view(self.region, node);
            NodeView { is_cordoned: view.is_cordoned || self.full.contains(&node.id), ..view }
        });
        let nodes = nodes.collect();
        Snapshot { nodes, taken: self.placements.iter().map(|one| taken(one)).collect() }
    }

    fn is_up(&self, node: &NodeId) -> bool {
        !self.lost.contains(node) && self.region.nodes.get(node).is_some_and(|node| node.health.is_up())
    }

    /// Who would give way to an instance of a service; none when nobody has to, or nobody can.
    pub(crate) fn make_room(&self, service: &ServiceRef, spec: &ServiceSpec, priority: Priority) -> Option<Giving> {
        let is_live = |one: &Placement| one.desired == Desired::Run && one.hook.is_none() && self.is_up(&one.node);
        let live = || self.placements.iter().filter(|one| is_live(one));
        // The last of a service goes only for one that has none.
        let keeps = usize::from(live().any(|one| one.service == *service));
        let mut spare: BTreeMap<&ServiceRef, Spare> = BTreeMap::new();
        let mut holders = Vec::new();
        for one in live().map(Cow::as_ref).filter(|one| one.service != *service) {
            let Some(wanted) = (self.wanted)(&one.service) else { continue };
            let is_busy = !self.is_later && is_deploying(self.region, one);
            if !priority.is_clearly_above(wanted.priority) || !may_give(one, wanted) || is_busy {
                continue;
            }
            let is_ready = self.region.statuses.get(&one.instance).is_some_and(|status| status.is_ready);
            let spare = spare.entry(&one.service).or_default();
            spare.all += 1;
            spare.ready += usize::from(is_ready);
            let (instance, node, service, resources) = (one.instance, one.node, &one.service, one.spec.resources);
            holders.push(Holder { instance, node, service, resources, priority: wanted.priority, is_ready });
        }
        if holders.is_empty() {
            return None;
        }
        for spare in spare.values_mut() {
            (spare.all, spare.ready) = (spare.all.saturating_sub(keeps), spare.ready.saturating_sub(keeps));
        }
        make_room(&self.snapshot(), &ask(service, spec, priority), &holders, &spare)
    }
}

/// Whether an instance could give way: it has no volumes, and its service has a number.
fn may_give(one: &Placement, wanted: &RegionalService) -> bool {
    one.slot.is_none() && one.hook.is_none() && wanted.spec.volumes.is_empty() && wanted.scale.count().is_some()
}

/// Whether a deployment of its app goes on, which would count what is missing against the release.
fn is_deploying(region: &RegionState, one: &Placement) -> bool {
    region.deployments.get(&one.service.app).is_some_and(|deployment| !deployment.state.is_over())
}
