//! Bytes sealed under something random that a person or a token carries: AES-256-GCM under a key that HKDF-SHA-256
//! (RFC 5869) derives from it. What is carried is random, so no slow password hash is needed.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf,
};
use zeroize::Zeroizing;

use crate::Error;

const SALT_LEN: usize = 16;

/// One kind of sealed bytes: what they begin with, version included, and for what the key is derived.
pub(crate) struct Envelope {
    pub(crate) magic: &'static [u8],
    pub(crate) info: &'static [u8],
}

impl Envelope {
    fn derive(&self, secret: &[u8], salt: &[u8]) -> Result<RandomizedNonceKey, Error> {
        let refused = |_| Error::Crypto { attempt: "derive the sealing key" };
        let mut key = Zeroizing::new([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(secret)
            .expand(&[self.info], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut *key))
            .map_err(refused)?;
        RandomizedNonceKey::new(&AES_256_GCM, &*key).map_err(refused)
    }

    /// Encrypts `plain`. It opens with the same `secret` and for the same `place` only.
    pub(crate) fn seal(&self, secret: &[u8], place: &[u8], mut plain: Zeroizing<Vec<u8>>) -> Result<Vec<u8>, Error> {
        let mut salt = [0; SALT_LEN];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| Error::Crypto { attempt: "draw a salt" })?;
        // In place: the tag must fit without growing, or a plain copy stays behind in freed memory.
        plain.reserve_exact(AES_256_GCM.tag_len());
        let nonce = self
            .derive(secret, &salt)?
            .seal_in_place_append_tag(Aad::from([self.magic, place].concat()), &mut *plain)
            .map_err(|_| Error::Crypto { attempt: "seal a key" })?;
        Ok([self.magic, &salt, nonce.as_ref(), &plain].concat())
    }

    /// Decrypts what [`seal`](Self::seal) made; none when it was another secret or place, or is damaged.
    pub(crate) fn unseal(&self, secret: &[u8], place: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let rest = sealed.strip_prefix(self.magic)?;
        let (salt, rest) = rest.split_at_checked(SALT_LEN)?;
        let (nonce, rest) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = Zeroizing::new(rest.to_vec());
        let place = Aad::from([self.magic, place].concat());
        let len = self.derive(secret, salt).ok()?.open_in_place(nonce, place, &mut bytes).ok()?.len();
        bytes.truncate(len);
        Some(bytes)
    }
}
