use std::sync::LazyLock;

use http::{Request, StatusCode, request::Parts};
use insula_env::{Env, Rng};
use insula_types::{InstanceId, NodeId, ServiceRef};

use super::*;
use crate::{
    metrics::Cause,
    request_id::{Id, Ids},
};

struct World {
    env: Env,
    ids: Ids,
    requests: Requests,
    next: u64,
}

impl World {
    fn new() -> Self {
        let env = Env::real("test");
        Self { ids: Ids::new(&Rng::from_seed(7)), requests: Requests::new(1), env, next: 0 }
    }

    /// One request, and what becomes of it.
    fn ask(&mut self, parts: &Parts, becomes: impl FnOnce(&mut Asked<'_>)) -> Id {
        self.next += 1;
        let id = self.ids.of(&parts.headers);
        let client = "::ffff:192.0.2.7".parse().expect("an address");
        becomes(&mut Asked::new(&self.requests, &self.env.clock, parts, client, id, self.next));
        id
    }

    fn find(&self, id: &str) -> Remembered {
        self.requests.find(&id.parse().expect("an id"))
    }
}

fn parts(id: &str, target: &str) -> Parts {
    let request = Request::builder().uri(target).header("host", "shop.example").header("x-request-id", id);
    request.body(()).expect("a request").into_parts().0
}

fn good(asked: &mut Asked<'_>) {
    asked.answered(StatusCode::OK);
}

static SHOP: LazyLock<ServiceRef> =
    LazyLock::new(|| ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name")));

fn bad(asked: &mut Asked<'_>) {
    asked.service = Some(&SHOP);
    asked.refused(Cause::NoInstance, StatusCode::SERVICE_UNAVAILABLE, "shop/web has no ready instance".to_owned());
}

#[test]
fn what_became_of_a_request_is_told() {
    let mut world = World::new();
    let service = ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"));
    let told = parts("told-1234", "/cart?password=1");
    let parts = &told;
    // As the edge does it: the catalog outlives the request.
    world.next = 41;
    let id = world.ids.of(&parts.headers);
    let mut asked =
        Asked::new(&world.requests, &world.env.clock, parts, "192.0.2.7".parse().expect("one"), id, world.next);
    asked.service = Some(&service);
    asked.tries(InstanceId::new(1), NodeId::new(1));
    asked.failed(Why::NoConnection);
    asked.tries(InstanceId::new(2), NodeId::new(2));
    asked.answered(StatusCode::CREATED);
    drop(asked);
    let found = world.find("told-1234");
    let [one] = &found.found[..] else { panic!("{found:?}") };
    assert_eq!((found.more, found.since_ms, found.odd_since_ms), (0, 1, 1));
    let said = (one.method.as_str(), one.host.as_str(), one.path.as_str(), one.service.as_ref());
    assert_eq!(said, ("GET", "shop.example", "/cart", Some(&service)));
    assert_eq!(
        (one.client.to_string().as_str(), one.status, &one.cause, &one.text),
        ("192.0.2.7", Some(201), &None, &None)
    );
    let tries: Vec<_> = one.tries.iter().map(|one| (one.instance, one.node, one.failure.as_deref())).collect();
    assert_eq!(
        tries,
        [(InstanceId::new(1), NodeId::new(1), Some("took no connection")), (InstanceId::new(2), NodeId::new(2), None)]
    );
    assert!(world.env.clock.wall_ms() - one.came_ms < 60_000);
    assert!(world.find("somebody-else").found.is_empty());
}

#[test]
fn odd_ones_outlive_the_others_and_all_are_bounded() {
    let mut world = World::new();
    world.ask(&parts("plain-one", "/"), good);
    world.ask(&parts("odd-one-0", "/"), bad);
    let gone = parts("left-early", "/");
    world.ask(&gone, |_| {});
    assert_eq!((world.find("left-early").found[0].status, world.find("plain-one").since_ms), (None, 1));
    let other = parts("another-one", "/");
    for _ in 0..LAST_MAX {
        world.ask(&other, good);
    }
    let plain = world.find("plain-one");
    assert!(plain.found.is_empty() && plain.since_ms > 1, "{plain:?}");
    let odd = world.find("odd-one-0");
    assert_eq!((odd.found.len(), odd.odd_since_ms), (1, 1), "{odd:?}");
    assert_eq!(odd.found[0].cause.as_deref(), Some("no_instance"));
    assert_eq!(odd.found[0].text.as_deref(), Some("shop/web has no ready instance"));
    let other = world.find("another-one");
    assert_eq!((other.found.len(), other.more), (TOLD_MAX, (LAST_MAX - TOLD_MAX) as u64));
    assert!(other.found.is_sorted_by_key(|one| std::cmp::Reverse(one.came_ms)));
    for _ in 0..ODD_MAX {
        world.ask(&parts("odd-others", "/"), bad);
    }
    let odd = world.find("odd-one-0");
    assert!(odd.found.is_empty() && odd.odd_since_ms > 1, "{odd:?}");
    let others = world.find("odd-others");
    assert_eq!(others.found.len() as u64 + others.more, ODD_MAX as u64, "each is told of once");
}

#[test]
fn what_counts_as_odd() {
    let mut world = World::new();
    type Case = (&'static str, fn(&mut Asked<'_>), bool);
    let cases: [Case; 6] = [
        (
            "odd-nobodys",
            |asked| asked.refused(Cause::NoRoute, StatusCode::NOT_FOUND, "no app has it".to_owned()),
            false,
        ),
        ("odd-good-", good, false),
        ("odd-missing", |asked| asked.answered(StatusCode::NOT_FOUND), false),
        ("odd-refused", bad, true),
        ("odd-failing", |asked| asked.answered(StatusCode::INTERNAL_SERVER_ERROR), true),
        (
            "odd-twice",
            |asked| {
                asked.tries(InstanceId::new(1), NodeId::new(1));
                asked.failed(Why::Closed);
                asked.tries(InstanceId::new(2), NodeId::new(1));
                asked.answered(StatusCode::OK);
            },
            true,
        ),
    ];
    for (id, becomes, _) in cases {
        world.ask(&parts(id, "/"), becomes);
    }
    let slow = parts("odd-slow-", "/");
    world.ask(&slow, |asked| {
        asked.begun -= SLOW + Duration::from_millis(1);
        good(asked);
    });
    let begun = world.ask(&parts("odd-half-", "/"), |asked| {
        asked.service = Some(&SHOP);
        good(asked);
    });
    world.requests.broke_off(world.next, 1);
    assert_eq!(begun.as_str(), "odd-half-");
    let filler = parts("filler-filler", "/");
    for _ in 0..LAST_MAX {
        world.ask(&filler, good);
    }
    let all = cases.map(|(id, _, is_odd)| (id, is_odd)).into_iter().chain([("odd-slow-", true), ("odd-half-", true)]);
    for (id, is_odd) in all {
        assert_eq!(!world.find(id).found.is_empty(), is_odd, "{id}");
    }
    let half = world.find("odd-half-").found.remove(0);
    assert_eq!((half.status, half.cause.as_deref()), (Some(200), Some("body_broken_off")));
    // Of one that nobody knows any more, only this.
    assert_eq!(world.find("odd-good-").odd_since_ms, 1);
    world.requests.broke_off(1, 77);
    let forgotten = world.find("odd-good-");
    assert!(forgotten.found.is_empty() && forgotten.odd_since_ms == 77, "{forgotten:?}");
}

#[test]
fn what_clients_send_is_cut_and_made_visible() {
    let mut world = World::new();
    let long = format!("/{}?secret=1", "x".repeat(10_000));
    let (mut head, ()) = Request::builder()
        .uri(long.as_str())
        .method("PROPFINDANDMORETHANTHAT")
        .header(
            "host",
            http::HeaderValue::from_bytes(&[b"me:secret@\xe2\x80\xae", &[b'h'; 1000][..]].concat()).expect("a value"),
        )
        .header("x-request-id", "x".repeat(64))
        .body(())
        .expect("a request")
        .into_parts();
    head.headers.append("other", http::HeaderValue::from_static("x"));
    let id = world.ask(&head, |asked| {
        let text = format!("no app is published at {}\u{1b}[31m", "y".repeat(1000));
        asked.refused(Cause::NoRoute, StatusCode::NOT_FOUND, text);
    });
    let one = world.find(id.as_str()).found.remove(0);
    assert_eq!((one.method.as_str(), one.path.len(), &one.path[..3]), ("PROPFINDANDMORET", 128, "/xx"));
    assert_eq!((&one.host[..12], one.host.len()), ("%E2%80%AEhhh", 128 + 6));
    assert_eq!(one.text.as_ref().map(String::len), Some(192));
    let all = [&one.method, &one.host, &one.path].into_iter().chain(&one.text);
    assert!(all.flat_map(|text| text.bytes()).all(|byte| (b' '..=b'~').contains(&byte)), "{one:?}");
}
