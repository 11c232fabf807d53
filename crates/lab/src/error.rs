//! What can go wrong with a lab.

use std::{io, path::PathBuf};

/// Why a command of the lab failed. Nothing here is made better by trying again, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Planned, and not in this version.
    #[error("{0}: not yet in this version")]
    NotYet(&'static str),
    /// No such lab, node or place.
    #[error("{0}")]
    NotFound(String),
    /// Namespaces and mounts are for root.
    #[error("a lab needs root (namespaces, mounts, loop devices): run it with sudo, or use `insula dev`")]
    NotRoot,
    /// The lab stands already.
    #[error("a lab is in {0}: take it down first with `insula lab down`")]
    Exists(PathBuf),
    /// A program of the system is missing.
    #[error("{program} is missing: install the Debian package {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// A system call or file failed.
    #[error("{what}")]
    System {
        /// Attempt and object.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program that was run ended badly.
    #[error("{command}: {said}")]
    Command {
        /// The command line.
        command: String,
        /// The end of what it wrote, or its exit status.
        said: String,
    },
    /// Something did not come about in time; it may still.
    #[error("waited {seconds} s for {what}: see {log}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// Where the reason may be found.
        log: PathBuf,
    },
}

/// Names what was attempted when it fails.
pub(crate) trait Attempt<T> {
    /// Adds attempt and object to an error of the system.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::System { what: what(), source: error.into() })
    }
}
