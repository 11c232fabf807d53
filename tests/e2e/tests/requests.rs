//! What became of a request, asked by the id that the answer had: of a good one, one whose instance takes no connection, and one that
//! nobody knows.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use common::Node;

/// One GET, as a client of its own, with these headers: all that is answered.
fn ask(node: &Node, host: &str, path: &str, headers: &str) -> String {
    let answered = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", node.ports[0]))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    answered().unwrap_or_default()
}

/// The id that an answer has.
fn id_of(answer: &str) -> &str {
    let line = answer.lines().find_map(|line| line.split_once(": ").filter(|(name, _)| *name == "x-request-id"));
    line.unwrap_or_else(|| panic!("no id: {answer}")).1
}

#[test]
fn a_request_is_explained_by_the_id_that_its_answer_had() {
    let node = Node::start("requests");
    let page = node.dir.join("page");
    let built = std::env::current_exe().expect("path of this program");
    let built = built.ancestors().nth(2).expect("the directory of built programs").join("insula-bench");
    fs::copy(built, &page).expect("copy the page's program");
    let definition = |app: &str, command: &str| {
        format!(
            "app = \"{app}\"\n[services.web]\nruntime = \"process\"\ncommand = {command}\n\
             ports = [{{ name = \"http\", port = 8080, protocol = \"http\" }}]\nroutes = [{{ host = \"{app}.example\" }}]\n"
        )
    };
    node.until("the node answers", || node.insula(&["nodes"], "").status.success().then_some(()));
    node.say(&["deploy", "-", "--wait", "1m"], &definition("shop", &format!("[{page:?}, \"page\"]")));
    // It runs, and listens nowhere.
    let deaf = definition("deaf", "[\"/bin/sh\", \"-c\", \"while :; do sleep 1; done\"]");
    node.say(&["deploy", "-", "--wait", "1m"], &deaf);
    let explain = |id: &str| node.say(&["explain", "request", id], "");

    // A good one, under an id of the edge's.
    let answer = node.until("the edge serves", || {
        let answer = ask(&node, "shop.example", "/cart?password=1", "");
        answer.starts_with("HTTP/1.1 200 ").then_some(answer)
    });
    let said = explain(id_of(&answer));
    let instance = node.say(&["ps", "shop"], "");
    let instance = instance.split_whitespace().find(|word| word.starts_with("i-")).expect("an instance");
    for line in [
        "asked           GET shop.example/cart\n",
        "service         shop/web\n",
        "answer          200 after ",
        "from            127.0.0.1\n",
    ] {
        assert!(said.contains(line), "{line:?}: {said}");
    }
    assert!(said.contains(&format!("  {instance} on ")) && said.ends_with(": answered\n"), "{said}");
    assert!(!said.contains("password") && !said.contains("cause"), "{said}");

    // One that fails, under the client's id.
    let answer = node.until("the edge knows the other", || {
        let answer = ask(&node, "deaf.example", "/", "X-Request-Id: from-the-client.1\r\n");
        (!answer.starts_with("HTTP/1.1 404 ")).then_some(answer)
    });
    assert!(answer.starts_with("HTTP/1.1 502 ") && id_of(&answer) == "from-the-client.1", "{answer}");
    let said = explain("from-the-client.1");
    for line in ["no instance of deaf/web takes connections\n", "cause           connect\n", ": took no connection\n"] {
        assert!(said.contains(line), "{line:?}: {said}");
    }
    let json = node.say(&["explain", "request", "from-the-client.1", "--json"], "").replace(' ', "");
    assert!(json.contains("\"status\":502,\n\"cause\":\"connect\""), "{json}");

    // An id that is none is replaced, and comes to no terminal.
    let answer = ask(&node, "nobody.example", "/", "X-Request-Id: \u{202e}dlob-dna-der\r\n");
    assert!(id_of(&answer).starts_with("r-"), "{answer}");
    assert!(explain(id_of(&answer)).contains("404 after "), "{answer}");

    // One that nobody knows, and what is no id.
    for (id, code, why) in
        [("r-00000000000000000000", 3, "remember all requests since "), ("short", 2, "expected 8 to 64 letters")]
    {
        let output = node.insula(&["explain", "request", id], "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(why), "{said}");
    }
}
