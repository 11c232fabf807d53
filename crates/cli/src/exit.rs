//! How commands end: the exit codes that scripts rely on, and errors that say what, why, and what to do next.

use std::{error::Error, fmt, process::ExitCode};

use insula_api::{ClientError, Code, Problem};

/// Exit codes. Scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something failed.
    Failed = 1,
    /// Wrong usage, or an invalid definition.
    Usage = 2,
    /// What was named is not there.
    NotFound = 3,
    /// Something else has changed or owns it.
    Conflict = 4,
    /// No node, or no leader, can be reached.
    Unreachable = 5,
    /// It took too long; the outcome may still come.
    TimedOut = 6,
    /// `exec` or `run` could not run the command, or does not know how it ended: all other codes are the command's own.
    NotRun = 125,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A problem in words. What its code means in general is left out where the sentence about this case says it itself.
fn said(problem: &Problem) -> String {
    let is_sentence = match problem.code {
        Code::Conflict
        | Code::InvalidRequest
        | Code::AlreadyDone
        | Code::Busy
        | Code::NothingToSteer
        | Code::VolumeNotSmaller => true,
        Code::NoSuchRequest
        | Code::NoSuchNode
        | Code::NoSuchService
        | Code::NoSuchRelease
        | Code::NoSuchSnapshot
        | Code::NoSuchVolume => problem.detail.contains("no "),
        _ => false,
    };
    if is_sentence && problem.detail.contains(' ') { problem.detail.clone() } else { problem.to_string() }
}

/// A command that failed.
#[derive(Debug)]
pub struct Failure {
    /// How the program ends.
    pub exit: Exit,
    text: String,
}

impl Failure {
    /// A failure with its text: what, why, and what to do next, further lines indented.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// Wrong usage.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// The same with another exit code.
    #[must_use]
    pub fn with_exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// The same, unless its command, between backquotes, is named already.
    #[must_use]
    pub fn hint_anew(self, line: &str) -> Self {
        let is_said = line.split('`').nth(1).is_some_and(|command| self.text.contains(&format!("`{command}")));
        if is_said { self } else { self.hint(line) }
    }

    /// Adds a line that says what to do next.
    #[must_use]
    pub fn hint(mut self, line: &str) -> Self {
        self.text.push_str("\n  ");
        self.text.push_str(line);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Problem(problem) => Self::from(problem),
            ClientError::Unreachable { .. } => Self::new(Exit::Unreachable, error.to_string())
                .hint("is `insula server` running there, and may this machine reach it?"),
            ClientError::TimedOut { .. } => {
                Self::new(Exit::TimedOut, error.to_string()).hint("`insula status` shows whether there is a leader")
            }
            ClientError::CutOff { .. } => {
                Self::new(Exit::TimedOut, chain(&error)).hint("a change may take effect yet: look before you repeat it")
            }
            ClientError::Unreadable { .. } | ClientError::Request { .. } => Self::new(Exit::Failed, chain(&error)),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = exit_of(problem.code);
        let mut text = said(&problem);
        for at in &problem.problems {
            text.push_str(&format!("\n  {at}"));
        }
        let failure = Self::new(exit, text);
        match problem.code {
            Code::Unauthorized => failure.hint("make a new one on a node: insula token create --api"),
            Code::NoSuchApp => failure.hint_anew("`insula apps` lists what there is"),
            Code::NoSuchInstance => {
                failure.hint_anew("`insula ps` lists what there is; replaced instances get new ids")
            }
            Code::NoSuchNode => failure.hint_anew("`insula nodes` lists what there is; ids and names must be exact"),
            Code::NoLeader => failure.hint("nothing was changed; `insula status` shows since when there is none"),
            Code::NotYet => failure.hint("nothing was changed; `insula nodes` lists the version of each node"),
            Code::NodeChanged => failure.hint("look at it (`insula node show`), then run the command again"),
            Code::ReleaseChanged => failure.hint("somebody else deployed meanwhile: look, then run the command again"),
            _ => failure,
        }
    }
}

const fn exit_of(code: Code) -> Exit {
    match code {
        Code::InvalidRequest | Code::InvalidDefinition | Code::InvalidImage | Code::BodyTooLarge => Exit::Usage,
        Code::NoSuchApp
        | Code::NoSuchService
        | Code::NoSuchInstance
        | Code::NoSuchNode
        | Code::NoSuchRegion
        | Code::NoSuchToken
        | Code::NoSuchImage
        | Code::NoSuchSecret
        | Code::NoSuchVolume
        | Code::NoSuchRelease
        | Code::NoSuchRequest
        | Code::NoSuchSnapshot => Exit::NotFound,
        Code::RouteTaken
        | Code::ReleaseChanged
        | Code::SecretInUse
        | Code::SecretsNotReady
        | Code::NothingToSteer
        | Code::RegionExists
        | Code::VolumeExists
        | Code::VolumeElsewhere
        | Code::VolumeNotSmaller
        | Code::VolumeInUse
        | Code::NodeChanged
        | Code::NodeInUse
        | Code::NodeIsUp
        | Code::RootOutOfTurn
        | Code::Conflict
        | Code::AlreadyDone
        | Code::NotYet
        | Code::IdempotencyKeyReused => Exit::Conflict,
        Code::NoLeader | Code::NodeUnreachable => Exit::Unreachable,
        Code::OutcomeUnknown | Code::TimedOut => Exit::TimedOut,
        _ => Exit::Failed,
    }
}

/// An error with its causes.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn each_way_to_fail_has_its_code() {
        let exit = |code| Failure::from(Problem::new(code, "x")).exit as u8;
        let codes = [Code::Internal, Code::InvalidDefinition, Code::NoSuchApp, Code::RouteTaken, Code::NoLeader];
        assert_eq!(codes.map(exit), [1, 2, 3, 4, 5]);
        assert_eq!((exit(Code::OutcomeUnknown), exit(Code::Unauthorized)), (6, 1));
        let unreachable = ClientError::Unreachable { tried: vec![("a:1".to_owned(), "refused".to_owned())] };
        assert_eq!(Failure::from(unreachable).exit as u8, 5);
    }

    #[test]
    fn nothing_is_said_twice() {
        let said = |code, detail: &str| Failure::from(Problem::new(code, detail)).to_string();
        assert_eq!(
            said(Code::NoSuchApp, "shop: `insula apps` lists those there are"),
            "there is no such app: shop: `insula apps` lists those there are"
        );
        assert_eq!(said(Code::Conflict, "node n3 is up: stop it first"), "node n3 is up: stop it first");
        assert_eq!(said(Code::NoSuchRelease, "shop has no release 7"), "shop has no release 7");
        assert_eq!(said(Code::NoSuchVolume, "shop/web/data.0"), "there is no such volume: shop/web/data.0");
    }

    #[test]
    fn an_error_says_what_why_and_what_next() {
        expect![[r#"
            there is no such app: shop
              `insula apps` lists what there is"#]]
        .assert_eq(&Failure::from(Problem::new(Code::NoSuchApp, "shop")).to_string());
    }
}
