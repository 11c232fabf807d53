//! Control groups of containers: paths, what the kernel counts in them, ending and removing them. Limits are set by
//! the shim. Works on version 1, version 2, and the hybrid of both.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use insula_env::clock;
use insula_types::{Capacity, CpuMillis};
use rustix::process::{Pid, Signal, kill_process};

const ROOT: &str = "/sys/fs/cgroup";
/// How long killed processes may take until their cgroup is empty, and how often that is looked at.
const EMPTY_MAX: Duration = Duration::from_secs(5);
const EMPTY_POLL: Duration = Duration::from_millis(2);

/// Whether the one hierarchy of version 2 is in use.
pub(crate) fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// To be called some milliseconds before a process is moved into a cgroup, so that the move need not wait. Blocks meanwhile.
///
/// The kernel keeps forks and moves apart with a lock that is made for forks: the first move waits until all processors have
/// noticed (a grace period of RCU, 13 ms where this was measured), further ones soon after it do not. So the agent moves
/// itself to where it is already. Without effect where the kernel was told to favour moves (`favordynmods`).
pub(crate) fn expect_move() -> io::Result<()> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let Some(directory) = own_directory(&own) else { return Ok(()) };
    fs::write(directory.join("cgroup.procs"), std::process::id().to_string())
}

/// The directory of the cgroup that a process is in, by its `/proc/PID/cgroup`; with several hierarchies, in that of `pids`.
fn own_directory(lines: &str) -> Option<PathBuf> {
    let (root, mark) = if is_unified() { (ROOT.into(), "0::/") } else { (Path::new(ROOT).join("pids"), ":pids:/") };
    // In a cgroup namespace it may lie outside of what is seen.
    let path = lines.lines().find_map(|line| Some(line.split_once(mark)?.1)).filter(|path| !path.contains(".."))?;
    Some(root.join(path))
}

/// The file with a line `oom_kill N`.
pub(crate) fn oom_counter(cgroup: &str) -> PathBuf {
    let relative = cgroup.trim_start_matches('/');
    if is_unified() {
        Path::new(ROOT).join(relative).join("memory.events")
    } else {
        Path::new(ROOT).join("memory").join(relative).join("memory.oom_control")
    }
}

/// The directories of a cgroup in all hierarchies that have it.
fn directories(cgroup: &str) -> Vec<PathBuf> {
    let relative = cgroup.trim_start_matches('/');
    let mut roots = vec![PathBuf::from(ROOT)];
    if !is_unified() {
        roots.extend(fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    let mut found: Vec<PathBuf> =
        roots.into_iter().map(|root| root.join(relative)).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// What the kernel has counted in a cgroup; zero where it does not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Forks refused at the limit of processes.
    pub forks_refused: u64,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
    /// Periods in which something wanted to run, and those in which it was held back.
    pub cpu_periods: u64,
    pub cpu_throttled: u64,
}

impl Counters {
    /// Reads those of a cgroup, in whatever hierarchies it is. Blocks.
    pub fn read(cgroup: &str) -> Self {
        Self::read_in(&directories(cgroup))
    }

    fn read_in(directories: &[PathBuf]) -> Self {
        let value = |file: &str, key: &str| {
            let mut texts = directories.iter().filter_map(|directory| fs::read_to_string(directory.join(file)).ok());
            texts.find_map(|text| flat(&text, key)).unwrap_or(0)
        };
        Self {
            forks_refused: value("pids.events", "max"),
            // Of version 2, and of version 1.
            oom_kills: value("memory.events", "oom_kill").max(value("memory.oom_control", "oom_kill")),
            cpu_periods: value("cpu.stat", "nr_periods"),
            cpu_throttled: value("cpu.stat", "nr_throttled"),
        }
    }
}

/// What the processes in a cgroup use, and in those below it; zero where the kernel does not say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// CPU time since it was made, in microseconds.
    pub cpu_us: u64,
    /// Bytes, without caches of files that were not used lately.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u32,
}

impl Used {
    /// Reads that of a cgroup, in whatever hierarchies it is. Blocks.
    pub fn read(cgroup: &str) -> Self {
        Self::read_in(&directories(cgroup))
    }

    fn read_in(directories: &[PathBuf]) -> Self {
        let text = |file: &str| directories.iter().find_map(|directory| fs::read_to_string(directory.join(file)).ok());
        let number = |file: &str| text(file)?.trim().parse::<u64>().ok();
        let value = |file: &str, key: &str| flat(&text(file)?, key);
        // Of version 2 each first, then of version 1.
        let cpu_us = value("cpu.stat", "usage_usec").or_else(|| Some(number("cpuacct.usage")? / 1000));
        let memory = number("memory.current").or_else(|| number("memory.usage_in_bytes")).unwrap_or(0);
        // In version 1, `inactive_file` is without the cgroups below.
        let unused = value("memory.stat", "total_inactive_file").or_else(|| value("memory.stat", "inactive_file"));
        let pids = number("pids.current").unwrap_or(0);
        Self {
            cpu_us: cpu_us.unwrap_or(0),
            memory: memory.saturating_sub(unused.unwrap_or(0)),
            pids: u32::try_from(pids).unwrap_or(u32::MAX),
        }
    }
}

/// The value of a line `KEY VALUE`.
fn flat(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Names of the cgroups right below `parent`, in any hierarchy.
pub(crate) fn children(parent: &str) -> Vec<String> {
    let mut names: Vec<String> = directories(parent)
        .iter()
        .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Length of the period over which CPU time is given out. Whoever may use a quarter of a processor and wants all of it takes it
/// at the beginning of each period, and others wait: beside such a one the slowest of a hundred requests took 10 ms with the
/// kernel's own 100 ms, 2.8 ms with 20 ms (and 2.4 ms alone). Shorter ones hold back those who ask for little.
const CPU_PERIOD_US: u64 = 20_000;
/// The longest, for those who may use so little that a short one cannot say it, and the least that the kernel gives in any.
const CPU_PERIOD_US_MAX: u64 = 100_000;
const CPU_QUOTA_US_MIN: u64 = 1000;

/// CPU time in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    pub quota_us: u64,
    pub period_us: u64,
}

impl Bandwidth {
    /// So many thousandths of a processor, at least a hundredth.
    pub fn of(cpu: CpuMillis) -> Self {
        let millis = u64::from(cpu.0).max(1);
        let period_us = (CPU_QUOTA_US_MIN * 1000 / millis).clamp(CPU_PERIOD_US, CPU_PERIOD_US_MAX);
        Self { quota_us: (millis * period_us / 1000).max(CPU_QUOTA_US_MIN), period_us }
    }

    /// What may be taken beyond that in a period, of what was left in earlier ones: a tenth, which is what the node's reserve
    /// has for all together.
    pub const fn burst_us(self) -> u64 {
        self.quota_us / 10
    }
}

/// Whether the kernel lets a cgroup have what it has left in earlier periods: Linux 5.14 and later.
pub(crate) fn can_burst() -> bool {
    let release = rustix::system::uname();
    let mut numbers = release.release().to_str().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok()).unwrap_or_default();
    (number(), number()) >= (5, 14)
}

/// Bounds what all below `parent` use together, whatever each may; makes it when it is missing. The kernel refuses less CPU
/// time than one below it has already, with version 1 also less memory than is in use.
pub(crate) fn bound(parent: &str, limit: Capacity) -> io::Result<()> {
    let relative = parent.trim_matches('/');
    let (memory, cpu) = (limit.memory.0.to_string(), Bandwidth::of(limit.cpu));
    if is_unified() {
        let directory = Path::new(ROOT).join(relative);
        fs::create_dir_all(&directory)?;
        let above = directory.ancestors().skip(1).take_while(|above| above.starts_with(ROOT));
        for above in above.collect::<Vec<_>>().into_iter().rev() {
            fs::write(above.join("cgroup.subtree_control"), "+cpu +memory")?;
        }
        fs::write(directory.join("memory.max"), memory)?;
        return fs::write(directory.join("cpu.max"), format!("{} {}", cpu.quota_us, cpu.period_us));
    }
    for (hierarchy, file, value) in [
        ("memory", "memory.limit_in_bytes", memory),
        // First: the other way round it would be less for a moment than some below it have.
        ("cpu", "cpu.cfs_period_us", cpu.period_us.to_string()),
        ("cpu", "cpu.cfs_quota_us", cpu.quota_us.to_string()),
    ] {
        let directory = Path::new(ROOT).join(hierarchy).join(relative);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(file), value)?;
    }
    Ok(())
}

/// What the names of cgroups of single commands begin with.
const OWN_PREFIX: &str = "exec-";

/// Where a command in a container goes.
pub(crate) struct Own {
    /// Files that take a process into it, and into those of its container.
    pub enter: Vec<PathBuf>,
    /// The cgroup that is only its own, below that of its container, whose limits hold for it.
    pub own: PathBuf,
}

/// Makes a cgroup below that of a container for one command, by which all that it starts can be found. Where there are
/// several hierarchies, in that of `pids` only: in the others, what belongs to the container is counted as one.
pub(crate) fn make_own(cgroup: &str, mut number: impl FnMut() -> u64) -> io::Result<Own> {
    let relative = cgroup.trim_start_matches('/');
    let root = if is_unified() { PathBuf::from(ROOT) } else { Path::new(ROOT).join("pids") };
    let container = root.join(relative);
    let own = loop {
        let own = container.join(format!("{OWN_PREFIX}{}", number()));
        match fs::create_dir(&own) {
            // Of an earlier life of this program.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => break made.map(|()| own)?,
        }
    };
    let others = directories(cgroup).into_iter().filter(|directory| *directory != container);
    let enter = others.chain([own.clone()]).map(|directory| directory.join("cgroup.procs")).collect();
    Ok(Own { enter, own })
}

/// Ends what is left of a command, and removes its cgroup. Fine when that is gone.
pub(crate) async fn end_own(own: &Path) -> io::Result<()> {
    end_all(&[own.to_owned()]).await?;
    remove_directory(own).await
}

/// Ends what commands of an earlier life of this program left in a container that runs.
pub(crate) async fn end_owns(cgroup: &str) -> io::Result<()> {
    for name in owns(cgroup) {
        for directory in directories(&format!("{cgroup}/{name}")) {
            end_own(&directory).await?;
        }
    }
    Ok(())
}

/// Names of the cgroups of single commands in that of a container.
pub(crate) fn owns(cgroup: &str) -> Vec<String> {
    children(cgroup).into_iter().filter(|name| name.starts_with(OWN_PREFIX)).collect()
}

/// Kills every process of the cgroup, and of those below it, and waits until there is none.
pub(crate) async fn kill(cgroup: &str) -> io::Result<()> {
    let below = children(cgroup).into_iter().flat_map(|name| directories(&format!("{cgroup}/{name}")));
    let all: Vec<PathBuf> = below.chain(directories(cgroup)).collect();
    end_all(&all).await
}

async fn end_all(directories: &[PathBuf]) -> io::Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        let mut is_empty = true;
        for directory in directories {
            is_empty &= kill_in(directory)?;
        }
        if is_empty {
            return Ok(());
        }
        if waited >= EMPTY_MAX {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its processes do not end"));
        }
        clock::sleep(EMPTY_POLL).await;
        waited += EMPTY_POLL;
    }
}

/// Kills what there is now; gives whether there was nothing.
fn kill_in(directory: &Path) -> io::Result<bool> {
    // Version 2 since Linux 5.14: everything below as well, and what is forked meanwhile.
    let at_once = directory.join("cgroup.kill");
    if at_once.exists() {
        let attempt = || {
            let events = fs::read_to_string(directory.join("cgroup.events"))?;
            let is_empty = events.lines().any(|line| line == "populated 0");
            if is_empty { Ok(true) } else { fs::write(at_once, "1").map(|()| false) }
        };
        // A command's may be removed meanwhile.
        return attempt().or_else(|error| if directory.exists() { Err(error) } else { Ok(true) });
    }
    let pids = pids(directory);
    for pid in &pids {
        kill_process(*pid, Signal::KILL).ok();
    }
    Ok(pids.is_empty())
}

fn pids(directory: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw).collect()
}

/// Removes the empty cgroup everywhere, and those below it. A process that was killed may keep it for a moment.
pub(crate) async fn remove(cgroup: &str) -> io::Result<()> {
    for directory in directories(cgroup) {
        remove_directory(&directory).await?;
    }
    Ok(())
}

async fn remove_directory(directory: &Path) -> io::Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        match remove_tree(directory) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && waited < EMPTY_MAX => {
                clock::sleep(EMPTY_POLL).await;
                waited += EMPTY_POLL;
            }
            result => return result,
        }
    }
}

/// Instances may have made cgroups of their own below theirs.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_in_its_cgroup() {
        for (lines, path) in [
            (
                "5:pids:/system.slice/insula.service\n0::/system.slice/insula.service\n",
                Some("system.slice/insula.service"),
            ),
            ("5:pids:/\n0::/\n", Some("")),
            ("5:pids:/../other\n0::/../other\n", None),
            ("4:memory:/a\n", None),
        ] {
            let found = own_directory(lines);
            assert_eq!(found.is_some(), path.is_some(), "{lines}");
            assert!(path.is_none_or(|path| found.is_some_and(|found| found.ends_with(path))), "{lines}");
        }
    }

    #[test]
    fn cpu_time_is_given_out_in_short_periods() {
        for (millis, quota_us, period_us) in
            [(2000, 40_000, 20_000), (50, 1000, 20_000), (40, 1000, 25_000), (10, 1000, 100_000), (0, 1000, 100_000)]
        {
            assert_eq!(Bandwidth::of(CpuMillis(millis)), Bandwidth { quota_us, period_us }, "{millis}");
        }
    }

    #[test]
    fn moving_to_where_we_are_changes_nothing() {
        let before = fs::read_to_string("/proc/self/cgroup").expect("a kernel with cgroups");
        // Without root it is refused.
        expect_move().ok();
        assert_eq!(fs::read_to_string("/proc/self/cgroup").expect("as before"), before);
    }

    #[test]
    fn counters_of_both_versions_are_read() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("make");
            fs::write(path, text).expect("write");
        };
        // As Linux 6.1 writes them.
        write("v2/pids.events", "max 7\n");
        write("v2/memory.events", "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n");
        write(
            "v2/cpu.stat",
            "usage_usec 51\nuser_usec 50\nsystem_usec 1\nnr_periods 40\nnr_throttled 30\nthrottled_usec 9\n",
        );
        write("v1/pids/pids.events", "max 7\n");
        write("v1/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        write("v1/cpu/cpu.stat", "nr_periods 40\nnr_throttled 30\nthrottled_time 9000\nnr_bursts 0\nburst_time 0\n");
        let expected = Counters { forks_refused: 7, oom_kills: 2, cpu_periods: 40, cpu_throttled: 30 };
        let read =
            |names: &[&str]| Counters::read_in(&names.iter().map(|name| root.path().join(name)).collect::<Vec<_>>());
        assert_eq!(read(&["v2"]), expected);
        assert_eq!(read(&["v1/cpu", "v1/memory", "v1/pids"]), expected);
        assert_eq!(read(&["gone"]), Counters::default());
    }

    #[test]
    fn what_is_used_is_read_of_both_versions() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("make");
            fs::write(path, text).expect("write");
        };
        write("v2/cpu.stat", "usage_usec 51000\nuser_usec 50\n");
        write("v2/memory.current", "1000\n");
        write("v2/memory.stat", "anon 500\ninactive_file 300\nactive_file 7\n");
        write("v2/pids.current", "3\n");
        // As Linux 6.1 writes them: `cpu.stat` is there in both, and says less in version 1.
        write("v1/cpu/cpu.stat", "nr_periods 40\nnr_throttled 30\nthrottled_time 9000\n");
        write("v1/cpuacct/cpuacct.usage", "51000000\n");
        write("v1/memory/memory.usage_in_bytes", "1000\n");
        write("v1/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 300\n");
        write("v1/pids/pids.current", "3\n");
        let read = |names: &[&str]| Used::read_in(&names.iter().map(|name| root.path().join(name)).collect::<Vec<_>>());
        let expected = Used { cpu_us: 51_000, memory: 700, pids: 3 };
        assert_eq!(read(&["v2"]), expected);
        assert_eq!(read(&["v1/cpu", "v1/cpuacct", "v1/memory", "v1/pids"]), expected);
        assert_eq!(read(&["gone"]), Used::default());
    }
}
