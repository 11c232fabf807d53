//! What the edge keeps for each instance: idle connections, requests in flight, and whether it failed lately.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use insula_catalog::Catalog;
use insula_env::clock::{Instant, timeout};
use insula_types::{InstanceId, NodeId, ServiceRef};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    Config,
    apps::Place,
    choose::Candidate,
    config::{AGE_MAX, FAR_DIALS, FAR_IDLE},
    health::{Health, Verdict},
    traffic::{Counters, OfRelease, OfService},
    upstream::{
        Connection,
        trunk::{Room, Trunk},
    },
};

/// One instance as this edge sees it.
#[derive(Debug)]
pub(crate) struct Instance {
    pub node: NodeId,
    in_flight: AtomicUsize,
    idle: Mutex<VecDeque<(Connection, Instant)>>,
    /// Connections that carry many requests at a time, where it speaks HTTP/2.
    trunks: Mutex<Vec<Trunk>>,
    health: Mutex<Health>,
    /// It gets no more requests: connections to it are not kept.
    is_leaving: AtomicBool,
    /// Turns to make a connection, and places to wait for one.
    dials: Semaphore,
    waiting: Semaphore,
    /// Counters of its service.
    service: Arc<OfService>,
    /// Counters of its release, once the catalog has said which that is.
    release: OnceLock<Arc<OfRelease>>,
}

impl Instance {
    fn new(node: NodeId, (dials, waiting): (usize, usize), service: Arc<OfService>) -> Self {
        Self {
            node,
            in_flight: AtomicUsize::new(0),
            idle: Mutex::default(),
            trunks: Mutex::default(),
            health: Mutex::default(),
            is_leaving: AtomicBool::new(false),
            dials: Semaphore::new(dials),
            waiting: Semaphore::new(waiting),
            service,
            release: OnceLock::new(),
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

    /// An idle connection, the one used last first. Those that are closed or have been idle for longer are passed over.
    pub(crate) fn take(&self, now: Instant, idle_max: Duration) -> Option<Connection> {
        loop {
            let (mut connection, since) = self.idle.lock().pop_back()?;
            if now.saturating_duration_since(since) >= idle_max {
                // All others have been idle for longer; they may do for another request, or are swept.
                self.idle.lock().push_back((connection, since));
                return None;
            }
            if connection.is_open() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose response has been read.
    pub(crate) fn give_back(&self, connection: Connection, now: Instant, max: usize) {
        let mut idle = self.idle.lock();
        // Under the lock, so that none is kept once the others have been closed.
        if self.is_leaving.load(Ordering::Relaxed) || connection.age(now) >= AGE_MAX {
            return;
        }
        while idle.len() >= max.max(1) {
            idle.pop_front();
        }
        idle.push_back((connection, now));
    }

    /// Room for a request on a connection that carries several, or why there is none.
    pub(crate) fn take_room(&self, now: Instant, trunks_max: usize) -> Result<Room, NoRoom> {
        let mut trunks = self.trunks.lock();
        // On the first that has room, so that others become idle and are closed.
        let room = trunks.iter().filter(|trunk| trunk.age(now) < AGE_MAX).find_map(Trunk::room);
        room.ok_or_else(|| {
            trunks.retain(|trunk| !trunk.is_over() && trunk.age(now) < AGE_MAX);
            if trunks.len() < trunks_max.max(1) { NoRoom::MayDial } else { NoRoom::Full }
        })
    }

    /// Keeps a new connection for further requests.
    pub(crate) fn keep_trunk(&self, trunk: Trunk) {
        let mut trunks = self.trunks.lock();
        // Under the lock, as with idle connections.
        if !self.is_leaving.load(Ordering::Relaxed) {
            trunks.push(trunk);
        }
    }

    /// Drops all idle connections: one of them turned out to be dead, so the others may be.
    pub(crate) fn forget_idle(&self) {
        self.idle.lock().clear();
    }

    /// It gets requests, or none any more: then its idle connections are closed, and the others once their response ends.
    fn set_leaving(&self, is_leaving: bool) {
        let (mut idle, mut trunks) = (self.idle.lock(), self.trunks.lock());
        self.is_leaving.store(is_leaving, Ordering::Relaxed);
        if is_leaving {
            idle.clear();
            // What is open on them ends as it should; then they do.
            trunks.clear();
        }
    }

    fn prune(&self, now: Instant, idle_max: Duration) {
        self.idle
            .lock()
            .retain_mut(|(connection, since)| now.saturating_duration_since(*since) < idle_max && connection.is_open());
        let is_idle = |trunk: &Trunk| trunk.idle(now).is_some_and(|idle| idle >= idle_max);
        self.trunks.lock().retain(|trunk| !trunk.is_over() && trunk.age(now) < AGE_MAX && !is_idle(trunk));
    }

    /// It took no connection.
    pub(crate) fn unreachable(&self, now: Instant) {
        self.judged(self.health.lock().unreachable(now));
    }

    /// It gave no good answer.
    pub(crate) fn disappointed(&self, now: Instant) {
        self.judged(self.health.lock().disappointed(now));
    }

    fn judged(&self, is_put_out: bool) {
        if is_put_out {
            self.service.ejected();
        }
    }

    /// It answered with that, which is what the client gets.
    pub(crate) fn answered(&self, status: StatusCode, now: Instant) {
        self.answered_as(status, status, now);
    }

    /// The same, where it is the outcome of a call that counts.
    pub(crate) fn answered_as(&self, status: StatusCode, outcome: StatusCode, now: Instant) {
        self.judged(self.health.lock().answered(outcome, now));
        self.begun(status, outcome);
    }

    /// It began to answer with that status. How it is to be judged shows at the end.
    pub(crate) fn begun(&self, status: StatusCode, outcome: StatusCode) {
        self.service.answered(status);
        if let Some(release) = self.release.get() {
            release.answered(outcome);
        }
    }

    /// Its answer, which began with that status, ended with such an outcome of a call.
    pub(crate) fn ended(&self, status: StatusCode, outcome: StatusCode, now: Instant) {
        self.judged(self.health.lock().answered(outcome, now));
        if let Some(release) = self.release.get() {
            release.ended(status, outcome);
        }
    }

    /// It gave no answer to a request, as far as its release is concerned.
    pub(crate) fn failed(&self) {
        if let Some(release) = self.release.get() {
            release.failed();
        }
    }

    /// Its answer broke off behind the head.
    pub(crate) fn broke_off(&self, status: StatusCode, now: Instant) {
        self.disappointed(now);
        if let Some(release) = self.release.get() {
            release.broke_off(status);
        }
    }
}

/// Why there is no room on a connection that carries several requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// A new one may be made.
    MayDial,
    /// There are as many as may be.
    Full,
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
pub(crate) struct Instances {
    near: Mutex<BTreeMap<InstanceId, Arc<Instance>>>,
    /// Gateways of other regions, as what stands for the instances of a service there.
    far: Mutex<BTreeMap<(NodeId, ServiceRef), Arc<Instance>>>,
}

impl Instances {
    /// Counts a request in flight to an instance of a service.
    pub(crate) fn enter(
        &self,
        chosen: Candidate,
        service: &ServiceRef,
        counters: &Counters,
        config: &Config,
        place: &Place,
    ) -> InFlight {
        if chosen.is_far {
            return self.enter_far(chosen.node, service, counters, config, place);
        }
        let mut all = self.near.lock();
        let dials = (config.dials_per_instance, config.dials_waiting_max);
        let new = || Arc::new(Instance::new(chosen.node, dials, counters.of_service(service)));
        let instance = Arc::clone(all.entry(chosen.instance).or_insert_with(new));
        if let Some(release) = chosen.release {
            // Once for each instance.
            instance.release.get_or_init(|| counters.of_release(service, release));
        }
        instance.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(instance, Arc::clone(place))
    }

    fn enter_far(
        &self,
        gateway: NodeId,
        service: &ServiceRef,
        counters: &Counters,
        config: &Config,
        place: &Place,
    ) -> InFlight {
        let mut all = self.far.lock();
        let dials = (FAR_DIALS, config.dials_waiting_max);
        let new = || Arc::new(Instance::new(gateway, dials, counters.of_service(service)));
        let instance = Arc::clone(all.entry((gateway, service.clone())).or_insert_with(new));
        instance.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(instance, Arc::clone(place))
    }

    /// Requests for a service in flight to a gateway, and how it has answered lately.
    pub(crate) fn of_gateway(&self, gateway: NodeId, service: &ServiceRef, now: Instant) -> (usize, Verdict) {
        let all = self.far.lock();
        let found = all.get(&(gateway, service.clone()));
        let read = |one: &Arc<Instance>| (one.in_flight.load(Ordering::Relaxed), one.health.lock().verdict(now));
        found.map_or((0, Verdict::Share(100)), read)
    }

    pub(crate) fn in_flight(&self, id: InstanceId) -> usize {
        self.near.lock().get(&id).map_or(0, |instance| instance.in_flight.load(Ordering::Relaxed))
    }

    /// How it has answered lately.
    pub(crate) fn verdict(&self, id: InstanceId, now: Instant) -> Verdict {
        self.near.lock().get(&id).map_or(Verdict::Share(100), |instance| instance.health.lock().verdict(now))
    }

    /// Follows the catalog: instances that drain or are not in it any more get no requests, and connections to them end.
    pub(crate) fn follow(&self, catalog: &Catalog) {
        let all = self.near.lock();
        if all.is_empty() {
            return;
        }
        let instances = catalog.services.values().flat_map(|service| &service.instances);
        let staying: BTreeSet<InstanceId> =
            instances.filter(|(_, instance)| !instance.is_draining).map(|(id, _)| *id).collect();
        for (id, instance) in all.iter() {
            instance.set_leaving(!staying.contains(id));
        }
    }

    /// Forgets instances that the catalog does not have any more, and closes connections that were idle for too long.
    pub(crate) fn sweep(&self, catalog: &Catalog, now: Instant, idle_max: Duration) {
        self.sweep_far(catalog, now);
        let mut all = self.near.lock();
        if !all.is_empty() {
            let known: BTreeSet<InstanceId> =
                catalog.services.values().flat_map(|service| service.instances.keys().copied()).collect();
            all.retain(|id, instance| known.contains(id) || instance.in_flight.load(Ordering::Relaxed) > 0);
        }
        for instance in all.values() {
            instance.prune(now, idle_max);
        }
    }

    /// The same for gateways.
    fn sweep_far(&self, catalog: &Catalog, now: Instant) {
        let mut all = self.far.lock();
        if !all.is_empty() {
            let used = catalog.far_in_use();
            all.retain(|(gateway, service), instance| {
                let is_used = used.contains_key(gateway) && catalog.services.contains_key(service);
                is_used || instance.in_flight.load(Ordering::Relaxed) > 0
            });
        }
        for instance in all.values() {
            instance.prune(now, FAR_IDLE);
        }
    }

    /// Requests in flight by node.
    pub(crate) fn in_flight_by_node(&self) -> BTreeMap<NodeId, u64> {
        let mut by_node = BTreeMap::new();
        let (near, far) = (self.near.lock(), self.far.lock());
        for instance in near.values().chain(far.values()) {
            *by_node.entry(instance.node).or_default() += instance.in_flight.load(Ordering::Relaxed) as u64;
        }
        by_node
    }
}
