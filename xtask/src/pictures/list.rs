//! What is given to the terminals, in this order.

/// A command, and when it is looked at.
pub(super) enum Shot {
    /// At its end, in each width: it changes nothing.
    Look(&'static str),
    /// At its end, in the narrowest terminal alone: it changes something.
    Do(&'static str),
    /// While it runs: as soon as this is seen. It is ended by keys.
    Watch { line: &'static str, until: &'static str, keys: &'static str },
}

impl Shot {
    pub(super) const fn line(&self) -> &'static str {
        match self {
            Self::Look(line) | Self::Do(line) | Self::Watch { line, .. } => line,
        }
    }
}

use Shot::{Do, Look, Watch};

/// Files that commands name. `IMAGE` is an image that the lab's registry has.
pub(super) const FILES: [(&str, &str); 9] = [
    (
        "shop.toml",
        r#"app = "shop"
[services.web]
image     = "IMAGE"
scale     = 3
resources = { cpu = "100m", memory = "32MiB" }
ports     = [{ name = "http", port = 8080, protocol = "http" }]
routes    = [{ host = "shop.example" }, { host = "www.shop.example" }]
health    = { http = "/", interval = "500ms" }
"#,
    ),
    (
        "more.toml",
        r#"app = "shop"
[services.web]
image     = "IMAGE"
env       = { LOG = "debug" }
resources = { cpu = "100m", memory = "48MiB" }
ports     = [{ name = "http", port = 8080, protocol = "http" }]
routes    = [{ host = "shop.example" }]
health    = { http = "/", interval = "500ms" }
[services.worker]
image     = "IMAGE"
command   = ["/bin/busybox", "sleep", "1000000"]
resources = { cpu = "50m", memory = "16MiB" }
"#,
    ),
    (
        "broken.toml",
        r#"app = "shop"
[services.web]
image     = "IMAGE"
command   = ["/bin/busybox", "sh", "-c", "echo there is no database; exit 3"]
resources = { cpu = "100m", memory = "32MiB" }
ports     = [{ name = "http", port = 8080, protocol = "http" }]
routes    = [{ host = "shop.example" }]
health    = { http = "/", interval = "500ms" }
update    = { deadline = "15s" }
"#,
    ),
    (
        "canary.toml",
        r#"app = "shop"
[services.web]
image     = "IMAGE"
env       = { LOG = "warn" }
resources = { cpu = "100m", memory = "32MiB" }
ports     = [{ name = "http", port = 8080, protocol = "http" }]
routes    = [{ host = "shop.example" }]
health    = { http = "/", interval = "500ms" }
update    = { strategy = "canary", instances = 1, weight = "20%", promote = "manual" }
"#,
    ),
    (
        "other.toml",
        r#"app = "other"
[services.web]
image     = "IMAGE"
ports     = [{ name = "http", port = 8080, protocol = "http" }]
routes    = [{ host = "shop.example" }]
"#,
    ),
    (
        "large.toml",
        r#"app = "large"
[services.web]
image     = "IMAGE"
resources = { cpu = "64", memory = "900GiB" }
"#,
    ),
    (
        "data.toml",
        r#"app = "data"
[services.db]
image     = "IMAGE"
command   = ["/bin/busybox", "sleep", "1000000"]
volumes   = [{ name = "data", path = "/data", size = "16MiB" }]
secrets   = ["PASSWORD"]
"#,
    ),
    (
        "wrong.toml",
        r#"app = "Shop"
[services.web]
imgae     = "IMAGE"
scale     = -1
resources = { cpu = "many", memory = "32MB/s" }
ports     = [{ name = "http", port = 80800, protocol = "htp" }]
routes    = [{ host = "shop example", path = "a" }]
cron      = "* * * * *"
"#,
    ),
    (
        "compose.yaml",
        r"services:
  web:
    build: .
    image: nginx:latest
    ports: ['80:80']
    privileged: true
    depends_on: [db]
  db:
    image: postgres:17
    volumes: ['/var/lib/postgresql:/var/lib/postgresql']
networks:
  front: {}
",
    ),
];

pub(super) const LIST: &[Shot] = &[
    // Usage.
    Look("insula"),
    Look("insula deploy --help"),
    Look("insula run -h"),
    Look("insula top --help"),
    Look("insula frobnicate"),
    Look("insula deplyo"),
    Look("insula scale shop 3"),
    Look("insula scale shop/web many"),
    Look("insula logs Shop"),
    Look("insula node"),
    Look("insula explain"),
    Look("insula completions"),
    // A first node, and what cannot become one.
    Do(concat!(
        "rm -rf new; insula init --region ams --datacenter ams1 --advertise 127.0.0.1:17443 --data new/data ",
        "--config new/insula.toml --no-service"
    )),
    Do(concat!(
        "insula init --region ams --datacenter ams1 --advertise 127.0.0.1:17443 --data new/data ",
        "--config new/insula.toml --no-service"
    )),
    Look("insula init --region Ams --datacenter ams1 --advertise nowhere"),
    Look("insula join rubbish --datacenter fra1 --advertise 127.0.0.1 --data new/other --config new/other.toml"),
    Look("insula server --config nothing.toml"),
    Look("echo 'regio = 1' > broken-server.toml; insula server --config broken-server.toml"),
    Watch {
        line: "INSULA_LOG=error insula dev --data new/dev --edge 127.0.0.1:18080 --api 127.0.0.1:17480 --node 127.0.0.1:17443",
        until: "Ctrl-C stops it",
        keys: "C-c",
    },
    // No cluster, and strangers.
    Look("env -u INSULA_SOCKET HOME=/nonexistent insula ps"),
    Look("INSULA_SOCKET=/nonexistent/api.sock insula ps"),
    Look("env -u INSULA_SOCKET INSULA_CONTEXT=rubbish insula ps"),
    Look("env -u INSULA_SOCKET INSULA_API=10.255.0.1:7480 insula ps"),
    // Nothing there yet.
    Look("insula apps"),
    Look("insula ps"),
    Look("insula top --once"),
    Look("insula volume ls"),
    Look("insula image ls"),
    Look("insula status shop"),
    Look("insula ps shop"),
    Look("insula logs shop"),
    Look("insula secrets list shop"),
    Look("insula rm shop --yes"),
    Look("insula node show n9"),
    Look("insula explain instance i-0000ffff"),
    Look("insula explain placement shop/web"),
    Look("insula exec shop/web -- ls"),
    Look("insula run shop/web -- ls"),
    Look("insula rollback shop"),
    Look("insula pause shop"),
    Look("insula drain n9"),
    // Definitions.
    Look("insula deploy"),
    Look("insula config check wrong.toml"),
    Look("insula config check compose.yaml"),
    Look("insula config check shop.toml"),
    Look("insula deploy wrong.toml"),
    Look("insula deploy shop.toml --plan"),
    // An app.
    Watch { line: "insula deploy shop.toml", until: "web", keys: "" },
    Look("insula deploy shop.toml"),
    Look("insula apps"),
    Look("insula status"),
    Look("insula status shop"),
    Look("insula ps"),
    Look("insula ps shop --json | head -30"),
    Look("insula releases shop"),
    Look("insula config show shop"),
    Look("insula config show shop --release 7"),
    Look("insula image ls"),
    Look("insula nodes"),
    Look("insula node show n1"),
    Look("insula regions"),
    Look("insula explain placement shop/web"),
    Look("insula explain request r-00000000000000000000"),
    Look("insula explain request nothing"),
    Look(
        "insula lab exec n1 -- curl -s -i -H 'Host: shop.example' -H 'X-Request-Id: from-a-client' 'http://127.0.0.1/cart?id=7'",
    ),
    Look("insula explain request from-a-client"),
    Look("insula explain instance $(insula ps shop | grep -o 'i-[0-9a-z]*' | head -1)"),
    Look("insula logs shop --tail 2"),
    Look("insula logs shop/web --since 1h --timestamps --tail 2"),
    Look("insula routes"),
    Look("insula routes --json"),
    Look("insula exec shop/web -- /bin/busybox uname -a"),
    Look("insula exec shop/web -- /bin/nonsense"),
    Look("insula run shop/web -- /bin/busybox id"),
    Look("insula top --once"),
    Watch { line: "insula top", until: "q ends", keys: "q" },
    Look("insula doctor"),
    Look("insula plan --if-lost node n1"),
    Look("insula plan --if-lost datacenter fra9"),
    Look("insula ca status"),
    Look("insula events | tail -12"),
    // Changes.
    Look("insula deploy other.toml"),
    Look("insula deploy large.toml --plan"),
    Do("insula deploy more.toml"),
    Do("insula scale shop/web 4"),
    Do("insula scale shop/nothing 4"),
    Do("insula deploy broken.toml"),
    Look("insula status shop"),
    Look("insula releases shop"),
    Do("sed s/shop/sick/ broken.toml | insula deploy - --wait 10s"),
    Look("insula status sick"),
    Look("insula explain instance $(insula ps sick | grep -o 'i-[0-9a-z]*' | head -1)"),
    Look("insula logs sick --tail 2"),
    Do("insula rm sick --yes"),
    Do("insula rollback shop --to 1"),
    Do("insula rollback shop --to 99"),
    Do("insula deploy canary.toml"),
    Look("insula status shop"),
    Do("insula pause shop"),
    Look("insula status shop"),
    Do("insula resume shop"),
    Do("insula promote shop"),
    Do("insula promote shop"),
    Do("insula deploy shop.toml --detach"),
    Do("insula abort shop"),
    Do("insula restart shop/web"),
    Do("insula stop shop/web"),
    Look("insula status shop"),
    Do("insula start shop/web"),
    // Data.
    Do("insula deploy data.toml"),
    Do("printf secret | insula secrets set data PASSWORD"),
    Do("insula deploy data.toml"),
    Look("insula secrets list data"),
    Do("insula secrets rm data PASSWORD"),
    Look("insula volume ls"),
    Do("insula volume snapshot create data/db/data.0 first"),
    Look("insula volume snapshot ls"),
    Do("insula volume snapshot restore data/db/data.0 first --yes"),
    Do("insula volume rm data/db/data.0 --yes"),
    Do("insula volume resize data/db/data.0 8MiB"),
    Do("insula volume resize data/db/data.0 24MiB"),
    // Nodes.
    Do("insula cordon n3"),
    Do("insula drain n3"),
    Look("insula nodes"),
    Do("insula uncordon n3"),
    Do("insula node rm n3"),
    Do("insula lab kill n3 --signal KILL"),
    Look("insula lab status"),
    Look("insula top --once"),
    Look("insula nodes"),
    Do("insula lab poweron n3"),
    // What a lab does.
    Look("insula lab up"),
    Look("insula lab poweroff n9"),
    Do("insula lab cut n1 n2"),
    Look("insula lab status"),
    Do("insula lab heal"),
    Do("insula lab disk n3 --full"),
    Do("insula lab disk n3 --mend"),
    Do("insula lab pause n3"),
    Do("insula lab resume n3"),
    Look("insula lab --name nowhere status"),
    // Images.
    Look("insula image import shop.toml"),
    Look("insula image import nothing.tar"),
    Do("insula image rm $(insula image ls --json | grep -o '10[^\"]*sha256:[0-9a-f]*' | head -1)"),
    Do("insula image rm 10.200.255.2:5000/none@sha256:$(printf '0%.0s' {1..64})"),
    // The CA. Nobody types the recovery key.
    Do("insula ca renew-region < /dev/null"),
    Do("insula ca replace-root < /dev/null"),
    Do("insula ca activate-root < /dev/null"),
    Do("insula ca retire-root < /dev/null"),
    // Tokens and backups.
    Do("insula token create"),
    Do("insula token create --api --role viewer --name ops"),
    Look("insula token list"),
    Do("insula token rm t-0000000000000"),
    Look("insula ca --help"),
    Look("insula lab --help"),
    Do("insula state backup backup.insula"),
    Look("insula state check backup.insula"),
    Look("insula events | tail -30"),
    Watch { line: "insula rm shop", until: "Type", keys: "no Enter" },
    Do("insula rm shop --yes"),
];
