//! Writing: text, JSON, ages, the width of the terminal.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use serde::Serialize;

use crate::{Exit, Failure, table::wrap};

/// Longest answer to a question, in bytes.
const ANSWER_LEN_MAX: u64 = 256;

/// Writes to standard output; on a terminal, long lines are broken between words.
pub fn say(text: &str) -> Result<(), Failure> {
    say_as_is(&wrap(text, width()))
}

/// Writes to standard output what programs and people copy. A reader that has left is no error: `insula ps | head` ends well.
pub fn say_as_is(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot write the answer: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes a value of the API as indented JSON.
pub fn say_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).expect("wire types serialize into memory without error");
    say_as_is(&(text + "\n"))
}

/// Says what is about to happen, and goes on only when `word` is typed; `asked` tells which and what for.
pub fn confirm(shown: &str, asked: &str, word: &str) -> Result<(), Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(format!("{shown} Nobody is there to ask")).hint("add --yes to do it all the same"));
    }
    eprint!("{shown}\nType {asked}: ");
    let mut answer = String::new();
    let read = stdin.lock().take(ANSWER_LEN_MAX).read_line(&mut answer);
    read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read the answer: {error}")))?;
    if answer.trim() == word {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("found {:?}, expected {word:?}; nothing was changed", answer.trim())))
}

/// Columns of the terminal; none when standard output is none.
pub fn width() -> Option<usize> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Columns of the terminal that errors are written to; none when they are not.
pub fn width_of_errors() -> Option<usize> {
    let err = io::stderr();
    if !err.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(&err).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Bytes in the largest unit that they fill, with three digits at least: `7B`, `1.2KiB`, `12.3GiB`, `256MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (0..UNITS.len() - 1).find(|step| bytes >> (10 * (step + 1)) == 0).unwrap_or(UNITS.len() - 1);
    let (unit, factor) = (UNITS[step], 1_u64 << (10 * step));
    if step == 0 || bytes >= 100 * factor || bytes.is_multiple_of(factor) {
        return format!("{}{unit}", bytes / factor);
    }
    let tenths = u128::from(bytes) * 10 / u128::from(factor);
    format!("{}.{}{unit}", tenths / 10, tenths % 10)
}

/// Processors, as short as can be: `2`, `0.5`, `0.05`.
pub fn cores(millis: u32) -> String {
    let text = format!("{:.2}", f64::from(millis) / 1000.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The time since `then_ms` in its largest unit. Nothing lies in the future, whatever clocks say.
pub fn age(now_ms: u64, then_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_for_people() {
        assert_eq!([0, 5, 50, 500, 1800, 2000].map(cores), ["0", "0.01", "0.05", "0.5", "1.8", "2"]);
        let sizes = [0, 1023, 1024, 1300, 150 << 10, 22_749_000_000, 1 << 40].map(size);
        assert_eq!(sizes, ["0B", "1023B", "1KiB", "1.2KiB", "150KiB", "21.1GiB", "1TiB"]);
    }

    #[test]
    fn times_are_written_for_people() {
        let ages = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(|seconds| age(seconds * 1000 + 5, 5));
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
        assert_eq!(age(0, 5000), "0s");
    }
}
