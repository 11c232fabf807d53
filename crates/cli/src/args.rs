//! What can be typed: the commands. Their arguments are beside, by area.

mod app;
mod cluster;
mod config;
mod exec;
mod manual;
mod node;
mod release;
mod state;
mod storage;

use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use insula_lab::command::LabCommand;
use insula_types::definition::parse_duration;

pub use self::{
    app::{
        AppSource, LogArgs, PsArgs, RmArgs, ScaleArgs, SecretCommand, SecretListArgs, SecretRmArgs, SecretSetArgs,
        StatusArgs, TopArgs,
    },
    cluster::{
        CaCommand, DrainArgs, EventArgs, ExplainCommand, LatencyArgs, NodeCommand, NodeFindArgs, NodeKeyArgs,
        NodeRmArgs, PlacementArgs, PlanArgs, RequestArgs, RoleArg, TokenArgs, TokenCommand,
    },
    config::{ConfigCheckArgs, ConfigCommand, ConfigShowArgs},
    exec::{CommandArgs, ExecArgs, ExecTarget, RunArgs},
    manual::{CompletionArgs, ManArgs},
    node::{DataplaneArgs, DevArgs, InitArgs, JoinArgs, PlaceArgs, ServerArgs},
    release::{
        DeployArgs, FileArgs, FormatArg, ReleaseArgs, ReleasesArgs, RestartArgs, RollbackArgs, RunningArgs, SteerArgs,
    },
    state::{BackupArgs, CheckArgs, RestoreArgs, StateArg, StateCommand},
    storage::{
        ImageCommand, ImageImportArgs, SnapshotCommand, SnapshotCreateArgs, SnapshotLsArgs, SnapshotRestoreArgs,
        SnapshotRmArgs, VolumeCommand, VolumeCreateArgs, VolumeResizeArgs, VolumeRmArgs,
    },
};
use crate::{ConnectArgs, output::width_of_errors, table::wrap};

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

impl Cli {
    /// What was typed. Ends the program with 2 when that is nothing which can be done.
    #[must_use]
    pub fn read() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            let text = error.render().to_string();
            let is_long = |width| text.lines().any(|line| line.chars().count() > width);
            match width_of_errors().filter(|width| error.use_stderr() && is_long(*width)) {
                Some(width) => {
                    eprint!("{}", wrap(&text, Some(width)));
                    std::process::exit(error.exit_code())
                }
                None => error.exit(),
            }
        })
    }
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
    /// Print a script by which a shell completes what is typed
    Completions(CompletionArgs),
    /// Write the manual pages of all commands into a directory
    Man(ManArgs),
    /// Everything that speaks to the API.
    #[command(flatten)]
    Api(ApiCommand),
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
    /// Run an app as its definition says
    ///
    /// Shows what changes, then progress, until all that shall run is ready.
    Deploy(DeployArgs),
    /// Write the definition of what runs, or check one without a cluster
    #[command(subcommand)]
    Config(ConfigCommand),
    /// List apps
    Apps(JsonArgs),
    /// List what the edges bring where
    Routes(JsonArgs),
    /// List instances
    Ps(PsArgs),
    /// Show how an app is, or this node and its groups
    Status(StatusArgs),
    /// Show what nodes and instances use now, the busiest first
    ///
    /// On a terminal again and again, until q is pressed.
    Top(TopArgs),
    /// Look whether this node is as it shall be, and say what to do
    ///
    /// Ends with 1 when something is bad.
    Doctor(JsonArgs),
    /// Show what instances wrote
    Logs(LogArgs),
    /// Run a command inside a running instance
    ///
    /// Ends as the command does, and with 125 when that is not known.
    Exec(ExecArgs),
    /// Run a command in an instance that is made for it
    ///
    /// It has image, environment, user, network and limits of a service, but not its volumes. Ends as the command does, and with 125
    /// when that is not known.
    Run(RunArgs),
    /// Set the number of instances of a service per region
    Scale(ScaleArgs),
    /// List the releases of an app, and what became of them
    Releases(ReleasesArgs),
    /// Bring back an earlier release, as a whole
    ///
    /// Images, configuration and all services together. The scale stays.
    Rollback(RollbackArgs),
    /// Replace the instances of an app, or of one service of it
    ///
    /// By new ones of the same, as a release with its usual gates.
    Restart(RestartArgs),
    /// Stop an app, or one service of it
    ///
    /// Definition, scale, releases and volumes stay; no deploy starts it again.
    Stop(RunningArgs),
    /// Let what was stopped run again
    Start(RunningArgs),
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
    /// Look at the images that nodes have, bring or remove one
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look at volumes, make, copy or delete them
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
    /// Show round trips between regions, and between nodes
    Latency(LatencyArgs),
    /// Say what would become of what runs on a node, were it lost
    ///
    /// Or in a data centre. Ends with 1 when something would be short.
    Plan(PlanArgs),
    /// Show what happened
    Events(EventArgs),
    /// Say why something is as it is
    #[command(subcommand)]
    Explain(ExplainCommand),
}

/// How to answer.
#[derive(Debug, Clone, Copy, Args)]
pub struct JsonArgs {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn spans_may_be_days() {
        assert_eq!(parse_span("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(parse_span("5m"), Ok(Duration::from_secs(300)));
        assert!(parse_span("99999999999999999d").is_err());
    }
}
