//! Step 2 of 12: which reads are taps. Pure: no clock, no tokio; knows no roster and no outbox.
//!
//! A card that is held to a reader is one tap, however often it is read. Which reads belong together is decided by
//! *absence* alone, on the readers' own boot time:
//!
//! - A reader that reports removal (PC/SC) has its card until it says otherwise, be it for hours or across an outage
//!   of pcscd. A reader that does not (serial) has it as long as it repeats.
//! - A card that was absent for longer than the debounce time is a new tap; before that it is a repeat. Each repeat
//!   and each removal starts the absence anew.
//!
//! Each reader remembers its last few cards and no more. What is forgotten too early is a tap too many,
//! never one too few.

use std::collections::BTreeMap;
use std::fmt;

use tap_protocol::badge::{Credential, Technology};
use tap_protocol::hello::ReaderKind;
use tap_protocol::ids::{ReaderName, Seq};
use tap_protocol::tap::Direction;

use crate::reader::atr;
use crate::reader::card_read::{CardRead, reports_removal};

/// Long enough for a hand that trembles at the edge of the field, short enough for a second tap on purpose.
pub const DEFAULT_DEBOUNCE_MS: u64 = 1_500;

/// Cards that one reader remembers. More than this many people can't pass a door within the debounce time.
const MOST_CARDS: usize = 8;

/// Runs of repeats that wait to be reported, per reader.
const MOST_ENDED_RUNS: usize = MOST_CARDS;

/// A reader as it is placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name within the controller.
    pub reader: ReaderName,
    /// How it is attached: whether it reports removals.
    pub kind: ReaderKind,
    /// Which way it lets people through.
    pub direction: Direction,
}

/// One accepted tap, as long as this process lives: what the agent says about it later refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TapKey(u64);

/// What a read is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// A tap. The agent answers with [`Admission::committed`] or [`Admission::refused`].
    Tap {
        /// To answer with.
        key: TapKey,
        /// Who.
        credential: Credential,
        /// Where.
        reader: ReaderName,
        /// Which way.
        direction: Direction,
    },
    /// The same card at the same reader, still there or hardly gone.
    Repeat {
        /// Of this tap.
        of: TapKey,
        /// The tap's record, if it was committed by now.
        seq: Option<Seq>,
    },
    /// A number that will be another one next time.
    NotABadge(NotABadge),
}

/// Why a number is no badge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotABadge {
    /// A random identifier, as phones, bank cards and some DESFire cards give: 4 bytes that begin with 08 (NXP AN10927)
    /// or 80 (DESFire EV1). It must never be enrolled; the person needs another card, or the card's random ID turned off.
    RandomId,
}

impl NotABadge {
    /// The name under which it is counted.
    pub fn kind(self) -> &'static str {
        match self {
            NotABadge::RandomId => "random_id",
        }
    }
}

impl fmt::Display for NotABadge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotABadge::RandomId => {
                f.write_str("the card gives a new random number at each tap, as phones and bank cards do")
            }
        }
    }
}

/// A run of repeats that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatRun {
    /// Where.
    pub reader: ReaderName,
    /// The record of the tap that was repeated.
    pub seq: Seq,
    /// How often, at least once.
    pub repeats: u32,
}

/// The memory behind the decisions.
#[derive(Debug)]
pub struct Admission {
    debounce_ms: u64,
    desks: BTreeMap<ReaderName, Desk>,
    next_key: u64,
}

/// One reader's memory.
#[derive(Debug)]
struct Desk {
    reports_removal: bool,
    direction: Direction,
    /// At most [`MOST_CARDS`], the one seen last at the end.
    cards: Vec<Recent>,
    /// Runs whose card was tapped anew or forgotten, oldest first.
    ended: Vec<Run>,
}

/// A card that was seen a while ago, or is still there.
#[derive(Debug)]
struct Recent {
    credential: Credential,
    /// It was not reported as removed, by a reader that does.
    present: bool,
    last_seen_ms: u64,
    run: Run,
}

#[derive(Debug)]
struct Run {
    key: TapKey,
    seq: Option<Seq>,
    repeats: u32,
}

impl Admission {
    /// With the readers that the configuration names. Reads of any other are taps each, of no direction.
    pub fn new(debounce_ms: u64, places: impl IntoIterator<Item = Place>) -> Admission {
        let desk = |place: Place| {
            let reports_removal = reports_removal(place.kind);
            let desk = Desk { reports_removal, direction: place.direction, cards: vec![], ended: vec![] };
            (place.reader, desk)
        };
        Admission { debounce_ms, desks: places.into_iter().map(desk).collect(), next_key: 1 }
    }

    /// Decides what a read is. Reads and removals of one reader must come in the order in which it sent them.
    pub fn admit(&mut self, read: &CardRead) -> Admitted {
        if is_random_id(read) {
            return Admitted::NotABadge(NotABadge::RandomId);
        }
        let key = TapKey(self.next_key);
        let mut direction = Direction::Unspecified;
        if let Some(desk) = self.desks.get_mut(&read.reader) {
            if let Some(repeated) = desk.see_again(read, self.debounce_ms) {
                return Admitted::Repeat { of: repeated.key, seq: repeated.seq };
            }
            desk.remember(read, key);
            direction = desk.direction;
        }
        self.next_key += 1;
        Admitted::Tap { key, credential: read.credential.clone(), reader: read.reader.clone(), direction }
    }

    /// The reader says that its card left at `at_ms`.
    pub fn removed(&mut self, reader: &ReaderName, at_ms: u64) {
        if let Some(desk) = self.desks.get_mut(reader) {
            desk.cards.iter_mut().for_each(|card| card.leave(at_ms));
        }
    }

    /// The tap is on the medium as record `seq`.
    pub fn committed(&mut self, key: TapKey, seq: Seq) {
        if let Some(run) = self.desks.values_mut().find_map(|desk| desk.run(key)) {
            run.seq = Some(seq);
        }
    }

    /// The outbox could not take the tap, and the person was told so: the next read of the card is a tap again.
    pub fn refused(&mut self, key: TapKey) {
        for desk in self.desks.values_mut() {
            desk.cards.retain(|card| card.run.key != key);
            desk.ended.retain(|run| run.key != key);
        }
    }

    /// The runs of repeats that have ended by `now_ms` and whose tap is committed, each once. When it is called
    /// changes nothing about what is admitted.
    pub fn expire(&mut self, now_ms: u64) -> Vec<RepeatRun> {
        let debounce_ms = self.debounce_ms;
        self.desks.iter_mut().flat_map(|(reader, desk)| desk.expire(reader, now_ms, debounce_ms)).collect()
    }
}

impl Desk {
    /// Counts a repeat, if it is one.
    fn see_again(&mut self, read: &CardRead, debounce_ms: u64) -> Option<&Run> {
        let at = self.cards.iter().position(|card| card.credential == read.credential)?;
        if self.cards[at].is_over(read.seen_at_boottime_ms, debounce_ms) {
            return None;
        }
        let mut card = self.cards.remove(at);
        card.last_seen_ms = card.last_seen_ms.max(read.seen_at_boottime_ms);
        card.present = self.reports_removal;
        card.run.repeats = card.run.repeats.saturating_add(1);
        self.put_last(card);
        self.cards.last().map(|card| &card.run)
    }

    /// A new tap: its card may be known from an earlier one.
    fn remember(&mut self, read: &CardRead, key: TapKey) {
        let at = self.cards.iter().position(|card| card.credential == read.credential);
        let forgotten = at.or((self.cards.len() == MOST_CARDS).then_some(0));
        if let Some(forgotten) = forgotten {
            self.end(forgotten);
        }
        self.put_last(Recent {
            credential: read.credential.clone(),
            present: self.reports_removal,
            last_seen_ms: read.seen_at_boottime_ms,
            run: Run { key, seq: None, repeats: 0 },
        });
    }

    /// A field holds one card: whichever was there before is not any more.
    fn put_last(&mut self, card: Recent) {
        self.cards.iter_mut().for_each(|other| other.leave(card.last_seen_ms));
        self.cards.push(card);
        assert!(self.cards.len() <= MOST_CARDS, "a card was remembered without forgetting another");
    }

    fn end(&mut self, at: usize) {
        let run = self.cards.remove(at).run;
        if run.repeats == 0 {
            return;
        }
        // A number of repeats is diagnostics: it may be lost where nobody asks for it.
        if self.ended.len() == MOST_ENDED_RUNS {
            self.ended.remove(0);
        }
        self.ended.push(run);
    }

    fn run(&mut self, key: TapKey) -> Option<&mut Run> {
        self.cards.iter_mut().map(|card| &mut card.run).chain(&mut self.ended).find(|run| run.key == key)
    }

    fn expire(&mut self, reader: &ReaderName, now_ms: u64, debounce_ms: u64) -> Vec<RepeatRun> {
        let over =
            self.cards.iter_mut().filter(|card| card.is_over(now_ms, debounce_ms)).map(|card| &mut card.run);
        let runs = self.ended.iter_mut().chain(over).filter_map(|run| run.report(reader)).collect();
        self.ended.retain(|run| run.repeats > 0);
        runs
    }
}

impl Recent {
    fn is_over(&self, now_ms: u64, debounce_ms: u64) -> bool {
        !self.present && now_ms.saturating_sub(self.last_seen_ms) > debounce_ms
    }

    fn leave(&mut self, at_ms: u64) {
        if std::mem::take(&mut self.present) {
            self.last_seen_ms = self.last_seen_ms.max(at_ms);
        }
    }
}

impl Run {
    fn report(&mut self, reader: &ReaderName) -> Option<RepeatRun> {
        let seq = self.seq.filter(|_| self.repeats > 0)?;
        Some(RepeatRun { reader: reader.clone(), seq, repeats: std::mem::take(&mut self.repeats) })
    }
}

fn is_random_id(read: &CardRead) -> bool {
    let hf = read.credential.technology() == Technology::Hf;
    match read.credential.bits() {
        [0x08, _, _, _] => hf,
        // Storage cards have such numbers for life; only a card with a processor makes them up. A reader that knows no
        // ATR can't tell, and a badge that never works again is worse than a card that is sent for another.
        [0x80, _, _, _] => hf && read.atr.as_deref().is_none_or(atr::has_processor),
        _ => false,
    }
}

#[cfg(test)]
impl TapKey {
    /// Any key.
    pub(crate) fn for_tests(n: u64) -> TapKey {
        TapKey(n)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CARD: &str = "04A224B1C2D380";
    const OTHER: &str = "E43B6777";

    fn name(reader: &str) -> ReaderName {
        reader.parse().unwrap()
    }

    /// A door with a PC/SC reader inwards and a serial one outwards.
    struct Door(Admission);

    impl Door {
        fn new() -> Door {
            let place = |reader, kind, direction| Place { reader: name(reader), kind, direction };
            Door(Admission::new(
                DEFAULT_DEBOUNCE_MS,
                [
                    place("pcsc", ReaderKind::Pcsc, Direction::In),
                    place("serial", ReaderKind::Serial, Direction::Out),
                ],
            ))
        }

        fn read(&mut self, reader: &str, card: &str, at_ms: u64) -> Admitted {
            self.read_with_atr(reader, card, at_ms, None)
        }

        fn read_with_atr(&mut self, reader: &str, card: &str, at_ms: u64, atr: Option<&[u8]>) -> Admitted {
            self.0.admit(&CardRead {
                reader: name(reader),
                credential: card.parse().unwrap(),
                seen_at_boottime_ms: at_ms,
                atr: atr.map(<[u8]>::to_vec),
                missed: 0,
            })
        }

        #[track_caller]
        fn tap(&mut self, reader: &str, card: &str, at_ms: u64) -> TapKey {
            match self.read(reader, card, at_ms) {
                Admitted::Tap { key, .. } => key,
                other => panic!("{card} at {reader} at {at_ms} ms: {other:?}"),
            }
        }

        #[track_caller]
        fn repeat(&mut self, reader: &str, card: &str, at_ms: u64) {
            let admitted = self.read(reader, card, at_ms);
            assert!(
                matches!(admitted, Admitted::Repeat { .. }),
                "{card} at {reader} at {at_ms} ms: {admitted:?}"
            );
        }

        fn removed(&mut self, at_ms: u64) {
            self.0.removed(&name("pcsc"), at_ms);
        }

        /// (seq, repeats) of the runs that ended.
        fn expire(&mut self, now_ms: u64) -> Vec<(u64, u32)> {
            self.0.expire(now_ms).into_iter().map(|run| (run.seq.0, run.repeats)).collect()
        }
    }

    #[test]
    fn a_tap_carries_reader_card_and_direction() {
        let tap = Door::new().read("serial", CARD, 0);
        let Admitted::Tap { credential, reader, direction, .. } = tap else { panic!("{tap:?}") };
        assert_eq!(
            (credential.reveal(), reader, direction),
            (format!("hf:{CARD}"), name("serial"), Direction::Out)
        );
    }

    #[test]
    fn a_card_left_on_a_serial_reader_is_one_tap_for_ever() {
        let mut door = Door::new();
        door.tap("serial", CARD, 0);
        for at_ms in (100..3_600_000).step_by(100) {
            door.repeat("serial", CARD, at_ms);
        }
        door.tap("serial", CARD, 3_600_000 + 1_500);
    }

    #[test]
    fn absence_is_counted_from_the_last_repeat() {
        let mut door = Door::new();
        door.tap("serial", CARD, 0);
        door.repeat("serial", CARD, 1_500);
        door.repeat("serial", CARD, 3_000);
        door.tap("serial", CARD, 4_501);
    }

    #[test]
    fn a_card_lies_on_a_pcsc_reader_until_it_is_removed() {
        let mut door = Door::new();
        door.tap("pcsc", CARD, 0);
        door.repeat("pcsc", CARD, 10_000_000);
        door.removed(10_000_100);
        door.repeat("pcsc", CARD, 10_001_600);
        door.removed(10_001_700);
        door.tap("pcsc", CARD, 10_003_201);
    }

    #[test]
    fn the_next_card_ends_the_stay_of_the_one_before() {
        let mut door = Door::new();
        door.tap("pcsc", CARD, 0);
        door.tap("pcsc", OTHER, 10_000);
        door.repeat("pcsc", CARD, 11_500);
        door.removed(20_000);
        door.tap("pcsc", OTHER, 20_001);
    }

    #[test]
    fn two_people_taking_turns_are_not_confused() {
        let mut door = Door::new();
        door.tap("serial", CARD, 0);
        door.tap("serial", OTHER, 200);
        door.repeat("serial", CARD, 400);
        door.repeat("serial", OTHER, 600);
        door.tap("serial", CARD, 2_000);
    }

    #[test]
    fn each_reader_has_its_own_memory() {
        let mut door = Door::new();
        door.tap("serial", CARD, 0);
        door.tap("pcsc", CARD, 100);
        door.repeat("serial", CARD, 200);
    }

    #[test]
    fn a_reader_nobody_configured_gives_taps_without_memory() {
        let mut door = Door::new();
        door.tap("sim", CARD, 0);
        door.tap("sim", CARD, 1);
        assert!(matches!(door.read("sim", CARD, 2), Admitted::Tap { direction: Direction::Unspecified, .. }));
    }

    #[test]
    fn a_refused_tap_may_be_tried_again_at_once() {
        let mut door = Door::new();
        let key = door.tap("serial", CARD, 0);
        door.repeat("serial", CARD, 100);
        door.0.refused(key);
        door.tap("serial", CARD, 200);
        assert_eq!(door.expire(10_000), []);
    }

    #[test]
    fn a_repeat_knows_the_record_of_its_tap() {
        let mut door = Door::new();
        let key = door.tap("serial", CARD, 0);
        assert_eq!(door.read("serial", CARD, 100), Admitted::Repeat { of: key, seq: None });
        door.0.committed(key, Seq(7));
        assert_eq!(door.read("serial", CARD, 200), Admitted::Repeat { of: key, seq: Some(Seq(7)) });
    }

    #[test]
    fn a_run_of_repeats_is_reported_once_when_it_has_ended() {
        let mut door = Door::new();
        let key = door.tap("serial", CARD, 0);
        door.0.committed(key, Seq(7));
        door.repeat("serial", CARD, 100);
        door.repeat("serial", CARD, 200);
        assert_eq!(door.expire(1_700), []);
        assert_eq!(door.expire(1_701), [(7, 2)]);
        assert_eq!(door.expire(9_999), []);
    }

    #[test]
    fn a_tap_without_repeats_has_no_run() {
        let mut door = Door::new();
        let key = door.tap("serial", CARD, 0);
        door.0.committed(key, Seq(7));
        assert_eq!(door.expire(10_000), []);
    }

    #[test]
    fn a_run_waits_for_its_commit_even_if_the_card_was_tapped_anew() {
        let mut door = Door::new();
        let first = door.tap("serial", CARD, 0);
        door.repeat("serial", CARD, 100);
        let second = door.tap("serial", CARD, 5_000);
        door.repeat("serial", CARD, 5_100);
        assert_eq!(door.expire(10_000), []);
        door.0.committed(first, Seq(1));
        door.0.committed(second, Seq(2));
        assert_eq!(door.expire(10_000), [(1, 1), (2, 1)]);
    }

    #[test]
    fn a_stay_on_a_pcsc_reader_is_one_run_that_ends_after_removal() {
        let mut door = Door::new();
        let key = door.tap("pcsc", CARD, 0);
        door.0.committed(key, Seq(3));
        door.repeat("pcsc", CARD, 60_000);
        assert_eq!(door.expire(100_000), []);
        door.removed(100_000);
        assert_eq!(door.expire(101_500), []);
        assert_eq!(door.expire(101_501), [(3, 1)]);
    }

    #[test]
    fn late_reading_of_the_queue_changes_nothing() {
        let mut door = Door::new();
        let key = door.tap("serial", CARD, 0);
        door.0.committed(key, Seq(1));
        assert_eq!(door.expire(60_000), []);
        door.repeat("serial", CARD, 1_000);
        assert_eq!(door.expire(60_000), [(1, 1)]);
        door.repeat("serial", CARD, 2_000);
        assert_eq!(door.expire(60_000), [(1, 1)]);
    }

    #[test]
    fn a_number_that_begins_with_80_is_random_on_a_card_with_a_processor_and_a_badge_on_a_storage_card() {
        const DESFIRE: &[u8] = &[0x3B, 0x81, 0x80, 0x01, 0x80, 0x80];
        const CLASSIC: &[u8] = &[
            0x3B, 0x8F, 0x80, 0x01, 0x80, 0x4F, 0x0C, 0xA0, 0, 0, 0x03, 0x06, 0x03, 0, 0x01, 0, 0, 0, 0, 0x6A,
        ];
        const MALFORMED: &[u8] = &[0x3B, 0x81, 0x80, 0x01, 0x80, 0x81];
        let random = |card: &str, atr: Option<&[u8]>| {
            matches!(Door::new().read_with_atr("pcsc", card, 0, atr), Admitted::NotABadge(_))
        };
        for atr in [None, Some(DESFIRE), Some(CLASSIC), Some(MALFORMED)] {
            assert!(random("0824A937", atr), "{atr:02X?}");
            assert!(!random("E43B6777", atr), "{atr:02X?}");
            assert!(!random("80A224B1C2D380", atr), "{atr:02X?}");
        }
        assert!(random("8024A937", None));
        assert!(random("8024A937", Some(DESFIRE)));
        assert!(!random("8024A937", Some(CLASSIC)));
        assert!(!random("8024A937", Some(MALFORMED)), "a malformed ATR never stops a tap");
    }

    #[test]
    fn random_ids_are_no_badges_and_leave_no_trace() {
        let random = Admitted::NotABadge(NotABadge::RandomId);
        let mut door = Door::new();
        for card in ["0824A937", "080D3523", "80112233"] {
            assert_eq!(door.read("pcsc", card, 0), random, "{card}");
            assert_eq!(door.read("pcsc", card, 1), random, "{card}");
        }
        for card in [
            "0424A937",
            "88112233",
            "0824A937112233",
            "8024A93711223344",
            "em4100:0824A93711",
            "wiegand:32:0824A937",
        ] {
            door.tap("pcsc", card, 0);
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Read { serial: bool, card: u8 },
        Removed,
        Commit,
        Refuse,
        Expire,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (any::<bool>(), 0u8..12).prop_map(|(serial, card)| Step::Read { serial, card }),
            2 => Just(Step::Removed),
            2 => Just(Step::Commit),
            1 => Just(Step::Refuse),
            2 => Just(Step::Expire),
            6 => prop_oneof![0u64..400, 1_400u64..1_700].prop_map(Step::Wait),
        ]
    }

    /// Plays `steps`, with `expire` called as they say or not at all. Gives what was admitted and the door.
    fn play(steps: &[Step], expiring: bool) -> (Vec<Admitted>, u32, Door) {
        let (mut door, mut now_ms, mut open, mut admitted, mut reported) =
            (Door::new(), 0, vec![], vec![], 0);
        let mut seq = Seq::ZERO;
        for step in steps {
            match step {
                Step::Read { serial, card } => {
                    let reader = if *serial { "serial" } else { "pcsc" };
                    let read = door.read(reader, &format!("040000000000{card:02X}"), now_ms);
                    if let Admitted::Tap { key, .. } = &read {
                        open.push(*key);
                    }
                    admitted.push(match read {
                        Admitted::Repeat { of, .. } => Admitted::Repeat { of, seq: None },
                        other => other,
                    });
                }
                Step::Removed => door.removed(now_ms),
                Step::Commit => {
                    if let Some(key) = open.pop() {
                        seq = seq.next();
                        door.0.committed(key, seq);
                    }
                }
                Step::Refuse => {
                    if let Some(key) = open.pop() {
                        door.0.refused(key);
                    }
                }
                Step::Expire if expiring => {
                    reported += door.expire(now_ms).iter().map(|(_, n)| n).sum::<u32>()
                }
                Step::Expire => {}
                Step::Wait(ms) => now_ms += ms,
            }
            for desk in door.0.desks.values() {
                assert!(desk.cards.len() <= MOST_CARDS && desk.ended.len() <= MOST_ENDED_RUNS);
                assert!(desk.cards.iter().filter(|card| card.present).count() <= 1);
            }
        }
        (admitted, reported, door)
    }

    proptest! {
        #[test]
        fn when_runs_are_asked_for_never_changes_what_is_admitted(steps in proptest::collection::vec(step(), 0..200)) {
            prop_assert_eq!(play(&steps, true).0, play(&steps, false).0);
        }

        #[test]
        fn no_more_repeats_are_reported_than_were_counted(steps in proptest::collection::vec(step(), 0..200)) {
            let (admitted, reported, mut door) = play(&steps, true);
            let counted = admitted.iter().filter(|read| matches!(read, Admitted::Repeat { .. })).count();
            let late: u32 = door.expire(u64::MAX).iter().map(|(_, n)| n).sum();
            prop_assert!((reported + late) as usize <= counted);
        }

        #[test]
        fn taps_of_one_card_on_a_serial_reader_lie_apart(waits in proptest::collection::vec(0u64..3_000, 1..100)) {
            let (mut door, mut now_ms, mut last_seen) = (Door::new(), 0, None);
            for wait in waits {
                now_ms += wait;
                let is_tap = matches!(door.read("serial", CARD, now_ms), Admitted::Tap { .. });
                prop_assert_eq!(is_tap, last_seen.is_none_or(|last| now_ms - last > DEFAULT_DEBOUNCE_MS));
                last_seen = Some(now_ms);
            }
        }
    }
}
