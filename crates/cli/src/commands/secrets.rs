//! `insula secrets set`, `list` and `rm`.

use std::{
    fs::File,
    io::{IsTerminal, Read, stdin},
    path::Path,
};

use insula_api::{Client, wire::Secret};
use insula_types::{SecretValue, secret::SECRET_LEN_MAX};

use crate::{
    Failure,
    args::{SecretCommand, SecretListArgs, SecretRmArgs, SecretSetArgs},
    output::{age, say, say_json, width},
    table::Table,
};

pub async fn run(client: &Client, command: SecretCommand) -> Result<(), Failure> {
    match command {
        SecretCommand::Set(args) => {
            let value = read(&args)?;
            set(client, &args, &value).await
        }
        SecretCommand::List(args) => list(client, &args).await,
        SecretCommand::Rm(args) => remove(client, &args).await,
    }
}

/// The value, from a file or from the standard input: arguments are seen by everybody on a machine, and kept by shells.
fn read(args: &SecretSetArgs) -> Result<SecretValue, Failure> {
    let mut bytes = Vec::with_capacity(SECRET_LEN_MAX + 2);
    let limit = SECRET_LEN_MAX as u64 + 2;
    match &args.file {
        Some(path) => {
            let failed = |error| Failure::usage(format!("read {}: {error}", Path::display(path)));
            File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
        }
        None if stdin().is_terminal() => {
            let (app, name) = (&args.app, &args.name);
            return Err(Failure::usage(format!(
                "the value comes from the standard input or a file: `insula secrets set {app} {name} < value`, or --file"
            )));
        }
        None => {
            let failed = |error| Failure::usage(format!("read the value: {error}"));
            stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?;
            // As `echo` writes it.
            if bytes.ends_with(b"\n") {
                bytes.pop();
            }
        }
    }
    SecretValue::from_bytes(bytes).map_err(|error| Failure::usage(error.to_string()))
}

async fn set(client: &Client, args: &SecretSetArgs, value: &SecretValue) -> Result<(), Failure> {
    let set = client.set_secret(&args.app, &args.name, value).await?.value;
    let (app, name, version) = (&set.app, &set.name, set.version);
    say(&format!("secret {name} of {app} is set, version {version}\n"))?;
    match set.running {
        Some(running) => say(&format!(
            "instances go on with version {running}: deploy the definition again to let them have the new one\n"
        )),
        None => {
            say(&format!("no instance has it yet: name it in the definition, secrets = [\"{name}\"], and deploy\n"))
        }
    }
}

async fn list(client: &Client, args: &SecretListArgs) -> Result<(), Failure> {
    let list = client.secrets(&args.app).await?;
    let now_ms = client.env().clock.wall_ms();
    match (args.json.json, list.items.is_empty()) {
        (true, _) => say_json(&list),
        (false, true) => say(&format!("{} has no secrets\n", args.app)),
        (false, false) => say(&table(&list.items, now_ms).render(width())),
    }
}

fn table(secrets: &[Secret], now_ms: u64) -> Table {
    let mut table = Table::new(&["SECRET", "VERSION", "RUNNING", "SET BY", "AGE"]);
    for secret in secrets {
        table.row([
            secret.name.to_string(),
            secret.version.to_string(),
            secret.running.map_or_else(|| "none".to_owned(), |version| version.to_string()),
            secret.by.clone(),
            age(now_ms, secret.set_ms),
        ]);
    }
    table
}

async fn remove(client: &Client, args: &SecretRmArgs) -> Result<(), Failure> {
    let removed = client.remove_secret(&args.app, &args.name).await?.value;
    say(&format!("secret {} of {} is removed\n", removed.name, removed.app))
}
