//! Writes a definition as JSON of its own shape.

mod overrides;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{AppDefinition, ServiceDefinition, format_duration};
use crate::{
    Check, ContentHash, DriverKind, FileSpec, HealthSpec, HookKind, HooksSpec, PlacementSpec, PortSpec, Promotion,
    Protocol, RegionSet, Resources, RestartSpec, RouteSpec, Strategy, TmpfsSpec, UpdateSpec, VolumeSpec,
};

pub(super) fn app(definition: &AppDefinition) -> Value {
    let services: Map<String, Value> = definition
        .services
        .iter()
        .map(|(name, item)| (name.to_string(), service(item, &definition.contents)))
        .collect();
    json!({ "app": definition.app, "services": services })
}

pub(super) fn service(item: &ServiceDefinition, contents: &BTreeMap<ContentHash, String>) -> Value {
    let spec = &item.spec;
    let mut out = Map::new();
    let runtime = match (spec.driver, &spec.runtime) {
        (DriverKind::Container, Some(class)) => class.as_str(),
        (DriverKind::Container, None) => "container",
        (DriverKind::Process, _) => "process",
    };
    out.insert("runtime".to_owned(), runtime.into());
    if let Some(image) = item.image() {
        out.insert("image".to_owned(), image.to_string().into());
    }
    if !spec.command.is_empty() {
        out.insert("command".to_owned(), json!(spec.command));
    }
    if !spec.args.is_empty() {
        out.insert("args".to_owned(), json!(spec.args));
    }
    if !spec.env.is_empty() {
        out.insert("env".to_owned(), json!(spec.env));
    }
    match &item.regions {
        RegionSet::Usual => {}
        RegionSet::All => drop(out.insert("regions".to_owned(), json!([RegionSet::ALL]))),
        RegionSet::These(names) => drop(out.insert("regions".to_owned(), json!(names))),
    }
    if let Some(scale) = item.scale {
        out.insert("scale".to_owned(), json!(scale));
    }
    out.insert("resources".to_owned(), resources(&spec.resources));
    if !spec.ports.is_empty() {
        out.insert("ports".to_owned(), spec.ports.iter().map(port).collect());
    }
    if !spec.routes.is_empty() {
        out.insert("routes".to_owned(), spec.routes.iter().map(route).collect());
    }
    if let Some(check) = &spec.health {
        out.insert("health".to_owned(), health(check));
    }
    let mut stop = json!({ "grace": format_duration(spec.stop.grace) });
    if let Some(signal) = spec.stop.named() {
        stop["signal"] = signal.into();
    }
    out.insert("stop".to_owned(), stop);
    if !spec.restart.is_usual() {
        out.insert("restart".to_owned(), restart(&spec.restart));
    }
    if !spec.volumes.is_empty() {
        out.insert("volumes".to_owned(), spec.volumes.iter().map(volume).collect());
    }
    if !spec.tmpfs.is_empty() {
        out.insert("tmpfs".to_owned(), spec.tmpfs.iter().map(tmpfs).collect());
    }
    if !spec.placement.is_usual() {
        out.insert("placement".to_owned(), placement(&spec.placement));
    }
    if !item.priority.is_usual() {
        out.insert("priority".to_owned(), item.priority.0.into());
    }
    if !spec.secrets.is_empty() {
        out.insert("secrets".to_owned(), json!(spec.secrets.keys().collect::<Vec<_>>()));
    }
    if !spec.files.is_empty() {
        out.insert("files".to_owned(), spec.files.iter().map(|one| file(one, contents)).collect());
    }
    for (key, is_set) in [("read_only", spec.is_read_only), ("init", spec.has_init)] {
        if is_set {
            out.insert(key.to_owned(), true.into());
        }
    }
    let UpdateSpec { hooks, .. } = &item.update;
    if item.update != (UpdateSpec { hooks: hooks.clone(), ..UpdateSpec::default() }) {
        out.insert("update".to_owned(), update(&item.update));
    }
    if !hooks.is_empty() {
        out.insert("hooks".to_owned(), self::hooks(hooks));
    }
    if !item.overrides.is_empty() {
        out.insert("region".to_owned(), overrides::all(item, contents));
    }
    Value::Object(out)
}

fn update(update: &UpdateSpec) -> Value {
    let mut out = json!({
        "max_unavailable": update.max_unavailable,
        "max_surge": update.max_surge,
        "min_healthy": format_duration(update.min_healthy),
        "deadline": format_duration(update.deadline),
        "bake": format_duration(update.bake),
        "auto_rollback": update.auto_rollback,
    });
    if !update.region_order.is_empty() {
        out["region_order"] = json!(update.region_order);
    }
    let promotion = match update.promotion() {
        Promotion::Auto => "auto",
        Promotion::Manual => "manual",
    };
    match &update.strategy {
        Strategy::Rolling => out["strategy"] = "rolling".into(),
        Strategy::BlueGreen(_) => {
            out["strategy"] = "blue-green".into();
            out["promote"] = promotion.into();
        }
        Strategy::Canary(canary) => {
            out["strategy"] = "canary".into();
            out["promote"] = promotion.into();
            out["instances"] = canary.instances.into();
            out["weight"] = format!("{}%", canary.weight).into();
            out["max_errors"] = format!("{}.{}%", canary.max_errors / 10, canary.max_errors % 10).into();
        }
    }
    out
}

fn hooks(hooks: &HooksSpec) -> Value {
    let mut out = json!({ "timeout": format_duration(hooks.timeout) });
    for kind in [HookKind::Before, HookKind::After] {
        if let Some(command) = hooks.command(kind) {
            out[kind.as_str()] = json!(command);
        }
    }
    out
}

fn resources(resources: &Resources) -> Value {
    let mut out = json!({
        "cpu": resources.cpu.to_string(),
        "memory": resources.memory.to_string(),
        "pids": resources.pids,
    });
    if let Some(files) = resources.files {
        out["files"] = files.into();
    }
    if let Some(disk) = resources.disk {
        out["disk"] = disk.to_string().into();
    }
    if let Some(io) = resources.io {
        out["io"] = format!("{io}/s").into();
    }
    out
}

fn placement(placement: &PlacementSpec) -> Value {
    let mut out = json!({ "spread": placement.spread });
    for (key, labels) in [("require", &placement.require), ("prefer", &placement.prefer)] {
        if !labels.is_empty() {
            out[key] = json!(labels);
        }
    }
    out
}

fn volume(volume: &VolumeSpec) -> Value {
    json!({ "name": volume.name, "path": volume.path, "size": volume.size.to_string(), "kind": "local" })
}

fn restart(restart: &RestartSpec) -> Value {
    let (least, most) = (format_duration(restart.backoff_min), format_duration(restart.backoff_max));
    json!({ "policy": restart.policy.as_str(), "backoff": format!("{least}..{most}") })
}

fn tmpfs(tmpfs: &TmpfsSpec) -> Value {
    json!({ "path": tmpfs.path, "size": tmpfs.size.to_string() })
}

fn file(file: &FileSpec, contents: &BTreeMap<ContentHash, String>) -> Value {
    let content = contents.get(&file.content).map_or("", String::as_str);
    json!({ "path": file.path, "content": content, "mode": format!("{:04o}", file.mode) })
}

fn port(port: &PortSpec) -> Value {
    let protocol = match port.protocol {
        Protocol::Http => "http",
        Protocol::H2c => "h2c",
        Protocol::Tcp => "tcp",
    };
    json!({ "name": port.name, "port": port.port, "protocol": protocol })
}

fn route(route: &RouteSpec) -> Value {
    json!({ "host": route.host, "path": route.path })
}

fn health(check: &HealthSpec) -> Value {
    let (kind, asked) = match &check.check {
        Check::Http(path) => ("http", json!(path)),
        Check::Tcp => ("tcp", json!(true)),
        Check::Exec(command) => ("exec", json!(command)),
        Check::Grpc(service) => ("grpc", json!(service)),
    };
    let mut out = json!({
        kind: asked,
        "interval": format_duration(check.interval),
        "timeout": format_duration(check.timeout),
        "grace": format_duration(check.grace),
        "unhealthy_after": check.unhealthy_after,
    });
    if let Some(port) = &check.port {
        out["port"] = json!(port);
    }
    if let Some(time) = check.restart_after {
        out["restart_after"] = format_duration(time).into();
    }
    out
}
