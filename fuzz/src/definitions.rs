//! Definitions as people write them: in TOML, in JSON, as Compose files.

use std::collections::BTreeSet;

use insula_container::ImageTag;
use insula_env::Rng;
use insula_types::{
    AppDefinition, DefinitionError, ServiceDefinition,
    definition::{ComposeContext, Format},
};

use crate::mutate::{mutate, pick};

/// A published app of web, database and cache.
const NEXTCLOUD: &str = include_str!("../../crates/types/src/definition/compose/nextcloud.yaml");
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What Compose files say in one place or another.
const COMPOSE: &str = r#"
x-common: &common
  environment: &env { LOG: info, "DEPTH": 3, QUIET: false, EMPTY: }
  restart: on-failure:5
name: ${NAME:-shop}
services:
  web:
    <<: [*common, { init: true }]
    image: r.example/shop@DIGEST
    command: serve --name "My Shop" it\'s
    entrypoint: ["/start", '-x']
    ports: ["127.0.0.1:8080:80/tcp", 53/tcp, { target: 9090, published: "9090", name: metrics, app_protocol: http }]
    expose: [80, "9000"]
    volumes: [data:/data/:ro, { type: tmpfs, target: /run, tmpfs: { size: 16m } }]
    tmpfs: /tmp:size=32m
    shm_size: 1.5g
    healthcheck: { test: [CMD-SHELL, exit 0], interval: 1m30s, timeout: 1m, retries: 3, start_period: 40ms }
    deploy:
      mode: replicated
      replicas: 3
      resources: { limits: { cpus: "0.5", memory: 512M, pids: 100 }, reservations: { cpus: 1 } }
      update_config: { parallelism: 2, order: stop-first, failure_action: pause, monitor: 1m, delay: 1s }
      placement: { constraints: [node.labels.disk==ssd], preferences: [{ spread: node.labels.rack }] }
      restart_policy: { condition: any, delay: 5s, max_attempts: 3 }
    stop_signal: INT
    stop_grace_period: 1m
    configs: [page, { source: page, target: /etc/page, mode: 0440, uid: "3" }]
    secrets: [password]
    ulimits: { nofile: { soft: 1000, hard: 2000 }, nproc: 3 }
    depends_on: { db: { condition: service_healthy } }
    x-insula: { routes: [{ host: "${HOST:?which}" }], scale: 4, region: { was: { scale: 2, env: { LOG: debug }, routes: [] } } }
  db:
    image: r.example/db@DIGEST
    environment: ["A=${A:+${B-c}}", "B=$$x $B", C]
    command: |
      sh -c "a
      b"
    user: "7"
volumes: { data: { x-insula: { size: 20GiB }, driver: local } }
configs: { page: { content: "ü $HOST\n" } }
secrets: { password: { file: ./password } }
networks: { back: }
"#;

const TOML: &str = r#"
app = "shop"
[services.web]
image = "r.example/shop@DIGEST"
args = ["--port", "8080"]
env = { LOG = "info" }
secrets = ["KEY"]
files = [{ path = "/etc/a", content = "x", mode = "0640" }]
scale = 3
resources = { cpu = "500m", memory = "256MiB", pids = 256, disk = "1GiB", io = "20MB/s", files = 1024 }
ports = [{ name = "http", port = 8080, protocol = "http" }]
routes = [{ host = "shop.example", path = "/a" }]
health = { http = "/healthz", interval = "2s", timeout = "1s", grace = "30s", unhealthy_after = 2, restart_after = "1m" }
placement = { spread = "rack", require = { disk = "ssd" }, prefer = { gen = "9.1" } }
volumes = [{ name = "data", path = "/data", size = "5GiB", kind = "local" }]
tmpfs = [{ path = "/run", size = "16MiB" }]
update = { strategy = "canary", weight = "5%", max_errors = "0.5%", promote = "manual", bake = "1s" }
stop = { signal = "SIGINT", grace = "1m" }
restart = { policy = "on-failure", backoff = "1s..60s" }
regions = ["fra", "was"]
[services.web.region.was]
scale = 5
command = ["./other"]
env = { LOG = "debug", REGION = "was" }
resources.memory = "512MiB"
routes = [{ host = "was.shop.example" }]
health = { exec = ["ask"] }
update = { strategy = "rolling", max_surge = 2 }
placement = { require = { zone = "a" } }
files = []
priority = 70
[services.web.region.fra]
restart = { policy = "always" }
read_only = true
[services.tagged]
image = "r.example:5000/team/shop:1.2_x-Y"
[services.worker]
command = ["./worker"]
runtime = "process"
"#;

fn with_digest(text: &str) -> String {
    text.replace("DIGEST", DIGEST)
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let toml = with_digest(TOML);
    let definition = AppDefinition::parse(&toml, Format::Toml).expect("the seed is a definition");
    [toml, definition.to_json().to_string()].map(String::into_bytes).to_vec()
}

pub(crate) fn compose_seeds() -> Vec<Vec<u8>> {
    let published = NEXTCLOUD.replace(":alpine", "@DIGEST").replace(":10.5", ":10.5@DIGEST");
    [with_digest(COMPOSE), with_digest(&published)].map(String::into_bytes).to_vec()
}

/// A seed with lines left out, doubled, taken from another, or further in; now and then with a few bytes changed.
pub(crate) fn change_lines(seeds: &[Vec<u8>], rng: &Rng) -> Vec<u8> {
    if rng.chance(0.4) {
        return mutate(seeds, rng);
    }
    let lines = |seed: Option<&Vec<u8>>| -> Vec<String> {
        let text = seed.map(|seed| String::from_utf8_lossy(seed).into_owned()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let (mut all, other) = (lines(pick(seeds, rng)), lines(pick(seeds, rng)));
    for _ in 0..rng.range(1, 5) {
        let at = rng.range(0, all.len() as u64 + 1) as usize;
        match rng.range(0, 5) {
            0 if at < all.len() => drop(all.remove(at)),
            1 if at < all.len() => all.insert(at, all[at].clone()),
            2 => all.splice(at..at, pick(&other, rng).cloned()).for_each(drop),
            3 if at < all.len() => all[at].insert_str(0, "  "),
            4 if at < all.len() => all[at] = all[at].strip_prefix("  ").unwrap_or_default().to_owned(),
            _ => {}
        }
    }
    all.join("\n").into_bytes()
}

/// Reads it both ways. What is taken has to survive being written as JSON.
pub(crate) fn read(input: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(input);
    let mut became = String::new();
    for format in [Format::Toml, Format::Json] {
        became.push_str(&judge(&AppDefinition::parse(&text, format))?);
    }
    Ok(became)
}

/// Reads it as a Compose file, in an environment that has some variables.
pub(crate) fn compose(input: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(input);
    let variable = |name: &str| match name {
        "HOST" => Some("shop.example".to_owned()),
        "A" => Some(String::new()),
        _ => None,
    };
    let context = ComposeContext { app: None, directory: Some("shop"), variable: &variable };
    let read = AppDefinition::parse_compose(&text, &context);
    let warnings = read.as_ref().map_or(0, |composed| composed.warnings.len());
    let judged = judge(&read.map(|composed| composed.definition))?;
    Ok(if warnings > 0 { format!("{judged}, with warnings") } else { judged })
}

/// What a tag is called in full is the name of the same tag.
fn images(definition: &AppDefinition) -> Result<(), String> {
    for image in definition.services.values().filter_map(ServiceDefinition::image) {
        let Ok(tag) = image.to_string().parse::<ImageTag>() else { continue };
        match tag.to_string().parse::<ImageTag>() {
            Ok(again) if again == tag && image.digest.is_none() => {}
            other => return Err(format!("{image} is {tag} and then {other:?}")),
        }
    }
    Ok(())
}

/// What a region has of it is a definition, too.
fn regions(definition: &AppDefinition) -> Result<(), String> {
    let regions: BTreeSet<_> = definition.services.values().flat_map(|service| service.overrides.keys()).collect();
    for region in regions {
        let own = definition.in_region(region, |service| service.regions.has(region));
        if own.services.is_empty() {
            continue;
        }
        match AppDefinition::parse(&own.to_toml(), Format::Toml) {
            Ok(again) if again.services == own.services => {}
            other => return Err(format!("{region} has {own:?}, which is read as {other:?}")),
        }
    }
    Ok(())
}

fn judge(read: &Result<AppDefinition, DefinitionError>) -> Result<String, String> {
    match read {
        Ok(definition) => {
            let again = AppDefinition::parse(&definition.to_json().to_string(), Format::Json);
            match again {
                Ok(again) if again == *definition => {
                    images(definition).and_then(|()| regions(definition)).map(|()| "taken".to_owned())
                }
                other => Err(format!("{definition:?} is read as {other:?}")),
            }
        }
        // Problems by their words without what was found: what differs only in that is one outcome.
        Err(error) => Ok(error.problems.first().map_or_else(String::new, |first| {
            let words = first.message.split_once("expected").map_or(first.message.as_str(), |(_, words)| words);
            words.split('"').next().unwrap_or_default().chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
        })),
    }
}
