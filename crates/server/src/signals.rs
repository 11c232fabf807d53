//! Being told to stop: by TERM, INT or HUP (the terminal is gone), or by a critical part's end.

use insula_env::TaskGroup;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Completes on SIGTERM, SIGINT, SIGHUP, or when the group stops by itself.
pub(crate) async fn told_to_stop(tasks: &TaskGroup) {
    // Without signals (which the system refuses to nobody we know of) the group's end remains.
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut term), Ok(mut int), Ok(mut hup)] = kinds.map(signal) else { return tasks.stopped().await };
    tokio::select! {
        _ = term.recv() => info!("told to stop by TERM"),
        _ = int.recv() => info!("told to stop by INT"),
        _ = hup.recv() => info!("told to stop by HUP"),
        () = tasks.stopped() => info!("stopping: a part without which nothing works has ended"),
    }
}
