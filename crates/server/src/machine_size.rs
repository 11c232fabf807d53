//! How large this machine is.

use insula_types::{ByteSize, Capacity, CpuMillis};

/// CPUs and memory that this process may use, as the kernel says. Small but not zero where it says nothing.
pub(crate) fn detect() -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| amount(&text, "MemTotal:"));
    Capacity { cpu: CpuMillis(cpus.saturating_mul(1000)), memory: memory.unwrap_or(ByteSize::mib(256)) }
}

/// Memory that is in use on this machine; 0 where the kernel says nothing.
pub(crate) fn memory_used() -> ByteSize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = amount(&text, "MemTotal:").unwrap_or_default();
    ByteSize(total.0.saturating_sub(amount(&text, "MemAvailable:").unwrap_or(total).0))
}

/// What the processors have done since the machine was started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CpuTimes {
    busy: u64,
    all: u64,
    processors: u32,
}

impl CpuTimes {
    /// CPU time that was used between two looks, as a share of all processors.
    pub(crate) fn since(&self, before: &Self) -> CpuMillis {
        let (busy, all) = (self.busy.saturating_sub(before.busy), self.all.saturating_sub(before.all));
        let millis = u128::from(busy) * u128::from(self.processors) * 1000 / u128::from(all.max(1));
        CpuMillis(u32::try_from(millis).unwrap_or(u32::MAX))
    }
}

/// What the processors of this machine have done; zero where the kernel says nothing.
pub(crate) fn cpu_times() -> CpuTimes {
    std::fs::read_to_string("/proc/stat").map(|text| times(&text)).unwrap_or_default()
}

/// The first lines of /proc/stat (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal; what guests have is in the
/// first two already.
fn times(text: &str) -> CpuTimes {
    let mut lines = text.lines();
    let all = lines.next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = all.split_whitespace().take(8).map_while(|text| text.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let all: u64 = ticks.iter().sum();
    let processors = lines.take_while(|line| line.starts_with("cpu")).count() as u32;
    CpuTimes { busy: all.saturating_sub(idle), all, processors }
}

/// A line like `MemTotal:  24604904 kB` of /proc/meminfo (proc(5); the unit is KiB).
fn amount(text: &str, name: &str) -> Option<ByteSize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteSize(kib.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_from_stat() {
        let stat =
            |user, idle, iowait| format!("cpu  {user} 0 10 {idle} {iowait} 0 0 5 99 99\ncpu0 1 1\ncpu1 1 1\nintr 7\n");
        let (before, after) = (times(&stat(100, 1000, 50)), times(&stat(150, 1100, 100)));
        assert_eq!(before, CpuTimes { busy: 115, all: 1165, processors: 2 });
        assert_eq!(after.since(&before), CpuMillis(500), "a quarter of two");
        assert_eq!(times("nothing"), CpuTimes::default());
        assert_eq!(before.since(&after), CpuMillis(0));
        assert!(cpu_times().processors >= 1);
    }

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(
            amount("MemTotal:       24604904 kB\nMemFree: 1 kB\n", "MemTotal:"),
            Some(ByteSize(24_604_904 << 10))
        );
        assert_eq!(amount("nothing", "MemTotal:"), None);
        assert!(detect().memory > ByteSize::mib(16) && detect().cpu.0 >= 1000);
    }
}
