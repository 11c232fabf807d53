//! Starts the work: a container by libcontainer or a runtime of the node's (`runtime`), or a process.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    io::Read,
    os::{
        fd::OwnedFd,
        unix::{net::UnixListener, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    rc::Rc,
};

use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sched::{CloneFlags, setns},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{SigHandler, SigSet, Signal, signal},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork, pipe2, setsid},
};

use crate::{
    files,
    init::{HoldExecutor, InitExecutor},
    log::{LogFile, Pump},
    protocol::{Config, Running, SECRETS_LEN_MAX, VERSION, Work},
    runtime,
};

/// Work that has been started, with all that is needed to look after it.
pub struct Started {
    pub directory: PathBuf,
    pub config: Config,
    pub running: Running,
    pub listener: UnixListener,
    pub stdout: Pump,
    pub stderr: Pump,
}

/// Reads the configuration in `directory` and starts what it says. Errors are for the agent's log.
pub fn start(directory: &Path) -> Result<Started, String> {
    let directory = directory.canonicalize().map_err(|error| format!("find {}: {error}", directory.display()))?;
    // Names in the directory stay short this way, whatever its depth: a socket's may have 107 bytes.
    std::env::set_current_dir(&directory).map_err(|error| format!("enter {}: {error}", directory.display()))?;
    let text = std::fs::read("shim.json").map_err(|error| format!("read shim.json: {error}"))?;
    let config: Config = serde_json::from_slice(&text).map_err(|error| format!("read shim.json: {error}"))?;
    if config.version != VERSION {
        return Err(format!("shim.json has version {}, this shim knows {VERSION}", config.version));
    }
    std::fs::remove_file("shim.sock").ok();
    let listener = UnixListener::bind("shim.sock")
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| format!("listen on shim.sock: {error}"))?;

    let log = Rc::new(RefCell::new(LogFile::open(directory.join("log"), config.log_bytes_max)));
    let (stdout, stdout_end) = runtime::pipe()?;
    let (stderr, stderr_end) = runtime::pipe()?;
    let pid = match &config.work {
        Work::Container { id, output_owner, netns, has_init, is_held, runtime, .. } => {
            if let Some((user, group)) = *output_owner {
                for end in [&stdout_end, &stderr_end] {
                    std::os::unix::fs::fchown(end, Some(user), Some(group))
                        .map_err(|error| format!("give a pipe to the container's user: {error}"))?;
                }
            }
            let first = match (is_held, has_init) {
                (true, _) => First::Hold,
                (false, true) => First::Init,
                (false, false) => First::Command,
            };
            match runtime {
                Some(runtime) => runtime::start((runtime, &directory, id), stdout_end, stderr_end, &stderr)?,
                None => start_container(&directory, id, (netns.as_deref(), first), stdout_end, stderr_end)?,
            }
        }
        Work::Process { .. } => start_process(&config.work, stdout_end, stderr_end)?,
    };
    let running = Running { version: VERSION, pid, start_ticks: files::start_ticks(pid), started_ms: files::now_ms() };
    files::write_json(Path::new("running.json"), &running, false)
        .map_err(|error| format!("write running.json: {error}"))?;
    let stdout = Pump::new(stdout, "stdout", Rc::clone(&log));
    let stderr = Pump::new(stderr, "stderr", log);
    Ok(Started { directory, config, running, listener, stdout, stderr })
}

/// What the container's first process is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Command,
    /// One of ours, which starts the command.
    Init,
    /// One of ours, and no command.
    Hold,
}

/// Runs libcontainer in a child that ends once the container runs, so that its heap is not kept for the life of the
/// instance. The container's first process becomes our child (CLONE_PARENT).
fn start_container(
    directory: &Path,
    id: &str,
    (netns, first): (Option<&str>, First),
    stdout: OwnedFd,
    stderr: OwnedFd,
) -> Result<i32, String> {
    let (result, result_end) = pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("make a pipe: {error}"))?;
    // SAFETY: this process has one thread, so the child may do anything.
    let creator = match unsafe { fork() }.map_err(|error| format!("fork: {error}"))? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            // Rust ignores this signal; programs expect it.
            // SAFETY: the default action is no handler of ours.
            unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.ok();
            let entered = netns.map_or(Ok(()), enter);
            let text = match entered.and_then(|()| create(directory, id, first, stdout, stderr)) {
                Ok(pid) => pid.to_string(),
                Err(error) => error,
            };
            nix::unistd::write(&result_end, text.as_bytes()).ok();
            std::process::exit(0);
        }
    };
    drop((stdout, stderr, result_end));
    let mut text = String::new();
    let read = File::from(result).read_to_string(&mut text);
    wait_for(creator);
    match (read, text.parse::<i32>()) {
        (Ok(_), Ok(pid)) => Ok(pid),
        (Ok(_), Err(_)) if text.is_empty() => Err("the container's creator was killed".to_owned()),
        (Ok(_), Err(_)) => Err(text),
        (Err(error), _) => Err(format!("read from the container's creator: {error}")),
    }
}

/// Moves this process into a network namespace.
fn enter(netns: &str) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("enter the network namespace {netns}: {error}");
    let file = File::open(netns).map_err(|error| failed(&error))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| failed(&error))
}

fn wait_for(child: Pid) {
    while waitpid(child, None) == Err(Errno::EINTR) {}
}

fn create(directory: &Path, id: &str, first: First, stdout: OwnedFd, stderr: OwnedFd) -> Result<i32, String> {
    let chain = |attempt: &str, error: &dyn std::error::Error| {
        let mut text = format!("{attempt}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    };
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default());
    match first {
        First::Command => {}
        First::Init => builder = builder.with_executor(InitExecutor),
        First::Hold => builder = builder.with_executor(HoldExecutor),
    }
    let mut container = builder
        .with_root_path(directory.join("state"))
        .map_err(|error| chain("container state", &error))?
        .with_stdout(stdout)
        .with_stderr(stderr)
        .as_init(directory.join("bundle"))
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(|error| chain("create container", &error))?;
    container.start().map_err(|error| chain("start container", &error))?;
    container.pid().map(|pid| pid.as_raw()).ok_or_else(|| "the container has no process".to_owned())
}

/// What the agent tells the command, and nobody else: it is on no disk.
fn read_secrets() -> Result<BTreeMap<String, String>, String> {
    // Nor in a core dump of this process; the command's own begins anew.
    prctl::set_dumpable(false).map_err(|error| format!("hide secrets: {error}"))?;
    let mut text = Vec::new();
    std::io::stdin().take(SECRETS_LEN_MAX).read_to_end(&mut text).map_err(|error| format!("read secrets: {error}"))?;
    serde_json::from_slice(&text).map_err(|_| "the secrets cannot be read".to_owned())
}

/// Starts a command in a session of its own. It dies with the shim: without a namespace nobody else could find its end.
fn start_process(work: &Work, stdout: OwnedFd, stderr: OwnedFd) -> Result<i32, String> {
    let Work::Process { command, env, open_files_max, has_secrets } = work else {
        return Err("not a process".to_owned());
    };
    let secrets = if *has_secrets { read_secrets()? } else { BTreeMap::new() };
    let (program, arguments) = command.split_first().ok_or("the command is empty")?;
    std::fs::create_dir_all("work").map_err(|error| format!("make work/: {error}"))?;
    // Orphans of the command come to us, and are ended with it.
    runtime::become_subreaper()?;
    let open_files_max = *open_files_max;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(secrets)
        .envs(env)
        .current_dir("work")
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    // SAFETY: system calls only, and this process has one thread anyway.
    unsafe {
        command.pre_exec(move || {
            SigSet::empty().thread_set_mask()?;
            setsid()?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            prctl::set_no_new_privs()?;
            // Beyond the hard limit only root may go; what there is will do then.
            setrlimit(Resource::RLIMIT_NOFILE, open_files_max, open_files_max).ok();
            Ok(())
        });
    }
    let child = command.spawn().map_err(|error| format!("start {program}: {error}"))?;
    // Dropping the handle does not wait: the supervisor does.
    Ok(child.id() as i32)
}
