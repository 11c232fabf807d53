//! `insula top`: what nodes and instances use now, again and again on a terminal.

mod screen;
mod text;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use insula_api::{Client, wire::Usage};
use insula_env::clock;
use insula_types::text::utc;

use self::screen::Screen;
use crate::{
    Failure,
    args::TopArgs,
    output::{say, say_json, width},
};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// Instances that are asked for where no screen bounds them.
const INSTANCES_MAX: u32 = 1000;

pub async fn run(client: &Client, args: &TopArgs) -> Result<(), Failure> {
    let is_watched = !args.once && !args.json.json && io::stdin().is_terminal() && io::stdout().is_terminal();
    if is_watched && let Some(screen) = Screen::open() {
        return watch(client, args, screen).await;
    }
    let usage = client.usage(args.app.as_ref(), INSTANCES_MAX).await?;
    if args.json.json { say_json(&usage) } else { say(&text::whole(&usage, width())) }
}

/// Until somebody ends it. A cluster that does not answer for a while is no reason to: that is when people look.
async fn watch(client: &Client, args: &TopArgs, mut screen: Screen) -> Result<(), Failure> {
    // The first answer also says whether there is such an app, and such a cluster.
    let mut last: Usage = client.usage(args.app.as_ref(), INSTANCES_MAX).await?;
    let mut told = client.env().clock.wall_ms();
    let mut problem = None;
    loop {
        let size = screen.size();
        let title = match &problem {
            None => format!("{} UTC, every {} s; q ends", time_of_day(told), EVERY.as_secs()),
            Some(why) => format!("{} UTC; no answer since: {why}", time_of_day(told)),
        };
        screen.show(&text::fitting(&title, &last, size))?;
        if screen.is_left_within(EVERY).await {
            return Ok(());
        }
        let limit = u32::from(screen.size().rows).clamp(1, INSTANCES_MAX);
        match clock::timeout(EVERY * 3, client.usage(args.app.as_ref(), limit)).await {
            Ok(Ok(usage)) => (last, told, problem) = (usage, client.env().clock.wall_ms(), None),
            Ok(Err(error)) => problem = Some(error.to_string()),
            Err(_) => problem = Some("it takes too long".to_owned()),
        }
    }
}

fn time_of_day(ms: u64) -> String {
    utc(ms).split_once(' ').map_or_else(String::new, |(_, time)| time.to_owned())
}
