//! What both sides of a connection share: the queue to the peer, the writer, and the ear for silence.

use std::{io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use insula_env::{Clock, clock::Instant};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use crate::{
    frame::Frame,
    settings::{BODY_LEN_MAX, FRAME_COST, OUTBOX_BYTES_MAX},
    status::{Code, Status},
};

/// Small frames are written together up to this size.
const BATCH_LEN: usize = 16 * 1024;

struct Queued {
    frame: Frame,
    /// Given back when the frame has been written.
    _budget: Option<OwnedSemaphorePermit>,
}

/// The queue to the peer, bounded in bytes.
#[derive(Clone)]
pub(crate) struct Outbox {
    queue: mpsc::UnboundedSender<Queued>,
    budget: Arc<Semaphore>,
}

/// The other end of an [`Outbox`].
pub(crate) struct Outgoing(mpsc::UnboundedReceiver<Queued>);

impl Outbox {
    pub(crate) fn new() -> (Self, Outgoing) {
        let (queue, frames) = mpsc::unbounded_channel();
        (Self { queue, budget: Arc::new(Semaphore::new(OUTBOX_BYTES_MAX)) }, Outgoing(frames))
    }

    /// Queues a frame, waiting while too many bytes are queued.
    pub(crate) async fn send(&self, frame: Frame) -> Result<(), Status> {
        let cost = frame.body_len().min(BODY_LEN_MAX) + FRAME_COST;
        let budget = Arc::clone(&self.budget).acquire_many_owned(cost as u32).await.map_err(|_| gone())?;
        self.queue.send(Queued { frame, _budget: Some(budget) }).map_err(|_| gone())
    }

    /// Queues a small frame without waiting. Only for frames whose number is bounded by others that were waited for.
    pub(crate) fn send_now(&self, frame: Frame) {
        // A connection that has ended needs no more frames.
        let _ = self.queue.send(Queued { frame, _budget: None });
    }

    /// Queues a small frame unless the queue is full; for answers to what the peer can send without end.
    pub(crate) fn try_send(&self, frame: Frame) {
        if let Ok(budget) = Arc::clone(&self.budget).try_acquire_many_owned(FRAME_COST as u32) {
            let _ = self.queue.send(Queued { frame, _budget: Some(budget) });
        }
    }
}

fn gone() -> Status {
    Status::retryable(Code::Unavailable, "the connection has ended")
}

/// Refuses a body that no frame carries.
pub(crate) fn check_len(what: &str, body: &Bytes) -> Result<(), Status> {
    if body.len() <= BODY_LEN_MAX {
        return Ok(());
    }
    let text = format!("{what} has {} bytes, and {BODY_LEN_MAX} fit: send it in parts", body.len());
    Err(Status::new(Code::ResourceExhausted, text))
}

impl Outgoing {
    /// Writes queued frames until the connection fails or every sender is gone.
    pub(crate) async fn write_all<W: AsyncWrite + Unpin>(mut self, mut io: W) -> io::Result<()> {
        let mut batch = BytesMut::new();
        while let Some(first) = self.0.recv().await {
            let mut next = Some(first);
            // Budgets are held until their frames have left.
            let mut written = Vec::new();
            while let Some(Queued { frame, _budget }) = next {
                let body = frame.encode(&mut batch);
                written.push(_budget);
                if batch.len() + body.len() <= BATCH_LEN {
                    batch.extend_from_slice(&body);
                } else {
                    io.write_all(&batch).await?;
                    batch.clear();
                    io.write_all(&body).await?;
                    written.clear();
                }
                next = self.0.try_recv().ok();
            }
            io.write_all(&batch).await?;
            batch.clear();
            io.flush().await?;
        }
        io.shutdown().await
    }
}

/// Notices when nothing has been heard for too long.
pub(crate) struct Ear {
    clock: Clock,
    heard: Instant,
    looked: Instant,
    silence_max: Duration,
}

impl Ear {
    pub(crate) fn new(clock: Clock, silence_max: Duration) -> Self {
        let now = clock.now();
        Self { clock, heard: now, looked: now, silence_max }
    }

    /// Bytes arrived.
    pub(crate) fn heard(&mut self) {
        self.heard = self.clock.now();
    }

    /// For how long there has been silence, when it is too long. Called about every `interval`.
    pub(crate) fn silence(&mut self, interval: Duration) -> Option<Duration> {
        let now = self.clock.now();
        // When this process itself was stopped, what the peer sent meanwhile is still to be read.
        if now - self.looked > interval + self.silence_max / 2 {
            self.heard = now;
        }
        self.looked = now;
        let silence = now - self.heard;
        (silence > self.silence_max).then_some(silence)
    }
}
