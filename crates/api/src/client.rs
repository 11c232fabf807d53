//! Calls the API: over HTTPS pinned by the hash of the cluster's root, or over a node's own socket.
//!
//! An address that does not answer is passed over for the next. A change carries an idempotency key, so that it can be
//! sent again when its outcome is unknown. Every wait has an end.

mod calls;
mod context;
mod error;
mod events;
mod exec;
mod transport;

use std::{
    error::Error,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use insula_env::{Env, clock};
use insula_identity::{ApiToken, api_client_config};
use rustls::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};

pub use context::{Context, ContextError};
pub use error::ClientError;
pub use events::EventReader;
pub use transport::LogReader;

use crate::{Code, Problem};

/// Largest answer that is read whole, in bytes: all instances of a large region in JSON have some 5 MiB.
const ANSWER_LEN_MAX: usize = 32 << 20;

/// How long an ordinary call may take, with all attempts. An election and a commit across an ocean fit twice.
pub const CALL_LIMIT: Duration = Duration::from_secs(15);

/// Waits between attempts: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Where the API is.
enum Target {
    /// The node's own socket.
    Socket(PathBuf),
    /// Nodes of the cluster, the next one when one does not answer.
    Nodes { addresses: Vec<String>, tls: Arc<ClientConfig>, token: HeaderValue },
}

/// A caller of the API. Clones share what they know about addresses.
#[derive(Clone)]
pub struct Client {
    env: Env,
    target: Arc<Target>,
    /// Which address answered last.
    preferred: Arc<AtomicUsize>,
}

/// One request, ready to be sent more than once.
struct Call {
    method: Method,
    path: String,
    body: Bytes,
    headers: Vec<(header::HeaderName, HeaderValue)>,
    limit: Duration,
}

impl Client {
    /// A caller over a node's own socket: root, without token (rule R12).
    pub fn from_socket(env: Env, path: impl Into<PathBuf>) -> Self {
        Self::new(env, Target::Socket(path.into()))
    }

    /// A caller of the cluster that a context names.
    ///
    /// # Errors
    /// [`ContextError`] when the token or the hash is malformed or no address is there.
    pub fn from_context(env: Env, context: &Context) -> Result<Self, ContextError> {
        if context.addresses.is_empty() {
            return Err(ContextError::NoAddress);
        }
        let tls = api_client_config(context.root_hashes()?, env.clock.clone())
            .map_err(|error| ContextError::Tls(error.to_string()))?;
        ApiToken::parse(&context.token).map_err(|error| ContextError::Token(error.to_string()))?;
        let mut token = HeaderValue::try_from(format!("Bearer {}", context.token.trim()))
            .map_err(|_| ContextError::Token("it has characters that no token has".to_owned()))?;
        token.set_sensitive(true);
        Ok(Self::new(env, Target::Nodes { addresses: context.addresses.clone(), tls, token }))
    }

    fn new(env: Env, target: Target) -> Self {
        Self { env, target: Arc::new(target), preferred: Arc::default() }
    }

    /// Where calls go, for messages.
    #[must_use]
    pub fn target(&self) -> String {
        match &*self.target {
            Target::Socket(path) => path.display().to_string(),
            Target::Nodes { addresses, .. } => addresses.join(", "),
        }
    }

    /// What calls are made with.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    fn call(&self, method: Method, path: impl Into<String>) -> Call {
        let mut headers = Vec::new();
        if method != Method::GET {
            let key = format!("{:016x}{:016x}", self.env.rng.next(), self.env.rng.next());
            let key = HeaderValue::try_from(key).expect("hexadecimal digits");
            headers.push((header::HeaderName::from_static("idempotency-key"), key));
        }
        Call { method, path: path.into(), body: Bytes::new(), headers, limit: CALL_LIMIT }
    }

    async fn get<T: DeserializeOwned>(&self, path: impl Into<String>) -> Result<T, ClientError> {
        self.json(self.call(Method::GET, path)).await
    }

    /// Sends until there is an answer, and reads it as JSON.
    async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let what = format!("{} {}", call.method, call.path);
        let limit = call.limit;
        let bytes = clock::timeout(limit, async { whole(self.send(&call).await?, &what).await })
            .await
            .map_err(|_| ClientError::TimedOut { what: what.clone(), limit })??;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Unreadable { what, source })
    }

    /// Sends to the first node that is reached, and reads the answer as JSON: for what is not done again under the same key.
    async fn json_once<T: DeserializeOwned>(&self, call: Call, limit: Duration) -> Result<T, ClientError> {
        let what = format!("{} {}", call.method, call.path);
        let answer = clock::timeout(limit, async {
            let response = self.send_once(&call).await?;
            if !response.status().is_success() {
                return Err(problem(response, &call).await);
            }
            whole(response, &what).await
        });
        let bytes = answer.await.map_err(|_| ClientError::TimedOut { what: what.clone(), limit })??;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Unreadable { what, source })
    }

    /// Sends until a node answers with success, or with a problem that does not pass. Bounded in time by the caller
    /// or by the number of attempts.
    async fn send(&self, call: &Call) -> Result<Response<Incoming>, ClientError> {
        let count = self.addresses();
        let started = self.env.clock.now();
        let mut pause = PAUSE.0;
        let mut tried = Vec::new();
        loop {
            let index = self.preferred.load(Ordering::Relaxed) % count;
            let failure = match self.attempt(index, call).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => problem(response, call).await,
                Err(error) => error,
            };
            // Another node may be reached where this one is not, or be closer to a leader.
            self.preferred.store(index + 1, Ordering::Relaxed);
            match failure {
                ClientError::Unreachable { tried: mut now } => {
                    tried.append(&mut now);
                    if tried.len() >= count {
                        return Err(ClientError::Unreachable { tried });
                    }
                }
                failure if may_repeat(&failure) && self.env.clock.now() - started + pause < call.limit => {
                    clock::sleep(self.env.rng.jitter(pause)).await;
                    pause = (pause * 2).min(PAUSE.1);
                    tried.clear();
                }
                failure => return Err(failure),
            }
        }
    }

    /// Sends to the first node that is reached, and to no other.
    async fn send_once(&self, call: &Call) -> Result<Response<Incoming>, ClientError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut tried = Vec::new();
        for index in (first..).take(self.addresses()) {
            match self.attempt(index % self.addresses(), call).await {
                Err(ClientError::Unreachable { tried: mut now }) => tried.append(&mut now),
                answer => return answer,
            }
        }
        Err(ClientError::Unreachable { tried })
    }

    /// How many addresses there are.
    fn addresses(&self) -> usize {
        match &*self.target {
            Target::Socket(_) => 1,
            Target::Nodes { addresses, .. } => addresses.len(),
        }
    }

    /// Sends a tar file to the node that answered last, once, and reads the answer as JSON.
    async fn sent<T, B>(&self, call: &Call, body: B) -> Result<T, ClientError>
    where
        T: DeserializeOwned,
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
    {
        let index = self.preferred.load(Ordering::Relaxed) % self.addresses();
        let response = self.transmit(index, call, Some("application/x-tar"), body).await?;
        if !response.status().is_success() {
            return Err(problem(response, call).await);
        }
        let what = format!("{} {}", call.method, call.path);
        let bytes = whole(response, &what).await?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Unreadable { what, source })
    }

    async fn attempt(&self, index: usize, call: &Call) -> Result<Response<Incoming>, ClientError> {
        let kind = (!call.body.is_empty()).then_some("application/json");
        self.transmit(index, call, kind, Full::new(call.body.clone())).await
    }

    /// Sends a call once, with a body of this kind instead of its own.
    async fn transmit<B>(
        &self,
        index: usize,
        call: &Call,
        kind: Option<&'static str>,
        body: B,
    ) -> Result<Response<Incoming>, ClientError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
    {
        let mut request = Request::builder().method(&call.method).uri(&call.path);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let host = match &*self.target {
            Target::Socket(_) => "localhost",
            Target::Nodes { addresses, token, .. } => {
                request = request.header(header::AUTHORIZATION, token);
                addresses.get(index).map_or("localhost", String::as_str)
            }
        };
        let request = request
            .header(header::HOST, host)
            .body(body)
            .map_err(|source| ClientError::Request { what: format!("{} {}", call.method, call.path), source })?;
        match &*self.target {
            Target::Socket(path) => transport::over_socket(&self.env, path, request).await,
            Target::Nodes { tls, .. } => transport::over_tls(&self.env, host, tls, request).await,
        }
    }
}

/// Whether sending again can help. It can do no harm: reads change nothing, and changes carry a key.
fn may_repeat(failure: &ClientError) -> bool {
    match failure {
        // A node that is away stays away for longer than a caller waits.
        // Nor does a registry come back so soon.
        ClientError::Problem(problem) => {
            problem.may_pass && !matches!(problem.code, Code::NodeUnreachable | Code::UnresolvedImage)
        }
        ClientError::CutOff { .. } => true,
        _ => false,
    }
}

impl Call {
    fn with_json<T: Serialize>(mut self, body: &T) -> Self {
        self.body = serde_json::to_vec(body).expect("wire types serialize into memory without error").into();
        self
    }
}

/// The problem in an answer that is no success; one is made up when a stranger answered.
async fn problem(response: Response<Incoming>, call: &Call) -> ClientError {
    let status = response.status();
    let what = format!("{} {}", call.method, call.path);
    match whole(response, &what).await {
        Ok(bytes) => match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => ClientError::Problem(problem),
            Err(_) => ClientError::Problem(Problem::new(strange(status), format!("{what} was answered with {status}"))),
        },
        Err(error) => error,
    }
}

fn strange(status: StatusCode) -> Code {
    match status {
        StatusCode::UNAUTHORIZED => Code::Unauthorized,
        StatusCode::FORBIDDEN => Code::Forbidden,
        StatusCode::NOT_FOUND => Code::NoSuchEndpoint,
        _ => Code::Other,
    }
}

async fn whole(response: Response<Incoming>, what: &str) -> Result<Bytes, ClientError> {
    match Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(source) => Err(ClientError::CutOff { what: what.to_owned(), source }),
    }
}
