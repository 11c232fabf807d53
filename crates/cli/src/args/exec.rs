//! Commands in instances, and in instances of their own.

use clap::Args;
use insula_types::{InstanceId, ServiceRef};

use super::{app::AppSource, app::parse_service, app::parse_source};

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
