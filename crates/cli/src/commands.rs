//! The commands that speak to the API.

mod ca;
mod change;
mod config;
mod definition;
mod deploy;
mod doctor;
mod events;
mod exec;
mod image;
mod import;
mod latency;
mod logs;
mod nodes;
mod placement;
mod plan;
mod release;
mod request;
mod secrets;
mod show;
mod snapshot;
mod token;
mod top;
mod volume;

use std::process::ExitCode;

use insula_api::{
    Client,
    wire::{NodeDuty, Steering},
};

pub use definition::FILE_DEFAULT;

use crate::{
    Failure,
    args::{ApiCommand, ConfigCommand, DeployArgs, ExplainCommand, ImageCommand, NodeCommand, TokenCommand},
};

/// A command whose own files have been read and checked.
pub enum Ready {
    /// A deploy with its definition.
    Deploy(deploy::Deploy),
    /// An image to bring.
    Import(import::Import),
    /// Nothing is left to do.
    Done,
    /// Any other.
    Other(ApiCommand),
}

/// Does what can be done without a cluster.
pub fn prepare(command: ApiCommand) -> Result<Ready, Failure> {
    match command {
        ApiCommand::Deploy(args) => Ok(Ready::Deploy(read(args)?)),
        ApiCommand::Image(ImageCommand::Import(args)) => Ok(Ready::Import(import::open(args)?)),
        ApiCommand::Config(ConfigCommand::Check(args)) => config::check(&args).map(|()| Ready::Done),
        other => Ok(Ready::Other(other)),
    }
}

fn read(args: DeployArgs) -> Result<deploy::Deploy, Failure> {
    let (definition, places) = definition::read(&args.source, "deploy")?;
    Ok(deploy::Deploy { args, definition, places })
}

pub async fn run(client: &Client, command: Ready) -> Result<ExitCode, Failure> {
    let command = match command {
        Ready::Deploy(deploy) => return deploy::run(client, deploy).await.map(|()| ExitCode::SUCCESS),
        Ready::Import(import) => return import::run(client, import).await.map(|()| ExitCode::SUCCESS),
        Ready::Done => return Ok(ExitCode::SUCCESS),
        Ready::Other(command) => command,
    };
    let done = match command {
        ApiCommand::Token(TokenCommand::Create(args)) => token::create(client, args).await,
        ApiCommand::Token(TokenCommand::List(args)) => token::list(client, args.json).await,
        ApiCommand::Token(TokenCommand::Rm(args)) => token::remove(client, args.id).await,
        ApiCommand::Ca(command) => ca::run(client, command).await,
        // Read by `prepare`; when it comes here all the same, it is read now.
        ApiCommand::Deploy(args) => deploy::run(client, read(args)?).await,
        ApiCommand::Config(ConfigCommand::Show(args)) => config::show(client, &args).await,
        // Checked by `prepare`, too.
        ApiCommand::Config(ConfigCommand::Check(args)) => config::check(&args),
        ApiCommand::Top(args) => top::run(client, &args).await,
        ApiCommand::Apps(args) => show::apps(client, args.json).await,
        ApiCommand::Routes(args) => show::routes(client, args.json).await,
        ApiCommand::Ps(args) => show::instances(client, args.app.as_ref(), args.json.json).await,
        ApiCommand::Status(args) => match &args.app {
            Some(app) => show::app_status(client, app, args.json.json).await,
            None => show::status(client, args.json.json).await,
        },
        ApiCommand::Doctor(args) => doctor::run(client, args.json).await,
        ApiCommand::Logs(args) => logs::run(client, &args).await,
        // Both end as their command does.
        ApiCommand::Exec(args) => return exec::exec(client, &args).await,
        ApiCommand::Run(args) => return exec::run(client, &args).await,
        ApiCommand::Scale(args) => change::scale(client, &args).await,
        ApiCommand::Releases(args) => release::list(client, &args).await,
        ApiCommand::Rollback(args) => release::rollback(client, &args).await,
        ApiCommand::Restart(args) => release::restart(client, &args).await,
        ApiCommand::Stop(args) => change::set_running(client, &args, false).await,
        ApiCommand::Start(args) => change::set_running(client, &args, true).await,
        ApiCommand::Pause(args) => release::steer(client, &args, Steering::Pause).await,
        ApiCommand::Resume(args) => release::steer(client, &args, Steering::Resume).await,
        ApiCommand::Promote(args) => release::steer(client, &args, Steering::Promote).await,
        ApiCommand::Abort(args) => release::steer(client, &args, Steering::Abort).await,
        ApiCommand::Rm(args) => change::remove(client, &args).await,
        ApiCommand::Image(ImageCommand::Ls(args)) => image::list(client, args.json).await,
        ApiCommand::Image(ImageCommand::Import(args)) => import::run(client, import::open(args)?).await,
        ApiCommand::Image(ImageCommand::Rm(args)) => image::remove(client, &args.image).await,
        ApiCommand::Secrets(command) => secrets::run(client, command).await,
        ApiCommand::Volume(command) => volume::run(client, command).await,
        ApiCommand::Nodes(args) => show::nodes(client, args.json).await,
        ApiCommand::Node(NodeCommand::Show(args)) => show::node(client, &args.node, args.json.json).await,
        ApiCommand::Node(NodeCommand::Rm(args)) => nodes::remove(client, &args).await,
        ApiCommand::Node(NodeCommand::Reload(args)) => nodes::reload(client, args.json).await,
        ApiCommand::Node(NodeCommand::Find(args)) => nodes::find(client, &args).await,
        ApiCommand::Cordon(args) => nodes::set_duty(client, &args.node, NodeDuty::Cordon).await,
        ApiCommand::Uncordon(args) => nodes::set_duty(client, &args.node, NodeDuty::Serve).await,
        ApiCommand::Drain(args) => nodes::drain(client, &args).await,
        ApiCommand::Regions(args) => show::regions(client, args.json).await,
        ApiCommand::Latency(args) => latency::run(client, &args).await,
        ApiCommand::Plan(args) => plan::run(client, &args).await,
        ApiCommand::Events(args) => events::run(client, &args).await,
        ApiCommand::Explain(ExplainCommand::Placement(args)) => placement::explain(client, &args).await,
        ApiCommand::Explain(ExplainCommand::Request(args)) => request::explain(client, &args).await,
        ApiCommand::Explain(ExplainCommand::Instance(args)) => show::explain(client, args.id, args.json.json).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
