//! What can be seen of this process without stopping it: its tasks, and of each thread what the kernel shows.

use std::{fmt::Write as _, fs, io, path::Path};

use crate::TaskInfo;

/// Largest report. Hundreds of tasks and the tens of threads of a node fit.
const REPORT_BYTES_MAX: usize = 256 << 10;
/// Most of one file of the kernel that is taken over: a kernel stack has tens of lines.
const FILE_BYTES_MAX: usize = 4096;
/// Files below `/proc/self/task/<thread>` that say where a thread is. Some need root.
const FILES: [&str; 4] = ["wchan", "syscall", "stack", "status"];

/// Every thread of this process, in the kernel's words. What cannot be read is left out.
pub(super) fn threads() -> String {
    let mut text = String::new();
    let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for entry in entries {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let line = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.chars().take(FILE_BYTES_MAX).collect::<String>()
        };
        let name = entry.file_name();
        // Writing to a string does not fail.
        let _ = writeln!(text, "thread {} {}", name.to_string_lossy(), line(&read("comm")).trim());
        for file in FILES {
            let content = line(&read(file));
            let useful = content.lines().filter(|line| file != "status" || is_useful(line));
            for line in useful {
                let _ = writeln!(text, "  {file}: {line}");
            }
        }
    }
    text
}

fn is_useful(line: &str) -> bool {
    ["State:", "SigBlk:", "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
        .iter()
        .any(|key| line.starts_with(key))
}

/// The report on a hung task.
pub(super) fn text(process: &str, hung: &TaskInfo, remedy: &str, list: &[TaskInfo], threads: &str) -> String {
    let mut text =
        format!("{process}: task {} of {} shows no sign of life: {remedy}\n\ntasks\n", hung.name, hung.owner);
    for task in list {
        let beat = task.beat.map_or_else(String::new, |beat| format!(", {:?} of {:?}", beat.age, beat.limit));
        let _ = writeln!(text, "  {}/{}: {:?}, {} restarts{beat}", task.owner, task.name, task.rule, task.restarts);
    }
    text.push_str("\nthreads\n");
    text.push_str(threads);
    let mut end = REPORT_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Writes it, and keeps the one before: two files at most.
pub(super) fn keep(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    match fs::rename(path, path.with_extension("before.txt")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Rule, tasks::BeatInfo};

    #[test]
    fn a_report_names_tasks_and_threads_and_is_bounded() {
        let task = TaskInfo {
            id: 1,
            owner: "server".into(),
            name: "control".into(),
            rule: Rule::Restart,
            restarts: 2,
            beat: Some(BeatInfo { age: Duration::from_secs(16), limit: Duration::from_secs(15) }),
        };
        let report = text("server", &task, "it is started again", std::slice::from_ref(&task), &threads());
        assert!(report.contains("server/control: Restart, 2 restarts, 16s of 15s"), "{report}");
        assert!(report.contains("State:"), "{report}");
        let many = vec![task.clone(); 20_000];
        assert_eq!(text("server", &task, "…", &many, "").len(), REPORT_BYTES_MAX);
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("watchdog/server.txt");
        for text in ["one", "two", "three"] {
            keep(&path, text).expect("written");
        }
        let read = |path: &Path| fs::read_to_string(path).expect("report");
        assert_eq!((read(&path), read(&path.with_extension("before.txt"))), ("three".to_owned(), "two".to_owned()));
        assert_eq!(fs::read_dir(dir.path().join("watchdog")).expect("directory").count(), 2);
    }
}
