//! Reads how a service is updated.

use std::{ops::RangeInclusive, time::Duration};

use super::{HOUR, regions};
use crate::{
    CanarySpec, Promotion, RegionSet, Strategy, UpdateSpec,
    definition::{
        SCALE_MAX,
        fields::{Fields, Item},
        format_duration, keys,
        problem::Problems,
        tree::Value,
    },
};

const MIN_HEALTHY: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
const DEADLINE: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(24 * 3600);
const BAKE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(7 * 24 * 3600);
/// Instances beside the scale, or below it.
const SURGE_MAX: u32 = 100;
/// What canaries may fail when nobody says: one percent.
const MAX_ERRORS: u16 = 10;

/// What is written under `strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rolling,
    Canary,
    BlueGreen,
}

pub(super) fn read(item: &Item<'_>, regions: &RegionSet, problems: &mut Problems) -> Option<UpdateSpec> {
    const KINDS: [(&str, Kind); 3] =
        [("rolling", Kind::Rolling), ("canary", Kind::Canary), ("blue-green", Kind::BlueGreen)];
    let fields = item.fields(&keys::UPDATE, problems)?;
    let usual = UpdateSpec::default();
    let kind = fields.get("strategy").map_or(Some(Kind::Rolling), |item| item.choice(&KINDS, &[], problems))?;
    let mut span = |key: &str, range: RangeInclusive<Duration>, usual: Duration| {
        fields.get(key).and_then(|item| item.span(range, problems)).unwrap_or(usual)
    };
    let min_healthy = span("min_healthy", MIN_HEALTHY, usual.min_healthy);
    let deadline = span("deadline", DEADLINE, usual.deadline);
    let bake = span("bake", BAKE, usual.bake);
    let mut number =
        |key: &str, usual: u32| fields.get(key).and_then(|item| item.number(0..=SURGE_MAX, problems)).unwrap_or(usual);
    let max_unavailable = number("max_unavailable", usual.max_unavailable);
    let max_surge = number("max_surge", usual.max_surge);
    if max_surge == 0 && max_unavailable == 0 {
        let at = fields.get("max_surge").unwrap_or_else(|| Item { path: item.path.clone(), tree: item.tree });
        at.refuse(problems, "with max_surge and max_unavailable both 0 nothing could ever be replaced; raise one to 1");
    }
    // One of the two may be as usual: what is accepted here must be accepted again when all is written out.
    if min_healthy >= deadline {
        if let Some(item) = fields.get("min_healthy") {
            item.refuse(problems, "it is not shorter than the deadline; no instance could get healthy in time");
        } else if let Some(item) = fields.get("deadline") {
            let usual = format_duration(min_healthy);
            item.refuse(problems, format!("it is not longer than min_healthy, which is {usual} unless it is given"));
        }
    }
    let strategy = strategy(kind, &fields, problems);
    let auto_rollback = fields.get("auto_rollback").and_then(|item| item.boolean(problems)).unwrap_or(true);
    let region_order =
        fields.get("region_order").map(|item| regions::order(&item, regions, problems)).unwrap_or_default();
    let hooks = usual.hooks;
    Some(UpdateSpec {
        strategy,
        max_unavailable,
        max_surge,
        min_healthy,
        deadline,
        bake,
        auto_rollback,
        hooks,
        region_order,
    })
}

fn strategy(kind: Kind, fields: &Fields<'_>, problems: &mut Problems) -> Strategy {
    const PROMOTIONS: [(&str, Promotion); 2] = [("auto", Promotion::Auto), ("manual", Promotion::Manual)];
    for key in ["instances", "weight", "max_errors"] {
        if let Some(item) = fields.get(key).filter(|_| kind != Kind::Canary) {
            item.refuse(problems, "only strategy \"canary\" has it; write that strategy, or take the key out");
        }
    }
    let promote = fields.get("promote");
    if let Some(item) = promote.as_ref().filter(|_| kind == Kind::Rolling) {
        item.refuse(
            problems,
            "strategy \"rolling\" goes on by itself; write \"canary\" or \"blue-green\", or take the key out",
        );
    }
    let promotion = promote.and_then(|item| item.choice(&PROMOTIONS, &[], problems)).unwrap_or(Promotion::Auto);
    match kind {
        Kind::Rolling => Strategy::Rolling,
        Kind::BlueGreen => Strategy::BlueGreen(promotion),
        Kind::Canary => Strategy::Canary(CanarySpec {
            instances: fields.get("instances").and_then(|item| item.number(1..=SCALE_MAX, problems)).unwrap_or(1),
            weight: fields.get("weight").and_then(|item| weight(&item, problems)).unwrap_or(10),
            promotion,
            max_errors: fields.get("max_errors").and_then(|item| share(&item, problems)).unwrap_or(MAX_ERRORS),
        }),
    }
}

/// A share of the traffic: a whole number of percent.
fn weight(item: &Item<'_>, problems: &mut Problems) -> Option<u8> {
    let found = match &item.tree.value {
        Value::Integer(number) => u8::try_from(*number).ok(),
        Value::Text(text) => text.strip_suffix('%').and_then(|number| number.parse().ok()),
        _ => None,
    };
    let weight = found.filter(|weight| (1..=99).contains(weight));
    if weight.is_none() {
        let found = item.tree.value.describe();
        item.refuse(problems, format!("found {found}, expected a share of the requests from \"1%\" to \"99%\""));
    }
    weight
}

/// A share of failures, `0.5%` for one, in tenths of a percent.
fn share(item: &Item<'_>, problems: &mut Problems) -> Option<u16> {
    let tenths = |text: &str| {
        let (whole, tenth) = text.strip_suffix('%')?.split_once('.').unwrap_or((text.strip_suffix('%')?, "0"));
        let digit = (tenth.len() == 1).then(|| tenth.parse::<u16>().ok())??;
        whole.parse::<u16>().ok()?.checked_mul(10)?.checked_add(digit)
    };
    let found = match &item.tree.value {
        Value::Integer(number) => u16::try_from(*number).ok().and_then(|number| number.checked_mul(10)),
        Value::Text(text) => tenths(text),
        _ => None,
    };
    let share = found.filter(|share| *share <= 1000);
    if share.is_none() {
        let found = item.tree.value.describe();
        item.refuse(
            problems,
            format!("found {found}, expected a share of the requests from \"0%\" to \"100%\", like \"0.5%\""),
        );
    }
    share
}
