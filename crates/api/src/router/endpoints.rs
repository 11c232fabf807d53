//! One function per endpoint. The role that each needs, and what it takes and gives, is in [`super::table`].

use std::io;

use axum::{body::Body, extract::State, response::Response};
use futures::{StreamExt, TryStreamExt};
use insula_types::{
    AppDefinition, AppName, NameError, ReleaseNumber, Revealed, ServiceRef, VolumeRef, VolumeRefError,
    definition::{DEFINITION_LEN_MAX, Format, Places, SCALE_MAX, VOLUME_SIZE},
    secret::SECRET_LEN_MAX,
};
use zeroize::Zeroizing;

use super::{
    Shared,
    asked::{self, Asked},
    query::{
        EventQuery, ImageQuery, ImportQuery, LatencyQuery, LogQuery, LossQuery, PlanQuery, RemoveQuery, UsageQuery,
    },
    respond,
};
use crate::{
    Answer, BodyStream, Code, DeleteRequest, DeployRequest, Events, LogOptions, Problem, RemoveNodeRequest,
    RestartRequest, RollbackRequest, RunningRequest, ScaleRequest, SetSecretRequest, SteerRequest,
    handler::{Lost, NodeKey, StateKey},
    wire::{
        ApiTokenBody, DutyBody, JoinTokenBody, RecoveryBody, RestartBody, RollbackBody, RootBody, RunningBody,
        ScaleBody, SecretBody, SnapshotBody, SteeringBody, TOKEN_NAME_LEN_MAX, TOKEN_TTL_MS_MAX, TOKEN_USES_MAX,
        VolumeBody, VolumeSizeBody,
    },
};

/// Bytes of a volume, from and to.
const VOLUME_LEN: (u64, u64) = (VOLUME_SIZE.start().0, VOLUME_SIZE.end().0);

/// Greatest number of lines that can be asked of the end of a log.
pub(super) const TAIL_MAX: u32 = 100_000;
/// Latest time that logs are asked from, milliseconds since 1970: the end of the year 9999, the last that their lines can tell.
pub(super) const SINCE_MS_MAX: u64 = 253_402_300_799_999;

/// Greatest number of instances whose use can be asked for at once, and how many are told of who does not say.
pub(super) const USAGE_MAX: u32 = 1000;
const USAGE_USUAL: u32 = 100;

/// Longest body with a secret: in JSON, one byte may take six.
pub(super) const SECRET_BODY_LEN_MAX: usize = 6 * SECRET_LEN_MAX + 64;

/// Declares a read: [`crate::ReadOptions`] from the query, JSON back.
macro_rules! read {
    ($name:ident, |$handler:ident, $asked:ident, $read:ident| $call:expr) => {
        pub(super) async fn $name(State(shared): State<Shared>, $asked: Asked) -> Response {
            let answer = async {
                let $read = $asked.read()?;
                let $handler = &shared.handler;
                $call.await
            };
            respond::json(answer.await)
        }
    };
}

read!(apps, |handler, asked, read| handler.apps(read));
read!(app, |handler, asked, read| handler.app(&asked.name("app")?, read));
read!(app_status, |handler, asked, read| handler.app_status(&asked.name("app")?, read));
read!(releases, |handler, asked, read| handler.releases(&asked.name("app")?, read));
read!(release, |handler, asked, read| async {
    handler.release(&asked.name("app")?, ReleaseNumber(asked.name("release")?), read).await
});
read!(deployments, |handler, asked, read| handler.deployments(&asked.name("app")?, read));
read!(secrets, |handler, asked, read| async { handler.secrets(&asked.name("app")?, read).await });
read!(app_instances, |handler, asked, read| handler.instances(Some(&asked.name("app")?), read));
read!(instances, |handler, asked, read| handler.instances(None, read));
read!(waiting, |handler, asked, read| handler.waiting(read));
read!(routes, |handler, asked, read| handler.routes(read));
read!(instance, |handler, asked, read| handler.instance(asked.name("instance")?, read));
read!(images, |handler, asked, read| handler.images(read));
read!(volumes, |handler, asked, read| handler.volumes(read));
read!(snapshots, |handler, asked, read| handler.snapshots(read));
read!(nodes, |handler, asked, read| handler.nodes(read));
read!(regions, |handler, asked, read| handler.regions(read));
read!(node, |handler, asked, read| async { handler.node(&node_key(&asked)?, read).await });

/// Names are labels and may look like anything but an id of the right length, so the id is tried first.
fn node_key(asked: &Asked) -> Answer<NodeKey> {
    match asked.name("node") {
        Ok(id) => Ok(NodeKey::Id(id)),
        Err(_) => Ok(NodeKey::Name(asked.name("node")?)),
    }
}

/// The same for a node that no path names.
fn node_of(text: &str) -> Answer<NodeKey> {
    let name = || text.parse().map_err(|error: NameError| Problem::new(Code::InvalidRequest, error.to_string()));
    text.parse().map(NodeKey::Id).or_else(|_| name().map(NodeKey::Name))
}

pub(super) async fn import_image(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let mut archive: BodyStream = body.into_data_stream().map_err(io::Error::other).boxed();
    let answer = async {
        let ImportQuery { name } = asked.query()?;
        shared.handler.import_image(name.as_deref(), &mut archive).await
    };
    respond::json(answer.await)
}

pub(super) async fn remove_image(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async {
        let ImageQuery { image } = asked.query()?;
        shared.handler.remove_image(&image).await
    };
    respond::json(answer.await)
}

pub(super) async fn set_secret(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let text = Zeroizing::new(asked::body(body, SECRET_BODY_LEN_MAX).await?);
        // Of what is wrong in it no more is told than this: it might be the value.
        let SecretBody { value: Revealed(value) } = serde_json::from_str(&text).map_err(|_| {
            let said = format!(
                "the body: expected {{\"value\": \"…\"}} with 1 to {SECRET_LEN_MAX} bytes of text, none of them NUL"
            );
            Problem::new(Code::InvalidRequest, said)
        })?;
        let (app, name, caller, request) = (asked.name("app")?, asked.name("secret")?, asked.caller(), asked.request());
        shared.handler.set_secret(SetSecretRequest { app, name, value, caller, request }).await
    };
    respond::json(answer.await)
}

pub(super) async fn remove_secret(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer =
        async { shared.handler.remove_secret(asked.name("app")?, asked.name("secret")?, asked.request()).await };
    respond::json(answer.await)
}

/// The volume that a path names, in three parts.
fn volume(asked: &Asked) -> Answer<VolumeRef> {
    let service = ServiceRef::new(asked.name("app")?, asked.name("service")?);
    named(&format!("{service}/{}", asked.name::<String>("volume")?))
}

fn named(volume: &str) -> Answer<VolumeRef> {
    volume.parse().map_err(|error: VolumeRefError| Problem::new(Code::InvalidRequest, error.to_string()))
}

pub(super) async fn create_volume(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let VolumeBody { volume, node, size } = asked::json_body(body).await?;
        between("size", size.0, VOLUME_LEN.0, VOLUME_LEN.1)?;
        shared.handler.create_volume(named(&volume)?, &node_of(&node)?, size, asked.request()).await
    };
    respond::json(answer.await)
}

pub(super) async fn resize_volume(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let VolumeSizeBody { size } = asked::json_body(body).await?;
        between("size", size.0, VOLUME_LEN.0, VOLUME_LEN.1)?;
        shared.handler.resize_volume(volume(&asked)?, size, asked.request()).await
    };
    respond::json(answer.await)
}

pub(super) async fn delete_volume(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async { shared.handler.delete_volume(volume(&asked)?, asked.request()).await };
    respond::json(answer.await)
}

pub(super) async fn create_snapshot(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let SnapshotBody { snapshot } = asked::json_body(body).await?;
        shared.handler.create_snapshot(volume(&asked)?, snapshot).await
    };
    respond::json(answer.await)
}

pub(super) async fn restore_snapshot(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async { shared.handler.restore_snapshot(volume(&asked)?, asked.name("snapshot")?).await };
    respond::json(answer.await)
}

pub(super) async fn delete_snapshot(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async { shared.handler.delete_snapshot(volume(&asked)?, asked.name("snapshot")?).await };
    respond::json(answer.await)
}

pub(super) async fn set_node_duty(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let DutyBody { duty } = asked::json_body(body).await?;
        shared.handler.set_node_duty(&node_key(&asked)?, duty, asked.request()).await
    };
    respond::json(answer.await)
}

pub(super) async fn remove_node(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async {
        let RemoveQuery { force: is_forced } = asked.query()?;
        let (node, request) = (node_key(&asked)?, asked.request());
        let Some(expected) = asked.expected_revision()? else {
            let said = "If-Match: give the node's `changed`, as it was when you looked, like \"41\"";
            return Err(Problem::new(Code::InvalidRequest, said));
        };
        shared.handler.remove_node(RemoveNodeRequest { node, expected, is_forced, request }).await
    };
    respond::json(answer.await)
}

pub(super) async fn deploy(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let query: PlanQuery = asked.query()?;
        let app: AppName = asked.name("app")?;
        let text = asked::body(body, DEFINITION_LEN_MAX).await?;
        let definition = AppDefinition::parse(&text, Format::Json)?;
        if definition.app != app {
            let said = format!("the path names the app {app}, the definition {}", definition.app);
            return Err(Problem::new(Code::InvalidRequest, said));
        }
        let (expected, request) = (asked.expected()?, asked.request());
        let deploy = DeployRequest { definition, is_plan: query.plan, expected, request };
        shared.handler.deploy(deploy).await.map_err(|mut problem| {
            Places::of(&text, Format::Json).fill(&mut problem.problems);
            problem
        })
    };
    respond::json(answer.await)
}

pub(super) async fn rollback(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let PlanQuery { plan: is_plan } = asked.query()?;
        let RollbackBody { to } = asked::json_body(body).await?;
        let (app, expected, request) = (asked.name("app")?, asked.expected()?, asked.request());
        shared.handler.rollback(RollbackRequest { app, to, is_plan, expected, request }).await
    };
    respond::json(answer.await)
}

pub(super) async fn restart(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let PlanQuery { plan: is_plan } = asked.query()?;
        let RestartBody { service } = asked::json_body(body).await?;
        let (app, expected, request) = (asked.name("app")?, asked.expected()?, asked.request());
        shared.handler.restart(RestartRequest { app, service, is_plan, expected, request }).await
    };
    respond::json(answer.await)
}

pub(super) async fn set_running(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let RunningBody { service, running: is_running } = asked::json_body(body).await?;
        let (app, request) = (asked.name("app")?, asked.request());
        shared.handler.set_running(RunningRequest { app, service, is_running, request }).await
    };
    respond::json(answer.await)
}

pub(super) async fn steer(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let SteeringBody { steering } = asked::json_body(body).await?;
        let (app, expected, request) = (asked.name("app")?, asked.expected()?, asked.request());
        shared.handler.steer(SteerRequest { app, steering, expected, request }).await
    };
    respond::json(answer.await)
}

pub(super) async fn delete_app(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async {
        let (app, expected, request) = (asked.name("app")?, asked.expected()?, asked.request());
        shared.handler.delete_app(DeleteRequest { app, expected, request }).await
    };
    respond::json(answer.await)
}

pub(super) async fn scale(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let service = ServiceRef::new(asked.name("app")?, asked.name("service")?);
        let ScaleBody { scale, region } = asked::json_body(body).await?;
        between("scale", scale.count().unwrap_or(0).into(), 0, SCALE_MAX.into())?;
        let request = asked.request();
        shared.handler.scale(ScaleRequest { service, scale, region, request }).await
    };
    respond::json(answer.await)
}

pub(super) async fn logs(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async {
        let LogQuery { tail, since_ms, follow } = asked.query()?;
        between("tail", tail.unwrap_or(0).into(), 0, TAIL_MAX.into())?;
        between("since_ms", since_ms.unwrap_or(0), 0, SINCE_MS_MAX)?;
        shared.handler.logs(asked.name("instance")?, LogOptions { tail, since_ms, follow }).await
    };
    respond::log(answer.await)
}

pub(super) async fn events(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async {
        let EventQuery { since, follow } = asked.query()?;
        let since = since.map(|text| text.parse()).transpose();
        let since = since.map_err(|why| Problem::new(Code::InvalidRequest, format!("since: {why}")))?;
        // A client that lost its connection repeats the first query; what it saw last is in the header.
        let since = asked.last_event()?.or(since);
        shared.handler.events(Events { since, follow }).await
    };
    respond::events(answer.await)
}

pub(super) async fn create_join_token(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let body: JoinTokenBody = asked::json_body(body).await?;
        between("ttl_ms", body.ttl_ms, 1, TOKEN_TTL_MS_MAX)?;
        between("uses", body.uses.into(), 1, TOKEN_USES_MAX.into())?;
        let request = asked.request();
        shared.handler.create_join_token(body, request).await
    };
    respond::json(answer.await)
}

pub(super) async fn create_api_token(State(shared): State<Shared>, asked: Asked, body: Body) -> Response {
    let answer = async {
        let body: ApiTokenBody = asked::json_body(body).await?;
        between("ttl_ms", body.ttl_ms, 1, TOKEN_TTL_MS_MAX)?;
        between("the length of name", body.name.chars().count() as u64, 1, TOKEN_NAME_LEN_MAX as u64)?;
        let request = asked.request();
        shared.handler.create_api_token(body, request).await
    };
    respond::json(answer.await)
}

pub(super) async fn backup(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async {
        let name: String = asked.name("state")?;
        let state = [StateKey::Region, StateKey::Global].into_iter().find(|state| state.as_str() == name);
        let state = state.ok_or_else(|| {
            Problem::new(Code::InvalidRequest, format!("there is no state {name:?}: expected region or global"))
        })?;
        shared.handler.backup(state).await
    };
    respond::archive(answer.await)
}

pub(super) async fn tokens(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async { shared.handler.tokens(asked.read()?).await };
    respond::json(answer.await)
}

pub(super) async fn remove_token(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async { shared.handler.remove_token(asked.name("token")?, asked.request()).await };
    respond::json(answer.await)
}

pub(super) async fn authorities(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async { shared.handler.authorities(asked.read()?).await };
    respond::json(answer.await)
}

/// Declares a change of roots: a body in JSON.
macro_rules! change_roots {
    ($($name:ident: $body:ty),*) => {$(
        pub(super) async fn $name(State(shared): State<Shared>, body: Body) -> Response {
            let answer = async {
                let body: $body = asked::json_body(body).await?;
                shared.handler.$name(body).await
            };
            respond::json(answer.await)
        }
    )*};
}
change_roots!(renew_region: RecoveryBody, add_root: RecoveryBody, activate_root: RootBody, retire_root: RootBody);

pub(super) async fn reload(State(shared): State<Shared>) -> Response {
    let answer = async { shared.handler.reload().await };
    respond::json(answer.await)
}

pub(super) async fn find(State(shared): State<Shared>, body: Body) -> Response {
    let answer = async { shared.handler.find(asked::json_body(body).await?).await };
    respond::json(answer.await)
}

pub(super) async fn status(State(shared): State<Shared>) -> Response {
    let answer = async { shared.handler.status().await };
    respond::json(answer.await)
}

pub(super) async fn usage(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async {
        let UsageQuery { app, limit } = asked.query()?;
        let most = limit.unwrap_or(USAGE_USUAL);
        if !(1..=USAGE_MAX).contains(&most) {
            return Err(Problem::new(Code::InvalidRequest, format!("limit: found {most}, expected 1 to {USAGE_MAX}")));
        }
        shared.handler.usage(app.as_ref(), most).await
    };
    respond::json(answer.await)
}

pub(super) async fn latency(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async {
        let LatencyQuery { nodes } = asked.query()?;
        shared.handler.latency(nodes).await
    };
    respond::json(answer.await)
}

pub(super) async fn request(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async { shared.handler.request(&asked.name("request")?).await };
    respond::json(answer.await)
}

pub(super) async fn loss(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async {
        let wrong = |why: String| Problem::new(Code::InvalidRequest, why);
        let lost = match asked.query()? {
            LossQuery { node: Some(node), datacenter: None } => Lost::Node(node_of(&node)?),
            LossQuery { node: None, datacenter: Some(name) } => {
                Lost::Datacenter(name.parse().map_err(|error: NameError| wrong(format!("datacenter: {error}")))?)
            }
            _ => return Err(wrong("the query: name one of node and datacenter".to_owned())),
        };
        shared.handler.loss(lost).await
    };
    respond::json(answer.await)
}

pub(super) async fn survey(State(shared): State<Shared>, asked: Asked) -> Response {
    let answer = async {
        let service = ServiceRef::new(asked.name("app")?, asked.name("service")?);
        shared.handler.survey(service).await
    };
    respond::json(answer.await)
}

pub(super) async fn doctor(State(shared): State<Shared>) -> Response {
    let answer = async { shared.handler.doctor().await };
    respond::json(answer.await)
}

fn between(what: &str, found: u64, low: u64, high: u64) -> Answer<()> {
    if (low..=high).contains(&found) {
        return Ok(());
    }
    Err(Problem::new(Code::InvalidRequest, format!("{what}: found {found}, expected from {low} to {high}")))
}
