//! Being told to stop: by TERM or INT, or by a critical part's end.

use insula_env::TaskGroup;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Completes on SIGTERM, SIGINT, or when the group stops by itself.
pub(crate) async fn told_to_stop(tasks: &TaskGroup) {
    // Without signals (which the system refuses to nobody we know of) the group's end remains.
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return tasks.stopped().await;
    };
    tokio::select! {
        _ = term.recv() => info!("told to stop by TERM"),
        _ = int.recv() => info!("told to stop by INT"),
        () = tasks.stopped() => info!("stopping: a part without which nothing works has ended"),
    }
}
