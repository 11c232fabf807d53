//! Definitions: of what runs, and of files.

use clap::{Args, Subcommand};
use insula_types::AppName;

use super::{JsonArgs, release::FileArgs};

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Write the definition of an app as TOML, from which `insula deploy` makes the same again. Secrets are in it by name only
    Show(ConfigShowArgs),
    /// Say whether a definition or a Compose file is valid, without any cluster; ends with 2 and all that is wrong when it is not
    Check(ConfigCheckArgs),
}

#[derive(Debug, Args)]
pub struct ConfigShowArgs {
    /// The app
    pub app: AppName,
    /// One of the releases that `insula releases` lists [default: the one that shall run]
    #[arg(long, value_name = "N")]
    pub release: Option<u64>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct ConfigCheckArgs {
    #[command(flatten)]
    pub source: FileArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}
