use expect_test::{Expect, expect};
use proptest::prelude::*;

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
            },
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
            },
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
fn files() {
    check_service(
        r#"IMAGE
files = [
    { path = "/etc/shop.toml", content = "a = 1\n", mode = "0640" },
    { path = "/etc/shop.toml", content = "" },
    { path = "/etc/shop.toml/more", content = "" },
    { path = "/proc/x", content = "" },
    { path = "/dev/shm/x", content = "" },
    { path = "/etc/../x", content = "" },
    { path = "/a", content = "", mode = 644 },
    { path = "/b", content = "", mode = "4755" },
    { path = "/c" },
    { path = "/data/x", content = "" },
    { path = "/tmp", content = "" },
]
volumes = [{ name = "d", path = "/data", size = "1GiB" }]
tmpfs = [{ path = "/tmp" }]"#,
        expect![[r#"
            line 4, column 9: services.web.files: /data/x is in /data, which is one of volumes: what is there is the instance's own; choose another path
            line 4, column 9: services.web.files: /tmp is in /tmp, which is one of tmpfs: what is there is the instance's own; choose another path
            line 6, column 5: services.web.files[1]: /etc/shop.toml is there twice; give each file its own path
            line 7, column 5: services.web.files[2]: /etc/shop.toml and /etc/shop.toml/more cannot both be files: one is in the other
            line 8, column 14: services.web.files[3].path: found "/proc/x": /proc, /sys and /dev are the runtime's own; choose another directory
            line 9, column 14: services.web.files[4].path: found "/dev/shm/x": /dev is the runtime's own; choose another path
            line 10, column 14: services.web.files[5].path: found "/etc/../x": write an absolute path like /data, without empty segments, . or .., and without the final slash
            line 11, column 41: services.web.files[6].mode: found the number 644, expected permissions in octal digits, like "0644" or "0755"
            line 12, column 41: services.web.files[7].mode: found "4755", expected permissions in octal digits, like "0644" or "0755"
            line 13, column 5: services.web.files[8]: the key "content" is missing"#]],
    );
    check_service(
        "runtime = \"process\"\ncommand = [\"x\"]\nfiles = [{ path = \"/a\", content = \"\" }]",
        expect![[
            r#"line 5, column 9: services.web.files: runtime "process" does not have it: a process uses the node as it is; use an image"#
        ]],
    );
    let many = "{ path = \"/N\", content = \"\" },".repeat(65);
    check_service(
        &format!("IMAGE\nfiles = [{many}]"),
        expect!["line 4, column 9: services.web.files: found 65 items, at most 64 are allowed"],
    );
}

#[test]
fn secrets() {
    check_service("IMAGE\nsecrets = [\"DATABASE_URL\", \"KEY\"]\ntmpfs = [{ path = \"/run\" }]", expect!["valid"]);
    check_service("runtime = \"process\"\ncommand = [\"x\"]\nsecrets = [\"A\"]", expect!["valid"]);
    check_service(
        r#"IMAGE
secrets = ["A", "B", "A", "9", "a-b", 3, "INSULA_APP"]
env = { B = "1" }
files = [{ path = "/run/secrets/A", content = "" }]
tmpfs = [{ path = "/run/secrets" }]"#,
        expect![[r#"
            line 4, column 22: services.web.secrets[2]: it is there twice; name it once
            line 4, column 27: services.web.secrets[3]: "9" is no name of a secret: up to 128 letters, digits and underscores, of which the first is no digit, and not beginning with INSULA_, like DATABASE_URL
            line 4, column 32: services.web.secrets[4]: "a-b" is no name of a secret: up to 128 letters, digits and underscores, of which the first is no digit, and not beginning with INSULA_, like DATABASE_URL
            line 4, column 39: services.web.secrets[5]: found the number 3, expected text: write "3"
            line 4, column 42: services.web.secrets[6]: "INSULA_APP" is no name of a secret: up to 128 letters, digits and underscores, of which the first is no digit, and not beginning with INSULA_, like DATABASE_URL
            line 5, column 7: services.web.env: B is a secret, too; take it out of one of both
            line 6, column 9: services.web.files: /run/secrets/A is where the secrets are; choose another path
            line 6, column 9: services.web.files: /run/secrets/A is in /run/secrets, which is one of tmpfs: what is there is the instance's own; choose another path
            line 7, column 9: services.web.tmpfs: /run/secrets is where the secrets are; choose another path"#]],
    );
    check_service(
        "IMAGE\nsecrets = { A = \"value\" }",
        expect!["line 4, column 11: services.web.secrets: found a table, expected a list"],
    );
}

#[test]
fn contents_are_kept_once() {
    let file = r#"files = [{ path = "/etc/a", content = "x" }, { path = "/etc/b", content = "x" }]"#;
    let text = format!("app = \"shop\"\n[services.web]\nimage = \"r.example/shop@{DIGEST}\"\n{file}");
    let definition = AppDefinition::parse(&text, Format::Toml).expect("valid");
    let hash = ContentHash::of("x");
    assert_eq!(definition.contents, BTreeMap::from([(hash, "x".to_owned())]));
    let spec = &definition.services.values().next().expect("one").spec;
    assert_eq!(spec.files.iter().map(|file| file.content).collect::<Vec<_>>(), [hash, hash]);
    assert_eq!(spec.level(), crate::Level(6));
}

#[test]
fn unknown_and_later_keys() {
    check_service(
        "IMAGE\nfailover = [\"A\"]\nscal = 3\ncolour = \"red\"",
        expect![[r#"
            line 4, column 1: services.web.failover: not yet: this version does not have it; take the key out
            line 5, column 1: services.web.scal: unknown key; did you mean "scale"?
            line 6, column 1: services.web.colour: unknown key; valid here: image, command, env, scale, resources, ports, routes, health, stop, runtime, volumes, tmpfs, read_only, init, placement, update, files, secrets"#]],
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
    check_service(
        "IMAGE\nregion.was.scale = 4",
        expect!["line 4, column 1: services.web.region: not yet: this version does not have it; take the key out"],
    );
}

#[test]
fn images_and_commands() {
    check_service(
        "scale = 1",
        expect![[r#"line 2, column 1: services.web: it needs an image, or a command with runtime = "process""#]],
    );
    check_service(
        "image = \"nginx:1.27\"",
        expect![[
            r#"line 3, column 9: services.web.image: found "nginx:1.27": it has no digest, and this version does not look up tags yet; write registry/name@sha256:…"#
        ]],
    );
    check_service(
        "image = \"nginx@sha256:12\"",
        expect![[
            r#"line 3, column 9: services.web.image: found "nginx@sha256:12": write registry/name@sha256:… with 64 lower-case hexadecimal digits"#
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
            r#"line 2, column 1: services.web: runtime "container" needs an image; write image = "registry/name@sha256:…""#
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
            r#"line 2, column 1: services.web: runtime "runsc" needs an image; write image = "registry/name@sha256:…""#
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
fn values_out_of_bounds() {
    check_service(
        "IMAGE\nscale = 1001",
        expect!["line 4, column 9: services.web.scale: found the number 1001, expected a whole number from 0 to 1000"],
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
fn ports_routes_and_checks() {
    const PORT: &str = "ports = [{ name = \"http\", port = 80, protocol = \"http\" }]";
    check_service(
        "IMAGE\nports = [{ name = \"a\", port = 80, protocol = \"tcp\" }, { name = \"a\", port = 81, protocol = \"tcp\" },\n\
         { name = \"b\", port = 80, protocol = \"udp\" }, { name = \"c\", port = 80, protocol = \"tcp\" }, { port = 70000 }]",
        expect![[r#"
            line 4, column 55: services.web.ports[1]: the port name "a" is there twice; give each port its own
            line 5, column 37: services.web.ports[2].protocol: not yet: this version does not have "udp"; valid: http, tcp
            line 5, column 46: services.web.ports[3]: the port number 80 is there twice; name it once
            line 5, column 91: services.web.ports[4]: the key "name" is missing
            line 5, column 91: services.web.ports[4]: the key "protocol" is missing
            line 5, column 100: services.web.ports[4].port: found the number 70000, expected a whole number from 1 to 65535"#]],
    );
    check_service(
        "IMAGE\nroutes = [{ host = \"shop.example\" }]",
        expect![[
            r#"line 4, column 10: services.web.routes: routes lead to a port with protocol "http", and there is none; add ports = [{ name = "http", port = 8080, protocol = "http" }]"#
        ]],
    );
    let hosts = ["https://a.b", "A.example", "*.example", "10.0.0.1", "a..b", "a_b.example"];
    let routes: Vec<_> = hosts.iter().map(|host| format!("{{ host = \"{host}\" }}")).collect();
    check_service(
        &format!("IMAGE\n{PORT}\nroutes = [{}]", routes.join(",\n")),
        expect![[r#"
        line 5, column 20: services.web.routes[0].host: found "https://a.b": write the host name alone, without scheme, port or path
        line 6, column 10: services.web.routes[1].host: found "A.example": write it in lower case
        line 7, column 10: services.web.routes[2].host: found "*.example": not yet: this version does not have wildcards; write each host name
        line 8, column 10: services.web.routes[3].host: found "10.0.0.1": an address is not a host name; write a name like shop.example
        line 9, column 10: services.web.routes[4].host: found "a..b": write a host name like shop.example: labels of a-z, 0-9 and hyphens, with dots between
        line 10, column 10: services.web.routes[5].host: found "a_b.example": write a host name like shop.example: labels of a-z, 0-9 and hyphens, with dots between"#]],
    );
    let paths = ["a", "/a/", "/a//b", "/a?b", "/ä", "/a/../b"];
    let routes: Vec<_> = paths.iter().map(|path| format!("{{ host = \"a.example\", path = \"{path}\" }}")).collect();
    check_service(
        &format!("IMAGE\n{PORT}\nroutes = [{}]", routes.join(",\n")),
        expect![[r#"
        line 5, column 40: services.web.routes[0].path: found "a": it must begin with /
        line 6, column 30: services.web.routes[1].path: found "/a/": write it without the final slash: /a takes /a and everything below it
        line 7, column 30: services.web.routes[2].path: found "/a//b": write it without empty segments, . or ..
        line 8, column 30: services.web.routes[3].path: found "/a?b": write a plain path: no query, no wildcard, no percent-encoding
        line 9, column 30: services.web.routes[4].path: found "/ä": write it in printable ASCII without spaces
        line 10, column 30: services.web.routes[5].path: found "/a/../b": write it without empty segments, . or .."#]],
    );
    let twice = format!("IMAGE\n{PORT}\nroutes = [{{ host = \"a.example\" }}]\n");
    check_service(
        &format!("{twice}[services.api]\n{twice}"),
        expect![
            "line 9, column 11: services.api.routes[0]: the route a.example/ is there twice; one service of the app can have it"
        ],
    );
    check_service(
        "IMAGE\nhealth = { http = \"/\" }",
        expect![[
            r#"line 4, column 10: services.web.health: the check asks a port with protocol "http", and there is none; add ports = [{ name = "http", port = 8080, protocol = "http" }]"#
        ]],
    );
    check_service(
        &format!("IMAGE\n{PORT}\nhealth = {{ http = \"ok\", port = \"web\" }}"),
        expect![[r#"
            line 5, column 19: services.web.health.http: found "ok": it must begin with /
            line 5, column 32: services.web.health.port: there is no port "web"; the service has: http"#]],
    );
    check_service(
        &format!(
            "IMAGE\n{PORT}\nhealth = {{ interval = \"1s\", timeout = \"5s\", grace = \"0s\", unhealthy_after = 0 }}"
        ),
        expect![[r#"
            line 5, column 10: services.web.health: a check needs one of http = "/healthz", tcp = true, exec = ["command"], grpc = "service"
            line 5, column 39: services.web.health.timeout: it is longer than the interval; the checks would overlap
            line 5, column 53: services.web.health.grace: found "0s", expected a span of time from 1s to 1h
            line 5, column 77: services.web.health.unhealthy_after: found the number 0, expected a whole number from 1 to 100"#]],
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
fn checks_of_all_kinds() {
    let ports = "IMAGE\nports = [{ name = \"rpc\", port = 9000, protocol = \"tcp\" }]\n";
    let check = |health: &str, expected: Expect| check_service(&format!("{ports}health = {health}"), expected);
    check("{ tcp = true, port = \"rpc\", restart_after = \"1m\" }", expect![["valid"]]);
    check("{ grpc = \"\" }", expect![["valid"]]);
    check(
        "{ grpc = \"shop v1\" }",
        expect![[
            r#"line 5, column 19: services.web.health.grpc: found "shop v1": write a gRPC service like shop.v1.Cart, or "" for the server as a whole"#
        ]],
    );
    check(
        "{ http = \"/\", port = \"rpc\" }",
        expect![[r#"line 5, column 31: services.web.health.port: the port "rpc" has another protocol than "http""#]],
    );
    check(
        "{ tcp = true, grpc = \"\" }",
        expect![
            "line 5, column 31: services.web.health.grpc: the check is by tcp already; a service has one check: take one out"
        ],
    );
    check(
        "{ tcp = false }",
        expect!["line 5, column 18: services.web.health.tcp: write tcp = true, or take the key out"],
    );
    check(
        "{ tcp = \"rpc\" }",
        expect![[r#"line 5, column 18: services.web.health.tcp: found "rpc", expected true or false"#]],
    );
    check("{ exec = [\"pg_isready\", \"-q\"] }", expect![["valid"]]);
    check(
        "{ exec = [], port = \"rpc\" }",
        expect!["line 5, column 19: services.web.health.exec: it is empty; write the command and its arguments"],
    );
    check(
        "{ exec = \"pg_isready -q\" }",
        expect![[r#"line 5, column 19: services.web.health.exec: found "pg_isready -q", expected a list"#]],
    );
    check(
        "{ exec = [\"x\"], port = \"rpc\" }",
        expect![
            "line 5, column 33: services.web.health.port: a check by exec runs inside the instance and asks no port; take it out"
        ],
    );
    check_service(
        "IMAGE\nhealth = { tcp = true }",
        expect![[
            r#"line 4, column 10: services.web.health: the check asks a port, and there is none; add ports = [{ name = "http", port = 8080, protocol = "http" }]"#
        ]],
    );
}

#[test]
fn what_a_service_may_write_to() {
    let good = r#"
IMAGE
read_only = true
init = true
tmpfs = [{ path = "/run" }, { path = "/tmp", size = "16MiB" }]
volumes = [{ name = "data", path = "/var/lib/data", size = "1GiB", kind = "local" }]
resources = { files = 1024, disk = "1GiB", io = "20MB/s" }"#;
    check_service(good, expect![["valid"]]);
    let bad = r#"
IMAGE
read_only = "yes"
tmpfs = [{ path = "run/" }, { path = "/proc/x" }, { size = "16MiB" }]
volumes = [
    { name = "data", path = "/data", size = "1GiB", kind = "replicated" },
    { name = "data", path = "/a/../b", size = 5 },
    { name = "data", path = "/x", size = "1KiB" },
    { name = "Data", path = "/y", size = "1GiB", kind = "nfs" },
]
resources = { files = 1, disk = 7, io = "20MB" }"#;
    check_service(
        bad,
        expect![[r#"
        line 5, column 13: services.web.read_only: found "yes", expected true or false
        line 6, column 19: services.web.tmpfs[0].path: found "run/": write an absolute path like /data, without empty segments, . or .., and without the final slash
        line 6, column 38: services.web.tmpfs[1].path: found "/proc/x": /proc, /sys and /dev are the runtime's own; choose another directory
        line 6, column 51: services.web.tmpfs[2]: the key "path" is missing
        line 8, column 60: services.web.volumes[0].kind: not yet: this version does not have "replicated"; valid: local
        line 9, column 29: services.web.volumes[1].path: found "/a/../b": write an absolute path like /data, without empty segments, . or .., and without the final slash
        line 9, column 47: services.web.volumes[1].size: found the number 5, expected a unit with it: write "5MiB"
        line 10, column 5: services.web.volumes[2]: the volume "data" is there twice; give each its own name
        line 10, column 42: services.web.volumes[2].size: found 1KiB, expected from 8MiB to 64TiB
        line 11, column 14: services.web.volumes[3].name: "Data" is not a valid volume name: use lower-case letters, digits and hyphens only
        line 11, column 57: services.web.volumes[3].kind: found "nfs"; valid: local
        line 13, column 23: services.web.resources.files: found the number 1, expected a whole number from 64 to 1048576
        line 13, column 33: services.web.resources.disk: found the number 7, expected a unit with it: write "7MiB"
        line 13, column 41: services.web.resources.io: found "20MB", expected from 64KiB/s to 1TiB/s, like "20MB/s""#]],
    );
    let twice =
        "IMAGE\ntmpfs = [{ path = \"/data\" }]\nvolumes = [{ name = \"d\", path = \"/data\", size = \"1GiB\" }]";
    check_service(
        twice,
        expect!["line 4, column 9: services.web.tmpfs: two directories are mounted at /data; give each its own path"],
    );
    let process = "runtime = \"process\"\ncommand = [\"x\"]\nread_only = true\nresources = { io = \"20MB/s\" }";
    check_service(
        process,
        expect![[r#"
        line 5, column 13: services.web.read_only: runtime "process" does not have it: a process uses the node as it is; use an image
        line 6, column 20: services.web.resources.io: runtime "process" does not have it: a process uses the node as it is; use an image"#]],
    );
}

#[test]
fn placement() {
    check_service(
        "IMAGE\nplacement = { spread = \"rack\", require = { disk = \"ssd\", datacenter = \"fra1\" }, prefer = { gen = \"9.1\" } }",
        expect!["valid"],
    );
    check_service("IMAGE\nplacement = { spread = \"node\" }", expect!["valid"]);
    check_service(
        "IMAGE\nplacement = { spread = \"datacentre\" }",
        expect![[
            r#"line 4, column 24: services.web.placement.spread: found "datacentre"; did you mean "datacenter"?"#
        ]],
    );
    check_service(
        "IMAGE\nplacement = { spread = \"Rack 1\" }",
        expect![[
            r#"line 4, column 24: services.web.placement.spread: "Rack 1" is not a valid label name: use lower-case letters, digits and hyphens only"#
        ]],
    );
    check_service(
        "IMAGE\nplacement = { requires = { disk = \"ssd\" } }",
        expect![[r#"line 4, column 15: services.web.placement.requires: unknown key; did you mean "require"?"#]],
    );
    check_service(
        "IMAGE\nplacement = { require = { disk = [\"ssd\", \"nvme\"], Disk = \"ssd\", gpu = \"a 100\", cores = 8 } }",
        expect![[r#"
            line 4, column 34: services.web.placement.require.disk: found a list, expected one value: a node has one value of a label
            line 4, column 51: services.web.placement.require.Disk: "Disk" is not a valid label name: use lower-case letters, digits and hyphens only
            line 4, column 71: services.web.placement.require.gpu: "a 100" is not a valid label value: use 1 to 63 letters, digits, dots, hyphens and underscores
            line 4, column 88: services.web.placement.require.cores: found the number 8, expected text: write "8""#]],
    );
    check_service(
        "IMAGE\nplacement = { require = { disk = \"ssd\" }, prefer = { disk = \"nvme\" } }",
        expect![
            "line 4, column 52: services.web.placement.prefer: disk is required already, so that preferring it says nothing; take one out"
        ],
    );
    let text = format!(
        "app = \"shop\"\n[services.web]\nimage = \"r.example/shop@{DIGEST}\"\nplacement = {{ spread = \"rack\", prefer = {{ disk = \"ssd\" }} }}"
    );
    let definition = AppDefinition::parse(&text, Format::Toml).expect("valid");
    let json = definition.to_json().to_string();
    assert_eq!(AppDefinition::parse(&json, Format::Json), Ok(definition));
}

#[test]
fn updates_are_read_and_checked() {
    let update = |text: &str| format!("IMAGE\nupdate = {text}");
    check_service(
        &update("{ strategy = \"rolling\", max_unavailable = 1, max_surge = 0, bake = \"0s\" }"),
        expect!["valid"],
    );
    check_service(
        &update(
            "{ strategy = \"canary\", instances = 2, weight = \"5%\", promote = \"manual\", max_errors = \"0.5%\" }",
        ),
        expect!["valid"],
    );
    check_service(&update("{ strategy = \"blue-green\", promote = \"auto\" }"), expect!["valid"]);
    check_service(
        &update("{ max_surge = 0 }"),
        expect![
            "line 4, column 24: services.web.update.max_surge: with max_surge and max_unavailable both 0 nothing could ever be replaced; raise one to 1"
        ],
    );
    check_service(
        &update("{ min_healthy = \"10s\", deadline = \"5s\" }"),
        expect![
            "line 4, column 26: services.web.update.min_healthy: it is not shorter than the deadline; no instance could get healthy in time"
        ],
    );
    check_service(
        &update("{ strategy = \"canari\" }"),
        expect![[r#"line 4, column 23: services.web.update.strategy: found "canari"; did you mean "canary"?"#]],
    );
    check_service(
        &update("{ weight = 10, promote = \"auto\" }"),
        expect![[r#"
        line 4, column 21: services.web.update.weight: only strategy "canary" has it; write that strategy, or take the key out
        line 4, column 35: services.web.update.promote: strategy "rolling" goes on by itself; write "canary" or "blue-green", or take the key out"#]],
    );
    check_service(
        &update("{ strategy = \"canary\", weight = \"100%\", max_errors = \"half\" }"),
        expect![[r#"
        line 4, column 42: services.web.update.weight: found "100%", expected a share of the requests from "1%" to "99%"
        line 4, column 63: services.web.update.max_errors: found "half", expected a share of the requests from "0%" to "100%", like "0.5%""#]],
    );
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        AppDefinition::parse(&text, Format::Toml).ok();
        AppDefinition::parse(&text, Format::Json).ok();
    }

    #[test]
    fn a_good_definition_with_damage_never_panics(at in 0usize..900, insert in "\\PC{0,8}", cut in 0usize..20) {
        for format in [Format::Toml, Format::Json] {
            let good = FULL.replace("IMAGE", &format!("image = \"r.example/shop@{DIGEST}\""));
            let good = match format {
                Format::Toml => good,
                Format::Json => AppDefinition::parse(&good, Format::Toml).expect("valid").to_json().to_string(),
            };
            let text: String = good.chars().take(at).chain(insert.chars()).chain(good.chars().skip(at + cut)).collect();
            AppDefinition::parse(&text, format).ok();
        }
    }

    #[test]
    fn valid_definitions_survive_json(
        names in prop::collection::btree_set("[a-z][a-z0-9]{0,8}", 1..4),
        scale in prop::option::of(prop_oneof![(0..=SCALE_MAX).prop_map(Scale::Count), Just(Scale::EachNode)]),
        cpu in 1u32..=512_000,
        memory in 4u64..10_000,
        port in 1u16..,
        seconds in 1u64..3600,
        value in "[^\0]{0,20}",
        has_check: bool,
        check in prop::sample::select(vec![
            crate::Check::Http("/ok?deep=1".to_owned()),
            crate::Check::Tcp,
            crate::Check::Exec(vec!["ask".to_owned(), "-q".to_owned()]),
            crate::Check::Grpc("shop.v1.Cart".to_owned()),
        ]),
        strategy in prop::sample::select(vec![
            crate::Strategy::Rolling,
            crate::Strategy::BlueGreen(crate::Promotion::Manual),
            crate::Strategy::Canary(crate::CanarySpec {
                instances: 3,
                weight: 5,
                promotion: crate::Promotion::Auto,
                max_errors: 15,
            }),
        ]),
    ) {
        let volume = crate::VolumeSpec {
            name: crate::VolumeName::new("data").expect("a label"),
            path: "/data".to_owned(),
            size: ByteSize::mib(64 + memory),
        };
        let volumes: Vec<_> = std::iter::once(volume).filter(|_| has_check).collect();
        let port = crate::PortSpec {
            name: crate::PortName::new("http").expect("a label"),
            port,
            protocol: crate::Protocol::Http,
        };
        let services = names.iter().map(|name| {
            let spec = ServiceSpec {
                image: Some(format!("r.example/{name}@{DIGEST}")),
                command: vec![value.clone() + "x"],
                env: BTreeMap::from([("A".to_owned(), value.clone())]),
                resources: crate::Resources {
                    cpu: crate::CpuMillis(cpu),
                    memory: ByteSize::mib(memory),
                    pids: 7,
                    files: has_check.then_some(1000),
                    disk: has_check.then(|| ByteSize::mib(8 + memory)),
                    io: has_check.then(|| ByteSize::mib(9)),
                },
                ports: vec![port.clone()],
                routes: vec![crate::RouteSpec { host: format!("{name}.example"), path: "/a".to_owned() }],
                health: has_check.then(|| crate::HealthSpec {
                    check: check.clone(),
                    port: (!matches!(check, crate::Check::Exec(_))).then(|| port.name.clone()),
                    interval: std::time::Duration::from_secs(seconds),
                    timeout: std::time::Duration::from_millis(900),
                    grace: std::time::Duration::from_secs(seconds),
                    unhealthy_after: 3,
                    restart_after: Some(std::time::Duration::from_secs(seconds)),
                }),
                is_read_only: has_check,
                has_init: has_check,
                tmpfs: vec![crate::TmpfsSpec { path: "/run".to_owned(), size: ByteSize::mib(1) }],
                volumes: volumes.clone(),
                files: vec![crate::FileSpec {
                    path: "/etc/a".to_owned(),
                    mode: 0o600,
                    content: ContentHash::of(&value),
                }],
                secrets: crate::SecretVersions::from([("KEY".parse().expect("a name"), 0)]),
                ..ServiceSpec::default()
            };
            // What has volumes has numbers.
            let scale = scale.filter(|scale| *scale != Scale::EachNode || spec.volumes.is_empty());
            let update = UpdateSpec {
                strategy: strategy.clone(),
                max_unavailable: u32::from(has_check),
                bake: std::time::Duration::from_secs(seconds),
                auto_rollback: has_check,
                ..UpdateSpec::default()
            };
            (ServiceName::new(name).expect("a label"), ServiceDefinition { spec, scale, update })
        });
        let definition = AppDefinition {
            app: AppName::new("shop").expect("a label"),
            services: services.collect(),
            contents: BTreeMap::from([(ContentHash::of(&value), value.clone())]),
        };
        let json = serde_json::to_string_pretty(&definition.to_json()).expect("JSON");
        prop_assert_eq!(AppDefinition::parse(&json, Format::Json), Ok(definition));
    }

    #[test]
    fn spans_survive_text(millis in 0u64..1 << 40) {
        let span = std::time::Duration::from_millis(millis);
        prop_assert_eq!(parse_duration(&format_duration(span)), Ok(span));
    }
}

#[test]
fn slips_are_recognised() {
    assert_eq!(nearest("imgae", ["image", "env"]), Some("image"));
    assert_eq!(nearest("por", ["ports", "env"]), None, "two of three letters is no slip");
    assert_eq!(nearest("port", ["ports", "env"]), Some("ports"));
    assert_eq!(nearest("x", ["y"]), None);
    assert_eq!(nearest(&"x".repeat(1 << 20), ["y"]), None);
}
