//! How many instances of a service run in each region: one number for all of them, and others for some. Neither is part of a release.

use std::collections::BTreeMap;

use insula_types::{AppName, RegionName, Scale, ServiceName};

use super::{Apply, Decision, chosen};
use crate::{
    Rejection,
    global::{GlobalKey, GlobalObject, GlobalReply, RegionalScale},
};

impl Apply<'_> {
    pub(super) fn scale(
        &mut self,
        name: &AppName,
        service: &ServiceName,
        scale: Scale,
        region: Option<&RegionName>,
    ) -> Decision {
        let present = self.app(name)?;
        chosen(present, Some(service))?;
        let mut app = present.clone();
        match region {
            None => {
                app.scale.insert(service.clone(), scale);
                app.regional_scale.remove(service);
            }
            Some(region) => {
                let wanted = self.state.current_release(name).map(|release| release.regions_of(service));
                let regions = self.state.regions_for(&wanted.unwrap_or_default());
                if !regions.contains(region) {
                    let known: Vec<_> = regions.iter().map(RegionName::as_str).collect();
                    let known = known.join(", ");
                    let said = format!("{name}/{service} does not run in region {region}; its regions are {known}");
                    return Err(Rejection::invalid(said));
                }
                app.regional_scale.entry(service.clone()).or_default().insert(region.clone(), scale);
            }
        }
        drop_general(&app.scale, &mut app.regional_scale);
        if app != *present {
            self.out.put(GlobalKey::App(name.clone()), GlobalObject::App(app));
        }
        Ok(GlobalReply::Done)
    }
}

/// What regions have of their own after a deploy that writes down these scales: a scale that is written without a region is said of
/// every region for which none is written.
pub(super) fn regional(
    scales: &BTreeMap<ServiceName, Scale>,
    kept: Option<&RegionalScale>,
    written: &BTreeMap<ServiceName, Scale>,
    written_of_regions: &RegionalScale,
) -> RegionalScale {
    let mut all = RegionalScale::new();
    let kept = kept.into_iter().flatten().filter(|(service, _)| !written.contains_key(*service));
    for (service, regions) in kept.chain(written_of_regions) {
        all.entry(service.clone()).or_default().extend(regions.iter().map(|(region, scale)| (region.clone(), *scale)));
    }
    all.retain(|service, _| scales.contains_key(service));
    drop_general(scales, &mut all);
    all
}

/// Regions that have the same number as the rest have none of their own.
fn drop_general(scales: &BTreeMap<ServiceName, Scale>, regional: &mut RegionalScale) {
    for (service, regions) in regional.iter_mut() {
        regions.retain(|_, scale| scales.get(service) != Some(scale));
    }
    regional.retain(|_, regions| !regions.is_empty());
}
