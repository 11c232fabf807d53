//! Releases: which there are, how they come out, and how they are taken back.

use insula_api::{
    Answer, Code, Problem, RestartRequest, RollbackRequest, RunningRequest, SteerRequest, changes, regional_changes,
    wire::{
        self, Change, ChangeKind, DeployAnswer, Hook, List, PlannedHook, Release, ReleaseDefinition, ReleaseOutcome,
        Running, Steered, Steering, Versioned,
    },
};
use insula_state::{GlobalCommand, GlobalState, RegionCommand, RegionState, global::GlobalReply, region};
use insula_types::{
    AppName, Deployment, DeploymentState, HookRun, Promotion, RegionalDefinition, ReleaseNumber, RequestId,
    ServiceName, ServiceRef, ServiceSpec,
};

use super::{
    NodeApi,
    apps::{definition_of, no_such_app, no_such_service},
};

/// What is said of a release that a person took back.
const ASKED_BACK: &str = "somebody asked for it back";

fn no_such_release(app: &AppName, number: ReleaseNumber) -> Problem {
    let said = format!("{app} has no release {number}: `insula releases {app}` lists those that are kept");
    Problem::new(Code::NoSuchRelease, said)
}

impl NodeApi {
    pub(super) fn list_releases(&self, app: &AppName) -> Answer<List<Release>> {
        self.global.replica().read_at(|global, revision| {
            let current = global.apps.get(app).ok_or_else(|| no_such_app(app))?.release;
            let mut items: Vec<_> = releases(global, app).map(|release| shown(global, app, release, current)).collect();
            items.reverse();
            Ok(List { revision, items })
        })
    }

    pub(super) fn show_release(&self, app: &AppName, number: ReleaseNumber) -> Answer<Versioned<ReleaseDefinition>> {
        self.global.replica().read_at(|global, revision| {
            let current = global.apps.get(app).ok_or_else(|| no_such_app(app))?.release;
            let release = global.releases.get(&(app.clone(), number));
            let found = release.zip(definition_of(global, app, number));
            let (release, definition) = found.ok_or_else(|| no_such_release(app, number))?;
            let value = ReleaseDefinition {
                app: app.clone(),
                release: number,
                released_ms: release.created_ms,
                is_current: number == current,
                definition: definition.to_json(),
            };
            Ok(Versioned { revision, value })
        })
    }

    pub(super) async fn roll_back(&self, request: RollbackRequest) -> Answer<Versioned<DeployAnswer>> {
        let RollbackRequest { app, to, is_plan, expected, request } = request;
        let (from, to, (changes, regions), wanted, revision) = self.global.replica().read_at(|global, revision| {
            let from = global.apps.get(&app).ok_or_else(|| no_such_app(&app))?.release;
            if let Some(expected) = expected.filter(|expected| *expected != from) {
                let detail = format!("{app} is at release {from}, not {expected}: look at what changed and try again");
                return Err(Problem::new(Code::ReleaseChanged, detail));
            }
            let to = to.or_else(|| last_good(global, &app)).ok_or_else(|| {
                let said =
                    format!("{app} has no release before {from} that was good: `insula releases {app}` lists them");
                Problem::new(Code::NoSuchRelease, said)
            })?;
            let wanted = definition_of(global, &app, to).ok_or_else(|| no_such_release(&app, to))?;
            let present = definition_of(global, &app, from);
            let changes = changes(present.as_ref(), &wanted);
            let regions = regional_changes(present.as_ref(), &wanted, |wanted| global.regions_for(wanted));
            Ok((from, to, (changes, regions), wanted, revision))
        })?;
        // A release names the versions of its secrets already.
        let warnings = self.warnings(&wanted, &wanted.to_release()).await;
        let answer = |release, changes| DeployAnswer {
            app: app.clone(),
            release,
            previous: Some(from),
            changes,
            regions,
            is_plan,
            // A release has the digests of its time.
            resolved: Vec::new(),
            warnings,
            // The way back has none.
            hooks: Vec::new(),
        };
        if is_plan {
            let release = ReleaseNumber(from.0 + u64::from(!changes.is_empty()));
            return Ok(Versioned { revision, value: answer(release, changes) });
        }
        let command = GlobalCommand::Rollback { app: app.clone(), to, from, why: ASKED_BACK.to_owned() };
        Ok(self.make_release(request, &command).await?.map(|(release, _)| answer(release, changes)))
    }

    pub(super) async fn restart_app(&self, request: RestartRequest) -> Answer<Versioned<DeployAnswer>> {
        let RestartRequest { app, service, is_plan, expected, request } = request;
        let (from, changes, revision) = self.global.replica().read_at(|global, revision| {
            let present = global.current_release(&app).ok_or_else(|| no_such_app(&app))?;
            if let Some(expected) = expected.filter(|expected| *expected != present.number) {
                let found = present.number;
                let detail = format!("{app} is at release {found}, not {expected}: look at what changed and try again");
                return Err(Problem::new(Code::ReleaseChanged, detail));
            }
            check_service(&app, service.as_ref(), present.services.keys())?;
            let chosen =
                present.services.iter().filter(|(name, _)| service.as_ref().is_none_or(|service| service == *name));
            let change = |(name, spec): (&ServiceName, &ServiceSpec)| Change {
                path: format!("services.{name}.restarts"),
                kind: ChangeKind::Changed,
                from: spec.restarted.into(),
                to: spec.restarted.saturating_add(1).into(),
            };
            Ok((present.number, chosen.map(change).collect::<Vec<_>>(), revision))
        })?;
        // New instances of what is known to be good need none; what is tried again does.
        let hooks = self.hooks_of_restart(&app, service.as_ref());
        let answer = |release, changes| DeployAnswer {
            app: app.clone(),
            release,
            previous: Some(from),
            changes,
            regions: Vec::new(),
            is_plan,
            resolved: Vec::new(),
            // As much runs afterwards as now.
            warnings: Vec::new(),
            hooks: hooks.clone(),
        };
        if is_plan {
            return Ok(Versioned { revision, value: answer(ReleaseNumber(from.0 + 1), changes) });
        }
        let command = GlobalCommand::Restart { app: app.clone(), service, from };
        Ok(self.make_release(request, &command).await?.map(|(release, _)| answer(release, changes)))
    }

    /// Commits a command that makes a release: a deploy, a roll-back, a restart. Gives the release that the app is at then, and
    /// whether it is a new one.
    pub(super) async fn make_release(
        &self,
        request: Option<RequestId>,
        command: &GlobalCommand,
    ) -> Answer<Versioned<(ReleaseNumber, bool)>> {
        let committed = self.change(&self.global, request, command).await?;
        match committed.reply {
            GlobalReply::Deployed { release, is_new } => {
                Ok(Versioned { revision: committed.revision, value: (release, is_new) })
            }
            GlobalReply::Done | GlobalReply::SecretSet { .. } => {
                Err(Problem::new(Code::Internal, "what makes a release was answered like another command"))
            }
        }
    }

    pub(super) async fn stop_or_start(&self, request: RunningRequest) -> Answer<Versioned<Running>> {
        let RunningRequest { app, service, is_running, request } = request;
        let stopped = |global: &GlobalState| global.apps.get(&app).map(|found| found.stopped.clone());
        let before = self.global.read(|global| {
            let found = global.apps.get(&app).ok_or_else(|| no_such_app(&app))?;
            check_service(&app, service.as_ref(), found.scale.keys())?;
            Answer::Ok(found.stopped.clone())
        })?;
        let command = GlobalCommand::SetStopped { app: app.clone(), service, is_stopped: !is_running };
        let committed = self.change(&self.global, request, &command).await?;
        let after = self.global.read(stopped).unwrap_or_default();
        let is_new = after != before;
        let value = Running { app: app.clone(), stopped: after.into_iter().collect(), is_new };
        Ok(Versioned { revision: committed.revision, value })
    }

    pub(super) fn list_deployments(&self, app: &AppName) -> Answer<List<wire::Deployment>> {
        if !self.global.read(|global| global.apps.contains(app)) {
            return Err(no_such_app(app));
        }
        self.region
            .replica()
            .read_at(|region, revision| Ok(List { revision, items: deployment(region, app).into_iter().collect() }))
    }

    pub(super) async fn steer_deployment(&self, request: SteerRequest) -> Answer<Versioned<Steered>> {
        let SteerRequest { app, steering, expected, request } = request;
        let present = self.region.read(|region| region.deployments.get(&app).map(|deployment| deployment.release));
        let Some(release) = expected.or(present) else {
            if !self.global.read(|global| global.apps.contains(&app)) {
                return Err(no_such_app(&app));
            }
            let said = format!("no release of {app} is being rolled out here");
            return Err(Problem::new(Code::NothingToSteer, said));
        };
        let steering = match steering {
            Steering::Pause => region::Steering::Pause,
            Steering::Resume => region::Steering::Resume,
            Steering::Promote => region::Steering::Promote,
            Steering::Abort => region::Steering::Abort,
        };
        let command = RegionCommand::SteerDeployment { app: app.clone(), release, steering };
        let committed = self.change(&self.region, request, &command).await?;
        let deployment = self.region.read(|region| deployment(region, &app)).ok_or_else(|| no_such_app(&app))?;
        Ok(Versioned { revision: committed.revision, value: Steered { app, deployment } })
    }
}

fn check_service<'a>(
    app: &AppName,
    service: Option<&ServiceName>,
    mut known: impl Iterator<Item = &'a ServiceName>,
) -> Answer<()> {
    match service {
        Some(service) if !known.any(|known| known == service) => {
            Err(no_such_service(&ServiceRef::new(app.clone(), service.clone())))
        }
        _ => Ok(()),
    }
}

/// How far the region is with an app's release; none when it has none, or not all programs know of that.
pub(super) fn deployment(region: &RegionState, app: &AppName) -> Option<wire::Deployment> {
    let (definition, deployment) = (region.definitions.get(app)?, region.deployments.get(app)?);
    let shall_return = Deployment { state: DeploymentState::Failed, ..deployment.clone() }.shall_return(definition);
    Some(wire::Deployment {
        region: region.meta.as_ref()?.region.clone(),
        release: deployment.release,
        from: deployment.from.as_ref().map(|from| from.release),
        state: deployment.state,
        is_paused: deployment.is_paused,
        waits_for_promotion: deployment.state == DeploymentState::First && is_manual(deployment, definition),
        returns: shall_return,
        why: deployment.why.clone(),
        since_ms: deployment.since_ms,
        hooks: deployment.hooks.iter().map(|run| hook(region, run)).collect(),
    })
}

fn hook(region: &RegionState, run: &HookRun) -> Hook {
    Hook {
        service: run.service.clone(),
        hook: run.kind,
        state: run.state,
        tries: run.tries,
        instance: run.instance,
        node_name: run.node.and_then(|node| region.nodes.get(&node)).map(|node| node.name.clone()),
        why: run.why.clone(),
    }
}

/// What the region would run once for a definition.
pub(super) fn planned_hooks(region: &RegionState, definition: &RegionalDefinition) -> Vec<PlannedHook> {
    let app = &definition.app;
    let before = region.definitions.get(app).map(|present| (present, region.deployments.get(app)));
    let planned = |run: HookRun| {
        let hooks = &definition.services.get(&run.service)?.update.hooks;
        let command = hooks.command(run.kind)?.to_vec();
        Some(PlannedHook { service: run.service, hook: run.kind, command })
    };
    Deployment::begin(definition, before, 0).hooks.into_iter().filter_map(planned).collect()
}

fn is_manual(deployment: &Deployment, definition: &RegionalDefinition) -> bool {
    let mut services = definition.services.iter();
    services.any(|(name, service)| {
        let first = deployment.first_instances(name, &service.update, service.scale);
        deployment.changes(name, &service.spec) && first.is_some() && service.update.promotion() == Promotion::Manual
    })
}

fn releases<'a>(global: &'a GlobalState, app: &AppName) -> impl Iterator<Item = &'a insula_types::Release> {
    let name = app.clone();
    let all = global.releases.from((app.clone(), ReleaseNumber(0)));
    all.take_while(move |((of, _), ..)| *of == name).map(|(.., release)| release)
}

fn shown(global: &GlobalState, app: &AppName, release: &insula_types::Release, current: ReleaseNumber) -> Release {
    let told = global.outcomes.get(&(app.clone(), release.number));
    let outcome = |(region, outcome): (&insula_types::RegionName, &insula_state::global::ReleaseOutcome)| {
        ReleaseOutcome { region: region.clone(), state: outcome.state, why: outcome.why.clone(), at_ms: outcome.at_ms }
    };
    Release {
        number: release.number,
        released_ms: release.created_ms,
        is_current: release.number == current,
        again_of: release.again_of,
        why: release.why.clone(),
        outcomes: told.into_iter().flatten().map(outcome).collect(),
        images: release
            .services
            .keys()
            .filter_map(|name| Some((name.clone(), release.image_of(name)?.to_string())))
            .collect(),
    }
}

/// The last release before the present one that is another, and that no region has found bad.
fn last_good(global: &GlobalState, app: &AppName) -> Option<ReleaseNumber> {
    let current = global.current_release(app)?;
    let is_bad = |release: &insula_types::Release| {
        let told = global.outcomes.get(&(app.clone(), release.number));
        told.is_some_and(|told| told.values().any(|outcome| outcome.state == DeploymentState::Failed))
    };
    let is_other = |release: &&insula_types::Release| {
        release.number < current.number && !release.says_the_same(current) && !is_bad(release)
    };
    releases(global, app).filter(is_other).last().map(|release| release.number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use insula_state::{
        Domain,
        global::{App, GlobalKey, GlobalObject, ReleaseOutcome},
    };
    use insula_types::{Release, Revision, ServiceSpec};

    use super::*;

    #[test]
    fn the_last_good_release_is_neither_the_same_nor_one_that_failed() {
        let app: AppName = "shop".parse().expect("a name");
        let mut global = GlobalState::default();
        for (number, tag, state) in [
            (1, "a", Some(DeploymentState::Done)),
            (2, "b", None),
            (3, "c", Some(DeploymentState::Failed)),
            (4, "d", Some(DeploymentState::Done)),
            (5, "d", Some(DeploymentState::Done)),
        ] {
            let spec = ServiceSpec { command: vec![tag.to_owned()], ..ServiceSpec::default() };
            let number = ReleaseNumber(number);
            let services = BTreeMap::from([("web".parse().expect("a name"), spec)]);
            let id = (app.clone(), number);
            let made = Release { number, services, ..Release::default() };
            global.absorb(Revision(1), GlobalKey::Release(id.clone()), Some(GlobalObject::Release(made)));
            if let Some(state) = state {
                let outcome = ReleaseOutcome { state, why: String::new(), at_ms: 0 };
                let outcomes = BTreeMap::from([("fra".parse().expect("a name"), outcome)]);
                global.absorb(Revision(1), GlobalKey::Outcome(id), Some(GlobalObject::Outcome(outcomes)));
            }
            let present = App::new(app.clone(), number, BTreeMap::new());
            global.absorb(Revision(1), GlobalKey::App(app.clone()), Some(GlobalObject::App(present)));
        }
        assert_eq!(last_good(&global, &app), Some(ReleaseNumber(2)), "it was not found bad");
        let first = App::new(app.clone(), ReleaseNumber(1), BTreeMap::new());
        global.absorb(Revision(2), GlobalKey::App(app.clone()), Some(GlobalObject::App(first)));
        assert_eq!(last_good(&global, &app), None);
    }
}
