//! A command in an instance, or in one that is made for it: a request that becomes a session.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use insula_env::clock;
use insula_types::{ExecOutput, ExecSpec, InstanceId, ServiceRef};
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

use super::{
    Access, Shared,
    asked::{self, Asked},
    bearer,
};
use crate::{Answer, Code, ExecSession, Handler, Problem, Role, exec};

/// Where a command is run.
enum Place {
    Instance(InstanceId),
    /// In an instance that is made for it.
    OneOff(ServiceRef),
}

/// Largest definition of a command in bytes: a character of it may take six.
pub(super) const SPEC_LEN_MAX: usize = 256 << 10;
/// How often it is looked whether the caller still may.
const RECHECK: Duration = Duration::from_secs(5);

pub(super) async fn exec(
    State(shared): State<Shared>,
    upgrade: Option<Extension<OnUpgrade>>,
    asked: Asked,
    body: Body,
) -> Response {
    let place = asked.name("instance").map(Place::Instance);
    begin(shared, upgrade, asked, body, place).await
}

pub(super) async fn run(
    State(shared): State<Shared>,
    upgrade: Option<Extension<OnUpgrade>>,
    asked: Asked,
    body: Body,
) -> Response {
    let service = asked.name("app").and_then(|app| Ok(ServiceRef::new(app, asked.name("service")?)));
    begin(shared, upgrade, asked, body, service.map(Place::OneOff)).await
}

async fn begin(
    shared: Shared,
    upgrade: Option<Extension<OnUpgrade>>,
    asked: Asked,
    body: Body,
    place: Answer<Place>,
) -> Response {
    let begin = async {
        let place = place?;
        let spec: ExecSpec = asked::json_body_of(body, SPEC_LEN_MAX).await?;
        spec.check().map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()))?;
        let upgrade = upgrade.filter(|_| asked.headers().get(header::UPGRADE) == Some(&exec::PROTOCOL));
        let Some(Extension(upgrade)) = upgrade else {
            let said = "send `Connection: Upgrade` and `Upgrade: insula-exec/1`: the connection becomes the command's";
            return Err(Problem::new(Code::InvalidRequest, said));
        };
        let room = Arc::clone(&shared.execs).try_acquire_owned();
        let room = room.map_err(|_| Problem::new(Code::Busy, "64 commands are run through this node already"))?;
        let session = match place {
            Place::Instance(instance) => shared.handler.exec(instance, spec).await?,
            Place::OneOff(service) => shared.handler.run(service, spec).await?,
        };
        Ok((session, upgrade, room))
    };
    let (session, upgrade, room) = match begin.await {
        Ok(begun) => begun,
        Err(problem) => return problem.into_response(),
    };
    let token = bearer(asked.headers()).filter(|_| shared.access == Access::Token).map(str::to_owned);
    let handler = Arc::clone(&shared.handler);
    shared.tasks.spawn("command in an instance", carry(upgrade, session, handler, token, room));
    let headers = [(header::CONNECTION, HeaderValue::from_static("Upgrade")), (header::UPGRADE, exec::PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn carry(
    upgrade: OnUpgrade,
    session: ExecSession,
    handler: Arc<dyn Handler>,
    token: Option<String>,
    _room: OwnedSemaphorePermit,
) {
    match upgrade.await {
        Ok(io) => exec::carry(TokioIo::new(io), session.output, session.input, revoked(&*handler, token)).await,
        Err(error) => debug!(%error, "the caller of a command left before it had it"),
    }
}

/// Completes once the caller's token has ended, or allows less than before.
async fn revoked(handler: &dyn Handler, token: Option<String>) -> ExecOutput {
    let Some(token) = token else { return std::future::pending().await };
    loop {
        clock::sleep(RECHECK).await;
        let is_refused = match handler.authenticate(&token).await {
            Ok(role) => role < Role::Deployer,
            Err(problem) => problem.code == Code::Unauthorized,
        };
        if is_refused {
            return ExecOutput::Failed("the token with which it was begun does not allow it any more".to_owned());
        }
    }
}
