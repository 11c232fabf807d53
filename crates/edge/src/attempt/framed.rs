//! A try on an instance that speaks HTTP/2 without TLS.

use std::sync::Arc;

use http::{Response, StatusCode, response::Parts};
use insula_catalog::RouteTarget;
use tracing::debug;

use super::{Failure, Pending};
use crate::{
    body::{FromTrunk, ResponseBody},
    choose::Candidate,
    forward::{Answer, Refusal, Shared},
    grpc, headers,
    instances::{InFlight, NoRoom},
    metrics::Cause,
    retry::is_idempotent,
    upstream::trunk::{self, Patience, Room, Trunk},
};

impl Shared {
    pub(super) async fn attempt_framed(
        self: &Arc<Self>,
        target: &RouteTarget,
        chosen: Candidate,
        pending: &mut Pending<'_>,
        in_flight: InFlight,
    ) -> Result<Result<Answer, Refusal>, Failure> {
        let (room, is_reused) = self.room(target, chosen, &in_flight).await?;
        let request = match pending.framed() {
            Ok(request) => request,
            Err(error) => return Ok(Err(Refusal::bad_request(error.to_string()))),
        };
        // A call may be silent for as long as its client likes; that client says itself when it takes too long.
        let limit = |limit| (!pending.is_call).then_some(limit);
        let patience = Patience {
            response_head: limit(self.config.response_head),
            request_body_idle: limit(self.config.request_body_idle),
        };
        let rest = pending.take_rest();
        match room.exchange(request, pending.held.clone(), rest, patience).await {
            Ok((head, _)) if chosen.is_far && head.headers.contains_key(headers::NOT_SERVED) => {
                Err(self.not_served(&in_flight))
            }
            Ok((head, answer)) => Ok(self.pass_on_framed(head, answer, pending, in_flight)),
            Err((broken, rest)) => {
                pending.take_back(rest);
                let is_repeatable = is_idempotent(&pending.parts.method);
                Err(self.failed(&broken, chosen, is_reused, is_repeatable, &in_flight))
            }
        }
    }

    /// Room on a connection to the instance, and whether that has been used before. How long it was idle does not matter: who closes
    /// one says before which request counted.
    async fn room(
        &self,
        target: &RouteTarget,
        chosen: Candidate,
        in_flight: &InFlight,
    ) -> Result<(Room, bool), Failure> {
        let take = || match in_flight.0.take_room(self.env.clock.now(), self.config.pool_per_instance) {
            Ok(room) => Ok(Some((room, true))),
            Err(NoRoom::MayDial) => Ok(None),
            Err(NoRoom::Full) => Err(Failure::Busy),
        };
        if let Some(room) = take()? {
            return Ok(room);
        }
        let _turn = in_flight.0.turn(self.dial_wait(chosen)).await.ok_or(Failure::Busy)?;
        // Another request may have made one meanwhile.
        if let Some(room) = take()? {
            return Ok(room);
        }
        let stream = self.connect(target, chosen, in_flight).await?;
        let begun = Trunk::begin(stream, self.env.clock.now(), &self.env.tasks).await;
        let trunk = begun.map_err(|error| {
            debug!(instance = %chosen.instance, %error, "HTTP/2 did not begin");
            in_flight.0.unreachable(self.env.clock.now());
            if !self.is_cut_off_from(in_flight.0.node) {
                in_flight.0.failed();
            }
            Failure::NotSent { is_its_own: true }
        })?;
        let room = trunk.room().ok_or(Failure::Stale)?;
        in_flight.0.keep_trunk(trunk);
        Ok((room, false))
    }

    /// Makes of an instance's response what the client gets.
    fn pass_on_framed(
        self: &Arc<Self>,
        mut head: Parts,
        answer: trunk::Answer,
        pending: &Pending<'_>,
        in_flight: InFlight,
    ) -> Result<Answer, Refusal> {
        let Pending { is_call, number, .. } = *pending;
        let now = self.env.clock.now();
        match grpc::outcome(&head.headers).filter(|_| is_call) {
            Some(outcome) => in_flight.0.answered_as(head.status, outcome, now),
            // Its outcome comes with the trailers.
            None if is_call && head.status == StatusCode::OK && !answer.is_over() => {
                in_flight.0.begun(head.status, head.status);
            }
            None => in_flight.0.answered(head.status, now),
        }
        if head.status.is_informational() {
            let text = "the instance switched protocols, which HTTP/2 does not have";
            return Err(Refusal::new(Cause::BrokenOff, StatusCode::BAD_GATEWAY, text));
        }
        headers::strip_hop_by_hop(&mut head.headers);
        let body = FromTrunk { answer, is_call, in_flight, status: head.status, number, edge: Arc::clone(self) };
        let mut response = Response::new(ResponseBody::from_trunk(body));
        (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
        Ok(response)
    }
}
