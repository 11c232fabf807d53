//! What losses of nodes have taken of services, and who gives way to whom. Known since level 6; at levels before there are no rows,
//! and nobody gives way.

use std::collections::BTreeMap;

use insula_types::{Desired, Given, InstanceId, Level, NodeId, Placement, RegionalDefinition, ServiceRef, Shortfall};

use super::{Apply, Decision};
use crate::{
    Conflict, Domain, Rejection,
    event::{Event, EventKind},
    region::{RegionKey, RegionObject, RegionReply},
};

/// Instances that give way at once, at most: those of one node that make room for one.
const GIVING_MAX: usize = 64;

impl Apply<'_> {
    /// What could be elsewhere of what shall run on a node is lost with it.
    pub(super) fn lose(&mut self, node: NodeId) {
        if self.state.level() < Level(6) {
            return;
        }
        let mut lost: BTreeMap<ServiceRef, u32> = BTreeMap::new();
        let is_lost = |one: &&Placement| one.desired == Desired::Run && one.slot.is_none() && one.hook.is_none();
        for one in self.state.placements_of(node).filter(is_lost) {
            *lost.entry(one.service.clone()).or_default() += 1;
        }
        let lacking = self.lacking(lost.keys(), |one| one.node != node);
        for ((service, count), lacking) in lost.into_iter().zip(lacking) {
            let mut shortfall = self.state.shortfalls.get(&service).cloned().unwrap_or_default();
            shortfall.lost = shortfall.lost.saturating_add(count);
            self.put_shortfall(&service, shortfall.within(lacking));
        }
    }

    /// Instances were placed: what was short of them is less so.
    pub(super) fn fill(&mut self, placements: &[Placement]) {
        let mut come: BTreeMap<&ServiceRef, u32> = BTreeMap::new();
        let is_awaited = |one: &&Placement| one.hook.is_none() && self.state.shortfalls.contains(&one.service);
        for one in placements.iter().filter(is_awaited) {
            *come.entry(&one.service).or_default() += 1;
        }
        let lacking = self.lacking(come.keys().copied(), |_| true);
        for ((service, come), lacking) in come.into_iter().zip(lacking) {
            let Some(present) = self.state.shortfalls.get(service) else { continue };
            // The place that it waited for is had, or another.
            let shortfall = Shortfall { awaits: None, ..present.clone() }.less(come);
            self.put_shortfall(service, shortfall.within(lacking.saturating_sub(come)));
        }
    }

    /// An app has another definition, or none: nothing is short of what is not wanted.
    pub(super) fn refit(&mut self, app: &insula_types::AppName, definition: Option<&RegionalDefinition>) {
        let of_app = self.state.shortfalls.iter().filter(|(service, _)| service.app == *app);
        let rows: Vec<(ServiceRef, Shortfall)> = of_app.map(|(name, row)| (name.clone(), row.clone())).collect();
        let live = self.live(rows.iter().map(|(service, _)| service), |_| true);
        for ((service, shortfall), live) in rows.into_iter().zip(live) {
            let wanted = definition.and_then(|definition| definition.services.get(&service.service));
            let scale = wanted.and_then(|wanted| wanted.scale.count()).unwrap_or(0);
            self.put_shortfall(&service, shortfall.within(scale.saturating_sub(live)));
        }
    }

    /// Instances on one node give their places to an instance of another service, which has lost some.
    pub(super) fn give_way(&mut self, instances: &[InstanceId], to: &ServiceRef, node: NodeId) -> Decision {
        let name = self.node(node)?.name.clone();
        if instances.is_empty() || instances.len() > GIVING_MAX {
            return Err(Rejection::invalid(format!("from 1 to {GIVING_MAX} instances give way at once")));
        }
        let Some(shortfall) = self.state.shortfalls.get(to) else {
            return Err(Rejection::conflict(Conflict::Ours, format!("no loss has left {to} short of anything")));
        };
        let may_go = |one: &Placement| one.desired == Desired::Run && one.slot.is_none() && one.hook.is_none();
        let is_there = |one: &&Placement| one.node == node && may_go(one);
        let mut giving: BTreeMap<InstanceId, &Placement> = BTreeMap::new();
        for id in instances {
            let Some(one) = self.state.placements.get(id).filter(is_there).filter(|one| one.service != *to) else {
                let text = format!("instance {id} cannot give way on node {name}");
                return Err(Rejection::conflict(Conflict::Ours, text));
            };
            giving.insert(*id, one);
        }
        self.put_shortfall(to, Some(Shortfall { awaits: Some(node), ..shortfall.clone() }));
        let mut gives: BTreeMap<&ServiceRef, u32> = BTreeMap::new();
        for one in giving.values() {
            *gives.entry(&one.service).or_default() += 1;
        }
        let lacking = self.lacking(gives.keys().copied(), |one| !giving.contains_key(&one.instance));
        for ((service, count), lacking) in gives.into_iter().zip(lacking) {
            let mut shortfall = self.state.shortfalls.get(service).cloned().unwrap_or_default();
            shortfall.given = shortfall.given.saturating_add(count);
            shortfall.gave_to = Some(Given { to: to.clone(), node: name.clone() });
            self.put_shortfall(service, shortfall.within(lacking));
        }
        for (id, one) in giving {
            let text = format!("{} {id} gave its place on {name} to {to}, which has lost one", one.service);
            let event = Event::new(self.at_ms, EventKind::Stopped, text).node(node);
            self.event(event.app(&one.service.app).instance(id));
            let drained = Placement { desired: Desired::Drain, ..one.clone() };
            self.out.put(RegionKey::Placement(id), RegionObject::Placement(drained));
        }
        Ok(RegionReply::Done)
    }

    /// How many of their scales services lack, of their instances those that `counts`; none of one that has no number.
    fn lacking<'s>(
        &self,
        services: impl Iterator<Item = &'s ServiceRef> + Clone,
        counts: impl Fn(&Placement) -> bool,
    ) -> Vec<u32> {
        let scale = |service: &ServiceRef| {
            let definition = self.state.definitions.get(&service.app);
            let wanted = definition.and_then(|definition| definition.services.get(&service.service));
            wanted.and_then(|wanted| wanted.scale.count()).unwrap_or(0)
        };
        let live = self.live(services.clone(), counts);
        services.zip(live).map(|(service, live)| scale(service).saturating_sub(live)).collect()
    }

    /// Instances of services that shall run on nodes that are up; one walk through all there are.
    fn live<'s>(
        &self,
        services: impl Iterator<Item = &'s ServiceRef> + Clone,
        counts: impl Fn(&Placement) -> bool,
    ) -> Vec<u32> {
        let mut live: BTreeMap<&ServiceRef, u32> = services.clone().map(|service| (service, 0)).collect();
        if live.is_empty() {
            return Vec::new();
        }
        let is_up = |id: &NodeId| self.state.nodes.get(id).is_some_and(|node| node.health.is_up());
        let shall_run = |one: &&Placement| one.desired == Desired::Run && one.hook.is_none();
        for one in self.state.placements.values().filter(shall_run) {
            if let Some(live) = live.get_mut(&one.service).filter(|_| is_up(&one.node) && counts(one)) {
                *live += 1;
            }
        }
        services.map(|service| live.get(service).copied().unwrap_or(0)).collect()
    }

    fn put_shortfall(&mut self, service: &ServiceRef, shortfall: Option<Shortfall>) {
        let key = RegionKey::Shortfall(service.clone());
        match (self.state.shortfalls.get(service), shortfall) {
            (Some(present), Some(now)) if *present == now => {}
            (_, Some(now)) => self.out.put(key, RegionObject::Shortfall(now)),
            (Some(_), None) => self.out.remove(key),
            (None, None) => {}
        }
    }
}
