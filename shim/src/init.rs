//! A first process for containers that ask for one: it starts the command, hands signals on to it, and collects whatever
//! ends, orphans of the command's processes included. It ends when the command does, in the same way.
//!
//! No executable of ours comes into the container: the process that would have become the command forks once more and
//! stays as it is. Where the container is only to be there for commands of others, it stays without having started one. Runtimes of
//! the node's cannot do so: they get this program to start ([`run`]).

use std::{
    collections::HashMap,
    ffi::{CString, OsString},
    process::ExitCode,
};

use libcontainer::{
    oci_spec::runtime::Spec,
    workload::{
        Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
        default::{DefaultExecutor, get_executor},
    },
};
use nix::{
    errno::Errno,
    libc,
    sys::{
        prctl,
        signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, execvp, fork},
};

/// Runs the command under a first process of ours.
#[derive(Clone)]
pub struct InitExecutor;

impl Executor for InitExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        start(|| DefaultExecutor {}.exec(spec))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        get_executor().validate(spec)
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        get_executor().setup_envs(envs)
    }
}

/// `--init COMMAND…`: the same in a container of a runtime of the node's, which has started this program; without a command, as
/// [`HoldExecutor`]. Returns only where it is not to be the first process after all.
pub fn run(command: &[OsString]) -> ExitCode {
    let text = |part: &OsString| CString::new(part.as_encoded_bytes()).ok();
    let Some(command) = command.iter().map(text).collect::<Option<Vec<_>>>() else { return ExitCode::from(2) };
    let ended = match command.first() {
        Some(program) => start(|| match execvp(program, &command) {
            Ok(never) => match never {},
            Err(error) => {
                eprintln!("start {}: {}", program.to_string_lossy(), error.desc());
                std::process::exit(if error == Errno::ENOENT { 127 } else { 126 });
            }
        }),
        None => hold(),
    };
    if let Err(error) = ended {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}

/// Runs nothing: a first process that collects orphans until it is killed.
#[derive(Clone)]
pub struct HoldExecutor;

impl Executor for HoldExecutor {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        hold()
    }

    /// Whether there is such a program is for the commands to find.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        get_executor().setup_envs(envs)
    }
}

/// Starts a command in a child and looks after it to its end.
fn start(execute: impl FnOnce() -> Result<(), ExecutorError>) -> Result<(), ExecutorError> {
    let mut before = SigSet::empty();
    // From here on signals wait to be collected; none is lost between the fork and the first look.
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before)).map_err(failed)?;
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() }.map_err(failed)? {
        ForkResult::Child => {
            // A terminal's signals go to a group, and this one's are not for its parent.
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(failed)?;
            pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None).map_err(failed)?;
            execute()
        }
        ForkResult::Parent { child } => {
            withdraw()?;
            std::process::exit(look_after(child));
        }
    }
}

/// Collects orphans until it is killed.
fn hold() -> Result<(), ExecutorError> {
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).map_err(failed)?;
    withdraw()?;
    loop {
        if SigSet::all().wait() == Ok(Signal::SIGCHLD) {
            collect(None);
        }
    }
}

/// Gives up what a first process of ours must not have.
fn withdraw() -> Result<(), ExecutorError> {
    // Else the container's root could reach the shim's file on the node through `/proc/1/exe`.
    prctl::set_dumpable(false).map_err(failed)?;
    // Those who wait for our descriptors to be closed by the command's start, and for the end of its output, shall not wait
    // for this process.
    // SAFETY: all descriptors of this process, of which nothing is used any more.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
    Ok(())
}

fn failed(error: Errno) -> ExecutorError {
    ExecutorError::Other(format!("start the first process: {error}"))
}

/// Until the command has ended; its exit code, or 128 and the signal that ended it, as shells say it.
fn look_after(command: Pid) -> i32 {
    loop {
        match SigSet::all().wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = collect(Some(command)) {
                    return code;
                }
            }
            // A stopped first process would stop the container's housekeeping; the command gets it all the same.
            Ok(signal) => drop(kill(command, signal)),
            Err(_) => {}
        }
    }
}

/// Collects all that have ended; gives the code of the command, when it is among them.
fn collect(command: Option<Pid>) -> Option<i32> {
    let mut code = None;
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, exit)) if Some(pid) == command => code = Some(exit),
            Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid) == command => code = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
            _ => {}
        }
    }
}
