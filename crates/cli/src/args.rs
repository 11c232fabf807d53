//! What can be typed.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use insula_lab::command::LabCommand;
use insula_types::{
    AddressError, AppName, ByteSize, DatacenterName, InstanceId, LabelName, LabelValue, LabelValueError, NameError,
    NodeAddress, NodeName, RegionName, Scale, SecretName, ServiceName, ServiceRef, SnapshotName, TokenId, VolumeRef,
    definition::parse_duration,
};

use crate::ConnectArgs;

/// Insula: one highly available application platform out of a handful of servers
#[derive(Debug, Parser)]
#[command(name = "insula", version, arg_required_else_help = true, propagate_version = true)]
pub struct Cli {
    /// Which cluster.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node in the foreground, with nothing to set up
    Dev(DevArgs),
    /// Make this machine the first node of the first region
    Init(InitArgs),
    /// Make this machine a further node
    Join(JoinArgs),
    /// Run the node (what the service manager runs)
    Server(ServerArgs),
    /// Run the edge and mesh of the node (what the server runs)
    #[command(hide = true)]
    Dataplane(DataplaneArgs),
    /// Make, break and heal a world on this machine
    Lab(LabCommand),
    /// Be a part of a lab (what the lab runs)
    #[command(hide = true, subcommand)]
    LabInit(insula_lab::init::Role),
    /// Back up the replicated states, check a backup, restore one
    #[command(subcommand)]
    State(StateCommand),
    /// Everything that speaks to the API.
    #[command(flatten)]
    Api(ApiCommand),
}

/// `insula dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Where data is kept [default: ~/.local/share/insula/dev]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the edge listens
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub edge: SocketAddr,
    /// Where the API listens
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7480")]
    pub api: SocketAddr,
    /// Where the port between nodes listens
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7443")]
    pub node: SocketAddr,
}

/// `insula init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Name of the first region
    #[arg(long)]
    pub region: RegionName,
    /// Where this machine stands and what it is called.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// `insula join`.
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    /// The line that `insula token create` printed
    pub token: String,
    /// Where this machine stands and what it is called.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// A machine that becomes a node.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// Name of the data centre
    #[arg(long)]
    pub datacenter: DatacenterName,
    /// Where other nodes reach this machine; the port is 7443 unless given. May be repeated: datacenter=ADDR is for nodes
    /// of the same data centre, region=ADDR for those of the region
    #[arg(long, required = true, value_name = "[SCOPE=]ADDR[:PORT]", value_parser = parse_advertise)]
    pub advertise: Vec<NodeAddress>,
    /// Name of the node [default: the machine's host name]
    #[arg(long)]
    pub name: Option<NodeName>,
    /// Where data is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/insula")]
    pub data: PathBuf,
    /// The configuration to write
    #[arg(long, value_name = "FILE", default_value = "/etc/insula/insula.toml")]
    pub config: PathBuf,
    /// How long certificates live [default: node=72h,region=365d,root=3650d]
    #[arg(long, value_name = "node=SPAN,…")]
    pub certificates: Option<String>,
    /// What services may ask for in `placement`, like disk=ssd; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_label)]
    pub label: Vec<(LabelName, LabelValue)>,
    /// Write no systemd unit
    #[arg(long)]
    pub no_service: bool,
}

/// `insula server`.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/insula/insula.toml")]
    pub config: PathBuf,
}

/// `insula state`.
#[derive(Debug, Clone, Subcommand)]
pub enum StateCommand {
    /// Write the replicated states to a file, as the node has them; also without a quorum
    Backup(BackupArgs),
    /// Read a backup whole and say what is in it; needs no node
    Check(CheckArgs),
    /// Begin anew from a backup on this node, whose server is stopped
    Restore(RestoreArgs),
}

/// `insula state backup`.
#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// The file to write
    pub file: PathBuf,
    /// Which state
    #[arg(long, value_enum, default_value = "all")]
    pub state: StateArg,
}

/// Which replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StateArg {
    /// That of the node's region
    Region,
    /// That of the world
    Global,
    /// Both
    All,
}

/// `insula state check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The backup
    pub file: PathBuf,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `insula state restore`.
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// The backup
    pub file: PathBuf,
    /// The configuration of this node
    #[arg(long, value_name = "FILE", default_value = "/etc/insula/insula.toml")]
    pub config: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// `insula dataplane`.
#[derive(Debug, Clone, Args)]
pub struct DataplaneArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/insula/insula.toml")]
    pub config: PathBuf,
}

/// Port between nodes unless given.
const NODE_PORT: u16 = 7443;

fn parse_label(text: &str) -> Result<(LabelName, LabelValue), String> {
    let (name, value) = text.split_once('=').ok_or("expected a name and a value, like disk=ssd")?;
    let name: LabelName = name.parse().map_err(|error: NameError| error.to_string())?;
    if LabelName::OWN.contains(&name.as_str()) {
        return Err(format!("every node has the label {name} of itself"));
    }
    Ok((name, value.parse().map_err(|error: LabelValueError| error.to_string())?))
}

fn parse_advertise(text: &str) -> Result<NodeAddress, String> {
    let (scope, address) = text.split_once('=').map_or(("world", text), |(scope, address)| (scope, address));
    let at = parse_node_address(address)?;
    format!("{scope}={at}").parse().map_err(|error: AddressError| error.to_string())
}

fn parse_node_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .or_else(|_| text.trim_matches(['[', ']']).parse().map(|address| SocketAddr::new(address, NODE_PORT)))
        .map_err(|_| "expected an address, with or without port, like 192.0.2.7 or [2001:db8::7]:7443".to_owned())
}

/// Commands that speak to the API.
#[derive(Debug, Subcommand)]
pub enum ApiCommand {
    /// Make, list and end tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Look after the cluster's root and its regions' CAs
    #[command(subcommand)]
    Ca(CaCommand),
    /// Run an app as its definition says: shows what changes, then progress
    Deploy(DeployArgs),
    /// List apps
    Apps(JsonArgs),
    /// List instances
    Ps(PsArgs),
    /// Show how an app is, or this node and its groups
    Status(StatusArgs),
    /// Look whether this node is as it shall be, and say what to do; ends with 1 when something is bad
    Doctor(JsonArgs),
    /// Show what instances wrote
    Logs(LogArgs),
    /// Run a command inside a running instance; ends as the command does, and with 125 when that is not known
    Exec(ExecArgs),
    /// Run a command in an instance that is made for it, with image, environment, user, network and limits of a service, but
    /// without its volumes; ends as the command does, and with 125 when that is not known
    Run(RunArgs),
    /// Set the number of instances of a service per region
    Scale(ScaleArgs),
    /// List the releases of an app, and what became of them
    Releases(ReleasesArgs),
    /// Bring back an earlier release, as a whole: images, configuration and all services together. The scale stays
    Rollback(RollbackArgs),
    /// Let a deployment wait where it is
    Pause(SteerArgs),
    /// Let a deployment that waits go on
    Resume(SteerArgs),
    /// Let a release go on whose first instances were good
    Promote(SteerArgs),
    /// End a deployment; the release before comes back
    Abort(SteerArgs),
    /// Remove an app with all its releases
    Rm(RmArgs),
    /// Look at the images that nodes have, bring one without a registry, or remove one
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look at volumes, make them, copy them, or delete one with all that is in it
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Give the secrets of an app values, list them, or remove one
    #[command(subcommand)]
    Secrets(SecretCommand),
    /// List nodes
    Nodes(JsonArgs),
    /// Look at one node, or remove it
    #[command(subcommand)]
    Node(NodeCommand),
    /// Give a node no new instances
    Cordon(NodeKeyArgs),
    /// Give a node new instances again
    Uncordon(NodeKeyArgs),
    /// Move what runs on a node to others, without losing a request
    Drain(DrainArgs),
    /// List regions
    Regions(JsonArgs),
    /// Say what would become of what runs on a node or in a data centre, were it lost; ends with 1 when something would be short
    Plan(PlanArgs),
    /// Show what happened
    Events(EventArgs),
    /// Say why something is as it is
    #[command(subcommand)]
    Explain(ExplainCommand),
}

#[derive(Debug, Args)]
pub struct ReleasesArgs {
    /// The app
    pub app: AppName,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The app
    pub app: AppName,
    /// The release to bring back [default: the last good one before the present]
    #[arg(long)]
    pub to: Option<u64>,
    /// Only show what would change
    #[arg(long)]
    pub plan: bool,
    /// Do not wait until it is back
    #[arg(long, conflicts_with = "plan")]
    pub detach: bool,
    /// How long to wait until it is back
    #[arg(long, default_value = "5m", value_parser = parse_span, conflicts_with_all = ["detach", "plan"])]
    pub wait: Duration,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct SteerArgs {
    /// The app
    pub app: AppName,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Show roots, and which nodes trust them
    Status(JsonArgs),
    /// Let the root sign the region's CA anew
    RenewRegion(RecoveryArgs),
    /// Put a new root in place of the present one; prints a new recovery key
    ReplaceRoot(RecoveryArgs),
    /// Go on with a replacement that was cut off
    ActivateRoot(RootArgs),
    /// End the trust in the root that was replaced
    RetireRoot,
}

#[derive(Debug, Args)]
pub struct RecoveryArgs {
    /// A file with the recovery key
    #[arg(long, value_name = "FILE")]
    pub recovery_key_file: PathBuf,
}

#[derive(Debug, Args)]
pub struct RootArgs {
    /// The root, as `insula ca status` names it
    pub root: String,
}

/// How to answer.
#[derive(Debug, Clone, Copy, Args)]
pub struct JsonArgs {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Give a secret a value, from the standard input or a file; the next deploy lets instances have it
    Set(SecretSetArgs),
    /// List the secrets of an app: versions, when and by whom they were set, and never a value
    #[command(alias = "ls")]
    List(SecretListArgs),
    /// Remove a secret; one that a release needs which may have to run is refused
    Rm(SecretRmArgs),
}

#[derive(Debug, Args)]
pub struct SecretSetArgs {
    /// The app, which need not be there yet
    pub app: AppName,
    /// The secret, which is also the name of the environment variable, like DATABASE_URL
    pub name: SecretName,
    /// A file with the value, taken as it is [default: the standard input, without a line's end at its end]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct SecretListArgs {
    /// The app
    pub app: AppName,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct SecretRmArgs {
    /// The app
    pub app: AppName,
    /// The exact name of the secret
    pub name: SecretName,
}

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List volumes, where they are, and which instances have them
    Ls(JsonArgs),
    /// Set a volume aside on a node, before an instance needs it: the instance then goes there
    Create(VolumeCreateArgs),
    /// Make a volume larger, also while it is in use
    Resize(VolumeResizeArgs),
    /// Delete a volume with all that is in it; one that an instance has is refused
    Rm(VolumeRmArgs),
    /// Copy a volume on its own disk, list such copies, go back to one, or delete it. None is a backup elsewhere
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
}

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// List snapshots, and what they take of which disks
    Ls(SnapshotLsArgs),
    /// Copy a volume, also while it is in use: its instance cannot write meanwhile, for eight seconds at most
    Create(SnapshotCreateArgs),
    /// Give a volume back what it had; refused while an instance has it
    Restore(SnapshotRestoreArgs),
    /// Delete a snapshot
    Rm(SnapshotRmArgs),
}

#[derive(Debug, Args)]
pub struct SnapshotLsArgs {
    /// Only those of this volume, by its exact name
    pub volume: Option<VolumeRef>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct SnapshotCreateArgs {
    /// The exact name of the volume, as `insula volume ls` shows it
    pub volume: VolumeRef,
    /// What the snapshot is called, like before-upgrade [default: the time, like 20261122-211305]
    pub snapshot: Option<SnapshotName>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct SnapshotRestoreArgs {
    /// The exact name of the volume, as `insula volume ls` shows it
    pub volume: VolumeRef,
    /// The exact name of the snapshot, as `insula volume snapshot ls` shows it
    pub snapshot: SnapshotName,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct SnapshotRmArgs {
    /// The exact name of the volume, which may be there no more
    pub volume: VolumeRef,
    /// The exact name of the snapshot, as `insula volume snapshot ls` shows it
    pub snapshot: SnapshotName,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct VolumeCreateArgs {
    /// Its name, like shop/db/data.0: app, service, the volume in the definition, and which instance's
    pub volume: VolumeRef,
    /// Node that is to have it, by exact name or id
    #[arg(long)]
    pub node: String,
    /// Its size, like 5GiB
    #[arg(long)]
    pub size: ByteSize,
}

#[derive(Debug, Args)]
pub struct VolumeResizeArgs {
    /// Its exact name, as `insula volume ls` shows it
    pub volume: VolumeRef,
    /// Its new size, like 10GiB; never smaller than it is
    pub size: ByteSize,
}

#[derive(Debug, Args)]
pub struct VolumeRmArgs {
    /// Its exact name, as `insula volume ls` shows it
    pub volume: VolumeRef,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images, the nodes that have them, and the releases that need them
    Ls(JsonArgs),
    /// Bring an image to the cluster without a registry; prints the reference to write into a definition
    Import(ImageImportArgs),
    /// Remove an image from all nodes; one that may have to run is refused
    Rm(ImageRmArgs),
}

#[derive(Debug, Args)]
pub struct ImageImportArgs {
    /// What `docker save` wrote, an OCI image layout as a tar file or as a directory; - reads standard input
    pub file: String,
    /// What the image shall be called, like shop or registry.example/shop [default: as the archive says]
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct ImageRmArgs {
    /// Its exact reference, with digest, as `insula image ls` shows it
    pub image: String,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Print one line to paste: after `insula join`, or with --api into INSULA_CONTEXT
    Create(TokenArgs),
    /// List tokens: the API's, and those to join with
    List(JsonArgs),
    /// End a token at once
    Rm(TokenRmArgs),
}

#[derive(Debug, Args)]
pub struct TokenRmArgs {
    /// Its exact id
    pub id: TokenId,
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The region to join [default: that of the node that answers]
    #[arg(long, conflicts_with = "api")]
    pub region: Option<RegionName>,
    /// How long it is good for [default: 1h, 90 days with --api]
    #[arg(long, value_parser = parse_span)]
    pub ttl: Option<Duration>,
    /// How many machines may use it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "api")]
    pub uses: u32,
    /// Make a token for the API instead
    #[arg(long)]
    pub api: bool,
    /// What it allows
    #[arg(long, requires = "api", value_enum, default_value = "deployer")]
    pub role: RoleArg,
    /// Whose it is
    #[arg(long, requires = "api", default_value = "cli")]
    pub name: String,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum RoleArg {
    /// Read
    Viewer,
    /// Read, and change apps
    Deployer,
    /// Everything
    Admin,
}

#[derive(Debug, Args)]
pub struct DeployArgs {
    /// The definition in TOML or JSON; - reads standard input
    #[arg(default_value = "insula.toml")]
    pub file: String,
    /// Call the app so, whatever the definition says
    #[arg(long)]
    pub app: Option<AppName>,
    /// Only show what would change
    #[arg(long)]
    pub plan: bool,
    /// Do not wait until it runs
    #[arg(long, conflicts_with = "plan")]
    pub detach: bool,
    /// How long to wait until it runs
    #[arg(long, default_value = "5m", value_parser = parse_span, conflicts_with_all = ["detach", "plan"])]
    pub wait: Duration,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct PsArgs {
    /// Only of this app
    pub app: Option<AppName>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The app; without one, this node and its groups
    pub app: Option<AppName>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct LogArgs {
    /// Of all instances of an app, or of one service of it
    #[arg(value_name = "APP[/SERVICE]", value_parser = parse_source, required_unless_present = "instance")]
    pub source: Option<AppSource>,
    /// Of one instance
    #[arg(long, value_name = "ID", conflicts_with = "source")]
    pub instance: Option<InstanceId>,
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many lines of each instance
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub tail: Option<u32>,
}

/// An app, or one service of it.
#[derive(Debug, Clone)]
pub struct AppSource {
    pub app: AppName,
    pub service: Option<ServiceName>,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// What is lost: a node by its exact name or id, or a data centre
    #[arg(long, num_args = 2, value_names = ["node|datacenter", "NAME"], required = true)]
    pub if_lost: Vec<String>,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// The service
    #[arg(value_name = "APP/SERVICE", value_parser = parse_service)]
    pub service: ServiceRef,
    /// Instances per region: a number, or each-node for one on each node that the service asks for
    #[arg(value_name = "N|each-node")]
    pub scale: Scale,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// The app, by its exact name
    pub app: AppName,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Show one node
    Show(NodeArgs),
    /// Remove a node for ever
    Rm(NodeRmArgs),
    /// Let this node take over new addresses from its configuration, without a restart
    Reload(JsonArgs),
    /// Let this node look for another one of its region at an address, when all it knows are wrong
    Find(NodeFindArgs),
}

#[derive(Debug, Args)]
pub struct NodeFindArgs {
    /// Where the other node is now; the port is 7443 unless given
    #[arg(value_name = "ADDR[:PORT]", value_parser = parse_node_address)]
    pub address: SocketAddr,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct NodeKeyArgs {
    /// Exact id or exact name
    pub node: String,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Exact id or exact name
    pub node: String,
    /// How long to wait until nothing runs there
    #[arg(long, default_value = "5m", value_parser = parse_span)]
    pub wait: Duration,
    /// Do not wait
    #[arg(long, conflicts_with = "wait")]
    pub detach: bool,
    /// Do not ask when more than a third of the nodes will be out of use
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct NodeRmArgs {
    /// Exact id or exact name
    pub node: String,
    /// Also while it is up or instances are on it: they are started elsewhere, what only it had is lost
    #[arg(long)]
    pub force: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Exact id or exact name
    pub node: String,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct EventArgs {
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only after this revision, or after this event
    #[arg(long, value_name = "REVISION")]
    pub since: Option<insula_api::wire::EventCursor>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Subcommand)]
pub enum ExplainCommand {
    /// Why an instance is where it is, and how it is
    Instance(InstanceArgs),
}

#[derive(Debug, Args)]
pub struct InstanceArgs {
    /// Its id
    pub id: InstanceId,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Where a command runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecTarget {
    /// In this instance.
    Instance(InstanceId),
    /// In a ready instance of this service.
    Service(ServiceRef),
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Id of an instance, or a service, of which a ready instance is taken
    #[arg(value_name = "INSTANCE|APP/SERVICE", value_parser = parse_exec_target)]
    pub target: ExecTarget,
    #[command(flatten)]
    pub command: CommandArgs,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The service; as an app alone, its only one
    #[arg(value_name = "APP[/SERVICE]", value_parser = parse_source)]
    pub source: AppSource,
    #[command(flatten)]
    pub command: CommandArgs,
}

/// A command, and what it gets.
#[derive(Debug, Args)]
pub struct CommandArgs {
    /// Give it a terminal [default: when standard input and output are one]
    #[arg(short, long)]
    pub terminal: bool,
    /// Give it none
    #[arg(short = 'T', long, conflicts_with = "terminal")]
    pub no_terminal: bool,
    /// Pass on standard input, as with a terminal
    #[arg(short, long)]
    pub interactive: bool,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

fn parse_exec_target(text: &str) -> Result<ExecTarget, String> {
    if text.contains('/') {
        return parse_service(text).map(ExecTarget::Service);
    }
    let expected = "expected an instance, like i-00000001, or APP/SERVICE, like shop/web";
    text.parse().map(ExecTarget::Instance).map_err(|_| expected.to_owned())
}

fn parse_span(text: &str) -> Result<Duration, String> {
    // A day is no unit of a definition, but tokens live for days.
    let days =
        text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()).and_then(|days| days.checked_mul(86_400));
    match days {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => parse_duration(text).map_err(|error| error.to_string()),
    }
}

fn parse_service(text: &str) -> Result<ServiceRef, String> {
    let (app, service) = text.split_once('/').ok_or_else(|| "expected APP/SERVICE, like shop/web".to_owned())?;
    let app = AppName::new(app).map_err(|error| error.to_string())?;
    Ok(ServiceRef::new(app, ServiceName::new(service).map_err(|error| error.to_string())?))
}

fn parse_source(text: &str) -> Result<AppSource, String> {
    if text.contains('/') {
        let ServiceRef { app, service } = parse_service(text)?;
        return Ok(AppSource { app, service: Some(service) });
    }
    Ok(AppSource { app: AppName::new(text).map_err(|error| error.to_string())?, service: None })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses_may_leave_out_the_port() {
        for (text, address) in [
            ("192.0.2.7", "192.0.2.7:7443"),
            ("2001:db8::7", "[2001:db8::7]:7443"),
            ("[2001:db8::7]:1", "[2001:db8::7]:1"),
            ("region=192.0.2.7", "region=192.0.2.7:7443"),
            ("datacenter=[fd00::7]:1", "datacenter=[fd00::7]:1"),
        ] {
            assert_eq!(parse_advertise(text), Ok(address.parse().expect("address")));
        }
        for wrong in ["node-1", "city=192.0.2.7", "region=", "=192.0.2.7"] {
            assert!(parse_advertise(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans_may_be_days() {
        assert_eq!(parse_span("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(parse_span("5m"), Ok(Duration::from_secs(300)));
        assert!(parse_span("99999999999999999d").is_err());
    }
}
