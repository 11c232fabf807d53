//! `--exec`: one more command in a container that runs. The contract is in `protocol`.
//!
//! This process stays outside and looks after the command; a child of it enters the container and leaves the command behind
//! as its sibling (`enter`). Whatever ends this process ends the command with it. A container that a runtime of the node's
//! runs is entered by that (`outside`).

mod enter;
mod outside;
mod terminal;

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, IoSlice, IoSliceMut, Read},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{fs::fchown, net::UnixStream},
    },
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use libcontainer::oci_spec::runtime::Spec;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
            socketpair,
        },
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, pipe2, setsid},
};

use self::{enter::Entry, outside::Outside};
use crate::{
    control::Connection,
    files, leave_standard_streams,
    protocol::{Config, EXEC_LEN_MAX, Exec, Exit, Reply, Request, Running, VERSION, Work},
    runtime,
};

/// How long what the command left behind may take to end after KILL.
const END_MAX: Duration = Duration::from_secs(5);
/// How often that is looked at.
const END_POLL: Duration = Duration::from_millis(2);
/// Longest message of a process that enters, in bytes.
const MESSAGE_LEN_MAX: usize = 4096;

/// Runs one command, as the other end of standard input says.
pub fn run(directory: &Path) -> ExitCode {
    // Signals to the agent's session are not meant for commands.
    setsid().ok();
    let Ok(stream) = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else {
        return ExitCode::FAILURE;
    };
    leave_standard_streams();
    match prepare(directory, &stream).and_then(|prepared| prepared.start(&stream)) {
        Ok(started) => {
            started.look_after(stream);
            ExitCode::SUCCESS
        }
        Err(error) => {
            send(&stream, Reply { error: Some(error), ..Reply::default() }, &[]);
            ExitCode::FAILURE
        }
    }
}

/// `--signal NUMBER VARIABLE`, in a container: sends a signal to each process with this variable in its environment.
pub fn send_signal(signal: &OsStr, variable: &OsStr) -> ExitCode {
    match signal.to_str().and_then(|number| number.parse().ok()) {
        Some(signal) => {
            outside::send_signal(signal, variable.as_encoded_bytes());
            ExitCode::SUCCESS
        }
        None => ExitCode::from(2),
    }
}

/// A command that has not begun.
struct Prepared {
    exec: Exec,
    entry: Entry,
    /// Our end of the line to those who enter.
    told: OwnedFd,
    /// The caller's ends of the pipes: output, errors, input.
    pipes: Vec<OwnedFd>,
    signals: SignalFd,
    outside: Option<Outside>,
}

fn prepare(directory: &Path, stream: &UnixStream) -> Result<Prepared, String> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream).take(EXEC_LEN_MAX as u64);
    reader.read_until(b'\n', &mut line).map_err(|error| format!("read what to run: {error}"))?;
    let exec: Exec = serde_json::from_slice(&line).map_err(|error| format!("read what to run: {error}"))?;
    if exec.version != VERSION {
        return Err(format!("what to run has version {}, this shim knows {VERSION}", exec.version));
    }
    let read = |name: &str| std::fs::read(directory.join(name)).map_err(|error| format!("read {name}: {error}"));
    let spec: Spec = serde_json::from_slice(&read("bundle/config.json")?).map_err(|error| format!("{error}"))?;
    let running: Running = serde_json::from_slice(&read("running.json")?).map_err(|error| format!("{error}"))?;
    let config: Config = serde_json::from_slice(&read("shim.json")?).map_err(|error| format!("{error}"))?;
    let container = open_process(&running)?;
    let outside = match config.work {
        Work::Container { runtime: Some(runtime), id, .. } => Some(Outside::new(runtime, directory, id)),
        _ => None,
    };

    let (told, tell) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|error| format!("make a socket: {error}"))?;
    let (streams, pipes) = if exec.terminal.is_some() { Default::default() } else { make_pipes(&exec, &spec)? };
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        set.add(signal);
    }
    set.thread_block().map_err(|error| format!("block signals: {error}"))?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|error| format!("open a descriptor for signals: {error}"))?;
    let entry = Entry { spec, container, tell, streams, exec: exec.clone() };
    Ok(Prepared { exec, entry, told, pipes, signals, outside })
}

/// The container's first process, by a descriptor that stays with it whatever becomes of its number.
fn open_process(running: &Running) -> Result<OwnedFd, String> {
    let fd = runtime::open_process(running.pid)?;
    if files::start_ticks(running.pid) != running.start_ticks {
        return Err("the container has ended".to_owned());
    }
    Ok(fd)
}

/// The command's ends of its standard streams, and the caller's: output, errors and, where there is one, input.
fn make_pipes(exec: &Exec, spec: &Spec) -> Result<(Vec<OwnedFd>, Vec<OwnedFd>), String> {
    let make = || pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("make a pipe: {error}"));
    let ((stdout, stdout_end), (stderr, stderr_end)) = (make()?, make()?);
    let mut caller = vec![stdout, stderr];
    let stdin = if exec.has_input {
        let (stdin_end, stdin) = make()?;
        caller.push(stdin);
        stdin_end
    } else {
        File::open("/dev/null").map_err(|error| format!("open /dev/null: {error}"))?.into()
    };
    // Programs open `/dev/stdout` anew.
    let (user, group) = owner(spec);
    for end in [&stdout_end, &stderr_end].into_iter().chain(exec.has_input.then_some(&stdin)) {
        fchown(end, Some(user), Some(group))
            .map_err(|error| format!("give a pipe to the container's user: {error}"))?;
    }
    Ok((vec![stdin, stdout_end, stderr_end], caller))
}

/// The user and group of the container's processes, as the node has them.
fn owner(spec: &Spec) -> (u32, u32) {
    let first = |mappings: &Option<Vec<_>>| {
        mappings.iter().flatten().next().map_or(0, libcontainer::oci_spec::runtime::LinuxIdMapping::host_id)
    };
    let linux = spec.linux().as_ref();
    let (users, groups) = linux.map_or((0, 0), |linux| (first(linux.uid_mappings()), first(linux.gid_mappings())));
    let user = spec.process().as_ref().map(|process| process.user());
    (users + user.map_or(0, |user| user.uid()), groups + user.map_or(0, |user| user.gid()))
}

impl Prepared {
    /// Starts the command, and gives the caller its descriptors.
    fn start(self, stream: &UnixStream) -> Result<Started, String> {
        let Self { exec, entry, told, mut pipes, signals, outside } = self;
        let started = match &outside {
            Some(outside) => outside.start(entry, &mut pipes),
            None => enter(entry, told, stream, &mut pipes),
        };
        match started {
            Ok(pid) => {
                let running = Running {
                    version: VERSION,
                    pid,
                    start_ticks: files::start_ticks(pid),
                    started_ms: files::now_ms(),
                };
                send(stream, Reply { running: Some(running), ..Reply::default() }, &pipes);
                Ok(Started { exec, pid: Pid::from_raw(pid), signals, outside, end: None, kill_at: None })
            }
            Err(error) => {
                // It may have begun, without a word from the runtime in time.
                outside.iter().for_each(Outside::end);
                end_all(&exec.own_cgroup);
                Err(error)
            }
        }
    }
}

/// Starts the command by a child that enters the container; gives its process.
fn enter(entry: Entry, told: OwnedFd, stream: &UnixStream, descriptors: &mut Vec<OwnedFd>) -> Result<i32, String> {
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() }.map_err(|error| format!("fork: {error}"))? {
        ForkResult::Parent { .. } => drop(entry),
        ForkResult::Child => {
            drop(told);
            entry.enter();
            std::process::exit(0);
        }
    }
    listen(&told, stream, descriptors)
}

/// Hears what those who enter say until the command is executed, which closes the last of their ends. A terminal that they
/// made is put to the `descriptors`.
fn listen(told: &OwnedFd, stream: &UnixStream, descriptors: &mut Vec<OwnedFd>) -> Result<i32, String> {
    let mut pid = None;
    loop {
        let mut wait = [PollFd::new(told.as_fd(), PollFlags::POLLIN), PollFd::new(stream.as_fd(), PollFlags::empty())];
        match poll(&mut wait, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("wait for the command: {error}")),
        }
        if wait[1].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
            return Err("nobody waits for it any more".to_owned());
        }
        let (message, mut passed) = receive(told).map_err(|error| format!("hear of the command: {error}"))?;
        match message.split_first() {
            None => return pid.ok_or_else(|| "what enters the container was killed".to_owned()),
            Some((b'p', text)) => pid = String::from_utf8_lossy(text).parse().ok(),
            Some((b't', _)) => descriptors.append(&mut passed),
            Some((_, text)) => return Err(String::from_utf8_lossy(text).into_owned()),
        }
    }
}

/// One message and the descriptors with it; empty at the end.
fn receive(from: &OwnedFd) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
    let mut text = [0; MESSAGE_LEN_MAX];
    let mut space = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut passed = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just given them to us.
            passed.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let len = message.bytes;
    Ok((text[..len].to_vec(), passed))
}

/// One line, with descriptors. A caller that went away meanwhile is noticed elsewhere.
fn send(stream: &UnixStream, reply: Reply, descriptors: &[OwnedFd]) {
    let mut line = serde_json::to_vec(&Reply { version: VERSION, ..reply }).unwrap_or_default();
    line.push(b'\n');
    pass(stream.as_raw_fd(), &line, descriptors).ok();
}

fn pass(to: RawFd, text: &[u8], descriptors: &[OwnedFd]) -> Result<(), Errno> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let controls = if raw.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(to, &[IoSlice::new(text)], controls, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// A command that runs, or has ended a moment ago.
struct Started {
    exec: Exec,
    pid: Pid,
    signals: SignalFd,
    outside: Option<Outside>,
    end: Option<Exit>,
    /// The caller has hung up.
    kill_at: Option<Instant>,
}

impl Started {
    /// Returns when the command, and what it has started, is gone.
    fn look_after(mut self, stream: UnixStream) {
        let mut caller = stream.set_nonblocking(true).ok().map(|()| Connection::new(stream));
        self.reap();
        while self.end.is_none() {
            self.wait(caller.as_ref());
            while let Ok(Some(signal)) = self.signals.read_signal() {
                if [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].map(|one| one as u32).contains(&signal.ssi_signo) {
                    caller = None;
                }
            }
            self.reap();
            // One that does not keep to the protocol has hung up too.
            if let Some(mut connection) = caller.take()
                && let Some(requests) = connection.receive()
            {
                requests.into_iter().flatten().for_each(|request| self.take(&request));
                caller = Some(connection);
            }
            match self.kill_at {
                None if caller.is_none() => {
                    self.signal(Signal::SIGHUP);
                    self.kill_at = Some(Instant::now() + Duration::from_millis(self.exec.hang_up_ms));
                }
                Some(at) if at <= Instant::now() => {
                    self.signal(Signal::SIGKILL);
                    // Once more should it not help: a process can be stuck in the kernel for a while.
                    self.kill_at = Some(Instant::now() + END_MAX);
                }
                _ => {}
            }
        }
        if let Some(outside) = &self.outside {
            outside.end();
        }
        end_all(&self.exec.own_cgroup);
        if let Some(mut caller) = caller {
            caller.reply(Reply { exit: self.end, ..Reply::default() });
        }
    }

    fn wait(&self, caller: Option<&Connection>) {
        let mut wait = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        wait.extend(caller.map(|one| PollFd::new(one.stream().as_fd(), PollFlags::POLLIN)));
        let timeout = self.kill_at.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        poll(&mut wait, timeout).ok();
    }

    fn take(&self, request: &Request) {
        if let Request::Signal { signal } = request
            && let Ok(signal) = Signal::try_from(*signal)
        {
            self.signal(signal);
        }
    }

    /// To the command and those of its children that did not leave its group; by a runtime of the node's, to all of them.
    fn signal(&self, signal: Signal) {
        match &self.outside {
            _ if self.end.is_some() => {}
            Some(outside) => outside.signal(signal),
            None => drop(kill(Pid::from_raw(-self.pid.as_raw()), signal)),
        }
    }

    /// Collects ended children: the one that entered, and the command.
    fn reap(&mut self) {
        loop {
            let (pid, code, signal) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Some(code), None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, None, Some(signal as i32)),
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if pid == self.pid {
                let at_ms = files::now_ms();
                self.end = Some(Exit { version: VERSION, code, signal, is_oom_killed: false, at_ms });
            }
        }
    }
}

/// Kills everything in a cgroup, collects what are children of ours, and removes it.
fn end_all(cgroup: &str) {
    let deadline = Instant::now() + END_MAX;
    let directory = Path::new(cgroup);
    while Instant::now() < deadline {
        while matches!(waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
        let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for pid in text.lines().filter_map(|line| line.parse().ok()) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        match std::fs::remove_dir(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => std::thread::sleep(END_POLL),
            _ => return,
        }
    }
}
