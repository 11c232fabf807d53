//! A connection to an instance that speaks HTTP/2 without TLS: many requests at a time.
//!
//! Always: no more streams than both sides take; a request's bytes are taken from its client only when the instance takes them,
//! and a response's from the instance only when the client does, so that what is held is bounded by the windows; a stream that is
//! dropped is reset. It says whether the instance can have begun to work on a request, on which hangs whether that is sent again.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::task::noop_waker_ref;
use h2::{
    Ping, PingPong, Reason, RecvStream, SendStream,
    client::{self, SendRequest},
};
use http::{Request, response::Parts};
use http_body::Frame;
use insula_env::{
    TaskGroup,
    clock::{self, Instant, sleep},
};
use insula_mesh::Stream;
use parking_lot::Mutex;

use super::{Broken, Fault, Streamed};
use crate::{config::HEAD_BYTES_MAX, headers};

/// Streams on one connection.
const STREAMS_MAX: usize = 100;
/// Bytes of a response that may wait for its client.
const WINDOW_BYTES: u32 = 128 << 10;
/// The same for all of a connection: as many as its streams may have together, so that clients who take nothing stop no others.
const TRUNK_WINDOW_BYTES: u32 = WINDOW_BYTES * STREAMS_MAX as u32;
/// Bytes of a request that may wait to be written.
const SEND_BYTES_MAX: usize = 64 << 10;
/// How often an instance is asked for a sign of life while something is open: streams may be silent for long. Servers of gRPC close
/// connections on which they are asked more often than every five minutes. Also what keeps the way to another node open.
const PING_EVERY: Duration = Duration::from_secs(310);
const PONG_WAIT: Duration = Duration::from_secs(20);

/// A connection. Clones share it; it ends when nobody has it and nothing is open on it.
#[derive(Clone)]
pub(crate) struct Trunk {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
}

struct State {
    born: Instant,
    streams: AtomicUsize,
    /// Since when nothing has been open.
    idle_since: Mutex<Instant>,
    /// It takes no further requests.
    is_over: AtomicBool,
}

impl std::fmt::Debug for Trunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trunk")
    }
}

impl Trunk {
    /// Begins to speak on a stream.
    pub(crate) async fn begin(stream: Stream, now: Instant, tasks: &TaskGroup) -> Result<Self, h2::Error> {
        let (sender, mut connection) = client::Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(TRUNK_WINDOW_BYTES)
            .initial_max_send_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .max_send_buffer_size(SEND_BYTES_MAX)
            .handshake::<_, Bytes>(stream)
            .await?;
        let state = State {
            born: now,
            streams: AtomicUsize::new(0),
            idle_since: Mutex::new(now),
            is_over: AtomicBool::new(false),
        };
        let state = Arc::new(state);
        let driven = Arc::clone(&state);
        let pings = connection.ping_pong();
        tasks.spawn("edge trunk", async move {
            let lost = async {
                match pings {
                    Some(pings) => silent(pings, &driven).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection to an instance ended");
                    }
                }
                () = lost => tracing::debug!("a connection to an instance is silent"),
            }
            driven.is_over.store(true, Ordering::Relaxed);
        });
        Ok(Self { sender, state })
    }

    /// Room for one request; none when there is none, or the connection takes no more.
    pub(crate) fn room(&self) -> Option<Room> {
        let most = STREAMS_MAX.min(self.sender.current_max_send_streams());
        if self.is_over() || self.state.streams.load(Ordering::Relaxed) >= most {
            return None;
        }
        let mut sender = self.sender.clone();
        match sender.poll_ready(&mut Context::from_waker(noop_waker_ref())) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => {
                self.state.is_over.store(true, Ordering::Relaxed);
                return None;
            }
            Poll::Pending => return None,
        }
        self.state.streams.fetch_add(1, Ordering::Relaxed);
        Some(Room { sender: Some(sender), state: Arc::clone(&self.state) })
    }

    /// Whether it is of no more use: nothing new can go on it.
    pub(crate) fn is_over(&self) -> bool {
        self.state.is_over.load(Ordering::Relaxed)
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.state.born)
    }

    /// For how long nothing has been open on it.
    pub(crate) fn idle(&self, now: Instant) -> Option<Duration> {
        let is_idle = self.state.streams.load(Ordering::Relaxed) == 0;
        is_idle.then(|| now.saturating_duration_since(*self.state.idle_since.lock()))
    }
}

/// Ends when the other side gives no sign of life.
async fn silent(mut pings: PingPong, state: &State) {
    loop {
        sleep(PING_EVERY).await;
        if state.streams.load(Ordering::Relaxed) == 0 {
            continue;
        }
        if pings.send_ping(Ping::opaque()).is_err() {
            return;
        }
        let answered = clock::timeout(PONG_WAIT, std::future::poll_fn(|cx| pings.poll_pong(cx))).await;
        if !matches!(answered, Ok(Ok(_))) {
            return;
        }
    }
}

/// A request on a connection, or room for one.
pub(crate) struct Room {
    /// Until it is used.
    sender: Option<SendRequest<Bytes>>,
    state: Arc<State>,
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.state.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.state.idle_since.lock() = clock::now();
        }
    }
}

/// How long an exchange may stand still; none: for ever.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub response_head: Option<Duration>,
    pub request_body_idle: Option<Duration>,
}

impl Room {
    /// Sends a request and waits for the head of the response; the rest of the request may still be on its way then.
    ///
    /// # Errors
    /// Why there is none, and the rest of the request, if that can be sent once more.
    pub(crate) async fn exchange(
        mut self,
        request: Request<()>,
        held: Bytes,
        rest: Option<Streamed>,
        patience: Patience,
    ) -> Result<(Parts, Answer), (Broken, Option<Streamed>)> {
        let is_over = held.is_empty() && rest.is_none();
        let Some(mut sender) = self.sender.take() else { return Err((Broken::Unsent, rest)) };
        let Ok((mut response, stream)) = sender.send_request(request, is_over) else {
            self.state.is_over.store(true, Ordering::Relaxed);
            return Err((Broken::Unsent, rest));
        };
        // What holds it holds the connection.
        drop(sender);
        let mut upload = Upload { stream, part: held, rest, sent: 0, is_done: is_over };
        let mut timer = pin!(sleep(Duration::ZERO));
        let mut seen = None;
        let outcome = std::future::poll_fn(|cx| {
            if let Poll::Ready(Err(fault)) = upload.poll(cx) {
                return Poll::Ready(Err(Broken::Client(fault)));
            }
            if let Poll::Ready(outcome) = Pin::new(&mut response).poll(cx) {
                return Poll::Ready(outcome.map_err(broken));
            }
            // The time runs anew with everything that is sent.
            let progress = (upload.sent, upload.waits_for_client());
            let limit = if progress.1 { patience.request_body_idle } else { patience.response_head };
            if seen != Some(progress) {
                seen = Some(progress);
                timer.as_mut().reset(clock::now() + limit.unwrap_or_default());
            }
            if limit.is_none() {
                return Poll::Pending;
            }
            ready!(timer.as_mut().poll(cx));
            Poll::Ready(Err(if progress.1 { Broken::Client(Fault::Idle) } else { Broken::TimedOut }))
        });
        match outcome.await {
            Ok(response) => {
                let (parts, stream) = response.into_parts();
                Ok((parts, Answer { stream, upload, fault: None, _room: self }))
            }
            Err(broken) => {
                if matches!(broken, Broken::TimedOut) {
                    // Others are better off on another connection.
                    self.state.is_over.store(true, Ordering::Relaxed);
                }
                Err((broken, upload.rest.and_then(Streamed::rewind)))
            }
        }
    }
}

/// What an error says of the request that met it.
fn broken(error: h2::Error) -> Broken {
    match error.reason() {
        // Of the requests after the last one that counts, and of no other (RFC 9113 section 6.8).
        _ if error.is_go_away() && error.is_remote() => Broken::Unsent,
        Some(Reason::REFUSED_STREAM) if error.is_remote() => Broken::Refused,
        _ => Broken::Off(io::Error::other(error)),
    }
}

/// A request on its way to an instance, behind its head.
struct Upload {
    stream: SendStream<Bytes>,
    /// What is to be written next.
    part: Bytes,
    rest: Option<Streamed>,
    sent: u64,
    is_done: bool,
}

impl Upload {
    fn waits_for_client(&self) -> bool {
        !self.is_done && self.rest.as_ref().is_some_and(Streamed::is_waiting)
    }

    /// Sends as much as is possible now. An instance that takes no more is no error here: what it said is to be read.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while !self.is_done {
            if !self.part.is_empty() {
                self.stream.reserve_capacity(self.part.len());
                let room = self.stream.capacity().min(self.part.len());
                if room == 0 {
                    match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => self.is_done = true,
                    }
                    continue;
                }
                let part = self.part.split_to(room);
                self.sent += room as u64;
                let is_last = self.part.is_empty() && self.rest.is_none();
                self.is_done = self.stream.send_data(part, is_last).is_err() || is_last;
                continue;
            }
            let Some(rest) = &mut self.rest else {
                self.is_done = true;
                continue;
            };
            match ready!(rest.poll_frame(cx))? {
                None => {
                    self.stream.send_data(Bytes::new(), true).ok();
                    self.is_done = true;
                }
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.part = data,
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().unwrap_or_default();
                        headers::clean_trailers(&mut trailers);
                        self.stream.send_trailers(trailers).ok();
                        self.is_done = true;
                    }
                },
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Why a response ended before its end.
#[derive(Debug)]
pub(crate) enum Cut {
    /// By the instance, or the way to it.
    Instance(h2::Error),
    /// By its client.
    Client(Fault),
}

/// The body of a response.
pub(crate) struct Answer {
    stream: RecvStream,
    upload: Upload,
    /// What was wrong with the request, once that is so.
    fault: Option<Fault>,
    _room: Room,
}

impl Answer {
    pub(crate) fn is_over(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// Sends more of the request, of which the rest may still be on its way.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(fault)) = self.upload.poll(cx) {
            self.upload.is_done = true;
            self.upload.stream.send_reset(Reason::CANCEL);
            self.fault = Some(fault);
        }
    }

    /// The next bytes, or the trailers; none at the end.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.poll_send(cx);
        if let Some(fault) = self.fault {
            return Poll::Ready(Some(Err(Cut::Client(fault))));
        }
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // It fails only when there is no stream any more, which the next read tells.
                self.stream.flow_control().release_capacity(data.len()).ok();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(Cut::Instance(error)))),
            None => {
                let trailers = ready!(self.stream.poll_trailers(cx)).map_err(Cut::Instance).transpose();
                Poll::Ready(trailers.map(|trailers| {
                    trailers.map(|mut trailers| {
                        headers::clean_trailers(&mut trailers);
                        Frame::trailers(trailers)
                    })
                }))
            }
        }
    }
}
