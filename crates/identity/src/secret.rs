//! Secrets that do not print themselves, and hashes of what is public.

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use insula_env::Rng;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroize;

/// Bytes in a token's secret.
const SECRET_LEN: usize = 32;

/// Thirty-two random bytes; wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_LEN]);

impl Secret {
    /// A new secret.
    pub fn random(rng: &Rng) -> Self {
        let mut bytes = [0; SECRET_LEN];
        rng.fill(&mut bytes);
        Self(bytes)
    }

    /// Takes a secret that arrived in a token. `None` unless it has 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, for a token or a request on its way.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What is stored in place of the secret: SHA-256 in hexadecimal digits. The secret is random, so no salt.
    pub fn hash(&self) -> String {
        hex::encode(digest::digest(&digest::SHA256, &self.0))
    }

    /// Whether `stored` is this secret's [`hash`](Self::hash), compared in constant time.
    pub fn matches(&self, stored: &str) -> bool {
        constant_time::verify_slices_are_equal(self.hash().as_bytes(), stored.as_bytes()).is_ok()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256 of a root certificate in DER: what a token or a context pins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash(pub [u8; 32]);

/// The hash that pins this root certificate.
pub fn root_hash(certificate: &CertificateDer<'_>) -> RootHash {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
    RootHash(bytes)
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootHash({self})")
    }
}

impl std::str::FromStr for RootHash {
    type Err = hex::FromHexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_matches_its_own_hash_only_and_is_not_printed() {
        let rng = Rng::from_seed(1);
        let (one, two) = (Secret::random(&rng), Secret::random(&rng));
        assert!(one.matches(&one.hash()));
        assert!(!one.matches(&two.hash()));
        assert!(!one.matches(""));
        assert_eq!(format!("{one:?}"), "Secret(…)");
        assert!(Secret::from_bytes(&[0; 31]).is_none());
    }
}
