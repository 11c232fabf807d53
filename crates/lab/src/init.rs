//! What runs inside a lab's namespaces, started as `insula lab-init …` (hidden): holders of network namespaces, the first process
//! of a node, which plays the service manager, and the carrier of packets between regions.
//!
//! The first process starts `insula server` when there is a configuration and no hold, starts it again 100 ms after it
//! ended, and collects orphans. It never touches the server's other children (systemd's `KillMode=process`).

mod carrier;
mod root;

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use clap::{Args, Subcommand};
use insula_env::{Clock, clock::Instant};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, open},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        stat::{Mode, fstatat},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, dup2_stdout, pause, setsid},
};

pub(crate) use self::carrier::DONE;
use self::carrier::{Carrier, be_carrier};
use crate::{Error, error::Attempt};

/// Where the program is in a node.
pub const PROGRAM: &str = "/usr/local/bin/insula";
/// Where programs are looked for in a node, whoever asks.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where its configuration is; the server runs once it is there.
pub const CONFIG: &str = "/etc/insula/insula.toml";
/// Where its data is: on the node's disk.
pub const DATA: &str = "/var/lib/insula";

/// Wait before the server is started again, and between looks at the hold.
const RESTART_AFTER: Duration = Duration::from_millis(100);

/// What to be.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Hold a network namespace until killed.
    Hold,
    /// Start a node's first process in namespaces of its own, print its number, and end.
    Launch(Node),
    /// Be a node's first process.
    Node(Node),
    /// Carry packets between regions.
    Carry(Carrier),
}

/// What a node's first process must know.
#[derive(Debug, Clone, Args)]
pub struct Node {
    /// Process that holds the node's network namespace.
    #[arg(long)]
    pub network: i32,
    /// Host name.
    #[arg(long)]
    pub name: String,
    /// The node's directory in the lab's: its disk, its hold.
    #[arg(long)]
    pub dir: PathBuf,
    /// The program that the node gets a copy of, unless its disk has one.
    #[arg(long)]
    pub program: PathBuf,
}

/// Does what a role is for. For processes with one thread, before anything else was started.
pub fn run(role: &Role) -> ExitCode {
    let result = match role {
        Role::Hold => be_holder(),
        Role::Launch(node) => launch(node),
        Role::Node(node) => be_node(node),
        Role::Carry(carrier) => be_carrier(carrier),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("lab-init: {error}{cause}");
            ExitCode::FAILURE
        }
    }
}

/// Tells the parent that waits for it, and lets go of the pipe to it.
fn report(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).attempt(|| "report to the lab".to_owned())?;
    dup2_stdout(io::stderr().as_fd()).attempt(|| "close standard output".to_owned())
}

fn be_holder() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNET).attempt(|| "make a network namespace".to_owned())?;
    crate::process::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    report("ready")?;
    loop {
        pause();
    }
}

fn launch(node: &Node) -> Result<(), Error> {
    let path = format!("/proc/{}/ns/net", node.network);
    let network = File::open(&path).attempt(|| format!("open {path}"))?;
    setns(&network, CloneFlags::CLONE_NEWNET).attempt(|| format!("enter {path}"))?;
    let own = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(own).attempt(|| "make the namespaces of a node".to_owned())?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["lab-init", "node", "--network", &node.network.to_string(), "--name", &node.name]);
    command.arg("--dir").arg(&node.dir).arg("--program").arg(&node.program).stdin(Stdio::null());
    // Standard output goes to the first process: it says there when it has booted.
    let child = command.spawn().attempt(|| format!("start the first process of {}", node.name))?;
    report(&child.id().to_string())
}

fn be_node(node: &Node) -> Result<(), Error> {
    setsid().attempt(|| "make a session".to_owned())?;
    nix::unistd::sethostname(&node.name).attempt(|| format!("set host name {}", node.name))?;
    let directory = open(&node.dir, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .attempt(|| format!("open {}", node.dir.display()))?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().attempt(|| "block SIGCHLD".to_owned())?;
    let ended = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .attempt(|| "watch SIGCHLD".to_owned())?;
    root::enter(node)?;
    report("booted")?;
    let clock = Clock::real();
    let mut manager = Manager { server: None, next_start: clock.now() };
    loop {
        let is_held = fstatat(&directory, "hold", AtFlags::empty()).is_ok();
        manager.turn(clock.now(), is_held);
        let mut waited = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(RESTART_AFTER).unwrap_or(PollTimeout::ZERO);
        match poll(&mut waited, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => eprintln!("lab-init: wait for children: {error}"),
        }
        while let Ok(Some(_)) = ended.read_signal() {}
        manager.collect(clock.now());
    }
}

/// Keeps the server running.
struct Manager {
    server: Option<Child>,
    next_start: Instant,
}

impl Manager {
    /// Starts the server when it should run and does not.
    fn turn(&mut self, now: Instant, is_held: bool) {
        if self.server.is_some() || is_held || now < self.next_start || !Path::new(CONFIG).exists() {
            return;
        }
        let mut command = Command::new(PROGRAM);
        command.args(["server", "--config", CONFIG]).current_dir("/").stdin(Stdio::null());
        // SAFETY: setting the signal mask is allowed between fork and exec. Without it the server would not hear of
        // its children.
        unsafe { command.pre_exec(|| SigSet::empty().thread_set_mask().map_err(io::Error::from)) };
        match command.spawn() {
            Ok(child) => self.server = Some(child),
            Err(error) => {
                eprintln!("lab-init: start {PROGRAM} server: {error}");
                self.next_start = now + RESTART_AFTER;
            }
        }
    }

    /// Takes note of whatever ended, ours or orphaned.
    fn collect(&mut self, now: Instant) {
        while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid().filter(|_| status != WaitStatus::StillAlive) else { return };
            if self.server.as_ref().is_some_and(|server| server.id() as i32 == pid.as_raw()) {
                eprintln!("lab-init: server ended: {status:?}");
                self.server = None;
                self.next_start = now + RESTART_AFTER;
            }
        }
    }
}
