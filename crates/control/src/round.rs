//! One round of the controllers: what is to be decided now, from the region's state, the world's, and the leases.

use std::collections::{BTreeMap, BTreeSet};

use insula_env::clock::Instant;
use insula_state::{
    GlobalState, RegionCommand, RegionState,
    event::{Event, EventKind},
};
use insula_types::{Desired, InstanceId, Revision, ServiceRef};

use crate::{
    LeaseTable, derive,
    giving::Pace,
    nodes, placements,
    progress::{self, Watched},
    rebalance::Rebalance,
};

/// How long the edges may take to acknowledge that an instance is drained. A node that renews its lease and whose data
/// plane is silent for so long shall not hold up a deploy; its own retries cover what it still sends.
pub(crate) const DRAIN_WAIT: std::time::Duration = std::time::Duration::from_secs(15);

/// How long the world is left alone that did not take what it was told. A round waits for its answer.
const DEAF_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Commands of one round; the rest comes in the next, on a fresh look.
const COMMANDS_MAX: usize = 32;

/// What a leader remembers from round to round. Losing it costs a repeated event or a longer drain.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Since when instances have been draining.
    draining: BTreeMap<InstanceId, Instant>,
    /// How deployments get on.
    watched: Watched,
    /// What moves to where it is better.
    rebalance: Rebalance,
    /// When services of lower priority may give way.
    pace: Pace,
    /// Nothing is told to the world before.
    deaf_until: Option<Instant>,
    /// What was last said of services that cannot be placed.
    unplaceable: BTreeMap<ServiceRef, String>,
}

impl Memory {
    /// What is to be committed now, the most urgent first.
    pub(crate) fn round(
        &mut self,
        region: &RegionState,
        global: Option<&GlobalState>,
        leases: &LeaseTable,
        (now, now_ms): (Instant, u64),
        new_id: &mut dyn FnMut() -> InstanceId,
    ) -> Vec<RegionCommand> {
        let mut commands = nodes::reconcile(region, leases, now, now_ms);
        if !commands.is_empty() {
            // Everything else depends on it: decide the rest on a state that knows it.
            commands.truncate(COMMANDS_MAX);
            return commands;
        }
        if let Some(global) = global {
            commands.extend(derive::reconcile(global, region));
        }
        let overdue = self.overdue(region, now);
        let is_acknowledged = |revision: Revision| leases.is_acknowledged(now, revision);
        self.watched.look(region, now);
        let ready_for = |instance| self.watched.ready_for(instance, now);
        let moving = self.rebalance.look(region, now);
        let full = placements::avoided(region, leases.full());
        let view = placements::View {
            now_ms,
            is_acknowledged: &is_acknowledged,
            overdue: &overdue,
            ready_for: &ready_for,
            moving,
            full: &full,
        };
        let plan = placements::reconcile(region, &view, new_id);
        // Who gives way is decided on a state that does not change under it.
        let is_still = plan.commands.is_empty() && moving.is_none();
        commands.extend(plan.commands);
        commands.extend(self.pace.look(region, &plan.unplaced, (is_still, &full), now));
        commands.extend(self.watched.advance(region, &plan.unplaceable, leases, now));
        commands.extend(self.tell(plan.unplaceable));
        commands.truncate(COMMANDS_MAX);
        commands
    }

    pub(crate) fn may_tell_world(&self, now: Instant) -> bool {
        self.deaf_until.is_none_or(|until| now >= until)
    }

    /// The world did not take what it was told.
    pub(crate) fn world_is_deaf(&mut self, now: Instant) {
        self.deaf_until = Some(now + DEAF_WAIT);
    }

    /// When time alone changes what is to be decided: a drain becomes overdue, or an instance has been ready for long enough.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let overdue = self.draining.values().map(|since| *since + DRAIN_WAIT).filter(|at| *at > now);
        let busy = self.watched.is_busy().then(|| now + progress::LOOK_EVERY);
        overdue.chain(busy).chain(self.rebalance.next_due(now)).chain(self.pace.next_due(now)).min()
    }

    fn overdue(&mut self, region: &RegionState, now: Instant) -> BTreeSet<InstanceId> {
        let is_draining =
            |id: &InstanceId| region.placements.get(id).is_some_and(|placement| placement.desired == Desired::Drain);
        self.draining.retain(|id, _| is_draining(id));
        for (id, _) in region.placements.iter().filter(|(id, _)| is_draining(id)) {
            self.draining.entry(*id).or_insert(now);
        }
        self.draining.iter().filter(|(_, since)| now - **since >= DRAIN_WAIT).map(|(id, _)| *id).collect()
    }

    /// Events for services that cannot be placed, when there is something new to say.
    fn tell(&mut self, unplaceable: BTreeMap<ServiceRef, String>) -> Vec<RegionCommand> {
        let events = unplaceable
            .iter()
            .filter(|(service, why)| self.unplaceable.get(service) != Some(*why))
            .map(|(service, why)| {
                RegionCommand::Note(Event::new(0, EventKind::Unplaceable, why.as_str()).app(&service.app))
            })
            .collect();
        self.unplaceable = unplaceable;
        events
    }
}
