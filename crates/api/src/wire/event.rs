//! Events and the place of one in their order.

use std::{borrow::Cow, fmt, str::FromStr};

use insula_types::{AppName, InstanceId, NodeId, Revision};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its place in the order; where a stream resumes.
    pub id: EventCursor,
    /// When.
    pub at_ms: u64,
    /// Kind, like `node_down`; new ones come.
    pub kind: String,
    /// One sentence.
    pub text: String,
    /// The node it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The app it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// The instance it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
}

/// A place in the order of events: the revision that one came with, and its number within. Written `41.0`; `41` alone
/// is the place after all events of revision 41.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct EventCursor {
    /// The revision.
    pub revision: Revision,
    /// The place within.
    pub place: u16,
}

impl EventCursor {
    /// The place after all events of a revision.
    #[must_use]
    pub const fn after(revision: Revision) -> Self {
        Self { revision, place: u16::MAX }
    }
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.revision, self.place))
    }
}

impl FromStr for EventCursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a revision like 41, or an event's id like 41.0";
        let (revision, place) = text.split_once('.').unwrap_or((text, "65535"));
        let revision = revision.parse().map_err(|_| EXPECTED)?;
        Ok(Self { revision: Revision(revision), place: place.parse().map_err(|_| EXPECTED)? })
    }
}

impl JsonSchema for EventCursor {
    fn schema_name() -> Cow<'static, str> {
        "EventCursor".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A place in the order of events: 41.0 is the first event of revision 41, 41 the place after all of \
                            them.",
            "pattern": "^[0-9]{1,19}(\\.[0-9]{1,4})?$",
        })
    }
}

impl Serialize for EventCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventCursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
