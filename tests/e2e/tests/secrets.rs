//! A secret on its way through a real node: set, deployed, read by its instance, and found nowhere else.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

/// What is set, and looked for.
const FIRST: &str = "c0rrect-h0rse-battery";
const SECOND: &str = "staple-0f-an0ther-day";
/// Looks at what the node does in each step, and the time between two: a minute in all.
const LOOKS: u32 = 600;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A user without rights, so that a node under test runs plain processes and touches nothing of the machine.
const NOBODY: u32 = 65_534;

/// A node in the foreground; ended, and its files removed, when dropped.
struct Node {
    program: PathBuf,
    dir: PathBuf,
    ports: [u16; 3],
    child: Child,
}

impl Node {
    fn start() -> Self {
        let own = std::env::current_exe().expect("path of this program");
        let program = own.ancestors().nth(2).expect("the directory of built programs").join("insula");
        let dir = std::env::temp_dir().join(format!("insula-e2e-secrets-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("make a directory");
        if geteuid().is_root() {
            chown(&dir, Some(NOBODY), Some(NOBODY)).expect("give it away");
        }
        // Its own copy: others may not pass to where it was built.
        let copy = dir.join("insula");
        fs::copy(&program, &copy).expect("copy the program");
        let free =
            || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let ports = [free(), free(), free()];
        let child = Self::spawn(&copy, &dir, ports);
        Self { program: copy, dir, ports, child }
    }

    fn spawn(program: &Path, dir: &Path, ports: [u16; 3]) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("node.log")).expect("open a log");
        let mut command = Command::new(program);
        command.arg("dev").arg("--data").arg(dir.join("node"));
        for (flag, port) in ["--edge", "--api", "--node"].into_iter().zip(ports) {
            command.args([flag, &format!("127.0.0.1:{port}")]);
        }
        command.env("INSULA_LOG", "trace").env("HOME", dir).stdin(Stdio::null()).process_group(0);
        command.stdout(log.try_clone().expect("another handle")).stderr(log);
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.spawn().expect("start the node")
    }

    /// `insula …` against this node.
    fn insula(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("INSULA_SOCKET", self.dir.join("node/run/api.sock"));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("write");
        child.wait_with_output().expect("its output")
    }

    /// What such a command says, which must end well.
    fn say(&self, arguments: &[&str], input: &str) -> String {
        let Output { status, stdout, stderr } = self.insula(arguments, input);
        let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "insula {arguments:?}: {said}");
        said
    }

    /// Waits until `probe` gives something.
    fn until<R>(&self, what: &str, mut probe: impl FnMut() -> Option<R>) -> R {
        for _ in 0..LOOKS {
            if let Some(found) = probe() {
                return found;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        panic!("not in time: {what}; the node said\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("node.log")).unwrap_or_default()
    }

    /// The instance has written down that it knows this.
    fn is_known(&self, value: &str) -> Option<()> {
        (fs::read_to_string(self.dir.join("told")).ok()?.trim() == value).then_some(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).ok();
        let mut looks = 0..LOOKS;
        while matches!(self.child.try_wait(), Ok(None)) && looks.next().is_some() {
            std::thread::sleep(LOOK_EVERY);
        }
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.dir).ok();
    }
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
    let mut node = Node::start();
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
    node.until("its instance knows the first value", || node.is_known(&hash(FIRST)));

    let set = node.say(&["secrets", "set", "shop", "KEY"], SECOND);
    assert!(set.contains("instances go on with version 1"), "{set}");
    let plan = node.say(&["deploy", "-", "--plan"], &definition);
    assert!(plan.contains("web.secrets.KEY: version 1 -> version 2"), "{plan}");
    node.say(&["deploy", "-", "--wait", "1m"], &definition);
    node.until("its instance knows the second value", || node.is_known(&hash(SECOND)));
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
    node.until("the next one knows the value", || node.is_known(&hash(SECOND)));

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
