//! The tables of `insula top`: whole, or as much of them as a screen has room for.

use insula_api::wire::{InstanceUsage, NodeUsage, ServiceUsage, Usage};
use insula_types::WindowSize;

use crate::{
    output::{cores, size},
    table::{Table, cut},
};

/// Shares of a screen that nodes and services have at most, as divisors of its rows; the rest is for instances.
const NODES_SHARE: usize = 4;
const SERVICES_SHARE: usize = 4;
/// Rows that each has at least.
const ROWS_MIN: usize = 3;

/// All of it.
pub fn whole(usage: &Usage, width: Option<usize>) -> String {
    page(usage, width, [usize::MAX; 3])
}

/// As much as fits, below a title.
pub fn fitting(title: &str, usage: &Usage, screen: WindowSize) -> String {
    let (rows, columns) = (usize::from(screen.rows), usize::from(screen.columns));
    let nodes = (rows / NODES_SHARE).max(ROWS_MIN).min(usage.nodes.len());
    let services = (rows / SERVICES_SHARE).max(ROWS_MIN).min(usage.services.len());
    let without = page(usage, Some(columns), [nodes, services, 0]).lines().count();
    // The title, and a line that says how many more there are.
    let instances = rows.saturating_sub(without + 2);
    let text = page(usage, Some(columns), [nodes, services, instances]);
    let lines = std::iter::once(cut(title, Some(columns))).chain(text.lines().map(str::to_owned));
    lines.take(rows).collect::<Vec<_>>().join("\n")
}

/// At most so many nodes, services and instances.
fn page(usage: &Usage, width: Option<usize>, [nodes, services, instances]: [usize; 3]) -> String {
    let mut out = String::new();
    if !usage.nodes.is_empty() {
        out.push_str(&node_table(&usage.nodes[..nodes.min(usage.nodes.len())]).render(width));
        more(&mut out, usage.nodes.len(), nodes, "nodes");
    }
    for silent in &usage.silent {
        out.push_str(&cut(&format!("{} {}: what it uses is not shown", silent.name, silent.why), width));
        out.push('\n');
    }
    if !usage.services.is_empty() {
        out.push('\n');
        out.push_str(&service_table(&usage.services[..services.min(usage.services.len())]).render(width));
        more(&mut out, usage.services.len(), services, "services");
    }
    out.push('\n');
    if usage.running == 0 {
        out.push_str("no instance runs\n");
        return out;
    }
    let shown = instances.min(usage.instances.len());
    out.push_str(&instance_table(&usage.instances[..shown]).render(width));
    more(&mut out, usage.running as usize, shown, "instances");
    out
}

/// Says what is left out.
fn more(out: &mut String, all: usize, shown: usize, what: &str) {
    if all > shown {
        out.push_str(&format!("and {} more {what}\n", all - shown));
    }
}

fn node_table(nodes: &[NodeUsage]) -> Table {
    const HEADER: [&str; 8] = ["NODE", "DATACENTER", "CPU", "MEMORY", "DISK", "INSTANCES", "REQ/S", "5XX/S"];
    let mut table = Table::new(&HEADER).expendable(&["DATACENTER", "DISK"]);
    for node in nodes {
        let (used, has) = (node.used, node.capacity);
        table.row([
            node.name.to_string(),
            node.datacenter.to_string(),
            share(used.cpu_millis.0.into(), has.cpu_millis.0.into(), &cores(has.cpu_millis.0)),
            share(used.memory_bytes.0, has.memory_bytes.0, &size(has.memory_bytes.0)),
            share(node.disk_bytes.0, node.disk_size_bytes.0, &size(node.disk_size_bytes.0)),
            node.instances.to_string(),
            node.requests_per_second.map_or_else(|| "?".to_owned(), rate),
            node.failed_per_second.map_or_else(|| "?".to_owned(), rate),
        ]);
    }
    table
}

fn service_table(services: &[ServiceUsage]) -> Table {
    let mut table = Table::new(&["SERVICE", "INSTANCES", "CPU", "MEMORY", "REQ/S", "5XX/S"]);
    for service in services {
        table.row([
            format!("{}/{}", service.app, service.service),
            service.instances.to_string(),
            cores(service.used.cpu_millis.0),
            size(service.used.memory_bytes.0),
            rate(service.requests_per_second),
            rate(service.failed_per_second),
        ]);
    }
    table
}

fn instance_table(instances: &[InstanceUsage]) -> Table {
    const HEADER: [&str; 9] = ["INSTANCE", "SERVICE", "NODE", "CPU", "MEMORY", "PIDS", "DISK", "NET IN", "NET OUT"];
    let mut table = Table::new(&HEADER).expendable(&["NET OUT", "NET IN", "DISK", "PIDS"]);
    for one in instances {
        let (used, limits) = (one.used, one.limits);
        let disk = one.disk_bytes.zip(one.disk_size_bytes);
        let carried = |bytes: Option<u64>| bytes.map_or_else(String::new, |bytes| format!("{}/s", size(bytes)));
        table.row([
            one.instance.to_string(),
            format!("{}/{}{}", one.app, one.service, if one.is_one_off { " (run)" } else { "" }),
            one.node_name.to_string(),
            share(used.cpu_millis.0.into(), limits.cpu_millis.0.into(), &cores(limits.cpu_millis.0)),
            share(used.memory_bytes.0, limits.memory_bytes.0, &size(limits.memory_bytes.0)),
            format!("{} of {}", one.pids, one.pids_max),
            disk.map_or_else(String::new, |(used, all)| share(used.0, all.0, &size(all.0))),
            carried(one.received_bytes_per_second),
            carried(one.sent_bytes_per_second),
        ]);
    }
    table
}

/// A share in percent, and of what.
fn share(used: u64, all: u64, of: &str) -> String {
    let percent = u128::from(used) * 100 / u128::from(all.max(1));
    format!("{percent}% of {of}")
}

fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 10.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

#[cfg(test)]
mod tests;
