//! Ids of requests, on the way to instances and back to clients, and what the edge remembers by them.

mod common;

use std::time::Duration;

use common::{
    World,
    framed::{self, call, request},
    status,
};
use http::HeaderValue;
use insula_edge::Config;
use insula_env::clock::{sleep, timeout};
use insula_types::{InstanceId, RequestRecord};

/// What is remembered of an id that was given to one request.
fn found(world: &World, id: &str) -> Option<RequestRecord> {
    let mut remembered = world.edge.requests(&id.parse().expect("an id"));
    assert!(remembered.found.len() < 2 && remembered.more == 0, "{remembered:?}");
    remembered.found.pop()
}

fn header<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

/// Sends a request by HTTP/1.1; gives the head of the answer.
async fn ask(world: &World, request: &str) -> String {
    let mut client = world.client().await;
    client.send(request).await;
    client.read().await.unwrap_or_else(|error| panic!("{request}: {error}")).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_goes_to_the_instance_and_back() {
    let mut world = World::start(&[], Config::default()).await;
    world.add(1).await;
    world.add_framed(2).await;
    for number in [1, 2] {
        world.publish(&[number]);
        let sees = || header(&world.instance(number).heads().pop().expect("a request"), "x-request-id").join(", ");
        let get = |said: &str| format!("GET /a?b=c HTTP/1.1\r\nhost: shop.example\r\n{said}\r\n");

        let head = ask(&world, &get("X-Request-ID: 0af76519-16cd.43_8448\r\n")).await;
        assert_eq!(header(&head, "x-request-id"), ["0af76519-16cd.43_8448"], "{head}");
        assert_eq!(sees(), "0af76519-16cd.43_8448", "instance {number}");

        for said in [
            "",
            "x-request-id: short\r\n",
            "x-request-id: 12345678\r\nx-request-id: 12345678\r\n",
            "x-request-id: a b c d e f\r\n",
        ] {
            let head = ask(&world, &get(said)).await;
            let [ours] = header(&head, "x-request-id")[..] else { panic!("{head}") };
            assert!(ours.starts_with("r-") && ours.len() == 22, "{said:?} became {ours}");
            assert_eq!(sees(), ours, "instance {number} after {said:?}");
            let record = found(&world, ours).expect("it is remembered");
            assert_eq!((record.status, record.method.as_str(), record.path.as_str()), (Some(200), "GET", "/a"));
            assert_eq!((record.host.as_str(), record.client.to_string().as_str()), ("shop.example", "127.0.0.1"));
            assert_eq!(record.service.map(|service| service.to_string()).as_deref(), Some("shop/web"));
            let tries: Vec<_> = record.tries.iter().map(|one| (one.instance, one.failure.as_deref())).collect();
            assert_eq!((tries, record.cause), (vec![(InstanceId::new(number), None)], None));
        }

        let mut two = framed::Client::connect(world.address).await;
        let mut asked = request("GET", "/a");
        asked.headers_mut().insert("x-request-id", HeaderValue::from_static("by-http-2"));
        let answer = two.ask(asked, b"").await.expect("an answer");
        assert_eq!(
            (answer.headers["x-request-id"].as_bytes(), sees().as_str()),
            (b"by-http-2".as_slice(), "by-http-2")
        );
    }
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_edge_says_itself_has_an_id_and_a_cause() {
    let world = World::start(&[1], Config { request_body_max: 100, ..Config::default() }).await;
    world.publish_apps(&[("shop", &[1]), ("none", &[])]);
    let long = format!("/{}", "a".repeat(20_000));
    // Method, target, host; status, cause, service.
    type Row<'a> = (&'a str, &'a str, &'a str, u16, &'a str, Option<&'a str>);
    let table: [Row<'_>; 6] = [
        ("GET", "/", "other.example", 404, "no_route", None),
        ("GET", "/", "none.example", 503, "no_instance", Some("none/web")),
        ("GET", "/", "a b", 400, "bad_request", None),
        ("GET", &long, "shop.example", 414, "bad_request", None),
        ("CONNECT", "shop.example:443", "shop.example", 400, "bad_request", None),
        ("GET", "/rubbish", "shop.example", 502, "broken_off", Some("shop/web")),
    ];
    for (method, target, host, expected, cause, service) in table {
        let head = ask(&world, &format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        let [id] = header(&head, "x-request-id")[..] else { panic!("{host}: {head}") };
        let record = found(&world, id).expect("it is remembered");
        assert_eq!((status(&head), record.status), (expected, Some(expected)), "{method} {host}");
        assert_eq!(record.cause.as_deref(), Some(cause), "{method} {host}");
        assert_eq!(record.service.map(|service| service.to_string()).as_deref(), service, "{method} {host}");
        assert!(record.text.is_some_and(|text| !text.is_empty()) && record.path.len() <= 128);
    }
    let head =
        ask(&world, "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 101\r\nx-request-id: too-large\r\n\r\n")
            .await;
    assert_eq!((status(&head), header(&head, "x-request-id")), (413, vec!["too-large"]));
    let record = found(&world, "too-large").expect("it is remembered");
    assert_eq!(record.text.as_deref(), Some("the request body is larger than 100 bytes"));

    // A call by gRPC fails in its own words, and is told of in those of HTTP.
    world.publish(&[]);
    let mut two = framed::Client::connect(world.address).await;
    let mut asked = call("/shop.Shop/Buy");
    asked.headers_mut().insert("x-request-id", HeaderValue::from_static("a-grpc-call"));
    let answer = two.ask(asked, b"").await.expect("an answer");
    assert_eq!((answer.outcome(), answer.headers["x-request-id"].as_bytes()), (Some("14"), b"a-grpc-call".as_slice()));
    assert_eq!(found(&world, "a-grpc-call").and_then(|record| record.status), Some(503));
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_sent_again_shows_both_tries() {
    let world = World::start(&[1, 2], Config::default()).await;
    world.instance(1).kill();
    let tries = |id: &str| {
        let record = found(&world, id).expect("it is remembered");
        let tries = record.tries.into_iter().map(|one| (one.instance, one.node, one.failure));
        (record.status, tries.collect::<Vec<_>>())
    };
    let answered = (InstanceId::new(2), common::node(2), None);
    let mut all = Vec::new();
    for number in 0..100 {
        let id = format!("request-{number}");
        ask(&world, &format!("GET / HTTP/1.1\r\nhost: shop.example\r\nx-request-id: {id}\r\n\r\n")).await;
        let (status, tries) = tries(&id);
        assert_eq!((status, tries.last()), (Some(200), Some(&answered)), "{id}");
        all.push(tries);
    }
    let failed = (InstanceId::new(1), common::node(1), Some("took no connection".to_owned()));
    assert!(all.iter().any(|tries| *tries == [failed.clone(), answered.clone()]), "{all:?}");

    // Both instances die of it.
    world.publish(&[]);
    let mut world = world;
    world.add(3).await;
    world.publish(&[2, 3]);
    ask(&world, "GET /die HTTP/1.1\r\nhost: shop.example\r\nx-request-id: dies-of-it\r\n\r\n").await;
    let record = found(&world, "dies-of-it").expect("it is remembered");
    assert_eq!((record.status, record.cause.as_deref()), (Some(502), Some("broken_off")));
    let failures: Vec<_> = record.tries.iter().filter_map(|one| one.failure.as_deref()).collect();
    assert!(failures.len() > 1 && failures.iter().all(|why| *why == "broke off before it answered"), "{record:?}");
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_end_early_and_clients_that_do_not_wait_are_told_of() {
    let mut world = World::start(&[], Config::default()).await;
    world.add(1).await;
    world.publish(&[1]);
    let mut client = world.client().await;
    client.send("GET /half HTTP/1.1\r\nhost: shop.example\r\nx-request-id: half-of-it\r\n\r\n").await;
    client.rest().await;
    let record = found(&world, "half-of-it").expect("it is remembered");
    assert_eq!((record.status, record.cause.as_deref()), (Some(200), Some("body_broken_off")));

    let mut client = world.client().await;
    client.send("GET /hang HTTP/1.1\r\nhost: shop.example\r\nx-request-id: does-not-wait\r\n\r\n").await;
    let arrived = async {
        while !world.instance(1).heads().iter().any(|head| head.contains("/hang")) {
            sleep(Duration::from_millis(2)).await;
        }
        drop(client);
        loop {
            match found(&world, "does-not-wait") {
                Some(record) => break record,
                None => sleep(Duration::from_millis(2)).await,
            }
        }
    };
    let record = timeout(common::LIMIT, arrived).await.expect("the edge sees that the client is gone");
    assert_eq!((record.status, record.cause, record.tries.len()), (None, None, 1));

    // What follows is no HTTP, but the answer before it is.
    let head = ask(
        &world,
        "GET /ws HTTP/1.1\r\nhost: shop.example\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-request-id: a-web-socket\r\n\r\n",
    )
    .await;
    assert_eq!((status(&head), header(&head, "x-request-id")), (101, vec!["a-web-socket"]));
    assert_eq!(found(&world, "a-web-socket").and_then(|record| record.status), Some(101));
    world.end();
}
