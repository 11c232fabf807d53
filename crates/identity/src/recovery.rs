//! The recovery key: printed once at `init`, needed to use the root key again.

use std::fmt;

use aws_lc_rs::digest;
use insula_env::Rng;
use zeroize::{Zeroize, Zeroizing};

use crate::{Error, envelope::Envelope};

/// Bits of 5: 160 bits of key, 20 bits of checksum.
const KEY_LEN: usize = 20;
const DIGITS: usize = 36;
const GROUP: usize = 6;
/// Crockford's base 32: no i, l, o, u, so that what is read aloud is typed right.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// How the root's key is sealed.
const ROOT: Envelope = Envelope { magic: b"insula-sealed-1\n", info: b"insula root key v1" };

/// The key that opens the sealed root key. Shown as six groups of six characters, the last four a checksum.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey([u8; KEY_LEN]);

impl RecoveryKey {
    /// A new key.
    pub fn random(rng: &Rng) -> Self {
        let mut bytes = [0; KEY_LEN];
        rng.fill(&mut bytes);
        Self(bytes)
    }

    /// The form to print, once: `XXXXXX-XXXXXX-XXXXXX-XXXXXX-XXXXXX-XXXXXX`.
    pub fn reveal(&self) -> String {
        let sum = checksum(&self.0);
        let bytes = self.0.iter().chain(&sum);
        let mut text = String::with_capacity(DIGITS + DIGITS / GROUP);
        let (mut held, mut bits, mut written) = (0u32, 0, 0);
        for byte in bytes {
            held = held << 8 | u32::from(*byte);
            bits += 8;
            while bits >= 5 && written < DIGITS {
                bits -= 5;
                if written > 0 && written % GROUP == 0 {
                    text.push('-');
                }
                text.push(char::from(ALPHABET[(held >> bits & 31) as usize]));
                written += 1;
            }
        }
        text
    }

    /// Reads what [`reveal`](Self::reveal) wrote. Case, spaces and hyphens do not matter; `o` is read as 0, `i` and `l` as 1.
    ///
    /// # Errors
    /// [`Error::RecoveryKey`] when it is mistyped.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why| Error::RecoveryKey { why };
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_LEN + 3));
        let (mut held, mut bits, mut digits) = (0u32, 0, 0);
        for letter in text.chars().filter(|letter| !letter.is_whitespace() && *letter != '-') {
            let letter = match letter.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let digit = ALPHABET
                .iter()
                .position(|known| char::from(*known) == letter)
                .ok_or(wrong("it has a character that no recovery key has"))?;
            digits += 1;
            if digits > DIGITS {
                break;
            }
            held = (held << 5 | digit as u32) & 0xfff;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push((held >> bits) as u8);
            }
        }
        if digits != DIGITS {
            return Err(wrong("it has 36 characters, in six groups of six"));
        }
        let key: [u8; KEY_LEN] = bytes.get(..KEY_LEN).and_then(|key| key.try_into().ok()).ok_or(wrong("it is cut"))?;
        let key = Self(key);
        // Read back instead of comparing 20 odd bits.
        let typed: String = text
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|letter| match letter.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            })
            .collect();
        if key.reveal().replace('-', "") == typed {
            Ok(key)
        } else {
            Err(wrong("the checksum is wrong: a typing error?"))
        }
    }

    /// Encrypts `plain`.
    pub(crate) fn seal(&self, plain: Zeroizing<Vec<u8>>) -> Result<Vec<u8>, Error> {
        ROOT.seal(&self.0, b"", plain)
    }

    /// Decrypts what [`seal`](Self::seal) made.
    pub(crate) fn unseal(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        ROOT.unseal(&self.0, b"", sealed).ok_or(Error::Unseal)
    }
}

/// Twenty-four bits, of which the printed form carries the first twenty.
fn checksum(key: &[u8; KEY_LEN]) -> [u8; 3] {
    let hash = digest::digest(&digest::SHA256, key);
    let mut sum = [0; 3];
    sum.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    sum
}

impl Drop for RecoveryKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use insula_env::Rng;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_survives_paper(seed: u64) {
            let key = RecoveryKey::random(&Rng::from_seed(seed));
            let text = key.reveal();
            prop_assert_eq!(text.len(), 41);
            prop_assert_eq!(RecoveryKey::parse(&text).ok(), Some(key.clone()));
            let sloppy = text.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
            prop_assert_eq!(RecoveryKey::parse(&sloppy).ok(), Some(key));
        }

        #[test]
        fn a_typing_error_is_found(seed: u64, at in 0usize..41, to in 0usize..32) {
            let text = RecoveryKey::random(&Rng::from_seed(seed)).reveal();
            let mut typed = text.into_bytes();
            prop_assume!(typed[at] != b'-' && typed[at] != ALPHABET[to]);
            typed[at] = ALPHABET[to];
            let typed = String::from_utf8(typed).expect("ASCII");
            prop_assert!(RecoveryKey::parse(&typed).is_err());
        }

        #[test]
        fn garbage_is_refused_without_a_panic(text: String, bytes: Vec<u8>) {
            prop_assert!(RecoveryKey::parse(&text).is_err());
            prop_assert!(RecoveryKey::random(&Rng::from_seed(1)).unseal(&bytes).is_err());
        }
    }

    #[test]
    fn sealed_bytes_open_with_the_same_key_only() {
        let key = RecoveryKey::random(&Rng::from_seed(1));
        let sealed = key.seal(Zeroizing::new(b"root".to_vec())).expect("seal");
        assert!(!sealed.windows(4).any(|part| part == b"root"));
        assert_eq!(*key.unseal(&sealed).expect("unseal"), b"root");
        let other = RecoveryKey::random(&Rng::from_seed(2));
        assert!(matches!(other.unseal(&sealed), Err(Error::Unseal)));
        for damaged in 0..sealed.len() {
            let mut bytes = sealed.clone();
            bytes[damaged] ^= 1;
            assert!(key.unseal(&bytes).is_err(), "byte {damaged}");
        }
    }
}
