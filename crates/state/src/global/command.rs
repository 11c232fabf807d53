//! What can be asked of the global state.

use std::collections::BTreeMap;

use insula_types::{
    Agreed, AppName, ContentHash, ContinentName, Level, Overrides, Priority, RegionName, RegionSet, ReleaseNumber,
    Scale, SecretName, SecretVersion, ServiceName, ServiceSpec, UpdateSpec,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    ApiToken, ClusterMeta, Founder, Gateway, Invitation, RegionalScale, ReleaseOutcome, SealedFor, TrustedRoot,
};

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
        scale: BTreeMap<ServiceName, Scale>,
        /// The release that the user saw; another one now is a conflict.
        expect: Option<ReleaseNumber>,
        /// How services go over to it, where they say.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        updates: BTreeMap<ServiceName, UpdateSpec>,
        /// What is in the files of the services. What earlier releases had may be left out.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        contents: BTreeMap<ContentHash, String>,
        /// The tags by which their images were named, where they were.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        tags: BTreeMap<ServiceName, String>,
        /// In which regions they run, where they say.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        regions: BTreeMap<ServiceName, RegionSet>,
        /// How important services are, where they say.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        priorities: BTreeMap<ServiceName, Priority>,
        /// What regions make of services that they override.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        overrides: Overrides,
        /// Instances of services in regions for which the user wrote down another number.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        regional_scale: RegionalScale,
    },
    /// Sets how many instances of a service run in each region, or in one.
    Scale {
        /// The app.
        app: AppName,
        /// The service.
        service: ServiceName,
        /// Instances.
        scale: Scale,
        /// The region; none: all of them, also those that had a number of their own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        region: Option<RegionName>,
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
    /// Makes a new release of what an earlier one was, as a whole, and lets it run. The scale stays.
    Rollback {
        /// The app.
        app: AppName,
        /// The release to go back to.
        to: ReleaseNumber,
        /// The release that is left; another one now is a conflict.
        from: ReleaseNumber,
        /// Why, in a sentence.
        why: String,
    },
    /// What became of a release in a region.
    ReportOutcome {
        /// The app.
        app: AppName,
        /// Its release; one that is forgotten already is passed over.
        release: ReleaseNumber,
        /// The region.
        region: RegionName,
        /// What became of it there.
        outcome: ReleaseOutcome,
    },
    /// Gives a secret of an app a value, which counts from the next release on.
    SetSecret {
        /// The app, which need not be there yet.
        app: AppName,
        /// The secret.
        name: SecretName,
        /// The value, sealed to the key of each region.
        sealed: BTreeMap<RegionName, ByteBuf>,
        /// Who sets it, for people.
        by: String,
    },
    /// Takes the values of a secret away. Refused while a release that may have to run needs it.
    RemoveSecret {
        /// The app.
        app: AppName,
        /// The secret.
        name: SecretName,
    },
    /// Says to which public key the secrets of a region are sealed. Another one later is refused.
    SetSealingKey {
        /// Which region.
        region: RegionName,
        /// The key.
        key: ByteBuf,
    },
    /// Gives a region values that were set before it had a key, sealed to that. What it has stays, and what has gone meanwhile is passed
    /// over.
    SealForRegion {
        /// The region.
        region: RegionName,
        /// The values, at most [`super::SEALED_AT_ONCE_MAX`].
        values: Vec<SealedFor>,
    },
    /// Makes a release of what runs, whose instances are new ones.
    Restart {
        /// The app.
        app: AppName,
        /// Its service; none: all of them.
        service: Option<ServiceName>,
        /// The release that runs; another one now is a conflict.
        from: ReleaseNumber,
    },
    /// Stops services, or lets them run again. Scale, releases and volumes stay.
    SetStopped {
        /// The app.
        app: AppName,
        /// Its service; none: all of them.
        service: Option<ServiceName>,
        /// Whether they are stopped.
        is_stopped: bool,
    },
    /// Adds a region that one machine may found, and the certificate that the active root gave its CA. Invitations that nobody
    /// has used in time go, and their regions with them.
    InviteRegion {
        /// Its name.
        region: RegionName,
        /// On which continent it is.
        continent: Option<ContinentName>,
        /// The active root.
        root: String,
        /// The certificate of the region's CA in DER.
        certificate: ByteBuf,
        /// What its machine needs.
        invitation: Box<Invitation>,
    },
    /// Lets a machine found the region of a token: the first one that asks, as often as it asks.
    ClaimRegion {
        /// Id of the token.
        token: String,
        /// SHA-256 of its secret, in hexadecimal digits.
        secret_hash: String,
        /// The machine.
        founder: Founder,
        /// What its program knows.
        agreed: Agreed,
    },
    /// Ends a token with which a region is founded, and the region with it, which does not serve yet.
    RemoveInvitation {
        /// Id of the token.
        token: String,
    },
    /// Says by which nodes other regions reach a region. One that joins serves from then on.
    SetGateways {
        /// The region.
        region: RegionName,
        /// Its gateways, the best first.
        gateways: Vec<Gateway>,
        /// How many nodes it has.
        nodes: u32,
    },
}

impl GlobalCommand {
    /// From which level on programs know it: with this value, fields included.
    pub fn level(&self) -> Level {
        match self {
            Self::Deploy { services, scale, updates, tags, regions, priorities, overrides, regional_scale, .. } => {
                let of_scales = scale.values().map(|scale| scale.level());
                let is_of_regions = !(regions.is_empty() && overrides.is_empty() && regional_scale.is_empty());
                let is_usual = updates.is_empty() && tags.is_empty() && priorities.is_empty() && !is_of_regions;
                let of_rest = if is_usual { Level::FIRST } else { Level(6) };
                services.values().map(ServiceSpec::level).chain(of_scales).max().unwrap_or(Level::FIRST).max(of_rest)
            }
            Self::Scale { scale, region: None, .. } => scale.level(),
            Self::Scale { region: Some(_), .. } => Level(6),
            Self::Init { .. } | Self::RemoveApp { .. } | Self::PutApiToken(_) | Self::RemoveApiToken { .. } => {
                Level::FIRST
            }
            Self::AddRoot { .. }
            | Self::ActivateRoot { .. }
            | Self::RetireRoot { .. }
            | Self::SetRegionAuthority { .. }
            | Self::SetRegionLevel { .. } => Level(2),
            Self::Rollback { .. } | Self::ReportOutcome { .. } => Level(6),
            Self::SetSecret { .. }
            | Self::RemoveSecret { .. }
            | Self::SetSealingKey { .. }
            | Self::SealForRegion { .. } => Level(6),
            Self::Restart { .. } | Self::SetStopped { .. } => Level(6),
            Self::InviteRegion { .. }
            | Self::ClaimRegion { .. }
            | Self::RemoveInvitation { .. }
            | Self::SetGateways { .. } => Level(6),
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
    /// The secret has a new value.
    SecretSet {
        /// Its version.
        version: SecretVersion,
    },
}
