//! Where this node's instances have their secrets from.

use async_trait::async_trait;
use insula_types::{AppName, SecretValues, SecretVersions};

/// Opens secrets for instances of this node.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The values of these versions of an app's secrets, of which a placement on this node has each. Bounded in time by itself.
    ///
    /// # Errors
    /// Why not, in words, without a value; another try may help.
    async fn open(&self, app: &AppName, wanted: &SecretVersions) -> Result<SecretValues, String>;
}
