//! Decides which tasks hang, from what is seen of their beats.
//!
//! ```text
//!          no sign for the limit          other start seen
//! (well) ───────────────────────► aborted ────────────────► (well)
//!    │                               │ no other start for 5 s
//!    └── cannot be made anew ────────┴──────────► the process ends
//! ```

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// How long an abort may take until the task is seen to run anew: its thread only has to come by.
const ABORT_LIMIT: Duration = Duration::from_secs(5);
/// A watchdog that did not look for so long was paused itself, with everybody else or for want of a CPU, and cannot tell
/// who hangs: all get their limit anew.
const PAUSE: Duration = Duration::from_secs(4);

/// A beat as it is seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) id: u64,
    pub(crate) last: Instant,
    pub(crate) limit: Duration,
    pub(crate) starts: u64,
    /// Whether there is a way to make the task anew.
    pub(crate) may_restart: bool,
}

/// What is to be done, with the task's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Restart(u64),
    Exit(u64),
}

/// What is remembered from look to look.
#[derive(Debug, Default)]
pub(crate) struct Core {
    looked: Option<Instant>,
    /// Silence before it counts for nothing.
    since: Option<Instant>,
    /// Tasks that were aborted: at which start, and when.
    aborted: BTreeMap<u64, (u64, Instant)>,
}

impl Core {
    /// One look at all beats.
    pub(crate) fn look(&mut self, now: Instant, beats: &[Seen]) -> Vec<Verdict> {
        let looked = self.looked.replace(now);
        if looked.is_none_or(|looked| now.saturating_duration_since(looked) > PAUSE) {
            self.since = Some(now);
        }
        let since = self.since.unwrap_or(now);
        self.aborted.retain(|id, (starts, _)| beats.iter().any(|beat| beat.id == *id && beat.starts == *starts));
        let mut verdicts = Vec::new();
        for beat in beats {
            let silent = now.saturating_duration_since(beat.last.max(since));
            let verdict = match self.aborted.get(&beat.id) {
                Some((_, at)) if now.saturating_duration_since((*at).max(since)) >= ABORT_LIMIT => {
                    Verdict::Exit(beat.id)
                }
                None if silent >= beat.limit && beat.may_restart => {
                    self.aborted.insert(beat.id, (beat.starts, now));
                    Verdict::Restart(beat.id)
                }
                None if silent >= beat.limit => Verdict::Exit(beat.id),
                _ => continue,
            };
            verdicts.push(verdict);
        }
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Looks each second; task 1 shows its last sign at `last`, and `starts` says how often it was started by then.
    fn watch(
        seconds: impl Iterator<Item = u64>,
        last: impl Fn(u64) -> u64,
        starts: impl Fn(u64) -> u64,
        may_restart: bool,
    ) -> Vec<(u64, Verdict)> {
        let (begin, mut core) = (crate::Clock::real().now(), Core::default());
        let at = |second| begin + Duration::from_secs(second);
        let mut all = Vec::new();
        for second in seconds {
            let seen = Seen { id: 1, last: at(last(second)), limit: LIMIT, starts: starts(second), may_restart };
            all.extend(core.look(at(second), &[seen]).into_iter().map(|verdict| (second, verdict)));
        }
        all
    }

    #[test]
    fn a_task_that_beats_is_left_alone() {
        assert_eq!(watch(0..1000, |now| now.saturating_sub(9), |_| 1, true), []);
        assert_eq!(watch(0..20, |now| now + 30, |_| 1, true), [], "it waits to be started again");
    }

    #[test]
    fn a_silent_task_is_started_again_once() {
        let last = |now| if now <= 10 { 0 } else { now };
        let starts = |now| if now <= 11 { 1 } else { 2 };
        assert_eq!(watch(0..100, last, starts, true), [(10, Verdict::Restart(1))]);
        assert_eq!(
            watch(0..25, |now| now / 11 * 11, |now| now / 11, true),
            [(10, Verdict::Restart(1)), (21, Verdict::Restart(1))]
        );
    }

    #[test]
    fn the_process_ends_when_an_abort_does_not_take_effect() {
        let blocked = watch(0..16, |_| 0, |_| 1, true);
        assert_eq!(blocked, [(10, Verdict::Restart(1)), (15, Verdict::Exit(1))]);
        assert_eq!(watch(0..11, |_| 0, |_| 1, false), [(10, Verdict::Exit(1))], "it cannot be made anew");
    }

    #[test]
    fn who_was_paused_itself_blames_nobody() {
        let paused = || (0..9).chain(1000..1010);
        assert_eq!(watch(paused(), |_| 0, |_| 1, true), []);
        assert_eq!(watch(paused().chain([1010]), |_| 0, |_| 1, true), [(1010, Verdict::Restart(1))]);
    }
}
