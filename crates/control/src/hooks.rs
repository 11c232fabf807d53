//! Hooks of deployments: which instance is to be placed for one, which is not wanted any more, and how one gets on.
//!
//! ```text
//! Due ─► an instance is placed ─► it ended with 0 ─► Done ─► the next hook, or the deployment goes on
//!  ▲                 │        └──► it ended otherwise, cannot begin, takes too long ─► Failed
//!  └─── its node was lost
//! ```
//! One hook of an app runs at a time, so that two migrations never meet. How long one has run is counted by the leader's own clock, and
//! said to the region's state now and then: the next leader goes on from there.

use std::{collections::BTreeMap, time::Duration};

use insula_env::clock::Instant;
use insula_state::{RegionCommand, RegionState};
use insula_types::{
    AppName, Deployment, DeploymentState, Desired, HookKind, HookRun, HookState, InstanceId, InstanceStatus, Phase,
    Placement, Priority, RegionalDefinition, RegionalService, ReleaseNumber, ServiceRef, ServiceSpec,
    definition::format_duration,
};

use crate::{
    placements::deployment_of,
    progress::{BEGIN_WAIT, ROOM_WAIT},
};

/// How often a hook is begun. More than once only when its node was lost, or the machine under it was started anew: then nobody can know
/// how far it came.
const TRIES_MAX: u32 = 3;
/// How often the region's state is told how long a hook has run: at most so much is lost with a leader.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// An instance to be placed for a hook.
pub(crate) struct Due {
    pub kind: HookKind,
    pub release: ReleaseNumber,
    pub spec: ServiceSpec,
    pub priority: Priority,
}

/// What runs meanwhile of services whose release may not be started yet: what was good before, or nothing.
pub(crate) type Held = BTreeMap<ServiceRef, Option<(ReleaseNumber, RegionalService)>>;

/// The deployments that are under way.
fn deployments(state: &RegionState) -> impl Iterator<Item = (&Deployment, &RegionalDefinition)> {
    state.definitions.iter().filter_map(|(app, definition)| Some((deployment_of(state, app, definition)?, definition)))
}

/// The services of which nothing new may be started, at the scale that they have now.
pub(crate) fn held(state: &RegionState) -> Held {
    let mut held = Held::new();
    for (deployment, definition) in deployments(state).filter(|(deployment, _)| deployment.is_held()) {
        let changed = definition.services.iter().filter(|(name, wanted)| deployment.changes(name, &wanted.spec));
        for (name, wanted) in changed {
            let from = deployment.from.as_ref();
            let old = from.and_then(|from| Some((from.release, from.services.get(name)?.spec.clone())));
            let old = old.map(|(release, spec)| (release, RegionalService { spec, ..wanted.clone() }));
            held.insert(ServiceRef::new(definition.app.clone(), name.clone()), old);
        }
    }
    held
}

/// The hooks for which an instance is to be placed now: at most one of an app, and none while one of it is still there.
pub(crate) fn due(state: &RegionState) -> BTreeMap<ServiceRef, Due> {
    let is_up = |one: &Placement| state.nodes.get(&one.node).is_some_and(|node| node.health.is_up());
    let is_free = |app: &AppName| {
        let mut placed = state.placements.values().filter(|one| one.hook.is_some() && one.service.app == *app);
        // Nobody knows whether one on a node that is lost still runs, nor for how long nobody will.
        !placed.any(is_up)
    };
    let due = deployments(state).filter_map(|(deployment, definition)| {
        let run = deployment.hook().filter(|run| run.state == HookState::Due && !deployment.is_paused)?;
        let wanted = definition.services.get(&run.service)?;
        let spec = wanted.spec.of_hook(wanted.update.hooks.command(run.kind)?);
        let service = ServiceRef::new(definition.app.clone(), run.service.clone());
        let due = Due { kind: run.kind, release: deployment.release, spec, priority: wanted.priority };
        is_free(&definition.app).then_some((service, due))
    });
    due.collect()
}

/// Instances that run a hook which has ended, or for which nobody waits any more.
pub(crate) fn unwanted(state: &RegionState) -> Vec<InstanceId> {
    let is_wanted = |one: &Placement| {
        let definition = state.definitions.get(&one.service.app);
        let deployment = definition.and_then(|definition| deployment_of(state, &one.service.app, definition));
        deployment.and_then(Deployment::hook).is_some_and(|run| run.is_run_by(one.instance))
    };
    let running = state.placements.values().filter(|one| one.hook.is_some() && one.desired != Desired::Stop);
    running.filter(|one| !is_wanted(one)).map(|one| one.instance).collect()
}

/// What a leader has seen of the hooks of one deployment.
#[derive(Debug)]
pub(crate) struct Seen {
    release: ReleaseNumber,
    run: Option<HookRun>,
    /// When it was looked at last, and how long the instance had run until then.
    at: Instant,
    spent: Duration,
    /// Since when it cannot be placed or started, or its image does not come, and what is said of that.
    stuck: Option<(Instant, Stuck)>,
}

/// Why a hook does not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stuck {
    NoRoom,
    Fails,
    /// What is said of how far its image is.
    Fetches(String),
}

/// How an instance that runs a hook is.
enum Look {
    Runs,
    Stuck(Stuck, String),
    Done,
    /// Nobody knows how far it came.
    Lost(String),
    Failed(String),
}

impl Seen {
    pub(crate) fn new(deployment: &Deployment, now: Instant) -> Self {
        Self { release: deployment.release, run: None, at: now, spent: Duration::ZERO, stuck: None }
    }

    /// How the hooks of a deployment have come on. `no_room` says why there is none for the next.
    pub(crate) fn advance(
        &mut self,
        region: &RegionState,
        deployment: &Deployment,
        definition: &RegionalDefinition,
        no_room: impl Fn(&ServiceRef) -> Option<String>,
        now: Instant,
    ) -> Option<RegionCommand> {
        let Some(run) = deployment.hook() else { return next(deployment, definition) };
        let wanted = definition.services.get(&run.service)?;
        let key = |run: &HookRun| (run.kind, run.service.clone(), run.state, run.tries);
        if self.release != deployment.release || self.run.as_ref().map(key) != Some(key(run)) {
            *self = Self { spent: Duration::from_millis(run.spent_ms), ..Self::new(deployment, now) };
        }
        self.run = Some(run.clone());
        let time = now.saturating_duration_since(self.at);
        self.at = now;
        let service = ServiceRef::new(definition.app.clone(), run.service.clone());
        let advance = |state, spent: Duration, why: String| RegionCommand::AdvanceHook {
            app: definition.app.clone(),
            release: deployment.release,
            service: run.service.clone(),
            hook: run.kind,
            state,
            spent_ms: u64::try_from(spent.as_millis()).unwrap_or(u64::MAX),
            why,
        };
        let failed = |spent, why: String| {
            let log = run.instance.filter(|_| run.state == HookState::Running);
            let log = log.map_or_else(String::new, |id| format!("; what it wrote: insula logs --instance {id}"));
            Some(advance(HookState::Failed, spent, format!("{} {why}{log}", name(region, &service, run))))
        };
        let look = match run.state {
            HookState::Due if deployment.is_paused => Look::Runs,
            HookState::Due => no_room(&service).map_or(Look::Runs, |why| Look::Stuck(Stuck::NoRoom, why)),
            _ => look(region, run),
        };
        if !matches!(look, Look::Stuck(..)) {
            self.stuck = None;
        }
        match look {
            Look::Done => Some(advance(HookState::Done, self.spent, String::new())),
            Look::Failed(why) => failed(self.spent, why),
            Look::Lost(why) if run.tries >= TRIES_MAX => failed(self.spent, format!("{why}, {TRIES_MAX} times")),
            Look::Lost(why) => {
                Some(advance(HookState::Due, self.spent, format!("{} {why}", name(region, &service, run))))
            }
            Look::Stuck(how, why) => {
                if self.stuck.as_ref().is_none_or(|(_, before)| *before != how) {
                    self.stuck = Some((now, how.clone()));
                }
                let since = self.stuck.as_ref().map_or(now, |(since, _)| *since);
                let has_good = deployment.from.is_some() || run.kind == HookKind::After;
                let (limit, what) = match how {
                    Stuck::NoRoom if has_good => (ROOM_WAIT, "has no place"),
                    Stuck::NoRoom => (wanted.update.deadline, "has no place"),
                    Stuck::Fails => (BEGIN_WAIT, "cannot be started"),
                    Stuck::Fetches(_) => (wanted.update.deadline, "does not get its image"),
                };
                let is_over = now.saturating_duration_since(since) >= limit;
                if is_over { failed(self.spent, format!("{what}: {why}")) } else { None }
            }
            Look::Runs if run.state == HookState::Due => None,
            Look::Runs => {
                self.spent += time;
                let limit = wanted.update.hooks.timeout;
                if self.spent >= limit {
                    return failed(self.spent, format!("had not ended after {}", format_duration(limit)));
                }
                let told = Duration::from_millis(run.spent_ms);
                let is_news = self.spent.saturating_sub(told) >= TELL_EVERY;
                is_news.then(|| advance(HookState::Running, self.spent, String::new()))
            }
        }
    }
}

/// How the instance of a hook that runs is.
fn look(region: &RegionState, run: &HookRun) -> Look {
    let placement = run.instance.and_then(|id| region.placements.get(&id));
    let Some(placement) = placement else { return Look::Lost("was taken away".to_owned()) };
    let status = region.statuses.get(&placement.instance);
    if status.is_some_and(|status| status.is_ready && status.phase == Phase::Stopped) {
        return Look::Done;
    }
    let is_up = region.nodes.get(&placement.node).is_some_and(|node| node.health.is_up());
    if !is_up || placement.desired != Desired::Run {
        return Look::Lost("was lost with its node".to_owned());
    }
    let Some(InstanceStatus { phase, restarts, message, .. }) = status else { return Look::Runs };
    match phase {
        Phase::Stopped => Look::Failed(message.clone()),
        _ if run.tries.saturating_add(*restarts) > TRIES_MAX => Look::Failed(format!("was lost {TRIES_MAX} times")),
        Phase::Pulling => Look::Stuck(Stuck::Fetches(message.clone()), message.clone()),
        Phase::Backoff if *restarts == 0 => Look::Stuck(Stuck::Fails, message.clone()),
        Phase::Pending | Phase::Starting | Phase::Running | Phase::Backoff => Look::Runs,
    }
}

/// What comes after the hooks of this state.
fn next(deployment: &Deployment, definition: &RegionalDefinition) -> Option<RegionCommand> {
    let failures = |kind| deployment.failed_hooks(kind).map(|run| run.why.as_str()).collect::<Vec<_>>().join("; ");
    let (state, why) = match deployment.state {
        _ if deployment.is_paused => return None,
        DeploymentState::Before if deployment.is_held() => (DeploymentState::Failed, failures(HookKind::Before)),
        DeploymentState::Before => (deployment.first_state(definition), String::new()),
        DeploymentState::After => (DeploymentState::Done, failures(HookKind::After)),
        _ => return None,
    };
    let (app, release) = (deployment.app.clone(), deployment.release);
    Some(RegionCommand::AdvanceDeployment { app, release, state, why })
}

/// A hook's name, with where it runs.
fn name(region: &RegionState, service: &ServiceRef, run: &HookRun) -> String {
    let node = run.node.filter(|_| run.state == HookState::Running).and_then(|node| region.nodes.get(&node));
    let node = node.map_or_else(String::new, |node| format!(" on {}", node.name));
    format!("{service}: hook {}{node}", run.kind.as_str())
}
