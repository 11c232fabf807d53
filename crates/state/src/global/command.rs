//! What can be asked of the global state.

use std::collections::BTreeMap;

use insula_types::{AppName, RegionName, ReleaseNumber, ServiceName, ServiceSpec};
use serde::{Deserialize, Serialize};

use super::{ApiToken, ClusterMeta};

/// A change of the global state. Variants are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalCommand {
    /// Founds the cluster with its first region. Only on an empty state.
    Init {
        /// What it is.
        meta: ClusterMeta,
        /// Its first region.
        region: RegionName,
    },
    /// Makes a release and lets it run. The same services as the present release make none.
    Deploy {
        /// The app; made when there is none.
        app: AppName,
        /// All its services.
        services: BTreeMap<ServiceName, ServiceSpec>,
        /// Instances of services that have no scale yet, or a new one that the user wrote down.
        scale: BTreeMap<ServiceName, u32>,
        /// The release that the user saw; another one now is a conflict.
        expect: Option<ReleaseNumber>,
    },
    /// Sets how many instances of a service run in each region.
    Scale {
        /// The app.
        app: AppName,
        /// The service.
        service: ServiceName,
        /// Instances.
        scale: u32,
    },
    /// Removes an app with all its releases and claims.
    RemoveApp {
        /// The app, by exact name.
        app: AppName,
    },
    /// Makes an API token.
    PutApiToken(ApiToken),
    /// Ends an API token.
    RemoveApiToken {
        /// Its id.
        id: String,
    },
}

/// What a global command answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalReply {
    /// Done.
    Done,
    /// The app runs this release now.
    Deployed {
        /// Its number.
        release: ReleaseNumber,
        /// False when nothing had to change.
        is_new: bool,
    },
}
