//! How `insula server` gives the catalog to `insula dataplane`: a Unix socket on which the dataplane listens. One
//! request, one reply, in turn. Either side may die and come back: the server connects again and pushes the newest
//! catalog, nothing in between; the dataplane serves what it has meanwhile.

mod client;
mod listen;

use std::{collections::BTreeMap, time::Duration};

use insula_env::{Rule, TaskInfo};
use insula_types::{Incarnation, Revision, Traffic};
use serde::{Deserialize, Serialize};

pub use client::{Acknowledged, Link, LinkError};
pub use listen::{Dataplane, listen};

use crate::{Catalog, limits};

/// Greatest frame: one catalog and its envelope.
const FRAME_MAX: usize = limits::BYTES_MAX + 1024;

/// Among the statistics of a dataplane that knows [`Request::Traffic`]. One of an earlier version would take the question for
/// damage, and end the connection.
const KNOWS_TRAFFIC: &str = "insula_dataplane_knows_traffic";

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
    /// What have instances made of requests? Only for one that has said [`KNOWS_TRAFFIC`].
    Traffic,
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
