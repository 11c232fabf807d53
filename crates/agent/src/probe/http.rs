//! By HTTP/1.1: a request of our own making is all that is needed, and bounds what an instance can make the agent hold.

use std::{io, net::SocketAddr};

use insula_env::net::TcpStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Answer;

/// Longest beginning of an answer that is looked at: a status line is far shorter.
const STATUS_LINE_LEN_MAX: usize = 1024;

pub(super) async fn ask(mut stream: TcpStream, address: SocketAddr, path: &str) -> io::Result<Answer> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: insula-health\r\nAccept: */*\r\nConnection: close\r\n\r\n",
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(STATUS_LINE_LEN_MAX);
    while !answer.contains(&b'\n') && answer.len() < STATUS_LINE_LEN_MAX {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    match status(&answer) {
        Some(200..=399) => Ok(Answer::Good),
        Some(status) => Ok(Answer::Bad(status.to_string())),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP/1 status line")),
    }
}

/// The code of a status line (RFC 9112 section 4).
fn status(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.split(|byte| *byte == b'\n').next()?).ok()?;
    let code = line.strip_prefix("HTTP/1.")?.get(1..)?.strip_prefix(' ')?.get(..3)?;
    code.parse().ok().filter(|code| (100..600).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nx: y"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for bad in
            [&b""[..], b"HTTP/2 200", b"HTTP/1.1 2", b"HTTP/1.1 abc", b"SSH-2.0-x\r\n", b"HTTP/1.1 999 x", b"\xff\n"]
        {
            assert_eq!(status(bad), None, "{bad:?}");
        }
    }
}
