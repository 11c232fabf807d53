//! What a deployment runs once, and how far that is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Deployment;
use crate::{HookKind, InstanceId, NodeId, RegionalDefinition, RegionalService, ServiceName, ServiceSpec};

/// A hook of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRun {
    /// Whose it is.
    pub service: ServiceName,
    /// When it is run.
    pub kind: HookKind,
    /// How far it is.
    pub state: HookState,
    /// How often an instance was placed for it: more than once only where nobody can know how the one before ended.
    #[serde(default)]
    pub tries: u32,
    /// The last of these instances, which has its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The node that it was placed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// How long that instance has run, milliseconds, as a leader said last.
    #[serde(default)]
    pub spent_ms: u64,
    /// Why it failed, or has to be run again, in a sentence; empty when there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// How far a hook is.
///
/// ```text
/// Due ─► Running ─► Done
///  ▲        ├─────► Failed
///  └────────┘ its node was lost
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HookState {
    /// It is to be run, when those before it have ended.
    Due,
    /// An instance was placed for it.
    Running,
    /// It ended with exit code 0.
    Done,
    /// It did not, and is not tried again.
    Failed,
}

impl HookRun {
    /// Whether an instance is the one that runs it now.
    pub fn is_run_by(&self, instance: InstanceId) -> bool {
        self.state == HookState::Running && self.instance == Some(instance)
    }
}

impl Deployment {
    /// Whether nothing of the release may be started yet, or ever: not all hooks that come before have ended well.
    pub fn is_held(&self) -> bool {
        self.hooks.iter().any(|run| run.kind == HookKind::Before && run.state != HookState::Done)
    }

    /// The hook that is due or runs now; none: there is none in this state, it waits for somebody to decide, or all have ended.
    pub fn hook(&self) -> Option<&HookRun> {
        let kind = self.state.hooks()?;
        let open = |run: &&HookRun| run.kind == kind && matches!(run.state, HookState::Due | HookState::Running);
        // One that failed ends those before the release, and not those after it.
        let has_failed = kind == HookKind::Before && self.failed_hooks(kind).next().is_some();
        self.hooks.iter().find(open).filter(|_| !has_failed)
    }

    /// The hooks of a kind that failed.
    pub fn failed_hooks(&self, kind: HookKind) -> impl Iterator<Item = &HookRun> {
        self.hooks.iter().filter(move |run| run.kind == kind && run.state == HookState::Failed)
    }

    /// Whether it has hooks of a kind.
    pub fn has_hooks(&self, kind: HookKind) -> bool {
        self.hooks.iter().any(|run| run.kind == kind)
    }

    /// The hooks that this deployment of a definition has to run, in their order. None on the way back: what they did is not
    /// undone, and what is there again has had its own.
    pub(super) fn due_hooks(&self, definition: &RegionalDefinition) -> Vec<HookRun> {
        if self.is_return {
            return Vec::new();
        }
        let of = |kind: HookKind| {
            let services =
                definition.services.iter().filter(move |(_, wanted)| wanted.update.hooks.command(kind).is_some());
            services.filter(|(name, wanted)| self.brings(name, wanted)).map(move |(name, _)| HookRun {
                service: name.clone(),
                kind,
                state: HookState::Due,
                tries: 0,
                instance: None,
                node: None,
                spent_ms: 0,
                why: String::new(),
            })
        };
        of(HookKind::Before).chain(of(HookKind::After)).collect()
    }

    /// Whether it brings something to a service that its hooks are for: new instances of the same do not count.
    fn brings(&self, name: &ServiceName, wanted: &RegionalService) -> bool {
        let Some(old) = self.from.as_ref().and_then(|from| from.services.get(name)) else { return true };
        let is_same =
            |old: &ServiceSpec| ServiceSpec { restarted: wanted.spec.restarted, ..old.clone() } == wanted.spec;
        old.update.hooks != wanted.update.hooks || !is_same(&old.spec)
    }
}
