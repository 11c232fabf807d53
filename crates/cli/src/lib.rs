//! The command line: arguments, calls of the API, and answers as tables, progress and errors that say what to do next.
//!
//! Always true: exit codes are those of [`Exit`]; `--json` prints the API's own types; colour, progress and questions
//! only on a terminal; nothing is decided here that the API does not decide again.
//! Commands that are a node themselves ([`Command::Init`] and its like) are only parsed here; `insula` hands them to
//! `server`.

mod args;
mod backup;
mod commands;
mod connect;
mod exit;
mod manual;
mod output;
mod table;

use std::process::ExitCode;

use insula_env::Env;

pub use args::{
    ApiCommand, BackupArgs, CheckArgs, Cli, Command, CompletionArgs, DataplaneArgs, DevArgs, InitArgs, JoinArgs,
    ManArgs, PlaceArgs, RestoreArgs, ServerArgs, StateCommand,
};
pub use backup::Verify;
pub use connect::{ConnectArgs, dev_dir};
pub use exit::{Exit, Failure};
pub use manual::{print_completions, write_pages};
pub use output::{confirm, say, say_json};

/// Runs a command that speaks to the API, and says what came of it. Blocks; makes its own runtime.
pub fn run(connect: &ConnectArgs, command: ApiCommand) -> ExitCode {
    in_runtime(async {
        let env = Env::real("cli");
        // What cannot work without a cluster either is said first.
        let ready = match commands::prepare(command)? {
            commands::Ready::Done => return Ok(ExitCode::SUCCESS),
            ready => ready,
        };
        let client = connect::find(&env, connect, &|name| std::env::var(name).ok())?;
        Box::pin(commands::run(&client, ready)).await
    })
}

/// Writes a backup, which `verify` reads before it gets its name. Blocks.
pub fn run_backup(connect: &ConnectArgs, args: &BackupArgs, verify: &Verify<'_>) -> ExitCode {
    in_runtime(async {
        let client = connect::find(&Env::real("cli"), connect, &|name| std::env::var(name).ok())?;
        backup::run(&client, args, verify).await.map(|()| ExitCode::SUCCESS)
    })
}

fn in_runtime(work: impl Future<Output = Result<ExitCode, Failure>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::new(Exit::Failed, format!("cannot start: {error}"))),
    };
    runtime.block_on(work).unwrap_or_else(|failure| fail(&failure))
}

/// Says how a command failed, if it did; gives its exit code.
pub fn end(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

/// Runs a command of the lab. Blocks.
pub fn run_lab(command: insula_lab::command::LabCommand) -> ExitCode {
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let exit = match &error {
                insula_lab::Error::NotFound(_) => Exit::NotFound,
                insula_lab::Error::Exists(_) => Exit::Conflict,
                insula_lab::Error::TimedOut { .. } => Exit::TimedOut,
                insula_lab::Error::NotYet(_) | insula_lab::Error::Invalid(_) => Exit::Usage,
                _ => Exit::Failed,
            };
            fail(&Failure::new(exit, exit::chain(&error)))
        }
    }
}

fn fail(failure: &Failure) -> ExitCode {
    eprintln!("{}", table::wrap(&format!("error: {failure}"), output::width_of_errors()));
    failure.exit.into()
}
