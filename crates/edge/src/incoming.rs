//! Bodies as clients send them, by either version of HTTP. Streamed, never gathered: what has been taken out makes room for more.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::body::BoxError;

/// The body of a request.
pub(crate) enum ClientBody {
    /// By HTTP/1.1.
    One(Incoming),
    /// By HTTP/2, and its length where the head said it.
    Two(RecvStream, Option<u64>),
}

impl ClientBody {
    /// That of a stream whose request has these headers. That it is as long as they say is seen to by whoever reads the stream.
    pub(crate) fn of_stream(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self::Two(stream, length)
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::One(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Two(stream, left) => Poll::Ready(match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    *left = left.map(|left| left.saturating_sub(data.len() as u64));
                    // It fails only when there is no stream any more, which the next read tells.
                    stream.flow_control().release_capacity(data.len()).ok();
                    Some(Ok(Frame::data(data)))
                }
                Some(Err(error)) => Some(Err(error.into())),
                None => {
                    ready!(stream.poll_trailers(cx)).map_err(Into::into).map(|map| map.map(Frame::trailers)).transpose()
                }
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::One(body) => body.is_end_stream(),
            Self::Two(stream, _) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::One(body) => body.size_hint(),
            Self::Two(stream, _) if stream.is_end_stream() => SizeHint::with_exact(0),
            Self::Two(_, length) => length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
