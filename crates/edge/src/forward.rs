//! One request: find the service, choose an instance, send, and again on another when that is safe.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request::Parts};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use insula_catalog::{Catalog, Holder, RouteTarget};
use insula_env::{
    Env,
    clock::{Elapsed, timeout},
};
use insula_mesh::{Caller, Dialer, Target, TraceId, Verdicts};
use insula_types::InstanceId;
use tokio::sync::watch;
use tracing::debug;

use crate::{
    Config,
    answer::plain,
    apps::{Apps, Place},
    body::{FromInstance, RequestBody, ResponseBody},
    choose,
    config::{HEAD_BYTES_MAX, HEADERS_MAX, REPLAY_BYTES_MAX, TRIES_MAX},
    headers,
    instances::{InFlight, Instances, Sender},
    metrics::{Cause, Metrics, add},
    retry::is_idempotent,
    route, upgrade,
};

/// What all requests share.
pub(crate) struct Shared {
    pub config: Config,
    pub holder: Arc<Holder>,
    pub dialer: Arc<dyn Dialer>,
    pub verdicts: watch::Receiver<Arc<Verdicts>>,
    pub instances: Instances,
    pub apps: Apps,
    pub metrics: Arc<Metrics>,
    pub env: Env,
}

/// A request on its way, with what is needed to send it (again).
struct Pending {
    method: Method,
    uri: Uri,
    headers: http::HeaderMap,
    body: Source,
    client: SocketAddr,
}

/// Where the request's body is.
enum Source {
    /// Here: it can be sent any number of times.
    Held(Bytes),
    /// With the client: it can be sent until the first part of it has been taken.
    Client(Option<Incoming>),
}

/// Why one try gave no response.
enum Failure {
    /// Too many others wait for a connection to that instance.
    Busy,
    /// No connection was made.
    NotSent,
    /// A connection from the pool turned out to be closed before anything was sent on it.
    Stale,
    /// It may or may not have been received. On a connection from the pool that says little about the instance, which
    /// may just have closed it for being idle.
    Unknown { is_reused: bool },
    /// No response came in time.
    TimedOut,
}

type Answer = Response<ResponseBody>;

impl Shared {
    /// Answers one request. Every way out of here is a response.
    pub(crate) async fn answer(self: Arc<Self>, mut request: Request<Incoming>, client: SocketAddr) -> Answer {
        add(&self.metrics.requests);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let host = match route::host(request.uri(), request.headers(), request.version()) {
            Ok(host) if path.starts_with('/') && method != Method::CONNECT => host,
            Ok(_) => return self.refuse(Cause::BadRequest, StatusCode::BAD_REQUEST, "this is not a proxy"),
            Err(error) => return self.refuse(Cause::BadRequest, StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let catalog = self.holder.current();
        let Some(target) = route::find(&catalog, &host, &path) else {
            if catalog.is_empty() {
                let text = "this edge has not heard of its region yet";
                return self.refuse(Cause::NoCatalog, StatusCode::SERVICE_UNAVAILABLE, text);
            }
            let place = if catalog.routes.contains_key(&host) { " under this path" } else { "" };
            let text = format!("no app is published at {host}{place}");
            return self.refuse(Cause::NoRoute, StatusCode::NOT_FOUND, &text);
        };
        let Some(place) = self.apps.enter(&target.service.app, self.env.clock.now()) else {
            let text = format!("{} has as many requests in flight as it may", target.service.app);
            return self.refuse(Cause::Busy, StatusCode::SERVICE_UNAVAILABLE, &text);
        };
        let half = headers::upgrade(request.headers()).map(|protocol| (upgrade::client_half(&mut request), protocol));
        let (parts, body) = request.into_parts();
        let mut pending = match self.prepare(parts, body, client).await {
            Ok(pending) => pending,
            Err(answer) => return answer,
        };
        let half = half.map(|(half, protocol)| {
            pending.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            pending.headers.insert(header::UPGRADE, protocol);
            half
        });
        let answer = self.send(&catalog, target, pending, half, &place).await;
        debug!(%client, %method, %host, %path, status = answer.status().as_u16(), "request");
        answer
    }

    fn refuse(&self, cause: Cause, status: StatusCode, text: &str) -> Answer {
        self.metrics.fail(cause);
        plain(status, text)
    }

    /// Makes of the client's request what instances get.
    async fn prepare(&self, parts: Parts, body: Incoming, client: SocketAddr) -> Result<Pending, Answer> {
        let Parts { method, uri, mut headers, .. } = parts;
        // The host of an absolute target is the one that counts; instances see it in the header.
        let host = match uri.authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => headers.get(header::HOST).cloned(),
        };
        headers::strip_hop_by_hop(&mut headers);
        // The edge itself answers 100 as soon as it reads the body.
        headers.remove(header::EXPECT);
        headers::set_forwarded(&mut headers, client, host.as_ref());
        if let Some(host) = host {
            headers.insert(header::HOST, host);
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let uri = target
            .parse()
            .map_err(|_| self.refuse(Cause::BadRequest, StatusCode::BAD_REQUEST, "the request target is malformed"))?;
        let known = body.size_hint().exact();
        let body = match known {
            Some(0) if body.is_end_stream() => Source::Held(Bytes::new()),
            Some(len) if len <= REPLAY_BYTES_MAX && is_idempotent(&method) => {
                let gathered = timeout(self.config.request_body_idle, Limited::new(body, len as usize).collect()).await;
                match gathered {
                    Ok(Ok(collected)) => Source::Held(collected.to_bytes()),
                    Ok(Err(_)) => {
                        let text = "the request body broke off";
                        return Err(self.refuse(Cause::BadRequest, StatusCode::BAD_REQUEST, text));
                    }
                    Err(_) => {
                        let text = "the request body did not come in time";
                        return Err(self.refuse(Cause::BadRequest, StatusCode::REQUEST_TIMEOUT, text));
                    }
                }
            }
            _ => Source::Client(Some(body)),
        };
        Ok(Pending { method, uri, headers, body, client })
    }

    /// Sends a request, on another instance again while that is safe and within the budget.
    async fn send(
        self: &Arc<Self>,
        first_catalog: &Arc<Catalog>,
        target: &RouteTarget,
        mut pending: Pending,
        mut half: Option<upgrade::ClientHalf>,
        place: &Place,
    ) -> Answer {
        let mut tried: Vec<InstanceId> = Vec::new();
        // Those of them that may well take the request on a new connection, once nothing else is left.
        let mut again: Vec<InstanceId> = Vec::new();
        let mut catalog = Arc::clone(first_catalog);
        let mut last: Option<(Cause, StatusCode, String)> = None;
        for tries in 1..=TRIES_MAX {
            let chosen = self.choose(&catalog, target, &tried, place).or_else(|| {
                tried.retain(|id| !again.contains(id));
                again.clear();
                self.choose(&catalog, target, &tried, place)
            });
            let Some((instance, in_flight)) = chosen else { break };
            tried.push(instance);
            let failure = match self.attempt(target, instance, &mut pending, in_flight, &mut half).await {
                Ok(answer) => return answer,
                Err(failure) => failure,
            };
            let (outcome, is_safe) = self.judge(&failure, &pending, target);
            debug!(%instance, service = %target.service, cause = ?outcome.0, text = %outcome.2, is_safe, "try failed");
            last = Some(outcome);
            if matches!(failure, Failure::Stale | Failure::Unknown { is_reused: true }) {
                again.push(instance);
            }
            if !is_safe || tries == TRIES_MAX || !self.may_retry(target) {
                break;
            }
            catalog = self.holder.current();
        }
        let (cause, status, text) = last.unwrap_or_else(|| {
            let text = format!("{} has no ready instance", target.service);
            (Cause::NoInstance, StatusCode::SERVICE_UNAVAILABLE, text)
        });
        if cause == Cause::Busy {
            self.apps.refused(&target.service.app, self.env.clock.now());
        }
        self.refuse(cause, status, &text)
    }

    fn may_retry(&self, target: &RouteTarget) -> bool {
        let is_allowed = self.apps.retry(&target.service.app, self.env.clock.now());
        add(if is_allowed { &self.metrics.retries } else { &self.metrics.retries_refused });
        is_allowed
    }

    /// Chooses an instance that is not among `tried`, and counts the request as in flight to it.
    fn choose(
        &self,
        catalog: &Catalog,
        target: &RouteTarget,
        tried: &[InstanceId],
        place: &Place,
    ) -> Option<(InstanceId, InFlight)> {
        let now = self.env.clock.now();
        let verdicts = Arc::clone(&self.verdicts.borrow());
        let is_doubtful = |id| self.instances.is_doubtful(id, now);
        let candidates = choose::candidates(catalog, target, &verdicts, tried, is_doubtful);
        let draw = |below: usize| self.env.rng.range(0, below as u64) as usize;
        let chosen = choose::pick(&candidates, |id| self.instances.in_flight(id), draw)?;
        Some((chosen.instance, self.instances.enter(chosen.instance, chosen.node, &self.config, place)))
    }

    /// What a failure means for the client, and whether another try is safe.
    fn judge(&self, failure: &Failure, pending: &Pending, target: &RouteTarget) -> ((Cause, StatusCode, String), bool) {
        let service = &target.service;
        let can_resend = match &pending.body {
            Source::Held(_) => true,
            Source::Client(body) => body.is_some(),
        };
        match failure {
            Failure::Busy => {
                let text = format!("more requests wait for {service} than its instances take");
                ((Cause::Busy, StatusCode::SERVICE_UNAVAILABLE, text), can_resend)
            }
            Failure::NotSent => {
                let text = format!("no instance of {service} takes connections");
                ((Cause::Connect, StatusCode::BAD_GATEWAY, text), can_resend)
            }
            Failure::Stale => {
                let text = format!("the connection to an instance of {service} was closed");
                ((Cause::BrokenOff, StatusCode::BAD_GATEWAY, text), can_resend)
            }
            Failure::Unknown { .. } => {
                let text = format!("an instance of {service} broke off before it answered");
                let is_safe = is_idempotent(&pending.method) && can_resend;
                ((Cause::BrokenOff, StatusCode::BAD_GATEWAY, text), is_safe)
            }
            // It may be at work on it still: a second one would double the load that made it slow.
            Failure::TimedOut => {
                let text = format!("an instance of {service} did not answer within {:?}", self.config.response_head);
                ((Cause::TimedOut, StatusCode::GATEWAY_TIMEOUT, text), false)
            }
        }
    }

    /// One try on one instance.
    async fn attempt(
        self: &Arc<Self>,
        target: &RouteTarget,
        instance: InstanceId,
        pending: &mut Pending,
        in_flight: InFlight,
        half: &mut Option<upgrade::ClientHalf>,
    ) -> Result<Answer, Failure> {
        let (mut sender, is_reused) = self.connection(target, instance, &in_flight, pending.client).await?;
        let (request, progress) = pending.request(&self.config);
        let sent = sender.try_send_request(request);
        let response = match self.await_head(sent, &progress).await {
            Err(_) => return Err(Failure::TimedOut),
            Ok(Ok(response)) => response,
            Ok(Err(mut error)) => {
                if is_reused {
                    in_flight.0.forget_idle();
                } else {
                    in_flight.0.failed(self.env.clock.now());
                }
                let unsent = error.take_message();
                if unsent.is_some_and(|unsent| pending.take_back(unsent, &progress)) {
                    return Err(Failure::Stale);
                }
                debug!(%instance, error = %error.error(), "broken off before the head of a response");
                return Err(Failure::Unknown { is_reused });
            }
        };
        in_flight.0.answered();
        Ok(self.pass_on(response, sender, in_flight, half.take()))
    }

    /// Waits for the head of a response. The time runs anew while the client's body is still on its way.
    async fn await_head<T>(&self, sent: impl Future<Output = T>, progress: &AtomicU64) -> Result<T, Elapsed> {
        tokio::pin!(sent);
        loop {
            let before = progress.load(Ordering::Relaxed);
            match timeout(self.config.response_head, &mut sent).await {
                Err(_) if progress.load(Ordering::Relaxed) != before => {}
                outcome => return outcome,
            }
        }
    }

    /// A connection to the instance, and whether it has been used before.
    async fn connection(
        &self,
        target: &RouteTarget,
        instance: InstanceId,
        in_flight: &InFlight,
        client: SocketAddr,
    ) -> Result<(Sender, bool), Failure> {
        let idle = || in_flight.0.take(self.env.clock.now(), self.config.pool_idle);
        if let Some(sender) = idle() {
            return Ok((sender, true));
        }
        let _turn = in_flight.0.turn(self.config.dial_wait).await.ok_or(Failure::Busy)?;
        // Another request may have been done with its own meanwhile.
        match idle() {
            Some(sender) => Ok((sender, true)),
            None => Ok((self.connect(target, instance, in_flight, client).await?, false)),
        }
    }

    /// A new connection to the instance.
    async fn connect(
        &self,
        target: &RouteTarget,
        instance: InstanceId,
        in_flight: &InFlight,
        client: SocketAddr,
    ) -> Result<Sender, Failure> {
        let (own, node) = (self.holder.current().own, in_flight.0.node);
        let trace = TraceId(self.env.rng.next());
        add(&self.metrics.dials);
        let dialed = self
            .dialer
            .dial(Target {
                node,
                service: target.service.clone(),
                instance,
                port: target.port.clone(),
                caller: Caller::Edge(own),
                // The stream outlives this request in the pool; who the client is stands in each request's headers.
                client: None,
                trace,
            })
            .await;
        let stream = match dialed {
            Ok(stream) => stream,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                debug!(%trace, %client, %error, cause, "dial failed");
                add(&self.metrics.dials_failed);
                in_flight.0.failed(self.env.clock.now());
                return Err(Failure::NotSent);
            }
        };
        let (sender, connection) = http1::Builder::new()
            .max_header_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Failure::NotSent)?;
        self.env.tasks.spawn("edge connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%trace, %instance, %error, "a connection to an instance ended");
            }
        });
        Ok(sender)
    }

    /// Makes of an instance's response what the client gets.
    fn pass_on(
        self: &Arc<Self>,
        mut response: Response<Incoming>,
        sender: Sender,
        in_flight: InFlight,
        half: Option<upgrade::ClientHalf>,
    ) -> Answer {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(half) = half else {
                let text = "the instance switched protocols without being asked";
                return self.refuse(Cause::BrokenOff, StatusCode::BAD_GATEWAY, text);
            };
            let protocol = response.headers().get(header::UPGRADE).cloned();
            upgrade::tunnel(half, &mut response, in_flight, &self.metrics, &self.env.tasks);
            let (mut parts, _) = response.into_parts();
            headers::strip_hop_by_hop(&mut parts.headers);
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.extend(protocol.map(|protocol| (header::UPGRADE, protocol)));
            return Response::from_parts(parts, ResponseBody::own(http_body_util::Full::default()));
        }
        let (mut parts, inner) = response.into_parts();
        parts.version = Version::HTTP_11;
        headers::strip_hop_by_hop(&mut parts.headers);
        let body = FromInstance {
            inner,
            sender: Some(sender),
            in_flight,
            clock: self.env.clock.clone(),
            pool_max: self.config.pool_per_instance,
            metrics: Arc::clone(&self.metrics),
        };
        Response::from_parts(parts, ResponseBody::from_instance(body))
    }
}

impl Pending {
    /// The request for one try, and how often its body has been asked for more.
    fn request(&mut self, config: &Config) -> (Request<RequestBody>, Arc<AtomicU64>) {
        let progress = Arc::new(AtomicU64::new(0));
        let body = match &mut self.body {
            Source::Held(bytes) => RequestBody::held(bytes.clone()),
            Source::Client(body) => match body.take() {
                Some(body) => RequestBody::streamed(body, config.request_body_idle, Arc::clone(&progress)),
                None => RequestBody::held(Bytes::new()),
            },
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        (request, progress)
    }

    /// Takes the body of an unsent request back; true when it can be sent again.
    fn take_back(&mut self, unsent: Request<RequestBody>, progress: &AtomicU64) -> bool {
        match (&mut self.body, unsent.into_body()) {
            (Source::Held(_), _) => true,
            (Source::Client(place), RequestBody::Streamed { inner, .. }) if progress.load(Ordering::Relaxed) == 0 => {
                *place = Some(inner);
                true
            }
            _ => false,
        }
    }
}
