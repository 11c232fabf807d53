//! Secrets of apps, sealed. The keys that open them are not in the state.

use std::collections::{BTreeMap, BTreeSet};

use insula_types::{AppName, RegionName, Release, ReleaseNumber, SecretName, SecretVersion, ServiceSpec};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{GlobalKey, GlobalObject, GlobalReply, GlobalState};
use crate::{Changes, Conflict, Rejection};

/// Most secrets of an app that have a value: as many as a service may have, for several services.
pub const SECRETS_OF_APP_MAX: usize = 256;

/// Longest sealed value in bytes: the longest value, and what sealing adds.
pub const SEALED_LEN_MAX: usize = insula_types::secret::SECRET_LEN_MAX + 512;

/// Longest name of who set a secret, in bytes.
const BY_LEN_MAX: usize = 256;

/// Longest key in bytes.
const KEY_LEN_MAX: usize = 512;

/// A secret with those of its values that a release may still need. One that was removed has none, and its next value goes on
/// counting, so that a version never means two values.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Secret {
    /// The newest version that there ever was.
    pub last: SecretVersion,
    /// Its values by version. The newest one counts for the next release.
    pub versions: BTreeMap<SecretVersion, SealedValue>,
}

/// One value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedValue {
    /// Sealed to the key of each region.
    pub sealed: BTreeMap<RegionName, ByteBuf>,
    /// When it was set, milliseconds since 1970 by the leader's clock.
    pub set_ms: u64,
    /// Who set it, for people.
    pub by: String,
}

/// Most values that are sealed for a region with one command.
pub const SEALED_AT_ONCE_MAX: usize = 8;

/// A value, sealed to the key of one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedFor {
    /// The app.
    pub app: AppName,
    /// The secret.
    pub name: SecretName,
    /// Which of its values.
    pub version: SecretVersion,
    /// That value.
    pub sealed: ByteBuf,
}

/// Values that a region lacks, since they were set before it had a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsealed {
    /// The region.
    pub region: RegionName,
    /// Its key.
    pub key: ByteBuf,
    /// Some of the values, sealed to a region that has them.
    pub values: Vec<SealedFor>,
    /// Whether that region is the first of those that have the first of the values.
    pub is_first: bool,
}

type Decision = Result<GlobalReply, Rejection>;

impl GlobalState {
    /// Puts the newest version in the place of each that is left open, and checks that all others are there, for the regions that need
    /// them.
    ///
    /// # Errors
    /// [`Rejection`], naming the secret that is not set.
    pub fn pin_secrets(&self, app: &AppName, release: &mut Release) -> Result<(), Rejection> {
        let regions: BTreeMap<_, _> =
            release.services.keys().map(|name| (name.clone(), self.regions_for(&release.regions_of(name)))).collect();
        for (service, regions) in &regions {
            let overrides = release.overrides.get_mut(service);
            let (mut of_all, mut of_regions) = (regions.clone(), Vec::new());
            for (region, variant) in overrides.into_iter().flatten() {
                of_all.remove(region);
                of_regions.push((&mut variant.spec, BTreeSet::from([region.clone()])));
            }
            let of_service = release.services.get_mut(service).map(|spec| (spec, of_all));
            for (spec, regions) in of_service.into_iter().chain(of_regions) {
                self.pin(app, spec, &regions)?;
            }
        }
        Ok(())
    }

    fn pin(&self, app: &AppName, spec: &mut ServiceSpec, regions: &BTreeSet<RegionName>) -> Result<(), Rejection> {
        for (name, version) in &mut spec.secrets {
            let secret = self.secrets.get(&(app.clone(), name.clone()));
            let newest = secret.and_then(|secret| secret.versions.keys().next_back().copied());
            let found = if *version == 0 { newest } else { Some(*version) };
            let value = found.and_then(|version| Some((version, secret?.versions.get(&version)?)));
            let Some((found, value)) = value else {
                let which = if *version == 0 { String::new() } else { format!(" version {version} of") };
                return Err(Rejection::invalid(format!(
                    "there is no{which} secret {name}: set it with `insula secrets set {app} {name}`, then deploy again"
                )));
            };
            let lacks =
                |region: &&RegionName| self.sealing_keys.contains(region) && !value.sealed.contains_key(*region);
            if let Some(region) = regions.iter().find(lacks) {
                let why = format!(
                    "secret {name} was set before region {region} was there, and is being sealed for it: try again in a few seconds; where \
                     that does not help, set it anew with `insula secrets set {app} {name}`"
                );
                return Err(Rejection::conflict(Conflict::SecretsNotReady, why));
            }
            *version = found;
        }
        Ok(())
    }

    /// Values that another region lacks and region `own` has, those in `passed_over` left out. At most [`SEALED_AT_ONCE_MAX`], of one
    /// region.
    pub fn unsealed(
        &self,
        own: &RegionName,
        passed_over: &BTreeSet<(AppName, SecretName, SecretVersion)>,
    ) -> Option<Unsealed> {
        self.sealing_keys.iter().filter(|(region, _)| *region != own).find_map(|(region, key)| {
            let all = self.secrets.iter().flat_map(|(id, secret)| secret.versions.iter().map(move |of| (id, of)));
            let lacking = all.filter(|((app, name), (version, value))| {
                !value.sealed.contains_key(region) && !passed_over.contains(&(app.clone(), name.clone(), **version))
            });
            let mut lacking = lacking.filter_map(|of| Some((of, of.1.1.sealed.get(own)?))).peekable();
            let (_, (_, first)) = lacking.peek()?.0;
            let is_first = first.sealed.keys().next() == Some(own);
            let values = lacking.map(|(((app, name), (version, _)), sealed)| SealedFor {
                app: app.clone(),
                name: name.clone(),
                version: *version,
                sealed: sealed.clone(),
            });
            let values = values.take(SEALED_AT_ONCE_MAX).collect();
            Some(Unsealed { region: region.clone(), key: key.clone(), values, is_first })
        })
    }

    /// The secrets of an app that have a value, or had one.
    pub fn secrets_of<'s>(&'s self, app: &AppName) -> impl Iterator<Item = (&'s SecretName, &'s Secret)> {
        let all = self.secrets.iter().filter(move |((owner, _), _)| owner == app);
        all.map(|((_, name), secret)| (name, secret))
    }
}

/// A new value.
pub(super) fn set(
    state: &GlobalState,
    at_ms: u64,
    (app, name): (&AppName, &SecretName),
    (sealed, by): (&BTreeMap<RegionName, ByteBuf>, &str),
    out: &mut Changes<GlobalState>,
) -> Decision {
    if sealed.values().any(|sealed| sealed.len() > SEALED_LEN_MAX) || by.len() > BY_LEN_MAX {
        return Err(Rejection::invalid("a sealed value, or who set it, is too long"));
    }
    let regions: BTreeSet<_> = state.sealing_keys.iter().map(|(region, _)| region).collect();
    if regions.is_empty() {
        let why = "no region has a key for secrets yet: that takes a minute after the last node was upgraded";
        return Err(Rejection::conflict(Conflict::SecretsNotReady, why));
    }
    if regions != sealed.keys().collect() {
        return Err(Rejection::conflict(
            Conflict::SecretsNotReady,
            "it is not sealed for exactly the regions that there are: try again",
        ));
    }
    let mut secret = state.secrets.get(&(app.clone(), name.clone())).cloned().unwrap_or_default();
    let others = state.secrets_of(app).filter(|(other, secret)| *other != name && !secret.versions.is_empty());
    if others.count() >= SECRETS_OF_APP_MAX {
        return Err(Rejection::invalid(format!(
            "{app} has {SECRETS_OF_APP_MAX} secrets, the most that an app may have"
        )));
    }
    secret.last += 1;
    let needed = needed(state, app, &state.numbers(app), std::iter::empty());
    secret.versions.retain(|version, _| needed.contains(&(name, *version)));
    let value = SealedValue { sealed: sealed.clone(), set_ms: at_ms, by: by.to_owned() };
    secret.versions.insert(secret.last, value);
    let version = secret.last;
    out.put(GlobalKey::Secret((app.clone(), name.clone())), GlobalObject::Secret(secret));
    Ok(GlobalReply::SecretSet { version })
}

/// Takes a secret away, unless a release that may have to run needs it.
pub(super) fn remove(
    state: &GlobalState,
    app: &AppName,
    name: &SecretName,
    out: &mut Changes<GlobalState>,
) -> Decision {
    let key = (app.clone(), name.clone());
    let Some(secret) = state.secrets.get(&key).filter(|secret| !secret.versions.is_empty()) else {
        return Err(Rejection::not_found(format!("{app} has no secret {name}")));
    };
    let is_needed = |spec: &ServiceSpec| spec.secrets.contains_key(name);
    let mut live = state.live_releases().filter(|(owner, _)| *owner == app);
    if let Some((_, release)) = live.find(|(_, release)| release.specs().any(is_needed)) {
        return Err(Rejection::conflict(
            Conflict::SecretInUse,
            format!(
                "release {} of {app} needs the secret {name}, and runs or is what the app can go back to: deploy without it first, \
             until two releases have done so",
                release.number
            ),
        ));
    }
    out.put(GlobalKey::Secret(key), GlobalObject::Secret(Secret { last: secret.last, versions: BTreeMap::new() }));
    Ok(GlobalReply::Done)
}

/// The key that secrets are sealed to for a region. It never changes.
pub(super) fn set_key(
    state: &GlobalState,
    region: &RegionName,
    key: &ByteBuf,
    out: &mut Changes<GlobalState>,
) -> Decision {
    if !state.regions.contains(region) {
        return Err(Rejection::not_found(format!("there is no region {region}")));
    }
    if key.is_empty() || key.len() > KEY_LEN_MAX {
        return Err(Rejection::invalid("this is no key to seal to"));
    }
    match state.sealing_keys.get(region) {
        Some(present) if present == key => {}
        Some(_) => {
            return Err(Rejection::conflict(
                Conflict::Ours,
                format!("region {region} has another key for its secrets already"),
            ));
        }
        None => out.put(GlobalKey::SealingKey(region.clone()), GlobalObject::SealingKey(key.clone())),
    }
    Ok(GlobalReply::Done)
}

/// Values for a region that came after they were set.
pub(super) fn seal_for(
    state: &GlobalState,
    region: &RegionName,
    values: &[SealedFor],
    out: &mut Changes<GlobalState>,
) -> Decision {
    if values.len() > SEALED_AT_ONCE_MAX || values.iter().any(|value| value.sealed.len() > SEALED_LEN_MAX) {
        return Err(Rejection::invalid("these are too many sealed values, or one is too long"));
    }
    if !state.sealing_keys.contains(region) {
        return Err(Rejection::not_found(format!("region {region} has no key for secrets")));
    }
    let mut changed = BTreeMap::new();
    for SealedFor { app, name, version, sealed } in values {
        let id = (app.clone(), name.clone());
        let Some(present) = state.secrets.get(&id) else { continue };
        let secret = changed.entry(id).or_insert_with(|| present.clone());
        let value = secret.versions.get_mut(version);
        if let Some(value) = value.filter(|value| !value.sealed.contains_key(region)) {
            value.sealed.insert(region.clone(), sealed.clone());
        }
    }
    for (id, secret) in changed {
        if state.secrets.get(&id) != Some(&secret) {
            out.put(GlobalKey::Secret(id), GlobalObject::Secret(secret));
        }
    }
    Ok(GlobalReply::Done)
}

/// Forgets the values of an app that neither the next release nor one of these services and releases can need.
pub(super) fn forget<'s>(
    state: &'s GlobalState,
    app: &AppName,
    releases: &[ReleaseNumber],
    services: impl Iterator<Item = &'s ServiceSpec>,
    out: &mut Changes<GlobalState>,
) {
    let needed = needed(state, app, releases, services);
    for (name, secret) in state.secrets_of(app) {
        let is_needed = |version: &SecretVersion| *version == secret.last || needed.contains(&(name, *version));
        if secret.versions.keys().all(is_needed) {
            continue;
        }
        let mut secret = secret.clone();
        secret.versions.retain(|version, _| *version == secret.last || needed.contains(&(name, *version)));
        out.put(GlobalKey::Secret((app.clone(), name.clone())), GlobalObject::Secret(secret));
    }
}

/// Forgets all values of an app.
pub(super) fn forget_all(state: &GlobalState, app: &AppName, out: &mut Changes<GlobalState>) {
    for (name, secret) in state.secrets_of(app).filter(|(_, secret)| !secret.versions.is_empty()) {
        let empty = Secret { last: secret.last, versions: BTreeMap::new() };
        out.put(GlobalKey::Secret((app.clone(), name.clone())), GlobalObject::Secret(empty));
    }
}

/// Which versions these releases and services have.
fn needed<'s>(
    state: &'s GlobalState,
    app: &AppName,
    releases: &[ReleaseNumber],
    services: impl Iterator<Item = &'s ServiceSpec>,
) -> BTreeSet<(&'s SecretName, SecretVersion)> {
    let kept = releases.iter().filter_map(|number| state.releases.get(&(app.clone(), *number)));
    let specs = kept.flat_map(|release| release.specs()).chain(services);
    specs.flat_map(|spec| &spec.secrets).map(|(name, version)| (name, *version)).collect()
}
