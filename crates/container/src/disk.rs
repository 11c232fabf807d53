//! Blocking work off the async threads.

use insula_env::Disk;
use tokio::sync::oneshot;

/// Runs `work` where blocking is allowed and returns what it gave.
pub(crate) async fn blocking<R: Send + 'static>(disk: &dyn Disk, work: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = oneshot::channel();
    disk.run(Box::new(move || {
        done.send(work()).ok();
    }))
    .await;
    result.await.expect("a disk job that returns has run")
}
