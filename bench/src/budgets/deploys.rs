//! Deployments: from the command to instances that serve, where every node has the image.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use insula_env::Clock;

use super::Line;
use crate::lab::Lab;

/// A first deployment of three instances may take so long, in seconds.
const THREE_BUDGET_S: f64 = 5.0;
/// How often each is measured; the median counts.
const TIMES: usize = 5;
const LOOK_EVERY: Duration = Duration::from_millis(20);
const WITHIN_S: f64 = 120.0;

const DEFINITION: &str = r#"
app = "timed"
[services.web]
image = "IMAGE"
env = { RELEASE = "NUMBER" }
scale = SCALE
ports = [{ name = "http", port = 8080, protocol = "http" }]
routes = [{ host = "timed.example", path = "/" }]
resources = { cpu = "20m", memory = "16MiB", pids = 16 }
health = { http = "/healthz", interval = "1s", timeout = "1s", grace = "60s" }
update = { min_healthy = "0s", bake = "0s", max_surge = SURGE }
stop = { grace = "0s" }
"#;

/// Measures on the three nodes of a lab.
pub(super) fn measure(lab: &Lab) -> Result<Vec<Line>> {
    let image = lab.run(&["image", "timed", "--tag", "v1"])?.trim().to_owned();
    let definition = DEFINITION.replace("IMAGE", &image);
    let mut number = 0;
    let mut deploy = |scale: usize, surge: usize| -> Result<f64> {
        number += 1;
        let definition = definition
            .replace("NUMBER", &number.to_string())
            .replace("SCALE", &scale.to_string())
            .replace("SURGE", &surge.to_string());
        let clock = Clock::real();
        let begun = clock.now();
        lab.on("n1", &["deploy", "-", "--detach"], &definition)?;
        loop {
            let instances = lab.items("n1", &["ps", "timed"])?;
            let is_new = |instance: &&serde_json::Value| instance["is_ready"] == true && instance["release"] == number;
            let took_s = (clock.now() - begun).as_secs_f64();
            if instances.iter().filter(is_new).count() == scale {
                return Ok(took_s);
            }
            ensure!(took_s < WITHIN_S, "release {number} of {scale} instances is not ready after {took_s:.0} s");
            sleep(LOOK_EVERY);
        }
    };
    eprintln!("deploying three instances {TIMES} times, and a hundred …");
    // Every node has fetched the image after the first time.
    deploy(6, 6)?;
    let (mut first, mut next) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        remove(lab)?;
        put(&mut first, deploy(3, 1)?);
        put(&mut next, deploy(3, 1)?);
    }
    remove(lab)?;
    let hundred = deploy(100, 10)?;
    let hundred_next = deploy(100, 10)?;
    remove(lab)?;
    let line =
        |what: &str, measured: f64, budget| Line { what: what.to_owned(), measured, budget, unit: "s", peer: None };
    Ok(vec![
        line("3 instances: command to all ready, median", first[TIMES / 2], Some(THREE_BUDGET_S)),
        line("3 instances: next release, one by one, median", next[TIMES / 2], None),
        line("100 instances: command to all ready", hundred, None),
        line("100 instances: next release, ten by ten", hundred_next, None),
    ])
}

fn put(sorted: &mut Vec<f64>, value: f64) {
    sorted.push(value);
    sorted.sort_by(f64::total_cmp);
}

fn remove(lab: &Lab) -> Result<()> {
    lab.on("n1", &["rm", "timed", "--yes"], "")?;
    for _ in 0..3000 {
        // Of all apps: one that is not there any more has no list.
        if lab.items("n1", &["ps"])?.iter().all(|instance| instance["app"] != "timed") {
            return Ok(());
        }
        sleep(LOOK_EVERY);
    }
    anyhow::bail!("the app does not go")
}
