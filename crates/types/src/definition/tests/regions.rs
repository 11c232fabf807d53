//! What regions override.

use proptest::prelude::*;

use super::*;

const BASE: &str = r#"
app = "shop"
[services.web]
IMAGE
args      = ["serve"]
env       = { LOG = "info", TEAM = "a" }
scale     = 2
resources = { cpu = "500m", memory = "256MiB" }
ports     = [{ name = "http", port = 8080, protocol = "http" }]
routes    = [{ host = "shop.example" }, { host = "www.shop.example" }]
health    = { http = "/healthz", port = "http", interval = "3s" }
placement = { require = { disk = "ssd" } }
read_only = true
priority  = 70
secrets   = ["KEY"]
update    = { strategy = "canary", weight = "5%", promote = "manual", max_surge = 2 }
restart   = { policy = "never" }
"#;

fn with(lines: &str) -> AppDefinition {
    let text = format!("{BASE}{lines}").replace("IMAGE", &format!("image = \"r.example/shop@{DIGEST}\""));
    AppDefinition::parse(&text, Format::Toml).unwrap_or_else(|error| panic!("{lines}: {error}"))
}

/// What differs in a region from what others have.
fn in_was(lines: &str) -> (ServiceDefinition, ServiceDefinition) {
    let definition = with(&format!("[services.web.region.was]\n{lines}"));
    let web = definition.services.values().next().expect("one service").clone();
    let was = web.in_region(&"was".parse().expect("a name"));
    (web, was)
}

#[test]
fn tables_merge_and_arrays_replace() {
    let (web, was) = in_was(
        "scale = 4\nenv = { LOG = \"debug\", REGION = \"was\" }\nresources.memory = \"512MiB\"\nplacement.require.gen = \"9\"\n\
         routes = [{ host = \"was.shop.example\" }]\nread_only = false\npriority = 50",
    );
    let env: Vec<_> = was.spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["LOG=debug", "REGION=was", "TEAM=a"]);
    assert_eq!(was.spec.resources, crate::Resources { memory: ByteSize::mib(512), ..web.spec.resources });
    assert_eq!(was.spec.placement.require.len(), 2);
    let hosts: Vec<_> = was.spec.routes.iter().map(|route| route.host.as_str()).collect();
    assert_eq!(hosts, ["was.shop.example"]);
    assert_eq!((was.scale, web.scale), (Some(Scale::Count(4)), Some(Scale::Count(2))));
    assert_eq!((was.spec.is_read_only, was.priority), (false, Priority::USUAL));
    assert_eq!((&was.spec.image, &was.spec.args), (&web.spec.image, &web.spec.args));
    let fra = web.in_region(&"fra".parse().expect("a name"));
    assert_eq!(fra, ServiceDefinition { overrides: BTreeMap::new(), ..web });
}

/// Another check, another strategy and other arguments do not stand beside those of the service.
#[test]
fn one_of_several_gives_way_to_another() {
    let (_, was) =
        in_was("health = { exec = [\"ask\"] }\nupdate = { strategy = \"rolling\" }\ncommand = [\"./other\"]");
    let health = was.spec.health.expect("a check");
    assert_eq!((health.check, health.port), (crate::Check::Exec(vec!["ask".to_owned()]), None));
    assert_eq!(health.interval, std::time::Duration::from_secs(3));
    assert_eq!((was.update.strategy, was.update.max_surge), (crate::Strategy::Rolling, 2));
    assert_eq!((was.spec.command, was.spec.args), (vec!["./other".to_owned()], Vec::new()));
    let (_, was) = in_was("health.tcp = true\nupdate.strategy = \"blue-green\"");
    assert_eq!(was.spec.health.expect("a check").port.as_ref().map(crate::PortName::as_str), Some("http"));
    assert_eq!(was.update.strategy, crate::Strategy::BlueGreen(crate::Promotion::Manual));
}

#[test]
fn overrides_are_written_as_what_differs() {
    let was = "[services.web.region.was]\nscale = 4\nresources.memory = \"512MiB\"\nread_only = false\nargs = []\n\
               update = { strategy = \"rolling\" }\n[services.web.region.nrt]\n";
    expect![[r#"

        image = "r.example/shop@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
        args = ["serve"]
        env = { LOG = "info", TEAM = "a" }
        secrets = ["KEY"]
        scale = 2
        resources = { cpu = "500m", memory = "256MiB" }
        ports = [{ name = "http", port = 8080, protocol = "http" }]
        routes = [{ host = "shop.example", path = "/" }, { host = "www.shop.example", path = "/" }]
        placement = { require = { disk = "ssd" }, spread = "datacenter" }
        read_only = true
        restart = { backoff = "1s..1m", policy = "never" }
        priority = 70

        [services.web.health]
        grace = "30s"
        http = "/healthz"
        interval = "3s"
        port = "http"
        timeout = "1s"
        unhealthy_after = 2

        [services.web.update]
        strategy = "canary"
        instances = 1
        max_errors = "1.0%"
        max_surge = 2
        promote = "manual"
        weight = "5%"

        [services.web.region.nrt]

        [services.web.region.was]
        args = []
        scale = 4
        resources = { memory = "512MiB" }
        read_only = false
        update = { strategy = "rolling" }
    "#]]
    .assert_eq(with(was).to_toml().split_once("[services.web]").expect("the service is first").1);
    let mut definition = with(was);
    definition.services.values_mut().for_each(ServiceDefinition::drop_idle_overrides);
    let regions: Vec<_> = definition.services.values().flat_map(|one| one.overrides.keys()).collect();
    assert_eq!(regions.iter().map(ToString::to_string).collect::<Vec<_>>(), ["was"]);
}

#[test]
fn what_regions_cannot_override_is_refused() {
    check_service(
        "IMAGE\nregions = [\"fra\", \"was\"]\n\
         [services.web.region.was]\nimage = \"other\"\nregions = [\"was\"]\nfailover = 1\nregion = {}\nscal = 3\n\
         update = { region_order = [\"was\"] }\nruntime = \"process\"\n\
         [services.web.region.nrt]\nscale = 3\n[services.web.region.WAS]\n[services.web.region]\nfra = 3",
        expect![[r#"
            line 6, column 1: services.web.region.was.image: the image is the same in all regions; take it out, or make another service of it
            line 7, column 1: services.web.region.was.regions: it is said of the service as a whole, not of one of its regions; take it out
            line 8, column 1: services.web.region.was.failover: it is said of the service as a whole, not of one of its regions; take it out
            line 9, column 1: services.web.region.was.region: it is said of the service as a whole, not of one of its regions; take it out
            line 10, column 1: services.web.region.was.scal: unknown key; did you mean "scale"?
            line 11, column 12: services.web.region.was.update.region_order: the order of the regions is the same for all of them; write it in the service's update
            line 12, column 11: services.web.region.was.runtime: found "process", and the service is a container: it is so in all regions, as it has one image or none
            line 13, column 22: services.web.region.nrt: nrt is none of its regions; they are fra, was: add it there, or take the override out
            line 15, column 22: services.web.region.WAS: "WAS" is not a valid region name: use lower-case letters, digits and hyphens only
            line 17, column 7: services.web.region.fra: found the number 3, expected a table"#]],
    );
    check_service(
        "IMAGE\nregion = { fra = 3 }",
        expect!["line 4, column 18: services.web.region.fra: found the number 3, expected a table"],
    );
    check_service(
        "IMAGE\nregion = [\"fra\"]",
        expect!["line 4, column 10: services.web.region: found a list, expected a table"],
    );
}

#[test]
fn what_a_region_has_is_valid_as_a_whole() {
    // Wrong values of the service are told once, and those of a region where they are.
    check_service(
        "IMAGE\nscale = 1001\nenv = { A = 3 }\n[services.web.region.was]\nresources = { memory = \"1KiB\" }\nenv = { B = 4 }",
        expect![[r#"
            line 4, column 9: services.web.scale: found the number 1001, expected a whole number from 0 to 1000
            line 5, column 13: services.web.env.A: found the number 3, expected text: write "3"
            line 7, column 24: services.web.region.was.resources.memory: found 1KiB, expected from 4MiB to 16TiB
            line 8, column 13: services.web.region.was.env.B: found the number 4, expected text: write "4""#]],
    );
    // Either is right for itself.
    check_service(
        "IMAGE\nscale = \"each-node\"\nports = [{ name = \"http\", port = 80, protocol = \"http\" }]\nroutes = [{ host = \"a.example\" }]\n\
         secrets = [\"KEY\"]\n[services.web.region.was]\nports = []\nenv = { KEY = \"x\" }\n\
         volumes = [{ name = \"data\", path = \"/data\", size = \"1GiB\" }]",
        expect![[r#"
            line 4, column 9: services.web.region.was.scale: not yet: a service with volumes cannot have the scale "each-node"; write a number, or take the volumes out
            line 6, column 10: services.web.region.was.routes: routes lead to a port with protocol "http" or "h2c", and there is none; add ports = [{ name = "http", port = 8080, protocol = "http" }]
            line 10, column 7: services.web.region.was.env: KEY is a secret, too; take it out of one of both"#]],
    );
    check_service(
        "\n[services.web.region.was]\nscale = 2",
        expect![[r#"line 2, column 1: services.web: it needs an image, or a command with runtime = "process""#]],
    );
    check_service(
        "runtime = \"process\"\ncommand = [\"a\"]\n[services.web.region.was]\nruntime = \"container\"",
        expect![[
            r#"line 6, column 11: services.web.region.was.runtime: found "container", and the service is a process: it is so in all regions, as it has one image or none"#
        ]],
    );
    let routes = "ports = [{ name = \"http\", port = 80, protocol = \"http\" }]\nroutes = [{ host = \"a.example\" }]\n";
    check(
        &format!(
            "app = \"shop\"\n[services.web]\nIMAGE\n{routes}[services.web.region.was]\nroutes = [{{ host = \"a.example\" }}, {{ host = \"b.example\" }}]\n\
             [services.other]\nIMAGE\n{}",
            routes.replace("a.ex", "b.ex")
        ),
        expect![
            "line 11, column 11: services.other.routes[0]: the route b.example/ is there twice; one service of the app can have it"
        ],
    );
}

/// What is kept of an override is a whole service; many of a large one have a limit.
#[test]
fn overrides_of_a_large_service_have_a_limit() {
    let lines = |regions: usize| {
        let value = "x".repeat(100_000);
        let of_regions: String =
            (0..regions).map(|n| format!("[services.web.region.r{n}]\npriority = {n}\n")).collect();
        format!("IMAGE\nenv = {{ A = \"{value}\" }}\n{of_regions}")
    };
    check_service(&lines(2), expect!["valid"]);
    check_service(
        &lines(4),
        expect![
            "line 9, column 22: services.web.region.r2: what regions have of its services takes more than 262144 bytes in all; override less"
        ],
    );
    let many: String = (0..65).map(|n| format!("[services.web.region.r{n}]\nscale = {n}\n")).collect();
    check_service(
        &format!("IMAGE\n{many}"),
        expect!["line 4, column 15: services.web.region: found 65 entries, at most 64 are allowed"],
    );
}

#[test]
fn a_compose_file_takes_overrides_as_they_are() {
    let text = format!(
        "services:\n  web:\n    image: r.example/shop@{DIGEST}\n    mem_limit: 256m\n    x-insula:\n      region:\n        was: {{ scale: 4, resources: {{ cpu: 1 }} }}\n"
    );
    let context = ComposeContext { app: None, directory: Some("shop"), variable: &|_| None };
    let composed = AppDefinition::parse_compose(&text, &context).expect("valid").definition;
    let was = composed.services.values().next().expect("one").in_region(&"was".parse().expect("a name"));
    assert_eq!((was.scale, was.spec.resources.cpu.0), (Some(Scale::Count(4)), 1000));
    assert_eq!(was.spec.resources.memory, ByteSize::mib(256));
}

/// What can be said of a service, or of one of its regions: one of each line, or none.
const CHOICES: [&[&str]; 19] = [
    &["command = [\"a\"]", "command = [\"b\", \"c\"]", "args = [\"x\"]", "args = []"],
    &["env = { A = \"1\" }", "env = { A = \"2\", B = \"3\" }", "env = {}"],
    &["scale = 3", "scale = \"each-node\"", "scale = 0"],
    &[
        "resources = { cpu = \"1\" }",
        "resources = { memory = \"64MiB\", files = 1000 }",
        "resources = { disk = \"1GiB\" }",
    ],
    &[
        "ports = [{ name = \"http\", port = 8080, protocol = \"http\" }, { name = \"raw\", port = 9, protocol = \"tcp\" }]",
        "ports = [{ name = \"http\", port = 80, protocol = \"http\" }]",
        "ports = []",
    ],
    &["routes = [{ host = \"a.example\" }, { host = \"b.example\", path = \"/x\" }]", "routes = []"],
    &[
        "health = { http = \"/ok\", port = \"http\" }",
        "health = { tcp = true, timeout = \"500ms\" }",
        "health = { exec = [\"ask\"], interval = \"5s\" }",
        "health = { grpc = \"\", restart_after = \"1m\" }",
        "health = { interval = \"9s\" }",
    ],
    &["stop = { grace = \"1m\" }", "stop = { signal = \"SIGINT\" }", "stop = { signal = \"SIGTERM\" }"],
    &["runtime = \"gvisor\"", "runtime = \"container\""],
    &["volumes = [{ name = \"d\", path = \"/d\", size = \"1GiB\" }]", "volumes = []"],
    &["tmpfs = [{ path = \"/t\", size = \"16MiB\" }]", "tmpfs = []"],
    &["read_only = true", "read_only = false"],
    &["init = true", "init = false"],
    &[
        "placement = { require = { disk = \"ssd\" } }",
        "placement = { spread = \"rack\", prefer = { gen = \"9\" } }",
        "placement = { spread = \"datacenter\" }",
    ],
    &[
        "update = { strategy = \"canary\", instances = 2, promote = \"manual\" }",
        "update = { strategy = \"blue-green\", promote = \"manual\" }",
        "update = { strategy = \"rolling\", max_surge = 3 }",
        "update = { bake = \"1m\" }",
        "update = { weight = \"7%\" }",
    ],
    &[
        "files = [{ path = \"/etc/a\", content = \"one\" }]",
        "files = [{ path = \"/etc/a\", content = \"two\" }]",
        "files = []",
    ],
    &["secrets = [\"KEY\"]", "secrets = []"],
    &["restart = { policy = \"never\" }", "restart = { backoff = \"2s..9s\" }", "restart = { policy = \"always\" }"],
    &[
        "hooks = { before = [\"m\"] }",
        "hooks = { after = [\"n\"], timeout = \"9s\" }",
        "priority = 10",
        "priority = 50",
    ],
];

fn lines() -> impl Strategy<Value = String> {
    let one = |choices: &'static [&'static str]| prop::option::weighted(0.3, prop::sample::select(choices.to_vec()));
    let all: Vec<_> = CHOICES.iter().map(|choices| one(choices)).collect();
    all.prop_map(|lines| lines.into_iter().flatten().collect::<Vec<_>>().join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 20_000, ..ProptestConfig::with_cases(1000) })]
    #[test]
    fn overrides_survive_json_and_toml(service in lines(), fra in lines(), was in lines()) {
        let text = format!(
            "app = \"shop\"\n[services.web]\nimage = \"r.example/shop@{DIGEST}\"\n{service}\n\
             [services.web.region.fra]\n{fra}\n[services.web.region.was]\n{was}\n"
        );
        let Ok(definition) = AppDefinition::parse(&text, Format::Toml) else { return Err(TestCaseError::reject("not valid")) };
        let toml = definition.to_toml();
        prop_assert_eq!(AppDefinition::parse(&toml, Format::Toml), Ok(definition.clone()), "{}\n{}", text, toml);
        let json = definition.to_json().to_string();
        prop_assert_eq!(AppDefinition::parse(&json, Format::Json), Ok(definition), "{}\n{}", text, json);
    }
}
