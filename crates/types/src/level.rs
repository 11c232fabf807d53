//! Levels: which commands a program knows. A program that knows level 2 knows all of level 1 too.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What comes before the level in the build metadata of a version.
const MARK: &str = "level.";

/// A set of commands that programs know; greater ones hold all of the smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Level(pub u32);

impl Level {
    /// The level of programs that say nothing of levels.
    pub const FIRST: Self = Self(1);

    /// The version of a program, with this level as build metadata: `0.1.0+level.2`.
    ///
    /// A node's level travels in the version that it reports and not in a field of its own: programs of level 1 take part
    /// in applying the report, and keep every version as it is but would drop a field that they do not know. Their copy
    /// of the state would then differ from that of others.
    #[must_use]
    pub fn mark(self, version: &str) -> String {
        let join = if version.contains('+') { '.' } else { '+' };
        format!("{version}{join}{MARK}{self}")
    }

    /// Takes a reported version apart: the version itself, and the level that its program knows.
    pub fn split(version: &str) -> (&str, Self) {
        let apart = version.rsplit_once(MARK).and_then(|(before, digits)| {
            let plain = before.strip_suffix(['+', '.'])?;
            Some((plain, Self(digits.parse().ok()?)))
        });
        apart.filter(|(_, level)| *level > Self::FIRST).unwrap_or((version, Self::FIRST))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the programs of a state have agreed on: all know the level, and none that knows less comes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// The level.
    pub level: Level,
    /// A version of the program that knows it, for people.
    pub version: String,
}

impl Agreed {
    /// What a program that reports `version` can agree on. None at the first level, on which all agree without a word.
    pub fn of_version(version: &str) -> Option<Self> {
        let (plain, level) = Level::split(version);
        (level > Level::FIRST).then(|| Self { level, version: plain.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_carries_the_level_and_gives_it_back() {
        for (version, marked) in [("0.1.0", "0.1.0+level.7"), ("0.1.0+probe", "0.1.0+probe.level.7")] {
            assert_eq!(Level(7).mark(version), marked);
            assert_eq!(Level::split(marked), (version, Level(7)));
        }
    }

    #[test]
    fn a_version_without_a_level_is_of_the_first() {
        for version in
            ["", "0.1.0", "0.1.0+probe", "1level.2", "0.1.0+level.", "0.1.0+level.-2", "0.1.0+level.0", "level.4"]
        {
            assert_eq!(Level::split(version), (version, Level::FIRST));
            assert_eq!(Agreed::of_version(version), None);
        }
        assert_eq!(Level::split("0.1.0+level.99999999999").1, Level::FIRST, "more than fits");
    }
}
