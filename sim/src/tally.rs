//! What was exercised, counted by name. Knows nothing of what the names mean.

use std::collections::BTreeMap;

/// Counters that come into being when they are first counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<String, u64>);

impl Tally {
    /// One more.
    pub fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    /// `n` more.
    pub fn add(&mut self, what: &str, n: u64) {
        match self.0.get_mut(what) {
            Some(count) => *count += n,
            None => {
                self.0.insert(what.to_owned(), n);
            }
        }
    }

    /// Keeps the larger of what is there and `n`.
    pub fn at_least(&mut self, what: &str, n: u64) {
        let before = self.of(what);
        self.add(what, n.saturating_sub(before));
    }

    /// How often.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Takes another run's counters in. Names that begin with `longest` are maxima, the others sums.
    pub fn take_in(&mut self, other: &Tally) {
        for (what, n) in &other.0 {
            match what.starts_with("longest") {
                true => self.at_least(what, *n),
                false => self.add(what, *n),
            }
        }
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(what, n)| (what.as_str(), *n))
    }
}
