//! `insula events`.

use insula_api::{Client, wire::Event};
use insula_types::text::utc;

use crate::{
    Failure,
    args::EventArgs,
    output::{say, say_as_is},
    table::clean,
};

/// One event a line: a time and a sentence, or with `--json` the event itself.
pub async fn run(client: &Client, args: &EventArgs) -> Result<(), Failure> {
    let mut events = client.events(args.since, args.follow);
    while let Some(event) = events.next().await? {
        if args.json.json {
            let line = serde_json::to_string(&event).expect("wire types serialize into memory without error");
            say_as_is(&(line + "\n"))?;
        } else {
            say(&(line(&event) + "\n"))?;
        }
    }
    Ok(())
}

fn line(event: &Event) -> String {
    // Some end with a reason, which may be empty.
    let text = clean(&event.text);
    let text = text.trim_end().trim_end_matches(':');
    format!("{}  {:<12}  {text}", utc(event.at_ms), clean(&event.kind))
}
