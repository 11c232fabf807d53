//! The emulated machine: one boot, and what its console says.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::{boots::Boot, verdict};
use crate::run::hears;

/// Seconds that a boot in which each program runs once may take; it is ended then. It takes up to 535 on two cores with three
/// times the work.
const SECONDS_MAX: usize = 600;

/// Told to the kernel. When a processor stands still in it for a minute (twice the threshold), the machine ends and says what all
/// processors are at (64), instead of standing until its time is up. Those of a busy machine wait for seconds, not for a minute.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 loglevel=3 watchdog_thresh=30 softlockup_panic=1 panic_print=64";

/// What the machine is made of.
pub(crate) struct Parts<'a> {
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    pub disk: &'a Path,
}

/// Boots the machine and waits until its power is off. Writes all that it says to `log`, and gives it back in lines.
///
/// # Errors
/// When the emulator cannot be started, or the log not be written.
pub(crate) fn run(boot: &Boot, parts: &Parts<'_>, log: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("timeout");
    let seconds_max = (SECONDS_MAX * boot.times).to_string();
    command.args(["--foreground", "--signal=KILL", &seconds_max, "qemu-system-x86_64"]);
    // A reset ends the emulator: that is how the machine cuts its own power.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024", "-no-reboot"]);
    command.args(["-nodefaults", "-display", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(parts.kernel).arg("-initrd").arg(parts.initrd);
    let kernel_arguments = format!("{KERNEL_ARGUMENTS} insula.boot={}", boot.number);
    command.args(["-append", &kernel_arguments]);
    // What the machine has not synced is lost with it; what it has need not outlive this machine as well.
    command.args(["-drive", &format!("file={},format=raw,if=virtio,cache=unsafe", parts.disk.display())]);
    let mut child = hears(&mut command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start timeout, which starts the emulator")?;
    let mut file = File::create(log).with_context(|| format!("make {}", log.display()))?;
    let mut lines = Vec::new();
    let mut console = BufReader::new(child.stdout.take().context("the emulator has no output")?);
    let mut line = Vec::new();
    while console.read_until(b'\n', &mut line).context("read the console")? > 0 {
        file.write_all(&line).with_context(|| format!("write {}", log.display()))?;
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        verdict::print(&text);
        lines.push(text);
        line.clear();
    }
    child.wait().context("wait for the emulator")?;
    Ok(lines)
}
