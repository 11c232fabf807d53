//! Tokens as lists show them: never their secrets.

use insula_types::RegionName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TokenRole;

/// A token that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Names it; part of the token itself.
    pub id: String,
    /// What it is for.
    pub kind: TokenKind,
    /// Whose it is; only of the API's.
    pub name: Option<String>,
    /// What it allows; only of the API's.
    pub role: Option<TokenRole>,
    /// How many machines may still use it; only of those to join with.
    pub uses_left: Option<u32>,
    /// The region that is founded with it; only of those.
    #[serde(default)]
    pub region: Option<RegionName>,
    /// When it ends, milliseconds since 1970. One that has ended is listed until the next is made.
    pub expires_ms: u64,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// Calling the API.
    Api,
    /// Joining the region of the node that answers.
    Join,
}

/// A token that is good for nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenRemoved {
    /// Which.
    pub id: String,
    /// What it was for.
    pub kind: TokenKind,
}
