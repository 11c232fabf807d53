//! What headers pass from one side to the other.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What must arrive even when `Connection` names it: a client could otherwise make the edge drop what it vouches for, or
/// what frames the message.
const NEVER_DROPPED: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE];

/// Removes what is meant for one hop only (RFC 9110 section 7.6.1): the known ones, and those that `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| !NEVER_DROPPED.contains(name))
        .collect();
    // A length beside a transfer coding is never to be believed (RFC 9112 section 6.3).
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove(header::TRAILER);
}

/// The protocol that a request asks to switch to: WebSocket or none. Passing on a switch to HTTP/2 would let a client
/// speak past the edge's routes.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let says = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|p| says && p.as_bytes().eq_ignore_ascii_case(b"websocket")).cloned()
}

/// Says who the client is, in place of whatever the client said: the edge is the first that can be believed.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, client: SocketAddr, original_host: Option<&HeaderValue>) {
    let address = client.ip().to_canonical();
    let quoted = match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    };
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip"] {
        headers.remove(name);
    }
    headers.remove(header::FORWARDED);
    let mut forwarded = format!("for={quoted};proto=http");
    if let Some(host) = original_host {
        headers.insert("x-forwarded-host", host.clone());
        // A host that got here is made of characters that a quoted string may hold.
        if let Ok(text) = host.to_str() {
            forwarded.push_str(&format!(";host=\"{text}\""));
        }
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    for (name, value) in
        [(HeaderName::from_static("x-forwarded-for"), address.to_string()), (header::FORWARDED, forwarded)]
    {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn hop_by_hop_goes_and_the_rest_stays() {
        let mut headers = map(&[
            ("connection", "close, x-secret, host, x-forwarded-for"),
            ("x-secret", "1"),
            ("host", "shop.example"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "shop.example"), ("accept", "*/*")]));
    }

    #[test]
    fn forged_addresses_are_replaced() {
        let mut headers =
            map(&[("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6"), ("x-real-ip", "6.6.6.6")]);
        let host = HeaderValue::from_static("Shop.example:80");
        set_forwarded(&mut headers, "[::ffff:192.0.2.7]:5555".parse().expect("address"), Some(&host));
        let expected = map(&[
            ("x-forwarded-host", "Shop.example:80"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-for", "192.0.2.7"),
            ("forwarded", "for=192.0.2.7;proto=http;host=\"Shop.example:80\""),
        ]);
        assert_eq!(headers, expected);
        set_forwarded(&mut headers, "[2001:db8::1]:5555".parse().expect("address"), None);
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::1]\";proto=http");
    }

    #[test]
    fn upgrades_need_both_headers() {
        assert!(upgrade(&map(&[("upgrade", "websocket")])).is_none());
        assert!(upgrade(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")])).is_some());
        assert!(upgrade(&map(&[("connection", "upgrade"), ("upgrade", "h2c")])).is_none());
    }
}
