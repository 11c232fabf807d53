//! What this node's edge has counted of releases that are being tried: from the dataplane to the renewals of the node's lease.

use std::{sync::Arc, time::Duration};

use insula_catalog::link::Link;
use insula_env::{Env, beat, clock};
use insula_state::{RegionState, Replica};
use insula_types::{Traffic, traffic::RELEASES_TOLD_MAX};
use tokio::sync::watch;
use tracing::debug;

/// Time between two questions while a release is tried: as often as leases are renewed.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Asks the dataplane for as long as a release is tried in the region. What was last heard stays until none is.
pub(crate) fn follow(
    env: &Env,
    region: Arc<Replica<RegionState>>,
    dataplane: &Link,
) -> watch::Receiver<Option<Traffic>> {
    let (tell, told) = watch::channel(None);
    let (tell, dataplane) = (Arc::new(tell), dataplane.clone());
    env.tasks.supervise("traffic", beat::QUICK, move |beat| {
        let (tell, dataplane, region) = (Arc::clone(&tell), dataplane.clone(), Arc::clone(&region));
        async move {
            let mut changed = region.changed();
            loop {
                changed.mark_unchanged();
                if !region.read(is_anything_tried) {
                    tell.send_if_modified(|told: &mut Option<Traffic>| told.take().is_some());
                    if beat.idle(changed.changed()).await.is_err() {
                        return;
                    }
                    continue;
                }
                // The dataplane may be away for longer than this loop may be silent.
                match beat.idle(dataplane.traffic()).await {
                    Ok(traffic) => drop(tell.send_replace(Some(region.read(|state| tried(state, traffic))))),
                    Err(error) => debug!(%error, "the edge does not say what it has counted"),
                }
                beat.idle(clock::sleep(ASK_EVERY)).await;
            }
        }
    });
    told
}

fn is_anything_tried(state: &RegionState) -> bool {
    let mut running = state.deployments.iter().filter(|(_, deployment)| !deployment.state.is_over());
    running.any(|(app, _)| {
        let definition = state.definitions.get(app);
        let mut services = definition.into_iter().flat_map(|definition| definition.services.keys());
        services.any(|name| insula_control::is_tried(state, &insula_types::ServiceRef::new(app.clone(), name.clone())))
    })
}

/// What the leader has to know of it.
fn tried(state: &RegionState, mut traffic: Traffic) -> Traffic {
    traffic.releases.retain(|one| insula_control::is_tried(state, &one.service));
    traffic.releases.truncate(RELEASES_TOLD_MAX);
    traffic
}
