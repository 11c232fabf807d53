//! What instances lack within their limits, or take too much of: read from the kernel's counters, the file systems that
//! they write to, and their shims. What of it is worth telling is decided by others (`agent`).

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use insula_types::InstanceId;
use rustix::fs::statvfs;

use crate::{
    cgroup::Counters,
    record::{Home, Record},
};

/// What is known of one instance. Counters begin with its start; what cannot be read is zero, or missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pressure {
    /// How often it could not start a process or thread, for being at its limit of them.
    pub forks_refused: u64,
    /// Processes of it that were killed for lack of memory within its limit.
    pub oom_kills: u64,
    /// Periods of the scheduler in which it wanted to run …
    pub cpu_periods: u64,
    /// … and those of them in which it was held back, for having used up its share.
    pub cpu_throttled: u64,
    /// Lines of its log that were dropped.
    pub log_lines_dropped: u64,
    /// How full the file systems are that it writes to and that have a bound of their own.
    pub disks: Vec<DiskFill>,
}

/// What is known of the instances of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pressures {
    /// Of those that are here, ordered by id.
    pub here: Vec<(InstanceId, Pressure)>,
    /// Of those that were removed since they were asked for before, as it was at their end, in that order. One that was started
    /// again is among those that are here, too, with counters that began anew.
    pub removed: Vec<(InstanceId, Pressure)>,
}

/// How full a file system of an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFill {
    /// The name of a volume; none: the layer above its image.
    pub volume: Option<String>,
    /// Bytes in use, in percent.
    pub bytes_percent: u8,
    /// Files in use, in percent.
    pub files_percent: u8,
}

/// Reads what the kernel says. Blocks.
pub(crate) fn read(record: &Record, home: &Home) -> Pressure {
    let counters = record.cgroup.as_deref().map(Counters::read).unwrap_or_default();
    let layer = record.is_container().then(|| (None, home.layer()));
    let volume = |name: &str| (Some(name.to_owned()), home.volumes().join(name));
    let volumes = record.config.volumes().map(|(reference, _)| volume(reference.name.as_str()));
    let disks = layer.into_iter().chain(volumes).filter_map(|(volume, at)| fill(home.path(), volume, &at)).collect();
    Pressure {
        forks_refused: counters.forks_refused,
        oom_kills: counters.oom_kills,
        cpu_periods: counters.cpu_periods,
        cpu_throttled: counters.cpu_throttled,
        log_lines_dropped: 0,
        disks,
    }
}

/// None where nothing is mounted: what would be read there is the node's own disk.
fn fill(home: &Path, volume: Option<String>, at: &PathBuf) -> Option<DiskFill> {
    if !is_own_mount(home, at)? {
        return None;
    }
    let found = statvfs(at).ok()?;
    // What is left for root alone is not the instance's.
    let bytes_percent = percent(found.f_blocks.saturating_sub(found.f_bfree), found.f_bavail);
    let files_percent = percent(found.f_files.saturating_sub(found.f_ffree), found.f_favail);
    Some(DiskFill { volume, bytes_percent, files_percent })
}

/// Whether something is mounted there; none when that cannot be said.
pub(crate) fn is_own_mount(home: &Path, at: &Path) -> Option<bool> {
    let device = |path: &Path| fs::metadata(path).ok().map(|meta| meta.dev());
    Some(device(at)? != device(home)?)
}

/// The share of what is used in what is used and free; rounded up, so that only an empty one is at 0.
fn percent(used: u64, free: u64) -> u8 {
    let all = u128::from(used) + u128::from(free);
    let percent = (u128::from(used) * 100).div_ceil(all.max(1));
    u8::try_from(percent).unwrap_or(100).min(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        assert_eq!([percent(0, 0), percent(0, 5), percent(1, 999), percent(50, 50), percent(7, 0)], [0, 0, 1, 50, 100]);
        assert_eq!(percent(u64::MAX, u64::MAX), 50);
    }

    #[test]
    fn what_is_not_mounted_is_not_looked_at() {
        let dir = std::env::temp_dir();
        assert_eq!(fill(&dir, None, &dir), None);
        assert_eq!(fill(&dir, None, &dir.join("insula-there-is-no-such-directory")), None);
        let proc = PathBuf::from("/proc");
        let found = fill(&dir, Some("data".to_owned()), &proc).expect("another file system");
        assert_eq!(found.volume.as_deref(), Some("data"));
    }
}
