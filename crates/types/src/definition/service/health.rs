//! Reads the check of a service.

use std::{ops::RangeInclusive, time::Duration};

use super::{ADD_PORT, ARGUMENTS_MAX, HOUR, arguments};
use crate::{
    Check, HealthSpec, PortName, PortSpec, Protocol,
    definition::{
        fields::{Fields, Item},
        keys,
        problem::Problems,
        syntax,
        tree::Value,
    },
};

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const GRACE: RangeInclusive<Duration> = Duration::from_secs(1)..=HOUR;

/// Reads a check of a service that has these ports.
pub(super) fn read(item: &Item<'_>, ports: &[PortSpec], problems: &mut Problems) -> Option<HealthSpec> {
    let fields = item.fields(&keys::HEALTH, problems)?;
    let check = check(item, &fields, problems);
    let port = port(item, &fields, check.as_ref(), ports, problems);
    let mut span =
        |key: &str, range: RangeInclusive<Duration>| fields.get(key).and_then(|item| item.span(range, problems));
    let interval = span("interval", INTERVAL).unwrap_or(Duration::from_secs(2));
    let timeout = span("timeout", TIMEOUT).unwrap_or(Duration::from_secs(1).min(interval));
    let grace = span("grace", GRACE).unwrap_or(Duration::from_secs(30));
    let restart_after = span("restart_after", GRACE);
    if let Some(item) = fields.get("timeout").filter(|_| timeout > interval) {
        item.refuse(problems, "it is longer than the interval; the checks would overlap");
    }
    let unhealthy_after = fields.get("unhealthy_after").and_then(|item| item.number(1..=100, problems)).unwrap_or(2);
    Some(HealthSpec { check: check?, port, interval, timeout, grace, unhealthy_after, restart_after })
}

/// What is asked: one of four.
fn check(item: &Item<'_>, fields: &Fields<'_>, problems: &mut Problems) -> Option<Check> {
    const KINDS: [&str; 4] = ["http", "tcp", "exec", "grpc"];
    let mut said = KINDS.iter().filter_map(|kind| Some((*kind, fields.get(kind)?)));
    let Some((kind, asked)) = said.next() else {
        let message = "a check needs one of http = \"/healthz\", tcp = true, exec = [\"command\"], grpc = \"service\"";
        item.refuse(problems, message);
        return None;
    };
    if let Some((_, second)) = said.next() {
        second.refuse(problems, format!("the check is by {kind} already; a service has one check: take one out"));
        return None;
    }
    match kind {
        "http" => asked.checked(syntax::check_request_path, problems).map(|path| Check::Http(path.to_owned())),
        "grpc" => asked.checked(syntax::check_grpc_service, problems).map(|name| Check::Grpc(name.to_owned())),
        "tcp" => match asked.boolean(problems)? {
            true => Some(Check::Tcp),
            false => {
                asked.refuse(problems, "write tcp = true, or take the key out");
                None
            }
        },
        _ => {
            let command = arguments(&asked, ARGUMENTS_MAX, problems);
            if matches!(&asked.tree.value, Value::List(items) if items.is_empty()) {
                asked.refuse(problems, "it is empty; write the command and its arguments");
            }
            (!command.is_empty()).then_some(Check::Exec(command))
        }
    }
}

/// The port that the check names; refused when the check cannot use it, or needs one and there is none.
fn port(
    item: &Item<'_>,
    fields: &Fields<'_>,
    check: Option<&Check>,
    ports: &[PortSpec],
    problems: &mut Problems,
) -> Option<PortName> {
    let is_http = matches!(check, Some(Check::Http(_)));
    let needs_port = check.is_some_and(|check| !matches!(check, Check::Exec(_)));
    let Some(item) = fields.get("port") else {
        let fits = |port: &PortSpec| !is_http || port.protocol == Protocol::Http;
        if needs_port && !ports.iter().any(fits) {
            let kind = if is_http { "a port with protocol \"http\"" } else { "a port" };
            item.refuse(problems, format!("the check asks {kind}, and there is none; {ADD_PORT}"));
        }
        return None;
    };
    if check.is_some() && !needs_port {
        item.refuse(problems, "a check by exec runs inside the instance and asks no port; take it out");
        return None;
    }
    let name: PortName = item.parsed(problems)?;
    match ports.iter().find(|port| port.name == name) {
        Some(port) if !is_http || port.protocol == Protocol::Http => {}
        Some(_) => item.refuse(problems, format!("the port {name:?} has another protocol than \"http\"")),
        None => {
            let names: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            item.refuse(problems, format!("there is no port {name:?}; the service has: {names}"));
        }
    }
    Some(name)
}
