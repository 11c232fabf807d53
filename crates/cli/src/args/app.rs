//! Looking at apps and changing them: instances, logs, scale, secrets, removal.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use insula_types::{AppName, InstanceId, RegionName, Scale, SecretName, ServiceName, ServiceRef};

use super::{JsonArgs, parse_span};

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
pub struct TopArgs {
    /// Only instances of this app
    pub app: Option<AppName>,
    /// Show it once, on a terminal too
    #[arg(long)]
    pub once: bool,
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
    /// Only what was written within this time: 10m, 2h, 1d
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pub since: Option<Duration>,
    /// Show when each line was written, in UTC
    #[arg(short = 't', long)]
    pub timestamps: bool,
}

/// An app, or one service of it.
#[derive(Debug, Clone)]
pub struct AppSource {
    pub app: AppName,
    pub service: Option<ServiceName>,
}

#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// The service
    #[arg(value_name = "APP/SERVICE", value_parser = parse_service)]
    pub service: ServiceRef,
    /// Instances per region: a number, or each-node for one on each node that the service asks for
    #[arg(value_name = "N|each-node")]
    pub scale: Scale,
    /// In this region alone; without it, in all of them
    #[arg(long)]
    pub region: Option<RegionName>,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// The app, by its exact name
    pub app: AppName,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

pub(super) fn parse_service(text: &str) -> Result<ServiceRef, String> {
    let (app, service) = text.split_once('/').ok_or_else(|| "expected APP/SERVICE, like shop/web".to_owned())?;
    let app = AppName::new(app).map_err(|error| error.to_string())?;
    Ok(ServiceRef::new(app, ServiceName::new(service).map_err(|error| error.to_string())?))
}

pub(super) fn parse_source(text: &str) -> Result<AppSource, String> {
    if text.contains('/') {
        let ServiceRef { app, service } = parse_service(text)?;
        return Ok(AppSource { app, service: Some(service) });
    }
    Ok(AppSource { app: AppName::new(text).map_err(|error| error.to_string())?, service: None })
}
