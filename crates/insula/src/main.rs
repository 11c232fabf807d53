//! The one program: parses what was typed and hands it to the part that does it.

mod node;
mod state;

use std::process::ExitCode;

use insula_cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::read();
    match cli.command {
        // Makes namespaces, so it must come before any thread.
        Command::LabInit(role) => insula_lab::init::run(&role),
        Command::Lab(command) => insula_cli::run_lab(command),
        Command::State(command) => state::run(&cli.connect, command),
        Command::Completions(arguments) => insula_cli::end(insula_cli::print_completions(&arguments)),
        Command::Man(arguments) => insula_cli::end(insula_cli::write_pages(&arguments)),
        Command::Api(command) => insula_cli::run(&cli.connect, command),
        Command::Init(arguments) => node::init(&arguments),
        Command::Join(arguments) => node::join(&arguments),
        Command::Server(arguments) => node::server(&arguments),
        Command::Dataplane(arguments) => node::dataplane(&arguments),
        Command::Dev(arguments) => node::dev(&arguments),
    }
}
