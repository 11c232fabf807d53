//! Images that come in archives: from every tool that writes them, from nobody's friend, cut off and killed.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use insula_container::{
    Config, Error, ImagePeers, ImageRef, Imported, NodeRuntime, ObservedState, PeerBytes, PeerError, Runtime,
};
use insula_env::{Env, clock::timeout};
use insula_types::NodeId;
use serde_json::json;
use support::{
    World,
    archive::{Files, INDEX, add_image, add_index, blob_name, entry, index, layout, platform, saved, tar},
    container, eventually,
    image::{ARCHITECTURE, File, Layer, MANIFEST, Pack, busybox, digest, documents, layer},
    observed, with_root,
};
use tokio::sync::watch;

type Piece = Result<Vec<u8>, String>;

fn sent(bytes: &[u8]) -> impl Stream<Item = Piece> + use<> {
    let pieces: Vec<_> = bytes.chunks(7000).map(|piece| Ok(piece.to_vec())).collect();
    stream::iter(pieces)
}

async fn import(runtime: &NodeRuntime, name: Option<&str>, bytes: &[u8]) -> Result<Imported, Error> {
    runtime.import_image(name, sent(bytes)).await
}

/// An error with its cause.
fn told(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

fn small(name: &str) -> Layer {
    layer(&[File::Plain(name, 0o644, b"text".to_vec())], &Pack::Plain)
}

/// Busybox in two layers that are not compressed, as `docker save` has them.
fn plain_busybox() -> Vec<Layer> {
    let unpacked = |layer: Layer| {
        let mut bytes = Vec::new();
        match layer.bytes[0] {
            0x1f => drop(flate2::read::GzDecoder::new(&layer.bytes[..]).read_to_end(&mut bytes).unwrap()),
            _ => bytes = zstd::decode_all(&layer.bytes[..]).unwrap(),
        }
        Layer { bytes, diff_id: layer.diff_id }
    };
    busybox().into_iter().map(unpacked).collect()
}

/// Another node of the world.
async fn other(world: &World, name: &str, peers: Option<Arc<dyn ImagePeers>>) -> (NodeRuntime, Env) {
    let config = Config { data_dir: world.dir.join(name), network: None, ..world.config.clone() };
    let env = Env::real("test");
    (NodeRuntime::open(env.clone(), config, peers).await.unwrap(), env)
}

fn blobs(world: &World) -> PathBuf {
    world.dir.join("images/blobs/sha256")
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Neither an image nor a part of one under its name.
fn has_nothing(world: &World, runtime: &NodeRuntime) -> bool {
    runtime.images().unwrap().is_empty() && names(&blobs(world)).is_empty()
}

#[test]
fn what_docker_saved_runs_and_has_one_digest_everywhere() {
    with_root("saved", async |world| {
        let agent = world.open().await;
        let layers = plain_busybox();
        let archive = saved(&["shop:1", "shop:latest"], &layers).tar();
        let first = import(&agent.runtime, None, &archive).await.unwrap();
        assert_eq!((first.image.registry(), first.image.repository()), ("docker.io", "library/shop"));
        let size: usize = layers.iter().map(|layer| layer.bytes.len()).sum();
        assert_eq!(first.size_bytes, size as u64);
        assert!(first.new_bytes > first.size_bytes, "the documents, too: {first:?}");
        let listed = agent.runtime.images().unwrap();
        assert_eq!((listed.len(), &listed[0].image, listed[0].size_bytes), (1, &first.image, Some(first.size_bytes)));

        let config = container(1, &first.image, &["sleep", "600"]);
        agent.runtime.start(&config).await.unwrap();
        let state = observed(&agent.runtime, config.instance).await.unwrap().state;
        assert!(matches!(state, ObservedState::Running(_)), "{state:?}");
        agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        agent.runtime.remove(config.instance).await.unwrap();

        // Again: nothing is new, also under another name, and packed.
        let again = import(&agent.runtime, None, &archive).await.unwrap();
        assert_eq!(again, Imported { new_bytes: 0, ..first.clone() });
        let packed = zstd::encode_all(&archive[..], 1).unwrap();
        let renamed = import(&agent.runtime, Some("10.0.0.1:5000/team/shop:2"), &packed).await.unwrap();
        assert_eq!(renamed.image.to_string(), format!("10.0.0.1:5000/team/shop@{}", first.image.digest()));
        assert_eq!(renamed.new_bytes, 0);

        let (elsewhere, env) = other(world, "elsewhere", None).await;
        assert_eq!(import(&elsewhere, None, &archive).await.unwrap(), first);
        env.tasks.crash();
        agent.crash();
    });
}

#[test]
fn each_form_of_archive_is_taken() {
    with_root("forms", async |world| {
        let agent = world.open().await;
        let (files, plain) = layout(&busybox());
        let gzip = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&files.tar()).unwrap();
            encoder.finish().unwrap()
        };
        let dotted = Files(files.0.iter().map(|(name, bytes)| (format!("./{name}"), bytes.clone())).collect());

        // As docker 25 writes it: two tags of one image, and the old manifest beside the index.
        let mut new = Files::default();
        let manifest = add_image(&mut new, ARCHITECTURE, &[small("new")]);
        let tagged = |tag: &str| {
            let name = format!("registry.example/new:{tag}");
            let annotations = json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
            entry(&manifest, MANIFEST, &json!({ "annotations": annotations }))
        };
        add_index(&mut new, &[tagged("1"), tagged("2")]);
        new.add("manifest.json", r#"[{"Config":"blobs/sha256/1","RepoTags":["registry.example/new:1"],"Layers":[]}]"#);

        // As podman writes an `oci-archive`: the name is the annotation that others use for a tag.
        let mut podman = Files::default();
        let by_podman = add_image(&mut podman, ARCHITECTURE, &[small("podman")]);
        let name = json!({ "annotations": { "org.opencontainers.image.ref.name": "localhost/podman:latest" } });
        add_index(&mut podman, &[entry(&by_podman, MANIFEST, &name)]);

        // A list of manifests, of which the archive has this platform's, and a note about how it was built.
        let mut many = Files::default();
        let ours = add_image(&mut many, ARCHITECTURE, &[small("ours")]);
        let list = index(&[
            entry(b"elsewhere", MANIFEST, &platform("s390x")),
            entry(&ours, MANIFEST, &platform(ARCHITECTURE)),
            entry(b"attestation", MANIFEST, &json!({ "platform": { "os": "unknown", "architecture": "unknown" } })),
        ]);
        many.blob(&list);
        add_index(&mut many, &[entry(&list, INDEX, &json!({}))]);

        let cases = [
            ("layout", files.tar(), Some("a"), "docker.io/library/a", plain.clone()),
            ("layout with dots", dotted.tar(), Some("a"), "docker.io/library/a", plain.clone()),
            ("packed layout", gzip, Some("a"), "docker.io/library/a", plain),
            ("docker 25", new.tar(), None, "registry.example/new", digest(&manifest)),
            ("podman", podman.tar(), None, "localhost/podman", digest(&by_podman)),
            ("list", many.tar(), Some("many"), "docker.io/library/many", digest(&list)),
        ];
        for (case, bytes, name, called, digest) in cases {
            let found = import(&agent.runtime, name, &bytes).await.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(found.image.to_string(), format!("{called}@{digest}"), "{case}");
            assert!(agent.runtime.has_image(&found.image), "{case}");
        }

        // As docker wrote it between versions 1.10 and 25: a layer that was there before is a link.
        let twice = small("twice");
        let (config, _) = documents(&[small("twice"), small("twice")]);
        let manifest =
            json!([{ "Config": "config.json", "RepoTags": null, "Layers": ["one/layer.tar", "two/layer.tar"] }]);
        let linked = tar(&[
            File::Directory("one/"),
            File::Plain("one/layer.tar", 0o644, twice.bytes),
            File::Link("two/layer.tar", "../one/layer.tar"),
            File::Plain("config.json", 0o644, config),
            File::Plain("manifest.json", 0o644, serde_json::to_vec(&manifest).unwrap()),
        ]);
        let found = import(&agent.runtime, Some("twice"), &linked).await.unwrap();
        assert!(agent.runtime.has_image(&found.image));
        agent.crash();
    });
}

/// What is done to an archive, and what is said of it.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let (good, _) = layout(&[small("file")]);
    let (config, manifest) = documents(&[small("file")]);
    let changed = |name: &str, bytes: Option<Vec<u8>>| {
        let mut files = good.clone();
        files.set(name, bytes);
        files.tar()
    };
    let blob = blob_name(&small("file").bytes);
    let whole = good.tar();
    let with_first = |first: File<'_>| [&tar(&[first])[..1024], &whole[..]].concat();
    let raw = |name| with_first(File::Raw(name, b"evil".to_vec()));
    let of = |layers: &[Layer], edit: &dyn Fn(&mut Files, Vec<u8>)| {
        let mut files = Files::default();
        let manifest = add_image(&mut files, ARCHITECTURE, layers);
        edit(&mut files, manifest);
        files.tar()
    };
    let mut foreign = Files::default();
    let theirs = add_image(&mut foreign, "s390x", &[small("file")]);
    add_index(&mut foreign, &[entry(&theirs, MANIFEST, &json!({}))]);
    let mut foreign_index = Files::default();
    add_index(&mut foreign_index, &[entry(&theirs, MANIFEST, &platform("s390x"))]);
    let mut wrong = small("file");
    wrong.diff_id = digest(b"something else");
    let mut nested = Files::default();
    let inner = index(&[entry(&manifest, MANIFEST, &platform(ARCHITECTURE))]);
    let outer = index(&[entry(&inner, INDEX, &platform(ARCHITECTURE))]);
    [&inner, &outer, &manifest, &config, &small("file").bytes].into_iter().for_each(|bytes| nested.blob(bytes));
    add_index(&mut nested, &[entry(&outer, INDEX, &json!({}))]);
    let two_tags = |tags: &[&str]| {
        let (_, both) = tags.iter().fold((Files::default(), Vec::new()), |(mut all, mut both), tag| {
            let text = saved(&[tag], &[small(tag)]);
            both.extend(text.0.iter().filter(|(name, _)| name == "manifest.json").map(|(_, text)| text.clone()));
            all.0.extend(text.0);
            (all, both)
        });
        let lists = both.iter().map(|text| serde_json::from_slice::<Vec<serde_json::Value>>(text).unwrap());
        let mut files = Files::default();
        files.add("manifest.json", serde_json::to_vec(&lists.flatten().collect::<Vec<_>>()).unwrap());
        files.tar()
    };
    let mut misnamed = saved(&["shop:1"], &[small("file")]);
    let at = misnamed.0.iter().position(|(name, _)| name.ends_with(".json")).unwrap();
    misnamed.0[at].1.push(b' ');
    let mut bad_layer = good.clone();
    let escape = layer(&[File::Raw("../evil", b"evil".to_vec())], &Pack::Plain);
    bad_layer.0.clear();
    let bad = add_image(&mut bad_layer, ARCHITECTURE, &[escape]);
    add_index(&mut bad_layer, &[entry(&bad, MANIFEST, &json!({}))]);
    let long = "a/".repeat(1 << 20);
    let many: Vec<_> = (0..5000).map(|_| File::Directory("a/")).collect();
    vec![
        ("nothing", Vec::new(), "neither what `docker save` writes nor"),
        ("no tar", b"hello".repeat(1000), "it is no tar file, and no gzip or zstd of one"),
        ("no tar any more", [&whole[..2560], b"\x1b[31mhello".repeat(100).as_slice()].concat(), "to its end: "),
        ("rising name", raw("../evil"), "leads out of it"),
        ("rising name inside", raw("a/../../evil"), "leads out of it"),
        ("absolute name", raw("/evil"), "leads out of it"),
        ("link to outside", with_first(File::Link("a/b", "../../evil")), "leads out of it"),
        ("absolute link", with_first(File::Link("a/b", "/etc/passwd")), "leads out of it"),
        ("device", with_first(File::Device("null")), "which no image has"),
        ("a name that fills the memory", tar(&[File::Plain(&long, 0o644, Vec::new())]), "more than 1048576 bytes"),
        ("a long name", tar(&[File::Plain(&long[..1000], 0o644, Vec::new())]), "more than 512 bytes"),
        ("too many entries", tar(&many), "more than 4096 entries"),
        ("missing layer", changed(&blob, None), "lacks the layer sha256:"),
        ("missing configuration", changed(&blob_name(&config), None), "it lacks sha256:"),
        ("missing manifest", changed(&blob_name(&manifest), None), "it lacks sha256:"),
        ("other bytes", changed(&blob, Some(b"other".to_vec())), "damaged or changed"),
        ("cut off within a layer", whole[..1600].to_vec(), "ends within blobs/sha256/"),
        ("cut off between entries", whole[..2048 + 512].to_vec(), "neither what"),
        ("no index", changed("index.json", None), "neither what"),
        ("no image", changed("index.json", Some(index(&[]))), "lists no image"),
        ("index of rubbish", changed("index.json", Some(b"{".to_vec())), "its index.json:"),
        ("huge index", changed("index.json", Some(vec![b' '; (4 << 20) + 1])), "too large"),
        ("another platform", foreign.tar(), "it is for linux/s390x, and this node is linux/"),
        ("another platform by its index", foreign_index.tar(), "it is for linux/s390x, and this node is linux/"),
        (
            "a list without this platform",
            of(&[small("file")], &|files, manifest| {
                let list = index(&[entry(&manifest, MANIFEST, &platform("s390x"))]);
                files.blob(&list);
                add_index(files, &[entry(&list, INDEX, &json!({}))]);
            }),
            "it has no variant for",
        ),
        ("a list of lists", nested.tar(), "it is a list of lists of images"),
        (
            "two images",
            of(&[small("one")], &|files, one| {
                let two = add_image(files, ARCHITECTURE, &[small("two")]);
                add_index(files, &[entry(&one, MANIFEST, &json!({})), entry(&two, MANIFEST, &json!({}))]);
            }),
            "it has 2 images, and one is taken at a time: sha256:",
        ),
        ("two saved images", two_tags(&["a:1", "b:1"]), "2 images, and one is taken at a time: a:1, b:1. Save one"),
        ("misnamed configuration", misnamed.tar(), "damaged or changed"),
        (
            "size that is not its own",
            of(&[small("file")], &|files, manifest| {
                let text = String::from_utf8(manifest).unwrap().replace("\"size\":2048", "\"size\":2049");
                files.blob(text.as_bytes());
                add_index(files, &[entry(text.as_bytes(), MANIFEST, &json!({}))]);
            }),
            "and its manifest says 2049",
        ),
        (
            "another diff id",
            of(&[wrong], &|files, manifest| add_index(files, &[entry(&manifest, MANIFEST, &json!({}))])),
            "have the digest",
        ),
        ("a layer that leads out", bad_layer.tar(), "leads out of the image"),
    ]
}

#[test]
fn hostile_and_damaged_archives_leave_nothing() {
    with_root("hostile-archives", async |world| {
        let agent = world.open().await;
        for (case, bytes, expected) in hostile() {
            let error = import(&agent.runtime, Some("shop"), &bytes).await.expect_err(case);
            assert!(told(&error).contains(expected), "{case}: {error:?}");
            assert!(!told(&error).contains(char::is_control), "{case}: {error:?}");
            assert!(!error.is_retryable() && has_nothing(world, &agent.runtime), "{case}");
            assert!(!world.dir.join("evil").exists() && !world.dir.join("images/evil").exists(), "{case}");
        }
        let (good, _) = layout(&[small("file")]);
        for bad in ["", "Shop", "../shop", &format!("shop@sha256:{}", "0".repeat(64))] {
            let nothing = stream::pending::<Piece>();
            let error = agent.runtime.import_image(Some(bad), nothing).await.expect_err(bad);
            assert!(matches!(error, Error::Reference { .. }), "before anything is read: {error}");
        }
        let error = import(&agent.runtime, None, &good.tar()).await.expect_err("no name");
        assert!(error.to_string().contains("say it with --name"), "{error}");
        import(&agent.runtime, Some("shop"), &good.tar()).await.unwrap();
        agent.crash();
    });
}

#[test]
fn a_wrong_layer_does_not_take_the_right_one_of_others_away() {
    with_root("borrowed", async |world| {
        let agent = world.open().await;
        let (good, _) = layout(&[small("file")]);
        let image = import(&agent.runtime, Some("shop"), &good.tar()).await.unwrap().image;
        // Its blob under another's unpacked digest, and another blob under its own.
        for (layers, expected) in [
            (vec![Layer { diff_id: digest(b"other"), ..small("file") }], "have the digest"),
            (vec![Layer { diff_id: small("file").diff_id, ..small("other") }], "have the digest"),
        ] {
            let error = import(&agent.runtime, Some("evil"), &layout(&layers).0.tar()).await.expect_err("refused");
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(agent.runtime.has_image(&image) && agent.runtime.open_blob(&digest(&small("file").bytes)).is_some());
        assert_eq!(agent.runtime.images().unwrap().len(), 1);
        agent.crash();
    });
}

/// The other node of a test: its real store.
struct Only(NodeRuntime);

impl std::fmt::Debug for Only {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Only")
    }
}

#[async_trait::async_trait]
impl ImagePeers for Only {
    fn of(&self, _: &ImageRef) -> Vec<NodeId> {
        vec![NodeId::new(1)]
    }

    async fn fetch(&self, _: NodeId, digest: &str, offset: u64) -> Result<PeerBytes, PeerError> {
        let bytes = self.bytes_of(digest).ok_or(PeerError::Absent)?;
        Ok(stream::iter([Ok(bytes[offset as usize..].to_vec())]).boxed())
    }
}

impl Only {
    /// All of a part.
    fn bytes_of(&self, digest: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.open_blob(digest)?.read_to_end(&mut bytes).unwrap();
        Some(bytes)
    }
}

#[test]
fn another_node_gets_it_without_any_registry() {
    with_root("passed-on", async |world| {
        let agent = world.open().await;
        // Nothing has ever listened there.
        let archive = saved(&["localhost:1/shop:1"], &plain_busybox()).tar();
        let imported = import(&agent.runtime, None, &archive).await.unwrap();
        let (alone, env) = other(world, "alone", None).await;
        alone.ensure_image(&imported.image).await.expect_err("it is in no registry");
        env.tasks.crash();
        let (second, env) = other(world, "second", Some(Arc::new(Only(agent.runtime.clone())))).await;
        let got = second.ensure_image(&imported.image).await.unwrap();
        assert!(got.pulled_bytes > 0 && got.from_nodes_bytes == got.pulled_bytes, "{got:?}");
        // It passes it on in its turn, once the first one is gone.
        let (third, third_env) = other(world, "third", Some(Arc::new(Only(second)))).await;
        assert_eq!(third.ensure_image(&imported.image).await.unwrap().size_bytes, imported.size_bytes);
        env.tasks.crash();
        third_env.tasks.crash();
        agent.crash();
    });
}

/// A node that is asked after many that have nothing.
#[derive(Debug)]
struct Last(Only);

#[async_trait::async_trait]
impl ImagePeers for Last {
    fn of(&self, _: &ImageRef) -> Vec<NodeId> {
        (1..=60).map(NodeId::new).collect()
    }

    async fn fetch(&self, node: NodeId, digest: &str, offset: u64) -> Result<PeerBytes, PeerError> {
        if node == NodeId::new(60) { self.0.fetch(node, digest, offset).await } else { Err(PeerError::Absent) }
    }
}

#[test]
fn the_only_node_that_has_it_is_found_among_many() {
    with_root("far", async |world| {
        let agent = world.open().await;
        let archive = saved(&["localhost:1/shop:1"], &[small("file")]).tar();
        let imported = import(&agent.runtime, None, &archive).await.unwrap();
        let (second, env) = other(world, "second", Some(Arc::new(Last(Only(agent.runtime.clone()))))).await;
        let got = second.ensure_image(&imported.image).await.unwrap();
        assert!(got.pulled_bytes > 0 && got.from_nodes_bytes == got.pulled_bytes, "{got:?}");
        env.tasks.crash();
        agent.crash();
    });
}

/// A node that gives layers only once it is told to.
#[derive(Debug)]
struct Slow {
    inner: Only,
    is_open: watch::Receiver<bool>,
}

#[async_trait::async_trait]
impl ImagePeers for Slow {
    fn of(&self, image: &ImageRef) -> Vec<NodeId> {
        self.inner.of(image)
    }

    async fn fetch(&self, _: NodeId, digest: &str, offset: u64) -> Result<PeerBytes, PeerError> {
        let bytes = self.inner.bytes_of(digest).ok_or(PeerError::Absent)?[offset as usize..].to_vec();
        if bytes.starts_with(b"{") {
            return Ok(stream::iter([Ok(bytes)]).boxed());
        }
        // Shows that it is alive, a byte at a time, so that nobody looks for another source.
        let dripping = stream::unfold((bytes, self.is_open.clone()), async |(mut bytes, mut is_open)| {
            let opened = timeout(Duration::from_millis(300), is_open.wait_for(|is_open| *is_open)).await.is_ok();
            let rest = bytes.split_off(if opened { bytes.len() } else { bytes.len().min(1) });
            (!bytes.is_empty()).then_some((Ok(bytes), (rest, is_open)))
        });
        Ok(dripping.boxed())
    }
}

#[test]
fn an_import_waits_for_no_pull_of_the_same_layers() {
    with_root("beside-a-pull", async |world| {
        let (files, _) = layout(&busybox());
        let archive = files.tar();
        let agent = world.open().await;
        let image = import(&agent.runtime, Some("shop"), &archive).await.unwrap().image;
        let (open, is_open) = watch::channel(false);
        let slow = Arc::new(Slow { inner: Only(agent.runtime.clone()), is_open });
        let (second, env) = other(world, "second", Some(slow)).await;
        let imported = {
            let mut pull = Box::pin(second.ensure_image(&image));
            let importing = import(&second, Some("shop"), &archive);
            let second_blobs = world.dir.join("second/images/blobs/sha256");
            // The pull has begun its layers, and they hardly come; the import is done first.
            let has_begun = async || names(&second_blobs).iter().any(|name| name.starts_with(".part-")).then_some(());
            tokio::select! {
                pulled = &mut pull => panic!("{pulled:?}"),
                () = eventually("a layer is on its way", has_begun) => {}
            }
            let imported = tokio::select! {
                biased;
                imported = importing => imported.unwrap(),
                pulled = &mut pull => panic!("{pulled:?}"),
            };
            open.send(true).unwrap();
            pull.await.unwrap();
            imported
        };
        assert_eq!(imported.image, image);
        assert!(second.has_image(&image));
        let removed = second.remove_images(&[], Duration::ZERO).await.unwrap();
        assert_eq!(removed, 0, "all that is there belongs to it");
        env.tasks.crash();
        agent.crash();
    });
}

#[test]
fn what_is_given_up_is_gone() {
    with_root("given-up", async |world| {
        let agent = world.open().await;
        let (files, _) = layout(&busybox());
        let archive = files.tar();
        let half = sent(&archive[..archive.len() / 2]);
        // Whoever sends it breaks off, and is told so.
        let broken = half.chain(stream::iter([Err("the cable was pulled".to_owned())]));
        let error = agent.runtime.import_image(Some("shop"), broken).await.expect_err("half");
        assert!(told(&error).contains("it broke off: the cable was pulled"), "{error:?}");
        assert!(has_nothing(world, &agent.runtime));

        // Nobody waits for it any more.
        let half = sent(&archive[..archive.len() / 2]).chain(stream::pending());
        let mut importing = Box::pin(agent.runtime.import_image(Some("shop"), half));
        let is_under_way = async || names(&blobs(world)).iter().any(|name| name.starts_with(".new-")).then_some(());
        tokio::select! {
            done = &mut importing => panic!("{done:?}"),
            () = eventually("it begins", is_under_way) => {}
        }
        assert!(agent.runtime.images().unwrap().is_empty());
        drop(importing);
        eventually("its files go", async || names(&blobs(world)).is_empty().then_some(())).await;
        agent.crash();
    });
}

/// Run by [`what_a_kill_leaves_is_gone_after_the_next_start`] as a program that is killed.
#[test]
fn imports_half_of_an_image_where_it_is_told() {
    let Ok(dir) = std::env::var("INSULA_TEST_IMPORT") else { return };
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = Config {
            data_dir: dir.into(),
            cgroup_parent: "insula-test-import".to_owned(),
            limit: None,
            layer_size: None,
            network: None,
            insecure_registries: Vec::new(),
            registry_credentials: PathBuf::new(),
            log_bytes_max: 1 << 20,
            runtimes: Default::default(),
        };
        let node = NodeRuntime::open(Env::real("test"), config, None).await.unwrap();
        let archive = layout(&busybox()).0.tar();
        let half = sent(&archive[..archive.len() / 2]).chain(stream::pending());
        node.import_image(Some("shop"), half).await.unwrap();
    });
}

#[test]
fn what_a_kill_leaves_is_gone_after_the_next_start() {
    with_root("killed", async |world| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "imports_half_of_an_image_where_it_is_told"]).env("INSULA_TEST_IMPORT", &world.dir);
        let mut killed = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let half = async || {
            let staging = names(&blobs(world)).into_iter().find(|name| name.starts_with(".new-"))?;
            let file = fs::File::open(blobs(world).join(staging).join("file")).ok()?;
            file.read_exact_at(&mut [0], 100_000).ok()
        };
        eventually("half of it is on the disk", half).await;
        killed.kill().unwrap();
        killed.wait().unwrap();
        let agent = world.open().await;
        assert!(has_nothing(world, &agent.runtime));

        // Killed between the layers and what makes the image known.
        let (files, top) = layout(&busybox());
        let image = import(&agent.runtime, Some("shop"), &files.tar()).await.unwrap().image;
        agent.crash();
        let hex = top.trim_start_matches("sha256:");
        fs::remove_file(blobs(world).join(hex)).unwrap();
        fs::remove_file(world.dir.join("images/used").join(hex)).unwrap();
        let agent = world.open().await;
        assert!(!agent.runtime.has_image(&image) && agent.runtime.images().unwrap().is_empty());
        assert_eq!(agent.runtime.remove_images(&[], Duration::from_secs(3600)).await.unwrap(), 0, "not at once");
        assert!(agent.runtime.remove_images(&[], Duration::ZERO).await.unwrap() > 0);
        for kind in ["blobs/sha256", "layers", "used"] {
            assert!(names(&world.dir.join("images").join(kind)).is_empty(), "{kind}");
        }
        // And then it is taken as if nothing had been.
        assert_eq!(import(&agent.runtime, Some("shop"), &files.tar()).await.unwrap().image, image);
        agent.crash();
    });
}

#[test]
fn an_image_in_an_archive_is_what_a_registry_would_have() {
    with_root("same", async |world| {
        let pulled = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&pulled).await.unwrap();
        let name = format!("{}/tiny:1", world.registry.address);
        let imported = import(&agent.runtime, Some(&name), &layout(&busybox()).0.tar()).await.unwrap();
        assert_eq!((imported.image, imported.new_bytes), (pulled.clone(), 0));
        // A blob that went bad is mended by it.
        let path = blobs(world).join(blob_name(&busybox()[0].bytes).trim_start_matches("blobs/sha256/"));
        fs::write(&path, "rotten").unwrap();
        let mended = import(&agent.runtime, Some(&name), &layout(&busybox()).0.tar()).await.unwrap();
        assert_eq!(mended.new_bytes, busybox()[0].bytes.len() as u64);
        assert_eq!(fs::read(&path).unwrap(), busybox()[0].bytes);
        agent.crash();
    });
}
