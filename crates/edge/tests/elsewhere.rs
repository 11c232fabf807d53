//! Two regions, each with a real edge: what the one does not have is served by the other.

mod common;

use std::time::Duration;

use common::{
    LIMIT, World,
    framed::{Client, call},
    node, status,
};
use insula_catalog::{FarGateway, FarRegion, FarService};
use insula_edge::Config;
use insula_env::clock::{sleep, timeout};
use insula_types::ServiceRef;

/// The gateway by which each of the two reaches the other.
const GATEWAY: u64 = 50;

/// Tells `near` that region nrt has so many ready instances of the shop, or had.
fn tell(near: &World, ready: u32, was_ready: u32) {
    let service = ServiceRef::new("shop".parse().expect("name"), "web".parse().expect("name"));
    let region = FarRegion {
        rank: 0,
        is_fresh: true,
        gateways: vec![FarGateway { node: node(GATEWAY), addresses: Vec::new() }],
        services: [(service, FarService { ready, was_ready })].into(),
    };
    near.far.lock().insert("nrt".parse().expect("name"), region);
}

/// Two regions that know of each other: the near one with these instances, the far one with those.
async fn worlds(near: &[u64], far: &[u64]) -> (World, World) {
    let (near_world, far_world) =
        (World::start(near, Config::default()).await, World::start(far, Config::default()).await);
    near_world.dialer.far.lock().insert(node(GATEWAY), far_world.edge.clone());
    far_world.dialer.far.lock().insert(node(GATEWAY), near_world.edge.clone());
    tell(&near_world, 1, 1);
    tell(&far_world, 1, 1);
    near_world.publish(near);
    far_world.publish(far);
    (near_world, far_world)
}

fn end(worlds: (World, World)) {
    worlds.0.end();
    worlds.1.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_elsewhere_alone_is_served_from_there() {
    let worlds = worlds(&[], &[2]).await;
    let (near, far) = &worlds;
    let mut client = near.client().await;
    client
        .send("GET /a HTTP/1.1\r\nhost: shop.example\r\nx-request-id: an-id-of-mine\r\nx-forwarded-for: 6.6.6.6\r\nx-insula-not-served: 1\r\n\r\n")
        .await;
    let (head, body) = client.read().await.expect("an answer");
    assert_eq!((status(&head), String::from_utf8_lossy(&body).as_ref()), (200, "instance 2"));
    assert!(head.contains("x-request-id: an-id-of-mine"), "{head}");
    let heads = far.instance(2).heads();
    let seen = heads.last().expect("a request").to_ascii_lowercase();
    for line in [
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-host: shop.example\r\n",
        "forwarded: for=127.0.0.1;proto=http;host=\"shop.example\"\r\n",
        "x-request-id: an-id-of-mine\r\n",
        "\r\nhost: shop.example\r\n",
    ] {
        assert_eq!(seen.matches(line).count(), 1, "{line:?} in {seen}");
    }
    assert_eq!(seen.matches("forwarded").count(), 4, "nothing else says where it comes from: {seen}");

    // A long body both ways, without a length, on the connection that is there.
    let body = "x".repeat(300 << 10);
    client.send(&format!("POST /echo HTTP/1.1\r\nhost: shop.example\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())).await;
    let (head, echoed) = client.read().await.expect("an answer");
    assert_eq!(status(&head), 200);
    assert!(echoed.len() >= body.len(), "{} bytes", echoed.len());
    assert_eq!(near.dialer.dials.load(std::sync::atomic::Ordering::Relaxed), 1, "connections are kept");

    // Switched protocols.
    client.send("GET /ws HTTP/1.1\r\nhost: shop.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(status(&client.read().await.expect("the switch").0), 101);
    client.send("any bytes").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.expect("half-close");
    assert_eq!(client.rest().await, b"any bytes");
    end(worlds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_pass_with_their_trailers() {
    let (near, mut far) = worlds(&[], &[]).await;
    far.add_framed(2).await;
    far.publish(&[2]);
    let mut client = Client::connect(near.address).await;
    for (path, outcome) in [("/shop.Cart/Fail", "14"), ("/shop.Cart/Talk", "0")] {
        let answer = client.ask(call(path), b"some words").await.expect("an answer");
        assert_eq!((answer.status, answer.outcome()), (200, Some(outcome)), "{path}");
    }
    far.publish(&[]);
    let answer = client.ask(call("/shop.Cart/Talk"), b"some words").await.expect("an answer");
    assert_eq!(answer.outcome(), Some("14"));
    end((near, far));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_here_goes_elsewhere_and_comes_back_after_a_while() {
    let worlds = worlds(&[2], &[3]).await;
    let (near, far) = &worlds;
    assert_eq!(near.get("/").await, (200, "instance 2".to_owned()), "what is ready here has it");
    // Nobody has told the catalog yet.
    let address = near.dialer.addresses.lock().remove(&insula_types::InstanceId::new(2)).expect("there");
    near.instance(2).kill();
    for _ in 0..50 {
        assert_eq!(near.get("/").await, (200, "instance 3".to_owned()));
    }
    // Not ready, and ready again: the next ones still go where they went.
    near.publish(&[]);
    assert_eq!(near.get("/").await, (200, "instance 3".to_owned()));
    let back = common::Instance::start(2).await;
    assert_ne!(back.address, address);
    near.dialer.addresses.lock().insert(insula_types::InstanceId::new(2), back.address);
    near.publish(&[2]);
    let begun = near.env.clock.now();
    assert_eq!(near.get("/").await, (200, "instance 3".to_owned()));
    let home = async {
        while near.get("/").await.1 != "instance 2" {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, home).await.expect("it comes back");
    assert!(near.env.clock.now() - begun > Duration::from_secs(2), "after {:?}", near.env.clock.now() - begun);
    let before = far.instance(3).heads().len();
    for _ in 0..50 {
        assert_eq!(near.get("/").await, (200, "instance 2".to_owned()));
    }
    assert_eq!(far.instance(3).heads().len(), before, "and it stays");
    back.kill();
    end(worlds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_other_region_fails_what_is_here_has_the_request() {
    let worlds = worlds(&[2], &[3]).await;
    let (near, far) = &worlds;
    // Away, with something good here.
    let address = near.dialer.addresses.lock().remove(&insula_types::InstanceId::new(2)).expect("there");
    assert_eq!(near.get("/").await.1, "instance 3");
    near.dialer.addresses.lock().insert(insula_types::InstanceId::new(2), address);
    far.publish(&[]);
    for _ in 0..20 {
        assert_eq!(near.get("/").await, (200, "instance 2".to_owned()));
    }
    end(worlds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_brought_on_and_nobody_is_said_in_words() {
    let worlds = worlds(&[], &[]).await;
    let (near, far) = &worlds;
    // Each believes that the other has it.
    let (status, text) = timeout(LIMIT, near.get("/")).await.expect("no circle");
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("in this region or another"), "{text}");
    assert_eq!(far.dialer.dials.load(std::sync::atomic::Ordering::Relaxed), 0, "what was brought is not brought on");
    // The link is cut.
    near.dialer.silence_far(GATEWAY);
    let (status, text) = near.get("/").await;
    assert_eq!(status, 503);
    assert!(text.contains("not reached in nrt"), "{text}");
    // Scaled to zero there: nobody has it.
    near.far.lock().clear();
    near.publish(&[]);
    assert!(near.get("/").await.1.contains("shop/web has no ready instance"));
    end(worlds);
}
