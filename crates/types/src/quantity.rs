//! Amounts that users write with a unit: bytes and CPU time.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {what}: write {expected}")]
pub struct QuantityError {
    /// What was asked for, with its article.
    pub what: &'static str,
    /// The text that was given.
    pub found: String,
    /// Examples of valid ones.
    pub expected: &'static str,
}

/// A number of bytes, written like `256MiB` or `1GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Units from the largest; binary (IEC 80000-13) before decimal.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// So many mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let wrong = || QuantityError {
            what: "an amount of bytes",
            found: text.to_owned(),
            expected: "a whole number with a unit, like 256MiB, 1GiB or 500MB",
        };
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (_, factor) = BYTE_UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
        number.checked_mul(*factor).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = BYTE_UNITS[..4]
            .iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        f.pad(&format!("{}{name}", self.0 / factor))
    }
}

/// Thousandths of one CPU, written `500m`, or whole CPUs, written `2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct CpuMillis(pub u32);

impl FromStr for CpuMillis {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let wrong = || QuantityError {
            what: "an amount of CPU",
            found: text.to_owned(),
            expected: "thousandths of a CPU like 500m, or whole CPUs like 2",
        };
        let (digits, factor) = match text.strip_suffix('m') {
            Some(digits) => (digits, 1),
            None => (text, 1000),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: u32 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for CpuMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}m", self.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn amounts_survive_text(bytes in 0u64..1 << 50, millis in 0u32..4_000_000) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
            prop_assert_eq!(CpuMillis(millis).to_string().parse(), Ok(CpuMillis(millis)));
        }
    }

    #[test]
    fn units_are_read_and_refused() {
        assert_eq!("256MiB".parse(), Ok(ByteSize::mib(256)));
        assert_eq!("1GB".parse(), Ok(ByteSize(1_000_000_000)));
        assert_eq!("2".parse(), Ok(CpuMillis(2000)));
        for bad in ["", "12", "MiB", "1.5GiB", "-1MiB", "99999999999TiB", "1gb"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
        for bad in ["", "m", "1.5", "-1", "+5", "5000000000m"] {
            assert!(bad.parse::<CpuMillis>().is_err(), "{bad}");
        }
    }
}
