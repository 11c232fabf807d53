//! `insula scale` and `insula rm`.

use insula_api::Client;

use crate::{
    Failure,
    args::{RmArgs, ScaleArgs},
    output::{confirm, say},
};

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
        confirm(&shown, "its name to remove it", app.name.as_str())?;
    }
    let gone = client.delete_app(&args.app, Some(app.release)).await?.value;
    say(&format!("{} is removed; {} here will stop\n", gone.app, instances(gone.instances)))
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".to_owned() } else { format!("{count} instances") }
}
