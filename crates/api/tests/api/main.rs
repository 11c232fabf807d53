//! The API from socket to socket: a handler that remembers, real TLS, real Unix sockets, our own client.

mod access;
mod described;
mod exec;
mod fake;
mod once;

use std::{collections::BTreeSet, io, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use fake::{DEFINITION, Fake, World, definition};
use futures::{Stream, StreamExt, stream};
use insula_api::{
    Client, ClientError, Code, LogOptions,
    handler::StateKey,
    wire::{EventCursor, JoinTokenBody, NodeDuty},
};
use insula_env::clock;
use insula_types::{AppDefinition, AppName, InstanceId, ReleaseNumber, Revision, SecretValue, definition::Format};

fn shop() -> AppName {
    AppName::new("shop").expect("a label")
}

fn code(result: Result<impl Sized, ClientError>) -> Code {
    match result.map(|_| ()) {
        Err(ClientError::Problem(problem)) => problem.code,
        other => panic!("expected a problem, found {other:?}"),
    }
}

#[tokio::test]
async fn an_app_is_deployed_over_tls_and_read_over_the_socket() {
    let world = World::start(Fake::default()).await;
    let remote = world.client("admin-token");
    let plan = remote.plan(&definition()).await.expect("plan").value;
    assert!(plan.is_plan && plan.previous.is_none() && plan.changes.len() == 1, "{plan:?}");
    let done = remote.deploy(&definition(), Some(ReleaseNumber(0))).await.expect("deploy").value;
    assert_eq!((done.release, done.is_plan), (ReleaseNumber(1), false));
    assert_eq!(code(remote.deploy(&definition(), Some(ReleaseNumber(0))).await), Code::ReleaseChanged);

    let local = world.local();
    let apps = local.apps().await.expect("apps");
    assert_eq!(apps.items.iter().map(|app| app.name.clone()).collect::<Vec<_>>(), [shop()]);
    assert_eq!(local.app(&shop()).await.expect("app").value.definition, definition().to_json());
    assert_eq!(code(local.app(&AppName::new("other").expect("a label")).await), Code::NoSuchApp);
    local.delete_app(&shop(), Some(ReleaseNumber(1))).await.expect("delete");
    assert!(local.apps().await.expect("apps").items.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_secret_goes_in_and_never_comes_out_of_a_refusal() {
    let world = World::start(Fake::default()).await;
    let (deployer, local) = (world.client("deployer-token"), world.local());
    let name = "DATABASE_URL".parse().expect("a name");
    let value = SecretValue::new("s3cret".to_owned()).expect("a value");
    assert_eq!(local.set_secret(&shop(), &name, &value).await.expect("set").value.version, 1, "by root");
    assert_eq!(deployer.set_secret(&shop(), &name, &value).await.expect("set").value.version, 2, "by a token");
    assert_eq!(code(world.client("viewer-token").set_secret(&shop(), &name, &value).await), Code::Forbidden);
    assert!(deployer.secrets(&shop()).await.expect("a list").items.is_empty());
    for body in [r#"{"value": 31337}"#, r#"{"value": "31337\u0000"}"#, r#"{"value": "31337", "more": 1}"#, r#"31337"#] {
        let said = world.raw("PUT /v1/apps/shop/secrets/A", body).await;
        assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("expected {"), "{said}");
        assert!(!said.contains("31337"), "{said}");
    }
    world.stop().await;
}

#[tokio::test]
async fn tokens_decide_what_a_caller_may_do() {
    let world = World::start(Fake::default()).await;
    assert_eq!(code(world.client("nobody").apps().await), Code::Unauthorized);
    let viewer = world.client("viewer-token");
    viewer.apps().await.expect("a viewer may read");
    viewer.plan(&definition()).await.expect("a viewer may see what would change");
    assert_eq!(code(viewer.deploy(&definition(), None).await), Code::Forbidden);
    assert_eq!(code(viewer.delete_app(&shop(), None).await), Code::Forbidden);
    let body = JoinTokenBody { region: None, continent: None, recovery_key: None, ttl_ms: 1000, uses: 1 };
    assert_eq!(code(world.client("deployer-token").create_join_token(&body).await), Code::Forbidden);
    world.client("admin-token").create_join_token(&body).await.expect("an admin may");
    assert_eq!(world.requests.read(), [("1xx", 0), ("2xx", 3), ("3xx", 0), ("4xx", 4), ("5xx", 0)]);
    world.stop().await;
}

#[tokio::test]
async fn another_root_is_refused_and_a_dead_address_passed_over() {
    let world = World::start(Fake::default()).await;
    let mut context = world.context("admin-token");
    context.ca_sha256 = "00".repeat(32);
    let stranger = Client::from_context(world.env.clone(), &context).expect("well-formed");
    assert!(matches!(stranger.apps().await, Err(ClientError::Unreachable { .. })));

    let mut context = world.context("admin-token");
    context.addresses.insert(0, fake::dead_address().await);
    // One root of several will do: so a context lives through the replacement of a root.
    context.ca_sha256 = format!("{},{}", "00".repeat(32), context.ca_sha256);
    let line = context.reveal();
    let client = Client::from_context(world.env.clone(), &line.parse().expect("context")).expect("well-formed");
    client.apps().await.expect("the second address answers");
    let dead = Client::from_socket(world.env.clone(), world.dir.path().join("none.sock"));
    assert!(matches!(dead.apps().await, Err(ClientError::Unreachable { .. })));
    world.stop().await;
}

#[tokio::test]
async fn a_change_is_repeated_under_one_key_until_there_is_a_leader() {
    let world = World::start(Fake { leaderless: 2.into(), ..Fake::default() }).await;
    world.local().deploy(&definition(), None).await.expect("deployed in the end");
    world.local().deploy(&definition(), None).await.expect("deployed again");
    let requests = world.fake.requests.lock().clone();
    assert_eq!(requests.len(), 4);
    assert!(requests[0].is_some() && requests[0] == requests[1] && requests[1] == requests[2], "{requests:?}");
    assert_ne!(requests[2], requests[3], "another call is another request");
    world.stop().await;
}

#[tokio::test]
async fn a_token_whose_answer_was_lost_is_made_again_under_another_key() {
    let world = World::start(Fake { made_before: 2.into(), ..Fake::default() }).await;
    let body = JoinTokenBody { region: None, continent: None, recovery_key: None, ttl_ms: 60_000, uses: 1 };
    world.local().create_join_token(&body).await.expect("made in the end");
    let requests = world.fake.requests.lock().clone();
    assert_eq!(requests.iter().collect::<BTreeSet<_>>().len(), 3, "{requests:?}");
    world.fake.made_before.store(3, Ordering::SeqCst);
    assert_eq!(code(world.local().create_join_token(&body).await), Code::AlreadyDone, "not for ever");
    world.stop().await;
}

#[tokio::test]
async fn events_come_once_each_over_connections_that_break() {
    let world = World::start(Fake::default()).await;
    world.fake.tell(7);
    let mut events = world.client("viewer-token").events(Some(EventCursor::after(Revision(1))), true);
    let mut seen = Vec::new();
    // The fake ends each connection after two events.
    while seen.len() < 12 {
        if seen.len() == 5 {
            world.fake.tell(7);
        }
        let next = tokio::time::timeout(Duration::from_secs(20), events.next()).await.expect("in time");
        seen.push(next.expect("no failure").expect("no end").id.to_string());
    }
    assert_eq!(seen, (2..14).map(|revision| format!("{revision}.0")).collect::<Vec<_>>());
    assert!(world.fake.streams() >= 6);

    let mut gone = world.local().events(Some(EventCursor::default()), true);
    assert_eq!(code(gone.next().await), Code::EventsGone);
    world.stop().await;
}

#[tokio::test]
async fn logs_stream_and_say_when_they_are_cut_off() {
    let world = World::start(Fake::default()).await;
    let client = world.client("viewer-token");
    let mut log = client
        .logs(InstanceId::new(1), LogOptions { tail: Some(2), since_ms: Some(7), follow: false })
        .await
        .expect("log");
    let mut text = Vec::new();
    while let Some(bytes) = log.next().await.expect("no failure") {
        text.extend_from_slice(&bytes);
    }
    assert_eq!(text, b"tail 2 since 7 follow false\nend\n");
    let failure = async {
        let mut log = client.logs(InstanceId::new(2), LogOptions { follow: true, ..LogOptions::default() }).await?;
        while log.next().await?.is_some() {}
        Ok::<_, ClientError>(())
    };
    let failure = failure.await;
    assert!(matches!(failure, Err(ClientError::CutOff { .. })), "{failure:?}");
    assert_eq!(code(client.logs(InstanceId::new(3), LogOptions::default()).await.map(|_| ())), Code::NoSuchInstance);
    world.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_stable_code() {
    let world = World::start(Fake::default()).await;
    let long = format!("{{\"app\": \"shop\", \"x\": \"{}\"}}", "x".repeat(300 << 10));
    let cases = [
        ("GET /v1/nothing", "", 404, "no-such-endpoint"),
        ("POST /v1/apps", "", 405, "method-not-allowed"),
        ("GET /v1/apps?wiat=1", "", 400, "invalid-request"),
        ("GET /v1/apps?wait=x", "", 400, "invalid-request"),
        ("GET /v1/apps?consistency=strong", "", 400, "invalid-request"),
        ("GET /v1/apps/My%20Shop", "", 400, "invalid-request"),
        ("GET /v1/apps/%ff", "", 400, "invalid-request"),
        ("GET /v1/instances/i-1", "", 400, "invalid-request"),
        ("GET /v1/events?since=yesterday", "", 400, "invalid-request"),
        ("PUT /v1/apps/shop", "{", 422, "invalid-definition"),
        ("PUT /v1/apps/other", DEFINITION, 400, "invalid-request"),
        ("PUT /v1/apps/shop", &long, 413, "body-too-large"),
        ("PUT /v1/apps/shop/services/web/scale", "{\"scale\": 5000}", 400, "invalid-request"),
        ("PUT /v1/apps/shop/services/web/scale", "{\"scale\": \"each\"}", 400, "invalid-request"),
        ("GET /v1/losses", "", 400, "invalid-request"),
        ("GET /v1/losses?node=n1&datacenter=fra1", "", 400, "invalid-request"),
        ("GET /v1/losses?datacenter=Fra_1", "", 400, "invalid-request"),
        ("GET /v1/losses?datacenter=fra1", "", 409, "conflict"),
        ("PUT /v1/apps/shop/services/web/scale", "{\"scael\": 5}", 400, "invalid-request"),
        ("PUT /v1/apps/shop/services/web/scale", &long, 413, "body-too-large"),
        ("PUT /v1/nodes/n1/duty", "{\"duty\": \"sleep\"}", 400, "invalid-request"),
        ("DELETE /v1/nodes/n1", "", 400, "invalid-request"),
        ("DELETE /v1/nodes/n1?forced=true", "", 400, "invalid-request"),
        ("POST /v1/tokens/join", "{\"ttl_ms\": 0, \"uses\": 1}", 400, "invalid-request"),
    ];
    for (request, body, status, code) in cases {
        let answer = world.raw(request, body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(answer.contains("application/problem+json"), "{request}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{request}: {answer}");
    }
    for header in [
        "If-Match: \"x\"",
        "If-Match: +3",
        "If-Match: \"3",
        "If-Match: -1",
        "If-Match: 99999999999999999999",
        "Idempotency-Key: ",
        "Idempotency-Key: a b",
        "Idempotency-Key: \u{e4}",
        &format!("Idempotency-Key: {}", "x".repeat(129)),
    ] {
        let answer = world.raw(&format!("PUT /v1/apps/shop HTTP/1.1\r\n{header}\r\nX-Rest:"), DEFINITION).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains(header.split(':').next().expect("a name")),
            "{answer}"
        );
    }
    for (method, allowed) in [("PATCH", "GET,HEAD,PUT,DELETE"), ("POST", "GET,HEAD,PUT,DELETE")] {
        let answer = world.raw(&format!("{method} /v1/apps/shop"), "").await;
        let allow = answer.lines().find_map(|line| line.strip_prefix("allow: ")).expect("a header");
        let sorted = |list: &str| list.split(',').map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(sorted(allow), sorted(allowed), "{method}");
    }
    let said = world.raw("PUT /v1/apps/shop", "{\"app\": \"shop\",\n \"services\": {\"web\": {\"imgae\": 1}}}").await;
    assert!(said.contains("did you mean \\\"image\\\"?") && said.contains("\"line\":2"), "{said}");
    // What the handler finds wrong has its place, too, and is not tried again by itself.
    let body = "{\"app\": \"shop\",\n \"services\": {\"web\": {\n\"image\": \"r.example/shop:1\"}}}";
    let said = world.raw("PUT /v1/apps/shop", body).await;
    assert!(said.contains("\"unresolved-image\"") && said.contains("\"line\":3,\"column\":10"), "{said}");
    let definition = AppDefinition::parse(body, Format::Json).expect("valid");
    let limit = Duration::from_millis(150);
    let refused = clock::timeout(limit, world.local().deploy(&definition, None)).await.expect("at once");
    assert_eq!(code(refused), Code::UnresolvedImage);
    assert!(world.fake.requests.lock().is_empty(), "nothing reached the handler");
    world.stop().await;
}

#[tokio::test]
async fn a_node_is_removed_by_admins_as_they_saw_it() {
    let world = World::start(Fake::default()).await;
    let asked = world.raw("DELETE /v1/nodes/n1?force=true HTTP/1.1\r\nIf-Match: \"41\"\r\nX-Rest:", "").await;
    assert!(asked.contains("n1") && asked.contains("at 41, forced: true"), "{asked}");
    for refused in ["viewer-token", "deployer-token"] {
        let duty = world.client(refused).set_node_duty("n1", NodeDuty::Drain).await;
        assert_eq!(code(duty.map(|_| ())), Code::Forbidden, "{refused}");
    }
    world.stop().await;
}

#[tokio::test]
async fn reads_pass_on_how_they_shall_be_done() {
    let world = World::start(Fake::default()).await;
    world.raw("GET /v1/nodes?wait=41&consistency=linearizable", "").await;
    world.raw("GET /v1/nodes", "").await;
    let reads = world.fake.reads.lock().clone();
    assert_eq!((reads[0].wait, reads[0].is_linearizable), (Some(Revision(41)), true));
    assert_eq!(reads[1], insula_api::ReadOptions::default());
    world.stop().await;
}

#[tokio::test]
async fn a_backup_is_for_admins_and_is_whole_or_an_error() {
    let world = World::start(Fake::default()).await;
    assert_eq!(code(world.client("deployer-token").backup(StateKey::Region).await.map(drop)), Code::Forbidden);
    for client in [world.client("admin-token"), world.local()] {
        let mut reader = client.backup(StateKey::Region).await.expect("an admin may");
        let mut bytes = Vec::new();
        while let Some(piece) = reader.next().await.expect("whole") {
            bytes.extend(piece);
        }
        assert_eq!(bytes, b"a state, end");
        let mut reader = client.backup(StateKey::Global).await.expect("it begins");
        let cut_off = loop {
            match reader.next().await {
                Ok(Some(_)) => {}
                other => break other.expect_err("not taken for whole"),
            }
        };
        assert!(matches!(cut_off, ClientError::CutOff { .. }), "{cut_off}");
    }
    let said = world.raw("GET /v1/state/nothing/backup", "").await;
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("expected region or global"), "{said}");
    world.stop().await;
}

/// So many pieces of 64 KiB.
fn pieces(count: usize) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
    stream::iter((0..count).map(|_| Ok(Bytes::from(vec![7; 64 << 10]))))
}

#[tokio::test]
async fn an_image_is_sent_in_pieces_by_deployers() {
    let world = World::start(Fake::default()).await;
    for client in [world.client("deployer-token"), world.local()] {
        let name = "a b&c=d/%e:1";
        let sent = client.import_image(Some(name), pieces(300)).await.expect("sent");
        assert_eq!((sent.image.as_str(), sent.size_bytes), (name, 300 * (64 << 10)));
        assert_eq!(client.import_image(None, pieces(0)).await.expect("sent").image, "nobody");
        // The answer arrives though most of it is on its way yet.
        let refused = client.import_image(Some("refused"), pieces(300)).await;
        assert_eq!(code(refused), Code::InvalidImage);
        // What cannot be read here is no image there.
        let broken = pieces(3).chain(stream::iter([Err(io::Error::other("unreadable"))]));
        let failure = client.import_image(None, broken).await;
        assert!(matches!(failure, Err(ClientError::CutOff { .. })), "{failure:?}");
    }
    assert_eq!(code(world.client("viewer-token").import_image(None, pieces(300)).await), Code::Forbidden);
    assert_eq!(code(world.client("nobody").import_image(None, pieces(300)).await), Code::Unauthorized);
    let mut context = world.context("deployer-token");
    context.addresses.insert(0, fake::dead_address().await);
    let client = Client::from_context(world.env.clone(), &context).expect("well-formed");
    client.import_image(None, pieces(3)).await.expect("the second address answers");
    let said = world.raw("POST /v1/images?nmae=x", "").await;
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("unknown field"), "{said}");
    world.stop().await;
}
