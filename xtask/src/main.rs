//! Development tasks: `cargo xtask check|test|vm|sim|fuzz|bench|schemathesis|pictures|dist|demo`. Each is one command that a newcomer can run on a
//! fresh Debian 12 with a Rust toolchain.

mod bench;
mod check;
mod demo;
mod layers;
mod packages;
mod pictures;
mod run;
mod schemathesis;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of Insula's developers.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Format, lints, licences, import direction, docs, unit tests
    Check {
        /// Only what needs no compiler: format, import direction, licences
        #[arg(long)]
        quick: bool,
    },
    /// The simulation, all tests, then those of the virtual machine
    Test,
    /// Tests of containers in an emulated machine with cgroup v2 alone, and over a power cut of it
    Vm(vm::VmArgs),
    /// A whole region, simulated, from each of N seeds
    Sim {
        /// Plant a bug, which the seeds must catch
        #[arg(long, value_enum)]
        planted: Option<test::Bug>,
        /// What to pass on: `--seeds N --first S`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// An app on three real nodes outlives the power cut of one of them
    Demo(demo::DemoArgs),
    /// Change well-formed input at random, and look for panics in what reads it
    Fuzz {
        /// What to pass on: TARGET --minutes N; `--help` lists the targets
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure and compare
    Bench {
        /// What to measure
        #[arg(value_enum)]
        what: bench::What,
        /// What to pass on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The API held against its own description by requests that are made up; from PyPI, so it needs the network
    Schemathesis(schemathesis::SchemathesisArgs),
    /// What people see: each command in a terminal, over a lab, as text below target/pictures
    Pictures(pictures::PicturesArgs),
    /// The program as it is shipped, with its size
    Dist,
}

fn main() -> ExitCode {
    run::leave_interrupts_to_children();
    let done = match Arguments::parse().task {
        Task::Check { quick: true } => check::quick(),
        Task::Check { quick: false } => check::run_with_tests(),
        Task::Test => test::run_all(),
        Task::Vm(arguments) => vm::run(&arguments),
        Task::Sim { planted: None, arguments } => test::simulate(&arguments),
        Task::Sim { planted: Some(bug), arguments } => test::simulate_planted(bug, &arguments),
        Task::Fuzz { arguments } => test::fuzz(&arguments),
        Task::Demo(arguments) => demo::demo(&arguments),
        Task::Bench { what, arguments } => bench::run(what, &arguments),
        Task::Schemathesis(arguments) => schemathesis::schemathesis(&arguments),
        Task::Pictures(arguments) => pictures::pictures(&arguments),
        Task::Dist => run::dist(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
