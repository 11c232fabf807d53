//! One try: a request goes to one instance, by the version of HTTP that this one speaks.

mod framed;
mod pending;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderValue, Response, StatusCode, header};
use insula_catalog::RouteTarget;
use insula_mesh::{Caller, DialError, FarTarget, Refusal as Refused, Stream, Target, TraceId, limits::FAR_DIAL};
use insula_types::NodeId;
use tracing::debug;

pub(crate) use self::pending::{Pending, Rest};
use crate::{
    body::{FromInstance, ResponseBody},
    choose::Candidate,
    config::FAR_IDLE,
    elsewhere,
    forward::{Answer, Refusal, Shared, Visitor},
    headers::NOT_SERVED,
    instances::InFlight,
    metrics::{Cause, add},
    requests::Why,
    retry::is_idempotent,
    upgrade,
    upstream::{Broken, Connection, Fault, Outgoing, head::Head},
};

/// Why one try gave no response.
pub(crate) enum Failure {
    /// Too many others wait for a connection to that instance.
    Busy,
    /// No connection was made; by the instance, or on the way to it.
    NotSent { is_its_own: bool },
    /// A connection from the pool turned out to be closed before anything was sent on it, or before it counted.
    Stale,
    /// The instance said that it does no work on it.
    Refused,
    /// It may or may not have been received. On a connection from the pool that says little about the instance, which
    /// may just have closed it for being idle.
    Unknown { is_reused: bool },
    /// The edge of another region brought it to no instance.
    NotServed,
    /// No response came in time.
    TimedOut,
    /// It is the client that failed.
    Client(Fault),
}

impl Failure {
    /// What the instance did.
    pub(crate) const fn why(&self) -> Why {
        match self {
            Self::Busy => Why::Busy,
            Self::NotSent { is_its_own: true } => Why::NoConnection,
            Self::NotSent { is_its_own: false } => Why::NoWay,
            Self::Stale => Why::Closed,
            Self::Refused => Why::Refused,
            Self::NotServed => Why::NotServed,
            Self::Unknown { .. } => Why::BrokenOff,
            Self::TimedOut => Why::TimedOut,
            Self::Client(_) => Why::Client,
        }
    }
}

impl Shared {
    /// One try on one instance.
    pub(crate) async fn attempt(
        self: &Arc<Self>,
        target: &RouteTarget,
        chosen: Candidate,
        pending: &mut Pending<'_>,
        in_flight: InFlight,
        visitor: &Visitor,
    ) -> Result<Result<Answer, Refusal>, Failure> {
        if chosen.is_h2c {
            // Boxed, so that the usual case does not carry it around.
            return Box::pin(self.attempt_framed(target, chosen, pending, in_flight)).await;
        }
        let is_repeatable = is_idempotent(&pending.parts.method);
        let (mut connection, is_reused) = self.connection(target, chosen, &in_flight, is_repeatable).await?;
        let mut request = pending.outgoing();
        let outcome = connection.exchange(&mut request, &pending.parts.method, &self.config).await;
        match outcome {
            Ok(head) if chosen.is_far && head.headers.contains_key(NOT_SERVED) => {
                pending.take_back(request.take_back());
                Err(self.not_served(&in_flight))
            }
            Ok(head) => {
                in_flight.0.answered(head.status, self.env.clock.now());
                Ok(self.pass_on(head, connection, request, in_flight, pending, visitor))
            }
            Err(broken) => {
                if matches!(broken, Broken::Unsent) {
                    pending.take_back(request.take_back());
                }
                Err(self.failed(&broken, chosen, is_reused, is_repeatable, &in_flight))
            }
        }
    }

    /// The edge of another region has no instance for it: for a moment others are asked.
    fn not_served(&self, in_flight: &InFlight) -> Failure {
        in_flight.0.unreachable(self.env.clock.now());
        Failure::NotServed
    }

    /// What there being no response means, once it has been counted.
    fn failed(
        &self,
        broken: &Broken,
        chosen: Candidate,
        is_reused: bool,
        is_repeatable: bool,
        in_flight: &InFlight,
    ) -> Failure {
        debug!(instance = %chosen.instance, error = %broken, is_reused, "no response");
        let failure = match broken {
            Broken::Client(fault) => return Failure::Client(*fault),
            Broken::TimedOut => Failure::TimedOut,
            Broken::Unsent => Failure::Stale,
            Broken::Refused => Failure::Refused,
            Broken::Off(_) | Broken::Rubbish(_) => Failure::Unknown { is_reused },
        };
        // That a kept connection was closed says nothing, unless it is what the client gets to hear; nor does what ended with the way
        // to the node.
        let is_heard = !is_reused
            || matches!(failure, Failure::TimedOut | Failure::Refused)
            || !is_repeatable && matches!(failure, Failure::Unknown { .. });
        if is_heard && !self.is_cut_off_from(in_flight.0.node) {
            in_flight.0.failed();
        }
        let now = self.env.clock.now();
        match failure {
            Failure::Stale | Failure::Unknown { .. } if !is_reused => in_flight.0.unreachable(now),
            Failure::Stale => in_flight.0.forget_idle(),
            Failure::Unknown { .. } => {
                in_flight.0.forget_idle();
                in_flight.0.disappointed(now);
            }
            _ => in_flight.0.disappointed(now),
        }
        failure
    }

    /// A connection to the instance, and whether it has been used before. A request that cannot be sent twice gets one
    /// that has been used a moment ago, or a new one: what was idle for longer may be closed while the request is on its way.
    async fn connection(
        &self,
        target: &RouteTarget,
        chosen: Candidate,
        in_flight: &InFlight,
        is_repeatable: bool,
    ) -> Result<(Connection, bool), Failure> {
        let idle_max = match (chosen.is_far, is_repeatable) {
            // The other end is an edge like this one, which waits longer.
            (true, _) => FAR_IDLE,
            (false, true) => self.config.pool_idle,
            (false, false) => self.config.probed_idle,
        };
        let idle = || in_flight.0.take(self.env.clock.now(), idle_max);
        if let Some(connection) = idle() {
            return Ok((connection, true));
        }
        // Boxed, so that the usual case does not carry it around.
        Box::pin(async {
            let _turn = in_flight.0.turn(self.dial_wait(chosen)).await.ok_or(Failure::Busy)?;
            // Another request may have been done with its own meanwhile.
            match idle() {
                Some(connection) => Ok((connection, true)),
                None => {
                    let stream = self.connect(target, chosen, in_flight).await?;
                    Ok((Connection::new(stream, self.env.clock.now()), false))
                }
            }
        })
        .await
    }

    /// How long a request waits for its turn to make a connection.
    fn dial_wait(&self, chosen: Candidate) -> Duration {
        if chosen.is_far { FAR_DIAL } else { self.config.dial_wait }
    }

    /// A new connection to another region's edge.
    async fn connect_far(&self, gateway: NodeId, in_flight: &InFlight) -> Result<Stream, Failure> {
        let catalog = self.holder.current();
        let lost = Failure::NotSent { is_its_own: false };
        let Some(region) = elsewhere::region_of(&catalog, gateway) else { return Err(lost) };
        let trace = TraceId(self.env.rng.next());
        add(&self.metrics.dials);
        self.dialer.dial_far(FarTarget { region: region.clone(), node: gateway, trace }).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            debug!(%trace, %error, cause, "dial to another region failed");
            add(&self.metrics.dials_failed);
            in_flight.0.unreachable(self.env.clock.now());
            lost
        })
    }

    /// A new connection to the instance.
    async fn connect(&self, target: &RouteTarget, chosen: Candidate, in_flight: &InFlight) -> Result<Stream, Failure> {
        if chosen.is_far {
            return self.connect_far(chosen.node, in_flight).await;
        }
        let (own, node) = (self.holder.current().own, in_flight.0.node);
        let trace = TraceId(self.env.rng.next());
        add(&self.metrics.dials);
        let dialed = self
            .dialer
            .dial(Target {
                node,
                service: target.service.clone(),
                instance: chosen.instance,
                port: target.port.clone(),
                caller: Caller::Edge(own),
                // The stream outlives this request in the pool; who the client is stands in each request's headers.
                client: None,
                trace,
            })
            .await;
        dialed.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            debug!(%trace, %error, cause, "dial failed");
            add(&self.metrics.dials_failed);
            in_flight.0.unreachable(self.env.clock.now());
            // A release answers for its instance, not for the way there.
            let is_its_own = match &error {
                DialError::Refused { code, .. } => *code == Refused::Unreachable,
                DialError::Connect { node, .. } => *node == own,
                DialError::Unknown { .. } | DialError::Far { .. } => false,
            };
            if is_its_own {
                in_flight.0.failed();
            }
            Failure::NotSent { is_its_own }
        })
    }

    /// Whether another node does not answer, so that what is sent there says nothing about its instances.
    pub(crate) fn is_cut_off_from(&self, node: NodeId) -> bool {
        node != self.holder.current().own
            && (self.verdicts.borrow().is_bad(node) || self.far_verdicts.borrow().is_bad(node))
    }

    /// Makes of an instance's response what the client gets.
    fn pass_on(
        self: &Arc<Self>,
        head: Head,
        connection: Connection,
        request: Outgoing,
        in_flight: InFlight,
        pending: &mut Pending<'_>,
        visitor: &Visitor,
    ) -> Result<Answer, Refusal> {
        let mut response = Response::new(ResponseBody::own(http_body_util::Full::default()));
        (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let Some(half) = pending.half.take() else {
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
            number: pending.number,
            edge: Arc::clone(self),
            broken: None,
        };
        *response.body_mut() = ResponseBody::from_instance(body);
        Ok(response)
    }
}
