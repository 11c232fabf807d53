//! `sim`: runs many seeds, and says which fail and how to see one of them again.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use clap::Parser;
use insula_sim::{Options, Outcome, run};

/// Simulates whole regions from seeds.
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Runs at the same time; 0: as many as there are processors.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Prints what happens; meant for one seed.
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options { is_verbose: arguments.verbose, ..Options::default() };
    let jobs = match arguments.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    };
    let next = AtomicU64::new(arguments.first);
    let end = arguments.first.saturating_add(arguments.seeds);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = run(seed, options);
                    report(&outcome);
                    outcomes.lock().expect("no reporter panics").push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no reporter panics");
    outcomes.sort_by_key(|outcome| outcome.seed);
    summarize(&outcomes)
}

fn report(outcome: &Outcome) {
    if outcome.violations.is_empty() {
        return;
    }
    println!("seed {} FAILED", outcome.seed);
    for violation in &outcome.violations {
        println!("    {violation}");
    }
    println!("    again: cargo xtask sim --seeds 1 --first {} --verbose", outcome.seed);
}

fn summarize(outcomes: &[Outcome]) -> ExitCode {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, count) in outcomes.iter().flat_map(|outcome| &outcome.counts) {
        *counts.entry(what).or_default() += count;
    }
    let virtual_time: f64 = outcomes.iter().map(|outcome| outcome.virtual_time.as_secs_f64()).sum();
    let failed = outcomes.iter().filter(|outcome| !outcome.violations.is_empty()).count();
    let trace = outcomes.iter().fold(0_u64, |all, outcome| all.rotate_left(7) ^ outcome.trace);
    for (what, count) in counts {
        println!("{count:>9} {what}");
    }
    println!("{virtual_time:>9.0} seconds inside");
    println!("{} seeds, {failed} failed, trace {trace:016x}", outcomes.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
