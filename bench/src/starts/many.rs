//! Many instances on one node: how long until all run, and what each costs while it sleeps.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use insula_container::{NodeRuntime, Runtime};
use serde::{Deserialize, Serialize};

use super::{end, instance, open, start_together};
use crate::budgets::processes::pss_mib;

/// As many as the node agent starts at a time.
const AT_A_TIME: u64 = 4;

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Many {
    /// Until all ran, in microseconds.
    pub all_us: u64,
    /// Memory of the average shim, in MiB (proportional set size).
    pub shim_mib: f64,
    /// By how much the process that looks after them grew with each, in MiB.
    pub agent_mib: f64,
}

/// Starts so many containers, measures, and removes them; files are below `dir`.
///
/// # Errors
/// What the runtime says.
pub async fn measure(image: &str, dir: &Path, count: u64) -> Result<Many> {
    let runtime = open(image, dir).await?;
    let measured = start(&runtime, image, count).await;
    runtime.remove_all().await?;
    measured
}

async fn start(runtime: &NodeRuntime, image: &str, count: u64) -> Result<Many> {
    // The first one also makes what all share.
    runtime.start(&instance(0, image)?).await?;
    end(runtime, 0, image).await?;
    let before = pss_mib(std::process::id())?;
    let begin = |number| {
        let (runtime, config) = (runtime.clone(), instance(number, image));
        async move { Ok(runtime.start(&config?).await.map(drop)?) }
    };
    let times_us = start_together(count, AT_A_TIME, begin).await?;
    let agent_mib = (pss_mib(std::process::id())? - before) / count as f64;
    let mut shims_mib = 0.0;
    for number in 0..count {
        // It runs: a second start only finds it.
        let running = runtime.start(&instance(number, image)?).await?;
        shims_mib += pss_mib(parent(running.pid)?)?;
    }
    let all_us = times_us.into_iter().max().unwrap_or(0);
    Ok(Many { all_us, shim_mib: shims_mib / count as f64, agent_mib })
}

/// An instance's first process is its shim's child.
fn parent(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let parent = text.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    parent.with_context(|| format!("{path} says no PPid"))
}
