//! This process's own terminal, while its keys are a command's.

use std::io;

use insula_types::WindowSize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// What is taken where there is no window.
const SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };

/// Size of the window that the output, or else the input, is shown in.
pub fn size() -> WindowSize {
    let found = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
    let found = found.map(|size| WindowSize { rows: size.ws_row, columns: size.ws_col });
    found.ok().filter(|size| size.rows > 0 && size.columns > 0).unwrap_or(SIZE)
}

/// While it lives, every key is passed on as it is typed: the command's own terminal makes signals and lines of them.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// None when standard input is no terminal.
    pub fn enter() -> Option<Self> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Not waiting for output: the terminal may be gone.
        tcsetattr(io::stdin(), OptionalActions::Now, &self.before).ok();
    }
}
