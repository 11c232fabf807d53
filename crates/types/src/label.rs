//! Labels: what operators say of their nodes, and services ask for.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{LabelName, name::LABEL_LEN_MAX};

/// Most labels of a node, and most that a service asks for.
pub const LABELS_MAX: usize = 32;

/// Labels with their values.
pub type Labels = BTreeMap<LabelName, LabelValue>;

impl LabelName {
    /// The label that every node has of itself: its data centre.
    pub const DATACENTER: &str = "datacenter";
    /// The label that every node has of itself: its name.
    pub const NODE: &str = "node";
    /// What nodes have of themselves, and no configuration says.
    pub const OWN: [&str; 2] = [Self::DATACENTER, Self::NODE];
}

/// Why a text is not the value of a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid label value: use 1 to 63 letters, digits, dots, hyphens and underscores")]
pub struct LabelValueError(String);

/// The value of a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelValue(String);

impl LabelValue {
    /// Checks and takes a value.
    ///
    /// # Errors
    /// [`LabelValueError`], saying what is valid.
    pub fn new(text: impl Into<String>) -> Result<Self, LabelValueError> {
        let text = text.into();
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if (1..=LABEL_LEN_MAX).contains(&text.len()) && text.bytes().all(is_known) {
            Ok(Self(text))
        } else {
            Err(LabelValueError(text.chars().take(LABEL_LEN_MAX + 1).collect()))
        }
    }

    /// The value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LabelValue {
    type Error = LabelValueError;
    fn try_from(text: String) -> Result<Self, LabelValueError> {
        Self::new(text)
    }
}

impl FromStr for LabelValue {
    type Err = LabelValueError;
    fn from_str(text: &str) -> Result<Self, LabelValueError> {
        Self::new(text)
    }
}

impl From<LabelValue> for String {
    fn from(value: LabelValue) -> Self {
        value.0
    }
}

impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Labels as a definition says them: `disk = "ssd", rack = "r1"`.
pub fn labels_text<'a>(labels: impl IntoIterator<Item = (&'a LabelName, &'a LabelValue)>) -> String {
    let texts: Vec<String> = labels.into_iter().map(|(name, value)| format!("{name} = \"{value}\"")).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short_and_plain() {
        for good in ["ssd", "EPYC_9654", "1.2-3", &"x".repeat(63)] {
            assert!(LabelValue::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\"b", "ä", "a\nb", &"x".repeat(64)] {
            assert!(LabelValue::new(bad).is_err(), "{bad}");
        }
        let error = LabelValue::new("a b").expect_err("a space").to_string();
        assert_eq!(
            error,
            "\"a b\" is not a valid label value: use 1 to 63 letters, digits, dots, hyphens and underscores"
        );
    }
}
