//! Sealing secrets of apps to a key: HPKE (RFC 9180), base mode, X25519 with HKDF-SHA-256 and ChaCha20-Poly1305.
//!
//! The private keys are derived from keys that are there anyway, each under a label of its own (HKDF-SHA-256, RFC 5869): that of
//! the region's CA, which local voters hold, and that of a node. So there is no further key to make, hand over, keep and lose;
//! whoever has the one can open what is sealed to the other. What is sealed says to which key, and is bound to a place: it opens
//! nowhere else.

use std::fmt;

use aws_lc_rs::{
    agreement, digest,
    encoding::{AsBigEndian, EcPrivateKeyBin},
    hkdf,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use insula_types::{AppName, ClusterId, RegionName, SecretName, SecretValue};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as SUITE,
    hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey},
};
use zeroize::Zeroizing;

use crate::Error;

/// First bytes of what is sealed, with its version.
const MAGIC: &[u8] = b"insula-secret-1\n";
/// What the context of HPKE is named.
const INFO: &[u8] = b"insula secret v1";
/// Bytes of a key, and of what HPKE sends along.
const KEY_LEN: usize = 32;
/// Bytes that name a key: the beginning of its SHA-256.
const NAME_LEN: usize = 8;
/// What sealing adds to a value at most, in bytes.
pub const SEALED_OVERHEAD: usize = MAGIC.len() + NAME_LEN + KEY_LEN + 16;

/// What a private key is derived for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Secrets of a region's apps, from the key of its CA.
    Region,
    /// What a node keeps of them on its own disk, from its key.
    Node,
}

impl Purpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Region => b"insula region secrets v1",
            Self::Node => b"insula node secrets v1",
        }
    }
}

/// What a sealed value is of. It opens as nothing else, whoever moves it about in the state.
#[derive(Debug, Clone, Copy)]
pub struct SecretPlace<'a> {
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The region that it is sealed for.
    pub region: &'a RegionName,
    /// The app.
    pub app: &'a AppName,
    /// The secret.
    pub name: &'a SecretName,
}

impl SecretPlace<'_> {
    /// None of the four has a line's end in it.
    fn bytes(&self) -> Vec<u8> {
        format!("{}\n{}\n{}\n{}", self.cluster, self.region, self.app, self.name).into_bytes()
    }
}

/// A private key that opens what was sealed to it; wiped when dropped, never printed.
pub struct OpeningKey {
    private: HpkePrivateKey,
    public: Vec<u8>,
}

impl OpeningKey {
    /// Derives it from an ECDSA key in PKCS #8.
    pub(crate) fn derive(pkcs8: &[u8], purpose: Purpose) -> Result<Self, Error> {
        const ATTEMPT: Error = Error::Crypto { attempt: "derive the key for secrets" };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map_err(|_| ATTEMPT)?;
        let scalar: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().map_err(|_| ATTEMPT)?;
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, purpose.label())
            .extract(scalar.as_ref())
            .expand(&[INFO], hkdf::HKDF_SHA256)
            .and_then(|key| key.fill(&mut *bytes))
            .map_err(|_| ATTEMPT)?;
        let private = agreement::PrivateKey::from_private_key(&agreement::X25519, &*bytes).map_err(|_| ATTEMPT)?;
        let public = private.compute_public_key().map_err(|_| ATTEMPT)?.as_ref().to_vec();
        Ok(Self { private: bytes.to_vec().into(), public })
    }

    /// The key to seal to. No secret.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Opens what was sealed to this key for this place.
    ///
    /// # Errors
    /// [`Error::Open`], without a word of the value.
    pub fn open(&self, place: &SecretPlace<'_>, sealed: &[u8]) -> Result<SecretValue, Error> {
        let failed = |why| Error::Open { name: place.name.to_string(), why };
        let damaged = || failed("it is damaged");
        let rest = sealed.strip_prefix(MAGIC).ok_or_else(damaged)?;
        let (key, rest) = rest.split_at_checked(NAME_LEN).ok_or_else(damaged)?;
        if key != name_of(&self.public) {
            return Err(failed("it is sealed to another key: set it anew"));
        }
        let (sent, rest) = rest.split_at_checked(KEY_LEN).ok_or_else(damaged)?;
        let opened = SUITE.open(&EncapsulatedSecret(sent.to_vec()), INFO, &place.bytes(), rest, &self.private);
        let opened = opened.map_err(|_| failed("it is damaged, or was sealed as something else"))?;
        SecretValue::from_bytes(opened).map_err(|_| failed("it is no value"))
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpeningKey(…)")
    }
}

/// Seals a value for a place to the [`OpeningKey::public`] key of those who may open it.
///
/// # Errors
/// [`Error::Crypto`], as when `public` is no key.
pub fn seal_secret(public: &[u8], place: &SecretPlace<'_>, value: &SecretValue) -> Result<Vec<u8>, Error> {
    let failed = Error::Crypto { attempt: "seal a secret" };
    if public.len() != KEY_LEN {
        return Err(failed);
    }
    let key = HpkePublicKey(public.to_vec());
    let (sent, sealed) = SUITE.seal(INFO, &place.bytes(), value.reveal().as_bytes(), &key).map_err(|_| failed)?;
    Ok([MAGIC, &name_of(public), &sent.0, &sealed].concat())
}

fn name_of(public: &[u8]) -> [u8; NAME_LEN] {
    let mut name = [0; NAME_LEN];
    name.iter_mut().zip(digest::digest(&digest::SHA256, public).as_ref()).for_each(|(to, from)| *to = *from);
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::credentials::SigningKey;

    fn key(purpose: Purpose) -> (SigningKey, OpeningKey) {
        let signing = SigningKey::generate("a key").expect("a key");
        let opening = OpeningKey::derive(signing.pkcs8(), purpose).expect("a key");
        (signing, opening)
    }

    struct Names(ClusterId, RegionName, AppName, SecretName);

    impl Names {
        fn new(region: &str, app: &str, name: &str) -> Self {
            let names = (region.parse().expect("a name"), app.parse().expect("a name"), name.parse().expect("a name"));
            Self(ClusterId::new(1), names.0, names.1, names.2)
        }

        fn place(&self) -> SecretPlace<'_> {
            SecretPlace { cluster: &self.0, region: &self.1, app: &self.2, name: &self.3 }
        }
    }

    fn value() -> SecretValue {
        SecretValue::new("postgres://shop:s3cret@db/shop".to_owned()).expect("a value")
    }

    #[test]
    fn a_key_is_derived_alike_for_ever_and_another_for_each_purpose() {
        let (signing, opening) = key(Purpose::Region);
        let again = OpeningKey::derive(signing.pkcs8(), Purpose::Region).expect("a key");
        assert_eq!(opening.public(), again.public());
        let other = OpeningKey::derive(signing.pkcs8(), Purpose::Node).expect("a key");
        assert_ne!(opening.public(), other.public());
        assert_eq!(format!("{opening:?}"), "OpeningKey(…)");
        // What is sealed lies in states and backups: a later version must derive the same key.
        let pkcs8 = "308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721a1440342000460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";
        let known = OpeningKey::derive(&hex::decode(pkcs8).expect("digits"), Purpose::Region).expect("a key");
        let expected = "5680e613a888ac54612d7b5b67f15c84b959e3da66da36348df5547b8a803334";
        assert_eq!(hex::encode(known.public()), expected);
    }

    #[test]
    fn a_value_opens_with_its_key_at_its_place_only() {
        let (_, opening) = key(Purpose::Region);
        let names = Names::new("fra", "shop", "DATABASE_URL");
        let sealed = seal_secret(opening.public(), &names.place(), &value()).expect("sealed");
        assert_eq!(sealed.len(), value().reveal().len() + SEALED_OVERHEAD);
        assert!(!sealed.windows(6).any(|part| part == b"s3cret"));
        assert_eq!(opening.open(&names.place(), &sealed).expect("opens"), value());
        assert_ne!(
            seal_secret(opening.public(), &names.place(), &value()).expect("sealed"),
            sealed,
            "never twice alike"
        );

        let (_, other) = key(Purpose::Region);
        let error = other.open(&names.place(), &sealed).expect_err("another key").to_string();
        assert_eq!(error, "open the secret DATABASE_URL: it is sealed to another key: set it anew");
        for moved in [
            Names::new("was", "shop", "DATABASE_URL"),
            Names::new("fra", "thief", "DATABASE_URL"),
            Names::new("fra", "shop", "OTHER"),
        ] {
            opening.open(&moved.place(), &sealed).expect_err("it was sealed for another place");
        }
        seal_secret(&[1, 2], &names.place(), &value()).expect_err("no key");
    }

    proptest! {
        #[test]
        fn damage_is_found(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
            let (_, opening) = key(Purpose::Node);
            let names = Names::new("fra", "shop", "A");
            let mut sealed = seal_secret(opening.public(), &names.place(), &value()).expect("sealed");
            prop_assert!(opening.open(&names.place(), &sealed[..cut.index(sealed.len())]).is_err());
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(opening.open(&names.place(), &sealed).is_err());
        }
    }
}
