//! Frames of a session: `u8` kind, `u32` length of what follows, payload. Numbers are big-endian. Kind 0 has no payload and
//! says only that the sender is there. Kinds and payloads are for ever; new kinds get new numbers, and a new protocol name.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use insula_types::{ExecExit, ExecInput, ExecOutput, SignalNumber, WindowSize, exec::EXEC_DATA_LEN_MAX};

/// Kind and length.
const HEAD_LEN: usize = 5;
const ALIVE: u8 = 0;

/// A frame that is none; the connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It announces more than any may have.
    #[error("a frame of {0} bytes: {EXEC_DATA_LEN_MAX} are allowed")]
    TooLong(usize),
    /// It is not what its kind has to be.
    #[error("a frame of kind {0} does not read")]
    Malformed(u8),
}

/// What travels in one direction.
pub trait Frame: Sized + Send {
    /// Its kind, and its payload at the end of `buffer`.
    fn put(&self, buffer: &mut BytesMut) -> u8;
    /// Reads it back.
    fn take(kind: u8, payload: Bytes) -> Option<Self>;
}

/// Appends a frame.
pub fn encode<F: Frame>(frame: &F, buffer: &mut BytesMut) {
    let start = buffer.len();
    buffer.put_bytes(0, HEAD_LEN);
    let kind = frame.put(buffer);
    finish(start, kind, buffer);
}

/// Appends a frame that says only that this side is there.
pub fn encode_alive(buffer: &mut BytesMut) {
    let start = buffer.len();
    buffer.put_bytes(0, HEAD_LEN);
    finish(start, ALIVE, buffer);
}

fn finish(start: usize, kind: u8, buffer: &mut BytesMut) {
    // Whoever makes a frame keeps to the limit, so the length fits.
    let len = (buffer.len() - start - HEAD_LEN) as u32;
    buffer[start] = kind;
    buffer[start + 1..start + HEAD_LEN].copy_from_slice(&len.to_be_bytes());
}

/// Takes one frame off the front of `buffer`. `None`: more bytes are needed.
///
/// # Errors
/// [`FrameError`].
pub fn decode<F: Frame>(buffer: &mut BytesMut) -> Result<Option<F>, FrameError> {
    loop {
        let Some(&[kind, a, b, c, d]) = buffer.get(..HEAD_LEN) else { return Ok(None) };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > EXEC_DATA_LEN_MAX {
            return Err(FrameError::TooLong(len));
        }
        if buffer.len() < HEAD_LEN + len {
            return Ok(None);
        }
        buffer.advance(HEAD_LEN);
        let payload = buffer.split_to(len).freeze();
        match kind {
            ALIVE if len == 0 => {}
            _ => return F::take(kind, payload).map(Some).ok_or(FrameError::Malformed(kind)),
        }
    }
}

impl Frame for ExecInput {
    fn put(&self, buffer: &mut BytesMut) -> u8 {
        match self {
            Self::Data(data) => {
                buffer.put_slice(data);
                1
            }
            Self::End => 2,
            Self::Resize(size) => {
                buffer.put_u16(size.rows);
                buffer.put_u16(size.columns);
                3
            }
            Self::Signal(signal) => {
                buffer.put_u8((*signal).into());
                4
            }
        }
    }

    fn take(kind: u8, mut payload: Bytes) -> Option<Self> {
        match (kind, payload.len()) {
            (1, _) => Some(Self::Data(payload.into())),
            (2, 0) => Some(Self::End),
            (3, 4) => Some(Self::Resize(WindowSize { rows: payload.get_u16(), columns: payload.get_u16() })),
            (4, 1) => SignalNumber::try_from(payload.get_u8()).ok().map(Self::Signal),
            _ => None,
        }
    }
}

impl Frame for ExecOutput {
    fn put(&self, buffer: &mut BytesMut) -> u8 {
        match self {
            Self::Stdout(data) => {
                buffer.put_slice(data);
                1
            }
            Self::Stderr(data) => {
                buffer.put_slice(data);
                2
            }
            Self::Exit(ExecExit::Code(code)) => {
                buffer.put_i32(*code);
                3
            }
            Self::Exit(ExecExit::Signal(signal)) => {
                buffer.put_i32(*signal);
                4
            }
            Self::Failed(why) => {
                buffer.put_slice(&why.as_bytes()[..why.floor_char_boundary(EXEC_DATA_LEN_MAX)]);
                5
            }
            Self::Started => 6,
        }
    }

    fn take(kind: u8, mut payload: Bytes) -> Option<Self> {
        match (kind, payload.len()) {
            (1, _) => Some(Self::Stdout(payload.into())),
            (2, _) => Some(Self::Stderr(payload.into())),
            (3, 4) => Some(Self::Exit(ExecExit::Code(payload.get_i32()))),
            (4, 4) => Some(Self::Exit(ExecExit::Signal(payload.get_i32()))),
            (5, _) => Some(Self::Failed(String::from_utf8_lossy(&payload).into_owned())),
            (6, 0) => Some(Self::Started),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back<F: Frame + PartialEq + std::fmt::Debug>(frames: &[F]) {
        let mut wire = BytesMut::new();
        for frame in frames {
            encode(frame, &mut wire);
            encode_alive(&mut wire);
        }
        let mut buffer = BytesMut::new();
        let mut read = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            read.extend(decode(&mut buffer).expect("well-formed"));
        }
        assert_eq!((read.as_slice(), buffer.len()), (frames, 0));
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let size = WindowSize { rows: 50, columns: 300 };
        let signal = SignalNumber::try_from(2).expect("a signal");
        there_and_back(&[
            ExecInput::Data(b"ls\n".to_vec()),
            ExecInput::Data(vec![0; EXEC_DATA_LEN_MAX]),
            ExecInput::Resize(size),
            ExecInput::Signal(signal),
            ExecInput::End,
        ]);
        there_and_back(&[
            ExecOutput::Started,
            ExecOutput::Stdout(b"x".to_vec()),
            ExecOutput::Stderr(Vec::new()),
            ExecOutput::Failed("why".to_owned()),
            ExecOutput::Exit(ExecExit::Signal(9)),
            ExecOutput::Exit(ExecExit::Code(-1)),
        ]);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let read = |bytes: &[u8]| decode::<ExecInput>(&mut BytesMut::from(bytes));
        assert_eq!(read(&[1, 0xff, 0, 0, 0]), Err(FrameError::TooLong(0xff00_0000)), "before it is read");
        for wrong in [&[9, 0, 0, 0, 0][..], &[4, 0, 0, 0, 1, 0], &[3, 0, 0, 0, 1, 0], &[0, 0, 0, 0, 1, 0]] {
            assert_eq!(read(wrong), Err(FrameError::Malformed(wrong[0])));
        }
        assert_eq!(read(&[1, 0, 0, 0, 2, b'x']), Ok(None));
    }
}
