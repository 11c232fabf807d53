//! `cargo xtask fuzz TARGET --minutes N`: changes well-formed bytes at random and gives them to what reads them. A panic,
//! a value that does not survive its own writing, or a read that takes seconds is a finding; its bytes are kept in
//! `fuzz/corpus/TARGET`, from where every later run takes them first.
//!
//! No coverage guides it, which would need a nightly compiler and libfuzzer: the seeds are values of every shape instead. Where
//! a reader says what became of an input, what has not become of any before makes it a seed, too; how often each did is told
//! at the end.

mod definitions;
mod http;
mod json;
mod mutate;
mod outcomes;
mod tape;
mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use insula_env::{Clock, Rng};
use rustix::time::{ClockId, clock_gettime};

use crate::{outcomes::Outcomes, targets::Target};

/// A read of some kilobytes that takes longer, in processor time, is a finding.
const SLOW: Duration = Duration::from_secs(2);
/// Between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Seeds of a run, at most.
const SEEDS_MAX: usize = 5000;
/// Inputs between two looks at the clock.
const ROUND: usize = 256;

/// Looks for inputs that panic
#[derive(Debug, Parser)]
struct Arguments {
    /// What to give them to
    #[arg(value_enum)]
    target: Target,
    /// How long
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Where the randomness begins [default: anywhere]
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("insula-fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(arguments.target.name());
    let seed = arguments.seed.unwrap_or_else(|| Rng::from_os().next());
    println!("{}: seed {seed}, {} minutes", arguments.target.name(), arguments.minutes);
    let mut reader = arguments.target.reader()?;
    let known = read_corpus(&corpus)?;
    let clock = Clock::real();
    let (begun, rng) = (clock.now(), Rng::from_seed(seed));
    let mut count: u64 = 0;
    let mut try_one = |input: &[u8]| -> Result<String> {
        let before = processor_time();
        let outcome = catch_unwind(AssertUnwindSafe(|| (reader.read)(input)));
        let why = match outcome {
            Ok(Ok(became)) if processor_time() - before < SLOW => return Ok(became),
            Ok(Ok(_)) => format!("it took {:?} of processor time", processor_time() - before),
            Ok(Err(why)) => why,
            Err(_) => "it panicked, see above".to_owned(),
        };
        let path = keep(&corpus, input)?;
        bail!("a finding: {why}; the input is in {}", path.display())
    };
    let mut outcomes = Outcomes::default();
    for input in reader.seeds.iter().chain(&known) {
        outcomes.is_new(&try_one(input).context("an input of the corpus, unchanged")?);
    }
    let mut seeds: Vec<Vec<u8>> = reader.seeds.iter().chain(&known).cloned().collect();
    println!("   {} seeds, of which became {} things", seeds.len(), outcomes.count());
    let (end, mut told) = (Duration::from_secs(arguments.minutes * 60), Duration::ZERO);
    while begun.elapsed() < end {
        for _ in 0..ROUND {
            let input = (reader.change)(&seeds, &rng);
            if outcomes.is_new(&try_one(&input)?) && seeds.len() < SEEDS_MAX {
                seeds.push(input);
            }
        }
        count += ROUND as u64;
        if begun.elapsed() >= told + TELL_EVERY {
            told = begun.elapsed();
            println!("   {:>3} s  {count} inputs, {} outcomes", told.as_secs(), outcomes.count());
        }
    }
    print!("{outcomes}");
    println!("{}: {count} inputs, no finding", arguments.target.name());
    Ok(())
}

/// What this thread has used: the machine may have others to serve.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

fn read_corpus(dir: &Path) -> Result<Vec<Vec<u8>>> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).with_context(|| format!("read {}", path.display()))).collect()
}

fn keep(dir: &Path, input: &[u8]) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let number = fs::read_dir(dir).map_or(0, Iterator::count);
    let path = dir.join(format!("finding-{number}"));
    fs::write(&path, input).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
