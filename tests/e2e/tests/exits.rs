//! Every exit code that scripts rely on, by the real program against a real node.

mod common;

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use common::Node;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A definition of one process, with what it runs and what else is said of it.
fn definition(app: &str, command: &str, more: &str) -> String {
    format!(
        "app = \"{app}\"\n[services.web]\nruntime = \"process\"\ncommand = [\"/bin/sh\", \"-c\", \"{command}\"]\n{more}"
    )
}

/// Runs a command that must end so; gives what it wrote to standard error.
fn ends(node: &Node, code: i32, arguments: &[&str], input: &str) -> String {
    let Output { status, stdout, stderr } = node.insula(arguments, input);
    let (said, wrong) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(code), "insula {arguments:?}: {said}{wrong}");
    if code != 0 {
        // Behind what it said of its progress.
        assert!(wrong.lines().any(|line| line.starts_with("error: ")), "insula {arguments:?}: {wrong}");
    }
    wrong.into_owned()
}

const ROUTED: &str =
    "ports = [{ name = \"http\", port = 8080, protocol = \"http\" }]\nroutes = [{ host = \"shop.example\" }]\n";

#[test]
fn every_way_to_end_has_its_code() {
    let node = Node::start("exits");
    node.until("the node answers", || node.insula(&["nodes"], "").status.success().then_some(()));

    // 0: done.
    let good = definition("shop", "while :; do sleep 1; done", ROUTED);
    ends(&node, 0, &["config", "check", "-"], &good);
    ends(&node, 0, &["deploy", "-", "--wait", "1m"], &good);
    for arguments in [&["apps"][..], &["ps"], &["status", "shop"], &["top", "--once"], &["top", "shop"], &["regions"]] {
        ends(&node, 0, arguments, "");
    }

    let routes = node.say(&["routes", "--json"], "").replace([' ', '\n'], "");
    assert!(routes.contains("\"host\":\"shop.example\"") && routes.contains("\"ready\":1"), "{routes}");

    // 1: failed. A release that nothing brings to life, and a token that is nobody's.
    let failing =
        definition("fails", "exit 3", "update = { deadline = \"5s\", min_healthy = \"1s\", auto_rollback = false }\n");
    let why = ends(&node, 1, &["deploy", "-", "--wait", "1m"], &failing);
    assert!(why.contains("release 1 failed"), "{why}");
    let made = node.say(&["token", "create", "--api", "--role", "viewer", "--name", "gone"], "");
    let context = made.split_whitespace().find(|word| word.starts_with("insula-ctx-1.")).expect("a line to paste");
    ends(&node, 0, &["--context", context, "ps"], "");
    let tokens = node.say(&["token", "list"], "");
    let id =
        tokens.lines().find(|line| line.contains(" gone ")).and_then(|line| line.split(' ').next()).expect("its id");
    ends(&node, 0, &["token", "rm", id], "");
    let why = ends(&node, 1, &["--context", context, "ps"], "");
    assert!(why.contains("insula token create --api"), "{why}");

    // 2: wrong usage, or an invalid definition: all that is wrong with it at once.
    ends(&node, 2, &["scale", "shop", "3"], "");
    ends(&node, 2, &["node", "show", "n!"], "");
    let invalid = definition("Shop", "true", "scale = -1\nrestrat = 1\n");
    for command in [&["deploy", "-"][..], &["config", "check", "-"]] {
        let why = ends(&node, 2, command, &invalid);
        assert_eq!(why.lines().filter(|line| line.starts_with("  line ")).count(), 3, "{why}");
    }

    // 3: not found.
    for arguments in [
        &["status", "nothing"][..],
        &["top", "nothing"],
        &["config", "show", "nothing"],
        &["config", "show", "shop", "--release", "99"],
        &["rollback", "shop", "--to", "99"],
        &["scale", "shop/nothing", "2"],
        &["node", "show", "n9"],
        &["explain", "instance", "i-0000ffff"],
        &["volume", "rm", "shop/web/data.0", "--yes"],
    ] {
        ends(&node, 3, arguments, "");
    }

    // 4: something else owns it.
    let why = ends(&node, 4, &["deploy", "-"], &definition("other", "sleep 9", ROUTED));
    assert!(why.contains("shop.example/ belongs to app shop") && !why.contains("meanwhile"), "{why}");

    // 6: it took too long, and goes on by itself.
    let slow =
        definition("slow", "while :; do sleep 1; done", "health = { exec = [\"/bin/false\"], grace = \"1m\" }\n");
    let why = ends(&node, 6, &["deploy", "-", "--wait", "2s"], &slow);
    assert!(why.contains("goes on by itself"), "{why}");
    // Nor does a node that stands still say anything.
    let server = Pid::from_raw(node.child.id() as i32);
    kill(server, Signal::SIGSTOP).expect("it runs");
    let why = ends(&node, 6, &["status"], "");
    kill(server, Signal::SIGCONT).expect("it is there");
    assert!(why.contains("no answer"), "{why}");

    // 5: not reachable. Another node's socket is not there.
    let socket = node.dir.join("none.sock");
    ends(&node, 5, &["--socket", socket.to_str().expect("text"), "ps"], "");
}

/// What runs is written down, taken away, and deployed again from what was written: the same release.
#[test]
fn what_config_show_writes_deploys_to_the_same_release() {
    let node = Node::start("config");
    node.until("the node answers", || node.insula(&["nodes"], "").status.success().then_some(()));
    node.until("a secret is taken", || {
        node.insula(&["secrets", "set", "shop", "KEY"], "hidden").status.success().then_some(())
    });
    let more = format!(
        "env = {{ TEXT = \"a \\\"b\\\" \\\\ c\\n\\td\", LOG = \"info\" }}\nsecrets = [\"KEY\"]\nscale = 2\n{ROUTED}\
         stop = {{ grace = \"3s\" }}\nupdate = {{ strategy = \"blue-green\", bake = \"0s\" }}\n"
    );
    node.say(&["deploy", "-", "--wait", "1m"], &definition("shop", "while :; do sleep 1; done", &more));
    let written = node.say(&["config", "show", "shop"], "");
    assert!(written.contains("secrets = [\"KEY\"]") && !written.contains("hidden"), "{written}");
    let plan = node.say(&["deploy", "-", "--plan"], &written);
    assert!(plan.contains("nothing to change, release 1 is this already"), "{plan}\n{written}");

    node.say(&["deploy", "-", "--wait", "1m"], &written.replace("\"3s\"", "\"4s\""));
    let first = node.say(&["config", "show", "shop", "--release", "1"], "");
    let without =
        |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(without(&first), without(&written), "a release stays what it was");
    let plan = node.say(&["deploy", "-", "--plan"], &first);
    assert!(plan.contains("release 2 to 3") && plan.contains("4s -> 3s"), "{plan}");

    // A check needs no node.
    let file = node.dir.join("shop.toml");
    fs::write(&file, &written).expect("write");
    let mut command = Command::new(&node.program);
    let checked =
        command.args(["config", "check"]).arg(&file).env("INSULA_SOCKET", "/nonexistent").output().expect("run");
    assert!(checked.status.success(), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stdout).ends_with("is valid: app shop with web\n"), "{checked:?}");
}

/// A process that computes is seen to, and by how much.
#[test]
fn top_shows_what_an_instance_uses() {
    let node = Node::start("top");
    node.until("the node answers", || node.insula(&["nodes"], "").status.success().then_some(()));
    node.say(&["deploy", "-", "--wait", "1m"], &definition("idle", "while :; do sleep 1; done", ""));
    node.say(&["deploy", "-", "--wait", "1m"], &definition("busy", "while :; do :; done", ""));
    node.until("the busy one is first", || {
        let said = node.say(&["top", "--once"], "");
        let mut rows = said.lines().skip_while(|line| !line.starts_with("INSTANCE ")).skip(1);
        let (first, second) = (rows.next()?.to_owned(), rows.next()?.to_owned());
        let share = first.split_whitespace().find_map(|word| word.strip_suffix('%')?.parse::<u32>().ok())?;
        (first.contains("busy/web") && second.contains("idle/web") && share > 50).then_some(())
    });
    let json = node.say(&["top", "idle", "--json"], "").replace([' ', '\n'], "");
    assert!(json.contains("\"app\":\"idle\"") && !json.contains("\"app\":\"busy\""), "{json}");
    assert!(json.contains("\"running\":1") && json.contains("\"silent\":[]"), "{json}");
}

/// Processes that a text is in the arguments of.
fn running(mark: &str) -> usize {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let arguments = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    arguments.filter(|arguments| String::from_utf8_lossy(arguments).contains(mark)).count()
}

/// Ctrl-C at any moment of the start, also while the dataplane has just been started and does not listen yet.
#[test]
fn a_node_that_is_told_to_stop_while_it_starts_leaves_nothing() {
    let mut node = Node::start("early");
    let mark = node.dir.join("node").display().to_string();
    // The first start makes the node; the others begin with its files.
    for start in 0..8u32 {
        if start > 0 {
            node.child = Node::spawn(&node.program, &node.dir, node.ports);
        }
        let starts = |log: &str| log.matches("Ctrl-C stops it").count() as u32;
        node.until("it says how to stop it", || (starts(&node.log()) > start).then_some(()));
        // What is tried is the moment itself.
        std::thread::sleep(Duration::from_millis(u64::from(start) * 15));
        kill(Pid::from_raw(node.child.id() as i32), Signal::SIGINT).expect("it runs");
        let ended = node.child.wait().expect("it ends");
        assert_eq!(ended.code(), Some(0), "start {start}: {ended}; it said\n{}", node.log());
        assert_eq!(running(&mark), 0, "start {start}: something is left; it said\n{}", node.log());
    }
}

#[test]
fn a_terminal_that_is_gone_takes_all_of_it_along() {
    let mut node = Node::start("hangup");
    node.until("the node answers", || node.insula(&["nodes"], "").status.success().then_some(()));
    let nap = format!("sleep 1000000{}", std::process::id());
    ends(&node, 0, &["deploy", "-", "--wait", "1m"], &definition("shop", &nap, ""));
    let marks = [nap, node.dir.join("node").display().to_string()];
    assert!(marks.iter().all(|mark| running(mark) > 0), "an instance, and a dataplane");
    kill(Pid::from_raw(node.child.id() as i32), Signal::SIGHUP).expect("it runs");
    node.child.wait().expect("it ends");
    node.until("all of it is gone", || marks.iter().all(|mark| running(mark) == 0).then_some(()));
}
