//! Odd requests and odd responses: what the edge makes of them.

mod common;

use common::{World, status};
use insula_edge::{Cause, Config};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests() {
    let world = World::start(&[1], Config::default()).await;
    let huge = format!("GET / HTTP/1.1\r\nhost: shop.example\r\nx: {}\r\n\r\n", "a".repeat(70_000));
    let long = format!("GET /{} HTTP/1.1\r\nhost: shop.example\r\n\r\n", "a".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\nhost: shop.example\r\n{}\r\n", "x: 1\r\n".repeat(200));
    // Request, status of the answer, whether an instance may get to see it.
    let table: &[(&str, &str, u16, bool)] = &[
        ("plain", "GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n", 200, true),
        ("case and port", "GET / HTTP/1.1\r\nHOST: Shop.EXAMPLE:8080\r\n\r\n", 200, true),
        ("absolute target", "GET http://shop.example/x HTTP/1.1\r\nhost: shop.example\r\n\r\n", 200, true),
        ("old version", "GET / HTTP/1.0\r\nhost: shop.example\r\n\r\n", 200, true),
        ("unknown host", "GET / HTTP/1.1\r\nhost: other.example\r\n\r\n", 404, false),
        ("no host", "GET / HTTP/1.1\r\n\r\n", 400, false),
        ("two hosts", "GET / HTTP/1.1\r\nhost: shop.example\r\nhost: shop.example\r\n\r\n", 400, false),
        ("malformed host", "GET / HTTP/1.1\r\nhost: user@shop.example\r\n\r\n", 400, false),
        ("as a proxy", "CONNECT shop.example:443 HTTP/1.1\r\nhost: shop.example\r\n\r\n", 400, false),
        ("asterisk", "OPTIONS * HTTP/1.1\r\nhost: shop.example\r\n\r\n", 400, false),
        ("not HTTP", "hello\r\n\r\n", 400, false),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
            400,
            false,
        ),
        ("length list", "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 3, 3\r\n\r\nabc", 400, false),
        ("signed length", "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: +3\r\n\r\nabc", 400, false),
        ("unknown coding", "POST / HTTP/1.1\r\nhost: shop.example\r\ntransfer-encoding: gzip\r\n\r\n", 400, false),
        (
            "chunked not last",
            "POST / HTTP/1.1\r\nhost: shop.example\r\ntransfer-encoding: chunked, x\r\n\r\n",
            400,
            false,
        ),
        (
            "coding in 1.0",
            "POST / HTTP/1.0\r\nhost: shop.example\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            false,
        ),
        ("folded header", "GET / HTTP/1.1\r\nhost: shop.example\r\nx: 1\r\n 2\r\n\r\n", 400, false),
        ("space before colon", "GET / HTTP/1.1\r\nhost: shop.example\r\nx : 1\r\n\r\n", 400, false),
        ("long target", &long, 414, false),
        ("huge head", &huge, 431, false),
        ("many headers", &many, 431, false),
    ];
    for (name, request, expected, is_passed) in table {
        let before = world.instance(1).heads().len();
        let mut client = world.client().await;
        client.send(request).await;
        let (head, _) = client.read().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(status(&head), *expected, "{name}: {head}");
        assert_eq!(world.instance(1).heads().len() > before, *is_passed, "{name}");
    }
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_instances_get() {
    let world = World::start(&[1], Config::default()).await;
    let mut client = world.client().await;
    client
        .send(
            "POST /echo?q=1 HTTP/1.1\r\nHost: Shop.example:80\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
             Connection: keep-alive, x-hop\r\nX-Hop: 1\r\nTE: trailers\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n\
             Proxy-Authorization: x\r\nX-Own: kept\r\nContent-Length: 5\r\n\r\n",
        )
        .await;
    let (head, _) = client.read().await.expect("the edge asks for the body");
    assert_eq!(status(&head), 100);
    client.send("hello").await;
    let (head, body) = client.read().await.expect("an answer");
    assert_eq!((status(&head), body.as_slice()), (200, b"hello".as_slice()));
    let seen = world.instance(1).heads().pop().expect("one request").to_ascii_lowercase();
    for line in [
        "post /echo?q=1 http/1.1\r\n",
        "\r\nhost: shop.example:80\r\n",
        "\r\nx-own: kept\r\n",
        "\r\ncontent-length: 5\r\n",
        "\r\nx-forwarded-for: 127.0.0.1\r\n",
        "\r\nx-forwarded-proto: http\r\n",
        "\r\nx-forwarded-host: shop.example:80\r\n",
        "\r\nforwarded: for=127.0.0.1;proto=http;host=\"shop.example:80\"\r\n",
    ] {
        assert!(seen.contains(line), "{line:?} in {seen}");
    }
    for gone in ["6.6.6.6", "x-hop", "\r\nte:", "upgrade", "expect", "proxy-authorization", "\r\nconnection:"] {
        assert!(!seen.contains(gone), "{gone:?} in {seen}");
    }
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_responses() {
    let world = World::start(&[1], Config::default()).await;
    let mut client = world.client().await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\n\r\n");

    client.send(&ask("/chunked")).await;
    let (head, body) = client.read().await.expect("chunked");
    assert!(!head.contains("x-hop") && !head.contains("trailer"), "{head}");
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(body.contains("hello") && body.contains(" world") && !body.contains("x-sum"), "{body}");

    client.send("HEAD / HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
    let head = {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            tokio::io::AsyncReadExt::read_buf(&mut client.stream, &mut seen).await.expect("head");
        }
        String::from_utf8(seen).expect("text")
    };
    assert!(head.contains("content-length: 1234"), "{head}");

    for (path, expected) in [("/empty", 204), ("/unmodified", 304), ("/early", 200), ("/", 200)] {
        client.send(&ask(path)).await;
        let (head, _) = client.read().await.expect(path);
        assert_eq!(status(&head), expected, "{path}, all on one connection");
    }
    client.send(&ask("/close")).await;
    let (head, body) = client.read().await.expect("a body without a length gets one by chunks");
    assert!(head.contains("chunked") && String::from_utf8_lossy(&body).contains("until the end"), "{head}");

    assert_eq!(world.get("/rubbish").await.0, 502);

    // A body that breaks off must not look whole: the end chunk never comes.
    let mut client = world.client().await;
    client.send(&ask("/half")).await;
    let all = String::from_utf8_lossy(&client.rest().await).into_owned();
    assert!(all.contains("hello") && !all.ends_with("0\r\n\r\n"), "{all}");
    assert_eq!(world.edge.metrics().failed(Cause::BodyBrokenOff), 1);

    let mut client = world.client().await;
    client.send("GET / HTTP/1.0\r\nhost: shop.example\r\n\r\n").await;
    let all = String::from_utf8_lossy(&client.rest().await).into_owned();
    assert!(all.ends_with("instance 1"), "an old client is answered, then closed: {all}");
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_pass() {
    let world = World::start(&[1], Config::default()).await;
    let mut client = world.client().await;
    client.send("GET /ws HTTP/1.1\r\nhost: shop.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
    let (head, _) = client.read().await.expect("the switch");
    assert_eq!(status(&head), 101);
    assert!(head.contains("upgrade: websocket"), "{head}");
    client.send("any bytes").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.expect("half-close");
    assert_eq!(client.rest().await, b"any bytes");

    // Without being asked, a switch is an error of the instance.
    assert_eq!(world.get("/ws").await.0, 502);
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_of_the_operator_are_believed() {
    let trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    let world = World::start(&[1], Config { trusted_proxies, ..Config::default() }).await;
    let mut client = world.client().await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: shop.example\r\nx-forwarded-for: 198.51.100.1\r\nx-forwarded-proto: https\r\n\
             forwarded: for=198.51.100.1\r\n\r\n",
        )
        .await;
    client.read().await.expect("an answer");
    let seen = world.instance(1).heads().pop().expect("one request");
    for line in [
        "\r\nx-forwarded-for: 198.51.100.1, 127.0.0.1\r\n",
        "\r\nx-forwarded-proto: https\r\n",
        "\r\nforwarded: for=198.51.100.1, for=127.0.0.1;proto=http;host=\"shop.example\"\r\n",
    ] {
        assert!(seen.contains(line), "{line:?} in {seen}");
    }
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_bounded_as_configured() {
    let world = World::start(&[1], Config { request_body_max: 20_000, ..Config::default() }).await;
    let body = "x".repeat(20_001);
    for (framing, body, expected) in [
        ("content-length: 20000", body[1..].to_owned(), 200),
        ("content-length: 20001", body.clone(), 413),
        ("transfer-encoding: chunked", format!("4e20\r\n{}\r\n0\r\n\r\n", &body[1..]), 200),
        ("transfer-encoding: chunked", format!("4e21\r\n{body}\r\n0\r\n\r\n"), 413),
    ] {
        let mut client = world.client().await;
        client.send(&format!("POST /echo HTTP/1.1\r\nhost: shop.example\r\n{framing}\r\n\r\n{body}")).await;
        let (head, _) = client.read().await.expect(framing);
        assert_eq!(status(&head), expected, "{framing}, {} bytes: {head}", body.len());
    }
    world.end();
}

/// An instance that answers before it has the whole body, and closes: its answer counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_half_a_request_is_passed_on() {
    let world = World::start(&[1], Config::default()).await;
    let mut client = world.client().await;
    client.send("POST /eager HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 100000\r\n\r\nsome").await;
    let (head, _) = client.read().await.expect("an answer");
    assert_eq!(status(&head), 413, "{head}");
    world.end();
}
