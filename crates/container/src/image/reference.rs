//! Names of images: `registry/path@sha256:…`, and the shorter forms that people type.

use std::{fmt, str::FromStr};

use oci_client::Reference;

use crate::Error;

/// Longest name for an image that comes without one, in bytes; with its digest it fits into a definition.
const NAME_LEN_MAX: usize = 255;

/// An image by content: registry, repository and digest. What a node runs is always named like this.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    registry: String,
    repository: String,
    /// `sha256:` and 64 hexadecimal digits.
    digest: String,
}

impl ImageRef {
    /// Host and port of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Digest of the manifest or of the list of manifests, `sha256:…`.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The name that an image shall have here, and the digest that it has. A tag is left out.
    pub(crate) fn named(name: &str, digest: &str) -> Result<Self, Error> {
        let refuse = |why: String| Error::Reference { text: name.to_owned(), why };
        if name.len() > NAME_LEN_MAX {
            return Err(refuse(format!("it has more than {NAME_LEN_MAX} bytes")));
        }
        let reference: Reference = name.parse().map_err(|error| refuse(format!("{error}")))?;
        if reference.digest().is_some() {
            return Err(refuse("leave the digest out: it is that of what is in the archive".to_owned()));
        }
        format!("{}/{}@{digest}", reference.registry(), reference.repository()).parse()
    }

    pub(crate) fn to_oci(&self) -> Reference {
        Reference::with_digest(self.registry.clone(), self.repository.clone(), self.digest.clone())
    }
}

/// An image as its registry calls it at the moment. What that is has to be looked up, and may be another image later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageTag {
    registry: String,
    repository: String,
    tag: String,
}

impl ImageTag {
    /// Host and port of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Its tag; `latest` when nobody said one.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Registry and path: what goes before the tag, and before a digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What it was found to be.
    pub(crate) fn with_digest(&self, digest: &str) -> Result<ImageRef, Error> {
        format!("{}@{digest}", self.name()).parse()
    }

    pub(crate) fn to_oci(&self) -> Reference {
        Reference::with_tag(self.registry.clone(), self.repository.clone(), self.tag.clone())
    }
}

impl FromStr for ImageTag {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| Error::Reference { text: text.to_owned(), why };
        let reference: Reference = text.parse().map_err(|error| refuse(format!("{error}")))?;
        if reference.digest().is_some() {
            return Err(refuse("it has a digest, and nothing has to be looked up".to_owned()));
        }
        let tag = reference.tag().ok_or_else(|| refuse("it has no tag".to_owned()))?;
        Ok(Self {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            tag: tag.to_owned(),
        })
    }
}

impl fmt::Display for ImageTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

impl FromStr for ImageRef {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| Error::Reference { text: text.to_owned(), why };
        let reference: Reference = text.parse().map_err(|error| refuse(format!("{error}")))?;
        let digest =
            reference.digest().ok_or_else(|| refuse("it has no digest: write registry/name@sha256:…".to_owned()))?;
        check_digest(digest).map_err(refuse)?;
        Ok(Self {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            digest: digest.to_owned(),
        })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.registry, self.repository, self.digest)
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Checks that a digest is one that we compute: `sha256:` and 64 lower-case hexadecimal digits. It becomes a file name,
/// so this check also keeps content from choosing paths.
pub(crate) fn check_digest(digest: &str) -> Result<&str, String> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        .ok_or_else(|| format!("{digest:?} is not sha256: and 64 lower-case hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gets_the_digest_of_its_content() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let named = |name: &str| ImageRef::named(name, &digest).map(|image| image.to_string());
        let cases = [
            ("shop", format!("docker.io/library/shop@{digest}")),
            ("team/shop:1.2", format!("docker.io/team/shop@{digest}")),
            ("localhost/shop:1", format!("localhost/shop@{digest}")),
            ("10.0.0.1:5000/shop", format!("10.0.0.1:5000/shop@{digest}")),
        ];
        for (name, expected) in cases {
            assert_eq!(named(name).expect(name), expected);
        }
        for bad in ["", "Shop", "shop shop", "../shop", &format!("shop@{digest}"), &"a".repeat(256)] {
            named(bad).expect_err(bad);
        }
    }

    #[test]
    fn short_names_and_tags_are_those_of_docker() {
        let cases = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("team/shop:1.2", "docker.io/team/shop:1.2"),
            ("localhost/shop", "localhost/shop:latest"),
            ("10.0.0.1:5000/shop:V1", "10.0.0.1:5000/shop:V1"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
        ];
        for (text, full) in cases {
            let tag: ImageTag = text.parse().expect(text);
            assert_eq!(tag.to_string(), full);
            assert_eq!(full.parse::<ImageTag>().expect(full), tag);
        }
        let digest = format!("sha256:{}", "0a".repeat(32));
        for bad in ["", "Shop", "shop:-1", "../shop", &format!("shop@{digest}"), &format!("shop:1@{digest}")] {
            bad.parse::<ImageTag>().expect_err(bad);
        }
        let tag: ImageTag = "shop:1".parse().expect("a tag");
        assert_eq!(tag.with_digest(&digest).expect("a digest").to_string(), format!("docker.io/library/shop@{digest}"));
        tag.with_digest("sha256:../../x").expect_err("what a registry says of itself is not trusted");
    }

    #[test]
    fn references_need_a_digest_and_keep_their_text() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let image: ImageRef = format!("10.0.0.1:5000/team/shop:1@{digest}").parse().expect("valid");
        assert_eq!((image.registry(), image.repository()), ("10.0.0.1:5000", "team/shop"));
        assert_eq!(image.to_string(), format!("10.0.0.1:5000/team/shop@{digest}"));
        assert_eq!(image.to_string().parse::<ImageRef>().expect("round trip"), image);
        for bad in ["", "shop", "shop:1", "shop@sha256:12", "UPPER@sha256:00", "shop@sha512:00", "../x@sha256:00"] {
            let error = bad.parse::<ImageRef>().expect_err(bad);
            assert!(!error.is_retryable(), "{error}");
        }
        assert!(check_digest("sha256:../../../../etc/passwd").is_err());
    }
}
