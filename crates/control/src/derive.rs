//! What this region shall run, derived from the global state. Written by the region's own leader, so that everything
//! below works from the region's state alone.

use std::collections::{BTreeMap, BTreeSet};

use insula_state::{GlobalState, RegionCommand, RegionState};
use insula_types::{AppName, RegionName, RegionalDefinition, Scale, SecretName, SecretVersion, ServiceSpec};

/// Instances of a service that nobody gave a scale.
const SCALE_DEFAULT: Scale = Scale::Count(1);

/// What brings the region's definitions to what the world wants. `global` must be as new as any copy that was derived
/// from before; a copy that holds nothing at all says nothing.
pub fn reconcile(global: &GlobalState, region: &RegionState) -> Vec<RegionCommand> {
    if global.meta.is_none() {
        return Vec::new();
    }
    let own = region.meta.as_ref().map(|meta| &meta.region);
    if own.is_some_and(|own| !global.regions.contains(own)) {
        // A world in which this region is not says nothing of it (rule R10).
        return Vec::new();
    }
    let gone = region.definitions.iter().map(|(app, _)| app).filter(|app| !global.apps.contains(app));
    let mut commands: Vec<_> = gone.map(|app| RegionCommand::RemoveDefinition { app: app.clone() }).collect();
    for (app, _) in global.apps.iter() {
        // An app whose release is not there cannot be made by the global state; it stays as it is (rule R2).
        let Some(wanted) = definition(global, own, app) else { continue };
        let present = region.definitions.get(app);
        if wanted.services.is_empty() {
            // All of it runs in other regions.
            if present.is_some_and(|present| present.release <= wanted.release) {
                commands.push(RegionCommand::RemoveDefinition { app: app.clone() });
            }
            continue;
        }
        if present.is_none_or(|present| *present != wanted && present.release <= wanted.release) {
            commands.extend(set_definition(global, region, wanted));
        }
    }
    commands
}

/// Brings what the region lacks of files and secrets with it. None while this copy of the global state lacks it too (rule R2).
fn set_definition(global: &GlobalState, region: &RegionState, definition: RegionalDefinition) -> Option<RegionCommand> {
    let specs: Vec<&ServiceSpec> = definition.services.values().map(|service| &service.spec).collect();
    if !specs.iter().any(|spec| spec.has_contents()) {
        return Some(RegionCommand::SetDefinition(definition));
    }
    let app = &definition.app;
    let files = specs.iter().flat_map(|spec| &spec.files).map(|file| (app.clone(), file.content));
    let lacking = files.filter(|id| !region.contents.contains(id));
    let contents = lacking.map(|id| Some((id.1, global.contents.get(&id)?.clone()))).collect::<Option<_>>()?;
    let named: BTreeSet<_> = specs.iter().flat_map(|spec| &spec.secrets).collect();
    let lacking = named
        .into_iter()
        .filter(|(name, version)| !region.secrets.contains(&(app.clone(), (*name).clone(), **version)));
    let sealed = |(name, version): (&SecretName, &SecretVersion)| {
        let value = global.secrets.get(&(app.clone(), name.clone()))?.versions.get(version)?;
        let own = &region.meta.as_ref()?.region;
        Some((name.clone(), *version, value.sealed.get(own)?.clone()))
    };
    let secrets = lacking.map(sealed).collect::<Option<_>>()?;
    Some(RegionCommand::SetDefinitionWith { definition, contents, secrets })
}

/// An app's definition for a region: what runs in others is not in it. A region that does not know its name yet has what names none.
fn definition(global: &GlobalState, own: Option<&RegionName>, app: &AppName) -> Option<RegionalDefinition> {
    let present = global.apps.get(app)?;
    let release = global.current_release(app)?;
    let services: BTreeMap<_, _> = release
        .services
        .iter()
        .filter(|(name, _)| {
            let regions = release.regions_of(name);
            own.map_or_else(|| regions.names().next().is_none(), |own| global.regions_for(&regions).contains(own))
        })
        .filter_map(|(name, _)| {
            let scale = present.running_scale(name, own).unwrap_or(SCALE_DEFAULT);
            Some((name.clone(), release.regional(name, own, scale)?))
        })
        .collect();
    Some(RegionalDefinition { app: app.clone(), release: release.number, services, again_of: release.again_of })
}
