//! The way of an app from one release to the next, in one region.

mod hook;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::hook::{HookRun, HookState};
use crate::{
    AppName, HookKind, RegionalDefinition, RegionalService, ReleaseNumber, Scale, ServiceName, ServiceSpec, UpdateSpec,
};

/// How far a region is with the release of an app that it shall run. Made with the release's definition, kept after its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The app.
    pub app: AppName,
    /// The release that comes.
    pub release: ReleaseNumber,
    /// What ran before and is known to be good; what is lost of it is replaced by it until the new release has shown that it is
    /// good too. None: there was nothing before, or it is not needed any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RegionalDefinition>,
    /// How far it is.
    pub state: DeploymentState,
    /// A person has told it to wait.
    #[serde(default)]
    pub is_paused: bool,
    /// A person has ended it.
    #[serde(default)]
    pub is_aborted: bool,
    /// It takes an earlier release back, and is not taken back itself.
    #[serde(default)]
    pub is_return: bool,
    /// Why it is in this state, in a sentence; empty when there is nothing to say.
    #[serde(default)]
    pub why: String,
    /// Since when it is in this state, milliseconds since 1970 by the leader's clock.
    pub since_ms: u64,
    /// What it runs once, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookRun>,
}

/// How far a deployment is.
///
/// ```text
/// Before ─► First ─► Going ─► Baking ─► After ─► Done
///    └────────┴────────┴─────────┴────────┴────► Failed ─► (the release before it, as a new one)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentState {
    /// What has to be run before anything of the new release is started runs.
    Before,
    /// The first instances are tried, beside all of the old release.
    First,
    /// The old release is being replaced.
    Going,
    /// All of the new release runs, and is watched.
    Baking,
    /// The release is good, and what is run then runs.
    After,
    /// The release is good.
    Done,
    /// The release is not; nothing more of it is started on account of the deployment.
    Failed,
}

impl DeploymentState {
    /// In a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::First => "first",
            Self::Going => "going",
            Self::Baking => "baking",
            Self::After => "after",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Whether it has come to an end.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }

    /// The hooks that are run in it; none: no hooks.
    pub const fn hooks(self) -> Option<HookKind> {
        match self {
            Self::Before => Some(HookKind::Before),
            Self::After => Some(HookKind::After),
            Self::First | Self::Going | Self::Baking | Self::Done | Self::Failed => None,
        }
    }
}

impl Deployment {
    /// The deployment of a definition. `before` is what the region has run so far, and how far that was.
    pub fn begin(
        definition: &RegionalDefinition,
        before: Option<(&RegionalDefinition, Option<&Self>)>,
        at_ms: u64,
    ) -> Self {
        let from = before.and_then(|(present, deployment)| match deployment {
            // Nobody knows that the present release is good: what was good before it still is.
            Some(deployment) if deployment.state != DeploymentState::Done => deployment.from.clone(),
            _ => Some(present.clone()),
        });
        let mut deployment = Self {
            app: definition.app.clone(),
            release: definition.release,
            from,
            state: DeploymentState::Going,
            is_paused: false,
            is_aborted: false,
            is_return: definition.again_of.is_some(),
            why: String::new(),
            since_ms: at_ms,
            hooks: Vec::new(),
        };
        deployment.hooks = deployment.due_hooks(definition);
        deployment.state = match deployment.has_hooks(HookKind::Before) {
            true => DeploymentState::Before,
            false => deployment.first_state(definition),
        };
        deployment
    }

    /// The state in which the definition's first instances are started.
    pub fn first_state(&self, definition: &RegionalDefinition) -> DeploymentState {
        let has_first = |(name, service): (&ServiceName, &RegionalService)| {
            self.changes(name, &service.spec) && self.first_instances(name, &service.update, service.scale).is_some()
        };
        match definition.services.iter().any(has_first) {
            true => DeploymentState::First,
            false => DeploymentState::Going,
        }
    }

    /// How the service was run by the release before.
    pub fn old_spec(&self, service: &ServiceName) -> Option<&ServiceSpec> {
        self.from.as_ref().and_then(|from| from.services.get(service)).map(|service| &service.spec)
    }

    /// Whether the release runs a service in another way than the one before.
    pub fn changes(&self, service: &ServiceName, spec: &ServiceSpec) -> bool {
        self.old_spec(service) != Some(spec)
    }

    /// Whether the release before it shall come back. A definition is the one that is rolled out.
    pub fn shall_return(&self, definition: &RegionalDefinition) -> bool {
        let is_wanted = |(name, service): (&ServiceName, &RegionalService)| {
            service.update.auto_rollback || !self.changes(name, &service.spec)
        };
        let has_way = self.state == DeploymentState::Failed && self.from.is_some();
        has_way && (self.is_aborted || !self.is_return && definition.services.iter().all(is_wanted))
    }

    /// How many instances of a service are tried before the others come. None: it is not one that begins so, there is nothing
    /// beside which they could be tried, or the way leads back to what was tried before.
    pub fn first_instances(&self, service: &ServiceName, update: &UpdateSpec, scale: Scale) -> Option<u32> {
        let can_compare = !self.is_return && self.old_spec(service).is_some_and(|spec| spec.volumes.is_empty());
        // What runs on each node goes node by node.
        update.first_instances(scale.count()?).filter(|_| can_compare)
    }
}
