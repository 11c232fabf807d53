//! Nodes, tokens, the cluster's authorities, events and explanations.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use insula_types::{ContinentName, HttpRequestId, InstanceId, RegionName, ServiceRef, TokenId};

use super::{JsonArgs, app::parse_service, node::parse_node_address, parse_span};

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
    /// The region to join [default: that of the node that answers]; a new one is founded by the machine that comes with the token
    #[arg(long, conflicts_with = "api")]
    pub region: Option<RegionName>,
    /// On which continent a new region is
    #[arg(long, requires = "region")]
    pub continent: Option<ContinentName>,
    /// For a new region: a file with the recovery key
    #[arg(long, value_name = "FILE", requires = "region")]
    pub recovery_key_file: Option<PathBuf>,
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
pub struct PlanArgs {
    /// What is lost: a node by its exact name or id, or a data centre
    #[arg(long, num_args = 2, value_names = ["node|datacenter", "NAME"], required = true)]
    pub if_lost: Vec<String>,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArgs,
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
    /// What became of a request: who was tried, what was answered, and why
    Request(RequestArgs),
    /// Where the next instance of a service would go, and what speaks against other nodes
    Placement(PlacementArgs),
}

#[derive(Debug, Args)]
pub struct PlacementArgs {
    /// The service
    #[arg(value_name = "APP/SERVICE", value_parser = parse_service)]
    pub service: ServiceRef,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct LatencyArgs {
    /// Also between the nodes of the region that answers
    #[arg(long)]
    pub nodes: bool,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct RequestArgs {
    /// Its id, as the answer has it in X-Request-Id
    pub id: HttpRequestId,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct InstanceArgs {
    /// Its id
    pub id: InstanceId,
    #[command(flatten)]
    pub json: JsonArgs,
}
