//! Taking machines in: `insula join` on the new machine, and what the region answers.

mod first;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use insula_env::Env;
use insula_identity::{CertificateDer, JoinToken, Lifetimes, Material, NodeDirectory};
use insula_raft::Group;
use insula_rpc::{Code, JoinHandler, JoinRequest, JoinResponse, Status, join_client};
use insula_state::{GlobalState, ProposeError, RegionCommand, RegionState, RejectionCode, Store};
use insula_telemetry::chain;
use insula_types::{Incarnation, Node, NodeHealth, NodeId, codec};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use self::first::Founds;
use crate::{
    Error,
    config::NodeConfig,
    home::{Home, ValueFile},
    init::capacity,
    level,
};

/// How long the region's leader may take to commit a new member.
const COMMIT_LIMIT: std::time::Duration = std::time::Duration::from_secs(8);

/// Makes this machine a node of the token's region.
///
/// # Errors
/// [`Error::AlreadyThere`], [`Error::Join`] with what the region said, [`Error::Identity`], [`Error::File`].
pub async fn join(config: &NodeConfig, token: &JoinToken, env: &Env) -> Result<NodeId, Error> {
    let paths = config.paths();
    let directory = NodeDirectory::new(&paths.data(), Arc::clone(&env.disk));
    if directory.is_joined()? {
        return Err(Error::AlreadyThere { path: paths.data() });
    }
    let key = directory.load_or_create_key(&env.rng)?;
    let mut request = JoinRequest::new(
        token,
        &key,
        config.name.clone(),
        config.datacenter.clone(),
        config.advertise.widest(),
        capacity(config),
    )?;
    request.version = level::version();
    request.clock_ms = Some(env.clock.wall_ms());
    let response = join_client(token, &request, &env.clock)
        .await
        .map_err(|error| Error::Join { region: token.region.to_string(), why: chain(&error) })?;
    let extra: Extra = codec::decode(&response.extra).map_err(|error| Error::Join {
        region: token.region.to_string(),
        why: format!("the answer cannot be read: is this program older than the region's? ({error})"),
    })?;
    if let Some(founds) = &extra.founds {
        first::found(config, (token, &key), (&response, &extra, founds), env)?;
        return Ok(key.id());
    }
    let home = Home {
        cluster: token.cluster.clone(),
        region: token.region.clone(),
        region_incarnation: extra.region_incarnation,
        global_incarnation: extra.global_incarnation,
        has_state: false,
        new: Default::default(),
        peers: response.peers.iter().copied().collect(),
        own: None,
        known: Default::default(),
        gateways: Vec::new(),
    };
    ValueFile::new(paths.home(), env.disk.clone()).save(&home)?;
    directory.save_certificates(&response.chain(), &response.roots())?;
    Ok(key.id())
}

/// What a new node must know beside certificates and peers.
#[derive(Debug, Serialize, Deserialize)]
struct Extra {
    region_incarnation: Incarnation,
    global_incarnation: Incarnation,
    /// For the first machine of a region.
    #[serde(default)]
    founds: Option<Founds>,
}

/// Answers the `join` protocol on a node that holds the region CA's key.
pub(crate) struct Joins {
    pub node: NodeId,
    pub home: Home,
    pub directory: NodeDirectory,
    pub region: Store<RegionState>,
    pub global: Store<GlobalState>,
    /// The groups, for who votes in them: the region's, then the global one.
    pub groups: (Group, Group),
    pub material: Material,
    pub lifetimes: Lifetimes,
    pub clock: insula_env::Clock,
}

#[async_trait]
impl JoinHandler for Joins {
    async fn join(&self, _from: SocketAddr, request: JoinRequest) -> Result<JoinResponse, Status> {
        if request.region.as_ref().is_some_and(|region| *region != self.home.region) {
            return self.invited(&request).await;
        }
        let internal = |error: insula_identity::Error| Status::internal(chain(&error));
        let Some(authority) = self.directory.load_region_authority().map_err(internal)? else {
            return Err(Status::retryable(Code::FailedPrecondition, "this node takes in nobody: it does not vote"));
        };
        let secret =
            request.secret().ok_or_else(|| Status::new(Code::InvalidArgument, "the secret has a wrong length"))?;
        let node = Node {
            id: request.node,
            name: request.name,
            region: self.home.region.clone(),
            datacenter: request.datacenter,
            address: request.advertise,
            capacity: request.capacity,
            version: request.version,
            health: NodeHealth::Up,
            is_cordoned: false,
            is_draining: false,
            joined_ms: 0,
        };
        let command = RegionCommand::Join {
            token: request.token.to_string(),
            secret_hash: secret.hash(),
            node: Box::new(node.clone()),
        };
        // Before it signs: whoever asks again for a member's id must have the member's key (rule R9).
        let key_sha256 = insula_identity::request_key_hash(&request.certificate_request)
            .map_err(|error| Status::new(Code::InvalidArgument, chain(&error)))?;
        let bind = RegionCommand::BindKey { node: node.id, key_sha256 };
        self.refuse_founder(&command)?;
        self.region.read(|region| region.takes_in(&node.version)).map_err(|why| refused(why.into()))?;
        // While there are programs that do not know of it, there would be a member without a key.
        self.region.admit(&bind, COMMIT_LIMIT).await.map_err(refused)?;
        self.region.propose(&command, COMMIT_LIMIT).await.map_err(refused)?;
        self.region.propose(&bind, COMMIT_LIMIT).await.map_err(refused)?;
        let now = self.clock.wall();
        let chain_of = authority
            .issue_node(&request.certificate_request, node.id, &[node.address.ip()], &self.lifetimes, now)
            .map_err(|error| Status::new(Code::InvalidArgument, chain(&error)))?;
        // Under the CA certificates that this node shows itself: two of them while one root replaces another.
        let chain_of: Vec<_> = chain_of.into_iter().take(1).chain(self.material.chain().into_iter().skip(1)).collect();
        let peers: BTreeMap<_, _> = self.region.read(|region| {
            let others = region.nodes.values().filter(|other| other.id != node.id);
            others.map(|other| (other.id, other.address)).collect()
        });
        let extra = Extra {
            region_incarnation: self.home.region_incarnation,
            global_incarnation: self.home.global_incarnation,
            founds: None,
        };
        let der = |certificates: &[CertificateDer<'_>]| {
            certificates.iter().map(|certificate| ByteBuf::from(certificate.to_vec())).collect()
        };
        Ok(JoinResponse {
            chain: der(&chain_of),
            roots: der(&self.material.roots()),
            region: self.home.region.clone(),
            cluster: self.home.cluster.clone(),
            peers: peers.into_iter().collect(),
            extra: codec::encode(&extra),
        })
    }
}

fn refused(error: ProposeError) -> Status {
    match error {
        ProposeError::Rejected(rejection) => {
            let code = match rejection.code {
                RejectionCode::Forbidden => Code::PermissionDenied,
                RejectionCode::Conflict | RejectionCode::Reused => Code::Conflict,
                RejectionCode::NotFound => Code::NotFound,
                RejectionCode::Invalid => Code::InvalidArgument,
            };
            Status::new(code, rejection.message)
        }
        other => Status::retryable(Code::FailedPrecondition, other.to_string()),
    }
}
