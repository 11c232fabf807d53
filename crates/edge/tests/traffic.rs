//! What the edge counts of requests, by release and by service.

mod common;

use std::time::Duration;

use common::{LIMIT, World};
use insula_edge::Config;
use insula_env::clock::{sleep, timeout};
use insula_types::{ReleaseNumber, Tally};

fn tally(world: &World, release: u64) -> Tally {
    let traffic = world.edge.traffic();
    traffic.releases.iter().find(|one| one.release == ReleaseNumber(release)).map(|one| one.tally).unwrap_or_default()
}

fn classes(world: &World) -> Vec<(&'static str, u64)> {
    world.edge.services().into_values().flat_map(|of| of.classes).filter(|(_, count)| *count > 0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_with_the_release_that_got_them() {
    let world = World::start(&[1, 2], Config::default()).await;
    for _ in 0..40 {
        assert_eq!(world.get("/").await.0, 200);
    }
    let [one, two] = [1, 2].map(|release| tally(&world, release));
    assert_eq!((one.requests + two.requests, one.failed + two.failed), (40, 0));
    assert!(one.requests > 0 && two.requests > 0, "{one:?} {two:?}");
    let later = world.edge.traffic().releases.into_iter().find(|one| !one.before.is_empty()).expect("one is met first");
    assert!(later.before.values().all(|before| before.requests < 40), "{later:?}");

    world.publish(&[1]);
    assert_eq!(world.get("/bad").await.0, 503);
    assert_eq!(tally(&world, 1), Tally { requests: one.requests + 1, failed: 1 });
    world.client().await.get("/half").await.expect_err("it breaks off");
    let half = Tally { requests: one.requests + 2, failed: 2 };
    timeout(LIMIT, async {
        while tally(&world, 1) != half {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("half an answer is none");
    assert_eq!(tally(&world, 2), two, "it had nothing to do with it");
    assert_eq!(classes(&world), [("2xx", 41), ("5xx", 1)]);
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_does_not_answer_fails_also_where_another_does_instead() {
    let world = World::start(&[1, 2], Config::default()).await;
    world.instance(1).kill();
    for _ in 0..20 {
        assert_eq!(world.get("/").await.0, 200);
    }
    let [one, two] = [1, 2].map(|release| tally(&world, release));
    assert_eq!(two, Tally { requests: 20, failed: 0 });
    assert!(one.failed > 0 && one.failed == one.requests, "{one:?}");
    assert_eq!(classes(&world), [("2xx", 20)], "clients got what they asked for");
    assert!(world.edge.services().into_values().all(|of| of.ejections > 0), "it was put out");

    // Nobody is left: the edge answers for the service itself.
    world.publish(&[]);
    assert_eq!(world.get("/").await.0, 503);
    assert_eq!(classes(&world), [("2xx", 20), ("5xx", 1)]);
    world.publish_apps(&[]);
    timeout(LIMIT, async {
        while !world.edge.traffic().releases.is_empty() || !world.edge.services().is_empty() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("forgotten with the service");
    world.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_to_a_node_is_not_the_fault_of_what_runs_there() {
    let mut world = World::start(&[2], Config::default()).await;
    let mut get = world.client().await;
    get.send("GET /hang HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
    let mut post = world.client().await;
    post.send("POST /hang HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 3\r\n\r\nabc").await;
    while world.instance(2).heads().len() < 2 {
        sleep(Duration::from_millis(2)).await;
    }
    world.add(3).await;
    world.publish(&[2, 3]);
    world.dialer.silence(2);
    let (head, _) = post.read().await.expect("the POST is answered at once");
    assert_eq!(common::status(&head), 502);
    while world.instance(3).heads().is_empty() {
        sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(tally(&world, 2), Tally::default(), "its node fell silent");

    // A node that cannot be reached, and is not known to be silent yet.
    world.dialer.addresses.lock().retain(|instance, _| instance.get() != 3);
    world.publish(&[3]);
    assert_eq!(world.get("/").await.0, 502);
    assert_eq!(tally(&world, 3).failed, 0, "nobody has heard of its instance");
    world.end();
}
