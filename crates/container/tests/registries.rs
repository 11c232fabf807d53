//! Registries that let in who shows a password: that of the tests in all its manners, and Debian's own.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use insula_container::{Error, ImageRef, ImageTag, Runtime};
use insula_env::net;
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};
use support::{
    World, eventually,
    image::{Door, File, Layer, PASSWORD, Pack, USER, layer},
    with_root,
};

fn small(name: &str) -> Vec<Layer> {
    vec![layer(&[File::Plain(name, 0o644, b"text".to_vec())], &Pack::Gzip)]
}

/// Writes the file of credentials, for its owner alone.
fn know(world: &World, text: &str) {
    fs::write(&world.config.registry_credentials, text).unwrap();
    fs::set_permissions(&world.config.registry_credentials, fs::Permissions::from_mode(0o600)).unwrap();
}

fn entry(registry: &str, password: &str) -> String {
    let auth = STANDARD.encode(format!("{USER}:{password}"));
    format!(r#"{{"auths": {{"{registry}": {{"auth": "{auth}"}}}}}}"#)
}

/// An error with its causes, and what its debug form says: the password is in neither.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    let all = format!("{text} {error:?}");
    assert!(!all.contains(PASSWORD) && !all.contains(&STANDARD.encode(format!("{USER}:{PASSWORD}"))), "{all}");
    assert!(error.is_retryable(), "{error:?}: credentials can be added at any time");
    text
}

#[test]
fn a_registry_gets_the_credentials_that_are_there_now() {
    with_root("registries", async |world| {
        let registry = world.registry.address.to_string();
        let agent = world.open().await;
        let tagged: ImageTag = format!("{registry}/tiny:1").parse().unwrap();
        for (at, door) in [Door::Basic, Door::Bearer].into_iter().enumerate() {
            world.registry.set_door(door);
            let image = world.registry.push(&small(&format!("file-{at}")));
            let refused = async || told(&agent.runtime.ensure_image(&image).await.expect_err("no way in"));
            fs::remove_file(&world.config.registry_credentials).ok();
            let said = refused().await;
            assert!(said.contains(&format!("{registry} wants credentials, and ")), "{said}");
            assert!(said.contains("registries.json has none for it: add them there"), "{said}");

            know(world, &entry(&registry, "wrong"));
            let said = refused().await;
            assert!(said.contains("does not accept the credentials in") && said.contains("correct them"), "{said}");
            know(world, &entry(&registry, PASSWORD)[1..]);
            assert!(refused().await.contains("not in the form of Docker's config.json"));
            know(world, &entry(&registry, PASSWORD));
            fs::set_permissions(&world.config.registry_credentials, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(refused().await.contains("its mode is 644: set it with `chmod 600`"));
            told(&agent.runtime.resolve_tag(&tagged).await.expect_err("no way in either"));

            know(world, &entry(&registry, PASSWORD));
            assert_eq!(agent.runtime.resolve_tag(&tagged).await.unwrap(), image);
            assert!(agent.runtime.ensure_image(&image).await.unwrap().pulled_bytes > 0, "{door:?}");
        }

        // Nobody is asked for what is missing in a registry that lets us in, and none is needed by an open one.
        let missing: ImageRef = format!("{registry}/tiny@sha256:{}", "0".repeat(64)).parse().unwrap();
        let said = told(&agent.runtime.ensure_image(&missing).await.expect_err("it has no such image"));
        assert!(!said.contains("credentials"), "{said}");
        know(world, "damaged");
        world.registry.set_door(Door::Open);
        let image = world.registry.push(&small("open"));
        agent.runtime.ensure_image(&image).await.unwrap();
        agent.crash();
    });
}

/// Debian's registry, with one user; ended when this is dropped.
struct DebianRegistry(Child);

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl DebianRegistry {
    /// None: it is not installed.
    fn start(dir: &Path, address: &str) -> Option<Self> {
        // That of the password, by bcrypt: `htpasswd -Bbn insula swordfish`.
        let hash = "$2b$05$abcdefghijklmnopqrstuupWDwJQeCHYIBQy8WvkVB6ImhZ476YYy";
        let (users, config) = (dir.join("htpasswd"), dir.join("registry.yml"));
        fs::write(&users, format!("{USER}:{hash}\n")).unwrap();
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {0}/registry}}}}\nhttp: {{addr: \"{address}\"}}\n\
             auth: {{htpasswd: {{realm: test, path: {0}/htpasswd}}}}\n",
            dir.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().ok().map(Self)
    }
}

/// Pushes an image under the tag `1`.
async fn push(address: &str, layers: &[Layer]) -> ImageRef {
    let (config, manifest) = support::image::documents(layers);
    let (client, reference) = pusher(address, "1").await;
    for blob in layers.iter().map(|layer| &layer.bytes).chain([&config]) {
        client.push_blob(&reference, blob.clone(), &support::image::digest(blob)).await.unwrap();
    }
    push_document(address, "1", manifest, "application/vnd.oci.image.manifest.v1+json").await
}

async fn pusher(address: &str, tag: &str) -> (Client, Reference) {
    let protocol = ClientProtocol::Http;
    let client = Client::new(ClientConfig { protocol, ..ClientConfig::default() });
    let reference: Reference = format!("{address}/team/small:{tag}").parse().unwrap();
    let auth = RegistryAuth::Basic(USER.to_owned(), PASSWORD.to_owned());
    client.store_auth_if_needed(reference.resolve_registry(), &auth).await;
    (client, reference)
}

/// Lets a tag stand for a manifest or a list of them.
async fn push_document(address: &str, tag: &str, document: Vec<u8>, kind: &str) -> ImageRef {
    let (client, reference) = pusher(address, tag).await;
    let digest = support::image::digest(&document);
    client.push_manifest_raw(&reference, document, kind.parse().unwrap()).await.unwrap();
    format!("{address}/team/small@{digest}").parse().unwrap()
}

#[test]
fn debians_registry_with_htpasswd_lets_us_in() {
    with_root("htpasswd", async |world| {
        let address = "127.0.0.1:5000";
        let Some(registry) = DebianRegistry::start(&world.dir, address) else {
            eprintln!("skipped: no docker-registry");
            return;
        };
        let second = Duration::from_secs(1);
        eventually("it answers", async || net::connect(address.parse().unwrap(), second).await.ok()).await;
        let image = push(address, &small("file")).await;
        let agent = world.open().await;
        let said = told(&agent.runtime.ensure_image(&image).await.expect_err("no credentials"));
        assert!(said.contains("has none for it"), "{said}");
        know(world, &entry(address, "wrong"));
        let said = told(&agent.runtime.ensure_image(&image).await.expect_err("wrong ones"));
        assert!(said.contains("does not accept"), "{said}");
        know(world, &entry(&format!("http://{address}/v2/"), PASSWORD));
        agent.runtime.ensure_image(&image).await.unwrap();

        // What a tag stands for: an image, a later one, a list of images for several platforms.
        let tag: ImageTag = format!("{address}/team/small:1").parse().unwrap();
        assert_eq!(agent.runtime.resolve_tag(&tag).await.unwrap(), image);
        let moved = push(address, &small("another")).await;
        assert_ne!(moved, image);
        assert_eq!(agent.runtime.resolve_tag(&tag).await.unwrap(), moved);
        let (_, manifest) = support::image::documents(&small("another"));
        let platform = support::archive::platform(support::image::ARCHITECTURE);
        let list = support::archive::index(&[support::archive::entry(&manifest, support::image::MANIFEST, &platform)]);
        let index = push_document(address, "all", list, "application/vnd.oci.image.index.v1+json").await;
        let all: ImageTag = format!("{address}/team/small:all").parse().unwrap();
        assert_eq!(agent.runtime.resolve_tag(&all).await.unwrap(), index, "the list, not the image in it");
        agent.runtime.ensure_image(&index).await.unwrap();
        let missing: ImageTag = format!("{address}/team/small:none").parse().unwrap();
        let error = agent.runtime.resolve_tag(&missing).await.expect_err("no such tag");
        assert!(error.is_answer() && told(&error).to_lowercase().contains("unknown"), "{error:?}");
        drop(registry);
        let error = agent.runtime.resolve_tag(&tag).await.expect_err("nobody listens");
        assert!(!error.is_answer(), "{error:?}");
        agent.crash();
    });
}
