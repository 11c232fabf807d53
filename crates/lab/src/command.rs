//! The commands `insula lab …`, for the command line to mount.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use insula_types::ByteSize;
use nix::sys::signal::Signal;

use crate::{
    Error, Lab, LabConfig, LinkShape, RegionShape, Target, cluster,
    config::{SERVICES, dir_of},
    error::Attempt,
    image,
    links::RoundTrip,
    services,
};

/// A world on one machine.
#[derive(Debug, Args)]
pub struct LabCommand {
    /// Name of the lab
    #[arg(long, global = true, default_value = "lab", env = "INSULA_LAB")]
    name: String,
    /// Its directory [default: /var/lib/insula-lab/NAME]
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a lab and form its regions
    Up {
        /// Regions and their nodes: fra:3 (over two data centres) or fra:2+1
        #[arg(long, default_value = "fra:3", value_delimiter = ',')]
        regions: Vec<RegionShape>,
        /// Round-trip times between regions, like fra-was=90ms; may be repeated
        #[arg(long, value_delimiter = ',', value_name = "A-B=TIME")]
        rtt: Vec<RoundTrip>,
        /// The program to give the nodes [default: this one]
        #[arg(long)]
        program: Option<PathBuf>,
        /// Leave the nodes without configuration
        #[arg(long)]
        bare: bool,
        /// Leave the nodes of these regions without configuration; `form` makes them one later
        #[arg(long, value_delimiter = ',', value_name = "REGION", conflicts_with = "bare")]
        leave: Vec<String>,
        /// How long certificates live, as `insula init` takes it
        #[arg(long, value_name = "node=SPAN,…", conflicts_with = "bare")]
        certificates: Option<String>,
    },
    /// Form a region that was left out
    Form {
        /// Which
        region: String,
        /// How long certificates live, as `insula join` takes it
        #[arg(long, value_name = "node=SPAN,…")]
        certificates: Option<String>,
    },
    /// Remove a lab and everything it made, also after a crash
    Down,
    /// Show nodes, their power and processes
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Send a signal to a node's processes; links stay up, peers get resets
    Kill {
        /// Which node
        node: String,
        /// Which of its processes
        #[arg(long, value_enum, default_value = "all")]
        process: Target,
        /// Which signal: KILL, TERM, STOP, CONT …
        #[arg(long, default_value = "KILL", value_parser = parse_signal)]
        signal: Signal,
    },
    /// Cut the power of nodes: unsynced writes lost, links down, everything ends; silence
    Poweroff {
        /// Which nodes; several fall silent together
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Start a node that was powered off or killed
    Poweron {
        /// Which node
        node: String,
    },
    /// Stop a node's processes where they are
    Pause {
        /// Which node
        node: String,
    },
    /// Let a paused node go on
    Resume {
        /// Which node
        node: String,
    },
    /// Stop a node's server and keep it stopped, as its service manager would
    Stop {
        /// Which node
        node: String,
    },
    /// Let a stopped server run again
    Start {
        /// Which node
        node: String,
    },
    /// Drop packets between nodes, data centres or regions, silently
    Cut {
        /// From
        a: String,
        /// To
        b: String,
        /// Only packets from A to B
        #[arg(long)]
        one_way: bool,
    },
    /// Undo cuts, all of them when none are named
    Heal {
        /// One side
        #[arg(requires = "b")]
        a: Option<String>,
        /// The other
        b: Option<String>,
    },
    /// Run a command in a node, or in the network of the services
    Exec {
        /// A node, or "services"
        place: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Push an image to the lab's registry and print its reference: a tiny one that is made (a page that names its
    /// instance), or one of an archive
    Image {
        /// Name in the registry
        #[arg(default_value = "tiny")]
        image: String,
        /// Tag, and the version that the page shows
        #[arg(long, default_value = "v1")]
        tag: String,
        /// The version that the page shows, where that is another: so the tag comes to stand for something else
        #[arg(long, conflicts_with = "layer")]
        page: Option<String>,
        /// Bytes that the tiny one carries besides, like 40MiB: they cannot be compressed
        #[arg(long, value_name = "SIZE", conflicts_with = "layer")]
        ballast: Option<ByteSize>,
        /// Its one layer: a .tar.gz of a root directory
        #[arg(long, value_name = "FILE", requires = "config")]
        layer: Option<PathBuf>,
        /// What the image says about running it: the `config` of an OCI image configuration
        #[arg(long, value_name = "JSON", requires = "layer", value_parser = parse_object)]
        config: Option<serde_json::Value>,
    },
    /// Stop the image registry, or start it again with the images that it had
    Registry {
        /// Which
        #[arg(value_enum)]
        power: RegistryPower,
    },
    /// Shape the link between two regions, or of one with the "services": what is not named stays as it is
    Link {
        /// One region
        a: String,
        /// The other
        b: String,
        #[command(flatten)]
        shape: LinkShape,
        /// Only what goes from A to B
        #[arg(long)]
        one_way: bool,
    },
    /// Fill, stall, wipe or mend the disks of nodes
    Disk(DiskFault),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RegistryPower {
    Off,
    On,
}

#[derive(Debug, Args)]
struct DiskFault {
    /// Which nodes; several stall together
    #[arg(required = true)]
    nodes: Vec<String>,
    #[command(flatten)]
    fault: WhichFault,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct WhichFault {
    /// Take every free block, until --mend
    #[arg(long)]
    full: bool,
    /// Let writes and syncs wait, for so long (like 5s) or until --mend
    #[arg(long, value_name = "TIME", num_args = 0..=1, value_parser = insula_types::definition::parse_duration)]
    stall: Option<Option<Duration>>,
    /// Undo --full and --stall
    #[arg(long)]
    mend: bool,
    /// Empty the disk of a node that is off: another machine comes back
    #[arg(long)]
    wipe: bool,
    /// Slow it down to so many bytes per second (not yet)
    #[arg(long, hide = true)]
    bps: Option<String>,
}

impl DiskFault {
    fn run(&self, lab: &Lab) -> Result<(), Error> {
        let nodes: Vec<&str> = self.nodes.iter().map(String::as_str).collect();
        let each = |act: &dyn Fn(&str) -> Result<(), Error>| nodes.iter().try_for_each(|node| act(node));
        match self.fault {
            WhichFault { full: true, .. } => each(&|node| lab.fill_disk(node)),
            WhichFault { wipe: true, .. } => each(&|node| lab.wipe_disk(node)),
            WhichFault { stall: Some(None), .. } => lab.stall_disks(&nodes),
            WhichFault { stall: Some(Some(time)), .. } => {
                lab.stall_disks(&nodes)?;
                std::thread::sleep(time);
                // A node that was killed meanwhile has no stall any more.
                each(&|node| if lab.is_stalled(node)? { lab.mend_disk(node) } else { Ok(()) })
            }
            WhichFault { bps: Some(_), .. } => Err(Error::NotYet("disks with a rate (--bps)")),
            WhichFault { .. } => each(&|node| lab.mend_disk(node)),
        }
    }
}

fn parse_signal(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse().map_err(|_| format!("{text:?} is no signal: write KILL, TERM, STOP …"))
}

fn parse_object(text: &str) -> Result<serde_json::Value, String> {
    match serde_json::from_str(text) {
        Ok(object @ serde_json::Value::Object(_)) => Ok(object),
        Ok(_) => Err("it is no object: write it like {\"Cmd\": [\"nginx\"]}".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl LabCommand {
    /// Does it, writing what there is to say to standard output. Blocks.
    ///
    /// # Errors
    /// As the lab says.
    pub fn run(self) -> Result<(), Error> {
        let dir = self.dir.unwrap_or_else(|| dir_of(&self.name));
        let open = || Lab::open(&dir);
        match self.verb {
            Verb::Up { regions, rtt, program, bare, leave, certificates } => {
                let own = || std::env::current_exe().attempt(|| "find this program".to_owned());
                let program = program.map_or_else(own, Ok)?;
                let config = LabConfig { name: self.name.clone(), regions, program, dir: dir.clone() };
                up(&config, &rtt, (!bare).then_some(&leave), certificates.as_deref())
            }
            Verb::Form { region, certificates } => cluster::form_region(&open()?, &region, certificates.as_deref()),
            Verb::Down => {
                let is_found = Lab::down(&self.name, &dir)?;
                say(&format!("lab {} {}", self.name, if is_found { "is gone" } else { "is not there" }))
            }
            Verb::Status { json } => status(&open()?, json),
            Verb::Kill { node, process, signal } => open()?.kill(&node, process, signal),
            Verb::Poweroff { nodes } => {
                let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
                let since_ms = open()?.power_off(&nodes)?;
                say(&format!("{} silent since {since_ms} ms", nodes.join(" ")))
            }
            Verb::Poweron { node } => open()?.power_on(&node),
            Verb::Pause { node } => open()?.pause(&node),
            Verb::Resume { node } => open()?.resume(&node),
            Verb::Stop { node } => open()?.stop_server(&node),
            Verb::Start { node } => open()?.start_server(&node),
            Verb::Cut { a, b, one_way } => open()?.cut(&a, &b, one_way),
            Verb::Heal { a, b } => open()?.heal(a.as_deref().zip(b.as_deref())),
            Verb::Exec { place, command } => {
                let (program, arguments) =
                    command.split_first().ok_or_else(|| Error::Invalid("no command was given".to_owned()))?;
                Err(open()?.exec(&place, program, arguments))
            }
            Verb::Image { image, tag, page, ballast, layer, config } => {
                let made = match layer.zip(config) {
                    Some((layer, config)) => image::of_archive(&layer, &config)?,
                    None => image::tiny(page.as_ref().unwrap_or(&tag), ballast.map_or(0, |size| size.0 as usize))?,
                };
                say(&image::push(&open()?, &made, &image, &tag)?)
            }
            Verb::Registry { power: RegistryPower::Off } => open()?.stop_registry(),
            Verb::Registry { power: RegistryPower::On } => open()?.start_registry(),
            Verb::Link { a, b, shape, one_way } => open()?.link(&a, &b, shape, one_way),
            Verb::Disk(fault) => fault.run(&open()?),
        }
    }
}

/// Makes a lab, with round-trip times between its regions; forms these but for those `left`, or none of them.
fn up(
    config: &LabConfig,
    rtt: &[RoundTrip],
    left: Option<&Vec<String>>,
    certificates: Option<&str>,
) -> Result<(), Error> {
    let regions: Vec<&str> = config.regions.iter().map(|region| region.name.as_str()).collect();
    let links: Vec<_> = rtt.iter().map(|rtt| rtt.between(&regions)).collect::<Result<_, _>>()?;
    let lab = Lab::up(config)?;
    for (a, b, rtt) in links {
        lab.link(a, b, LinkShape { rtt: Some(rtt), ..LinkShape::default() }, false)?;
    }
    if let Some(left) = left {
        cluster::form(&lab, certificates, left)?;
    }
    status(&lab, false)?;
    say(&format!(
        "registry {}; enter with `insula lab exec n1 -- sh`, clients with `insula lab exec {SERVICES} -- curl …`",
        services::registry()
    ))
}

fn status(lab: &Lab, json: bool) -> Result<(), Error> {
    let nodes = lab.status()?;
    if json {
        return say(&serde_json::to_string_pretty(&nodes).attempt(|| "write JSON".to_owned())?);
    }
    say(&format!(
        "{:<6} {:<10} {:<14} {:<7} {:>8} {:>10}",
        "NODE", "DATACENTER", "ADDRESS", "POWER", "SERVER", "DATAPLANE"
    ))?;
    let number = |pid: Option<i32>| pid.map_or("-".to_owned(), |pid| pid.to_string());
    for node in nodes {
        let (plan, server, dataplane) = (&node.plan, number(node.server), number(node.dataplane));
        let address = plan.address.to_string();
        say(&format!(
            "{:<6} {:<10} {address:<14} {:<7} {server:>8} {dataplane:>10}",
            plan.name, plan.datacenter, node.power
        ))?;
    }
    Ok(())
}

fn say(line: &str) -> Result<(), Error> {
    writeln!(io::stdout(), "{line}").attempt(|| "write to standard output".to_owned())
}
