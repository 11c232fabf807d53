//! Reads images as registries and people give them, in a directory where everything else can be watched. What is not a
//! finding is told in words: what became of the input, and so how far it came.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use insula_env::Disk;
use insula_types::ServiceSpec;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::{
    archive::Staged,
    contents,
    packed::decoder,
    pull::{Image, assemble, parse_manifest, platform_digest},
    store::{self, Store},
    unpack::{UnpackError, unpack_at_most},
};
use crate::{Error, bundle};

/// Unpacked bytes of a layer here.
const BYTES_MAX: u64 = 1 << 20;
/// Words that are told of each of the errors that one document may bring about.
const BRIEF_WORDS: usize = 5;
/// What is said of an input in which nothing is wrong.
const TAKEN: &str = "taken";
/// What is in the file that nothing may change.
const CANARY: &str = "as it was";

/// As blobs are named.
pub fn digest_of(bytes: &[u8]) -> String {
    store::digest_of(bytes)
}

/// An image's manifest, a list of manifests, and a configuration.
pub fn document_seeds() -> Vec<Vec<u8>> {
    let digest = digest_of(b"something");
    let layer = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 1024 });
    let config = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 7 });
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let platform = json!({ "os": "linux", "architecture": "amd64" });
    let entry = json!({ "mediaType": kind, "digest": digest, "size": 9, "platform": platform });
    let arm = json!({ "os": "linux", "architecture": "arm64", "variant": "v8", "os.version": "1" });
    let other = json!({ "mediaType": kind, "digest": digest, "size": 9, "platform": arm, "annotations": { "a": "b" } });
    let packed = json!({
        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": digest, "size": 9,
        "urls": ["https://example.com/blob"], "annotations": { "a": "b" },
    });
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let all = [
        json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] }),
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry] }),
        json!({
            "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [digest] },
            "config": { "Env": ["A=b"], "Cmd": ["sh"], "User": "1:2", "WorkingDir": "/", "ExposedPorts": { "80/tcp": {} } },
            "history": [{ "created_by": "somebody", "empty_layer": true }],
        }),
        json!({ "schemaVersion": 2, "mediaType": docker, "config": config, "layers": [packed, layer], "annotations": {} }),
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
            "manifests": [other, entry] }),
        json!({
            "created": "2026-01-01T00:00:00Z", "author": "somebody", "os": "linux", "architecture": "amd64", "variant": "v2",
            "os.features": ["x"], "rootfs": { "type": "layers", "diff_ids": [digest, digest] },
            "config": {
                "Entrypoint": ["/bin/sh", "-c"], "Env": ["PATH=/bin", "A=", "=b", "C"], "User": "web:staff",
                "WorkingDir": "/srv", "StopSignal": "SIGRTMIN+3", "Volumes": { "/data": {} }, "Labels": { "a": "b" },
            },
        }),
    ];
    let text_keys = [
        json!({ "Env": ["A=b\0c"] }),
        json!({ "Cmd": ["sh", "a\0"] }),
        json!({ "Entrypoint": ["\0"] }),
        json!({ "User": "1\0" }),
        json!({ "Cmd": ["sh"], "WorkingDir": "/\0" }),
    ];
    let with_nul = text_keys.map(|config| {
        json!({
            "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [digest] }, "config": config,
        })
    });
    all.iter().chain(&with_nul).map(|one| one.to_string().into_bytes()).collect()
}

/// Reads a document as manifest, list and configuration.
///
/// # Errors
/// When what was taken names something outside the store.
pub fn documents(area: &Area, input: &[u8]) -> Result<String, String> {
    let digest = digest_of(input);
    // The configuration first, which few get to.
    let (mut images, mut manifests) = (Vec::new(), Vec::new());
    for document in [input, &area.manifest] {
        let manifest = match parse_manifest(&digest, document) {
            Ok(manifest) => manifest,
            Err(error) => {
                manifests.push(brief(&error));
                continue;
            }
        };
        area.is_inside(&area.store.blob(&manifest.config.digest))?;
        for config in [input, &area.config] {
            images.push(match assemble(&area.store, &manifest, config) {
                Ok(image) => use_image(area, &image)?,
                Err(error) => brief(&error),
            });
        }
    }
    let list = match platform_digest(&digest, input) {
        Ok(Some(found)) => {
            area.is_inside(&area.store.blob(&found))?;
            "a list".to_owned()
        }
        Ok(None) => "no list".to_owned(),
        Err(error) => brief(&error),
    };
    images.extend(manifests);
    images.push(list);
    Ok(images.join("; "))
}

/// Some words of what is wrong, without whose it is.
fn brief(error: &Error) -> String {
    let said = error.to_string();
    let why = said.split_once(" refused: ").map_or(said.as_str(), |(_, why)| why);
    why.split_whitespace().take(BRIEF_WORDS).collect::<Vec<_>>().join(" ")
}

/// Does what the start of a container does with an image.
fn use_image(area: &Area, image: &Image) -> Result<String, String> {
    let blobs = image.layer_blobs.iter().map(|(blob, _)| area.store.blob(&blob.digest));
    blobs.chain(image.layers.clone()).try_for_each(|path| area.is_inside(&path))?;
    let said = contents::check_platform(&image.config).map_or_else(|error| brief(&error), |()| TAKEN.to_owned());
    let signal = image.stop_signal(insula_types::InstanceId::new(1));
    let source = bundle::Source {
        files: &[],
        id: "i-00000001",
        service: &ServiceSpec::default(),
        image: &image.config,
        rootfs: &area.directory.join("rootfs"),
        sysfs: area.directory.join("sys"),
        users: Some(1 << 20),
        cgroup: "/insula/i-00000001",
        disks: &[],
        volumes: &[],
        secrets: None,
        outside: None,
        env: vec!["INSULA_APP=shop".to_owned()],
    };
    let made = match bundle::spec(&source) {
        Ok(spec) => {
            let process = spec.process().clone().unwrap_or_default();
            let texts = [process.args().clone(), process.env().clone()].into_iter().flatten().flatten();
            if texts.chain([process.cwd().display().to_string()]).any(|text| text.contains('\0')) {
                return Err("a program would be given a NUL character".to_owned());
            }
            if process.env().iter().flatten().any(|variable| variable.starts_with('=')) {
                return Err("a program would be given a variable without a name".to_owned());
            }
            let written = serde_json::to_vec(&spec).map_err(|error| format!("a bundle cannot be written: {error}"))?;
            serde_json::from_slice::<oci_spec::runtime::Spec>(&written)
                .map_err(|error| format!("a bundle cannot be read: {error}"))?;
            TAKEN.to_owned()
        }
        Err(why) => why,
    };
    Ok(format!("{said} {made} {}", if signal.is_some() { "by signal" } else { "" }))
}

/// A directory that is only for this.
pub struct Area {
    directory: PathBuf,
    store: Store,
    disk: Arc<dyn Disk>,
    manifest: Vec<u8>,
    config: Vec<u8>,
}

impl Area {
    /// In an empty directory.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn new(directory: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Self> {
        fs::write(directory.join("canary"), CANARY)?;
        fs::create_dir_all(directory.join("rootfs/etc"))?;
        fs::write(directory.join("rootfs/etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n")?;
        fs::write(directory.join("rootfs/etc/group"), "staff:x:50:root,web\nweb:x:34:web\n")?;
        let store = Store::open(&directory.join("store")).map_err(io::Error::other)?;
        let mut documents = document_seeds().into_iter();
        let (manifest, config) = (documents.next().unwrap_or_default(), documents.nth(1).unwrap_or_default());
        Ok(Self { directory, store, disk, manifest, config })
    }

    /// Layers that are well-formed, with links that lead out.
    ///
    /// # Errors
    /// When a tar file cannot be written.
    pub fn layer_seeds(&self) -> io::Result<Vec<Vec<u8>>> {
        let absolute = self.directory.to_string_lossy().into_owned();
        let mut seeds = Vec::new();
        for target in ["..", "../canary", absolute.as_str(), "file"] {
            let mut tar = Builder::new(Vec::new());
            for (kind, name) in [
                (EntryType::Directory, "d/"),
                (EntryType::Regular, "d/file"),
                (EntryType::Symlink, "link"),
                (EntryType::Regular, "link/canary"),
                (EntryType::Link, "hard"),
                (EntryType::Regular, "d/.wh.file"),
                (EntryType::Regular, "d/.wh..wh..opq"),
            ] {
                let mut header = header();
                header.set_entry_type(kind);
                header.set_size(if name.ends_with("file") || name.ends_with("canary") { 4 } else { 0 });
                if matches!(kind, EntryType::Symlink | EntryType::Link) {
                    tar.append_link(&mut header, name, target)?;
                } else {
                    let len = header.size()? as usize;
                    tar.append_data(&mut header, name, b"text".get(..len).unwrap_or_default())?;
                }
                seeds.push(tar.get_ref().clone());
            }
            seeds.push(tar.into_inner()?);
        }
        let rich = rich_layer()?;
        seeds.extend([packed(&rich, false)?, packed(&rich, true)?, rich]);
        Ok(seeds)
    }

    /// An OCI image layout, and what `docker save` used to write.
    ///
    /// # Errors
    /// When a tar file cannot be written.
    pub fn archive_seeds(&self) -> io::Result<Vec<Vec<u8>>> {
        let layer = tar_of(vec![("etc/motd".to_owned(), b"hello".to_vec())])?;
        let diff_id = digest_of(&layer);
        let config = json!({
            "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [diff_id] },
            "config": { "Cmd": ["sh"] },
        });
        let config = config.to_string().into_bytes();
        let described = |kind: &str, bytes: &[u8]| {
            let kind = format!("application/vnd.oci.image.{kind}");
            json!({ "mediaType": kind, "digest": digest_of(bytes), "size": bytes.len() })
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("config.v1+json", &config), "layers": [described("layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = described("manifest.v1+json", &manifest);
        entry["annotations"] = json!({ "io.containerd.image.name": "docker.io/library/shop:1" });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes();
        let blob = |bytes: &Vec<u8>| {
            (format!("blobs/sha256/{}", digest_of(bytes).trim_start_matches("sha256:")), bytes.clone())
        };
        let layout = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            blob(&layer),
            blob(&config),
            blob(&manifest),
            ("index.json".to_owned(), index),
        ];
        let name = format!("{}.json", digest_of(&config).trim_start_matches("sha256:"));
        let saved = json!([{ "Config": name, "RepoTags": ["shop:1"], "Layers": ["1/layer.tar"] }]);
        let old = vec![
            (name, config),
            ("1/layer.tar".to_owned(), layer),
            ("manifest.json".to_owned(), saved.to_string().into_bytes()),
        ];
        let [layout, old] = [tar_of(layout)?, tar_of(old)?];
        Ok(vec![packed(&layout, false)?, packed(&old, true)?, layout, old])
    }

    /// Unpacks a layer.
    ///
    /// # Errors
    /// When it got out, or has more than it may.
    pub fn layer(&self, input: &[u8]) -> Result<String, String> {
        let (blob, root) = (self.directory.join("blob"), self.directory.join("root"));
        let failed = |error: io::Error| format!("the disk: {error}");
        fs::write(&blob, input).and_then(|()| fs::create_dir_all(&root)).map_err(failed)?;
        let said = match unpack_at_most(BYTES_MAX, &blob, &root, &diff_id(input)) {
            Ok(()) => TAKEN.to_owned(),
            Err(UnpackError::Content(why)) => why,
            Err(UnpackError::Io(error)) => error.to_string(),
        };
        let mut kinds = BTreeMap::new();
        let size = size_below(&root, &mut kinds).map_err(failed)?;
        fs::remove_dir_all(&root).map_err(failed)?;
        if size > BYTES_MAX {
            return Err(format!("{size} bytes were unpacked, where {BYTES_MAX} are allowed"));
        }
        self.is_as_it_was()?;
        let came = kinds.iter().map(|(kind, count)| format!("{kind}{}", count.ilog2())).collect::<String>();
        Ok(format!("{came} {}", said.replace(root.to_string_lossy().as_ref(), "")))
    }

    /// Takes an archive apart, and makes its image.
    ///
    /// # Errors
    /// When it got out, or its files stay.
    pub fn archive(&self, input: &[u8]) -> Result<String, String> {
        let staged = Staged::read(input, self.directory.join("staged"), Arc::clone(&self.disk));
        let taken = staged.and_then(|staged| self.store.take_over(&staged, None));
        let said = match &taken {
            Ok(imported) => format!("{TAKEN} {}", imported.image.repository()),
            Err(error) => error.to_string(),
        };
        self.empty_store().map_err(|error| format!("the disk: {error}"))?;
        self.is_as_it_was()?;
        Ok(said)
    }

    /// What one input left would be found by the next.
    fn empty_store(&self) -> io::Result<()> {
        for directory in [self.store.blobs(), self.store.layers(), self.store.notes()] {
            if fs::read_dir(directory)?.next().is_some() {
                fs::remove_dir_all(directory)?;
                fs::create_dir(directory)?;
            }
        }
        Ok(())
    }

    fn is_inside(&self, path: &Path) -> Result<(), String> {
        let is_plain = path
            .strip_prefix(self.directory.join("store"))
            .is_ok_and(|below| below.components().all(|part| matches!(part, std::path::Component::Normal(_))));
        if is_plain { Ok(()) } else { Err(format!("{} is outside", path.display())) }
    }

    fn is_as_it_was(&self) -> Result<(), String> {
        let known = ["blob", "canary", "rootfs", "store"];
        if !fs::read(self.directory.join("canary")).is_ok_and(|text| text == CANARY.as_bytes()) {
            return Err("a file outside was changed".to_owned());
        }
        let names = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let strange: Vec<_> = names.filter(|name| !known.iter().any(|one| name == one)).collect();
        if strange.is_empty() { Ok(()) } else { Err(format!("{strange:?} came to be outside")) }
    }
}

/// One that a reader finds nothing missing in: it takes owner and time from it.
fn header() -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn tar_of(files: Vec<(String, Vec<u8>)>) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = header();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, &bytes[..])?;
    }
    tar.into_inner()
}

/// A layer with what most have not: long names, attributes, a sparse file, devices, and the root itself.
fn rich_layer() -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let mut append = |kind: EntryType, name: &str, bytes: &[u8]| {
        let mut header = header();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes)
    };
    let attribute = |name: &str, value: &str| {
        let rest = format!(" {name}={value}\n");
        let len = rest.len() + 2;
        format!("{len}{rest}").into_bytes()
    };
    append(EntryType::XGlobalHeader, "pax_global_header", &attribute("comment", "somebody"))?;
    append(EntryType::Directory, "./", &[])?;
    append(EntryType::Regular, &format!("long/{}", "name".repeat(40)), b"text")?;
    append(EntryType::XHeader, "x", &attribute("SCHILY.xattr.user.a", "b"))?;
    append(EntryType::Regular, "attributes", b"text")?;
    append(EntryType::XHeader, "x", &attribute("path", "another"))?;
    append(EntryType::Regular, "one", b"text")?;
    append(EntryType::Block, "disk", &[])?;
    append(EntryType::Directory, "another/", &[])?;
    let mut sparse = header();
    sparse.set_entry_type(EntryType::GNUSparse);
    sparse.set_path("sparse")?;
    sparse.set_size(4);
    if let Some(gnu) = sparse.as_gnu_mut() {
        gnu.realsize.copy_from_slice(b"00000010004\0");
        gnu.sparse[0].offset.copy_from_slice(b"00000010000\0");
        gnu.sparse[0].numbytes.copy_from_slice(b"00000000004\0");
    }
    sparse.set_cksum();
    tar.append(&sparse, &b"text"[..])?;
    tar.into_inner()
}

/// With gzip or zstd.
fn packed(bytes: &[u8], is_zstd: bool) -> io::Result<Vec<u8>> {
    if is_zstd {
        return zstd::encode_all(bytes, 1);
    }
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes)?;
    packer.finish()
}

/// The digest that a layer has to have, as far as it is not larger than it may be.
fn diff_id(layer: &[u8]) -> String {
    let mut unpacked = Vec::new();
    // What is damaged has none, which is found out later.
    decoder(layer).and_then(|layer| layer.take(BYTES_MAX).read_to_end(&mut unpacked)).ok();
    digest_of(&unpacked)
}

/// Bytes of all files, and how many there are of each kind.
fn size_below(directory: &Path, kinds: &mut BTreeMap<char, u32>) -> io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let kind = if meta.is_dir() {
            size += size_below(&entry.path(), kinds)?;
            'd'
        } else if meta.is_file() {
            size += meta.len();
            if meta.nlink() > 1 { 'h' } else { 'f' }
        } else if meta.is_symlink() {
            'l'
        } else {
            'w'
        };
        *kinds.entry(kind).or_default() += 1;
    }
    Ok(size)
}
