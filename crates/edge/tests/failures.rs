//! Instances and nodes that die under load: what clients see.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{LIMIT, World};
use insula_edge::{Cause, Config};
use insula_env::clock::{sleep, timeout};

/// Sends GETs from many keep-alive connections until told to stop; counts answers and failures.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    bad: Arc<parking_lot::Mutex<Vec<String>>>,
    tasks: insula_env::TaskGroup,
}

impl Load {
    async fn start(world: &World, clients: usize) -> Self {
        let load = Self {
            stop: Arc::default(),
            good: Arc::default(),
            bad: Arc::default(),
            tasks: insula_env::TaskGroup::new("load"),
        };
        for _ in 0..clients {
            let mut client = world.client().await;
            let (stop, good, bad) = (Arc::clone(&load.stop), Arc::clone(&load.good), Arc::clone(&load.bad));
            load.tasks.spawn("client", async move {
                while !stop.load(Ordering::Relaxed) {
                    match client.get("/").await {
                        Ok((200, _)) => {
                            good.fetch_add(1, Ordering::Relaxed);
                        }
                        other => {
                            bad.lock().push(format!("{other:?}"));
                            return;
                        }
                    }
                }
            });
        }
        load
    }

    /// Waits until so many more requests have been answered.
    async fn more(&self, count: u64) {
        let until = self.good.load(Ordering::Relaxed) + count;
        let reached = async {
            while self.good.load(Ordering::Relaxed) < until && self.bad.lock().is_empty() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(LIMIT, reached).await.expect("load goes on");
    }

    async fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        while !self.tasks.list().is_empty() {
            sleep(Duration::from_millis(2)).await;
        }
        self.bad.lock().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_killed_under_load_costs_no_get() {
    let world = World::start(&[1, 2, 3], Config::default()).await;
    let load = Load::start(&world, 16).await;
    load.more(300).await;
    world.instance(2).kill();
    load.more(300).await;
    // The catalog learns of it only now; meanwhile the edge has passed the instance over by itself.
    world.publish(&[1, 3]);
    load.more(300).await;
    world.instance(3).kill();
    load.more(300).await;
    assert_eq!(load.finish().await, Vec::<String>::new());
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changing_catalog_costs_nothing() {
    let world = World::start(&[1, 2, 3], Config::default()).await;
    let load = Load::start(&world, 8).await;
    for round in 0..20 {
        load.more(50).await;
        let ready: Vec<u64> = (1..=3).filter(|number| number % 3 != round % 3).collect();
        world.publish(&ready);
    }
    assert_eq!(load.finish().await, Vec::<String>::new());
    assert!(world.dialer.dials.load(Ordering::Relaxed) < 500, "connections are kept, not made for each request");
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_fails_only_what_cannot_be_sent_again() {
    let world = World::start(&[2], Config::default()).await;
    // Both are in flight to node 2 when it falls silent; another instance is there by then.
    let mut get = world.client().await;
    get.send("GET /hang HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
    let mut put = world.client().await;
    put.send("PUT /hang HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 3\r\n\r\nabc").await;
    let mut post = world.client().await;
    post.send("POST /hang HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 3\r\n\r\nabc").await;
    while world.instance(2).heads().len() < 3 {
        sleep(Duration::from_millis(2)).await;
    }
    let mut world = world;
    world.add(3).await;
    world.publish(&[2, 3]);
    let started = world.env.clock.now();
    world.dialer.silence(2);
    let (head, body) = post.read().await.expect("the POST is answered at once");
    assert_eq!(common::status(&head), 502, "{}", String::from_utf8_lossy(&body));
    assert!(world.env.clock.now() - started < Duration::from_secs(5), "long before the response time-out");
    while world.instance(3).heads().len() < 2 {
        sleep(Duration::from_millis(2)).await;
    }
    let heads = world.instance(3).heads();
    assert!(heads.iter().any(|head| head.starts_with("GET")) && heads.iter().any(|head| head.starts_with("PUT")));
    assert!(!heads.iter().any(|head| head.starts_with("POST")));
    assert_eq!(world.instance(3).seen.lock().iter().find(|s| s.head.starts_with("PUT")).expect("sent").body, b"abc");
    for _ in 0..20 {
        assert_eq!(world.get("/").await, (200, "instance 3".to_owned()), "the silent node is not used");
    }
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_is_sent_once_or_elsewhere_when_nothing_was_sent() {
    let world = World::start(&[1, 2], Config::default()).await;
    // The instance dies on it: whether it did anything is not known, so it is not sent again.
    let mut client = world.client().await;
    client.send("POST /die HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 3\r\n\r\nabc").await;
    let (head, _) = client.read().await.expect("an answer");
    assert_eq!(common::status(&head), 502);
    let deaths = || world.instances.iter().flat_map(|i| i.heads()).filter(|h| h.starts_with("POST /die")).count();
    assert_eq!(deaths(), 1);
    // A GET that dies everywhere is tried as often as allowed, and then fails.
    let mut client = world.client().await;
    client.send("GET /die HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
    let (head, _) = client.read().await.expect("an answer");
    assert_eq!(common::status(&head), 502);
    assert_eq!(world.edge.metrics().failed(Cause::BrokenOff), 2);

    // Nobody listens there any more: nothing was sent, so even a POST goes elsewhere.
    world.instance(1).kill();
    for _ in 0..20 {
        let mut client = world.client().await;
        client
            .send(
                "POST /echo HTTP/1.1\r\nhost: shop.example\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            )
            .await;
        let (head, _) = client.read().await.expect("an answer");
        assert_eq!(common::status(&head), 200);
    }
    world.instance(2).kill();
    assert_eq!(world.get("/").await, (502, "no instance of shop/web takes connections\n".to_owned()));
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edge_says_why_it_cannot() {
    let world = World::start(&[], Config::default()).await;
    assert_eq!(world.get("/").await, (503, "this edge has not heard of its region yet\n".to_owned()));
    world.publish(&[]);
    assert_eq!(world.get("/").await, (503, "shop/web has no ready instance\n".to_owned()));
    assert_eq!(world.edge.metrics().failed(Cause::NoCatalog), 1);
    assert_eq!(world.edge.metrics().failed(Cause::NoInstance), 1);
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_are_bounded() {
    let config = Config {
        response_head: Duration::from_millis(200),
        request_head: Duration::from_millis(300),
        request_body_idle: Duration::from_millis(300),
        ..Config::default()
    };
    let world = World::start(&[1], config).await;
    assert_eq!(world.get("/hang").await.0, 504, "an instance that does not answer");
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nhost: sh").await;
    let all = client.rest().await;
    assert!(!String::from_utf8_lossy(&all).contains(" 200 "), "a client that never ends its head is closed");
    let mut client = world.client().await;
    client.send("POST /echo HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 10\r\n\r\nabc").await;
    let all = client.rest().await;
    assert!(!String::from_utf8_lossy(&all).contains(" 200 "), "nor its body");
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_requests_end_before_the_edge_does() {
    let world = World::start(&[1], Config::default()).await;
    let mut client = world.client().await;
    client.send("GET /slow HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
    while world.instance(1).heads().is_empty() {
        sleep(Duration::from_millis(2)).await;
    }
    let (drained, answer) = tokio::join!(world.edge.drain(), client.read());
    assert!(drained, "all ended in time");
    let (head, body) = answer.expect("an answer");
    assert_eq!((common::status(&head), body.as_slice()), (200, b"instance 1".as_slice()));
    assert!(client.rest().await.is_empty(), "and the connection is closed behind it");
    world.end();
}
