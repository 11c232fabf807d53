//! `insula-shim DIRECTORY`: starts one instance, keeps its logs, tells how it ended. `insula-shim --exec DIRECTORY`: runs one
//! more command in it. `insula-shim --freeze DIRECTORY`: keeps a file system still. In containers of runtimes of the node's,
//! `insula-shim --init` is a first process, and `--signal` sends signals. The contract is in `protocol`.
//!
//! Single-threaded, because the container library clones without exec. Leaves its starter at once, so that the instance
//! outlives the agent. Makes nothing that the agent does not know of: mounts, network and cgroup are removed by it.

#[path = "../../crates/container/src/shim/protocol.rs"]
#[allow(dead_code, reason = "the other half is used by the agent")]
mod protocol;

mod control;
mod exec;
mod files;
mod freeze;
mod init;
mod log;
mod runtime;
mod start;
mod supervise;

use std::{
    io::Write,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::unistd::{ForkResult, fork, setsid};
use protocol::{Reply, VERSION};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if std::env::args_os().nth(1).is_some_and(|mode| mode == "--init") {
        return init::run(&arguments.skip(1).collect::<Vec<_>>());
    }
    let (first, second) = (arguments.next(), arguments.next());
    let directory = match (first, second, arguments.next()) {
        (Some(mode), Some(directory), None) if mode == "--exec" => return exec::run(Path::new(&directory)),
        (Some(mode), Some(directory), None) if mode == "--freeze" => return freeze::run(Path::new(&directory)),
        (Some(mode), None, None) if mode == "--hold" => return hold(),
        (Some(mode), Some(signal), Some(variable)) if mode == "--signal" => {
            return exec::send_signal(&signal, &variable);
        }
        (Some(directory), None, None) => PathBuf::from(directory),
        _ => {
            eprintln!("usage: insula-shim [--exec] DIRECTORY (of an instance; it is started by the node agent)");
            return ExitCode::from(2);
        }
    };
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => ExitCode::SUCCESS,
        Ok(ForkResult::Child) => run(&directory),
        Err(error) => {
            tell(&Reply { error: Some(format!("fork: {error}")), ..Reply::default() });
            ExitCode::FAILURE
        }
    }
}

/// Only exists, until its input ends: the agent needs a process in a user namespace to set that up.
fn hold() -> ExitCode {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
    ExitCode::SUCCESS
}

/// The shim proper, in a session of its own. The starter reads one line, whatever happens.
fn run(directory: &Path) -> ExitCode {
    match setsid().map_err(|error| format!("leave the session: {error}")).and_then(|_| start::start(directory)) {
        Ok(work) => {
            tell(&Reply { running: Some(work.running.clone()), ..Reply::default() });
            leave_standard_streams();
            supervise::Supervisor::new(work).run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            tell(&Reply { error: Some(error), ..Reply::default() });
            ExitCode::FAILURE
        }
    }
}

/// One line on standard output. A starter that went away meanwhile is no reason to stop.
fn tell(reply: &Reply) {
    let mut line = serde_json::to_vec(&Reply { version: VERSION, ..reply.clone() }).unwrap_or_default();
    line.push(b'\n');
    let mut out = std::io::stdout();
    out.write_all(&line).and_then(|()| out.flush()).ok();
}

/// Points the standard streams at nothing: the starter waits for the end of its pipe.
fn leave_standard_streams() {
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        nix::unistd::dup2_stdin(&null).ok();
        nix::unistd::dup2_stdout(&null).ok();
        nix::unistd::dup2_stderr(&null).ok();
        // Should /dev/null itself have become one of the three (they were closed), keep it open.
        if null.as_raw_fd() <= 2 {
            std::mem::forget(null);
        }
    }
}
