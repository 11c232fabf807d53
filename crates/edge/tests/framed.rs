//! HTTP/2 on either side of the edge, or on both, with real peers.

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use common::{
    World,
    framed::{self, Client, call, put, request},
    status,
};
use h2::Reason;
use http::HeaderValue;
use insula_edge::{Cause, Config};
use insula_env::clock::{sleep, timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let reached = async {
        while !is_so() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(common::LIMIT, reached).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Instance 1 speaks HTTP/1.1; 2 and 3 speak HTTP/2.
async fn world(ready: &[u64], config: Config) -> World {
    let mut world = World::start(&[], config).await;
    world.add(1).await;
    for number in [2, 3] {
        world.add_framed(number).await;
    }
    world.publish(ready);
    world
}

fn in_flight(world: &World) -> u64 {
    world.edge.in_flight().values().sum()
}

/// Tally of a release: requests and failures.
fn tally(world: &World, release: u64) -> (u64, u64) {
    let traffic = world.edge.traffic();
    let found = traffic.releases.iter().find(|of| of.release.0 == release);
    found.map_or((0, 0), |of| (of.tally.requests, of.tally.failed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_of_versions_is_translated() {
    let world = world(&[1], Config::default()).await;
    for number in [1, 2] {
        world.publish(&[number]);
        let mut two = Client::connect(world.address).await;
        let mut asked = request("POST", "/echo?a=1");
        for cookie in ["a=1", "b=2"] {
            asked.headers_mut().append("cookie", HeaderValue::from_static(cookie));
        }
        for (name, value) in
            [("content-length", "10"), ("x-forwarded-for", "6.6.6.6"), ("te", "trailers"), ("x_real_ip", "6.6.6.6")]
        {
            asked.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let answer = two.ask(asked, b"some words").await.expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "some words"), "HTTP/2 to {number}");
        assert_eq!(answer.headers["content-length"], "10");
        let seen = world.instance(number).heads().pop().expect("a request").to_ascii_lowercase();
        for line in [
            "cookie: a=1; b=2\r\n",
            "x-forwarded-for: 127.0.0.1\r\n",
            "x-forwarded-host: shop.example\r\n",
            "proto=http",
        ] {
            assert!(seen.contains(line), "{line:?} in {seen}");
        }
        assert!(!seen.contains("6.6.6.6"), "{seen}");
        let (line, te) = if number == 1 {
            ("post /echo?a=1 http/1.1\r\nhost: shop.example\r\n", false)
        } else {
            ("post http://shop.example/echo?a=1\r\n", true)
        };
        assert!(seen.starts_with(line), "{seen}");
        assert_eq!(seen.contains("te: trailers"), te, "{seen}");
        let head = two.ask(request("HEAD", "/"), b"").await.expect("an answer");
        assert_eq!((head.status, head.body.len()), (200, 0));

        // Both framings of a body by HTTP/1.1, on one connection.
        let mut one = world.client().await;
        for framing in
            ["content-length: 3\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: 1\r\n\r\n"]
        {
            one.send(&format!(
                "POST /echo HTTP/1.1\r\nhost: shop.example\r\nConnection: x-hop\r\nx-hop: 1\r\n{framing}"
            ))
            .await;
            let (head, body) = one.read().await.expect("an answer");
            assert_eq!(status(&head), 200, "{head}");
            assert!(String::from_utf8_lossy(&body).contains("abc"));
            assert!(!world.instance(number).heads().pop().expect("a request").contains("x-hop"));
        }
    }
    // One connection carried all of those.
    assert_eq!(world.instance(2).open.load(Ordering::Relaxed), 1);
    world.end();
}

/// What a call by gRPC needs: messages both ways at the same time, and an outcome among the trailers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_talk_both_ways_and_end_with_an_outcome() {
    let world = world(&[2], Config::default()).await;
    let mut client = Client::connect(world.address).await;
    let (response, out) = client.begin(call("/shop.Cart/Talk"), false).await.expect("begun");
    let mut out = out.expect("a way");
    let (head, mut stream) = timeout(common::LIMIT, response).await.expect("in time").expect("a head").into_parts();
    assert_eq!(
        (head.status.as_u16(), &head.headers["content-type"]),
        (200, &HeaderValue::from_static("application/grpc"))
    );
    for word in ["one", "two", "three"] {
        put(&mut out, Bytes::from(word)).await.expect("said");
        let heard = timeout(common::LIMIT, stream.data()).await.expect("heard in time").expect("more").expect("good");
        assert_eq!(heard, word, "before the next word is said");
        stream.flow_control().release_capacity(heard.len()).expect("there");
    }
    let trailers =
        http::HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))]);
    out.send_trailers(trailers).expect("said");
    assert!(stream.data().await.is_none());
    let trailers = stream.trailers().await.expect("good").expect("there are some");
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-bytes"], &trailers["x-sum"]),
        (&HeaderValue::from_static("0"), &HeaderValue::from_static("11"), &HeaderValue::from_static("7"))
    );
    let seen = world.instance(2).heads().pop().expect("a request");
    assert!(seen.contains("te: trailers\r\n"), "{seen}");
    until("nothing is left", || in_flight(&world) == 0).await;
    assert_eq!(tally(&world, 2), (1, 0));

    // A client that says all it has to say before it reads anything, though an answer is waiting for it.
    let (response, out) = client.begin(call("/shop.Cart/Gather"), false).await.expect("begun");
    let mut out = out.expect("a way");
    let response = timeout(common::LIMIT, response).await.expect("in time").expect("a head");
    let said = put(&mut out, Bytes::from(vec![b'x'; 1 << 20]));
    timeout(common::LIMIT, said).await.expect("nobody waits for it to read").expect("said");
    out.send_data(Bytes::new(), true).expect("said");
    let answer = framed::read(response).await.expect("all of it");
    assert_eq!(
        (answer.body.len(), answer.outcome(), &answer.trailers["x-bytes"]),
        (256 << 10, Some("0"), &HeaderValue::from(1 << 20))
    );
    world.end();
}

/// Outcomes of calls count as statuses do: for those who judge a release, and for the instance's share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_fail_are_counted() {
    let world = world(&[2], Config::default()).await;
    let mut client = Client::connect(world.address).await;
    for (path, outcome) in [("/shop.Cart/Fail", "14"), ("/shop.Cart/FailAtOnce", "13"), ("/shop.Cart/Talk", "0")] {
        let answer = client.ask(call(path), b"x").await.expect("an answer");
        assert_eq!((answer.status, answer.outcome()), (200, Some(outcome)), "{path}");
    }
    until("all are counted", || tally(&world, 2) == (3, 2)).await;
    // What the edge says itself is an outcome, too.
    world.publish(&[]);
    let answer = client.ask(call("/shop.Cart/Talk"), b"x").await.expect("an answer");
    assert_eq!((answer.status, answer.outcome()), (200, Some("14")));
    let why = answer.headers["grpc-message"].to_str().expect("text");
    assert!(why.contains("shop/web has no ready instance"), "{why}");
    assert_eq!(client.get("/").await.expect("an answer").status, 503, "and a plain request gets a plain answer");
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_fails_call_after_call_is_put_out() {
    let world = world(&[2, 3], Config::default()).await;
    let mut client = Client::connect(world.address).await;
    for _ in 0..40 {
        client.ask(call("/shop.Cart/Fail"), b"x").await.expect("an answer");
    }
    let ejections: u64 = world.edge.services().values().map(|of| of.ejections).sum();
    assert!(ejections >= 1, "after five in a row");
    world.end();
}

/// Who takes a request back, or goes, has it taken back from the instance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_is_taken_back_from_the_instance() {
    let world = world(&[2], Config::default()).await;
    let was_taken_back = |times| {
        let heads = world.instance(2).heads();
        heads.iter().filter(|head| head.ends_with("was taken back")).count() == times
    };
    let mut client = Client::connect(world.address).await;
    let (response, out) = client.begin(call("/shop.Cart/Silent"), false).await.expect("begun");
    until("it is there", || world.instance(2).heads().len() == 1).await;
    out.expect("a way").send_reset(Reason::CANCEL);
    drop(response);
    until("it is taken back", || was_taken_back(1)).await;
    let pending = client.begin(call("/shop.Cart/Silent"), true).await.expect("begun");
    until("the next is there", || world.instance(2).heads().len() == 3).await;
    client.kill();
    until("it is taken back", || was_taken_back(2)).await;
    drop(pending);
    // The same for a client of HTTP/1.1.
    let mut one = world.client().await;
    one.send("GET /silent HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
    until("the third is there", || world.instance(2).heads().len() == 5).await;
    drop(one);
    until("it is taken back", || was_taken_back(3)).await;
    until("nothing is left", || in_flight(&world) == 0).await;
    world.end();
}

/// What an instance did not begin to work on is sent again, whatever it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_taken_is_sent_again() {
    let mut world = World::start(&[], Config::default()).await;
    for number in [1, 2] {
        world.add_framed(number).await;
    }
    world.publish(&[1, 2]);
    let mut client = Client::connect(world.address).await;
    // Refused by one of the two.
    for _ in 0..20 {
        let answer = client.ask(request("POST", "/refused"), b"abc").await.expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "instance 2"));
    }
    assert!(world.edge.metrics().retries() > 0);
    world.publish(&[2]);
    // GOAWAY while a request is answered: that one ends, the next goes elsewhere.
    for number in 0..10 {
        let answer = client.ask(request("POST", "/last"), b"abc").await.expect("an answer");
        assert_eq!(answer.status, 200, "request {number}");
    }
    // What may have been taken is sent again only when that is safe.
    let answer = client.ask(request("POST", "/die"), b"abc").await.expect("an answer");
    assert_eq!(answer.status, 502);
    let came = |method: &str| {
        let heads = [1, 2].map(|number| world.instance(number).heads()).concat();
        heads.iter().filter(|head| head.starts_with(method) && head.contains("/die")).count()
    };
    assert_eq!(came("POST"), 1);
    world.publish(&[1, 2]);
    assert_eq!(client.get("/die").await.expect("an answer").status, 502);
    assert!(came("GET") >= 2, "on another instance");
    world.end();
}

/// An instance closes a connection while a request is on its way, and says so: a request that cannot be sent twice gets an answer all
/// the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_closed_in_good_order_lose_no_post() {
    let mut world = World::start(&[], Config::default()).await;
    world.add_this(framed::start_with_goaway(1).await);
    world.publish(&[1]);
    let mut client = Client::connect(world.address).await;
    for number in 0..20 {
        let answer = client.ask(request("POST", "/"), b"abc").await.expect("an answer");
        assert_eq!(answer.status, 200, "request {number}");
    }
    let heads = world.instance(1).heads();
    let count = |what| heads.iter().filter(|head| *head == what).count();
    assert_eq!(count("answered"), 20);
    assert!(count("not counted") >= 10, "{}", count("not counted"));
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_break_off_do_not_look_whole() {
    let world = world(&[2], Config::default()).await;
    let mut client = Client::connect(world.address).await;
    let error = client.get("/cut").await.expect_err("half an answer");
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM), "as the instance said");
    let mut one = world.client().await;
    one.send("GET /cut HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
    let all = String::from_utf8_lossy(&one.rest().await).into_owned();
    assert!(all.contains("half") && !all.ends_with("0\r\n\r\n"), "{all}");
    assert_eq!(world.edge.metrics().failed(Cause::BodyBrokenOff), 2);
    assert_eq!(tally(&world, 2), (2, 2));
    // The same of an instance that speaks HTTP/1.1.
    world.publish(&[1]);
    let error = client.get("/half").await.expect_err("half an answer");
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    world.end();
}

/// An answer that comes before the whole request counts, and the rest is not asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_half_a_request_is_passed_on() {
    let world = world(&[2], Config::default()).await;
    let mut client = Client::connect(world.address).await;
    for number in [2, 1] {
        world.publish(&[number]);
        let answer = client.ask(request("POST", "/eager"), &vec![b'x'; 4 << 20]).await.expect("an answer");
        assert_eq!(answer.status, 413);
    }
    world.end();
}

/// A client that takes nothing of one answer is let go of with that, and nothing is gathered for it; its others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_which_nothing_is_taken_is_let_go() {
    let config = Config { response_idle: Duration::from_millis(500), ..Config::default() };
    for number in [1, 2] {
        let world = world(&[number], config.clone()).await;
        // Its connection has room for what is not taken.
        let mut builder = h2::client::Builder::new();
        let mut client =
            Client::with(world.address, builder.initial_connection_window_size(1 << 20)).await.expect("HTTP/2");
        let (response, _) = client.begin(request("GET", "/big"), true).await.expect("begun");
        let response = timeout(common::LIMIT, response).await.expect("in time").expect("a head");
        assert_eq!(in_flight(&world), 1);
        let another = client.get("/").await.expect("an answer");
        assert_eq!(another.text(), format!("instance {number}"));
        until("it is let go", || in_flight(&world) == 0).await;
        let error = framed::read(response).await.expect_err("not all of it");
        assert_eq!(error.reason(), Some(Reason::CANCEL));
        assert_eq!(client.get("/").await.expect("an answer").status, 200, "the connection stays");
        // Who takes all of it gets all of it.
        let all = client.get("/big").await.expect("an answer");
        assert_eq!(all.body.len(), common::BIG_BYTES);
        world.end();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_spread_one_by_one() {
    let world = world(&[2, 3], Config::default()).await;
    let mut client = Client::connect(world.address).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(client.begin(call("/shop.Cart/Silent"), true).await.expect("begun"));
        until("it is in flight", || in_flight(&world) == open.len() as u64).await;
    }
    // One connection of the client's, one of each instance, and each has half of what is open.
    let of: Vec<usize> = [2, 3].map(|number| world.instance(number).heads().len()).to_vec();
    assert!(of.iter().all(|count| (8..=12).contains(count)), "{of:?}");
    assert_eq!(world.dialer.dials.load(Ordering::Relaxed), 2);
    world.end();
}

/// An instance takes fewer streams on a connection than there are requests: they get further connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_streams_as_an_instance_takes() {
    let world = world(&[2], Config::default()).await;
    let mut clients = Vec::new();
    let mut open = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(world.address).await);
    }
    let wanted = framed::INSTANCE_STREAMS_MAX as usize + 30;
    for turn in 0..wanted {
        let client = &mut clients[turn % 3];
        open.push(client.begin(call("/shop.Cart/Silent"), true).await.expect("begun"));
        until("it is there", || world.instance(2).heads().len() == open.len()).await;
    }
    assert_eq!(world.instance(2).open.load(Ordering::Relaxed), 2);
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_with_who_leaves() {
    let config = Config { notice: Duration::from_millis(300), ..Config::default() };
    let world = world(&[2], config).await;
    let mut client = Client::connect(world.address).await;
    let (slow, _) = client.begin(request("GET", "/slow"), true).await.expect("begun");
    until("the slow request is there", || world.instance(2).heads().len() == 1).await;
    // The instance leaves: what is open ends as it should, and then its connection.
    world.publish(&[]);
    assert_eq!(client.get("/").await.expect("an answer").status, 503);
    assert_eq!(framed::read(slow.await.expect("an answer")).await.expect("all of it").status, 200);
    until("its connection ends", || world.instance(2).open.load(Ordering::Relaxed) == 0).await;
    world.publish(&[2]);
    assert_eq!(client.get("/").await.expect("an answer").status, 200);
    // The edge leaves: the client is told, and what is open ends as it should.
    let (slow, _) = client.begin(request("GET", "/slow"), true).await.expect("begun");
    until("the slow request is there", || world.instance(2).heads().len() == 3).await;
    let (drained, ()) = tokio::join!(world.edge.drain(), async {
        let answer = framed::read(slow.await.expect("an answer")).await.expect("all of it");
        assert_eq!(answer.status, 200);
        let ended = timeout(common::LIMIT, &mut client.ended).await.expect("told to go").expect("told");
        ended.expect("in good order");
    });
    assert!(drained);
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_end() {
    let config =
        Config { request_head: Duration::from_millis(300), pool_idle: Duration::from_millis(300), ..Config::default() };
    let world = world(&[2], config).await;
    let mut client = Client::connect(world.address).await;
    assert_eq!(client.get("/").await.expect("an answer").status, 200);
    timeout(common::LIMIT, &mut client.ended).await.expect("it ends").expect("told").expect("in good order");
    until("and so does the one to the instance", || world.instance(2).open.load(Ordering::Relaxed) == 0).await;
    // One that never says a request, or not even all of how HTTP/2 begins.
    for begun in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], b"PRI * HT", b""] {
        let mut raw = world.client().await;
        raw.stream.write_all(begun).await.expect("sent");
        raw.rest().await;
    }
    world.end();
}

/// The preface in pieces, and what only looks like it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_told_apart_however_they_come() {
    let world = world(&[1], Config::default()).await;
    let mut raw = world.client().await;
    for piece in [&b"P"[..], b"RI * HTTP/2.0\r\n\r\nSM", b"\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        raw.stream.write_all(piece).await.expect("sent");
        sleep(Duration::from_millis(20)).await;
    }
    let mut frame = [0; 9];
    raw.stream.read_exact(&mut frame).await.expect("a frame");
    assert_eq!(frame[3], 4, "SETTINGS");
    let mut client = world.client().await;
    for piece in ["P", "OST /echo HTTP/1.1\r\nhost: shop.ex", "ample\r\ncontent-length: 1\r\n\r\nx"] {
        client.send(piece).await;
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status(&client.read().await.expect("an answer").0), 200);
    let mut client = world.client().await;
    client.send("PRI * HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
    assert_eq!(status(&client.read().await.expect("an answer").0), 400);
    world.end();
}

/// What may be said by HTTP/2 and would be something else by HTTP/1.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_hidden_in_frames() {
    let world = world(&[1], Config::default()).await;
    let mut client = Client::connect(world.address).await;
    let check = async |client: &mut Client, name: &'static str, values: &[&str]| {
        let mut asked = request("POST", "/hidden");
        for value in values {
            asked.headers_mut().append(name, HeaderValue::from_str(value).expect("a value"));
        }
        client.ask(asked, b"abc").await.map(|answer| answer.status)
    };
    assert_eq!(check(&mut client, "host", &["other.example"]).await.expect("an answer"), 400);
    assert_eq!(check(&mut client, "host", &["shop.example", "shop.example"]).await.expect("an answer"), 400);
    assert_eq!(check(&mut client, "host", &["a@shop.example"]).await.expect("an answer"), 400);
    assert_eq!(check(&mut client, "content-length", &["3", "3"]).await.expect("an answer"), 400);
    assert!(world.instance(1).heads().is_empty());
    assert_eq!(check(&mut client, "host", &["shop.example"]).await.expect("an answer"), 200);
    // Two that are one to those who take `_` for `-`.
    assert_eq!(check(&mut client, "transfer_encoding", &["chunked"]).await.expect("an answer"), 200);
    assert!(!world.instance(1).heads().pop().expect("a request").contains("transfer_encoding"));
    let tunnel = http::Request::builder().method("CONNECT").uri("shop.example:80").body(()).expect("good");
    assert_eq!(client.ask(tunnel, b"").await.expect("an answer").status, 400);
    world.end();
}

/// Frames that `h2` would not write: lengths that lie, and headers that belong to HTTP/1.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_malformed_reaches_no_instance() {
    let world = world(&[1], Config::default()).await;
    let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // Literal headers, never indexed: one length byte for the name, one for the value.
    let block = |headers: &[(&str, &str)]| {
        let literal = |(name, value): &(&str, &str)| {
            let (name_len, value_len) = ([0x10, name.len() as u8], [value.len() as u8]);
            [&name_len[..], name.as_bytes(), &value_len[..], value.as_bytes()].concat()
        };
        headers.iter().flat_map(literal).collect::<Vec<u8>>()
    };
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let head = [0, (payload.len() >> 8) as u8, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        [&head[..], payload].concat()
    };
    let usual = [(":method", "POST"), (":scheme", "http"), (":path", "/hidden"), (":authority", "shop.example")];
    let table: &[(&str, &[(&str, &str)])] = &[
        ("a coding", &[("transfer-encoding", "chunked")]),
        ("a connection", &[("connection", "close")]),
        ("an upgrade", &[("upgrade", "websocket")]),
        ("a large letter", &[("X-A", "1")]),
        ("a line break in a value", &[("x", "1\r\ncontent-length: 0")]),
        ("a line break in a name", &[("x: 1\r\ny", "1")]),
        ("a colon in a name", &[("x:", "1")]),
        ("a zero in a value", &[("x", "1\0")]),
        ("two paths", &[(":path", "/other")]),
        ("a length that lies", &[("content-length", "5")]),
        ("two lengths that differ", &[("content-length", "3"), ("content-length", "4")]),
        ("te beyond trailers", &[("te", "gzip")]),
    ];
    for (name, more) in table {
        let mut raw = world.client().await;
        let head = block(&[&usual[..], *more].concat());
        let all = [&begin[..], &frame(1, 4, &head), &frame(0, 1, b"abc")].concat();
        raw.stream.write_all(&all).await.expect("sent");
        let refused = async {
            let mut read = Vec::new();
            // RST_STREAM or GOAWAY, or an answer of 400.
            while !has_frame(&read, &[3, 7]) && raw.stream.read_buf(&mut read).await.unwrap_or(0) > 0 {}
        };
        timeout(common::LIMIT, refused).await.unwrap_or_else(|_| panic!("{name} is refused"));
        assert!(!world.instance(1).heads().iter().any(|head| head.contains("/hidden")), "{name}");
    }
    for (path, pseudo) in [("a space", "/ hidden"), ("a line break", "/hidden HTTP/1.1\r\n"), ("no slash", "hidden")] {
        let mut usual = usual;
        usual[2].1 = pseudo;
        let mut raw = world.client().await;
        raw.stream.write_all(&[&begin[..], &frame(1, 5, &block(&usual))].concat()).await.expect("sent");
        let answered = async {
            let mut read = Vec::new();
            while !has_frame(&read, &[1, 3, 7]) && raw.stream.read_buf(&mut read).await.unwrap_or(0) > 0 {}
        };
        timeout(common::LIMIT, answered).await.unwrap_or_else(|_| panic!("{path} is refused"));
        assert!(!world.instance(1).heads().iter().any(|head| head.contains("hidden")), "{path}");
    }
    world.end();
}

/// Whether such a frame is among those that came.
fn has_frame(mut read: &[u8], kinds: &[u8]) -> bool {
    while let Some((head, rest)) = read.split_at_checked(9) {
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if kinds.contains(&head[3]) {
            return true;
        }
        read = rest.get(len..).unwrap_or_default();
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_bodies_are_bounded() {
    let world = world(&[1, 2], Config { request_body_max: 20_000, ..Config::default() }).await;
    let mut client = Client::connect(world.address).await;
    let mut asked = request("GET", "/");
    for number in 0..110 {
        let name = http::HeaderName::from_bytes(format!("x-{number}").as_bytes()).expect("a name");
        asked.headers_mut().insert(name, HeaderValue::from_static("1"));
    }
    assert_eq!(client.ask(asked, b"").await.expect("an answer").status, 431);
    let mut asked = request("GET", "/");
    asked.headers_mut().insert("x", HeaderValue::from_str(&"x".repeat(80 << 10)).expect("a value"));
    assert_eq!(client.ask(asked, b"").await.expect("an answer").status, 431);
    let long = format!("/{}", "x".repeat(17 << 10));
    assert_eq!(client.get(&long).await.expect("an answer").status, 414);
    for number in [1, 2] {
        world.publish(&[number]);
        let mut check = async |len: usize, has_length: bool| {
            let mut asked = request("POST", "/echo");
            if has_length {
                asked.headers_mut().insert("content-length", HeaderValue::from(len));
            }
            client.ask(asked, &vec![b'x'; len]).await.expect("an answer").status
        };
        assert_eq!((check(20_000, true).await, check(20_001, true).await), (200, 413), "{number}");
        assert_eq!((check(20_000, false).await, check(20_001, false).await), (200, 413), "{number}");
    }
    world.end();
}

/// A client that asks and takes back, again and again (CVE-2023-44487), one that never ends a head (CVE-2024-27316), and ones that
/// let the edge answer SETTINGS and PING and take no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end() {
    let world = world(&[2], Config { response_idle: Duration::from_millis(500), ..Config::default() }).await;
    let mut client = Client::connect(world.address).await;
    let floods = || world.edge.metrics().read()["insula_edge_floods_total"];
    let mut taken_back = 0;
    let error = loop {
        match client.begin(call("/shop.Cart/Silent"), false).await {
            Ok((response, out)) => {
                // Slowly enough for each to be under way.
                until("it is under way", || {
                    world.instance(2).heads().iter().filter(|head| head.starts_with("POST")).count() > taken_back
                        || floods() == 1
                })
                .await;
                out.expect("a way").send_reset(Reason::CANCEL);
                drop(response);
                taken_back += 1;
                assert!(taken_back < 1000, "nobody minds");
            }
            Err(error) => break error,
        }
    };
    assert!(taken_back >= 100, "{taken_back} were enough");
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(floods(), 1);
    until("nothing is left of it", || in_flight(&world) == 0).await;

    let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // HEADERS without END_HEADERS, and CONTINUATION after CONTINUATION.
    let mut raw = world.client().await;
    raw.stream.write_all(begin).await.expect("sent");
    raw.stream.write_all(b"\0\0\x01\x01\0\0\0\0\x01\x82").await.expect("sent");
    let flood = async { while raw.stream.write_all(b"\0\0\x01\x09\0\0\0\0\x01\x86").await.is_ok() {} };
    timeout(common::LIMIT, flood).await.expect("it ends");
    // Answers that are not read.
    for frame in [&b"\0\0\x08\x06\0\0\0\0\x0012345678"[..], b"\0\0\0\x04\0\0\0\0\0"] {
        let mut raw = world.client().await;
        raw.stream.write_all(begin).await.expect("sent");
        let many = frame.repeat(1000);
        let flood = async { while raw.stream.write_all(&many).await.is_ok() {} };
        timeout(common::LIMIT, flood).await.expect("it ends");
    }
    assert_eq!(Client::connect(world.address).await.get("/").await.expect("an answer").status, 200);
    world.end();
}

/// A share is one of requests, however few connections they come on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_are_of_requests() {
    let world = world(&[2], Config { requests_max: 20, ..Config::default() }).await;
    let mut client = Client::connect(world.address).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(client.begin(call("/shop.Cart/Silent"), true).await.expect("begun"));
    }
    until("half of the places are taken", || in_flight(&world) == 10).await;
    let answer = client.ask(call("/shop.Cart/Talk"), b"x").await.expect("an answer");
    assert_eq!(answer.outcome(), Some("14"));
    assert_eq!(world.edge.refused().values().sum::<u64>(), 1);
    world.end();
}

/// A call may be silent for long, since its client says how long that may be; any other request may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_may_be_silent() {
    let short = Duration::from_millis(300);
    let world = world(&[2], Config { response_head: short, request_body_idle: short, ..Config::default() }).await;
    let mut client = Client::connect(world.address).await;
    let (call, out) = client.begin(call("/shop.Cart/Silent"), false).await.expect("begun");
    assert_eq!(client.get("/silent").await.expect("an answer").status, 504);
    let (slow, way) = client.begin(request("POST", "/echo"), false).await.expect("begun");
    assert_eq!(framed::read(slow.await.expect("an answer")).await.expect("all of it").status, 408);
    drop(way);
    assert_eq!(in_flight(&world), 1, "the call is still there");
    drop((call, out));
    world.end();
}
