//! A real node in the foreground, for tests of one node.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::{
    fs,
    io::{ErrorKind, Write},
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

/// Looks at what the node does in each step, and the time between two: a minute in all.
const LOOKS: u32 = 600;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A user without rights, so that a node under test runs plain processes and touches nothing of the machine.
const NOBODY: u32 = 65_534;

/// A node in the foreground; ended, and its files removed, when dropped.
pub struct Node {
    pub program: PathBuf,
    pub dir: PathBuf,
    /// Of the edge, the API, and between nodes.
    pub ports: [u16; 3],
    pub child: Child,
}

impl Node {
    /// `name` tells its files from those of other tests.
    pub fn start(name: &str) -> Self {
        let own = std::env::current_exe().expect("path of this program");
        let program = own.ancestors().nth(2).expect("the directory of built programs").join("insula");
        let dir = std::env::temp_dir().join(format!("insula-e2e-{name}-{}", std::process::id()));
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

    pub fn spawn(program: &Path, dir: &Path, ports: [u16; 3]) -> Child {
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
        // A child that another test of this process has just forked keeps the copy open for writing until it runs its own program.
        for _ in 0..LOOKS {
            match command.spawn() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::sleep(LOOK_EVERY),
                started => return started.expect("start the node"),
            }
        }
        panic!("{} stays busy", program.display())
    }

    /// `insula …` against this node.
    pub fn insula(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("INSULA_SOCKET", self.dir.join("node/run/api.sock"));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("write");
        child.wait_with_output().expect("its output")
    }

    /// What such a command says, which must end well.
    pub fn say(&self, arguments: &[&str], input: &str) -> String {
        let Output { status, stdout, stderr } = self.insula(arguments, input);
        let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "insula {arguments:?}: {said}");
        said
    }

    /// Waits until `probe` gives something.
    pub fn until<R>(&self, what: &str, mut probe: impl FnMut() -> Option<R>) -> R {
        for _ in 0..LOOKS {
            if let Some(found) = probe() {
                return found;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        panic!("not in time: {what}; the node said\n{}", self.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("node.log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Once it has been waited for, its number may be another's.
        if matches!(self.child.try_wait(), Ok(None)) {
            kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).ok();
        }
        let mut looks = 0..LOOKS;
        while matches!(self.child.try_wait(), Ok(None)) && looks.next().is_some() {
            std::thread::sleep(LOOK_EVERY);
        }
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.dir).ok();
    }
}
