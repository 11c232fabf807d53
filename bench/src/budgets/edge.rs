//! The edge beside nginx and HAProxy: the same instance behind each, the same clients before it, one core for whoever is in
//! between and the other one for all others, in turns.

mod stage;

use std::{net::SocketAddr, process::Command};

use anyhow::{Context, Result, ensure};

use self::stage::{HOST, Proxy, Stage};
use super::{Line, ms, processes::TICKS_PER_SECOND};
use crate::{
    lab::{Programs, output},
    wire::Seen,
};

/// Turns of each; the median counts.
const TURNS: usize = 3;
/// Seconds of a turn.
const SECONDS: &str = "4";
/// Connections that ask.
const CONNECTIONS: &str = "64";
/// Sizes of an answer, in bytes, and their names.
const SIZES: [(u32, &str); 2] = [(1 << 10, "1 KiB"), (64 << 10, "64 KiB")];
/// Processor time for a request, beside nginx's.
const FACTOR: f64 = 1.3;
/// The load at which latencies are looked at, beside the most that each takes.
const CALM: f64 = 0.7;

/// What a proxy did in its turns with one size.
#[derive(Default)]
struct Turns {
    cpu_us: Vec<f64>,
    per_second: Vec<f64>,
    calm_p99_ms: Vec<f64>,
}

/// Measures all three.
pub(super) fn measure(programs: &Programs) -> Result<Vec<Line>> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    ensure!(cores >= 2, "a core for the proxy and one for all others are needed; here is one");
    eprintln!("starting insula dev, nginx and HAProxy …");
    let stage = Stage::set(programs)?;
    let mut lines = Vec::new();
    for (size, name) in SIZES {
        eprintln!("answers of {name}, {TURNS} turns of each …");
        lines.extend(compare(programs, &stage, size, name)?);
    }
    Ok(lines)
}

fn compare(programs: &Programs, stage: &Stage, size: u32, name: &str) -> Result<Vec<Line>> {
    let mut turns = stage.proxies().each_ref().map(|_| Turns::default());
    for _ in 0..TURNS {
        for (proxy, turns) in stage.proxies().iter().zip(&mut turns) {
            take_turn(programs, proxy, size, turns)?;
        }
    }
    let [ours, nginx, haproxy] = turns.each_mut();
    let mut lines = Vec::new();
    let mut add =
        |what: &str, unit, budget: Option<f64>, pick: fn(&mut Turns) -> &mut Vec<f64>, of: &mut [&mut Turns; 3]| {
            let [ours, nginx, haproxy] = of.each_mut().map(|turns| median(pick(turns)));
            let what = format!("edge, {name}: {what}");
            let line = |what: String, budget, peer: &str, value| {
                let peer = Some((peer.to_owned(), value));
                Line { what, measured: ours, budget, unit, peer }
            };
            lines.push(line(what.clone(), budget.map(|factor| factor * nginx), "nginx", nginx));
            lines.push(line(what, None, "HAProxy", haproxy));
        };
    let of = &mut [ours, nginx, haproxy];
    add("processor for a request", "µs", Some(FACTOR), |turns| &mut turns.cpu_us, of);
    add("in a second (more is better)", "/s", None, |turns| &mut turns.per_second, of);
    add("p99 at 70 % of that", "ms", None, |turns| &mut turns.calm_p99_ms, of);
    Ok(lines)
}

/// As many requests as it takes, then 70 % of that.
fn take_turn(programs: &Programs, proxy: &Proxy, size: u32, turns: &mut Turns) -> Result<()> {
    let before = proxy.ticks()?;
    let most = ask(programs, proxy.address, size, None)?;
    let used_us = (proxy.ticks()? - before) as f64 / TICKS_PER_SECOND * 1e6;
    let calm = ask(programs, proxy.address, size, Some(most.per_second * CALM))?;
    turns.cpu_us.push(used_us / most.good as f64);
    turns.per_second.push(most.per_second);
    turns.calm_p99_ms.push(ms(calm.p99_us));
    Ok(())
}

fn ask(programs: &Programs, target: SocketAddr, size: u32, rate: Option<f64>) -> Result<Seen> {
    let mut command = Command::new("taskset");
    command.args(["-c", stage::CORE_OTHERS]).arg(&programs.bench);
    command.args(["wire", "--target", &target.to_string(), "--host", HOST, "--path", &format!("/{size}")]);
    command.args(["--connections", CONNECTIONS, "--seconds", SECONDS]);
    if let Some(rate) = rate {
        command.args(["--rate", &rate.to_string()]);
    }
    let said = output(&mut command, "")?;
    serde_json::from_str(&said).with_context(|| format!("understand what was seen: {said}"))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
