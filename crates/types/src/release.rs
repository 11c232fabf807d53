//! Releases of an app, and what a region derives from them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    AppName, ImageName, Level, Priority, RegionName, RegionSet, ReleaseNumber, Scale, ServiceName, ServiceSpec,
    ServiceVariant, UpdateSpec,
};

/// What regions make of services that they override.
pub type Overrides = BTreeMap<ServiceName, BTreeMap<RegionName, ServiceVariant>>;

/// An immutable, numbered state of an app: all services together. Scale is not part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its number within the app, from 1.
    pub number: ReleaseNumber,
    /// Its services.
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    /// When it was made, milliseconds since 1970 by the leader's clock.
    pub created_ms: u64,
    /// How services go over to it, where they say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub updates: BTreeMap<ServiceName, UpdateSpec>,
    /// The tags by which the images of services were named, where they were: what they stood for when it was made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<ServiceName, String>,
    /// In which regions services run, where they say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub regions: BTreeMap<ServiceName, RegionSet>,
    /// How important services are, where they say. It can change without replacing an instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub priorities: BTreeMap<ServiceName, Priority>,
    /// What regions make of services that they override.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: Overrides,
    /// The earlier release that it is again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_of: Option<ReleaseNumber>,
    /// Why it was made, in a sentence; empty for one that was deployed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Release {
    /// How a service goes over to it.
    pub fn update_of(&self, service: &ServiceName) -> UpdateSpec {
        self.updates.get(service).cloned().unwrap_or_default()
    }

    /// Whether it says the same as another, whenever and why that was made.
    pub fn says_the_same(&self, other: &Self) -> bool {
        (&self.services, &self.updates) == (&other.services, &other.updates)
            && (&self.tags, &self.regions) == (&other.tags, &other.regions)
            && (&self.priorities, &self.overrides) == (&other.priorities, &other.overrides)
    }

    /// How its services are run, in one region or another.
    pub fn specs(&self) -> impl Iterator<Item = &ServiceSpec> {
        self.specs_by_service().map(|(_, spec)| spec)
    }

    /// The same, with whose they are. Those of regions lack what no region can override.
    pub fn specs_by_service(&self) -> impl Iterator<Item = (&ServiceName, &ServiceSpec)> {
        let of_regions = self.overrides.iter().flat_map(|(name, regions)| regions.values().map(move |one| (name, one)));
        self.services.iter().chain(of_regions.map(|(name, variant)| (name, &variant.spec)))
    }

    /// What a region makes of a service that it overrides.
    fn variant(&self, service: &ServiceName, region: &RegionName) -> Option<&ServiceVariant> {
        self.overrides.get(service)?.get(region)
    }

    /// A service as a region has it that runs so many instances of it, overrides applied. None: the release has no such service.
    pub fn regional(
        &self,
        service: &ServiceName,
        region: Option<&RegionName>,
        scale: Scale,
    ) -> Option<RegionalService> {
        let spec = self.services.get(service)?;
        Some(match region.and_then(|region| self.variant(service, region)) {
            Some(variant) => RegionalService {
                spec: variant.spec_for(spec),
                scale,
                update: variant.update.clone(),
                priority: variant.priority,
            },
            None => RegionalService {
                spec: spec.clone(),
                scale,
                update: self.update_of(service),
                priority: self.priority_of(service),
            },
        })
    }

    /// In which regions a service runs.
    pub fn regions_of(&self, service: &ServiceName) -> RegionSet {
        self.regions.get(service).cloned().unwrap_or_default()
    }

    /// How important a service is.
    pub fn priority_of(&self, service: &ServiceName) -> Priority {
        self.priorities.get(service).copied().unwrap_or_default()
    }

    /// The image of a service with the tag by which it was named; none: it has none.
    pub fn image_of(&self, service: &ServiceName) -> Option<ImageName> {
        Some(ImageName::of_release(self.services.get(service)?.image.as_ref()?, self.tags.get(service)))
    }
}

/// What one region shall run of an app, derived from the global release and written into the region's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionalDefinition {
    /// The app.
    pub app: AppName,
    /// The release that it comes from.
    pub release: ReleaseNumber,
    /// Its services, overrides applied.
    pub services: BTreeMap<ServiceName, RegionalService>,
    /// The earlier release that it is again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_of: Option<ReleaseNumber>,
}

impl RegionalDefinition {
    /// From which level on programs know all of it.
    pub fn level(&self) -> Level {
        let of_service = |service: &RegionalService| {
            let is_of_first = service.update.is_usual() && service.priority.is_usual();
            let of_update = if is_of_first { Level::FIRST } else { Level(6) };
            of_update.max(service.spec.level()).max(service.scale.level())
        };
        let of_services = self.services.values().map(of_service).max().unwrap_or(Level::FIRST);
        if self.again_of.is_some() { of_services.max(Level(6)) } else { of_services }
    }
}

/// One service of a regional definition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionalService {
    /// How to run an instance.
    pub spec: ServiceSpec,
    /// How many instances this region shall run.
    pub scale: Scale,
    /// How it goes from one release to the next.
    #[serde(default, skip_serializing_if = "UpdateSpec::is_usual")]
    pub update: UpdateSpec,
    /// How important it is.
    #[serde(default, skip_serializing_if = "Priority::is_usual")]
    pub priority: Priority,
}
