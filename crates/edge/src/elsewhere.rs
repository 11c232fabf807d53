//! When a request goes to another region, and to which gateway there. Pure but for [`Away`], which remembers which services have left.
//!
//! The order of choice (rule R10): ready here; ready elsewhere, the nearest first; what was last ready here; what was last ready elsewhere,
//! or is told of by a region that was not heard of lately. Never what was stopped, scaled to zero or never ready: nobody tells of that.
//!
//! ```text
//!          nothing good here, and something elsewhere
//! at home ────────────────────────────────────────────► away ──┐ something good here for less than three seconds
//!    ▲                                                  │  ▲   │
//!    └──── something good here for three seconds ───────┘  └───┘
//! ```
//! Who is away goes elsewhere first; where that fails, what is good here has the request all the same.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use insula_catalog::{Catalog, limits::GATEWAYS_USED};
use insula_env::clock::Instant;
use insula_mesh::Verdicts;
use insula_types::{InstanceId, NodeId, RegionName, ServiceRef};
use parking_lot::Mutex;

use crate::{
    choose::{Candidate, Local},
    health::Verdict,
};

/// How long something here must have been good before a service comes back.
const RETURN_AFTER: Duration = Duration::from_secs(3);

/// How good a choice a gateway is; less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Far {
    /// Its region was heard of a moment ago, and has ready instances.
    Ready,
    /// The same, but it has just failed.
    Failing,
    /// All there went unready together, or the region was not heard of lately.
    LastKnown,
}

/// How good a gateway must be to come before what is here; none: nothing elsewhere comes before that.
pub(crate) const fn wanted(local: Local, is_away: bool) -> Option<Far> {
    match (local, is_away) {
        (Local::Good, false) => None,
        (Local::Good, true) | (Local::Poor, _) => Some(Far::Ready),
        (Local::None, _) => Some(Far::LastKnown),
    }
}

/// How an instance of a gateway is called among those that were tried.
pub(crate) const fn alias(gateway: NodeId) -> InstanceId {
    InstanceId::new(gateway.get())
}

/// The gateways that may get a request for a service, without those in `tried`: the best of the nearest region. None where they are
/// not at least as good as `most`.
pub(crate) fn gateways(
    catalog: &Catalog,
    service: &ServiceRef,
    verdicts: &Verdicts,
    tried: &[InstanceId],
    most: Far,
    judge: impl Fn(NodeId) -> Verdict,
) -> Vec<Candidate> {
    let mut best: Vec<Candidate> = Vec::new();
    let mut best_choice = (most, u32::MAX);
    for region in catalog.far.values() {
        let Some(there) = region.services.get(service).filter(|there| there.ready > 0 || there.was_ready > 0) else {
            continue;
        };
        for gateway in region.gateways.iter().take(GATEWAYS_USED) {
            let node = gateway.node;
            if verdicts.is_bad(node) || tried.contains(&alias(node)) {
                continue;
            }
            let (far, weight) = match judge(node) {
                _ if there.ready == 0 || !region.is_fresh => (Far::LastKnown, 100),
                Verdict::Share(share) => (Far::Ready, share),
                Verdict::Suspect | Verdict::Unreachable => (Far::Failing, 100),
            };
            let choice = (far, region.rank);
            if choice < best_choice {
                best.clear();
                best_choice = choice;
            }
            if choice == best_choice {
                let instance = alias(node);
                best.push(Candidate {
                    instance,
                    node,
                    weight,
                    is_first: false,
                    is_h2c: false,
                    is_far: true,
                    release: None,
                });
            }
        }
    }
    best
}

/// The regions that have a service, as far as they have told.
pub(crate) fn regions_of<'a>(catalog: &'a Catalog, service: &ServiceRef) -> Vec<&'a str> {
    let has = catalog.far.iter().filter(|(_, region)| region.services.contains_key(service));
    has.map(|(name, _)| name.as_str()).collect()
}

/// The region of a gateway.
pub(crate) fn region_of(catalog: &Catalog, gateway: NodeId) -> Option<&RegionName> {
    let has = |gateways: &[insula_catalog::FarGateway]| gateways.iter().any(|one| one.node == gateway);
    catalog.far.iter().find(|(_, region)| has(&region.gateways)).map(|(name, _)| name)
}

/// The services whose requests go elsewhere, although they have instances here, and since when something here is good.
#[derive(Debug, Default)]
pub(crate) struct Away {
    /// How many: all that most requests look at.
    count: AtomicUsize,
    services: Mutex<BTreeMap<ServiceRef, Option<Instant>>>,
}

impl Away {
    pub(crate) fn is_away(&self, service: &ServiceRef) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.services.lock().contains_key(service)
    }

    /// A request goes elsewhere, since nothing here is good.
    pub(crate) fn leave(&self, service: &ServiceRef) {
        let mut services = self.services.lock();
        match services.get_mut(service) {
            Some(good_since) => *good_since = None,
            None => {
                services.insert(service.clone(), None);
                self.count.store(services.len(), Ordering::Relaxed);
            }
        }
    }

    /// Looks at all of them: `is_good` tells whether something here is.
    pub(crate) fn look(&self, now: Instant, is_good: impl Fn(&ServiceRef) -> bool) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut services = self.services.lock();
        services.retain(|service, good_since| {
            *good_since = is_good(service).then(|| good_since.unwrap_or(now));
            good_since.is_none_or(|since| now.saturating_duration_since(since) < RETURN_AFTER)
        });
        self.count.store(services.len(), Ordering::Relaxed);
    }

    /// Forgets services that the catalog does not have any more.
    pub(crate) fn sweep(&self, catalog: &Catalog) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut services = self.services.lock();
            services.retain(|service, _| catalog.services.contains_key(service));
            self.count.store(services.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
