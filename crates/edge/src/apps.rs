//! What one app may have of the edge: its share of the requests in flight, and retries of its own.

use std::{collections::BTreeMap, sync::Arc};

use insula_catalog::Catalog;
use insula_env::clock::Instant;
use insula_types::AppName;
use parking_lot::Mutex;

use crate::{
    retry::Budget,
    share::{Share, Shares},
};

/// A request of an app that is in flight, until the last clone is dropped.
pub(crate) type Place = Arc<Share<AppName>>;

/// All apps that requests came for, as long as the catalog has them.
#[derive(Debug)]
pub(crate) struct Apps {
    requests: Shares<AppName>,
    known: Mutex<BTreeMap<AppName, Known>>,
}

#[derive(Debug)]
struct Known {
    budget: Budget,
    refused: u64,
}

impl Apps {
    /// Requests of all apps that may be in flight at a time.
    pub(crate) fn new(requests_max: usize) -> Self {
        Self { requests: Shares::new(requests_max), known: Mutex::default() }
    }

    /// A request has come; none, and counted as refused, when the app has its share of those in flight.
    pub(crate) fn enter(&self, app: &AppName, now: Instant) -> Option<Place> {
        self.with(app, now, |known| known.budget.request(now));
        let place = self.requests.take(app).map(Arc::new);
        if place.is_none() {
            self.refused(app, now);
        }
        place
    }

    /// Whether one more retry is within the app's budget; counts it when it is.
    pub(crate) fn retry(&self, app: &AppName, now: Instant) -> bool {
        self.with(app, now, |known| known.budget.retry(now))
    }

    /// A request was refused for the sake of other apps.
    pub(crate) fn refused(&self, app: &AppName, now: Instant) {
        self.with(app, now, |known| known.refused += 1);
    }

    /// Requests refused, by app.
    pub(crate) fn all_refused(&self) -> BTreeMap<AppName, u64> {
        let known = self.known.lock();
        known.iter().filter(|(_, known)| known.refused > 0).map(|(app, known)| (app.clone(), known.refused)).collect()
    }

    /// Forgets apps that the catalog does not have any more.
    pub(crate) fn sweep(&self, catalog: &Catalog) {
        let mut known = self.known.lock();
        if !known.is_empty() {
            let present: std::collections::BTreeSet<_> = catalog.services.keys().map(|service| &service.app).collect();
            known.retain(|app, _| present.contains(app));
        }
    }

    #[cfg(test)]
    fn has(&self, app: &AppName) -> bool {
        self.known.lock().contains_key(app)
    }

    fn with<T>(&self, app: &AppName, now: Instant, work: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known.lock();
        // Not by `entry`, which would copy the name each time.
        if let Some(known) = known.get_mut(app) {
            return work(known);
        }
        work(known.entry(app.clone()).or_insert_with(|| Known { budget: Budget::new(now), refused: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use insula_env::Clock;
    use insula_types::ClusterId;

    use super::*;

    #[test]
    fn an_app_uses_up_its_own_share_and_retries_only() {
        let now = Clock::real().now();
        let apps = Apps::new(10);
        let [hog, victim] = ["hog", "victim"].map(|name| name.parse::<AppName>().expect("a name"));
        let mut places: Vec<Place> = (0..20).filter_map(|_| apps.enter(&hog, now)).collect();
        assert_eq!(places.len(), 5);
        while apps.retry(&hog, now) {}
        places.extend(apps.enter(&victim, now));
        assert_eq!(places.len(), 6);
        assert!(apps.retry(&victim, now));
        assert_eq!(apps.all_refused(), BTreeMap::from([(hog.clone(), 15)]));
        let catalog = Catalog::empty(ClusterId::new(1), "fra".parse().expect("a name"), insula_types::NodeId::new(1));
        apps.sweep(&catalog);
        assert!(!apps.has(&hog) && !apps.has(&victim));
    }
}
