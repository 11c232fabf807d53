//! The endpoints: reads what was asked, checks the role, calls the handler, writes what it answers.

mod asked;
mod endpoints;
mod exec;
mod respond;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post, put},
};
use http::{HeaderMap, header::AUTHORIZATION};
use insula_env::TaskGroup;
use insula_identity::ApiToken;
use tokio::sync::Semaphore;

use crate::{Caller, Code, Handler, Problem, Role};

/// Largest body but a definition's, in bytes: the known ones have tens.
pub const BODY_LEN_MAX: usize = 16 << 10;

/// Longest token that is looked at, in bytes.
pub const TOKEN_LEN_MAX: usize = 512;

/// Longest time that a read waits for a change; below the idle limit of common proxies.
pub const WAIT_MAX: Duration = Duration::from_secs(25);

/// How often an idle event stream says that it is alive.
pub const EVENTS_ALIVE: Duration = Duration::from_secs(5);

/// Commands in instances that callers of one listener may run at a time.
pub const EXECS_MAX: usize = 64;

/// Who comes through a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody: a token says who.
    Token,
    /// Whoever may open the node's own socket: root.
    Root,
}

/// What the endpoints share.
#[derive(Clone)]
struct Shared {
    handler: Arc<dyn Handler>,
    access: Access,
    /// What goes on after an answer.
    tasks: TaskGroup,
    /// Room for commands.
    execs: Arc<Semaphore>,
}

/// A router that remembers its paths, so that a test can walk them all.
struct Endpoints {
    router: Router<Shared>,
    paths: Vec<&'static str>,
}

impl Endpoints {
    fn route(mut self, path: &'static str, methods: MethodRouter<Shared>) -> Self {
        self.paths.push(path);
        Self { router: self.router.route(path, methods), ..self }
    }
}

/// The path of every endpoint, with its parameters in braces.
#[must_use]
pub fn paths() -> Vec<&'static str> {
    endpoints().paths
}

/// Every endpoint of the API.
fn endpoints() -> Endpoints {
    Endpoints { router: Router::new(), paths: Vec::new() }
        .route("/v1/apps", get(endpoints::apps))
        .route("/v1/apps/{app}", get(endpoints::app).put(endpoints::deploy).delete(endpoints::delete_app))
        .route("/v1/apps/{app}/status", get(endpoints::app_status))
        .route("/v1/apps/{app}/releases", get(endpoints::releases))
        .route("/v1/apps/{app}/rollback", post(endpoints::rollback))
        .route("/v1/apps/{app}/deployments", get(endpoints::deployments).post(endpoints::steer))
        .route("/v1/apps/{app}/instances", get(endpoints::app_instances))
        .route("/v1/apps/{app}/services/{service}/scale", put(endpoints::scale))
        .route("/v1/apps/{app}/services/{service}/run", post(exec::run))
        .route("/v1/apps/{app}/secrets", get(endpoints::secrets))
        .route("/v1/apps/{app}/secrets/{secret}", put(endpoints::set_secret).delete(endpoints::remove_secret))
        .route("/v1/instances", get(endpoints::instances))
        .route("/v1/instances/{instance}", get(endpoints::instance))
        .route("/v1/instances/{instance}/logs", get(endpoints::logs))
        .route("/v1/instances/{instance}/exec", post(exec::exec))
        .route("/v1/images", get(endpoints::images).post(endpoints::import_image).delete(endpoints::remove_image))
        .route("/v1/volumes", get(endpoints::volumes).post(endpoints::create_volume))
        .route(
            "/v1/apps/{app}/services/{service}/volumes/{volume}",
            put(endpoints::resize_volume).delete(endpoints::delete_volume),
        )
        .route("/v1/snapshots", get(endpoints::snapshots))
        .route("/v1/apps/{app}/services/{service}/volumes/{volume}/snapshots", post(endpoints::create_snapshot))
        .route(
            "/v1/apps/{app}/services/{service}/volumes/{volume}/snapshots/{snapshot}",
            delete(endpoints::delete_snapshot),
        )
        .route(
            "/v1/apps/{app}/services/{service}/volumes/{volume}/snapshots/{snapshot}/restore",
            post(endpoints::restore_snapshot),
        )
        .route("/v1/nodes", get(endpoints::nodes))
        .route("/v1/nodes/{node}", get(endpoints::node).delete(endpoints::remove_node))
        .route("/v1/nodes/{node}/duty", put(endpoints::set_node_duty))
        .route("/v1/losses", get(endpoints::loss))
        .route("/v1/regions", get(endpoints::regions))
        .route("/v1/events", get(endpoints::events))
        .route("/v1/tokens/join", post(endpoints::create_join_token))
        .route("/v1/tokens/api", post(endpoints::create_api_token))
        .route("/v1/state/{state}/backup", get(endpoints::backup))
        .route("/v1/tokens", get(endpoints::tokens))
        .route("/v1/tokens/{token}", delete(endpoints::remove_token))
        .route("/v1/ca", get(endpoints::authorities))
        .route("/v1/ca/renew-region", post(endpoints::renew_region))
        .route("/v1/ca/add-root", post(endpoints::add_root))
        .route("/v1/ca/activate-root", post(endpoints::activate_root))
        .route("/v1/ca/retire-root", post(endpoints::retire_root))
        .route("/v1/node/reload", post(endpoints::reload))
        .route("/v1/node/find", post(endpoints::find))
        .route("/v1/status", get(endpoints::status))
        .route("/v1/doctor", get(endpoints::doctor))
}

/// The endpoints of the API over a handler, for one kind of listener. What goes on after an answer runs in `tasks`.
pub fn router(handler: Arc<dyn Handler>, access: Access, tasks: TaskGroup) -> Router {
    let shared = Shared { handler, access, tasks, execs: Arc::new(Semaphore::new(EXECS_MAX)) };
    endpoints()
        .router
        .fallback(|request: Request| async move {
            let said = format!("{}: see `insula help` for what there is", request.uri().path());
            Problem::new(Code::NoSuchEndpoint, said)
        })
        .method_not_allowed_fallback(|request: Request| async move {
            Problem::new(Code::MethodNotAllowed, format!("{} {}", request.method(), request.uri().path()))
        })
        .layer(middleware::from_fn_with_state(shared.clone(), authenticate))
        .with_state(shared)
}

/// Puts the caller's role beside the request; nothing is answered to a caller without one.
async fn authenticate(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    let role = match shared.access {
        Access::Root => Ok((Role::Root, Caller::Root)),
        Access::Token => match bearer(request.headers()).map(str::to_owned) {
            // Whoever came with a token never is root, whatever the handler says.
            Some(token) => {
                let caller = Caller::Token(ApiToken::parse(&token).ok().map(|token| token.id));
                shared.handler.authenticate(&token).await.map(|role| (role.min(Role::Admin), caller))
            }
            None => Err(Problem::new(
                Code::Unauthorized,
                "send it as `Authorization: Bearer …`; `insula token create --api` on a node makes one",
            )),
        },
    };
    match role {
        Ok((role, caller)) => {
            request.extensions_mut().insert(role);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && (1..=TOKEN_LEN_MAX).contains(&token.len())).then_some(token)
}
