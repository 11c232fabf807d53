//! Containers by an OCI runtime of the node's, through its command line: the one that runc has, and others follow.
//!
//! Its `create` leaves the container's first process behind as an orphan, which comes to us. What it keeps is in the directory
//! of the instance; `delete` is called by the agent, which also does so when we are gone.

use std::{
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::{
        prctl,
        signal::{SigSet, Signal},
    },
};

use crate::protocol::OciRuntime;

/// How long a call may take: less than the agent waits for a start.
const CALL_MAX: Duration = Duration::from_secs(50);
/// Of what a runtime says when it fails, so much is told, in bytes.
const WHY_LEN_MAX: usize = 2048;

/// A call of a runtime for the instance in `directory`, from within its network namespace: where that belongs to the node's user
/// namespace and the container has one of its own, runtimes cannot enter it from there. It ends with this process.
pub fn call(runtime: &OciRuntime, directory: &Path, verb: &str) -> Command {
    let mut command = Command::new(&runtime.path);
    command.args(&runtime.arguments);
    command.arg("--root").arg(directory.join("state")).arg("--log").arg(directory.join("runtime.log")).arg(verb);
    command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let netns = directory.join("netns");
    // SAFETY: this process has one thread, so the child may do anything.
    unsafe {
        command.pre_exec(move || {
            SigSet::empty().thread_set_mask()?;
            setns(File::open(&netns)?, CloneFlags::CLONE_NEWNET)?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        });
    }
    command
}

/// Creates the container of the bundle in `directory` and starts it; gives its first process, which is a child of ours then.
/// `stdout` and `stderr` are the ends of its pipes, `errors` the other end of the second.
pub fn start(
    (runtime, directory, id): (&OciRuntime, &Path, &str),
    stdout: OwnedFd,
    stderr: OwnedFd,
    errors: &File,
) -> Result<i32, String> {
    become_subreaper()?;
    let mut create = call(runtime, directory, "create");
    create.arg("--bundle").arg(directory.join("bundle")).arg("--pid-file").arg("pid").arg(id);
    // What it says itself goes where the container's errors go: they are the container's from here on.
    let status = finish(create.stdout(stdout).stderr(stderr), CALL_MAX)?;
    // Its ends of the pipes.
    drop(create);
    if !status.success() {
        return Err(format!("{} create: {}", runtime.path, why(status, errors)));
    }
    let pid = std::fs::read_to_string(directory.join("pid")).map_err(|error| format!("read pid: {error}"))?;
    let pid = pid.trim().parse().map_err(|_| format!("{} create left no process id", runtime.path))?;
    let (errors, end) = pipe()?;
    let mut start = call(runtime, directory, "start");
    let status = finish(start.arg(id).stderr(end), CALL_MAX)?;
    drop(start);
    if !status.success() {
        return Err(format!("{} start: {}", runtime.path, why(status, &errors)));
    }
    Ok(pid)
}

/// Orphans of our descendants come to us.
pub fn become_subreaper() -> Result<(), String> {
    prctl::set_child_subreaper(true).map_err(|error| format!("become subreaper: {error}"))
}

/// A pipe whose reading end does not block.
pub fn pipe() -> Result<(File, OwnedFd), String> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("make a pipe: {error}"))?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|error| format!("set up a pipe: {error}"))?;
    Ok((File::from(read), write))
}

/// Runs a call to its end, or kills it when that does not come.
pub fn finish(command: &mut Command, limit: Duration) -> Result<ExitStatus, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| format!("run {program}: {error}");
    let mut child = command.spawn().map_err(failed)?;
    if !has_ended(&child, limit)? {
        child.kill().and_then(|()| child.wait()).map_err(failed)?;
        return Err(format!("{program} did not end within {limit:?}"));
    }
    child.wait().map_err(failed)
}

fn has_ended(child: &Child, limit: Duration) -> Result<bool, String> {
    let process = open_process(child.id() as i32)?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("wait for a process: {error}")),
        }
    }
}

/// A process by a descriptor that stays with it whatever becomes of its number.
pub fn open_process(pid: i32) -> Result<OwnedFd, String> {
    // SAFETY: no memory is concerned.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(result).map_err(|error| format!("find process {pid}: {error}"))?;
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The end of what a failed call has written to a pipe whose reading end does not block, or how the call ended.
pub fn why(status: ExitStatus, mut errors: &File) -> String {
    let mut text = Vec::new();
    // What somebody else still may write is not waited for.
    errors.read_to_end(&mut text).ok();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(WHY_LEN_MAX)..]).trim().to_owned();
    if text.is_empty() { status.to_string() } else { text }
}
