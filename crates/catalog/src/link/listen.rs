//! The dataplane's end: takes what is pushed, answers what is asked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use insula_env::{
    Beat, Env, TaskGroup,
    clock::timeout,
    net::{UnixListener, UnixStream},
};
use insula_types::{HttpRequestId, Remembered, Traffic};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::{FRAME_MAX, KNOWS, REQUESTS, Reply, Request, TaskReport};
use crate::{Catalog, Holder, Offered, frame};

/// Connections at a time: one server, and one that is being replaced; more is somebody else.
const CONNECTIONS_MAX: usize = 4;
/// A server pings every few seconds; one that has been silent for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a reply may take to be written.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Wait after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// What the dataplane can do when it is asked.
pub trait Dataplane: Send + Sync + 'static {
    /// Reads the node's certificates from disk again.
    ///
    /// # Errors
    /// Why the old ones stay in use, in words.
    fn reload_identity(&self) -> Result<(), String>;

    /// Counters and gauges by name, for status reports.
    fn stats(&self) -> BTreeMap<String, u64>;

    /// What was counted of releases since it began.
    fn traffic(&self) -> Traffic;

    /// What is remembered of the requests with an id.
    fn requests(&self, id: &HttpRequestId) -> Remembered;
}

/// Answers on `listener` until the task group stops.
pub async fn listen(listener: UnixListener, holder: Arc<Holder>, dataplane: Arc<dyn Dataplane>, env: Env, beat: Beat) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = beat.idle(Arc::clone(&places).acquire_owned()).await else { return };
        let stream = match beat.idle(listener.accept()).await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "accept on the dataplane's socket failed");
                insula_env::clock::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (holder, dataplane, tasks) = (Arc::clone(&holder), Arc::clone(&dataplane), env.tasks.clone());
        env.tasks.spawn("catalog link", async move {
            if let Err(error) = answer(stream, &holder, &*dataplane, &tasks).await {
                debug!(%error, "the server's connection ended");
            }
            drop(place);
        });
    }
}

async fn answer(
    mut stream: UnixStream,
    holder: &Holder,
    dataplane: &dyn Dataplane,
    tasks: &TaskGroup,
) -> std::io::Result<()> {
    loop {
        let request = timeout(SILENCE_MAX, frame::read(&mut stream, FRAME_MAX)).await??;
        let reply = match request {
            Request::Push(catalog) => take(holder, *catalog),
            Request::Ping => Reply::Pong,
            Request::ReloadIdentity => match dataplane.reload_identity() {
                Ok(()) => Reply::IdentityReloaded,
                Err(why) => Reply::Failed { why },
            },
            Request::Stats => {
                let mut stats = dataplane.stats();
                stats.insert(KNOWS.to_owned(), REQUESTS);
                Reply::Stats(stats)
            }
            Request::Traffic => Reply::Traffic(dataplane.traffic()),
            Request::Requests(id) => Reply::Requests(dataplane.requests(&id)),
            Request::Tasks => Reply::Tasks(tasks.list().iter().map(TaskReport::from).collect()),
        };
        timeout(WRITE_LIMIT, frame::write(&mut stream, &reply, FRAME_MAX)).await??;
    }
}

fn take(holder: &Holder, catalog: Catalog) -> Reply {
    let revision = catalog.revision;
    match holder.offer(catalog) {
        Offered::Taken | Offered::Kept => {
            let current = holder.current();
            Reply::Ack { incarnation: current.incarnation, revision: current.revision }
        }
        Offered::Rejected(why) => {
            warn!(%revision, %why, "a pushed catalog was rejected, the last good one stays in use");
            Reply::Rejected { revision, why: why.to_string() }
        }
    }
}
