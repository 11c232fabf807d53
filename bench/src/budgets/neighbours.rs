//! Hostile neighbours: what a service feels of an app on the same node that takes all it can get.

use std::{net::SocketAddr, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use insula_env::Clock;
use serde_json::Value;

use super::{Line, ms};
use crate::{
    lab::{Lab, LabNode},
    report::{Outcome, Record, percentile},
    traffic::Traffic,
};

/// Requests a second, and by how much their clients go before others: they stand for other machines, and what they wait for
/// the processor is not the node's.
const RATE: u32 = 100;
const CLIENTS_NICE: i8 = -10;
/// Connections a second in a flood of them, whose clients go behind all others.
const FLOOD: u32 = 1000;
const FLOOD_NICE: i8 = 19;
/// How long is measured without a neighbour, and with it, in turns.
const WATCHED: Duration = Duration::from_secs(10);
/// How often in turns: of a hundredth of the requests, one measurement says little on a busy machine. The medians are compared.
const PAIRS: usize = 3;
/// How long a neighbour runs before it is measured.
const WARM: Duration = Duration::from_secs(3);
/// How much longer the slowest of a hundred requests may take beside a neighbour.
const FACTOR: f64 = 1.25;

const VICTIM: &str = r#"
app = "victim"
[services.web]
image = "IMAGE"
ports = [{ name = "http", port = 8080, protocol = "http" }]
routes = [{ host = "victim.example", path = "/" }]
resources = { cpu = "500m", memory = "32MiB", pids = 32 }
health = { http = "/healthz", interval = "1s", timeout = "1s", grace = "20s" }
"#;

const NEIGHBOUR: &str = r#"
app = "hog"
[services.web]
image = "IMAGE"
command = ["/bin/busybox", "sh", "-c", """SCRIPT"""]
ports = [{ name = "http", port = 8080, protocol = "http" }]
routes = [{ host = "hog.example", path = "/" }]
resources = { cpu = "250m", memory = "32MiB", pids = 64, disk = "32MiB" }
stop = { grace = "0s" }
"#;

/// What a neighbour does, and how.
const NEIGHBOURS: [(&str, &str); 7] = [
    ("CPU spinner", "for i in 1 2 3 4; do while :; do :; done & done; wait"),
    ("fork bomb", "bomb() { bomb | bomb & }; bomb; while :; do bomb; done"),
    ("memory hog", "x=xxxxxxxx; while :; do x=$x$x; done"),
    ("disk filler", "while :; do /bin/busybox dd if=/dev/zero of=/big bs=1M; /bin/busybox rm /big; done"),
    ("inode filler", "i=0; while :; do : >/tmp$i || i=0; i=$((i+1)); done"),
    ("log flood", "/bin/busybox yes 'a line that says nothing at all, again and again and again'"),
    (CONNECTIONS, "exec /bin/busybox httpd -f -p 8080 -h /"),
];
/// Of the requests that failed so many are shown: how, where, after how long, and when, to be found in the logs.
const FAILED_SHOWN: usize = 5;
/// The one that comes from outside.
const CONNECTIONS: &str = "connection flood";

/// Measures a victim beside each, on the one node of a lab.
pub(super) fn measure(lab: &Lab) -> Result<Vec<Line>> {
    let image = lab.run(&["image", "neighbours", "--tag", "v1"])?.trim().to_owned();
    lab.on("n1", &["deploy", "-", "--wait", "2m"], &VICTIM.replace("IMAGE", &image))?;
    let edges: Vec<_> = lab.nodes()?.iter().map(LabNode::edge).collect();
    let traffic = Traffic::start_nice(lab, &edges, "victim.example", RATE, CLIENTS_NICE)?;
    sleep(WARM);
    let mut lines = Vec::new();
    for (what, script) in NEIGHBOURS {
        let definition = NEIGHBOUR.replace("IMAGE", &image).replace("SCRIPT", script);
        let pairs = (0..PAIRS)
            .map(|_| {
                let alone = watch(&traffic);
                let beside = beside(lab, &traffic, what, &definition, &edges)?;
                eprintln!(
                    "{what}: p99 {:.1} ms, alone {:.1} ms; {} of {} requests failed",
                    ms(beside.p99_us),
                    ms(alone.p99_us),
                    beside.failed.len(),
                    beside.all
                );
                for Record { target, start_ms, latency_us, outcome, .. } in beside.failed.iter().take(FAILED_SHOWN) {
                    eprintln!("   {outcome:?} by {target} after {:.1} ms, at {start_ms} ms", ms(*latency_us));
                }
                Ok((alone.p99_us, beside.p99_us))
            })
            .collect::<Result<Vec<(u64, u64)>>>()?;
        let (mut alone, mut beside): (Vec<u64>, Vec<u64>) = pairs.into_iter().unzip();
        alone.sort_unstable();
        beside.sort_unstable();
        let (alone, beside) = (ms(percentile(&alone, 50)), ms(percentile(&beside, 50)));
        lines.push(Line {
            what: format!("victim beside a {what}: p99, median of {PAIRS}"),
            measured: beside,
            budget: Some(alone * FACTOR),
            unit: "ms",
            peer: Some(("alone".to_owned(), alone)),
        });
    }
    lab.on("n1", &["rm", "victim", "--yes"], "")?;
    Ok(lines)
}

/// What the victim feels while a neighbour is there, from its deployment to its end.
fn beside(lab: &Lab, traffic: &Traffic, what: &str, definition: &str, edges: &[SocketAddr]) -> Result<Watched> {
    let begun_ms = Clock::real().wall_ms();
    lab.on("n1", &["deploy", "-", "--detach"], definition)?;
    let flood = || Traffic::start_nice(lab, edges, "hog.example", FLOOD, FLOOD_NICE);
    let flood = (what == CONNECTIONS).then(flood).transpose()?;
    sleep(WARM);
    let beside = watch(traffic);
    drop(flood);
    let nodes = lab.items("n1", &["nodes"])?;
    ensure!(nodes.iter().all(|node| node["state"] == "up"), "a node is down beside a {what}: {nodes:?}");
    eprintln!("what the region says of the {what}:");
    said_of(lab, begun_ms)?.iter().for_each(|text| eprintln!("   {text}"));
    lab.on("n1", &["rm", "hog", "--yes"], "")?;
    until_gone(lab)?;
    // What it leaves behind for the kernel to write and to free is not the next one's.
    sleep(WARM);
    Ok(beside)
}

/// What the events name of the neighbour since then, but its birth and end.
fn said_of(lab: &Lab, since_ms: u64) -> Result<Vec<String>> {
    let said = lab.on("n1", &["events", "--json"], "").context("a node that is alive answers")?;
    let events = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_it = |event: &Value| {
        event["app"] == "hog"
            && event["at_ms"].as_u64() >= Some(since_ms)
            && PRESSURES.iter().any(|kind| event["kind"] == *kind)
    };
    Ok(events.filter(of_it).filter_map(|event| Some(event["text"].as_str()?.to_owned())).collect())
}

/// Kinds of events that say what presses.
const PRESSURES: [&str; 2] = ["note", "restarting"];

/// What came of the requests of a while.
struct Watched {
    all: usize,
    failed: Vec<Record>,
    p99_us: u64,
}

fn watch(traffic: &Traffic) -> Watched {
    let begun_ms = Clock::real().wall_ms();
    sleep(WATCHED);
    traffic.with(|records| {
        let since: Vec<&Record> = records.iter().filter(|record| record.start_ms >= begun_ms).collect();
        let mut took_us: Vec<u64> = since.iter().map(|record| record.latency_us).collect();
        took_us.sort_unstable();
        let failed = since.iter().filter(|record| record.outcome != Outcome::Ok);
        Watched {
            all: since.len(),
            failed: failed.map(|record| (*record).clone()).collect(),
            p99_us: percentile(&took_us, 99),
        }
    })
}

fn until_gone(lab: &Lab) -> Result<()> {
    for _ in 0..300 {
        if lab.items("n1", &["ps", "hog"])?.is_empty() {
            return Ok(());
        }
        sleep(Duration::from_millis(200));
    }
    anyhow::bail!("the neighbour does not go")
}
