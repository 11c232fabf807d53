//! What happened, in words, kept for a bounded time with the state that it happened to.

use insula_types::{AppName, InstanceId, NodeId, Revision};
use serde::{Deserialize, Serialize};

/// Greatest number of events that a state keeps; the oldest go first. A busy region makes some tens an hour.
pub const EVENTS_MAX: usize = 1000;

/// Names one event: the revision that it came with, and its place within.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventId(pub Revision, pub u16);

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, milliseconds since 1970 by the leader's clock.
    pub at_ms: u64,
    /// Closed kind, for programs.
    pub kind: EventKind,
    /// One sentence, for people.
    pub text: String,
    /// The node it is about.
    pub node: Option<NodeId>,
    /// The app it is about.
    pub app: Option<AppName>,
    /// The instance it is about.
    pub instance: Option<InstanceId>,
}

/// Kinds of [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A node joined the region.
    NodeJoined,
    /// A node's lease is renewed again.
    NodeUp,
    /// A node's lease ended.
    NodeDown,
    /// An app's definition reached the region.
    Deployed,
    /// An app was taken out of the region.
    Removed,
    /// An instance was bound to a node.
    Placed,
    /// An instance gets requests.
    Ready,
    /// An instance gets no more requests.
    Unready,
    /// An instance ended and will be started again.
    Restarting,
    /// An instance was taken away.
    Stopped,
    /// An instance cannot be placed.
    Unplaceable,
    /// Anything else.
    Note,
}

impl Event {
    /// An event about nothing in particular yet.
    pub fn new(at_ms: u64, kind: EventKind, text: impl Into<String>) -> Self {
        Self { at_ms, kind, text: text.into(), node: None, app: None, instance: None }
    }

    /// Says which node it is about.
    #[must_use]
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// Says which app it is about.
    #[must_use]
    pub fn app(mut self, app: &AppName) -> Self {
        self.app = Some(app.clone());
        self
    }

    /// Says which instance it is about.
    #[must_use]
    pub const fn instance(mut self, instance: InstanceId) -> Self {
        self.instance = Some(instance);
        self
    }
}
