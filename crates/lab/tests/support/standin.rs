//! Stands in for `insula` in the lab's tests: the lab's own commands, and a "server" that answers on a TCP port and
//! starts a "dataplane" that outlives it.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, ExitCode, Stdio},
};

use clap::{Parser, Subcommand};
use insula_lab::{command::LabCommand, init::Role};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    #[command(subcommand)]
    LabInit(Role),
    Lab(LabCommand),
    Server {
        #[arg(long)]
        config: String,
    },
    Dataplane,
}

fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::LabInit(role) => return insula_lab::init::run(&role),
        Verb::Lab(command) => {
            if let Err(error) = command.run() {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                eprintln!("{error}{cause}");
                return ExitCode::FAILURE;
            }
        }
        Verb::Server { config } => {
            eprintln!("server with {config}");
            if TcpListener::bind("0.0.0.0:80").is_ok() {
                let own = std::env::current_exe().expect("own path");
                #[allow(clippy::zombie_processes, reason = "it outlives this process, and the node collects it")]
                Command::new(own).arg("dataplane").stdin(Stdio::null()).spawn().expect("start dataplane");
            }
            serve("0.0.0.0:7443");
        }
        Verb::Dataplane => serve("0.0.0.0:80"),
    }
    ExitCode::SUCCESS
}

/// Echoes, one connection at a time.
fn serve(address: &str) {
    let listener = TcpListener::bind(address).expect("listen");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    }
}
