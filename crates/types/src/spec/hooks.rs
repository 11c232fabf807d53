//! What is run once for a release of a service, before and after its instances.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RestartPolicy, RestartSpec, ServiceSpec};

/// Commands that an instance of its own runs to its end, once for each deployment that brings something new to the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HooksSpec {
    /// Program and arguments that have to end well before any instance of the release is started; empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<String>,
    /// Those that are run when the release is known to be good; empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// How long each may take; its image is fetched besides.
    pub timeout: Duration,
}

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HookKind {
    /// Before any instance of the release is started.
    Before,
    /// When the release is known to be good.
    After,
}

impl HookKind {
    /// As users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

impl HooksSpec {
    /// Whether nothing is run.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }

    /// What is run at a time; none: nothing.
    pub fn command(&self, kind: HookKind) -> Option<&[String]> {
        let command = match kind {
            HookKind::Before => &self.before,
            HookKind::After => &self.after,
        };
        (!command.is_empty()).then_some(command)
    }
}

impl Default for HooksSpec {
    fn default() -> Self {
        Self { before: Vec::new(), after: Vec::new(), timeout: Duration::from_secs(300) }
    }
}

impl ServiceSpec {
    /// How the instance is run that runs a hook of the service: with its image, environment, files, secrets and limits. Nobody
    /// reaches it, nobody checks it, it has no volumes, since each belongs to one instance that runs, and it is not started again.
    #[must_use]
    pub fn of_hook(&self, command: &[String]) -> Self {
        Self {
            command: command.to_vec(),
            args: Vec::new(),
            ports: Vec::new(),
            routes: Vec::new(),
            health: None,
            volumes: Vec::new(),
            restart: RestartSpec { policy: RestartPolicy::Never, ..self.restart },
            ..self.clone()
        }
    }
}
