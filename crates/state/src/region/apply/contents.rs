//! What the region's instances are given beside their specification: what is in their files, and their secrets. Kept once for an app,
//! for as long as its definition or one of its placements names it. A node that is told late, or starts an instance of an earlier
//! release again, finds it there.

use std::collections::{BTreeMap, BTreeSet};

use insula_types::{
    AppName, ContentHash, InstanceId, RegionalDefinition, SecretName, SecretVersion, ServiceSpec,
    definition::DEFINITION_LEN_MAX,
};
use serde_bytes::ByteBuf;

use super::{Apply, Decision};
use crate::{
    Domain, Rejection,
    global::SEALED_LEN_MAX,
    region::{RegionKey, RegionObject, RegionState},
};

/// A value of a secret, sealed.
type Sealed = (SecretName, SecretVersion, ByteBuf);

impl Apply<'_> {
    /// Sets a definition, and keeps what is new in it.
    pub(super) fn set_definition_with(
        &mut self,
        definition: &RegionalDefinition,
        contents: &BTreeMap<ContentHash, String>,
        secrets: &[Sealed],
    ) -> Decision {
        let new = [new_contents(self.state, definition, contents)?, new_secrets(self.state, definition, secrets)?];
        let reply = self.set_definition(definition)?;
        for (key, object) in new.into_iter().flatten() {
            self.out.put(key, object);
        }
        Ok(reply)
    }

    /// Forgets what neither this definition of an app nor its placements name, but for those that are being removed.
    pub(super) fn forget_contents(
        &mut self,
        app: &AppName,
        definition: Option<&RegionalDefinition>,
        removed: &[InstanceId],
    ) {
        let state = self.state;
        let keys: Vec<RegionKey> = keys_of(state, app).collect();
        if keys.is_empty() {
            return;
        }
        let placed =
            state.placements.values().filter(|one| one.service.app == *app && !removed.contains(&one.instance));
        // What is good of the release before, and may have to come back.
        let before = state.deployments.get(app).and_then(|deployment| deployment.from.as_ref());
        let present = state.definitions.get(app).filter(|_| state.level() >= super::deployments::KNOWN);
        let kept = definition.into_iter().flat_map(|definition| [Some(definition), before, present]).flatten();
        let specs = placed.map(|one| &one.spec).chain(kept.flat_map(specs));
        let named: BTreeSet<RegionKey> = specs.flat_map(|spec| named(app, spec)).collect();
        for key in keys.into_iter().filter(|key| !named.contains(key)) {
            self.out.remove(key);
        }
    }
}

fn specs(definition: &RegionalDefinition) -> impl Iterator<Item = &ServiceSpec> {
    definition.services.values().map(|service| &service.spec)
}

/// What a specification names.
fn named<'s>(app: &'s AppName, spec: &'s ServiceSpec) -> impl Iterator<Item = RegionKey> + 's {
    let contents = spec.files.iter().map(|file| RegionKey::Content((app.clone(), file.content)));
    let secret =
        |(name, version): (&SecretName, &SecretVersion)| RegionKey::Secret((app.clone(), name.clone(), *version));
    contents.chain(spec.secrets.iter().map(secret))
}

/// What there is of an app.
fn keys_of<'s>(state: &'s RegionState, app: &'s AppName) -> impl Iterator<Item = RegionKey> + 's {
    let contents = state.contents.iter().map(|(key, _)| key).filter(move |(owner, _)| owner == app);
    let secrets = state.secrets.iter().map(|(key, _)| key).filter(move |(owner, ..)| owner == app);
    contents.cloned().map(RegionKey::Content).chain(secrets.cloned().map(RegionKey::Secret))
}

type New = Result<Vec<(RegionKey, RegionObject)>, Rejection>;

fn new_contents(state: &RegionState, definition: &RegionalDefinition, brought: &BTreeMap<ContentHash, String>) -> New {
    if brought.values().map(String::len).sum::<usize>() > DEFINITION_LEN_MAX {
        return Err(Rejection::invalid(format!("files contain at most {DEFINITION_LEN_MAX} bytes together")));
    }
    let hashes: BTreeSet<_> = specs(definition).flat_map(|spec| &spec.files).map(|file| file.content).collect();
    let keys = hashes.into_iter().map(|hash| (definition.app.clone(), hash));
    let missing = keys.filter(|key| !state.contents.contains(key));
    let found = missing.map(|key| {
        let content = brought.get(&key.1).filter(|content| ContentHash::of(content) == key.1);
        let content = content.ok_or_else(|| Rejection::invalid(format!("a file's content is not there: {}", key.1)))?;
        Ok((RegionKey::Content(key), RegionObject::Content(content.clone())))
    });
    found.collect()
}

fn new_secrets(state: &RegionState, definition: &RegionalDefinition, brought: &[Sealed]) -> New {
    let app = &definition.app;
    let named: BTreeSet<_> = specs(definition).flat_map(|spec| &spec.secrets).collect();
    let keys = named.into_iter().map(|(name, version)| (app.clone(), name.clone(), *version));
    let missing = keys.filter(|key| !state.secrets.contains(key));
    let found = missing.map(|key| {
        let sealed = brought.iter().find(|(name, version, _)| (name, version) == (&key.1, &key.2));
        let sealed = sealed.map(|(.., sealed)| sealed).filter(|sealed| sealed.len() <= SEALED_LEN_MAX);
        let sealed = sealed.ok_or_else(|| Rejection::invalid(format!("a secret's value is not there: {}", key.1)))?;
        Ok((RegionKey::Secret(key), RegionObject::Secret(sealed.clone())))
    });
    found.collect()
}
