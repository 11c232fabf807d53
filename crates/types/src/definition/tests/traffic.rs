//! Ports, routes and checks.

use std::time::Duration;

use expect_test::expect;

use super::*;
use crate::{Check, HealthSpec, Level, PortSpec, Protocol, ServiceSpec};

#[test]
fn ports_routes_and_checks() {
    const PORT: &str = "ports = [{ name = \"http\", port = 80, protocol = \"http\" }]";
    check_service(
        "IMAGE\nports = [{ name = \"a\", port = 80, protocol = \"tcp\" }, { name = \"a\", port = 81, protocol = \"tcp\" },\n\
         { name = \"b\", port = 80, protocol = \"udp\" }, { name = \"c\", port = 80, protocol = \"tcp\" }, { port = 70000 }]",
        expect![[r#"
            line 4, column 55: services.web.ports[1]: the port name "a" is there twice; give each port its own
            line 5, column 37: services.web.ports[2].protocol: not yet: this version does not have "udp"; valid: http, h2c, tcp
            line 5, column 46: services.web.ports[3]: the port number 80 is there twice; name it once
            line 5, column 91: services.web.ports[4]: the key "name" is missing
            line 5, column 91: services.web.ports[4]: the key "protocol" is missing
            line 5, column 100: services.web.ports[4].port: found the number 70000, expected a whole number from 1 to 65535"#]],
    );
    check_service(
        "IMAGE\nroutes = [{ host = \"shop.example\" }]",
        expect![[
            r#"line 4, column 10: services.web.routes: routes lead to a port with protocol "http" or "h2c", and there is none; add ports = [{ name = "http", port = 8080, protocol = "http" }]"#
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
fn ports_that_speak_h2c() {
    let check = |rest: &str, expected: Expect| check_service(&format!("IMAGE\n{rest}"), expected);
    let port = "{ name = \"api\", port = 9000, protocol = \"h2c\" }";
    check(
        &format!("ports = [{port}]\nroutes = [{{ host = \"a.example\" }}]\nhealth = {{ grpc = \"\" }}"),
        expect!["valid"],
    );
    check(
        &format!("ports = [{port}]\nhealth = {{ http = \"/\" }}"),
        expect![[
            r#"line 5, column 10: services.web.health: the check asks a port with protocol "http", and there is none; add ports = [{ name = "http", port = 8080, protocol = "http" }]"#
        ]],
    );
    check(
        &format!("ports = [{port}]\nhealth = {{ http = \"/\", port = \"api\" }}"),
        expect![[r#"line 5, column 31: services.web.health.port: the port "api" has another protocol than "http""#]],
    );
}

#[test]
fn routes_and_checks_find_their_ports() {
    use Protocol::{H2c, Http, Tcp};
    let spec = |ports: &[(&str, Protocol)], check: Option<Check>| ServiceSpec {
        ports: ports
            .iter()
            .zip(1..)
            .map(|((name, protocol), port)| PortSpec { name: name.parse().expect("a name"), port, protocol: *protocol })
            .collect(),
        health: check.map(|check| HealthSpec {
            check,
            port: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            unhealthy_after: 2,
            restart_after: None,
        }),
        ..ServiceSpec::default()
    };
    let find = |ports: &[(&str, Protocol)], check: Option<Check>| {
        let spec = spec(ports, check);
        (spec.http_port().map(|port| port.port), spec.check_port().map(|port| port.port))
    };
    let (http, grpc) = (|| Some(Check::Http("/".to_owned())), || Some(Check::Grpc(String::new())));
    assert_eq!(find(&[("raw", Tcp), ("api", H2c)], None), (Some(2), Some(2)));
    assert_eq!(find(&[("api", H2c), ("web", Http)], http()), (Some(1), Some(2)), "it asks by HTTP/1.1");
    assert_eq!(find(&[("web", Http), ("api", H2c)], grpc()), (Some(1), Some(2)), "it asks by HTTP/2");
    assert_eq!(find(&[("api", H2c), ("http", Http)], None), (Some(2), Some(2)), "its name decides");
    assert_eq!(find(&[("raw", Tcp)], grpc()), (None, Some(1)));
    assert_eq!(spec(&[("api", Http)], None).level(), Level::FIRST);
    assert_eq!(spec(&[("api", H2c)], None).level(), Level(6), "what older programs cannot read");
}
