//! The description of the API, as a file and as it is served.

use std::path::Path;

use expect_test::expect_file;
use insula_api::{Code, router};
use serde_json::Value;

use crate::fake::{Fake, World};

/// Who depends on the API sees here what changes. `UPDATE_EXPECT=1` writes it anew.
#[tokio::test]
async fn the_description_is_what_the_documents_have_and_what_is_served() {
    let document = router::openapi();
    let text = serde_json::to_string_pretty(&document).expect("JSON") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/openapi.json");
    expect_file![path].assert_eq(&text);

    let world = World::start(Fake::default()).await;
    let answer = world.raw_tls("GET /v1/openapi.json", Some(world.token("viewer-token")), "").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/json"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(body).expect("JSON"), document);
    world.stop().await;
}

/// Each row of the table is in it, and nothing else.
#[test]
fn the_description_has_every_endpoint_with_its_role() {
    let document = router::openapi();
    let mut count = 0;
    for (method, path, role) in router::endpoints() {
        let operation = &document["paths"][path][method.to_lowercase()];
        assert_eq!(operation["x-insula-least-role"], format!("{role:?}").to_lowercase(), "{method} {path}");
        count += 1;
    }
    let described = document["paths"].as_object().expect("paths").values();
    assert_eq!(described.map(|path| path.as_object().expect("methods").len()).sum::<usize>(), count);
}

/// Each code is in the table of docs/api.md, under its status.
#[test]
fn the_documents_list_every_code() {
    let document = router::openapi();
    let codes = document["components"]["schemas"]["Code"]["oneOf"].as_array().expect("codes");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
    let text = std::fs::read_to_string(path).expect("docs/api.md");
    for code in codes.iter().map(|code| code["const"].clone()).filter(|code| code != "other") {
        let status = serde_json::from_value::<Code>(code.clone()).expect("a code").status();
        let name = format!("`{}`", code.as_str().expect("text"));
        let row = text.lines().find(|line| line.starts_with('|') && line.contains(&name));
        let row = row.unwrap_or_else(|| panic!("{name} is not in docs/api.md"));
        let statuses = row.split('|').nth(1).expect("a column");
        assert!(statuses.contains(status.as_str()), "{name} has {status}: {row}");
    }
}
