//! Reads what becomes of instances that end by themselves.

use std::time::Duration;

use crate::{
    RestartPolicy, RestartSpec,
    definition::{
        duration::{format_duration, parse_duration},
        fields::Item,
        keys,
        problem::Problems,
    },
};

pub(super) fn read(item: &Item<'_>, problems: &mut Problems) -> Option<RestartSpec> {
    const POLICIES: [RestartPolicy; 3] = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
    let fields = item.fields(&keys::RESTART, problems)?;
    let choices = POLICIES.map(|policy| (policy.as_str(), policy));
    let usual = RestartSpec::default();
    let policy = fields.get("policy").map_or(Some(usual.policy), |item| item.choice(&choices, &[], problems));
    let backoff = match fields.get("backoff") {
        Some(item) => backoff(&item, problems),
        None => Some((usual.backoff_min, usual.backoff_max)),
    };
    let (backoff_min, backoff_max) = backoff?;
    Some(RestartSpec { policy: policy?, backoff_min, backoff_max })
}

/// Two spans, `1s..60s`, or one that does not grow.
fn backoff(item: &Item<'_>, problems: &mut Problems) -> Option<(Duration, Duration)> {
    let text = item.text(problems)?;
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    match (parse_duration(least), parse_duration(most)) {
        (Ok(least), Ok(most)) if least > most => {
            let (least, most) = (format_duration(least), format_duration(most));
            item.refuse(problems, format!("the first wait, {least}, is longer than the longest, {most}; swap them"));
        }
        (Ok(least), Ok(most)) if RestartSpec::BACKOFF.contains(&least) && RestartSpec::BACKOFF.contains(&most) => {
            return Some((least, most));
        }
        (Ok(_), Ok(_)) => {
            let (low, high) = (RestartSpec::BACKOFF.start(), RestartSpec::BACKOFF.end());
            let found = item.tree.value.describe();
            let (low, high) = (format_duration(*low), format_duration(*high));
            item.refuse(problems, format!("found {found}, expected waits from {low} to {high}"));
        }
        _ => {
            let found = item.tree.value.describe();
            item.refuse(problems, format!("found {found}, expected the first and the longest wait, like \"1s..60s\""));
        }
    }
    None
}
