//! What instances use now: read from the kernel's counters, their file systems and their interfaces, when somebody asks.

use std::{fs, path::Path};

use insula_types::{ByteSize, InstanceId, Resources, ServiceRef};
use rustix::fs::statvfs;

use crate::{
    cgroup,
    disk::blocking,
    driver::NodeRuntime,
    error::Error,
    network::veth,
    pressure::is_own_mount,
    record::{Home, Record},
    shim::protocol::Running,
};

/// Length of a tick in which the kernel tells the CPU time of processes, in microseconds: `USER_HZ` is 100 on every
/// architecture that we run on.
const TICK_US: u64 = 10_000;
/// Processes of one instance that are counted, where only the tree of them is known.
const TREE_MAX: usize = 1024;

/// What one instance uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Of which service it is.
    pub service: ServiceRef,
    /// Made for one command.
    pub is_one_off: bool,
    /// What it may use.
    pub limits: Resources,
    /// CPU time since it was started, in microseconds.
    pub cpu_us: u64,
    /// Memory that it cannot do without: caches of files that the kernel may drop at once do not count.
    pub memory: ByteSize,
    /// Processes and threads; of a plain process, processes.
    pub pids: u32,
    /// The layer above its image; none where it has none with a bound of its own.
    pub disk: Option<Filled>,
    /// What its network interface has carried; none of a plain process.
    pub network: Option<Carried>,
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// Bytes in use.
    pub used: ByteSize,
    /// Bytes that it has.
    pub size: ByteSize,
}

/// What an interface has carried, as its instance sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// Bytes that it got.
    pub received: u64,
    /// Bytes that it sent.
    pub sent: u64,
}

impl NodeRuntime {
    /// What the instances of this node that run use, ordered by id. Asks nobody but the kernel: six small files each. Those that
    /// cannot be looked at are missing.
    ///
    /// # Errors
    /// [`Error::File`] when the instances' directory cannot be read.
    pub async fn usages(&self) -> Result<Vec<(InstanceId, Usage)>, Error> {
        let homes: Vec<_> = self.homes()?;
        let look = move || homes.iter().filter_map(|(id, home)| Some((*id, read(*id, home)?))).collect();
        Ok(blocking(self.disk(), look).await)
    }
}

/// None of one that does not run. Blocks.
fn read(instance: InstanceId, home: &Home) -> Option<Usage> {
    let record = home.record().ok()??;
    let running = home.read::<Running>("running.json").ok()??;
    if home.join("exit.json").exists() {
        return None;
    }
    let used = match record.cgroup.as_deref() {
        Some(cgroup) => cgroup::Used::read(cgroup),
        None => of_tree(Path::new("/proc"), &running)?,
    };
    let is_container = record.is_container();
    let Record { config, is_one_off, .. } = record;
    Some(Usage {
        service: config.service,
        is_one_off,
        limits: config.spec.resources,
        cpu_us: used.cpu_us,
        memory: ByteSize(used.memory),
        pids: used.pids,
        disk: is_container.then(|| filled(home)).flatten(),
        network: is_container.then(|| carried(Path::new("/sys/class/net"), &veth(instance))).flatten(),
    })
}

/// None where no layer is mounted: what would be read there is the node's own disk.
fn filled(home: &Home) -> Option<Filled> {
    let layer = home.layer();
    if !is_own_mount(home.path(), &layer)? {
        return None;
    }
    let found = statvfs(&layer).ok()?;
    let bytes = |blocks: u64| ByteSize(blocks.saturating_mul(found.f_frsize));
    Some(Filled { used: bytes(found.f_blocks.saturating_sub(found.f_bfree)), size: bytes(found.f_blocks) })
}

/// What the node's end of a pair got is what the instance sent.
fn carried(interfaces: &Path, name: &str) -> Option<Carried> {
    let statistics = interfaces.join(name).join("statistics");
    let read = |file: &str| fs::read_to_string(statistics.join(file)).ok()?.trim().parse().ok();
    Some(Carried { received: read("tx_bytes")?, sent: read("rx_bytes")? })
}

/// What a process and all below it use: nothing bounds them together, so nothing counts them together either. Of those that
/// end, their parents have the time. None when the process is another one by now.
fn of_tree(proc: &Path, root: &Running) -> Option<cgroup::Used> {
    let mut used = cgroup::Used::default();
    let mut ahead = vec![root.pid.unsigned_abs()];
    while let Some(pid) = ahead.pop().filter(|_| (used.pids as usize) < TREE_MAX) {
        let of_process = proc.join(pid.to_string());
        let text = |file: &str| fs::read_to_string(of_process.join(file)).unwrap_or_default();
        let Some(Stat { started_ticks, used_ticks }) = stat(&text("stat")) else { continue };
        if used.pids == 0 && started_ticks != root.start_ticks {
            return None;
        }
        used.cpu_us += used_ticks.saturating_mul(TICK_US);
        used.memory += resident(&text("status"));
        used.pids += 1;
        let children = text(&format!("task/{pid}/children"));
        ahead.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    (used.pids > 0).then_some(used)
}

/// What `/proc/PID/stat` says.
struct Stat {
    started_ticks: u64,
    /// With that of its children which it has waited for.
    used_ticks: u64,
}

fn stat(text: &str) -> Option<Stat> {
    // What comes after the name, which may have any characters, begins with field 3 as proc(5) counts them.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let times: Option<Vec<u64>> = (14..=17).map(field).collect();
    Some(Stat { started_ticks: field(22)?, used_ticks: times?.into_iter().sum() })
}

/// Bytes in memory, as `/proc/PID/status` says in KiB.
fn resident(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_gets_the_instance_has_sent() {
        let dir = tempfile::tempdir().expect("a directory");
        let statistics = dir.path().join("ins-00000001/statistics");
        fs::create_dir_all(&statistics).expect("make");
        fs::write(statistics.join("rx_bytes"), "7\n").expect("write");
        assert_eq!(carried(dir.path(), "ins-00000001"), None, "half of it");
        fs::write(statistics.join("tx_bytes"), "1000\n").expect("write");
        assert_eq!(carried(dir.path(), "ins-00000001"), Some(Carried { received: 1000, sent: 7 }));
    }

    fn root(pid: i32, start_ticks: u64) -> Running {
        Running { version: 1, pid, start_ticks, started_ms: 0 }
    }

    #[test]
    fn a_tree_of_processes_is_summed_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let process = |pid: u32, name: &str, times: [u64; 4], kib: u64, children: &str| {
            let task = dir.path().join(format!("{pid}/task/{pid}"));
            fs::create_dir_all(&task).expect("make");
            let [user, system, waited_user, waited_system] = times;
            let text = format!(
                "{pid} ({name}) S 1 1 1 0 -1 4194560 9 9 9 9 {user} {system} {waited_user} {waited_system} 20 0 1 0 55 99 12 7\n"
            );
            fs::write(dir.path().join(format!("{pid}/stat")), text).expect("write");
            fs::write(dir.path().join(format!("{pid}/status")), format!("Name:\tx\nVmRSS:\t  {kib} kB\n"))
                .expect("write");
            fs::write(task.join("children"), children).expect("write");
        };
        process(7, "sh) 1 (2", [1, 2, 30, 40], 10, "8 9 ");
        process(8, "worker", [5, 0, 0, 0], 5, "");
        let expected = cgroup::Used { cpu_us: 78 * TICK_US, memory: 15 << 10, pids: 2 };
        assert_eq!(of_tree(dir.path(), &root(7, 55)), Some(expected), "9 has ended meanwhile");
        assert_eq!(of_tree(dir.path(), &root(7, 54)), None, "another process has its id");
        assert_eq!(of_tree(dir.path(), &root(77, 55)), None);
    }

    #[test]
    fn this_process_uses_something() {
        let own = std::process::id();
        let text = fs::read_to_string(format!("/proc/{own}/stat")).expect("a kernel with processes");
        let started = stat(&text).expect("its fields").started_ticks;
        let used = of_tree(Path::new("/proc"), &root(own.cast_signed(), started)).expect("we are here");
        assert!(used.memory > 1 << 20 && used.pids >= 1, "{used:?}");
    }
}
