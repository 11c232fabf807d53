//! How many instances of a service a region runs.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Unexpected, Visitor},
};

use crate::{Level, definition::SCALE_MAX};

/// How many instances of a service each region runs. Written as a number, or as `"each-node"`: programs that knew numbers
/// alone read and write the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scale {
    /// So many, wherever there is room.
    Count(u32),
    /// One on each node that the service asks for.
    EachNode,
}

impl Scale {
    /// How [`Self::EachNode`] is written.
    pub const EACH_NODE: &str = "each-node";

    /// The number, where it is one.
    pub const fn count(self) -> Option<u32> {
        match self {
            Self::Count(count) => Some(count),
            Self::EachNode => None,
        }
    }

    /// From which level on programs know it.
    pub const fn level(self) -> Level {
        match self {
            Self::Count(_) => Level::FIRST,
            Self::EachNode => Level(6),
        }
    }
}

impl Default for Scale {
    fn default() -> Self {
        Self::Count(0)
    }
}

impl From<u32> for Scale {
    fn from(count: u32) -> Self {
        Self::Count(count)
    }
}

/// Text that is no scale.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a number from 0 to {SCALE_MAX}, or each-node")]
pub struct ScaleError;

impl FromStr for Scale {
    type Err = ScaleError;
    fn from_str(text: &str) -> Result<Self, ScaleError> {
        match text.parse() {
            Ok(count) if count <= SCALE_MAX => Ok(Self::Count(count)),
            Err(_) if text == Self::EACH_NODE => Ok(Self::EachNode),
            _ => Err(ScaleError),
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::EachNode => f.pad("each node"),
        }
    }
}

impl Serialize for Scale {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::EachNode => serializer.serialize_str(Self::EACH_NODE),
        }
    }
}

impl<'de> Deserialize<'de> for Scale {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrWord)
    }
}

struct NumberOrWord;

impl Visitor<'_> for NumberOrWord {
    type Value = Scale;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number, or {:?}", Scale::EACH_NODE)
    }

    fn visit_u64<E: Error>(self, count: u64) -> Result<Scale, E> {
        u32::try_from(count).map(Scale::Count).map_err(|_| E::custom("the number is too large"))
    }

    /// JSON may write whole numbers so.
    fn visit_f64<E: Error>(self, count: f64) -> Result<Scale, E> {
        if count.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&count) {
            return Err(E::invalid_value(Unexpected::Float(count), &self));
        }
        Ok(Scale::Count(count as u32))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Scale, E> {
        if text == Scale::EACH_NODE { Ok(Scale::EachNode) } else { Err(E::custom(ScaleError)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn numbers_are_written_as_ever() {
        for count in [0, 3, 1000, u32::MAX] {
            assert_eq!(codec::encode(&Scale::Count(count)), codec::encode(&count));
            assert_eq!(codec::decode::<Scale>(&codec::encode(&count)).expect("a number"), Scale::Count(count));
        }
        let each = codec::encode(&Scale::EachNode);
        assert_eq!(codec::decode::<Scale>(&each).expect("written above"), Scale::EachNode);
        codec::decode::<u32>(&each).expect_err("an older program reads no number out of it");
        assert_eq!(serde_json::from_str::<Scale>("\"each-node\"").expect("the word"), Scale::EachNode);
        assert_eq!(serde_json::from_str::<Scale>("2.0").expect("a whole number"), Scale::Count(2));
        for wrong in ["\"each node\"", "-1", "4294967296", "4294967296.0", "1.5", "null"] {
            assert!(serde_json::from_str::<Scale>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn text_is_bounded() {
        assert_eq!(["7", "each-node"].map(str::parse), [Ok(Scale::Count(7)), Ok(Scale::EachNode)]);
        for wrong in ["1001", "-1", "each", ""] {
            assert_eq!(wrong.parse::<Scale>(), Err(ScaleError), "{wrong}");
        }
    }
}
