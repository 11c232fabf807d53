//! The terminal while it shows one page that changes: a screen of its own, which leaves no trace.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use insula_env::clock;
use insula_types::WindowSize;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use crate::{Exit, Failure};

/// To the other screen and back, with the cursor hidden meanwhile (xterm's control sequences).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the upper left; the rest of the line; the rest of the screen.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";
/// Keys that end it: q, Q, Ctrl-C, Ctrl-D. Not Escape, with which arrows begin, too.
const ENDS: [u8; 4] = [b'q', b'Q', 3, 4];
/// What is taken where the size is not known.
const SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };
/// Keys that wait.
const WAITING_MAX: usize = 16;

/// An open screen; dropped, the terminal is as before.
pub struct Screen {
    before: Termios,
    keys: mpsc::Receiver<u8>,
}

impl Screen {
    /// None when this is no terminal that can be set up.
    pub fn open() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(io::stdin(), OptionalActions::Drain, &modes).ok()?;
        let screen = Self { before, keys: read_keys() };
        write(ENTER).ok()?;
        Some(screen)
    }

    /// Its size now: windows are made larger and smaller.
    pub fn size(&self) -> WindowSize {
        let found = tcgetwinsize(io::stdout()).map(|size| WindowSize { rows: size.ws_row, columns: size.ws_col });
        found.ok().filter(|size| size.rows > 0 && size.columns > 0).unwrap_or(SIZE)
    }

    /// Shows a page that fits, in place of the one before, and without a flicker.
    pub fn show(&mut self, page: &str) -> Result<(), Failure> {
        let lines: Vec<_> = page.lines().map(|line| format!("{line}{CLEAR_LINE}")).collect();
        write(&format!("{HOME}{}{CLEAR_REST}", lines.join("\r\n")))
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot write to the terminal: {error}")))
    }

    /// Waits; true as soon as somebody ends it.
    pub async fn is_left_within(&mut self, wait: Duration) -> bool {
        let ends = async {
            loop {
                match self.keys.recv().await {
                    Some(key) if !ENDS.contains(&key) => {}
                    // The terminal is gone, too, when nothing comes any more.
                    _ => return,
                }
            }
        };
        clock::timeout(wait, ends).await.is_ok()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write(LEAVE).ok();
        // Not waiting for output: the terminal may be gone.
        tcsetattr(io::stdin(), OptionalActions::Now, &self.before).ok();
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A thread that reads: it stays in its last read at the end, and goes with the process.
#[allow(clippy::disallowed_methods, reason = "no task can be dropped out of a read of standard input")]
fn read_keys() -> mpsc::Receiver<u8> {
    let (send, receive) = mpsc::channel(WAITING_MAX);
    std::thread::spawn(move || {
        let mut key = [0];
        loop {
            match io::stdin().lock().read(&mut key) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(1) => {
                    if send.blocking_send(key[0]).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    });
    receive
}
