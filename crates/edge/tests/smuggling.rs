//! Requests that two readers could take for different ones. Raw bytes go to a real edge; behind it nobody may see what was
//! hidden in them.

mod common;

use std::time::Duration;

use common::World;
use insula_edge::Config;

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: shop.example\r\n\r\n";

/// A world whose edge waits for no request for long, so that all connections end by themselves.
async fn world() -> World {
    World::start(&[1], Config { request_head: Duration::from_millis(500), ..Config::default() }).await
}

/// What the edge makes of such bytes: the status of each of its answers, and the first line of each request that an
/// instance got.
async fn sent(world: &World, bytes: &str) -> (Vec<u16>, Vec<String>) {
    let before = world.instance(1).heads().len();
    let mut client = world.client().await;
    client.send(bytes).await;
    let all = String::from_utf8_lossy(&client.rest().await).into_owned();
    let statuses = all.split("HTTP/1.1 ").skip(1).map(|answer| common::status(&format!("HTTP/1.1 {answer}"))).collect();
    let heads = world.instance(1).heads().split_off(before);
    (statuses, heads.iter().filter_map(|head| head.lines().next().map(str::to_owned)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_read_in_two_ways_is_refused() {
    let world = world().await;
    let length = HIDDEN.len();
    let post = |lines: &str| format!("POST /x HTTP/1.1\r\nhost: shop.example\r\n{lines}");
    let table = [
        (
            "length and coding",
            post(&format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")),
        ),
        ("coding and length", post("transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n")),
        ("length and odd coding", post("content-length: 0\r\ntransfer-encoding: xchunked\r\n\r\n")),
        ("two lengths that differ", post(&format!("content-length: 0\r\ncontent-length: {length}\r\n\r\n"))),
        ("two lengths that agree", post("content-length: 0\r\ncontent-length: 0\r\n\r\n")),
        ("a list of lengths", post("content-length: 0, 0\r\n\r\n")),
        ("a signed length", post("content-length: +0\r\n\r\n")),
        ("a negative length", post("content-length: -1\r\n\r\n")),
        ("a length in hexadecimal", post("content-length: 0x0\r\n\r\n")),
        ("a length with a space in it", post("content-length: 1 0\r\n\r\n")),
        ("an empty length", post("content-length:\r\n\r\n")),
        ("a length beyond numbers", post("content-length: 18446744073709551616\r\n\r\n")),
        ("two codings", post("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n")),
        ("a list of codings", post("transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n")),
        ("chunked twice", post("transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n")),
        ("no coding", post("transfer-encoding: identity\r\n\r\n")),
        ("a quoted coding", post("transfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n")),
        ("a coding with a control byte", post("transfer-encoding: \u{b}chunked\r\n\r\n0\r\n\r\n")),
        ("a space before the colon", post("transfer-encoding : chunked\r\n\r\n0\r\n\r\n")),
        ("a tab before the colon", post("content-length\t: 0\r\n\r\n")),
        ("a folded header", post("x: 1\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("a folded coding", post("transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n")),
        ("a line without a colon", post("transfer-encoding\r\n\r\n")),
        ("a line that ends with LF", post("x: 1\ncontent-length: 0\r\n\r\n")),
        ("a head that ends with LF", post("x: 1\r\n\n")),
        ("a lone CR", post("x: 1\rcontent-length: 0\r\n\r\n")),
        ("a zero byte", post("x: 1\0\r\n\r\n")),
        ("a space in the name", post("content length: 0\r\n\r\n")),
        (
            "an old version with a coding",
            "POST /x HTTP/1.0\r\nhost: shop.example\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        ("a later version", "GET /x HTTP/2.0\r\nhost: shop.example\r\n\r\n".to_owned()),
        ("no version", "GET /x\r\nhost: shop.example\r\n\r\n".to_owned()),
        ("spaces in the target", "GET /x /y HTTP/1.1\r\nhost: shop.example\r\n\r\n".to_owned()),
        ("a space before the method", " GET /x HTTP/1.1\r\nhost: shop.example\r\n\r\n".to_owned()),
        ("a request line that ends with LF", "GET /x HTTP/1.1\nhost: shop.example\r\n\r\n".to_owned()),
        ("two hosts", post("host: other.example\r\n\r\n")),
        ("two hosts that agree", post("host: shop.example\r\n\r\n")),
        ("a target of another host", "GET http://shop.example/x HTTP/1.1\r\nhost: other.example\r\n\r\n".to_owned()),
        ("a host of another target", "GET http://other.example/x HTTP/1.1\r\nhost: shop.example\r\n\r\n".to_owned()),
        ("a host with a user", "GET /x HTTP/1.1\r\nhost: a@shop.example\r\n\r\n".to_owned()),
        ("a host with a path", "GET /x HTTP/1.1\r\nhost: shop.example/a\r\n\r\n".to_owned()),
        ("a list of hosts", "GET /x HTTP/1.1\r\nhost: shop.example, other.example\r\n\r\n".to_owned()),
        ("a tunnel", "CONNECT shop.example:80 HTTP/1.1\r\nhost: shop.example:80\r\n\r\n".to_owned()),
    ];
    for (name, request) in table {
        let (statuses, seen) = sent(&world, &format!("{request}{HIDDEN}")).await;
        assert_eq!(statuses.first(), Some(&400), "{name}: {statuses:?}");
        // Some are refused for what they ask, and not for how: what comes next is then a request of its own.
        let is_plain = ["host", "target of", "tunnel"].iter().any(|word| name.contains(word));
        let expected: &[&str] = if is_plain && seen.len() == 1 { &["GET /hidden HTTP/1.1"] } else { &[] };
        assert_eq!(seen, expected, "{name}");
        assert_eq!(statuses.len(), 1 + seen.len(), "{name}: {statuses:?}");
    }
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_end_where_they_say() {
    let world = world().await;
    let chunked = "POST /echo HTTP/1.1\r\nhost: shop.example\r\ntransfer-encoding: chunked\r\n\r\n";
    let table = [
        ("no size", "\r\n\r\n"),
        ("a size of no digits", "zz\r\nabc\r\n0\r\n\r\n"),
        ("a signed size", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a negative size", "-3\r\nabc\r\n0\r\n\r\n"),
        ("a size with a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a space before the size", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a space behind the size", "3 \r\nabc\r\n0\r\n\r\n"),
        ("a size beyond numbers", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("a size that ends with LF", "3\nabc\r\n0\r\n\r\n"),
        ("an extension with LF in it", "3;x\nabc\r\n0\r\n\r\n"),
        ("an extension with CR in it", "3;x\ry\r\nabc\r\n0\r\n\r\n"),
        ("more than the size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("a chunk that ends with LF", "3\r\nabc\n0\r\n\r\n"),
        ("a last chunk that ends with LF", "3\r\nabc\r\n0\n\r\n"),
        ("trailers that end with LF", "3\r\nabc\r\n0\r\n\n"),
        ("a trailer without a colon", "3\r\nabc\r\n0\r\nx\r\n\r\n"),
    ];
    for (name, body) in table {
        let (statuses, seen) = sent(&world, &format!("{chunked}{body}{HIDDEN}")).await;
        // An instance may have been told of the request, and never of its end.
        assert!(seen.is_empty(), "{name}: {seen:?}");
        assert!(statuses.iter().all(|status| *status == 400), "{name}: {statuses:?}");
    }
    world.end();
}

/// The other way round: what is well-formed gets through, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_requests_one_behind_the_other_are_served() {
    let world = world().await;
    let stream = format!(
        "GET /1 HTTP/1.1\r\nhost: shop.example\r\n\r\n\
         POST /echo?2 HTTP/1.1\r\nhost: shop.example\r\nContent-Length:  3 \r\n\r\nabc\
         POST /echo?3 HTTP/1.1\r\nhost: shop.example\r\ntransfer-encoding: chunked\r\n\r\n\
         3;x=y\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n{HIDDEN}"
    );
    let (statuses, seen) = sent(&world, &stream).await;
    assert_eq!(statuses, [200; 4]);
    let expected = ["GET /1 HTTP/1.1", "POST /echo?2 HTTP/1.1", "POST /echo?3 HTTP/1.1", "GET /hidden HTTP/1.1"];
    assert_eq!(seen, expected);
    world.end();
}
