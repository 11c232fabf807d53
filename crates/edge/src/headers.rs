//! What headers pass from one side to the other.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::request_id::{self, Id};

/// What is meant for one hop only (RFC 9110 section 7.6.1), whether or not `Connection` names it.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What the edge says itself of a request: where it comes from, and what its id is.
fn is_said_here(name: &str) -> bool {
    matches!(
        name,
        "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
            | "x-forwarded-server"
            | "x-real-ip"
            | request_id::NAME
    )
}

/// Whether it is one of those to servers that take `_` for `-`, as all do that pass headers on as variables (RFC 3875).
fn is_disguised(name: &str) -> bool {
    name.contains('_') && {
        let plain = name.replace('_', "-");
        is_said_here(&plain) || is_hop_by_hop(&plain) || matches!(plain.as_str(), "content-length" | "content-type")
    }
}

/// What must arrive even when `Connection` names it: a client could otherwise make the edge drop what frames the message.
const NEVER_DROPPED: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE];

/// What `Connection` says, word by word.
fn words(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether `Connection` says that.
pub(crate) fn says_connection(headers: &HeaderMap, word: &str) -> bool {
    words(headers).any(|said| said.eq_ignore_ascii_case(word))
}

/// Headers that `Connection` names, but for those that go anyhow.
fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    let is_plain = |word: &&str| ["close", "keep-alive"].iter().any(|plain| word.eq_ignore_ascii_case(plain));
    let others = words(headers).filter(|word| !is_plain(word));
    let names = others.filter_map(|word| word.parse::<HeaderName>().ok());
    names.filter(|name| !is_hop_by_hop(name.as_str()) && !NEVER_DROPPED.contains(name)).collect()
}

/// Removes what is meant for one hop only: the known headers, and those that `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most responses have none: looking at all names once costs less than looking for each of them.
    if !headers.keys().any(|name| is_hop_by_hop(name.as_str())) {
        return;
    }
    let mut dropped = named(headers);
    dropped.extend(headers.keys().filter(|name| is_hop_by_hop(name.as_str())).cloned());
    // A length beside a transfer coding is never to be believed (RFC 9112 section 6.3).
    if headers.contains_key(header::TRANSFER_ENCODING) {
        dropped.push(header::CONTENT_LENGTH);
    }
    for name in dropped {
        headers.remove(name);
    }
}

/// The protocol that a request asks to switch to: WebSocket or none. Passing on a switch to HTTP/2 would let a client
/// speak past the edge's routes.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(header::UPGRADE)?;
    let is_asked = protocol.as_bytes().eq_ignore_ascii_case(b"websocket") && says_connection(headers, "upgrade");
    is_asked.then(|| protocol.clone())
}

/// The address of a client as headers say it, written once for all requests on its connection.
#[derive(Debug)]
pub(crate) struct ClientAddress(String);

impl ClientAddress {
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self(address.ip().to_canonical().to_string())
    }
}

/// Where a request comes from, and how it is called.
pub(crate) struct Origin<'a> {
    pub id: &'a Id,
    pub client: &'a ClientAddress,
    /// Whether what the client says of this is true: it is a proxy of the operator's.
    pub is_trusted: bool,
    /// Whether another region's edge brought it, which has said all of this: that goes on as it is.
    pub is_brought: bool,
    /// As it was asked for, with port.
    pub host: Option<&'a HeaderValue>,
}

/// Says of an answer, between edges of two regions, that no instance has seen the request.
pub(crate) const NOT_SERVED: HeaderName = HeaderName::from_static("x-insula-not-served");

/// The client of a request that another region's edge has brought.
pub(crate) fn brought_for(headers: &HeaderMap) -> Option<IpAddr> {
    let said = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    said.rsplit(',').next()?.trim().parse().ok()
}

/// Headers of a request that go on as they are.
fn passed(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let named = named(headers);
    headers.iter().filter(move |(name, _)| {
        let text = name.as_str();
        // The edge itself answers 100 as soon as it reads the body.
        let is_ours = matches!(text, "host" | "expect") || is_said_here(text) || is_disguised(text);
        !is_ours && !is_hop_by_hop(text) && !named.contains(*name)
    })
}

/// Writes the headers of a request as instances get them by HTTP/1.1, without the empty line at the end.
pub(crate) fn write(headers: &HeaderMap, origin: &Origin<'_>, upgrade: Option<&HeaderValue>, out: &mut BytesMut) {
    if let Some(host) = origin.host {
        line(out, "host", host.as_bytes());
    }
    for (name, value) in passed(headers) {
        line(out, name.as_str(), value.as_bytes());
    }
    write_origin(headers, origin, out);
    if let Some(protocol) = upgrade {
        line(out, "connection", b"upgrade");
        line(out, "upgrade", protocol.as_bytes());
    }
}

/// The headers of a request as instances get them by HTTP/2: the same, but that the host stands elsewhere, and that the client
/// may say that it takes trailers.
pub(crate) fn framed(headers: &HeaderMap, origin: &Origin<'_>) -> HeaderMap {
    let mut framed = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in passed(headers) {
        framed.append(name, value.clone());
    }
    if takes_trailers(headers) {
        framed.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let mut lines = BytesMut::with_capacity(256);
    write_origin(headers, origin, &mut lines);
    let lines = lines.freeze();
    for line in lines.split(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\r")) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let value = HeaderValue::from_maybe_shared(lines.slice_ref(value.get(2..).unwrap_or_default()));
        framed.extend(HeaderName::from_bytes(name).ok().zip(value.ok()));
    }
    framed
}

/// Whether whoever says this takes trailers.
fn takes_trailers(headers: &HeaderMap) -> bool {
    let said = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("trailers"))
}

/// Removes from trailers what means something only in a head (RFC 9110 section 6.5.1).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let is_of_head = |name: &str| {
        is_hop_by_hop(name) || is_said_here(name) || is_disguised(name) || matches!(name, "host" | "content-length")
    };
    let dropped: Vec<HeaderName> = trailers.keys().filter(|name| is_of_head(name.as_str())).cloned().collect();
    for name in dropped {
        trailers.remove(name);
    }
}

/// Makes one header of cookies that came in several, as HTTP/2 allows and HTTP/1.1 does not (RFC 9113 section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Says how the request is called and who the client is: that in place of whatever the client said, or behind it where it is trusted:
/// else the edge is the first that can be believed.
fn write_origin(headers: &HeaderMap, origin: &Origin<'_>, out: &mut BytesMut) {
    line(out, request_id::NAME, origin.id.as_bytes());
    if origin.is_brought {
        for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"] {
            headers.get_all(name).iter().for_each(|value| line(out, name, value.as_bytes()));
        }
        return;
    }
    let client = origin.client.0.as_bytes();
    // None is looked up of whom nobody would believe.
    let said = |name: &'static str| origin.is_trusted.then(|| headers.get_all(name).iter()).into_iter().flatten();
    // What a proxy has said stays, and each further one adds itself.
    let begin = |out: &mut BytesMut, name: &'static str| {
        out.put_slice(name.as_bytes());
        out.put_slice(b": ");
        for value in said(name) {
            out.put_slice(value.as_bytes());
            out.put_slice(b", ");
        }
    };
    begin(out, "x-forwarded-for");
    out.put_slice(client);
    out.put_slice(b"\r\n");
    for (name, ours) in
        [("x-forwarded-proto", Some("http".as_bytes())), ("x-forwarded-host", origin.host.map(HeaderValue::as_bytes))]
    {
        if let Some(value) = said(name).next().map(HeaderValue::as_bytes).or(ours) {
            line(out, name, value);
        }
    }
    begin(out, "forwarded");
    // An address of IPv6 only within quotes (RFC 7239 section 6).
    let (before, behind): (&[u8], &[u8]) = if client.contains(&b':') { (b"for=\"[", b"]\"") } else { (b"for=", b"") };
    for part in [before, client, behind, b";proto=http"] {
        out.put_slice(part);
    }
    // A host that got here is made of characters that a quoted string may hold.
    if let Some(host) = origin.host.filter(|host| host.to_str().is_ok()) {
        for part in [b";host=\"", host.as_bytes(), b"\""] {
            out.put_slice(part);
        }
    }
    out.put_slice(b"\r\n");
}

fn line(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    const ODD: [(&str, &str); 15] = [
        ("connection", "close, x-secret, host, x-forwarded-for, x-request-id, content-length"),
        ("x-request-id", "theirs!"),
        ("x_request_id", "theirs-1"),
        ("x-secret", "1"),
        ("host", "other.example"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("trailer", "x-sum"),
        ("upgrade", "h2c"),
        ("expect", "100-continue"),
        ("content-length", "5"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("transfer_encoding", "chunked"),
        ("accept", "*/*"),
    ];

    #[test]
    fn hop_by_hop_goes_and_the_rest_stays() {
        let mut headers = map(&[
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("accept-ranges", "none"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("accept-ranges", "none")]));
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("accept-ranges", "none")]));
    }

    fn written(headers: &HeaderMap, client: &str, is_trusted: bool, host: Option<&'static str>) -> String {
        let host = host.map(HeaderValue::from_static);
        let id = Id::new(b"an-id-of-ours");
        let client = &ClientAddress::of(client.parse().expect("address"));
        let origin = Origin { id: &id, client, is_trusted, is_brought: false, host: host.as_ref() };
        let mut out = BytesMut::new();
        write(headers, &origin, None, &mut out);
        String::from_utf8(out.to_vec()).expect("text")
    }

    #[test]
    fn what_another_edge_said_of_a_request_goes_on_as_it_is() {
        let headers = map(&[
            ("x-forwarded-for", "192.0.2.1, 192.0.2.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example"),
            ("forwarded", "for=192.0.2.7;proto=https;host=\"shop.example\""),
            ("x-real-ip", "6.6.6.6"),
        ]);
        assert_eq!(brought_for(&headers), Some("192.0.2.7".parse().expect("address")));
        assert_eq!(brought_for(&map(&[])), None);
        let id = Id::new(b"an-id-of-ours");
        let client = &ClientAddress::of("[2001:db8::1]:7443".parse().expect("address"));
        let origin = Origin { id: &id, client, is_trusted: false, is_brought: true, host: None };
        let mut out = BytesMut::new();
        write(&headers, &origin, None, &mut out);
        assert_eq!(
            std::str::from_utf8(&out).expect("text"),
            "x-request-id: an-id-of-ours\r\nx-forwarded-for: 192.0.2.1, 192.0.2.7\r\nx-forwarded-proto: https\r\n\
             x-forwarded-host: shop.example\r\nforwarded: for=192.0.2.7;proto=https;host=\"shop.example\"\r\n"
        );
    }

    #[test]
    fn forged_addresses_are_replaced() {
        assert_eq!(
            written(&map(&ODD), "[::ffff:192.0.2.7]:5555", false, Some("Shop.example:80")),
            "host: Shop.example:80\r\ncontent-length: 5\r\naccept: */*\r\nx-request-id: an-id-of-ours\r\nx-forwarded-for: 192.0.2.7\r\n\
             x-forwarded-proto: http\r\nx-forwarded-host: Shop.example:80\r\n\
             forwarded: for=192.0.2.7;proto=http;host=\"Shop.example:80\"\r\n"
        );
        assert_eq!(
            written(&HeaderMap::new(), "[2001:db8::1]:5555", false, None),
            "x-request-id: an-id-of-ours\r\nx-forwarded-for: 2001:db8::1\r\nx-forwarded-proto: http\r\nforwarded: for=\"[2001:db8::1]\";proto=http\r\n"
        );
    }

    #[test]
    fn what_a_proxy_of_the_operator_says_stays() {
        let mut headers = map(&[
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=198.51.100.1;proto=https"),
            ("x-real-ip", "198.51.100.1"),
        ]);
        headers.append("x-forwarded-for", HeaderValue::from_static("198.51.100.2"));
        assert_eq!(
            written(&headers, "192.0.2.7:5555", true, Some("shop.example")),
            "host: shop.example\r\nx-request-id: an-id-of-ours\r\nx-forwarded-for: 198.51.100.1, 198.51.100.2, 192.0.2.7\r\n\
             x-forwarded-proto: https\r\nx-forwarded-host: shop.example\r\n\
             forwarded: for=198.51.100.1;proto=https, for=192.0.2.7;proto=http;host=\"shop.example\"\r\n"
        );
    }

    #[test]
    fn what_goes_by_http_2_is_the_same() {
        let framed = |headers: &HeaderMap| {
            let host = HeaderValue::from_static("Shop.example:80");
            let client = &ClientAddress::of("[2001:db8::1]:5555".parse().expect("address"));
            framed(
                headers,
                &Origin {
                    id: &Id::new(b"an-id-of-ours"),
                    client,
                    is_trusted: false,
                    is_brought: false,
                    host: Some(&host),
                },
            )
        };
        let expected = [
            ("content-length", "5"),
            ("accept", "*/*"),
            ("te", "trailers"),
            ("x-request-id", "an-id-of-ours"),
            ("x-forwarded-for", "2001:db8::1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "Shop.example:80"),
            ("forwarded", "for=\"[2001:db8::1]\";proto=http;host=\"Shop.example:80\""),
        ];
        assert_eq!(framed(&map(&ODD)), map(&expected));
        assert!(!framed(&map(&[("te", "gzip")])).contains_key("te"));
    }

    #[test]
    fn cookies_are_one_header_and_trailers_are_no_head() {
        let mut headers = map(&[("a", "1")]);
        for cookie in ["x=1", "y=2; z=3"] {
            headers.append("cookie", HeaderValue::from_static(cookie));
        }
        join_cookies(&mut headers);
        assert_eq!(headers, map(&[("a", "1"), ("cookie", "x=1; y=2; z=3")]));
        let mut trailers = map(&[
            ("grpc-status", "0"),
            ("content-length", "5"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-request-id", "a"),
            ("te", "x"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("grpc-status", "0")]));
    }

    #[test]
    fn upgrades_need_both_headers() {
        assert!(upgrade(&map(&[("upgrade", "websocket")])).is_none());
        assert!(upgrade(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")])).is_some());
        assert!(upgrade(&map(&[("connection", "upgrade"), ("upgrade", "h2c")])).is_none());
    }
}
