//! What can go wrong with authorities, keys and files.

use std::{io, path::PathBuf};

use insula_types::RegionName;

/// An attempt of this crate that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Making a certificate or a key pair failed.
    #[error("make {what}")]
    Make {
        /// What was being made.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: rcgen::Error,
    },
    /// A certificate request is damaged, is not signed by its own key, or asks for an unsupported kind of key.
    #[error("read the certificate request: {why}; send one made by this program")]
    Request {
        /// What is wrong with it.
        why: String,
    },
    /// A file could not be read or written.
    #[error("{attempt} {path}")]
    File {
        /// "read" or "write" or "remove".
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file that must be there is not.
    #[error("{path} is missing: {remedy}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// A piece of an identity is not what it should be.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// Which piece.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Pieces that should belong together do not.
    #[error("{what} does not match {other}: {remedy}")]
    Mismatch {
        /// One piece.
        what: String,
        /// The other.
        other: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A recovery key was mistyped.
    #[error("the recovery key is not valid: {why}")]
    RecoveryKey {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The sealed root key does not open.
    #[error("unseal the root key: the recovery key is not the one it was sealed with, or the file is damaged")]
    Unseal,
    /// The key of a region's CA does not open with the secret of a token.
    #[error("open the key of region {region}: the token is not the one that it was sealed to, or it is damaged")]
    OpenRegion {
        /// Which region.
        region: RegionName,
    },
    /// A sealed secret does not open.
    #[error("open the secret {name}: {why}")]
    Open {
        /// Its name.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// The operating system or the crypto library refused.
    #[error("{attempt}: the crypto library refused")]
    Crypto {
        /// What was tried.
        attempt: &'static str,
    },
    /// TLS could not be set up.
    #[error("set up TLS for {what}")]
    Tls {
        /// For what.
        what: &'static str,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
}

impl Error {
    pub(crate) fn damaged(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Damaged { what: what.into(), why: why.to_string() }
    }
}
