//! `insula logs`: of one instance as it is, of several line by line with their names in front.

use futures::{StreamExt, stream::FuturesUnordered};
use insula_api::{Client, LogReader};
use insula_types::InstanceId;

use crate::{
    Exit, Failure,
    args::{AppSource, LogArgs},
    exit::chain,
    output::say_as_is,
};

/// Greatest number of instances whose logs are read at once: each is a connection.
const SOURCES_MAX: usize = 64;

/// Longest line that is kept together, in bytes.
const LINE_LEN_MAX: usize = 64 << 10;

pub async fn run(client: &Client, args: &LogArgs) -> Result<(), Failure> {
    let sources = match (&args.source, args.instance) {
        (_, Some(instance)) => vec![(instance, String::new())],
        (Some(source), None) => of_app(client, source).await?,
        (None, None) => return Err(Failure::usage("name an app, a service or an instance")),
    };
    let is_alone = sources.len() == 1;
    let mut readers: FuturesUnordered<_> = sources
        .into_iter()
        .map(|(id, name)| async move {
            let reader = client.logs(id, args.tail, args.follow).await;
            (if is_alone { String::new() } else { format!("{name} | ") }, reader)
        })
        .collect();
    let mut opened = Vec::new();
    let mut failures = Vec::new();
    while let Some((prefix, reader)) = readers.next().await {
        match reader {
            Ok(reader) => opened.push(Source { prefix, reader, rest: Vec::new() }),
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
    prefix: String,
    reader: LogReader,
    rest: Vec<u8>,
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
                say_lines(&mut source, false)?;
                waiting.push(next(source));
            }
            Ok(None) => say_lines(&mut source, true)?,
            Err(error) => {
                say_lines(&mut source, true)?;
                failures.push(format!("{}{}", source.prefix, chain(&error)));
            }
        }
    }
    Ok(())
}

fn say_lines(source: &mut Source, is_end: bool) -> Result<(), Failure> {
    let whole = match source.rest.iter().rposition(|byte| *byte == b'\n') {
        _ if is_end || source.rest.len() > LINE_LEN_MAX || source.prefix.is_empty() => source.rest.len(),
        Some(last) => last + 1,
        None => 0,
    };
    let rest = source.rest.split_off(whole);
    let lines = std::mem::replace(&mut source.rest, rest);
    if source.prefix.is_empty() {
        return say_as_is(&String::from_utf8_lossy(&lines));
    }
    let text = String::from_utf8_lossy(&lines);
    say_as_is(&text.lines().map(|line| format!("{}{line}\n", source.prefix)).collect::<String>())
}
