//! Listings and single things.

use insula_api::{
    Client, ClientError, Code,
    wire::{
        App, AppStatus, AppSummary, GroupStatus, Instance, Node, NodeState, NodeStatus, NodeUse, Region, RegionState,
        RegionalScale, Route, Versioned, Waiting,
    },
};
use insula_types::{AppName, ImageName, InstanceId, Protocol, RuntimeName, ServiceName, Term, labels_text, text::utc};

use super::nodes::addresses;
use crate::{
    Failure,
    output::{age, cores, say, say_json, size, width},
    table::{Table, clean, wrap},
};

pub async fn apps(client: &Client, json: bool) -> Result<(), Failure> {
    let list = client.apps().await?;
    if json {
        return say_json(&list);
    }
    say(&if list.items.is_empty() {
        "no apps yet; `insula deploy FILE` runs one\n".to_owned()
    } else {
        app_table(&list.items, client.env().clock.wall_ms()).render(width())
    })
}

fn app_table(apps: &[AppSummary], now_ms: u64) -> Table {
    let mut table =
        Table::new(&["APP", "RELEASE", "READY", "SERVICES", "AGE", "HOSTS"]).expendable(&["SERVICES", "AGE"]);
    for app in apps {
        table.row([
            app.name.to_string(),
            app.release.to_string(),
            format!("{}/{}", app.ready, app.wanted),
            app.services.to_string(),
            age(now_ms, app.released_ms),
            app.hosts.join(" "),
        ]);
    }
    table
}

pub async fn routes(client: &Client, json: bool) -> Result<(), Failure> {
    let list = client.routes().await?;
    if json {
        return say_json(&list);
    }
    say(&if list.items.is_empty() {
        "no routes: no service of this region has any; `routes = [{ host = \"…\" }]` gives one a host\n".to_owned()
    } else {
        route_table(&list.items).render(width())
    })
}

fn route_table(routes: &[Route]) -> Table {
    let mut table = Table::new(&["HOST", "PATH", "SERVICE", "PROTOCOL", "READY"]).expendable(&["PROTOCOL"]);
    for route in routes {
        let protocol = match route.protocol {
            Protocol::Http => "http",
            Protocol::H2c => "h2c",
            Protocol::Tcp => "tcp",
        };
        let (host, path, service) = (route.host.clone(), route.path.clone(), route.service.to_string());
        table.row([host, path, service, protocol.to_owned(), route.ready.to_string()]);
    }
    table
}

pub async fn instances(client: &Client, app: Option<&AppName>, json: bool) -> Result<(), Failure> {
    let list = client.instances(app).await?;
    if let (true, Some(app)) = (list.items.is_empty(), app) {
        // Says so when there is no such app.
        client.app(app).await?;
    }
    if json {
        return say_json(&list);
    }
    let waiting = match client.waiting().await {
        Ok(waiting) => waiting.items,
        // A node of an earlier version does not know of it.
        Err(ClientError::Problem(problem)) if problem.code == Code::NoSuchEndpoint => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let waiting: Vec<Waiting> =
        waiting.into_iter().filter(|one| app.is_none_or(|app| one.service.app == *app)).collect();
    say(&if list.items.is_empty() && waiting.is_empty() {
        "no instances\n".to_owned()
    } else {
        let mut table = instance_table(&list.items, client.env().clock.wall_ms());
        add_waiting(&mut table, &waiting);
        table.render(width())
    })
}

/// What has no place has no instance either: a row for each service that lacks some.
fn add_waiting(table: &mut Table, waiting: &[Waiting]) {
    for one in waiting {
        let none = || "-".to_owned();
        let state = format!("waiting ({})", one.lost.saturating_add(one.given));
        table.row([
            none(),
            one.service.to_string(),
            none(),
            none(),
            state,
            yes(false).to_owned(),
            none(),
            none(),
            one.why.clone(),
        ]);
    }
}

fn instance_table(instances: &[Instance], now_ms: u64) -> Table {
    const HEADER: [&str; 9] =
        ["INSTANCE", "SERVICE", "NODE", "DATACENTER", "STATE", "READY", "RESTARTS", "AGE", "MESSAGE"];
    let mut table = Table::new(&HEADER).expendable(&["DATACENTER", "AGE", "RESTARTS"]);
    for instance in instances {
        table.row([
            instance.id.to_string(),
            format!("{}/{}", instance.app, instance.service),
            instance.node_name.to_string(),
            instance.datacenter.to_string(),
            match instance.hook {
                Some(hook) => format!("{}, hook {}", instance.state.as_str(), hook.as_str()),
                None => instance.state.as_str().to_owned(),
            },
            yes(instance.is_ready).to_owned(),
            instance.restarts.to_string(),
            age(now_ms, instance.placed_ms),
            instance.message.clone(),
        ]);
    }
    table
}

pub async fn app_status(client: &Client, app: &AppName, json: bool) -> Result<(), Failure> {
    let status = client.app_status(app, None).await?;
    if json {
        return say_json(&status);
    }
    let details: Versioned<App> = client.app(app).await?;
    let now_ms = client.env().clock.wall_ms();
    let mut out = format!("{}: release {}, {} old\n\n", status.value.app, status.value.release, {
        age(now_ms, details.value.released_ms)
    });
    if let Some(deployment) = &status.value.deployment {
        out.insert_str(out.len() - 1, &format!("{}\n", super::release::text(deployment)));
    }
    out.push_str(&status_text(&status.value, width()));
    say(&out)
}

fn status_text(status: &AppStatus, width: Option<usize>) -> String {
    let mut table = Table::new(&["SERVICE", "SCALE", "RUNNING", "READY", "RELEASE"]);
    for service in &status.services {
        table.row([
            service.service.to_string(),
            if service.is_each_node { format!("each node ({})", service.scale) } else { service.scale.to_string() },
            service.running.to_string(),
            service.ready.to_string(),
            service.release.to_string(),
        ]);
    }
    let mut out = table.render(width);
    if status.services.is_empty() && !status.regions.is_empty() {
        out = "nothing of it runs in this region\n".to_owned();
    }
    out.push_str(&regions_text(status));
    for image in &status.images {
        let name = ImageName::of_release(&image.image, image.tag.as_ref());
        let missing = if image.copies < image.wanted { format!(" of {}", image.wanted) } else { String::new() };
        out.push_str(&format!("\nimage {} on {}{missing} nodes", short(&name.to_string()), image.copies));
    }
    if !status.images.is_empty() || !status.regions.is_empty() {
        out.push('\n');
    }
    problems(&mut out, &status.problems);
    out
}

/// What each region shall run, a line for each service; nothing where there is one region.
fn regions_text(status: &AppStatus) -> String {
    let mut services: Vec<(&ServiceName, Vec<String>)> = Vec::new();
    for RegionalScale { service, region, scale } in &status.regions {
        let said = format!("{region} {scale}");
        match services.last_mut().filter(|(last, _)| *last == service) {
            Some((_, regions)) => regions.push(said),
            None => services.push((service, vec![said])),
        }
    }
    services.iter().map(|(service, regions)| format!("\nscale of {service}: {}", regions.join(", "))).collect()
}

pub async fn status(client: &Client, json: bool) -> Result<(), Failure> {
    let status = client.status().await?;
    if json { say_json(&status) } else { say(&node_status_text(&status, client.env().clock.wall_ms(), width())) }
}

fn node_status_text(status: &NodeStatus, now_ms: u64, width: Option<usize>) -> String {
    let mut out = format!(
        "node {} ({}) in {}, data centre {}, cluster {}\nversion {}, up for {}\n\n",
        status.name,
        status.node,
        status.region,
        status.datacenter,
        status.cluster,
        clean(&status.version),
        age(now_ms, status.started_ms),
    );
    let mut table =
        Table::new(&["GROUP", "LEADER", "TERM", "REVISION", "VOTERS", "THIS NODE"]).expendable(&["REVISION", "TERM"]);
    for group in &status.groups {
        table.row([
            group.group.clone(),
            leader(group, now_ms),
            Term::to_string(&group.term),
            group.revision.to_string(),
            group.voters.len().to_string(),
            if group.is_voter { "votes" } else { "watches" }.to_owned(),
        ]);
    }
    out.push_str(&table.render(width));
    problems(&mut out, &status.problems);
    out
}

fn leader(group: &GroupStatus, now_ms: u64) -> String {
    match (&group.leader, group.alone_since_ms) {
        (_, Some(since)) => format!("none for {}", age(now_ms, since)),
        (Some(leader), None) => leader.name.as_ref().map_or_else(|| leader.node.to_string(), ToString::to_string),
        (None, None) => "none".to_owned(),
    }
}

pub async fn nodes(client: &Client, json: bool) -> Result<(), Failure> {
    let list = client.nodes().await?;
    if json { say_json(&list) } else { say(&node_table(&list.items, client.env().clock.wall_ms()).render(width())) }
}

fn node_table(nodes: &[Node], now_ms: u64) -> Table {
    const HEADER: [&str; 9] = ["NODE", "ID", "DATACENTER", "STATE", "ROLE", "INSTANCES", "CPU", "MEMORY", "ADDRESS"];
    let mut table = Table::new(&HEADER).expendable(&["ID", "ADDRESS", "DATACENTER", "ROLE"]);
    for node in nodes {
        table.row([
            node.name.to_string(),
            node.id.to_string(),
            node.datacenter.to_string(),
            node_state(node, now_ms),
            role(node).to_owned(),
            node.instances.to_string(),
            format!("{}/{}", cores(node.allocated.cpu_millis.0), cores(node.allocatable.cpu_millis.0)),
            format!("{}/{}", size(node.allocated.memory_bytes.0), size(node.allocatable.memory_bytes.0)),
            node.address.to_string(),
        ]);
    }
    table
}

fn node_state(node: &Node, now_ms: u64) -> String {
    let mut text = match (node.state, node.down_since_ms) {
        (NodeState::Up, _) => "up".to_owned(),
        (NodeState::Down, Some(since)) => format!("down for {}", age(now_ms, since)),
        (NodeState::Down, None) => "down".to_owned(),
        (NodeState::Other, _) => "other".to_owned(),
    };
    if node.is_draining {
        text.push_str(if node.instances == 0 { ", drained" } else { ", draining" });
    } else if node.is_cordoned {
        text.push_str(", cordoned");
    }
    text
}

const fn role(node: &Node) -> &'static str {
    match (node.is_leader, node.is_voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "",
    }
}

/// A key that can be part of a path; whether there is such a node the region says.
pub fn node_key(key: &str) -> Result<&str, Failure> {
    if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') || key.is_empty() {
        return Err(Failure::usage(format!("{key:?} is neither the id nor the name of a node"))
            .hint("`insula nodes` lists what there is; ids and names must be exact"));
    }
    Ok(key)
}

pub async fn node(client: &Client, key: &str, json: bool) -> Result<(), Failure> {
    let node = client.node(node_key(key)?).await?;
    if json { say_json(&node) } else { say(&node_text(&node.value, client.env().clock.wall_ms())) }
}

fn node_text(node: &Node, now_ms: u64) -> String {
    let amount = |what: NodeUse| format!("{} CPU, {} memory", cores(what.cpu_millis.0), size(what.memory_bytes.0));
    facts(&[
        ("node", node.name.to_string()),
        ("id", node.id.to_string()),
        ("region", node.region.to_string()),
        ("datacenter", node.datacenter.to_string()),
        ("state", node_state(node, now_ms)),
        ("role", role(node).to_owned()),
        ("address", if node.addresses.is_empty() { node.address.to_string() } else { addresses(&node.addresses) }),
        ("has", amount(node.capacity)),
        ("may give", amount(node.allocatable)),
        ("has given", amount(node.allocated)),
        ("instances", node.instances.to_string()),
        ("runtimes", node.runtimes.iter().map(RuntimeName::as_str).collect::<Vec<_>>().join(", ")),
        ("labels", labels_text(&node.labels)),
        ("version", node.version.clone()),
        ("joined", format!("{} UTC", utc(node.joined_ms))),
    ])
}

pub async fn regions(client: &Client, json: bool) -> Result<(), Failure> {
    let list = client.regions().await?;
    if json {
        return say_json(&list);
    }
    say(&region_table(&list.items).render(width()))
}

fn region_table(regions: &[Region]) -> Table {
    let mut table = Table::new(&["REGION", "CONTINENT", "STATE", "NODES UP", "REACHED", "LEVEL", "DATACENTERS"]);
    for region in regions {
        let state = match region.state {
            RegionState::Joining => "joining",
            RegionState::Serving => "serving",
            RegionState::Leaving => "leaving",
            RegionState::Other => "other",
        };
        let nodes = match (region.nodes_up, region.nodes) {
            (Some(up), Some(all)) => format!("{up}/{all}"),
            (None, Some(all)) => format!("?/{all}"),
            _ => String::new(),
        };
        let reached = match region.is_reached {
            _ if region.is_own => "this one",
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let datacenters: Vec<_> = region.datacenters.iter().map(ToString::to_string).collect();
        table.row([
            region.name.to_string(),
            region.continent.as_ref().map(ToString::to_string).unwrap_or_default(),
            state.to_owned(),
            nodes,
            reached.to_owned(),
            region.level.to_string(),
            datacenters.join(" "),
        ]);
    }
    table
}

pub async fn explain(client: &Client, id: InstanceId, json: bool) -> Result<(), Failure> {
    let instance = client.instance(id).await?;
    if json { say_json(&instance) } else { say(&instance_text(&instance.value, client.env().clock.wall_ms(), width())) }
}

fn instance_text(instance: &Instance, now_ms: u64, width: Option<usize>) -> String {
    let since = instance.since_ms.map(|since| format!(" for {}", age(now_ms, since))).unwrap_or_default();
    let endpoints: Vec<_> = instance.endpoints.iter().map(|(port, address)| format!("{port} {address}")).collect();
    let mut out = facts(&[
        ("instance", instance.id.to_string()),
        ("service", format!("{}/{}, release {}", instance.app, instance.service, instance.release)),
        ("node", format!("{} ({}), data centre {}", instance.node_name, instance.node, instance.datacenter)),
        ("hook", instance.hook.map_or_else(String::new, |hook| hook.as_str().to_owned())),
        ("state", format!("{}{since}", instance.state.as_str())),
        ("gets requests", yes(instance.is_ready).to_owned()),
        ("restarts", instance.restarts.to_string()),
        ("placed", format!("{} UTC, {} ago", utc(instance.placed_ms), age(now_ms, instance.placed_ms))),
        ("ports", endpoints.join(", ")),
        ("last problem", instance.message.clone()),
    ]);
    out.push_str("\nwhy here\n");
    for reason in &instance.reasons {
        out.push_str(&wrap(&format!("  {}\n", clean(reason)), width));
    }
    out
}

/// Facts under each other; those without a value are left out.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let known = || facts.iter().filter(|(_, value)| !value.is_empty());
    let longest = known().map(|(name, _)| name.len()).max().unwrap_or(0);
    known().map(|(name, value)| format!("{name:<longest$}  {}\n", clean(value))).collect()
}

/// A reference with as much of its digest as people compare.
fn short(image: &str) -> String {
    const DIGITS: usize = 12;
    match image.split_once("@sha256:") {
        Some((name, digest)) => format!("{}@sha256:{}…", clean(name), digest.chars().take(DIGITS).collect::<String>()),
        None => clean(image),
    }
}

fn problems(out: &mut String, problems: &[String]) {
    for (index, problem) in problems.iter().enumerate() {
        out.push_str(if index == 0 { "\nproblems\n" } else { "" });
        out.push_str(&format!("  {}\n", clean(problem)));
    }
}

const fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[cfg(test)]
mod tests;
