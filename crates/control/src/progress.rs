//! How deployments get on: when the first instances were good, when a release is out, and when it has failed.
//!
//! What is seen over time is kept in the leader's memory, by its own clock: a new leader watches anew, which makes a deployment
//! longer and never shorter. What was decided is in the region's state.

mod judged;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use insula_env::clock::Instant;
use insula_state::{RegionCommand, RegionState};
use insula_types::{
    AppName, Deployment, DeploymentState, Desired, HookKind, InstanceId, InstanceStatus, Phase, Placement, Promotion,
    RegionalDefinition, RegionalService, ReleaseNumber, RestartPolicy, ServiceName, ServiceRef,
};

use self::judged::{Lack, judged};
pub(crate) use self::told::tell_world;
use crate::{LeaseTable, each_node, gate, hooks, placements::deployment_of};

/// How often an instance may end before it was ever ready.
const RESTARTS_MAX: u32 = 3;
/// How long an instance may fail to begin at all, as one whose image is gone does.
pub(crate) const BEGIN_WAIT: Duration = Duration::from_secs(15);
/// How long an instance that was ready may be without being healthy, beyond what it takes to get healthy again.
const RELAPSE_WAIT: Duration = Duration::from_secs(2);
/// How long there may be no room for an instance: what is drained takes its time to go.
pub(crate) const ROOM_WAIT: Duration = Duration::from_secs(20);
/// How often a deployment that is under way is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a leader has seen.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Since when instances have been ready without a break.
    ready: BTreeMap<InstanceId, Instant>,
    apps: BTreeMap<AppName, Seen>,
    /// Deployments whose hooks are run.
    hooks: BTreeMap<AppName, hooks::Seen>,
}

/// What it has seen of one deployment.
#[derive(Debug)]
struct Seen {
    release: ReleaseNumber,
    state: DeploymentState,
    /// What changes only when the release gets on, and when it did last.
    mark: Mark,
    moved: Instant,
    /// Since when instances of the new release have not been healthy, after they had their chance.
    failing: BTreeMap<InstanceId, Instant>,
    /// Since when there has been no room for services.
    no_room: BTreeMap<ServiceName, Instant>,
    /// Since when all that shall run in this state has been healthy.
    settled: Option<Instant>,
    /// Since when nothing but numbers that edges have not told is waited for.
    unheard: Option<Instant>,
}

/// How far a release is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Mark {
    healthy: usize,
    left: usize,
    /// What is fetched, with what is said of it.
    fetched: BTreeSet<(InstanceId, String)>,
}

/// One service of a release that is rolled out.
struct Part<'a> {
    name: &'a ServiceName,
    wanted: &'a RegionalService,
    /// How many of the new release shall run in the present state.
    target: usize,
    /// Instances of the new release, with how they are.
    new: Vec<(&'a Placement, Option<&'a InstanceStatus>)>,
    /// Instances of other releases that shall run, and how many of them are ready.
    rest: usize,
    rest_ready: usize,
}

impl Watched {
    /// To be called before each decision.
    pub(crate) fn look(&mut self, region: &RegionState, now: Instant) {
        let is_ready = |id: &InstanceId| region.statuses.get(id).is_some_and(|status| status.is_ready);
        self.ready.retain(|id, _| is_ready(id));
        for status in region.statuses.values().filter(|status| status.is_ready) {
            self.ready.entry(status.instance).or_insert(now);
        }
    }

    /// How long an instance has been ready without a break.
    pub(crate) fn ready_for(&self, instance: InstanceId, now: Instant) -> Option<Duration> {
        self.ready.get(&instance).map(|since| now.saturating_duration_since(*since))
    }

    /// Whether a deployment is under way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.apps.is_empty() || !self.hooks.is_empty()
    }

    /// How the deployments have come on. `unplaceable` says for which services there is no room, and why; `leases` what the edges
    /// have counted of them.
    pub(crate) fn advance(
        &mut self,
        region: &RegionState,
        unplaceable: &BTreeMap<ServiceRef, String>,
        leases: &LeaseTable,
        now: Instant,
    ) -> Vec<RegionCommand> {
        let mut commands = Vec::new();
        let (mut present, mut with_hooks) = (BTreeSet::new(), BTreeSet::new());
        for (app, definition) in region.definitions.iter() {
            let Some(deployment) = deployment_of(region, app, definition) else { continue };
            if deployment.state == DeploymentState::Failed && (deployment.from.is_some() || deployment.is_held()) {
                continue;
            }
            if deployment.state.hooks().is_some() {
                with_hooks.insert(app.clone());
                let seen = self.hooks.entry(app.clone()).or_insert_with(|| hooks::Seen::new(deployment, now));
                let no_room = |service: &ServiceRef| unplaceable.get(service).cloned();
                commands.extend(seen.advance(region, deployment, definition, no_room, now));
                continue;
            }
            present.insert(app.clone());
            let parts = parts(region, deployment, definition);
            let mark = self.mark(&parts, now);
            let seen = self.apps.entry(app.clone()).or_insert_with(|| Seen::new(deployment, now));
            if (seen.release, seen.state) != (deployment.release, deployment.state) {
                *seen = Seen::new(deployment, now);
            }
            if seen.mark != mark || deployment.is_paused {
                (seen.mark, seen.moved) = (mark, now);
            }
            let ready = &self.ready;
            let is_healthy = |part: &Part<'_>, instance: InstanceId| {
                let since = ready.get(&instance);
                since.is_some_and(|since| now.saturating_duration_since(*since) >= part.wanted.update.min_healthy)
            };
            let judged = judged(deployment, &parts, leases.counted());
            let too_many = judged.iter().find_map(|one| one.fails(deployment));
            let verdict = too_many.map(|why| (DeploymentState::Failed, why)).or_else(|| {
                let next = seen.judge(region, deployment, definition, &parts, unplaceable, &is_healthy, now)?;
                let unheard = gate::unheard(region, app, leases, now);
                let lack = judged.iter().find_map(|one| one.lack(deployment, &unheard));
                Some(seen.with_numbers(next, deployment, lack, now))
            });
            let is_said = |verdict: &(_, String)| (verdict.0, &verdict.1) == (deployment.state, &deployment.why);
            if let Some((state, why)) = verdict.filter(|verdict| !deployment.is_paused && !is_said(verdict)) {
                let (app, release) = (app.clone(), deployment.release);
                commands.push(RegionCommand::AdvanceDeployment { app, release, state, why });
            }
        }
        self.apps.retain(|app, _| present.contains(app));
        self.hooks.retain(|app, _| with_hooks.contains(app));
        commands
    }

    fn mark(&self, parts: &[Part<'_>], now: Instant) -> Mark {
        let mut mark = Mark::default();
        for part in parts {
            mark.left += part.rest;
            for (placement, status) in &part.new {
                let time = self.ready_for(placement.instance, now);
                mark.healthy += usize::from(time.is_some_and(|time| time >= part.wanted.update.min_healthy));
                if let Some(status) = status.filter(|status| status.phase == Phase::Pulling) {
                    mark.fetched.insert((placement.instance, status.message.clone()));
                }
            }
        }
        mark
    }
}

impl Seen {
    fn new(deployment: &Deployment, now: Instant) -> Self {
        let (failing, no_room, settled, unheard, mark) = Default::default();
        Self {
            release: deployment.release,
            state: deployment.state,
            mark,
            moved: now,
            failing,
            no_room,
            settled,
            unheard,
        }
    }

    /// The state that comes next, and why; none: it stays.
    #[allow(clippy::too_many_arguments, reason = "what is seen now, in one place")]
    fn judge(
        &mut self,
        region: &RegionState,
        deployment: &Deployment,
        definition: &RegionalDefinition,
        parts: &[Part<'_>],
        unplaceable: &BTreeMap<ServiceRef, String>,
        is_healthy: &dyn Fn(&Part<'_>, InstanceId) -> bool,
        now: Instant,
    ) -> Option<(DeploymentState, String)> {
        let healthy = |part: &Part<'_>| part.new.iter().filter(|(one, _)| is_healthy(part, one.instance)).count();
        let is_settled = parts.iter().all(|part| {
            let is_last = deployment.state == DeploymentState::First || part.rest == 0;
            healthy(part) >= part.target && is_last
        });
        // What is taken back runs what was good before: no service is changed by it, and yet it is not out while others run.
        if is_settled && !(deployment.is_return && has_others(region, definition)) {
            let since = *self.settled.get_or_insert(now);
            self.failing.clear();
            return next(deployment, definition, parts, now.saturating_duration_since(since));
        }
        self.settled = None;
        let failure =
            self.relapse(region, parts, is_healthy, now).or_else(|| self.lack(deployment, parts, unplaceable, now));
        // Without a release before it, it may still get well, and nothing is gained by calling it lost early.
        let failure = failure.filter(|_| deployment.from.is_some()).or_else(|| {
            let deadline = parts.iter().map(|part| part.wanted.update.deadline).max()?;
            let is_over = now.saturating_duration_since(self.moved) >= deadline;
            is_over.then(|| stuck(deployment, parts, unplaceable, deadline))
        });
        failure.filter(|_| deployment.state != DeploymentState::Failed).map(|why| (DeploymentState::Failed, why))
    }

    /// A step that is taken when nothing speaks against it waits while edges that are not heard of may have something to say. Not for
    /// ever: then first instances are not promoted, and what has been out and watched for as long is good.
    fn with_numbers(
        &mut self,
        (state, why): (DeploymentState, String),
        deployment: &Deployment,
        lack: Option<Lack>,
        now: Instant,
    ) -> (DeploymentState, String) {
        let is_judged = matches!(
            (deployment.state, state),
            (DeploymentState::First, DeploymentState::Going) | (DeploymentState::Baking, DeploymentState::Done)
        );
        let Some(lack) = lack.filter(|_| is_judged) else {
            self.unheard = None;
            return (state, why);
        };
        let since = *self.unheard.get_or_insert(now);
        if now.saturating_duration_since(since) < lack.deadline {
            return (deployment.state, format!("waits for {}", lack.what));
        }
        let time = insula_types::definition::format_duration(lack.deadline);
        let why = format!("waited {time} for {}", lack.what);
        let end = if deployment.state == DeploymentState::First { DeploymentState::Failed } else { state };
        (end, why)
    }

    /// An instance that does not get well, in words.
    fn relapse(
        &mut self,
        region: &RegionState,
        parts: &[Part<'_>],
        is_healthy: &dyn Fn(&Part<'_>, InstanceId) -> bool,
        now: Instant,
    ) -> Option<String> {
        let mut failing = BTreeMap::new();
        let mut worst = None;
        for part in parts {
            for (placement, status) in &part.new {
                let Some(status) = status.filter(|_| is_well(region, placement)) else { continue };
                let is_left =
                    status.phase == Phase::Stopped && part.wanted.spec.restart.policy != RestartPolicy::Always;
                let had_its_chance =
                    status.was_ready || status.restarts > 0 || status.phase == Phase::Backoff || is_left;
                if is_healthy(part, placement.instance) || !had_its_chance {
                    continue;
                }
                let since = self.failing.get(&placement.instance).copied().unwrap_or(now);
                failing.insert(placement.instance, since);
                let time = now.saturating_duration_since(since);
                let service = ServiceRef::new(placement.service.app.clone(), part.name.clone());
                let said = if status.message.is_empty() { "its check fails" } else { &status.message };
                let what = if status.was_ready {
                    // When all are unready together, old and new, the release is hardly what is wrong (rule R10).
                    let is_suspect = part.rest > 0 && part.rest_ready == 0;
                    let is_over = time >= part.wanted.update.min_healthy + RELAPSE_WAIT && !is_suspect;
                    is_over.then(|| "was ready and did not stay so".to_owned())
                } else if is_left {
                    (time >= BEGIN_WAIT).then(|| "did not get ready before it ended".to_owned())
                } else if status.restarts >= RESTARTS_MAX {
                    Some(format!("ended {} times without getting ready", status.restarts + 1))
                } else if status.restarts == 0 && status.phase == Phase::Backoff {
                    (time >= BEGIN_WAIT).then(|| "cannot be started".to_owned())
                } else {
                    None
                };
                let node =
                    region.nodes.get(&placement.node).map_or_else(String::new, |node| format!(" on {}", node.name));
                worst =
                    worst.or_else(|| what.map(|what| format!("{service} {}{node} {what}: {said}", placement.instance)));
            }
        }
        self.failing = failing;
        worst
    }

    /// A service for which there is no room, in words.
    fn lack(
        &mut self,
        deployment: &Deployment,
        parts: &[Part<'_>],
        unplaceable: &BTreeMap<ServiceRef, String>,
        now: Instant,
    ) -> Option<String> {
        let mut no_room = BTreeMap::new();
        let mut lack = None;
        for part in parts {
            let Some(why) = unplaceable.get(&ServiceRef::new(deployment.app.clone(), part.name.clone())) else {
                continue;
            };
            let since = self.no_room.get(part.name).copied().unwrap_or(now);
            no_room.insert(part.name.clone(), since);
            if now.saturating_duration_since(since) >= ROOM_WAIT {
                lack = lack.or_else(|| Some(why.clone()));
            }
        }
        self.no_room = no_room;
        lack
    }
}

/// What comes after a state in which all has been as it shall be for `time`.
fn next(
    deployment: &Deployment,
    definition: &RegionalDefinition,
    parts: &[Part<'_>],
    time: Duration,
) -> Option<(DeploymentState, String)> {
    let bake = parts.iter().map(|part| part.wanted.update.bake).max().unwrap_or_default();
    let said = |text: &str| text.to_owned();
    let good = match deployment.has_hooks(HookKind::After) {
        true => DeploymentState::After,
        false => DeploymentState::Done,
    };
    match deployment.state {
        DeploymentState::First => {
            let first = parts.iter().filter(|part| part.target > 0);
            let is_manual = first.map(|part| part.wanted.update.promotion()).any(|by| by == Promotion::Manual);
            (!is_manual && time >= bake).then(|| (DeploymentState::Going, said("its first instances were good")))
        }
        DeploymentState::Going if deployment.from.is_none() || deployment.is_return || bake.is_zero() => {
            Some((good, String::new()))
        }
        DeploymentState::Going => Some((DeploymentState::Baking, String::new())),
        DeploymentState::Baking => (time >= bake).then(|| (good, String::new())),
        DeploymentState::Failed if deployment.from.is_none() => {
            Some((good, format!("all {} services got ready after all", definition.services.len())))
        }
        DeploymentState::Before | DeploymentState::After | DeploymentState::Failed | DeploymentState::Done => None,
    }
}

/// Why nothing has moved for so long.
fn stuck(
    deployment: &Deployment,
    parts: &[Part<'_>],
    unplaceable: &BTreeMap<ServiceRef, String>,
    deadline: Duration,
) -> String {
    let of = |part: &&Part<'_>| unplaceable.get(&ServiceRef::new(deployment.app.clone(), part.name.clone())).cloned();
    let message = |part: &Part<'_>| {
        let said = part.new.iter().filter_map(|(placement, status)| {
            let status = status.filter(|status| !status.is_ready && !status.message.is_empty())?;
            Some(format!("{} {}: {}", placement.service, placement.instance, status.message))
        });
        said.into_iter().next()
    };
    let why = parts.iter().find_map(|part| of(&part).or_else(|| message(part)));
    let time = insula_types::definition::format_duration(deadline);
    match why {
        Some(why) => format!("nothing got on for {time}: {why}"),
        None => format!("nothing got on for {time}"),
    }
}

/// The services that the release runs in another way than the one before.
fn parts<'a>(region: &'a RegionState, deployment: &Deployment, definition: &'a RegionalDefinition) -> Vec<Part<'a>> {
    let changed = definition.services.iter().filter(|(name, wanted)| deployment.changes(name, &wanted.spec));
    changed
        .map(|(name, wanted)| {
            let service = ServiceRef::new(definition.app.clone(), name.clone());
            let each = || each_node::wanted(region, &service, &wanted.spec);
            let scale = wanted.scale.count().map_or_else(each, |count| count as usize);
            let target = match deployment.state {
                DeploymentState::First => {
                    deployment.first_instances(name, &wanted.update, wanted.scale).map_or(0, |n| n as usize)
                }
                _ => scale,
            };
            let mine = region.placements.values().filter(|one| one.desired == Desired::Run && one.hook.is_none());
            let mine = mine.filter(|one| one.service.app == definition.app && one.service.service == *name);
            let (new, rest): (Vec<_>, Vec<_>) = mine.partition(|one| one.spec == wanted.spec);
            let status = |one: &'a Placement| (one, region.statuses.get(&one.instance));
            let rest_ready = rest.iter().filter(|one| status(one).1.is_some_and(|status| status.is_ready)).count();
            Part { name, wanted, target, new: new.into_iter().map(status).collect(), rest: rest.len(), rest_ready }
        })
        .collect()
}

/// Whether anything of another release than this runs where it could be taken away.
fn has_others(region: &RegionState, definition: &RegionalDefinition) -> bool {
    let mine =
        |one: &&Placement| one.service.app == definition.app && one.desired == Desired::Run && one.hook.is_none();
    let is_other =
        |one: &Placement| definition.services.get(&one.service.service).is_none_or(|wanted| wanted.spec != one.spec);
    let is_up = |one: &&Placement| region.nodes.get(&one.node).is_some_and(|node| node.health.is_up());
    region.placements.values().filter(mine).filter(is_up).any(is_other)
}

/// Whether an instance's node lets it run.
fn is_well(region: &RegionState, placement: &Placement) -> bool {
    region.nodes.get(&placement.node).is_some_and(|node| node.health.is_up() && !node.is_draining)
}
