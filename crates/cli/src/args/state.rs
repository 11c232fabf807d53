//! `insula state`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::JsonArgs;

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
