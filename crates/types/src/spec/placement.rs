//! Which nodes a service asks for, and over what its instances are spread.

use serde::{Deserialize, Serialize};

use crate::{LabelName, Labels};

/// What a service asks of the nodes that its instances go to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlacementSpec {
    /// The label over whose values instances are spread first; then over the nodes.
    pub spread: LabelName,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub require: Labels,
    /// Labels that a node had better have: it is chosen before others that are as good for the spread.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub prefer: Labels,
}

impl PlacementSpec {
    /// Whether it asks for nothing: any node, spread over data centres.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        self.spread.as_str() == LabelName::DATACENTER && self.require.is_empty() && self.prefer.is_empty()
    }
}

impl Default for PlacementSpec {
    fn default() -> Self {
        let spread = LabelName::new(LabelName::DATACENTER).expect("the name is a DNS label");
        Self { spread, require: Labels::new(), prefer: Labels::new() }
    }
}
