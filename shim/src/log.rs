//! What the instance writes, line by line into `log`, in the CRI log format:
//! `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, where P marks a piece of a longer line.
//! Bounded: two files of a given size, and so many bytes a second. What is beyond that is dropped, and the log says so. A full
//! disk loses lines as well; neither blocks the instance.

use std::{
    cell::RefCell,
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Bytes that are written with a line: time, stream, mark and end.
const PREFIX_LEN: usize = 38;
/// Longest piece of a line that is written as one, in bytes; also how much one stream may keep in memory.
const PIECE_LEN_MAX: usize = 4096;

/// What may be written at once, in bytes, and how much of that comes back each second: more than a person reads, and little
/// enough for the disk that all instances share.
const BURST: u64 = 8 << 20;
const RATE: u64 = 1 << 20;
/// While lines are dropped, so much is read each time, and so rarely: an instance that floods its log must not keep the shim
/// busy, whose time is not its own.
const FLOOD_READ_LEN_MAX: usize = 64 << 10;
pub const FLOOD_PAUSE: Duration = Duration::from_millis(10);

/// How much may be written now.
struct Budget {
    bytes: u64,
    /// When it was last filled up.
    at: Instant,
    /// Lines that were dropped since the last one that was not.
    dropped: u64,
}

impl Budget {
    fn take(&mut self, bytes: u64, now: Instant) -> bool {
        let earned = u64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        let earned = earned.saturating_mul(RATE) / 1000;
        if earned > 0 {
            self.bytes = self.bytes.saturating_add(earned).min(BURST);
            self.at = now;
        }
        // Once lines are dropped, a second's worth comes together, so that what is kept is a piece of text.
        let least = if self.dropped > 0 { bytes.max(RATE) } else { bytes };
        let is_enough = self.bytes >= least;
        if is_enough {
            self.bytes -= bytes;
        }
        is_enough
    }
}

/// `log` and `log.1` of the instance.
pub struct LogFile {
    path: PathBuf,
    older: PathBuf,
    file: Option<File>,
    written: u64,
    bytes_max: u64,
    budget: Budget,
    /// Lines that were dropped so far.
    lines_dropped: u64,
}

impl LogFile {
    /// Appends to what is there.
    pub fn open(path: PathBuf, bytes_max: u64) -> Self {
        let older = path.with_extension("1");
        let budget = Budget { bytes: BURST, at: Instant::now(), dropped: 0 };
        let mut log = Self { path, older, file: None, written: 0, bytes_max, budget, lines_dropped: 0 };
        log.reopen();
        log
    }

    fn reopen(&mut self) {
        self.file = OpenOptions::new().append(true).create(true).open(&self.path).ok();
        self.written = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
    }

    /// Whether lines are being dropped.
    fn is_flooded(&self) -> bool {
        self.budget.dropped > 0
    }

    /// Writes a line if there may be one more now.
    fn offer(&mut self, text: &[u8], stream: &str, is_whole: bool) {
        // Before it is formatted: a flood of lines that are dropped must cost little.
        if !self.budget.take((PREFIX_LEN + text.len()) as u64, Instant::now()) {
            self.budget.dropped += 1;
            self.lines_dropped += 1;
            return;
        }
        self.tell_dropped();
        self.write(&formatted(text, stream, is_whole));
    }

    /// Says how many lines are missing before the next one.
    fn tell_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.budget.dropped);
        if dropped > 0 {
            let text = format!("insula: {dropped} lines were dropped here: more than {} KiB a second", RATE >> 10);
            self.write(&formatted(text.as_bytes(), "stderr", true));
        }
    }

    fn write(&mut self, line: &[u8]) {
        if self.file.is_none() || self.written + line.len() as u64 > self.bytes_max {
            std::fs::rename(&self.path, &self.older).ok();
            self.reopen();
        }
        if let Some(file) = &mut self.file
            && file.write_all(line).is_ok()
        {
            self.written += line.len() as u64;
        }
    }
}

/// One stream of the instance.
pub struct Pump {
    pipe: Option<File>,
    name: &'static str,
    log: Rc<RefCell<LogFile>>,
    pending: Vec<u8>,
}

impl Pump {
    /// Reads the non-blocking `pipe`; `name` is `stdout` or `stderr`.
    pub fn new(pipe: File, name: &'static str, log: Rc<RefCell<LogFile>>) -> Self {
        Self { pipe: Some(pipe), name, log, pending: Vec::new() }
    }

    /// The pipe to wait for; none after its end.
    pub fn pipe(&self) -> Option<&File> {
        self.pipe.as_ref()
    }

    /// Takes what is there. Reads a bounded amount, so that a busy instance does not keep the shim from its other work.
    pub fn pump(&mut self) {
        let mut left = if self.log.borrow().is_flooded() { FLOOD_READ_LEN_MAX } else { PIECE_LEN_MAX };
        let mut buffer = [0; PIECE_LEN_MAX];
        while left > 0 {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => return self.finish(),
                Ok(read) => {
                    self.take(&buffer[..read]);
                    left = left.saturating_sub(read);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => return self.finish(),
            }
        }
    }

    /// Whether what it reads is being dropped.
    pub fn is_flooded(&self) -> bool {
        self.log.borrow().is_flooded()
    }

    /// Lines of the log that were dropped so far, of all streams.
    pub fn lines_dropped(&self) -> u64 {
        self.log.borrow().lines_dropped
    }

    /// Writes what is left and closes the pipe.
    pub fn finish(&mut self) {
        if !self.pending.is_empty() {
            let rest = std::mem::take(&mut self.pending);
            self.line(&rest, true);
        }
        if self.pipe.take().is_some() {
            self.log.borrow_mut().tell_dropped();
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (text, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.pending.is_empty() {
                self.line(text, true);
            } else {
                let mut line = std::mem::take(&mut self.pending);
                line.extend_from_slice(text);
                self.line(&line, true);
            }
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE_LEN_MAX {
            let piece = std::mem::take(&mut self.pending);
            self.line(&piece, false);
        }
    }

    fn line(&self, text: &[u8], is_whole: bool) {
        self.log.borrow_mut().offer(text, self.name, is_whole);
    }
}

/// A line as it stands in the file.
fn formatted(text: &[u8], stream: &str, is_whole: bool) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut line = format!("{} {stream} {} ", rfc3339(now), if is_whole { 'F' } else { 'P' }).into_bytes();
    line.extend_from_slice(text);
    line.push(b'\n');
    line
}

/// UTC with microseconds. Days to a date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn rfc3339(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since_1970.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (1_795_233_600, "2026-11-21T04:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn lines_are_whole_and_files_bounded() {
        let dir = std::env::temp_dir().join(format!("insula-shim-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("log");
        let log = Rc::new(RefCell::new(LogFile::open(path.clone(), 10_000)));
        let mut pump = Pump { pipe: None, name: "stdout", log, pending: Vec::new() };
        pump.take(b"one\ntw");
        pump.take(b"o\n");
        pump.take(&[b'x'; PIECE_LEN_MAX]);
        pump.take(b"end\nrest");
        pump.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        let long = format!("stdout P {}", "x".repeat(PIECE_LEN_MAX));
        assert_eq!(lines, ["stdout F one", "stdout F two", &long, "stdout F end", "stdout F rest"]);
        for _ in 0..1000 {
            pump.take(b"a line that is written often enough to turn the files\n");
        }
        let sizes = ["log", "log.1"].map(|name| std::fs::metadata(dir.join(name)).unwrap().len());
        assert!(sizes.iter().all(|size| *size <= 10_000), "{sizes:?}");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_flood_is_cut_and_the_log_says_so() {
        let dir = std::env::temp_dir().join(format!("insula-shim-flood-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("log");
        let log = Rc::new(RefCell::new(LogFile::open(path.clone(), u64::MAX)));
        let mut pump = Pump { pipe: None, name: "stdout", log: Rc::clone(&log), pending: Vec::new() };
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..3 * (BURST >> 10) {
            pump.take(&line);
        }
        assert!(pump.is_flooded());
        let dropped = pump.lines_dropped();
        assert!(dropped > 0);
        let size = std::fs::metadata(&path).unwrap().len();
        assert!((BURST / 2..BURST * 2).contains(&size), "{size}");
        log.borrow_mut().budget.bytes = BURST;
        pump.take(b"and on\n");
        assert!(!pump.is_flooded());
        assert_eq!(pump.lines_dropped(), dropped, "all that were ever dropped");
        let text = std::fs::read_to_string(&path).unwrap();
        let last: Vec<&str> = text.lines().rev().take(2).collect();
        assert!(last[0].ends_with("stdout F and on"), "{}", last[0]);
        assert!(
            last[1].contains("stderr F insula: ")
                && last[1].ends_with("lines were dropped here: more than 1024 KiB a second")
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_budget_comes_back_with_time() {
        let start = Instant::now();
        let mut budget = Budget { bytes: 10, at: start, dropped: 0 };
        assert!(budget.take(10, start));
        assert!(!budget.take(10, start));
        budget.dropped = 1;
        assert!(!budget.take(10, start + Duration::from_millis(500)), "not before there is a second's worth");
        assert!(budget.take(10, start + Duration::from_millis(1001)));
        assert!((RATE - 10..RATE + 2000).contains(&budget.bytes), "{}", budget.bytes);
    }
}
