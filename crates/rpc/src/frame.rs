//! Frames: `u32` length of what follows, `u8` kind, `u64` call, payload. Numbers are big-endian.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use insula_types::codec;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{settings::BODY_LEN_MAX, status::Status};

/// Kind and call.
const HEAD_LEN: usize = 9;
/// Head and what a request says before its body.
const REQUEST_HEAD_LEN: usize = HEAD_LEN + 7;
/// Greatest value of the length field.
const FRAME_LEN_MAX: usize = REQUEST_HEAD_LEN + BODY_LEN_MAX;
/// How much the buffer grows at a time, so that a length alone takes no memory.
const READ_LEN: usize = 64 * 1024;

/// Whether a request is answered once or by a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One answer within so many milliseconds; 0: no deadline.
    Unary { deadline_ms: u32 },
    /// Items, of which so many bytes may be under way.
    Stream { window: u32 },
}

/// What one side tells the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Caller: do this.
    Request { call: u64, method: u16, mode: Mode, body: Bytes },
    /// Callee: the answer.
    Response { call: u64, body: Bytes },
    /// Callee: it failed; ends a stream too.
    Failed { call: u64, status: Status },
    /// Caller: never mind.
    Cancel { call: u64 },
    /// Callee: an item of a stream.
    Item { call: u64, body: Bytes },
    /// Callee: the stream has ended well.
    End { call: u64 },
    /// Caller: so many more bytes of items may be sent.
    Credit { call: u64, bytes: u32 },
    /// Caller: are you there?
    Ping { id: u64 },
    /// Callee: yes.
    Pong { id: u64 },
}

/// A peer that does not keep to the form. The connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("read from the peer")]
    Io(#[from] io::Error),
    #[error("the peer announced a frame of {0} bytes, beyond the limit of {FRAME_LEN_MAX}")]
    TooLong(usize),
    #[error("the peer sent a frame that does not read: {0}")]
    Malformed(&'static str),
    #[error("the peer closed the connection")]
    Closed,
}

impl Frame {
    const REQUEST: u8 = 1;
    const RESPONSE: u8 = 2;
    const FAILED: u8 = 3;
    const CANCEL: u8 = 4;
    const ITEM: u8 = 5;
    const END: u8 = 6;
    const CREDIT: u8 = 7;
    const PING: u8 = 8;
    const PONG: u8 = 9;

    /// Length of its body, for budgets.
    pub(crate) fn body_len(&self) -> usize {
        match self {
            Self::Request { body, .. } | Self::Response { body, .. } | Self::Item { body, .. } => body.len(),
            _ => 0,
        }
    }

    /// Writes everything but the body to `head`, and gives the body.
    pub(crate) fn encode(self, head: &mut BytesMut) -> Bytes {
        let start = head.len();
        head.put_u32(0);
        let body = match self {
            Self::Request { call, method, mode, body } => {
                put(head, Self::REQUEST, call);
                head.put_u16(method);
                match mode {
                    Mode::Unary { deadline_ms } => {
                        head.put_u8(0);
                        head.put_u32(deadline_ms);
                    }
                    Mode::Stream { window } => {
                        head.put_u8(1);
                        head.put_u32(window);
                    }
                }
                body
            }
            Self::Response { call, body } => {
                put(head, Self::RESPONSE, call);
                body
            }
            Self::Failed { call, status } => {
                put(head, Self::FAILED, call);
                codec::encode(&status).into()
            }
            Self::Cancel { call } => {
                put(head, Self::CANCEL, call);
                Bytes::new()
            }
            Self::Item { call, body } => {
                put(head, Self::ITEM, call);
                body
            }
            Self::End { call } => {
                put(head, Self::END, call);
                Bytes::new()
            }
            Self::Credit { call, bytes } => {
                put(head, Self::CREDIT, call);
                head.put_u32(bytes);
                Bytes::new()
            }
            Self::Ping { id } => {
                put(head, Self::PING, id);
                Bytes::new()
            }
            Self::Pong { id } => {
                put(head, Self::PONG, id);
                Bytes::new()
            }
        };
        // Bodies are bounded before they come here, so the length fits.
        let len = (head.len() - start - 4 + body.len()) as u32;
        head[start..start + 4].copy_from_slice(&len.to_be_bytes());
        body
    }

    /// Takes one frame off the front of `buffer`. `None`: more bytes are needed.
    pub(crate) fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(len) = buffer.get(..4) else { return Ok(None) };
        let len = len.iter().fold(0usize, |len, byte| len << 8 | usize::from(*byte));
        if len > FRAME_LEN_MAX {
            return Err(FrameError::TooLong(len));
        }
        if buffer.len() < 4 + len {
            return Ok(None);
        }
        buffer.advance(4);
        Self::parse(buffer.split_to(len).freeze()).map(Some)
    }

    fn parse(mut bytes: Bytes) -> Result<Self, FrameError> {
        let cut = |_| FrameError::Malformed("it is cut");
        let kind = bytes.try_get_u8().map_err(cut)?;
        let call = bytes.try_get_u64().map_err(cut)?;
        Ok(match kind {
            Self::REQUEST => {
                let method = bytes.try_get_u16().map_err(cut)?;
                let mode = bytes.try_get_u8().map_err(cut)?;
                let number = bytes.try_get_u32().map_err(cut)?;
                let mode = match mode {
                    0 => Mode::Unary { deadline_ms: number },
                    1 => Mode::Stream { window: number },
                    _ => return Err(FrameError::Malformed("its mode is unknown")),
                };
                Self::Request { call, method, mode, body: bytes }
            }
            Self::RESPONSE => Self::Response { call, body: bytes },
            Self::FAILED => {
                let status = codec::decode(&bytes).map_err(|_| FrameError::Malformed("its status"))?;
                Self::Failed { call, status }
            }
            Self::CANCEL => Self::Cancel { call },
            Self::ITEM => Self::Item { call, body: bytes },
            Self::END => Self::End { call },
            Self::CREDIT => Self::Credit { call, bytes: bytes.try_get_u32().map_err(cut)? },
            Self::PING => Self::Ping { id: call },
            Self::PONG => Self::Pong { id: call },
            _ => return Err(FrameError::Malformed("its kind is unknown")),
        })
    }
}

fn put(head: &mut BytesMut, kind: u8, call: u64) {
    head.put_u8(kind);
    head.put_u64(call);
}

/// Reads frames; tells of every byte that arrives, not only of whole frames, so that a slow large frame is no silence.
pub(crate) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// The next frame. Can be dropped and called again without losing bytes.
    pub(crate) async fn next(&mut self, mut heard: impl FnMut()) -> Result<Frame, FrameError> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer)? {
                return Ok(frame);
            }
            self.buffer.reserve(READ_LEN);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Err(FrameError::Closed);
            }
            heard();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::status::Code;

    fn frames() -> impl Strategy<Value = Frame> {
        let body = proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        prop_oneof![
            (any::<u64>(), any::<u16>(), any::<u32>(), any::<bool>(), body.clone()).prop_map(
                |(call, method, number, streams, body)| {
                    let mode =
                        if streams { Mode::Stream { window: number } } else { Mode::Unary { deadline_ms: number } };
                    Frame::Request { call, method, mode, body }
                }
            ),
            (any::<u64>(), body.clone()).prop_map(|(call, body)| Frame::Response { call, body }),
            (any::<u64>(), body).prop_map(|(call, body)| Frame::Item { call, body }),
            any::<u64>().prop_map(|call| Frame::Failed {
                call,
                status: Status::retryable(Code::Conflict, "changed meanwhile")
            }),
            any::<u64>().prop_map(|call| Frame::Cancel { call }),
            any::<u64>().prop_map(|call| Frame::End { call }),
            any::<(u64, u32)>().prop_map(|(call, bytes)| Frame::Credit { call, bytes }),
            any::<u64>().prop_map(|id| Frame::Ping { id }),
            any::<u64>().prop_map(|id| Frame::Pong { id }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_the_wire(frames in proptest::collection::vec(frames(), 0..8), cut in any::<prop::sample::Index>()) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                let body = frame.clone().encode(&mut wire);
                wire.extend_from_slice(&body);
            }
            let cut = if wire.is_empty() { 0 } else { cut.index(wire.len()) };
            let mut buffer = BytesMut::from(&wire[..cut]);
            let mut read = Vec::new();
            while let Some(frame) = Frame::decode(&mut buffer).expect("a prefix") {
                read.push(frame);
            }
            buffer.extend_from_slice(&wire[cut..]);
            while let Some(frame) = Frame::decode(&mut buffer).expect("the rest") {
                read.push(frame);
            }
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, kind: u8) {
            let _ = Frame::decode(&mut BytesMut::from(bytes.as_slice()));
            let framed = [&(bytes.len() as u32 + 1).to_be_bytes()[..], &[kind], &bytes].concat();
            let _ = Frame::decode(&mut BytesMut::from(framed.as_slice()));
        }
    }

    #[tokio::test]
    async fn an_oversized_frame_is_refused_before_it_is_read() {
        let (mut peer, ours) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut peer, &u32::MAX.to_be_bytes()).await.expect("send");
        let error = FrameReader::new(ours).next(|| ()).await.expect_err("too long");
        assert!(matches!(error, FrameError::TooLong(_)), "{error}");
    }
}
