//! When certificates in use end, and how pressing that is (rule R6). Pure: the caller says what time it is.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

const DAY: Duration = Duration::from_secs(86_400);

/// How long before a CA's end it is told, ever more pressing: in time, or as this part of its life when that is less.
const CA_STEPS: [(Duration, u32); 3] = [
    (Duration::from_secs(30 * 86_400), 4),
    (Duration::from_secs(14 * 86_400), 8),
    (Duration::from_secs(7 * 86_400), 16),
];

/// Part of its life at which a node's certificate is overdue: it should have been renewed at half.
const NODE_PART: u32 = 4;

/// Whose certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// This node's own.
    Node,
    /// Its region's CA.
    RegionCa,
    /// A trusted root.
    Root,
}

/// When a certificate in use begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry {
    /// Whose it is.
    pub owner: Owner,
    /// From when it is valid.
    pub from: SystemTime,
    /// Until when.
    pub until: SystemTime,
}

impl Expiry {
    /// How pressing its end is: 0, not at all; then the more, the sooner, 4 when it has ended.
    pub fn urgency(&self, now: SystemTime) -> u8 {
        let Ok(left) = self.until.duration_since(now) else { return 4 };
        if left.is_zero() {
            return 4;
        }
        let life = self.until.duration_since(self.from).unwrap_or_default();
        match self.owner {
            Owner::Node => u8::from(left < life / NODE_PART),
            Owner::RegionCa | Owner::Root => {
                CA_STEPS.iter().filter(|(span, part)| left <= (*span).min(life / *part)).count() as u8
            }
        }
    }

    /// What an operator should know: nothing, or one sentence with what to do.
    pub fn alarm(&self, now: SystemTime) -> Option<String> {
        if self.urgency(now) == 0 {
            return None;
        }
        let when = match (self.until.duration_since(now), now.duration_since(self.until)) {
            (Ok(left), _) if !left.is_zero() => format!("ends in {}", told(left)),
            (_, Ok(ago)) => format!("ended {} ago", told(ago)),
            _ => "ends now".to_owned(),
        };
        let remedy = match self.owner {
            Owner::Node => "no voter of the region has renewed it; is one reached?",
            Owner::RegionCa => "renew it with `insula ca renew-region`",
            Owner::Root => "replace it with `insula ca replace-root`",
        };
        Some(format!("{} {when}: {remedy}", self.owner))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "this node's certificate",
            Self::RegionCa => "the region CA's certificate",
            Self::Root => "a trusted root's certificate",
        })
    }
}

fn told(span: Duration) -> String {
    match span.as_secs() {
        seconds if span >= DAY * 2 => format!("{} days", seconds / 86_400),
        seconds if seconds >= 7200 => format!("{} hours", seconds / 3600),
        seconds if seconds >= 120 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} seconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::now;

    fn urgencies(owner: Owner, life: Duration, left: &[Duration]) -> Vec<u8> {
        let expiry = Expiry { owner, from: now(), until: now() + life };
        left.iter().map(|left| expiry.urgency(expiry.until - *left)).collect()
    }

    #[test]
    fn authorities_alarm_at_30_14_and_7_days_or_at_parts_of_a_short_life() {
        let left = [DAY * 31, DAY * 30, DAY * 15, DAY * 14, DAY * 7, DAY, Duration::ZERO];
        assert_eq!(urgencies(Owner::RegionCa, DAY * 365, &left), [0, 1, 1, 2, 3, 3, 4]);
        let second = Duration::from_secs(1);
        let left = [second * 17, second * 16, second * 8, second * 4, Duration::ZERO];
        assert_eq!(urgencies(Owner::Root, second * 64, &left), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_nodes_certificate_alarms_below_a_quarter_of_its_life() {
        let hour = Duration::from_secs(3600);
        assert_eq!(urgencies(Owner::Node, hour * 72, &[hour * 36, hour * 18, hour * 17, Duration::ZERO]), [0, 0, 1, 4]);
    }

    #[test]
    fn alarms_say_when_and_what_to_do() {
        let expiry = Expiry { owner: Owner::RegionCa, from: now(), until: now() + DAY * 365 };
        assert_eq!(expiry.alarm(now()), None);
        let text = expiry.alarm(expiry.until - DAY * 13).expect("an alarm");
        assert_eq!(text, "the region CA's certificate ends in 13 days: renew it with `insula ca renew-region`");
        let expiry = Expiry { owner: Owner::Node, ..expiry };
        let text = expiry.alarm(expiry.until + DAY).expect("an alarm");
        assert!(text.starts_with("this node's certificate ended 24 hours ago: no voter"), "{text}");
    }
}
