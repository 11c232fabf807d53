//! A canary that fails a tenth of its requests, on a real node: it is given back by what the edge has counted, and says so.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use common::Node;

/// The metrics that are published.
const LIST: &str = include_str!("../../../docs/reference/metrics.md");

/// One GET, as a client of its own: all that is answered.
fn ask(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// One GET of the app; the status, 0 without an answer.
fn get(port: u16) -> u16 {
    let said = ask(&format!("127.0.0.1:{port}"), "/").ok();
    said.and_then(|said| said.split(' ').nth(1)?.parse().ok()).unwrap_or_default()
}

/// What the node tells Prometheus, at the address that it has said.
fn metrics(node: &Node) -> String {
    let log = node.log();
    let at =
        log.split("http://").find_map(|rest| rest.split_once("/metrics")).expect("it says where its metrics are").0;
    ask(at, "/metrics").expect("it answers")
}

#[test]
fn a_canary_that_fails_a_tenth_is_given_back_by_what_the_edge_has_counted() {
    let node = Node::start("canary");
    let page = node.dir.join("page");
    let built = std::env::current_exe().expect("path of this program");
    let built = built.ancestors().nth(2).expect("the directory of built programs").join("insula-bench");
    fs::copy(built, &page).expect("copy the page's program");
    let definition = |failing: &str| {
        format!(
            "app = \"shop\"\n[services.web]\nruntime = \"process\"\ncommand = [{page:?}, \"page\"]\nenv = {{ {failing} }}\nscale = 2\n\
             ports = [{{ name = \"http\", port = 8080, protocol = \"http\" }}]\nroutes = [{{ host = \"shop.example\" }}]\n\
             health = {{ http = \"/healthz\", interval = \"200ms\" }}\n\
             update = {{ strategy = \"canary\", instances = 1, weight = \"50%\", max_errors = \"1%\", min_healthy = \"500ms\", bake = \"60s\" }}\n"
        )
    };
    node.until("the node answers", || node.insula(&["nodes"], "").status.success().then_some(()));
    node.say(&["deploy", "-", "--wait", "1m"], &definition(""));
    node.until("the edge serves", || (get(node.ports[0]) == 200).then_some(()));
    // What the edge counted before is not what the old release got meanwhile.
    assert!((0..100).all(|_| get(node.ports[0]) == 200));

    node.say(&["deploy", "-", "--detach"], &definition("FAIL_EVERY = \"10\""));
    let mut failed = 0;
    let why = node.until("the canary is given back", || {
        for _ in 0..10 {
            failed += u32::from(get(node.ports[0]) == 500);
        }
        let said = node.say(&["releases", "shop", "--json"], "");
        said.contains("the first instances of release 2 failed").then_some(said)
    });
    assert!(failed > 1, "clients have seen some of it");
    assert!(why.contains("(allowed: 1.0 %; release 1 failed 0.0 % meanwhile)"), "{why}");
    node.until("release 3 is release 1 again", || {
        node.say(&["releases", "shop", "--json"], "").replace(' ', "").contains("\"again_of\":1").then_some(())
    });
    let metrics = metrics(&node);
    for sample in [
        "insula_dataplane_up 1\n",
        "insula_raft_is_leader{group=\"region\"} 1\n",
        "insula_nodes{health=\"up\"} 1\n",
        "insula_edge_service_requests_total{app=\"shop\",service=\"web\",class=\"5xx\"} ",
        "insula_instances{app=\"shop\",service=\"web\",phase=\"running\"} ",
        "insula_api_requests_total{class=\"2xx\"} ",
    ] {
        assert!(metrics.contains(sample), "{sample}: {metrics}");
    }
    for name in
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).filter_map(|line| line.split(' ').next())
    {
        assert!(LIST.contains(&format!("| `{name}` |")), "{name} is not in docs/reference/metrics.md");
    }
    node.until("nothing fails any more", || (0..50).all(|_| get(node.ports[0]) == 200).then_some(()));
}
