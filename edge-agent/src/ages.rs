//! How long records have waited for a receipt. Pure: `now_ms` is an argument; knows neither broker nor disk.

use std::collections::VecDeque;

use tap_protocol::ids::Seq;

/// How finely the age of what waits is remembered: at most so many points, at least so far apart.
const MAX_POINTS: usize = 1024;
const POINT_MS: u64 = 1_000;

/// Since when records of the newest outbox have waited for a receipt: a few points, oldest first, so that a million
/// waiting records cost no more memory than a thousand.
#[derive(Debug, Default)]
pub struct Ages {
    /// (first record, when): records from here on to the next point were committed at about that time.
    points: VecDeque<(Seq, u64)>,
    last_seq: Seq,
    receipted: Seq,
}

impl Ages {
    /// A run begins with records up to `last_seq` and receipts up to `receipted`; how long the rest has waited is unknown.
    pub fn began(&mut self, last_seq: Seq, receipted: Seq, now_ms: u64) {
        self.receipted = receipted;
        self.grew(last_seq, now_ms);
    }

    /// Records up to `last_seq` are on the medium.
    pub fn grew(&mut self, last_seq: Seq, now_ms: u64) {
        let first_new = self.last_seq.max(self.receipted).next();
        self.last_seq = last_seq;
        if self.points.back().is_none_or(|(_, at_ms)| now_ms >= at_ms + POINT_MS) {
            self.points.push_back((first_new, now_ms));
        }
        if self.points.len() > MAX_POINTS {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// A receipt covers everything up to `through`.
    pub fn receipted(&mut self, through: Seq) {
        self.receipted = through;
        while self.points.get(1).is_some_and(|(first, _)| *first <= through.next()) {
            self.points.pop_front();
        }
        if self.receipted >= self.last_seq {
            self.points.clear();
        }
    }

    /// How long the oldest record without a receipt has waited, milliseconds; `None` if none waits.
    pub fn oldest_ms(&self, now_ms: u64) -> Option<u64> {
        self.points.front().map(|(_, at_ms)| now_ms.saturating_sub(*at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_what_waits_is_known_to_a_second() {
        let mut ages = Ages::default();
        assert_eq!(ages.oldest_ms(0), None);
        ages.grew(Seq(10), 1_000);
        ages.grew(Seq(20), 5_000);
        assert_eq!(ages.oldest_ms(6_000), Some(5_000));
        ages.receipted(Seq(10));
        assert_eq!(ages.oldest_ms(6_000), Some(1_000));
        ages.receipted(Seq(20));
        assert_eq!(ages.oldest_ms(6_000), None);
    }

    #[test]
    fn a_year_of_waiting_takes_no_more_memory() {
        let mut ages = Ages::default();
        (1..100_000).for_each(|n| ages.grew(Seq(n), n * POINT_MS));
        assert!(ages.points.len() <= MAX_POINTS);
        assert_eq!(ages.oldest_ms(100_000 * POINT_MS), Some(99_999 * POINT_MS));
    }
}
