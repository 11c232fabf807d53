//! The server's end: keeps a connection to the dataplane and pushes the newest catalog.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use insula_env::{
    Beat, Env,
    clock::{sleep, timeout},
    net::{UnixStream, connect_unix},
};
use insula_types::{HttpRequestId, Incarnation, Remembered, Revision, Traffic};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::{FRAME_MAX, KNOWS, REQUESTS, Reply, Request, TRAFFIC, TaskReport};
use crate::{Catalog, frame};

/// How long the dataplane may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long one request may take, a large catalog on a slow machine included.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// A turn is one call, whose limit it is twice.
const TURN_LIMIT: Duration = CALL_LIMIT.saturating_mul(2);
/// Longest quiet on the connection before it is tried with a ping.
const PING_EVERY: Duration = Duration::from_secs(5);
/// First and longest wait before connecting again. Short: the dataplane is on the same machine.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Questions that may wait for the connection.
const QUESTIONS_MAX: usize = 16;

/// What the dataplane last said of the catalogs that were pushed to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Whether it is connected now.
    pub is_connected: bool,
    /// What it uses; none until it has said so once.
    pub in_use: Option<(Incarnation, Revision)>,
    /// The last one that it rejected, and why; none once a later one was taken.
    pub rejected: Option<(Revision, String)>,
}

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens now.
    #[error("the dataplane is not connected: is `insula dataplane` running?")]
    NotConnected,
    /// It did not, or could not, do what was asked.
    #[error("the dataplane could not {what}: {why}")]
    Failed {
        /// What was asked of it.
        what: &'static str,
        /// Why not.
        why: String,
    },
}

type Question = (Request, oneshot::Sender<Reply>);

/// The server's link to its dataplane. Clones share it.
#[derive(Debug, Clone)]
pub struct Link {
    newest: Arc<watch::Sender<Option<Arc<Catalog>>>>,
    acknowledged: watch::Receiver<Acknowledged>,
    questions: mpsc::Sender<Question>,
}

impl Link {
    /// Starts a link to the dataplane that listens (or will listen) at `path`.
    pub fn start(path: PathBuf, env: &Env) -> Self {
        let newest = Arc::new(watch::Sender::new(None));
        let (acknowledge, acknowledged) = watch::channel(Acknowledged::default());
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let end = End { path, newest: newest.subscribe(), acknowledge, asked, env: env.clone() };
        let end = Arc::new(Mutex::new(end));
        env.tasks.supervise("dataplane link", TURN_LIMIT, move |beat| {
            let end = Arc::clone(&end);
            // Free at once: the run before has been dropped.
            async move { end.lock().await.run(&beat).await }
        });
        Self { newest, acknowledged, questions }
    }

    /// Gives a catalog to the dataplane; one that waits is replaced, so that only the newest is ever sent.
    pub fn push(&self, catalog: Arc<Catalog>) {
        self.newest.send_replace(Some(catalog));
    }

    /// What the dataplane has acknowledged; changes are seen.
    pub fn acknowledged(&self) -> watch::Receiver<Acknowledged> {
        self.acknowledged.clone()
    }

    /// Tells the dataplane to read the node's certificates from disk again.
    ///
    /// # Errors
    /// [`LinkError`]; asking again is harmless.
    pub async fn reload_identity(&self) -> Result<(), LinkError> {
        const WHAT: &str = "reload its identity";
        match self.ask(Request::ReloadIdentity).await? {
            Reply::IdentityReloaded => Ok(()),
            Reply::Failed { why } => Err(LinkError::Failed { what: WHAT, why }),
            _ => Err(LinkError::Failed { what: WHAT, why: "it gave another answer".to_owned() }),
        }
    }

    /// The dataplane's counters and gauges.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>, LinkError> {
        const WHAT: &str = "give its statistics";
        match self.ask(Request::Stats).await? {
            Reply::Stats(mut stats) => {
                stats.remove(KNOWS);
                Ok(stats)
            }
            _ => Err(LinkError::Failed { what: WHAT, why: "it gave another answer".to_owned() }),
        }
    }

    /// What the dataplane has counted of releases.
    ///
    /// # Errors
    /// [`LinkError`]; also of a dataplane of an earlier version, which does not count them.
    pub async fn traffic(&self) -> Result<Traffic, LinkError> {
        const WHAT: &str = "say what it has counted of releases";
        self.check_knows(TRAFFIC, WHAT).await?;
        match self.ask(Request::Traffic).await? {
            Reply::Traffic(traffic) => Ok(traffic),
            _ => Err(LinkError::Failed { what: WHAT, why: "it gave another answer".to_owned() }),
        }
    }

    /// What the dataplane remembers of the requests with an id.
    ///
    /// # Errors
    /// [`LinkError`]; also of a dataplane of an earlier version, which remembers none.
    pub async fn requests(&self, id: &HttpRequestId) -> Result<Remembered, LinkError> {
        const WHAT: &str = "say what it remembers of requests";
        self.check_knows(REQUESTS, WHAT).await?;
        match self.ask(Request::Requests(id.clone())).await? {
            Reply::Requests(remembered) => Ok(remembered),
            _ => Err(LinkError::Failed { what: WHAT, why: "it gave another answer".to_owned() }),
        }
    }

    /// Asks nothing of a dataplane that would not know what it is asked.
    async fn check_knows(&self, least: u64, what: &'static str) -> Result<(), LinkError> {
        match self.ask(Request::Stats).await? {
            Reply::Stats(stats) if stats.get(KNOWS).is_some_and(|known| *known >= least) => Ok(()),
            _ => Err(LinkError::Failed { what, why: "it is of an earlier version".to_owned() }),
        }
    }

    /// What runs in the dataplane.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn tasks(&self) -> Result<Vec<TaskReport>, LinkError> {
        const WHAT: &str = "list its tasks";
        match self.ask(Request::Tasks).await? {
            Reply::Tasks(tasks) => Ok(tasks),
            _ => Err(LinkError::Failed { what: WHAT, why: "it gave another answer".to_owned() }),
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, LinkError> {
        if !self.acknowledged.borrow().is_connected {
            return Err(LinkError::NotConnected);
        }
        let (answer, reply) = oneshot::channel();
        self.questions.try_send((request, answer)).map_err(|_| LinkError::NotConnected)?;
        // The connection's end drops the question; the limit is for a dataplane that hangs.
        match timeout(CALL_LIMIT * 2, reply).await {
            Ok(Ok(reply)) => Ok(reply),
            _ => Err(LinkError::NotConnected),
        }
    }
}

/// What the connection has to do.
enum Turn {
    /// There is a newer catalog; or none any more, for want of a [`Link`].
    Newest(bool),
    Asked(Option<Question>),
    Readable(io::Result<()>),
    Quiet,
}

/// The task behind a [`Link`].
struct End {
    path: PathBuf,
    newest: watch::Receiver<Option<Arc<Catalog>>>,
    acknowledge: watch::Sender<Acknowledged>,
    asked: mpsc::Receiver<Question>,
    env: Env,
}

impl End {
    async fn run(&mut self, beat: &Beat) {
        // A run that was begun anew has no connection yet.
        self.acknowledge.send_modify(|state| state.is_connected = false);
        let mut wait = BACKOFF.0;
        loop {
            let outcome = match connect_unix(&self.path, CONNECT_LIMIT).await {
                Ok(stream) => {
                    info!(path = %self.path.display(), "connected to the dataplane");
                    self.acknowledge.send_modify(|state| state.is_connected = true);
                    let outcome = self.serve(stream, beat).await;
                    self.acknowledge.send_modify(|state| state.is_connected = false);
                    // Questions that waited are dropped, which tells their askers.
                    while self.asked.try_recv().is_ok() {}
                    wait = BACKOFF.0;
                    outcome
                }
                Err(error) => Err(error),
            };
            match outcome {
                // No link is left: there is nothing more to do.
                Ok(()) => beat.idle(std::future::pending()).await,
                Err(error) => debug!(%error, path = %self.path.display(), "no connection to the dataplane"),
            }
            beat.idle(sleep(self.env.rng.jitter(wait))).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Works on one connection. `Ok` when no [`Link`] is left.
    async fn serve(&mut self, mut stream: UnixStream, beat: &Beat) -> io::Result<()> {
        self.newest.mark_changed();
        loop {
            let turn = beat.idle(async {
                // Nothing is expected to be read now, so what can be is the end of the connection.
                tokio::select! {
                    changed = self.newest.changed() => Turn::Newest(changed.is_ok()),
                    question = self.asked.recv() => Turn::Asked(question),
                    ready = stream.readable() => Turn::Readable(ready),
                    () = sleep(PING_EVERY) => Turn::Quiet,
                }
            });
            match turn.await {
                Turn::Newest(false) | Turn::Asked(None) => return Ok(()),
                Turn::Newest(true) => {
                    let catalog = self.newest.borrow_and_update().clone();
                    if let Some(catalog) = catalog {
                        self.push(&mut stream, &catalog).await?;
                    }
                }
                Turn::Asked(Some((request, answer))) => {
                    answer.send(call(&mut stream, &request).await?).ok();
                }
                Turn::Readable(ready) => {
                    ready?;
                    match stream.try_read(&mut [0]) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(_) => {
                            return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply that nobody asked for"));
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                Turn::Quiet => {
                    call(&mut stream, &Request::Ping).await?;
                }
            }
        }
    }

    async fn push(&self, stream: &mut UnixStream, catalog: &Catalog) -> io::Result<()> {
        match call(stream, &Request::Push(Box::new(catalog.clone()))).await? {
            Reply::Ack { incarnation, revision } => self.acknowledge.send_modify(|state| {
                state.in_use = Some((incarnation, revision));
                state.rejected = None;
            }),
            Reply::Rejected { revision, why } => {
                warn!(%revision, %why, "the dataplane rejected a catalog and serves from its last good one");
                self.acknowledge.send_modify(|state| state.rejected = Some((revision, why)));
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a push got another answer")),
        }
        Ok(())
    }
}

async fn call(stream: &mut UnixStream, request: &Request) -> io::Result<Reply> {
    timeout(CALL_LIMIT, async {
        frame::write(stream, request, FRAME_MAX).await?;
        frame::read(stream, FRAME_MAX).await
    })
    .await?
}
