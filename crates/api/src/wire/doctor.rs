//! What `insula doctor` asks: is this node as it shall be, and what is to be done about it?

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A node's report on itself. Made without any other node (rule R12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Doctor {
    /// The node that answers, by name.
    pub node: String,
    /// What was looked at.
    pub checks: Vec<Check>,
    /// What runs in its processes.
    pub tasks: Vec<Task>,
}

impl Doctor {
    /// Whether something needs to be done now.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.checks.iter().any(|check| check.grade == Grade::Bad)
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What, like `disk space`.
    pub subject: String,
    /// How it is.
    pub grade: Grade,
    /// What was found, in one sentence.
    pub found: String,
    /// What it was found in, one line each, where there may be many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
    /// What to do, unless it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    /// One that found things as they shall be.
    pub fn ok(subject: &str, found: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), grade: Grade::Ok, found: found.into(), items: Vec::new(), advice: None }
    }

    /// One that found something: how bad, and what to do.
    pub fn not_ok(subject: &str, grade: Grade, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), grade, found: found.into(), items: Vec::new(), advice: Some(advice.into()) }
    }
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it shall be.
    Ok,
    /// It works, but somebody should look.
    Warn,
    /// Something does not work, or soon will not.
    Bad,
    /// A grade of a later version.
    #[serde(other)]
    Other,
}

/// A task of a process of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// `server` or `dataplane`.
    pub process: String,
    /// The group that it belongs to.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// What happens when it ends: `once` nothing, `restart` it is started again, `critical` its process stops.
    pub rule: String,
    /// How often it was started again.
    pub restarts: u64,
    /// How long ago it showed that it is alive, if it is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beat_age_ms: Option<u64>,
    /// The watchdog acts when that is longer ago than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beat_limit_ms: Option<u64>,
}
