//! The endpoints: reads what was asked, checks the role, calls the handler, writes what it answers.

mod asked;
mod endpoints;
mod exec;
mod once;
mod openapi;
mod query;
mod respond;
mod rest;
mod table;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use insula_env::TaskGroup;
use insula_identity::ApiToken;
use tokio::sync::Semaphore;

use self::{once::Answers, query::PlanQuery, table::Least};
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

/// Every endpoint: its method, its path with parameters in braces, and the least role that it needs.
#[must_use]
pub fn endpoints() -> Vec<(&'static str, &'static str, Role)> {
    table::rows().into_iter().map(|row| (row.verb.as_str(), row.path, row.least.role)).collect()
}

/// The description of the API: OpenAPI 3.1.
#[must_use]
pub fn openapi() -> serde_json::Value {
    openapi::document(table::rows())
}

/// Answers with [`openapi`].
async fn described() -> Response {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| openapi().to_string().into());
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT.clone()).into_response()
}

/// The endpoints of the API over a handler, for one kind of listener. What goes on after an answer runs in `tasks`.
pub fn router(handler: Arc<dyn Handler>, access: Access, tasks: TaskGroup) -> Router {
    let shared = Shared { handler, access, tasks, execs: Arc::new(Semaphore::new(EXECS_MAX)) };
    let answers = Answers::default();
    let rows = table::rows().into_iter();
    rows.fold(Router::new(), |router, row| router.route(row.path, row.into_route(&answers)))
        .fallback(|request: Request| async move {
            let said = format!("{}: see `insula help` for what there is", request.uri().path());
            Problem::new(Code::NoSuchEndpoint, said)
        })
        .method_not_allowed_fallback(|request: Request| async move {
            Problem::new(Code::MethodNotAllowed, format!("{} {}", request.method(), request.uri().path()))
        })
        .layer(middleware::from_fn_with_state(shared.clone(), authenticate))
        .layer(middleware::from_fn(rest::read_rest))
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

/// Refuses a caller below the role that the table says.
async fn allow(State(least): State<Least>, request: Request, next: Next) -> Response {
    let has = request.extensions().get::<Role>().copied();
    let needed = match least.to_plan {
        Some(to_plan) => asked::query(request.uri()).map(|PlanQuery { plan }| if plan { to_plan } else { least.role }),
        None => Ok(least.role),
    };
    let word = |role: Role| format!("{role:?}").to_lowercase();
    let problem = match (has, needed) {
        (Some(has), Ok(needed)) if has >= needed => return next.run(request).await,
        (Some(has), Ok(needed)) => {
            Problem::new(Code::Forbidden, format!("it is a {}'s, and this needs a {}'s", word(has), word(needed)))
        }
        (None, _) => Problem::new(Code::Unauthorized, "the request was not authenticated"),
        (_, Err(problem)) => problem,
    };
    problem.into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && (1..=TOKEN_LEN_MAX).contains(&token.len())).then_some(token)
}
