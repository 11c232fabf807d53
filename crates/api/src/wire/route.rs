//! What the edges bring where.

use insula_types::{Protocol, ServiceRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Requests that the edges of the region bring to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// Host name in lower case, without port.
    pub host: String,
    /// Path prefix, of whole segments; of several that a path begins with, the longest counts.
    pub path: String,
    /// Where they go.
    pub service: ServiceRef,
    /// What its instances speak.
    pub protocol: Protocol,
    /// How many of them are ready in the region. Without any the edges answer 503.
    pub ready: u32,
}
