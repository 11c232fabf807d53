//! Logs of instances: read while they run, kept for a while after they were removed.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::{Duration, SystemTime},
};

/// Removed instances whose logs are kept, at most; with two files each this bounds the bytes.
const KEPT_INSTANCES_MAX: usize = 50;
/// How long logs of removed instances are kept.
const KEPT_MAX: Duration = Duration::from_secs(7 * 86_400);
/// The older file first.
const FILES: [&str; 2] = ["log.1", "log"];

/// The last whole lines in `directory`, at most `bytes_max` bytes of them.
pub(crate) fn tail(directory: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let (mut kept, mut left) = (Vec::new(), bytes_max);
    let mut is_cut = false;
    for name in FILES.iter().rev() {
        let mut file = match File::open(directory.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let len = file.metadata()?.len();
        let taken = len.min(left);
        is_cut = taken < len;
        file.seek(SeekFrom::Start(len - taken))?;
        let mut bytes = Vec::new();
        file.take(taken).read_to_end(&mut bytes)?;
        bytes.append(&mut kept);
        kept = bytes;
        left -= taken;
        if left == 0 {
            break;
        }
    }
    if is_cut {
        let end = kept.iter().position(|byte| *byte == b'\n').map_or(kept.len(), |at| at + 1);
        kept.drain(..end);
    }
    Ok(kept)
}

/// Moves the logs of an instance that is being removed.
pub(crate) fn keep(home: &Path, kept: &Path) -> io::Result<()> {
    for name in FILES {
        let from = home.join(name);
        if from.exists() {
            fs::create_dir_all(kept)?;
            fs::rename(from, kept.join(name))?;
        }
    }
    Ok(())
}

/// Removes kept logs that are too old or too many, the oldest first.
pub(crate) fn prune(kept: &Path, now: SystemTime) -> io::Result<()> {
    let mut found: Vec<(SystemTime, std::path::PathBuf)> = Vec::new();
    for entry in fs::read_dir(kept)? {
        let entry = entry?;
        found.push((entry.metadata()?.modified()?, entry.path()));
    }
    found.sort();
    let surplus = found.len().saturating_sub(KEPT_INSTANCES_MAX);
    for (at, (modified, path)) in found.into_iter().enumerate() {
        if at < surplus || now.duration_since(modified).is_ok_and(|age| age > KEPT_MAX) {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_has_whole_lines_and_spans_both_files() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(tail(dir.path(), 100).expect("no files"), b"");
        fs::write(dir.path().join("log.1"), "one\ntwo\n").expect("write");
        fs::write(dir.path().join("log"), "three\nfour\n").expect("write");
        for (max, expected) in [(100, "one\ntwo\nthree\nfour\n"), (14, "three\nfour\n"), (8, "four\n"), (3, "")] {
            assert_eq!(String::from_utf8(tail(dir.path(), max).expect("read")).expect("text"), expected, "{max}");
        }
    }
}
