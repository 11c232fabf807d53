//! Reads images as registries and people give them, in a directory where everything else can be watched.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use insula_env::Disk;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::{
    archive::Staged,
    contents,
    pull::{assemble, parse_manifest, platform_digest},
    store::{Store, digest_of},
    unpack::unpack_at_most,
};

/// Unpacked bytes of a layer here.
const BYTES_MAX: u64 = 1 << 20;
/// What is in the file that nothing may change.
const CANARY: &str = "as it was";

/// An image's manifest, a list of manifests, and a configuration.
pub fn document_seeds() -> Vec<Vec<u8>> {
    let digest = digest_of(b"something");
    let layer = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 1024 });
    let config = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 7 });
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let platform = json!({ "os": "linux", "architecture": "amd64" });
    let entry = json!({ "mediaType": kind, "digest": digest, "size": 9, "platform": platform });
    let all = [
        json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] }),
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry] }),
        json!({
            "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [digest] },
            "config": { "Env": ["A=b"], "Cmd": ["sh"], "User": "1:2", "WorkingDir": "/", "ExposedPorts": { "80/tcp": {} } },
            "history": [{ "created_by": "somebody", "empty_layer": true }],
        }),
    ];
    all.iter().map(|one| one.to_string().into_bytes()).collect()
}

/// Reads a document as manifest, list and configuration.
///
/// # Errors
/// When what was taken names something outside the store.
pub fn documents(area: &Area, input: &[u8]) -> Result<(), String> {
    let digest = digest_of(input);
    if let Ok(Some(found)) = platform_digest(&digest, input) {
        area.is_inside(&area.store.blob(&found))?;
    }
    let manifests = [parse_manifest(&digest, input).ok(), parse_manifest(&digest, &area.manifest).ok()];
    for manifest in manifests.into_iter().flatten() {
        area.is_inside(&area.store.blob(&manifest.config.digest))?;
        for config in [input, area.config.as_slice()] {
            let Ok(image) = assemble(&area.store, &manifest, config) else { continue };
            let blobs = image.layer_blobs.iter().map(|(blob, _)| area.store.blob(&blob.digest));
            blobs.chain(image.layers).try_for_each(|path| area.is_inside(&path))?;
        }
    }
    Ok(())
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
                let mut header = Header::new_gnu();
                header.set_entry_type(kind);
                header.set_mode(0o755);
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
        Ok(seeds)
    }

    /// An OCI image layout, and what `docker save` used to write.
    ///
    /// # Errors
    /// When a tar file cannot be written.
    pub fn archive_seeds(&self) -> io::Result<Vec<Vec<u8>>> {
        let (blob, of_config) = (digest_of(&self.manifest), digest_of(&self.config));
        let name = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
        let entry = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": blob, "size": 9 });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes();
        let saved = json!([{ "Config": "c.json", "RepoTags": ["shop:1"], "Layers": ["1/layer.tar"] }]);
        let layout = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index),
            (name(&blob), self.manifest.clone()),
            (name(&of_config), self.config.clone()),
        ];
        let old = vec![
            ("c.json".to_owned(), self.config.clone()),
            ("1/layer.tar".to_owned(), b"a layer".to_vec()),
            ("manifest.json".to_owned(), saved.to_string().into_bytes()),
        ];
        [layout, old].into_iter().map(tar_of).collect()
    }

    /// Unpacks a layer.
    ///
    /// # Errors
    /// When it got out, or has more than it may.
    pub fn layer(&self, input: &[u8]) -> Result<(), String> {
        let (blob, root) = (self.directory.join("blob"), self.directory.join("root"));
        let failed = |error: io::Error| format!("the disk: {error}");
        fs::write(&blob, input).and_then(|()| fs::create_dir_all(&root)).map_err(failed)?;
        // Its digest is never right, which is found out last.
        drop(unpack_at_most(BYTES_MAX, &blob, &root, ""));
        let size = size_below(&root).map_err(failed)?;
        fs::remove_dir_all(&root).map_err(failed)?;
        if size > BYTES_MAX {
            return Err(format!("{size} bytes were unpacked, where {BYTES_MAX} are allowed"));
        }
        self.is_as_it_was(&["blob", "canary", "store"])
    }

    /// Takes an archive apart, and finds its image.
    ///
    /// # Errors
    /// When it got out, or its files stay.
    pub fn archive(&self, input: &[u8]) -> Result<(), String> {
        if let Ok(staged) = Staged::read(input, self.directory.join("staged"), Arc::clone(&self.disk))
            && let Ok(found) = contents::find(&staged)
        {
            self.is_inside(&self.store.blob(found.digest()))?;
            documents(self, found.manifest())?;
        }
        self.is_as_it_was(&["blob", "canary", "store"])
    }

    fn is_inside(&self, path: &Path) -> Result<(), String> {
        let is_plain = path
            .strip_prefix(self.directory.join("store"))
            .is_ok_and(|below| below.components().all(|part| matches!(part, std::path::Component::Normal(_))));
        if is_plain { Ok(()) } else { Err(format!("{} is outside", path.display())) }
    }

    fn is_as_it_was(&self, known: &[&str]) -> Result<(), String> {
        if !fs::read(self.directory.join("canary")).is_ok_and(|text| text == CANARY.as_bytes()) {
            return Err("a file outside was changed".to_owned());
        }
        let names = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let strange: Vec<_> = names.filter(|name| !known.iter().any(|one| name == one)).collect();
        if strange.is_empty() { Ok(()) } else { Err(format!("{strange:?} came to be outside")) }
    }
}

fn tar_of(files: Vec<(String, Vec<u8>)>) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, &bytes[..])?;
    }
    tar.into_inner()
}

fn size_below(directory: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        size += if meta.is_dir() {
            size_below(&entry.path())?
        } else if meta.is_file() {
            meta.len()
        } else {
            0
        };
    }
    Ok(size)
}
