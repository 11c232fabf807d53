//! Images as archives: what `docker save` writes, old and new, and OCI image layouts.

use serde_json::{Value, json};

use super::image::{ARCHITECTURE, File, Layer, MANIFEST, Pack, described, digest, documents_for, layer};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A tar file of these entries.
pub fn tar(entries: &[File<'_>]) -> Vec<u8> {
    layer(entries, &Pack::Plain).bytes
}

/// Files of an archive, by name.
#[derive(Clone, Default)]
pub struct Files(pub Vec<(String, Vec<u8>)>);

impl Files {
    pub fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((name.into(), bytes.into()));
    }

    /// Replaces a file, or takes it out.
    pub fn set(&mut self, name: &str, bytes: Option<Vec<u8>>) {
        let at = self.0.iter().position(|(one, _)| one == name).unwrap_or_else(|| panic!("no {name}"));
        match bytes {
            Some(bytes) => self.0[at].1 = bytes,
            None => drop(self.0.remove(at)),
        }
    }

    pub fn tar(&self) -> Vec<u8> {
        let entries: Vec<_> = self.0.iter().map(|(name, bytes)| File::Plain(name, 0o644, bytes.clone())).collect();
        tar(&entries)
    }

    pub fn blob(&mut self, bytes: &[u8]) {
        self.add(blob_name(bytes), bytes);
    }
}

pub fn blob_name(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", digest(bytes).trim_start_matches("sha256:"))
}

/// What `docker save` wrote before version 25, of uncompressed layers: the manifest comes last.
pub fn saved(names: &[&str], layers: &[Layer]) -> Files {
    let (config, _) = documents_for(ARCHITECTURE, layers);
    let mut files = Files::default();
    let config_name = format!("{}.json", digest(&config).trim_start_matches("sha256:"));
    let layer_name = |at: usize| format!("{at:064}/layer.tar");
    for (at, layer) in layers.iter().enumerate() {
        files.add(format!("{at:064}/VERSION"), "1.0");
        files.add(layer_name(at), layer.bytes.clone());
    }
    files.add(&config_name, config);
    let names_of_layers: Vec<_> = (0..layers.len()).map(layer_name).collect();
    let one = json!({ "Config": config_name, "RepoTags": names, "Layers": names_of_layers });
    files.add("manifest.json", serde_json::to_vec(&json!([one])).unwrap());
    files
}

/// Blobs of an image, and its manifest.
pub fn add_image(files: &mut Files, architecture: &str, layers: &[Layer]) -> Vec<u8> {
    let (config, manifest) = documents_for(architecture, layers);
    for bytes in layers.iter().map(|layer| &layer.bytes).chain([&config, &manifest]) {
        files.blob(bytes);
    }
    manifest
}

/// An entry of an index.
pub fn entry(bytes: &[u8], kind: &str, more: &Value) -> Value {
    let mut entry = described(bytes, kind);
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    entry
}

pub fn index(entries: &[Value]) -> Vec<u8> {
    serde_json::to_vec(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries })).unwrap()
}

/// The two files that make blobs an OCI image layout.
pub fn add_index(files: &mut Files, entries: &[Value]) {
    files.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    files.add("index.json", index(entries));
}

/// An OCI image layout of one image without a name; the image's digest.
pub fn layout(layers: &[Layer]) -> (Files, String) {
    let mut files = Files::default();
    let manifest = add_image(&mut files, ARCHITECTURE, layers);
    add_index(&mut files, &[entry(&manifest, MANIFEST, &json!({}))]);
    (files, digest(&manifest))
}

/// A platform as an index names it.
pub fn platform(architecture: &str) -> Value {
    json!({ "platform": { "os": "linux", "architecture": architecture } })
}
