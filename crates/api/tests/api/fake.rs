//! A handler that remembers, and a world with it on both listeners.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use insula_api::{
    Answer, BodyStream, Caller, Client, Code, Context, DeleteRequest, DeployRequest, EventStream, Events, ExecSession,
    Handler, LogOptions, LogStream, Problem, ReadOptions, RemoveNodeRequest, RestartRequest, Role, RollbackRequest,
    RunningRequest, ScaleRequest, SetSecretRequest, SteerRequest,
    handler::{Lost, NodeKey, StateKey},
    wire::{
        ApiTokenBody, ApiTokenCreated, App, AppStatus, AppSummary, CaStatus, Deleted, DeployAnswer, Deployment, Doctor,
        Event, EventCursor, FindBody, Found, Image, ImageImported, ImageRemoved, Instance, JoinTokenBody,
        JoinTokenCreated, Latency, List, LossPlan, Node, NodeDuty, NodeRemoved, NodeStatus, PlacementSurvey,
        RecoveryBody, Region, Release, ReleaseDefinition, Reloaded, RequestReport, RootAdded, RootBody, RootChanged,
        Route, Running, Scaled, Secret, SecretRemoved, SecretSet, SilentNode, Snapshot, Snapshots, Steered, Token,
        TokenRemoved, Usage, Versioned, Volume, Waiting,
    },
};
use insula_env::{Beat, Env, net};
use insula_identity::{
    AllowAll, ApiToken, Credentials, Lifetimes, Material, NodeKey as IdentityKey, RootAuthority, api_server_config,
};
use insula_types::{
    AppDefinition, AppName, ByteSize, ClusterId, DefinitionProblem, ExecExit, ExecInput, ExecOutput, ExecSpec,
    HttpRequestId, InstanceId, NodeId, RegionName, ReleaseNumber, RequestId, Revision, SecretName, ServiceName,
    ServiceRef, SnapshotName, TokenId, VolumeRef, definition::Format,
};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub const DEFINITION: &str =
    r#"{"app": "shop", "services": {"web": {"runtime": "process", "command": ["./web"], "scale": 2}}}"#;

pub fn definition() -> AppDefinition {
    AppDefinition::parse(DEFINITION, Format::Json).expect("valid")
}

/// Where nothing listens.
pub async fn dead_address() -> String {
    let listener = net::bind("127.0.0.1:0".parse().expect("address")).await.expect("bind");
    listener.local_addr().expect("address").to_string()
}

#[derive(Default)]
pub struct Fake {
    /// Tokens by their text; filled by [`World::start`].
    pub tokens: Mutex<BTreeMap<String, Role>>,
    /// Apps by name.
    pub apps: Mutex<BTreeMap<AppName, (ReleaseNumber, AppDefinition)>>,
    /// How many changes are still refused for want of a leader.
    pub leaderless: AtomicUsize,
    /// How many tokens were made before, and their answers lost.
    pub made_before: AtomicUsize,
    /// Request ids of the deploys and join tokens that came.
    pub requests: Mutex<Vec<Option<RequestId>>>,
    /// Request ids of the secrets that came.
    pub secrets: Mutex<Vec<Option<RequestId>>>,
    /// How reads were to be done.
    pub reads: Mutex<Vec<ReadOptions>>,
    /// How many events there are.
    pub events: AtomicUsize,
    /// How many event streams were opened.
    pub streams: AtomicUsize,
    /// How many commands have ended.
    pub ended_execs: Arc<AtomicUsize>,
}

impl Fake {
    /// Lets so many more events happen.
    pub fn tell(&self, count: usize) {
        self.events.fetch_add(count, Ordering::SeqCst);
    }

    /// How many event streams were opened.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }

    fn list<T>(&self, read: ReadOptions, items: Vec<T>) -> Answer<List<T>> {
        self.reads.lock().push(read);
        Ok(List { revision: Revision(1), items })
    }
}

fn versioned<T>(value: T) -> Answer<Versioned<T>> {
    Ok(Versioned { revision: Revision(1), value })
}

fn not_here<T>() -> Answer<T> {
    Err(Problem::new(Code::Internal, "the fake does not have this"))
}

#[async_trait]
impl Handler for Fake {
    async fn authenticate(&self, token: &str) -> Answer<Role> {
        let role = self.tokens.lock().get(token).copied();
        role.ok_or_else(|| Problem::new(Code::Unauthorized, "the token is unknown"))
    }

    async fn apps(&self, read: ReadOptions) -> Answer<List<AppSummary>> {
        let summary = |(name, (release, definition)): (&AppName, &(ReleaseNumber, AppDefinition))| AppSummary {
            name: name.clone(),
            release: *release,
            services: definition.services.len() as u32,
            wanted: 2,
            ready: 0,
            hosts: Vec::new(),
            released_ms: 0,
        };
        let apps = self.apps.lock().iter().map(summary).collect();
        self.list(read, apps)
    }

    async fn app(&self, app: &AppName, _: ReadOptions) -> Answer<Versioned<App>> {
        let found = self.apps.lock().get(app).cloned();
        let (release, definition) = found.ok_or_else(|| Problem::new(Code::NoSuchApp, app.to_string()))?;
        versioned(App { name: app.clone(), release, released_ms: 0, definition: definition.to_json() })
    }

    async fn deploy(&self, request: DeployRequest) -> Answer<Versioned<DeployAnswer>> {
        // Its registry is away.
        let services = request.definition.services.iter();
        let tagged = services.filter(|(_, service)| service.image().is_some_and(|image| image.digest.is_none()));
        let problem = |(name, _): (&ServiceName, _)| {
            let message = "it cannot be looked up".to_owned();
            DefinitionProblem { path: format!("services.{name}.image"), line: 0, column: 0, message }
        };
        let problems: Vec<_> = tagged.map(problem).collect();
        if !problems.is_empty() {
            return Err(Problem { problems, may_pass: true, ..Problem::new(Code::UnresolvedImage, "") });
        }
        let mut apps = self.apps.lock();
        let name = request.definition.app.clone();
        let current = apps.get(&name).cloned();
        let previous = current.as_ref().map(|(release, _)| *release);
        let release = ReleaseNumber(previous.map_or(0, |release| release.0) + 1);
        if !request.is_plan {
            self.requests.lock().push(request.request);
            if self.leaderless.load(Ordering::SeqCst) > 0 {
                self.leaderless.fetch_sub(1, Ordering::SeqCst);
                return Err(Problem::new(Code::NoLeader, "an election is on"));
            }
            if request.expected.is_some_and(|expected| expected != previous.unwrap_or_default()) {
                return Err(Problem::new(Code::ReleaseChanged, format!("it has {previous:?}")));
            }
            apps.insert(name.clone(), (release, request.definition.clone()));
        }
        let changes = insula_api::changes(current.as_ref().map(|(_, definition)| definition), &request.definition);
        versioned(DeployAnswer {
            app: name,
            release,
            previous,
            changes,
            regions: Vec::new(),
            is_plan: request.is_plan,
            resolved: Vec::new(),
            warnings: Vec::new(),
            hooks: Vec::new(),
        })
    }

    async fn delete_app(&self, request: DeleteRequest) -> Answer<Versioned<Deleted>> {
        match self.apps.lock().remove(&request.app) {
            Some(_) => versioned(Deleted { app: request.app, instances: 2 }),
            None => Err(Problem::new(Code::NoSuchApp, request.app.to_string())),
        }
    }

    async fn app_status(&self, _: &AppName, _: ReadOptions) -> Answer<Versioned<AppStatus>> {
        not_here()
    }

    async fn secrets(&self, _: &AppName, read: ReadOptions) -> Answer<List<Secret>> {
        self.list(read, Vec::new())
    }

    async fn set_secret(&self, request: SetSecretRequest) -> Answer<Versioned<SecretSet>> {
        let SetSecretRequest { app, name, caller, request, .. } = request;
        self.secrets.lock().push(request);
        let version = if caller == Caller::Root { 1 } else { 2 };
        Ok(Versioned { revision: Revision(1), value: SecretSet { app, name, version, running: None } })
    }

    async fn remove_secret(&self, _: AppName, _: SecretName, _: Option<RequestId>) -> Answer<Versioned<SecretRemoved>> {
        not_here()
    }

    async fn scale(&self, request: ScaleRequest) -> Answer<Versioned<Scaled>> {
        self.requests.lock().push(request.request);
        not_here()
    }

    async fn instances(&self, _: Option<&AppName>, read: ReadOptions) -> Answer<List<Instance>> {
        self.list(read, Vec::new())
    }

    async fn waiting(&self, read: ReadOptions) -> Answer<List<Waiting>> {
        self.list(read, Vec::new())
    }

    async fn routes(&self, read: ReadOptions) -> Answer<List<Route>> {
        self.list(read, Vec::new())
    }

    async fn instance(&self, id: InstanceId, _: ReadOptions) -> Answer<Versioned<Instance>> {
        Err(Problem::new(Code::NoSuchInstance, id.to_string()))
    }

    /// Instance 1 has a log, that of 2 breaks off, others are not there.
    async fn logs(&self, id: InstanceId, options: LogOptions) -> Answer<LogStream> {
        let LogOptions { tail, since_ms, follow } = options;
        let first = format!("tail {} since {} follow {follow}\n", tail.unwrap_or(0), since_ms.unwrap_or(0));
        let last = match id.get() {
            1 => Ok(Bytes::from("end\n")),
            2 => Err(std::io::Error::other("the node is gone")),
            _ => return Err(Problem::new(Code::NoSuchInstance, id.to_string())),
        };
        // Waiting once lets the first piece out before the second is asked for.
        let later = futures::stream::once(async {
            tokio::task::yield_now().await;
            last
        });
        Ok(futures::stream::iter([Ok(Bytes::from(first))]).chain(later).boxed())
    }

    async fn exec(&self, id: InstanceId, spec: ExecSpec) -> Answer<ExecSession> {
        if spec.command != ["echo"] {
            return Err(Problem::new(Code::Conflict, format!("{id} does not run")));
        }
        let (session, mut far) = ExecSession::new();
        let ended = Arc::clone(&self.ended_execs);
        #[allow(clippy::disallowed_methods, reason = "ends with the session")]
        tokio::spawn(async move {
            // Says what it hears, and ends when it hears no more.
            while let Some(input) = far.input.recv().await {
                let output = match input {
                    ExecInput::Data(data) => ExecOutput::Stdout(data),
                    ExecInput::End => ExecOutput::Exit(ExecExit::Code(7)),
                    other => ExecOutput::Stderr(format!("{other:?}").into_bytes()),
                };
                if far.output.send(output.clone()).await.is_err() || matches!(output, ExecOutput::Exit(_)) {
                    break;
                }
            }
            ended.fetch_add(1, Ordering::SeqCst);
        });
        Ok(session)
    }

    async fn run(&self, service: ServiceRef, spec: ExecSpec) -> Answer<ExecSession> {
        if service.to_string() != "shop/web" {
            return Err(Problem::new(Code::NoSuchService, service.to_string()));
        }
        let (session, far) = ExecSession::new();
        let ended = Arc::clone(&self.ended_execs);
        #[allow(clippy::disallowed_methods, reason = "ends with the session")]
        tokio::spawn(async move {
            // Never comes so far that it runs, unless it is asked for a word.
            let outputs = match spec.command.first().map(String::as_str) {
                Some("echo") => vec![ExecOutput::Started, ExecOutput::Exit(ExecExit::Code(7))],
                Some("fail") => vec![ExecOutput::Failed("no image".to_owned())],
                _ => Vec::new(),
            };
            for output in outputs {
                far.output.send(output).await.ok();
            }
            far.output.closed().await;
            ended.fetch_add(1, Ordering::SeqCst);
        });
        Ok(session)
    }

    async fn releases(&self, _: &AppName, read: ReadOptions) -> Answer<List<Release>> {
        self.list(read, Vec::new())
    }

    async fn release(&self, _: &AppName, _: ReleaseNumber, _: ReadOptions) -> Answer<Versioned<ReleaseDefinition>> {
        not_here()
    }

    async fn usage(&self, app: Option<&AppName>, most: u32) -> Answer<Usage> {
        Err(Problem::new(Code::NoSuchApp, format!("{app:?} {most}")))
    }

    async fn latency(&self, with_nodes: bool) -> Answer<Latency> {
        let (region, nodes) = ("fra".parse().expect("a name"), Vec::new());
        let silent = with_nodes.then(|| SilentNode {
            node: NodeId::new(1),
            name: "n1".parse().expect("a name"),
            why: "is down".to_owned(),
        });
        Ok(Latency { region, regions: Vec::new(), nodes, silent: silent.into_iter().collect() })
    }

    async fn request(&self, id: &HttpRequestId) -> Answer<RequestReport> {
        Err(Problem::new(Code::NoSuchRequest, id.to_string()))
    }

    async fn restart(&self, request: RestartRequest) -> Answer<Versioned<DeployAnswer>> {
        let service = request.service.map_or_else(|| "all".to_owned(), |service| service.to_string());
        Err(Problem::new(Code::NoSuchService, service))
    }

    async fn set_running(&self, request: RunningRequest) -> Answer<Versioned<Running>> {
        let stopped = request.service.into_iter().filter(|_| !request.is_running).collect();
        Ok(Versioned { revision: Revision(1), value: Running { app: request.app, stopped, is_new: true } })
    }

    async fn rollback(&self, request: RollbackRequest) -> Answer<Versioned<DeployAnswer>> {
        let to = request.to.map_or_else(|| "none".to_owned(), |to| to.to_string());
        Err(Problem::new(Code::NoSuchRelease, to))
    }

    async fn deployments(&self, _: &AppName, read: ReadOptions) -> Answer<List<Deployment>> {
        self.list(read, Vec::new())
    }

    async fn steer(&self, _: SteerRequest) -> Answer<Versioned<Steered>> {
        not_here()
    }

    async fn images(&self, read: ReadOptions) -> Answer<List<Image>> {
        self.list(read, Vec::new())
    }

    /// Counts what comes; what is called `refused` only after its first piece.
    async fn import_image(&self, name: Option<&str>, archive: &mut BodyStream) -> Answer<ImageImported> {
        let mut size_bytes = 0;
        while let Some(piece) = archive.next().await {
            let piece = piece.map_err(|error| Problem::new(Code::InvalidImage, format!("it broke off: {error}")))?;
            size_bytes += piece.len() as u64;
            if name == Some("refused") {
                return Err(Problem::new(Code::InvalidImage, "it is no image"));
            }
        }
        let (image, node, node_name) =
            (name.unwrap_or("nobody").to_owned(), NodeId::new(1), "n1".parse().expect("a name"));
        Ok(ImageImported { image, size_bytes, new_bytes: 0, node, node_name })
    }

    async fn remove_image(&self, _: &str) -> Answer<Versioned<ImageRemoved>> {
        not_here()
    }

    async fn volumes(&self, read: ReadOptions) -> Answer<List<Volume>> {
        self.list(read, Vec::new())
    }

    async fn create_volume(
        &self,
        _: VolumeRef,
        _: &NodeKey,
        _: ByteSize,
        _: Option<RequestId>,
    ) -> Answer<Versioned<Volume>> {
        not_here()
    }

    async fn resize_volume(&self, _: VolumeRef, _: ByteSize, _: Option<RequestId>) -> Answer<Versioned<Volume>> {
        not_here()
    }

    async fn snapshots(&self, read: ReadOptions) -> Answer<Snapshots> {
        let List { revision, items } = self.list(read, Vec::new())?;
        Ok(Snapshots { revision, items, silent: Vec::new() })
    }

    async fn create_snapshot(&self, _: VolumeRef, _: SnapshotName) -> Answer<Versioned<Snapshot>> {
        not_here()
    }

    async fn restore_snapshot(&self, _: VolumeRef, _: SnapshotName) -> Answer<Versioned<Volume>> {
        not_here()
    }

    async fn delete_snapshot(&self, _: VolumeRef, _: SnapshotName) -> Answer<Versioned<Snapshot>> {
        not_here()
    }

    async fn delete_volume(&self, _: VolumeRef, _: Option<RequestId>) -> Answer<Versioned<Volume>> {
        not_here()
    }

    async fn nodes(&self, read: ReadOptions) -> Answer<List<Node>> {
        self.list(read, Vec::new())
    }

    async fn node(&self, key: &NodeKey, _: ReadOptions) -> Answer<Versioned<Node>> {
        Err(Problem::new(Code::NoSuchNode, format!("{key:?}")))
    }

    async fn regions(&self, read: ReadOptions) -> Answer<List<Region>> {
        self.list(read, Vec::new())
    }

    /// Two events at most; then the connection ends.
    async fn events(&self, events: Events) -> Answer<EventStream> {
        self.streams.fetch_add(1, Ordering::SeqCst);
        let since = events.since.unwrap_or_default();
        if since == EventCursor::default() {
            return Err(Problem::new(Code::EventsGone, "the first ones are not kept"));
        }
        let event = |revision| Event {
            id: EventCursor { revision: Revision(revision), place: 0 },
            at_ms: 0,
            kind: "note".to_owned(),
            text: "something\nhappened".to_owned(),
            node: None,
            app: None,
            instance: None,
        };
        let last = self.events.load(Ordering::SeqCst) as u64;
        let after = move |event: &Event| event.id > since;
        Ok(futures::stream::iter((1..=last).map(event).filter(after).take(2).map(Ok).collect::<Vec<_>>()).boxed())
    }

    async fn create_join_token(
        &self,
        body: JoinTokenBody,
        request: Option<RequestId>,
    ) -> Answer<Versioned<JoinTokenCreated>> {
        self.requests.lock().push(request);
        let one_less = |left: usize| left.checked_sub(1);
        if self.made_before.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Err(Problem::new(Code::AlreadyDone, "its answer was lost"));
        }
        let region = RegionName::new("fra").expect("a label");
        let token = "insula-join-1.x".to_owned();
        versioned(JoinTokenCreated { token, id: "x".to_owned(), region, expires_ms: body.ttl_ms, uses: body.uses })
    }

    async fn create_api_token(&self, _: ApiTokenBody, _: Option<RequestId>) -> Answer<Versioned<ApiTokenCreated>> {
        not_here()
    }

    /// Pieces for the region; the global state breaks off.
    async fn backup(&self, state: StateKey) -> Answer<LogStream> {
        let last = match state {
            StateKey::Region => Ok(Bytes::from("end")),
            StateKey::Global => Err(std::io::Error::other("the node is gone")),
        };
        let later = futures::stream::once(async {
            tokio::task::yield_now().await;
            last
        });
        Ok(futures::stream::iter([Ok(Bytes::from("a state, "))]).chain(later).boxed())
    }

    async fn tokens(&self, read: ReadOptions) -> Answer<List<Token>> {
        self.list(read, Vec::new())
    }

    async fn remove_token(&self, id: TokenId, _: Option<RequestId>) -> Answer<Versioned<TokenRemoved>> {
        Err(Problem::new(Code::NoSuchToken, id.to_string()))
    }

    async fn authorities(&self, _: ReadOptions) -> Answer<Versioned<CaStatus>> {
        not_here()
    }

    async fn renew_region(&self, _: RecoveryBody) -> Answer<Versioned<RootChanged>> {
        not_here()
    }

    async fn add_root(&self, _: RecoveryBody) -> Answer<Versioned<RootAdded>> {
        not_here()
    }

    async fn activate_root(&self, _: RootBody) -> Answer<Versioned<RootChanged>> {
        not_here()
    }

    async fn retire_root(&self, _: RootBody) -> Answer<Versioned<RootChanged>> {
        not_here()
    }

    async fn status(&self) -> Answer<NodeStatus> {
        not_here()
    }

    async fn set_node_duty(&self, _: &NodeKey, _: NodeDuty, _: Option<RequestId>) -> Answer<Versioned<Node>> {
        not_here()
    }

    async fn remove_node(&self, request: RemoveNodeRequest) -> Answer<Versioned<NodeRemoved>> {
        let said = format!("{:?} at {}, forced: {}", request.node, request.expected, request.is_forced);
        Err(Problem::new(Code::Conflict, said))
    }

    async fn loss(&self, lost: Lost) -> Answer<Versioned<LossPlan>> {
        Err(Problem::new(Code::Conflict, format!("{lost:?}")))
    }

    async fn survey(&self, service: ServiceRef) -> Answer<Versioned<PlacementSurvey>> {
        Ok(Versioned { revision: Revision(1), value: PlacementSurvey { service, nodes: Vec::new(), waiting: None } })
    }

    async fn doctor(&self) -> Answer<Doctor> {
        not_here()
    }

    async fn reload(&self) -> Answer<Reloaded> {
        not_here()
    }

    async fn find(&self, _: FindBody) -> Answer<Found> {
        not_here()
    }
}

/// A fake node with both listeners.
pub struct World {
    pub env: Env,
    pub fake: Arc<Fake>,
    pub dir: tempfile::TempDir,
    /// Answers of both listeners, as they were counted.
    pub requests: Arc<insula_api::Requests>,
    address: String,
    ca_sha256: String,
    tokens: BTreeMap<&'static str, String>,
}

impl World {
    pub async fn start(fake: Fake) -> Self {
        let env = Env::real("test");
        let dir = tempfile::tempdir().expect("directory");
        let mut tokens = BTreeMap::new();
        for (name, role) in [
            ("viewer-token", Some(Role::Viewer)),
            ("deployer-token", Some(Role::Deployer)),
            ("admin-token", Some(Role::Admin)),
            ("nobody", None),
        ] {
            let token = ApiToken::new(&env.rng).reveal();
            if let Some(role) = role {
                fake.tokens.lock().insert(token.clone(), role);
            }
            tokens.insert(name, token);
        }
        let fake = Arc::new(fake);
        let root = RootAuthority::create(ClusterId::new(1), &Lifetimes::default(), env.clock.wall()).expect("root");
        let tls = api_server_config(&material(&env, &root)).expect("TLS");
        let listener = net::bind("127.0.0.1:0".parse().expect("address")).await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let socket = net::bind_unix(&dir.path().join("api.sock")).expect("bind");
        let tasks = &env.tasks;
        let requests = Arc::<insula_api::Requests>::default();
        let (counted, beat) = (|| Arc::clone(&requests), Beat::unwatched);
        tasks.spawn("tls", insula_api::serve_tls(listener, tls, fake.clone(), counted(), tasks.clone(), beat()));
        tasks.spawn("socket", insula_api::serve_unix(socket, fake.clone(), counted(), tasks.clone(), beat()));
        Self { requests, env, fake, dir, address, ca_sha256: root.hash().to_string(), tokens }
    }

    pub fn context(&self, token: &str) -> Context {
        Context {
            addresses: vec![self.address.clone()],
            ca_sha256: self.ca_sha256.clone(),
            token: self.tokens[token].clone(),
        }
    }

    /// A caller over TLS with a token by its name here.
    pub fn client(&self, token: &str) -> Client {
        Client::from_context(self.env.clone(), &self.context(token)).expect("well-formed")
    }

    pub fn local(&self) -> Client {
        Client::from_socket(self.env.clone(), self.dir.path().join("api.sock"))
    }

    /// Sends a request as text over the socket; gives the answer as text.
    pub async fn raw(&self, request: &str, body: &str) -> String {
        let socket = self.dir.path().join("api.sock");
        let stream = net::connect_unix(&socket, Duration::from_secs(5)).await.expect("connect");
        exchange(stream, request, "", body).await
    }

    /// The same over TLS, with a token of this text.
    pub async fn raw_tls(&self, request: &str, token: Option<&str>, body: &str) -> String {
        let address = self.address.parse().expect("address");
        let stream = net::connect(address, Duration::from_secs(5)).await.expect("connect");
        let root = self.ca_sha256.parse().expect("hash");
        let config = insula_identity::api_client_config(vec![root], self.env.clock.clone()).expect("TLS");
        let connector = tokio_rustls::TlsConnector::from(config);
        let stream = connector.connect(insula_identity::server_name(), stream).await.expect("handshake");
        let header = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        exchange(stream, request, &header, body).await
    }

    /// The text of a token by its name here.
    pub fn token(&self, name: &str) -> &str {
        &self.tokens[name]
    }

    pub async fn stop(self) {
        assert!(self.env.tasks.join(Duration::from_secs(10)).await, "tasks go on: {:?}", self.env.tasks.list());
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &str, header: &str, body: &str) -> String {
    let length = body.len();
    let head =
        format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}Content-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("write");
    // Programs give up when they cannot send, whatever the answer would be.
    stream.write_all(body.as_bytes()).await.expect("it is read, wanted or not");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    read.expect("in time").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn material(env: &Env, root: &RootAuthority) -> Material {
    let (lifetimes, now) = (Lifetimes::default(), env.clock.wall());
    let region = root.issue_region(&RegionName::new("fra").expect("a label"), &lifetimes, now).expect("region");
    let key = IdentityKey::generate(&env.rng).expect("key");
    let chain = region.issue_node(&key.request().expect("request"), key.id(), &[], &lifetimes, now).expect("issue");
    let credentials = Credentials { key, chain, roots: vec![root.certificate().clone()] };
    Material::new(&credentials, env.clock.clone(), Arc::new(AllowAll)).expect("material")
}
