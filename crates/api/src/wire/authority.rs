//! The cluster's roots and its regions' CAs.

use std::{collections::BTreeMap, fmt};

use insula_types::{NodeId, NodeName, RegionName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which roots there are, and how far the nodes of the region are that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaStatus {
    /// Roots: the active one first.
    pub roots: Vec<CaRoot>,
    /// Nodes of the region.
    pub nodes: Vec<CaNode>,
}

/// A root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaRoot {
    /// SHA-256 of its certificate, in hexadecimal digits.
    pub sha256: String,
    /// How far it is.
    pub state: CaRootState,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// When the certificates end that it gave to regions' CAs, milliseconds since 1970.
    pub regions: BTreeMap<RegionName, u64>,
}

/// How far a root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CaRootState {
    /// Nodes learn to trust it.
    Trusted,
    /// It is in use.
    Active,
    /// It is still trusted.
    Retiring,
}

/// A node, as it said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaNode {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Whether its lease holds.
    pub is_up: bool,
    /// SHA-256 of the roots that its processes trust.
    pub roots: Vec<String>,
    /// Whether it trusts all roots there are, and shows a chain that leads to the active one.
    pub is_current: bool,
}

/// The recovery key, as typed. A secret.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoveryBody {
    /// Six groups of six characters.
    #[schemars(regex(pattern = "^([0-9A-HJKMNP-TV-Z]{6}-){5}[0-9A-HJKMNP-TV-Z]{6}$"))]
    pub recovery_key: String,
}

/// Names a root.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RootBody {
    /// SHA-256 of its certificate, in hexadecimal digits.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub root: String,
}

/// A new root, which nodes learn to trust. The key is shown once.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct RootAdded {
    /// SHA-256 of its certificate, in hexadecimal digits.
    pub root: String,
    /// Opens its sealed key; kept nowhere. A secret.
    pub recovery_key: String,
}

/// A root that was activated or retired, or that signed a region's CA anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RootChanged {
    /// SHA-256 of its certificate, in hexadecimal digits.
    pub root: String,
}

impl fmt::Debug for RecoveryBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryBody(…)")
    }
}

impl fmt::Debug for RootAdded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootAdded({}, …)", self.root)
    }
}
