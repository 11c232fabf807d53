//! What nodes and instances use now, as the nodes themselves tell.

use std::{cmp::Reverse, collections::BTreeMap};

use insula_api::{
    Answer,
    wire::{InstanceUsage, NodeUsage, NodeUse, ServiceUsage, SilentNode, Usage},
};
use insula_types::{AppName, ServiceRef};

use super::{NodeApi, apps::no_such_app};
use crate::{
    methods::{InstanceUse, MeasureUseRequest, NodeMeasured, ServiceUse},
    usage::TOLD_MAX,
};

impl NodeApi {
    pub(super) async fn show_usage(&self, app: Option<&AppName>, most: u32) -> Answer<Usage> {
        if let Some(app) = app
            && !self.global.read(|global| global.apps.contains(app))
        {
            return Err(no_such_app(app));
        }
        let heard = self.usages.ask(&MeasureUseRequest { app: app.cloned(), most }).await;
        Ok(self.region.replica().read_at(|region, revision| {
            let (mut all, mut services) = (Usage { revision, ..Usage::default() }, BTreeMap::new());
            for (id, heard) in heard {
                // It may have been removed meanwhile.
                let Some(node) = region.nodes.get(&id) else { continue };
                let measured = match heard {
                    Ok(measured) => measured,
                    Err(why) => {
                        all.silent.push(SilentNode { node: id, name: node.name.clone(), why });
                        continue;
                    }
                };
                all.running += measured.count;
                add(&mut services, &measured);
                all.nodes.push(of_node(node, &measured));
                all.instances.extend(measured.instances.into_iter().map(|one| of_instance(node, one)));
            }
            all.instances.sort_by_key(|one| (Reverse((one.used.cpu_millis, one.used.memory_bytes)), one.instance));
            all.instances.truncate(most as usize);
            all.nodes.sort_by(|a, b| (b.used.cpu_millis, &a.name).cmp(&(a.used.cpu_millis, &b.name)));
            all.services = services.into_values().collect();
            all.services.sort_by(|a, b| {
                let by_cpu = b.used.cpu_millis.cmp(&a.used.cpu_millis);
                by_cpu.then(b.requests_per_second.total_cmp(&a.requests_per_second))
            });
            all.services.truncate(TOLD_MAX);
            all.silent.sort_by(|a, b| a.name.cmp(&b.name));
            all
        }))
    }
}

fn of_node(node: &insula_types::Node, measured: &NodeMeasured) -> NodeUsage {
    let requests = |pick: fn(&ServiceUse) -> f64| rounded(measured.services.iter().map(pick).sum());
    NodeUsage {
        node: node.id,
        name: node.name.clone(),
        datacenter: node.datacenter.clone(),
        used: NodeUse { cpu_millis: measured.cpu, memory_bytes: measured.memory },
        capacity: NodeUse { cpu_millis: node.capacity.cpu, memory_bytes: node.capacity.memory },
        disk_bytes: measured.disk_used,
        disk_size_bytes: measured.disk_size,
        instances: measured.count,
        requests_per_second: measured.has_edge.then(|| requests(|one| one.requests)),
        failed_per_second: measured.has_edge.then(|| requests(|one| one.failed)),
    }
}

fn of_instance(node: &insula_types::Node, one: InstanceUse) -> InstanceUsage {
    InstanceUsage {
        instance: one.instance,
        app: one.service.app,
        service: one.service.service,
        node: node.id,
        node_name: node.name.clone(),
        is_one_off: one.is_one_off,
        used: NodeUse { cpu_millis: one.cpu, memory_bytes: one.memory },
        limits: NodeUse { cpu_millis: one.cpu_limit, memory_bytes: one.memory_limit },
        pids: one.pids,
        pids_max: one.pids_limit,
        disk_bytes: one.disk.map(|(used, _)| used),
        disk_size_bytes: one.disk.map(|(_, size)| size),
        received_bytes_per_second: one.network.map(|one| one.received),
        sent_bytes_per_second: one.network.map(|one| one.sent),
    }
}

/// Adds what a node says of services to what others say.
fn add(services: &mut BTreeMap<ServiceRef, ServiceUsage>, measured: &NodeMeasured) {
    for one in &measured.services {
        let sum = services.entry(one.service.clone()).or_insert_with(|| ServiceUsage {
            app: one.service.app.clone(),
            service: one.service.service.clone(),
            instances: 0,
            used: NodeUse::default(),
            requests_per_second: 0.0,
            failed_per_second: 0.0,
        });
        sum.instances += one.instances;
        sum.used.cpu_millis.0 = sum.used.cpu_millis.0.saturating_add(one.cpu.0);
        sum.used.memory_bytes.0 = sum.used.memory_bytes.0.saturating_add(one.memory.0);
        sum.requests_per_second = rounded(sum.requests_per_second + one.requests);
        sum.failed_per_second = rounded(sum.failed_per_second + one.failed);
    }
}

/// To hundredths: what is beyond is chance. Nothing is 0, and not -0, which is what a sum of nothing is.
fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0 + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_shortly() {
        assert_eq!(rounded(1.006), 1.01);
        assert!(rounded(Vec::<f64>::new().into_iter().sum()).is_sign_positive());
    }
}
