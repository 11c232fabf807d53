//! How important a service is to its region, when there is not room for all.

use std::{fmt, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

/// From 0 to 100; more goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Priority(pub u8);

impl Priority {
    /// Where a definition says nothing.
    pub const USUAL: Self = Self(50);
    /// What a definition may say.
    pub const RANGE: RangeInclusive<u8> = 0..=100;
    /// What differs by less is alike: nothing that runs is taken away for it.
    pub const CLEAR: u8 = 10;

    /// Whether it is what it is where nothing is said.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    pub fn is_usual(&self) -> bool {
        *self == Self::USUAL
    }

    /// Whether it is higher than another, clearly enough for that one to give way.
    #[must_use]
    pub const fn is_clearly_above(self, other: Self) -> bool {
        self.0 >= other.0.saturating_add(Self::CLEAR)
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::USUAL
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
