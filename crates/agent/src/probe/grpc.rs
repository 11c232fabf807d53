//! By gRPC: `grpc.health.v1.Health/Check` over plain HTTP/2
//! (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
//!
//! The two messages have one field each, so they are written and read here. Lengths of the wire format are in
//! <https://protobuf.dev/programming-guides/encoding/>, the frame of five bytes in
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::{io, net::SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, client};
use http::{Method, Request, Version, header::CONTENT_TYPE};
use insula_env::net::TcpStream;

use super::Answer;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// A frame's head: whether it is compressed, and its length.
const HEAD_LEN: usize = 5;
/// Longest answer that is looked at: the message has two bytes.
const ANSWER_LEN_MAX: usize = 1024;
/// `ServingStatus.SERVING`
const SERVING: u8 = 1;

pub(super) async fn ask(stream: TcpStream, address: SocketAddr, service: &str) -> io::Result<Answer> {
    let (sender, connection) = client::handshake(stream).await.map_err(io::Error::other)?;
    tokio::select! {
        biased;
        answer = exchange(sender, address, service) => answer,
        ended = connection => {
            let why = ended.err().map_or_else(|| "the connection was closed".to_owned(), |error| error.to_string());
            Err(io::Error::other(why))
        }
    }
}

async fn exchange(sender: client::SendRequest<Bytes>, address: SocketAddr, service: &str) -> io::Result<Answer> {
    let mut sender = sender.ready().await.map_err(io::Error::other)?;
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{address}{PATH}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(io::Error::other)?;
    let (response, mut body) = sender.send_request(request, false).map_err(io::Error::other)?;
    body.send_data(question(service), true).map_err(io::Error::other)?;
    let response = response.await.map_err(io::Error::other)?;
    if !response.status().is_success() {
        return Ok(Answer::Bad(format!("HTTP status {}", response.status().as_u16())));
    }
    // A refusal without a message has its status among the headers.
    if let Some(refusal) = refusal(response.headers()) {
        return Ok(Answer::Bad(refusal));
    }
    let mut body = response.into_body();
    let message = read(&mut body).await?;
    if let Some(refusal) = body.trailers().await.map_err(io::Error::other)?.as_ref().and_then(refusal) {
        return Ok(Answer::Bad(refusal));
    }
    Ok(match status(&message) {
        Some(SERVING) => Answer::Good,
        Some(0) => Answer::Bad("UNKNOWN".to_owned()),
        Some(2) => Answer::Bad("NOT_SERVING".to_owned()),
        Some(3) => Answer::Bad("SERVICE_UNKNOWN".to_owned()),
        _ => Answer::Bad("something that is no answer to a health check".to_owned()),
    })
}

/// `HealthCheckRequest { string service = 1; }` in its frame.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        let mut len = service.len();
        while len >= 0x80 {
            message.put_u8((len & 0x7f) as u8 | 0x80);
            len >>= 7;
        }
        message.put_u8(len as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(HEAD_LEN + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// All of the body, which is short.
async fn read(body: &mut RecvStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(io::Error::other)?;
        body.flow_control().release_capacity(chunk.len()).map_err(io::Error::other)?;
        if all.len() + chunk.len() > ANSWER_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long for a health check"));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// What a gRPC status other than OK says.
fn refusal(headers: &http::HeaderMap) -> Option<String> {
    let status = headers.get("grpc-status")?.to_str().ok()?;
    let words = headers.get("grpc-message").and_then(|words| words.to_str().ok()).unwrap_or_default();
    let words: String = words.chars().take(200).collect();
    (status != "0").then(|| format!("gRPC status {status} {words}").trim_end().to_owned())
}

/// The status in a frame with `HealthCheckResponse { ServingStatus status = 1; }`; 0 when the field is left out.
fn status(frame: &[u8]) -> Option<u8> {
    let (head, message) = frame.split_at_checked(HEAD_LEN)?;
    let len = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    match (head[0], message) {
        (0, message) if message.len() != len => None,
        (0, []) => Some(0),
        (0, [0b0000_1000, status]) => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_format_says() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        assert_eq!(&question(&"x".repeat(200))[..9], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1, b'x']);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 3, 8, 1], &[0, 0, 0, 0, 2, 16, 1]] {
            assert_eq!(status(bad), None, "{bad:?}");
        }
    }
}
