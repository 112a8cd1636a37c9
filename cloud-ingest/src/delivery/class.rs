//! Step 11 of 12: which kind of work goes next where there is more than a destination takes. Pure: knows how long the
//! first of each kind has waited, and what went before.
//!
//! Kinds have shares, not ranks. Each kind's next start is a *pass* on a common line, and each start moves it on by as much
//! as its share is small; the kind furthest behind is next. A kind that had nothing to do starts again where the line is
//! now, so idleness saves nothing up: a live tap that comes into a day of backfill is next, and a day of live taps leaves
//! the backfill its share. Who has waited for long weighs more, up to what a live tap does.

use serde::{Deserialize, Serialize};

/// The kinds of work at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Taps as they come in.
    Live,
    /// Corrections to what was delivered.
    Corrections,
    /// What was stored before the destination was there.
    Backfill,
    /// What was delivered before, and is to be sent again.
    Replay,
}

/// After so long a waiting kind weighs twice its share; after twice as long, three times.
const AGING_MS: u64 = 10 * 60 * 1_000;

/// The length of the common line that a share of one takes.
const STRIDE: u64 = 5_040;

impl Class {
    /// All, the most urgent first.
    pub const ALL: [Class; 4] = [Class::Live, Class::Corrections, Class::Backfill, Class::Replay];

    /// The name in the store, the API and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Class::Live => "live",
            Class::Corrections => "corrections",
            Class::Backfill => "backfill",
            Class::Replay => "replay",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name() == name)
    }

    /// Of so many starts in 40, where all have work.
    fn share(self) -> u64 {
        match self {
            Class::Live => 28,
            Class::Corrections => 7,
            Class::Backfill => 4,
            Class::Replay => 1,
        }
    }

    fn weight(self, waited_ms: u64) -> u64 {
        let aged = self.share().saturating_mul(1 + waited_ms / AGING_MS);
        aged.clamp(1, Class::Live.share())
    }
}

/// What has to be remembered: each kind's place on the line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shares([u64; 4]);

/// What there is of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// So many could start, as far as was looked.
    pub count: usize,
    /// How long the first of them has waited.
    pub waited_ms: u64,
}

impl Shares {
    /// Divides `room` starts; `waiting` in the order of [`Class::ALL`].
    pub fn divide(&mut self, waiting: [Waiting; 4], room: usize) -> [usize; 4] {
        let mut starts = [0; 4];
        // Whoever had nothing to do begins where those who had are now.
        let line =
            (0..4).filter(|class| waiting[*class].count > 0).map(|class| self.0[class]).max().unwrap_or(0);
        let busy =
            (0..4).filter(|class| waiting[*class].count > 0).map(|class| self.0[class]).min().unwrap_or(0);
        for (pass, waiting) in self.0.iter_mut().zip(&waiting) {
            if waiting.count == 0 {
                *pass = (*pass).max(busy).min(line);
            }
        }
        for _ in 0..room {
            let next = (0..4)
                .filter(|class| starts[*class] < waiting[*class].count)
                .min_by_key(|class| self.0[*class]);
            let Some(next) = next else { break };
            starts[next] += 1;
            self.0[next] += STRIDE / Class::ALL[next].weight(waiting[next].waited_ms);
        }
        // The line starts again with each turn, so that numbers stay small.
        let least = *self.0.iter().min().unwrap_or(&0);
        self.0.iter_mut().for_each(|pass| *pass -= least);
        starts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MANY: usize = 1_000_000;

    fn fresh(counts: [usize; 4]) -> [Waiting; 4] {
        counts.map(|count| Waiting { count, waited_ms: 0 })
    }

    #[test]
    fn where_all_have_work_each_has_its_share() {
        let mut shares = Shares::default();
        let mut sum = [0; 4];
        for _ in 0..400 {
            let starts = shares.divide(fresh([MANY; 4]), 10);
            (0..4).for_each(|class| sum[class] += starts[class]);
        }
        for (class, share) in [2_800, 700, 400, 100].into_iter().enumerate() {
            assert!(sum[class].abs_diff(share) <= 2, "{sum:?}");
        }
    }

    #[test]
    fn what_nobody_needs_goes_to_who_does() {
        assert_eq!(Shares::default().divide(fresh([0, 0, 3, MANY]), 10), [0, 0, 3, 7]);
        assert_eq!(Shares::default().divide(fresh([2, 0, 0, 0]), 10), [2, 0, 0, 0]);
        assert_eq!(Shares::default().divide(fresh([0; 4]), 10), [0; 4]);
    }

    #[test]
    fn a_live_tap_in_a_day_of_bulk_is_next() {
        let mut shares = Shares::default();
        for _ in 0..10_000 {
            assert_eq!(shares.divide(fresh([0, 0, MANY, MANY]), 3).iter().sum::<usize>(), 3);
        }
        assert_eq!(shares.divide(fresh([1, 0, MANY, MANY]), 1), [1, 0, 0, 0]);
    }

    #[test]
    fn idleness_saves_nothing_up() {
        let mut shares = Shares::default();
        for _ in 0..10_000 {
            shares.divide(fresh([MANY, 0, 0, 0]), 7);
        }
        let starts = shares.divide(fresh([MANY, 0, 0, MANY]), 29);
        assert!(starts[3] <= 2, "{starts:?}");
    }

    #[test]
    fn who_has_waited_for_long_weighs_more_and_never_more_than_a_live_tap() {
        let day_ms = 24 * 60 * 60 * 1_000;
        let old = Waiting { count: MANY, waited_ms: day_ms };
        let live = Waiting { count: MANY, waited_ms: 0 };
        let starts = Shares::default().divide([live, Waiting::default(), Waiting::default(), old], 1_000);
        assert_eq!(starts, [500, 0, 0, 500]);
    }

    proptest! {
        #[test]
        fn nobody_with_work_is_starved(
            turns in prop::collection::vec((prop::array::uniform4(prop_oneof![Just(0usize), 1..20usize]), 0..9usize), 1..400),
        ) {
            let (mut shares, mut since) = (Shares::default(), [0; 4]);
            for (counts, room) in turns {
                let starts = shares.divide(fresh(counts), room);
                let sum = starts.iter().sum::<usize>();
                prop_assert_eq!(sum, room.min(counts.iter().sum()), "no room is wasted");
                for class in 0..4 {
                    prop_assert!(starts[class] <= counts[class]);
                    since[class] = if counts[class] == 0 || starts[class] > 0 { 0 } else { since[class] + sum };
                    prop_assert!(since[class] <= 2 * 40 + 9, "{:?} waits for {since:?}", Class::ALL[class]);
                }
            }
        }
    }
}
