//! `insula image ls` and `rm`.

use indicatif::HumanBytes;
use insula_api::{
    Client,
    wire::{Image, ImageRelease},
};

use crate::{
    Failure,
    output::{age, say, say_json, width},
    table::{Table, clean},
};

pub async fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let list = client.images().await?;
    match (json, list.items.is_empty()) {
        (true, _) => say_json(&list),
        (false, true) => say("no images\n"),
        (false, false) => say(&image_table(&list.items, client.env().clock.wall_ms()).render(width())),
    }
}

fn image_table(images: &[Image], now_ms: u64) -> Table {
    let mut table = Table::new(&["SIZE", "NODES", "INSTANCES", "LAST NEEDED", "RELEASES", "IMAGE"]).expendable(&[
        "LAST NEEDED",
        "INSTANCES",
        "RELEASES",
    ]);
    for image in images {
        let mut nodes: Vec<String> = image.nodes.iter().map(|node| node.node_name.to_string()).collect();
        nodes.sort();
        let used = image.nodes.iter().map(|node| node.used_ms).max().unwrap_or_default();
        let release = |one: &ImageRelease| format!("{} {}", one.app, one.release);
        let releases: Vec<String> = image.releases.iter().map(release).collect();
        table.row([
            image.size_bytes.map_or("incomplete".to_owned(), |bytes| HumanBytes(bytes).to_string()),
            nodes.join(","),
            image.nodes.iter().map(|node| node.instances).sum::<u32>().to_string(),
            format!("{} ago", age(now_ms, used)),
            if releases.is_empty() { "none".to_owned() } else { releases.join(", ") },
            clean(&image.image),
        ]);
    }
    table
}

pub async fn remove(client: &Client, image: &str) -> Result<(), Failure> {
    let removed = client.remove_image(image).await?.value;
    let freed = HumanBytes(removed.freed_bytes);
    say(&format!("{} is gone from {} nodes, {freed} are free again\n", clean(&removed.image), removed.nodes))
}

#[cfg(test)]
mod tests {
    use insula_api::wire::ImageOnNode;
    use insula_types::{NodeId, ReleaseNumber};

    use super::*;

    #[test]
    fn images_are_listed_with_who_has_and_who_needs_them() {
        let on = |id: u64, instances| ImageOnNode {
            node: NodeId::new(id),
            node_name: format!("n{id}").parse().expect("a name"),
            used_ms: 1000,
            instances,
        };
        let release = ImageRelease { app: "shop".parse().expect("a name"), release: ReleaseNumber(3) };
        let images = [
            Image {
                image: "r/shop@sha256:aa".into(),
                size_bytes: Some(3 << 20),
                nodes: vec![on(2, 1), on(1, 2)],
                releases: vec![release],
            },
            Image { image: "r/old@sha256:bb".into(), size_bytes: None, nodes: vec![on(1, 0)], releases: Vec::new() },
        ];
        let expected = "SIZE        NODES  INSTANCES  LAST NEEDED  RELEASES  IMAGE\n\
                        3.00 MiB    n1,n2  3          59s ago      shop 3    r/shop@sha256:aa\n\
                        incomplete  n1     0          59s ago      none      r/old@sha256:bb\n";
        assert_eq!(image_table(&images, 60_000).render(None), expected);
    }
}
