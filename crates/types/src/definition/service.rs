//! Reads one service: each key alone, then what must hold between them.

mod files;
mod health;
mod hooks;
mod overrides;
mod placement;
mod regions;
mod restart;
mod secrets;
mod storage;
mod update;

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use super::{
    SCALE_MAX, ServiceDefinition,
    fields::{Fields, Item},
    keys, nearest,
    problem::Problems,
    refuse_each_node,
    syntax::{self, SIGNALS},
    tree::Value,
};
use crate::{
    ByteSize, ContentHash, CpuMillis, DriverKind, ImageName, PortName, PortSpec, Priority, Protocol, Resources,
    RouteSpec, RuntimeName, Scale, ServiceSpec, StopSpec,
};

/// Greatest number of arguments, variables, ports and routes of a service: far beyond what was ever seen, small enough
/// for every node to hold.
const ARGUMENTS_MAX: usize = 256;
const VARIABLES_MAX: usize = 256;
const PORTS_MAX: usize = 16;
const ROUTES_MAX: usize = 64;

/// What can be scheduled: from what a shell needs to the largest machine on the market.
const CPU: RangeInclusive<CpuMillis> = CpuMillis(1)..=CpuMillis(512_000);
const MEMORY: RangeInclusive<ByteSize> = ByteSize::mib(4)..=ByteSize::mib(16 << 20);
const PIDS: RangeInclusive<u32> = 1..=1_000_000;
/// Beyond `fs.nr_open`, which is 1 048 576 nearly everywhere, the kernel takes none.
const FILES: RangeInclusive<u32> = 64..=1_048_576;
const DISK: RangeInclusive<ByteSize> = ByteSize::mib(8)..=ByteSize::mib(16 << 20);
const IO: RangeInclusive<ByteSize> = ByteSize(65_536)..=ByteSize::mib(1 << 20);

const HOUR: Duration = Duration::from_secs(3600);
const STOP_GRACE: RangeInclusive<Duration> = Duration::ZERO..=HOUR;

/// What the services of an app share, as far as they were read.
#[derive(Default)]
pub(super) struct Shared {
    /// The routes of the app, and which service has them: the same one in all regions.
    routes: BTreeMap<RouteSpec, String>,
    /// What is in its files.
    pub(super) contents: BTreeMap<ContentHash, String>,
    /// Bytes of the services that regions have, with what they override.
    overridden: usize,
}

/// Reads a service of this name. None only with a problem added.
pub(super) fn read(
    item: &Item<'_>,
    name: &str,
    shared: &mut Shared,
    problems: &mut Problems,
) -> Option<ServiceDefinition> {
    let mut service = read_for(item, name, shared, problems)?;
    service.overrides = overrides::read(item, name, &service, shared, problems);
    Some(service)
}

/// Reads what a service is, in all regions that override nothing or in one that does.
fn read_for(item: &Item<'_>, name: &str, shared: &mut Shared, problems: &mut Problems) -> Option<ServiceDefinition> {
    let fields = item.fields(&keys::SERVICE, problems)?;
    let command = command(&fields, problems);
    let Kind { driver, runtime, image } = kind(item, &fields, !command.is_empty(), problems);
    let ports = fields.get("ports").map(|item| ports(&item, problems)).unwrap_or_default();
    let spec = ServiceSpec {
        driver,
        image: None,
        env: fields.get("env").map(|item| env(&item, problems)).unwrap_or_default(),
        resources: fields.get("resources").and_then(|item| resources(&item, problems)).unwrap_or_default(),
        routes: fields.get("routes").map(|item| routes(&item, name, &mut shared.routes, problems)).unwrap_or_default(),
        health: fields.get("health").and_then(|item| health::read(&item, &ports, problems)),
        stop: fields.get("stop").and_then(|item| stop(&item, problems)).unwrap_or_default(),
        is_read_only: flag(&fields, "read_only", problems),
        has_init: flag(&fields, "init", problems),
        tmpfs: fields.get("tmpfs").map(|item| storage::tmpfs(&item, problems)).unwrap_or_default(),
        volumes: fields.get("volumes").map(|item| storage::volumes(&item, problems)).unwrap_or_default(),
        files: fields.get("files").map(|item| files::read(&item, &mut shared.contents, problems)).unwrap_or_default(),
        secrets: fields.get("secrets").map(|item| secrets::read(&item, problems)).unwrap_or_default(),
        runtime,
        args: args(&fields, !command.is_empty(), driver, problems),
        restart: fields.get("restart").and_then(|item| restart::read(&item, problems)).unwrap_or_default(),
        restarted: 0,
        placement: fields.get("placement").and_then(|item| placement::read(&item, problems)).unwrap_or_default(),
        ports,
        command,
    };
    secrets::check(&fields, &spec, problems);
    storage::check_paths(&fields, &spec, problems);
    if driver == DriverKind::Process {
        refuse_for_process(&fields, problems);
    }
    if let Some(item) = fields.get("routes").filter(|_| !spec.routes.is_empty() && spec.http_port().is_none()) {
        item.refuse(
            problems,
            format!("routes lead to a port with protocol \"http\" or \"h2c\", and there is none; {ADD_PORT}"),
        );
    }
    let scale = fields.get("scale").and_then(|item| scale(&item, &spec, problems));
    let regions = fields.get("regions").and_then(|item| regions::read(&item, problems)).unwrap_or_default();
    let mut update = fields.get("update").and_then(|item| update::read(&item, &regions, problems)).unwrap_or_default();
    update.hooks = fields.get("hooks").and_then(|item| hooks::read(&item, problems)).unwrap_or_default();
    let priority = fields.get("priority").and_then(|item| item.number(Priority::RANGE, problems));
    let priority = priority.map_or(Priority::USUAL, Priority);
    let mut service =
        ServiceDefinition { spec, tag: None, regions, scale, update, priority, overrides: BTreeMap::new() };
    if let Some(image) = image {
        service.set_image(image);
    }
    Some(service)
}

const ADD_PORT: &str = "add ports = [{ name = \"http\", port = 8080, protocol = \"http\" }]";

/// Whether a key that is false by default is true.
fn flag(fields: &Fields<'_>, key: &str, problems: &mut Problems) -> bool {
    fields.get(key).and_then(|item| item.boolean(problems)).unwrap_or(false)
}

/// Refuses what only a container has.
fn refuse_for_process(fields: &Fields<'_>, problems: &mut Problems) {
    let mut refuse = |item: Option<Item<'_>>| {
        if let Some(item) = item {
            item.refuse(
                problems,
                "runtime \"process\" does not have it: a process uses the node as it is; use an image",
            );
        }
    };
    for key in ["volumes", "tmpfs", "read_only", "init", "files"] {
        refuse(fields.get(key));
    }
    if let Some(resources) = fields.get("resources").and_then(|item| item.table()) {
        for key in ["disk", "io"] {
            refuse(resources.get(key));
        }
    }
}

fn scale(item: &Item<'_>, spec: &ServiceSpec, problems: &mut Problems) -> Option<Scale> {
    let Value::Text(text) = &item.tree.value else {
        return item.number(0..=SCALE_MAX, problems).map(Scale::Count);
    };
    if text != Scale::EACH_NODE {
        let found = item.tree.value.describe();
        item.refuse(
            problems,
            format!("found {found}, expected a whole number from 0 to {SCALE_MAX}, or \"each-node\""),
        );
        return None;
    }
    if let Some(why) = refuse_each_node(spec) {
        item.refuse(problems, why);
    }
    Some(Scale::EachNode)
}

fn command(fields: &Fields<'_>, problems: &mut Problems) -> Vec<String> {
    let Some(item) = fields.get("command") else { return Vec::new() };
    if let Value::Text(text) = &item.tree.value {
        refuse_text(&item, text, problems);
        return Vec::new();
    }
    arguments(&item, ARGUMENTS_MAX, problems)
}

/// A command that must say what to run.
fn program(item: &Item<'_>, problems: &mut Problems) -> Vec<String> {
    match &item.tree.value {
        Value::Text(text) => refuse_text(item, text, problems),
        Value::List(items) if items.is_empty() => {
            item.refuse(problems, "it is empty; write the program and its arguments");
        }
        _ => return arguments(item, ARGUMENTS_MAX, problems),
    }
    Vec::new()
}

fn refuse_text(item: &Item<'_>, text: &str, problems: &mut Problems) {
    let words: Vec<String> = text.split_whitespace().take(8).map(|word| format!("{word:?}")).collect();
    item.refuse(problems, format!("found one text, expected a list of arguments: write [{}]", words.join(", ")));
}

/// What the image's own program is given.
fn args(fields: &Fields<'_>, has_command: bool, driver: DriverKind, problems: &mut Problems) -> Vec<String> {
    let Some(item) = fields.get("args") else { return Vec::new() };
    if driver == DriverKind::Process {
        item.refuse(problems, "they are for the program of an image; write program and arguments in command");
    } else if has_command {
        item.refuse(problems, "command takes the place of the image's program and its arguments; put them at its end");
    }
    let items = item.items(ARGUMENTS_MAX, problems);
    items.iter().filter_map(|item| item.checked(syntax::check_argument, problems)).map(str::to_owned).collect()
}

/// A program and its arguments.
fn arguments(item: &Item<'_>, most: usize, problems: &mut Problems) -> Vec<String> {
    let items = item.items(most, problems);
    let arguments: Vec<_> =
        items.iter().filter_map(|item| item.checked(syntax::check_argument, problems)).map(str::to_owned).collect();
    if arguments.first().is_some_and(String::is_empty) {
        item.refuse(problems, "the first argument is the program, and it is empty");
    }
    arguments
}

/// How a service is run.
struct Kind {
    driver: DriverKind,
    runtime: Option<RuntimeName>,
    image: Option<ImageName>,
}

/// Image or process: one of both, said without contradiction.
fn kind(service: &Item<'_>, fields: &Fields<'_>, has_command: bool, problems: &mut Problems) -> Kind {
    let image = fields.get("image");
    let said = fields.get("runtime").map(|item| (item.tree.value.describe(), runtime(&item, problems)));
    let (said, chosen) = said.unzip();
    let driver = chosen.as_ref().map(|chosen| chosen.as_ref().map(|(driver, _)| *driver));
    match (&image, driver) {
        (Some(image), Some(Some(DriverKind::Process))) => {
            image.refuse(problems, "runtime \"process\" runs a program of the node and takes no image; take one out");
        }
        (None, Some(Some(DriverKind::Container))) => {
            let said = said.unwrap_or_default();
            service.refuse(problems, format!("runtime {said} needs an image; write image = \"registry/name:tag\""));
        }
        (None, Some(Some(DriverKind::Process))) if !has_command => {
            service.refuse(problems, "runtime \"process\" needs a command; write command = [\"./server\"]");
        }
        (None, None) if has_command => {
            service.refuse(problems, "it has a command and no image; add image, or runtime = \"process\"");
        }
        (None, None) => {
            service.refuse(problems, "it needs an image, or a command with runtime = \"process\"");
        }
        _ => {}
    }
    let image = image.and_then(|item| item.checked(syntax::check_image, problems)?.parse().ok());
    let (driver, runtime) = chosen.flatten().unwrap_or_default();
    Kind { driver, runtime, image }
}

/// One of the two that every node has, or a class.
fn runtime(item: &Item<'_>, problems: &mut Problems) -> Option<(DriverKind, Option<RuntimeName>)> {
    let text = item.text(problems)?;
    match text {
        "container" => return Some((DriverKind::Container, None)),
        "process" => return Some((DriverKind::Process, None)),
        _ => {}
    }
    let problem = match (nearest(text, RuntimeName::OWN), RuntimeName::new(text)) {
        (None, Ok(class)) => return Some((DriverKind::Container, Some(class))),
        (Some(near), _) => format!("found {}; did you mean {near:?}?", item.tree.value.describe()),
        (None, Err(error)) => {
            format!("{error}; valid: container, process, or the name of a runtime class that nodes have")
        }
    };
    item.refuse(problems, problem);
    None
}

fn env(item: &Item<'_>, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (name, at, item) in item.entries(VARIABLES_MAX, problems) {
        if let Err(why) = syntax::check_variable(name) {
            problems.add(at, &item.path, why);
        }
        if let Some(value) = item.checked(syntax::check_argument, problems) {
            env.insert(name.to_owned(), value.to_owned());
        }
    }
    env
}

fn resources(item: &Item<'_>, problems: &mut Problems) -> Option<Resources> {
    let fields = item.fields(&keys::RESOURCES, problems)?;
    let default = Resources::default();
    let cpu = fields.get("cpu").and_then(|item| {
        let cpu = match item.tree.value {
            Value::Integer(whole) => u32::try_from(whole).ok().and_then(|whole| whole.checked_mul(1000)).map(CpuMillis),
            _ => Some(item.parsed(problems)?),
        };
        let cpu = cpu.filter(|cpu| CPU.contains(cpu));
        if cpu.is_none() {
            item.refuse(problems, format!("found {}, expected from 1m to 512 CPUs", item.tree.value.describe()));
        }
        cpu
    });
    let memory = fields.get("memory").and_then(|item| bytes(&item, MEMORY, problems));
    let pids = fields.get("pids").and_then(|item| item.number(PIDS, problems));
    Some(Resources {
        cpu: cpu.unwrap_or(default.cpu),
        memory: memory.unwrap_or(default.memory),
        pids: pids.unwrap_or(default.pids),
        files: fields.get("files").and_then(|item| item.number(FILES, problems)),
        disk: fields.get("disk").and_then(|item| bytes(&item, DISK, problems)),
        io: fields.get("io").and_then(|item| bytes_a_second(&item, problems)),
    })
}

/// An amount of bytes with its unit, within bounds.
fn bytes(item: &Item<'_>, range: RangeInclusive<ByteSize>, problems: &mut Problems) -> Option<ByteSize> {
    if let Value::Integer(number) = item.tree.value {
        item.refuse(problems, format!("found the number {number}, expected a unit with it: write \"{number}MiB\""));
        return None;
    }
    let bytes: ByteSize = item.parsed(problems)?;
    if !range.contains(&bytes) {
        item.refuse(problems, format!("found {bytes}, expected from {} to {}", range.start(), range.end()));
    }
    Some(bytes)
}

/// A rate, written `20MB/s`.
fn bytes_a_second(item: &Item<'_>, problems: &mut Problems) -> Option<ByteSize> {
    let rate = item.text(problems)?.strip_suffix("/s").and_then(|amount| amount.parse().ok());
    let rate = rate.filter(|rate| IO.contains(rate));
    if rate.is_none() {
        let (least, most) = (IO.start(), IO.end());
        let found = item.tree.value.describe();
        item.refuse(problems, format!("found {found}, expected from {least}/s to {most}/s, like \"20MB/s\""));
    }
    rate
}

fn ports(item: &Item<'_>, problems: &mut Problems) -> Vec<PortSpec> {
    let mut ports: Vec<PortSpec> = Vec::new();
    for item in item.items(PORTS_MAX, problems) {
        let Some(port) = port(&item, problems) else { continue };
        if ports.iter().any(|other| other.name == port.name) {
            item.refuse(problems, format!("the port name {:?} is there twice; give each port its own", port.name));
        } else if ports.iter().any(|other| other.port == port.port) {
            item.refuse(problems, format!("the port number {} is there twice; name it once", port.port));
        } else {
            ports.push(port);
        }
    }
    ports
}

fn port(item: &Item<'_>, problems: &mut Problems) -> Option<PortSpec> {
    const CHOICES: [(&str, Protocol); 3] = [("http", Protocol::Http), ("h2c", Protocol::H2c), ("tcp", Protocol::Tcp)];
    let fields = item.fields(&keys::PORT, problems)?;
    let name: Option<PortName> = required(item, &fields, "name", problems).and_then(|item| item.parsed(problems));
    let port = required(item, &fields, "port", problems).and_then(|item| item.number(1..=u16::MAX, problems));
    let protocol =
        required(item, &fields, "protocol", problems).and_then(|item| item.choice(&CHOICES, &["udp"], problems));
    Some(PortSpec { name: name?, port: port?, protocol: protocol? })
}

fn routes(
    item: &Item<'_>,
    service: &str,
    taken: &mut BTreeMap<RouteSpec, String>,
    problems: &mut Problems,
) -> Vec<RouteSpec> {
    let mut routes = Vec::new();
    for item in item.items(ROUTES_MAX, problems) {
        let Some(fields) = item.fields(&keys::ROUTE, problems) else { continue };
        let host =
            required(&item, &fields, "host", problems).and_then(|item| item.checked(syntax::check_host, problems));
        let path = match fields.get("path") {
            Some(item) => item.checked(syntax::check_route_path, problems),
            None => Some("/"),
        };
        let (Some(host), Some(path)) = (host, path) else { continue };
        let route = RouteSpec { host: host.to_owned(), path: path.to_owned() };
        let owner = taken.entry(route.clone()).or_insert_with(|| service.to_owned());
        if owner == service && !routes.contains(&route) {
            routes.push(route);
        } else {
            item.refuse(problems, format!("the route {host}{path} is there twice; one service of the app can have it"));
        }
    }
    routes
}

fn stop(item: &Item<'_>, problems: &mut Problems) -> Option<StopSpec> {
    let fields = item.fields(&keys::STOP, problems)?;
    let default = StopSpec::default();
    let choices = SIGNALS.map(|signal| (signal, signal));
    let signal = fields.get("signal").and_then(|item| item.choice(&choices, &[], problems));
    let grace = fields.get("grace").and_then(|item| item.span(STOP_GRACE, problems));
    Some(StopSpec {
        signal: signal.map_or(default.signal, str::to_owned),
        grace: grace.unwrap_or(default.grace),
        is_usual_meant: signal == Some(StopSpec::USUAL),
    })
}

fn required<'t>(item: &Item<'t>, fields: &Fields<'t>, key: &str, problems: &mut Problems) -> Option<Item<'t>> {
    let found = fields.get(key);
    if found.is_none() {
        item.refuse(problems, format!("the key {key:?} is missing"));
    }
    found
}
