//! What queries may say.

use insula_types::{AppName, Revision};
use schemars::JsonSchema;
use serde::Deserialize;

use super::endpoints::{SINCE_MS_MAX, TAIL_MAX, USAGE_MAX};

/// How a read shall be done.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadQuery {
    /// Waits until the state is beyond this revision, for 25 seconds at most; then answers with what there is.
    pub(super) wait: Option<Revision>,
    /// `linearizable` asks the leader, so that all changes acknowledged before the call are seen.
    pub(super) consistency: Option<Consistency>,
}

/// Whose word counts.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Consistency {
    /// That of the node that answers.
    Local,
    /// That of the leader.
    Linearizable,
}

/// Whether anything is done.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanQuery {
    /// Only say what would change. A viewer may.
    #[serde(default)]
    pub(super) plan: bool,
}

/// What an image that is sent shall be called.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportQuery {
    /// Its name; without it the one that the archive has.
    pub(super) name: Option<String>,
}

/// Which image.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageQuery {
    /// Its exact reference, with digest.
    pub(super) image: String,
}

/// How a node is removed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    /// Also while it is up, or instances are on it.
    #[serde(default)]
    pub(super) force: bool,
}

/// Which part of a log.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    /// The last so many lines; without it all that is kept.
    #[schemars(range(max = TAIL_MAX))]
    pub(super) tail: Option<u32>,
    /// Only what was written at this time or after, in milliseconds since 1970.
    #[schemars(range(max = SINCE_MS_MAX))]
    pub(super) since_ms: Option<u64>,
    /// Goes on with what comes, until the instance ends.
    #[serde(default)]
    pub(super) follow: bool,
}

/// Which events.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    /// Those after this place; without it all that are kept.
    #[schemars(with = "Option<crate::wire::EventCursor>")]
    pub(super) since: Option<String>,
    /// Goes on with what comes.
    #[serde(default)]
    pub(super) follow: bool,
}

/// Between whom round trips are asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LatencyQuery {
    /// Also between the nodes of the region that answers.
    #[serde(default)]
    pub(super) nodes: bool,
}

/// Whose use is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageQuery {
    /// Only what is of this app.
    pub(super) app: Option<AppName>,
    /// At most so many instances, those that use the most CPU; without it 100.
    #[schemars(range(min = 1, max = USAGE_MAX))]
    pub(super) limit: Option<u32>,
}

/// What might be lost: one of both.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LossQuery {
    /// A node, by exact id or name.
    #[schemars(with = "Option<insula_types::NodeName>")]
    pub(super) node: Option<String>,
    /// All nodes of a data centre.
    #[schemars(with = "Option<insula_types::DatacenterName>")]
    pub(super) datacenter: Option<String>,
}
