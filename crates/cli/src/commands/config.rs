//! `insula config`: definitions of what runs, and of files.

use insula_api::{Client, wire::ReleaseDefinition};
use insula_types::{AppDefinition, ReleaseNumber, definition::Format, text::utc};

use super::definition;
use crate::{
    Exit, Failure,
    args::{ConfigCheckArgs, ConfigShowArgs},
    output::{say, say_as_is, say_json},
    table::clean,
};

pub async fn show(client: &Client, args: &ConfigShowArgs) -> Result<(), Failure> {
    let number = match args.release {
        Some(number) => ReleaseNumber(number),
        None => client.app(&args.app).await?.value.release,
    };
    let release = client.release(&args.app, number).await?;
    if args.json.json {
        return say_json(&release);
    }
    say_as_is(&toml(&release.value)?)
}

fn toml(release: &ReleaseDefinition) -> Result<String, Failure> {
    let definition = AppDefinition::parse(&release.definition.to_string(), Format::Json).map_err(|error| {
        let said = format!("this program cannot read the definition; is it older than the cluster?\n  {error}");
        Failure::new(Exit::Failed, said).hint("add --json to get it as it is")
    })?;
    let (app, number) = (&release.app, release.release);
    let mut out = format!("# {app}, release {number}, made {} UTC\n", utc(release.released_ms));
    out.push_str(if release.is_current {
        "# Deployed as it is, it changes nothing.\n"
    } else {
        "# It is not the present release. Deployed, it becomes a new one.\n"
    });
    if definition.services.values().any(|service| !service.spec.secrets.is_empty()) {
        out.push_str("# Secrets are here by name. Their values are set by `insula secrets set`.\n");
    }
    out.push_str(&definition.to_toml());
    Ok(out)
}

/// Needs no cluster. Warnings are said on standard error.
pub fn check(args: &ConfigCheckArgs) -> Result<(), Failure> {
    let (read, _) = definition::read(&args.source, "config check")?;
    if args.json.json { say_json(&read.to_json()) } else { say(&valid(&args.source.file, &read)) }
}

fn valid(name: &str, definition: &AppDefinition) -> String {
    let name = if name == "-" { "standard input" } else { name };
    let services: Vec<_> = definition.services.keys().map(ToString::to_string).collect();
    format!("{} is valid: app {} with {}\n", clean(name), definition.app, services.join(", "))
}
