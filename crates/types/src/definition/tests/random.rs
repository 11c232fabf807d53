//! What must hold for any text and any definition.

use proptest::prelude::*;

use super::*;

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
    fn valid_definitions_survive_json_and_toml(
        names in prop::collection::btree_set("[a-z][a-z0-9]{0,8}", 1..4),
        scale in prop::option::of(prop_oneof![(0..=SCALE_MAX).prop_map(Scale::Count), Just(Scale::EachNode)]),
        cpu in 1u32..=512_000,
        memory in 4u64..10_000,
        port in 1u16..,
        seconds in 1u64..3600,
        value in "[^\0]{0,20}",
        has_check: bool,
        tag in prop::option::of("[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}"),
        has_digest: bool,
        regions in prop::sample::select(vec![
            RegionSet::Usual,
            RegionSet::All,
            RegionSet::These(["fra", "was"].map(|name| name.parse().expect("a name")).into()),
        ]),
        priority in Priority::RANGE.prop_map(Priority),
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
            protocol: match check {
                crate::Check::Http(_) => crate::Protocol::Http,
                _ => crate::Protocol::H2c,
            },
        };
        let services = names.iter().map(|name| {
            let spec = ServiceSpec {
                image: Some(if has_digest { format!("r:5000/{name}@{DIGEST}") } else { format!("r:5000/{name}") }),
                command: if has_check { vec![value.clone() + "x"] } else { Vec::new() },
                args: if has_check { Vec::new() } else { vec![value.clone()] },
                restart: crate::RestartSpec {
                    policy: crate::RestartPolicy::OnFailure,
                    backoff_min: std::time::Duration::from_millis(seconds.max(100)),
                    backoff_max: std::time::Duration::from_secs(3600),
                },
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
                hooks: crate::HooksSpec {
                    before: if has_check { vec!["./migrate".to_owned(), value.clone()] } else { Vec::new() },
                    after: if has_check { Vec::new() } else { vec!["./notify".to_owned()] },
                    timeout: std::time::Duration::from_secs(seconds),
                },
                region_order: regions.names().rev().cloned().collect(),
                ..UpdateSpec::default()
            };
            (ServiceName::new(name).expect("a label"), ServiceDefinition { spec, tag: tag.clone(), regions: regions.clone(), scale, update, priority, overrides: BTreeMap::new() })
        });
        let definition = AppDefinition {
            app: AppName::new("shop").expect("a label"),
            services: services.collect(),
            contents: BTreeMap::from([(ContentHash::of(&value), value.clone())]),
        };
        prop_assert_eq!(AppDefinition::parse(&definition.to_toml(), Format::Toml), Ok(definition.clone()));
        let json = serde_json::to_string_pretty(&definition.to_json()).expect("JSON");
        prop_assert_eq!(AppDefinition::parse(&json, Format::Json), Ok(definition));
    }

    #[test]
    fn spans_survive_text(millis in 0u64..1 << 40) {
        let span = std::time::Duration::from_millis(millis);
        prop_assert_eq!(parse_duration(&format_duration(span)), Ok(span));
    }
}
