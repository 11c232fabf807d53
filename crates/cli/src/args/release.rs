//! Deploys, roll-backs, and what becomes of them.

use std::time::Duration;

use clap::Args;
use insula_types::AppName;

use super::{
    JsonArgs,
    app::{AppSource, parse_source},
    parse_span,
};
use crate::commands::FILE_DEFAULT;

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
    #[command(flatten)]
    pub how: ReleaseArgs,
}

#[derive(Debug, Args)]
pub struct RestartArgs {
    /// The app, or one service of it
    #[arg(value_name = "APP[/SERVICE]", value_parser = parse_source)]
    pub source: AppSource,
    #[command(flatten)]
    pub how: ReleaseArgs,
}

#[derive(Debug, Args)]
pub struct RunningArgs {
    /// The app, or one service of it
    #[arg(value_name = "APP[/SERVICE]", value_parser = parse_source)]
    pub source: AppSource,
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

/// A definition.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// The definition in TOML or JSON, or a Compose file; - reads standard input
    #[arg(default_value = FILE_DEFAULT)]
    pub file: String,
    /// How it is written [default: as its name ends, and else as it begins]
    #[arg(long, value_enum)]
    pub format: Option<FormatArg>,
    /// Call the app so, whatever the definition says
    #[arg(long)]
    pub app: Option<AppName>,
}

#[derive(Debug, Args)]
pub struct DeployArgs {
    #[command(flatten)]
    pub source: FileArgs,
    #[command(flatten)]
    pub how: ReleaseArgs,
}

/// How a definition is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FormatArg {
    /// TOML
    Toml,
    /// JSON of the same shape
    Json,
    /// A Compose file
    Compose,
}

/// How a release is made.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
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
