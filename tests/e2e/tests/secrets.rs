//! A secret on its way through a real node: set, deployed, read by its instance, and found nowhere else.

mod common;

use std::{
    fs,
    io::Write,
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use common::Node;
use nix::{
    sys::{
        resource::{self, Resource},
        signal::{Signal, kill},
    },
    unistd::{Pid, geteuid},
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
    let unlimited = resource::RLIM_INFINITY;
    resource::setrlimit(Resource::RLIMIT_CORE, unlimited, unlimited).ok();
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

    // What is in the memory of a process that may not be dumped is root's in /proc, whoever runs it.
    let owner = |pid: u32| fs::metadata(format!("/proc/{pid}/maps")).map(|meta| meta.uid()).ok();
    let instance = node.until("its process is found", || process_with(&told)).as_raw() as u32;
    assert_ne!(owner(instance), Some(0), "an instance is dumped as its user wants");
    let dataplanes = dataplanes(&node);
    assert!(!dataplanes.is_empty(), "it runs");
    for pid in dataplanes.into_iter().chain([node.child.id()]) {
        assert_eq!(owner(pid), Some(0), "the kernel may dump {pid}, and others of its user look into it");
    }

    // A node that is started again has its instances go on, and starts them anew by itself.
    // As by a fault of its own, where the limit lets a core dump be written.
    kill(Pid::from_raw(node.child.id() as i32), Signal::SIGABRT).expect("it runs");
    assert!(!node.child.wait().expect("it ends").core_dumped(), "with all that was in its memory");
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

fn dataplanes(node: &Node) -> Vec<u32> {
    let program = format!("{}\0dataplane\0", node.program.display());
    let is_one = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(program.as_bytes())
    };
    let entries = fs::read_dir("/proc").expect("list").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_one).collect()
}

/// A lab of two nodes, of which the second does not vote; gone at the end however the test ends.
struct Pair {
    program: PathBuf,
    name: String,
}

impl Pair {
    fn lab(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(&self.program);
        command.args(["lab", "--name", &self.name]).args(arguments).env("INSULA_LOG", "trace");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
        // A command that reads nothing may have ended.
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).ok();
        child.wait_with_output().expect("its output")
    }

    fn on(&self, node: &str, command: &[&str], input: &str) -> Output {
        self.lab(&[&["exec", node, "--"], command].concat(), input)
    }

    /// What a command on a node says, once it ends well.
    fn until(&self, node: &str, command: &[&str], input: &str) -> String {
        let mut said = Vec::new();
        for _ in 0..600 {
            let Output { status, stdout, stderr } = self.on(node, command, input);
            if status.success() {
                return String::from_utf8_lossy(&stdout).into_owned();
            }
            said = [stdout, stderr].concat();
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("{command:?} on {node}: {}", String::from_utf8_lossy(&said));
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.lab(&["down"], "");
    }
}

#[test]
fn a_node_that_does_not_vote_has_a_voter_open_them() {
    if !geteuid().is_root() {
        eprintln!("skipped: a lab needs root");
        return;
    }
    let own = std::env::current_exe().expect("path of this program");
    let program = own.ancestors().nth(2).expect("the directory of built programs").join("insula");
    let pair = Pair { program, name: format!("e2e-keys-{}", std::process::id()) };
    let up = pair.lab(&["up", "--regions", "fra:2"], "");
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let has_keys = |node| pair.on(node, &["sh", "-c", "ls /var/lib/insula/keys | grep -q region"], "").status.success();
    assert!(has_keys("n1") && !has_keys("n2"), "the first votes, and it alone");

    pair.until("n2", &["insula", "secrets", "set", "shop", "KEY"], FIRST);
    let script = "printf %s \"$KEY\" | sha256sum | cut -c 1-64 > told; while :; do sleep 1; done";
    let definition = format!(
        "app = \"shop\"\n[services.web]\nruntime = \"process\"\nscale = 2\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\nsecrets = [\"KEY\"]\n"
    );
    pair.until("n2", &["insula", "deploy", "-", "--wait", "1m"], &definition);
    for node in ["n1", "n2"] {
        let told =
            ["sh", "-c", "test -s /var/lib/insula/instances/*/work/told && cat /var/lib/insula/instances/*/work/told"];
        assert_eq!(pair.until(node, &told, "").trim(), hash(FIRST), "{node} runs one, and it knows the value");
        let found = pair.on(node, &["grep", "-rlF", FIRST, "/var/lib/insula", "/run", "/etc/insula"], "");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "in files of {node}");
        let log = fs::read_to_string(format!("/var/lib/insula-lab/{}/nodes/{node}/console.log", pair.name));
        let log = log.expect("what its programs say");
        assert!(log.contains("DEBUG") && !log.contains(FIRST), "in the log of {node}");
    }
    // And it starts it anew by itself when the voter is gone.
    let off = pair.lab(&["poweroff", "n1"], "");
    assert!(off.status.success(), "{}", String::from_utf8_lossy(&off.stderr));
    let again = "rm /var/lib/insula/instances/*/work/told
        for one in /proc/[0-9]*; do readlink $one/cwd | grep -q /work$ && kill -9 ${one#/proc/}; done";
    pair.on("n2", &["sh", "-c", again], "");
    let told =
        ["sh", "-c", "test -s /var/lib/insula/instances/*/work/told && cat /var/lib/insula/instances/*/work/told"];
    assert_eq!(pair.until("n2", &told, "").trim(), hash(FIRST), "what it keeps, it can open");
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
