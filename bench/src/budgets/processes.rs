//! What processes use, by `/proc`.

use std::fs;

use anyhow::Context;

/// Clock ticks per second of `/proc/PID/stat`: fixed for user space on Linux.
pub(super) const TICKS_PER_SECOND: f64 = 100.0;

/// Processes in the process namespaces of these, by the path of their program.
pub(super) fn beside(pids: &[u32], is_one: impl Fn(&str) -> bool) -> anyhow::Result<Vec<u32>> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid"));
    let nodes = pids.iter().map(|pid| namespace(*pid)).collect::<Result<Vec<_>, _>>().context("look at a server")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let program = command.split(|byte| *byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default();
        if is_one(&program) && namespace(pid).is_ok_and(|namespace| nodes.contains(&namespace)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Memory of a process, its part of what it shares with others included, in MiB.
pub(crate) fn pss_mib(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("{path} says no Pss"))? / 1024.0)
}

/// Processor time that a process has used, in ticks.
pub(super) fn ticks(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name, in parentheses, may hold anything; user and system time are the 12th and 13th fields after it.
    let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>());
    let field = |index: usize| fields.as_ref()?.get(index)?.parse::<u64>().ok();
    field(11).zip(field(12)).map(|(user, system)| user + system).with_context(|| format!("{path} is not as expected"))
}
