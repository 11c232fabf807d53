//! Names of images as people write them: `registry/name:tag@sha256:…`, of which tag and digest may be left out.

use std::{fmt, str::FromStr};

/// Longest name in bytes, tag and digest included.
const LEN_MAX: usize = 512;
/// Longest tag in bytes (OCI distribution specification).
const TAG_LEN_MAX: usize = 128;
const DIGEST: &str = "a digest is sha256: and 64 lower-case hexadecimal digits";

/// An image as a definition names it. Whether short names are those of a registry, and which, others say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageName {
    /// Registry, if it says one, and path.
    pub name: String,
    /// What it is called there at the moment; none: that is not said.
    pub tag: Option<String>,
    /// What is in it, `sha256:…`; none: that has to be looked up.
    pub digest: Option<String>,
}

impl ImageName {
    /// Of an image as releases name it, by its content, and the tag that it was found by.
    pub fn of_release(image: &str, tag: Option<&String>) -> Self {
        let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
        Self { name: name.to_owned(), tag: tag.cloned(), digest: digest.map(str::to_owned) }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A text that names no image: what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImageNameError(pub(crate) &'static str);

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        read(text).map_err(ImageNameError)
    }
}

fn read(text: &str) -> Result<ImageName, &'static str> {
    const SHAPE: &str = "write registry/name:tag, or registry/name@sha256:… with 64 lower-case hexadecimal digits";
    if text.len() > LEN_MAX {
        return Err("it may have 512 characters at most");
    }
    let (named, digest) = text.split_once('@').map_or((text, None), |(named, digest)| (named, Some(digest)));
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let is_digest = |digest: &str| {
        digest.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(is_hex))
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err(DIGEST);
    }
    // A colon before the last slash is that of a port.
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match named[last..].find(':') {
        Some(colon) => (&named[..last + colon], Some(&named[last + colon + 1..])),
        None => (named, None),
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(is_name);
    let is_host = |part: &str| {
        let (host, port) = part.split_once(':').map_or((part, None), |(host, port)| (host, Some(port)));
        is_part(host) && port.is_none_or(|port| port.parse::<u16>().is_ok())
    };
    let is_good = match name.split_once('/') {
        Some((host, path)) => is_host(host) && path.split('/').all(is_part),
        None => is_part(name),
    };
    if !is_good {
        return Err(SHAPE);
    }
    if !tag.is_none_or(is_tag) {
        return Err(
            "a tag has 1 to 128 letters, digits, dots, hyphens and underscores, and begins with none of dot and hyphen",
        );
    }
    Ok(ImageName { name: name.to_owned(), tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_LEN_MAX).contains(&tag.len())
        && is_word(tag.as_bytes()[0])
        && tag.bytes().all(|b| is_word(b) || b".-".contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str) -> Option<(String, Option<String>, Option<String>)> {
        let name: ImageName = text.parse().ok()?;
        assert_eq!(name.to_string(), text, "it is written as it was");
        Some((name.name, name.tag, name.digest))
    }

    #[test]
    fn a_name_is_taken_apart() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let some = |text: &str| Some(text.to_owned());
        let cases = [
            ("shop".to_owned(), ("shop", None, None)),
            ("shop:1.2".to_owned(), ("shop", some("1.2"), None)),
            ("r:5000/shop".to_owned(), ("r:5000/shop", None, None)),
            ("r:5000/a/b:v1_x-y".to_owned(), ("r:5000/a/b", some("v1_x-y"), None)),
            ("localhost:5000".to_owned(), ("localhost", some("5000"), None)),
            (format!("r.example/shop@{digest}"), ("r.example/shop", None, some(&digest))),
            (format!("r.example/shop:1@{digest}"), ("r.example/shop", some("1"), some(&digest))),
        ];
        for (text, (name, tag, found)) in cases {
            assert_eq!(parts(&text), Some((name.to_owned(), tag, found)), "{text}");
        }
        for bad in [
            "",
            ":1",
            "a:",
            "a:-x",
            "a:.x",
            "a:b:c",
            "/a",
            "a/",
            "a//b",
            "a b",
            "a/b:c/d",
            "r:x/a",
            "r:99999/a",
            "a@",
            "a@sha256:12",
            &format!("a@{digest}@{digest}"),
            &format!("a@sha512:{}", "0".repeat(64)),
            &format!("a:{}", "x".repeat(129)),
            &"a".repeat(513),
            "ü",
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_release_names_by_content() {
        let (image, tag) = ("r/a@sha256:00".to_owned(), "1".to_owned());
        assert_eq!(ImageName::of_release(&image, Some(&tag)).to_string(), "r/a:1@sha256:00");
        assert_eq!(ImageName::of_release(&image, None).to_string(), image);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_as_it_was(text in "[a-z.:/@_-]{0,20}") {
            if let Ok(name) = text.parse::<ImageName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
