//! Which keys a definition may have: the one table of what is there, and of what is known and not there yet.

/// The keys of one table.
pub(super) struct Keys {
    /// What can be written today.
    pub(super) known: &'static [&'static str],
    /// What a later version takes (see the interface page); refused with "not yet".
    pub(super) later: &'static [&'static str],
}

pub(super) const APP: Keys = Keys { known: &["app", "services"], later: &[] };
pub(super) const SERVICE: Keys = Keys {
    known: &[
        "image",
        "command",
        "env",
        "scale",
        "resources",
        "ports",
        "routes",
        "health",
        "stop",
        "runtime",
        "volumes",
        "tmpfs",
        "read_only",
        "init",
        "placement",
        "update",
        "files",
        "secrets",
        "args",
        "restart",
        "hooks",
        "regions",
        "priority",
        "region",
    ],
    later: &["failover"],
};
/// What a region may override of a service.
pub(super) const OVERRIDE: Keys = Keys {
    known: &[
        "command",
        "env",
        "scale",
        "resources",
        "ports",
        "routes",
        "health",
        "stop",
        "runtime",
        "volumes",
        "tmpfs",
        "read_only",
        "init",
        "placement",
        "update",
        "files",
        "secrets",
        "args",
        "restart",
        "hooks",
        "priority",
    ],
    later: &[],
};
/// What is the same in all regions, and is said of a service alone.
pub(super) const OF_ALL_REGIONS: [&str; 4] = ["image", "regions", "region", "failover"];
pub(super) const RESOURCES: Keys = Keys { known: &["cpu", "memory", "pids", "files", "disk", "io"], later: &[] };
pub(super) const PORT: Keys = Keys { known: &["name", "port", "protocol"], later: &[] };
pub(super) const ROUTE: Keys = Keys { known: &["host", "path"], later: &["cache"] };
pub(super) const HEALTH: Keys = Keys {
    known: &["http", "tcp", "exec", "grpc", "port", "interval", "timeout", "grace", "unhealthy_after", "restart_after"],
    later: &[],
};
pub(super) const VOLUME: Keys = Keys { known: &["name", "path", "size", "kind"], later: &[] };
pub(super) const TMPFS: Keys = Keys { known: &["path", "size"], later: &[] };
pub(super) const PLACEMENT: Keys = Keys { known: &["spread", "require", "prefer"], later: &[] };
pub(super) const UPDATE: Keys = Keys {
    known: &[
        "strategy",
        "max_unavailable",
        "max_surge",
        "min_healthy",
        "deadline",
        "bake",
        "auto_rollback",
        "instances",
        "weight",
        "promote",
        "max_errors",
        "region_order",
    ],
    later: &[],
};
pub(super) const HOOKS: Keys = Keys { known: &["before", "after", "timeout"], later: &[] };
pub(super) const FILE: Keys = Keys { known: &["path", "content", "mode"], later: &[] };
pub(super) const RESTART: Keys = Keys { known: &["policy", "backoff"], later: &[] };
pub(super) const STOP: Keys = Keys { known: &["signal", "grace"], later: &[] };

impl Keys {
    /// Why a key is refused; none when it is known.
    pub(super) fn refuse(&self, key: &str) -> Option<String> {
        if self.known.contains(&key) {
            return None;
        }
        if self.later.contains(&key) {
            return Some("not yet: this version does not have it; take the key out".to_owned());
        }
        let all = self.known.iter().chain(self.later).copied();
        Some(match nearest(key, all) {
            Some(near) => format!("unknown key; did you mean {near:?}?"),
            None => format!("unknown key; valid here: {}", self.known.join(", ")),
        })
    }
}

/// Longest word that [`nearest`] looks at, in characters: its work grows with the square.
const WORD_LEN_MAX: usize = 64;

/// The candidate that differs least from `word`, when the difference is small enough to be a slip: at most two
/// letters left out, added, changed or swapped, and less than half of the word.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    if length > WORD_LEN_MAX {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= 2 && distance * 2 < length.max(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, substitutions, swaps of neighbours.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut before_last = vec![0; right.len() + 1];
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for i in 1..=left.len() {
        let mut row = vec![i; right.len() + 1];
        for j in 1..=right.len() {
            let changed = usize::from(left[i - 1] != right[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + changed);
            let is_swap = i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1];
            if is_swap {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}
