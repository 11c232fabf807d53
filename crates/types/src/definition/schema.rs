//! A definition's shape as JSON Schema, for callers of the API. Written by hand beside [`super::keys`], and compared with it:
//! the reader has no types of its own to derive this from. What must hold between keys is told by the reader alone.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{AppDefinition, SCALE_MAX, SERVICES_MAX};
use crate::{
    AppName, LabelName, LabelValue, PortName, Priority, RegionName, RegionSet, Scale, SecretName, ServiceName,
    VolumeName,
};

/// An amount of bytes with its unit.
const BYTES: &str = "^[0-9]+ *(TiB|GiB|MiB|KiB|TB|GB|MB|kB|B)$";
/// A rate.
const BYTES_A_SECOND: &str = "^[0-9]+ *(TiB|GiB|MiB|KiB|TB|GB|MB|kB|B)/s$";
/// A span of time.
const SPAN: &str = "^[0-9]+(h|m|s|ms)$";
/// Two spans of time, or one.
const BACKOFF: &str = "^[0-9]+(h|m|s|ms)(\\.\\.[0-9]+(h|m|s|ms))?$";
/// An absolute path in an instance.
const MOUNT_PATH: &str = "^(/[^/\\x00-\\x1f\\x7f-\\x9f]+)+$";
/// An image by its tag, by its digest, or both.
const IMAGE: &str =
    "^[A-Za-z0-9._-]+(:[0-9]+)?(/[A-Za-z0-9._-]+)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$";
/// A runtime class, or one of what every node has.
const RUNTIME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// A host name whose last label begins with a letter: an address is none.
const HOST: &str = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?$";
/// A share with at most one digit after the dot.
const SHARE: &str = "^(100(\\.0)?|[0-9]{1,2}(\\.[0-9])?)%$";
/// The path of a route: whole segments.
const ROUTE_PATH: &str = "^(/|(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+)$";
/// The path of a request, with its query.
const REQUEST_PATH: &str = "^/[!-~]*$";

impl JsonSchema for AppDefinition {
    fn schema_name() -> Cow<'static, str> {
        "AppDefinition".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let service = generator.subschema_for::<Service>();
        json_schema!({
            "type": "object",
            "description": "What an app is. Values that do not fit together are refused as `invalid-definition`, which this \
                            schema cannot say: a service needs an image, or a command with runtime \"process\"; routes \
                            and checks need ports.",
            "required": ["app", "services"],
            "additionalProperties": false,
            "properties": {
                "app": generator.subschema_for::<AppName>(),
                "services": {
                    "type": "object",
                    "description": "Services by their names.",
                    "minProperties": 1,
                    "maxProperties": SERVICES_MAX,
                    "propertyNames": generator.subschema_for::<ServiceName>(),
                    "additionalProperties": service,
                },
            },
        })
    }
}

/// One service.
struct Service;

impl JsonSchema for Service {
    fn schema_name() -> Cow<'static, str> {
        "ServiceDefinition".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut keys = keys(generator);
        keys["image"] =
            text("Its image: registry/name:tag, which is looked up once, or registry/name@sha256:….", IMAGE);
        keys["update"] = update(generator).to_value();
        keys["regions"] = json!({
            "description": "In which regions it runs: names, or * alone for all of them.",
            "oneOf": [regions(generator), { "const": [RegionSet::ALL] }],
        });
        keys["region"] = json!({
            "type": "object",
            "description": "What regions override, by their names.",
            "maxProperties": 64,
            "propertyNames": generator.subschema_for::<RegionName>(),
            "additionalProperties": generator.subschema_for::<Override>(),
        });
        object("A set of identical instances.", &[], &keys)
    }
}

/// What a region overrides of a service.
struct Override;

impl JsonSchema for Override {
    fn schema_name() -> Cow<'static, str> {
        "ServiceOverride".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut keys = keys(generator);
        keys["update"] = update(generator).to_value();
        if let Some(Value::Object(update)) = keys["update"].get_mut("properties") {
            update.remove("region_order");
        }
        object("What a service is in a region: tables merge with the service's, all else takes its place.", &[], &keys)
    }
}

/// What can be said of a service, and otherwise of it in a region.
fn keys(generator: &mut SchemaGenerator) -> Value {
    let labels = labels(generator);
    json!({
        "runtime": text("container, process, or a runtime class that nodes have.", RUNTIME),
        "command": arguments("Program and arguments, in place of the image's."),
        "args": arguments("Arguments for the program of the image, in place of the image's own; not beside command."),
        "env": {
            "type": "object",
            "maxProperties": 256,
            "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,255}$" },
            "additionalProperties": { "type": "string", "pattern": "^[^\\x00]*$" },
        },
        "scale": generator.subschema_for::<Scale>(),
        "resources": resources(),
        "ports": list(16, &object("A port that it listens on.", &["name", "port", "protocol"], &json!({
            "name": generator.subschema_for::<PortName>(),
            "port": { "type": "integer", "minimum": 1, "maximum": 65535 },
            "protocol": { "enum": ["http", "h2c", "tcp"] },
        }))),
        "routes": list(64, &object("Requests that lead to it.", &["host"], &json!({
            "host": text("A host name in lower case.", HOST),
            "path": text("It and everything below it; / unless said.", ROUTE_PATH),
        }))),
        "health": health(generator),
        "stop": object("How an instance is told to end.", &[], &json!({
            "signal": { "enum": super::syntax::SIGNALS },
            "grace": span(),
        })),
        "restart": object("What becomes of an instance that ends by itself.", &[], &json!({
            "policy": { "enum": ["always", "on-failure", "never"] },
            "backoff": text("The first and the longest wait, like 1s..60s.", BACKOFF),
        })),
        "volumes": list(16, &object("A directory that outlives instances.", &["name", "path", "size"], &json!({
            "name": generator.subschema_for::<VolumeName>(),
            "path": text("Where, in the instance.", MOUNT_PATH),
            "size": text("Bytes with a unit, like 1GiB.", BYTES),
            "kind": { "enum": ["local"] },
        }))),
        "tmpfs": list(16, &object("A directory in memory.", &["path"], &json!({
            "path": text("Where, in the instance.", MOUNT_PATH),
            "size": text("Bytes with a unit, like 64MiB.", BYTES),
        }))),
        "read_only": { "type": "boolean" },
        "init": { "type": "boolean" },
        "placement": object("Which nodes it asks for.", &[], &json!({
            "spread": generator.subschema_for::<LabelName>(),
            "require": labels,
            "prefer": labels,
        })),
        "priority": number((*Priority::RANGE.start()).into(), (*Priority::RANGE.end()).into()),
        "hooks": object("What is run once for a release of it.", &[], &json!({
            "before": arguments("Ends well before any instance of the release is started."),
            "after": arguments("Is run when the release is known to be good."),
            "timeout": span(),
        })),
        "files": list(64, &object("A file that instances find and cannot change.", &["path", "content"], &json!({
            "path": text("Where, in the instance.", MOUNT_PATH),
            "content": { "type": "string" },
            "mode": text("Permissions in octal digits.", "^0?[0-7]{3}$"),
        }))),
        "secrets": {
            "type": "array",
            "maxItems": 64,
            "uniqueItems": true,
            "items": generator.subschema_for::<SecretName>(),
        },
    })
}

fn object(description: &str, required: &[&str], properties: &Value) -> Schema {
    json_schema!({
        "type": "object",
        "description": description,
        "required": required,
        "additionalProperties": false,
        "properties": properties,
    })
}

fn list(most: usize, items: &Schema) -> Value {
    json!({ "type": "array", "maxItems": most, "items": items })
}

fn text(description: &str, pattern: &str) -> Value {
    json!({ "type": "string", "description": description, "maxLength": 512, "pattern": pattern })
}

fn span() -> Value {
    text("A span of time, like 500ms or 2s.", SPAN)
}

fn number(least: u32, most: u32) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

fn arguments(description: &str) -> Value {
    let part = json!({ "type": "string", "pattern": "^[^\\x00]*$" });
    json!({ "type": "array", "description": description, "maxItems": 256, "items": part })
}

fn labels(generator: &mut SchemaGenerator) -> Value {
    json!({
        "type": "object",
        "maxProperties": crate::label::LABELS_MAX,
        "propertyNames": generator.subschema_for::<LabelName>(),
        "additionalProperties": generator.subschema_for::<LabelValue>(),
    })
}

fn resources() -> Schema {
    let cpu = json!({ "description": "Thousandths like 500m, or whole CPUs.", "oneOf": [
        { "type": "string", "pattern": "^[0-9]+m?$" },
        number(1, 512),
    ]});
    object(
        "What each instance gets.",
        &[],
        &json!({
            "cpu": cpu,
            "memory": text("Bytes with a unit, like 256MiB.", BYTES),
            "pids": number(1, 1_000_000),
            "files": number(64, 1_048_576),
            "disk": text("Bytes with a unit, like 1GiB.", BYTES),
            "io": text("Bytes a second, like 20MB/s.", BYTES_A_SECOND),
        }),
    )
}

fn health(generator: &mut SchemaGenerator) -> Schema {
    object(
        "How it is asked whether it is well: one of http, tcp, exec and grpc.",
        &[],
        &json!({
            "http": text("A path to ask for.", REQUEST_PATH),
            "tcp": { "const": true },
            "exec": arguments("A command that is run in the instance."),
            "grpc": text("A service to ask for.", "^[A-Za-z0-9._/-]*$"),
            "port": generator.subschema_for::<PortName>(),
            "interval": span(),
            "timeout": span(),
            "grace": span(),
            "unhealthy_after": number(1, 100),
            "restart_after": span(),
        }),
    )
}

fn regions(generator: &mut SchemaGenerator) -> Value {
    let name = generator.subschema_for::<RegionName>();
    json!({ "type": "array", "minItems": 1, "maxItems": 256, "uniqueItems": true, "items": name })
}

fn update(generator: &mut SchemaGenerator) -> Schema {
    let share = |description: &str, pattern: &str, most: u32| {
        let text = json!({ "type": "string", "pattern": pattern });
        json!({ "description": description, "oneOf": [text, number(0, most)] })
    };
    object(
        "How it goes from one release to the next.",
        &[],
        &json!({
            "strategy": { "enum": ["rolling", "canary", "blue-green"] },
            "max_unavailable": number(0, 100),
            "max_surge": number(0, 100),
            "min_healthy": span(),
            "deadline": span(),
            "bake": span(),
            "auto_rollback": { "type": "boolean" },
            "region_order": regions(generator),
            "instances": number(1, SCALE_MAX),
            "weight": share("A share of the requests from 1% to 99%.", "^[1-9][0-9]?%$", 99),
            "promote": { "enum": ["auto", "manual"] },
            "max_errors": share("A share of the requests, like 0.5%.", SHARE, 100),
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::keys::{self, Keys};

    /// The keys of the object at a pointer.
    fn of(schema: &Schema, pointer: &str) -> Vec<String> {
        let value = schema.as_value().pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer}"));
        value["properties"].as_object().expect("an object").keys().cloned().collect()
    }

    #[test]
    fn the_schema_has_the_keys_that_the_reader_takes() {
        let mut generator = SchemaGenerator::default();
        let (app, service) = (AppDefinition::json_schema(&mut generator), Service::json_schema(&mut generator));
        let at = |key: &str| format!("/properties/{key}");
        let item = |key: &str| format!("/properties/{key}/items");
        let one = Override::json_schema(&mut generator);
        let cases: [(&Schema, String, &Keys); 15] = [
            (&one, String::new(), &keys::OVERRIDE),
            (&app, String::new(), &keys::APP),
            (&service, String::new(), &keys::SERVICE),
            (&service, at("resources"), &keys::RESOURCES),
            (&service, item("ports"), &keys::PORT),
            (&service, item("routes"), &keys::ROUTE),
            (&service, at("health"), &keys::HEALTH),
            (&service, at("restart"), &keys::RESTART),
            (&service, item("volumes"), &keys::VOLUME),
            (&service, item("tmpfs"), &keys::TMPFS),
            (&service, at("placement"), &keys::PLACEMENT),
            (&service, at("update"), &keys::UPDATE),
            (&service, at("hooks"), &keys::HOOKS),
            (&service, item("files"), &keys::FILE),
            (&service, at("stop"), &keys::STOP),
        ];
        for (schema, pointer, keys) in cases {
            let mut known: Vec<_> = keys.known.iter().map(|key| (*key).to_owned()).collect();
            let mut found = of(schema, &pointer);
            known.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, known, "{pointer}");
        }
        let of_regions = |key: &&&str| !keys::OF_ALL_REGIONS.contains(*key);
        let known: Vec<_> = keys::SERVICE.known.iter().filter(of_regions).collect();
        assert_eq!(
            known,
            keys::OVERRIDE.known.iter().collect::<Vec<_>>(),
            "what is not the same in all regions may differ"
        );
    }
}
