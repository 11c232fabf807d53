//! Heads as instances write them. Pure.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use httparse::{ParserConfig, Status};

use super::body::Decoder;
use crate::{
    config::{HEAD_BYTES_MAX, HEADERS_MAX},
    headers,
};

/// Why what came is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rubbish {
    #[error("it is not HTTP/1.1")]
    Malformed,
    #[error("its head is too long, or it has too many headers")]
    TooLong,
    #[error("its length is malformed")]
    Length,
    #[error("its transfer coding is not chunked")]
    Coding,
    #[error("a chunk of it is malformed")]
    Chunk,
}

/// The head of a response.
#[derive(Debug)]
pub(crate) struct Head {
    pub status: StatusCode,
    /// What passes on to the client.
    pub headers: HeaderMap,
    pub body: Decoder,
    /// Whether the connection takes another request once the body is over.
    pub is_kept: bool,
    /// The protocol that is switched to.
    pub upgrade: Option<HeaderValue>,
}

/// Takes the head of the response to such a request off the buffer; none while it is not whole. Interim responses are
/// passed over.
pub(crate) fn take(buffer: &mut BytesMut, method: &Method) -> Result<Option<Head>, Rubbish> {
    loop {
        let Some(len) = len(buffer)? else { return Ok(None) };
        let head = read(&buffer.split_to(len).freeze(), method)?;
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some(head));
        }
    }
}

/// Length of the head that the buffer begins with; none while it is not whole.
fn len(buffer: &[u8]) -> Result<Option<usize>, Rubbish> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut response, buffer, &mut headers) {
        Ok(Status::Complete(len)) if len <= HEAD_BYTES_MAX => Ok(Some(len)),
        Ok(Status::Partial) if buffer.len() < HEAD_BYTES_MAX => Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Err(Rubbish::TooLong),
        Err(_) => Err(Rubbish::Malformed),
    }
}

fn read(bytes: &Bytes, method: &Method) -> Result<Head, Rubbish> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, bytes, &mut lines)
        .map_err(|_| Rubbish::Malformed)?;
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Rubbish::Malformed)?;
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for line in response.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Rubbish::Malformed)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).map_err(|_| Rubbish::Malformed)?;
        headers.append(name, value);
    }
    let body = body_of(method, status, &headers)?;
    let is_kept = response.version == Some(1)
        && body != Decoder::UntilClosed
        && !headers::says_connection(&headers, "close")
        // Whoever sends both may have meant either.
        && !(headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH));
    let upgrade = headers.get(header::UPGRADE).filter(|_| status == StatusCode::SWITCHING_PROTOCOLS).cloned();
    headers::strip_hop_by_hop(&mut headers);
    Ok(Head { status, headers, body, is_kept, upgrade })
}

/// How the body is framed (RFC 9112 section 6.3).
fn body_of(method: &Method, status: StatusCode, headers: &HeaderMap) -> Result<Decoder, Rubbish> {
    let is_empty = status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if is_empty || *method == Method::HEAD {
        return Ok(Decoder::Length(0));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        return if is_chunked { Ok(Decoder::chunked()) } else { Err(Rubbish::Coding) };
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(Decoder::UntilClosed) };
    let is_plain = length.as_bytes().iter().all(u8::is_ascii_digit) && lengths.all(|other| other == length);
    let length = length.to_str().ok().filter(|_| is_plain).and_then(|length| length.parse().ok());
    length.map(Decoder::Length).ok_or(Rubbish::Length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &Method, text: &str) -> Result<Option<Head>, Rubbish> {
        take(&mut BytesMut::from(text), method)
    }

    #[test]
    fn bodies_are_framed_as_the_standard_says() {
        let check = |method: Method, text: &str, body: Decoder, is_kept: bool| {
            let head = of(&method, &format!("HTTP/1.1 {text}\r\n\r\n")).expect(text).expect(text);
            assert_eq!((head.body, head.is_kept), (body, is_kept), "{method} {text}");
        };
        check(Method::GET, "200 OK\r\ncontent-length: 5", Decoder::Length(5), true);
        check(Method::GET, "200 OK\r\ncontent-length: 5\r\ncontent-length: 5", Decoder::Length(5), true);
        check(Method::GET, "200 OK\r\nConnection: x, Close\r\ncontent-length: 5", Decoder::Length(5), false);
        check(Method::GET, "200 OK\r\nTransfer-Encoding: Chunked", Decoder::chunked(), true);
        check(Method::GET, "200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5", Decoder::chunked(), false);
        check(Method::GET, "200 OK", Decoder::UntilClosed, false);
        check(Method::HEAD, "200 OK\r\ncontent-length: 5", Decoder::Length(0), true);
        check(Method::GET, "204 No Content", Decoder::Length(0), true);
        check(Method::GET, "304 Not Modified\r\ncontent-length: 5", Decoder::Length(0), true);
        check(
            Method::GET,
            "103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5",
            Decoder::Length(5),
            true,
        );
    }

    #[test]
    fn what_cannot_be_framed_is_refused() {
        let check = |text: &str, why: Rubbish| {
            assert_eq!(of(&Method::GET, &format!("{text}\r\n\r\n")).expect_err(text), why, "{text}");
        };
        check("hello", Rubbish::Malformed);
        check("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6", Rubbish::Length);
        check("HTTP/1.1 200 OK\r\ncontent-length: +5", Rubbish::Length);
        check("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999", Rubbish::Length);
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked", Rubbish::Coding);
        check(&format!("HTTP/1.1 200 OK{}", "\r\nx: 1".repeat(HEADERS_MAX + 1)), Rubbish::TooLong);
        check(&format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(HEAD_BYTES_MAX)), Rubbish::TooLong);
    }

    #[test]
    fn a_head_in_parts_is_waited_for() {
        let text = "HTTP/1.1 200 OK\r\nx: 1\r\ncontent-length: 2\r\n\r\nok";
        for end in 0..text.len() - 2 {
            assert!(of(&Method::GET, &text[..end]).expect("so far so good").is_none(), "{end}");
        }
        let mut buffer = BytesMut::from(text);
        let head = take(&mut buffer, &Method::GET).expect("good").expect("whole");
        assert_eq!((head.headers["x"].as_bytes(), &buffer[..]), (&b"1"[..], &b"ok"[..]));
    }
}
