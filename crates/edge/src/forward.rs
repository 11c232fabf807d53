//! One request: find the service, choose an instance, send, and again on another when that is safe.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use insula_catalog::{Catalog, Holder, RouteTarget};
use insula_env::{Env, clock::timeout};
use insula_mesh::{Caller, Dialer, Target, TraceId, Verdicts};
use insula_types::InstanceId;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::{
    Config,
    answer::plain,
    apps::{Apps, Place},
    body::{FromInstance, ResponseBody},
    choose,
    config::{REPLAY_BYTES_MAX, TARGET_BYTES_MAX, TRIES_MAX},
    headers,
    instances::{InFlight, Instances},
    metrics::{Cause, Metrics, add},
    retry::is_idempotent,
    route,
    traffic::Counters,
    upgrade,
    upstream::{Broken, Connection, Fault, Outgoing, Streamed, head::Head},
};

/// What all requests share.
pub(crate) struct Shared {
    pub config: Config,
    pub holder: Arc<Holder>,
    pub dialer: Arc<dyn Dialer>,
    pub verdicts: watch::Receiver<Arc<Verdicts>>,
    pub instances: Instances,
    pub apps: Apps,
    pub counters: Counters,
    pub metrics: Arc<Metrics>,
    pub env: Env,
    /// The edge is about to end: connections of clients are to be closed behind their next response.
    pub is_leaving: AtomicBool,
    /// Connections of clients, whatever is spoken on them.
    pub open: TaskTracker,
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub address: SocketAddr,
    /// Whether something else than HTTP is spoken on it now.
    pub switched: Arc<AtomicBool>,
}

/// A request on its way, with what is needed to send it (again).
struct Pending {
    method: Method,
    /// As it is sent: the head, and a small body.
    head: Bytes,
    rest: Rest,
    /// The client's half of a switch of protocols.
    half: Option<upgrade::ClientHalf>,
}

/// The rest of a request.
enum Rest {
    /// There is none: what is here can be sent any number of times.
    None,
    /// With the client: it can be sent until the first part of it has been taken.
    Client(Streamed),
    /// It was sent.
    Gone,
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
    /// It is the client that failed.
    Client(Fault),
}

type Answer = Response<ResponseBody>;

/// What the edge says itself instead of an instance.
struct Refusal {
    cause: Cause,
    status: StatusCode,
    text: String,
    /// The rest of the request may still come: the connection is of no more use.
    closes: bool,
}

impl Refusal {
    fn new(cause: Cause, status: StatusCode, text: impl Into<String>) -> Self {
        Self { cause, status, text: text.into(), closes: false }
    }

    fn bad_request(text: impl Into<String>) -> Self {
        Self::new(Cause::BadRequest, StatusCode::BAD_REQUEST, text)
    }

    /// Of a client that failed to send its body.
    fn of_client(fault: Fault, body_max: u64) -> Self {
        let (status, text) = match fault {
            Fault::BrokenOff => (StatusCode::BAD_REQUEST, "the request body broke off".to_owned()),
            Fault::Idle => (StatusCode::REQUEST_TIMEOUT, "the request body did not come in time".to_owned()),
            Fault::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("the request body is larger than {body_max} bytes"))
            }
        };
        Self { closes: true, ..Self::new(Cause::BadRequest, status, text) }
    }
}

impl Shared {
    /// Answers one request. Every way out of here is a response.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>, visitor: Arc<Visitor>) -> Answer {
        add(&self.metrics.requests);
        let mut closes = false;
        let mut answer = match self.answer_now(request, &visitor).await {
            Ok(answer) => answer,
            Err(refusal) => {
                self.metrics.fail(refusal.cause);
                closes = refusal.closes;
                plain(refusal.status, &refusal.text)
            }
        };
        closes |= self.is_leaving.load(Ordering::Relaxed) && answer.status() != StatusCode::SWITCHING_PROTOCOLS;
        if closes {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn answer_now(self: &Arc<Self>, request: Request<Incoming>, visitor: &Visitor) -> Result<Answer, Refusal> {
        let catalog = self.holder.current();
        let target = self.target(&catalog, &self.host_of(&request)?, request.uri().path())?;
        self.answer_for(&catalog, target, request, visitor).await.inspect_err(|refusal| {
            // What an instance answered has been counted with that.
            self.counters.of_service(&target.service).answered(refusal.status);
        })
    }

    /// Answers a request for a service.
    async fn answer_for(
        self: &Arc<Self>,
        catalog: &Arc<Catalog>,
        target: &RouteTarget,
        mut request: Request<Incoming>,
        visitor: &Visitor,
    ) -> Result<Answer, Refusal> {
        let now = self.env.clock.now();
        let Some(place) = self.apps.enter(&target.service.app, now) else {
            let text = format!("{} has as many requests in flight as it may", target.service.app);
            return Err(Refusal::new(Cause::Busy, StatusCode::SERVICE_UNAVAILABLE, text));
        };
        let protocol = headers::upgrade(request.headers());
        let half = protocol.as_ref().map(|_| upgrade::client_half(&mut request));
        let (parts, body) = request.into_parts();
        let (head, rest) = self.prepare(&parts, body, visitor.address, protocol.as_ref()).await?;
        let mut pending = Pending { method: parts.method, head, rest, half };
        let answer = self.send(catalog, target, &mut pending, &place, visitor).await;
        let status = answer.as_ref().map_or_else(|refusal| refusal.status, Response::status).as_u16();
        debug!(client = %visitor.address, method = %pending.method, service = %target.service, path = parts.uri.path(), status, "request");
        answer
    }

    /// The host that a request is for, if it is one for an app at all.
    fn host_of<'a>(&self, request: &'a Request<Incoming>) -> Result<Cow<'a, str>, Refusal> {
        let host = route::host(request.uri(), request.headers(), request.version());
        let host = host.map_err(|error| Refusal::bad_request(error.to_string()))?;
        if !request.uri().path().starts_with('/') || request.method() == Method::CONNECT {
            return Err(Refusal::bad_request("this is not a proxy"));
        }
        let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        if target > TARGET_BYTES_MAX {
            let text = format!("path and query are longer than {TARGET_BYTES_MAX} bytes");
            return Err(Refusal::new(Cause::BadRequest, StatusCode::URI_TOO_LONG, text));
        }
        if request.body().size_hint().lower() > self.config.request_body_max {
            return Err(self.refuse_client(Fault::TooLarge));
        }
        Ok(host)
    }

    fn target<'a>(&self, catalog: &'a Catalog, host: &str, path: &str) -> Result<&'a RouteTarget, Refusal> {
        if let Some(target) = route::find(catalog, host, path) {
            return Ok(target);
        }
        if catalog.is_empty() {
            let text = "this edge has not heard of its region yet";
            return Err(Refusal::new(Cause::NoCatalog, StatusCode::SERVICE_UNAVAILABLE, text));
        }
        let place = if catalog.routes.contains_key(host) { " under this path" } else { "" };
        let text = format!("no app is published at {host}{place}");
        Err(Refusal::new(Cause::NoRoute, StatusCode::NOT_FOUND, text))
    }

    fn refuse_client(&self, fault: Fault) -> Refusal {
        Refusal::of_client(fault, self.config.request_body_max)
    }

    /// Makes of the client's request what instances get.
    async fn prepare(
        &self,
        parts: &Parts,
        body: Incoming,
        client: SocketAddr,
        protocol: Option<&HeaderValue>,
    ) -> Result<(Bytes, Rest), Refusal> {
        // The host of an absolute target is the one that counts; instances see it in the header.
        let authority = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let host = authority.as_ref().or_else(|| parts.headers.get(header::HOST));
        let is_trusted = self.config.trusted_proxies.iter().any(|network| network.contains(client.ip()));
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut head = BytesMut::with_capacity(1024);
        for part in [parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            head.put_slice(part.as_bytes());
        }
        headers::write(&parts.headers, &headers::Origin { client, is_trusted, host }, protocol, &mut head);
        let rest = match body.size_hint().exact() {
            Some(0) if body.is_end_stream() => {
                head.put_slice(b"\r\n");
                Rest::None
            }
            // A small body costs less when it goes with the head, and can be sent again.
            Some(len) if len <= REPLAY_BYTES_MAX => {
                head.put_slice(b"\r\n");
                head.put_slice(&self.gather(body, len).await?);
                Rest::None
            }
            known => {
                let end = if known.is_some() { "\r\n" } else { "transfer-encoding: chunked\r\n\r\n" };
                head.put_slice(end.as_bytes());
                Rest::Client(Streamed::new(body, known.is_none(), self.config.request_body_max))
            }
        };
        Ok((head.freeze(), rest))
    }

    async fn gather(&self, body: Incoming, len: u64) -> Result<Bytes, Refusal> {
        match timeout(self.config.request_body_idle, Limited::new(body, len as usize).collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(_)) => Err(self.refuse_client(Fault::BrokenOff)),
            Err(_) => Err(self.refuse_client(Fault::Idle)),
        }
    }

    /// Sends a request, on another instance again while that is safe and within the budget.
    async fn send(
        self: &Arc<Self>,
        first_catalog: &Arc<Catalog>,
        target: &RouteTarget,
        pending: &mut Pending,
        place: &Place,
        visitor: &Visitor,
    ) -> Result<Answer, Refusal> {
        let mut tried: Vec<InstanceId> = Vec::new();
        // Those of them that may well take the request on a new connection, once nothing else is left.
        let mut again: Vec<InstanceId> = Vec::new();
        let mut catalog = Arc::clone(first_catalog);
        let mut last: Option<Refusal> = None;
        for tries in 1..=TRIES_MAX {
            let chosen = self.choose(&catalog, target, &tried, place).or_else(|| {
                tried.retain(|id| !again.contains(id));
                again.clear();
                self.choose(&catalog, target, &tried, place)
            });
            let Some((instance, in_flight)) = chosen else { break };
            let failure = match self.attempt(target, instance, pending, in_flight, visitor).await {
                Ok(answer) => return answer,
                Err(failure) => failure,
            };
            tried.push(instance);
            let (refusal, is_safe) = self.judge(&failure, pending, target);
            debug!(%instance, service = %target.service, cause = ?refusal.cause, text = refusal.text, is_safe, "try failed");
            last = Some(refusal);
            if matches!(failure, Failure::Stale | Failure::Unknown { is_reused: true }) {
                again.push(instance);
            }
            if !is_safe || tries == TRIES_MAX || !self.may_retry(target) {
                break;
            }
            catalog = self.holder.current();
        }
        let refusal = last.unwrap_or_else(|| {
            let text = format!("{} has no ready instance", target.service);
            Refusal::new(Cause::NoInstance, StatusCode::SERVICE_UNAVAILABLE, text)
        });
        if refusal.cause == Cause::Busy {
            self.apps.refused(&target.service.app, self.env.clock.now());
        }
        Err(refusal)
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
        let judge = |id| self.instances.verdict(id, now);
        let candidates = choose::candidates(catalog, target, &verdicts, tried, judge);
        let draw = |below: usize| self.env.rng.range(0, below as u64) as usize;
        let candidates = choose::split(catalog, target, candidates, draw);
        let chosen = choose::pick(&candidates, |id| self.instances.in_flight(id), draw)?;
        let in_flight = self.instances.enter(chosen, &target.service, &self.counters, &self.config, place);
        Some((chosen.instance, in_flight))
    }

    /// What a failure means for the client, and whether another try is safe.
    fn judge(&self, failure: &Failure, pending: &Pending, target: &RouteTarget) -> (Refusal, bool) {
        let service = &target.service;
        let can_resend = !matches!(pending.rest, Rest::Gone);
        let broken_off = |text| Refusal::new(Cause::BrokenOff, StatusCode::BAD_GATEWAY, text);
        match failure {
            Failure::Busy => {
                let text = format!("more requests wait for {service} than its instances take");
                (Refusal::new(Cause::Busy, StatusCode::SERVICE_UNAVAILABLE, text), can_resend)
            }
            Failure::NotSent => {
                let text = format!("no instance of {service} takes connections");
                (Refusal::new(Cause::Connect, StatusCode::BAD_GATEWAY, text), can_resend)
            }
            Failure::Stale => {
                (broken_off(format!("the connection to an instance of {service} was closed")), can_resend)
            }
            Failure::Unknown { .. } => {
                let is_safe = is_idempotent(&pending.method) && can_resend;
                (broken_off(format!("an instance of {service} broke off before it answered")), is_safe)
            }
            // It may be at work on it still: a second one would double the load that made it slow.
            Failure::TimedOut => {
                let text = format!("an instance of {service} did not answer within {:?}", self.config.response_head);
                (Refusal::new(Cause::TimedOut, StatusCode::GATEWAY_TIMEOUT, text), false)
            }
            Failure::Client(fault) => (self.refuse_client(*fault), false),
        }
    }

    /// One try on one instance.
    async fn attempt(
        self: &Arc<Self>,
        target: &RouteTarget,
        instance: InstanceId,
        pending: &mut Pending,
        in_flight: InFlight,
        visitor: &Visitor,
    ) -> Result<Result<Answer, Refusal>, Failure> {
        let is_repeatable = is_idempotent(&pending.method);
        let (mut connection, is_reused) = self.connection(target, instance, &in_flight, is_repeatable).await?;
        let mut request = pending.outgoing();
        let outcome = connection.exchange(&mut request, &pending.method, &self.config).await;
        let now = self.env.clock.now();
        let broken = match outcome {
            Ok(head) => {
                in_flight.0.answered(head.status, now);
                return Ok(self.pass_on(head, connection, request, in_flight, pending.half.take(), visitor));
            }
            Err(broken) => broken,
        };
        debug!(%instance, error = %broken, is_reused, "no response");
        let failure = match broken {
            Broken::Client(fault) => return Err(Failure::Client(fault)),
            Broken::TimedOut => Failure::TimedOut,
            Broken::Unsent => {
                pending.take_back(request);
                Failure::Stale
            }
            Broken::Off(_) | Broken::Rubbish(_) => Failure::Unknown { is_reused },
        };
        // That a kept connection was closed says nothing, unless it is what the client gets to hear.
        if !is_reused
            || matches!(failure, Failure::TimedOut)
            || !is_repeatable && matches!(failure, Failure::Unknown { .. })
        {
            in_flight.0.failed();
        }
        match failure {
            Failure::Stale | Failure::Unknown { .. } if !is_reused => in_flight.0.unreachable(now),
            Failure::Stale => in_flight.0.forget_idle(),
            Failure::Unknown { .. } => {
                in_flight.0.forget_idle();
                in_flight.0.disappointed(now);
            }
            _ => in_flight.0.disappointed(now),
        }
        Err(failure)
    }

    /// A connection to the instance, and whether it has been used before. A request that cannot be sent twice gets one
    /// that has been used a moment ago, or a new one: what was idle for longer may be closed while the request is on its way.
    async fn connection(
        &self,
        target: &RouteTarget,
        instance: InstanceId,
        in_flight: &InFlight,
        is_repeatable: bool,
    ) -> Result<(Connection, bool), Failure> {
        let idle_max = if is_repeatable { self.config.pool_idle } else { self.config.probed_idle };
        let idle = || in_flight.0.take(self.env.clock.now(), idle_max);
        if let Some(connection) = idle() {
            return Ok((connection, true));
        }
        // Boxed, so that the usual case does not carry it around.
        Box::pin(async {
            let _turn = in_flight.0.turn(self.config.dial_wait).await.ok_or(Failure::Busy)?;
            // Another request may have been done with its own meanwhile.
            match idle() {
                Some(connection) => Ok((connection, true)),
                None => Ok((self.connect(target, instance, in_flight).await?, false)),
            }
        })
        .await
    }

    /// A new connection to the instance.
    async fn connect(
        &self,
        target: &RouteTarget,
        instance: InstanceId,
        in_flight: &InFlight,
    ) -> Result<Connection, Failure> {
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
        dialed.map(|stream| Connection::new(stream, self.env.clock.now())).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            debug!(%trace, %error, cause, "dial failed");
            add(&self.metrics.dials_failed);
            in_flight.0.unreachable(self.env.clock.now());
            in_flight.0.failed();
            Failure::NotSent
        })
    }

    /// Makes of an instance's response what the client gets.
    fn pass_on(
        self: &Arc<Self>,
        head: Head,
        connection: Connection,
        request: Outgoing,
        in_flight: InFlight,
        half: Option<upgrade::ClientHalf>,
        visitor: &Visitor,
    ) -> Result<Answer, Refusal> {
        let mut response = Response::new(ResponseBody::own(http_body_util::Full::default()));
        (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let Some(half) = half else {
                let text = "the instance switched protocols without being asked";
                return Err(Refusal::new(Cause::BrokenOff, StatusCode::BAD_GATEWAY, text));
            };
            visitor.switched.store(true, Ordering::Relaxed);
            let tunnel = upgrade::tunnel(half, connection, in_flight, &self.metrics);
            self.env.tasks.spawn("edge tunnel", self.open.track_future(tunnel));
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().extend(head.upgrade.map(|protocol| (header::UPGRADE, protocol)));
            return Ok(response);
        }
        let body = FromInstance {
            connection: Some(connection),
            decoder: head.body,
            is_kept: head.is_kept,
            request,
            in_flight,
            status: head.status,
            clock: self.env.clock.clone(),
            pool_max: self.config.pool_per_instance,
            metrics: Arc::clone(&self.metrics),
            broken: None,
        };
        *response.body_mut() = ResponseBody::from_instance(body);
        Ok(response)
    }
}

impl Pending {
    /// The request for one try.
    fn outgoing(&mut self) -> Outgoing {
        let rest = match std::mem::replace(&mut self.rest, Rest::Gone) {
            Rest::Client(rest) => Some(rest),
            Rest::None => {
                self.rest = Rest::None;
                None
            }
            Rest::Gone => None,
        };
        Outgoing::new(self.head.clone(), rest)
    }

    /// Takes the rest of a request back of which nothing was sent.
    fn take_back(&mut self, request: Outgoing) {
        if let Some(rest) = request.take_back() {
            self.rest = Rest::Client(rest);
        }
    }
}
