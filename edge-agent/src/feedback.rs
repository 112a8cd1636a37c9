//! Step 4 of 12, what to show when. Pure: knows readers, taps and moments; neither lights nor the outbox.
//!
//! An answer belongs to the person who is standing there. So the answer to a tap is shown only while no later card was
//! shown at the same reader, and only for so long as that person can be believed to wait for it. A commit that takes
//! its time is told as *wait*, never as green: a slow SD card must not look like a record.
//!
//! | since the card was shown | the commit is outstanding | the commit is done |
//! |---|---|---|
//! | up to [`WAIT_AFTER_MS`] | nothing yet | its answer |
//! | up to [`ANSWER_WITHIN_MS`] | *wait*, once | its answer |
//! | later | *out of service*, once: the person is told to tap again | nothing; the tap counts |

use std::collections::BTreeMap;

use tap_protocol::ids::ReaderName;

use crate::admission::TapKey;

/// A commit that takes longer than this is told as *wait*: what people call at once ends at about 300 ms.
pub const WAIT_AFTER_MS: u64 = 300;

/// After this the person is gone, or thinks that nothing happened: an answer would be taken for somebody else's.
pub const ANSWER_WITHIN_MS: u64 = 2_000;

const _: () = assert!(WAIT_AFTER_MS < ANSWER_WITHIN_MS, "wait is shown before it is given up");

/// Who stands at which reader.
#[derive(Debug, Default)]
pub struct Feedback {
    desks: BTreeMap<ReaderName, Shown>,
}

/// The card that was shown last at a reader.
#[derive(Debug, Clone, Copy)]
struct Shown {
    tap: TapKey,
    at_ms: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waits,
    ToldToWait,
    Over,
}

/// What time alone brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Show *wait* here.
    Wait(ReaderName),
    /// Show *out of service* here: nobody can say whether this tap will be recorded.
    GiveUp(ReaderName),
}

/// Whether the answer to a tap can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The person stands there.
    Waits,
    /// Somebody else showed a card meanwhile.
    Superseded,
    /// Too late for anybody to connect the answer with the tap.
    Gone,
}

impl Feedback {
    /// A card was shown and is becoming a tap.
    pub fn tap(&mut self, reader: &ReaderName, tap: TapKey, at_ms: u64) {
        self.desks.insert(reader.clone(), Shown { tap, at_ms, stage: Stage::Waits });
    }

    /// The card of `tap` was shown once more: whoever shows it waits for an answer anew.
    pub fn again(&mut self, reader: &ReaderName, tap: TapKey, at_ms: u64) {
        self.tap(reader, tap, at_ms);
    }

    /// The card of `tap`, which is not committed yet, is still there, says a reader that repeats itself. That prolongs
    /// nothing; but who was told to try again and is there is waiting again.
    pub fn still_there(&mut self, reader: &ReaderName, tap: TapKey, at_ms: u64) {
        if self.desks.get(reader).is_none_or(|shown| shown.tap != tap || shown.stage == Stage::Over) {
            self.tap(reader, tap, at_ms);
        }
    }

    /// Something else was shown, and answered at once: nobody is told what came before it.
    pub fn something_else(&mut self, reader: &ReaderName) {
        self.desks.remove(reader);
    }

    /// The outcome of `tap` is known. Whether to show it; after that nobody waits for it any more.
    pub fn answer(&mut self, reader: &ReaderName, tap: TapKey, now_ms: u64) -> Audience {
        match self.desks.get_mut(reader) {
            Some(shown) if shown.tap == tap => {
                let was_over = std::mem::replace(&mut shown.stage, Stage::Over) == Stage::Over;
                let in_time = now_ms.saturating_sub(shown.at_ms) <= ANSWER_WITHIN_MS;
                if in_time && !was_over { Audience::Waits } else { Audience::Gone }
            }
            _ => Audience::Superseded,
        }
    }

    /// What is to be shown because time passed; each once.
    pub fn due(&mut self, now_ms: u64) -> Vec<Due> {
        let mut due = Vec::new();
        for (reader, shown) in &mut self.desks {
            let waited_ms = now_ms.saturating_sub(shown.at_ms);
            match shown.stage {
                Stage::Waits | Stage::ToldToWait if waited_ms > ANSWER_WITHIN_MS => {
                    shown.stage = Stage::Over;
                    due.push(Due::GiveUp(reader.clone()));
                }
                Stage::Waits if waited_ms > WAIT_AFTER_MS => {
                    shown.stage = Stage::ToldToWait;
                    due.push(Due::Wait(reader.clone()));
                }
                Stage::Waits | Stage::ToldToWait | Stage::Over => {}
            }
        }
        due
    }

    /// When [`Feedback::due`] has something new at the earliest.
    pub fn wake_at_ms(&self) -> Option<u64> {
        let next = |shown: &Shown| match shown.stage {
            Stage::Waits => Some(shown.at_ms + WAIT_AFTER_MS + 1),
            Stage::ToldToWait => Some(shown.at_ms + ANSWER_WITHIN_MS + 1),
            Stage::Over => None,
        };
        self.desks.values().filter_map(next).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader(name: &str) -> ReaderName {
        name.parse().unwrap()
    }

    fn key(n: u64) -> TapKey {
        TapKey::for_tests(n)
    }

    #[test]
    fn a_quick_commit_is_answered_and_nothing_else_is_shown() {
        let mut feedback = Feedback::default();
        feedback.tap(&reader("in"), key(1), 1_000);
        assert_eq!(feedback.due(1_300), []);
        assert_eq!(feedback.answer(&reader("in"), key(1), 1_300), Audience::Waits);
        assert_eq!((feedback.due(9_000), feedback.wake_at_ms()), (vec![], None));
    }

    #[test]
    fn a_slow_commit_is_told_to_wait_once_and_still_answered() {
        let mut feedback = Feedback::default();
        feedback.tap(&reader("in"), key(1), 1_000);
        assert_eq!(feedback.wake_at_ms(), Some(1_301));
        assert_eq!(feedback.due(1_301), [Due::Wait(reader("in"))]);
        assert_eq!(feedback.due(1_400), []);
        assert_eq!(feedback.answer(&reader("in"), key(1), 3_000), Audience::Waits);
    }

    #[test]
    fn after_two_seconds_the_person_is_told_to_try_again_and_green_stays_dark() {
        let mut feedback = Feedback::default();
        feedback.tap(&reader("in"), key(1), 1_000);
        feedback.due(1_301);
        assert_eq!(feedback.wake_at_ms(), Some(3_001));
        assert_eq!(feedback.due(3_001), [Due::GiveUp(reader("in"))]);
        assert_eq!(feedback.answer(&reader("in"), key(1), 3_002), Audience::Gone);
    }

    #[test]
    fn an_answer_that_is_late_is_not_shown_though_no_time_was_noticed_in_between() {
        let mut feedback = Feedback::default();
        feedback.tap(&reader("in"), key(1), 1_000);
        assert_eq!(feedback.answer(&reader("in"), key(1), 3_001), Audience::Gone);
    }

    #[test]
    fn a_later_card_at_the_same_reader_takes_the_light_and_one_at_another_does_not() {
        let mut feedback = Feedback::default();
        feedback.tap(&reader("in"), key(1), 1_000);
        feedback.tap(&reader("out"), key(2), 1_010);
        feedback.tap(&reader("in"), key(3), 1_020);
        assert_eq!(feedback.answer(&reader("in"), key(1), 1_030), Audience::Superseded);
        assert_eq!(feedback.answer(&reader("out"), key(2), 1_030), Audience::Waits);
        assert_eq!(feedback.answer(&reader("in"), key(3), 1_030), Audience::Waits);
    }

    #[test]
    fn a_card_that_is_no_badge_takes_the_light_too() {
        let mut feedback = Feedback::default();
        feedback.tap(&reader("in"), key(1), 1_000);
        feedback.something_else(&reader("in"));
        assert_eq!(feedback.answer(&reader("in"), key(1), 1_010), Audience::Superseded);
    }

    #[test]
    fn who_shows_the_card_again_is_answered_again() {
        let mut feedback = Feedback::default();
        feedback.tap(&reader("in"), key(1), 1_000);
        feedback.again(&reader("in"), key(1), 2_500);
        assert_eq!(feedback.answer(&reader("in"), key(1), 4_000), Audience::Waits, "the commit was slow");
        feedback.again(&reader("in"), key(1), 5_000);
        assert_eq!(feedback.answer(&reader("in"), key(1), 5_000), Audience::Waits, "it is known already");
    }

    #[test]
    fn a_card_held_to_a_reader_that_repeats_itself_is_told_to_wait_all_the_same() {
        let mut feedback = Feedback::default();
        feedback.tap(&reader("out"), key(1), 1_000);
        let mut shown = Vec::new();
        for at_ms in (1_000..6_000).step_by(100) {
            feedback.still_there(&reader("out"), key(1), at_ms);
            shown.extend(feedback.due(at_ms).into_iter().map(|due| (at_ms, matches!(due, Due::GiveUp(_)))));
        }
        assert_eq!(shown, [(1_400, false), (3_100, true), (3_600, false), (5_300, true), (5_800, false)]);
        assert_eq!(feedback.answer(&reader("out"), key(1), 6_000), Audience::Waits);
    }

    proptest! {
        /// Whatever happens in whatever order, at most one answer is shown per card shown, never late, and never to the
        /// wrong person.
        #[test]
        fn a_light_is_never_somebody_elses(steps in prop::collection::vec((0..4u8, 0..3u64, 0..900u64), 1..60)) {
            let (mut feedback, mut now_ms, mut next) = (Feedback::default(), 0, 10);
            let mut newest: Option<(u64, u64)> = None;
            let mut answered = std::collections::BTreeSet::new();
            for (what, which, later_ms) in steps {
                now_ms += later_ms;
                match what {
                    0 => {
                        next += 1;
                        newest = Some((next, now_ms));
                        feedback.tap(&reader("in"), key(next), now_ms);
                    }
                    1 => {
                        newest = None;
                        feedback.something_else(&reader("in"));
                    }
                    2 => {
                        let tap = next.saturating_sub(which);
                        if feedback.answer(&reader("in"), key(tap), now_ms) == Audience::Waits {
                            let (card, at_ms) = newest.expect("somebody stands there");
                            prop_assert_eq!(card, tap);
                            prop_assert!(now_ms - at_ms <= ANSWER_WITHIN_MS);
                            prop_assert!(answered.insert(tap), "one card, one answer");
                        }
                    }
                    _ => {
                        feedback.due(now_ms);
                    }
                }
                let wakes_in_time = feedback.wake_at_ms().is_none_or(|at_ms| {
                    let mut later = Feedback { desks: feedback.desks.clone() };
                    at_ms <= now_ms || later.due(at_ms - 1).is_empty() && !later.due(at_ms).is_empty()
                });
                prop_assert!(wakes_in_time);
            }
        }
    }
}
