//! Values that were set before a region was there: the leader of a region that has them seals them to the key of the new one.

use std::{collections::BTreeSet, time::Duration};

use insula_env::{
    Beat, Env, beat,
    clock::{self, Instant},
};
use insula_identity::{Error, OpeningKey, SecretPlace, seal_secret};
use insula_state::{
    GlobalCommand, GlobalState, Store,
    global::{SealedFor, Unsealed},
};
use insula_telemetry::chain;
use insula_types::{AppName, SecretName, SecretVersion};
use serde_bytes::ByteBuf;
use tracing::{debug, info, warn};

use super::Opener;

/// Time between two looks while something is lacking.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the region that comes first has for it, before others do it.
const FIRST_FOR: Duration = Duration::from_secs(15);
/// How long telling it may take; it is tried again.
const TELL_LIMIT: Duration = Duration::from_secs(5);

/// Values that this node could not open.
type PassedOver = BTreeSet<(AppName, SecretName, SecretVersion)>;

/// Seals them whenever some are lacking somewhere, as long as this node leads its region.
pub(crate) fn seal_for_later_regions(env: &Env, opener: &Opener, global: &Store<GlobalState>) {
    let (opener, global) = (opener.clone(), global.clone());
    env.tasks.supervise("secrets of later regions", beat::QUICK, move |beat| {
        let (opener, global) = (opener.clone(), global.clone());
        async move { opener.follow_regions(&global, &beat).await }
    });
}

impl Opener {
    async fn follow_regions(&self, global: &Store<GlobalState>, beat: &Beat) {
        let own = &self.identity.region;
        let mut changed = global.replica().changed();
        let (mut passed_over, mut since) = (PassedOver::new(), None::<Instant>);
        loop {
            changed.borrow_and_update();
            let Some(unsealed) = global.read(|global| global.unsealed(own, &passed_over)) else {
                since = None;
                if beat.idle(changed.changed()).await.is_err() {
                    return;
                }
                continue;
            };
            let now = clock::now();
            let waited = now.saturating_duration_since(*since.get_or_insert(now));
            let is_leader = self.region.leadership().borrow().is_me;
            if is_leader
                && (unsealed.is_first || waited >= FIRST_FOR)
                && let Err(why) = self.seal(global, &unsealed, &mut passed_over, beat).await
            {
                debug!(region = %unsealed.region, why, "secrets are not sealed for a later region yet");
            }
            beat.idle(clock::sleep(LOOK_EVERY)).await;
        }
    }

    async fn seal(
        &self,
        global: &Store<GlobalState>,
        unsealed: &Unsealed,
        passed_over: &mut PassedOver,
        beat: &Beat,
    ) -> Result<(), String> {
        let authority = self.directory.load_region_authority().map_err(|error| chain(&error))?;
        let authority = authority.ok_or("this node does not hold the key of the region's CA yet")?;
        let key = authority.opening_key().map_err(|error| chain(&error))?;
        let mut values = Vec::new();
        for value in &unsealed.values {
            match self.anew(&key, unsealed, value) {
                Ok(sealed) => values.push(SealedFor { sealed, ..value.clone() }),
                Err(error) => {
                    let SealedFor { app, name, version, .. } = value;
                    let cause = chain(&error);
                    warn!(%app, %name, version, region = %unsealed.region, cause, "a secret cannot be sealed for a later region: set it anew");
                    passed_over.insert((app.clone(), name.clone(), *version));
                }
            }
        }
        if values.is_empty() {
            return Ok(());
        }
        let (region, count) = (unsealed.region.clone(), values.len());
        let command = GlobalCommand::SealForRegion { region, values };
        beat.idle(global.propose(&command, TELL_LIMIT)).await.map_err(|error| chain(&error))?;
        info!(region = %unsealed.region, count, "secrets were sealed for a region that came after them");
        Ok(())
    }

    /// Opens a value of this region, and seals it for the other one.
    fn anew(&self, key: &OpeningKey, unsealed: &Unsealed, value: &SealedFor) -> Result<ByteBuf, Error> {
        let opened = key.open(&self.place(&value.app, &value.name), &value.sealed)?;
        let place = SecretPlace { region: &unsealed.region, ..self.place(&value.app, &value.name) };
        Ok(ByteBuf::from(seal_secret(&unsealed.key, &place, &opened)?))
    }
}
