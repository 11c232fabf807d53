//! Answers the public API on this node: reads from its own copies, changes through the leaders.

mod apps;
mod authority;
mod backup;
mod cluster;
mod doctor;
mod events;
mod exec;
pub(crate) mod images;
mod instances;
mod latency;
mod loss;
mod nodes;
mod regions;
mod releases;
mod requests;
mod scale;
mod secrets;
mod snapshots;
mod survey;
mod tokens;
mod usage;
mod volumes;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use insula_api::{
    Answer, BodyStream, Code, DeleteRequest, DeployRequest, EventStream, Events, ExecSession, Handler, LogOptions,
    LogStream, Problem, ReadOptions, RemoveNodeRequest, RestartRequest, Role, RollbackRequest, RunningRequest,
    ScaleRequest, SetSecretRequest, SteerRequest,
    handler::{Lost, NodeKey, StateKey},
    router::WAIT_MAX,
    wire::{
        ApiTokenBody, ApiTokenCreated, App, AppStatus, AppSummary, CaStatus, Deleted, DeployAnswer, Deployment, Doctor,
        FindBody, Found, Image, ImageImported, ImageRemoved, Instance, JoinTokenBody, JoinTokenCreated, Latency, List,
        LossPlan, Node, NodeDuty, NodeRemoved, NodeStatus, PlacementSurvey, RecoveryBody, Region, Release,
        ReleaseDefinition, Reloaded, RequestReport, RootAdded, RootBody, RootChanged, Route, Running, Scaled, Secret,
        SecretRemoved, SecretSet, Snapshot, Snapshots, Steered, Token, TokenRemoved, Usage, Versioned, Volume, Waiting,
    },
};
use insula_catalog::link::Link;
use insula_container::NodeRuntime;
use insula_env::{Clock, Rng, TaskGroup, clock};
use insula_identity::{Material, NodeDirectory};
use insula_rpc::Peers;
use insula_state::{Conflict, Domain, GlobalState, ProposeError, RegionState, RejectionCode, Store};
use insula_types::{
    AppName, ByteSize, ExecSpec, HttpRequestId, InstanceId, NodeId, ReleaseNumber, RequestId, SecretName, ServiceRef,
    SnapshotName, TokenId, VolumeRef,
};
use tokio::sync::{Semaphore, watch};

use crate::{
    config::NodeConfig,
    exec::Execs,
    group::StateGroup,
    images::{Census, tags::Tags},
    logs::Logs,
    whereabouts::Whereabouts,
};

/// How long a change may wait for its leader. Shorter than a client's patience, longer than an election.
const CHANGE_LIMIT: Duration = Duration::from_secs(8);
/// How long a node may take to be told of the global state, before changes of it are refused there.
const TOLD_LIMIT: Duration = Duration::from_secs(3);
/// How long a linearizable read may wait for the leader's word.
const READ_LIMIT: Duration = Duration::from_secs(4);

/// What the API of a node answers from.
pub struct NodeApi {
    /// This node.
    pub node: NodeId,
    /// Its configuration, as the server began with it.
    pub config: NodeConfig,
    /// Where that was read.
    pub config_path: PathBuf,
    /// Where this node and the others are.
    pub(crate) whereabouts: Whereabouts,
    /// The region's state.
    pub region: Store<RegionState>,
    /// The world's state.
    pub global: Store<GlobalState>,
    /// This node's part of the region group.
    pub region_group: Arc<StateGroup<RegionState>>,
    /// This node's part of the global group.
    pub global_group: Arc<StateGroup<GlobalState>>,
    /// How it hears of the global state, where it does not vote on it.
    pub(crate) feed: crate::follow::Feed,
    /// Reads logs, here or on other nodes.
    pub logs: Arc<dyn Logs>,
    /// Runs commands in instances, here or on other nodes.
    pub(crate) execs: Execs,
    /// Counts the copies of images.
    pub(crate) census: Census,
    /// Looks up what tags of images stand for.
    pub(crate) tags: Tags<NodeRuntime>,
    /// Snapshots of volumes, on all nodes.
    pub(crate) snapshots: crate::snapshots::Snapshots,
    /// What nodes and instances use.
    pub(crate) usages: crate::usage::Usages,
    /// What edges remember of requests.
    pub(crate) edge_requests: crate::edge_requests::EdgeRequests,
    /// How far other nodes and regions are.
    pub(crate) latency: crate::latency::LatencyMap,
    /// This node's credentials; tokens and contexts pin its root.
    pub material: Material,
    /// Its files; on voters with the CA's keys.
    pub directory: NodeDirectory,
    /// The way to other voters, for the hand-over of keys.
    pub rpc: Peers,
    /// One change of roots at a time.
    pub authority: tokio::sync::Mutex<()>,
    /// Room for images that come in archives.
    pub imports: Semaphore,
    /// Time.
    pub clock: Clock,
    /// Randomness, for secrets.
    pub rng: Rng,
    /// When the server started, milliseconds since 1970.
    pub started_ms: u64,
    /// The way to this node's dataplane.
    pub dataplane: Link,
    /// What runs in this process.
    pub tasks: TaskGroup,
    /// How this node's clock differs from the leader's, in milliseconds, once a renewal has told.
    pub clock_ahead_ms: watch::Receiver<Option<i64>>,
}

impl fmt::Debug for NodeApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeApi({})", self.node)
    }
}

impl NodeApi {
    /// Brings a copy up to what the caller asked for.
    async fn prepare<D: Domain>(&self, store: &Store<D>, read: ReadOptions) -> Answer<()> {
        if read.is_linearizable {
            store.read_linearizable(READ_LIMIT, |_| ()).await.map_err(|error| problem(&error))?;
        }
        if let Some(seen) = read.wait {
            // Late is fine: the caller gets what there is, with its revision.
            let _ = clock::timeout(WAIT_MAX, store.replica().wait_for(seen.next())).await;
        }
        Ok(())
    }

    /// Refuses to change anything before the first start has founded the cluster: what builds on that would fail in ways
    /// that nobody understands. Of a node that has just joined, the copies may show it late.
    fn refuse_unfounded(&self) -> Answer<()> {
        if self.region.read(|region| region.meta.is_some()) && self.global.read(|global| global.meta.is_some()) {
            return Ok(());
        }
        Err(Problem::new(Code::NoLeader, "this node does not know the state of its region yet: try again in a moment"))
    }

    /// Refuses changes of the world on a node that nobody tells of it: they would wait for a leader that is not reached.
    async fn refuse_cut_off<D: Domain>(&self) -> Answer<()> {
        if D::NAME != GlobalState::NAME || !self.global_group.raft().voters().is_empty() {
            return Ok(());
        }
        if clock::timeout(TOLD_LIMIT, self.feed.wait()).await.is_ok() {
            return Ok(());
        }
        let since_ms = self.feed.alone_since_ms().unwrap_or_else(|| self.clock.wall_ms());
        Err(Problem::new(Code::NoLeader, cluster::cut_off(&self.config.region, since_ms)))
    }

    /// Commits a command, under the caller's request id when it gave one, and waits until this node shows it.
    async fn change<D: Domain>(
        &self,
        store: &Store<D>,
        request: Option<RequestId>,
        command: &D::Command,
    ) -> Answer<insula_state::Committed<D::Reply>> {
        self.refuse_unfounded()?;
        self.refuse_cut_off::<D>().await?;
        let request = request.unwrap_or_else(|| RequestId(self.rng.next(), self.rng.next()));
        let committed = store.propose_as(request, command, CHANGE_LIMIT).await.map_err(|error| problem(&error))?;
        // Who writes and then reads here shall see it; a copy that lags shows it soon.
        let _ = clock::timeout(READ_LIMIT, store.replica().wait_for(committed.revision)).await;
        Ok(committed)
    }
}

/// A failed change or read, for callers of the API.
fn problem(error: &ProposeError) -> Problem {
    let code = match error {
        ProposeError::Rejected(rejection) => match rejection.code {
            RejectionCode::NotFound => Code::NoSuchApp,
            RejectionCode::Conflict => rejection.conflict.map_or(Code::Conflict, code_of),
            RejectionCode::Invalid => Code::InvalidRequest,
            RejectionCode::Forbidden => Code::Forbidden,
            RejectionCode::Reused => Code::IdempotencyKeyReused,
        },
        ProposeError::Unknown { .. } => Code::OutcomeUnknown,
        ProposeError::Unavailable { .. } => Code::NoLeader,
        ProposeError::NotYet(_) => Code::NotYet,
        ProposeError::Unreadable => Code::Internal,
    };
    Problem::new(code, error.to_string())
}

/// Every conflict of the states has a code of its own. Below level 6 they do not say which it is.
const fn code_of(conflict: Conflict) -> Code {
    match conflict {
        Conflict::ReleaseChanged => Code::ReleaseChanged,
        Conflict::RouteTaken => Code::RouteTaken,
        Conflict::SecretInUse => Code::SecretInUse,
        Conflict::SecretsNotReady => Code::SecretsNotReady,
        Conflict::NothingToSteer => Code::NothingToSteer,
        Conflict::RegionExists => Code::RegionExists,
        Conflict::VolumeExists => Code::VolumeExists,
        Conflict::VolumeElsewhere => Code::VolumeElsewhere,
        Conflict::VolumeNotSmaller => Code::VolumeNotSmaller,
        Conflict::VolumeInUse => Code::VolumeInUse,
        Conflict::NodeChanged => Code::NodeChanged,
        Conflict::NodeInUse => Code::NodeInUse,
        Conflict::NodeIsUp => Code::NodeIsUp,
        Conflict::RootOutOfTurn => Code::RootOutOfTurn,
        Conflict::Ours => Code::Conflict,
    }
}

#[async_trait]
impl Handler for NodeApi {
    async fn authenticate(&self, token: &str) -> Answer<Role> {
        self.role_of(token)
    }

    async fn apps(&self, read: ReadOptions) -> Answer<List<AppSummary>> {
        self.prepare(&self.global, read).await?;
        Ok(self.list_apps())
    }

    async fn app(&self, app: &AppName, read: ReadOptions) -> Answer<Versioned<App>> {
        self.prepare(&self.global, read).await?;
        self.show_app(app)
    }

    async fn deploy(&self, request: DeployRequest) -> Answer<Versioned<DeployAnswer>> {
        self.deploy_app(request).await
    }

    async fn releases(&self, app: &AppName, read: ReadOptions) -> Answer<List<Release>> {
        self.prepare(&self.global, read).await?;
        self.list_releases(app)
    }

    async fn restart(&self, request: RestartRequest) -> Answer<Versioned<DeployAnswer>> {
        self.restart_app(request).await
    }

    async fn set_running(&self, request: RunningRequest) -> Answer<Versioned<Running>> {
        self.stop_or_start(request).await
    }

    async fn release(
        &self,
        app: &AppName,
        number: ReleaseNumber,
        read: ReadOptions,
    ) -> Answer<Versioned<ReleaseDefinition>> {
        self.prepare(&self.global, read).await?;
        self.show_release(app, number)
    }

    async fn rollback(&self, request: RollbackRequest) -> Answer<Versioned<DeployAnswer>> {
        self.roll_back(request).await
    }

    async fn deployments(&self, app: &AppName, read: ReadOptions) -> Answer<List<Deployment>> {
        self.prepare(&self.region, read).await?;
        self.list_deployments(app)
    }

    async fn steer(&self, request: SteerRequest) -> Answer<Versioned<Steered>> {
        self.steer_deployment(request).await
    }

    async fn delete_app(&self, request: DeleteRequest) -> Answer<Versioned<Deleted>> {
        self.remove_app(request).await
    }

    async fn app_status(&self, app: &AppName, read: ReadOptions) -> Answer<Versioned<AppStatus>> {
        self.prepare(&self.region, read).await?;
        self.status_of(app).await
    }

    async fn secrets(&self, app: &AppName, read: ReadOptions) -> Answer<List<Secret>> {
        self.prepare(&self.global, read).await?;
        Ok(self.list_secrets(app))
    }

    async fn set_secret(&self, request: SetSecretRequest) -> Answer<Versioned<SecretSet>> {
        self.put_secret(request).await
    }

    async fn remove_secret(
        &self,
        app: AppName,
        name: SecretName,
        request: Option<RequestId>,
    ) -> Answer<Versioned<SecretRemoved>> {
        self.take_secret_away(app, name, request).await
    }

    async fn scale(&self, request: ScaleRequest) -> Answer<Versioned<Scaled>> {
        self.set_scale(request).await
    }

    async fn instances(&self, app: Option<&AppName>, read: ReadOptions) -> Answer<List<Instance>> {
        self.prepare(&self.region, read).await?;
        Ok(self.list_instances(app))
    }

    async fn waiting(&self, read: ReadOptions) -> Answer<List<Waiting>> {
        self.prepare(&self.region, read).await?;
        Ok(self.list_waiting())
    }

    async fn routes(&self, read: ReadOptions) -> Answer<List<Route>> {
        self.prepare(&self.region, read).await?;
        Ok(self.list_routes())
    }

    async fn instance(&self, id: InstanceId, read: ReadOptions) -> Answer<Versioned<Instance>> {
        self.prepare(&self.region, read).await?;
        self.show_instance(id)
    }

    async fn logs(&self, id: InstanceId, options: LogOptions) -> Answer<LogStream> {
        self.read_logs(id, options).await
    }

    async fn exec(&self, id: InstanceId, spec: ExecSpec) -> Answer<ExecSession> {
        self.begin_command(id, spec).await
    }

    async fn run(&self, service: ServiceRef, spec: ExecSpec) -> Answer<ExecSession> {
        self.begin_one_off(service, spec)
    }

    async fn images(&self, read: ReadOptions) -> Answer<List<Image>> {
        self.prepare(&self.region, read).await?;
        Ok(self.list_images().await)
    }

    async fn import_image(&self, name: Option<&str>, archive: &mut BodyStream) -> Answer<ImageImported> {
        self.take_image_in(name, archive).await
    }

    async fn remove_image(&self, image: &str) -> Answer<Versioned<ImageRemoved>> {
        self.take_image_away(image).await
    }

    async fn volumes(&self, read: ReadOptions) -> Answer<List<Volume>> {
        self.prepare(&self.region, read).await?;
        Ok(self.list_volumes())
    }

    async fn create_volume(
        &self,
        volume: VolumeRef,
        node: &NodeKey,
        size: ByteSize,
        request: Option<RequestId>,
    ) -> Answer<Versioned<Volume>> {
        self.make_volume(volume, node, size, request).await
    }

    async fn resize_volume(
        &self,
        volume: VolumeRef,
        size: ByteSize,
        request: Option<RequestId>,
    ) -> Answer<Versioned<Volume>> {
        self.grow_volume(volume, size, request).await
    }

    async fn delete_volume(&self, volume: VolumeRef, request: Option<RequestId>) -> Answer<Versioned<Volume>> {
        self.take_volume_away(volume, request).await
    }

    async fn snapshots(&self, read: ReadOptions) -> Answer<Snapshots> {
        self.prepare(&self.region, read).await?;
        Ok(self.list_snapshots().await)
    }

    async fn create_snapshot(&self, volume: VolumeRef, snapshot: SnapshotName) -> Answer<Versioned<Snapshot>> {
        self.make_snapshot(volume, snapshot).await
    }

    async fn restore_snapshot(&self, volume: VolumeRef, snapshot: SnapshotName) -> Answer<Versioned<Volume>> {
        self.bring_back(volume, snapshot).await
    }

    async fn delete_snapshot(&self, volume: VolumeRef, snapshot: SnapshotName) -> Answer<Versioned<Snapshot>> {
        self.take_snapshot_away(volume, snapshot).await
    }

    async fn usage(&self, app: Option<&AppName>, most: u32) -> Answer<Usage> {
        self.show_usage(app, most).await
    }

    async fn latency(&self, with_nodes: bool) -> Answer<Latency> {
        self.show_latency(with_nodes).await
    }

    async fn request(&self, id: &HttpRequestId) -> Answer<RequestReport> {
        self.show_request(id).await
    }

    async fn nodes(&self, read: ReadOptions) -> Answer<List<Node>> {
        self.prepare(&self.region, read).await?;
        Ok(self.list_nodes())
    }

    async fn node(&self, key: &NodeKey, read: ReadOptions) -> Answer<Versioned<Node>> {
        self.prepare(&self.region, read).await?;
        self.show_node(key)
    }

    async fn set_node_duty(
        &self,
        key: &NodeKey,
        duty: NodeDuty,
        request: Option<RequestId>,
    ) -> Answer<Versioned<Node>> {
        self.set_duty(key, duty, request).await
    }

    async fn remove_node(&self, request: RemoveNodeRequest) -> Answer<Versioned<NodeRemoved>> {
        self.take_out_node(request).await
    }

    async fn regions(&self, read: ReadOptions) -> Answer<List<Region>> {
        self.prepare(&self.global, read).await?;
        Ok(self.list_regions().await)
    }

    async fn events(&self, events: Events) -> Answer<EventStream> {
        Ok(self.stream_events(events))
    }

    async fn create_join_token(
        &self,
        body: JoinTokenBody,
        request: Option<RequestId>,
    ) -> Answer<Versioned<JoinTokenCreated>> {
        self.make_join_token(body, request).await
    }

    async fn create_api_token(
        &self,
        body: ApiTokenBody,
        request: Option<RequestId>,
    ) -> Answer<Versioned<ApiTokenCreated>> {
        self.make_api_token(body, request).await
    }

    async fn backup(&self, state: StateKey) -> Answer<LogStream> {
        match state {
            StateKey::Region => self.back_up(&self.region, &self.region_group).await,
            StateKey::Global => self.back_up(&self.global, &self.global_group).await,
        }
    }

    async fn tokens(&self, read: ReadOptions) -> Answer<List<Token>> {
        self.prepare(&self.global, read).await?;
        Ok(self.list_tokens())
    }

    async fn remove_token(&self, id: TokenId, request: Option<RequestId>) -> Answer<Versioned<TokenRemoved>> {
        self.end_token(id, request).await
    }

    async fn authorities(&self, read: ReadOptions) -> Answer<Versioned<CaStatus>> {
        self.prepare(&self.global, read).await?;
        Ok(self.ca_status())
    }

    async fn renew_region(&self, body: RecoveryBody) -> Answer<Versioned<RootChanged>> {
        self.certify_region_anew(body).await
    }

    async fn add_root(&self, body: RecoveryBody) -> Answer<Versioned<RootAdded>> {
        self.make_next_root(body).await
    }

    async fn activate_root(&self, body: RootBody) -> Answer<Versioned<RootChanged>> {
        self.use_root(body).await
    }

    async fn retire_root(&self, body: RootBody) -> Answer<Versioned<RootChanged>> {
        self.end_root(body).await
    }

    async fn reload(&self) -> Answer<Reloaded> {
        self.take_over_configuration()
    }

    async fn find(&self, body: FindBody) -> Answer<Found> {
        self.find_other(body).await
    }

    async fn status(&self) -> Answer<NodeStatus> {
        Ok(self.node_status())
    }

    async fn loss(&self, lost: Lost) -> Answer<Versioned<LossPlan>> {
        self.plan_loss(&lost)
    }

    async fn survey(&self, service: ServiceRef) -> Answer<Versioned<PlacementSurvey>> {
        self.survey_nodes(service)
    }

    async fn doctor(&self) -> Answer<Doctor> {
        Ok(self.look_at_itself().await)
    }
}

#[cfg(test)]
mod tests {
    use insula_state::Rejection;

    use super::*;

    #[test]
    fn each_conflict_has_a_code_of_its_own() {
        use Conflict as C;
        let all = [
            (C::ReleaseChanged, 412),
            (C::NodeChanged, 412),
            (C::RouteTaken, 409),
            (C::SecretInUse, 409),
            (C::SecretsNotReady, 409),
            (C::NothingToSteer, 409),
            (C::RegionExists, 409),
            (C::VolumeExists, 409),
            (C::VolumeElsewhere, 409),
            (C::VolumeNotSmaller, 409),
            (C::VolumeInUse, 409),
            (C::NodeInUse, 409),
            (C::NodeIsUp, 409),
            (C::RootOutOfTurn, 409),
            (C::Ours, 409),
        ];
        let rejected = |rejection| problem(&ProposeError::Rejected(rejection));
        let mut codes: Vec<Code> = Vec::new();
        for (conflict, status) in all {
            let problem = rejected(Rejection::conflict(conflict, "why"));
            assert_eq!((problem.status, problem.detail.as_str()), (status, "why"), "{conflict:?}");
            assert!(!codes.contains(&problem.code), "{conflict:?} is told like another");
            assert_eq!(problem.may_pass, conflict == C::SecretsNotReady);
            codes.push(problem.code);
        }
        let older = Rejection { conflict: None, ..Rejection::conflict(C::RouteTaken, "why") };
        assert_eq!(rejected(older).code, Code::Conflict, "a guess would be wrong half of the time");
    }
}
