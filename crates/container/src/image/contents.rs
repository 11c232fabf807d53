//! Finds the image in an archive: an OCI image layout (OCI image specification, "Image Layout"), also as newer `docker save`
//! writes it, or what older `docker save`, `podman save` and `skopeo copy` write: `manifest.json` and layers.

use std::collections::{BTreeMap, BTreeSet};

use oci_client::manifest::{ImageIndexEntry, OciImageIndex, Platform};
use oci_spec::image::{Arch, ImageConfiguration, Os};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    archive::{Staged, refuse},
    pull::platform_digest,
    store::digest_of,
};
use crate::Error;

/// Images that are named in a refusal, at most.
const NAMED_MAX: usize = 10;
/// Documents that an image layout may list.
const IMAGE_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// The whole name that containerd, and so newer `docker save`, writes beside an image.
const NAME_BY_CONTAINERD: &str = "io.containerd.image.name";
/// A tag, or a whole name.
const NAME_OR_TAG: &str = "org.opencontainers.image.ref.name";

/// The image of an archive.
#[derive(Debug)]
pub(super) struct Contents {
    /// The name that the archive gives it.
    pub name: Option<String>,
    /// The manifest, after the list of manifests that it is in: digests and texts.
    pub documents: Vec<(String, Vec<u8>)>,
}

impl Contents {
    /// The image itself.
    pub fn digest(&self) -> &str {
        self.documents.first().map_or("", |(digest, _)| digest)
    }

    /// The manifest of this platform.
    pub fn manifest(&self) -> &[u8] {
        self.documents.last().map_or(&[], |(_, text)| text)
    }
}

/// What `manifest.json` says of one image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A manifest of our own: always the same text for the same image, so that it has the same digest. Fields and their order are
/// never changed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    schema_version: u8,
    media_type: &'static str,
    config: Described,
    layers: Vec<Described>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    media_type: &'static str,
    digest: String,
    size: u64,
}

/// Finds the image.
///
/// # Errors
/// [`Error::Archive`] when there is none, more than one, or none for this platform.
pub(super) fn find(staged: &Staged) -> Result<Contents, Error> {
    let saved = staged.named("manifest.json")?;
    let saved: Option<Vec<Saved>> = saved.map(|text| parse("manifest.json", &text)).transpose()?;
    if let (Some(_), Some(index)) = (staged.digest_of("oci-layout"), staged.named("index.json")?) {
        let mut contents = in_layout(staged, &parse("index.json", &index)?)?;
        if let (None, Some([one])) = (&contents.name, saved.as_deref()) {
            contents.name = one.repo_tags.iter().flatten().next().cloned();
        }
        return Ok(contents);
    }
    match saved {
        Some(saved) => as_saved(staged, &saved),
        None => refuse(
            "it is neither what `docker save` writes nor an OCI image layout: it has no manifest.json, and no oci-layout \
             with an index.json",
        ),
    }
}

/// Refuses a configuration that is for other machines.
pub(super) fn check_platform(config: &ImageConfiguration) -> Result<(), Error> {
    let (os, arch) = (config.os(), config.architecture());
    if *os == Os::default() && *arch == Arch::default() {
        return Ok(());
    }
    refuse(format!("it is for {os}/{arch}, and this node is {}", here()))
}

fn here() -> String {
    format!("{}/{}", Os::default(), Arch::default())
}

fn in_layout(staged: &Staged, index: &OciImageIndex) -> Result<Contents, Error> {
    let is_image =
        |entry: &&ImageIndexEntry| IMAGE_TYPES.contains(&entry.media_type.as_str()) && entry.artifact_type.is_none();
    let images: Vec<_> = index.manifests.iter().filter(is_image).collect();
    let fits = |platform: &Platform| platform.os == Os::default() && platform.architecture == Arch::default();
    let fitting: Vec<_> = images.iter().copied().filter(|entry| entry.platform.as_ref().is_none_or(fits)).collect();
    let distinct: BTreeSet<_> = fitting.iter().map(|entry| entry.digest.as_str()).collect();
    let digest = match (distinct.len(), images.as_slice()) {
        (1, _) => fitting.first().map_or("", |entry| entry.digest.as_str()),
        (0, []) => return refuse("its index.json lists no image"),
        (0, others) => {
            let platforms = others.iter().filter_map(|entry| entry.platform.as_ref());
            let platforms: BTreeSet<_> =
                platforms.map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
            return refuse(format!("it is for {}, and this node is {}", listed(platforms), here()));
        }
        _ => {
            let names = fitting.iter().map(|entry| name_of(entry).unwrap_or_else(|| entry.digest.clone()));
            return several(names.collect());
        }
    };
    let name = fitting.iter().find_map(|entry| name_of(entry));
    let mut documents = vec![(digest.to_owned(), staged.document(digest)?)];
    if let Some((_, text)) = documents.first()
        && let Some(platform) = platform_digest(digest, text)?
    {
        documents.push((platform.clone(), staged.document(&platform)?));
    }
    Ok(Contents { name, documents })
}

/// The whole name of an entry; none: it has no more than a tag.
fn name_of(entry: &ImageIndexEntry) -> Option<String> {
    let annotations: &BTreeMap<_, _> = entry.annotations.as_ref()?;
    let whole = annotations.get(NAME_BY_CONTAINERD);
    let whole = whole.or_else(|| annotations.get(NAME_OR_TAG).filter(|name| name.contains(['/', ':'])));
    whole.cloned()
}

fn as_saved(staged: &Staged, saved: &[Saved]) -> Result<Contents, Error> {
    let [one] = saved else {
        if saved.is_empty() {
            return refuse("its manifest.json lists no image");
        }
        let names = saved.iter().map(|one| {
            let tags = one.repo_tags.iter().flatten().next();
            tags.unwrap_or(&one.config).clone()
        });
        return several(names.collect());
    };
    let described = |media_type: &'static str, name: &str| match staged.digest_of(name) {
        Some(digest) => {
            let size = staged.size_of(digest).unwrap_or_default();
            Ok(Described { media_type, digest: digest.to_owned(), size })
        }
        None => refuse(format!("it lacks {name}: was it cut off?")),
    };
    let config = described("application/vnd.oci.image.config.v1+json", &one.config)?;
    // Docker names it by its digest.
    let hex = one.config.trim_end_matches(".json");
    if hex.len() == 64 && config.digest.trim_start_matches("sha256:") != hex {
        return refuse(format!("{} has the digest {}: it was damaged or changed", one.config, config.digest));
    }
    let layer = |name: &String| described("application/vnd.oci.image.layer.v1.tar", name);
    let layers = one.layers.iter().map(layer).collect::<Result<_, _>>()?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::to_vec(&Made { schema_version: 2, media_type, config, layers })
        .map_err(|error| Error::Archive { why: format!("its manifest cannot be written: {error}") })?;
    let name = one.repo_tags.iter().flatten().next().cloned();
    Ok(Contents { name, documents: vec![(digest_of(&manifest), manifest)] })
}

fn several<T>(names: BTreeSet<String>) -> Result<T, Error> {
    let count = names.len();
    refuse(format!("it has {count} images, and one is taken at a time: {}. Save one: docker save NAME", listed(names)))
}

fn listed(names: BTreeSet<String>) -> String {
    let count = names.len();
    let mut text = names.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join(", ");
    if count > NAMED_MAX {
        text.push_str(&format!(" and {} more", count - NAMED_MAX));
    }
    text
}

fn parse<T: DeserializeOwned>(name: &str, text: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(text).map_err(|error| Error::Archive { why: format!("its {name}: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_of_ours_has_the_same_digest_for_ever() {
        let described = |media_type, digit: &str, size| Described {
            media_type,
            digest: format!("sha256:{}", digit.repeat(64)),
            size,
        };
        let made = Made {
            schema_version: 2,
            media_type: "application/vnd.oci.image.manifest.v1+json",
            config: described("application/vnd.oci.image.config.v1+json", "1", 7),
            layers: vec![described("application/vnd.oci.image.layer.v1.tar", "2", 1024)],
        };
        let text = serde_json::to_vec(&made).expect("written");
        assert_eq!(
            digest_of(&text),
            "sha256:4b0ffe99e3ffa02535786676da91b36ce9ae587693581fd0e25be9523ab58eef",
            "references in definitions would not be found any more"
        );
    }
}
