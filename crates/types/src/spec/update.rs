//! How a service goes from one release to the next.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::HooksSpec;
use crate::RegionName;

/// How the instances of one release are replaced by those of the next. Part of a release, and not of what an instance is made
/// from: another way to update replaces nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateSpec {
    /// In which order traffic goes over.
    pub strategy: Strategy,
    /// By how many ready instances the service may be below its scale meanwhile.
    pub max_unavailable: u32,
    /// How many instances beyond the scale there may be meanwhile; at least one where none may be unavailable. Those that have been replaced
    /// and wait for the release to be good are not counted.
    pub max_surge: u32,
    /// How long a new instance has to be ready without a break before it counts.
    pub min_healthy: Duration,
    /// How long no instance may get on before the release counts as failed. What is fetched or placed meanwhile gets on.
    pub deadline: Duration,
    /// How long the release is watched: its canaries before it goes on, and all of it before it counts as good.
    pub bake: Duration,
    /// A release that fails is replaced by the one before it.
    pub auto_rollback: bool,
    /// What is run once, before and after.
    #[serde(default, skip_serializing_if = "HooksSpec::is_empty")]
    pub hooks: HooksSpec,
    /// Regions that get a release before the others, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub region_order: Vec<RegionName>,
}

/// In which order traffic goes over to a new release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// A few instances at a time.
    Rolling,
    /// A few instances first, beside all of the old release and with a share of the traffic; then as with rolling.
    Canary(CanarySpec),
    /// All instances beside all of the old release, without traffic; then all traffic at once.
    BlueGreen(Promotion),
}

/// The first instances of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanarySpec {
    /// How many.
    pub instances: u32,
    /// Their share of the requests, percent.
    pub weight: u8,
    /// Who lets the release go on.
    pub promotion: Promotion,
    /// Greatest share of requests that canaries may fail (status 500 and above, or no answer), in tenths of a percent; what the
    /// old release fails meanwhile is allowed on top.
    pub max_errors: u16,
}

/// Who lets a release go on after its first instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Promotion {
    /// Nobody has to: it goes on when it has been watched for long enough.
    Auto,
    /// A person, by `insula promote`.
    Manual,
}

impl UpdateSpec {
    /// Whether it is what a service gets that does not say.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// How many instances of the new release run before it is promoted; none: they are not held back.
    pub fn first_instances(&self, scale: u32) -> Option<u32> {
        match &self.strategy {
            Strategy::Rolling => None,
            Strategy::Canary(canary) => Some(canary.instances.min(scale)),
            Strategy::BlueGreen(_) => Some(scale),
        }
    }

    /// Who promotes the first instances.
    pub const fn promotion(&self) -> Promotion {
        match &self.strategy {
            Strategy::Rolling => Promotion::Auto,
            Strategy::Canary(canary) => canary.promotion,
            Strategy::BlueGreen(promotion) => *promotion,
        }
    }

    /// The share of the traffic that the first instances get before they are promoted, percent.
    pub const fn first_weight(&self) -> u8 {
        match &self.strategy {
            Strategy::Rolling => 100,
            Strategy::Canary(canary) => canary.weight,
            Strategy::BlueGreen(_) => 0,
        }
    }
}

impl Default for UpdateSpec {
    fn default() -> Self {
        Self {
            strategy: Strategy::Rolling,
            max_unavailable: 0,
            max_surge: 1,
            min_healthy: Duration::from_secs(5),
            deadline: Duration::from_secs(300),
            bake: Duration::from_secs(30),
            auto_rollback: true,
            hooks: HooksSpec::default(),
            region_order: Vec::new(),
        }
    }
}
