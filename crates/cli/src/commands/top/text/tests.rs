use expect_test::expect;
use insula_api::wire::{NodeUse, SilentNode};
use insula_types::{ByteSize, CpuMillis, InstanceId, NodeId};

use super::*;

fn amount(cpu: u32, mib: u64) -> NodeUse {
    NodeUse { cpu_millis: CpuMillis(cpu), memory_bytes: ByteSize::mib(mib) }
}

fn usage(instances: u64) -> Usage {
    let node = |id: u64, name: &str, requests| NodeUsage {
        node: NodeId::new(id),
        name: name.parse().expect("a name"),
        datacenter: "fra1".parse().expect("a name"),
        used: amount(420, 1200),
        capacity: amount(2000, 1930),
        disk_bytes: ByteSize::mib(5000),
        disk_size_bytes: ByteSize::mib(30_000),
        instances: 2,
        requests_per_second: requests,
        failed_per_second: requests.map(|_| 0.25),
    };
    let service = |name: &str, requests| ServiceUsage {
        app: "shop".parse().expect("a name"),
        service: name.parse().expect("a name"),
        instances: 2,
        used: amount(400, 300),
        requests_per_second: requests,
        failed_per_second: 0.0,
    };
    let instance = |id: u64| InstanceUsage {
        instance: InstanceId::new(id),
        app: "shop".parse().expect("a name"),
        service: "web".parse().expect("a name"),
        node: NodeId::new(1),
        node_name: "n1".parse().expect("a name"),
        is_one_off: id == 2,
        used: amount(450, 123),
        limits: amount(500, 256),
        pids: 12,
        pids_max: 256,
        disk_bytes: (id == 1).then_some(ByteSize::mib(3)),
        disk_size_bytes: (id == 1).then_some(ByteSize::mib(1024)),
        received_bytes_per_second: (id == 1).then_some(1234),
        sent_bytes_per_second: (id == 1).then_some(7),
    };
    Usage {
        nodes: vec![node(1, "n1", Some(123.4)), node(2, "n2", None)],
        services: vec![service("web", 123.4), service("db", 0.0)],
        instances: (1..=instances.min(40)).map(instance).collect(),
        running: instances as u32,
        silent: vec![SilentNode {
            node: NodeId::new(3),
            name: "n3".parse().expect("a name"),
            why: "is down".to_owned(),
        }],
        ..Usage::default()
    }
}

#[test]
fn all_is_shown_with_shares_and_who_is_silent() {
    expect![[r#"
        NODE  DATACENTER  CPU       MEMORY         DISK            INSTANCES  REQ/S  5XX/S
        n1    fra1        21% of 2  62% of 1.8GiB  16% of 29.2GiB  2          123    0.2
        n2    fra1        21% of 2  62% of 1.8GiB  16% of 29.2GiB  2          ?      ?
        n3 is down: what it uses is not shown

        SERVICE   INSTANCES  CPU  MEMORY  REQ/S  5XX/S
        shop/web  2          0.4  300MiB  123    0
        shop/db   2          0.4  300MiB  0      0

        INSTANCE    SERVICE         NODE  CPU         MEMORY         PIDS       DISK        NET IN    NET OUT
        i-00000001  shop/web        n1    90% of 0.5  48% of 256MiB  12 of 256  0% of 1GiB  1.2KiB/s  7B/s
        i-00000002  shop/web (run)  n1    90% of 0.5  48% of 256MiB  12 of 256
    "#]]
    .assert_eq(&whole(&usage(2), None));
}

#[test]
fn a_narrow_terminal_has_the_columns_that_matter() {
    let text = whole(&usage(2), Some(80));
    assert!(text.lines().all(|line| line.chars().count() <= 80 && !line.contains('…')), "{text}");
    assert!(text.contains("90% of 0.5") && text.contains("48% of 256MiB"), "{text}");
}

#[test]
fn a_page_fits_on_any_screen() {
    for (rows, columns) in [(24, 80), (50, 200), (10, 40), (3, 10), (1, 1)] {
        let text = fitting("12:00:00 UTC", &usage(300), WindowSize { rows, columns });
        assert!(text.lines().count() <= usize::from(rows), "{rows}: {text}");
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(columns)), "{columns}: {text}");
        if rows >= 24 {
            assert!(text.contains("more instances") && text.contains("n3 is down"), "{text}");
        }
    }
    expect![[r#"
        12:00:00 UTC
        NODE  CPU       MEMORY         DISK            INSTANCES  REQ/S  5XX/S
        n1    21% of 2  62% of 1.8GiB  16% of 29.2GiB  2          123    0.2
        n2    21% of 2  62% of 1.8GiB  16% of 29.2GiB  2          ?      ?
        n3 is down: what it uses is not shown

        SERVICE   INSTANCES  CPU  MEMORY  REQ/S  5XX/S
        shop/web  2          0.4  300MiB  123    0
        shop/db   2          0.4  300MiB  0      0

        INSTANCE    SERVICE         NODE  CPU         MEMORY         PIDS
        i-00000001  shop/web        n1    90% of 0.5  48% of 256MiB  12 of 256
        i-00000002  shop/web (run)  n1    90% of 0.5  48% of 256MiB  12 of 256
        i-00000003  shop/web        n1    90% of 0.5  48% of 256MiB  12 of 256
        i-00000004  shop/web        n1    90% of 0.5  48% of 256MiB  12 of 256
        i-00000005  shop/web        n1    90% of 0.5  48% of 256MiB  12 of 256
        i-00000006  shop/web        n1    90% of 0.5  48% of 256MiB  12 of 256
        i-00000007  shop/web        n1    90% of 0.5  48% of 256MiB  12 of 256
        and 293 more instances"#]]
    .assert_eq(&fitting("12:00:00 UTC", &usage(300), WindowSize { rows: 20, columns: 80 }));
    assert!(whole(&Usage::default(), None).contains("no instance runs"));
}
