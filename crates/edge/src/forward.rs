//! One request: find the service, choose an instance, send, and again on another when that is safe.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use insula_catalog::{Catalog, Holder, RouteTarget};
use insula_env::{Env, clock::timeout};
use insula_mesh::{Dialer, Verdicts};
use insula_types::{InstanceId, NodeId};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::{
    Config,
    answer::plain,
    apps::{Apps, Place},
    attempt::{Failure, Pending, Rest},
    body::ResponseBody,
    choose::{self, Candidate, Local},
    config::{HEADERS_MAX, REPLAY_BYTES_MAX, TARGET_BYTES_MAX, TRIES_MAX},
    elsewhere::{self, Away, Far},
    grpc,
    headers::{self, ClientAddress},
    incoming::ClientBody,
    instances::{InFlight, Instances},
    metrics::{Cause, Metrics, add},
    request_id::{Ids, X_REQUEST_ID},
    requests::{Asked, Requests, Why},
    retry::is_idempotent,
    route,
    traffic::Counters,
    upgrade,
    upstream::{Fault, Streamed},
};

/// What all requests share.
pub(crate) struct Shared {
    pub config: Config,
    pub holder: Arc<Holder>,
    pub dialer: Arc<dyn Dialer>,
    pub verdicts: watch::Receiver<Arc<Verdicts>>,
    /// The same of other regions' gateways.
    pub far_verdicts: watch::Receiver<Arc<Verdicts>>,
    /// Services whose requests go to other regions.
    pub away: Away,
    pub instances: Instances,
    pub apps: Apps,
    pub counters: Counters,
    pub metrics: Arc<Metrics>,
    pub ids: Ids,
    pub requests: Requests,
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
    name: ClientAddress,
    /// Whether something else than HTTP is spoken on it now.
    pub switched: Arc<AtomicBool>,
    /// Whether it is the edge of another region: what it brings goes to instances of this one, or nowhere.
    pub is_edge: bool,
}

impl Visitor {
    pub(crate) fn new(address: SocketAddr, is_edge: bool) -> Self {
        Self { address, name: ClientAddress::of(address), switched: Arc::default(), is_edge }
    }
}

pub(crate) type Answer = Response<ResponseBody>;

/// What the edge says itself instead of an instance.
pub(crate) struct Refusal {
    cause: Cause,
    status: StatusCode,
    text: String,
    /// The rest of the request may still come: the connection is of no more use.
    closes: bool,
}

impl Refusal {
    pub(crate) fn new(cause: Cause, status: StatusCode, text: impl Into<String>) -> Self {
        Self { cause, status, text: text.into(), closes: false }
    }

    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
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
    pub(crate) async fn answer(self: Arc<Self>, request: Request<ClientBody>, visitor: Arc<Visitor>) -> Answer {
        let number = self.metrics.requests.fetch_add(1, Ordering::Relaxed);
        let (mut parts, body) = request.into_parts();
        let half = upgrade::client_half(&mut parts.extensions);
        let is_framed = parts.version == Version::HTTP_2;
        let is_call = grpc::is_call(parts.version, &parts.headers);
        let catalog = self.holder.current();
        let (id, mut client) = (self.ids.of(&parts.headers), visitor.address.ip());
        if visitor.is_edge {
            client = headers::brought_for(&parts.headers).unwrap_or(client);
        }
        let mut asked = Asked::new(&self.requests, &self.env.clock, &parts, client, id, number);
        let mut closes = false;
        let mut answer = match self.answer_now(&catalog, &mut asked, body, half, &visitor).await {
            Ok(mut answer) => {
                asked.answered(answer.status());
                if visitor.is_edge {
                    // It is for edges to say.
                    answer.headers_mut().remove(headers::NOT_SERVED);
                }
                answer
            }
            Err(Refusal { cause, status, text, closes: is_last }) => {
                self.metrics.fail(cause);
                closes = is_last;
                let mut answer = if is_call { grpc::refuse(status, &text) } else { plain(status, &text) };
                if visitor.is_edge && cause.is_before_all() {
                    answer.headers_mut().insert(headers::NOT_SERVED, HeaderValue::from_static("1"));
                }
                asked.refused(cause, status, text);
                answer
            }
        };
        answer.headers_mut().insert(X_REQUEST_ID, id.value());
        if is_framed {
            // There a connection that is to end says so itself.
            return answer;
        }
        closes |= self.is_leaving.load(Ordering::Relaxed) && answer.status() != StatusCode::SWITCHING_PROTOCOLS;
        if closes {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn answer_now<'a>(
        self: &Arc<Self>,
        catalog: &'a Arc<Catalog>,
        asked: &mut Asked<'a>,
        body: ClientBody,
        half: Option<upgrade::ClientHalf>,
        visitor: &Visitor,
    ) -> Result<Answer, Refusal> {
        let target = self.target(catalog, &self.host_of(asked.parts, &body)?, asked.parts.uri.path())?;
        asked.service = Some(&target.service);
        self.answer_for(catalog, target, asked, body, half, visitor).await.inspect_err(|refusal| {
            // What an instance answered has been counted with that.
            self.counters.of_service(&target.service).answered(refusal.status);
        })
    }

    /// Answers a request for a service.
    async fn answer_for(
        self: &Arc<Self>,
        catalog: &Arc<Catalog>,
        target: &RouteTarget,
        asked: &mut Asked<'_>,
        body: ClientBody,
        half: Option<upgrade::ClientHalf>,
        visitor: &Visitor,
    ) -> Result<Answer, Refusal> {
        let Some(place) = self.apps.enter(&target.service.app, asked.begun) else {
            let text = format!("{} has as many requests in flight as it may", target.service.app);
            return Err(Refusal::new(Cause::Busy, StatusCode::SERVICE_UNAVAILABLE, text));
        };
        let parts = asked.parts;
        let protocol = headers::upgrade(&parts.headers);
        let (held, rest) = self.prepare(body).await?;
        let mut pending = Pending {
            client: &visitor.name,
            is_brought: visitor.is_edge,
            is_trusted: self.config.trusted_proxies.iter().any(|network| network.contains(visitor.address.ip())),
            half: half.filter(|_| protocol.is_some()),
            protocol,
            is_call: grpc::is_call(parts.version, &parts.headers),
            held,
            is_chunked: matches!(&rest, Rest::Client(rest) if rest.is_chunked),
            rest,
            written: None,
            parts,
            id: asked.id,
            number: asked.number,
        };
        let answer = self.send(catalog, target, &mut pending, asked, &place, visitor).await;
        let status = answer.as_ref().map_or_else(|refusal| refusal.status, Response::status).as_u16();
        let (id, client) = (asked.id.as_str(), visitor.address);
        debug!(id, %client, method = %parts.method, service = %target.service, path = parts.uri.path(), status, "request");
        answer
    }

    /// The host that a request is for, if it is one for an app at all.
    fn host_of<'a>(&self, asked: &'a Parts, body: &ClientBody) -> Result<Cow<'a, str>, Refusal> {
        let host = route::host(&asked.uri, &asked.headers, asked.version);
        let host = host.map_err(|error| Refusal::bad_request(error.to_string()))?;
        if !asked.uri.path().starts_with('/') || asked.method == Method::CONNECT {
            return Err(Refusal::bad_request("this is not a proxy"));
        }
        let target = asked.uri.path_and_query().map_or(0, |target| target.as_str().len());
        if target > TARGET_BYTES_MAX {
            let text = format!("path and query are longer than {TARGET_BYTES_MAX} bytes");
            return Err(Refusal::new(Cause::BadRequest, StatusCode::URI_TOO_LONG, text));
        }
        // By HTTP/1.1 the guard has seen to it; whoever reads HTTP/2 minds only lengths that differ.
        let mut lengths = asked.headers.get_all(header::CONTENT_LENGTH).iter();
        if asked.version == Version::HTTP_2 && lengths.nth(1).is_some() {
            return Err(Refusal::bad_request("there is more than one length"));
        }
        if asked.headers.len() > HEADERS_MAX {
            let (status, text) =
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, format!("there are more than {HEADERS_MAX} headers"));
            return Err(Refusal::new(Cause::BadRequest, status, text));
        }
        if body.size_hint().lower() > self.config.request_body_max {
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

    /// What of a body is held to be sent any number of times, and what is left with the client.
    async fn prepare(&self, body: ClientBody) -> Result<(Bytes, Rest), Refusal> {
        match body.size_hint().exact() {
            Some(0) if body.is_end_stream() => Ok((Bytes::new(), Rest::None)),
            Some(len) if len <= REPLAY_BYTES_MAX => Ok((self.gather(body, len).await?, Rest::None)),
            known => {
                let rest = Streamed::new(body, known.is_none(), self.config.request_body_max);
                Ok((Bytes::new(), Rest::Client(rest)))
            }
        }
    }

    async fn gather(&self, body: ClientBody, len: u64) -> Result<Bytes, Refusal> {
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
        pending: &mut Pending<'_>,
        asked: &mut Asked<'_>,
        place: &Place,
        visitor: &Visitor,
    ) -> Result<Answer, Refusal> {
        let mut tried: Vec<InstanceId> = Vec::new();
        // Those of them that may well take the request on a new connection, once nothing else is left.
        let mut again: Vec<InstanceId> = Vec::new();
        let mut catalog = Arc::clone(first_catalog);
        let mut last: Option<Refusal> = None;
        for tries in 1..=TRIES_MAX {
            let way = (asked.parts.version == Version::HTTP_2, visitor.is_edge);
            let chosen = self.choose(&catalog, target, &tried, place, way).or_else(|| {
                tried.retain(|id| !again.contains(id));
                again.clear();
                self.choose(&catalog, target, &tried, place, way)
            });
            let Some((chosen, in_flight)) = chosen else { break };
            let instance = chosen.instance;
            asked.tries(instance, chosen.node);
            let failure = match self.attempt(target, chosen, pending, in_flight, visitor).await {
                Ok(answer) => return answer.inspect_err(|_| asked.failed(Why::Unfit)),
                Err(failure) => failure,
            };
            tried.push(instance);
            asked.failed(failure.why());
            let (refusal, is_safe) = self.judge(&failure, pending, target);
            let id = asked.id.as_str();
            debug!(id, %instance, service = %target.service, cause = ?refusal.cause, text = refusal.text, is_safe, "try failed");
            last = Some(refusal);
            if matches!(failure, Failure::Stale | Failure::Refused | Failure::Unknown { is_reused: true }) {
                again.push(instance);
            }
            if !is_safe || tries == TRIES_MAX || !self.may_retry(target) {
                break;
            }
            catalog = self.holder.current();
        }
        let refusal = last.unwrap_or_else(|| {
            let text = self.nobody(&catalog, target, visitor.is_edge);
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
        (is_framed, is_brought): (bool, bool),
    ) -> Option<(Candidate, InFlight)> {
        let now = self.env.clock.now();
        let verdicts = Arc::clone(&self.verdicts.borrow());
        let judge = |id| self.instances.verdict(id, now);
        let (local, candidates) = choose::candidates(catalog, target, &verdicts, tried, judge);
        let draw = |below: usize| self.env.rng.range(0, below as u64) as usize;
        if !catalog.far.is_empty()
            && !is_brought
            && let Some(most) = elsewhere::wanted(local, self.away.is_away(&target.service))
            && let Some(chosen) = self.choose_far(catalog, target, tried, (local, most), is_framed)
        {
            return Some((chosen, self.instances.enter(chosen, &target.service, &self.counters, &self.config, place)));
        }
        let candidates = choose::split(catalog, target, candidates, draw);
        let chosen = choose::pick(&candidates, |id| self.instances.in_flight(id), draw)?;
        let in_flight = self.instances.enter(chosen, &target.service, &self.counters, &self.config, place);
        Some((chosen, in_flight))
    }

    /// Chooses a gateway of another region, where one comes before what is here.
    fn choose_far(
        &self,
        catalog: &Catalog,
        target: &RouteTarget,
        tried: &[InstanceId],
        (local, most): (Local, Far),
        is_framed: bool,
    ) -> Option<Candidate> {
        let (now, service) = (self.env.clock.now(), &target.service);
        let verdicts = Arc::clone(&self.far_verdicts.borrow());
        let judge = |gateway| self.instances.of_gateway(gateway, service, now).1;
        let gateways = elsewhere::gateways(catalog, service, &verdicts, tried, most, judge);
        let draw = |below: usize| self.env.rng.range(0, below as u64) as usize;
        let in_flight = |id: InstanceId| self.instances.of_gateway(NodeId::new(id.get()), service, now).0;
        let mut chosen = choose::pick(&gateways, in_flight, draw)?;
        // Trailers, and both sides at once, pass by HTTP/2 alone; a switch of protocols by HTTP/1.1 alone, as the client asked for it.
        chosen.is_h2c = is_framed;
        let has_some = catalog.services.get(service).is_some_and(|entry| !entry.instances.is_empty());
        if local != Local::Good && has_some {
            self.away.leave(service);
        }
        Some(chosen)
    }

    /// Says that there is nobody for a request.
    fn nobody(&self, catalog: &Catalog, target: &RouteTarget, is_brought: bool) -> String {
        let regions = elsewhere::regions_of(catalog, &target.service);
        match regions.as_slice() {
            _ if is_brought => format!("{} has no ready instance in region {}", target.service, catalog.region),
            [] => format!("{} has no ready instance", target.service),
            _ => {
                let (service, regions) = (&target.service, regions.join(", "));
                format!("{service} has no ready instance in region {}, and is not reached in {regions}", catalog.region)
            }
        }
    }

    /// What a failure means for the client, and whether another try is safe.
    fn judge(&self, failure: &Failure, pending: &Pending<'_>, target: &RouteTarget) -> (Refusal, bool) {
        let service = &target.service;
        let can_resend = pending.can_be_sent();
        let broken_off = |text| Refusal::new(Cause::BrokenOff, StatusCode::BAD_GATEWAY, text);
        match failure {
            Failure::Busy => {
                let text = format!("more requests wait for {service} than its instances take");
                (Refusal::new(Cause::Busy, StatusCode::SERVICE_UNAVAILABLE, text), can_resend)
            }
            Failure::NotSent { .. } => {
                let text = format!("no instance of {service} takes connections");
                (Refusal::new(Cause::Connect, StatusCode::BAD_GATEWAY, text), can_resend)
            }
            Failure::Stale => {
                (broken_off(format!("the connection to an instance of {service} was closed")), can_resend)
            }
            Failure::NotServed => {
                let text = format!("{service} has no instance that takes requests, in this region or another");
                (Refusal::new(Cause::NoInstance, StatusCode::SERVICE_UNAVAILABLE, text), can_resend)
            }
            Failure::Refused => (broken_off(format!("an instance of {service} refused the request")), can_resend),
            Failure::Unknown { .. } => {
                let is_safe = is_idempotent(&pending.parts.method) && can_resend;
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
}
