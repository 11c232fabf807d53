//! Who answers: the seam between HTTP and the node.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use insula_types::{
    AppDefinition, AppName, ByteSize, DatacenterName, ExecSpec, HttpRequestId, InstanceId, NodeId, NodeName,
    RegionName, ReleaseNumber, RequestId, Revision, Scale, SecretName, SecretValue, ServiceName, ServiceRef,
    SnapshotName, TokenId, VolumeRef,
};

use crate::{
    ExecSession, Problem,
    wire::{
        ApiTokenBody, ApiTokenCreated, App, AppStatus, AppSummary, CaStatus, Deleted, DeployAnswer, Deployment, Doctor,
        Event, EventCursor, FindBody, Found, Image, ImageImported, ImageRemoved, Instance, JoinTokenBody,
        JoinTokenCreated, Latency, List, LossPlan, Node, NodeDuty, NodeRemoved, NodeStatus, PlacementSurvey,
        RecoveryBody, Region, Release, ReleaseDefinition, Reloaded, RequestReport, RootAdded, RootBody, RootChanged,
        Route, Running, Scaled, Secret, SecretRemoved, SecretSet, Snapshot, Snapshots, Steered, Steering, Token,
        TokenRemoved, Usage, Versioned, Volume, Waiting,
    },
};

/// What a call gives.
pub type Answer<T> = Result<T, Problem>;

/// Bytes of a log as they come. An error cuts the answer off.
pub type LogStream = BoxStream<'static, io::Result<Bytes>>;

/// Bytes that a caller sends, as they come.
pub type BodyStream = BoxStream<'static, io::Result<Bytes>>;

/// Events in their order. A problem ends the stream and is told to the caller.
pub type EventStream = BoxStream<'static, Answer<Event>>;

/// What a caller may do; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read.
    Viewer,
    /// Read, and change apps.
    Deployer,
    /// Everything that the API has.
    Admin,
    /// The node's own root, through the local socket.
    Root,
}

/// How a read shall be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// Wait until the state is beyond this revision, for a bounded time; then answer with what there is.
    pub wait: Option<Revision>,
    /// Ask the leader, so that all changes acknowledged before the call are seen.
    pub is_linearizable: bool,
}

/// One of the two replicated states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKey {
    /// The region's.
    Region,
    /// The world's.
    Global,
}

impl StateKey {
    /// Its name in paths and files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Global => "global",
        }
    }
}

/// A definition that shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployRequest {
    /// What shall run.
    pub definition: AppDefinition,
    /// Only say what would change.
    pub is_plan: bool,
    /// The release that the caller saw; 0: no such app. Another one now is [`crate::Code::ReleaseChanged`].
    pub expected: Option<ReleaseNumber>,
    /// Names the request, when the caller did.
    pub request: Option<RequestId>,
}

/// Instances that shall be replaced by new ones of the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartRequest {
    /// The app.
    pub app: AppName,
    /// The service; none: all of them.
    pub service: Option<ServiceName>,
    /// Only say what would change.
    pub is_plan: bool,
    /// The release that the caller saw.
    pub expected: Option<ReleaseNumber>,
    /// Names the request, when the caller did.
    pub request: Option<RequestId>,
}

/// Services that shall be stopped, or run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningRequest {
    /// The app.
    pub app: AppName,
    /// The service; none: all of them.
    pub service: Option<ServiceName>,
    /// Whether they shall run.
    pub is_running: bool,
    /// Names the request, when the caller did.
    pub request: Option<RequestId>,
}

/// An earlier release that shall come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackRequest {
    /// The app.
    pub app: AppName,
    /// The release; none: the last good one before the present.
    pub to: Option<ReleaseNumber>,
    /// Only say what would change.
    pub is_plan: bool,
    /// The release that the caller saw.
    pub expected: Option<ReleaseNumber>,
    /// Names the request, when the caller did.
    pub request: Option<RequestId>,
}

/// A deployment that shall go another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SteerRequest {
    /// The app.
    pub app: AppName,
    /// What shall become of it.
    pub steering: Steering,
    /// The release that the caller saw.
    pub expected: Option<ReleaseNumber>,
    /// Names the request, when the caller did.
    pub request: Option<RequestId>,
}

/// An app that shall go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    /// The app, by its exact name.
    pub app: AppName,
    /// The release that the caller saw.
    pub expected: Option<ReleaseNumber>,
    /// Names the request, when the caller did.
    pub request: Option<RequestId>,
}

/// A node that shall go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveNodeRequest {
    /// The node.
    pub node: NodeKey,
    /// The revision that last changed it, as the caller saw it; another one now is [`crate::Code::NodeChanged`].
    pub expected: Revision,
    /// Also while it is up, or instances are on it.
    pub is_forced: bool,
    /// Names the request, when the caller did.
    pub request: Option<RequestId>,
}

/// A service that shall have another number of instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleRequest {
    /// The service.
    pub service: ServiceRef,
    /// Instances per region; at most [`insula_types::definition::SCALE_MAX`].
    pub scale: Scale,
    /// The one region that it is for; none: all of them.
    pub region: Option<RegionName>,
    /// Names the request, when the caller did.
    pub request: Option<RequestId>,
}

/// A secret that shall have a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSecretRequest {
    /// The app, which need not be there yet.
    pub app: AppName,
    /// The secret.
    pub name: SecretName,
    /// Its value.
    pub value: SecretValue,
    /// Who sets it.
    pub caller: Caller,
    /// Names the request, when the caller did.
    pub request: Option<RequestId>,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The node's own root, through the local socket.
    Root,
    /// Whoever has this token; none: one of another kind.
    Token(Option<TokenId>),
}

/// Which part of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// The last so many lines; none: all that is kept.
    pub tail: Option<u32>,
    /// Only what was written at this time or after, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Go on with what comes, until the instance ends or the caller leaves.
    pub follow: bool,
}

/// Which events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// Those after this place; none: all that are kept.
    pub since: Option<EventCursor>,
    /// Go on with what comes.
    pub follow: bool,
}

/// A node by one of its two exact names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKey {
    /// Its id.
    Id(NodeId),
    /// Its name.
    Name(NodeName),
}

/// What might be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// A node.
    Node(NodeKey),
    /// All nodes of a data centre.
    Datacenter(DatacenterName),
}

/// Answers the API on a node. Names and bounds are checked before; existence is not. Every method answers within the
/// client's patience (seconds, not minutes), streams, [`Handler::import_image`] and [`ReadOptions::wait`] (at most
/// [`crate::router::WAIT_MAX`]) apart.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Whose token it is. The text is what the caller sent, at most [`crate::router::TOKEN_LEN_MAX`] bytes.
    /// [`crate::Code::Unauthorized`] when it is nobody's.
    async fn authenticate(&self, token: &str) -> Answer<Role>;

    /// Replaces the instances of what runs by new ones, as a new release.
    async fn restart(&self, request: RestartRequest) -> Answer<Versioned<DeployAnswer>>;

    /// Stops services, or lets them run again. Scale, releases and volumes stay.
    async fn set_running(&self, request: RunningRequest) -> Answer<Versioned<Running>>;

    /// All apps.
    async fn apps(&self, read: ReadOptions) -> Answer<List<AppSummary>>;
    /// One app.
    async fn app(&self, app: &AppName, read: ReadOptions) -> Answer<Versioned<App>>;
    /// Makes a release of a definition, or says what it would change.
    async fn deploy(&self, request: DeployRequest) -> Answer<Versioned<DeployAnswer>>;
    /// The releases of an app that are kept, the newest first.
    async fn releases(&self, app: &AppName, read: ReadOptions) -> Answer<List<Release>>;
    /// One release, with its definition.
    async fn release(
        &self,
        app: &AppName,
        number: ReleaseNumber,
        read: ReadOptions,
    ) -> Answer<Versioned<ReleaseDefinition>>;
    /// Makes a release of what an earlier one was, or says what that would change.
    async fn rollback(&self, request: RollbackRequest) -> Answer<Versioned<DeployAnswer>>;
    /// How far regions are with the release that an app shall run.
    async fn deployments(&self, app: &AppName, read: ReadOptions) -> Answer<List<Deployment>>;
    /// Lets the deployment in this region go another way.
    async fn steer(&self, request: SteerRequest) -> Answer<Versioned<Steered>>;
    /// Removes an app.
    async fn delete_app(&self, request: DeleteRequest) -> Answer<Versioned<Deleted>>;
    /// How an app is in this region.
    async fn app_status(&self, app: &AppName, read: ReadOptions) -> Answer<Versioned<AppStatus>>;
    /// Sets the scale of a service.
    async fn scale(&self, request: ScaleRequest) -> Answer<Versioned<Scaled>>;

    /// Secrets of an app, without their values.
    async fn secrets(&self, app: &AppName, read: ReadOptions) -> Answer<List<Secret>>;
    /// Gives a secret a value, which the next release gets.
    async fn set_secret(&self, request: SetSecretRequest) -> Answer<Versioned<SecretSet>>;
    /// Removes a secret. [`crate::Code::SecretInUse`] while a release that may have to run needs it.
    async fn remove_secret(
        &self,
        app: AppName,
        name: SecretName,
        request: Option<RequestId>,
    ) -> Answer<Versioned<SecretRemoved>>;

    /// Instances of this region, of one app or of all.
    async fn instances(&self, app: Option<&AppName>, read: ReadOptions) -> Answer<List<Instance>>;
    /// What losses of nodes have left without a place in this region.
    async fn waiting(&self, read: ReadOptions) -> Answer<List<Waiting>>;
    /// What the edges of this region bring where, in the order of hosts and paths.
    async fn routes(&self, read: ReadOptions) -> Answer<List<Route>>;
    /// One instance.
    async fn instance(&self, id: InstanceId, read: ReadOptions) -> Answer<Versioned<Instance>>;
    /// What an instance wrote; asked of its node, wherever the call arrives.
    async fn logs(&self, id: InstanceId, options: LogOptions) -> Answer<LogStream>;
    /// Runs a command in an instance, on its node, wherever the call arrives; answers when it runs.
    async fn exec(&self, id: InstanceId, spec: ExecSpec) -> Answer<ExecSession>;

    /// Makes an instance of a service for one command, on a node of this region that has room, and runs it there. Answers before
    /// the command runs, since its image may have to come first: the session's first word is [`insula_types::ExecOutput::Started`],
    /// or why it does not run.
    async fn run(&self, service: ServiceRef, spec: ExecSpec) -> Answer<ExecSession>;

    /// Images that nodes of this region have, as those say that are reached.
    async fn images(&self, read: ReadOptions) -> Answer<List<Image>>;
    /// Takes an image in from an archive, on this node, under `name` or the name that it has there.
    /// [`crate::Code::InvalidImage`] when it cannot run here. Takes no longer than the archive keeps coming, and then minutes.
    async fn import_image(&self, name: Option<&str>, archive: &mut BodyStream) -> Answer<ImageImported>;
    /// Removes an image, by its exact reference, from all nodes. [`crate::Code::Conflict`] while something may have to run it.
    async fn remove_image(&self, image: &str) -> Answer<Versioned<ImageRemoved>>;

    /// Volumes of this region.
    async fn volumes(&self, read: ReadOptions) -> Answer<List<Volume>>;
    /// Sets a volume aside.
    async fn create_volume(
        &self,
        volume: VolumeRef,
        node: &NodeKey,
        size: ByteSize,
        request: Option<RequestId>,
    ) -> Answer<Versioned<Volume>>;
    /// Makes a volume larger.
    async fn resize_volume(
        &self,
        volume: VolumeRef,
        size: ByteSize,
        request: Option<RequestId>,
    ) -> Answer<Versioned<Volume>>;
    /// Deletes a volume with all that is in it. [`crate::Code::VolumeInUse`] while an instance is placed with it.
    async fn delete_volume(&self, volume: VolumeRef, request: Option<RequestId>) -> Answer<Versioned<Volume>>;
    /// Snapshots of volumes, as the nodes tell of them.
    async fn snapshots(&self, read: ReadOptions) -> Answer<Snapshots>;
    /// Copies a volume on its node's disk, also while an instance uses it. [`crate::Code::Conflict`] when the name is taken,
    /// the disk has no room or it takes too long.
    async fn create_snapshot(&self, volume: VolumeRef, snapshot: SnapshotName) -> Answer<Versioned<Snapshot>>;
    /// Gives a volume back what it had. [`crate::Code::Conflict`] while an instance is placed with it.
    async fn restore_snapshot(&self, volume: VolumeRef, snapshot: SnapshotName) -> Answer<Versioned<Volume>>;
    /// Deletes a snapshot.
    async fn delete_snapshot(&self, volume: VolumeRef, snapshot: SnapshotName) -> Answer<Versioned<Snapshot>>;

    /// What nodes and instances of this region use now, as those say that are reached; at most `most` instances, of one app or of
    /// all. [`crate::Code::NoSuchApp`].
    async fn usage(&self, app: Option<&AppName>, most: u32) -> Answer<Usage>;

    /// Round trips between regions as one node of each tells, and with `with_nodes` between the nodes of this one, as those say that are
    /// reached.
    async fn latency(&self, with_nodes: bool) -> Answer<Latency>;

    /// What the edges of this region remember of the requests with an id, as those say that are reached.
    /// [`crate::Code::NoSuchRequest`] when none remembers one, [`crate::Code::NodeUnreachable`] when none says.
    async fn request(&self, id: &HttpRequestId) -> Answer<RequestReport>;

    /// Nodes of this region.
    async fn nodes(&self, read: ReadOptions) -> Answer<List<Node>>;
    /// One node.
    async fn node(&self, key: &NodeKey, read: ReadOptions) -> Answer<Versioned<Node>>;
    /// Says what a node shall do.
    async fn set_node_duty(&self, key: &NodeKey, duty: NodeDuty, request: Option<RequestId>)
    -> Answer<Versioned<Node>>;
    /// Removes a node for ever.
    async fn remove_node(&self, request: RemoveNodeRequest) -> Answer<Versioned<NodeRemoved>>;
    /// All regions.
    async fn regions(&self, read: ReadOptions) -> Answer<List<Region>>;
    /// What happened in this region.
    async fn events(&self, events: Events) -> Answer<EventStream>;

    /// Makes a token with which machines join.
    async fn create_join_token(
        &self,
        body: JoinTokenBody,
        request: Option<RequestId>,
    ) -> Answer<Versioned<JoinTokenCreated>>;
    /// Makes a token for the API.
    async fn create_api_token(
        &self,
        body: ApiTokenBody,
        request: Option<RequestId>,
    ) -> Answer<Versioned<ApiTokenCreated>>;

    /// A state as this node has it, in the format of `insula-state`'s archives. Needs no other node; says itself whether a
    /// leader confirmed that it is complete.
    async fn backup(&self, state: StateKey) -> Answer<LogStream>;

    /// All tokens: the API's, and those to join this region with.
    async fn tokens(&self, read: ReadOptions) -> Answer<List<Token>>;
    /// Ends a token, by its exact id.
    async fn remove_token(&self, id: TokenId, request: Option<RequestId>) -> Answer<Versioned<TokenRemoved>>;

    /// Which roots there are, and how far the nodes are.
    async fn authorities(&self, read: ReadOptions) -> Answer<Versioned<CaStatus>>;
    /// Lets the active root sign the region's CA anew.
    async fn renew_region(&self, body: RecoveryBody) -> Answer<Versioned<RootChanged>>;
    /// Makes a root that shall replace the active one.
    async fn add_root(&self, body: RecoveryBody) -> Answer<Versioned<RootAdded>>;
    /// Takes a root into use that every node trusts.
    async fn activate_root(&self, body: RootBody) -> Answer<Versioned<RootChanged>>;
    /// Ends the trust in a root that no node shows alone any more.
    async fn retire_root(&self, body: RootBody) -> Answer<Versioned<RootChanged>>;

    /// Takes over from this node's configuration what can change while it runs. Needs no other node.
    async fn reload(&self) -> Answer<Reloaded>;
    /// Looks for another node of the region at an address, when those that are known do not answer. Needs no leader.
    async fn find(&self, body: FindBody) -> Answer<Found>;

    /// How this node is. Needs no other node.
    async fn status(&self) -> Answer<NodeStatus>;
    /// What would become of what runs on nodes of this region, were they lost.
    async fn loss(&self, lost: Lost) -> Answer<Versioned<LossPlan>>;
    /// Where the next instance of a service would go in this region, and why not elsewhere.
    async fn survey(&self, service: ServiceRef) -> Answer<Versioned<PlacementSurvey>>;
    /// Whether this node is as it shall be, and what to do about it. Needs no other node.
    async fn doctor(&self) -> Answer<Doctor>;
}
