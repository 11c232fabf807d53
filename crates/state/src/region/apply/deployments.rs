//! Decides on deployments.

use insula_types::{AppName, Deployment, DeploymentState, Level, RegionalDefinition, ReleaseNumber};

use super::{Apply, Decision, hooks::end_hooks};
use crate::{
    Conflict, Domain, Rejection,
    event::{Event, EventKind},
    region::{RegionKey, RegionObject, RegionReply, Steering},
};

/// From this level on all programs know deployments.
pub(super) const KNOWN: Level = Level(6);

impl Apply<'_> {
    /// A new release begins one; a new scale does not.
    pub(super) fn begin_deployment(&mut self, definition: &RegionalDefinition) {
        if self.state.level() < KNOWN {
            return;
        }
        let app = &definition.app;
        let present = self.state.definitions.get(app);
        if present.is_some_and(|present| present.release == definition.release) {
            return;
        }
        let before = present.map(|present| (present, self.state.deployments.get(app)));
        let deployment = Deployment::begin(definition, before, self.at_ms);
        self.out.put(RegionKey::Deployment(app.clone()), RegionObject::Deployment(deployment));
    }

    pub(super) fn forget_deployment(&mut self, app: &AppName) {
        if self.state.deployments.contains(app) {
            self.out.remove(RegionKey::Deployment(app.clone()));
        }
    }

    pub(super) fn advance_deployment(
        &mut self,
        app: &AppName,
        release: ReleaseNumber,
        state: DeploymentState,
        why: &str,
    ) -> Decision {
        let present = self.state.deployments.get(app);
        // A first release that failed has nothing to go back to, and may get well by itself.
        let may_change = |present: &&Deployment| {
            let gets_well = matches!(state, DeploymentState::After | DeploymentState::Done);
            !present.state.is_over() || present.state == DeploymentState::Failed && gets_well
        };
        if let Some(present) = present.filter(|present| present.release == release).filter(may_change)
            && (present.state != state || present.why != why)
        {
            self.set_deployment(Deployment { state, why: why.to_owned(), ..present.clone() }, present.state);
        }
        Ok(RegionReply::Done)
    }

    pub(super) fn steer_deployment(&mut self, app: &AppName, release: ReleaseNumber, steering: Steering) -> Decision {
        let Some(present) = self.state.deployments.get(app) else {
            return Err(Rejection::not_found(format!("no release of {app} is being rolled out")));
        };
        if present.release != release {
            let now = present.release;
            return Err(Rejection::conflict(
                Conflict::ReleaseChanged,
                format!("{app} is at release {now}, not {release}: look at it again"),
            ));
        }
        if present.state.is_over() {
            let how = if present.state == DeploymentState::Done { "is out" } else { "has failed" };
            return Err(Rejection::conflict(
                Conflict::NothingToSteer,
                format!("{app} release {release} {how} already: there is nothing to steer"),
            ));
        }
        let mut deployment = present.clone();
        match steering {
            Steering::Pause => deployment.is_paused = true,
            Steering::Resume => deployment.is_paused = false,
            Steering::Promote if present.state == DeploymentState::First => {
                (deployment.state, deployment.is_paused) = (DeploymentState::Going, false);
                deployment.why = "it was promoted".to_owned();
            }
            Steering::Promote => {
                let text =
                    format!("{app} release {release} is past its first instances already; there is nothing to promote");
                return Err(Rejection::conflict(Conflict::NothingToSteer, text));
            }
            Steering::Abort => {
                (deployment.state, deployment.is_paused, deployment.is_aborted) =
                    (DeploymentState::Failed, false, true);
                deployment.why = "it was aborted".to_owned();
            }
        }
        if deployment != *present {
            if deployment.is_paused != present.is_paused {
                let how = if deployment.is_paused { "is paused" } else { "goes on" };
                self.tell_deployment(&deployment, &format!("{how}, as somebody wants"));
            }
            self.set_deployment(deployment, present.state);
        }
        Ok(RegionReply::Done)
    }

    pub(super) fn set_deployment(&mut self, mut deployment: Deployment, before: DeploymentState) {
        if deployment.state != before {
            deployment.since_ms = self.at_ms;
            if deployment.state.is_over() {
                end_hooks(&mut deployment);
            }
            let how = match deployment.state {
                DeploymentState::Before => "runs its hooks before",
                DeploymentState::First => "tries its first instances",
                DeploymentState::Going => "goes on",
                DeploymentState::Baking => "runs, and is watched",
                DeploymentState::After => "is good, and runs its hooks after",
                DeploymentState::Done => "is out",
                DeploymentState::Failed => "failed",
            };
            let why = if deployment.why.is_empty() { String::new() } else { format!(": {}", deployment.why) };
            self.tell_deployment(&deployment, &format!("{how}{why}"));
        }
        if deployment.state == DeploymentState::Done {
            deployment.from = None;
        }
        self.out.put(RegionKey::Deployment(deployment.app.clone()), RegionObject::Deployment(deployment));
    }

    pub(super) fn tell_deployment(&mut self, deployment: &Deployment, what: &str) {
        let text = format!("{} release {} {what}", deployment.app, deployment.release);
        self.event(Event::new(self.at_ms, EventKind::Deployed, text).app(&deployment.app));
    }
}
