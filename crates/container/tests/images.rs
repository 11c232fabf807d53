//! Images as registries give them, well and badly: whole, damaged, hostile; and a store that was killed.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use insula_container::{Config, Error, ImagePeers, ImageRef, NodeRuntime, PeerBytes, PeerError, Runtime};
use insula_env::Env;
use insula_types::NodeId;
use support::{
    archive, container, eventually,
    image::{File, Layer, Pack, busybox, digest, layer},
    with_root,
};

#[test]
fn an_image_is_pulled_once_and_its_layers_are_kept_by_content() {
    with_root("pulls", async |world| {
        let layers = busybox();
        let image = world.registry.push(&layers);
        let agent = world.open().await;
        let tagged = format!("{}/tiny:1", world.registry.address);
        assert_eq!(agent.runtime.resolve_tag(&tagged.parse().unwrap()).await.unwrap(), image);

        let (one, two) = tokio::join!(agent.runtime.ensure_image(&image), agent.runtime.ensure_image(&image));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.pulled_bytes.min(two.pulled_bytes), 0, "the second shares the first's pull");
        assert!(one.pulled_bytes.max(two.pulled_bytes) >= one.size_bytes);
        assert_eq!(world.registry.asked(), 3, "two layers and the configuration");

        let upper = layer_dir(&world.dir, &layers[1].diff_id);
        let whiteout = fs::symlink_metadata(upper.join("removed")).unwrap();
        assert_eq!((whiteout.mode() & libc::S_IFMT, whiteout.rdev()), (libc::S_IFCHR, 0));
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(upper.join("old"), "trusted.overlay.opaque", &mut value), Ok(1));
        assert_eq!(fs::metadata(upper.join("old/same")).unwrap().nlink(), 2);
        assert_eq!(fs::metadata(upper.join("old/new")).unwrap().mtime(), 1_000_000_000);
        agent.crash();

        // The registry is not needed any more, nor is anything fetched again after a restart.
        let agent = world.open().await;
        assert_eq!(agent.runtime.ensure_image(&image).await.unwrap().pulled_bytes, 0);
        assert_eq!(world.registry.asked(), 3);
        agent.crash();
    });
}

#[test]
fn damaged_content_is_refused_or_fetched_again() {
    with_root("damage", async |world| {
        let layers = busybox();
        let image = world.registry.push(&layers);
        let agent = world.open().await;
        let blob = digest(&layers[0].bytes);
        let mut damaged = layers[0].bytes.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        for bad in [damaged.clone(), layers[0].bytes[..1000].to_vec(), [&layers[0].bytes[..], b"more"].concat()] {
            world.registry.put_blob(&blob, bad);
            agent.runtime.ensure_image(&image).await.expect_err("damaged");
            let blobs = fs::read_dir(world.dir.join("images/blobs/sha256")).unwrap().flatten();
            let names: Vec<_> = blobs.map(|entry| entry.file_name().into_string().unwrap()).collect();
            // Neither under its name nor as a beginning to go on from; another layer may have been on its way.
            assert!(!names.iter().any(|name| name.ends_with(blob.trim_start_matches("sha256:"))), "{names:?}");
        }
        world.registry.put_blob(&blob, layers[0].bytes.clone());
        agent.runtime.ensure_image(&image).await.unwrap();

        // A power cut in the middle of unpacking, and a disk that lost bits of a blob.
        agent.crash();
        let layer = layer_dir(&world.dir, &layers[0].diff_id);
        let half = world.dir.join("images/layers/.new-7/fs/bin");
        fs::remove_dir_all(layer.parent().unwrap()).unwrap();
        fs::create_dir_all(&half).unwrap();
        fs::write(world.dir.join("images/blobs/sha256").join(blob.trim_start_matches("sha256:")), damaged).unwrap();
        let agent = world.open().await;
        assert!(!half.exists(), "what was half-made is removed");
        assert!(agent.runtime.ensure_image(&image).await.unwrap().pulled_bytes > 0);
        assert!(layer.join("bin/busybox").exists());
        agent.crash();
    });
}

#[test]
fn an_image_that_is_wrong_about_a_layer_takes_it_from_nobody() {
    with_root("wrong", async |world| {
        let layers = busybox();
        let image = world.registry.push(&layers);
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let wrong = [Layer { diff_id: digest(b"something else"), ..layers[0].clone() }, layers[1].clone()];
        let wrong = world.registry.push(&wrong);
        for _ in 0..2 {
            let error = agent.runtime.ensure_image(&wrong).await.expect_err("its layer has another content");
            assert!(matches!(error, Error::Content { .. }), "{error}");
            assert!(agent.runtime.open_blob(&digest(&layers[0].bytes)).is_some(), "other nodes may ask for it");
        }
        assert_eq!(agent.runtime.ensure_image(&image).await.unwrap().pulled_bytes, 0);
        agent.crash();
    });
}

#[test]
fn devices_of_an_image_are_left_out() {
    with_root("devices", async |world| {
        let agent = world.open().await;
        let files = [File::Directory("dev/"), File::Device("dev/null"), File::Device("odd"), File::Link("even", "odd")];
        let holding = layer(&files, &Pack::Plain);
        let made = layer_dir(&world.dir, &holding.diff_id);
        agent.runtime.ensure_image(&world.registry.push(&[holding])).await.unwrap();
        assert!(made.join("dev").is_dir() && made.join("even").is_symlink());
        assert!(!made.join("dev/null").exists() && !made.join("odd").exists());
        agent.crash();
    });
}

#[test]
fn a_layer_stays_in_its_directory() {
    with_root("hostile", async |world| {
        let agent = world.open().await;
        let secret = world.dir.join("secret");
        fs::write(&secret, "secret").unwrap();
        let (secret, dir) = (secret.to_str().unwrap(), world.dir.to_str().unwrap());
        let evil = || b"evil".to_vec();
        let (endless, long) = ("a/".repeat(1 << 20), "a".repeat(300));
        let cases = [
            ("rising name", vec![File::Raw("../evil", evil())]),
            ("rising name inside", vec![File::Raw("a/../../evil", evil())]),
            ("absolute name", vec![File::Raw("/evil", evil())]),
            ("through a link", vec![File::Link("way", dir), File::Plain("way/evil", 0o644, evil())]),
            ("through a rising link", vec![File::Link("way", "../../../.."), File::Plain("way/evil", 0o644, evil())]),
            ("hard link to outside", vec![File::Hard("copy", secret)]),
            ("hard link through a link", vec![File::Link("way", dir), File::Hard("copy", "way/secret")]),
            ("hard link to nothing", vec![File::Hard("copy", "nothing")]),
            ("a name longer than any file's", vec![File::Plain(&long, 0o644, evil())]),
            ("a link to more than any path", vec![File::Link("way", &endless)]),
            ("whiteout through a link", vec![File::Link("way", dir), File::Plain("way/.wh.secret", 0o644, vec![])]),
            ("whiteout of the parent", vec![File::Raw("a/.wh...", vec![])]),
            ("a name that fills the memory", vec![File::Plain(&endless, 0o644, evil())]),
            ("a hole that fills the disk", vec![File::Hole("hole", 1 << 60)]),
        ];
        for (case, files) in cases {
            let image = world.registry.push(&[layer(&files, &Pack::Plain)]);
            let error = agent.runtime.ensure_image(&image).await.expect_err(case);
            assert!(matches!(error, Error::Content { .. }), "{case}: {error:?}");
            assert_eq!(fs::read_to_string(secret).unwrap(), "secret", "{case}");
            assert!(!world.dir.join("evil").exists() && !world.dir.join("images/evil").exists(), "{case}");
        }
        let kept = fs::read_dir(world.dir.join("images/layers")).unwrap().count();
        assert_eq!(kept, 0);

        // A file over a link replaces the link, and does not write through it.
        let files = [File::Link("file", secret), File::Plain("file", 0o644, evil())];
        let replaced = layer(&files, &Pack::Gzip);
        let image = world.registry.push(&[replaced]);
        agent.runtime.ensure_image(&image).await.unwrap();
        assert_eq!(fs::read_to_string(secret).unwrap(), "secret");

        // Its unpacked bytes are not the ones that its configuration names.
        let mut other = layer(&[File::Plain("a", 0o644, evil())], &Pack::Zstd);
        other.diff_id = digest(b"something else");
        let image = world.registry.push(&[other]);
        agent.runtime.ensure_image(&image).await.expect_err("another diff id");
        agent.crash();
    });
}

#[test]
fn a_pull_that_broke_off_goes_on_where_it_was() {
    with_root("resumed", async |world| {
        let layers = busybox();
        let image = world.registry.push(&layers);
        let agent = world.open().await;
        let half = layers[0].bytes.len() / 2;
        world.registry.cut_after(Some(half));
        agent.runtime.ensure_image(&image).await.expect_err("cut");
        agent.crash();

        world.registry.cut_after(None);
        let before = world.registry.sent();
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let rest = world.registry.sent() - before;
        // The small layer may not have been complete when the large one broke off.
        let most = layers[0].bytes.len() - half + layers[1].bytes.len();
        assert!(rest <= most && most < layers[0].bytes.len(), "{rest} bytes were sent again");
        agent.crash();

        // A beginning that is not that of the blob: told, and fetched whole.
        let blob = digest(&layers[0].bytes);
        let name = blob.trim_start_matches("sha256:");
        fs::remove_dir_all(layer_dir(&world.dir, &layers[0].diff_id).parent().unwrap()).unwrap();
        fs::remove_file(world.dir.join("images/blobs/sha256").join(name)).unwrap();
        fs::write(world.dir.join(format!("images/blobs/sha256/.part-{name}")), vec![7; half]).unwrap();
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        agent.crash();
    });
}

/// What another node does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// Gives what it has.
    Good,
    /// Breaks off in the middle of every layer.
    Cuts,
    /// Gives other bytes than it is asked for.
    Lies,
    /// Begins, and says nothing more.
    Falls,
    /// Has the manifest and nothing else.
    Lacks,
    /// Is reached, and never answers.
    Hangs,
}

/// Another node: its real store, asked in one manner. Counts what it is asked.
struct Other {
    runtime: NodeRuntime,
    nodes: Vec<(NodeId, Manner)>,
}

impl std::fmt::Debug for Other {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.nodes)
    }
}

#[async_trait::async_trait]
impl ImagePeers for Other {
    fn of(&self, _: &ImageRef) -> Vec<NodeId> {
        self.nodes.iter().map(|(node, _)| *node).collect()
    }

    async fn fetch(&self, node: NodeId, digest: &str, offset: u64) -> Result<PeerBytes, PeerError> {
        let manner = self.nodes.iter().find(|(id, _)| *id == node).unwrap().1;
        let mut file = self.runtime.open_blob(digest).ok_or(PeerError::Absent)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        let is_manifest = bytes.starts_with(b"{");
        match manner {
            Manner::Hangs => return std::future::pending().await,
            Manner::Lacks if !is_manifest => return Err(PeerError::Absent),
            Manner::Lies => bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1)),
            Manner::Cuts if !is_manifest => {
                let half = bytes[..bytes.len() / 2].to_vec();
                let cut = PeerError::Failed("cut".to_owned());
                return Ok(stream::iter([Ok(half), Err(cut)]).boxed());
            }
            Manner::Falls if !is_manifest => {
                return Ok(stream::iter([Ok(bytes[..1].to_vec())]).chain(stream::pending()).boxed());
            }
            _ => {}
        }
        Ok(stream::iter(bytes.chunks(10_000).map(|chunk| Ok(chunk.to_vec())).collect::<Vec<_>>()).boxed())
    }
}

#[test]
fn an_image_comes_from_other_nodes_first() {
    with_root("peers", async |world| {
        use Manner::{Cuts, Falls, Good, Hangs, Lacks, Lies};
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let asked = world.registry.asked();
        // Manners of the nodes, and whether the registry is needed.
        let cases: [(&[Manner], bool); 7] = [
            (&[Good], false),
            (&[Lies, Good], false),
            (&[Cuts, Good], false),
            (&[Falls, Cuts, Lacks, Hangs, Good], false),
            (&[Lacks, Lacks], true),
            (&[Cuts, Lies], true),
            (&[], true),
        ];
        for (at, (manners, needs_registry)) in cases.into_iter().enumerate() {
            let nodes = (1..).map(NodeId::new).zip(manners.iter().copied()).collect();
            let other = Arc::new(Other { runtime: agent.runtime.clone(), nodes });
            let config =
                Config { data_dir: world.dir.join(format!("other-{at}")), network: None, ..world.config.clone() };
            let env = Env::real("test");
            let new = NodeRuntime::open(env.clone(), config, Some(other)).await.unwrap();
            let before = world.registry.asked();
            let info = new.ensure_image(&image).await.unwrap_or_else(|error| panic!("{manners:?}: {error:?}"));
            assert_eq!(world.registry.asked() > before, needs_registry, "{manners:?}");
            assert_eq!(info.from_nodes_bytes == info.pulled_bytes, !needs_registry, "{manners:?}: {info:?}");
            env.tasks.crash();
        }
        assert!(world.registry.asked() > asked);

        // Nobody has it: the error names the registry, and that no node had it.
        world.registry.clear();
        let config = Config { data_dir: world.dir.join("alone"), network: None, ..world.config.clone() };
        let env = Env::real("test");
        let alone = NodeRuntime::open(env.clone(), config, None).await.unwrap();
        let error = alone.ensure_image(&image).await.expect_err("nowhere");
        assert!(error.to_string().contains("which no other node has"), "{error}");
        env.tasks.crash();
        agent.crash();
    });
}

/// In a process of its own, since it is the environment that says where the certificates are.
#[test]
fn without_authorities_a_node_says_so_and_still_asks_others() {
    const NOWHERE: [(&str, &str); 2] = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/dev/null")];
    if std::env::var_os(NOWHERE[0].0).is_none_or(|path| path != *NOWHERE[0].1) {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["without_authorities_a_node_says_so_and_still_asks_others", "--exact"]).envs(NOWHERE);
        let output = again.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    with_root("authorities", async |world| {
        let agent = world.open().await;
        let image = world.registry.push(&busybox());
        for error in [
            agent.runtime.ensure_image(&image).await.expect_err("no client"),
            agent.runtime.resolve_tag(&"registry.example/shop".parse().unwrap()).await.expect_err("no client"),
        ] {
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains("apt-get install ca-certificates"), "{error}: {cause}");
        }

        // From an archive, and from the node that has it.
        let archive = archive::saved(&["shop:1"], &busybox()).tar();
        let sent = stream::iter([Ok::<_, std::io::Error>(archive)]);
        let imported = agent.runtime.import_image(None, sent).await.unwrap();
        let image = &imported.image;
        let other = Other { runtime: agent.runtime.clone(), nodes: vec![(NodeId::new(1), Manner::Good)] };
        let config = Config { data_dir: world.dir.join("other"), network: None, ..world.config.clone() };
        let env = Env::real("test");
        let new = NodeRuntime::open(env.clone(), config, Some(Arc::new(other))).await.unwrap();
        let info = new.ensure_image(image).await.unwrap();
        assert!(info.from_nodes_bytes > 0 && info.from_nodes_bytes == info.pulled_bytes, "{info:?}");
        env.tasks.crash();
        agent.crash();
    });
}

#[test]
fn a_pull_says_how_far_it_is() {
    with_root("progress", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        assert_eq!(agent.runtime.pull_progress(&image), None);
        // The other node gives a byte of each layer and falls silent; the registry gives the rest.
        let other = Other { runtime: agent.runtime.clone(), nodes: vec![(NodeId::new(1), Manner::Falls)] };
        let config = Config { data_dir: world.dir.join("other"), network: None, ..world.config.clone() };
        let env = Env::real("test");
        let new = NodeRuntime::open(env.clone(), config, Some(Arc::new(other))).await.unwrap();
        let begun = eventually("it has begun", async || {
            new.pull_progress(&image).filter(|progress| progress.fetched_bytes > 0)
        });
        let (pulled, progress) = tokio::join!(new.ensure_image(&image), begun);
        let size = pulled.unwrap().size_bytes;
        assert!(progress.size_bytes == size && progress.fetched_bytes < size, "{progress:?} of {size}");
        assert_eq!(new.pull_progress(&image), None, "it is over");
        env.tasks.crash();
        agent.crash();
    });
}

#[test]
fn what_no_image_and_no_instance_needs_is_swept() {
    with_root("swept", async |world| {
        let shared = busybox();
        let own = |name: &str| layer(&[File::Plain(name, 0o644, vec![b'x'; 5000])], &Pack::Plain);
        let with = |name: &str| vec![busybox().swap_remove(0), busybox().swap_remove(1), own(name)];
        let (one, two) = (world.registry.push(&with("one")), world.registry.push(&with("two")));
        let agent = world.open().await;
        for image in [&one, &two] {
            agent.runtime.ensure_image(image).await.unwrap();
        }
        let noted: Vec<_> = agent.runtime.images().unwrap().into_iter().map(|found| found.image).collect();
        assert_eq!(noted.len(), 2);
        assert_eq!(agent.runtime.remove_images(&[], Duration::ZERO).await.unwrap(), 0, "all of it is needed");

        // What is shared stays for the other one.
        let freed = agent.runtime.remove_images(std::slice::from_ref(&one), Duration::ZERO).await.unwrap();
        assert!((10_000..30_000).contains(&freed), "{freed}: a layer packed and unpacked, a manifest, a configuration");
        assert!(!agent.runtime.has_image(&one) && agent.runtime.has_image(&two));
        assert!(!layer_dir(&world.dir, &own("one").diff_id).exists());
        assert!(layer_dir(&world.dir, &shared[0].diff_id).exists());

        // An instance keeps what it is made from, whoever forgets it; also after a restart of the agent.
        let config = container(1, &two, &["sleep", "600"]);
        agent.runtime.start(&config).await.unwrap();
        agent.crash();
        let agent = world.open().await;
        assert_eq!(agent.runtime.images().unwrap()[0].instances, 1);
        assert_eq!(agent.runtime.remove_images(std::slice::from_ref(&two), Duration::ZERO).await.unwrap(), 0);
        assert!(agent.runtime.has_image(&two));
        agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        agent.runtime.remove(config.instance).await.unwrap();

        // A pull that broke off a moment ago goes on with what it has.
        assert_eq!(agent.runtime.remove_images(&[], Duration::from_secs(3600)).await.unwrap(), 0);
        assert!(agent.runtime.remove_images(&[], Duration::ZERO).await.unwrap() > 0);
        for kind in ["blobs/sha256", "layers", "used"] {
            assert_eq!(fs::read_dir(world.dir.join("images").join(kind)).unwrap().count(), 0, "{kind}");
        }
        agent.crash();
    });
}

fn layer_dir(data: &std::path::Path, diff_id: &str) -> std::path::PathBuf {
    data.join("images/layers").join(diff_id.trim_start_matches("sha256:")).join("fs")
}
