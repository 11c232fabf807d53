//! A command that is run inside a running instance: what is asked, and what goes to and fro.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most parts of a command, and most bytes of all of them.
pub const COMMAND_PARTS_MAX: usize = 256;
/// See [`COMMAND_PARTS_MAX`].
pub const COMMAND_LEN_MAX: usize = 32 << 10;
/// Most bytes of input or output that go at once.
pub const EXEC_DATA_LEN_MAX: usize = 64 << 10;
/// Greatest number of a signal that can be sent: the last that is not for real-time programs.
const SIGNAL_MAX: u8 = 31;

/// Size of a terminal's window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in each.
    pub columns: u16,
}

/// A command, and what it is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// Program and arguments. A program without `/` is looked for in the instance's PATH.
    #[schemars(length(min = 1, max = COMMAND_PARTS_MAX))]
    pub command: Vec<String>,
    /// It gets a terminal of this size; none: three pipes.
    #[serde(default)]
    pub terminal: Option<WindowSize>,
    /// Input will be sent; else it reads the end at once. A terminal always has input.
    #[serde(default)]
    pub has_input: bool,
}

/// Why a command is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecSpecError {
    /// There is none.
    #[error("the command is empty: write it after `--`")]
    Empty,
    /// It is too long.
    #[error(
        "the command has {parts} parts with {bytes} bytes: {COMMAND_PARTS_MAX} with {COMMAND_LEN_MAX} bytes are allowed"
    )]
    TooLong {
        /// Program and arguments.
        parts: usize,
        /// Bytes of them.
        bytes: usize,
    },
    /// No program can get a zero byte.
    #[error("the command has a zero byte in it")]
    ZeroByte,
}

impl ExecSpec {
    /// Whether it can be run as far as its form goes.
    ///
    /// # Errors
    /// [`ExecSpecError`].
    pub fn check(&self) -> Result<(), ExecSpecError> {
        let (parts, bytes) = (self.command.len(), self.command.iter().map(String::len).sum::<usize>());
        if self.command.first().is_none_or(String::is_empty) {
            return Err(ExecSpecError::Empty);
        }
        if parts > COMMAND_PARTS_MAX || bytes > COMMAND_LEN_MAX {
            return Err(ExecSpecError::TooLong { parts, bytes });
        }
        if self.command.iter().any(|part| part.contains('\0')) {
            return Err(ExecSpecError::ZeroByte);
        }
        Ok(())
    }
}

/// The number of a signal that a user may send to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct SignalNumber(u8);

impl SignalNumber {
    /// HUP, which a command gets when its terminal or its caller goes away.
    pub const HANG_UP: Self = Self(1);

    /// As the kernel counts them.
    #[must_use]
    pub const fn get(self) -> i32 {
        self.0 as i32
    }
}

impl TryFrom<u8> for SignalNumber {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1..=SIGNAL_MAX => Ok(Self(number)),
            _ => Err(format!("{number} is no signal: expected 1 to {SIGNAL_MAX}")),
        }
    }
}

impl From<SignalNumber> for u8 {
    fn from(signal: SignalNumber) -> Self {
        signal.0
    }
}

/// What goes to the command, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecInput {
    /// Bytes for its standard input; at most [`EXEC_DATA_LEN_MAX`].
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Its standard input ends.
    End,
    /// Its terminal has another size.
    Resize(WindowSize),
    /// A signal for it and what it started.
    Signal(SignalNumber),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecExit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl ExecExit {
    /// The code with which a shell would tell it: signals begin at 128.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
            Self::Signal(signal) => u8::try_from(128 + (signal & 0x7f)).unwrap_or(u8::MAX),
        }
    }
}

/// What comes from the command. [`ExecOutput::Exit`] and [`ExecOutput::Failed`] are the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecOutput {
    /// It runs. Always the first, so that a refusal is told from a failure.
    Started,
    /// What it wrote to its standard output or its terminal; at most [`EXEC_DATA_LEN_MAX`].
    Stdout(#[serde(with = "serde_bytes")] Vec<u8>),
    /// What it wrote to its standard error.
    Stderr(#[serde(with = "serde_bytes")] Vec<u8>),
    /// It has ended, and this was all of its output.
    Exit(ExecExit),
    /// What became of it is not known: why.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn commands_are_bounded() {
        let check = |command: &[String]| {
            ExecSpec { command: command.to_vec(), terminal: None, has_input: false }.check().map_err(|e| e.to_string())
        };
        assert_eq!(check(&["ls".to_owned(), String::new()]), Ok(()));
        for wrong in [vec![], vec![String::new()], vec!["x".repeat(COMMAND_LEN_MAX + 1)], vec!["a\0b".to_owned()]] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
        assert!(check(&vec!["x".to_owned(); COMMAND_PARTS_MAX + 1]).is_err());
    }

    #[test]
    fn only_signals_are_signals() {
        assert_eq!(codec::decode::<ExecInput>(&codec::encode(&ExecInput::Signal(SignalNumber(15)))).map_err(drop), {
            Ok(ExecInput::Signal(SignalNumber::try_from(15).expect("a signal")))
        });
        assert!(codec::decode::<SignalNumber>(&codec::encode(&0_u8)).is_err());
        assert!(SignalNumber::try_from(32).is_err());
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        let codes = [ExecExit::Code(0), ExecExit::Code(7), ExecExit::Code(-1), ExecExit::Signal(9)].map(ExecExit::code);
        assert_eq!(codes, [0, 7, 255, 137]);
    }
}
