//! Reads which secrets a service has. Their values are set apart.

use crate::{
    SecretName, SecretVersions, ServiceSpec,
    definition::{
        fields::{Fields, Item},
        problem::Problems,
    },
    secret::SECRETS_MAX,
};

/// Where instances find their secrets as files.
const DIRECTORY: &str = "/run/secrets";

/// Reads their names. Which version each has is said by the release that is made.
pub(super) fn read(item: &Item<'_>, problems: &mut Problems) -> SecretVersions {
    let mut secrets = SecretVersions::new();
    for item in item.items(SECRETS_MAX, problems) {
        let Some(name) = item.parsed::<SecretName>(problems) else { continue };
        if secrets.insert(name, 0).is_some() {
            item.refuse(problems, "it is there twice; name it once");
        }
    }
    secrets
}

/// Refuses what would hide a secret, or be hidden by it.
pub(super) fn check(fields: &Fields<'_>, spec: &ServiceSpec, problems: &mut Problems) {
    if spec.secrets.is_empty() {
        return;
    }
    if let Some(item) = fields.get("env") {
        for name in spec.env.keys().filter(|name| spec.secrets.keys().any(|secret| secret.as_str() == *name)) {
            item.refuse(problems, format!("{name} is a secret, too; take it out of one of both"));
        }
    }
    let is_within =
        |path: &str| path.strip_prefix(DIRECTORY).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let volumes = spec.volumes.iter().map(|volume| ("volumes", &volume.path));
    let tmpfs = spec.tmpfs.iter().map(|tmpfs| ("tmpfs", &tmpfs.path));
    let files = spec.files.iter().map(|file| ("files", &file.path));
    for (key, path) in volumes.chain(tmpfs).chain(files).filter(|(_, path)| is_within(path)) {
        if let Some(item) = fields.get(key) {
            item.refuse(problems, format!("{path} is where the secrets are; choose another path"));
        }
    }
}
