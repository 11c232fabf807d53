//! Reads what is run once for a release of a service.

use std::{ops::RangeInclusive, time::Duration};

use super::program;
use crate::{
    HooksSpec,
    definition::{fields::Item, keys, problem::Problems},
};

const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

pub(super) fn read(item: &Item<'_>, problems: &mut Problems) -> Option<HooksSpec> {
    let fields = item.fields(&keys::HOOKS, problems)?;
    let mut command = |key: &str| fields.get(key).map(|item| program(&item, problems));
    let (before, after) = (command("before"), command("after"));
    let timeout = fields.get("timeout").and_then(|item| item.span(TIMEOUT, problems));
    if before.is_none() && after.is_none() {
        item.refuse(problems, "nothing is run; write before = [\"./migrate\"], after = [\"./notify\"], or both");
        return None;
    }
    let usual = HooksSpec::default();
    Some(HooksSpec {
        before: before.unwrap_or_default(),
        after: after.unwrap_or_default(),
        timeout: timeout.unwrap_or(usual.timeout),
    })
}
