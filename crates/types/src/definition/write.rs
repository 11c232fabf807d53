//! Writes a definition as JSON of its own shape.

use serde_json::{Map, Value, json};

use super::{AppDefinition, ServiceDefinition, format_duration};
use crate::{DriverKind, HealthSpec, PortSpec, Protocol, RouteSpec};

pub(super) fn app(definition: &AppDefinition) -> Value {
    let services: Map<String, Value> =
        definition.services.iter().map(|(name, item)| (name.to_string(), service(item))).collect();
    json!({ "app": definition.app, "services": services })
}

fn service(item: &ServiceDefinition) -> Value {
    let spec = &item.spec;
    let mut out = Map::new();
    let runtime = match spec.driver {
        DriverKind::Container => "container",
        DriverKind::Process => "process",
    };
    out.insert("runtime".to_owned(), runtime.into());
    if let Some(image) = &spec.image {
        out.insert("image".to_owned(), image.as_str().into());
    }
    if !spec.command.is_empty() {
        out.insert("command".to_owned(), json!(spec.command));
    }
    if !spec.env.is_empty() {
        out.insert("env".to_owned(), json!(spec.env));
    }
    if let Some(scale) = item.scale {
        out.insert("scale".to_owned(), scale.into());
    }
    let resources = json!({
        "cpu": spec.resources.cpu.to_string(),
        "memory": spec.resources.memory.to_string(),
        "pids": spec.resources.pids,
    });
    out.insert("resources".to_owned(), resources);
    if !spec.ports.is_empty() {
        out.insert("ports".to_owned(), spec.ports.iter().map(port).collect());
    }
    if !spec.routes.is_empty() {
        out.insert("routes".to_owned(), spec.routes.iter().map(route).collect());
    }
    if let Some(check) = &spec.health {
        out.insert("health".to_owned(), health(check));
    }
    out.insert("stop".to_owned(), json!({ "signal": spec.stop.signal, "grace": format_duration(spec.stop.grace) }));
    Value::Object(out)
}

fn port(port: &PortSpec) -> Value {
    let protocol = match port.protocol {
        Protocol::Http => "http",
        Protocol::Tcp => "tcp",
    };
    json!({ "name": port.name, "port": port.port, "protocol": protocol })
}

fn route(route: &RouteSpec) -> Value {
    json!({ "host": route.host, "path": route.path })
}

fn health(check: &HealthSpec) -> Value {
    let mut out = json!({
        "http": check.http,
        "interval": format_duration(check.interval),
        "timeout": format_duration(check.timeout),
        "grace": format_duration(check.grace),
        "unhealthy_after": check.unhealthy_after,
    });
    if let Some(port) = &check.port {
        out["port"] = json!(port);
    }
    out
}
