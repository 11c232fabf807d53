//! One method per endpoint.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::{HeaderValue, Method, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use insula_types::{
    AppDefinition, AppName, ByteSize, InstanceId, ReleaseNumber, Revealed, Revision, Scale, SecretName, SecretValue,
    ServiceName, ServiceRef, SnapshotName, TokenId, VolumeRef,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{CALL_LIMIT, Call, Client, ClientError, EventReader, LogReader};
use crate::{
    Code,
    handler::StateKey,
    router::WAIT_MAX,
    wire::{
        ApiTokenBody, ApiTokenCreated, App, AppStatus, AppSummary, CaStatus, Deleted, DeployAnswer, Deployment, Doctor,
        DutyBody, EventCursor, FindBody, Found, Image, ImageImported, ImageRemoved, Instance, JoinTokenBody,
        JoinTokenCreated, List, LossPlan, Node, NodeDuty, NodeRemoved, NodeStatus, PlacementSurvey, RecoveryBody,
        Region, Release, Reloaded, RestartBody, RollbackBody, RootAdded, RootBody, RootChanged, Running, RunningBody,
        ScaleBody, Scaled, Secret, SecretBody, SecretRemoved, SecretSet, Snapshot, SnapshotBody, Snapshots, Steered,
        Steering, SteeringBody, Token, TokenRemoved, Versioned, Volume, VolumeBody, VolumeSizeBody,
    },
};

/// Longest silence of a node that takes an image in: it unpacks all of it after the last byte has come.
pub const IMPORT_SILENCE_MAX: Duration = Duration::from_secs(600);

/// How long a copy of a volume is waited for: a little longer than the asked node waits for the volume's.
const COPY_LIMIT: Duration = Duration::from_secs(1810);

/// Tokens that are made at most until the answer with one arrives.
const TOKENS_MAX: usize = 3;

impl Client {
    /// All apps.
    ///
    /// # Errors
    /// [`ClientError`], as every call here.
    pub async fn apps(&self) -> Result<List<AppSummary>, ClientError> {
        self.get("/v1/apps").await
    }

    /// One app with its definition.
    ///
    /// # Errors
    /// As every call here.
    pub async fn app(&self, app: &AppName) -> Result<Versioned<App>, ClientError> {
        self.get(format!("/v1/apps/{app}")).await
    }

    /// What a deploy would change.
    ///
    /// # Errors
    /// As every call here.
    pub async fn plan(&self, definition: &AppDefinition) -> Result<Versioned<DeployAnswer>, ClientError> {
        self.json(self.deploy_call(definition, "?plan=true")).await
    }

    /// Makes a release of a definition. With `expected`, only when the app has that release now (0: none).
    ///
    /// # Errors
    /// As every call here.
    pub async fn deploy(
        &self,
        definition: &AppDefinition,
        expected: Option<ReleaseNumber>,
    ) -> Result<Versioned<DeployAnswer>, ClientError> {
        self.json(expecting(self.deploy_call(definition, ""), expected.map(|release| release.0))).await
    }

    /// The releases of an app that are kept, the newest first.
    ///
    /// # Errors
    /// As every call here.
    pub async fn releases(&self, app: &AppName) -> Result<List<Release>, ClientError> {
        self.get(format!("/v1/apps/{app}/releases")).await
    }

    /// Makes a release of what an earlier one was, or, as a plan, says what that would change. With `expected`, only when the app
    /// has that release now.
    ///
    /// # Errors
    /// As every call here.
    pub async fn rollback(
        &self,
        app: &AppName,
        to: Option<ReleaseNumber>,
        is_plan: bool,
        expected: Option<ReleaseNumber>,
    ) -> Result<Versioned<DeployAnswer>, ClientError> {
        let query = if is_plan { "?plan=true" } else { "" };
        let call = self.call(Method::POST, format!("/v1/apps/{app}/rollback{query}")).with_json(&RollbackBody { to });
        self.json(expecting(call, expected.map(|release| release.0))).await
    }

    /// Replaces the instances of what runs by new ones, as a new release, or, as a plan, says what that would change. Without a service,
    /// of all services. With `expected`, only when the app has that release now.
    ///
    /// # Errors
    /// As every call here.
    pub async fn restart(
        &self,
        app: &AppName,
        service: Option<&ServiceName>,
        is_plan: bool,
        expected: Option<ReleaseNumber>,
    ) -> Result<Versioned<DeployAnswer>, ClientError> {
        let query = if is_plan { "?plan=true" } else { "" };
        let body = RestartBody { service: service.cloned() };
        let call = self.call(Method::POST, format!("/v1/apps/{app}/restart{query}")).with_json(&body);
        self.json(expecting(call, expected.map(|release| release.0))).await
    }

    /// Stops a service, or lets it run again; without one, all services of the app.
    ///
    /// # Errors
    /// As every call here.
    pub async fn set_running(
        &self,
        app: &AppName,
        service: Option<&ServiceName>,
        running: bool,
    ) -> Result<Versioned<Running>, ClientError> {
        let body = RunningBody { service: service.cloned(), running };
        self.json(self.call(Method::POST, format!("/v1/apps/{app}/running")).with_json(&body)).await
    }

    /// How far regions are with the release that an app shall run.
    ///
    /// # Errors
    /// As every call here.
    pub async fn deployments(&self, app: &AppName) -> Result<List<Deployment>, ClientError> {
        self.get(format!("/v1/apps/{app}/deployments")).await
    }

    /// Lets a deployment go another way. With `expected`, only when it is that of this release.
    ///
    /// # Errors
    /// As every call here.
    pub async fn steer(
        &self,
        app: &AppName,
        steering: Steering,
        expected: Option<ReleaseNumber>,
    ) -> Result<Versioned<Steered>, ClientError> {
        let call = self.call(Method::POST, format!("/v1/apps/{app}/deployments"));
        self.json(expecting(call.with_json(&SteeringBody { steering }), expected.map(|release| release.0))).await
    }

    fn deploy_call(&self, definition: &AppDefinition, query: &str) -> Call {
        let call = self.call(Method::PUT, format!("/v1/apps/{}{query}", definition.app));
        call.with_json(&definition.to_json())
    }

    /// Removes an app.
    ///
    /// # Errors
    /// As every call here.
    pub async fn delete_app(
        &self,
        app: &AppName,
        expected: Option<ReleaseNumber>,
    ) -> Result<Versioned<Deleted>, ClientError> {
        let call = self.call(Method::DELETE, format!("/v1/apps/{app}"));
        self.json(expecting(call, expected.map(|release| release.0))).await
    }

    /// How an app is. With `wait`, once the state is beyond that revision or after [`WAIT_MAX`].
    ///
    /// # Errors
    /// As every call here.
    pub async fn app_status(&self, app: &AppName, wait: Option<Revision>) -> Result<Versioned<AppStatus>, ClientError> {
        let query = wait.map(|revision| format!("?wait={revision}")).unwrap_or_default();
        let mut call = self.call(Method::GET, format!("/v1/apps/{app}/status{query}"));
        if wait.is_some() {
            call.limit = CALL_LIMIT + WAIT_MAX;
        }
        self.json(call).await
    }

    /// Sets the scale of a service.
    ///
    /// # Errors
    /// As every call here.
    pub async fn scale(&self, service: &ServiceRef, scale: Scale) -> Result<Versioned<Scaled>, ClientError> {
        let path = format!("/v1/apps/{}/services/{}/scale", service.app, service.service);
        self.json(self.call(Method::PUT, path).with_json(&ScaleBody { scale })).await
    }

    /// Secrets of an app, without their values.
    ///
    /// # Errors
    /// As every call here.
    pub async fn secrets(&self, app: &AppName) -> Result<List<Secret>, ClientError> {
        self.json(self.call(Method::GET, format!("/v1/apps/{app}/secrets"))).await
    }

    /// Gives a secret a value.
    ///
    /// # Errors
    /// As every call here.
    pub async fn set_secret(
        &self,
        app: &AppName,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Versioned<SecretSet>, ClientError> {
        let body = SecretBody { value: Revealed(value.clone()) };
        self.json(self.call(Method::PUT, format!("/v1/apps/{app}/secrets/{name}")).with_json(&body)).await
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// As every call here.
    pub async fn remove_secret(
        &self,
        app: &AppName,
        name: &SecretName,
    ) -> Result<Versioned<SecretRemoved>, ClientError> {
        self.json(self.call(Method::DELETE, format!("/v1/apps/{app}/secrets/{name}"))).await
    }

    /// Instances of one app or of all.
    ///
    /// # Errors
    /// As every call here.
    pub async fn instances(&self, app: Option<&AppName>) -> Result<List<Instance>, ClientError> {
        match app {
            Some(app) => self.get(format!("/v1/apps/{app}/instances")).await,
            None => self.get("/v1/instances").await,
        }
    }

    /// One instance.
    ///
    /// # Errors
    /// As every call here.
    pub async fn instance(&self, id: InstanceId) -> Result<Versioned<Instance>, ClientError> {
        self.get(format!("/v1/instances/{id}")).await
    }

    /// What an instance wrote. The time until the first byte is bounded, what follows is not.
    ///
    /// # Errors
    /// As every call here.
    pub async fn logs(&self, id: InstanceId, tail: Option<u32>, follow: bool) -> Result<LogReader, ClientError> {
        let tail = tail.map(|lines| format!("&tail={lines}")).unwrap_or_default();
        self.stream(format!("/v1/instances/{id}/logs?follow={follow}{tail}")).await
    }

    /// A state as the node has it: pieces of an archive. The time until the first byte is bounded.
    ///
    /// # Errors
    /// As every call here.
    pub async fn backup(&self, state: StateKey) -> Result<LogReader, ClientError> {
        self.stream(format!("/v1/state/{}/backup", state.as_str())).await
    }

    async fn stream(&self, path: String) -> Result<LogReader, ClientError> {
        let call = self.call(Method::GET, path);
        let what = call.path.clone();
        let response = insula_env::clock::timeout(CALL_LIMIT, self.send(&call))
            .await
            .map_err(|_| ClientError::TimedOut { what: what.clone(), limit: CALL_LIMIT })??;
        Ok(LogReader { body: response.into_body(), what })
    }

    /// Nodes of the region.
    ///
    /// # Errors
    /// As every call here.
    pub async fn nodes(&self) -> Result<List<Node>, ClientError> {
        self.get("/v1/nodes").await
    }

    /// Images that nodes have.
    ///
    /// # Errors
    /// As every call here.
    pub async fn images(&self) -> Result<List<Image>, ClientError> {
        self.get("/v1/images").await
    }

    /// Sends an archive with an image to a node, under `name` or the name that it has there. Not repeated: who asks for this
    /// has the archive, and may not have it twice. A node that took nothing and said nothing for `IMPORT_SILENCE_MAX` is
    /// given up.
    ///
    /// # Errors
    /// As every call here; [`ClientError::CutOff`] when `archive` gives an error.
    pub async fn import_image(
        &self,
        name: Option<&str>,
        archive: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    ) -> Result<ImageImported, ClientError> {
        // Finds a node that answers, and knows the token, before anything is sent.
        self.regions().await?;
        let query = name.map(|name| format!("?name={}", escaped(name))).unwrap_or_default();
        let call = self.call(Method::POST, format!("/v1/images{query}"));
        let pieces = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&pieces);
        let body = archive.map_ok(move |piece| {
            counted.fetch_add(1, Ordering::Relaxed);
            Frame::data(piece)
        });
        let mut answer = pin!(self.sent(&call, StreamBody::new(body)));
        let mut seen = 0;
        loop {
            if let Ok(answer) = insula_env::clock::timeout(IMPORT_SILENCE_MAX, &mut answer).await {
                return answer;
            }
            let now = pieces.load(Ordering::Relaxed);
            if now == seen {
                return Err(ClientError::TimedOut { what: call.path.clone(), limit: IMPORT_SILENCE_MAX });
            }
            seen = now;
        }
    }

    /// Removes an image from all nodes, by its exact reference.
    ///
    /// # Errors
    /// As every call here.
    pub async fn remove_image(&self, image: &str) -> Result<Versioned<ImageRemoved>, ClientError> {
        // A reference has no character that a query would have to escape, but for those that no reference has.
        let safe: String = image.chars().filter(|one| one.is_ascii_graphic() && !"&#%+?".contains(*one)).collect();
        self.json(self.call(Method::DELETE, format!("/v1/images?image={safe}"))).await
    }

    /// Volumes of the region.
    ///
    /// # Errors
    /// As every call here.
    pub async fn volumes(&self) -> Result<List<Volume>, ClientError> {
        self.get("/v1/volumes").await
    }

    /// Sets a volume aside on a node, by that one's exact id or name.
    ///
    /// # Errors
    /// As every call here.
    pub async fn create_volume(
        &self,
        volume: &VolumeRef,
        node: &str,
        size: ByteSize,
    ) -> Result<Versioned<Volume>, ClientError> {
        let body = VolumeBody { volume: volume.to_string(), node: node.to_owned(), size };
        self.json(self.call(Method::POST, "/v1/volumes").with_json(&body)).await
    }

    /// Makes a volume larger.
    ///
    /// # Errors
    /// As every call here.
    pub async fn resize_volume(&self, volume: &VolumeRef, size: ByteSize) -> Result<Versioned<Volume>, ClientError> {
        self.json(self.call(Method::PUT, volume_path(volume)).with_json(&VolumeSizeBody { size })).await
    }

    /// Deletes a volume with all that is in it.
    ///
    /// # Errors
    /// As every call here.
    pub async fn delete_volume(&self, volume: &VolumeRef) -> Result<Versioned<Volume>, ClientError> {
        self.json(self.call(Method::DELETE, volume_path(volume))).await
    }

    /// Snapshots of volumes, as the nodes tell of them.
    ///
    /// # Errors
    /// As every call here.
    pub async fn snapshots(&self) -> Result<Snapshots, ClientError> {
        self.get("/v1/snapshots").await
    }

    /// Makes a snapshot of a volume; waits for as long as the copy takes.
    ///
    /// # Errors
    /// As every call here.
    pub async fn create_snapshot(
        &self,
        volume: &VolumeRef,
        snapshot: &SnapshotName,
    ) -> Result<Versioned<Snapshot>, ClientError> {
        let body = SnapshotBody { snapshot: snapshot.clone() };
        let path = format!("{}/snapshots", volume_path(volume));
        self.json_once(self.call(Method::POST, path).with_json(&body), COPY_LIMIT).await
    }

    /// Gives a volume back what it had when a snapshot was made; waits for as long as the copy takes.
    ///
    /// # Errors
    /// As every call here.
    pub async fn restore_snapshot(
        &self,
        volume: &VolumeRef,
        snapshot: &SnapshotName,
    ) -> Result<Versioned<Volume>, ClientError> {
        let path = format!("{}/snapshots/{snapshot}/restore", volume_path(volume));
        self.json_once(self.call(Method::POST, path), COPY_LIMIT).await
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// As every call here.
    pub async fn delete_snapshot(
        &self,
        volume: &VolumeRef,
        snapshot: &SnapshotName,
    ) -> Result<Versioned<Snapshot>, ClientError> {
        let path = format!("{}/snapshots/{snapshot}", volume_path(volume));
        self.json_once(self.call(Method::DELETE, path), CALL_LIMIT).await
    }

    /// One node by its exact id or name.
    ///
    /// # Errors
    /// As every call here.
    pub async fn node(&self, key: &str) -> Result<Versioned<Node>, ClientError> {
        self.get(format!("/v1/nodes/{key}")).await
    }

    /// One node, once the state is beyond that revision or after [`WAIT_MAX`].
    ///
    /// # Errors
    /// As every call here.
    pub async fn node_after(&self, key: &str, seen: Revision) -> Result<Versioned<Node>, ClientError> {
        let mut call = self.call(Method::GET, format!("/v1/nodes/{key}?wait={seen}"));
        call.limit = CALL_LIMIT + WAIT_MAX;
        self.json(call).await
    }

    /// Says what a node, by its exact id or name, shall do.
    ///
    /// # Errors
    /// As every call here.
    pub async fn set_node_duty(&self, key: &str, duty: NodeDuty) -> Result<Versioned<Node>, ClientError> {
        self.json(self.call(Method::PUT, format!("/v1/nodes/{key}/duty")).with_json(&DutyBody { duty })).await
    }

    /// Removes a node for ever, if it is still as it was seen; with `is_forced` also while it is up or has instances.
    ///
    /// # Errors
    /// As every call here.
    pub async fn remove_node(&self, seen: &Node, is_forced: bool) -> Result<Versioned<NodeRemoved>, ClientError> {
        let call = self.call(Method::DELETE, format!("/v1/nodes/{}?force={is_forced}", seen.id));
        self.json(expecting(call, Some(seen.changed.0))).await
    }

    /// All regions.
    ///
    /// # Errors
    /// As every call here.
    pub async fn regions(&self) -> Result<List<Region>, ClientError> {
        self.get("/v1/regions").await
    }

    /// Events after a place; with `follow` without end.
    #[must_use]
    pub fn events(&self, since: Option<EventCursor>, follow: bool) -> EventReader {
        EventReader::new(self.clone(), since, follow)
    }

    /// Makes a token with which machines join.
    ///
    /// # Errors
    /// As every call here.
    pub async fn create_join_token(&self, body: &JoinTokenBody) -> Result<Versioned<JoinTokenCreated>, ClientError> {
        self.token("/v1/tokens/join", body).await
    }

    /// Makes a token for the API.
    ///
    /// # Errors
    /// As every call here.
    pub async fn create_api_token(&self, body: &ApiTokenBody) -> Result<Versioned<ApiTokenCreated>, ClientError> {
        self.token("/v1/tokens/api", body).await
    }

    /// Makes a token. When only the answer to an attempt before was lost, that token is known to nobody: another is made.
    async fn token<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        for _ in 1..TOKENS_MAX {
            match self.json(self.call(Method::POST, path).with_json(body)).await {
                Err(ClientError::Problem(problem)) if problem.code == Code::AlreadyDone => {}
                made => return made,
            }
        }
        self.json(self.call(Method::POST, path).with_json(body)).await
    }

    /// All tokens: the API's, and those to join the region with.
    ///
    /// # Errors
    /// As every call here.
    pub async fn tokens(&self) -> Result<List<Token>, ClientError> {
        self.get("/v1/tokens").await
    }

    /// Ends a token, by its exact id.
    ///
    /// # Errors
    /// As every call here.
    pub async fn remove_token(&self, id: TokenId) -> Result<Versioned<TokenRemoved>, ClientError> {
        self.json(self.call(Method::DELETE, format!("/v1/tokens/{id}"))).await
    }

    /// Which roots there are, and how far the nodes are.
    ///
    /// # Errors
    /// As every call here.
    pub async fn authorities(&self) -> Result<Versioned<CaStatus>, ClientError> {
        self.get("/v1/ca").await
    }

    /// Lets the active root sign the region's CA anew.
    ///
    /// # Errors
    /// As every call here.
    pub async fn renew_region(&self, body: &RecoveryBody) -> Result<Versioned<RootChanged>, ClientError> {
        self.json(self.call(Method::POST, "/v1/ca/renew-region").with_json(body)).await
    }

    /// Makes a root that shall replace the active one.
    ///
    /// # Errors
    /// As every call here.
    pub async fn add_root(&self, body: &RecoveryBody) -> Result<Versioned<RootAdded>, ClientError> {
        self.json(self.call(Method::POST, "/v1/ca/add-root").with_json(body)).await
    }

    /// Takes a root into use that every node trusts.
    ///
    /// # Errors
    /// As every call here.
    pub async fn activate_root(&self, body: &RootBody) -> Result<Versioned<RootChanged>, ClientError> {
        self.json(self.call(Method::POST, "/v1/ca/activate-root").with_json(body)).await
    }

    /// Ends the trust in a root that retires.
    ///
    /// # Errors
    /// As every call here.
    pub async fn retire_root(&self, body: &RootBody) -> Result<Versioned<RootChanged>, ClientError> {
        self.json(self.call(Method::POST, "/v1/ca/retire-root").with_json(body)).await
    }

    /// Lets the node that answers take over what has changed in its configuration.
    ///
    /// # Errors
    /// As every call here.
    pub async fn reload(&self) -> Result<Reloaded, ClientError> {
        self.json(self.call(Method::POST, "/v1/node/reload")).await
    }

    /// Lets the node that answers look for another one at an address.
    ///
    /// # Errors
    /// As every call here.
    pub async fn find(&self, address: std::net::SocketAddr) -> Result<Found, ClientError> {
        self.json(self.call(Method::POST, "/v1/node/find").with_json(&FindBody { address })).await
    }

    /// How the node that answers is.
    ///
    /// # Errors
    /// As every call here.
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        self.get("/v1/status").await
    }

    /// What would become of what runs on a node, or in a data centre, were it lost. `kind` is `node` or `datacenter`; `name` is
    /// one that can be part of a path.
    ///
    /// # Errors
    /// As every call here.
    pub async fn loss(&self, kind: &str, name: &str) -> Result<Versioned<LossPlan>, ClientError> {
        self.get(format!("/v1/losses?{kind}={name}")).await
    }

    /// Where the next instance of a service would go, and why not elsewhere.
    ///
    /// # Errors
    /// As every call here.
    pub async fn survey(&self, service: &ServiceRef) -> Result<Versioned<PlacementSurvey>, ClientError> {
        let ServiceRef { app, service } = service;
        self.get(format!("/v1/apps/{app}/services/{service}/placement")).await
    }

    /// Whether the node that answers is as it shall be.
    ///
    /// # Errors
    /// As every call here.
    pub async fn doctor(&self) -> Result<Doctor, ClientError> {
        self.get("/v1/doctor").await
    }

    /// Whether anything answers, within `limit`.
    pub async fn is_reachable(&self, limit: Duration) -> bool {
        let reached = insula_env::clock::timeout(limit, self.status()).await;
        reached.is_ok_and(|answer| !matches!(answer, Err(ClientError::Unreachable { .. })))
    }
}

fn volume_path(volume: &VolumeRef) -> String {
    let VolumeRef { service, name, slot } = volume;
    format!("/v1/apps/{}/services/{}/volumes/{name}.{slot}", service.app, service.service)
}

/// A text as part of a query (RFC 3986, section 2).
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

fn expecting(mut call: Call, expected: Option<u64>) -> Call {
    if let Some(number) = expected {
        let value = HeaderValue::try_from(format!("\"{number}\"")).expect("digits between quotes");
        call.headers.push((header::IF_MATCH, value));
    }
    call
}
