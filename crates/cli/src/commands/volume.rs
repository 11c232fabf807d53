//! `insula volume ls`, `create`, `resize` and `rm`; `snapshot` is in [`super::snapshot`].

use insula_api::{Client, wire::Volume};

use crate::{
    Failure,
    args::{VolumeCommand, VolumeCreateArgs, VolumeResizeArgs, VolumeRmArgs},
    output::{age, confirm, say, say_json, width},
    table::Table,
};

pub async fn run(client: &Client, command: VolumeCommand) -> Result<(), Failure> {
    match command {
        VolumeCommand::Ls(args) => list(client, args.json).await,
        VolumeCommand::Create(args) => create(client, &args).await,
        VolumeCommand::Resize(args) => resize(client, &args).await,
        VolumeCommand::Rm(args) => remove(client, &args).await,
        VolumeCommand::Snapshot(command) => super::snapshot::run(client, command).await,
    }
}

async fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let list = client.volumes().await?;
    match (json, list.items.is_empty()) {
        (true, _) => say_json(&list),
        (false, true) => say("no volumes\n"),
        (false, false) => say(&volume_table(&list.items, client.env().clock.wall_ms()).render(width())),
    }
}

fn volume_table(volumes: &[Volume], now_ms: u64) -> Table {
    let mut table = Table::new(&["VOLUME", "SIZE", "NODE", "STATE", "USED BY", "AGE"]);
    for volume in volumes {
        table.row([
            volume.volume.clone(),
            volume.size.to_string(),
            node(volume),
            volume.state.as_str().to_owned(),
            volume.instance.map_or_else(|| "nobody".to_owned(), |instance| instance.to_string()),
            age(now_ms, volume.created_ms),
        ]);
    }
    table
}

/// Its node by name, or by id when it has none any more.
fn node(volume: &Volume) -> String {
    volume.node_name.as_ref().map_or_else(|| volume.node.to_string(), ToString::to_string)
}

async fn create(client: &Client, args: &VolumeCreateArgs) -> Result<(), Failure> {
    let made = client.create_volume(&args.volume, &args.node, args.size).await?.value;
    say(&format!("volume {} ({}) is set aside on node {}\n", made.volume, made.size, node(&made)))
}

async fn resize(client: &Client, args: &VolumeResizeArgs) -> Result<(), Failure> {
    let now = client.resize_volume(&args.volume, args.size).await?.value;
    say(&format!("volume {} is to have {}; its node makes it so\n", now.volume, now.size))
}

async fn remove(client: &Client, args: &VolumeRmArgs) -> Result<(), Failure> {
    if !args.yes {
        let shown = format!(
            "All that is in volume {} is lost. There is no way back but its snapshots, if it has any.",
            args.volume
        );
        confirm(&shown, "its name to go on", &args.volume.to_string())?;
    }
    let gone = client.delete_volume(&args.volume).await?.value;
    say(&format!("volume {} on node {} is deleted\n", gone.volume, node(&gone)))
}

#[cfg(test)]
mod tests {
    use insula_api::wire::VolumeState;
    use insula_types::{ByteSize, InstanceId, NodeId};

    use super::*;

    #[test]
    fn volumes_are_listed_with_where_they_are_and_who_has_them() {
        let volume = |slot: u32, name: Option<&str>, state, instance: Option<u64>| Volume {
            volume: format!("shop/db/data.{slot}"),
            node: NodeId::new(7),
            node_name: name.map(|name| name.parse().expect("a name")),
            size: ByteSize::mib(5 << 10),
            state,
            instance: instance.map(InstanceId::new),
            created_ms: 1000,
        };
        let volumes = [volume(0, Some("n1"), VolumeState::Ready, Some(9)), volume(1, None, VolumeState::Lost, None)];
        let expected = format!(
            "VOLUME          SIZE  NODE             STATE  USED BY     AGE\n\
             shop/db/data.0  5GiB  n1               ready  {}  59s\n\
             shop/db/data.1  5GiB  {}  lost   nobody      59s\n",
            InstanceId::new(9),
            NodeId::new(7)
        );
        assert_eq!(volume_table(&volumes, 60_000).render(None), expected);
    }
}
