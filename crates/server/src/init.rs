//! `insula init`: makes the first node of the first region, ready for its first start.
//!
//! Nothing is replicated here. What the first start shall commit (the cluster, the region, the first API token) is left
//! in the founding file; the server commits it, however often it is interrupted, and removes the file.

use insula_env::Env;
use insula_identity::{ApiToken, NodeDirectory, RecoveryKey, RootAuthority, RootHash};
use insula_state::{
    global::{ApiToken as StoredToken, ClusterMeta, Role},
    region::RegionMeta,
};
use insula_types::{Capacity, ClusterId, Incarnation, Node, NodeHealth, NodeId};
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    config::NodeConfig,
    home::{Home, ValueFile},
    level, machine_size,
};

/// How long the first API token lasts: long enough to make others from it.
const FIRST_TOKEN_MS: u64 = 365 * 24 * 3600 * 1000;

/// What the first start commits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Founding {
    pub region: RegionMeta,
    pub node: Node,
    /// The cluster that begins with the region; none: there is one, which the region joins.
    #[serde(default)]
    pub cluster: Option<ClusterMeta>,
    /// The first API token, of a cluster that begins.
    #[serde(default)]
    pub token: Option<StoredToken>,
}

/// What the person at the terminal needs to know; shown once.
#[derive(Debug)]
pub struct Initialized {
    /// The node's id.
    pub node: NodeId,
    /// The cluster's id.
    pub cluster: ClusterId,
    /// Pins the cluster for clients.
    pub root: RootHash,
    /// Opens the sealed root key; kept nowhere else.
    pub recovery_key: RecoveryKey,
    /// An API token with the role admin.
    pub api_token: ApiToken,
}

/// Makes the node described by `config`.
///
/// # Errors
/// [`Error::AlreadyThere`] when its data directory has a node; [`Error::Identity`], [`Error::File`].
pub fn init(config: &NodeConfig, env: &Env) -> Result<Initialized, Error> {
    let paths = config.paths();
    let directory = NodeDirectory::new(&paths.data(), env.disk.clone());
    if directory.is_joined()? {
        return Err(Error::AlreadyThere { path: paths.data() });
    }
    let now = env.clock.wall();
    let lifetimes = config.lifetimes();
    let cluster = ClusterId::new(env.rng.next());
    let root = RootAuthority::create(cluster.clone(), &lifetimes, now)?;
    let authority = root.issue_region(&config.region, &lifetimes, now)?;
    let key = directory.load_or_create_key(&env.rng)?;
    let chain = authority.issue_node(&key.request()?, key.id(), &[config.advertise.widest().ip()], &lifetimes, now)?;
    let recovery_key = RecoveryKey::random(&env.rng);
    let api_token = ApiToken::new(&env.rng);

    let incarnation = Incarnation(env.rng.next());
    let home = Home {
        cluster: cluster.clone(),
        region: config.region.clone(),
        region_incarnation: incarnation,
        global_incarnation: incarnation,
        has_state: false,
        new: Default::default(),
        peers: std::collections::BTreeMap::new(),
        own: None,
        known: Default::default(),
        gateways: Vec::new(),
    };
    let created_ms = env.clock.wall_ms();
    let founding = Founding {
        cluster: Some(ClusterMeta { cluster: cluster.clone(), incarnation, created_ms }),
        region: RegionMeta { cluster: cluster.clone(), region: config.region.clone(), incarnation },
        node: describe(config, key.id()),
        token: Some(StoredToken {
            id: api_token.id.to_string(),
            name: "founder".to_owned(),
            role: Role::Admin,
            secret_hash: api_token.secret_hash(),
            expires_ms: created_ms + FIRST_TOKEN_MS,
        }),
    };
    directory.save_sealed_root(&root.seal(&recovery_key)?)?;
    directory.save_region_authority(&authority)?;
    ValueFile::new(paths.founding(), env.disk.clone()).save(&founding)?;
    ValueFile::new(paths.home(), env.disk.clone()).save(&home)?;
    // Last: with the certificates in place the node exists.
    directory.save_certificates(&chain, std::slice::from_ref(root.certificate()))?;
    Ok(Initialized { node: key.id(), cluster, root: root.hash(), recovery_key, api_token })
}

/// This machine as the region shall know it.
pub(crate) fn describe(config: &NodeConfig, id: NodeId) -> Node {
    Node {
        id,
        name: config.name.clone(),
        region: config.region.clone(),
        datacenter: config.datacenter.clone(),
        address: config.advertise.widest(),
        capacity: capacity(config),
        version: level::version(),
        health: NodeHealth::Up,
        is_cordoned: false,
        is_draining: false,
        joined_ms: 0,
    }
}

/// What the configuration says of this machine's size, or what the machine has.
pub(crate) fn capacity(config: &NodeConfig) -> Capacity {
    let found = machine_size::detect();
    // The amounts were checked when the configuration was read.
    let (memory, cpu) = config.runtime.capacity().unwrap_or_default();
    Capacity { cpu: cpu.unwrap_or(found.cpu), memory: memory.unwrap_or(found.memory) }
}
