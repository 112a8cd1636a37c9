//! Step 1 of 12, PC/SC: what a look at a reader means. Pure: knows neither pcscd nor time.
//!
//! Between two looks cards may have come and gone. pcscd counts each insertion and each removal, so the count tells
//! what the presence bit alone cannot: a card that was swapped, and a tap that was too quick to be read.

use tap_protocol::badge::Credential;

/// Most insertions and removals that hands can do between two looks. More means that the counter started over, as it
/// does when the reader was replugged (the counter has 16 bits and wraps).
const MOST_EVENTS: u16 = 64;

/// What one look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// A card is in the field.
    pub card: bool,
    /// It does not answer.
    pub mute: bool,
    /// Insertions and removals so far, wrapping.
    pub event_count: u16,
}

/// What a look means, to be done in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// A card that was in the field left it.
    pub removed: bool,
    /// Cards that came and went unread.
    pub missed: u32,
    /// A card is in the field that was not read yet.
    pub read: bool,
}

/// The memory between looks. It outlives the connection to pcscd: a card that lay on the reader before an outage
/// and does not afterwards was removed.
#[derive(Debug)]
pub struct Watch {
    card_in_field: bool,
    last: Option<Look>,
}

impl Watch {
    /// Before the first look, given whether a card is believed to be in the field.
    pub fn new(card_in_field: bool) -> Watch {
        Watch { card_in_field, last: None }
    }

    /// The connection is new: counts start over, and a card in the field may be another one.
    pub fn forget_count(&mut self) {
        self.last = None;
    }

    /// Takes a look and says what it means.
    pub fn look(&mut self, now: Look) -> Change {
        let before = self.last.replace(now);
        let was_there = std::mem::replace(&mut self.card_in_field, now.card);
        let Some(before) = before else { return at_first_sight(was_there, now) };
        let events = now.event_count.wrapping_sub(before.event_count);
        if events > MOST_EVENTS {
            return at_first_sight(was_there, now);
        }
        // came − went = now − before, came + went = events; a driver that does not count changed at least once.
        let changed = before.card != now.card;
        let events = u32::from(events).max(changed.into());
        let came = (events + u32::from(now.card)).saturating_sub(before.card.into()) / 2;
        let read = now.card && (events > 0 || before.mute && !now.mute);
        Change {
            removed: before.card && events > 0,
            missed: came.saturating_sub((now.card && events > 0).into()),
            read,
        }
    }
}

/// Without a count to compare, a card in the field is read, be it for the second time: step 2 knows repeats.
fn at_first_sight(was_there: bool, now: Look) -> Change {
    Change { removed: was_there && !now.card, missed: 0, read: now.card }
}

/// A number this soon after its card left may be the reader's memory of it. As long as the debounce time: what comes
/// later is a tap of its own, what comes sooner is taken for a repeat, and would be a lost tap if it were somebody
/// else's.
pub const STALE_WITHIN_MS: u64 = 1_500;

/// Notices a number that comes again right after its card left. The memory is one card.
#[derive(Debug, Default)]
pub struct Echo {
    number: Option<Credential>,
    left_at_ms: Option<u64>,
}

impl Echo {
    /// The card left.
    pub fn removed(&mut self, at_ms: u64) {
        self.left_at_ms = Some(at_ms);
    }

    /// Takes a number that was read, and says whether it is suspicious.
    pub fn read(&mut self, number: &Credential, at_ms: u64) -> bool {
        let soon =
            self.left_at_ms.take().is_some_and(|left_ms| at_ms.saturating_sub(left_ms) <= STALE_WITHIN_MS);
        self.number.replace(number.clone()).as_ref() == Some(number) && soon
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOTHING: Change = Change { removed: false, missed: 0, read: false };
    const READ: Change = Change { read: true, ..NOTHING };
    const REMOVED: Change = Change { removed: true, ..NOTHING };
    const SWAPPED: Change = Change { removed: true, read: true, missed: 0 };

    fn missed(missed: u32, change: Change) -> Change {
        Change { missed, ..change }
    }

    fn empty(event_count: u16) -> Look {
        Look { card: false, mute: false, event_count }
    }

    fn card(event_count: u16) -> Look {
        Look { card: true, mute: false, event_count }
    }

    fn mute(event_count: u16) -> Look {
        Look { card: true, mute: true, event_count }
    }

    #[track_caller]
    fn check(before: Look, now: Look, expect: Change) {
        let mut watch = Watch::new(false);
        watch.look(before);
        assert_eq!(watch.look(now), expect, "{before:?} -> {now:?}");
    }

    #[test]
    fn one_card_is_one_read_and_one_removal() {
        check(empty(0), card(1), READ);
        check(card(1), empty(2), REMOVED);
        check(card(1), card(1), NOTHING);
        check(empty(2), empty(2), NOTHING);
    }

    #[test]
    fn cards_between_two_looks_are_noticed() {
        check(empty(0), empty(2), missed(1, NOTHING));
        check(empty(0), empty(6), missed(3, NOTHING));
        check(empty(0), card(3), missed(1, READ));
        check(card(1), card(3), SWAPPED);
        check(card(1), card(5), missed(1, SWAPPED));
        check(card(1), empty(4), missed(1, REMOVED));
    }

    #[test]
    fn the_count_wraps_and_starts_over() {
        check(empty(0xFFFF), card(0), READ);
        check(card(0xFFFF), card(1), SWAPPED);
        check(empty(500), empty(0), NOTHING);
        check(card(501), empty(0), REMOVED);
        check(empty(500), card(1), READ);
        check(card(501), card(1), READ);
    }

    #[test]
    fn a_driver_that_does_not_count_is_believed_by_presence() {
        check(empty(0), card(0), READ);
        check(card(0), empty(0), REMOVED);
    }

    #[test]
    fn a_driver_that_counts_oddly_never_hides_a_card() {
        check(card(1), card(2), SWAPPED);
        check(empty(0), card(2), READ);
        check(empty(0), empty(1), NOTHING);
    }

    #[test]
    fn a_card_that_finds_its_voice_is_read_again() {
        check(empty(0), mute(1), READ);
        check(mute(1), mute(1), NOTHING);
        check(mute(1), card(1), READ);
        check(card(1), mute(1), NOTHING);
        check(mute(1), empty(2), REMOVED);
    }

    #[test]
    fn the_first_look_reads_a_card_that_is_there() {
        assert_eq!(Watch::new(false).look(card(7)), READ);
        assert_eq!(Watch::new(true).look(card(7)), READ);
        assert_eq!(Watch::new(false).look(empty(7)), NOTHING);
    }

    #[test]
    fn a_card_that_left_during_an_outage_was_removed() {
        assert_eq!(Watch::new(true).look(empty(0)), REMOVED);
        let mut watch = Watch::new(false);
        watch.look(card(1));
        watch.forget_count();
        assert_eq!(watch.look(empty(0)), REMOVED);
        watch.forget_count();
        assert_eq!(watch.look(empty(0)), NOTHING);
    }

    #[test]
    fn the_same_number_right_after_its_card_left_is_suspicious_and_nothing_else() {
        let [one, other]: [Credential; 2] = ["04A224B1C2D380", "E43B6777"].map(|uid| uid.parse().unwrap());
        let mut echo = Echo::default();
        assert!(!echo.read(&one, 0));
        assert!(!echo.read(&one, 10), "nothing left: the same card, read twice");
        echo.removed(1_000);
        assert!(echo.read(&one, 1_000), "swapped between two looks");
        echo.removed(2_000);
        assert!(!echo.read(&other, 2_001));
        echo.removed(3_000);
        assert!(echo.read(&other, 3_000 + STALE_WITHIN_MS));
        echo.removed(5_000);
        assert!(!echo.read(&other, 5_001 + STALE_WITHIN_MS));
    }

    proptest! {
        /// Hands put on and take off one card at a time; looks happen at any points.
        #[test]
        fn every_card_is_read_or_counted_as_missed(looks_after in proptest::collection::vec(0u16..9, 1..40)) {
            let mut watch = Watch::new(false);
            watch.look(empty(0));
            let (mut events, mut told, mut in_field) = (0u16, 0u32, false);
            for moves in looks_after {
                events += moves;
                let change = watch.look(Look { card: events % 2 == 1, mute: false, event_count: events });
                prop_assert!(!change.removed || in_field, "a card left that was not there");
                in_field = if change.read { true } else { in_field && !change.removed };
                told += change.missed + u32::from(change.read);
                prop_assert_eq!(in_field, events % 2 == 1);
                prop_assert_eq!(told, u32::from(events.div_ceil(2)));
            }
        }
    }
}
