//! What a node knows of the services of other regions, and how old that is. Pure: the time comes with each call.

use std::{collections::BTreeMap, time::Duration};

use insula_catalog::{Heard, limits};
use insula_env::clock::Instant;
use insula_types::RegionName;
use serde::{Deserialize, Serialize};

use crate::methods::{HeardDigest, ToldDigest};

/// What was heard longer ago does not count as long as there is something else.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// Services of all regions together that one answer tells of: what is left comes with the next.
const ANSWER_SERVICES_MAX: usize = 40_000;

/// What a region said last.
#[derive(Debug, Clone)]
struct Known {
    /// With its services.
    told: ToldDigest,
    /// When it said so; none: before this process began.
    heard: Option<Instant>,
    round_trip: Option<Duration>,
}

impl Known {
    fn is_fresh(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) <= FRESH_FOR)
    }
}

/// What is kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The digests of other regions.
    pub regions: BTreeMap<RegionName, ToldDigest>,
}

/// What is known of other regions.
#[derive(Debug, Default)]
pub(super) struct Table {
    known: BTreeMap<RegionName, Known>,
    /// The regions by nearness.
    order: Vec<RegionName>,
    /// Which of them counted as fresh at the last look.
    fresh: BTreeMap<RegionName, bool>,
}

impl Table {
    /// One that begins with what was on disk.
    pub(super) fn new(kept: Kept) -> Self {
        let known = |told| Known { told, heard: None, round_trip: None };
        Self { known: kept.regions.into_iter().map(|(name, told)| (name, known(told))).collect(), ..Self::default() }
    }

    /// What is to be kept on disk.
    pub(super) fn kept(&self) -> Kept {
        Kept { regions: self.known.iter().map(|(name, known)| (name.clone(), known.told.clone())).collect() }
    }

    /// The mark of what is known of a region.
    pub(super) fn mark(&self, region: &RegionName) -> Option<u64> {
        self.known.get(region).map(|known| known.told.mark)
    }

    /// The marks of all of them.
    pub(super) fn marks(&self) -> BTreeMap<RegionName, u64> {
        self.known.iter().map(|(name, known)| (name.clone(), known.told.mark)).collect()
    }

    /// Whether a region was heard of a moment ago.
    pub(super) fn is_fresh(&self, region: &RegionName, now: Instant) -> bool {
        self.known.get(region).is_some_and(|known| known.is_fresh(now))
    }

    /// Takes what was said of a region at a time. Whether it says something new; none when it is of no use: it is older than what is
    /// known, too long, or says less than what is needed.
    pub(super) fn take(
        &mut self,
        region: &RegionName,
        told: ToldDigest,
        round_trip: Option<Duration>,
        heard: Instant,
        now: Instant,
    ) -> Option<bool> {
        if told.region != *region || told.services.as_ref().is_some_and(|all| all.len() > limits::DIGEST_SERVICES_MAX) {
            return None;
        }
        let before = self.known.get(region);
        // A gateway that is cut off within its region knows less than another did. What nobody confirms any more gives way.
        let stamp = |told: &ToldDigest| (told.incarnation, told.revision);
        if before.is_some_and(|before| {
            before.is_fresh(now) && (stamp(&told) < stamp(&before.told) || before.heard.is_some_and(|at| at > heard))
        }) {
            return None;
        }
        let is_new = before.is_none_or(|before| before.told.mark != told.mark);
        let services = match (told.services, before) {
            (Some(services), _) => services,
            (None, Some(before)) if !is_new => before.told.services.clone()?,
            (None, _) => return None,
        };
        let round_trip = round_trip.or_else(|| before.and_then(|before| before.round_trip));
        let told = ToldDigest { services: Some(services), ..told };
        self.known.insert(region.clone(), Known { told, heard: Some(heard), round_trip });
        Some(is_new)
    }

    /// Forgets regions that are none any more, and brings up to date which of them are fresh, and which are near. Whether any of this
    /// is new.
    pub(super) fn look(&mut self, regions: &[RegionName], now: Instant) -> bool {
        self.known.retain(|name, _| regions.contains(name));
        let round_trips =
            self.known.iter().filter_map(|(name, known)| Some((name.clone(), known.round_trip?))).collect();
        let order = by_nearness(&self.order, regions, &round_trips);
        let fresh = self.known.iter().map(|(name, known)| (name.clone(), known.is_fresh(now))).collect();
        let is_new = (&order, &fresh) != (&self.order, &self.fresh);
        (self.order, self.fresh) = (order, fresh);
        is_new
    }

    /// As catalogs are made of it.
    pub(super) fn heard(&self) -> BTreeMap<RegionName, Heard<'_>> {
        let rank = |name| self.order.iter().position(|known| known == name).map_or(u32::MAX, |place| place as u32);
        let heard = self.known.iter().filter_map(|(name, known)| {
            let is_fresh = self.fresh.get(name).copied().unwrap_or(false);
            Some((name.clone(), Heard { rank: rank(name), is_fresh, digest: known.told.services.as_ref()? }))
        });
        heard.collect()
    }

    /// What a node of this region is told that knows these already.
    pub(super) fn tell(&self, known: &BTreeMap<RegionName, u64>, now: Instant) -> BTreeMap<RegionName, HeardDigest> {
        let mut left = ANSWER_SERVICES_MAX;
        let told = self.known.iter().filter_map(|(name, entry)| {
            let age = now.saturating_duration_since(entry.heard?);
            let is_known = known.get(name) == Some(&entry.told.mark);
            let len = entry.told.services.as_ref().map_or(0, BTreeMap::len);
            let services = if is_known {
                None
            } else {
                left = left.checked_sub(len)?;
                entry.told.services.clone()
            };
            let digest = ToldDigest { services, ..entry.told.clone() };
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            let round_trip_us = entry.round_trip.map(micros);
            Some((name.clone(), HeardDigest { age_ms: millis(age), round_trip_us, digest }))
        });
        told.collect()
    }
}

/// The regions by nearness, those whose round trip is not known last, and by name. Two change places only when the one behind is nearer
/// by a fifth: else traffic would go to and fro between two that are equally far.
fn by_nearness(
    before: &[RegionName],
    regions: &[RegionName],
    round_trips: &BTreeMap<RegionName, Duration>,
) -> Vec<RegionName> {
    let place = |name: &RegionName| before.iter().position(|known| known == name);
    let time = |name: &RegionName| round_trips.get(name).copied().unwrap_or(Duration::MAX);
    let mut order = regions.to_vec();
    // New ones by their time, behind those that had a place: they move ahead below.
    order.sort_by_key(|name| (place(name).unwrap_or(usize::MAX), time(name), name.clone()));
    let is_nearer = |one: Duration, other: Duration| match (one, other) {
        (Duration::MAX, _) => false,
        (_, Duration::MAX) => true,
        (one, other) => one < other / 5 * 4,
    };
    for end in (1..order.len()).rev() {
        for at in 0..end {
            if is_nearer(time(&order[at + 1]), time(&order[at])) {
                order.swap(at, at + 1);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use insula_catalog::{Digest, FarService, mark};
    use insula_env::Clock;
    use insula_types::{Incarnation, Revision, ServiceRef, codec};

    use super::*;

    fn name(text: &str) -> RegionName {
        text.parse().expect("a name")
    }

    fn services(ready: u32) -> Digest {
        let service = ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"));
        [(service, FarService { ready, was_ready: 3 })].into()
    }

    fn told(region: &str, revision: u64, ready: u32) -> ToldDigest {
        let (incarnation, services) = (Incarnation(1), services(ready));
        let mark = mark(&services);
        ToldDigest { region: name(region), incarnation, revision: Revision(revision), mark, services: Some(services) }
    }

    fn ready(table: &Table, region: &str) -> Option<(u32, bool)> {
        let heard = table.heard();
        let heard = heard.get(&name(region))?;
        Some((heard.digest.values().next()?.ready, heard.is_fresh))
    }

    #[test]
    fn what_is_newer_counts_for_as_long_as_it_is_confirmed() {
        let start = Clock::real().now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut table = Table::default();
        let nrt = name("nrt");
        let take = |table: &mut Table, told, second| {
            let taken = table.take(&nrt, told, None, at(second), at(second));
            table.look(&[name("nrt")], at(second));
            taken
        };
        assert_eq!(take(&mut table, told("was", 5, 2), 0), None, "of another region");
        assert_eq!(take(&mut table, told("nrt", 5, 2), 0), Some(true));
        assert_eq!(ready(&table, "nrt"), Some((2, true)));
        let short = |ready, revision| ToldDigest { services: None, ..told("nrt", revision, ready) };
        assert_eq!(take(&mut table, short(2, 6), 1), Some(false), "as before");
        assert_eq!(take(&mut table, short(1, 7), 2), None, "it was to say what is new");
        assert_eq!(take(&mut table, told("nrt", 4, 1), 3), None, "of a gateway that lags behind");
        assert_eq!(take(&mut table, told("nrt", 7, 0), 4), Some(true));
        assert_eq!(ready(&table, "nrt"), Some((0, true)));
        let all = [nrt.clone()];
        assert!(!table.look(&all, at(14)));
        assert!(table.look(&all, at(15)), "nobody has confirmed it for more than ten seconds");
        assert_eq!(ready(&table, "nrt"), Some((0, false)), "and it is still known");
        assert_eq!(
            table.take(&nrt, told("nrt", 4, 1), None, at(16), at(16)),
            Some(true),
            "better than what nobody confirms"
        );
        // What comes of another node's hearsay, older than what is known, is not taken.
        assert_eq!(table.take(&nrt, told("nrt", 9, 2), None, at(15), at(17)), None);
        assert!(table.look(&[], at(17)));
        assert_eq!(ready(&table, "nrt"), None, "it is no region any more");
    }

    #[test]
    fn what_was_on_disk_is_known_and_old() {
        let now = Clock::real().now();
        let mut table = Table::default();
        table.take(&name("nrt"), told("nrt", 5, 2), None, now, now);
        let kept: Kept = codec::decode(&codec::encode(&table.kept())).expect("it can be read");
        let mut table = Table::new(kept);
        table.look(&[name("nrt")], now);
        assert_eq!(ready(&table, "nrt"), Some((2, false)));
        assert!(table.tell(&BTreeMap::new(), now).is_empty(), "others are told only what was heard");
    }

    #[test]
    fn others_are_told_what_they_lack_and_how_old_it_is() {
        let start = Clock::real().now();
        let (mut table, mut other) = (Table::default(), Table::default());
        table.take(&name("nrt"), told("nrt", 5, 2), Some(Duration::from_millis(90)), start, start);
        let later = start + Duration::from_secs(3);
        for has_all in [true, false] {
            let heard = table.tell(&other.marks(), later).remove(&name("nrt")).expect("told");
            assert_eq!((heard.age_ms, heard.round_trip_us), (3_000, Some(90_000)));
            assert_eq!(heard.digest.services.is_some(), has_all, "once");
            let at = later - Duration::from_millis(heard.age_ms);
            assert_eq!(other.take(&name("nrt"), heard.digest, None, at, later), Some(has_all));
        }
        other.look(&[name("nrt")], start + Duration::from_secs(11));
        assert_eq!(ready(&other, "nrt"), Some((2, false)), "as old as it is for the one who told");
    }

    #[test]
    fn the_nearest_region_comes_first_and_two_alike_do_not_change_places() {
        let check = |before: &str, times: &[(&str, u64)], expected: &str| {
            let names = |text: &str| text.split_whitespace().map(name).collect::<Vec<_>>();
            let all: Vec<RegionName> = times.iter().map(|(region, _)| name(region)).collect();
            let known = times.iter().filter(|(_, ms)| *ms > 0);
            let times = known.map(|(region, ms)| (name(region), Duration::from_millis(*ms))).collect();
            assert_eq!(by_nearness(&names(before), &all, &times), names(expected), "{before:?} {times:?}");
        };
        check("", &[("fra", 266), ("was", 150), ("ams", 90)], "ams was fra");
        check("", &[("fra", 0), ("was", 0), ("ams", 90)], "ams fra was");
        check("ams was", &[("ams", 100), ("was", 95)], "ams was");
        check("ams was", &[("ams", 100), ("was", 79)], "was ams");
        check("ams was fra", &[("ams", 300), ("was", 200), ("fra", 50)], "fra was ams");
        check("ams was", &[("ams", 0), ("was", 200)], "was ams");
        check("gone ams", &[("ams", 100), ("new", 50)], "new ams");
        check("ams", &[], "");
    }
}
