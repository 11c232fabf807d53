//! What losses have taken of a service.

use serde::{Deserialize, Serialize};

use crate::{NodeId, NodeName, ServiceRef};

/// Instances of a service that losses of nodes have taken, and that have not found a place again. Never more than it lacks of its
/// scale: what a deploy or a new scale asks for is no part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    /// Instances that went with their nodes.
    pub lost: u32,
    /// Instances that gave their places to another service, which had lost some.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub given: u32,
    /// To which, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gave_to: Option<Given>,
    /// The node on which others give their places to an instance of it now. That room is for nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<NodeId>,
}

/// A place that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// To what.
    pub to: ServiceRef,
    /// On which node.
    pub node: NodeName,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Shortfall {
    /// All of them.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.lost.saturating_add(self.given)
    }

    /// What is left of it when so many have found places: those first that were lost.
    #[must_use]
    pub fn less(mut self, come: u32) -> Self {
        let of_given = come.saturating_sub(self.lost);
        self.lost = self.lost.saturating_sub(come);
        self.given = self.given.saturating_sub(of_given);
        self
    }

    /// What is left of it while a service lacks so many of its scale; none: nothing.
    #[must_use]
    pub fn within(mut self, lacking: u32) -> Option<Self> {
        self.given = self.given.min(lacking);
        self.lost = self.lost.min(lacking - self.given);
        (self.count() > 0).then_some(self)
    }

    /// Why instances of `service` wait, in words.
    #[must_use]
    pub fn text(&self, service: &ServiceRef) -> String {
        let lost = |count| format!("{count} of {service} went with {} and waits for room", nodes(count));
        match &self.gave_to {
            Some(Given { to, node }) if self.given > 0 => {
                let given = self.given;
                let rest = if self.lost > 0 { format!("; {}", lost(self.lost)) } else { String::new() };
                format!("{given} of {service} gave its place on {node} to {to} and comes back once there is room{rest}")
            }
            _ => lost(self.count()),
        }
    }
}

const fn nodes(count: u32) -> &'static str {
    if count == 1 { "a node" } else { "nodes" }
}
