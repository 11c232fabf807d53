//! Tags of images, on real nodes with a real registry: looked up once, and never again by what is done with a release later.

use std::path::Path;

use insula_bench::lab::{Lab, Programs};
use nix::unistd::geteuid;

/// An app by a tag, on a registry that is always the lab's.
const DEFINITION: &str = "app = \"shop\"
[services.web]
image = \"TAG\"
resources = { cpu = \"50m\", memory = \"32MiB\", pids = 32 }
ports = [{ name = \"http\", port = 8080, protocol = \"http\" }]
health = { http = \"/healthz\", interval = \"500ms\", timeout = \"400ms\", grace = \"10s\" }
update = { min_healthy = \"0s\", bake = \"0s\" }
";

/// Digest of a reference, `sha256:…`.
fn digest(reference: &str) -> String {
    reference.trim().split_once('@').expect("a reference with its digest").1.to_owned()
}

/// The same as far as people compare it, as it is shown to them.
fn short(reference: &str) -> String {
    format!("{}…", &digest(reference)[.."sha256:".len() + 12])
}

/// `PUT /v1/apps/other` on a node's own socket, under a key: all that is answered.
fn put(lab: &Lab, node: &str, key: &str, image: &str) -> String {
    let body = format!("{{\"app\":\"other\",\"services\":{{\"web\":{{\"image\":\"{image}\",\"scale\":0}}}}}}");
    let script = "S=/run/insula/api.sock; [ -S $S ] || S=/var/lib/insula/run/api.sock; \
                  curl -s -X PUT --unix-socket $S -H \"Idempotency-Key: $1\" --data \"$2\" http://localhost/v1/apps/other";
    let output = lab.command_at(node, Path::new("sh")).args(["-c", script, "sh", key, &body]).output().expect("run");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_tag_is_looked_up_once_and_a_rollback_needs_no_registry() {
    if !geteuid().is_root() {
        eprintln!("skipped: tags need root");
        return;
    }
    let own = std::env::current_exe().expect("path of this program");
    let built = own.ancestors().nth(2).expect("the directory of built programs");
    let lab = Lab::up(&Programs::in_dir(built).expect("programs"), "e2e-tags", 3, None).expect("a lab");
    let push = |page: &str| lab.run(&["image", "shop", "--tag", "now", "--page", page]).expect("pushed");
    let first = push("one");
    let tag = format!("{}:now", first.split_once('@').expect("a reference").0);
    let definition = DEFINITION.replace("TAG", &tag);
    let deploy = |option: &[&str]| lab.on("n1", &[&["deploy", "-"], option].concat(), &definition);
    let wait: &[&str] = &["--wait", "2m"];
    let failed = |option: &[&str]| format!("{:#}", deploy(option).expect_err("the registry is away"));

    let said = deploy(&["--plan"]).expect("a plan");
    assert!(said.contains(&format!("image {tag} is now {}\n", digest(&first))), "{said}");
    assert!(said.contains("new app, release 1"), "{said}");
    let said = deploy(wait).expect("deployed");
    assert!(said.contains("runs release 1"), "{said}");
    let status = lab.on("n2", &["status", "shop"], "").expect("a status");
    assert!(status.contains(&format!("image {tag}@{} on 2 nodes", short(&first))), "{status}");

    // What has not moved is no change, what has moved is one.
    assert!(deploy(wait).expect("the same").contains("nothing to change, release 1 is this already"));
    let second = push("two");
    assert_ne!(digest(&first), digest(&second));
    let said = deploy(wait).expect("it has moved");
    let moved = format!("~ web.image: {tag}@{} -> {tag}@{}\n", digest(&first), digest(&second));
    assert!(said.contains(&moved) && said.contains("runs release 2"), "{said}");

    // A plain request under a key, of which nobody else has kept the answer.
    let said = put(&lab, "n1", "k", &tag);
    assert!(said.contains(&digest(&second)) && said.contains("\"release\":1"), "{said}");
    push("three");

    // A tag that is not there, and one whose registry is not.
    let missing = definition.replace(":now", ":never");
    let said = format!("{:#}", lab.on("n1", &["deploy", "-"], &missing).expect_err("there is no such tag"));
    assert!(
        said.contains("line 3, column 9: services.web.image: what ") && said.contains("nothing was changed"),
        "{said}"
    );
    lab.run(&["registry", "off"]).expect("stopped");
    let said = failed(wait);
    assert!(said.contains("line 3, column 9: services.web.image: what "), "{said}");
    let keep = format!("write {tag}@{} to keep what release 2 runs", digest(&second));
    assert!(said.contains(&keep), "{said}");
    assert!(failed(&["--plan"]).contains(&keep));
    // What it says to do goes without the registry.
    let pinned = DEFINITION.replace("TAG", &format!("{tag}@{}", digest(&second)));
    let said = lab.on("n1", &["deploy", "-", "--wait", "2m"], &pinned).expect("it is what runs");
    assert!(said.contains("nothing to change, release 2 is this already"), "{said}");

    // Done once: sent again to another node, the request finds what it had found, and no registry is asked.
    let said = put(&lab, "n2", "k", &tag);
    assert!(said.contains(&digest(&second)) && said.contains("\"release\":1"), "{said}");
    let said = put(&lab, "n2", "k2", &tag);
    assert!(
        said.contains("\"unresolved-image\"") && said.contains(&format!("write {tag}@{}", digest(&second))),
        "{said}"
    );

    let said = lab.on("n2", &["rollback", "shop", "--wait", "2m"], "").expect("rolled back");
    assert!(said.contains("runs release 3"), "{said}");
    let status = lab.on("n1", &["status", "shop"], "").expect("a status");
    assert!(status.contains(&format!("image {tag}@{} on", short(&first))), "{status}");
    let releases = lab.on("n1", &["releases", "shop"], "").expect("releases");
    let named = |image: &str| format!("shop:now@{}", &digest(image)["sha256:".len()..][..12]);
    assert_eq!(releases.matches(&named(&first)).count(), 2, "{releases}");
    assert_eq!(releases.matches(&named(&second)).count(), 1, "{releases}");
}
