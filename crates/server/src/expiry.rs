//! Warns in the log when a certificate in use comes near its end, once for each step (rule R6). The node's status says
//! the same for as long as it lasts.

use std::{collections::BTreeMap, time::Duration};

use insula_env::{Env, beat, clock};
use insula_identity::{Expiry, Material};
use tracing::warn;

/// Longest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Shortest, when certificates live for seconds.
const LOOK_MIN: Duration = Duration::from_millis(500);

/// Starts to look.
pub(crate) fn start(env: &Env, material: &Material) {
    let (time, material) = (env.clock.clone(), material.clone());
    env.tasks.supervise("certificate alarms", beat::QUICK, move |beat| {
        let (time, material) = (time.clone(), material.clone());
        async move {
            let mut told = BTreeMap::new();
            loop {
                let expiries = material.expiries();
                let now = time.wall();
                let wait = expiries.iter().map(step).min().unwrap_or(LOOK_EVERY);
                for text in news(&mut told, &expiries, now) {
                    warn!("{text}");
                }
                beat.idle(clock::sleep(wait)).await;
            }
        }
    });
}

/// A sixteenth of a life: so often that no step is passed over.
fn step(expiry: &Expiry) -> Duration {
    let life = expiry.until.duration_since(expiry.from).unwrap_or_default();
    (life / 16).clamp(LOOK_MIN, LOOK_EVERY)
}

/// The alarms that are more pressing than when they were told last. Forgets certificates that are used no more.
fn news(told: &mut BTreeMap<Expiry, u8>, expiries: &[Expiry], now: std::time::SystemTime) -> Vec<String> {
    told.retain(|expiry, _| expiries.contains(expiry));
    let mut news = Vec::new();
    for expiry in expiries {
        let urgency = expiry.urgency(now);
        if urgency > told.insert(*expiry, urgency).unwrap_or(0) {
            news.extend(expiry.alarm(now));
        }
    }
    news
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use insula_identity::Owner;

    use super::*;

    #[test]
    fn each_step_is_told_once_and_a_new_certificate_begins_anew() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let expiry = Expiry { owner: Owner::RegionCa, from: at(0), until: at(160) };
        let mut told = BTreeMap::new();
        let mut count = |expiry, second| news(&mut told, &[expiry], at(second)).len();
        let counts: Vec<_> = [10, 119, 120, 121, 140, 141, 150, 160, 161].map(|second| count(expiry, second)).into();
        assert_eq!(counts, [0, 0, 1, 0, 1, 0, 1, 1, 0]);
        let next = Expiry { from: at(160), until: at(320), ..expiry };
        assert_eq!([count(next, 161), count(next, 280), count(next, 281)], [0, 1, 0]);
    }
}
