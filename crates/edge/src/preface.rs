//! Which version of HTTP a client speaks, told by the first bytes of its connection.
//!
//! One that speaks HTTP/2 from the first byte on (prior knowledge, RFC 9113 section 3.3) begins with what no HTTP/1.1 request
//! begins with. What is read to tell that is read by nobody else: it is given on.

use std::io;

use bytes::{Bytes, BytesMut};
use insula_env::net::TcpStream;
use tokio::io::{AsyncRead, AsyncReadExt};

/// With what HTTP/2 begins (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes that are read at once: a usual request.
const READ_BYTES: usize = 4 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// What a connection begins with that begins like this; none when that takes more bytes.
fn version(begun: &[u8]) -> Option<Version> {
    let len = begun.len().min(PREFACE.len());
    if begun[..len] != PREFACE[..len] {
        return Some(Version::One);
    }
    (len == PREFACE.len()).then_some(Version::Two)
}

/// Waits until it is told; what has been read until then.
///
/// # Errors
/// The connection ended or failed before.
pub(crate) async fn read(stream: &mut TcpStream) -> io::Result<(Version, Bytes)> {
    // Memory only for those who say something.
    stream.readable().await?;
    read_of(stream).await
}

/// The same of a stream of any kind.
///
/// # Errors
/// As [`read`].
pub(crate) async fn read_of<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Version, Bytes)> {
    let mut begun = BytesMut::with_capacity(READ_BYTES);
    loop {
        if stream.read_buf(&mut begun).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(version) = version(&begun) {
            return Ok((version, begun.freeze()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_bytes_are_waited_for_as_it_takes() {
        assert_eq!(version(b""), None);
        for end in 1..PREFACE.len() {
            assert_eq!(version(&PREFACE[..end]), None, "{end}");
            let mut other = PREFACE[..end].to_vec();
            other[end - 1] ^= 1;
            assert_eq!(version(&other), Some(Version::One), "{end}");
        }
        assert_eq!(version(PREFACE), Some(Version::Two));
        assert_eq!(version(&[PREFACE, b"more"].concat()), Some(Version::Two));
        for other in ["G", "GET / HTTP/1.1\r\n", "POST", "PRI /", "PRI * HTTP/1.1\r\n"] {
            assert_eq!(version(other.as_bytes()), Some(Version::One), "{other}");
        }
    }
}
