//! Joining: a machine without a certificate proves itself by a token, and gets a certificate and what it needs to start.
//! One request and one answer over the `join` protocol; the machine knows the cluster by the hash of its root.

use std::{io, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use insula_env::{Clock, clock::timeout, net};
use insula_identity::{
    CertificateDer, JoinToken, Material, NodeKey, Secret, join_client_config, join_server_config, root_hash,
    server_name,
};
use insula_types::{Capacity, ClusterId, DatacenterName, NodeId, NodeName, RegionName, TokenId, codec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{Protocol, status::Status};

/// Longest request or answer in bytes.
const MESSAGE_LEN_MAX: usize = 256 * 1024;
/// Limit of one attempt at one address; the answer waits for a commit.
const ATTEMPT_MAX: Duration = Duration::from_secs(15);

/// What a machine asks for.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Which token.
    pub token: TokenId,
    /// The token's secret.
    secret: ByteBuf,
    /// The id that the machine gave itself, bound to the key of the request.
    pub node: NodeId,
    /// Certificate request in DER.
    #[serde(with = "serde_bytes")]
    pub certificate_request: Vec<u8>,
    /// Name chosen by its operator.
    pub name: NodeName,
    /// Its failure domain.
    pub datacenter: DatacenterName,
    /// Where other nodes shall reach it.
    pub advertise: SocketAddr,
    /// What it can hold.
    pub capacity: Capacity,
    /// Version of its program.
    pub version: String,
    /// The region of the token; none: of a program that founds no regions.
    #[serde(default)]
    pub region: Option<RegionName>,
    /// What its clock says, milliseconds since 1970.
    #[serde(default)]
    pub clock_ms: Option<u64>,
}

impl JoinRequest {
    /// A request with the token's id and secret, for the node with `key`.
    ///
    /// # Errors
    /// [`insula_identity::Error`] when the certificate request cannot be signed.
    pub fn new(
        token: &JoinToken,
        key: &NodeKey,
        name: NodeName,
        datacenter: DatacenterName,
        advertise: SocketAddr,
        capacity: Capacity,
    ) -> Result<Self, insula_identity::Error> {
        Ok(Self {
            token: token.id,
            secret: ByteBuf::from(token.secret.as_bytes()),
            node: key.id(),
            certificate_request: key.request()?,
            name,
            datacenter,
            advertise,
            capacity,
            version: crate::PROGRAM_VERSION.to_owned(),
            region: Some(token.region.clone()),
            clock_ms: None,
        })
    }

    /// The token's secret. `None` when it has not the right length.
    pub fn secret(&self) -> Option<Secret> {
        Secret::from_bytes(&self.secret)
    }
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinRequest(token {}, node {}, …)", self.token, self.node)
    }
}

/// What it gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinResponse {
    /// Node certificate, then region CA, in DER. Empty for a machine that founds its region, and signs for itself.
    pub chain: Vec<ByteBuf>,
    /// Trusted roots in DER.
    pub roots: Vec<ByteBuf>,
    /// Its region.
    pub region: RegionName,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Where the region's nodes are.
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// What the state adds, in an encoding of its own.
    #[serde(default, with = "serde_bytes")]
    pub extra: Vec<u8>,
}

impl JoinResponse {
    /// The node's chain.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
    }

    /// The trusted roots.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.roots.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
    }
}

/// Decides on requests to join. The caller is known by nothing but the token in the request.
#[async_trait]
pub trait JoinHandler: Send + Sync + 'static {
    /// Checks the token, signs, and makes the node a member.
    async fn join(&self, from: SocketAddr, request: JoinRequest) -> Result<JoinResponse, Status>;
}

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A node answered, and refused for good.
    #[error("the region refused: {0}")]
    Refused(Status),
    /// No address of the token led to an answer. The last reason of each.
    #[error("no node of the region answered: {}", .0.iter().map(|(address, why)| format!("{address}: {why}")).collect::<Vec<_>>().join("; "))]
    Unreachable(Vec<(SocketAddr, String)>),
    /// The answer is for another region or cluster than the token, or lacks the root that the token names.
    #[error("the answer from {0} does not fit the token: make a new token and try again")]
    Mismatch(SocketAddr),
    /// TLS could not be set up on this side.
    #[error(transparent)]
    Setup(#[from] insula_identity::Error),
}

/// Joins by the first of the token's addresses that answers.
///
/// # Errors
/// [`JoinError`], with the reason of each address.
pub async fn join_client(token: &JoinToken, request: &JoinRequest, clock: &Clock) -> Result<JoinResponse, JoinError> {
    let config = join_client_config(token.root, token.cluster.clone(), &[Protocol::Join.alpn()], clock.clone())?;
    let connector = TlsConnector::from(config);
    let mut failed = Vec::new();
    for address in &token.addresses {
        let attempt = Box::pin(ask(*address, &connector, request));
        match timeout(ATTEMPT_MAX, attempt).await {
            Ok(Ok(Ok(response))) if fits(token, &response) => return Ok(response),
            Ok(Ok(Ok(_))) => return Err(JoinError::Mismatch(*address)),
            Ok(Ok(Err(status))) if !status.retryable => return Err(JoinError::Refused(status)),
            Ok(Ok(Err(status))) => failed.push((*address, status.message)),
            Ok(Err(error)) => failed.push((*address, error.to_string())),
            Err(_) => failed.push((*address, format!("no answer within {ATTEMPT_MAX:?}"))),
        }
    }
    Err(JoinError::Unreachable(failed))
}

fn fits(token: &JoinToken, response: &JoinResponse) -> bool {
    response.cluster == token.cluster
        && response.region == token.region
        && response.roots().iter().any(|root| root_hash(root) == token.root)
}

type Answer = Result<JoinResponse, Status>;

async fn ask(address: SocketAddr, connector: &TlsConnector, request: &JoinRequest) -> io::Result<Answer> {
    let stream = net::connect(address, ATTEMPT_MAX).await?;
    let mut stream = connector.connect(server_name(), stream).await?;
    write_message(&mut stream, request).await?;
    read_message(&mut stream).await
}

/// Takes one request to join that came in with the `join` ALPN name.
pub(crate) async fn serve_join(
    stream: TcpStream,
    from: SocketAddr,
    material: &Material,
    handler: &dyn JoinHandler,
) -> io::Result<()> {
    let config = join_server_config(material, &[Protocol::Join.alpn()]).map_err(io::Error::other)?;
    let mut stream = TlsAcceptor::from(config).accept(stream).await?;
    let request = read_message(&mut stream).await?;
    let answer: Answer = handler.join(from, request).await;
    write_message(&mut stream, &answer).await?;
    stream.shutdown().await
}

async fn write_message<S: AsyncWrite + Unpin, T: Serialize>(stream: &mut S, message: &T) -> io::Result<()> {
    let body = codec::encode(message);
    let len = u32::try_from(body.len()).map_err(io::Error::other)?;
    stream.write_all(&len.to_be_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await
}

async fn read_message<S: AsyncRead + Unpin, T: DeserializeOwned>(stream: &mut S) -> io::Result<T> {
    let len = stream.read_u32().await? as usize;
    if len > MESSAGE_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the message has {len} bytes")));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    codec::decode(&body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
