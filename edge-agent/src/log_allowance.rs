//! Beside the line: how much may be logged. Pure: takes `now`. A door that logs without end wears its card out faster than
//! the taps do, and whatever goes wrong at a door goes wrong again a second later.
//!
//! Every place in the code that logs has a small allowance of its own, so that one that repeats silences itself and nobody
//! else; all of them together have one too, which bounds a day whatever happens.

use std::collections::BTreeMap;

use tap_protocol::limits::MAX_READERS;

/// Lines that one place may log at once: every reader at the start, and some that are replugged.
const BURST: u32 = 20;
const _: () = assert!(BURST as usize > MAX_READERS);

/// After that, one line in so long.
const PLACE_EVERY_MS: u64 = 120_000;

/// The same for all places together: some starts in a row, then a line a minute.
const BURST_ALL: u32 = 200;
const ALL_EVERY_MS: u64 = 60_000;

const DAY_MS: u64 = 24 * 3_600_000;

/// More lines than this are never logged in a day, whatever happens: at 300 bytes each that is less than 500 kB.
pub const MOST_LINES_A_DAY: u64 = BURST_ALL as u64 + DAY_MS / ALL_EVERY_MS;

/// Places that are remembered. There are fewer that log; more would mean that what names a place is not constant.
const MAX_PLACES: usize = 512;

/// Who may log, and how often was it refused.
#[derive(Debug)]
pub struct Allowance {
    all: Bucket,
    places: BTreeMap<usize, Place>,
}

#[derive(Debug)]
struct Place {
    bucket: Bucket,
    refused: u64,
}

/// `left` lines may be logged at once; one more every so often.
#[derive(Debug)]
struct Bucket {
    left: u32,
    most: u32,
    every_ms: u64,
    /// Up to here, refilling is accounted for.
    counted_ms: u64,
}

/// May it be logged?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// Yes; and since the last time, this many lines of the same place were left out.
    Log {
        /// How many.
        left_out: u64,
    },
    /// No.
    Not,
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance { all: Bucket::full(BURST_ALL, ALL_EVERY_MS), places: BTreeMap::new() }
    }
}

impl Allowance {
    /// Asks for a line of `place`, which is any number that stands for one place in the code.
    pub fn ask(&mut self, place: usize, now_ms: u64) -> May {
        if self.places.len() >= MAX_PLACES && !self.places.contains_key(&place) {
            return May::Not;
        }
        let new = || Place { bucket: Bucket::full(BURST, PLACE_EVERY_MS), refused: 0 };
        let place = self.places.entry(place).or_insert_with(new);
        // Its own allowance first: what a place may not log must not use up everybody's.
        if place.bucket.has_one(now_ms) && self.all.has_one(now_ms) {
            place.bucket.left -= 1;
            self.all.left -= 1;
            May::Log { left_out: std::mem::take(&mut place.refused) }
        } else {
            place.refused += 1;
            May::Not
        }
    }
}

impl Bucket {
    fn full(most: u32, every_ms: u64) -> Bucket {
        Bucket { left: most, most, every_ms, counted_ms: 0 }
    }

    fn has_one(&mut self, now_ms: u64) -> bool {
        let new = now_ms.saturating_sub(self.counted_ms) / self.every_ms;
        self.counted_ms += new * self.every_ms;
        self.left = u64::from(self.left).saturating_add(new).min(self.most.into()) as u32;
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(allowance: &mut Allowance, places: usize, from_ms: u64, to_ms: u64, every_ms: usize) -> u64 {
        let times = (from_ms..to_ms).step_by(every_ms);
        let asked = times.flat_map(|now_ms| (0..places).map(move |place| (place, now_ms)));
        asked.map(|(place, now_ms)| u64::from(allowance.ask(place, now_ms) != May::Not)).sum()
    }

    #[test]
    fn a_day_of_one_place_that_repeats_is_hundreds_of_lines() {
        let day = lines(&mut Allowance::default(), 1, 0, DAY_MS, 100);
        assert_eq!(day, u64::from(BURST) + DAY_MS / PLACE_EVERY_MS - 1);
    }

    #[test]
    fn a_day_of_everything_going_wrong_at_once_is_bounded() {
        let day = lines(&mut Allowance::default(), 100, 0, DAY_MS, 5_000);
        assert!(day <= MOST_LINES_A_DAY, "{day}");
        assert!(day > MOST_LINES_A_DAY - 10, "and the bound is the true one: {day}");
    }

    #[test]
    fn one_that_floods_silences_nobody_else() {
        let mut allowance = Allowance::default();
        lines(&mut allowance, 1, 0, DAY_MS, 100);
        assert_eq!(allowance.ask(7, DAY_MS), May::Log { left_out: 0 });
    }

    #[test]
    fn what_was_left_out_is_counted_with_the_next_line() {
        let mut allowance = Allowance::default();
        let said = lines(&mut allowance, 1, 0, 1_000, 10);
        assert_eq!(said, u64::from(BURST));
        assert_eq!(allowance.ask(0, PLACE_EVERY_MS), May::Log { left_out: 100 - said });
        assert_eq!(allowance.ask(0, PLACE_EVERY_MS), May::Not);
        assert_eq!(allowance.ask(0, 2 * PLACE_EVERY_MS), May::Log { left_out: 1 });
    }

    #[test]
    fn a_quiet_week_saves_up_no_more_than_one_burst() {
        let mut allowance = Allowance::default();
        lines(&mut allowance, 1, 0, 1_000, 10);
        assert_eq!(lines(&mut allowance, 1, 7 * DAY_MS, 7 * DAY_MS + 1_000, 10), u64::from(BURST));
    }
}
