//! Secrets on this node: opened for instances that are placed here, and, where this node holds the region CA's key, for other nodes.
//!
//! What was opened once is kept in `agent/secrets`, sealed to this node's own key, for as long as a placement here names it: an
//! instance is started again also when nobody is reached who could open it anew.

mod later;

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

pub(crate) use self::later::seal_for_later_regions;
use async_trait::async_trait;
use insula_agent::Secrets;
use insula_env::{Disk, clock};
use insula_identity::{Error, NodeDirectory, NodeIdentity, OpeningKey, SecretPlace, seal_secret};
use insula_rpc::{AddressBook, Code, Peers, Status};
use insula_state::{RegionState, Store};
use insula_telemetry::chain;
use insula_types::{
    AppName, NodeId, SecretName, SecretValues, SecretVersion, SecretVersions, codec, secret::SECRETS_MAX,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tracing::warn;

use crate::methods::{OpenSecrets, OpenSecretsRequest, OpenSecretsResponse};

/// How long one node may take to open secrets.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// How long all of them together may take, before the instance waits and tries again.
const OPEN_LIMIT: Duration = Duration::from_secs(15);
/// Format of the file. A later one may add fields to it.
const FORMAT: u32 = 1;

/// Values, sealed to one node's key.
type Sealed = BTreeMap<SecretName, ByteBuf>;

/// What is kept of an app's secrets.
type Kept = BTreeMap<(AppName, SecretName, SecretVersion), ByteBuf>;

#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    format: u32,
    secrets: Kept,
}

/// Opens secrets on one node.
#[derive(Clone)]
pub(crate) struct Opener {
    pub identity: NodeIdentity,
    pub directory: NodeDirectory,
    pub region: Store<RegionState>,
    pub peers: Peers,
    pub book: AddressBook,
    pub disk: Arc<dyn Disk>,
    /// Where opened ones are kept.
    pub path: PathBuf,
    /// One at a time reads and writes that.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({})", self.identity.node)
    }
}

#[async_trait]
impl Secrets for Opener {
    async fn open(&self, app: &AppName, wanted: &SecretVersions) -> Result<SecretValues, String> {
        let _turn = self.turn.lock().await;
        let mut kept = self.load();
        let own = self.directory.load_key().and_then(|key| key.opening_key()).map_err(|error| chain(&error))?;
        let found = wanted.iter().filter_map(|(name, version)| {
            let sealed = kept.get(&(app.clone(), name.clone(), *version))?;
            Some((name.clone(), own.open(&self.place(app, name), sealed).ok()?))
        });
        let mut values: SecretValues = found.collect();
        let lacking: SecretVersions =
            wanted.iter().filter(|(name, _)| !values.contains_key(*name)).map(|(name, v)| (name.clone(), *v)).collect();
        if lacking.is_empty() {
            return Ok(values);
        }
        let mut opened = clock::timeout(OPEN_LIMIT, self.open_anew(app, &lacking, own.public()))
            .await
            .map_err(|_| format!("nobody opened its secrets within {OPEN_LIMIT:?}"))??;
        for (name, version) in lacking {
            let sealed = opened.remove(&name).ok_or_else(|| format!("the secret {name} was not opened"))?;
            let value = own.open(&self.place(app, &name), &sealed).map_err(|error| chain(&error))?;
            kept.insert((app.clone(), name.clone(), version), sealed);
            values.insert(name, value);
        }
        self.keep(kept);
        Ok(values)
    }
}

impl Opener {
    fn place<'a>(&'a self, app: &'a AppName, name: &'a SecretName) -> SecretPlace<'a> {
        SecretPlace { cluster: &self.identity.cluster, region: &self.identity.region, app, name }
    }

    fn load(&self) -> Kept {
        let read = || -> io::Result<File> {
            codec::decode(&self.disk.read(&self.path)?).map_err(|error| io::Error::other(chain(&error)))
        };
        match read() {
            Ok(file) => file.secrets,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::new(),
            Err(error) => {
                warn!(path = %self.path.display(), %error, "secrets that were kept cannot be read, having them opened anew");
                Kept::new()
            }
        }
    }

    /// Writes down what placements of this node name; one-off instances live with those of an instance beside them.
    fn keep(&self, mut kept: Kept) {
        let node = self.identity.node;
        self.region.read(|region| {
            // A copy that does not even know this node says nothing about what it needs (rule R2).
            if region.nodes.contains(&node) {
                kept.retain(|(app, name, version), _| is_placed(region, node, app, name, *version));
            }
        });
        let bytes = codec::encode(&File { format: FORMAT, secrets: kept });
        if let Err(error) = self.disk.write_atomic(&self.path, &bytes) {
            warn!(path = %self.path.display(), %error, "opened secrets cannot be kept: is the disk full?");
        }
    }

    /// By this node itself, where it holds the key, else by one that does: sealed to the key of this node either way.
    async fn open_anew(&self, app: &AppName, wanted: &SecretVersions, to: &[u8]) -> Result<Sealed, String> {
        match self.directory.load_region_authority().map_err(|error| chain(&error))? {
            Some(authority) => {
                let key = authority.opening_key().map_err(|error| chain(&error))?;
                self.reseal(&key, app, wanted, to).map_err(|status| status.to_string())
            }
            None => self.ask(app, wanted, to).await,
        }
    }

    /// Opens what the region has, and seals it to another key.
    fn reseal(&self, key: &OpeningKey, app: &AppName, wanted: &SecretVersions, to: &[u8]) -> Result<Sealed, Status> {
        let open = |(name, version): (&SecretName, &SecretVersion)| {
            let id = (app.clone(), name.clone(), *version);
            let sealed = self.region.read(|region| region.secrets.get(&id).cloned());
            let unknown =
                || Status::retryable(Code::NotFound, format!("version {version} of {name} is not known here"));
            let failed = |error: Error| Status::internal(chain(&error));
            let value = key.open(&self.place(app, name), &sealed.ok_or_else(unknown)?).map_err(failed)?;
            let sealed = seal_secret(to, &self.place(app, name), &value).map_err(failed)?;
            Ok((name.clone(), ByteBuf::from(sealed)))
        };
        wanted.iter().map(open).collect()
    }

    /// The leader votes, so it holds the key; of the others this node does not know.
    async fn ask(&self, app: &AppName, wanted: &SecretVersions, to: &[u8]) -> Result<Sealed, String> {
        let seal_to = ByteBuf::from(to);
        let request = OpenSecretsRequest { app: app.clone(), wanted: wanted.clone(), seal_to };
        let leader = self.region.leadership().borrow().leader;
        let up =
            |node: &NodeId| self.region.read(|region| region.nodes.get(node).is_none_or(|node| node.health.is_up()));
        let others = self.book.nodes().into_iter().filter(|node| Some(*node) != leader && up(node));
        let mut last = "no node is reached that could open its secrets".to_owned();
        for node in leader.into_iter().chain(others).filter(|node| *node != self.identity.node) {
            match self.peers.call::<OpenSecrets>(node, &request, CALL_LIMIT).await {
                Ok(OpenSecretsResponse { sealed }) if wanted.keys().all(|name| sealed.contains_key(name)) => {
                    return Ok(sealed);
                }
                Ok(_) => last = format!("node {node} did not open all of its secrets"),
                Err(status) => last = format!("its secrets are not opened: {status}"),
            }
        }
        Err(last)
    }

    /// Answers another node, which gets what is placed on it and nothing else.
    ///
    /// # Errors
    /// [`Status`].
    pub(crate) fn serve(&self, caller: NodeId, request: &OpenSecretsRequest) -> Result<OpenSecretsResponse, Status> {
        let OpenSecretsRequest { app, wanted, seal_to } = request;
        if wanted.len() > SECRETS_MAX {
            return Err(Status::new(
                Code::InvalidArgument,
                format!("at most {SECRETS_MAX} secrets are opened at a time"),
            ));
        }
        let authority = self.directory.load_region_authority().map_err(|error| Status::internal(chain(&error)))?;
        let Some(authority) = authority else {
            return Err(Status::retryable(Code::FailedPrecondition, "this node does not hold the region's key"));
        };
        let foreign = self.region.read(|region| {
            let is_foreign =
                |(name, version): &(&SecretName, &SecretVersion)| !is_placed(region, caller, app, name, **version);
            wanted.iter().find(is_foreign).map(|(name, _)| name.clone())
        });
        if let Some(name) = foreign {
            // It may have been placed a moment ago, and this node lag behind.
            let why = format!("no instance that has the secret {name} of {app} is placed on {caller}");
            return Err(Status::retryable(Code::PermissionDenied, why));
        }
        let key = authority.opening_key().map_err(|error| Status::internal(chain(&error)))?;
        Ok(OpenSecretsResponse { sealed: self.reseal(&key, app, wanted, seal_to)? })
    }
}

/// Whether an instance is placed on a node that has this version of a secret.
fn is_placed(region: &RegionState, node: NodeId, app: &AppName, name: &SecretName, version: SecretVersion) -> bool {
    let mut placed = region.placements_of(node).filter(|placement| placement.service.app == *app);
    placed.any(|placement| placement.spec.secrets.get(name) == Some(&version))
}

#[cfg(test)]
mod tests {
    use insula_state::{
        Domain,
        region::{RegionKey, RegionObject},
    };
    use insula_types::{Desired, InstanceId, Placement, ReleaseNumber, Revision, ServiceRef, ServiceSpec};

    use super::*;

    #[test]
    fn a_node_is_told_what_is_placed_on_it_and_nothing_else() {
        let (shop, other): (AppName, AppName) = ("shop".parse().expect("a name"), "other".parse().expect("a name"));
        let [key, more]: [SecretName; 2] = ["KEY", "MORE"].map(|name| name.parse().expect("a name"));
        let placement = Placement {
            instance: InstanceId::new(1),
            service: ServiceRef::new(shop.clone(), "web".parse().expect("a name")),
            node: NodeId::new(1),
            release: ReleaseNumber(1),
            spec: ServiceSpec { secrets: [(key.clone(), 2)].into(), ..ServiceSpec::default() },
            desired: Desired::Drain,
            reasons: Vec::new(),
            placed_ms: 0,
            slot: None,
            hook: None,
        };
        let mut region = RegionState::default();
        let id = RegionKey::Placement(placement.instance);
        region.absorb(Revision(1), id, Some(RegionObject::Placement(placement)));
        let [one, two] = [1, 2].map(NodeId::new);
        assert!(is_placed(&region, one, &shop, &key, 2));
        assert!(!is_placed(&region, two, &shop, &key, 2), "another node");
        assert!(!is_placed(&region, one, &other, &key, 2), "another app");
        assert!(!is_placed(&region, one, &shop, &more, 2), "another secret");
        assert!(!is_placed(&region, one, &shop, &key, 1), "another version");
    }
}
