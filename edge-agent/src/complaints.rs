//! What is logged again and again is logged seldom, with a count: a flood of anything must not wear out the SD card. Pure.

use std::collections::BTreeMap;

/// The same complaint is logged this often.
const EVERY_MS: u64 = 60_000;

/// Says each kind of complaint once a minute at most, with a count of how often there was reason to.
#[derive(Debug, Default)]
pub struct Complaints(BTreeMap<&'static str, (u64, u64)>);

impl Complaints {
    /// `Some(how often since the last time)` if it is to be said now.
    pub fn due(&mut self, kind: &'static str, now_ms: u64) -> Option<u64> {
        let (last_ms, unsaid) = self.0.entry(kind).or_insert((0, 0));
        *unsaid += 1;
        let is_due = *last_ms == 0 || now_ms >= *last_ms + EVERY_MS;
        is_due.then(|| {
            *last_ms = now_ms;
            std::mem::take(unsaid)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_said_once_a_minute_with_its_count() {
        let mut complaints = Complaints::default();
        assert_eq!(complaints.due("a", 1), Some(1));
        assert_eq!(complaints.due("a", 2), None);
        assert_eq!(complaints.due("b", 3), Some(1));
        assert_eq!(complaints.due("a", 1 + EVERY_MS), Some(2));
    }
}
