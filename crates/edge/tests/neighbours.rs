//! An app, or a client, that takes all it can get: others are served as if it were not there.

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::{Client, LIMIT, World, status};
use insula_edge::{Cause, Config};
use insula_env::{TaskGroup, clock::timeout};
use insula_types::InstanceId;
use tokio::sync::mpsc;

/// `hog` has instance 1, `shop` instance 2.
async fn world(config: Config) -> World {
    let mut world = World::start(&[], config).await;
    world.add(1).await;
    world.add(2).await;
    world.publish_apps(&[("hog", &[1]), ("shop", &[2])]);
    world
}

/// Sends one request for `path` of `hog` on each of so many connections; what comes back, as it comes.
async fn flood(world: &World, path: &str, count: usize) -> (mpsc::Receiver<(String, Client)>, TaskGroup) {
    let (tell, told) = mpsc::channel(count);
    let tasks = TaskGroup::new("flood");
    for _ in 0..count {
        let mut client = world.client().await;
        client.send(&format!("GET {path} HTTP/1.1\r\nhost: hog.example\r\n\r\n")).await;
        let tell = tell.clone();
        tasks.spawn("client", async move {
            if let Ok((head, _)) = client.read().await {
                tell.send((head, client)).await.ok();
            }
        });
    }
    (told, tasks)
}

async fn next(answers: &mut mpsc::Receiver<(String, Client)>) -> (String, Client) {
    timeout(LIMIT, answers.recv()).await.expect("an answer in time").expect("an answer")
}

async fn is_served(world: &World) {
    for _ in 0..20 {
        assert_eq!(world.get("/").await, (200, "instance 2".to_owned()));
    }
}

#[tokio::test]
async fn requests_that_hang_leave_room_for_other_apps() {
    let world = world(Config { requests_max: 64, ..Config::default() }).await;
    let (mut answers, tasks) = flood(&world, "/hang", 100).await;
    for _ in 0..100 - 32 {
        let (head, _) = next(&mut answers).await;
        assert_eq!(status(&head), 503);
        assert!(head.contains("retry-after: 1"), "{head}");
    }
    is_served(&world).await;
    assert_eq!(world.edge.metrics().failed(Cause::Busy), 68);
    let refused: Vec<_> = world.edge.refused().into_iter().map(|(app, count)| (app.to_string(), count)).collect();
    assert_eq!(refused, [("hog".to_owned(), 68)]);
    tasks.crash();
    world.end();
}

#[tokio::test]
async fn connections_to_an_instance_that_takes_none_are_tried_in_turn() {
    let config = Config { dials_per_instance: 4, dials_waiting_max: 16, ..Config::default() };
    let world = world(Config { dial_wait: Duration::from_millis(300), ..config }).await;
    world.dialer.stuck.lock().insert(InstanceId::new(1));
    // At first those for whom there is no room, then those who have waited for long enough.
    let (mut answers, tasks) = flood(&world, "/", 100).await;
    for _ in 0..80 {
        assert_eq!(status(&next(&mut answers).await.0), 503);
    }
    is_served(&world).await;
    for _ in 0..16 {
        assert_eq!(status(&next(&mut answers).await.0), 503);
    }
    assert_eq!(world.dialer.stuck_dials.load(Ordering::Relaxed), 4, "the others never had their turn");
    is_served(&world).await;
    tasks.crash();
    world.end();
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_keep_others_out() {
    let world = world(Config { quiet_max: 8, ..Config::default() }).await;
    let mut quiet = Vec::new();
    for _ in 0..4 {
        quiet.push(world.client().await);
    }
    let mut further = world.client().await;
    assert_eq!(further.rest().await, b"", "closed before anything was said");
    for client in &mut quiet {
        assert_eq!(client.get("/").await.expect("an answer").0, 200);
    }
    // They have spoken: there is room again.
    is_served(&world).await;
    assert_eq!(world.edge.metrics().read()["insula_edge_connections_refused_total"], 1);
    world.end();
}
