//! Hooks of deployments, on a real node: one that fails leaves what runs alone and says why; one that ends well is run once, also when
//! the leader is killed meanwhile.

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use common::Node;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The status of one GET of the app, 0 without an answer.
fn get(port: u16) -> u16 {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET / HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    ask().ok().and_then(|said| said.split(' ').nth(1)?.parse().ok()).unwrap_or_default()
}

/// Ids of the app's instances that are no hooks.
fn instances(node: &Node) -> Vec<String> {
    let listed = node.say(&["ps", "shop"], "");
    let mut ids: Vec<_> = listed.lines().skip(1).filter(|line| !line.contains("hook")).map(str::to_owned).collect();
    ids.iter_mut().for_each(|line| line.truncate(line.find(' ').unwrap_or(line.len())));
    ids.sort();
    ids
}

/// How often it is told that a hook of a release was begun.
fn begun(node: &Node, release: u32, hook: &str) -> usize {
    let told = format!("shop release {release} runs hook {hook} of web, as i-");
    node.say(&["events"], "").lines().filter(|line| line.contains(&told)).count()
}

#[test]
fn hooks_hold_a_release_back_run_once_and_outlive_the_leader() {
    let mut node = Node::start("hooks");
    let page = node.dir.join("page");
    let built = std::env::current_exe().expect("path of this program");
    let built = built.ancestors().nth(2).expect("the directory of built programs").join("insula-bench");
    std::fs::copy(built, &page).expect("copy the page's program");
    let definition = |version: u32, hooks: &str| {
        format!(
            "app = \"shop\"\n[services.web]\nruntime = \"process\"\ncommand = [{page:?}, \"page\"]\nscale = 2\n\
             env = {{ VERSION = \"{version}\" }}\n\
             ports = [{{ name = \"http\", port = 8080, protocol = \"http\" }}]\nroutes = [{{ host = \"shop.example\" }}]\n\
             health = {{ http = \"/healthz\", interval = \"200ms\" }}\n\
             update = {{ min_healthy = \"500ms\", bake = \"500ms\" }}\n{hooks}\n"
        )
    };
    node.until("the node answers", || node.insula(&["nodes"], "").status.success().then_some(()));
    node.say(&["deploy", "-", "--wait", "1m"], &definition(1, ""));
    node.until("the edge serves", || (get(node.ports[0]) == 200).then_some(()));
    let before = instances(&node);
    assert_eq!(before.len(), 2);

    // One that fails.
    let failing = definition(2, r#"hooks = { before = ["/bin/sh", "-c", "echo migrating to $VERSION; exit 3"] }"#);
    let plan = node.say(&["deploy", "-", "--plan"], &failing);
    assert!(plan.contains("runs hook before of web before its first instance: /bin/sh"), "{plan}");
    let refused = node.insula(&["deploy", "-", "--wait", "1m"], &failing);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("shop/web: hook before on ") && said.contains("ended with exit code 3"), "{said}");
    assert!(said.contains("release 1 is back, as release 3"), "{said}");
    let (_, id) = said.split_once("insula logs --instance ").expect("it says how to read its log");
    let id = id.split_whitespace().next().expect("an id").to_owned();
    assert_eq!(instances(&node), before, "the very same instances");
    assert_eq!(get(node.ports[0]), 200);
    node.until("its instance is gone", || (!node.say(&["ps", "shop"], "").contains(&id)).then_some(()));
    let log = node.say(&["logs", "--instance", &id], "");
    assert!(log.contains("migrating to 2"), "{log}");
    assert_eq!(begun(&node, 2, "before"), 1);

    // One that ends well, while the only leader is killed and comes back.
    let good = r#"hooks = { before = ["/bin/sleep", "5"], after = ["/bin/echo", "it is out"], timeout = "1m" }"#;
    node.say(&["deploy", "-", "--detach"], &definition(4, good));
    node.until("it runs", || node.say(&["ps", "shop"], "").contains("running, hook before").then_some(()));
    let status = node.say(&["status", "shop"], "");
    assert!(status.contains("release 4 is running hook before of web on "), "{status}");
    assert_eq!(instances(&node), before);
    kill(Pid::from_raw(node.child.id() as i32), Signal::SIGKILL).expect("it runs");
    node.child.wait().expect("it ended");
    node.child = Node::spawn(&node.program, &node.dir, node.ports);
    node.until("release 4 is out", || {
        let status = node.insula(&["status", "shop"], "");
        String::from_utf8_lossy(&status.stdout).contains("release 4 is out").then_some(())
    });
    assert_eq!((begun(&node, 4, "before"), begun(&node, 4, "after")), (1, 1));
    let now = instances(&node);
    assert!(now.len() == 2 && now.iter().all(|id| !before.contains(id)), "{now:?}");

    // A scale is no release.
    node.say(&["scale", "shop/web", "3"], "");
    node.until("three run", || (instances(&node).len() == 3).then_some(()));
    assert_eq!((begun(&node, 4, "before"), begun(&node, 5, "before")), (1, 0));
}
