//! The edge as a service: accepts clients, serves their requests, ends in good order.

mod framed;
mod heads;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use insula_catalog::{Catalog, Holder};
use insula_env::{
    Beat, Env, beat,
    clock::{Elapsed, sleep, timeout},
    net::{TcpListener, TcpStream},
};
use insula_mesh::{Dialer, Duplex, Entry};
use insula_types::{AppName, HttpRequestId, NodeId, Remembered, ServiceRef, Traffic};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use self::heads::HeadTimer;
use crate::{
    Config, Metrics,
    apps::Apps,
    choose::{self, Local},
    clients::{Admitted, Clients},
    config::HEAD_BYTES_MAX,
    elsewhere::Away,
    forward::{Shared, Visitor},
    guard::Guarded,
    incoming::ClientBody,
    instances::Instances,
    metrics::add,
    preface::{self, Version},
    request_id::Ids,
    requests::Requests,
    traffic::{Counters, ServiceCounts},
};

/// Wait after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often idle connections and forgotten instances are cleared away.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The HTTP edge of one node. Clones share it.
#[derive(Clone)]
pub struct Edge {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    clients: Arc<Clients>,
    /// Clients are asked to go elsewhere.
    leaving: CancellationToken,
    closing: CancellationToken,
}

impl Edge {
    /// An edge that serves from `holder` over `dialer`. It accepts nothing until [`Edge::serve`].
    pub fn new(config: Config, holder: Arc<Holder>, dialer: Arc<dyn Dialer>, env: &Env) -> Self {
        let shared = Shared {
            verdicts: dialer.verdicts(),
            far_verdicts: dialer.far_verdicts(),
            away: Away::default(),
            apps: Apps::new(config.requests_max),
            counters: Counters::new(env.rng.next()),
            instances: Instances::default(),
            metrics: Arc::default(),
            ids: Ids::new(&env.rng),
            requests: Requests::new(env.clock.wall_ms()),
            env: env.clone(),
            is_leaving: AtomicBool::new(false),
            open: TaskTracker::new(),
            holder,
            dialer,
            config,
        };
        let edge = Self {
            places: Arc::new(Semaphore::new(shared.config.connections_max)),
            clients: Arc::new(Clients::new(&shared.config)),
            shared: Arc::new(shared),
            leaving: CancellationToken::new(),
            closing: CancellationToken::new(),
        };
        let shared = Arc::clone(&edge.shared);
        env.tasks.supervise("edge sweep", beat::QUICK, move |beat| sweep(Arc::clone(&shared), beat));
        let shared = Arc::clone(&edge.shared);
        env.tasks.supervise("edge follow", beat::QUICK, move |beat| follow(Arc::clone(&shared), beat));
        edge
    }

    /// Accepts clients until the edge is stopped. May run for several listeners at a time.
    pub async fn serve(&self, listener: Arc<TcpListener>, beat: Beat) {
        loop {
            let place = tokio::select! {
                place = beat.idle(Arc::clone(&self.places).acquire_owned()) => place,
                () = self.closing.cancelled() => return,
            };
            let Ok(place) = place else { return };
            let accepted = tokio::select! {
                accepted = beat.idle(listener.accept()) => accepted,
                () = self.closing.cancelled() => return,
            };
            match accepted {
                Ok((stream, client)) => {
                    let Some(admitted) = self.clients.admit(client.ip()) else {
                        add(&self.shared.metrics.connections_refused);
                        debug!(%client, "a client has its share of the connections");
                        continue;
                    };
                    let edge = self.clone();
                    let connection = self.shared.open.track_future(async move {
                        edge.connection(stream, client, admitted).await;
                        drop(place);
                    });
                    self.shared.env.tasks.spawn("edge client", connection);
                }
                Err(error) => {
                    warn!(%error, "accept at the edge failed: are file descriptors used up?");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream, client: SocketAddr, admitted: Admitted) {
        stream.set_nodelay(true).ok();
        let begun = tokio::select! {
            begun = timeout(self.shared.config.request_head, preface::read(&mut stream)) => begun,
            () = self.closing.cancelled() => Ok(Err(io::ErrorKind::ConnectionAborted.into())),
        };
        let visitor = Arc::new(Visitor::new(client, false));
        self.begun(stream, begun, &visitor, &admitted).await;
    }

    /// Takes in what the edge of another region brings, until that has nothing more: requests for instances of this region.
    pub fn enter(&self, entry: Entry) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            add(&self.shared.metrics.connections_refused);
            debug!(?entry, "there are as many connections as may be");
            return;
        };
        let edge = self.clone();
        let connection = self.shared.open.track_future(async move {
            let Entry { address, mut stream, place: _place, .. } = entry;
            let begun = tokio::select! {
                begun = timeout(edge.shared.config.request_head, preface::read_of(&mut stream)) => begun,
                () = edge.closing.cancelled() => Ok(Err(io::ErrorKind::ConnectionAborted.into())),
            };
            let visitor = Arc::new(Visitor::new(address, true));
            edge.begun(stream, begun, &visitor, &Admitted::of_edge()).await;
            drop(place);
        });
        self.shared.env.tasks.spawn("far edge", connection);
    }

    /// Serves a connection that began like this.
    async fn begun<S: Duplex>(
        &self,
        stream: S,
        begun: Result<io::Result<(Version, Bytes)>, Elapsed>,
        visitor: &Arc<Visitor>,
        admitted: &Admitted,
    ) {
        let client = visitor.address;
        let counter = &self.shared.metrics.connections;
        add(counter);
        match begun {
            Ok(Ok((Version::One, begun))) => self.converse(stream, begun, visitor, admitted).await,
            Ok(Ok((Version::Two, begun))) => {
                let io = Guarded::framed(stream, begun, self.shared.config.response_idle);
                let served = Box::pin(framed::serve(&self.shared, io, visitor, admitted, &self.leaving)).await;
                if let Err(error) = served {
                    debug!(%client, %error, "a client's connection ended");
                }
            }
            Ok(Err(error)) => debug!(%client, %error, "a client said nothing"),
            Err(_) => debug!(%client, "a client said nothing in time"),
        }
        counter.fetch_sub(1, Ordering::Relaxed);
    }

    /// Serves a client by HTTP/1.1, which began to speak like this.
    async fn converse<S: Duplex>(&self, stream: S, begun: Bytes, visitor: &Arc<Visitor>, admitted: &Admitted) {
        let io = Guarded::new(stream, begun, Arc::clone(&visitor.switched), self.shared.config.response_idle);
        let service = service_fn(|request| {
            admitted.spoke();
            let answer = Arc::clone(&self.shared).answer(request.map(ClientBody::One), Arc::clone(visitor));
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http1::Builder::new()
            .timer(HeadTimer::default())
            .header_read_timeout(self.shared.config.request_head)
            .max_header_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        tokio::pin!(connection);
        let outcome = tokio::select! {
            outcome = &mut connection => outcome,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            debug!(client = %visitor.address, %error, "a client's connection ended");
        }
    }

    /// Asks clients to go elsewhere for a moment, then stops accepting, and lets open requests and tunnels end within the
    /// configured time; tells whether all did.
    pub async fn drain(&self) -> bool {
        let Config { notice, drain, .. } = self.shared.config;
        self.shared.is_leaving.store(true, Ordering::Relaxed);
        self.leaving.cancel();
        self.shared.open.close();
        // An idle connection that is closed may cross the next request on it: most of those come within this time.
        timeout(notice, self.shared.open.wait()).await.ok();
        self.closing.cancel();
        timeout(drain, self.shared.open.wait()).await.is_ok()
    }

    /// What the edge counts.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Requests that were refused for the sake of other apps, by app, since the start.
    pub fn refused(&self) -> BTreeMap<AppName, u64> {
        self.shared.apps.all_refused()
    }

    /// What has been counted of releases, since the start.
    pub fn traffic(&self) -> Traffic {
        self.shared.counters.releases()
    }

    /// What has been counted of services, since the start.
    pub fn services(&self) -> BTreeMap<ServiceRef, ServiceCounts> {
        self.shared.counters.services()
    }

    /// What is remembered of the requests with an id.
    pub fn requests(&self, id: &HttpRequestId) -> Remembered {
        self.shared.requests.find(id)
    }

    /// Requests in flight by node.
    pub fn in_flight(&self) -> BTreeMap<NodeId, u64> {
        self.shared.instances.in_flight_by_node()
    }
}

/// Clears away what is not needed any more, every second.
async fn sweep(shared: Arc<Shared>, beat: Beat) {
    let mut ticks = shared.env.clock.interval(SWEEP_EVERY);
    loop {
        beat.idle(ticks.tick()).await;
        let catalog = shared.holder.current();
        shared.apps.sweep(&catalog);
        shared.counters.sweep(&catalog);
        come_back(&shared, &catalog);
        shared.instances.sweep(&catalog, shared.env.clock.now(), shared.config.pool_idle);
    }
}

/// Looks which services have something good here again.
fn come_back(shared: &Shared, catalog: &Catalog) {
    let now = shared.env.clock.now();
    let verdicts = Arc::clone(&shared.verdicts.borrow());
    shared.away.sweep(catalog);
    shared.away.look(now, |service| {
        let judge = |id| shared.instances.verdict(id, now);
        let targets = catalog.routes.values().flat_map(BTreeMap::values).filter(|target| target.service == *service);
        let mut locals = targets.map(|target| choose::candidates(catalog, target, &verdicts, &[], judge).0);
        locals.next().is_some_and(|local| local == Local::Good)
    });
}

/// Lets go of instances as soon as the catalog does.
async fn follow(shared: Arc<Shared>, beat: Beat) {
    let mut catalogs = shared.holder.watch();
    loop {
        let catalog = Arc::clone(&catalogs.borrow_and_update());
        shared.instances.follow(&catalog);
        if beat.idle(catalogs.changed()).await.is_err() {
            return;
        }
    }
}
