//! Releases of an app, and what a region derives from them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AppName, Level, ReleaseNumber, ServiceName, ServiceSpec};

/// An immutable, numbered state of an app: all services together. Scale is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its number within the app, from 1.
    pub number: ReleaseNumber,
    /// Its services.
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    /// When it was made, milliseconds since 1970 by the leader's clock.
    pub created_ms: u64,
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
}

impl RegionalDefinition {
    /// From which level on programs know all of it.
    pub fn level(&self) -> Level {
        self.services.values().map(|service| service.spec.level()).max().unwrap_or(Level::FIRST)
    }
}

/// One service of a regional definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionalService {
    /// How to run an instance.
    pub spec: ServiceSpec,
    /// How many instances this region shall run.
    pub scale: u32,
}
