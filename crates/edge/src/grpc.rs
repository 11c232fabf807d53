//! What of gRPC an edge has to know: where the outcome of a call stands, and how to say one. Pure.
//!
//! A call fails with HTTP status 200 and a number of its own in `grpc-status`, mostly among the trailers. Sources: PROTOCOL-HTTP2.md
//! and statuscodes.md of gRPC, and the HTTP mapping in `google/rpc/code.proto`.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};
use http_body_util::Full;

use crate::body::ResponseBody;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether it is a call: by HTTP/2, and of `application/grpc` or one of its kinds (`+proto`).
pub(crate) fn is_call(version: Version, headers: &HeaderMap) -> bool {
    let kind = || headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    version == Version::HTTP_2
        && kind()
            .and_then(|kind| kind.strip_prefix(b"application/grpc"))
            .is_some_and(|rest| rest.is_empty() || matches!(rest[0], b'+' | b';'))
}

/// The HTTP status that says the same as the outcome of a call; none where headers or trailers say no outcome.
pub(crate) fn outcome(said: &HeaderMap) -> Option<StatusCode> {
    let number: u16 = said.get(STATUS)?.to_str().ok()?.parse().ok()?;
    Some(match number {
        // UNKNOWN: what programs that fail without a word of their own say. INTERNAL and DATA_LOSS.
        2 | 13 | 15 => StatusCode::INTERNAL_SERVER_ERROR,
        // DEADLINE_EXCEEDED
        4 => StatusCode::GATEWAY_TIMEOUT,
        // UNIMPLEMENTED
        12 => StatusCode::NOT_IMPLEMENTED,
        // UNAVAILABLE
        14 => StatusCode::SERVICE_UNAVAILABLE,
        // All others are about the call, not about who was called.
        _ => StatusCode::OK,
    })
}

/// An answer of the edge itself to a call.
pub(crate) fn refuse(status: StatusCode, text: &str) -> Response<ResponseBody> {
    let number = match status {
        StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT => "13",
        // An instance may be at work on it still: DEADLINE_EXCEEDED, which is not called again as UNAVAILABLE is.
        StatusCode::GATEWAY_TIMEOUT => "4",
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE | StatusCode::URI_TOO_LONG => "8",
        StatusCode::NOT_FOUND => "12",
        _ => "14",
    };
    let mut response = Response::new(ResponseBody::own(Full::default()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, HeaderValue::from_static(number));
    headers.extend(HeaderValue::from_maybe_shared(percent_encoded(text)).ok().map(|text| (MESSAGE, text)));
    response
}

/// Bytes beyond printable ASCII, and `%`, as `%` and two hexadecimal digits.
fn percent_encoded(text: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.put_u8(byte),
            _ => out.put_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_version_and_kind() {
        let check = |version, kind: &'static str, expected| {
            let request =
                http::Request::builder().version(version).header("content-type", kind).body(()).expect("good");
            assert_eq!(is_call(request.version(), request.headers()), expected, "{version:?} {kind}");
        };
        check(Version::HTTP_2, "application/grpc", true);
        check(Version::HTTP_2, "application/grpc+proto", true);
        check(Version::HTTP_2, "application/grpc; x=1", true);
        check(Version::HTTP_2, "application/grpc-web", false);
        check(Version::HTTP_2, "application/json", false);
        check(Version::HTTP_11, "application/grpc", false);
    }

    #[test]
    fn outcomes_are_what_they_would_be_without_grpc() {
        let of = |number: &str| {
            let said = HeaderMap::from_iter([(STATUS, HeaderValue::from_str(number).expect("good"))]);
            outcome(&said).map(|status| status.as_u16())
        };
        let all: Vec<_> = (0..=16).filter_map(|number: u8| of(&number.to_string())).collect();
        assert_eq!(all, [200, 200, 500, 200, 504, 200, 200, 200, 200, 200, 200, 200, 501, 500, 503, 500, 200]);
        assert_eq!((of("x"), outcome(&HeaderMap::new())), (None, None));
    }

    #[test]
    fn refusals_are_calls_that_failed() {
        let response = refuse(StatusCode::SERVICE_UNAVAILABLE, "100 % größer\n");
        assert_eq!(
            (response.status(), &response.headers()["grpc-status"]),
            (StatusCode::OK, &HeaderValue::from_static("14"))
        );
        assert_eq!(response.headers()["grpc-message"], "100 %25 gr%C3%B6%C3%9Fer%0A");
    }
}
