//! Running programs, seen by the person at the terminal.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// The top of the repository.
pub(crate) fn top() -> PathBuf {
    // xtask lies directly below it.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(top());
    command
}

/// Leaves Ctrl-C to what we run: it takes down what it made, and its end is ours.
pub(crate) fn leave_interrupts_to_children() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    // Where it cannot be held back, Ctrl-C ends us first; nothing is lost by that but order.
    signals.thread_block().ok();
}

/// Lets a command hear Ctrl-C, which we do not.
pub(crate) fn hears(command: &mut Command) -> &mut Command {
    // SAFETY: setting the signal mask is allowed between fork and exec.
    unsafe { command.pre_exec(|| SigSet::empty().thread_set_mask().map_err(std::io::Error::from)) }
}

/// Runs a command to its end; says what it is first.
///
/// # Errors
/// When it cannot be started, or does not end with 0.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    println!("── {what}");
    let status = hears(command).status().with_context(|| format!("start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// Whether `cargo NAME` is installed.
pub(crate) fn has_cargo_tool(name: &str) -> bool {
    cargo().args([name, "--version"]).output().is_ok_and(|output| output.status.success())
}

/// Builds the program as it is shipped and tells its size.
///
/// # Errors
/// When the build fails.
pub(crate) fn dist() -> Result<()> {
    crate::packages::ensure(crate::packages::BUILD)?;
    run("build for shipping", cargo().args(["build", "--profile", "dist", "--package", "insula"]))?;
    let program = top().join("target/dist/insula");
    let bytes = std::fs::metadata(&program).with_context(|| format!("look at {}", program.display()))?.len();
    println!("{}  {:.1} MiB", program.display(), bytes as f64 / f64::from(1 << 20));
    Ok(())
}
