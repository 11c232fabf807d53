//! A request from its head to that of its answer.

use std::net::IpAddr;

use http::{StatusCode, header, request::Parts};
use insula_env::{Clock, clock::Instant};
use insula_types::{InstanceId, NodeId, ServiceRef};

use super::{
    Requests,
    record::{Facts, Said, Tries},
};
use crate::{metrics::Cause, request_id::Id};

/// Why an instance gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Busy,
    NoConnection,
    NoWay,
    Closed,
    Refused,
    BrokenOff,
    TimedOut,
    Client,
    Unfit,
    NotServed,
}

impl Why {
    /// What the instance did.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Busy => "has too many others waiting for a connection",
            Self::NoConnection => "took no connection",
            Self::NoWay => "was not reached: its node did not bring a connection to it",
            Self::Closed => "had closed the connection",
            Self::Refused => "refused it",
            Self::BrokenOff => "broke off before it answered",
            Self::TimedOut => "did not answer in time",
            Self::Client => "did not get all of it: the client failed to send it",
            Self::NotServed => "brought it to no instance: its region has none that takes it",
            Self::Unfit => "answered what cannot be passed on",
        }
    }
}

/// How a request ended.
struct Outcome {
    status: StatusCode,
    cause: Option<Cause>,
    said: String,
}

/// A request that the edge is answering. What became of it is kept when this goes, however that comes.
pub(crate) struct Asked<'a> {
    requests: &'a Requests,
    clock: &'a Clock,
    pub parts: &'a Parts,
    pub id: Id,
    pub number: u64,
    pub begun: Instant,
    client: IpAddr,
    /// The service that it is for, once that is known.
    pub service: Option<&'a ServiceRef>,
    tries: Tries,
    outcome: Option<Outcome>,
}

impl<'a> Asked<'a> {
    /// One that comes now.
    pub(crate) fn new(
        requests: &'a Requests,
        clock: &'a Clock,
        parts: &'a Parts,
        client: IpAddr,
        id: Id,
        number: u64,
    ) -> Self {
        let (service, tries, outcome) = (None, Tries::default(), None);
        Self { requests, clock, parts, id, number, begun: clock.now(), client, service, tries, outcome }
    }

    /// It is sent to an instance.
    pub(crate) fn tries(&mut self, instance: InstanceId, node: NodeId) {
        self.tries.begin(instance, node);
    }

    /// That one gave no answer.
    pub(crate) fn failed(&mut self, why: Why) {
        self.tries.fail(why);
    }

    /// An instance answered with this.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.outcome = Some(Outcome { status, cause: None, said: String::new() });
    }

    /// The edge answered itself, with this.
    pub(crate) fn refused(&mut self, cause: Cause, status: StatusCode, said: String) {
        self.outcome = Some(Outcome { status, cause: Some(cause), said });
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let took = self.clock.now().saturating_duration_since(self.begun);
        let (outcome, uri) = (self.outcome.as_ref(), &self.parts.uri);
        let host = || self.parts.headers.get(header::HOST).map_or(&b""[..], |host| host.as_bytes());
        let host = uri.authority().map_or_else(host, |authority| authority.as_str().as_bytes());
        let facts = Facts {
            number: self.number,
            came_ms: self.clock.wall_ms().saturating_sub(took.as_millis() as u64),
            client: self.client.to_canonical(),
            tries: self.tries,
            status: outcome.map(|outcome| outcome.status.as_u16()),
            cause: outcome.and_then(|outcome| outcome.cause),
            took,
        };
        let said = Said {
            id: self.id.as_bytes(),
            method: self.parts.method.as_str(),
            // Without name and password, which some put before it; the edge refuses that.
            host: host.rsplit(|byte| *byte == b'@').next().unwrap_or_default(),
            path: uri.path(),
            service: self.service,
            text: outcome.map_or("", |outcome| &outcome.said),
        };
        self.requests.keep(|record| record.write(facts, &said));
    }
}
