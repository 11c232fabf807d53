//! `insula scale`, `stop`, `start` and `rm`.

use insula_api::Client;
use insula_types::Scale;

use crate::{
    Failure,
    args::{AppSource, RmArgs, RunningArgs, ScaleArgs},
    output::{confirm, say, say_json},
    table::clean,
};

pub async fn scale(client: &Client, args: &ScaleArgs) -> Result<(), Failure> {
    let done = client.scale(&args.service, args.scale, args.region.clone()).await?.value;
    let per = done.region.as_ref().map_or_else(|| "per region".to_owned(), |region| format!("in {region}"));
    let wanted = match (done.scale, &done.region) {
        (Scale::Count(count), _) => format!("{} {per}", instances(count)),
        (Scale::EachNode, None) => "one instance on each node".to_owned(),
        (Scale::EachNode, Some(region)) => format!("one instance on each node in {region}"),
    };
    let mut out = if done.previous == done.scale {
        format!("{} has {wanted} already\n", args.service)
    } else {
        format!("{}: from {} to {wanted}\n", args.service, done.previous)
    };
    done.warnings.iter().for_each(|warning| out.push_str(&format!("warning: {}\n", clean(warning))));
    say(&out)
}

/// Stops services, or lets them run again.
pub async fn set_running(client: &Client, args: &RunningArgs, is_running: bool) -> Result<(), Failure> {
    let AppSource { app, service } = &args.source;
    let done = client.set_running(app, service.as_ref(), is_running).await?;
    if args.json.json {
        return say_json(&done);
    }
    let what = service.as_ref().map_or_else(|| app.to_string(), |service| format!("{app}/{service}"));
    say(&match (is_running, done.value.is_new) {
        (true, true) => format!("{what} runs again: `insula status {app}` shows how far it is\n"),
        (true, false) => format!("{what} is not stopped\n"),
        (false, true) => format!("{what} is stopped; definition, scale and volumes stay: `insula start {what}`\n"),
        (false, false) => format!("{what} is stopped already\n"),
    })
}

/// Removes exactly what was shown: another release meanwhile is a conflict (rule R8).
pub async fn remove(client: &Client, args: &RmArgs) -> Result<(), Failure> {
    let app = client.app(&args.app).await?.value;
    if !args.yes {
        let count = client.instances(Some(&args.app)).await?.items.len();
        let count = instances(u32::try_from(count).unwrap_or(u32::MAX));
        let shown = format!("{} (release {}, {count} here) and all its releases will be gone.", app.name, app.release);
        confirm(&shown, "its name to remove it", app.name.as_str())?;
    }
    let gone = client.delete_app(&args.app, Some(app.release)).await?.value;
    say(&format!("{} is removed; {} here will stop\n", gone.app, instances(gone.instances)))
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".to_owned() } else { format!("{count} instances") }
}
