//! Length-prefixed frames of the binary codec: four bytes of length, big end first, then the value.

use std::io;

use insula_types::codec;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Writes one value as a frame, in one piece.
///
/// # Errors
/// As the stream says; `InvalidInput` when the value is beyond `max` bytes.
pub async fn write<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), value: &T, max: usize) -> io::Result<()> {
    let body = codec::encode(value);
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= max).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("a frame of {} bytes is beyond {max}", body.len()))
    })?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(&body);
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Reads one frame of at most `max` bytes. Not safe to cancel: a dropped read loses its place in the stream.
///
/// # Errors
/// As the stream says; `InvalidData` when the frame is beyond `max` bytes or does not decode.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<T> {
    let len = stream.read_u32().await? as usize;
    if len > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes is beyond {max}")));
    }
    // Grown as bytes arrive, so that a length alone does not make us reserve memory.
    let mut body = Vec::new();
    stream.take(len as u64).read_to_end(&mut body).await?;
    if body.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    codec::decode(&body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
