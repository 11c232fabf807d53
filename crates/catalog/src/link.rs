//! How `insula server` gives the catalog to `insula dataplane`: a Unix socket on which the dataplane listens. One
//! request, one reply, in turn. Either side may die and come back: the server connects again and pushes the newest
//! catalog, nothing in between; the dataplane serves what it has meanwhile.

mod client;
mod listen;

use std::collections::BTreeMap;

use insula_types::{Incarnation, Revision};
use serde::{Deserialize, Serialize};

pub use client::{Acknowledged, Link, LinkError};
pub use listen::{Dataplane, listen};

use crate::{Catalog, limits};

/// Greatest frame: one catalog and its envelope.
const FRAME_MAX: usize = limits::BYTES_MAX + 1024;

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
}
