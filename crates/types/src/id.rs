//! Typed ids and counters. Ids are random, never reused, and written in a short base-32 form with a prefix.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {what}: expected {expected}")]
pub struct IdError {
    /// What was asked for, with its article: "a node id".
    pub what: &'static str,
    /// The text that was given.
    pub found: String,
    /// What a valid one looks like.
    pub expected: &'static str,
}

/// Declares an id: a `u64` written as prefix + Crockford base 32.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $digits:literal, $what:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// Bits that carry information; higher bits of a given number are dropped.
            pub const BITS: u32 = if $digits * 5 > 64 { 64 } else { $digits * 5 };

            /// Makes an id from a random number; keeps the low [`Self::BITS`] bits.
            pub const fn new(random: u64) -> Self {
                if Self::BITS == 64 { Self(random) } else { Self(random & ((1 << Self::BITS) - 1)) }
            }

            /// The number behind the id.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!(concat!($prefix, "{}"), text::base32(self.0, $digits)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(found: &str) -> Result<Self, IdError> {
                found
                    .strip_prefix($prefix)
                    .filter(|digits| digits.len() == $digits)
                    .and_then(text::parse_base32)
                    .map(Self)
                    .ok_or_else(|| IdError { what: $what, found: found.to_owned(), expected: $expected })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u64(self.0) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
                } else {
                    u64::deserialize(d).map(Self)
                }
            }
        }
    };
}

random_id!(
    /// A machine of the platform, for life. Bound to a key in the machine's data directory; a wiped disk gets a new one.
    NodeId, "n-", 13, "a node id", "n- and 13 characters, as `insula nodes` prints it"
);
random_id!(
    /// One run of a service on one node. 40 bits, so that people can type it; uniqueness is checked when it is committed.
    InstanceId, "i-", 8, "an instance id", "i- and 8 characters, as `insula ps` prints it"
);

random_id!(
    /// A join token or an API token; public, unlike the token's secret.
    TokenId, "t-", 13, "a token id", "t- and 13 characters, the part before the secret"
);

/// Declares a counter or a random number that is shown as a plain number.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// The change counter of one replicated state: one more for each command that changed it. Never the log index.
    Revision, u64
);
number!(
    /// Raft's own word for a period with at most one leader.
    Term, u64
);
number!(
    /// Which life of a Raft group a frame belongs to; a restore from a backup makes a new one.
    Incarnation, u64
);
number!(
    /// Number of a release within its app, from 1.
    ReleaseNumber, u64
);

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names one proposed command, so that a retry is recognised and answered from the first outcome. The first half is of the key
/// that the caller gave, the second of what it asked: with the same first half and another second one a key was used twice, and
/// the second command is refused. Who has no key takes two random halves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64, pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One Insula world: the trust domain of every SPIFFE identity in it. Sixteen lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(String);

impl ClusterId {
    /// Makes an id from a random number.
    pub fn new(random: u64) -> Self {
        Self(format!("{random:016x}"))
    }

    /// The sixteen digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ClusterId {
    type Error = IdError;
    fn try_from(found: String) -> Result<Self, IdError> {
        if found.len() == 16 && found.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(found))
        } else {
            Err(IdError { what: "a cluster id", found, expected: "16 lower-case hexadecimal digits" })
        }
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.0
    }
}

impl FromStr for ClusterId {
    type Err = IdError;
    fn from_str(found: &str) -> Result<Self, IdError> {
        found.to_owned().try_into()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_survive_text_and_binary(number: u64) {
            let node = NodeId::new(number);
            prop_assert_eq!(node.to_string().parse::<NodeId>(), Ok(node));
            let instance = InstanceId::new(number);
            prop_assert_eq!(instance.to_string().parse::<InstanceId>(), Ok(instance));
            let bytes = crate::codec::encode(&(node, instance));
            prop_assert_eq!(crate::codec::decode::<(NodeId, InstanceId)>(&bytes).ok(), Some((node, instance)));
        }
    }

    #[test]
    fn a_wrong_id_says_what_was_expected() {
        let error = "n-123".parse::<NodeId>().expect_err("too short");
        assert_eq!(
            error.to_string(),
            "\"n-123\" is not a node id: expected n- and 13 characters, as `insula nodes` prints it"
        );
        assert!(
            "n-zzzzzzzzzzzzz".parse::<NodeId>().is_err(),
            "13 digits of base 32 hold 65 bits; the first may not exceed f"
        );
        assert!("ABCDEF0123456789".parse::<ClusterId>().is_err());
    }
}
