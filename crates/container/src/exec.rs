//! A command that runs inside an instance, as the runtime's callers see it.

use std::fmt;

use futures::future::BoxFuture;
use insula_types::{SignalNumber, WindowSize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use crate::Exit;

/// Where a command reads from. Dropping it ends the command's input.
pub type ExecStdin = Box<dyn AsyncWrite + Send + Unpin>;
/// What a command writes. It ends when the command, and all that it started, has closed it.
pub type ExecStdout = Box<dyn AsyncRead + Send + Unpin>;

/// A command that runs. The kernel's pipes are the only buffers: a command whose output nobody reads waits.
pub struct Exec {
    /// Its input; none when none was asked for.
    pub stdin: Option<ExecStdin>,
    /// Its output; with a terminal, all of it.
    pub stdout: ExecStdout,
    /// Its errors; none with a terminal.
    pub stderr: Option<ExecStdout>,
    /// Its end, when nothing is left of what it started.
    pub exit: BoxFuture<'static, Exit>,
    /// Keeps it running.
    pub handle: ExecHandle,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exec")
    }
}

/// Keeps a command running: once it is dropped, the command gets HUP, and KILL soon after.
#[derive(Debug)]
pub struct ExecHandle(mpsc::Sender<ExecOrder>);

/// What is asked of a command that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecOrder {
    /// Its terminal has another size.
    Resize(WindowSize),
    /// A signal for it and what it started.
    Signal(SignalNumber),
}

/// Orders that wait for whoever carries them out.
const ORDERS_MAX: usize = 4;

impl ExecHandle {
    /// A handle, and what it orders.
    pub fn new() -> (Self, mpsc::Receiver<ExecOrder>) {
        let (send, receive) = mpsc::channel(ORDERS_MAX);
        (Self(send), receive)
    }

    /// Gives an order. Fine when the command has ended.
    pub async fn order(&self, order: ExecOrder) {
        self.0.send(order).await.ok();
    }
}
