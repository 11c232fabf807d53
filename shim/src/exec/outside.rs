//! Commands in a container that a runtime of the node's runs: by its `exec`, which leaves the command, or what waits for it, as
//! our child.
//!
//! Where the container is a sandbox, its processes are not the node's. So they are found from within: the command and all that
//! it starts have a mark in their environment, and one more command, the shim's own executable, sends them signals.

use std::{
    fs::{self, File},
    io::IoSliceMut,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use libcontainer::oci_spec::runtime::{BoxBuilder, Process};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    sys::{
        signal::Signal,
        socket::{ControlMessageOwned, MsgFlags, recvmsg},
    },
};

use super::enter::Entry;
use crate::{
    files,
    protocol::{INSIDE, OciRuntime},
    runtime::{self, become_subreaper, finish, pipe, why},
};

/// How long a runtime may take to start a command: as long as the agent waits for it.
const START_MAX: Duration = Duration::from_secs(20);
/// How long it may take to send a signal, at the end of a command.
const SIGNAL_MAX: Duration = Duration::from_secs(5);
/// Where the files of commands are: the environment is in them, so they are in memory where the bundle is.
const BUNDLE: &str = "bundle";
/// The variable by which the processes of a command are known.
const MARK: &str = "INSULA_COMMAND";

/// The way into a container.
pub struct Outside {
    runtime: OciRuntime,
    /// The instance's.
    directory: PathBuf,
    id: String,
    /// Names this command, and the directory of its files.
    mark: String,
}

impl Outside {
    /// For one command in the container of an instance's directory.
    pub fn new(runtime: OciRuntime, directory: &Path, id: String) -> Self {
        let mark = format!("exec-{}-{}", std::process::id(), files::now_ms());
        Self { runtime, directory: directory.to_owned(), id, mark }
    }

    /// Starts the command; gives the process that ends as it does. The other side of its terminal is put to the `descriptors`.
    pub fn start(&self, entry: Entry, descriptors: &mut Vec<OwnedFd>) -> Result<i32, String> {
        become_subreaper()?;
        let files = self.directory.join(BUNDLE).join(&self.mark);
        fs::create_dir(&files).map_err(|error| format!("make {}: {error}", files.display()))?;
        let started = self.start_with(entry, &files, descriptors);
        fs::remove_dir_all(&files).ok();
        started
    }

    fn start_with(&self, entry: Entry, files: &Path, descriptors: &mut Vec<OwnedFd>) -> Result<i32, String> {
        let process = self.process(&entry)?;
        files::write_json(&files.join("process.json"), &process, false)
            .map_err(|error| format!("write process.json: {error}"))?;
        let mut exec = self.call(files);
        exec.arg("--detach");
        let errors;
        match (entry.exec.terminal, <[OwnedFd; 3]>::try_from(entry.streams)) {
            (Some(size), _) => {
                // A socket's name may have 107 bytes; the runtime is in the instance's directory, and so are we.
                std::env::set_current_dir(&self.directory).map_err(|error| format!("enter its directory: {error}"))?;
                let name = Path::new(BUNDLE).join(&self.mark).join("console");
                let console = UnixListener::bind(&name).map_err(|error| format!("listen for its terminal: {error}"))?;
                let end;
                (errors, end) = pipe()?;
                let status = finish(exec.arg("--console-socket").arg(&name).arg(&self.id).stderr(end), START_MAX)?;
                self.check(status, exec, &errors)?;
                descriptors.push(take_terminal(&console, size)?);
            }
            (None, Ok([stdin, stdout, stderr])) => {
                let ours = descriptors.get(1).ok_or("it has no standard streams")?;
                errors = ours.try_clone().map(File::from).map_err(|error| format!("set up a pipe: {error}"))?;
                fcntl(&errors, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
                    .map_err(|error| format!("set up a pipe: {error}"))?;
                let status = finish(exec.arg(&self.id).stdin(stdin).stdout(stdout).stderr(stderr), START_MAX)?;
                self.check(status, exec, &errors)?;
            }
            (None, Err(_)) => return Err("it has no standard streams".to_owned()),
        }
        let pid = fs::read_to_string(files.join("pid")).map_err(|error| format!("read its process id: {error}"))?;
        pid.trim().parse().map_err(|_| format!("{} exec left no process id", self.runtime.path))
    }

    /// `exec` with its files, without a container.
    fn call(&self, files: &Path) -> Command {
        let mut exec = runtime::call(&self.runtime, &self.directory, "exec");
        exec.arg("--process").arg(files.join("process.json")).arg("--pid-file").arg(files.join("pid"));
        exec
    }

    /// Also closes what the call holds of pipes.
    fn check(&self, status: ExitStatus, call: Command, errors: &File) -> Result<(), String> {
        drop(call);
        if status.success() { Ok(()) } else { Err(format!("{} exec: {}", self.runtime.path, why(status, errors))) }
    }

    /// What is run: as the container's first process, but for the command.
    fn process(&self, entry: &Entry) -> Result<Process, String> {
        let mut process = entry.spec.process().clone().ok_or("its bundle names no process")?;
        let added = entry.exec.env.iter().map(|(name, value)| format!("{name}={value}"));
        let mut env: Vec<String> = process.env().iter().flatten().cloned().collect();
        env.retain(|variable| {
            variable.split_once('=').is_none_or(|(name, _)| !entry.exec.env.contains_key(name) && name != MARK)
        });
        env.extend(added.chain([format!("{MARK}={}", self.mark)]));
        process
            .set_args(Some(entry.exec.command.clone()))
            .set_env(Some(env))
            .set_terminal(Some(entry.exec.terminal.is_some()));
        if let Some((rows, columns)) = entry.exec.terminal {
            let size = BoxBuilder::default().height(rows).width(columns).build();
            process.set_console_size(Some(size.map_err(|error| format!("size its terminal: {error}"))?));
        }
        Ok(process)
    }

    /// Sends a signal to the command and all that it has started; does not wait for that.
    pub fn signal(&self, signal: Signal) {
        // Collected with all other children.
        self.signaller(signal).spawn().ok();
    }

    /// Ends all that is left of the command.
    pub fn end(&self) {
        finish(&mut self.signaller(Signal::SIGKILL), SIGNAL_MAX).ok();
    }

    fn signaller(&self, signal: Signal) -> Command {
        let mut exec = runtime::call(&self.runtime, &self.directory, "exec");
        exec.arg(&self.id).args([INSIDE, "--signal", &(signal as i32).to_string(), &format!("{MARK}={}", self.mark)]);
        exec
    }
}

/// Takes the terminal's other side, which the runtime has sent.
fn take_terminal(console: &UnixListener, (rows, columns): (u16, u16)) -> Result<OwnedFd, String> {
    let failed = |error: std::io::Error| format!("take its terminal: {error}");
    console.set_nonblocking(true).map_err(failed)?;
    let (stream, _) = console.accept().map_err(failed)?;
    let mut text = [0; 4096];
    let mut space = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
        .map_err(|error| failed(error.into()))?;
    let passed = message.cmsgs().map_err(|error| failed(error.into()))?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just given it to us.
    let terminal = passed.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).ok_or("the runtime sent no terminal")?;
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: reads one structure, which lives through the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
        .map_err(|error| failed(error.into()))?;
    Ok(terminal)
}

/// `--signal NUMBER VARIABLE`: in the container, sends a signal to each process with this variable in its environment.
pub fn send_signal(signal: i32, variable: &[u8]) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|found| found == variable) {
            // SAFETY: no memory is concerned.
            unsafe { libc::kill(pid, signal) };
        }
    }
}
