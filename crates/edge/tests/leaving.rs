//! Instances that leave, and edges that do: nobody notices who can be told.

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::{World, status};
use insula_edge::Config;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_an_instance_end_when_it_leaves() {
    let world = World::start(&[1], Config { pool_idle: common::LIMIT * 2, ..Config::default() }).await;
    assert_eq!(world.get("/").await.0, 200);
    let mut slow = world.client().await;
    slow.send("GET /held HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
    until("the slow request is there", || world.instance(1).heads().len() == 2).await;
    assert_eq!(world.get("/").await.0, 200);
    assert_eq!(world.instance(1).open.load(Ordering::Relaxed), 2, "one is kept, one at work");
    world.publish(&[]);
    until("the idle one is closed", || world.instance(1).open.load(Ordering::Relaxed) <= 1).await;
    world.instance(1).held.add_permits(1);
    let (head, _) = slow.read().await.expect("what is in flight ends as it should");
    assert_eq!(status(&head), 200);
    until("and its connection behind it", || world.instance(1).open.load(Ordering::Relaxed) == 0).await;
    assert_eq!(world.get("/").await.0, 503);
    world.publish(&[1]);
    // Requests know of a catalog a moment before connections do: one of the first may not be kept.
    let kept_again = async {
        let dials = || world.dialer.dials.load(Ordering::Relaxed);
        let mut before = u64::MAX;
        while dials() != before {
            before = dials();
            assert_eq!(world.get("/").await.0, 200, "and back again");
        }
    };
    timeout(common::LIMIT, kept_again).await.expect("kept again");
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_before_the_edge_ends() {
    let world = World::start(&[1], Config { notice: Duration::from_secs(5), ..Config::default() }).await;
    let mut kept = world.client().await;
    assert_eq!(kept.get("/").await.expect("an answer").0, 200);
    // As long as somebody else may still come back.
    let mut other = world.client().await;
    assert_eq!(other.get("/").await.expect("an answer").0, 200);
    let (drained, ()) = tokio::join!(world.edge.drain(), async {
        kept.send("GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
        let (head, _) = kept.read().await.expect("an idle connection still takes a request");
        assert!(status(&head) == 200 && head.contains("connection: close"), "{head}");
        assert!(kept.rest().await.is_empty());
        let mut new = world.client().await;
        new.send("GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
        let (head, _) = new.read().await.expect("and so does a new one");
        assert!(status(&head) == 200 && head.contains("connection: close"), "{head}");
        drop(other);
    });
    assert!(drained);
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_are_kept_to_the_deadline() {
    let config = Config { notice: Duration::ZERO, drain: Duration::from_millis(700), ..Config::default() };
    let world = World::start(&[1], config).await;
    let open = async || {
        let mut client = world.client().await;
        client
            .send("GET /ws HTTP/1.1\r\nhost: shop.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
            .await;
        assert_eq!(status(&client.read().await.expect("the switch").0), 101);
        client
    };
    let mut client = open().await;
    // The instance leaves, and the edge: whoever talks goes on.
    world.publish(&[]);
    let (drained, ()) = tokio::join!(world.edge.drain(), async {
        for word in ["one", "two", "three"] {
            client.send(word).await;
            let mut echo = vec![0; word.len()];
            client.stream.read_exact(&mut echo).await.expect("an echo");
            assert_eq!(echo, word.as_bytes());
        }
    });
    assert!(!drained, "it is still open at the deadline");
    client.stream.shutdown().await.expect("close");
    assert!(client.rest().await.is_empty());
    assert!(world.edge.drain().await, "nothing is open any more");
    world.end();
}

/// A kept connection that the instance has closed meanwhile loses no request, also none that cannot be sent twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_connections_lose_no_post() {
    let world = World::start(&[1], Config::default()).await;
    let mut client = world.client().await;
    for number in 0..300 {
        client.send("POST /once HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 3\r\n\r\nabc").await;
        let (head, _) = client.read().await.expect("an answer");
        assert_eq!(status(&head), 200, "request {number}");
        until("the instance has closed", || world.instance(1).open.load(Ordering::Relaxed) == 0).await;
    }
    assert_eq!(world.instance(1).heads().len(), 300);
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_twice_gets_a_young_connection() {
    let world = World::start(&[1], Config { probed_idle: Duration::ZERO, ..Config::default() }).await;
    let dials = || world.dialer.dials.load(Ordering::Relaxed);
    for _ in 0..5 {
        assert_eq!(world.get("/").await.0, 200);
    }
    assert_eq!(dials(), 1, "others take what is there");
    for number in 1..=5 {
        let mut client = world.client().await;
        client.send("POST /echo HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 3\r\n\r\nabc").await;
        assert_eq!(status(&client.read().await.expect("an answer").0), 200);
        assert_eq!(dials(), 1 + number);
    }
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_answers_badly_is_put_out() {
    let world = World::start(&[1, 2], Config::default()).await;
    let mut bad = 0;
    for _ in 0..100 {
        bad += u64::from(world.get("/bad").await.0 == 503);
    }
    // Five in a row; then one each time that it comes back.
    assert!((5..20).contains(&bad), "{bad} of 100 went to it");
    // It is not put out when it is all there is.
    world.publish(&[1]);
    assert_eq!(world.get("/").await, (200, "instance 1".to_owned()));
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_let_go() {
    let world = World::start(&[1], Config { response_idle: Duration::from_millis(300), ..Config::default() }).await;
    let mut client = world.client().await;
    client.send("GET /big HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
    until("the request is in flight", || world.edge.in_flight().values().sum::<u64>() == 1).await;
    until("its place is free again", || world.edge.in_flight().values().sum::<u64>() == 0).await;
    let mut all = 0;
    let mut part = vec![0; 1 << 20];
    while let Ok(read @ 1..) = client.stream.read(&mut part).await {
        all += read;
    }
    assert!(all < common::BIG_BYTES, "it was not all sent: {all}");
    world.end();
}
