//! One request by HTTP/2: the answer is written as fast as the client takes it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use http::{HeaderValue, Request, Response, header};
use http_body::Body as _;
use insula_env::clock::sleep;
use tokio::time::Sleep;

use crate::{
    body::{BoxError, ResponseBody},
    forward::{Shared, Visitor},
    incoming::ClientBody,
};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With an answer, or without one, by no doing of the client's.
    Here,
    /// The client took it back.
    TakenBack { after: Duration },
}

pub(super) async fn answer(
    shared: Arc<Shared>,
    visitor: Arc<Visitor>,
    request: Request<ClientBody>,
    mut respond: SendResponse<Bytes>,
) -> Ended {
    let clock = shared.env.clock.clone();
    let idle_max = shared.config.response_idle;
    let begun = clock.now();
    let is_taken_back = tokio::select! {
        biased;
        _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => true,
        answer = shared.answer(request, visitor) => write(answer, respond, idle_max).await,
    };
    if is_taken_back { Ended::TakenBack { after: clock.now() - begun } } else { Ended::Here }
}

/// Writes an answer. Whether the client did not want all of it.
async fn write(answer: Response<ResponseBody>, mut respond: SendResponse<Bytes>, idle_max: Duration) -> bool {
    let (mut head, body) = answer.into_parts();
    let is_over = body.is_end_stream();
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    match respond.send_response(Response::from_parts(head, ()), is_over) {
        Ok(_) if is_over => false,
        Ok(stream) => Writer { stream, body, part: Bytes::new(), idle_max, stuck: None }.await,
        Err(_) => true,
    }
}

/// The body of an answer on its way to a client.
struct Writer {
    stream: SendStream<Bytes>,
    body: ResponseBody,
    /// What is to be written next.
    part: Bytes,
    /// How long the client may take nothing, and what measures that while it is so.
    idle_max: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Future for Writer {
    /// Whether the client did not want all of it.
    type Output = bool;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let this = self.get_mut();
        loop {
            if !this.part.is_empty() {
                if !ready!(this.poll_room(cx)) {
                    return Poll::Ready(true);
                }
                let part = this.part.split_to(this.stream.capacity().min(this.part.len()));
                let is_last = this.part.is_empty() && this.body.is_end_stream();
                if this.stream.send_data(part, is_last).is_err() {
                    return Poll::Ready(true);
                }
                if is_last {
                    return Poll::Ready(false);
                }
                continue;
            }
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.part = data,
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Poll::Ready(this.stream.send_trailers(trailers).is_err());
                    }
                },
                Poll::Ready(Some(Err(error))) => {
                    this.stream.send_reset(reason(&error));
                    return Poll::Ready(false);
                }
                Poll::Ready(None) => return Poll::Ready(this.stream.send_data(Bytes::new(), true).is_err()),
                Poll::Pending => {
                    ready!(this.stream.poll_reset(cx)).ok();
                    return Poll::Ready(true);
                }
            }
        }
    }
}

impl Writer {
    /// Waits for room for some of the next part; false when there will be none.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.stream.reserve_capacity(self.part.len());
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => {
                    self.body.poll_request(cx);
                    let idle_max = self.idle_max;
                    let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(idle_max)));
                    ready!(stuck.as_mut().poll(cx));
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(false);
                }
            }
        }
        self.stuck = None;
        Poll::Ready(true)
    }
}

/// How a client is told that there is no more: as the edge was told, where it was.
fn reason(error: &BoxError) -> Reason {
    let told = error.downcast_ref::<h2::Error>().filter(|error| error.is_reset()).and_then(h2::Error::reason);
    told.filter(|reason| *reason != Reason::NO_ERROR).unwrap_or(Reason::INTERNAL_ERROR)
}
