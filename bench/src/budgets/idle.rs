//! What an idle node with ten instances costs: memory of its processes, each node with its own copy of the program, and
//! processor time.

use std::{thread::sleep, time::Duration};

use anyhow::Context;

use super::{
    Line,
    processes::{TICKS_PER_SECOND, beside, pss_mib, ticks},
};
use crate::lab::Lab;

/// Quiet before measuring: start-up is not idling.
const SETTLE: Duration = Duration::from_secs(15);
/// How long processor time is watched.
const WATCHED: Duration = Duration::from_secs(30);
/// Memory of a node's processes together, shims apart.
const NODE_MIB_BUDGET: f64 = 64.0;
/// Processor time of a node, in percent of one core.
const CPU_PERCENT_BUDGET: f64 = 2.0;

/// Apps that run, with an instance on every node each.
const APPS: usize = 10;
/// Memory of one instance's shim.
const SHIM_MIB_BUDGET: f64 = 1.0;

/// Measures all nodes and gives the worst of each.
pub(super) fn measure(lab: &Lab) -> anyhow::Result<Vec<Line>> {
    eprintln!("deploying {APPS} apps of three instances …");
    let image = lab.run(&["image", "bench"])?;
    for number in 0..APPS {
        let definition = format!(
            "app = \"idle-{number}\"\n[services.web]\nimage = \"{}\"\nscale = 3\n\
             resources = {{ cpu = \"50m\", memory = \"32MiB\", pids = 32 }}\n\
             ports = [{{ name = \"http\", port = 8080, protocol = \"http\" }}]\n\
             routes = [{{ host = \"idle-{number}.example\", path = \"/\" }}]\n\
             health = {{ http = \"/healthz\", interval = \"5s\", timeout = \"1s\", grace = \"10s\" }}\n",
            image.trim()
        );
        lab.on("n1", &["deploy", "-", "--wait", "2m"], &definition)?;
    }
    eprintln!("watching idle nodes for {} s …", (SETTLE + WATCHED).as_secs());
    sleep(SETTLE);
    let nodes = lab.nodes()?;
    let mut roles = Vec::new();
    for node in &nodes {
        let server = node.server.with_context(|| format!("no server runs on {}", node.name))?;
        let dataplane = node.dataplane.with_context(|| format!("no dataplane runs on {}", node.name))?;
        roles.push([server, dataplane]);
    }
    let ticks = |pids: &[u32; 2]| Ok::<_, anyhow::Error>(ticks(pids[0])? + ticks(pids[1])?);
    let before = roles.iter().map(ticks).collect::<Result<Vec<_>, _>>()?;
    sleep(WATCHED);
    let after = roles.iter().map(ticks).collect::<Result<Vec<_>, _>>()?;
    let cpu = before.iter().zip(&after).map(|(before, after)| (after - before) as f64).fold(0.0, f64::max);
    let memory =
        roles.iter().map(|pids| Ok([pss_mib(pids[0])?, pss_mib(pids[1])?])).collect::<anyhow::Result<Vec<_>>>()?;
    let worst = |pick: fn(&[f64; 2]) -> f64| memory.iter().map(pick).fold(0.0, f64::max);
    let servers: Vec<u32> = roles.iter().map(|[server, _]| *server).collect();
    // Told by the place of their program, `shim/` below the node's data.
    let shims = beside(&servers, |program| program.contains("/shim/"))?
        .into_iter()
        .map(pss_mib)
        .collect::<anyhow::Result<Vec<_>>>()?;
    anyhow::ensure!(shims.len() == 3 * APPS, "{} shims run instead of {}", shims.len(), 3 * APPS);
    let line = |what: &str, measured, budget, unit| Line { what: what.to_owned(), measured, budget, unit, peer: None };
    let percent = cpu / TICKS_PER_SECOND / WATCHED.as_secs_f64() * 100.0;
    for number in 0..APPS {
        lab.on("n1", &["rm", &format!("idle-{number}"), "--yes"], "")?;
    }
    Ok(vec![
        line("idle node: memory (PSS), both processes", worst(|[a, b]| a + b), Some(NODE_MIB_BUDGET), "MiB"),
        line("  of that insula server", worst(|[server, _]| *server), None, "MiB"),
        line("  of that insula dataplane", worst(|[_, dataplane]| *dataplane), None, "MiB"),
        line("  each shim, the largest", shims.into_iter().fold(0.0, f64::max), Some(SHIM_MIB_BUDGET), "MiB"),
        line("idle node: processor, both processes", percent, Some(CPU_PERCENT_BUDGET), "%"),
    ])
}
