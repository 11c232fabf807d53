//! The way into a container: its cgroups, its namespaces, its user, capabilities and list of system calls; then the command.
//!
//! libcontainer's own way in (its tenant builder) leaves out the user namespace, a network namespace that the bundle does not
//! name, the list of system calls and the user: what it starts would be the node's root. So this is done here, in the order
//! in which libcontainer does it for the container's first process, with its functions where it has them.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File},
    io::Read,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use libcontainer::{
    capabilities,
    oci_spec::runtime::{LinuxNamespaceType, Process, Spec},
    seccomp,
    syscall::syscall::create_syscall,
};
use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, setns},
    sys::{
        prctl,
        signal::{SigHandler, SigSet, Signal, signal},
    },
    unistd::{self, Gid, Pid, Uid, getppid, setsid},
};

use super::{pass, terminal};
use crate::protocol::Exec;

/// `/etc/passwd` of the container is read up to this size.
const PASSWD_LEN_MAX: u64 = 1 << 20;

/// What it takes to enter.
pub struct Entry {
    /// The container's bundle.
    pub spec: Spec,
    /// Its first process.
    pub container: OwnedFd,
    /// Where to say how it goes: `p` and the command's process id, `t` with a terminal beside it, or `e` and an error. The end
    /// of it, without an error, is the command's beginning.
    pub tell: OwnedFd,
    /// The command's standard streams; none: it gets a terminal.
    pub streams: Vec<OwnedFd>,
    /// What to run.
    pub exec: Exec,
}

impl Entry {
    /// Enters the container, and leaves the command there as a child of this process's parent.
    pub fn enter(self) {
        match self.cross() {
            Ok(Some(command)) => self.say('p', &command.to_string(), &[]),
            Ok(None) => {
                let error = self.become_command();
                self.say('e', &error, &[]);
                // Not this program's way to end: the caller of this function is another process's.
                std::process::exit(127);
            }
            Err(error) => self.say('e', &error, &[]),
        }
    }

    fn say(&self, kind: char, text: &str, descriptors: &[OwnedFd]) {
        let mut message = format!("{kind}{text}");
        message.truncate(message.floor_char_boundary(super::MESSAGE_LEN_MAX));
        // Whoever listens is our parent: without it, nobody is left to tell.
        pass(self.tell.as_raw_fd(), message.as_bytes(), descriptors).ok();
    }

    /// Enters cgroups and namespaces, and clones: only a new process is in the process namespace. None in that.
    fn cross(&self) -> Result<Option<Pid>, String> {
        for file in &self.exec.enter_cgroups {
            fs::write(file, "0").map_err(|error| format!("enter the cgroup {file}: {error}"))?;
        }
        let syscall = create_syscall();
        for limit in process(&self.spec)?.rlimits().iter().flatten() {
            syscall.set_rlimit(limit).map_err(|error| format!("set a limit: {error}"))?;
        }
        // Nobody in the container may look at a process that still has what is the node's.
        prctl::set_dumpable(false).map_err(|error| format!("hide from the container: {error}"))?;
        setns(&self.container, namespaces(&self.spec)).map_err(|error| format!("enter the container: {error}"))?;
        // SAFETY: this process has one thread, so the child may do anything.
        let result = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, 0, 0, 0, 0) };
        match Errno::result(result).map_err(|error| format!("clone into the container: {error}"))? {
            0 => Ok(None),
            pid => Ok(Some(Pid::from_raw(pid as i32))),
        }
    }

    /// Becomes the command. Returns only why not.
    fn become_command(&self) -> String {
        match self.restrict().and_then(|()| self.execute()) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn restrict(&self) -> Result<(), String> {
        let failed = |attempt: &'static str| move |error: Errno| format!("{attempt}: {error}");
        let (process, syscall) = (process(&self.spec)?, create_syscall());
        let user = (Uid::from_raw(process.user().uid()), Gid::from_raw(process.user().gid()));
        SigSet::empty().thread_set_mask().map_err(failed("unblock signals"))?;
        // Rust ignores this signal; programs expect it.
        // SAFETY: the default action is no handler of ours.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.map_err(failed("reset a signal"))?;
        setsid().map_err(failed("make a session"))?;
        // In the place of the node's.
        let groups: Vec<Gid> = process.user().additional_gids().iter().flatten().copied().map(Gid::from_raw).collect();
        unistd::setgroups(&groups).map_err(failed("take its user's groups"))?;
        // The node's root is nobody in there: files of the terminal would be nobody's.
        set_user((Uid::from_raw(0), Gid::from_raw(0)))?;
        self.take_streams(user)?;
        prctl::set_no_new_privs().map_err(failed("renounce new privileges"))?;
        let is_inside = unistd::chdir(process.cwd()).is_ok();
        set_user(user)?;
        syscall.close_range(0).map_err(|error| format!("close what is not the command's: {error}"))?;
        capabilities::reset_effective(&*syscall).map_err(|error| format!("set capabilities: {error}"))?;
        if let Some(set) = process.capabilities() {
            capabilities::drop_privileges(set, &*syscall).map_err(|error| format!("drop capabilities: {error}"))?;
        }
        if !is_inside {
            unistd::chdir(process.cwd()).map_err(|error| format!("enter {}: {error}", process.cwd().display()))?;
        }
        // A directory that is not below the root would be the node's.
        match unistd::getcwd() {
            Ok(directory) if directory.is_absolute() => {}
            _ => return Err(format!("{} is not within the container", process.cwd().display())),
        }
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("tie it to its shim"))?;
        // The parent is outside and has no number in here, unless it has ended and the container's first process took over.
        if getppid().as_raw() != 0 {
            return Err("its shim has ended".to_owned());
        }
        Ok(())
    }

    fn take_streams(&self, user: (Uid, Gid)) -> Result<(), String> {
        if let Some(size) = self.exec.terminal {
            let master = terminal::open(size, user.0).map_err(|error| format!("make a terminal: {error}"))?;
            self.say('t', "", &[master]);
            return Ok(());
        }
        let [stdin, stdout, stderr] = &self.streams[..] else { return Err("it has no standard streams".to_owned()) };
        unistd::dup2_stdin(stdin)
            .and_then(|()| unistd::dup2_stdout(stdout))
            .and_then(|()| unistd::dup2_stderr(stderr))
            .map_err(|error| format!("take its standard streams: {error}"))
    }

    /// The list of system calls comes last: it may refuse what was done before.
    fn execute(&self) -> Result<std::convert::Infallible, String> {
        let text = |part: &str| CString::new(part).map_err(|_| "the command has a zero byte in it".to_owned());
        let (program, arguments) = self.exec.command.split_first().ok_or("the command is empty")?;
        let mut all = vec![text(program)?];
        for argument in arguments {
            all.push(text(argument)?);
        }
        self.set_environment(process(&self.spec)?);
        if let Some(list) = self.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
            seccomp::initialize_seccomp(list).map_err(|error| format!("limit system calls: {error}"))?;
        }
        unistd::execvp(&all[0], &all).map_err(|error| format!("start {program}: {}", error.desc()))
    }

    /// What the container's first process got, and what the caller adds.
    fn set_environment(&self, process: &Process) {
        let spec = process.env().iter().flatten().filter_map(|variable| variable.split_once('='));
        let mut env: BTreeMap<String, String> = spec.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        env.extend(self.exec.env.clone());
        if env.get("HOME").is_none_or(String::is_empty)
            && let Some(home) = home_of(process.user().uid())
        {
            env.insert("HOME".to_owned(), home);
        }
        for (name, _) in std::env::vars_os() {
            // SAFETY: this process has one thread.
            unsafe { std::env::remove_var(name) };
        }
        for (name, value) in env.iter().filter(|(name, _)| !name.is_empty()) {
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

fn process(spec: &Spec) -> Result<&Process, String> {
    spec.process().as_ref().ok_or_else(|| "its bundle names no process".to_owned())
}

/// Those that the bundle names, and that of the network, which it does not.
fn namespaces(spec: &Spec) -> CloneFlags {
    let named = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    named.into_iter().flatten().fold(CloneFlags::CLONE_NEWNET, |flags, namespace| {
        flags
            | match namespace.typ() {
                LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
                LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
                LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
                LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
                LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
                LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
                LinuxNamespaceType::Network | LinuxNamespaceType::Time => CloneFlags::empty(),
            }
    })
}

/// Becomes another user, and keeps the capabilities until they are set.
fn set_user((user, group): (Uid, Gid)) -> Result<(), String> {
    prctl::set_keepcaps(true)
        .and_then(|()| unistd::setresgid(group, group, group))
        .and_then(|()| unistd::setresuid(user, user, user))
        .and_then(|()| prctl::set_keepcaps(false))
        .map_err(|error| format!("become user {user}:{group}: {error}"))
}

/// A user's directory as the container's `/etc/passwd` says.
fn home_of(user: u32) -> Option<String> {
    let mut text = Vec::new();
    File::open(Path::new("/etc/passwd")).ok()?.take(PASSWD_LEN_MAX).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut entries = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find(|entry| entry.get(2).is_some_and(|id| id.parse() == Ok(user)))?;
    entry.get(5).map(|home| (*home).to_owned())
}
