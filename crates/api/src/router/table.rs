//! Every endpoint, once: the router and the description of the API (OpenAPI) are both made from this table.

use axum::{
    handler::Handler,
    middleware,
    routing::{MethodFilter, MethodRouter, on},
};
use insula_types::{
    AppDefinition, AppName, ExecSpec, HttpRequestId, InstanceId, SecretName, ServiceName, SnapshotName, TokenId,
    definition::DEFINITION_LEN_MAX,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    BODY_LEN_MAX, Shared, allow, described, endpoints, exec,
    once::{self, Answers, Hides, Once},
    query::{
        EventQuery, ImageQuery, ImportQuery, LatencyQuery, LogQuery, LossQuery, PlanQuery, ReadQuery, RemoveQuery,
        UsageQuery,
    },
};
use crate::{
    Role,
    wire::{
        ApiTokenBody, ApiTokenCreated, App, AppStatus, AppSummary, CaStatus, Deleted, DeployAnswer, Deployment, Doctor,
        DutyBody, FindBody, Found, Image, ImageImported, ImageRemoved, Instance, JoinTokenBody, JoinTokenCreated,
        Latency, List, LossPlan, Node, NodeRemoved, NodeStatus, PlacementSurvey, RecoveryBody, Region, Release,
        ReleaseDefinition, Reloaded, RequestReport, RestartBody, RollbackBody, RootAdded, RootBody, RootChanged,
        Running, RunningBody, ScaleBody, Scaled, Secret, SecretBody, SecretRemoved, SecretSet, Snapshot, SnapshotBody,
        Snapshots, Steered, SteeringBody, Token, TokenRemoved, Usage, Versioned, Volume, VolumeBody, VolumeSizeBody,
        Waiting,
    },
};

/// Makes the schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The methods there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Put,
    Post,
    Delete,
}

impl Verb {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }

    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Put => MethodFilter::PUT,
            Self::Post => MethodFilter::POST,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Least {
    /// The least role.
    pub(super) role: Role,
    /// The least role where the query says `plan=true`, for an endpoint that has that.
    pub(super) to_plan: Option<Role>,
}

/// A header that an endpoint reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// Names the request.
    IdempotencyKey,
    /// The release that the caller saw.
    IfMatchRelease,
    /// The revision that the caller saw; has to be there.
    IfMatchRevision,
    /// Where a stream of events goes on.
    LastEventId,
}

/// What an endpoint takes as a body.
pub(super) enum Takes {
    Nothing,
    /// JSON of this shape, at most so many bytes.
    Json(SchemaOf, usize),
    /// Any bytes, as they come.
    Bytes,
}

/// What an endpoint answers when all is well.
pub(super) enum Gives {
    Json(SchemaOf),
    /// Lines, as they come.
    Text,
    /// Server-sent events with JSON of this shape, as they come.
    Events(SchemaOf),
    /// Bytes, as they come.
    Bytes,
    /// Another protocol on the same connection.
    Session,
}

/// Makes the endpoint as the router takes it.
type Route = Box<dyn FnOnce(Least, Option<(Once, Answers)>) -> MethodRouter<Shared>>;

/// An endpoint under one method.
pub(super) struct Row {
    pub(super) verb: Verb,
    /// With its parameters in braces; their shapes: [`parameter`].
    pub(super) path: &'static str,
    pub(super) least: Least,
    /// One sentence.
    pub(super) summary: &'static str,
    pub(super) query: Option<SchemaOf>,
    pub(super) headers: Vec<Header>,
    pub(super) takes: Takes,
    pub(super) gives: Gives,
    /// Where its requests have secrets; none: it takes no `Idempotency-Key`.
    hides: Option<Hides>,
    route: Route,
}

impl Row {
    fn new<H, T>(verb: Verb, path: &'static str, role: Role, summary: &'static str, handler: H) -> Self
    where
        H: Handler<T, Shared>,
        T: 'static,
    {
        let route = move |least, once| {
            let allow = middleware::from_fn_with_state(least, allow);
            match once {
                // The last is the first that a request meets.
                Some(once) => {
                    let once = middleware::from_fn_with_state(once, once::once);
                    on(verb.filter(), handler.layer(once).layer(allow))
                }
                None => on(verb.filter(), handler.layer(allow)),
            }
        };
        let gives = Gives::Json(schema_of::<serde_json::Value>);
        let least = Least { role, to_plan: None };
        let (query, headers, takes) = (None, Vec::new(), Takes::Nothing);
        Self { verb, path, least, summary, query, headers, takes, gives, hides: None, route: Box::new(route) }
    }

    /// The endpoint as the router takes it.
    pub(super) fn into_route(self, answers: &Answers) -> MethodRouter<Shared> {
        let body_len_max = match self.takes {
            Takes::Json(_, most) => most,
            Takes::Nothing | Takes::Bytes => BODY_LEN_MAX,
        };
        let once = self.hides.map(|hides| (Once { body_len_max, hides }, answers.clone()));
        (self.route)(self.least, once)
    }

    fn query<Q: JsonSchema>(self) -> Self {
        Self { query: Some(Q::json_schema), ..self }
    }

    /// A plan is for `role`, too.
    fn plan_by(self, role: Role) -> Self {
        Self { least: Least { to_plan: Some(role), ..self.least }, ..self.query::<PlanQuery>() }
    }

    fn header(mut self, header: Header) -> Self {
        self.headers.push(header);
        self
    }

    /// It is done once under one `Idempotency-Key`.
    fn once(self) -> Self {
        self.once_hiding(Hides::Nothing)
    }

    /// The same with a secret somewhere.
    fn once_hiding(self, hides: Hides) -> Self {
        Self { hides: Some(hides), ..self }.header(Header::IdempotencyKey)
    }

    fn takes<B: JsonSchema>(self) -> Self {
        self.takes_long::<B>(BODY_LEN_MAX)
    }

    fn takes_long<B: JsonSchema>(self, most: usize) -> Self {
        Self { takes: Takes::Json(schema_of::<B>, most), ..self }
    }

    fn takes_bytes(self) -> Self {
        Self { takes: Takes::Bytes, ..self }
    }

    fn gives<A: JsonSchema>(self) -> Self {
        Self { gives: Gives::Json(schema_of::<A>), ..self }
    }

    /// A read of one thing: its own fields beside the revision.
    fn reads<A: JsonSchema>(self) -> Self {
        self.query::<ReadQuery>().gives::<Versioned<A>>()
    }

    fn lists<A: JsonSchema>(self) -> Self {
        self.query::<ReadQuery>().gives::<List<A>>()
    }

    fn changed<A: JsonSchema>(self) -> Self {
        self.gives::<Versioned<A>>()
    }

    fn streams(self, gives: Gives) -> Self {
        Self { gives, ..self }
    }
}

/// Declares a constructor for each method.
macro_rules! verbs {
    ($($name:ident: $verb:ident),*) => {$(
        fn $name<H, T>(path: &'static str, role: Role, summary: &'static str, handler: H) -> Row
        where
            H: Handler<T, Shared>,
            T: 'static,
        {
            Row::new(Verb::$verb, path, role, summary, handler)
        }
    )*};
}
verbs!(get: Get, put: Put, post: Post, delete: Delete);

/// The shape of a parameter of paths.
pub(super) fn parameter(name: &str, generator: &mut SchemaGenerator) -> Option<Schema> {
    Some(match name {
        "app" => generator.subschema_for::<AppName>(),
        "service" => generator.subschema_for::<ServiceName>(),
        "secret" => generator.subschema_for::<SecretName>(),
        "instance" => generator.subschema_for::<InstanceId>(),
        "release" => {
            json_schema!({ "type": "integer", "description": "The number of a release.", "minimum": 0, "maximum": u64::MAX })
        }
        "request" => generator.subschema_for::<HttpRequestId>(),
        "snapshot" => generator.subschema_for::<SnapshotName>(),
        "token" => generator.subschema_for::<TokenId>(),
        "node" => json_schema!({
            "type": "string",
            "description": "A node, by exact id or name.",
            "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        }),
        "volume" => json_schema!({
            "type": "string",
            "description": "A volume of the service, with its slot: name.slot.",
            "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.(0|[1-9][0-9]{0,8})$",
        }),
        "state" => json_schema!({ "type": "string", "enum": ["region", "global"] }),
        _ => return None,
    })
}

/// Every endpoint of the API.
pub(super) fn rows() -> Vec<Row> {
    [apps(), instances(), volumes(), nodes(), tokens(), authorities(), here()].into_iter().flatten().collect()
}

fn apps() -> Vec<Row> {
    use Role::{Deployer, Viewer};
    vec![
        get("/v1/apps", Viewer, "All apps", endpoints::apps).lists::<AppSummary>(),
        get("/v1/apps/{app}", Viewer, "An app with its definition", endpoints::app).reads::<App>(),
        put(
            "/v1/apps/{app}",
            Deployer,
            "Makes a release of a definition, or says what it would change",
            endpoints::deploy,
        )
        .plan_by(Viewer)
        .header(Header::IfMatchRelease)
        .once()
        .takes_long::<AppDefinition>(DEFINITION_LEN_MAX)
        .changed::<DeployAnswer>(),
        delete("/v1/apps/{app}", Deployer, "Removes an app", endpoints::delete_app)
            .header(Header::IfMatchRelease)
            .once()
            .changed::<Deleted>(),
        get("/v1/apps/{app}/status", Viewer, "How an app is in this region", endpoints::app_status)
            .reads::<AppStatus>(),
        get(
            "/v1/apps/{app}/releases",
            Viewer,
            "The releases of an app that are kept, the newest first",
            endpoints::releases,
        )
        .lists::<Release>(),
        get("/v1/apps/{app}/releases/{release}", Viewer, "A release with its definition", endpoints::release)
            .reads::<ReleaseDefinition>(),
        post("/v1/apps/{app}/rollback", Deployer, "Makes a release of what an earlier one was", endpoints::rollback)
            .plan_by(Viewer)
            .header(Header::IfMatchRelease)
            .once()
            .takes::<RollbackBody>()
            .changed::<DeployAnswer>(),
        post("/v1/apps/{app}/restart", Deployer, "Makes a release of new instances of what runs", endpoints::restart)
            .plan_by(Viewer)
            .header(Header::IfMatchRelease)
            .once()
            .takes::<RestartBody>()
            .changed::<DeployAnswer>(),
        post(
            "/v1/apps/{app}/running",
            Deployer,
            "Stops services of an app, or lets them run again",
            endpoints::set_running,
        )
        .once()
        .takes::<RunningBody>()
        .changed::<Running>(),
        get("/v1/apps/{app}/deployments", Viewer, "How far regions are with an app's release", endpoints::deployments)
            .lists::<Deployment>(),
        post(
            "/v1/apps/{app}/deployments",
            Deployer,
            "Pauses, resumes, promotes or aborts a deployment",
            endpoints::steer,
        )
        .header(Header::IfMatchRelease)
        .once()
        .takes::<SteeringBody>()
        .changed::<Steered>(),
        get("/v1/apps/{app}/instances", Viewer, "Instances of an app", endpoints::app_instances).lists::<Instance>(),
        put("/v1/apps/{app}/services/{service}/scale", Deployer, "Sets the scale of a service", endpoints::scale)
            .once()
            .takes::<ScaleBody>()
            .changed::<Scaled>(),
        post(
            "/v1/apps/{app}/services/{service}/run",
            Deployer,
            "Runs a command in an instance that is made for it",
            exec::run,
        )
        .takes_long::<ExecSpec>(exec::SPEC_LEN_MAX)
        .streams(Gives::Session),
        get("/v1/apps/{app}/secrets", Viewer, "Secrets of an app, without their values", endpoints::secrets)
            .lists::<Secret>(),
        put(
            "/v1/apps/{app}/secrets/{secret}",
            Deployer,
            "Gives a secret a value, which the next release gets",
            endpoints::set_secret,
        )
        .once_hiding(Hides::Body)
        .takes_long::<SecretBody>(endpoints::SECRET_BODY_LEN_MAX)
        .changed::<SecretSet>(),
        delete("/v1/apps/{app}/secrets/{secret}", Deployer, "Removes a secret", endpoints::remove_secret)
            .once()
            .changed::<SecretRemoved>(),
    ]
}

fn instances() -> Vec<Row> {
    use Role::{Admin, Deployer, Viewer};
    vec![
        get("/v1/instances", Viewer, "Instances of this region", endpoints::instances).lists::<Instance>(),
        get("/v1/waiting", Viewer, "What losses of nodes have left without a place", endpoints::waiting)
            .lists::<Waiting>(),
        get("/v1/routes", Viewer, "What the edges of this region bring where", endpoints::routes)
            .lists::<crate::wire::Route>(),
        get("/v1/instances/{instance}", Viewer, "An instance", endpoints::instance).reads::<Instance>(),
        get("/v1/instances/{instance}/logs", Viewer, "What an instance wrote", endpoints::logs)
            .query::<LogQuery>()
            .streams(Gives::Text),
        post("/v1/instances/{instance}/exec", Deployer, "Runs a command in an instance", exec::exec)
            .takes_long::<ExecSpec>(exec::SPEC_LEN_MAX)
            .streams(Gives::Session),
        get("/v1/images", Viewer, "Images that nodes of this region have", endpoints::images).lists::<Image>(),
        post(
            "/v1/images",
            Deployer,
            "Takes an image in from an OCI or Docker archive, on the node that answers",
            endpoints::import_image,
        )
        .query::<ImportQuery>()
        .takes_bytes()
        .gives::<ImageImported>(),
        delete("/v1/images", Admin, "Removes an image from all nodes", endpoints::remove_image)
            .query::<ImageQuery>()
            .changed::<ImageRemoved>(),
    ]
}

fn volumes() -> Vec<Row> {
    use Role::{Admin, Deployer, Viewer};
    const VOLUME: &str = "/v1/apps/{app}/services/{service}/volumes/{volume}";
    const SNAPSHOTS: &str = "/v1/apps/{app}/services/{service}/volumes/{volume}/snapshots";
    const SNAPSHOT: &str = "/v1/apps/{app}/services/{service}/volumes/{volume}/snapshots/{snapshot}";
    const RESTORE: &str = "/v1/apps/{app}/services/{service}/volumes/{volume}/snapshots/{snapshot}/restore";
    vec![
        get("/v1/volumes", Viewer, "Volumes of this region", endpoints::volumes).lists::<Volume>(),
        post("/v1/volumes", Deployer, "Sets a volume aside before an instance needs it", endpoints::create_volume)
            .once()
            .takes::<VolumeBody>()
            .changed::<Volume>(),
        put(VOLUME, Deployer, "Makes a volume larger", endpoints::resize_volume)
            .once()
            .takes::<VolumeSizeBody>()
            .changed::<Volume>(),
        delete(VOLUME, Admin, "Deletes a volume with all that is in it", endpoints::delete_volume)
            .once()
            .changed::<Volume>(),
        get("/v1/snapshots", Viewer, "Snapshots of volumes", endpoints::snapshots)
            .query::<ReadQuery>()
            .gives::<Snapshots>(),
        post(SNAPSHOTS, Deployer, "Copies a volume on its node's disk", endpoints::create_snapshot)
            .takes::<SnapshotBody>()
            .changed::<Snapshot>(),
        delete(SNAPSHOT, Admin, "Deletes a snapshot", endpoints::delete_snapshot).changed::<Snapshot>(),
        // What the volume has now is lost, as when it is deleted.
        post(RESTORE, Admin, "Gives a volume back what it had", endpoints::restore_snapshot).changed::<Volume>(),
    ]
}

fn nodes() -> Vec<Row> {
    use Role::{Admin, Viewer};
    vec![
        get("/v1/nodes", Viewer, "Nodes of this region", endpoints::nodes).lists::<Node>(),
        get("/v1/nodes/{node}", Viewer, "A node", endpoints::node).reads::<Node>(),
        delete("/v1/nodes/{node}", Admin, "Removes a node for ever", endpoints::remove_node)
            .query::<RemoveQuery>()
            .header(Header::IfMatchRevision)
            .once()
            .changed::<NodeRemoved>(),
        put("/v1/nodes/{node}/duty", Admin, "Says what a node shall do", endpoints::set_node_duty)
            .once()
            .takes::<DutyBody>()
            .changed::<Node>(),
        get(
            "/v1/apps/{app}/services/{service}/placement",
            Viewer,
            "Where the next instance of a service would go, and why not elsewhere",
            endpoints::survey,
        )
        .changed::<PlacementSurvey>(),
        get("/v1/losses", Viewer, "What would become of what runs on nodes, were they lost", endpoints::loss)
            .query::<LossQuery>()
            .changed::<LossPlan>(),
        get("/v1/usage", Viewer, "What nodes and instances of this region use now", endpoints::usage)
            .query::<UsageQuery>()
            .gives::<Usage>(),
        get(
            "/v1/requests/{request}",
            Viewer,
            "What became of a request to the edges of this region",
            endpoints::request,
        )
        .gives::<RequestReport>(),
        get("/v1/regions", Viewer, "All regions", endpoints::regions).lists::<Region>(),
        get("/v1/latency", Viewer, "Round trips between regions, as one node of each tells", endpoints::latency)
            .query::<LatencyQuery>()
            .gives::<Latency>(),
        get("/v1/events", Viewer, "What happened in this region", endpoints::events)
            .query::<EventQuery>()
            .header(Header::LastEventId)
            .streams(Gives::Events(schema_of::<crate::wire::Event>)),
    ]
}

fn tokens() -> Vec<Row> {
    use Role::Admin;
    vec![
        post("/v1/tokens/join", Admin, "Makes a token with which machines join", endpoints::create_join_token)
            .once_hiding(Hides::Answer)
            .takes::<JoinTokenBody>()
            .changed::<JoinTokenCreated>(),
        post("/v1/tokens/api", Admin, "Makes a token for the API", endpoints::create_api_token)
            .once_hiding(Hides::Answer)
            .takes::<ApiTokenBody>()
            .changed::<ApiTokenCreated>(),
        get("/v1/tokens", Admin, "All tokens, without their secrets", endpoints::tokens).lists::<Token>(),
        delete("/v1/tokens/{token}", Admin, "Ends a token", endpoints::remove_token).once().changed::<TokenRemoved>(),
    ]
}

fn authorities() -> Vec<Row> {
    use Role::{Admin, Viewer};
    vec![
        get("/v1/ca", Viewer, "Which roots there are, and how far the nodes are", endpoints::authorities)
            .reads::<CaStatus>(),
        post("/v1/ca/renew-region", Admin, "Lets the active root sign the region's CA anew", endpoints::renew_region)
            .takes::<RecoveryBody>()
            .changed::<RootChanged>(),
        post("/v1/ca/add-root", Admin, "Makes a root that shall replace the active one", endpoints::add_root)
            .takes::<RecoveryBody>()
            .changed::<RootAdded>(),
        post("/v1/ca/activate-root", Admin, "Takes a root into use that every node trusts", endpoints::activate_root)
            .takes::<RootBody>()
            .changed::<RootChanged>(),
        post("/v1/ca/retire-root", Admin, "Ends the trust in a root", endpoints::retire_root)
            .takes::<RootBody>()
            .changed::<RootChanged>(),
    ]
}

/// Of the node that answers, which needs no other for it.
fn here() -> Vec<Row> {
    use Role::{Admin, Viewer};
    vec![
        // Hashes of tokens are part of a state: not for everybody who may look.
        get("/v1/state/{state}/backup", Admin, "A replicated state as this node has it", endpoints::backup)
            .streams(Gives::Bytes),
        post("/v1/node/reload", Admin, "Takes over what has changed in this node's configuration", endpoints::reload)
            .gives::<Reloaded>(),
        post("/v1/node/find", Admin, "Looks for another node of the region at an address", endpoints::find)
            .takes::<FindBody>()
            .gives::<Found>(),
        get("/v1/status", Viewer, "How this node is", endpoints::status).gives::<NodeStatus>(),
        get("/v1/doctor", Viewer, "Whether this node is as it shall be, and what to do about it", endpoints::doctor)
            .gives::<Doctor>(),
        get("/v1/openapi.json", Viewer, "This description", described).gives::<serde_json::Value>(),
    ]
}
