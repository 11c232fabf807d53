//! The description of the API, OpenAPI 3.1, made from the table that the router is made from.

use schemars::{
    Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use super::table::{Gives, Header, Least, Row, Takes, Verb, parameter};
use crate::{Problem, Role, exec};

const SCHEMAS: &str = "/components/schemas";

/// The whole document.
pub(super) fn document(rows: Vec<Row>) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for row in rows {
        let path = paths.entry(row.path).or_insert_with(|| json!({}));
        path[row.verb.as_str().to_lowercase()] = operation(&row, &mut schemas);
    }
    let problem = schemas.told.subschema_for::<Problem>();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Insula",
            "version": "1",
            "description": "The API of an Insula cluster; every node answers it. Fields are only ever added to answers. Times are \
                            milliseconds since 1970. `revision` is that of the state that was read: apps, regions and tokens \
                            are the world's, everything else is the region's.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "`insula token create --api` makes one." },
            },
            "responses": {
                "Problem": {
                    "description": "What went wrong: `code` for programs, `detail` for people.",
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
        },
    });
    document["components"]["schemas"] = schemas.finish();
    tidy(&mut document);
    document
}

/// Schemas of what callers send, and of what they are told: of the latter a field with a default is always there.
struct Schemas {
    asked: SchemaGenerator,
    told: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let generator = |contract| {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = SCHEMAS.into();
            settings.meta_schema = None;
            settings.contract = contract;
            settings.into_generator()
        };
        Self { asked: generator(Contract::Deserialize), told: generator(Contract::Serialize) }
    }

    fn finish(mut self) -> Value {
        let mut all = self.told.take_definitions(true);
        for (name, schema) in self.asked.take_definitions(true) {
            let other = all.insert(name.clone(), schema.clone());
            // What goes both ways has no defaults, and so one schema.
            assert!(other.is_none_or(|other| other == schema), "{name} is sent in another shape than told");
        }
        Value::Object(all)
    }
}

fn operation(row: &Row, schemas: &mut Schemas) -> Value {
    let mut parameters = Vec::new();
    for name in row.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        let schema = parameter(name, &mut schemas.asked).expect("the table knows the parameters of its paths");
        parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
    }
    parameters.extend(row.query.iter().flat_map(|query| query_parameters(&query(&mut schemas.asked))));
    parameters.extend(row.headers.iter().map(|header| header_parameter(*header)));
    if let Gives::Session = row.gives {
        let protocol = exec::PROTOCOL;
        for (name, value) in [("Upgrade", protocol.to_str().expect("a constant of ASCII")), ("Connection", "Upgrade")] {
            let schema = json!({ "const": value });
            parameters.push(json!({ "name": name, "in": "header", "required": true, "schema": schema }));
        }
    }
    let (status, answer) = answer(&row.gives, schemas);
    let mut operation = json!({
        "operationId": operation_id(row.verb, row.path),
        "summary": row.summary,
        "description": needs(row.least),
        "x-insula-least-role": name(row.least.role),
        "parameters": parameters,
        "responses": {
            status: answer,
            "4XX": { "$ref": "#/components/responses/Problem" },
            "5XX": { "$ref": "#/components/responses/Problem" },
        },
    });
    match &row.takes {
        Takes::Nothing => {}
        Takes::Json(schema, most) => {
            operation["requestBody"] = json!({
                "required": true,
                "description": format!("At most {most} bytes."),
                "content": { "application/json": { "schema": schema(&mut schemas.asked) } },
            });
        }
        Takes::Bytes => {
            operation["requestBody"] = json!({
                "required": true,
                "description": "Read as it comes.",
                "content": { "application/octet-stream": {} },
            });
        }
    }
    operation
}

fn answer(gives: &Gives, schemas: &mut Schemas) -> (&'static str, Value) {
    let of = |kind: &str, description: &str, schema: Value| {
        let content = json!({ kind: { "schema": schema } });
        json!({ "description": description, "content": content })
    };
    let text = || json!({ "type": "string" });
    match gives {
        Gives::Json(schema) => ("200", of("application/json", "Done.", schema(&mut schemas.told).to_value())),
        Gives::Text => ("200", of("text/plain; charset=utf-8", "Lines, as they come.", text())),
        Gives::Bytes => {
            let content = json!({ "application/octet-stream": {} });
            ("200", json!({ "description": "Bytes, as they come.", "content": content }))
        }
        Gives::Events(schema) => {
            // There is no agreed way to say this in 3.1; the one of 3.2 has the same schema for each event.
            let event = schema(&mut schemas.told);
            let data = json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": event });
            let frame = json!({
                "type": "object",
                "description": "One event of the stream.",
                "required": ["data"],
                "properties": { "id": { "$ref": "#/components/schemas/EventCursor" }, "event": text(), "data": data },
            });
            ("200", of("text/event-stream", "Server-sent events, as they come.", frame))
        }
        Gives::Session => ("101", json!({ "description": "The connection is the command's from now on." })),
    }
}

/// The parameters that a query's fields are. What may be left out is not null: it is left out.
fn query_parameters(query: &Schema) -> Vec<Value> {
    let required = query.get("required").and_then(Value::as_array);
    let is_required = |name: &String| required.is_some_and(|all| all.iter().any(|one| one == name));
    let fields = query.get("properties").and_then(Value::as_object).expect("a query is a struct");
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = without_null(schema);
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        json!({ "name": name, "in": "query", "required": is_required(name), "description": description, "schema": schema })
    };
    fields.iter().map(parameter).collect()
}

fn without_null(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(kinds) = schema["type"].as_array() {
        schema["type"] = kinds.iter().find(|kind| *kind != "null").cloned().unwrap_or_default();
    } else if let Some(one) = schema["anyOf"].as_array().and_then(|all| all.first()).cloned() {
        let description = schema["description"].take();
        schema = one;
        schema["description"] = description;
    }
    if let Some(values) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        values.retain(|value| !value.is_null());
    }
    schema.as_object_mut().expect("a schema of ours is an object").retain(|_, value| !value.is_null());
    schema
}

fn header_parameter(header: Header) -> Value {
    let quoted = |description: &str, is_required: bool| {
        let schema = json!({ "type": "string", "pattern": "^(\"[0-9]{1,19}\"|[0-9]{1,19})$" });
        json!({
            "name": "If-Match", "in": "header", "required": is_required, "description": description, "schema": schema,
        })
    };
    match header {
        Header::IdempotencyKey => json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "Names the request: sent again under the same key, it is done once.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$" },
        }),
        Header::IfMatchRelease => quoted("The release that the app has; 0: none. Another one is refused.", false),
        Header::IfMatchRevision => quoted("The node's `changed`, as it was when you looked.", true),
        Header::LastEventId => json!({
            "name": "Last-Event-ID",
            "in": "header",
            "required": false,
            "description": "The event after which the stream goes on; counts more than `since`.",
            "schema": { "$ref": "#/components/schemas/EventCursor" },
        }),
    }
}

const fn name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Deployer => "deployer",
        Role::Admin => "admin",
        Role::Root => "root",
    }
}

fn needs(least: Least) -> String {
    match least.to_plan {
        None => format!("Needs the role {}.", name(least.role)),
        Some(plan) => format!("Needs the role {}; with `plan=true` {}.", name(least.role), name(plan)),
    }
}

/// `GET /v1/apps/{app}/status` is `getAppsAppStatus`.
fn operation_id(verb: Verb, path: &str) -> String {
    let words = path.split(['/', '-', '.', '{', '}']).filter(|word| !word.is_empty() && *word != "v1");
    let mut id = verb.as_str().to_lowercase();
    for word in words {
        id.extend(word.chars().take(1).map(|first| first.to_ascii_uppercase()));
        id.push_str(&word[1..]);
    }
    id
}

/// What Rust's documents say in its own way, and the bounds of its numbers.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = text.replace("[`", "`").replace("`]", "`").replace("crate::", "").replace('\n', " ");
            }
            let most = match fields.get("format").and_then(Value::as_str) {
                Some("uint16") => Some(u64::from(u16::MAX)),
                Some("uint32") => Some(u64::from(u32::MAX)),
                Some("uint64") => Some(u64::MAX),
                _ => None,
            };
            if let Some(most) = most {
                fields.entry("maximum").or_insert_with(|| most.into());
            }
            fields.values_mut().for_each(tidy);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::router::table;

    #[test]
    fn operations_have_names_of_their_own_and_every_reference_leads_somewhere() {
        let document = document(table::rows());
        let ids: BTreeSet<_> = table::rows().iter().map(|row| operation_id(row.verb, row.path)).collect();
        assert_eq!(ids.len(), table::rows().len());
        assert!(ids.contains("getAppsAppStatus") && ids.contains("getOpenapiJson"), "{ids:?}");
        let text = document.to_string();
        let references = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next());
        let mut count = 0;
        for reference in references {
            assert!(document.pointer(reference).is_some(), "{reference} leads nowhere");
            count += 1;
        }
        assert!(count > 100, "{count}");
    }
}
