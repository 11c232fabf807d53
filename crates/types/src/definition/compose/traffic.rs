//! Ports and health checks of a Compose service.

use std::time::Duration;

use super::{
    At, Entry, Table, Tree, Value, keys,
    node::Notes,
    service::{arguments, duration},
    sort, text, texts,
};
use crate::definition::format_duration;

/// What a definition says where nobody does.
const INTERVAL: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(30);
const RETRIES: i64 = 2;

/// Nothing is published on nodes: what listens on a port is reached by host name at the edges.
const ROUTE: &str = "it is published on no node: visitors come by host name to the edges; write x-insula: { routes: [{ host: shop.example }] }";

struct Port {
    at: usize,
    number: String,
    name: Option<String>,
    /// What it speaks, where that is more than bytes.
    speaks: Option<&'static str>,
}

/// Reads `ports` and `expose`.
pub(super) fn ports(service: &At<'_>, own: Option<&At<'_>>, table: &mut Table, notes: &mut Notes) {
    let has_routes = own.is_some_and(|own| own.get("routes").is_some());
    let wants_http = has_routes || own.and_then(|own| own.get("health")).is_some_and(|own| own.get("http").is_some());
    let mut ports: Vec<Port> = Vec::new();
    for (key, is_published) in [("ports", true), ("expose", false)] {
        let Some(list) = service.get(key) else { continue };
        for item in list.items(notes) {
            let Some((port, is_published)) = port(&item, is_published, notes) else { continue };
            if is_published && !has_routes {
                item.warn(notes, ROUTE);
            }
            match ports.iter_mut().find(|other| other.number == port.number) {
                Some(other) => other.speaks = other.speaks.or(port.speaks),
                None => ports.push(port),
            }
        }
    }
    if wants_http
        && !ports.iter().any(|port| port.speaks.is_some())
        && let Some(first) = ports.first_mut()
    {
        first.speaks = Some("http");
    }
    let Some(at) = ports.first().map(|port| port.at) else { return };
    let mut has_http = ports.iter().any(|port| port.name.as_deref() == Some("http"));
    let mut list = Vec::new();
    for port in ports {
        let name = port.name.unwrap_or_else(|| {
            let is_first = port.speaks.is_some() && !has_http;
            has_http |= is_first;
            if is_first { "http".to_owned() } else { format!("port-{}", port.number) }
        });
        let protocol = port.speaks.unwrap_or("tcp");
        let number = port.number.parse().map_or(Value::Text(port.number), Value::Integer);
        let at = port.at;
        let entry = |key: &str, value: Tree| Entry { key: key.to_owned(), at, value };
        let entries = vec![
            entry("name", text(at, name)),
            entry("port", Tree { at, value: number }),
            entry("protocol", text(at, protocol)),
        ];
        list.push(Tree { at, value: Value::Table(entries) });
    }
    table.set("ports", at, Value::List(list));
}

/// One port, and whether it is published.
fn port(item: &At<'_>, is_published: bool, notes: &mut Notes) -> Option<(Port, bool)> {
    let at = item.node.at;
    if item.is_map() {
        const KNOWN: [&str; 8] =
            ["name", "target", "published", "protocol", "app_protocol", "mode", "host_ip", "x-insula"];
        for (key, key_at, value) in item.entries(notes) {
            if !KNOWN.contains(&key) {
                notes.problems.add(key_at, &value.path, format!("unknown key; valid here: {}", KNOWN[..7].join(", ")));
            }
        }
        let Some(target) = item.get("target") else {
            item.refuse(notes, "the key \"target\" is missing: the port that the service listens on");
            return None;
        };
        check_protocol(item, item.get("protocol").and_then(|item| item.scalar()), notes);
        let protocol = item.get("app_protocol").and_then(|item| item.scalar()).map(str::to_ascii_lowercase);
        let name = item.get("name").and_then(|item| item.text(notes)).map(str::to_owned);
        let number = number(&target, target.text(notes)?, notes)?;
        let speaks = match protocol.as_deref() {
            Some("http") => Some("http"),
            Some("h2c" | "grpc") => Some("h2c"),
            _ => None,
        };
        return Some((Port { at, number, name, speaks }, item.get("published").is_some()));
    }
    let said = item.text(notes)?;
    let (ports, protocol) = said.split_once('/').map_or((said, None), |(ports, protocol)| (ports, Some(protocol)));
    check_protocol(item, protocol, notes);
    // Only what the service itself listens on counts: what comes last.
    let target = ports.rsplit(':').next().unwrap_or(ports);
    let number = number(item, target, notes)?;
    Some((Port { at, number, name: None, speaks: None }, is_published))
}

fn check_protocol(item: &At<'_>, protocol: Option<&str>, notes: &mut Notes) {
    match protocol {
        None | Some("tcp") => {}
        Some("udp") => item.refuse(notes, "not yet: this version does not have udp"),
        Some(other) => item.refuse(notes, format!("found {other:?}, expected tcp")),
    }
}

fn number(item: &At<'_>, target: &str, notes: &mut Notes) -> Option<String> {
    if target.contains('-') {
        item.refuse(notes, format!("found {target:?}: write each port of its own"));
        return None;
    }
    if !target.parse::<u16>().is_ok_and(|number| number > 0) {
        item.refuse(notes, format!("found {target:?}, expected the number of a port, from 1 to 65535"));
        return None;
    }
    Some(target.to_owned())
}

/// Reads `healthcheck`.
pub(super) fn health(service: &At<'_>, table: &mut Table, notes: &mut Notes) {
    let Some(item) = service.get("healthcheck") else { return };
    sort(&item, keys::HEALTHCHECK, notes);
    if item.get("disable").and_then(|item| item.flag(notes)) == Some(true) {
        return;
    }
    let Some(test) = item.get("test") else {
        item.refuse(notes, "the key \"test\" is missing: that of the image is not read; write test: [CMD, program, …]");
        return;
    };
    let Some(command) = command(&test, notes) else { return };
    let at = test.node.at;
    let mut health = Table::default();
    health.set("exec", at, texts(at, command));
    let mut said = |key: &str| {
        let item = item.get(key)?;
        let span = duration(&item, notes)?;
        Some((item, span))
    };
    let (interval, timeout, start) = (said("interval"), said("timeout"), said("start_period"));
    let every = interval.as_ref().map_or(INTERVAL, |(_, span)| *span);
    if let Some((item, span)) = interval {
        health.set("interval", item.node.at, Value::Text(format_duration(span)));
    }
    if let Some((item, mut span)) = timeout {
        if span > every {
            let said = format!("taken as {}: longer than the interval, checks would overlap", format_duration(every));
            item.warn(notes, said);
            span = every;
        }
        health.set("timeout", item.node.at, Value::Text(format_duration(span)));
    }
    let mut retries = RETRIES;
    if let Some(item) = item.get("retries")
        && let Some(number) = item.number(notes)
    {
        retries = number;
        health.set("unhealthy_after", item.node.at, Value::Integer(number));
    }
    // Compose counts failures only after the start period; here an instance has that long to pass its first check.
    let tries = every.saturating_mul(u32::try_from(retries).unwrap_or_default());
    let grace = start.as_ref().map_or(Duration::ZERO, |(_, span)| *span).saturating_add(tries).max(GRACE);
    let grace_at = start.map_or(at, |(item, _)| item.node.at);
    health.set("grace", grace_at, Value::Text(format_duration(grace)));
    table.set("health", item.node.at, Value::Table(health.0));
}

/// The command of a test; none: there is no check.
fn command(test: &At<'_>, notes: &mut Notes) -> Option<Vec<String>> {
    let shell = |line: &str| Some(["/bin/sh", "-c", line].map(str::to_owned).to_vec());
    if let Some(line) = test.scalar() {
        return shell(line);
    }
    let all = arguments(test, notes);
    match all.split_first() {
        Some((how, [])) if how == "NONE" => None,
        Some((how, [line])) if how == "CMD-SHELL" => shell(line),
        Some((how, command)) if how == "CMD" && !command.is_empty() => Some(command.to_vec()),
        _ => {
            test.refuse(notes, "expected [CMD, program, argument, …], [CMD-SHELL, line] or [NONE]");
            None
        }
    }
}
