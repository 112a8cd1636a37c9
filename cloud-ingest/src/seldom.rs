//! Beside the line: says the same thing at most once a minute. Pure.

use std::collections::HashMap;
use std::hash::Hash;

use crate::event_store::UtcMs;

/// Once in so long per subject.
const EVERY_MS: i64 = 60_000;

/// So many subjects are remembered; beyond, all are forgotten and may be said again.
const MAX_SUBJECTS: usize = 1_024;

/// Remembers when each subject was last spoken of.
#[derive(Debug)]
pub struct Seldom<S>(HashMap<S, UtcMs>);

impl<S: Eq + Hash> Seldom<S> {
    /// Nothing was said yet.
    pub fn new() -> Seldom<S> {
        Seldom(HashMap::new())
    }

    /// Whether to speak of it now.
    pub fn speaks(&mut self, of: S, now: UtcMs) -> bool {
        if self.0.len() >= MAX_SUBJECTS {
            self.0.clear();
        }
        match self.0.get(&of) {
            Some(last) if now.0.saturating_sub(last.0) < EVERY_MS => false,
            _ => {
                self.0.insert(of, now);
                true
            }
        }
    }
}

impl<S: Eq + Hash> Default for Seldom<S> {
    fn default() -> Seldom<S> {
        Seldom::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_is_spoken_of_once_a_minute() {
        let mut seldom = Seldom::new();
        assert!(seldom.speaks("a", UtcMs(0)));
        assert!(seldom.speaks("b", UtcMs(1)));
        assert!(!seldom.speaks("a", UtcMs(59_999)));
        assert!(seldom.speaks("a", UtcMs(60_000)));
    }

    #[test]
    fn a_flood_of_subjects_takes_no_more_room() {
        let mut seldom = Seldom::new();
        for subject in 0..10 * MAX_SUBJECTS {
            assert!(seldom.speaks(subject, UtcMs(0)));
        }
        assert!(seldom.0.len() <= MAX_SUBJECTS);
    }
}
