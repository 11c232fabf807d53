//! A client's body that is sent on as it comes, and, as long as it is short, once more.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame};

use crate::{config::REPLAY_BYTES_MAX, incoming::ClientBody};

/// What is wrong with a client's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    BrokenOff,
    Idle,
    TooLarge,
}

/// The rest of a request.
pub(crate) struct Streamed {
    inner: ClientBody,
    /// Whether it goes in chunks, where it goes by HTTP/1.1: its length is not known.
    pub is_chunked: bool,
    /// Bytes that may still come.
    left_max: u64,
    is_waiting: bool,
    is_over: bool,
    /// What has been taken out, to be taken out again; none where that is not all.
    kept: Option<Vec<Bytes>>,
    /// How many parts of it have been taken out since the last [`Streamed::rewind`].
    taken: usize,
}

impl Streamed {
    pub(crate) fn new(inner: ClientBody, is_chunked: bool, left_max: u64) -> Self {
        Self { inner, is_chunked, left_max, is_waiting: false, is_over: false, kept: Some(Vec::new()), taken: 0 }
    }

    /// Whether it is the client that is waited for.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Begins anew; none when that is not possible.
    pub(crate) fn rewind(mut self) -> Option<Self> {
        self.kept.as_ref()?;
        self.taken = 0;
        Some(self)
    }

    /// The next bytes; none at the end. Trailers are passed over.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        loop {
            match ready!(self.poll_frame(cx))?.map(Frame::into_data) {
                Some(Ok(data)) => return Poll::Ready(Ok(Some(data))),
                Some(Err(_)) => {}
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// The next bytes, or the trailers; none at the end.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Fault>> {
        if let Some(data) = self.kept.as_ref().and_then(|kept| kept.get(self.taken)) {
            self.taken += 1;
            return Poll::Ready(Ok(Some(Frame::data(data.clone()))));
        }
        loop {
            if self.is_over {
                return Poll::Ready(Ok(None));
            }
            self.is_waiting = true;
            let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
            self.is_waiting = false;
            let Some(frame) = frame.transpose().map_err(|_| Fault::BrokenOff)? else {
                self.is_over = true;
                continue;
            };
            let Some(data) = frame.data_ref() else {
                self.kept = None;
                return Poll::Ready(Ok(Some(frame)));
            };
            self.left_max = self.left_max.checked_sub(data.len() as u64).ok_or(Fault::TooLarge)?;
            if !data.is_empty() {
                let data = data.clone();
                self.keep(data);
                return Poll::Ready(Ok(Some(frame)));
            }
        }
    }

    fn keep(&mut self, data: Bytes) {
        let Some(kept) = &mut self.kept else { return };
        let len: usize = kept.iter().map(Bytes::len).sum();
        if (len + data.len()) as u64 > REPLAY_BYTES_MAX {
            self.kept = None;
        } else {
            kept.push(data);
            self.taken = kept.len();
        }
    }
}
