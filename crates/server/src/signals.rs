//! Being told to stop: by TERM, INT or HUP (the terminal is gone), or by a critical part's end.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use insula_env::TaskGroup;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// The signals that end a process in order. From [`listen`](Self::listen) on, one that comes is kept until somebody asks; before, it
/// ends the process on the spot, so this comes before anything is started that would be left behind.
pub(crate) struct Signals(Vec<(&'static str, Signal)>);

impl Signals {
    /// Begins to listen. Needs the runtime.
    pub(crate) fn listen() -> Self {
        let kinds =
            [("TERM", SignalKind::terminate()), ("INT", SignalKind::interrupt()), ("HUP", SignalKind::hangup())];
        // Without signals (which the system refuses to nobody we know of) the end of a group remains.
        Self(kinds.into_iter().filter_map(|(name, kind)| Some((name, signal(kind).ok()?))).collect())
    }

    /// Completes when one of them has come, or when the group stops by itself. Loses none when it is dropped before.
    pub(crate) async fn told_to_stop(&mut self, tasks: &TaskGroup) {
        tokio::select! {
            name = poll_fn(|context| self.poll(context)) => info!("told to stop by {name}"),
            () = tasks.stopped() => info!("stopping: a part without which nothing works has ended"),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<&'static str> {
        let came = |(name, signal): &mut (&'static str, Signal)| signal.poll_recv(context).is_ready().then_some(*name);
        self.0.iter_mut().find_map(came).map_or(Poll::Pending, Poll::Ready)
    }
}
