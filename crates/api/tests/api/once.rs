//! A key is its caller's, and good for one request.

use insula_types::RequestId;

use crate::fake::{DEFINITION, Fake, World};

const OTHER: &str =
    r#"{"app": "shop", "services": {"web": {"runtime": "process", "command": ["./other"], "scale": 2}}}"#;

/// What is sent under a key, by a token of this name.
async fn sent(world: &World, caller: &str, request: &str, header: &str, body: &str) -> (u16, String) {
    let request = format!("{request} HTTP/1.1\r\n{header}X-Rest:");
    let answer = world.raw_tls(&request, Some(world.token(caller)), body).await;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").expect("an answer").1.to_owned())
}

fn seen(world: &World) -> Vec<Option<RequestId>> {
    world.fake.requests.lock().clone()
}

#[tokio::test]
async fn the_same_request_gets_the_same_answer_and_another_one_none() {
    let world = World::start(Fake::default()).await;
    let (app, key) = ("PUT /v1/apps/shop", "Idempotency-Key: k\r\n");
    let first = sent(&world, "deployer-token", app, key, DEFINITION).await;
    assert_eq!(first.0, 200, "{first:?}");
    assert_eq!(sent(&world, "deployer-token", app, key, DEFINITION).await, first);
    assert_eq!(seen(&world).len(), 1, "it was done once");
    let others = [
        (app, "", OTHER),
        (app, "If-Match: \"1\"\r\n", DEFINITION),
        ("PUT /v1/apps/shop?plan=false", "", DEFINITION),
        ("DELETE /v1/apps/shop", "", ""),
        ("DELETE /v1/apps/blog", "", ""),
        ("PUT /v1/apps/shop/services/web/scale", "", "{\"scale\": 3}"),
        ("POST /v1/tokens/join", "", "{\"ttl_ms\": 1, \"uses\": 1}"),
    ];
    for (request, header, body) in others {
        let caller = if request.starts_with("POST") { "admin-token" } else { "deployer-token" };
        if caller == "admin-token" {
            sent(&world, caller, app, key, DEFINITION).await;
        }
        let (status, said) = sent(&world, caller, request, &format!("{key}{header}"), body).await;
        assert!(status == 422 && said.contains("\"idempotency-key-reused\""), "{request}: {status} {said}");
    }
    assert_eq!(seen(&world).len(), 2, "no other one was");
    // Without the right to it a caller is told that, not what its key was for.
    assert_eq!(sent(&world, "viewer-token", app, key, DEFINITION).await.0, 403);
    assert_eq!(sent(&world, "deployer-token", app, "Idempotency-Key: k2\r\n", OTHER).await.0, 200);
    world.stop().await;
}

#[tokio::test]
async fn requests_are_named_by_caller_and_key_then_by_what_they_ask() {
    let world = World::start(Fake::default()).await;
    let (app, key) = ("PUT /v1/apps/shop", "Idempotency-Key: k\r\n");
    sent(&world, "deployer-token", app, key, DEFINITION).await;
    sent(&world, "admin-token", app, key, DEFINITION).await;
    world.raw(&format!("{app} HTTP/1.1\r\n{key}X-Rest:"), DEFINITION).await;
    sent(&world, "deployer-token", app, "Idempotency-Key: k2\r\n", DEFINITION).await;
    let names: Vec<_> = seen(&world).into_iter().map(|name| name.expect("a key was given")).collect();
    assert_eq!(names.len(), 4, "nobody got the answer of another: {names:?}");
    for (index, name) in names.iter().enumerate() {
        assert!(names[..index].iter().all(|other| other.0 != name.0), "callers and keys do not meet: {names:?}");
        assert_eq!(name.1, names[0].1, "all asked the same");
    }
    world.stop().await;
}

/// The state may know better than this listener, which has just begun.
#[tokio::test]
async fn what_was_refused_is_asked_again_under_the_same_name() {
    let world = World::start(Fake { leaderless: 1.into(), ..Fake::default() }).await;
    let (app, key) = ("PUT /v1/apps/shop", "Idempotency-Key: k\r\n");
    assert_eq!(sent(&world, "deployer-token", app, key, DEFINITION).await.0, 503);
    assert_eq!(sent(&world, "deployer-token", app, key, DEFINITION).await.0, 200);
    let names = seen(&world);
    assert!(names.len() == 2 && names[0] == names[1], "{names:?}");
    world.stop().await;
}

#[tokio::test]
async fn of_secrets_nothing_is_remembered() {
    let world = World::start(Fake::default()).await;
    let (secret, key) = ("PUT /v1/apps/shop/secrets/TOKEN", "Idempotency-Key: k\r\n");
    // Root is the same caller everywhere; a hash of the value would make two names of this.
    let elsewhere = World::start(Fake::default()).await;
    for (world, value) in [(&world, "{\"value\": \"one\"}"), (&elsewhere, "{\"value\": \"two\"}")] {
        let answer = world.raw(&format!("{secret} HTTP/1.1\r\n{key}X-Rest:"), value).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let name = |world: &World| world.fake.secrets.lock().first().copied().flatten().expect("a key was given");
    assert_eq!(name(&world), name(&elsewhere));
    elsewhere.stop().await;
    assert_eq!(sent(&world, "deployer-token", secret, key, "{\"value\": \"one\"}").await.0, 200);
    let (status, _) =
        sent(&world, "deployer-token", "PUT /v1/apps/shop/secrets/OTHER", key, "{\"value\": \"one\"}").await;
    assert_eq!(status, 422, "another path");

    let (join, body) = ("POST /v1/tokens/join", "{\"ttl_ms\": 1, \"uses\": 1}");
    for _ in 0..2 {
        assert_eq!(sent(&world, "admin-token", join, key, body).await.0, 200);
    }
    assert_eq!(seen(&world).len(), 2, "a token is not kept: the handler says what became of it");
    world.stop().await;
}
