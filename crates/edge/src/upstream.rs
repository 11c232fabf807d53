//! A connection to an instance, and HTTP/1.1 as it is spoken there: one request at a time, by the task that has the request.
//! (HTTP/2 is in [`trunk`].)
//!
//! No task of its own and no channel in between: these were a fifth of what a request cost. It also says exactly what has
//! been sent, on which hangs what may be sent again. Left to others: which instance, and what to do when it fails.

pub(crate) mod body;
pub(crate) mod head;
pub(crate) mod rest;
pub(crate) mod trunk;

use std::{
    fmt, io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::task::noop_waker_ref;
use http::Method;
use insula_env::clock::{self, Instant, sleep};
use insula_mesh::Stream;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::Config;
use body::{Decoder, Next};
use head::{Head, Rubbish};
pub(crate) use rest::{Fault, Streamed};

/// Bytes that a read asks for at least, and at most.
const READ_BYTES: (usize, usize) = (8 << 10, 64 << 10);
/// A buffer that has grown beyond this is not kept with an idle connection.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The connection was dead before a byte was sent.
    #[error("the connection was closed before anything was sent")]
    Unsent,
    /// The instance said that it does no work on it.
    #[error("the instance refused the request")]
    Refused,
    /// The instance, or the way to it, broke off.
    #[error("the connection broke off: {0}")]
    Off(io::Error),
    /// What came is no response.
    #[error("what came is no response: {0}")]
    Rubbish(Rubbish),
    /// It did not come in time.
    #[error("no response came in time")]
    TimedOut,
    /// The client failed to send its body.
    #[error("the client's body failed: {0:?}")]
    Client(Fault),
}

/// A connection to an instance.
pub(crate) struct Connection {
    stream: Stream,
    /// What has been read and not been used yet.
    buffer: BytesMut,
    /// Moving a timer that is there costs less than making one for each request.
    timer: Pin<Box<Sleep>>,
    born: Instant,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    pub(crate) fn new(stream: Stream, now: Instant) -> Self {
        Self { stream, buffer: BytesMut::new(), timer: Box::pin(sleep(Duration::ZERO)), born: now }
    }

    /// How old it is.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    /// Whether it is open and silent, as one that waits for a request must be.
    pub(crate) fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(noop_waker_ref());
        self.buffer.is_empty()
            && Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Sends a request and waits for the head of the response; the rest of the request may still be on its way then.
    pub(crate) async fn exchange(
        &mut self,
        request: &mut Outgoing,
        method: &Method,
        config: &Config,
    ) -> Result<Head, Broken> {
        let mut seen = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(Err(why)) = request.poll_send(cx, &mut self.stream) {
                return Poll::Ready(Err(why));
            }
            if let Poll::Ready(outcome) = self.poll_head(cx, method) {
                return Poll::Ready(outcome);
            }
            // The time runs anew with everything that is sent.
            let progress = (request.sent, request.waits_for_client());
            if seen != Some(progress) {
                seen = Some(progress);
                let limit = if progress.1 { config.request_body_idle } else { config.response_head };
                self.timer.as_mut().reset(clock::now() + limit);
            }
            ready!(self.timer.as_mut().poll(cx));
            Poll::Ready(Err(if progress.1 { Broken::Client(Fault::Idle) } else { Broken::TimedOut }))
        })
        .await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Head, Broken>> {
        loop {
            if ready!(self.poll_fill(cx, READ_BYTES.0)).map_err(Broken::Off)? == 0 {
                return Poll::Ready(Err(Broken::Off(io::ErrorKind::UnexpectedEof.into())));
            }
            if let Some(head) = head::take(&mut self.buffer, method).map_err(Broken::Rubbish)? {
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// The next part of a body; none at its end.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Decoder,
    ) -> Poll<Option<Result<Bytes, io::Error>>> {
        loop {
            match body.next(&mut self.buffer).map_err(io::Error::other)? {
                Next::Data(bytes) => return Poll::Ready(Some(Ok(bytes))),
                Next::End => return Poll::Ready(None),
                Next::More => {}
            }
            let left = body.left().unwrap_or(READ_BYTES.0 as u64 * 2);
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).clamp(READ_BYTES.0, READ_BYTES.1);
            if ready!(self.poll_fill(cx, wanted))? == 0 {
                let is_over = *body == Decoder::UntilClosed;
                return Poll::Ready(if is_over { None } else { Some(Err(io::ErrorKind::UnexpectedEof.into())) });
            }
        }
    }

    /// Reads into the buffer; how much.
    fn poll_fill(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() - self.buffer.len() < wanted / 2 {
            self.buffer.reserve(wanted);
        }
        pin!(self.stream.read_buf(&mut self.buffer)).poll(cx)
    }

    /// Sends more of a request whose response has begun.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, request: &mut Outgoing) -> Poll<Result<(), Broken>> {
        request.poll_send(cx, &mut self.stream)
    }

    /// Ready for the next request, unless it said more than it was asked for.
    pub(crate) fn into_idle(mut self) -> Option<Self> {
        if !self.buffer.is_empty() {
            return None;
        }
        if self.buffer.capacity() > KEPT_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
        Some(self)
    }

    /// The stream, for another protocol, and what has been read of it.
    pub(crate) fn into_stream(self) -> (Stream, Bytes) {
        (self.stream, self.buffer.freeze())
    }
}

/// A request on its way to an instance.
pub(crate) struct Outgoing {
    /// What is to be written next.
    part: Bytes,
    body: Option<Streamed>,
    /// Bytes that the connection has taken.
    sent: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sending,
    Sent,
    /// The instance takes no more; it may have said why.
    Refused,
}

impl Outgoing {
    /// `head` with all or the beginning of the body, and the rest of that.
    pub(crate) fn new(head: Bytes, body: Option<Streamed>) -> Self {
        Self { part: head, body, sent: 0, state: State::Sending }
    }

    /// Whether all of it has been taken.
    pub(crate) fn is_sent(&self) -> bool {
        self.state == State::Sent
    }

    /// The client's body, as long as no part of it has been taken.
    pub(crate) fn take_back(self) -> Option<Streamed> {
        self.body.filter(|_| self.sent == 0)
    }

    fn waits_for_client(&self) -> bool {
        self.body.as_ref().is_some_and(Streamed::is_waiting)
    }

    /// Sends as much as is possible now. An instance that takes no more is no error here: what it said is to be read.
    fn poll_send(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<Result<(), Broken>> {
        if self.state != State::Sending {
            return Poll::Ready(Ok(()));
        }
        loop {
            match ready!(self.poll_write(cx, stream)) {
                Ok(()) => {}
                Err(_) if self.sent == 0 => return Poll::Ready(Err(Broken::Unsent)),
                Err(_) => {
                    (self.state, self.body) = (State::Refused, None);
                    return Poll::Ready(Ok(()));
                }
            }
            let Some(body) = &mut self.body else {
                self.state = State::Sent;
                return Poll::Ready(Ok(()));
            };
            match ready!(body.poll_data(cx)).map_err(Broken::Client)? {
                Some(data) if body.is_chunked => self.part = chunk(&data),
                Some(data) => self.part = data,
                None => {
                    self.part = if body.is_chunked { Bytes::from_static(b"0\r\n\r\n") } else { Bytes::new() };
                    self.body = None;
                }
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        while !self.part.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &self.part))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.part.advance(written);
            self.sent += written as u64;
        }
        Pin::new(stream).poll_flush(cx)
    }
}

fn chunk(data: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(data.len() + 20);
    framed.put_slice(format!("{:x}\r\n", data.len()).as_bytes());
    framed.put_slice(data);
    framed.put_slice(b"\r\n");
    framed.freeze()
}
