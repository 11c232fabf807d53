//! Secrets of apps: what a user tells the instances of a service, and nobody else. Values are never printed, and wiped when dropped.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

/// Longest value in bytes: keys and certificates fit, and as many as a service may have go into one environment.
pub const SECRET_LEN_MAX: usize = 16 << 10;

/// Greatest number of secrets of a service.
pub const SECRETS_MAX: usize = 64;

/// Longest name in bytes.
const NAME_LEN_MAX: usize = 128;

/// Counts the values of a secret, from 1. In a service whose release is not made yet, 0 stands for the newest.
pub type SecretVersion = u32;

/// Which secrets a service has, and of each which version.
pub type SecretVersions = BTreeMap<SecretName, SecretVersion>;

/// Values that were opened, by their names.
pub type SecretValues = BTreeMap<SecretName, SecretValue>;

/// The name of a secret, which is that of an environment variable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

/// Why a text is not the name of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a secret: up to 128 letters, digits and underscores, of which the first is no digit, and not beginning \
     with INSULA_, like DATABASE_URL"
)]
pub struct SecretNameError(String);

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = SecretNameError;
    fn from_str(text: &str) -> Result<Self, SecretNameError> {
        let is_good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let is_first = |b: &u8| !b.is_ascii_digit();
        let is_name = text.len() <= NAME_LEN_MAX
            && text.bytes().all(is_good)
            && text.as_bytes().first().is_some_and(is_first)
            && !text.starts_with("INSULA_");
        if is_name {
            Ok(Self(text.to_owned()))
        } else {
            Err(SecretNameError(text.chars().take(NAME_LEN_MAX).collect()))
        }
    }
}

impl TryFrom<String> for SecretName {
    type Error = SecretNameError;
    fn try_from(text: String) -> Result<Self, SecretNameError> {
        text.parse()
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The value of a secret: text, which an environment variable can have. It does not serialize; see [`Revealed`].
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<String>);

/// Why a text cannot be the value of a secret. Never repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretValueError {
    /// There is nothing in it.
    #[error("the value is empty: a secret has at least one character")]
    Empty,
    /// It is too long.
    #[error("the value has {0} bytes, and a secret has at most {SECRET_LEN_MAX}")]
    TooLong(usize),
    /// No program could receive it.
    #[error("the value contains a NUL character, which no environment variable can have")]
    Nul,
    /// It is no text.
    #[error("the value is not UTF-8: encode what is no text, as base64 does")]
    NoText,
}

impl SecretValue {
    /// Takes a value.
    ///
    /// # Errors
    /// [`SecretValueError`]; the text is wiped then.
    pub fn new(text: String) -> Result<Self, SecretValueError> {
        let text = Zeroizing::new(text);
        match text.len() {
            0 => Err(SecretValueError::Empty),
            len if len > SECRET_LEN_MAX => Err(SecretValueError::TooLong(len)),
            _ if text.contains('\0') => Err(SecretValueError::Nul),
            _ => Ok(Self(text)),
        }
    }

    /// Takes a value in bytes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SecretValueError> {
        match String::from_utf8(bytes) {
            Ok(text) => Self::new(text),
            Err(error) => {
                error.into_bytes().zeroize();
                Err(SecretValueError::NoText)
            }
        }
    }

    /// The value itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// A value that is written in the clear: to whoever is to have it, over a connection that nobody else reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revealed(pub SecretValue);

impl Serialize for Revealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.reveal())
    }
}

impl<'de> Deserialize<'de> for Revealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        SecretValue::new(text).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn names_are_those_of_variables() {
        for good in ["A", "DATABASE_URL", "_x9", &"A".repeat(128)] {
            assert_eq!(good.parse::<SecretName>().map(|name| name.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "9A", "A-B", "A=B", "A/../B", "Ä", "INSULA_APP", &"A".repeat(129)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_bounded_and_not_printed() {
        let value = SecretValue::new("s3cret".to_owned()).expect("a value");
        assert_eq!(format!("{value:?} {:?}", Revealed(value.clone())), "SecretValue(…) Revealed(SecretValue(…))");
        for (bad, why) in [
            (Vec::new(), SecretValueError::Empty),
            (vec![b'x'; SECRET_LEN_MAX + 1], SecretValueError::TooLong(SECRET_LEN_MAX + 1)),
            (b"a\0b".to_vec(), SecretValueError::Nul),
            (vec![0xff], SecretValueError::NoText),
        ] {
            assert_eq!(SecretValue::from_bytes(bad).expect_err("no value"), why);
        }
        let sent = codec::encode(&Revealed(value.clone()));
        assert_eq!(codec::decode::<Revealed>(&sent).expect("own format").0, value);
        codec::decode::<Revealed>(&codec::encode("")).expect_err("no value");
    }
}
