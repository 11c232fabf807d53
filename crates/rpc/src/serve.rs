//! The answering side of a connection: runs a handler for each request, many at once.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use insula_env::{Env, clock::timeout};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};
use tracing::error;

use crate::{
    connection::{broke_protocol, lost_by},
    engine::{Ear, Outbox, check_len},
    frame::{Frame, FrameReader, Mode},
    method::{Caller, Handler},
    settings::{CALLS_MAX, FRAME_COST, REQUEST_BYTES_MAX, Settings},
    status::{Code, Status},
    stream::{StreamSink, WINDOW_RANGE, give_credit},
};

/// Answers the calls that come over `io` until the connection ends, and says why it did. `peer_ping` is how often the
/// peer said that it pings; a peer that pings seldom may be silent for longer.
///
/// Handlers of one connection run as tasks of their own; all are dropped when this future is.
pub async fn serve<S>(
    io: S,
    caller: Caller,
    handler: Arc<dyn Handler>,
    peer_ping: Duration,
    settings: Settings,
    env: &Env,
) -> Status
where
    S: AsyncRead + AsyncWrite + Send,
{
    let (read, write) = tokio::io::split(io);
    let mut reader = FrameReader::new(Box::pin(read));
    let (outbox, outgoing) = Outbox::new();
    let mut writing = Box::pin(outgoing.write_all(Box::pin(write)));
    let mut ear = Ear::new(env.clock.clone(), settings.silence_max.max(peer_ping.min(SILENCE_CLAIM_MAX) * 4));
    let mut ticks = env.clock.interval(settings.ping_interval);
    // The caller replaces the connection; this is for one that does not.
    let too_old = env.clock.now() + settings.age_max * 2 + settings.age_grace * 2;
    let mut calls = Calls {
        handler,
        caller: Arc::new(caller),
        outbox,
        settings,
        running: BTreeMap::new(),
        bytes: 0,
        tasks: JoinSet::new(),
    };
    loop {
        tokio::select! {
            frame = reader.next(|| ear.heard()) => {
                let outcome = frame.map_err(lost_by);
                if let Err(why) = outcome.and_then(|frame| calls.take(frame).map_err(broke_protocol)) {
                    return why;
                }
            }
            Some(ended) = calls.tasks.join_next() => {
                // An aborted one was taken off the list when it was aborted.
                if let Ok(call) = ended {
                    calls.forget(call);
                }
            }
            written = &mut writing => {
                let why = written.err().map_or_else(|| "it was closed".to_owned(), |error| error.to_string());
                return Status::retryable(Code::ConnectionLost, why);
            }
            _ = ticks.tick() => {
                if let Some(silence) = ear.silence(settings.ping_interval) {
                    return Status::retryable(Code::ConnectionLost, format!("no byte from the caller for {silence:?}"));
                }
                if env.clock.now() >= too_old {
                    return Status::retryable(Code::ConnectionLost, "the connection is far beyond its greatest age");
                }
            }
        }
    }
}

/// However seldom a peer says that it pings, four times this is the longest silence.
const SILENCE_CLAIM_MAX: Duration = Duration::from_secs(15);

struct Calls {
    handler: Arc<dyn Handler>,
    caller: Arc<Caller>,
    outbox: Outbox,
    settings: Settings,
    running: BTreeMap<u64, Running>,
    /// Of requests that are being answered.
    bytes: usize,
    /// Not a task group: thousands of short calls that end with their connection, which itself is a listed task.
    tasks: JoinSet<u64>,
}

struct Running {
    abort: AbortHandle,
    bytes: usize,
    /// Of a stream.
    credit: Option<(Arc<Semaphore>, u32)>,
}

impl Calls {
    fn take(&mut self, frame: Frame) -> Result<(), &'static str> {
        match frame {
            Frame::Request { call, method, mode, body } => return self.start(call, method, mode, body),
            Frame::Cancel { call } => {
                if let Some(running) = self.forget(call) {
                    running.abort.abort();
                }
            }
            Frame::Credit { call, bytes } => {
                if let Some(Running { credit: Some((credit, window)), .. }) = self.running.get(&call)
                    && !give_credit(credit, *window, bytes)
                {
                    return Err("it took more of a stream than was sent");
                }
            }
            Frame::Ping { id } => self.outbox.try_send(Frame::Pong { id }),
            Frame::Response { .. }
            | Frame::Failed { .. }
            | Frame::Item { .. }
            | Frame::End { .. }
            | Frame::Pong { .. } => {
                return Err("it sent what only callees send");
            }
        }
        Ok(())
    }

    fn forget(&mut self, call: u64) -> Option<Running> {
        let running = self.running.remove(&call)?;
        self.bytes -= running.bytes;
        Some(running)
    }

    fn start(&mut self, call: u64, method: u16, mode: Mode, body: Bytes) -> Result<(), &'static str> {
        if self.running.contains_key(&call) {
            return Err("it used the number of a running call again");
        }
        let bytes = body.len() + FRAME_COST;
        if self.running.len() >= CALLS_MAX || self.bytes + bytes > REQUEST_BYTES_MAX {
            let text =
                format!("{} calls with {} bytes are being answered for this caller", self.running.len(), self.bytes);
            self.outbox.try_send(Frame::Failed { call, status: Status::retryable(Code::ResourceExhausted, text) });
            return Ok(());
        }
        let (handler, caller, outbox) = (Arc::clone(&self.handler), Arc::clone(&self.caller), self.outbox.clone());
        let (abort, credit) = match mode {
            Mode::Unary { deadline_ms } => {
                let limit = Duration::from_millis(deadline_ms.into());
                (self.tasks.spawn(answer(handler, caller, outbox, call, method, body, limit)), None)
            }
            Mode::Stream { window } => {
                if !WINDOW_RANGE.contains(&window) {
                    return Err("it asked for an impossible window");
                }
                let credit = Arc::new(Semaphore::new(window as usize));
                let sink =
                    StreamSink::new(call, outbox.clone(), Arc::clone(&credit), window, self.settings.stream_stall_max);
                let task = async move {
                    let outcome = guarded(handler.stream(&caller, method, body, sink)).await;
                    outbox.send_now(match outcome {
                        Ok(()) => Frame::End { call },
                        Err(status) => Frame::Failed { call, status },
                    });
                    call
                };
                (self.tasks.spawn(task), Some((credit, window)))
            }
        };
        self.bytes += bytes;
        self.running.insert(call, Running { abort, bytes, credit });
        Ok(())
    }
}

async fn answer(
    handler: Arc<dyn Handler>,
    caller: Arc<Caller>,
    outbox: Outbox,
    call: u64,
    method: u16,
    body: Bytes,
    limit: Duration,
) -> u64 {
    let outcome = timeout(limit, guarded(handler.call(&caller, method, body))).await.unwrap_or_else(|_| {
        Err(Status::retryable(
            Code::DeadlineExceeded,
            format!("method {method} took longer than the caller's {limit:?}"),
        ))
    });
    match outcome.and_then(|body| check_len("the answer", &body).map(|()| body)) {
        // It fails when the connection has ended; then nobody waits for the answer.
        Ok(body) => drop(outbox.send(Frame::Response { call, body }).await),
        Err(status) => outbox.send_now(Frame::Failed { call, status }),
    }
    call
}

/// A handler that panics fails its call, not its connection.
async fn guarded<T>(work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        error!("a handler panicked");
        Err(Status::internal("the peer's handler panicked"))
    })
}
