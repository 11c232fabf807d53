//! `insula volume snapshot ls`, `create`, `restore` and `rm`.

use insula_api::{
    Client,
    wire::{Snapshot, Snapshots},
};
use insula_types::{SnapshotName, text::utc};

use crate::{
    Failure,
    args::{SnapshotCommand, SnapshotCreateArgs, SnapshotLsArgs, SnapshotRestoreArgs, SnapshotRmArgs},
    output::{age, confirm, say, say_json, width},
    table::Table,
};

pub async fn run(client: &Client, command: SnapshotCommand) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Ls(args) => list(client, &args).await,
        SnapshotCommand::Create(args) => create(client, args).await,
        SnapshotCommand::Restore(args) => restore(client, &args).await,
        SnapshotCommand::Rm(args) => remove(client, &args).await,
    }
}

async fn list(client: &Client, args: &SnapshotLsArgs) -> Result<(), Failure> {
    let mut list = client.snapshots().await?;
    if let Some(volume) = &args.volume {
        let volume = volume.to_string();
        list.items.retain(|one| one.volume == volume);
    }
    if args.json.json {
        return say_json(&list);
    }
    say(&snapshot_table(&list.items, client.env().clock.wall_ms()).render(width()))?;
    if let Some(said) = silence(&list) {
        eprintln!("{said}");
    }
    Ok(())
}

fn snapshot_table(snapshots: &[Snapshot], now_ms: u64) -> Table {
    let mut table = Table::new(&["VOLUME", "SNAPSHOT", "SIZE", "ON DISK", "NODE", "AGE"]);
    for one in snapshots {
        table.row([
            one.volume.clone(),
            one.snapshot.to_string(),
            one.size.to_string(),
            format!("{}MiB", one.used.0.div_ceil(1 << 20)),
            node(one),
            age(now_ms, one.created_ms),
        ]);
    }
    table
}

/// What the list cannot show.
fn silence(list: &Snapshots) -> Option<String> {
    let names: Vec<&str> = list.silent.iter().map(|name| name.as_str()).collect();
    (!names.is_empty()).then(|| format!("{} did not answer: snapshots there are not in this list", names.join(", ")))
}

/// Its node by name, or by id when it has none any more.
fn node(one: &Snapshot) -> String {
    one.node_name.as_ref().map_or_else(|| one.node.to_string(), ToString::to_string)
}

async fn create(client: &Client, args: SnapshotCreateArgs) -> Result<(), Failure> {
    let name = args.snapshot.unwrap_or_else(|| named_by(client.env().clock.wall_ms()));
    let made = client.create_snapshot(&args.volume, &name).await?;
    if args.json.json {
        return say_json(&made);
    }
    let made = made.value;
    say(&format!("snapshot {} of {} is on the disk of node {}, beside it\n", made.snapshot, made.volume, node(&made)))
}

/// A name for a snapshot that was given none.
fn named_by(now_ms: u64) -> SnapshotName {
    let digits: String = utc(now_ms).replace(['-', ':'], "").replace(' ', "-");
    SnapshotName::new(digits).expect("digits and a hyphen between them are a label")
}

async fn restore(client: &Client, args: &SnapshotRestoreArgs) -> Result<(), Failure> {
    if !args.yes {
        let shown = format!("All that is in volume {} now is lost: make a snapshot of it first.", args.volume);
        confirm(&shown, "its name to go on", &args.volume.to_string())?;
    }
    let now = client.restore_snapshot(&args.volume, &args.snapshot).await?.value;
    say(&format!("volume {} has again what it had in snapshot {}\n", now.volume, args.snapshot))
}

async fn remove(client: &Client, args: &SnapshotRmArgs) -> Result<(), Failure> {
    if !args.yes {
        let shown = format!("Snapshot {} of {} is lost. There is no way back.", args.snapshot, args.volume);
        confirm(&shown, "its name to go on", args.snapshot.as_str())?;
    }
    let gone = client.delete_snapshot(&args.volume, &args.snapshot).await?.value;
    say(&format!("snapshot {} of {} on node {} is deleted\n", gone.snapshot, gone.volume, node(&gone)))
}

#[cfg(test)]
mod tests {
    use insula_types::{ByteSize, NodeId, Revision};

    use super::*;

    #[test]
    fn snapshots_are_listed_with_what_they_take_and_who_was_silent_is_told() {
        let one = |name: &str, used: u64| Snapshot {
            snapshot: name.parse().expect("a name"),
            volume: "shop/db/data.0".to_owned(),
            node: NodeId::new(7),
            node_name: Some("n1".parse().expect("a name")),
            size: ByteSize::mib(5 << 10),
            used: ByteSize(used),
            created_ms: 1000,
        };
        let list = Snapshots {
            revision: Revision(1),
            items: vec![one("before-upgrade", 700 << 20), one("small", 1)],
            silent: vec!["n2".parse().expect("a name"), "n3".parse().expect("a name")],
        };
        let expected = "VOLUME          SNAPSHOT        SIZE  ON DISK  NODE  AGE\n\
                        shop/db/data.0  before-upgrade  5GiB  700MiB   n1    59s\n\
                        shop/db/data.0  small           5GiB  1MiB     n1    59s\n";
        assert_eq!(snapshot_table(&list.items, 60_000).render(None), expected);
        let said = silence(&list).expect("two were silent");
        assert_eq!(said, "n2, n3 did not answer: snapshots there are not in this list");
        assert_eq!(silence(&Snapshots { silent: Vec::new(), ..list }), None);
    }

    #[test]
    fn a_snapshot_without_a_name_is_named_by_the_time() {
        assert_eq!(named_by(951_827_696_000).as_str(), "20000229-123456");
    }
}
