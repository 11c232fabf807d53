//! Bodies on their way: the client's to an instance, an instance's to the client. Streamed, never gathered (but for
//! small ones that may have to be sent twice). Trailers are dropped on both ways.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use insula_env::clock::{self, Clock};
use tokio::time::Sleep;

use crate::{
    instances::{InFlight, Sender},
    metrics::{Cause, Metrics},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The client sent no part of its body for too long.
#[derive(Debug, thiserror::Error)]
#[error("no part of the request body came within {0:?}")]
struct BodyIdle(Duration);

/// What is sent to an instance.
pub(crate) enum RequestBody {
    /// Held here, and cheap to send again.
    Held(Full<Bytes>),
    /// Comes from the client as it is sent on.
    Streamed { inner: Incoming, idle: Duration, timer: Pin<Box<Sleep>>, progress: Arc<AtomicU64> },
}

impl RequestBody {
    /// A body that can be sent any number of times.
    pub(crate) fn held(bytes: Bytes) -> Self {
        Self::Held(Full::new(bytes))
    }

    /// A body that can be sent once. `progress` grows each time that a part of it is asked for.
    pub(crate) fn streamed(inner: Incoming, idle: Duration, progress: Arc<AtomicU64>) -> Self {
        Self::Streamed { inner, idle, timer: Box::pin(clock::sleep(idle)), progress }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Held(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Self::Streamed { inner, idle, timer, progress } => {
                progress.fetch_add(1, Ordering::Relaxed);
                loop {
                    let Poll::Ready(frame) = Pin::new(&mut *inner).poll_frame(cx) else {
                        ready!(timer.as_mut().poll(cx));
                        return Poll::Ready(Some(Err(BodyIdle(*idle).into())));
                    };
                    let deadline = timer.deadline();
                    // Moving the timer costs; once for each tenth of the limit is exact enough.
                    let now = Clock::real().now();
                    if deadline.saturating_duration_since(now) < *idle * 9 / 10 {
                        timer.as_mut().reset(now + *idle);
                    }
                    match frame {
                        Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
                        Some(Ok(_trailers)) => {}
                        Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                        None => return Poll::Ready(None),
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Held(full) => full.is_end_stream(),
            Self::Streamed { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Held(full) => full.size_hint(),
            Self::Streamed { inner, .. } => inner.size_hint(),
        }
    }
}

/// What is sent to the client.
pub(crate) struct ResponseBody(Source);

enum Source {
    Own(Full<Bytes>),
    Instance(Box<FromInstance>),
}

/// The body of an instance's response, with what must happen at its end.
pub(crate) struct FromInstance {
    pub inner: Incoming,
    /// Given back for the next request once the body has been read to its end.
    pub sender: Option<Sender>,
    pub in_flight: InFlight,
    pub clock: Clock,
    pub pool_max: usize,
    pub metrics: Arc<Metrics>,
}

impl FromInstance {
    fn finish(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.in_flight.0.give_back(sender, self.clock.now(), self.pool_max);
        }
    }
}

impl ResponseBody {
    /// A body of the edge itself.
    pub(crate) fn own(full: Full<Bytes>) -> Self {
        Self(Source::Own(full))
    }

    /// A body that comes from an instance.
    pub(crate) fn from_instance(mut body: FromInstance) -> Self {
        if body.inner.is_end_stream() {
            body.finish();
        }
        Self(Source::Instance(Box::new(body)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = match &mut self.get_mut().0 {
            Source::Own(full) => return Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Source::Instance(body) => body,
        };
        loop {
            match ready!(Pin::new(&mut body.inner).poll_frame(cx)) {
                Some(Ok(frame)) if frame.is_data() => {
                    // A body of known length is over with its last part: nobody asks for the end behind it.
                    if body.inner.is_end_stream() {
                        body.finish();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Ok(_trailers)) => {}
                Some(Err(error)) => {
                    body.metrics.fail(Cause::BodyBrokenOff);
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    body.finish();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Own(full) => full.is_end_stream(),
            Source::Instance(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Own(full) => full.size_hint(),
            Source::Instance(body) => body.inner.size_hint(),
        }
    }
}
