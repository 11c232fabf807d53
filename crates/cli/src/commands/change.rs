//! `insula scale` and `insula rm`.

use std::io::{self, BufRead, IsTerminal, Read};

use insula_api::Client;

use crate::{
    Exit, Failure,
    args::{RmArgs, ScaleArgs},
    output::say,
};

/// Longest answer to a question, in bytes.
const ANSWER_LEN_MAX: u64 = 256;

pub async fn scale(client: &Client, args: &ScaleArgs) -> Result<(), Failure> {
    let done = client.scale(&args.service, args.scale).await?.value;
    say(&if done.previous == done.scale {
        format!("{} has {} already\n", args.service, instances(done.scale))
    } else {
        format!("{}: from {} to {} per region\n", args.service, done.previous, instances(done.scale))
    })
}

/// Removes exactly what was shown: another release meanwhile is a conflict (rule R8).
pub async fn remove(client: &Client, args: &RmArgs) -> Result<(), Failure> {
    let app = client.app(&args.app).await?.value;
    if !args.yes {
        let count = client.instances(Some(&args.app)).await?.items.len();
        let count = instances(u32::try_from(count).unwrap_or(u32::MAX));
        let shown = format!("{} (release {}, {count} here) and all its releases will be gone.", app.name, app.release);
        confirm(&shown, app.name.as_str())?;
    }
    let gone = client.delete_app(&args.app, Some(app.release)).await?.value;
    say(&format!("{} is removed; {} here will stop\n", gone.app, instances(gone.instances)))
}

pub fn confirm(shown: &str, name: &str) -> Result<(), Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(format!("{shown} Nobody is there to ask")).hint("add --yes to do it all the same"));
    }
    eprint!("{shown}\nType its name to remove it: ");
    let mut answer = String::new();
    let read = stdin.lock().take(ANSWER_LEN_MAX).read_line(&mut answer);
    read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read the answer: {error}")))?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("found {:?}, expected {name:?}; nothing was removed", answer.trim())))
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".to_owned() } else { format!("{count} instances") }
}
