//! How `insula server` gives the catalog to `insula dataplane`: a Unix socket on which the dataplane listens. One
//! request, one reply, in turn. Either side may die and come back: the server connects again and pushes the newest
//! catalog, nothing in between; the dataplane serves what it has meanwhile.

mod client;
mod listen;

use std::{collections::BTreeMap, time::Duration};

use insula_env::{Rule, TaskInfo};
use insula_types::{HttpRequestId, Incarnation, Remembered, Revision, Traffic};
use serde::{Deserialize, Serialize};

pub use client::{Acknowledged, Link, LinkError};
pub use listen::{Dataplane, listen};

use crate::{Catalog, limits};

/// Greatest frame: one catalog and its envelope.
const FRAME_MAX: usize = limits::BYTES_MAX + 1024;

/// Among the statistics of a dataplane: up to which of these questions it knows them. One that does not know a question would take it for
/// damage, and end the connection.
const KNOWS: &str = "insula_dataplane_knows_traffic";
/// It knows [`Request::Traffic`].
const TRAFFIC: u64 = 1;
/// It knows [`Request::Requests`], too.
const REQUESTS: u64 = 2;

/// What the server asks.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Use this catalog.
    Push(Box<Catalog>),
    /// Are you there?
    Ping,
    /// The certificate files have changed: read them again.
    ReloadIdentity,
    /// How is traffic?
    Stats,
    /// What runs there?
    Tasks,
    /// What have instances made of requests? Only for one that has said [`TRAFFIC`].
    Traffic,
    /// What became of the requests with this id? Only for one that has said [`REQUESTS`].
    Requests(HttpRequestId),
}

/// What the dataplane answers.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// This is in use now: what was pushed, or something newer.
    Ack { incarnation: Incarnation, revision: Revision },
    /// The pushed catalog is not fit; the last good one stays in use.
    Rejected { revision: Revision, why: String },
    /// Here.
    Pong,
    /// The certificates in use are those on disk.
    IdentityReloaded,
    /// Could not be done, in words.
    Failed { why: String },
    /// Counters and gauges by name.
    Stats(BTreeMap<String, u64>),
    /// What runs.
    Tasks(Vec<TaskReport>),
    /// What was counted, by service and release.
    Traffic(Traffic),
    /// What is remembered of them.
    Requests(Remembered),
}

/// A task of the dataplane, as its server asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The group that it belongs to.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// What happens when it ends.
    pub rule: String,
    /// How often it was started again.
    pub restarts: u64,
    /// How long ago it showed that it is alive, and when the watchdog acts, in milliseconds; none: it is not watched.
    pub beat_ms: Option<(u64, u64)>,
}

impl From<&TaskInfo> for TaskReport {
    fn from(task: &TaskInfo) -> Self {
        let rule = match task.rule {
            Rule::Once => "once",
            Rule::Restart => "restart",
            Rule::Critical => "critical",
        };
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            owner: task.owner.to_string(),
            name: task.name.to_string(),
            rule: rule.to_owned(),
            restarts: task.restarts,
            beat_ms: task.beat.map(|beat| (ms(beat.age), ms(beat.limit))),
        }
    }
}

#[cfg(test)]
mod tests {
    use insula_env::{Env, net};

    use super::*;
    use crate::frame;

    /// A dataplane of a version before this one gets no question that it would take for damage.
    #[tokio::test]
    async fn an_earlier_dataplane_is_asked_what_it_knows_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, env) = (dir.path().join("dataplane.sock"), Env::real("test"));
        let listener = net::bind_unix(&path).expect("bind");
        let link = Link::start(path, &env);
        let (mut stream, _) = listener.accept().await.expect("a server");
        let knows = |level: Option<u64>| level.map(|level| (KNOWS.to_owned(), level)).into_iter().collect();
        let stats = [(None, 2), (Some(TRAFFIC), 3)].map(|(level, questions)| (knows(level), questions));
        env.tasks.spawn("dataplane", async move {
            for (stats, questions) in stats {
                for _ in 0..questions {
                    let asked = frame::read(&mut stream, FRAME_MAX).await.expect("a question");
                    let reply = match asked {
                        Request::Stats => Reply::Stats(BTreeMap::clone(&stats)),
                        // Known to the second of the two.
                        Request::Traffic if !stats.is_empty() => Reply::Traffic(Traffic::default()),
                        other => panic!("{other:?} was asked of one that said {stats:?}"),
                    };
                    frame::write(&mut stream, &reply, FRAME_MAX).await.expect("an answer");
                }
            }
            std::future::pending::<()>().await;
        });
        link.acknowledged().wait_for(|seen| seen.is_connected).await.expect("it lives");
        let id: HttpRequestId = "a-request".parse().expect("an id");
        let earlier = |outcome: Result<(), LinkError>| {
            let why = outcome.expect_err("it does not know").to_string();
            assert!(why.ends_with("it is of an earlier version"), "{why}");
        };
        earlier(link.traffic().await.map(drop));
        earlier(link.requests(&id).await.map(drop));
        earlier(link.requests(&id).await.map(drop));
        link.traffic().await.expect("this one knows");
        env.tasks.crash();
    }
}
