//! Names and passwords for registries, in a file in the form of Docker's `config.json`. Read anew at each pull, so that it
//! can be changed while the node runs. What is in it is neither logged nor part of an error.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use oci_client::{
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};
use rustix::fs::OFlags;
use serde::Deserialize;
use tracing::warn;

use super::ImageRef;

/// Longest file that is read: credentials of thousands of registries.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file, as far as it concerns pulls. Other keys of Docker's are not looked at.
#[derive(Deserialize)]
struct Known {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// What is known for one registry, or for a part of one.
#[derive(Deserialize)]
struct Entry {
    /// Base64 of `user:password`.
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    /// Handed to the registry as it is.
    registrytoken: Option<String>,
    /// To be exchanged for others, which is not known here.
    identitytoken: Option<String>,
}

/// What one image is pulled with.
pub(super) struct Credentials {
    pub auth: RegistryAuth,
    path: PathBuf,
    found: Found,
}

/// What the file has for the registry.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Credentials.
    Some,
    /// Nothing, or there is no such file.
    None,
    /// Something that cannot be used, and why.
    Unusable(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}: {:?})", self.path.display(), self.found)
    }
}

impl Credentials {
    /// Those for a repository of a registry. What cannot be used is told once here, and again when the registry refuses.
    pub fn read(path: &Path, registry: &str, repository: &str) -> Self {
        let (auth, found) = match lookup(path, registry, repository) {
            Ok(Some(auth)) => (auth, Found::Some),
            Ok(None) => (RegistryAuth::Anonymous, Found::None),
            Err(why) => {
                warn!(path = %path.display(), registry, why, "credentials cannot be used: the registry is asked without any");
                (RegistryAuth::Anonymous, Found::Unusable(why))
            }
        };
        Self { auth, path: path.to_owned(), found }
    }

    /// Those for an image.
    pub fn of(path: &Path, image: &ImageRef) -> Self {
        Self::read(path, image.registry(), image.repository())
    }

    /// What to do about a registry that does not let us in; none: that is not what is wrong.
    pub fn advice(&self, registry: &str, error: &(dyn std::error::Error + 'static)) -> Option<String> {
        let path = self.path.display();
        is_refusal(error).then(|| match &self.found {
            Found::Some => format!("{registry} does not accept the credentials in {path}: correct them there"),
            Found::None => format!("{registry} wants credentials, and {path} has none for it: add them there"),
            Found::Unusable(why) => format!("{registry} wants credentials, and those in {path} are not used: {why}"),
        })
    }
}

/// Whether it was for want of the right credentials.
fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    use OciDistributionError as E;
    let refuses = |code: &OciErrorCode| matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied);
    match error.downcast_ref::<E>() {
        Some(E::UnauthorizedError { .. } | E::AuthenticationFailure(_) | E::ServerError { code: 401 | 403, .. }) => {
            true
        }
        Some(E::RegistryError { envelope, .. }) => envelope.errors.iter().any(|error| refuses(&error.code)),
        _ => false,
    }
}

fn lookup(path: &Path, registry: &str, repository: &str) -> Result<Option<RegistryAuth>, String> {
    let Some(text) = read(path)? else { return Ok(None) };
    let known: Known = serde_json::from_str(&text).map_err(|error| {
        // The parser's own words may repeat what it found.
        format!("line {}, column {} is not in the form of Docker's config.json", error.line(), error.column())
    })?;
    let name = format!("{registry}/{repository}");
    let fits = |key: &str| name.strip_prefix(key).is_some_and(|rest| rest.starts_with('/') || rest.is_empty());
    let entries = known.auths.iter().map(|(key, entry)| (plain(key), entry)).filter(|(key, _)| fits(key));
    // That of a part of a registry goes before that of all of it.
    let Some((key, entry)) = entries.max_by_key(|(key, _)| key.len()) else { return Ok(None) };
    entry.auth().map_err(|why| format!("of {key}: {why}"))
}

/// The text of the file; none: there is none. Refuses one that others can read.
fn read(path: &Path) -> Result<Option<String>, String> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| format!("it cannot be opened: {error}"))?,
    };
    check(&file)?;
    let mut text = String::new();
    // The error for bytes that are no text does not repeat them.
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| format!("it cannot be read: {error}"))?;
    Ok(Some(text))
}

fn check(file: &File) -> Result<(), String> {
    let meta = file.metadata().map_err(|error| format!("it cannot be looked at: {error}"))?;
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        return Err(format!("it is no file of at most {FILE_BYTES_MAX} bytes"));
    }
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own && meta.uid() != 0 {
        return Err(format!("it belongs to the user {}: give it to root with `chown root`", meta.uid()));
    }
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o777;
        return Err(format!("other users may get at it, its mode is {mode:03o}: set it with `chmod 600`"));
    }
    Ok(())
}

/// The key of an entry as it stands in images: Docker writes some as addresses, and its own registry under old names.
fn plain(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, rest) = key.split_once('/').map_or((key, ""), |(host, rest)| (host, rest));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    if rest.is_empty() { host.to_owned() } else { format!("{host}/{rest}") }
}

impl Entry {
    /// None: an empty entry, as Docker leaves behind when a helper program keeps the password.
    fn auth(&self) -> Result<Option<RegistryAuth>, String> {
        let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if let Some(token) = self.registrytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(RegistryAuth::Bearer(token.clone())));
        }
        if is_set(&self.identitytoken) {
            return Err("an identitytoken cannot be used: write username and password, or auth".to_owned());
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let decoded = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let parts = decoded.as_deref().and_then(|text| text.split_once(':'));
            let (user, password) = parts.ok_or("auth is not the base64 of user:password")?;
            return Ok(Some(RegistryAuth::Basic(user.to_owned(), password.to_owned())));
        }
        match (&self.username, &self.password) {
            (Some(user), Some(password)) => Ok(Some(RegistryAuth::Basic(user.clone(), password.clone()))),
            (None, None) => Err("it is empty; helper programs (credsStore) are not asked".to_owned()),
            _ => Err("it needs both username and password".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    const SECRET: &str = "swordfish";

    fn found(text: &str, mode: u32, image: &str) -> Result<Option<RegistryAuth>, String> {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("registries.json");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode set");
        let (registry, repository) = image.split_once('/').expect("a name");
        let found = lookup(&path, registry, repository);
        let credentials = Credentials::read(&path, registry, repository);
        let refused = OciDistributionError::UnauthorizedError { url: "http://r/v2/".to_owned() };
        let said = format!("{credentials:?} {:?}", credentials.advice(registry, &refused));
        assert!(!said.contains(SECRET), "{said}");
        found
    }

    fn basic(user: &str) -> Result<Option<RegistryAuth>, String> {
        Ok(Some(RegistryAuth::Basic(user.to_owned(), SECRET.to_owned())))
    }

    #[test]
    fn the_entry_that_fits_best_is_taken() {
        let auth = |user: &str| STANDARD.encode(format!("{user}:{SECRET}"));
        let text = format!(
            r#"{{"auths": {{
                "r.example:5000": {{"auth": "{}"}},
                "r.example:5000/team": {{"username": "team", "password": "{SECRET}"}},
                "https://index.docker.io/v1/": {{"auth": "{}"}},
                "https://old.example/v2/": {{"auth": "{}"}},
                "token.example": {{"registrytoken": "{SECRET}"}}
            }}, "credsStore": "pass"}}"#,
            auth("all"),
            auth("hub"),
            auth("old"),
        );
        let cases = [
            ("r.example:5000/shop", basic("all")),
            ("r.example:5000/team/shop", basic("team")),
            ("r.example:5000/teams/shop", basic("all")),
            ("r.example:50000/shop", Ok(None)),
            ("r.example/shop", Ok(None)),
            ("docker.io/library/busybox", basic("hub")),
            ("old.example/shop", basic("old")),
            ("token.example/shop", Ok(Some(RegistryAuth::Bearer(SECRET.to_owned())))),
        ];
        for (image, expected) in cases {
            assert_eq!(found(&text, 0o600, image), expected, "{image}");
        }
        assert_eq!(lookup(Path::new("/nowhere/registries.json"), "r", "shop"), Ok(None));
    }

    #[test]
    fn what_cannot_be_used_is_told_without_the_secret() {
        let entry = |text: &str| format!(r#"{{"auths": {{"r": {text}}}}}"#);
        let cases = [
            (format!(r#"{{"auths": {{"r": "{SECRET}"}}}}"#), 0o600, "not in the form of Docker's config.json"),
            (format!(r#"{{"auths": {{"r": {{"auth": "{SECRET}"#), 0o600, "line 1, column"),
            (SECRET.to_owned(), 0o600, "line 1, column"),
            (entry(&format!(r#"{{"auth": "{SECRET}!"}}"#)), 0o600, "of r: auth is not the base64"),
            (entry(&format!(r#"{{"password": "{SECRET}"}}"#)), 0o600, "both username and password"),
            (entry(&format!(r#"{{"identitytoken": "{SECRET}"}}"#)), 0o600, "identitytoken"),
            (entry("{}"), 0o600, "credsStore"),
            (entry("{}"), 0o640, "its mode is 640: set it with `chmod 600`"),
            (entry("{}"), 0o604, "its mode is 604"),
            (format!("{}{}", entry("{}"), " ".repeat(1 << 20)), 0o600, "no file of at most"),
        ];
        for (text, mode, expected) in cases {
            let why = found(&text, mode, "r/shop").expect_err(expected);
            assert!(why.contains(expected) && !why.contains(SECRET), "{why}");
        }
    }
}
