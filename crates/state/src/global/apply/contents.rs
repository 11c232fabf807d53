//! What is in the files of an app: kept once, for as long as a release of the app names it.

use std::collections::{BTreeMap, BTreeSet};

use insula_types::{AppName, ContentHash, ReleaseNumber, ServiceSpec, definition::DEFINITION_LEN_MAX};

use super::Apply;
use crate::{
    Rejection,
    global::{GlobalKey, GlobalObject},
};

impl Apply<'_> {
    /// Keeps what is new in a release. Refused when it is not what its name says, or something is missing.
    pub(super) fn keep_contents<'s>(
        &mut self,
        app: &AppName,
        specs: impl Iterator<Item = &'s ServiceSpec>,
        brought: &BTreeMap<ContentHash, String>,
    ) -> Result<(), Rejection> {
        if brought.values().map(String::len).sum::<usize>() > DEFINITION_LEN_MAX {
            return Err(Rejection::invalid(format!("files contain at most {DEFINITION_LEN_MAX} bytes together")));
        }
        for hash in hashes(specs) {
            let key = (app.clone(), hash);
            if self.state.contents.contains(&key) {
                continue;
            }
            let content = brought.get(&hash).filter(|content| ContentHash::of(content) == hash);
            let content =
                content.ok_or_else(|| Rejection::invalid(format!("a file's content is not there: {hash}")))?;
            self.out.put(GlobalKey::Content(key), GlobalObject::Content(content.clone()));
        }
        Ok(())
    }

    /// Forgets what none of these releases and services names any more.
    pub(super) fn forget_contents<'s>(
        &mut self,
        app: &AppName,
        releases: &[ReleaseNumber],
        services: impl Iterator<Item = &'s ServiceSpec>,
    ) {
        let state = self.state;
        let kept = releases.iter().filter_map(|number| state.releases.get(&(app.clone(), *number)));
        let mut named = hashes(kept.flat_map(|release| release.specs()));
        named.extend(hashes(services));
        for ((owner, hash), _) in state.contents.iter() {
            if owner == app && !named.contains(hash) {
                self.out.remove(GlobalKey::Content((owner.clone(), *hash)));
            }
        }
    }
}

fn hashes<'s>(services: impl Iterator<Item = &'s ServiceSpec>) -> BTreeSet<ContentHash> {
    services.flat_map(|spec| &spec.files).map(|file| file.content).collect()
}
