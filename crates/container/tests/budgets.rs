//! Budgets that a real machine shows: the start of a container whose image is present, and the memory of its shim.
//! Prints what it measured (`cargo test -p insula-container --test budgets -- --nocapture`); fails on memory beyond its
//! budget, and on time only far beyond it, since tests share the machine.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{fs, time::Duration};

use insula_container::Runtime;
use support::{container, image::busybox, with_root};

/// Proportional set size of a shim, in kB, with so many of them on a node.
const SHIM_PSS_KB_MAX: u64 = 1024;
const SHIMS: u64 = 10;
/// Starts that are measured one after the other, and what the middle one may take on an idle machine.
const STARTS: u64 = 20;
const START_MAX: Duration = Duration::from_millis(25);

#[test]
fn starts_and_shims_keep_to_their_budgets() {
    with_root("budgets", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let clock = insula_env::Clock::real();
        let mut times = Vec::new();
        for number in 1..=STARTS {
            let config = container(number, &image, &["sleep", "1000"]);
            let begin = clock.now();
            agent.runtime.start(&config).await.unwrap();
            times.push(begin.elapsed());
            if number <= STARTS - SHIMS {
                agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
                agent.runtime.remove(config.instance).await.unwrap();
            }
        }
        let mut pss = Vec::new();
        for number in STARTS - SHIMS + 1..=STARTS {
            let pid = world.shim_pid(container(number, &image, &[]).instance).unwrap();
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
            pss.push(line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap());
        }
        times.sort();
        pss.sort_unstable();
        let (middle, most) = (times[times.len() / 2], pss[pss.len() - 1]);
        println!(
            "container start, image present: p50 {middle:?}, max {:?}; budget {START_MAX:?}",
            times[times.len() - 1]
        );
        println!(
            "shim with {SHIMS} running: PSS p50 {} kB, max {most} kB; budget {SHIM_PSS_KB_MAX} kB",
            pss[pss.len() / 2]
        );
        assert!(most <= SHIM_PSS_KB_MAX);
        assert!(middle <= START_MAX * 20);
        agent.crash();
    });
}
