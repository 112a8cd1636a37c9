//! Days on which the destination wants a person's taps in the order in which they happened, at whatever door: people walk
//! from one door to another, and doors are away for longer than anybody waits, or not quite so long. Knows which seeds are such
//! days and what is planned for them; nothing of what follows.

use crate::dice::Dice;
use crate::stage::{Event, Stage};
use crate::world::BADGES;

/// One seed in so many is such a day. None of those that ever failed before there were such days is: they stay as they were.
const ONE_IN: u64 = 4;
const WHICH: u64 = 1;

/// Their chance is a stream of its own, so that all other seeds stay as they were.
const ANOTHER_STREAM: u64 = 0x0b5e_55ed_0ace_a11d;

/// A day with order across controllers.
pub struct Day {
    /// A tap waits for other doors no longer than that.
    pub longest_ms: u64,
    dice: Dice,
}

impl Day {
    /// Whether this seed is such a day.
    pub fn of(seed: u64) -> Option<Day> {
        let mut dice = Dice::new(seed ^ ANOTHER_STREAM);
        (seed % ONE_IN == WHICH).then(|| Day { longest_ms: dice.between(20_000, 180_000), dice })
    }

    /// Plans who walks where, and which doors are away meanwhile.
    pub fn plan(&mut self, stage: &mut Stage, doors: usize, chaos_ms: u64) {
        for _ in 0..self.dice.between(1, 3) {
            let away = self.dice.below(doors as u64) as usize;
            let (from_ms, for_ms) =
                (self.dice.below(chaos_ms), self.dice.between(5_000, 2 * self.longest_ms));
            stage.at(from_ms, Event::DoorAway { door: away, for_ms });
            for _ in 0..self.dice.between(1, 6) {
                let at_ms = from_ms + self.dice.below(for_ms);
                self.walk(stage, doors, away, at_ms);
            }
        }
        for _ in 0..self.dice.between(3, 12) {
            let (first, at_ms) = (self.dice.below(doors as u64) as usize, self.dice.below(chaos_ms));
            self.walk(stage, doors, first, at_ms);
        }
    }

    /// Somebody taps at one door, and then at others.
    fn walk(&mut self, stage: &mut Stage, doors: usize, first: usize, at_ms: u64) {
        let badge = self.dice.below(BADGES as u64) as usize;
        let (mut door, mut at_ms) = (first, at_ms);
        for _ in 0..self.dice.between(2, 4) {
            stage.at(at_ms, Event::Card { door, badge, inwards: self.dice.percent(50) });
            door = (door + self.dice.between(1, doors as u64 - 1) as usize) % doors;
            at_ms += self.dice.between(300, 40_000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_that_ever_failed_before_there_were_such_days_stay_as_they_were() {
        let before = [8, 16, 1_635, 2_107, 2_735, 2_423, 5_292, 6_362, 27_282, 303];
        assert!(before.into_iter().all(|seed| Day::of(seed).is_none()));
        assert_eq!((1..=400).filter(|seed| Day::of(*seed).is_some()).count(), 100);
    }
}
