//! What can be asked of the global state.

use std::collections::BTreeMap;

use insula_types::{Agreed, AppName, Level, RegionName, ReleaseNumber, ServiceName, ServiceSpec};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{ApiToken, ClusterMeta, TrustedRoot};

/// A change of the global state. Variants are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalCommand {
    /// Founds the cluster with its first region. Only on an empty state.
    Init {
        /// What it is.
        meta: ClusterMeta,
        /// Its first region.
        region: RegionName,
        /// What its founder's program knows; none at the first level.
        #[serde(default)]
        agreed: Option<Agreed>,
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
    /// Makes a root known: the first as active, each further one as trusted, in place of one that was never activated.
    AddRoot {
        /// SHA-256 of its certificate, in hexadecimal digits.
        hash: String,
        /// The root.
        root: TrustedRoot,
    },
    /// Lets chains lead to a trusted root; the one before retires.
    ActivateRoot {
        /// Which.
        hash: String,
    },
    /// Ends the trust in a retiring root.
    RetireRoot {
        /// Which.
        hash: String,
    },
    /// A root has signed a region's CA anew.
    SetRegionAuthority {
        /// Which root.
        root: String,
        /// Which region.
        region: RegionName,
        /// The CA's certificate in DER.
        certificate: ByteBuf,
    },
    /// A region has agreed on a level. What all regions have agreed on, the world has. A lower one changes nothing.
    SetRegionLevel {
        /// Which region.
        region: RegionName,
        /// On what.
        agreed: Agreed,
    },
}

impl GlobalCommand {
    /// From which level on programs know it: with this value, fields included.
    pub fn level(&self) -> Level {
        match self {
            Self::Deploy { services, .. } => services.values().map(ServiceSpec::level).max().unwrap_or(Level::FIRST),
            Self::Init { .. }
            | Self::Scale { .. }
            | Self::RemoveApp { .. }
            | Self::PutApiToken(_)
            | Self::RemoveApiToken { .. } => Level::FIRST,
            Self::AddRoot { .. }
            | Self::ActivateRoot { .. }
            | Self::RetireRoot { .. }
            | Self::SetRegionAuthority { .. }
            | Self::SetRegionLevel { .. } => Level(2),
        }
    }
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
