//! `insula-bench load`: steady HTTP load. A line of JSON for each request on standard output as it ends, the summary on
//! standard error. Ends by itself after `--duration`, or when its standard input is closed with `--until-eof`.

use std::{
    io::{Write, stdout},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use insula_bench::{Connections, Load, Summary, budgets, load, page};
use insula_env::{Clock, TaskGroup};
use tokio::io::AsyncReadExt;

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Send steady HTTP load
    Load(LoadArguments),
    /// Measure the budgets of the architecture, as root, in a lab
    Budgets {
        /// The program, built for release
        #[arg(long)]
        program: PathBuf,
    },
    /// Serve the page of the demo on $PORT, as an instance without a container
    Page,
}

#[derive(Args)]
struct LoadArguments {
    /// Edge to send requests to, ADDRESS:PORT; may be given several times
    #[arg(long = "target", required = true)]
    targets: Vec<SocketAddr>,
    /// Host to ask for
    #[arg(long)]
    host: String,
    /// Path to ask for
    #[arg(long, default_value = "/")]
    path: String,
    /// Requests per second and target
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Seconds during which requests are started
    #[arg(long, conflicts_with = "until_eof")]
    duration: Option<f64>,
    /// Start requests until standard input ends
    #[arg(long)]
    until_eof: bool,
    /// Seconds that a request may take
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// Requests in flight per target at most
    #[arg(long, default_value_t = 1000)]
    in_flight_max: usize,
    /// How connections are used
    #[arg(long, value_enum, default_value = "new")]
    connections: Connections,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = match Arguments::parse().verb {
        Verb::Load(arguments) => arguments,
        Verb::Budgets { program } => {
            print!("{}", budgets::all(&program)?);
            return Ok(());
        }
        Verb::Page => return page::serve(&TaskGroup::new("page")).await,
    };
    let seconds = |value: f64| Duration::try_from_secs_f64(value).map_err(|error| anyhow::anyhow!("{value}: {error}"));
    let duration = match arguments.duration {
        None if arguments.until_eof => None,
        duration => Some(seconds(duration.unwrap_or(10.0))?),
    };
    let load = Load {
        targets: arguments.targets,
        host: arguments.host,
        path: arguments.path,
        rate: arguments.rate,
        duration,
        timeout: seconds(arguments.timeout)?,
        in_flight_max: arguments.in_flight_max,
        connections: arguments.connections,
    };
    let tasks = TaskGroup::new("bench");
    let mut running = load::start(load, &Clock::real(), &tasks)?;
    let mut summary = Summary::default();
    let mut stdin = tokio::io::stdin();
    let (mut ignored, mut is_ending) = ([0; 256], !arguments.until_eof);
    loop {
        tokio::select! {
            record = running.records.recv() => {
                let Some(record) = record else { break };
                summary.add(&record);
                // When nobody listens any more there is no use in going on.
                if writeln!(stdout(), "{}", serde_json::to_string(&record)?).is_err() {
                    return Ok(());
                }
            }
            read = stdin.read(&mut ignored), if !is_ending => {
                if !matches!(read, Ok(1..)) {
                    is_ending = true;
                    running.stop();
                }
            }
        }
    }
    for (target, counts) in summary.finish() {
        eprintln!("{target}: {counts}");
    }
    // A read of standard input that has not ended would keep the runtime waiting.
    std::process::exit(0)
}
