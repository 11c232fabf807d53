//! `insula state`: backups of the replicated states. Writing one is a call of the API; reading and restoring one is not.

use std::{path::Path, process::ExitCode};

use insula_cli::{CheckArgs, ConnectArgs, Exit, Failure, RestoreArgs, StateCommand, confirm, say, say_json};
use insula_env::Env;
use insula_server::{
    NodeConfig,
    restore::{self, Contents, Plan, Present, Replaced},
};
use insula_telemetry::chain;
use insula_types::text::utc;

/// `insula state …`.
pub(crate) fn run(connect: &ConnectArgs, command: StateCommand) -> ExitCode {
    match command {
        StateCommand::Backup(args) => {
            // A backup exists only after it has been read.
            let verify = |path: &Path| match restore::check(path) {
                Ok(contents) => Ok(list(&contents) + &lag(&contents)),
                Err(error) => Err(chain(&error)),
            };
            insula_cli::run_backup(connect, &args, &verify)
        }
        StateCommand::Check(args) => insula_cli::end(check(&args)),
        StateCommand::Restore(args) => insula_cli::end(restore_here(&args)),
    }
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let contents = restore::check(&args.file).map_err(|error| failed(&error))?;
    if args.json.json { say_json(&contents) } else { say(&(list(&contents) + &lag(&contents))) }
}

/// What is in a backup: of each state a line, and below it how much of what.
fn list(contents: &[Contents]) -> String {
    let one = |Contents { about, objects }: &Contents| {
        let objects: Vec<_> = objects.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        format!(
            "{} state of cluster {}, region {}: revision {}, taken {} UTC by version {}\n  {}\n",
            about.state,
            about.cluster,
            about.region,
            about.revision,
            utc(about.taken_ms),
            about.version,
            objects.join(", ")
        )
    };
    contents.iter().map(one).collect()
}

/// A sentence for each state that no leader confirmed.
fn lag(contents: &[Contents]) -> String {
    let unconfirmed = contents.iter().filter(|part| !part.about.is_confirmed).map(|part| {
        let about = &part.about;
        format!(
            "the {} state is as the node knew it, at revision {}: no leader confirmed that nothing newer was missing\n",
            about.state, about.revision
        )
    });
    unconfirmed.collect()
}

fn restore_here(args: &RestoreArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?;
    let config = NodeConfig::read(&args.config).map_err(|error| failed(&error))?;
    insula_identity::install_provider();
    runtime.block_on(async {
        let plan: Plan =
            restore::plan(&config, &args.file, &Env::real("restore")).await.map_err(|error| failed(&error))?;
        let shown: String = plan.replaced().iter().map(lost).collect();
        if args.yes {
            say(&shown)?;
        } else {
            confirm(&format!("{shown}Nothing is deleted."), "restore to go on", "restore")?;
        }
        let kept = plan.carry_out().await.map_err(|error| failed(&error))?;
        for path in kept {
            say(&format!("kept: {}\n", path.display()))?;
        }
        say("restored. Now start the servers: those of the other nodes first, then this one; they follow it.\n")
    })
}

/// What a restore takes away.
fn lost(replaced: &Replaced) -> String {
    let about = &replaced.about;
    let backup = format!("revision {} of {} UTC", about.revision, utc(about.taken_ms));
    match &replaced.present {
        Present::Missing => format!("{}: none here; begins anew with {backup}.\n", about.state),
        Present::Unreadable { why } => {
            format!("{}: what is here cannot be read ({why}); begins anew with {backup}.\n", about.state)
        }
        Present::At(present) => format!(
            "{}: at revision {present} or later here; begins anew with {backup}: all changes since are lost.\n",
            about.state
        ),
    }
}

fn failed(error: &insula_server::Error) -> Failure {
    let exit = match error {
        insula_server::Error::Running => Exit::Conflict,
        _ => Exit::Failed,
    };
    Failure::new(exit, chain(error))
}
