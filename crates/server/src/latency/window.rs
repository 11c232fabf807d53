//! The outcomes of the last probes of one node.

use std::{collections::VecDeque, time::Duration};

use crate::methods::Measured;

/// Probes that are kept: ten minutes of them.
pub(super) const KEPT: usize = 120;
/// Those of the last minute.
const LATEST: usize = 12;
/// A node that has not answered so many probes in a row is silent.
const SILENT_AFTER: usize = 3;

/// Outcomes, the oldest first; none: it was lost.
#[derive(Debug, Clone, Default)]
pub(super) struct Window(VecDeque<Option<Duration>>);

impl Window {
    pub(super) fn put(&mut self, outcome: Option<Duration>) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(outcome);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What all of them say.
    pub(super) fn measured(&self) -> Measured {
        let answered = sorted(self.0.iter());
        let us = |percent| quantile(&answered, percent).map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        Measured {
            p50_us: us(50),
            p99_us: us(99),
            probes: self.0.len() as u32,
            lost: (self.0.len() - answered.len()) as u32,
        }
    }

    /// The median of the last minute, so that a link that has changed is known soon; where all of that was lost, of what came before.
    pub(super) fn lately(&self) -> Option<Duration> {
        let latest = sorted(self.0.iter().rev().take(LATEST));
        quantile(&latest, 50).or_else(|| quantile(&sorted(self.0.iter()), 50))
    }

    /// Whether the last probes were all lost.
    pub(super) fn is_silent(&self) -> bool {
        self.0.len() >= SILENT_AFTER && self.0.iter().rev().take(SILENT_AFTER).all(Option::is_none)
    }
}

fn sorted<'a>(outcomes: impl Iterator<Item = &'a Option<Duration>>) -> Vec<Duration> {
    let mut answered: Vec<Duration> = outcomes.filter_map(|outcome| *outcome).collect();
    answered.sort_unstable();
    answered
}

/// The least value that so many percent do not exceed.
fn quantile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    fn of(outcomes: impl IntoIterator<Item = Option<Duration>>) -> Window {
        let mut window = Window::default();
        outcomes.into_iter().for_each(|outcome| window.put(outcome));
        window
    }

    #[test]
    fn half_and_nearly_all_are_within_and_what_is_lost_is_counted() {
        let measured = |p50, p99, probes, lost| {
            let us = |ms: u64| Some(ms * 1000);
            Measured { p50_us: us(p50), p99_us: us(p99), probes, lost }
        };
        assert_eq!(Window::default().measured(), Measured::default());
        assert_eq!(of([ms(7)]).measured(), measured(7, 7, 1, 0));
        assert_eq!(of([ms(3), None, ms(1), ms(2)]).measured(), measured(2, 3, 4, 1));
        assert_eq!(of((1..=100).map(ms)).measured(), measured(50, 99, 100, 0));
        assert_eq!(of([None, None]).measured(), Measured { probes: 2, lost: 2, ..Measured::default() });
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes_first() {
        let window = of((0..1000).map(|at| ms(if at < 1000 - KEPT as u64 { 900 } else { 5 })));
        let measured = window.measured();
        assert_eq!((measured.probes, measured.p99_us), (KEPT as u32, Some(5000)));
    }

    #[test]
    fn a_link_that_has_changed_is_known_within_a_minute() {
        let mut window = of([ms(20); KEPT]);
        for _ in 0..LATEST {
            window.put(ms(90));
        }
        assert_eq!((window.lately(), window.measured().p50_us), (ms(90), Some(20_000)));
        for _ in 0..LATEST {
            window.put(None);
        }
        assert_eq!(window.lately(), ms(20), "as far as it was, on the whole");
        assert_eq!(Window::default().lately(), None);
    }

    #[test]
    fn a_node_is_silent_when_several_probes_in_a_row_were_lost() {
        assert!(!of([None, None]).is_silent(), "it may be the beginning");
        assert!(of([None, None, None]).is_silent());
        assert!(!of([None, None, None, ms(4)]).is_silent());
        assert!(!of([ms(4), None, None]).is_silent());
    }
}
