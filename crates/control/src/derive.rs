//! What this region shall run, derived from the global state. Written by the region's own leader, so that everything
//! below works from the region's state alone.

use std::collections::BTreeMap;

use insula_state::{GlobalState, RegionCommand, RegionState};
use insula_types::{AppName, RegionalDefinition, RegionalService};

/// Instances of a service that nobody gave a scale.
const SCALE_DEFAULT: u32 = 1;

/// What brings the region's definitions to what the world wants. `global` must be as new as any copy that was derived
/// from before; a copy that holds nothing at all says nothing.
pub fn reconcile(global: &GlobalState, region: &RegionState) -> Vec<RegionCommand> {
    if global.meta.is_none() {
        return Vec::new();
    }
    let gone = region.definitions.iter().map(|(app, _)| app).filter(|app| !global.apps.contains(app));
    let mut commands: Vec<_> = gone.map(|app| RegionCommand::RemoveDefinition { app: app.clone() }).collect();
    for (app, _) in global.apps.iter() {
        // An app whose release is not there cannot be made by the global state; it stays as it is (rule R2).
        let Some(wanted) = definition(global, app) else { continue };
        let present = region.definitions.get(app);
        if present.is_none_or(|present| *present != wanted && present.release <= wanted.release) {
            commands.push(RegionCommand::SetDefinition(wanted));
        }
    }
    commands
}

/// An app's definition for a region.
fn definition(global: &GlobalState, app: &AppName) -> Option<RegionalDefinition> {
    let scale = &global.apps.get(app)?.scale;
    let release = global.current_release(app)?;
    let services: BTreeMap<_, _> = release
        .services
        .iter()
        .map(|(name, spec)| {
            let scale = scale.get(name).copied().unwrap_or(SCALE_DEFAULT);
            (name.clone(), RegionalService { spec: spec.clone(), scale })
        })
        .collect();
    Some(RegionalDefinition { app: app.clone(), release: release.number, services })
}
