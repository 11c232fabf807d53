//! What is said of Compose files. What becomes of them is in `mapped`.

mod mapped;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::ServiceDefinition;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// An app of web, database and cache, as it was published.
const NEXTCLOUD: &str = include_str!("nextcloud.yaml");

fn variable(name: &str) -> Option<String> {
    let known = [("TAG", "7"), ("EMPTY", ""), ("HOST", "shop.example"), ("FROM_SHELL", "yes")];
    known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

fn compose(text: &str) -> Result<Composed, DefinitionError> {
    let text = text.replace("IMAGE", &format!("r.example/shop@{DIGEST}"));
    AppDefinition::parse_compose(&text, &ComposeContext { app: None, directory: Some("My_Shop"), variable: &variable })
}

/// What is said of a file: its warnings with a `~`, or what is wrong.
fn said(text: &str) -> String {
    match compose(text) {
        Ok(composed) => {
            let warnings: Vec<String> = composed.warnings.iter().map(|warning| format!("~ {warning}")).collect();
            if warnings.is_empty() { "valid".to_owned() } else { warnings.join("\n") }
        }
        Err(error) => error.to_string(),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "`expect![…]` is written in place")]
fn check(text: &str, expected: Expect) {
    expected.assert_eq(&said(text));
}

/// The same for the lines of one service with an image.
#[allow(clippy::needless_pass_by_value, reason = "`expect![…]` is written in place")]
fn check_service(lines: &str, expected: Expect) {
    check(&service(lines), expected);
}

fn service(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("services:\n  web:\n    image: IMAGE\n{lines}")
}

fn one(text: &str) -> ServiceDefinition {
    let composed = compose(text).unwrap_or_else(|error| panic!("{error}"));
    composed.definition.services.into_values().next().expect("one service")
}

#[test]
fn variables() {
    let value = |text: &str| one(&service(&format!("environment: {{ A: '{text}' }}"))).spec.env["A"].clone();
    for (text, expected) in [
        ("$TAG", "7"),
        ("${TAG}x", "7x"),
        ("a${EMPTY:-b}c", "abc"),
        ("a${EMPTY-b}c", "ac"),
        ("${NONE:-${TAG}}", "7"),
        ("${NONE-a}b}", "ab}"),
        ("${TAG:+set}", "set"),
        ("${EMPTY:+set}${EMPTY+set}", "set"),
        ("$$TAG $${TAG}", "$TAG ${TAG}"),
        ("${TAG:?needed}", "7"),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
    check_service(
        "environment: { A: $NONE, B: $NONE }",
        expect!["~ line 4, column 23: services.web.environment.A: the variable NONE is not set: taken as empty"],
    );
    check_service(
        "environment: { A: '${NONE:?say which ${TAG}}' }",
        expect!["line 4, column 23: services.web.environment.A: the variable NONE is not set: say which 7"],
    );
    check_service(
        "environment: { A: 'costs 5$', B: '${TAG', C: '${TAG!x}', D: '${}' }",
        expect![[r#"
        line 4, column 23: services.web.environment.A: a dollar sign begins a variable like ${NAME}; one of its own is written "$$"
        line 4, column 38: services.web.environment.B: "${" without "}"; a dollar sign of its own is written "$$"
        line 4, column 50: services.web.environment.C: found "${TAG!x}", expected ${NAME}, ${NAME:-default}, ${NAME:?message} or ${NAME:+other}
        line 4, column 65: services.web.environment.D: found "${}", expected ${NAME}, ${NAME:-default}, ${NAME:?message} or ${NAME:+other}"#]],
    );
}

#[test]
fn what_is_not_supported_is_named() {
    check_service(
        "build: .\nprivileged: true\nnetwork_mode: host\ncap_add: [NET_ADMIN]",
        expect![[r#"
        line 5, column 17: services.web.privileged: not supported: instances get no more rights than others; run it on a machine of its own
        line 6, column 5: services.web.network_mode: not supported: each instance has a network of its own; say under ports what it listens on
        line 7, column 5: services.web.cap_add: not supported: instances get no more capabilities; run it without, or on a machine of its own"#]],
    );
    check(
        "services:\n  web:\n    build: .\n",
        expect![
            "line 3, column 12: services.web.build: not supported: build the image, push it or bring it by `insula image import`, and write its name under image"
        ],
    );
    check(
        "services:\n  web:\n    image: nginx:-1\n",
        expect![[
            r#"line 3, column 12: services.web.image: found "nginx:-1": a tag has 1 to 128 letters, digits, dots, hyphens and underscores, and begins with none of dot and hyphen"#
        ]],
    );
    check_service(
        "env_file: .env\nuser: '1000'\nworking_dir: /app\nfoo: 1\nhealthchek: {}",
        expect![[r#"
        line 4, column 5: services.web.env_file: not supported: write it out under environment, as `docker compose config` does
        line 5, column 5: services.web.user: not supported: set USER in the image
        line 6, column 5: services.web.working_dir: not supported: set WORKDIR in the image
        line 7, column 5: services.web.foo: unknown key; the Compose specification has none of that name here
        line 8, column 5: services.web.healthchek: unknown key; did you mean "healthcheck"?"#]],
    );
    check_service(
        "volumes:\n- ./src:/app\n- /var/run/docker.sock:/var/run/docker.sock\n- /cache\n- data:/data\n- type: bind\n  source: a\n  target: /b",
        expect![[r#"
            line 5, column 7: services.web.volumes[0]: not supported: "./src" is a path of one machine; put files into the image, write them under configs with content, or use a named volume
            line 6, column 7: services.web.volumes[1]: not supported: "/var/run/docker.sock" is a path of one machine; put files into the image, write them under configs with content, or use a named volume
            line 7, column 7: services.web.volumes[2]: a volume without a name is gone with its container; give it one: NAME:/PATH
            line 8, column 7: services.web.volumes[3]: there is no "data" under volumes at the top of the file; add it there
            line 9, column 7: services.web.volumes[4]: not supported: "a" is a path of one machine; put files into the image, write them under configs with content, or use a named volume"#]],
    );
    check_service(
        "ports: ['53:53/udp', 3000-3005, '80:http', 70000, { published: 80 }]",
        expect![[r#"
        line 4, column 13: services.web.ports[0]: not yet: this version does not have udp
        line 4, column 26: services.web.ports[1]: found "3000-3005": write each port of its own
        line 4, column 37: services.web.ports[2]: found "http", expected the number of a port, from 1 to 65535
        line 4, column 48: services.web.ports[3]: found "70000", expected the number of a port, from 1 to 65535
        line 4, column 55: services.web.ports[4]: the key "target" is missing: the port that the service listens on"#]],
    );
    check_service(
        "deploy: { mode: global-job, replicas: many, placement: { constraints: [node.role==manager] } }",
        expect![[r#"
            line 4, column 21: services.web.deploy.mode: not supported: this version has no jobs; run it by hand with `insula run`
            line 4, column 43: services.web.deploy.replicas: found "many", expected a whole number
            line 4, column 76: services.web.deploy.placement.constraints[0]: not supported: nodes are asked for by labels, as in node.labels.disk==ssd; give them with `insula join --label`"#]],
    );
    check_service(
        "x-insula: { rout: [], scale: 3, volumes: 7 }",
        expect![[r#"
            line 4, column 17: services.web.x-insula.rout: unknown key; valid here: image, command, env, scale, resources, ports, routes, health, stop, runtime, volumes, tmpfs, read_only, init, placement, update, files, secrets, args, restart, hooks, regions, priority, region
            line 4, column 46: services.web.x-insula.volumes: found the number 7, expected a list"#]],
    );
    check(
        "services: { web: { image: IMAGE } }\ninclude: [a.yaml]\nx-insula: {}\nx-other: {}\nfoo: 1",
        expect![[r#"
        line 2, column 1: include: not supported: write the whole into one file, as `docker compose config` does
        line 3, column 1: x-insula: not supported: it is read in services and in volumes; write it there
        line 5, column 1: foo: unknown key; the Compose specification has none of that name here"#]],
    );
}

#[test]
fn what_is_harmless_is_warned_of() {
    check(
        "version: '3'\nname: shop\nservices:\n  my_db:\n    image: IMAGE\n    container_name: db\n    depends_on: [cache]\n    networks: [back]\n    \
         volumes: [db:/data:ro]\n  cache:\n    image: IMAGE\n    ports: ['6379:6379']\n  debug:\n    image: IMAGE\n    profiles: [debug]\n\
         networks: { back: }\nvolumes: { db: , other: }\n",
        expect![[r#"
            ~ line 1, column 1: version: left out: the Compose specification has no versions any more
            ~ line 4, column 3: services.my_db: called my-db here: names have letters, digits and hyphens
            ~ line 4, column 3: services: not yet: services do not reach each other by name (my-db, cache): this version has no networks between them
            ~ line 6, column 5: services.my_db.container_name: left out: instances have ids of their own
            ~ line 7, column 5: services.my_db.depends_on: left out: all services start at once; one that needs another has to try again until that is there
            ~ line 8, column 5: services.my_db.networks: left out: this version has no networks between services
            ~ line 9, column 15: services.my_db.volumes[0]: the volume can be written to: this version has no read-only ones
            ~ line 9, column 15: services.my_db.volumes[0]: the volume db is made with 5GiB; say how large at the top of the file, with db: { x-insula: { size: 20GiB } }
            ~ line 12, column 13: services.cache.ports[0]: it is published on no node: visitors come by host name to the edges; write x-insula: { routes: [{ host: shop.example }] }
            ~ line 15, column 15: services.debug.profiles: left out: this service has profiles, of which none is asked for
            ~ line 16, column 1: networks: left out: this version has no networks between services
            ~ line 17, column 18: volumes.other: left out: no service has it"#]],
    );
}

#[test]
fn files_and_volumes() {
    check(
        &(service("configs: [a, b, c]\nsecrets: [{ source: s, target: other }, t-u]\nvolumes: [v:/data, v:/more]")
            + "  two: { image: IMAGE, volumes: [v:/data] }\nconfigs: { a: { file: ./a }, b: { external: true } }\n\
               secrets: { s: { environment: S }, t-u: {} }\nvolumes: { v: { driver: nfs, driver_opts: { o: x } } }\n"),
        expect![[r#"
            line 4, column 21: services.web.configs[2]: there is no "c" under configs at the top of the file; add it there
            line 5, column 36: services.web.secrets[0].target: a secret is in /run/secrets/s; take it out, or call the secret otherwise
            line 7, column 115: services.two.volumes[0]: not supported: v is a volume of web already; a volume is of one instance; give each service its own, or let one serve the other
            line 8, column 23: configs.a.file: not supported: write what is in the file itself, with content: |
            line 8, column 45: configs.b.external: not supported: write what is in the file itself, with content: |
            line 10, column 25: volumes.v.driver: found "nfs", expected "local": volumes are on a node's own disk
            line 10, column 30: volumes.v.driver_opts: not supported: volumes are file systems of their own on a node's disk"#]],
    );
}

#[test]
fn text_that_is_no_compose_file() {
    check("", expect!["line 1, column 1: it is empty"]);
    check("# nothing\n", expect!["line 1, column 1: it is empty"]);
    check(
        "services: [",
        expect!["line 1, column 12: not valid YAML: while parsing a node, did not find expected node content"],
    );
    check("- a\n- b", expect![[r#"line 1, column 1: found a list, expected a table with the key "services""#]]);
    check(
        "services: {}",
        expect![
            "line 1, column 11: services: an app needs at least one service without profiles; write web: { image: … }"
        ],
    );
    check("name: shop\n", expect![[r#"line 1, column 1: the key "services" is missing"#]]);
    check(
        "services:\n  web: IMAGE\n",
        expect![[
            r#"line 2, column 8: services.web: found "r.example/shop@sha256:0123456789abcdef01…", expected a table"#
        ]],
    );
    check("a: 1\na: 2\n", expect![[r#"line 2, column 1: not valid: the key "a" is there twice"#]]);
    check("a: 1\n---\nb: 2\n", expect!["line 2, column 1: a second document begins here; a Compose file has one"]);
    check(
        "services: !reset {}\n",
        expect![[
            r#"line 1, column 11: the tag "!reset" is for files that are laid over others: write the whole into one file"#
        ]],
    );
    check("a: &a [*a]\n", expect!["line 1, column 8: this alias is part of what it stands for"]);
    check("a: *unknown\n", expect!["line 1, column 4: not valid YAML: while parsing node, found unknown anchor"]);
    check("? [a]\n: 1\n", expect!["line 1, column 3: a key is text; this is a list or a table"]);
    check(
        "ü: ä\nö: [\n",
        expect!["line 3, column 1: not valid YAML: while parsing a node, did not find expected node content"],
    );
    check(&"[".repeat(100_000), expect!["line 1, column 256: not valid YAML: recursion limit exceeded"]);
    check(&"- ".repeat(100_000), expect!["line 1, column 65: nested deeper than 32 levels"]);
    check(
        &"#".repeat(DEFINITION_LEN_MAX + 1),
        expect!["line 1, column 1: found 262145 bytes, at most 262144 are allowed"],
    );
}

#[test]
fn aliases_cannot_stand_for_billions() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    check(&text, expect!["line 5, column 10: more than 20000 values, with what aliases stand for"]);
    // Nor can variables.
    let value = "x".repeat(200_000);
    let variable = |_: &str| Some(value.clone());
    let text = format!("services: {{ web: {{ image: a, command: ['{}'] }} }}", "$A".repeat(100_000));
    let context = ComposeContext { app: None, directory: Some("a"), variable: &variable };
    let error = AppDefinition::parse_compose(&text, &context).expect_err("too long");
    expect!["line 1, column 40: services.web.command[0]: with its variables it is longer than a definition may be"]
        .assert_eq(&error.to_string());
}

#[test]
fn the_app_has_a_name() {
    let text = format!("services: {{ web: {{ image: 'r.example/shop@{DIGEST}' }} }}");
    let name = |app: Option<&str>, directory: Option<&str>, text: &str| {
        let app = app.map(|app| app.parse().expect("a name"));
        let context = ComposeContext { app, directory, variable: &|_| None };
        AppDefinition::parse_compose(text, &context).map(|composed| composed.definition.app.to_string())
    };
    assert_eq!(name(None, Some("My_Shop 2"), &text).as_deref(), Ok("myshop2"));
    assert_eq!(name(None, Some("x"), &format!("name: shop\n{text}")).as_deref(), Ok("shop"));
    assert_eq!(name(Some("other"), Some("x"), &format!("name: shop\n{text}")).as_deref(), Ok("other"));
    let error = name(None, None, &text).expect_err("no name");
    expect!["line 1, column 1: nobody says what the app is called; write name: NAME first, or give --app NAME"]
        .assert_eq(&error.to_string());
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        compose(&text).ok();
    }

    #[test]
    fn a_good_file_with_damage_never_panics(at in 0usize..1000, insert in "[ -~\n]{0,8}", cut in 0usize..20) {
        let good = NEXTCLOUD.replace(":apache", &format!("@{DIGEST}"));
        let text: String = good.chars().take(at).chain(insert.chars()).chain(good.chars().skip(at + cut)).collect();
        compose(&text).ok();
    }

    #[test]
    fn words_never_panic(text in "\\PC{0,60}") {
        amounts::words(&text).ok();
        amounts::span(&text).ok();
        amounts::bytes(&text).ok();
        amounts::cpus(&text).ok();
    }
}
