//! The level of commands that a state's programs have agreed on. A command is proposed only when everybody who may have to
//! apply it knows it: an older program that met it in the log would have to stop.
//!
//! ```text
//! nodes report what they know ─► all know more, for a while ─► RaiseLevel ─► newer commands go, older programs do not
//! ```

use insula_types::Level;
use serde::{Deserialize, Serialize};

/// What this program knows. To be raised with each new command, and with each new field that applying stores and a decision
/// looks at: a program that does not know the field drops it, and would decide differently.
pub const LEVEL: Level = Level(6);

/// Those who hold a level back that are named in an error.
const NAMED_MAX: usize = 5;

/// A command that is not proposed, because somebody does not know it yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotYet {
    /// Whose level it is: "region" or "global".
    pub state: String,
    /// The level that the command needs.
    pub needed: Level,
    /// The level that is agreed on.
    pub agreed: Level,
    /// Who knows less than is needed: "node n2", "region was".
    pub behind: Vec<String>,
}

impl std::fmt::Display for NotYet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { state, needed, agreed, behind } = self;
        write!(f, "this needs level {needed} of all programs, and the {state} state is at level {agreed}: ")?;
        let named: Vec<&str> = behind.iter().take(NAMED_MAX).map(String::as_str).collect();
        match behind.len() - named.len() {
            _ if behind.is_empty() => write!(f, "all know it by now, so try again in a minute or two"),
            0 => write!(f, "upgrade {} first", named.join(", ")),
            more => write!(f, "upgrade {} and {more} more first", named.join(", ")),
        }
    }
}

impl std::error::Error for NotYet {}

#[cfg(test)]
mod tests;
