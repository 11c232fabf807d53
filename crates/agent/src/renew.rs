//! Renews this node's lease with the region's leader.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use insula_env::{Env, beat, clock};
use insula_types::{Granted, Renewal, Revision};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::CallError;

/// Time between two renewals: a fifth of the lease, so that four may be lost.
pub const RENEW_EVERY: Duration = Duration::from_millis(500);
/// Shortest time between two renewals, so that many new catalogs cost few.
const RENEW_GAP: Duration = Duration::from_millis(50);
/// How long a renewal may take: a hanging one must leave time for two more within the lease.
const RENEW_LIMIT: Duration = Duration::from_millis(800);

/// Brings renewals to the region's leader, whoever that is now.
#[async_trait]
pub trait Renewer: Send + Sync + Debug {
    /// Renews once.
    ///
    /// # Errors
    /// [`CallError`] when no leader answered.
    async fn renew(&self, renewal: Renewal) -> Result<Granted, CallError>;
}

/// Starts the renewals. A new `catalog` revision, which drains wait for, is told at once. `said` is asked each time for all else that
/// this node has to say.
pub fn start_renewals(
    env: &Env,
    renewer: Arc<dyn Renewer>,
    catalog: watch::Receiver<Revision>,
    said: impl Fn() -> Renewal + Send + Sync + 'static,
) {
    let said = Arc::new(said);
    let rng = env.rng.fork();
    env.tasks.supervise("renew", beat::QUICK, move |beat| {
        let (renewer, mut catalog, said, rng) = (Arc::clone(&renewer), catalog.clone(), Arc::clone(&said), rng.clone());
        async move {
            let mut was_well = true;
            loop {
                beat.alive();
                let catalog_revision = *catalog.borrow_and_update();
                let renewal = Renewal { catalog_revision, ..said() };
                let failed = match clock::timeout(RENEW_LIMIT, renewer.renew(renewal)).await {
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(crate::chain(&error)),
                    Err(_) => Some(format!("no answer within {RENEW_LIMIT:?}")),
                };
                // Once per change: a region without a leader would fill the log.
                match &failed {
                    Some(error) if was_well => warn!(%error, "lease not renewed, trying on"),
                    None if !was_well => info!("lease renewed again"),
                    _ => {}
                }
                was_well = failed.is_none();
                let wait = clock::sleep(rng.jitter(RENEW_EVERY));
                if was_well {
                    clock::sleep(RENEW_GAP).await;
                    beat.idle(async {
                        tokio::select! { biased; () = wait => {}, () = changed(&mut catalog) => {} }
                    })
                    .await;
                } else {
                    beat.idle(wait).await;
                }
            }
        }
    });
}

/// Waits for a change; for ever when there can be none any more.
pub(crate) async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
