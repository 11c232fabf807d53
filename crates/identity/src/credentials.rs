//! What makes a node itself: its key, its certificate chain, and the roots that it trusts.

use std::fmt;

use aws_lc_rs::digest;
use insula_env::Rng;
use insula_types::NodeId;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroize;

use crate::{
    Error,
    sealing::{OpeningKey, Purpose},
};

/// A private ECDSA P-256 key; wiped when dropped, never printed.
pub(crate) struct SigningKey(KeyPair);

impl SigningKey {
    pub(crate) fn generate(what: &'static str) -> Result<Self, Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(|source| Error::Make { what, source })
    }

    pub(crate) fn from_pkcs8(what: &str, der: &PrivatePkcs8KeyDer<'_>) -> Result<Self, Error> {
        KeyPair::from_pkcs8_der_and_sign_algo(der, &PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|error| Error::damaged(what, error))
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        self.0.serialized_der()
    }

    /// The public key, as certificates carry it (SubjectPublicKeyInfo).
    pub(crate) fn public(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// Whether `certificate` is for this key.
    pub(crate) fn is_of(&self, certificate: &CertificateDer<'_>) -> bool {
        webpki::EndEntityCert::try_from(certificate)
            .is_ok_and(|leaf| leaf.subject_public_key_info().as_ref() == self.public())
    }

    pub(crate) fn copy(&self) -> Result<Self, Error> {
        Self::from_pkcs8("a private key", &PrivatePkcs8KeyDer::from(self.pkcs8()))
    }
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A node's id and private key. The id is random; the two belong together for life (rule R9).
pub struct NodeKey {
    id: NodeId,
    key: SigningKey,
}

impl NodeKey {
    /// A new id with a new key.
    ///
    /// # Errors
    /// [`Error::Make`] when the system gives no randomness.
    pub fn generate(rng: &Rng) -> Result<Self, Error> {
        Ok(Self { id: NodeId::new(rng.next()), key: SigningKey::generate("a node key")? })
    }

    pub(crate) fn new(id: NodeId, key: SigningKey) -> Self {
        Self { id, key }
    }

    /// The id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// SHA-256 of the public key in hexadecimal digits: what binds the id to the key.
    pub fn public_hash(&self) -> String {
        hex::encode(digest::digest(&digest::SHA256, &self.key.public()))
    }

    /// A certificate request in DER, signed by the key. What it says beside the public key counts for nothing.
    ///
    /// # Errors
    /// [`Error::Make`] when signing fails.
    pub fn request(&self) -> Result<Vec<u8>, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.id.to_string());
        let request = params
            .serialize_request(self.key.pair())
            .map_err(|source| Error::Make { what: "a certificate request", source })?;
        Ok(request.der().to_vec())
    }

    /// The key that opens what this node keeps sealed for itself.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn opening_key(&self) -> Result<OpeningKey, Error> {
        OpeningKey::derive(self.key.pkcs8(), Purpose::Node)
    }

    /// Another handle on the same id and key.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the key does not read back, which would be a defect.
    pub fn copy(&self) -> Result<Self, Error> {
        Ok(Self { id: self.id, key: self.key.copy()? })
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({}, …)", self.id)
    }
}

/// Everything that a node shows and checks with.
#[derive(Debug)]
pub struct Credentials {
    /// Its id and key.
    pub key: NodeKey,
    /// Its certificate, then its region CA's; two of them, of one key, while one root replaces another.
    pub chain: Vec<CertificateDer<'static>>,
    /// The trusted roots; two while one replaces the other (rule R6).
    pub roots: Vec<CertificateDer<'static>>,
}
