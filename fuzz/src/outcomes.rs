//! What became of inputs, told apart by the words of it: they stand in for coverage.

use std::{collections::BTreeMap, fmt};

/// Words by which outcomes are told apart. What comes later is often the input's.
const WORDS_MAX: usize = 12;
/// Outcomes that are kept, at most.
const OUTCOMES_MAX: usize = 10_000;
/// Outcomes that are told: those that came most often.
const TOLD_MAX: usize = 25;

/// How often each came.
#[derive(Default)]
pub(crate) struct Outcomes(BTreeMap<String, u64>);

impl Outcomes {
    /// Counts one; whether it has not come before.
    pub(crate) fn is_new(&mut self, became: &str) -> bool {
        let words = words_of(became);
        if let Some(count) = self.0.get_mut(&words) {
            *count += 1;
            return false;
        }
        let is_kept = self.0.len() < OUTCOMES_MAX;
        if is_kept {
            self.0.insert(words, 1);
        }
        is_kept
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Plain words only: names, numbers and quotes are the input's.
fn words_of(became: &str) -> String {
    let is_plain = |word: &&str| word.chars().all(|one| one.is_ascii_lowercase() || ",;:.'".contains(one));
    // A digit behind each of a few letters tells how much of what came.
    let is_count = |word: &&str| word.len() <= WORDS_MAX && word.chars().all(|one| one.is_ascii_alphanumeric());
    let words = became.split_whitespace().enumerate();
    let words = words.filter(|(place, word)| is_plain(word) || (*place == 0 && is_count(word)));
    words.map(|(_, word)| word).take(WORDS_MAX).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (words, count) in all.into_iter().take(TOLD_MAX) {
            writeln!(f, "   {count:>9}  {}", if words.is_empty() { "read" } else { words })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_about_other_names_are_the_same_outcome() {
        let mut outcomes = Outcomes::default();
        for (became, is_new) in [
            ("d1f2 the name /a leads out of the image", true),
            ("d1f2 the name ../b7 leads out of the image", false),
            ("d2f2 the name /a leads out of the image", true),
            ("taken", true),
            ("taken", false),
            ("", true),
        ] {
            assert_eq!(outcomes.is_new(became), is_new, "{became}");
        }
        assert_eq!(outcomes.count(), 4);
        assert!(outcomes.to_string().contains("2  taken"), "{outcomes}");
    }
}
