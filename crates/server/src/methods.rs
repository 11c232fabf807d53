//! What nodes ask of each other over the `rpc` protocol. Ids and shapes are for ever; fields are only added.

use std::collections::BTreeMap;

use insula_catalog::Digest;
use insula_identity::NextRoot;
use insula_rpc::Method;
use insula_state::NotYet;
use insula_types::{
    Addresses, AppName, ByteSize, CpuMillis, ExecInput, ExecOutput, ExecSpec, Granted, HttpRequestId, Incarnation,
    InstanceId, NodeId, RegionName, Remembered, Renewal, RequestId, Revision, SecretName, SecretVersions, ServiceRef,
    SnapshotName, VolumeRef,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Which replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateName {
    /// The region's.
    Region,
    /// The world's.
    Global,
}

impl StateName {
    /// Name of its directory, and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Global => "global",
        }
    }
}

/// What a node answers that was asked as a leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Led<T> {
    /// The answer.
    Done(T),
    /// It does not lead; this one does, as far as it knows. Nothing was done.
    Elsewhere(Option<NodeId>),
    /// It may have been done, or may yet be.
    Unknown(String),
    /// It was not done.
    Unavailable(String),
    /// It was not done: somebody does not know the command.
    NotYet(NotYet),
}

/// Commits a command. The receiver checks what the caller may ask for.
#[derive(Debug)]
pub struct Propose;

/// Request of [`Propose`].
#[derive(Debug, Serialize, Deserialize)]
pub struct ProposeRequest {
    /// Of which state.
    pub state: StateName,
    /// Names the command, so that it takes effect once.
    pub request: RequestId,
    /// The encoded command.
    pub command: ByteBuf,
    /// How long the leader may try.
    pub deadline_ms: u64,
}

impl Method for Propose {
    const ID: u16 = 1;
    const NAME: &'static str = "propose";
    type Request = ProposeRequest;
    type Response = Led<ByteBuf>;
}

/// Asks the leader which revision a linearizable read must reflect.
#[derive(Debug)]
pub struct Barrier;

/// Request of [`Barrier`].
#[derive(Debug, Serialize, Deserialize)]
pub struct BarrierRequest {
    /// Of which state.
    pub state: StateName,
    /// How long the leader may try.
    pub deadline_ms: u64,
}

impl Method for Barrier {
    const ID: u16 = 2;
    const NAME: &'static str = "barrier";
    type Request = BarrierRequest;
    type Response = Led<Revision>;
}

/// Asks a voter to bring a request to the leader that it knows: for a caller whose own way there is broken. The leader does as if
/// the caller itself had asked, since a voter is trusted with all that nodes may say.
#[derive(Debug)]
pub struct Relay;

/// Request of [`Relay`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RelayRequest {
    /// To the leader of which state.
    pub state: StateName,
    /// Who asks, where a voter brings it to the leader; none where the caller asks for itself.
    pub asking: Option<NodeId>,
    /// The region of that one, where it is another than the leader's.
    #[serde(default)]
    pub region: Option<RegionName>,
    /// [`Propose`], [`Barrier`] or [`Recall`].
    pub method: u16,
    /// Its encoded request.
    pub body: ByteBuf,
    /// How long the voter may try.
    pub deadline_ms: u64,
}

impl Method for Relay {
    const ID: u16 = 21;
    const NAME: &'static str = "relay";
    type Request = RelayRequest;
    /// The encoded response of the method.
    type Response = Led<ByteBuf>;
}

/// Renews the caller's lease with the region's leader; the node is the caller.
#[derive(Debug)]
pub struct Renew;

impl Method for Renew {
    const ID: u16 = 3;
    const NAME: &'static str = "renew";
    type Request = Renewal;
    type Response = Led<Granted>;
}

/// Watches a state; answers with a stream of encoded `insula_state::Update`s.
#[derive(Debug)]
pub struct WatchState;

/// Request of [`WatchState`].
#[derive(Debug, Serialize, Deserialize)]
pub struct WatchRequest {
    /// Which state.
    pub state: StateName,
    /// After which revision; none: from a whole copy.
    pub from: Option<Revision>,
}

impl Method for WatchState {
    const ID: u16 = 4;
    const NAME: &'static str = "watch-state";
    type Request = WatchRequest;
    type Response = ByteBuf;
}

/// Gives the region CA's key to a node that is about to vote. Only a voter may call it.
#[derive(Debug)]
pub struct TakeAuthority;

/// Request of [`TakeAuthority`].
#[derive(Serialize, Deserialize)]
pub struct TakeAuthorityRequest {
    /// The key and certificate of the region CA, as `identity` exports them.
    pub region_authority: ByteBuf,
    /// The cluster's root key, sealed; empty in a region without voters of the global group.
    pub sealed_root: ByteBuf,
    /// The key of the root that shall follow it, sealed.
    #[serde(default)]
    pub next_root: Option<NextRoot>,
}

impl std::fmt::Debug for TakeAuthorityRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TakeAuthorityRequest(…)")
    }
}

impl Method for TakeAuthority {
    const ID: u16 = 5;
    const NAME: &'static str = "take-authority";
    type Request = TakeAuthorityRequest;
    type Response = ();
}

/// Reads the end of an instance's log on the node that runs or ran it.
#[derive(Debug)]
pub struct ReadLogs;

/// Request of [`ReadLogs`].
#[derive(Debug, Serialize, Deserialize)]
pub struct LogsRequest {
    /// The instance.
    pub instance: InstanceId,
    /// At most so many bytes.
    pub bytes_max: u64,
}

impl Method for ReadLogs {
    const ID: u16 = 6;
    const NAME: &'static str = "read-logs";
    type Request = LogsRequest;
    type Response = ByteBuf;
}

/// Renews the caller's certificate: signs a request for the identity that the caller has proven.
#[derive(Debug)]
pub struct RenewCertificate;

/// Request of [`RenewCertificate`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RenewCertificateRequest {
    /// Certificate request in DER.
    pub request: ByteBuf,
}

/// Response of [`RenewCertificate`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RenewCertificateResponse {
    /// Node certificate, then region CA, in DER.
    pub chain: Vec<ByteBuf>,
}

impl Method for RenewCertificate {
    const ID: u16 = 7;
    const NAME: &'static str = "renew-certificate";
    type Request = RenewCertificateRequest;
    type Response = RenewCertificateResponse;
}

/// Asks in which lives a node's groups are. A restore begins a new life, which the nodes that did not see it adopt.
#[derive(Debug)]
pub struct AskLives;

/// Request of [`AskLives`].
#[derive(Debug, Serialize, Deserialize)]
pub struct AskLivesRequest {}

/// The life of a group on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Which.
    pub incarnation: Incarnation,
    /// The node knows a leader of it.
    pub has_leader: bool,
}

/// Response of [`AskLives`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lives {
    /// Of the region group.
    pub region: Life,
    /// Of the global group.
    pub global: Life,
}

impl Lives {
    /// Of one group.
    pub const fn of(&self, state: StateName) -> Life {
        match state {
            StateName::Region => self.region,
            StateName::Global => self.global,
        }
    }
}

impl Method for AskLives {
    const ID: u16 = 8;
    const NAME: &'static str = "ask-lives";
    type Request = AskLivesRequest;
    type Response = Lives;
}

/// Tells a node where the members of the region are reached, as far as the caller knows, and asks the same of it. Neither
/// side takes more than the addresses of members it knows, each under the greatest number.
#[derive(Debug)]
pub struct TellAddresses;

/// Request of [`TellAddresses`].
#[derive(Debug, Serialize, Deserialize)]
pub struct TellAddressesRequest {
    /// What the caller knows, itself included.
    pub known: Vec<(NodeId, Addresses)>,
}

/// Response of [`TellAddresses`].
#[derive(Debug, Serialize, Deserialize)]
pub struct TellAddressesResponse {
    /// What the asked one knows, itself included.
    pub known: Vec<(NodeId, Addresses)>,
}

impl Method for TellAddresses {
    const ID: u16 = 9;
    const NAME: &'static str = "tell-addresses";
    type Request = TellAddressesRequest;
    type Response = TellAddressesResponse;
}

/// Reads a part of an image (manifest, configuration, layer) as the node has fetched it; answers with a stream of its bytes.
/// Asked over `bulk`, so that it delays nobody.
#[derive(Debug)]
pub struct FetchBlob;

/// Request of [`FetchBlob`].
#[derive(Debug, Serialize, Deserialize)]
pub struct FetchBlobRequest {
    /// Which part, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// From which byte on.
    pub offset: u64,
}

impl Method for FetchBlob {
    const ID: u16 = 10;
    const NAME: &'static str = "fetch-blob";
    type Request = FetchBlobRequest;
    type Response = ByteBuf;
}

/// Asks which images a node has, whole; answers with those of the request that are there.
#[derive(Debug)]
pub struct AskImages;

/// Most images that one request may name.
pub const ASK_IMAGES_MAX: usize = 256;

/// Request of [`AskImages`].
#[derive(Debug, Serialize, Deserialize)]
pub struct AskImagesRequest {
    /// Their references, with digests; at most [`ASK_IMAGES_MAX`].
    pub images: Vec<String>,
}

impl Method for AskImages {
    const ID: u16 = 11;
    const NAME: &'static str = "ask-images";
    type Request = AskImagesRequest;
    type Response = Vec<String>;
}

/// Lists the images that a node has.
#[derive(Debug)]
pub struct ListImages;

/// Request of [`ListImages`].
#[derive(Debug, Serialize, Deserialize)]
pub struct ListImagesRequest {}

/// An image on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeImage {
    /// Its reference, with digest.
    pub image: String,
    /// Bytes of its compressed layers; none: not all of it is there.
    pub size_bytes: Option<u64>,
    /// When it was last needed there, milliseconds since 1970.
    pub used_ms: u64,
    /// Instances there that are made from it.
    pub instances: u32,
}

impl Method for ListImages {
    const ID: u16 = 12;
    const NAME: &'static str = "list-images";
    type Request = ListImagesRequest;
    type Response = Vec<NodeImage>;
}

/// Removes an image from a node; answers with the bytes that were freed. What instances are made from stays.
#[derive(Debug)]
pub struct RemoveImage;

/// Request of [`RemoveImage`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RemoveImageRequest {
    /// Its reference, with digest.
    pub image: String,
}

impl Method for RemoveImage {
    const ID: u16 = 13;
    const NAME: &'static str = "remove-image";
    type Request = RemoveImageRequest;
    type Response = u64;
}

/// Runs a command in an instance of the node; answers with a stream of what it says, [`ExecOutput::Started`] first. The
/// command ends with the stream. Asked over `bulk`.
#[derive(Debug)]
pub struct StartExec;

/// Request of [`StartExec`].
#[derive(Debug, Serialize, Deserialize)]
pub struct StartExecRequest {
    /// Names the session, among those of the caller.
    pub session: u64,
    /// The instance.
    pub instance: InstanceId,
    /// The command.
    pub spec: ExecSpec,
}

impl Method for StartExec {
    const ID: u16 = 14;
    const NAME: &'static str = "start-exec";
    type Request = StartExecRequest;
    type Response = ExecOutput;
}

/// Makes an instance of a service on the node for one command, and runs that; answers with a stream of what it says,
/// [`ExecOutput::Started`] first, which may take as long as the image to come. Command and instance end with the stream. Asked
/// over `bulk`.
#[derive(Debug)]
pub struct StartOneOff;

/// Request of [`StartOneOff`].
#[derive(Debug, Serialize, Deserialize)]
pub struct StartOneOffRequest {
    /// Names the session, among those of the caller; the same names as of [`StartExec`].
    pub session: u64,
    /// What an instance is made of, as the region runs it now.
    pub service: ServiceRef,
    /// The command.
    pub spec: ExecSpec,
}

impl Method for StartOneOff {
    const ID: u16 = 20;
    const NAME: &'static str = "start-one-off";
    type Request = StartOneOffRequest;
    type Response = ExecOutput;
}

/// Brings input to a command that the caller has begun; answered when there is room for more.
#[derive(Debug)]
pub struct SendInput;

/// Request of [`SendInput`].
#[derive(Debug, Serialize, Deserialize)]
pub struct SendInputRequest {
    /// The session, as the caller has named it.
    pub session: u64,
    /// Counts the inputs of the session from 0: what comes again is taken once.
    pub number: u64,
    /// What comes.
    pub input: ExecInput,
}

impl Method for SendInput {
    const ID: u16 = 15;
    const NAME: &'static str = "send-input";
    type Request = SendInputRequest;
    type Response = ();
}

/// Lists the snapshots that a node has on its disk.
#[derive(Debug)]
pub struct ListSnapshots;

/// Request of [`ListSnapshots`].
#[derive(Debug, Serialize, Deserialize)]
pub struct ListSnapshotsRequest {}

/// A snapshot on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSnapshot {
    /// Of which volume.
    pub volume: VolumeRef,
    /// Its name among that one's.
    pub snapshot: SnapshotName,
    /// Bytes that the volume had.
    pub size: ByteSize,
    /// Bytes that it takes of the disk.
    pub used: ByteSize,
    /// When it was made, milliseconds since 1970 by the node's clock.
    pub created_ms: u64,
}

impl Method for ListSnapshots {
    const ID: u16 = 16;
    const NAME: &'static str = "list-snapshots";
    type Request = ListSnapshotsRequest;
    type Response = Vec<NodeSnapshot>;
}

/// Names a snapshot of a volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// Of which volume.
    pub volume: VolumeRef,
    /// Its name among that one's.
    pub snapshot: SnapshotName,
}

/// Makes a snapshot of a volume of the node. Goes on when nobody waits for the answer any more.
#[derive(Debug)]
pub struct MakeSnapshot;

impl Method for MakeSnapshot {
    const ID: u16 = 17;
    const NAME: &'static str = "make-snapshot";
    type Request = SnapshotRequest;
    type Response = NodeSnapshot;
}

/// Puts what is in a snapshot into its volume, which no instance may have. Goes on when nobody waits for the answer any more.
#[derive(Debug)]
pub struct RestoreSnapshot;

impl Method for RestoreSnapshot {
    const ID: u16 = 18;
    const NAME: &'static str = "restore-snapshot";
    type Request = SnapshotRequest;
    type Response = ();
}

/// Deletes a snapshot from the node's disk; answers with what it was.
#[derive(Debug)]
pub struct RemoveSnapshot;

impl Method for RemoveSnapshot {
    const ID: u16 = 19;
    const NAME: &'static str = "remove-snapshot";
    type Request = SnapshotRequest;
    type Response = NodeSnapshot;
}

/// Asks the leader what became of a request.
#[derive(Debug)]
pub struct Recall;

/// Request of [`Recall`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RecallRequest {
    /// Of which state.
    pub state: StateName,
    /// Which.
    pub request: RequestId,
    /// How long the leader may try.
    pub deadline_ms: u64,
}

impl Method for Recall {
    const ID: u16 = 22;
    const NAME: &'static str = "recall";
    type Request = RecallRequest;
    /// An encoded `insula_state::Outcome`; none: nothing that is known.
    type Response = Led<Option<ByteBuf>>;
}

/// Measures what a node and its instances use now.
#[derive(Debug)]
pub struct MeasureUse;

/// Request of [`MeasureUse`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MeasureUseRequest {
    /// Only instances and services of this app.
    pub app: Option<AppName>,
    /// At most so many instances, those that use the most CPU.
    pub most: u32,
}

/// Response of [`MeasureUse`]. Rates are over the last second or a few.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeMeasured {
    /// CPU time that the machine uses.
    pub cpu: CpuMillis,
    /// Memory that is in use.
    pub memory: ByteSize,
    /// Bytes in use of the disk that has the node's data.
    pub disk_used: ByteSize,
    /// Bytes that it has.
    pub disk_size: ByteSize,
    /// Instances that run, of which those below are the busiest.
    pub count: u32,
    /// Those that use the most CPU first.
    pub instances: Vec<InstanceUse>,
    /// Services with instances here, or whose requests this node's edge has answered.
    pub services: Vec<ServiceUse>,
    /// Whether the edge has said what it has counted.
    pub has_edge: bool,
}

/// What an instance uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceUse {
    /// The instance.
    pub instance: InstanceId,
    /// Its service.
    pub service: ServiceRef,
    /// Made for one command.
    #[serde(default)]
    pub is_one_off: bool,
    /// CPU time, and how much it may use.
    pub cpu: CpuMillis,
    /// See above.
    pub cpu_limit: CpuMillis,
    /// Memory, and how much it may use.
    pub memory: ByteSize,
    /// See above.
    pub memory_limit: ByteSize,
    /// Processes and threads, and how many it may have.
    pub pids: u32,
    /// See above.
    pub pids_limit: u32,
    /// Bytes in the layer above its image, and how many fit there.
    #[serde(default)]
    pub disk: Option<(ByteSize, ByteSize)>,
    /// What its interface carries.
    #[serde(default)]
    pub network: Option<Carries>,
}

/// What an interface carries, in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carries {
    /// Towards the instance.
    pub received: u64,
    /// From it.
    pub sent: u64,
}

/// What the instances of a service on a node use together, and what the node's edge answers for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceUse {
    /// The service.
    pub service: ServiceRef,
    /// Instances here.
    pub instances: u32,
    /// CPU time of all of them.
    pub cpu: CpuMillis,
    /// Their memory.
    pub memory: ByteSize,
    /// Requests a second.
    pub requests: f64,
    /// Those of them with a status from 500 on.
    pub failed: f64,
}

impl Method for MeasureUse {
    const ID: u16 = 23;
    const NAME: &'static str = "measure-use";
    type Request = MeasureUseRequest;
    type Response = NodeMeasured;
}

/// Opens secrets for the caller, which has an instance that has them. Only nodes that hold the region CA's key can.
#[derive(Debug)]
pub struct OpenSecrets;

/// Request of [`OpenSecrets`].
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenSecretsRequest {
    /// Of which app.
    pub app: AppName,
    /// Which versions of which secrets; at most [`insula_types::secret::SECRETS_MAX`].
    pub wanted: SecretVersions,
    /// The caller's own key, to which they are to be sealed: no buffer of a connection has them in the clear.
    pub seal_to: ByteBuf,
}

/// Response of [`OpenSecrets`].
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenSecretsResponse {
    /// Their values, sealed to the caller's key.
    pub sealed: BTreeMap<SecretName, ByteBuf>,
}

impl Method for OpenSecrets {
    const ID: u16 = 24;
    const NAME: &'static str = "open-secrets";
    type Request = OpenSecretsRequest;
    type Response = OpenSecretsResponse;
}

/// Asks what a node's edge remembers of the requests with an id.
#[derive(Debug)]
pub struct AskRequests;

/// Request of [`AskRequests`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskRequestsRequest {
    /// The id.
    pub id: HttpRequestId,
}

impl Method for AskRequests {
    const ID: u16 = 25;
    const NAME: &'static str = "ask-requests";
    type Request = AskRequestsRequest;
    type Response = Remembered;
}

/// Asks how far other regions are from the asked one, and members of that from the asked node.
#[derive(Debug)]
pub struct AskLatency;

/// Request of [`AskLatency`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskLatencyRequest {
    /// Also the members of the region; nodes of other regions are not told of those.
    pub with_nodes: bool,
}

/// Response of [`AskLatency`]: what the asked node, or one of its region's gateways, has measured in the last ten minutes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyTold {
    /// Other regions, by the nearest of their gateways that answers.
    pub regions: Vec<(RegionName, Measured)>,
    /// Members of the region; of a large one some.
    pub nodes: Vec<(NodeId, Measured)>,
}

/// What probes of a node say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Measured {
    /// Round trip that half of the answers did not exceed, in microseconds; none: nothing was answered.
    pub p50_us: Option<u64>,
    /// The same of 99 in 100.
    pub p99_us: Option<u64>,
    /// Probes; at most 120.
    pub probes: u32,
    /// Those of them that were not answered within two seconds, or for which no connection was made.
    pub lost: u32,
}

impl Method for AskLatency {
    const ID: u16 = 26;
    const NAME: &'static str = "ask-latency";
    type Request = AskLatencyRequest;
    type Response = LatencyTold;
}

/// Asks a gateway of another region what its region has of services.
#[derive(Debug)]
pub struct AskDigest;

/// Request of [`AskDigest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskDigestRequest {
    /// The mark of what the caller knows.
    pub known: Option<u64>,
}

/// Response of [`AskDigest`]: what a region has of services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldDigest {
    /// The region.
    pub region: RegionName,
    /// The life of its state.
    pub incarnation: Incarnation,
    /// The revision of its state at which this was so.
    pub revision: Revision,
    /// Names what is in it: equal where that is.
    pub mark: u64,
    /// The services with routes that are or were ready; none: those that the caller knows. At most
    /// [`insula_catalog::limits::DIGEST_SERVICES_MAX`].
    pub services: Option<Digest>,
}

impl Method for AskDigest {
    const ID: u16 = 27;
    const NAME: &'static str = "ask-digest";
    type Request = AskDigestRequest;
    type Response = ToldDigest;
}

/// Asks a voter of the own region what it has heard of the others.
#[derive(Debug)]
pub struct ReadDigests;

/// Request of [`ReadDigests`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadDigestsRequest {
    /// The marks of what the caller knows.
    pub known: BTreeMap<RegionName, u64>,
}

/// What was heard of a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardDigest {
    /// How long ago, in milliseconds.
    pub age_ms: u64,
    /// The round trip to there, in microseconds, as far as it is known.
    #[serde(default)]
    pub round_trip_us: Option<u64>,
    /// What the region said.
    pub digest: ToldDigest,
}

/// Response of [`ReadDigests`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadDigestsResponse {
    /// What it has heard, by region.
    pub regions: BTreeMap<RegionName, HeardDigest>,
}

impl Method for ReadDigests {
    const ID: u16 = 28;
    const NAME: &'static str = "read-digests";
    type Request = ReadDigestsRequest;
    type Response = ReadDigestsResponse;
}
