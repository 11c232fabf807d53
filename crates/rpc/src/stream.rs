//! Streams of items from a callee to its caller. The sender may have only so many bytes under way that the receiver has
//! not taken; a receiver that takes nothing for too long loses the stream, not the sender its memory.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use insula_env::clock::timeout;
use insula_types::codec;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    connection::{CancelOnDrop, Connection},
    engine::{Outbox, check_len},
    frame::Frame,
    method::{Method, decode_response},
    settings::FRAME_COST,
    status::{Code, Status},
};

/// Windows that can be asked for, in bytes.
pub(crate) const WINDOW_RANGE: std::ops::RangeInclusive<u32> = 1024..=16 * 1024 * 1024;

/// How long a patient sender waits: longer than a connection is used.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// What an item counts against a window. At most half of it: credit comes back once half has been taken, so any item
/// can be sent as soon as the receiver has caught up.
fn cost(len: usize, window: u32) -> u32 {
    u32::try_from(len + FRAME_COST).unwrap_or(u32::MAX).min(window / 2)
}

/// Where a handler puts the items of a stream.
#[derive(Clone)]
pub struct StreamSink {
    call: u64,
    outbox: Outbox,
    credit: Arc<Semaphore>,
    window: u32,
    stall_max: Duration,
}

impl StreamSink {
    pub(crate) fn new(call: u64, outbox: Outbox, credit: Arc<Semaphore>, window: u32, stall_max: Duration) -> Self {
        Self { call, outbox, credit, window, stall_max }
    }

    /// The same for a receiver that may stop taking for as long as it likes: what waits here is bounded by the window, and the
    /// end of the connection ends the wait.
    #[must_use]
    pub fn patient(self) -> Self {
        Self { stall_max: PATIENCE, ..self }
    }

    /// Sends an item, waiting while the receiver is behind.
    ///
    /// # Errors
    /// `ResourceExhausted` when the receiver stays behind for too long, or the item is too large. The handler should
    /// return the error, which ends the stream with it.
    pub async fn send(&self, item: Bytes) -> Result<(), Status> {
        check_len("the item", &item)?;
        let credit = timeout(self.stall_max, self.credit.acquire_many(cost(item.len(), self.window)))
            .await
            .map_err(|_| self.too_slow())?
            .map_err(|_| Status::new(Code::ConnectionLost, "the stream has ended"))?;
        // Comes back when the receiver says that it has taken the item.
        credit.forget();
        timeout(self.stall_max, self.outbox.send(Frame::Item { call: self.call, body: item }))
            .await
            .map_err(|_| self.too_slow())?
    }

    /// Sends an item of a method's type.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_item<M: Method>(&self, item: &M::Response) -> Result<(), Status> {
        self.send(codec::encode(item).into()).await
    }

    fn too_slow(&self) -> Status {
        let text =
            format!("the receiver took nothing of the stream for {:?}: resume from where it was", self.stall_max);
        Status::retryable(Code::ResourceExhausted, text)
    }
}

/// Adds what the receiver has taken; false when it claims more than was ever sent.
pub(crate) fn give_credit(credit: &Semaphore, window: u32, bytes: u32) -> bool {
    let fits = credit.available_permits().saturating_add(bytes as usize) <= window as usize;
    if fits {
        credit.add_permits(bytes as usize);
    }
    fits
}

/// The connection's side of a stream that is being received.
pub(crate) struct Inlet {
    items: mpsc::UnboundedSender<Result<Bytes, Status>>,
    untaken: Arc<AtomicU64>,
    window: u32,
}

impl Inlet {
    pub(crate) fn new(window: u32) -> (Self, Received) {
        let (items, received) = mpsc::unbounded_channel();
        let untaken = Arc::new(AtomicU64::new(0));
        (Self { items, untaken: Arc::clone(&untaken), window }, Received { items: received, untaken })
    }

    /// Takes an item from the wire; false when the sender exceeds its window.
    pub(crate) fn put(&self, item: Bytes) -> bool {
        let cost = u64::from(cost(item.len(), self.window));
        let untaken = self.untaken.fetch_add(cost, Ordering::AcqRel) + cost;
        // A receiver that is gone has cancelled; what still arrives is dropped.
        let _ = self.items.send(Ok(item));
        untaken <= u64::from(self.window)
    }

    pub(crate) fn fail(&self, status: Status) {
        let _ = self.items.send(Err(status));
    }
}

/// What an [`Inlet`] fills.
pub(crate) struct Received {
    items: mpsc::UnboundedReceiver<Result<Bytes, Status>>,
    untaken: Arc<AtomicU64>,
}

/// A stream being received. Dropping it cancels the call.
pub struct ItemStream {
    received: Received,
    window: u32,
    /// Taken and not yet told to the sender.
    taken: u32,
    cancel: CancelOnDrop,
    is_done: bool,
    /// Keeps the connection open.
    _connection: Connection,
}

impl ItemStream {
    pub(crate) fn new(received: Received, window: u32, cancel: CancelOnDrop, connection: Connection) -> Self {
        Self { received, window, taken: 0, cancel, is_done: false, _connection: connection }
    }

    /// The next item. `None`: the stream has ended well. After an error or the end, always `None`.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        if self.is_done {
            return None;
        }
        let next = self.received.items.recv().await;
        match &next {
            Some(Ok(item)) => self.take(item.len()),
            Some(Err(_)) | None => self.is_done = true,
        }
        next
    }

    fn take(&mut self, len: usize) {
        let cost = cost(len, self.window);
        self.received.untaken.fetch_sub(cost.into(), Ordering::AcqRel);
        self.taken += cost;
        // Not one by one: a frame for each item would double the traffic.
        if self.taken >= self.window / 2 {
            self.cancel.credit(self.taken);
            self.taken = 0;
        }
    }
}

impl std::fmt::Debug for ItemStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ItemStream")
    }
}

impl std::fmt::Debug for StreamSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamSink({})", self.call)
    }
}

/// An [`ItemStream`] of a method's type.
#[derive(Debug)]
pub struct TypedStream<M> {
    items: ItemStream,
    method: PhantomData<fn() -> M>,
}

impl<M: Method> TypedStream<M> {
    pub(crate) fn new(items: ItemStream) -> Self {
        Self { items, method: PhantomData }
    }

    /// As [`ItemStream::next`]; an item that does not read is an error.
    pub async fn next(&mut self) -> Option<Result<M::Response, Status>> {
        Some(self.items.next().await?.and_then(|item| decode_response::<M>(&item)))
    }
}
