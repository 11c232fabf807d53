//! `insula-bench load`: steady HTTP load. A line of JSON for each request on standard output as it ends, the summary on
//! standard error. Ends by itself after `--duration`, or when its standard input is closed with `--until-eof`.
//!
//! `insula-bench story`, `insula-bench budgets`: what `cargo xtask demo` and `cargo xtask bench` run.

use std::{
    io::{Write, stdout},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use insula_bench::{
    Connections, Kind, Load, Summary, budgets, histories,
    interrupt::Interrupt,
    lab::Programs,
    load, page, starts,
    story::{self, Story, Telling},
    visible::Node,
    wire,
    writes::{self, Insula, Store},
};
use insula_env::{Clock, TaskGroup};
use insula_types::{AppName, ServiceName, ServiceRef};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

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
    /// Tell a story on a running Insula, under traffic
    Story {
        /// Which
        #[arg(value_enum)]
        story: Story,
        #[command(flatten)]
        telling: Telling,
    },
    /// Measure the budgets of the architecture, as root, in a lab
    Budgets(budgets::Choice),
    /// Write to Insula's API (as INSULA_CONTEXT names it) or to etcd; a line of JSON for each write
    Writes(WritesArguments),
    /// See when a node (as INSULA_CONTEXT names the cluster) shows a service's scale; a line of JSON for each change
    Visible(VisibleArguments),
    /// Start containers of an image, by Insula's runtime, by runc and by podman; a line of JSON
    Starts {
        /// The image, by digest, in a registry without TLS
        #[arg(long)]
        image: String,
        /// How many, one after the other
        #[arg(long, default_value_t = 100)]
        count: u64,
        /// How many at once
        #[arg(long, default_value_t = 40)]
        at_once: u64,
    },
    /// Start many containers of an image on one node; a line of JSON
    Many {
        /// The image, by digest, in a registry without TLS
        #[arg(long)]
        image: String,
        /// How many
        #[arg(long, default_value_t = 300)]
        count: u64,
    },
    /// Histories of real processes under faults, as root, in a lab
    Histories(histories::Options),
    /// The clients of the histories (as INSULA_CONTEXT names the region); a line of JSON for all that they see
    Clients(ClientsArguments),
    /// Serve the page of the demo on $PORT, as an instance without a container
    Page,
    /// Serve bodies of /N bytes on $PORT, as an instance without a container
    Origin {
        /// Another address to serve on
        #[arg(long)]
        also: Option<SocketAddr>,
    },
    /// Ask the same again and again; a line of JSON
    Wire(WireArguments),
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
    /// What is done
    #[arg(long, value_enum, default_value = "get")]
    kind: Kind,
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("insula-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Story { story, telling } => {
            let interrupt = Interrupt::hold_back()?;
            story::tell(story, &Programs::beside_this()?, &telling, &interrupt)
        }
        Verb::Budgets(choice) => {
            print!("{}", budgets::measure(&Programs::beside_this()?, &choice)?);
            Ok(())
        }
        Verb::Histories(options) => {
            let interrupt = Interrupt::hold_back()?;
            histories::run(&Programs::beside_this()?, &options, &interrupt)
        }
        Verb::Clients(arguments) => in_runtime(run_clients(arguments)),
        Verb::Writes(arguments) => in_runtime(make_writes(arguments)),
        Verb::Visible(arguments) => in_runtime(see(arguments)),
        Verb::Starts { image, count, at_once } => in_own_mounts(async |dir| {
            let plan = starts::Plan { count, at_once };
            let ours = starts::measure(&image, &dir.join("insula"), plan).await?;
            let runc = starts::measure_runc(&dir.join("runc"), plan).await?;
            Ok([ours, runc, starts::measure_podman(&image, &dir.join("podman"), plan).await?])
        }),
        Verb::Many { image, count } => in_own_mounts(async |dir| starts::many::measure(&image, &dir, count).await),
        Verb::Load(arguments) => in_runtime(make_load(arguments)),
        Verb::Origin { also } => in_runtime(async {
            let own = SocketAddr::from(([0, 0, 0, 0], page::port()?));
            let addresses: Vec<_> = std::iter::once(own).chain(also).collect();
            wire::serve(&addresses, &TaskGroup::new("origin")).await
        }),
        Verb::Wire(arguments) => in_runtime(make_wire(arguments)),
        Verb::Page => in_runtime(async { page::serve(&TaskGroup::new("page")).await }),
    }
}

/// Measures with mounts and a directory that nobody else has, and says what came out.
fn in_own_mounts<T: serde::Serialize>(work: impl AsyncFnOnce(PathBuf) -> anyhow::Result<T>) -> anyhow::Result<()> {
    starts::hide_mounts()?;
    let dir = std::env::temp_dir().join(format!("insula-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let measured = in_runtime(work(dir.clone()));
    std::fs::remove_dir_all(&dir)?;
    println!("{}", serde_json::to_string(&measured?)?);
    Ok(())
}

fn in_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Runtime::new()?.block_on(work)
}

#[derive(Args)]
struct WireArguments {
    /// Where to ask, ADDRESS:PORT
    #[arg(long)]
    target: SocketAddr,
    /// Host to ask for
    #[arg(long)]
    host: String,
    /// Path to ask for
    #[arg(long, default_value = "/")]
    path: String,
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Requests in a second; as many as are answered without
    #[arg(long)]
    rate: Option<f64>,
}

async fn make_wire(arguments: WireArguments) -> anyhow::Result<()> {
    let WireArguments { target, host, path, connections, seconds, rate } = arguments;
    anyhow::ensure!(rate.is_none_or(|rate| rate > 0.0), "the rate must be a positive number");
    let duration = Duration::try_from_secs_f64(seconds)?;
    let plan = wire::Plan { target, host, path, connections, duration, rate };
    println!("{}", serde_json::to_string(&wire::ask(plan, &TaskGroup::new("wire")).await?)?);
    Ok(())
}

#[derive(Args)]
struct WritesArguments {
    /// Where to write, ADDRESS:PORT; may be given several times
    #[arg(long = "target", required = true)]
    targets: Vec<SocketAddr>,
    /// A context of Insula; without one it is etcd
    #[arg(long, env = "INSULA_CONTEXT", hide_env_values = true)]
    context: Option<String>,
    /// Clients per target
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Seconds during which writes are started
    #[arg(long, default_value_t = 5.0, conflicts_with = "until_eof")]
    duration: f64,
    /// Write until standard input ends
    #[arg(long)]
    until_eof: bool,
    /// Milliseconds between two writes of a client
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Read, linearizably, instead
    #[arg(long)]
    reads: bool,
}

async fn make_writes(arguments: WritesArguments) -> anyhow::Result<()> {
    let store = match &arguments.context {
        Some(context) => Store::Insula(Insula::new(context)?),
        None => Store::Etcd,
    };
    let plan = writes::Plan {
        targets: arguments.targets,
        clients: arguments.clients,
        duration: if arguments.until_eof { None } else { Some(Duration::try_from_secs_f64(arguments.duration)?) },
        pause: Duration::from_millis(arguments.pause_ms),
        reads: arguments.reads,
    };
    let mut made = writes::start(&store, &plan, &TaskGroup::new("bench"));
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 256];
    loop {
        tokio::select! {
            write = made.recv() => {
                let Some(write) = write else { break };
                // When nobody listens any more there is no use in going on.
                if writeln!(stdout(), "{}", serde_json::to_string(&write)?).is_err() {
                    break;
                }
            }
            read = stdin.read(&mut ignored), if arguments.until_eof => {
                if !matches!(read, Ok(1..)) {
                    break;
                }
            }
        }
    }
    // A read of standard input that has not ended would keep the runtime waiting.
    std::process::exit(0)
}

#[derive(Args)]
struct VisibleArguments {
    /// The API of the node, ADDRESS:PORT
    #[arg(long)]
    target: SocketAddr,
    /// The cluster
    #[arg(long, env = "INSULA_CONTEXT", hide_env_values = true)]
    context: String,
    /// The app
    #[arg(long)]
    app: AppName,
    /// Its service
    #[arg(long)]
    service: ServiceName,
    /// Set the scale to each number of standard input, instead, and say when it was confirmed
    #[arg(long)]
    set: bool,
}

async fn see(arguments: VisibleArguments) -> anyhow::Result<()> {
    let VisibleArguments { target, context, app, service, set } = arguments;
    let service = ServiceRef { app, service };
    let mut node = Node::connect(&context, target, service, &TaskGroup::new("visible")).await?;
    // When nobody listens any more there is no use in going on.
    let say = |sight| serde_json::to_string(&sight).is_ok_and(|line| writeln!(stdout(), "{line}").is_ok());
    if !set {
        return node.watch(say).await;
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        say(node.set(line.trim().parse()?).await?);
    }
    Ok(())
}

#[derive(Args)]
struct ClientsArguments {
    /// The API of each node, ADDRESS:PORT
    #[arg(long = "target", required = true)]
    targets: Vec<SocketAddr>,
    /// The region
    #[arg(long, env = "INSULA_CONTEXT", hide_env_values = true)]
    context: String,
    /// Draws what the clients do
    #[arg(long)]
    seed: u64,
    /// Milliseconds between two operations of a client, on average
    #[arg(long, default_value_t = 40)]
    pause_ms: u64,
}

async fn run_clients(arguments: ClientsArguments) -> anyhow::Result<()> {
    let ClientsArguments { targets, context, seed, pause_ms } = arguments;
    let (pause, tasks) = (Duration::from_millis(pause_ms), TaskGroup::new("clients"));
    let (mut records, end) = histories::clients::start(&context, &targets, seed, pause, &tasks)?;
    let mut stdin = tokio::io::stdin();
    let (mut ignored, mut is_ending) = ([0; 256], false);
    loop {
        tokio::select! {
            record = records.recv() => {
                let Some(record) = record else { break };
                // When nobody listens any more there is no use in going on.
                if writeln!(stdout(), "{}", serde_json::to_string(&record)?).is_err() {
                    break;
                }
            }
            read = stdin.read(&mut ignored), if !is_ending => {
                if !matches!(read, Ok(1..)) {
                    is_ending = true;
                    end.send(true).ok();
                }
            }
        }
    }
    // A read of standard input that has not ended would keep the runtime waiting.
    std::process::exit(0)
}

async fn make_load(arguments: LoadArguments) -> anyhow::Result<()> {
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
        kind: arguments.kind,
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
