//! A secret on its way through a real node: set, deployed, read by its instance, and found nowhere else.

mod common;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::Node;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What is set, and looked for.
const FIRST: &str = "c0rrect-h0rse-battery";
const SECOND: &str = "staple-0f-an0ther-day";
/// The instance has written down that it knows this.
fn is_known(node: &Node, value: &str) -> Option<()> {
    (fs::read_to_string(node.dir.join("told")).ok()?.trim() == value).then_some(())
}

/// SHA-256 in hexadecimal digits, as the instance writes it.
fn hash(value: &str) -> String {
    let mut command = Command::new("sha256sum");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run sha256sum");
    child.stdin.take().expect("a pipe").write_all(value.as_bytes()).expect("write");
    let said = child.wait_with_output().expect("its output").stdout;
    String::from_utf8_lossy(&said).chars().take(64).collect()
}

/// The files below a directory that contain a text.
fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(directory).expect("list").flatten().map(|entry| entry.path()) {
        let kind = path.symlink_metadata().map(|meta| meta.file_type());
        if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
            found.extend(files_with(&path, text));
        } else if kind.is_ok_and(|kind| kind.is_file()) {
            let bytes = fs::read(&path).unwrap_or_default();
            found.extend(bytes.windows(text.len()).any(|part| part == text.as_bytes()).then_some(path));
        }
    }
    found
}

#[test]
fn a_secret_is_known_to_its_instance_alone() {
    let mut node = Node::start("secrets");
    node.until("the node answers", || node.insula(&["nodes"], "").status.success().then_some(()));
    let told = node.dir.join("told");
    // The instance proves that it knows the value without writing it down.
    let script = "printf %s \"$KEY\" | sha256sum | cut -c 1-64 > FILE; while :; do sleep 1; done";
    let script = script.replace("FILE", told.to_str().expect("text"));
    let definition = format!(
        "app = \"shop\"\n[services.web]\nruntime = \"process\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\nsecrets = [\"KEY\"]\n"
    );

    let refused = node.insula(&["deploy", "-"], &definition);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("insula secrets set shop KEY"), "{why}");
    // The node tells to which key secrets are sealed a moment after it was founded.
    let set = node.until("the first value is taken", || {
        let set = node.insula(&["secrets", "set", "shop", "KEY"], &format!("{FIRST}\n"));
        set.status.success().then(|| String::from_utf8_lossy(&set.stdout).into_owned())
    });
    assert!(set.starts_with("secret KEY of shop is set, version 1\n"), "{set}");
    node.say(&["deploy", "-", "--wait", "1m"], &definition);
    node.until("its instance knows the first value", || is_known(&node, &hash(FIRST)));

    let set = node.say(&["secrets", "set", "shop", "KEY"], SECOND);
    assert!(set.contains("instances go on with version 1"), "{set}");
    let plan = node.say(&["deploy", "-", "--plan"], &definition);
    assert!(plan.contains("web.secrets.KEY: version 1 -> version 2"), "{plan}");
    node.say(&["deploy", "-", "--wait", "1m"], &definition);
    node.until("its instance knows the second value", || is_known(&node, &hash(SECOND)));
    let refused = node.insula(&["secrets", "rm", "shop", "KEY"], "");
    assert_eq!(refused.status.code(), Some(4), "a release needs it: {}", String::from_utf8_lossy(&refused.stderr));

    // A node that is started again has its instances go on, and starts them anew by itself.
    kill(Pid::from_raw(node.child.id() as i32), Signal::SIGKILL).expect("it runs");
    node.child.wait().expect("it ends");
    node.child = Node::spawn(&node.program, &node.dir, node.ports);
    node.until("it answers again", || node.insula(&["nodes"], "").status.success().then_some(()));
    fs::remove_file(&told).expect("written");
    let pid = node.until("its process is found", || process_with(&told));
    kill(pid, Signal::SIGKILL).expect("it runs");
    node.until("the next one knows the value", || is_known(&node, &hash(SECOND)));

    // All that is said, and all that is written.
    let backup = node.dir.join("backup");
    node.say(&["state", "backup", backup.to_str().expect("text")], "");
    for arguments in [
        &["secrets", "list", "shop"][..],
        &["secrets", "list", "shop", "--json"],
        &["apps", "--json"],
        &["ps", "--json"],
        &["status", "shop", "--json"],
        &["events", "--json"],
        &["doctor", "--json"],
    ] {
        let said = node.insula(arguments, "");
        let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(!said.contains(FIRST) && !said.contains(SECOND), "insula {arguments:?}: {said}");
    }
    assert!(node.log().contains("DEBUG"), "the log is there, with all that it may say");
    for value in [FIRST, SECOND] {
        assert_eq!(files_with(&node.dir, value), Vec::<PathBuf>::new());
    }
}

/// A process whose command line names a file, and which is a shell's.
fn process_with(file: &Path) -> Option<Pid> {
    let name = file.to_str()?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (line.starts_with("/bin/sh\0-c\0") && line.contains(name)).then(|| Pid::from_raw(pid))
    })
}
