//! `insula logs`: of one instance as it is, of several line by line with their names in front.

use futures::{StreamExt, stream::FuturesUnordered};
use insula_api::{Client, LogOptions, LogReader};
use insula_types::InstanceId;

use crate::{
    Exit, Failure,
    args::{AppSource, LogArgs},
    exit::chain,
    output::say_as_is,
};

/// Greatest number of instances whose logs are read at once: each is a connection.
const SOURCES_MAX: usize = 64;
/// Longest line that is kept until its end comes, in bytes; the shims write them in pieces of 4 KiB.
const LINE_LEN_MAX: usize = 64 << 10;

pub async fn run(client: &Client, args: &LogArgs) -> Result<(), Failure> {
    let sources = match (&args.source, args.instance) {
        (_, Some(instance)) => vec![(instance, String::new())],
        (Some(source), None) => of_app(client, source).await?,
        (None, None) => return Err(Failure::usage("name an app, a service or an instance")),
    };
    let is_alone = sources.len() == 1;
    let since_ms = args.since.map(|since| client.env().clock.wall_ms().saturating_sub(since.as_millis() as u64));
    let options = LogOptions { tail: args.tail, since_ms, follow: args.follow };
    let mut readers: FuturesUnordered<_> = sources
        .into_iter()
        .map(|(id, name)| async move {
            let reader = client.logs(id, options).await;
            (if is_alone { String::new() } else { format!("{name} | ") }, reader)
        })
        .collect();
    let mut opened = Vec::new();
    let mut failures = Vec::new();
    while let Some((prefix, reader)) = readers.next().await {
        match reader {
            Ok(reader) => opened.push(Source { prefix, reader, rest: Vec::new(), is_timed: args.timestamps }),
            Err(error) if is_alone => return Err(error.into()),
            Err(error) => failures.push(format!("{prefix}{error}")),
        }
    }
    let copied = copy(opened, &mut failures).await;
    for failure in &failures {
        eprintln!("{failure}");
    }
    copied?;
    // What could be read was shown; what could not must not look like all there is.
    if failures.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, "some logs could not be read")) }
}

async fn of_app(client: &Client, source: &AppSource) -> Result<Vec<(InstanceId, String)>, Failure> {
    let list = client.instances(Some(&source.app)).await?;
    let wanted = list.items.iter().filter(|item| source.service.as_ref().is_none_or(|name| *name == item.service));
    let sources: Vec<_> = wanted.map(|item| (item.id, format!("{} {}", item.service, item.id))).collect();
    match sources.len() {
        0 => Err(Failure::new(Exit::NotFound, format!("{} has no such instances now", source.app))
            .hint("`insula ps` lists what there is")),
        1..=SOURCES_MAX => Ok(sources),
        count => Err(Failure::usage(format!("{count} instances are too many to read at once"))
            .hint("name a service, or one of them with --instance")),
    }
}

struct Source {
    /// Before each line, to tell it from others'.
    prefix: String,
    reader: LogReader,
    /// What came of a line whose end did not.
    rest: Vec<u8>,
    /// Whether lines are shown with their times.
    is_timed: bool,
}

/// Copies until all have ended, whole lines at a time, so that lines of several do not mix.
async fn copy(sources: Vec<Source>, failures: &mut Vec<String>) -> Result<(), Failure> {
    let next = |mut source: Source| async move {
        let piece = source.reader.next().await;
        (source, piece)
    };
    let mut waiting: FuturesUnordered<_> = sources.into_iter().map(next).collect();
    while let Some((mut source, piece)) = waiting.next().await {
        match piece {
            Ok(Some(bytes)) => {
                source.rest.extend_from_slice(&bytes);
                let lines = source.whole_lines();
                say_as_is(&source.shown(&lines))?;
                waiting.push(next(source));
            }
            Ok(None) => say_as_is(&source.shown(&source.rest))?,
            Err(error) => {
                say_as_is(&source.shown(&source.rest))?;
                failures.push(format!("{}{}", source.prefix, chain(&error)));
            }
        }
    }
    Ok(())
}

impl Source {
    /// Takes the whole lines of what came; also a piece of a line that does not end.
    fn whole_lines(&mut self) -> Vec<u8> {
        let whole = match self.rest.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None if self.rest.len() > LINE_LEN_MAX => self.rest.len(),
            None => 0,
        };
        let rest = self.rest.split_off(whole);
        std::mem::replace(&mut self.rest, rest)
    }

    fn shown(&self, lines: &[u8]) -> String {
        shown(&String::from_utf8_lossy(lines), &self.prefix, self.is_timed)
    }
}

/// Lines of a log as people want them: what was written, behind the prefix and its time where that is asked for. The pieces of a
/// long line of one instance alone are put together again.
fn shown(lines: &str, prefix: &str, is_timed: bool) -> String {
    let mut out = String::with_capacity(lines.len());
    for line in lines.lines() {
        let Some((time, is_whole, text)) = parts(line) else {
            // Of a shim that writes otherwise.
            out.extend([prefix, line, "\n"]);
            continue;
        };
        let time = if is_timed { time } else { "" };
        let space = if is_timed { " " } else { "" };
        let end = if is_whole || is_timed || !prefix.is_empty() { "\n" } else { "" };
        out.extend([prefix, time, space, text, end]);
    }
    out
}

/// Time, whether the line ends here, and text of a line of the form `<time> <stdout|stderr> <F|P> <text>`.
fn parts(line: &str) -> Option<(&str, bool, &str)> {
    let (time, rest) = line.split_once(' ')?;
    let (_, rest) = rest.split_once(' ').filter(|(stream, _)| ["stdout", "stderr"].contains(stream))?;
    // An empty line may have lost its last space on the way.
    let (mark, text) = rest.split_once(' ').unwrap_or((rest, ""));
    matches!(mark, "F" | "P").then_some((time, mark == "F", text))
}

#[cfg(test)]
mod tests {
    use super::shown;

    const LINES: &str = "T1 stdout F one\nT2 stderr P tw\nT3 stderr F o\nT4 stdout F \nwhat is that\n";

    #[test]
    fn lines_are_shown_as_they_were_written() {
        assert_eq!(shown(LINES, "", false), "one\ntwo\n\nwhat is that\n");
    }

    #[test]
    fn lines_of_several_have_names() {
        assert_eq!(shown(LINES, "web | ", false), "web | one\nweb | tw\nweb | o\nweb | \nweb | what is that\n");
    }

    #[test]
    fn times_are_shown_where_they_are_asked_for() {
        assert_eq!(shown(LINES, "", true), "T1 one\nT2 tw\nT3 o\nT4 \nwhat is that\n");
    }
}
