//! Whether a release that is tried with canaries fails more requests than it may, by what the edges have counted. Pure.
//!
//! Without numbers nobody is judged: a service without routes has none, nor has one whose requests are too few. That there are none is
//! known when all edges have told; those of nodes that are not heard of are waited for ([`unheard`]).

use insula_env::clock::Instant;
use insula_state::RegionState;
use insula_types::{
    AppName, CanarySpec, Deployment, DeploymentState, Node, ServiceRef, Strategy, Tally, UpdateSpec, text::grouped,
};

use crate::{LeaseTable, traffic::Compared};

/// So many requests the new instances must have got: the share of fewer says little.
pub(crate) const REQUESTS_MIN: u64 = 50;
/// One failed request may be chance, unless none at all is allowed.
const FAILED_MIN: u64 = 2;

/// What a service's canaries may fail; none: it is not updated by such.
pub(crate) const fn canary(update: &UpdateSpec) -> Option<&CanarySpec> {
    match &update.strategy {
        Strategy::Canary(canary) => Some(canary),
        Strategy::Rolling | Strategy::BlueGreen(_) => None,
    }
}

/// Whether a release of a service is tried now, and judged by what the edges count: only of such have they to be told.
pub fn is_tried(region: &RegionState, service: &ServiceRef) -> bool {
    let Some(deployment) = region.deployments.get(&service.app) else { return false };
    let definition = region.definitions.get(&service.app).filter(|one| one.release == deployment.release);
    let wanted = definition.and_then(|definition| definition.services.get(&service.service));
    wanted.is_some_and(|wanted| {
        let is_new = deployment.from.is_some() && deployment.changes(&service.service, &wanted.spec);
        is_new && !deployment.state.is_over() && !deployment.is_return && canary(&wanted.update).is_some()
    })
}

/// The nodes whose edges may have sent requests to the present release of an app and are not heard of: those that were up at some
/// time since it came. Their names.
pub(crate) fn unheard<'a>(region: &'a RegionState, app: &AppName, leases: &LeaseTable, now: Instant) -> Vec<&'a str> {
    let came = region.definitions.revision(app);
    let may_know = |node: &&Node| node.health.is_up() || region.nodes.revision(&node.id) > came;
    let unheard = region.nodes.values().filter(may_know).filter(|node| !leases.has_told(now, node.id));
    unheard.map(|node| node.name.as_str()).collect()
}

/// In a sentence, that the release's instances of a service fail too much; none: they do not, or there are too few requests to tell.
pub(crate) fn too_many(
    service: &ServiceRef,
    deployment: &Deployment,
    canary: &CanarySpec,
    compared: Compared,
) -> Option<String> {
    let from = deployment.from.as_ref()?.release;
    let Compared { new, old } = compared;
    let is_chance = new.failed < FAILED_MIN && canary.max_errors > 0;
    if new.requests < REQUESTS_MIN || is_chance || !is_beyond(canary.max_errors, new, old) {
        return None;
    }
    let which = if deployment.state == DeploymentState::First { "first instances" } else { "instances" };
    let meanwhile = match old.is_empty() {
        true => format!("release {from} got none meanwhile"),
        false => format!("release {from} failed {} meanwhile", percent(old)),
    };
    Some(format!(
        "{service}: the {which} of release {} failed {} of {} requests (allowed: {}.{} %; {meanwhile})",
        deployment.release,
        percent(new),
        grouped(new.requests),
        canary.max_errors / 10,
        canary.max_errors % 10,
    ))
}

/// Whether the share of `new` is greater than so many tenths of a percent and the share of `old` together.
fn is_beyond(max_errors: u16, new: Tally, old: Tally) -> bool {
    // new.failed / new.requests > max_errors / 1000 + old.failed / old.requests, without fractions.
    let [failed, requests] = [new.failed.min(new.requests), new.requests].map(u128::from);
    let [old_failed, old_requests] = [old.failed.min(old.requests), old.requests.max(1)].map(u128::from);
    // Saturating, since a node may say what it likes.
    let both = requests.saturating_mul(old_requests);
    let allowed = both.saturating_mul(max_errors.into());
    let of_old = old_failed.saturating_mul(requests).saturating_mul(1000);
    failed.saturating_mul(old_requests).saturating_mul(1000) > allowed.saturating_add(of_old)
}

/// A share with one digit behind the point, never rounded to nothing.
fn percent(tally: Tally) -> String {
    let permille = (u128::from(tally.failed.min(tally.requests)) * 1000).div_ceil(u128::from(tally.requests.max(1)));
    format!("{}.{} %", permille / 10, permille % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_too_many(max_errors: u16, new: (u64, u64), old: (u64, u64)) -> bool {
        let tally = |(failed, requests)| Tally { requests, failed };
        is_beyond(max_errors, tally(new), tally(old))
    }

    #[test]
    fn what_the_old_release_fails_is_allowed_on_top() {
        assert!(!is_too_many(10, (1, 100), (0, 0)), "just as many as are allowed");
        assert!(is_too_many(10, (2, 100), (0, 0)));
        assert!(!is_too_many(10, (3, 100), (20, 1000)));
        assert!(is_too_many(10, (4, 100), (20, 1000)));
        assert!(!is_too_many(0, (0, 100), (0, 100)));
        assert!(is_too_many(0, (1, 100), (0, 100)));
        assert!(!is_too_many(0, (100, 100), (10, 10)), "what both hang on is away");
        assert!(is_too_many(10, (1 << 40, 1 << 40), (1, 1 << 40)));
        assert!(!is_too_many(10, (u64::MAX, u64::MAX), (u64::MAX, 1)), "nonsense is no reason to panic");
    }

    #[test]
    fn shares_are_written_with_a_digit() {
        let percent = |failed, requests| percent(Tally { requests, failed });
        assert_eq!([percent(51, 1204), percent(1, 100_000), percent(0, 0)], ["4.3 %", "0.1 %", "0.0 %"]);
    }
}
