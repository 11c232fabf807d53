//! Which cluster, in one pasteable line.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use insula_identity::RootHash;
use serde::{Deserialize, Serialize};

/// How a context begins; the number changes when the form does.
const PREFIX: &str = "insula-ctx-1.";

/// Longest line that is read, in bytes. One with ten addresses has 600.
const LINE_LEN_MAX: usize = 8 << 10;

/// Greatest number of addresses: each is tried before a call is given up.
const ADDRESSES_MAX: usize = 32;

/// How to reach a cluster and prove oneself: `insula-ctx-1.<base64url of JSON>`. It holds a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// `host:port` of nodes' APIs.
    pub addresses: Vec<String>,
    /// SHA-256 of the cluster's root certificate, in hexadecimal; several, with commas between, while one root replaces
    /// another. Any of them will do.
    pub ca_sha256: String,
    /// An API token.
    pub token: String,
}

/// Why a context is of no use. Never repeats the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Not one line of ours.
    #[error("it is not a context: {0}; `insula token create --api` on a node prints one")]
    Line(&'static str),
    /// No address.
    #[error("the context has no address")]
    NoAddress,
    /// The hash is malformed.
    #[error("the hash of the CA is malformed: expected 64 hexadecimal digits")]
    Hash,
    /// The token is malformed.
    #[error("{0}")]
    Token(String),
    /// The TLS client could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

impl Context {
    /// The line to paste. It holds a secret.
    #[must_use]
    pub fn reveal(&self) -> String {
        let json = serde_json::to_vec(self).expect("texts serialize into memory without error");
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }

    pub(super) fn root_hashes(&self) -> Result<Vec<RootHash>, ContextError> {
        self.ca_sha256.split(',').map(|hash| hash.trim().parse().map_err(|_| ContextError::Hash)).collect()
    }
}

impl FromStr for Context {
    type Err = ContextError;

    fn from_str(line: &str) -> Result<Self, ContextError> {
        let line = line.trim();
        let rest = line.strip_prefix(PREFIX).ok_or(ContextError::Line("it begins with insula-ctx-1."))?;
        let damaged = ContextError::Line("it is cut or mistyped");
        if line.len() > LINE_LEN_MAX {
            return Err(damaged);
        }
        let json = URL_SAFE_NO_PAD.decode(rest).map_err(|_| damaged.clone())?;
        let context: Self = serde_json::from_slice(&json).map_err(|_| damaged.clone())?;
        if context.addresses.is_empty() {
            return Err(ContextError::NoAddress);
        }
        if context.addresses.len() > ADDRESSES_MAX {
            return Err(ContextError::Line("it has more than 32 addresses"));
        }
        Ok(context)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({})", self.addresses.join(", "))
    }
}
