//! Secrets, as they travel: their names and versions, and on the way in, once, a value.

use insula_types::{AppName, Revealed, SecretName, SecretVersion};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A secret of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Secret {
    /// Its name.
    pub name: SecretName,
    /// Its newest version, which the next release gets.
    pub version: SecretVersion,
    /// When that was set.
    pub set_ms: u64,
    /// Who set it.
    pub by: String,
    /// The version that the release has which shall run; none: it does not have the secret.
    pub running: Option<SecretVersion>,
}

/// Gives a secret a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretBody {
    /// The value.
    pub value: Revealed,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretSet {
    /// The app.
    pub app: AppName,
    /// The secret.
    pub name: SecretName,
    /// The version that was made.
    pub version: SecretVersion,
    /// The version that the release has which shall run; none: it does not have the secret.
    pub running: Option<SecretVersion>,
}

/// A secret that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRemoved {
    /// The app.
    pub app: AppName,
    /// The secret.
    pub name: SecretName,
}
