//! The calling side of a connection: many calls and streams at once, each with its own end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use insula_env::{
    Env,
    clock::{Instant, timeout},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{oneshot, watch},
};

use crate::{
    engine::{Ear, Outbox, Outgoing, check_len},
    frame::{Frame, FrameReader, Mode},
    settings::{CALLS_MAX, Settings},
    status::{Code, Status},
    stream::{Inlet, ItemStream, WINDOW_RANGE},
};

/// A connection on which this side calls. Clones share it; when the last is dropped, it is closed.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    /// The connection's task ends when the last of these is gone.
    _open: watch::Sender<()>,
}

struct Shared {
    calls: Mutex<Calls>,
    next: AtomicU64,
    outbox: Outbox,
    settings: Settings,
    is_retired: AtomicBool,
    /// Of the last ping that was answered; none yet.
    round_trip: watch::Sender<Option<Duration>>,
}

struct Calls {
    pending: BTreeMap<u64, Pending>,
    /// Why the connection ended.
    ended: Option<Status>,
}

enum Pending {
    Unary(oneshot::Sender<Result<Bytes, Status>>),
    Stream(Inlet),
}

/// Takes a call off the list and tells the peer, unless it has been answered.
pub(crate) struct CancelOnDrop {
    shared: Arc<Shared>,
    call: u64,
}

impl Connection {
    /// Starts calling over `io`, an authenticated byte stream whose other end runs [`serve`](crate::serve()).
    pub fn start<S>(io: S, settings: Settings, env: &Env) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        Self::start_until(io, settings, env, std::future::pending())
    }

    /// The same; when `refused` completes, the connection and all calls on it end with its status.
    pub(crate) fn start_until<S, F>(io: S, settings: Settings, env: &Env, refused: F) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
        F: Future<Output = Status> + Send + 'static,
    {
        let window = settings.stream_window.clamp(*WINDOW_RANGE.start(), *WINDOW_RANGE.end());
        let settings = Settings { stream_window: window, ..settings };
        let (outbox, outgoing) = Outbox::new();
        let shared = Arc::new(Shared {
            calls: Mutex::new(Calls { pending: BTreeMap::new(), ended: None }),
            next: AtomicU64::new(1),
            outbox,
            settings,
            is_retired: AtomicBool::new(false),
            round_trip: watch::Sender::new(None),
        });
        let (open, dropped) = watch::channel(());
        let task = Task { shared: Arc::clone(&shared), env: env.clone(), age_max: env.rng.jitter(settings.age_max) };
        // However the task ends, also when its group is stopped, nobody is left waiting.
        let ending = EndOnDrop { shared: Arc::clone(&shared), why: None };
        env.tasks.spawn("rpc connection", task.run(io, outgoing, dropped, refused, ending));
        Self { shared, _open: open }
    }

    /// Calls a method by number and gives the answer's bytes, within `limit`.
    ///
    /// # Errors
    /// What the peer says, or a [`Status`] with the reason why it was not reached or did not answer.
    pub async fn call(&self, method: u16, body: Bytes, limit: Duration) -> Result<Bytes, Status> {
        check_len("the request", &body)?;
        let deadline_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1);
        let (answer, answered) = oneshot::channel();
        let guard = self.register(Pending::Unary(answer))?;
        let request = Frame::Request { call: guard.call, method, mode: Mode::Unary { deadline_ms }, body };
        let work = async {
            self.shared.outbox.send(request).await?;
            answered.await.unwrap_or_else(|_| Err(lost("it was closed")))
        };
        timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Status::retryable(Code::DeadlineExceeded, format!("no answer to method {method} within {limit:?}")))
        })
    }

    /// Calls a streaming method by number.
    ///
    /// # Errors
    /// When the request could not be sent; what the peer says comes as the stream's first item.
    pub async fn stream(&self, method: u16, body: Bytes) -> Result<ItemStream, Status> {
        check_len("the request", &body)?;
        let window = self.shared.settings.stream_window;
        let (inlet, received) = Inlet::new(window);
        let guard = self.register(Pending::Stream(inlet))?;
        let request = Frame::Request { call: guard.call, method, mode: Mode::Stream { window }, body };
        self.shared.outbox.send(request).await?;
        Ok(ItemStream::new(received, window, guard, self.clone()))
    }

    fn register(&self, pending: Pending) -> Result<CancelOnDrop, Status> {
        let mut calls = self.shared.calls.lock();
        if let Some(why) = &calls.ended {
            // Nothing was sent, whatever the connection ended with.
            return Err(Status::retryable(Code::Unavailable, why.message.clone()));
        }
        if calls.pending.len() >= CALLS_MAX {
            let text = format!("{CALLS_MAX} calls are under way on this connection");
            return Err(Status::retryable(Code::ResourceExhausted, text));
        }
        let call = self.shared.next.fetch_add(1, Ordering::Relaxed);
        calls.pending.insert(call, pending);
        Ok(CancelOnDrop { shared: Arc::clone(&self.shared), call })
    }

    /// Whether new calls should go over it: it has neither ended nor reached its greatest age.
    pub fn is_usable(&self) -> bool {
        !self.shared.is_retired.load(Ordering::Acquire) && self.ended().is_none()
    }

    /// Why it ended, when it has.
    pub fn ended(&self) -> Option<Status> {
        self.shared.calls.lock().ended.clone()
    }

    /// The last measured round trip.
    pub fn round_trip(&self) -> Option<Duration> {
        *self.shared.round_trip.borrow()
    }

    /// The round trip of the next ping that is answered; `None`: none is within `limit`. Sends nothing: connections ping anyway, every
    /// [`Settings::ping_interval`].
    pub async fn next_round_trip(&self, limit: Duration) -> Option<Duration> {
        let mut measured = self.shared.round_trip.subscribe();
        // The sender lives as long as `self`.
        timeout(limit, measured.changed()).await.ok()?.ok()?;
        *measured.borrow()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection(usable: {})", self.is_usable())
    }
}

impl CancelOnDrop {
    pub(crate) fn credit(&self, bytes: u32) {
        self.shared.outbox.send_now(Frame::Credit { call: self.call, bytes });
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let unanswered = self.shared.calls.lock().pending.remove(&self.call).is_some();
        if unanswered {
            self.shared.outbox.send_now(Frame::Cancel { call: self.call });
        }
    }
}

impl Shared {
    /// Fails everything that is under way. The first reason stays.
    fn end(&self, why: &Status) {
        let pending = {
            let mut calls = self.calls.lock();
            calls.ended.get_or_insert_with(|| why.clone());
            std::mem::take(&mut calls.pending)
        };
        for call in pending.into_values() {
            match call {
                // A receiver that is gone does not need the reason.
                Pending::Unary(answer) => drop(answer.send(Err(why.clone()))),
                Pending::Stream(inlet) => inlet.fail(why.clone()),
            }
        }
    }

    /// Acts on a frame from the peer. An error ends the connection.
    fn take(&self, frame: Frame, sent_ping: &mut Option<(u64, Instant)>, now: Instant) -> Result<(), &'static str> {
        match frame {
            Frame::Response { call, body } => self.answer(call, Ok(body)),
            Frame::Failed { call, status } => self.answer(call, Err(status)),
            Frame::Item { call, body } => match self.calls.lock().pending.get(&call) {
                Some(Pending::Stream(inlet)) if !inlet.put(body) => Err("it sent more of a stream than its window"),
                Some(Pending::Unary(_)) => Err("it answered a plain call with an item of a stream"),
                // Cancelled meanwhile.
                _ => Ok(()),
            },
            Frame::End { call } => {
                self.calls.lock().pending.remove(&call);
                Ok(())
            }
            Frame::Pong { id } => {
                if let Some((_, sent)) = sent_ping.take_if(|(sent, _)| *sent == id) {
                    self.round_trip.send_replace(Some(now - sent));
                }
                Ok(())
            }
            Frame::Request { .. } | Frame::Cancel { .. } | Frame::Credit { .. } | Frame::Ping { .. } => {
                Err("it sent what only callers send")
            }
        }
    }

    fn answer(&self, call: u64, answer: Result<Bytes, Status>) -> Result<(), &'static str> {
        let pending = self.calls.lock().pending.remove(&call);
        match (pending, answer) {
            (Some(Pending::Unary(to)), answer) => {
                let _ = to.send(answer);
                Ok(())
            }
            (Some(Pending::Stream(inlet)), Err(status)) => {
                inlet.fail(status);
                Ok(())
            }
            (Some(Pending::Stream(_)), Ok(_)) => Err("it answered a stream with a plain answer"),
            // Cancelled meanwhile.
            (None, _) => Ok(()),
        }
    }
}

/// Ends the connection for all that wait on it.
struct EndOnDrop {
    shared: Arc<Shared>,
    why: Option<Status>,
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.shared.end(&self.why.take().unwrap_or_else(|| lost("this side is stopping")));
    }
}

fn lost(why: impl std::fmt::Display) -> Status {
    Status::retryable(Code::ConnectionLost, format!("the connection to the peer ended: {why}"))
}

/// Reads, writes and listens for silence.
struct Task {
    shared: Arc<Shared>,
    env: Env,
    age_max: Duration,
}

impl Task {
    async fn run<S, F>(
        self,
        io: S,
        outgoing: Outgoing,
        mut dropped: watch::Receiver<()>,
        refused: F,
        mut ending: EndOnDrop,
    ) where
        S: AsyncRead + AsyncWrite,
        F: Future<Output = Status>,
    {
        let mut refused = Box::pin(refused);
        let (read, write) = tokio::io::split(io);
        let mut reader = FrameReader::new(Box::pin(read));
        let mut writing = Box::pin(outgoing.write_all(Box::pin(write)));
        let settings = &self.shared.settings;
        let mut ear = Ear::new(self.env.clock.clone(), settings.silence_max);
        let mut ticks = self.env.clock.interval(settings.ping_interval);
        let opened = self.env.clock.now();
        let mut ping = None;
        let mut ping_id = 0;
        ending.why = Some(loop {
            tokio::select! {
                frame = reader.next(|| ear.heard()) => {
                    let outcome = frame.map_err(lost_by);
                    let outcome = outcome.and_then(|frame| {
                        self.shared.take(frame, &mut ping, self.env.clock.now()).map_err(broke_protocol)
                    });
                    if let Err(why) = outcome {
                        break why;
                    }
                }
                written = &mut writing => {
                    let why = written.err().map_or_else(|| "it was closed".to_owned(), |error| error.to_string());
                    break lost(why);
                }
                _ = ticks.tick() => {
                    if let Some(silence) = ear.silence(settings.ping_interval) {
                        break lost(format_args!("no byte for {silence:?}"));
                    }
                    if self.is_too_old(opened) {
                        break Status::retryable(Code::ConnectionLost, "the connection reached its greatest age");
                    }
                    ping_id += 1;
                    if ping.is_none() {
                        ping = Some((ping_id, self.env.clock.now()));
                    }
                    self.shared.outbox.try_send(Frame::Ping { id: ping.map_or(ping_id, |(id, _)| id) });
                }
                why = &mut refused => break why,
                // No value is ever sent: this tells that the last handle is gone.
                _ = dropped.changed() => break lost("nobody uses it"),
            }
        });
    }

    /// Retires a connection of great age; true when it shall end.
    fn is_too_old(&self, opened: Instant) -> bool {
        let age = self.env.clock.now() - opened;
        if age < self.age_max {
            return false;
        }
        self.shared.is_retired.store(true, Ordering::Release);
        age >= self.age_max + self.shared.settings.age_grace || self.shared.calls.lock().pending.is_empty()
    }
}

pub(crate) fn lost_by(error: crate::frame::FrameError) -> Status {
    use std::error::Error as _;
    match error.source() {
        Some(source) => lost(format_args!("{error}: {source}")),
        None => lost(error),
    }
}

pub(crate) fn broke_protocol(why: &'static str) -> Status {
    Status::new(Code::Protocol, format!("the peer broke the protocol: {why}"))
}
