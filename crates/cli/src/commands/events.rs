//! `insula events`.

use insula_api::{Client, wire::Event};

use crate::{
    Failure,
    args::EventArgs,
    output::{say, utc, width},
    table::{clean, cut},
};

/// One event a line: a time and a sentence, or with `--json` the event itself.
pub async fn run(client: &Client, args: &EventArgs) -> Result<(), Failure> {
    let mut events = client.events(args.since, args.follow);
    while let Some(event) = events.next().await? {
        if args.json.json {
            let line = serde_json::to_string(&event).expect("wire types serialize into memory without error");
            say(&(line + "\n"))?;
        } else {
            say(&(cut(&line(&event), width()) + "\n"))?;
        }
    }
    Ok(())
}

fn line(event: &Event) -> String {
    format!("{}  {:<12}  {}", utc(event.at_ms), clean(&event.kind), clean(&event.text))
}
