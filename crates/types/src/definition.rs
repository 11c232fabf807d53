//! The definition file: what users write to say what an app is, in TOML, in JSON of the same shape, or as a Compose file.
//!
//! Whatever comes out of [`AppDefinition::parse`] is valid; whatever is refused is refused with its key path, line and
//! column, what was found and what would be valid, all problems at once. Nothing is ignored: a key of a later version
//! is refused with "not yet", any other with the nearest key that exists. Arbitrary text never panics.
//! Leaves to others: whether a host is free, whether an image exists, whether a node has room.

mod compose;
mod duration;
mod fields;
mod keys;
mod places;
mod plain;
mod problem;
mod read;
mod schema;
mod service;
mod syntax;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use std::{collections::BTreeMap, ops::RangeInclusive};

pub use compose::{ComposeContext, Composed};
pub use duration::{format_duration, parse_duration};
pub use keys::nearest;
pub use places::Places;
pub use problem::{DefinitionError, DefinitionProblem};

use crate::{
    AppName, ByteSize, ContentHash, ImageName, Priority, RegionName, RegionSet, Release, Scale, ServiceName,
    ServiceSpec, ServiceVariant, UpdateSpec,
};

/// Largest definition in bytes. The largest one of a user so far had 9 KiB; environment variables make the rest.
pub const DEFINITION_LEN_MAX: usize = 256 << 10;

/// Greatest number of services of an app.
pub const SERVICES_MAX: usize = 64;

/// Greatest number of instances of a service in a region.
pub const SCALE_MAX: u32 = 1000;

/// Bytes of a volume: from what a file system needs for itself to the largest disk on the market.
pub const VOLUME_SIZE: RangeInclusive<ByteSize> = ByteSize::mib(8)..=ByteSize::mib(64 << 20);

/// How a definition is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TOML 1.1, for people.
    Toml,
    /// JSON of the same shape, for programs.
    Json,
}

/// A valid definition of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppDefinition {
    /// The app.
    pub app: AppName,
    /// Its services; at least one.
    pub services: BTreeMap<ServiceName, ServiceDefinition>,
    /// What is in the files of its services.
    pub contents: BTreeMap<ContentHash, String>,
}

/// One service of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceDefinition {
    /// How to run an instance of it. Its image may lack a digest: it is named by a tag then, which has to be looked up.
    pub spec: ServiceSpec,
    /// The tag that its image is named by; none: none is said, which stands for `latest` while there is no digest either. Part of
    /// a release, and not of what an instance is made from: what runs is said by the digest.
    pub tag: Option<String>,
    /// In which regions it runs.
    pub regions: RegionSet,
    /// How many instances each region shall run. None: as many as now, one for a new service. Not part of a release.
    pub scale: Option<Scale>,
    /// How it goes from one release to the next.
    pub update: UpdateSpec,
    /// How important it is.
    pub priority: Priority,
    /// What regions override of it.
    pub overrides: BTreeMap<RegionName, ServiceOverride>,
}

/// What a region overrides of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceOverride {
    /// What the service is there, whether or not that differs.
    pub variant: ServiceVariant,
    /// How many instances that region shall run. None: what the service says.
    pub scale: Option<Scale>,
}

impl ServiceDefinition {
    /// Its image with its tag; none: it has none.
    #[must_use]
    pub fn image(&self) -> Option<ImageName> {
        Some(ImageName::of_release(self.spec.image.as_ref()?, self.tag.as_ref()))
    }

    /// Names its image otherwise.
    pub fn set_image(&mut self, image: ImageName) {
        let ImageName { name, tag, digest } = image;
        self.spec.image = Some(ImageName { name, tag: None, digest }.to_string());
        self.tag = tag;
    }

    /// What it is in a region that overrides nothing.
    #[must_use]
    pub fn variant(&self) -> ServiceVariant {
        ServiceVariant::new(&self.spec, &self.update, self.priority)
    }

    /// What it is in a region, overrides applied.
    #[must_use]
    pub fn in_region(&self, region: &RegionName) -> Self {
        let mut own = Self { overrides: BTreeMap::new(), ..self.clone() };
        if let Some(ServiceOverride { variant, scale }) = self.overrides.get(region) {
            own.spec = variant.spec_for(&self.spec);
            (own.update, own.priority) = (variant.update.clone(), variant.priority);
            own.scale = scale.or(self.scale);
        }
        own
    }

    /// Takes out the overrides that change nothing.
    pub fn drop_idle_overrides(&mut self) {
        let usual = self.variant();
        self.overrides.retain(|_, one| one.scale.is_some() || one.variant != usual);
    }
}

/// Why a service cannot run on each node; none: it can.
#[must_use]
pub fn refuse_each_node(spec: &ServiceSpec) -> Option<&'static str> {
    (!spec.volumes.is_empty()).then_some(
        "not yet: a service with volumes cannot have the scale \"each-node\"; write a number, or take the volumes out",
    )
}

impl AppDefinition {
    /// What it is in a region that runs these of its services, overrides applied, scale included. Which regions run it, and in which order, is
    /// not in it.
    #[must_use]
    pub fn in_region(&self, region: &RegionName, runs: impl Fn(&ServiceDefinition) -> bool) -> Self {
        let here = self.services.iter().filter(|(_, service)| runs(service));
        let services = here.map(|(name, service)| {
            let mut own = service.in_region(region);
            own.regions = RegionSet::Usual;
            own.update.region_order = Vec::new();
            (name.clone(), own)
        });
        Self { app: self.app.clone(), services: services.collect(), contents: self.contents.clone() }
    }

    /// The release that it makes: without number and time, secrets of no version yet. Scales are not in it.
    #[must_use]
    pub fn to_release(&self) -> Release {
        let services = || self.services.iter();
        let overrides = services().filter(|(_, one)| !one.overrides.is_empty()).map(|(name, one)| {
            let variants = one.overrides.iter().map(|(region, of)| (region.clone(), of.variant.clone()));
            // What is only scaled is as everywhere else.
            let usual = one.variant();
            (name.clone(), variants.filter(|(_, variant)| *variant != usual).collect::<BTreeMap<_, _>>())
        });
        let updates = services().filter(|(_, one)| !one.update.is_usual());
        let regions = services().filter(|(_, one)| !one.regions.is_usual());
        let priorities = services().filter(|(_, one)| !one.priority.is_usual());
        Release {
            services: services().map(|(name, one)| (name.clone(), one.spec.clone())).collect(),
            updates: updates.map(|(name, one)| (name.clone(), one.update.clone())).collect(),
            tags: services().filter_map(|(name, one)| Some((name.clone(), one.tag.clone()?))).collect(),
            regions: regions.map(|(name, one)| (name.clone(), one.regions.clone())).collect(),
            priorities: priorities.map(|(name, one)| (name.clone(), one.priority)).collect(),
            overrides: overrides.filter(|(_, variants)| !variants.is_empty()).collect(),
            ..Release::default()
        }
    }

    /// Reads and checks a definition.
    ///
    /// # Errors
    /// [`DefinitionError`] with every problem found, in the order of the text.
    pub fn parse(text: &str, format: Format) -> Result<Self, DefinitionError> {
        read::app(text, format)
    }

    /// Reads and checks a Compose file.
    ///
    /// # Errors
    /// [`DefinitionError`] with every problem found, in the order of the text, by the keys of the file.
    pub fn parse_compose(text: &str, context: &ComposeContext<'_>) -> Result<Composed, DefinitionError> {
        compose::read(text, context)
    }

    /// The definition as JSON of the definition's shape, defaults written out. [`Self::parse`] takes it back.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        write::app(self)
    }

    /// A value as it is written in TOML, on one line unless it is text of several.
    #[must_use]
    pub fn value_to_toml(value: &serde_json::Value) -> String {
        plain::inline(value)
    }

    /// The definition as TOML for people, without what is usual. [`Self::parse`] takes it back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        plain::app(self)
    }
}
