//! Brings what the agent sees to the region: only what changed, a few times a second, everything after a failure.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use insula_env::{Env, clock};
use insula_state::{RegionState, Store, event::Event};
use insula_types::{InstanceId, InstanceStatus, VolumeRef};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::CallError;

/// Least time between two reports: five a second per node bounds what a flapping instance costs the region's log.
const REPORT_GAP: Duration = Duration::from_millis(200);
/// How long a report may take. An election lasts up to two seconds.
const REPORT_LIMIT: Duration = Duration::from_secs(5);
/// A turn ends within a report's limit; twice as long means that it hangs.
const TURN_LIMIT: Duration = REPORT_LIMIT.saturating_mul(2);
/// Wait after a failed report.
const RETRY_WAIT: Duration = Duration::from_millis(500);
/// Statuses in one report, so that a log entry stays small.
const STATUSES_MAX: usize = 128;
/// Time after which what was reported is compared with what the region has.
const COMPARE_EVERY: Duration = Duration::from_secs(10);

/// Brings reports of this node to the region's leader.
#[async_trait]
pub trait Reporter: Send + Sync + Debug {
    /// Reports these statuses; returns once they are committed.
    ///
    /// # Errors
    /// [`CallError`] when that is not known; the same statuses are reported again then.
    async fn report(&self, statuses: Vec<InstanceStatus>) -> Result<(), CallError>;

    /// Says that a volume is on this node's disk, or, of a deleted one, that it is no more; returns once that is committed.
    ///
    /// # Errors
    /// [`CallError`] when that is not known; it is said again then.
    async fn report_volume(&self, volume: VolumeRef, is_here: bool) -> Result<(), CallError>;

    /// Puts something that this node saw into the region's events.
    ///
    /// # Errors
    /// [`CallError`] when the region does not take it, as that of an older program may not.
    async fn note(&self, event: Event) -> Result<(), CallError>;
}

pub(crate) type Statuses = BTreeMap<InstanceId, InstanceStatus>;

/// Starts reporting what `statuses` shows.
pub(crate) fn start(
    env: &Env,
    reporter: Arc<dyn Reporter>,
    region: Store<RegionState>,
    statuses: watch::Receiver<Statuses>,
) {
    let rng = env.rng.fork();
    env.tasks.supervise("report", TURN_LIMIT, move |beat| {
        let (reporter, region, mut statuses) = (Arc::clone(&reporter), region.clone(), statuses.clone());
        let rng = rng.clone();
        async move {
            let mut reported = Statuses::new();
            let mut was_well = true;
            loop {
                let now = statuses.borrow_and_update().clone();
                reported.retain(|id, _| now.contains_key(id));
                let news: Vec<_> = now.values().filter(|s| reported.get(&s.instance) != Some(*s)).cloned().collect();
                for some in news.chunks(STATUSES_MAX) {
                    beat.alive();
                    let failed = match clock::timeout(REPORT_LIMIT, reporter.report(some.to_vec())).await {
                        Ok(Ok(())) => None,
                        Ok(Err(error)) => Some(crate::chain(&error)),
                        Err(_) => Some(format!("no answer within {REPORT_LIMIT:?}")),
                    };
                    match &failed {
                        Some(error) if was_well => warn!(%error, "statuses not reported, trying on"),
                        None if !was_well => info!("statuses reported again"),
                        _ => {}
                    }
                    was_well = failed.is_none();
                    if failed.is_some() {
                        reported.clear();
                        break;
                    }
                    reported.extend(some.iter().map(|status| (status.instance, status.clone())));
                }
                if !was_well {
                    beat.idle(clock::sleep(rng.jitter(RETRY_WAIT))).await;
                    continue;
                }
                clock::sleep(REPORT_GAP).await;
                let is_quiet = beat.idle(async {
                    tokio::select! {
                        biased;
                        () = crate::renew::changed(&mut statuses) => false,
                        () = clock::sleep(rng.jitter(COMPARE_EVERY)) => true,
                    }
                });
                if is_quiet.await {
                    // A region that was restored, or a report that a former leader lost.
                    region.read(|state| {
                        reported.retain(|id, status| {
                            !state.placements.contains(id) || state.statuses.get(id) == Some(status)
                        });
                    });
                }
            }
        }
    });
}
