//! Who may call what: every endpoint, by every kind of caller, against one table.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, process::Command};

use insula_api::{Role, router};
use insula_identity::ApiToken;

use crate::fake::{Fake, World};

const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "PATCH"];

/// Every endpoint, and the least role that it needs.
const TABLE: &[(&str, &str, &str)] = &[
    ("GET", "/v1/apps", "viewer"),
    ("GET", "/v1/apps/{app}", "viewer"),
    ("PUT", "/v1/apps/{app}", "deployer"),
    ("DELETE", "/v1/apps/{app}", "deployer"),
    ("GET", "/v1/apps/{app}/status", "viewer"),
    ("GET", "/v1/apps/{app}/releases", "viewer"),
    ("GET", "/v1/apps/{app}/releases/{release}", "viewer"),
    ("POST", "/v1/apps/{app}/rollback", "deployer"),
    ("POST", "/v1/apps/{app}/restart", "deployer"),
    ("POST", "/v1/apps/{app}/running", "deployer"),
    ("GET", "/v1/apps/{app}/deployments", "viewer"),
    ("POST", "/v1/apps/{app}/deployments", "deployer"),
    ("GET", "/v1/apps/{app}/instances", "viewer"),
    ("PUT", "/v1/apps/{app}/services/{service}/scale", "deployer"),
    ("GET", "/v1/apps/{app}/secrets", "viewer"),
    ("PUT", "/v1/apps/{app}/secrets/{secret}", "deployer"),
    ("DELETE", "/v1/apps/{app}/secrets/{secret}", "deployer"),
    ("POST", "/v1/apps/{app}/services/{service}/run", "deployer"),
    ("GET", "/v1/instances", "viewer"),
    ("GET", "/v1/routes", "viewer"),
    ("GET", "/v1/waiting", "viewer"),
    ("GET", "/v1/instances/{instance}", "viewer"),
    ("GET", "/v1/instances/{instance}/logs", "viewer"),
    ("POST", "/v1/instances/{instance}/exec", "deployer"),
    ("GET", "/v1/images", "viewer"),
    ("POST", "/v1/images", "deployer"),
    ("DELETE", "/v1/images", "admin"),
    ("GET", "/v1/volumes", "viewer"),
    ("POST", "/v1/volumes", "deployer"),
    ("PUT", "/v1/apps/{app}/services/{service}/volumes/{volume}", "deployer"),
    ("DELETE", "/v1/apps/{app}/services/{service}/volumes/{volume}", "admin"),
    ("GET", "/v1/snapshots", "viewer"),
    ("POST", "/v1/apps/{app}/services/{service}/volumes/{volume}/snapshots", "deployer"),
    ("DELETE", "/v1/apps/{app}/services/{service}/volumes/{volume}/snapshots/{snapshot}", "admin"),
    ("POST", "/v1/apps/{app}/services/{service}/volumes/{volume}/snapshots/{snapshot}/restore", "admin"),
    ("GET", "/v1/nodes", "viewer"),
    ("GET", "/v1/nodes/{node}", "viewer"),
    ("DELETE", "/v1/nodes/{node}", "admin"),
    ("PUT", "/v1/nodes/{node}/duty", "admin"),
    ("GET", "/v1/apps/{app}/services/{service}/placement", "viewer"),
    ("GET", "/v1/losses", "viewer"),
    ("GET", "/v1/usage", "viewer"),
    ("GET", "/v1/requests/{request}", "viewer"),
    ("GET", "/v1/regions", "viewer"),
    ("GET", "/v1/latency", "viewer"),
    ("GET", "/v1/events", "viewer"),
    ("POST", "/v1/tokens/join", "admin"),
    ("POST", "/v1/tokens/api", "admin"),
    ("GET", "/v1/tokens", "admin"),
    ("DELETE", "/v1/tokens/{token}", "admin"),
    ("GET", "/v1/ca", "viewer"),
    ("POST", "/v1/ca/renew-region", "admin"),
    ("POST", "/v1/ca/add-root", "admin"),
    ("POST", "/v1/ca/activate-root", "admin"),
    ("POST", "/v1/ca/retire-root", "admin"),
    ("GET", "/v1/state/{state}/backup", "admin"),
    ("POST", "/v1/node/reload", "admin"),
    ("POST", "/v1/node/find", "admin"),
    ("GET", "/v1/status", "viewer"),
    ("GET", "/v1/doctor", "viewer"),
    ("GET", "/v1/openapi.json", "viewer"),
];

/// The router's table, which the description of the API shows, says the same as this one.
#[test]
fn the_router_and_this_table_agree() {
    let role = |role: &str| match role {
        "viewer" => Role::Viewer,
        "deployer" => Role::Deployer,
        "admin" => Role::Admin,
        other => panic!("no role: {other}"),
    };
    let listed: BTreeSet<_> = TABLE.iter().map(|(method, path, least)| (*method, *path, role(least))).collect();
    let routed: BTreeSet<_> = router::endpoints().into_iter().collect();
    assert_eq!(routed.len(), router::endpoints().len(), "an endpoint is there twice");
    assert_eq!(routed, listed);
}

/// Callers in the order of what they may do.
const ROLES: [&str; 3] = ["viewer", "deployer", "admin"];

fn filled(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect::<Vec<_>>().join("/")
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

#[tokio::test]
async fn each_endpoint_is_for_whom_the_table_says() {
    let world = World::start(Fake::default()).await;
    let token = |role: &str| world.token(&format!("{role}-token")).to_owned();
    // The secret of one token under the id of another.
    let (one, other) = (token("viewer"), token("admin"));
    let mixed =
        format!("{}.{}", other.rsplit_once('.').expect("three parts").0, one.rsplit_once('.').expect("three parts").1);
    let unknown = ApiToken::new(&world.env.rng).reveal();
    let listed: BTreeSet<_> = TABLE.iter().map(|(method, path, _)| (*method, *path)).collect();
    let mut found = BTreeSet::new();
    let paths: BTreeSet<_> = router::endpoints().into_iter().map(|(_, path, _)| path).collect();
    for path in paths {
        for method in METHODS {
            let request = format!("{method} {}", filled(path));
            let answer = world.raw_tls(&request, Some(&token("admin")), "").await;
            assert!(!answer.contains("\"code\":\"no-such-endpoint\""), "{request}: not reached");
            let by_admin = status(&answer);
            if by_admin == 405 {
                continue;
            }
            assert!(by_admin != 401 && by_admin != 403, "{request}: an admin may do everything");
            found.insert((method, path));
            for stranger in [None, Some("rubbish"), Some(unknown.as_str()), Some(mixed.as_str())] {
                assert_eq!(status(&world.raw_tls(&request, stranger, "").await), 401, "{request} by {stranger:?}");
            }
            let entry = TABLE.iter().find(|(m, p, _)| (*m, *p) == (method, path));
            let (_, _, least) = entry.unwrap_or_else(|| panic!("{method} {path} is not in the table of this test"));
            let least = ROLES.iter().position(|role| role == least).expect("a role");
            for (rank, role) in ROLES.iter().enumerate() {
                let is_refused = status(&world.raw_tls(&request, Some(&token(role)), "").await) == 403;
                assert_eq!(is_refused, rank < least, "{request} by a {role}");
            }
        }
    }
    assert_eq!(found, listed, "the table names what is not there");
    world.stop().await;
}

/// A connection that is closed on what is on its way takes the answer with it.
#[tokio::test]
async fn who_sends_too_much_hears_so() {
    let world = World::start(Fake::default()).await;
    let much = "x".repeat(8 << 20);
    for request in ["PUT /v1/apps/shop/secrets/TOKEN", "PUT /v1/apps/shop", "POST /v1/images"] {
        assert_eq!(status(&world.raw_tls(request, Some("rubbish"), &much).await), 401, "{request}");
    }
    for request in ["PUT /v1/apps/shop/secrets/TOKEN", "PUT /v1/apps/shop", "POST /v1/volumes"] {
        for header in ["", " HTTP/1.1\r\nIdempotency-Key: k\r\nX-Rest:"] {
            let request = format!("{request}{header}");
            let answer = world.raw_tls(&request, Some(world.token("deployer-token")), &much).await;
            assert_eq!(status(&answer), 413, "{request}");
        }
    }
    // What is refused before anybody looks at a body.
    for (request, refused) in [
        ("PUT /v1/nothing", 404),
        ("PATCH /v1/apps/shop/secrets/TOKEN", 405),
        ("PUT /v1/apps/shop/secrets/TOKEN HTTP/1.1\r\nIdempotency-Key: a b\r\nX-Rest:", 400),
    ] {
        let answer = world.raw_tls(request, Some(world.token("deployer-token")), &much).await;
        assert_eq!(status(&answer), refused, "{request}");
    }
    world.stop().await;
}

/// Run by [`another_user_does_not_get_through_the_local_socket`] as another user.
#[test]
fn says_hello_to_the_socket_that_it_is_told() {
    use std::io::{Read, Write};
    let Ok(path) = std::env::var("INSULA_TEST_SOCKET") else { return };
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) => println!("answer: {:?}", error.kind()),
        Ok(mut stream) => {
            stream.write_all(b"GET /v1/apps HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok();
            println!("answer: {}", answer.lines().next().unwrap_or("none"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_does_not_get_through_the_local_socket() {
    let world = World::start(Fake::default()).await;
    let socket = world.dir.path().join("api.sock");
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    assert!(world.raw("GET /v1/apps", "").await.starts_with("HTTP/1.1 200"));
    if !rustix::process::geteuid().is_root() {
        // Nobody else can be played without root; CI runs this as root.
        world.stop().await;
        return;
    }
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(world.dir.path(), open).expect("let others into the directory");
    // The test program itself may lie where others cannot go.
    let program = world.dir.path().join("caller");
    std::fs::copy(std::env::current_exe().expect("this program"), &program).expect("copy");
    let said = |uid: u32| {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&program);
        command.args(["--exact", "access::says_hello_to_the_socket_that_it_is_told", "--nocapture"]);
        command.env("INSULA_TEST_SOCKET", &socket).current_dir(world.dir.path()).uid(uid).gid(uid);
        let output = command.output().expect("run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(said(0).contains("answer: HTTP/1.1 200 OK"));
    assert!(said(65_534).contains("answer: PermissionDenied"), "by the file's mode");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("a careless administrator");
    let answer = said(65_534);
    assert!(answer.contains("answer: none"), "by who it is: {answer}");
    world.stop().await;
}
