//! What the edge keeps for each instance: idle connections, requests in flight, and whether it failed lately.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http1::SendRequest;
use insula_catalog::Catalog;
use insula_env::clock::{Instant, timeout};
use insula_types::{InstanceId, NodeId};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{Config, apps::Place, body::RequestBody};

/// How long an instance that took no connection is passed over when there are others; doubles with each failure.
const DOUBT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// A connection to an instance, ready for a request.
pub(crate) type Sender = SendRequest<RequestBody>;

/// One instance as this edge sees it.
#[derive(Debug)]
pub(crate) struct Instance {
    pub node: NodeId,
    in_flight: AtomicUsize,
    idle: Mutex<VecDeque<(Sender, Instant)>>,
    doubt: Mutex<Option<(Instant, Duration)>>,
    /// Turns to make a connection, and places to wait for one.
    dials: Semaphore,
    waiting: Semaphore,
}

impl Instance {
    fn new(node: NodeId, config: &Config) -> Self {
        Self {
            node,
            in_flight: AtomicUsize::new(0),
            idle: Mutex::default(),
            doubt: Mutex::default(),
            dials: Semaphore::new(config.dials_per_instance),
            waiting: Semaphore::new(config.dials_waiting_max),
        }
    }

    /// A turn to make a connection, those who wait first; none when too many wait, or it takes too long.
    pub(crate) async fn turn(&self, wait_max: Duration) -> Option<SemaphorePermit<'_>> {
        if let Ok(turn) = self.dials.try_acquire() {
            return Some(turn);
        }
        let _place = self.waiting.try_acquire().ok()?;
        timeout(wait_max, self.dials.acquire()).await.ok()?.ok()
    }

    /// An idle connection, the one used last first. Those that are closed, old or still busy are passed over.
    pub(crate) fn take(&self, now: Instant, idle_max: Duration) -> Option<Sender> {
        let mut idle = self.idle.lock();
        idle.retain(|(sender, since)| !sender.is_closed() && now.saturating_duration_since(*since) < idle_max);
        let place = idle.iter().rposition(|(sender, _)| sender.is_ready())?;
        idle.remove(place).map(|(sender, _)| sender)
    }

    /// Keeps a connection whose response has been read. It may still take a moment to be ready.
    pub(crate) fn give_back(&self, sender: Sender, now: Instant, max: usize) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock();
        while idle.len() >= max.max(1) {
            idle.pop_front();
        }
        idle.push_back((sender, now));
    }

    /// Drops all idle connections: one of them turned out to be dead, so the others may be.
    pub(crate) fn forget_idle(&self) {
        self.idle.lock().clear();
    }

    fn prune(&self, now: Instant, idle_max: Duration) {
        self.idle
            .lock()
            .retain(|(sender, since)| !sender.is_closed() && now.saturating_duration_since(*since) < idle_max);
    }

    /// It took no connection.
    pub(crate) fn failed(&self, now: Instant) {
        let mut doubt = self.doubt.lock();
        let next = match *doubt {
            // Failures of the same moment count once.
            Some((until, _)) if now < until => return,
            Some((_, length)) => (length * 2).min(DOUBT.1),
            None => DOUBT.0,
        };
        *doubt = Some((now + next, next));
    }

    /// It answered.
    pub(crate) fn answered(&self) {
        *self.doubt.lock() = None;
    }

    fn is_doubtful(&self, now: Instant) -> bool {
        self.doubt.lock().is_some_and(|(until, _)| now < until)
    }
}

/// A request in flight to an instance, from the choice to the end of the response.
#[derive(Debug)]
pub(crate) struct InFlight(pub Arc<Instance>, #[expect(dead_code, reason = "held, not read")] Place);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All instances that requests went to, as long as the catalog has them.
#[derive(Debug, Default)]
pub(crate) struct Instances(Mutex<BTreeMap<InstanceId, Arc<Instance>>>);

impl Instances {
    /// Counts a request in flight to an instance.
    pub(crate) fn enter(&self, id: InstanceId, node: NodeId, config: &Config, place: &Place) -> InFlight {
        let mut all = self.0.lock();
        let instance = Arc::clone(all.entry(id).or_insert_with(|| Arc::new(Instance::new(node, config))));
        instance.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(instance, Arc::clone(place))
    }

    pub(crate) fn in_flight(&self, id: InstanceId) -> usize {
        self.0.lock().get(&id).map_or(0, |instance| instance.in_flight.load(Ordering::Relaxed))
    }

    pub(crate) fn is_doubtful(&self, id: InstanceId, now: Instant) -> bool {
        let instance = self.0.lock().get(&id).map(Arc::clone);
        instance.is_some_and(|instance| instance.is_doubtful(now))
    }

    /// Forgets instances that the catalog does not have any more, and closes connections that were idle for too long.
    pub(crate) fn sweep(&self, catalog: &Catalog, now: Instant, idle_max: Duration) {
        let mut all = self.0.lock();
        if !all.is_empty() {
            let known: std::collections::BTreeSet<InstanceId> =
                catalog.services.values().flat_map(|service| service.instances.keys().copied()).collect();
            all.retain(|id, instance| known.contains(id) || instance.in_flight.load(Ordering::Relaxed) > 0);
        }
        for instance in all.values() {
            instance.prune(now, idle_max);
        }
    }

    /// Requests in flight by node.
    pub(crate) fn in_flight_by_node(&self) -> BTreeMap<NodeId, u64> {
        let mut by_node = BTreeMap::new();
        for instance in self.0.lock().values() {
            *by_node.entry(instance.node).or_default() += instance.in_flight.load(Ordering::Relaxed) as u64;
        }
        by_node
    }
}
