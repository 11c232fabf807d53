//! What is sent to clients: the edge's own words, or an instance's as they come. Streamed, never gathered. Trailers pass where both
//! sides speak HTTP/2, and are dropped elsewhere.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use crate::{
    forward::Shared,
    grpc,
    instances::InFlight,
    metrics::Cause,
    upstream::{
        Connection, Outgoing,
        body::Decoder,
        trunk::{self, Cut},
    },
};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is sent to the client.
pub(crate) struct ResponseBody(Source);

enum Source {
    Own(Full<Bytes>),
    Instance(Box<FromInstance>),
    Trunk(Box<FromTrunk>),
}

impl Shared {
    /// An instance's response broke off behind its head.
    fn broke_off(&self, number: u64, status: StatusCode, in_flight: &InFlight) {
        in_flight.0.broke_off(status, self.env.clock.now());
        self.metrics.fail(Cause::BodyBrokenOff);
        self.requests.broke_off(number, self.env.clock.wall_ms());
    }
}

/// The body of an instance's response, with what must happen at its end.
pub(crate) struct FromInstance {
    /// Given back for the next request once the body has been read to its end.
    pub connection: Option<Connection>,
    pub decoder: Decoder,
    /// Whether the connection takes another request then.
    pub is_kept: bool,
    /// The request, of which the rest may still be on its way.
    pub request: Outgoing,
    pub in_flight: InFlight,
    /// What the head said.
    pub status: StatusCode,
    /// Counts the requests of the edge.
    pub number: u64,
    pub edge: Arc<Shared>,
    /// Why there is no more, once that is so.
    pub broken: Option<io::Error>,
}

impl FromInstance {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error.into())));
        }
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        if !self.request.is_sent() && matches!(connection.poll_send(cx, &mut self.request), Poll::Ready(Err(_))) {
            // The client is done with its request, and the response goes on all the same.
            self.is_kept = false;
        }
        let part = ready!(connection.poll_body(cx, &mut self.decoder));
        match part {
            Some(Err(error)) => {
                self.connection = None;
                self.edge.broke_off(self.number, self.status, &self.in_flight);
                // The client is to get what came before: that is sent once there is nothing more for the moment.
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            // Nobody asks for the end behind the last part.
            Some(Ok(bytes)) => {
                if self.decoder.is_over() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    fn finish(&mut self) {
        let connection = self.connection.take().filter(|_| self.is_kept && self.request.is_sent());
        if let Some(connection) = connection.and_then(Connection::into_idle) {
            let (now, most) = (self.edge.env.clock.now(), self.edge.config.pool_per_instance);
            self.in_flight.0.give_back(connection, now, most);
        }
    }
}

/// The same of an instance that speaks HTTP/2.
pub(crate) struct FromTrunk {
    pub answer: trunk::Answer,
    /// Whether it is the answer to a call by gRPC, whose outcome stands among the trailers.
    pub is_call: bool,
    pub in_flight: InFlight,
    pub status: StatusCode,
    /// Counts the requests of the edge.
    pub number: u64,
    pub edge: Arc<Shared>,
}

impl FromTrunk {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.answer.poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(outcome) = frame.trailers_ref().filter(|_| self.is_call).and_then(grpc::outcome)
        {
            self.in_flight.0.ended(self.status, outcome, self.edge.env.clock.now());
        }
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|cut| match cut {
                Cut::Client(fault) => format!("the request failed: {fault:?}").into(),
                Cut::Instance(error) => {
                    self.edge.broke_off(self.number, self.status, &self.in_flight);
                    error.into()
                }
            })
        }))
    }
}

impl ResponseBody {
    /// A body that comes from an instance by HTTP/2.
    pub(crate) fn from_trunk(body: FromTrunk) -> Self {
        Self(Source::Trunk(Box::new(body)))
    }

    /// Goes on with the request, while nobody takes the response: each may wait for the other.
    pub(crate) fn poll_request(&mut self, cx: &mut Context<'_>) {
        if let Source::Trunk(body) = &mut self.0 {
            body.answer.poll_send(cx);
        }
    }

    /// A body of the edge itself.
    pub(crate) fn own(full: Full<Bytes>) -> Self {
        Self(Source::Own(full))
    }

    /// A body that comes from an instance.
    pub(crate) fn from_instance(mut body: FromInstance) -> Self {
        if body.decoder.is_over() {
            body.finish();
            return Self(Source::Own(Full::default()));
        }
        Self(Source::Instance(Box::new(body)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Source::Own(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Source::Instance(body) => body.poll_part(cx).map(|part| part.map(|part| part.map(Frame::data))),
            Source::Trunk(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Own(full) => full.is_end_stream(),
            Source::Instance(body) => body.decoder.is_over(),
            Source::Trunk(body) => body.answer.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Own(full) => full.size_hint(),
            Source::Instance(body) => body.decoder.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Source::Trunk(body) if body.answer.is_over() => SizeHint::with_exact(0),
            // What the head says of it goes on with the head.
            Source::Trunk(_) => SizeHint::default(),
        }
    }
}
