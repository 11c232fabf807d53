//! Releases of an app, and how they come out.

use std::collections::BTreeMap;

use insula_types::{
    AppName, DeploymentState, HookKind, HookState, InstanceId, NodeName, RegionName, ReleaseNumber, ServiceName,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::number;

/// A release in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Release {
    /// Its number.
    pub number: ReleaseNumber,
    /// When it was made, milliseconds since 1970.
    pub released_ms: u64,
    /// Whether it is the one that shall run.
    pub is_current: bool,
    /// The earlier release that it is again; none for one that was deployed.
    pub again_of: Option<ReleaseNumber>,
    /// Why it was made, in a sentence; empty for one that was deployed.
    pub why: String,
    /// What became of it in each region that has told, in the order of their names.
    pub outcomes: Vec<ReleaseOutcome>,
    /// The images of its services: `registry/repository@sha256:…`, with `:tag` before the digest where it was named so.
    #[serde(default)]
    pub images: BTreeMap<ServiceName, String>,
}

/// A release with its definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseDefinition {
    /// The app.
    pub app: AppName,
    /// The release.
    pub release: ReleaseNumber,
    /// When it was made, milliseconds since 1970.
    pub released_ms: u64,
    /// Whether it is the one that shall run.
    pub is_current: bool,
    /// What it is, in the shape of the definition file, with the scales that the app has now, and secrets by their names.
    #[schemars(with = "insula_types::AppDefinition")]
    pub definition: serde_json::Value,
}

/// What became of a release in a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseOutcome {
    /// The region.
    pub region: RegionName,
    /// How far it came.
    pub state: DeploymentState,
    /// Why, in a sentence; empty when there is nothing to say.
    pub why: String,
    /// When it was told, milliseconds since 1970.
    pub at_ms: u64,
}

/// Asks for an earlier release to come back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackBody {
    /// The release; without it the last good one before the present.
    #[serde(default, deserialize_with = "number::release")]
    pub to: Option<ReleaseNumber>,
}

/// Asks for new instances of what runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartBody {
    /// The service; without it all of the app.
    #[serde(default)]
    pub service: Option<ServiceName>,
}

/// Asks for services to be stopped, or to run again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunningBody {
    /// The service; without it all of the app.
    #[serde(default)]
    pub service: Option<ServiceName>,
    /// Whether they shall run.
    pub running: bool,
}

/// Which services of an app run, and which are stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Running {
    /// The app.
    pub app: AppName,
    /// Those that are stopped now.
    pub stopped: Vec<ServiceName>,
    /// Whether anything had to change.
    pub is_new: bool,
}

/// How far a region is with the release that it shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deployment {
    /// The region.
    pub region: RegionName,
    /// The release that comes.
    pub release: ReleaseNumber,
    /// What ran before and is kept while nobody knows that the new one is good.
    pub from: Option<ReleaseNumber>,
    /// How far it is.
    pub state: DeploymentState,
    /// A person has told it to wait.
    pub is_paused: bool,
    /// It waits for a person to promote its first instances.
    pub waits_for_promotion: bool,
    /// The release before it comes back, or has to be asked back by a person (false).
    pub returns: bool,
    /// Why it is in this state, in a sentence; empty when there is nothing to say.
    pub why: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// What it runs once, in this order; empty on the way back.
    #[serde(default)]
    pub hooks: Vec<Hook>,
}

impl Deployment {
    /// Whether nothing of the release may be started yet, or ever: not all hooks that come before have ended well.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.hooks.iter().any(|hook| hook.hook == HookKind::Before && hook.state != HookState::Done)
    }
}

/// What a deployment runs once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hook {
    /// Whose it is.
    pub service: ServiceName,
    /// When it is run.
    pub hook: HookKind,
    /// How far it is.
    pub state: HookState,
    /// How often an instance was placed for it.
    pub tries: u32,
    /// The last of these, which has its log; none before the first.
    pub instance: Option<InstanceId>,
    /// The node that it was placed on; none before, and when that is no member any more.
    pub node_name: Option<NodeName>,
    /// Why it failed, or is run again, in a sentence; empty when there is nothing to say.
    pub why: String,
}

/// What a deployment would run once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedHook {
    /// Whose it is.
    pub service: ServiceName,
    /// When it is run.
    pub hook: HookKind,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// What a person wants of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Steering {
    /// It waits where it is.
    Pause,
    /// It goes on.
    Resume,
    /// Its first instances were good: the others follow.
    Promote,
    /// It ends, and the release before comes back.
    Abort,
}

/// Asks a deployment to go another way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SteeringBody {
    /// What shall become of it.
    pub steering: Steering,
}

/// A deployment that was steered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Steered {
    /// The app.
    pub app: AppName,
    /// How it is now.
    pub deployment: Deployment,
}
