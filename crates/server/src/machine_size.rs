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
    fn memory_is_read_from_meminfo() {
        assert_eq!(
            amount("MemTotal:       24604904 kB\nMemFree: 1 kB\n", "MemTotal:"),
            Some(ByteSize(24_604_904 << 10))
        );
        assert_eq!(amount("nothing", "MemTotal:"), None);
        assert!(detect().memory > ByteSize::mib(16) && detect().cpu.0 >= 1000);
    }
}
