//! What is read, and what is said of the rest.

mod contents;
mod nodes;
mod random;
mod regions;
mod traffic;

use expect_test::{Expect, expect};

use super::*;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What is said about a TOML text in which `IMAGE` stands for a good image.
#[allow(clippy::needless_pass_by_value, reason = "`expect![…]` is written in place")]
fn check(text: &str, expected: Expect) {
    let text = text.replace("IMAGE", &format!("image = \"r.example/shop@{DIGEST}\""));
    let said = match AppDefinition::parse(&text, Format::Toml) {
        Ok(_) => "valid".to_owned(),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&said);
}

/// The same for one service.
#[allow(clippy::needless_pass_by_value, reason = "`expect![…]` is written in place")]
fn check_service(lines: &str, expected: Expect) {
    check(&format!("app = \"shop\"\n[services.web]\n{lines}"), expected);
}

#[allow(clippy::needless_pass_by_value, reason = "`expect![…]` is written in place")]
fn check_json(text: &str, expected: Expect) {
    expected.assert_eq(&AppDefinition::parse(text, Format::Json).expect_err("is refused").to_string());
}

const FULL: &str = r#"
app = "shop"
[services.web]
IMAGE
command   = ["serve", "--port", "8080"]
env       = { LOG = "info" }
scale     = 3
resources = { cpu = "500m", memory = "256MiB", pids = 256 }
ports     = [{ name = "http", port = 8080, protocol = "http" }]
routes    = [{ host = "shop.example", path = "/" }, { host = "shop.example", path = "/a" }]
health    = { http = "/healthz", interval = "2s", timeout = "1s", grace = "30s", unhealthy_after = 2 }
stop      = { signal = "SIGINT", grace = "1m" }
[services.worker]
command = ["./worker"]
runtime = "process"
"#;

#[test]
fn a_full_definition_is_read_and_survives_json() {
    check(FULL, expect!["valid"]);
    let text = FULL.replace("IMAGE", &format!("image = \"r.example/shop@{DIGEST}\""));
    let definition = AppDefinition::parse(&text, Format::Toml).expect("valid");
    expect![[r#"
        ServiceDefinition {
            spec: ServiceSpec {
                driver: Container,
                image: Some(
                    "r.example/shop@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                ),
                command: [
                    "serve",
                    "--port",
                    "8080",
                ],
                env: {
                    "LOG": "info",
                },
                resources: Resources {
                    cpu: CpuMillis(
                        500,
                    ),
                    memory: ByteSize(
                        268435456,
                    ),
                    pids: 256,
                    files: None,
                    disk: None,
                    io: None,
                },
                ports: [
                    PortSpec {
                        name: "http",
                        port: 8080,
                        protocol: Http,
                    },
                ],
                routes: [
                    RouteSpec {
                        host: "shop.example",
                        path: "/",
                    },
                    RouteSpec {
                        host: "shop.example",
                        path: "/a",
                    },
                ],
                health: Some(
                    HealthSpec {
                        check: Http(
                            "/healthz",
                        ),
                        port: None,
                        interval: 2s,
                        timeout: 1s,
                        grace: 30s,
                        unhealthy_after: 2,
                        restart_after: None,
                    },
                ),
                stop: StopSpec {
                    signal: "SIGINT",
                    grace: 60s,
                    is_usual_meant: false,
                },
                is_read_only: false,
                has_init: false,
                tmpfs: [],
                volumes: [],
                runtime: None,
                placement: PlacementSpec {
                    spread: "datacenter",
                    require: {},
                    prefer: {},
                },
                files: [],
                secrets: {},
                args: [],
                restart: RestartSpec {
                    policy: Always,
                    backoff_min: 1s,
                    backoff_max: 60s,
                },
                restarted: 0,
            },
            tag: None,
            regions: Usual,
            scale: Some(
                Count(
                    3,
                ),
            ),
            update: UpdateSpec {
                strategy: Rolling,
                max_unavailable: 0,
                max_surge: 1,
                min_healthy: 5s,
                deadline: 300s,
                bake: 30s,
                auto_rollback: true,
                hooks: HooksSpec {
                    before: [],
                    after: [],
                    timeout: 300s,
                },
                region_order: [],
            },
            priority: Priority(
                50,
            ),
            overrides: {},
        }
    "#]]
    .assert_debug_eq(&definition.services.values().next().expect("web"));
    let json = definition.to_json().to_string();
    assert_eq!(AppDefinition::parse(&json, Format::Json), Ok(definition));
}

#[test]
fn broken_text() {
    check("app = ", expect!["line 1, column 7: not valid TOML: string values must be quoted, expected literal string"]);
    check(
        "app = \"a\"\napp = \"b\"\n[services.web",
        expect![[r#"
        line 2, column 1: not valid TOML: duplicate key
        line 3, column 14: not valid TOML: unclosed table, expected `]`"#]],
    );
    check_json("", expect!["line 1, column 1: not valid JSON: EOF while parsing a value"]);
    check_json(
        "{\n \"app\": \"shop\",\n \"services\": {,}\n}",
        expect!["line 3, column 15: not valid JSON: key must be a string"],
    );
    check_json(
        "{\"app\": \"shop\", \"app\": \"shop\", \"services\": {}}",
        expect![[r#"line 1, column 17: not valid: the key "app" is there twice"#]],
    );
    check_json("[1]", expect!["line 1, column 1: found a list, expected a table"]);
    check_json(&"[".repeat(100_000), expect!["line 1, column 100000: not valid JSON: EOF while parsing a list"]);
    check_json(
        &format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)),
        expect!["line 1, column 17: nested deeper than 16 levels"],
    );
    check(
        &"#".repeat(DEFINITION_LEN_MAX + 1),
        expect!["line 1, column 1: found 262145 bytes, at most 262144 are allowed"],
    );
}

#[test]
fn keys_of_the_whole() {
    check(
        "",
        expect![[r#"
        line 1, column 1: the key "app" is missing; write app = "NAME" first
        line 1, column 1: an app needs at least one service; write [services.NAME]"#]],
    );
    check(
        "app = \"My Shop\"\nservices = {}\nvolumes = 1",
        expect![[r#"
        line 1, column 7: app: "My Shop" is not a valid app name: use lower-case letters, digits and hyphens only
        line 3, column 1: volumes: unknown key; valid here: app, services"#]],
    );
    check(
        "ap = \"shop\"\n[service.web]\nIMAGE",
        expect![[r#"
        line 1, column 1: ap: unknown key; valid here: app, services
        line 1, column 1: the key "app" is missing; write app = "NAME" first
        line 1, column 1: an app needs at least one service; write [services.NAME]
        line 2, column 2: service: unknown key; did you mean "services"?"#]],
    );
    check(
        "app = 3\n[services.Web]\nIMAGE",
        expect![[r#"
        line 1, column 7: app: found the number 3, expected text: write "3"
        line 2, column 11: services.Web: "Web" is not a valid service name: use lower-case letters, digits and hyphens only"#]],
    );
}

#[test]
fn unknown_and_later_keys() {
    check_service(
        "IMAGE\nfailover = [\"A\"]\nscal = 3\ncolour = \"red\"",
        expect![[r#"
            line 4, column 1: services.web.failover: not yet: this version does not have it; take the key out
            line 5, column 1: services.web.scal: unknown key; did you mean "scale"?
            line 6, column 1: services.web.colour: unknown key; valid here: image, command, env, scale, resources, ports, routes, health, stop, runtime, volumes, tmpfs, read_only, init, placement, update, files, secrets, args, restart, hooks, regions, priority, region"#]],
    );
    check_service(
        "IMAGE\nresources = { cpus = \"1\", disk = \"1GiB\" }\nports = [{ name = \"http\", port = 80, protocol = \"htp\" }]\n\
         routes = [{ hots = \"a.example\", cache = \"standard\" }]",
        expect![[r#"
            line 4, column 15: services.web.resources.cpus: unknown key; did you mean "cpu"?
            line 5, column 49: services.web.ports[0].protocol: found "htp"; did you mean "http"?
            line 6, column 11: services.web.routes[0]: the key "host" is missing
            line 6, column 13: services.web.routes[0].hots: unknown key; did you mean "host"?
            line 6, column 33: services.web.routes[0].cache: not yet: this version does not have it; take the key out"#]],
    );
    check_service("IMAGE\nregion.was.scale = 4", expect!["valid"]);
}

#[test]
fn regions() {
    for good in ["[\"*\"]", "[\"fra\"]", "[\"fra\", \"was\"]"] {
        check_service(&format!("IMAGE\nregions = {good}"), expect!["valid"]);
    }
    check_service("IMAGE\nregions = [\"was\", \"fra\"]\nupdate = { region_order = [\"fra\"] }", expect!["valid"]);
    check_service("IMAGE\nregions = [\"*\"]\nupdate = { region_order = [\"fra\", \"was\"] }", expect!["valid"]);
    check_service(
        "IMAGE\nregions = []",
        expect![[
            r#"line 4, column 11: services.web.regions: it is empty; write the names of regions, or ["*"] for all of them, or take the key out"#
        ]],
    );
    check_service(
        "IMAGE\nregions = [\"fra\", \"fra\"]",
        expect!["line 4, column 19: services.web.regions[1]: fra is there twice; name it once"],
    );
    check_service(
        "IMAGE\nregions = [\"fra\", \"*\"]",
        expect![[
            r#"line 4, column 19: services.web.regions[1]: "*" stands for every region; write ["*"], or the names alone"#
        ]],
    );
    check_service(
        "IMAGE\nregions = \"fra\"",
        expect![[r#"line 4, column 11: services.web.regions: found one text, expected a list: write ["fra"]"#]],
    );
    check_service(
        "IMAGE\nregions = [\"FRA\", 7]",
        expect![[r#"
        line 4, column 12: services.web.regions[0]: "FRA" is not a valid region name: use lower-case letters, digits and hyphens only
        line 4, column 19: services.web.regions[1]: found the number 7, expected text: write "7""#]],
    );
    check_service(
        "IMAGE\nregions = {}",
        expect!["line 4, column 11: services.web.regions: found a table, expected a list"],
    );
    check_service(
        "IMAGE\nregions = [\"fra\"]\nupdate = { region_order = [\"was\"] }",
        expect!["line 5, column 27: services.web.update.region_order: was is none of its regions; they are fra"],
    );
    check_service(
        "IMAGE\nupdate = { region_order = [] }",
        expect![
            "line 4, column 27: services.web.update.region_order: it is empty; write the names of regions, the first one first, or take the key out"
        ],
    );
    check_service(
        "IMAGE\nupdate = { region_order = [\"fra\", \"fra\"] }",
        expect!["line 4, column 35: services.web.update.region_order[1]: fra is there twice; name it once"],
    );
}

#[test]
fn images_and_commands() {
    check_service(
        "scale = 1",
        expect![[r#"line 2, column 1: services.web: it needs an image, or a command with runtime = "process""#]],
    );
    check_service("image = \"nginx:1.27\"", expect!["valid"]);
    check_service(
        "image = \"nginx@sha256:12\"",
        expect![[
            r#"line 3, column 9: services.web.image: found "nginx@sha256:12": a digest is sha256: and 64 lower-case hexadecimal digits"#
        ]],
    );
    check_service("image = \"r.example:5000/nginx\"", expect!["valid"]);
    check_service(
        "image = \"nginx:-1\"",
        expect![[
            r#"line 3, column 9: services.web.image: found "nginx:-1": a tag has 1 to 128 letters, digits, dots, hyphens and underscores, and begins with none of dot and hyphen"#
        ]],
    );
    check_service(
        "image = \"r:x/nginx\"",
        expect![[
            r#"line 3, column 9: services.web.image: found "r:x/nginx": write registry/name:tag, or registry/name@sha256:… with 64 lower-case hexadecimal digits"#
        ]],
    );
    check_service(
        "image = 7",
        expect![[r#"line 3, column 9: services.web.image: found the number 7, expected text: write "7""#]],
    );
    check_service(
        "command = [\"./server\"]",
        expect![[
            r#"line 2, column 1: services.web: it has a command and no image; add image, or runtime = "process""#
        ]],
    );
    check_service(
        "runtime = \"process\"",
        expect![[r#"line 2, column 1: services.web: runtime "process" needs a command; write command = ["./server"]"#]],
    );
    check_service(
        "runtime = \"container\"",
        expect![[
            r#"line 2, column 1: services.web: runtime "container" needs an image; write image = "registry/name:tag""#
        ]],
    );
    check_service(
        "runtime = \"proces\"\ncommand = [\"a\"]",
        expect![[r#"line 3, column 11: services.web.runtime: found "proces"; did you mean "process"?"#]],
    );
    check_service("IMAGE\nruntime = \"runsc\"", expect!["valid"]);
    check_service(
        "runtime = \"runsc\"\ncommand = [\"a\"]",
        expect![[
            r#"line 2, column 1: services.web: runtime "runsc" needs an image; write image = "registry/name:tag""#
        ]],
    );
    check_service(
        "IMAGE\nruntime = \"/usr/bin/runsc\"",
        expect![[
            r#"line 4, column 11: services.web.runtime: "/usr/bin/runsc" is not a valid runtime name: use lower-case letters, digits and hyphens only; valid: container, process, or the name of a runtime class that nodes have"#
        ]],
    );
    check_service(
        "IMAGE\nruntime = \"process\"\ncommand = [\"./server\"]",
        expect![[
            r#"line 3, column 9: services.web.image: runtime "process" runs a program of the node and takes no image; take one out"#
        ]],
    );
    check_service(
        "IMAGE\ncommand = \"serve --port 80\"",
        expect![[
            r#"line 4, column 11: services.web.command: found one text, expected a list of arguments: write ["serve", "--port", "80"]"#
        ]],
    );
    check_service(
        "IMAGE\ncommand = [\"\", 1, \"a\\u0000b\"]",
        expect![[r#"
        line 4, column 11: services.web.command: the first argument is the program, and it is empty
        line 4, column 16: services.web.command[1]: found the number 1, expected text: write "1"
        line 4, column 19: services.web.command[2]: found "a\0b": it contains a NUL character, which no program can receive"#]],
    );
}

#[test]
fn no_program_can_receive_nul() {
    check_service(
        "IMAGE\nargs = [\"a\\u0000\"]\nenv = { A = \"b\\u0000\", \"C\\u0000\" = \"d\" }",
        expect![[r#"
        line 4, column 9: services.web.args[0]: found "a\0": it contains a NUL character, which no program can receive
        line 5, column 13: services.web.env.A: found "b\0": it contains a NUL character, which no program can receive
        line 5, column 24: services.web.env."C\0": a variable's name has letters, digits and underscores, and does not begin with a digit"#]],
    );
}

#[test]
fn arguments_of_the_program_of_an_image() {
    check_service("IMAGE\nargs = [\"--port\", \"8080\"]", expect!["valid"]);
    check_service(
        "IMAGE\ncommand = [\"x\"]\nargs = [\"--port\"]",
        expect![
            "line 5, column 8: services.web.args: command takes the place of the image's program and its arguments; put them at its end"
        ],
    );
    check_service(
        "runtime = \"process\"\ncommand = [\"x\"]\nargs = [\"y\", 3]",
        expect![[r#"
        line 5, column 8: services.web.args: they are for the program of an image; write program and arguments in command
        line 5, column 14: services.web.args[1]: found the number 3, expected text: write "3""#]],
    );
}

#[test]
fn values_out_of_bounds() {
    check_service(
        "IMAGE\nscale = 1001",
        expect!["line 4, column 9: services.web.scale: found the number 1001, expected a whole number from 0 to 1000"],
    );
    check_service("IMAGE\npriority = 100", expect!["valid"]);
    check_service(
        "IMAGE\npriority = 101",
        expect![
            "line 4, column 12: services.web.priority: found the number 101, expected a whole number from 0 to 100"
        ],
    );
    check_service(
        "IMAGE\npriority = \"high\"",
        expect![[r#"line 4, column 12: services.web.priority: found "high", expected a whole number from 0 to 100"#]],
    );
    check_service("IMAGE\nscale = \"each-node\"", expect!["valid"]);
    check_service(
        "IMAGE\nscale = \"each node\"",
        expect![[
            r#"line 4, column 9: services.web.scale: found "each node", expected a whole number from 0 to 1000, or "each-node""#
        ]],
    );
    check_service(
        "IMAGE\nscale = \"each-node\"\nvolumes = [{ name = \"data\", path = \"/data\", size = \"1GiB\" }]",
        expect![[
            r#"line 4, column 9: services.web.scale: not yet: a service with volumes cannot have the scale "each-node"; write a number, or take the volumes out"#
        ]],
    );
    check_service(
        "IMAGE\nscale = -1",
        expect!["line 4, column 9: services.web.scale: found the number -1, expected a whole number from 0 to 1000"],
    );
    check_service(
        "IMAGE\nscale = 1.5",
        expect!["line 4, column 9: services.web.scale: found a fraction, expected a whole number from 0 to 1000"],
    );
    check_service(
        "IMAGE\nenv = { A = 1, \"B-C\" = \"x\", D = true }",
        expect![[r#"
        line 4, column 13: services.web.env.A: found the number 1, expected text: write "1"
        line 4, column 16: services.web.env.B-C: a variable's name has letters, digits and underscores, and does not begin with a digit
        line 4, column 33: services.web.env.D: found true, expected text: write "true""#]],
    );
    check_service(
        "IMAGE\nresources = { cpu = 0, memory = \"1MiB\", pids = 0 }",
        expect![[r#"
        line 4, column 21: services.web.resources.cpu: found the number 0, expected from 1m to 512 CPUs
        line 4, column 33: services.web.resources.memory: found 1MiB, expected from 4MiB to 16TiB
        line 4, column 48: services.web.resources.pids: found the number 0, expected a whole number from 1 to 1000000"#]],
    );
    check_service(
        "IMAGE\nresources = { cpu = \"half\", memory = 256 }",
        expect![[r#"
            line 4, column 21: services.web.resources.cpu: "half" is not an amount of CPU: write thousandths of a CPU like 500m, or whole CPUs like 2
            line 4, column 38: services.web.resources.memory: found the number 256, expected a unit with it: write "256MiB""#]],
    );
    check_service(
        "IMAGE\nstop = { signal = \"TERM\", grace = \"2 s\" }",
        expect![[r#"
        line 4, column 19: services.web.stop.signal: found "TERM"; valid: SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH, SIGKILL
        line 4, column 35: services.web.stop.grace: "2 s" is not a span of time: write a whole number with a unit, like 500ms, 2s, 1m or 1h"#]],
    );
    check_service(
        "IMAGE\nstop = { signal = \"SIGTRM\", grace = \"2h\" }",
        expect![[r#"
        line 4, column 19: services.web.stop.signal: found "SIGTRM"; did you mean "SIGTERM"?
        line 4, column 37: services.web.stop.grace: found "2h", expected a span of time from 0s to 1h"#]],
    );
}

#[test]
fn the_list_of_problems_is_bounded() {
    let lines: String = (0..100).map(|n| format!("wrong{n} = 1\n")).collect();
    let error = AppDefinition::parse(&lines, Format::Toml).expect_err("nothing is right");
    assert_eq!((error.problems.len(), error.left_out), (20, 82));
    assert!(error.to_string().ends_with("\nand 82 more"), "{error}");
}

#[test]
fn slips_are_recognised() {
    assert_eq!(nearest("imgae", ["image", "env"]), Some("image"));
    assert_eq!(nearest("por", ["ports", "env"]), None, "two of three letters is no slip");
    assert_eq!(nearest("port", ["ports", "env"]), Some("ports"));
    assert_eq!(nearest("x", ["y"]), None);
    assert_eq!(nearest(&"x".repeat(1 << 20), ["y"]), None);
}
