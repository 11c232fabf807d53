//! Who is who: certificate authorities, SPIFFE identities, tokens and TLS configurations.
//!
//! A cluster's root signs region CAs, a region's CA signs its nodes, so that a region issues certificates alone. What
//! always holds: names in certificates are chosen by the authority and never by the applicant; a verifier accepts a
//! node only when its region and cluster equal those of the CA that signed it; secrets are never printed by `Debug`.
//! Moving bytes between machines is left to `rpc`, storing token hashes to `state`.

mod authority;
mod credentials;
mod directory;
mod envelope;
mod error;
mod expiry;
mod material;
mod pem;
mod recovery;
mod sealing;
mod secret;
mod spiffe;
mod tls;
mod token;
mod verify;

#[cfg(test)]
mod fixture;

pub use authority::{Lifetimes, RegionAuthority, RootAuthority, request_key_hash};
pub use credentials::{Credentials, NodeKey};
pub use directory::{NextRoot, NodeDirectory};
pub use error::Error;
pub use expiry::{Expiry, Owner};
pub use material::{AllowAll, Material, PeerPolicy, Refusal, Tombstones};
pub use recovery::RecoveryKey;
pub use rustls_pki_types::CertificateDer;
pub use sealing::{OpeningKey, SEALED_OVERHEAD, SecretPlace, seal_secret};
pub use secret::{RootHash, Secret, root_hash};
pub use spiffe::{NodeIdentity, RegionCaIdentity, SpiffeError, TRUST_SCHEME, root_uri};
pub use tls::{
    Lapse, api_client_config, api_server_config, install_provider, join_client_config, join_server_config,
    mutual_client_config, mutual_server_config, peer_identity, server_name,
};
pub use token::{ApiToken, JoinToken, TokenError};
pub use verify::{PeerError, validity};
