//! What becomes of what a Compose file says.

use expect_test::expect;

use super::*;
use crate::Check;

#[test]
fn what_maps_is_mapped() {
    let text = r#"
x-common: &common
  environment: &env
    LOG: info
    DEPTH: 3
    QUIET: false
  restart: on-failure:5
name: shop
services:
  web:
    <<: *common
    image: IMAGE
    command: serve --name "My Shop" it\'s
    ports:
      - "8080:80"
      - target: 9090
        published: "9090"
        name: metrics
    expose: [80, "9000"]
    volumes:
      - web_data:/data/
      - type: tmpfs
        target: /run
        tmpfs: { size: 16m }
    tmpfs: /tmp:size=32m
    shm_size: 64mb
    healthcheck:
      test: curl -f http://localhost/ || exit 1
      interval: 10s
      timeout: 1m
      retries: 3
      start_period: 1m30s
    deploy:
      replicas: 3
      resources:
        limits: { cpus: "0.5", memory: 512M, pids: 100 }
      update_config: { parallelism: 2, order: stop-first, failure_action: pause, monitor: 1m }
      placement:
        constraints: [node.labels.disk==ssd]
        preferences: [{ spread: node.labels.rack }]
    stop_signal: INT
    stop_grace_period: 1m
    configs:
      - source: page
        target: /etc/page
        mode: 0440
    secrets: [db_password]
    init: true
    read_only: true
    ulimits: { nofile: { soft: 1000, hard: 2000 } }
    x-insula:
      routes: [{ host: "${HOST}" }]
volumes:
  web_data: { x-insula: { size: 20GiB } }
configs:
  page: { content: "hello ${TAG} $$5" }
secrets:
  db_password: { file: ./password.txt }
"#;
    check(
        text,
        expect![[r#"
        ~ line 7, column 12: services.web.restart: the number of attempts is left out: it is tried on, with waits that grow
        ~ line 30, column 16: services.web.healthcheck.timeout: taken as 10s: longer than the interval, checks would overlap
        ~ line 58, column 16: secrets.db_password: its value is set apart: insula secrets set APP db_password --file ./password.txt"#]],
    );
    let composed = compose(text).expect("valid");
    expect![[r#"
        {
          "app": "shop",
          "services": {
            "web": {
              "args": [
                "serve",
                "--name",
                "My Shop",
                "it's"
              ],
              "env": {
                "DEPTH": "3",
                "LOG": "info",
                "QUIET": "false"
              },
              "files": [
                {
                  "content": "hello 7 $5",
                  "mode": "0440",
                  "path": "/etc/page"
                }
              ],
              "health": {
                "exec": [
                  "/bin/sh",
                  "-c",
                  "curl -f http://localhost/ || exit 1"
                ],
                "grace": "2m",
                "interval": "10s",
                "timeout": "10s",
                "unhealthy_after": 3
              },
              "image": "r.example/shop@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
              "init": true,
              "placement": {
                "require": {
                  "disk": "ssd"
                },
                "spread": "rack"
              },
              "ports": [
                {
                  "name": "http",
                  "port": 80,
                  "protocol": "http"
                },
                {
                  "name": "metrics",
                  "port": 9090,
                  "protocol": "tcp"
                },
                {
                  "name": "port-9000",
                  "port": 9000,
                  "protocol": "tcp"
                }
              ],
              "read_only": true,
              "resources": {
                "cpu": "500m",
                "files": 2000,
                "memory": "512MiB",
                "pids": 100
              },
              "restart": {
                "backoff": "1s..1m",
                "policy": "on-failure"
              },
              "routes": [
                {
                  "host": "shop.example",
                  "path": "/"
                }
              ],
              "runtime": "container",
              "scale": 3,
              "secrets": [
                "db_password"
              ],
              "stop": {
                "grace": "1m",
                "signal": "SIGINT"
              },
              "tmpfs": [
                {
                  "path": "/run",
                  "size": "16MiB"
                },
                {
                  "path": "/tmp",
                  "size": "32MiB"
                },
                {
                  "path": "/dev/shm",
                  "size": "64MiB"
                }
              ],
              "update": {
                "auto_rollback": false,
                "bake": "1m",
                "deadline": "5m",
                "max_surge": 0,
                "max_unavailable": 2,
                "min_healthy": "5s",
                "strategy": "rolling"
              },
              "volumes": [
                {
                  "kind": "local",
                  "name": "web-data",
                  "path": "/data",
                  "size": "20GiB"
                }
              ]
            }
          }
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&composed.definition.to_json()).expect("JSON"));
}

#[test]
fn programs_and_their_arguments() {
    let words = |lines: &str| {
        let spec = one(&service(lines)).spec;
        (spec.command.join("|"), spec.args.join("|"))
    };
    let both = |command: &str, args: &str| (command.to_owned(), args.to_owned());
    assert_eq!(words("command: redis-server --save 60 1"), both("", "redis-server|--save|60|1"));
    assert_eq!(words("command: [a, 'b c', 3]"), both("", "a|b c|3"));
    assert_eq!(words("entrypoint: /start.sh -x\ncommand: [serve]"), both("/start.sh|-x|serve", ""));
    assert_eq!(words("entrypoint: []\ncommand: [serve]"), both("serve", ""));
    assert_eq!(words("command: sh -c \"echo \\\"$$HOME\\\"\""), both("", "sh|-c|echo \"$HOME\""));
    assert_eq!(words("command: null"), both("", ""));
    check_service(
        "entrypoint: ''",
        expect![
            "line 4, column 17: services.web.entrypoint: it takes the program of the image away, and no command says what to run instead"
        ],
    );
    check_service(
        "command: []",
        expect![
            "line 4, column 14: services.web.command: it is empty; write the program of the image without its arguments under entrypoint"
        ],
    );
    check_service(
        "command: 'sh -c \"x'",
        expect![[r#"
        line 4, column 14: services.web.command: found "sh -c \"x": a quotation mark " is not closed
        line 4, column 14: services.web.command: it is empty; write the program of the image without its arguments under entrypoint"#]],
    );
}

#[test]
fn checks_of_health() {
    let health = |lines: &str| {
        let health = one(&service(&format!("healthcheck:\n{lines}"))).spec.health;
        health.map(|health| {
            let Check::Exec(command) = health.check else { panic!("a command") };
            format!(
                "{} {:?} {:?} {:?} {}",
                command.join("|"),
                health.interval,
                health.timeout,
                health.grace,
                health.unhealthy_after
            )
        })
    };
    assert_eq!(health("  test: [CMD, pg_isready, -q]").as_deref(), Some("pg_isready|-q 2s 1s 30s 2"));
    assert_eq!(
        health("  test: [CMD-SHELL, exit 0]\n  interval: 30s\n  retries: 5").as_deref(),
        Some("/bin/sh|-c|exit 0 30s 1s 150s 5")
    );
    assert_eq!(health("  test: [NONE]"), None);
    assert_eq!(health("  disable: true"), None);
    check_service(
        "healthcheck: { test: [pg_isready] }",
        expect![
            "line 4, column 26: services.web.healthcheck.test: expected [CMD, program, argument, …], [CMD-SHELL, line] or [NONE]"
        ],
    );
    check_service(
        "healthcheck: { interval: 5s }",
        expect![[
            r#"line 4, column 18: services.web.healthcheck: the key "test" is missing: that of the image is not read; write test: [CMD, program, …]"#
        ]],
    );
    check_service(
        "healthcheck: { test: x, interval: soon, retries: 0 }",
        expect![[
            r#"line 4, column 39: services.web.healthcheck.interval: found "soon", expected a span of time, like 10s or 1m30s"#
        ]],
    );
}

#[test]
fn restarts() {
    let restart = |lines: &str| {
        let restart = one(&service(lines)).spec.restart;
        format!("{} {:?}..{:?}", restart.policy.as_str(), restart.backoff_min, restart.backoff_max)
    };
    assert_eq!(restart("restart: 'no'"), "never 1s..60s");
    assert_eq!(restart("restart: no"), "never 1s..60s");
    assert_eq!(restart("restart: unless-stopped"), "always 1s..60s");
    assert_eq!(restart("deploy: { restart_policy: { condition: on-failure, delay: 5s } }"), "on-failure 5s..60s");
    assert_eq!(
        restart("restart: 'no'\ndeploy: { restart_policy: { condition: any, delay: 2m } }"),
        "always 120s..120s"
    );
    assert_eq!(restart("init: true"), "always 1s..60s");
    check_service(
        "restart: sometimes",
        expect![[
            r#"line 4, column 14: services.web.restart: found "sometimes", expected no, always, on-failure or unless-stopped"#
        ]],
    );
}

#[test]
fn environments() {
    let env = |lines: &str| one(&service(lines)).spec.env;
    let list = env("environment: [A=1, FROM_SHELL, 'B=x=y', A=2]");
    assert_eq!(
        list.into_iter().collect::<Vec<_>>(),
        [("A", "2"), ("B", "x=y"), ("FROM_SHELL", "yes")].map(|(k, v)| (k.into(), v.into()))
    );
    let table = env("environment: { A: 1.10, B: true, C: '', FROM_SHELL: }");
    assert_eq!(table["A"], "1.10");
    assert_eq!(table["B"], "true");
    assert_eq!(table["C"], "");
    assert_eq!(table["FROM_SHELL"], "yes");
    check_service(
        "environment: [MISSING]",
        expect![
            "~ line 4, column 19: services.web.environment[0]: left out: MISSING has no value here, and is not set where this is run"
        ],
    );
    check_service(
        "environment: { A: [1] }",
        expect!["line 4, column 23: services.web.environment.A: found a list, expected text"],
    );
    check_service(
        "environment: { 9: a }",
        expect![
            "line 4, column 23: services.web.environment.9: a variable's name has letters, digits and underscores, and does not begin with a digit"
        ],
    );
}

#[test]
fn a_published_file() {
    check(
        NEXTCLOUD,
        expect![[r#"
        ~ line 3, column 3: services: not yet: services do not reach each other by name (nc, redis, db): this version has no networks between them
        ~ line 7, column 9: services.nc.ports[0]: it is published on no node: visitors come by host name to the edges; write x-insula: { routes: [{ host: shop.example }] }
        ~ line 9, column 9: services.nc.volumes[0]: the volume nc_data is made with 5GiB; say how large at the top of the file, with nc_data: { x-insula: { size: 20GiB } }
        ~ line 10, column 5: services.nc.networks: left out: this version has no networks between services
        ~ line 22, column 5: services.redis.networks: left out: this version has no networks between services
        ~ line 31, column 9: services.db.volumes[0]: the volume db_data is made with 5GiB; say how large at the top of the file, with db_data: { x-insula: { size: 20GiB } }
        ~ line 32, column 5: services.db.networks: left out: this version has no networks between services
        ~ line 44, column 1: networks: left out: this version has no networks between services"#]],
    );
    let composed = compose(NEXTCLOUD).expect("valid");
    expect![[r#"
        {
          "app": "myshop",
          "services": {
            "db": {
              "args": [
                "--transaction-isolation=READ-COMMITTED",
                "--binlog-format=ROW"
              ],
              "env": {
                "MYSQL_DATABASE": "nextcloud",
                "MYSQL_PASSWORD": "nextcloud",
                "MYSQL_ROOT_PASSWORD": "nextcloud",
                "MYSQL_USER": "nextcloud"
              },
              "image": "mariadb:10.5",
              "ports": [
                {
                  "name": "port-3306",
                  "port": 3306,
                  "protocol": "tcp"
                }
              ],
              "resources": {
                "cpu": "250m",
                "memory": "128MiB",
                "pids": 256
              },
              "runtime": "container",
              "stop": {
                "grace": "10s"
              },
              "volumes": [
                {
                  "kind": "local",
                  "name": "db-data",
                  "path": "/var/lib/mysql",
                  "size": "5GiB"
                }
              ]
            },
            "nc": {
              "env": {
                "MYSQL_DATABASE": "nextcloud",
                "MYSQL_HOST": "db",
                "MYSQL_PASSWORD": "nextcloud",
                "MYSQL_USER": "nextcloud",
                "REDIS_HOST": "redis"
              },
              "image": "nextcloud:apache",
              "ports": [
                {
                  "name": "port-80",
                  "port": 80,
                  "protocol": "tcp"
                }
              ],
              "resources": {
                "cpu": "250m",
                "memory": "128MiB",
                "pids": 256
              },
              "runtime": "container",
              "stop": {
                "grace": "10s"
              },
              "volumes": [
                {
                  "kind": "local",
                  "name": "nc-data",
                  "path": "/var/www/html",
                  "size": "5GiB"
                }
              ]
            },
            "redis": {
              "image": "redis:alpine",
              "ports": [
                {
                  "name": "port-6379",
                  "port": 6379,
                  "protocol": "tcp"
                }
              ],
              "resources": {
                "cpu": "250m",
                "memory": "128MiB",
                "pids": 256
              },
              "runtime": "container",
              "stop": {
                "grace": "10s"
              }
            }
          }
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&composed.definition.to_json()).expect("JSON"));
}

#[test]
fn amounts_are_those_of_compose() {
    use std::time::Duration;
    assert_eq!(amounts::bytes("1.5g").expect("bytes"), crate::ByteSize::mib(1536));
    assert_eq!(amounts::bytes("100").expect("bytes").0, 100);
    assert_eq!(amounts::bytes("64MB").expect("bytes"), crate::ByteSize::mib(64));
    assert!(amounts::bytes("1x").is_err() && amounts::bytes("-1").is_err() && amounts::bytes("").is_err());
    assert!(amounts::bytes("99999999999999t").is_err());
    assert_eq!(amounts::span("1m30s").expect("a span"), Duration::from_secs(90));
    assert_eq!(amounts::span("1.5s").expect("a span"), Duration::from_millis(1500));
    assert_eq!(amounts::span("1h5m30s20ms").expect("a span"), Duration::from_millis(3_930_020));
    assert!(amounts::span("10").is_err() && amounts::span("s").is_err() && amounts::span("1y").is_err());
    assert_eq!(amounts::cpus("0.5").expect("processors"), "500m");
    assert!(amounts::cpus("0").is_err() && amounts::cpus("1e3").is_err() && amounts::cpus("nan").is_err());
}

/// What a port speaks: `grpc` is what others call it.
#[test]
fn ports_that_speak_h2c() {
    let text = r#"
name: shop
services:
  web:
    image: IMAGE
    ports:
      - { target: 9090, app_protocol: h2c }
      - { target: 9091, app_protocol: grpc }
      - "9092"
    x-insula: { routes: [{ host: shop.example }] }
"#;
    let composed = compose(text).expect("valid");
    let ports: Vec<_> = composed.definition.services.values().flat_map(|service| &service.spec.ports).collect();
    let ports: Vec<_> = ports.iter().map(|port| (port.name.as_str(), port.port, port.protocol)).collect();
    use crate::Protocol::{H2c, Tcp};
    assert_eq!(ports, [("http", 9090, H2c), ("port-9091", 9091, H2c), ("port-9092", 9092, Tcp)]);
}
