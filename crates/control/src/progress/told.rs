//! What the world is told of deployments.

use insula_state::{GlobalCommand, GlobalState, RegionState, global::ReleaseOutcome};
use insula_types::DeploymentState;

/// What the world has to know: which releases shall come back, and what became of releases here.
pub(crate) fn tell_world(global: &GlobalState, region: &RegionState) -> Vec<GlobalCommand> {
    let Some(meta) = &region.meta else { return Vec::new() };
    let mut commands = Vec::new();
    for (app, definition) in region.definitions.iter() {
        let Some(deployment) =
            region.deployments.get(app).filter(|deployment| deployment.release == definition.release)
        else {
            continue;
        };
        let told = |release| {
            let id = (app.clone(), release);
            let known = global.releases.contains(&id);
            known.then(|| global.outcomes.get(&id).and_then(|regions| regions.get(&meta.region)))
        };
        let mut report = |release, state, why: &str| {
            let (app, region) = (app.clone(), meta.region.clone());
            let outcome = ReleaseOutcome { state, why: why.to_owned(), at_ms: 0 };
            commands.push(GlobalCommand::ReportOutcome { app, release, region, outcome });
        };
        // What the region may have to go back to is kept for as long as the world knows that it is good here. That may not have been told
        // before the next release came.
        let good = deployment.from.as_ref().map(|from| from.release);
        if let Some(good) = good
            .filter(|good| told(*good).is_some_and(|told| told.is_none_or(|told| told.state != DeploymentState::Done)))
        {
            report(good, DeploymentState::Done, "");
        }
        let Some(told) = told(deployment.release).filter(|_| deployment.state.is_over()) else { continue };
        if told.is_none_or(|told| (told.state, &told.why) != (deployment.state, &deployment.why)) {
            report(deployment.release, deployment.state, &deployment.why);
        }
        let is_current = global.apps.get(app).is_some_and(|known| known.release == deployment.release);
        if let Some(from) = deployment.from.as_ref().filter(|_| is_current && deployment.shall_return(definition)) {
            let why = format!("release {} failed in {}: {}", deployment.release, meta.region, deployment.why);
            commands.push(GlobalCommand::Rollback {
                app: app.clone(),
                to: from.release,
                from: deployment.release,
                why,
            });
        }
    }
    commands
}
