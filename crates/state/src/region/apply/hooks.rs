//! Decides on hooks of deployments.

use insula_types::{AppName, Deployment, HookKind, HookRun, HookState, Placement, ReleaseNumber, ServiceName};

use super::{Apply, Decision};
use crate::{Conflict, Rejection, region::RegionReply};

impl Apply<'_> {
    /// The deployment whose next hook a placement is for.
    fn awaits(&self, placement: &Placement) -> Option<&Deployment> {
        let deployment = self.state.deployments.get(&placement.service.app)?;
        let is_it = |run: &&HookRun| {
            run.state == HookState::Due && run.service == placement.service.service && Some(run.kind) == placement.hook
        };
        let is_next = deployment.release == placement.release && deployment.hook().filter(is_it).is_some();
        Some(deployment).filter(|deployment| is_next && !deployment.is_paused)
    }

    /// Refuses what would run a hook twice, or one that nobody waits for any more.
    pub(super) fn check_hook(&self, placement: &Placement) -> Result<(), Rejection> {
        let Some(hook) = placement.hook.filter(|_| self.awaits(placement).is_none()) else { return Ok(()) };
        let Placement { service, release, .. } = placement;
        let hook = hook.as_str();
        Err(Rejection::conflict(
            Conflict::Ours,
            format!("hook {hook} of {service} is not what release {release} waits for: look at it again"),
        ))
    }

    /// Notes who runs a hook.
    pub(super) fn begin_hook(&mut self, placement: &Placement) {
        let Some(deployment) = placement.hook.and_then(|_| self.awaits(placement)).cloned() else { return };
        let change = |run: &mut HookRun| {
            run.state = HookState::Running;
            run.tries = run.tries.saturating_add(1);
            run.instance = Some(placement.instance);
            run.node = Some(placement.node);
            run.spent_ms = 0;
            run.why.clear();
        };
        if let Some((changed, run)) = changed(&deployment, &placement.service.service, placement.hook, change) {
            let text = format!("runs {}, as {}", name(&run), placement.instance);
            self.tell_deployment(&deployment, &text);
            self.set_deployment(changed, deployment.state);
        }
    }

    pub(super) fn advance_hook(
        &mut self,
        (app, release): (&AppName, ReleaseNumber),
        (service, kind): (&ServiceName, HookKind),
        state: HookState,
        spent_ms: u64,
        why: &str,
    ) -> Decision {
        let Some(present) = self.state.deployments.get(app).filter(|present| present.release == release) else {
            return Ok(RegionReply::Done);
        };
        // One for which there is no room fails without ever having run.
        let may_change = |run: &HookRun| match run.state {
            HookState::Running => true,
            HookState::Due => state == HookState::Failed,
            HookState::Done | HookState::Failed => false,
        };
        let is_next = |run: &&HookRun| run.service == *service && run.kind == kind && may_change(run);
        if present.hook().filter(is_next).is_none() {
            return Ok(RegionReply::Done);
        }
        let change = |run: &mut HookRun| {
            run.state = state;
            run.spent_ms = spent_ms;
            why.clone_into(&mut run.why);
        };
        if let Some((changed, run)) = changed(present, service, Some(kind), change) {
            match state {
                HookState::Running => {}
                HookState::Due => self.tell_deployment(present, &format!("runs {} again: {why}", name(&run))),
                HookState::Done => self.tell_deployment(present, &format!("has run {}", name(&run))),
                HookState::Failed => self.tell_deployment(present, &format!("could not run {}: {why}", name(&run))),
            }
            self.set_deployment(changed, present.state);
        }
        Ok(RegionReply::Done)
    }
}

/// What runs when a deployment ends is stopped with it.
pub(super) fn end_hooks(deployment: &mut Deployment) {
    for run in deployment.hooks.iter_mut().filter(|run| run.state == HookState::Running) {
        run.state = HookState::Failed;
        "it was stopped with its deployment".clone_into(&mut run.why);
    }
}

/// A deployment with one of its hooks changed, and that hook.
fn changed(
    deployment: &Deployment,
    service: &ServiceName,
    kind: Option<HookKind>,
    change: impl FnOnce(&mut HookRun),
) -> Option<(Deployment, HookRun)> {
    let mut deployment = deployment.clone();
    let run = deployment.hooks.iter_mut().find(|run| run.service == *service && Some(run.kind) == kind)?;
    change(run);
    let run = run.clone();
    Some((deployment, run))
}

fn name(run: &HookRun) -> String {
    format!("hook {} of {}", run.kind.as_str(), run.service)
}
