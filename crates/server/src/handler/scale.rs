//! Scales of services: for all regions, or for one.

use insula_api::{
    Answer, Code, Problem, ScaleRequest,
    wire::{Scaled, Versioned},
};
use insula_state::GlobalCommand;
use insula_types::{AppName, RegionName, Scale, ServiceName, ServiceRef, definition::refuse_each_node};

use super::{
    NodeApi,
    apps::{definition, no_such_app, no_such_service},
    regions,
};

impl NodeApi {
    pub(super) async fn set_scale(&self, request: ScaleRequest) -> Answer<Versioned<Scaled>> {
        let ScaleRequest { service: ServiceRef { app, service }, scale, region, request } = request;
        let previous = self.global.read(|global| {
            let found = global.apps.get(&app).ok_or_else(|| no_such_app(&app))?;
            if let Some(other) = region.as_ref().filter(|region| !global.regions.contains(*region)) {
                return Err(Problem::new(Code::NoSuchRegion, regions::unknown(other, global)));
            }
            let previous = found.scale_in(&service, region.as_ref());
            previous.ok_or_else(|| no_such_service(&ServiceRef::new(app.clone(), service.clone())))
        })?;
        if scale == Scale::EachNode {
            self.refuse_each_node(&app, &service, region.as_ref())?;
        }
        let warnings = self.warnings_of_scale(&app, &service, scale, region.as_ref()).await;
        let command =
            GlobalCommand::Scale { app: app.clone(), service: service.clone(), scale, region: region.clone() };
        let committed = self.change(&self.global, request, &command).await?;
        let value = Scaled { app, service, previous, scale, region, warnings };
        Ok(Versioned { revision: committed.revision, value })
    }

    fn refuse_each_node(&self, app: &AppName, service: &ServiceName, region: Option<&RegionName>) -> Answer<()> {
        let why = self.global.read(|global| {
            let release = global.current_release(app)?;
            if region.is_some() {
                return refuse_each_node(&release.regional(service, region, Scale::EachNode)?.spec);
            }
            let specs = release.specs_by_service().filter(|(name, _)| *name == service);
            specs.map(|(_, spec)| spec).find_map(refuse_each_node)
        });
        why.map_or(Ok(()), |why| Err(Problem::new(Code::InvalidDefinition, format!("{app}/{service}: {why}"))))
    }

    /// What this region would have no place for with another scale of a service. What it is elsewhere needs none here.
    async fn warnings_of_scale(
        &self,
        app: &AppName,
        service: &ServiceName,
        scale: Scale,
        region: Option<&RegionName>,
    ) -> Vec<String> {
        let Some(mut wanted) = self.global.read(|global| definition(global, app)) else { return Vec::new() };
        let own = &self.config.region;
        if let Some(service) = wanted.services.get_mut(service).filter(|_| region.is_none_or(|region| region == own)) {
            service.scale = Some(scale);
            if let Some(here) = service.overrides.get_mut(own) {
                here.scale = None;
            }
        }
        self.warnings(&wanted, &wanted.to_release()).await
    }
}
