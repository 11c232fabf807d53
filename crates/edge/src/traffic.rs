//! What instances make of requests, by service and release: for metrics, and for the region's leader, which judges new releases by it.
//!
//! Counting takes no lock: an instance holds the counters of its release from the first request on. What is counted is
//! bounded by the catalog: services that it does not have are forgotten, as are releases without instances but for the newest few.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::StatusCode;
use insula_catalog::Catalog;
use insula_types::{ReleaseNumber, ReleaseTraffic, ServiceRef, Tally, Traffic};
use parking_lot::Mutex;

use crate::metrics::add;

/// Releases of a service of which is known what their instances got, besides those that have instances: the end of a deployment asks
/// for the one before it.
const RELEASES_KEPT: usize = 4;

/// Names of the classes of a status, from 1xx on.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What was counted of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceCounts {
    /// Requests by class of the status that clients got: `1xx` to `5xx`.
    pub classes: [(&'static str, u64); CLASSES.len()],
    /// How often an instance was put out for a while.
    pub ejections: u64,
}

/// Counters of a service.
#[derive(Debug, Default)]
pub(crate) struct OfService {
    classes: [AtomicU64; CLASSES.len()],
    ejections: AtomicU64,
}

impl OfService {
    /// A client got this.
    pub(crate) fn answered(&self, status: StatusCode) {
        // What has no class is not a status that hyper would have taken.
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        add(&self.classes[class]);
    }

    /// An instance was put out.
    pub(crate) fn ejected(&self) {
        add(&self.ejections);
    }

    fn read(&self) -> ServiceCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServiceCounts {
            classes: std::array::from_fn(|class| (CLASSES[class], read(&self.classes[class]))),
            ejections: read(&self.ejections),
        }
    }
}

/// What the instances of one release got.
#[derive(Debug, Default)]
pub(crate) struct OfRelease {
    requests: AtomicU64,
    failed: AtomicU64,
    /// What was counted of the service's others when it began.
    before: BTreeMap<ReleaseNumber, Tally>,
}

impl OfRelease {
    /// An instance answered; what follows of the answer may still fail.
    pub(crate) fn answered(&self, status: StatusCode) {
        if is_failure(status) {
            add(&self.failed);
        }
        add(&self.requests);
    }

    /// An instance gave no answer.
    pub(crate) fn failed(&self) {
        add(&self.failed);
        add(&self.requests);
    }

    /// An answer that was counted broke off behind its head.
    pub(crate) fn broke_off(&self, status: StatusCode) {
        if !is_failure(status) {
            add(&self.failed);
        }
    }

    /// An answer that was counted ended with such an outcome.
    pub(crate) fn ended(&self, status: StatusCode, outcome: StatusCode) {
        if is_failure(outcome) && !is_failure(status) {
            add(&self.failed);
        }
    }

    fn read(&self) -> Tally {
        Tally { requests: self.requests.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }
}

/// Whether an answer says that the instance failed.
fn is_failure(status: StatusCode) -> bool {
    status.as_u16() >= 500
}

#[derive(Debug, Default)]
struct Known {
    all: Arc<OfService>,
    releases: BTreeMap<ReleaseNumber, Arc<OfRelease>>,
}

/// All services that requests came for, as long as the catalog has them.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Names this life of the edge.
    edge: u64,
    services: Mutex<BTreeMap<ServiceRef, Known>>,
}

impl Counters {
    /// None yet, of the life of an edge with that name.
    pub(crate) fn new(edge: u64) -> Self {
        Self { edge, services: Mutex::default() }
    }

    /// Those of a service.
    pub(crate) fn of_service(&self, service: &ServiceRef) -> Arc<OfService> {
        self.with(service, |known| Arc::clone(&known.all))
    }

    /// Those of a release of a service.
    pub(crate) fn of_release(&self, service: &ServiceRef, release: ReleaseNumber) -> Arc<OfRelease> {
        self.with(service, |of| {
            if let Some(known) = of.releases.get(&release) {
                return Arc::clone(known);
            }
            let before = of.releases.iter().map(|(other, counters)| (*other, counters.read())).collect();
            let begun = Arc::new(OfRelease { before, ..OfRelease::default() });
            of.releases.insert(release, Arc::clone(&begun));
            begun
        })
    }

    /// By release, as the region's leader needs it.
    pub(crate) fn releases(&self) -> Traffic {
        let services = self.services.lock();
        let releases = services.iter().flat_map(|(service, of)| {
            of.releases.iter().map(|(release, counters)| ReleaseTraffic {
                service: service.clone(),
                release: *release,
                tally: counters.read(),
                before: counters.before.clone(),
            })
        });
        Traffic { edge: self.edge, releases: releases.collect() }
    }

    /// By service.
    pub(crate) fn services(&self) -> BTreeMap<ServiceRef, ServiceCounts> {
        self.services.lock().iter().map(|(service, known)| (service.clone(), known.all.read())).collect()
    }

    /// Forgets what the catalog does not have any more.
    pub(crate) fn sweep(&self, catalog: &Catalog) {
        self.services.lock().retain(|service, of| {
            let Some(known) = catalog.services.get(service) else { return false };
            let present: BTreeSet<_> = known.instances.values().filter_map(|instance| instance.release).collect();
            let newest: BTreeSet<_> = of.releases.keys().rev().take(RELEASES_KEPT).copied().collect();
            of.releases.retain(|release, _| present.contains(release) || newest.contains(release));
            true
        });
    }

    fn with<T>(&self, service: &ServiceRef, work: impl FnOnce(&mut Known) -> T) -> T {
        let mut services = self.services.lock();
        // Not by `entry`, which would copy the name each time.
        if let Some(of) = services.get_mut(service) {
            return work(of);
        }
        work(services.entry(service.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use insula_catalog::{CatalogInstance, CatalogService};
    use insula_types::{ClusterId, InstanceId, NodeId};

    use super::*;

    #[test]
    fn a_release_knows_what_the_others_had_and_is_forgotten_with_its_service() {
        let counters = Counters::new(9);
        let service = ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"));
        let release = |number| counters.of_release(&service, ReleaseNumber(number));
        release(1).answered(StatusCode::OK);
        release(1).answered(StatusCode::NOT_FOUND);
        release(1).answered(StatusCode::INTERNAL_SERVER_ERROR);
        release(2).failed();
        release(2).answered(StatusCode::OK);
        release(2).broke_off(StatusCode::OK);
        release(1).answered(StatusCode::BAD_GATEWAY);
        release(1).broke_off(StatusCode::BAD_GATEWAY);
        let traffic = counters.releases();
        assert_eq!(traffic.edge, 9);
        let told: Vec<_> = traffic.releases.iter().map(|one| (one.release.0, one.tally, one.before.clone())).collect();
        let tally = |requests, failed| Tally { requests, failed };
        let before = BTreeMap::from([(ReleaseNumber(1), tally(3, 1))]);
        assert_eq!(told, [(1, tally(4, 2), BTreeMap::new()), (2, tally(2, 2), before)]);

        let mut catalog = Catalog::empty(ClusterId::new(1), "fra".parse().expect("a name"), NodeId::new(1));
        let instance = CatalogInstance {
            node: NodeId::new(1),
            is_ready: true,
            was_ready: true,
            is_draining: false,
            is_first: false,
            ports: BTreeMap::new(),
            h2c: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            release: Some(ReleaseNumber(1)),
        };
        let instances = BTreeMap::from([(InstanceId::new(1), instance)]);
        catalog.services.insert(service.clone(), CatalogService { instances, first_weight: None });
        for number in 3..=9 {
            release(number).failed();
        }
        counters.sweep(&catalog);
        let kept: Vec<u64> = counters.releases().releases.iter().map(|one| one.release.0).collect();
        assert_eq!(kept, [1, 6, 7, 8, 9], "the one with an instance, and the newest");
        catalog.services.clear();
        counters.sweep(&catalog);
        assert!(counters.releases().releases.is_empty() && counters.services().is_empty());
    }

    #[test]
    fn statuses_are_counted_by_class() {
        let counters = OfService::default();
        for status in [101, 200, 204, 404, 503, 999] {
            counters.answered(StatusCode::from_u16(status).expect("a status"));
        }
        assert_eq!(counters.read().classes, [("1xx", 1), ("2xx", 2), ("3xx", 0), ("4xx", 1), ("5xx", 2)]);
    }
}
