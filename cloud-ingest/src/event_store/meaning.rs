//! Step 9 of 12: what a record's bytes mean to a store, and what its tap must wait for. Pure: knows no SQL, no clock.
//!
//! Both stores ask here, so that they cannot read the same bytes in two ways.

use tap_protocol::codec::VERSION_1;
use tap_protocol::ids::{BootId, Seq};
use tap_protocol::limits::NEAREST_ANCHORS;
use tap_protocol::record::{Body, Record, Stamp};
use tap_protocol::tap::Tap;
use tap_protocol::time_repair::{Anchor, TrueTime};

use super::{HeldFor, Occurred, PersonId, Position, Timeless, UtcMs};

/// A tap whose time is known no better than this is held: no destination so far can amend what it was told.
pub const MAX_UNCERTAINTY_MS: u64 = 60_000;

/// A tap whose bounds are further apart than this is held likewise.
pub const MAX_BOUNDS_MS: u64 = 60_000;

/// The kind under which authentic bytes are stored that this version cannot read.
pub const OPAQUE: &str = "opaque";

/// The largest seq that an event id can carry: what a controller says beyond it is nonsense and cut to this.
const MAX_SEQ: Seq = Seq((1 << 48) - 1);

/// A record as a store looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Somebody showed a badge.
    Tap(Stamp, Tap),
    /// True time became known for the stamp's boot.
    Anchor(Stamp, Anchor),
    /// The agent started, and this is what the stamp's boot number stands for.
    Start(Stamp, BootId),
    /// Kept for people: readers, starts, losses. The name is the record's kind.
    Other(Stamp, &'static str),
    /// Authentic, and of a version that is not known here.
    Opaque,
}

/// What turns a version's bytes into today's meaning. Whatever a version could say, its reader says in today's words: a
/// record that was readable once stays readable (`meaning/golden/` has every kind of every version).
struct Reader {
    /// The first byte of its records.
    version: u8,
    /// How many kinds it reads.
    kinds: usize,
    /// `None` if they are of a kind that came later.
    read: fn(&[u8]) -> Option<Meaning>,
}

/// One reader for every version that ever was.
const READERS: &[Reader] =
    &[Reader { version: VERSION_1, kinds: Body::KINDS.len(), read: Meaning::of_version_1 }];

/// Grows with every kind that becomes readable: what an earlier edition had to store as opaque is tried again.
pub fn edition() -> u64 {
    let kinds: usize = READERS.iter().map(|reader| reader.kinds).sum();
    kinds as u64 - blindfold::kinds()
}

impl Meaning {
    /// Reads a record. Never fails: one odd record must not block a door.
    pub fn of(bytes: &[u8]) -> Meaning {
        let reader = READERS.iter().find(|reader| bytes.first() == Some(&reader.version));
        let meaning = reader.and_then(|reader| (reader.read)(bytes)).unwrap_or(Meaning::Opaque);
        if blindfold::hides(meaning.kind()) { Meaning::Opaque } else { meaning }
    }

    fn of_version_1(bytes: &[u8]) -> Option<Meaning> {
        let record = Record::decode(bytes).ok()?;
        Some(Meaning::of_record(record))
    }

    fn of_record(record: Record) -> Meaning {
        let (at, anchor) = (record.at, Anchor::of(&record).filter(has_room));
        match (record.body, anchor) {
            (Body::Tap(tap), _) => Meaning::Tap(at, tap),
            (Body::AgentStarted { boot_id, .. }, _) => Meaning::Start(at, boot_id),
            (_, Some(anchor)) => Meaning::Anchor(at, anchor),
            // An anchor that says nothing is kept for people, like the rest.
            (body, None) => Meaning::Other(at, body.kind()),
        }
    }

    /// The kind's name in the store.
    pub fn kind(&self) -> &'static str {
        match self {
            Meaning::Tap(..) => "tap",
            Meaning::Anchor(..) => "clock_anchor",
            Meaning::Start(..) => "agent_started",
            Meaning::Other(_, kind) => kind,
            Meaning::Opaque => OPAQUE,
        }
    }

    /// When, as the controller knew it.
    pub fn stamp(&self) -> Option<&Stamp> {
        match self {
            Meaning::Tap(at, _) | Meaning::Anchor(at, _) | Meaning::Start(at, _) | Meaning::Other(at, _) => {
                Some(at)
            }
            Meaning::Opaque => None,
        }
    }
}

/// An anchor at a boottime that no machine has run for says nothing.
fn has_room(anchor: &Anchor) -> bool {
    let ends = [anchor.earliest_boottime_ms, anchor.latest_boottime_ms];
    ends.into_iter().all(|ms| i64::try_from(ms).is_ok())
}

/// An anchor as the stores keep it: by the boottime at which it ends, then by where it is.
pub type PlacedAnchor = (u64, Position, Anchor);

/// Of a boot's anchors, in order, those that say when something at `boottime_ms` was: the nearest on each side.
pub fn nearest(anchors: &[PlacedAnchor], boottime_ms: u64) -> Vec<Anchor> {
    let split = anchors.partition_point(|(latest_ms, ..)| *latest_ms <= boottime_ms);
    let (before, after) = anchors.split_at(split);
    let nearest = before.iter().rev().take(NEAREST_ANCHORS).chain(after.iter().take(NEAREST_ANCHORS));
    nearest.map(|(.., anchor)| *anchor).collect()
}

/// True time, if it is known closely enough to be told; else what is known instead.
pub fn occurred(time: TrueTime) -> Result<Occurred, Timeless> {
    match time {
        TrueTime::Known { utc_ms, uncertainty_ms } if uncertainty_ms <= MAX_UNCERTAINTY_MS => {
            Ok(Occurred { at: UtcMs(utc_ms), uncertainty_ms, estimated: false })
        }
        TrueTime::Known { utc_ms, uncertainty_ms } => {
            let doubt = i64::try_from(uncertainty_ms).unwrap_or(i64::MAX);
            Err(Timeless::Between {
                not_before: UtcMs(utc_ms.saturating_sub(doubt)),
                not_after: UtcMs(utc_ms.saturating_add(doubt)),
            })
        }
        TrueTime::Estimated { earliest_utc_ms, latest_utc_ms } => {
            let width_ms = latest_utc_ms.abs_diff(earliest_utc_ms);
            match width_ms <= MAX_BOUNDS_MS {
                true => Ok(Occurred {
                    at: UtcMs(earliest_utc_ms.saturating_add_unsigned(width_ms / 2)),
                    uncertainty_ms: width_ms.div_ceil(2),
                    estimated: true,
                }),
                false => Err(Timeless::Between {
                    not_before: UtcMs(earliest_utc_ms),
                    not_after: UtcMs(latest_utc_ms),
                }),
            }
        }
        TrueTime::Unknown => Err(Timeless::Unknown),
        TrueTime::Disputed => Err(Timeless::Disputed),
    }
}

/// What a tap's deliveries wait for: time first, then the binding.
pub fn held_for(occurred: Result<Occurred, Timeless>, person: Option<&PersonId>) -> Option<HeldFor> {
    match (occurred, person) {
        (Err(_), _) => Some(HeldFor::Time),
        (Ok(_), None) => Some(HeldFor::Binding),
        (Ok(_), Some(_)) => None,
    }
}

/// A last seq as a hello gives it, cut to what can exist.
pub fn spoken_of(last_seq: Seq) -> Seq {
    last_seq.min(MAX_SEQ)
}

/// `text`, cut to `max` bytes at a character's boundary.
pub fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Every kind is seen.
#[cfg(not(test))]
mod blindfold {
    pub fn hides(_: &str) -> bool {
        false
    }

    pub fn kinds() -> u64 {
        0
    }
}

/// For tests: what a program sees that knows fewer kinds.
#[cfg(test)]
pub mod blindfold {
    use std::cell::RefCell;

    thread_local! {
        static HIDDEN: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    /// As long as it is worn, this thread's program knows all kinds but these.
    pub fn wear(kinds: &[&'static str]) -> Worn {
        HIDDEN.set(kinds.to_vec());
        Worn
    }

    /// Taken off by dropping it.
    pub struct Worn;

    impl Drop for Worn {
        fn drop(&mut self) {
            HIDDEN.take();
        }
    }

    pub fn hides(kind: &str) -> bool {
        HIDDEN.with_borrow(|hidden| hidden.contains(&kind))
    }

    pub fn kinds() -> u64 {
        HIDDEN.with_borrow(|hidden| hidden.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use tap_protocol::record::{AnchorSource, ClockState};
    use tap_protocol::time_repair::Witness;

    use super::*;

    #[test]
    fn a_time_counts_as_known_up_to_a_minute_of_doubt() {
        let known = |uncertainty_ms| occurred(TrueTime::Known { utc_ms: 70_000, uncertainty_ms });
        assert_eq!(
            known(60_000),
            Ok(Occurred { at: UtcMs(70_000), uncertainty_ms: 60_000, estimated: false })
        );
        let between = Timeless::Between { not_before: UtcMs(9_999), not_after: UtcMs(130_001) };
        assert_eq!(known(60_001), Err(between));
    }

    #[test]
    fn bounds_are_told_as_an_estimate_up_to_a_minute_apart() {
        let between = |latest_utc_ms| occurred(TrueTime::Estimated { earliest_utc_ms: 5, latest_utc_ms });
        assert_eq!(
            between(60_005),
            Ok(Occurred { at: UtcMs(30_005), uncertainty_ms: 30_000, estimated: true })
        );
        let too_far = Timeless::Between { not_before: UtcMs(5), not_after: UtcMs(60_006) };
        assert_eq!(between(60_006), Err(too_far));
        assert_eq!(occurred(TrueTime::Unknown), Err(Timeless::Unknown));
        assert_eq!(occurred(TrueTime::Disputed), Err(Timeless::Disputed));
    }

    #[test]
    fn the_nearest_anchors_on_both_sides_count() {
        let anchor = |at: u64| Anchor {
            witness: Witness::Receipt,
            earliest_boottime_ms: at,
            latest_boottime_ms: at,
            utc_ms: at as i64,
            uncertainty_ms: 0,
        };
        let all: Vec<PlacedAnchor> = (1..=30).map(|at| (at, Position(at), anchor(at))).collect();
        let counted = |at: u64| nearest(&all, at).into_iter().map(|anchor| anchor.utc_ms).collect::<Vec<_>>();
        assert_eq!(counted(10), [10, 9, 8, 7, 6, 5, 4, 3, 11, 12, 13, 14, 15, 16, 17, 18]);
        assert_eq!(counted(0), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(counted(99), [30, 29, 28, 27, 26, 25, 24, 23]);
        assert_eq!(nearest(&[], 5), []);
    }

    #[test]
    fn an_anchor_that_says_nothing_is_kept_for_people() {
        let record = |latest_boottime_ms| {
            let at = Stamp { boot: 1, boottime_ms: 1, wall_ms: 0, clock: ClockState::Unsynced };
            let source = AnchorSource::Receipt;
            let (earliest_boottime_ms, utc_ms, uncertainty_ms) = (latest_boottime_ms, 0, 0);
            let body = Body::ClockAnchor {
                source,
                earliest_boottime_ms,
                latest_boottime_ms,
                utc_ms,
                uncertainty_ms,
            };
            Meaning::of(&Record { at, body }.encode())
        };
        assert!(matches!(record(5), Meaning::Anchor(..)));
        assert!(matches!(record(u64::MAX), Meaning::Other(_, "clock_anchor")));
    }

    #[test]
    fn a_tap_waits_for_its_time_before_it_waits_for_its_person() {
        let time = Ok(Occurred { at: UtcMs(5), uncertainty_ms: 0, estimated: false });
        let person = PersonId("E-1".into());
        assert_eq!(held_for(Err(Timeless::Unknown), None), Some(HeldFor::Time));
        assert_eq!(held_for(Err(Timeless::Disputed), Some(&person)), Some(HeldFor::Time));
        assert_eq!(held_for(time, None), Some(HeldFor::Binding));
        assert_eq!(held_for(time, Some(&person)), None);
    }

    /// What was readable once is readable for ever, and means the same: each golden record of each version, and what it has
    /// to mean here. `KEEP_MEANINGS=1` writes those of a new kind.
    #[test]
    fn every_kind_of_every_version_means_what_it_always_meant() {
        let base = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (records, meanings) =
            (base.join("../tap-protocol/tests/golden"), base.join("tests/golden/meanings"));
        let mut versions = names_in(&records);
        versions.retain(|name| name.starts_with('v'));
        let read: Vec<String> = READERS.iter().map(|reader| format!("v{}", reader.version)).collect();
        assert_eq!(versions, read, "a version has a reader and golden records, or neither");
        for (version, reader) in versions.iter().zip(READERS) {
            let (records, meanings) = (records.join(version), meanings.join(version));
            let mut names = names_in(&records);
            names.retain(|name| name.starts_with("record-"));
            let mut kinds = BTreeSet::new();
            for name in &names {
                let hex = fs::read_to_string(records.join(name)).unwrap();
                let bytes = data_encoding::HEXLOWER.decode(hex.trim().as_bytes()).unwrap();
                let meaning = Meaning::of(&bytes);
                assert_ne!(meaning, Meaning::Opaque, "{name} has no reader");
                kinds.insert(meaning.kind());
                let told = meanings.join(name).with_extension("txt");
                let is = format!("{meaning:#?}\n");
                if keeps_meanings() {
                    fs::create_dir_all(&meanings).unwrap();
                    fs::write(&told, &is).unwrap();
                }
                assert_eq!(is, fs::read_to_string(&told).unwrap_or_default(), "{version}/{name}");
            }
            assert_eq!(kinds.len(), reader.kinds, "{version}: a kind without a golden record, or {kinds:?}");
            let told = names_in(&meanings).into_iter().map(|name| name.replace(".txt", ".hex"));
            assert_eq!(told.collect::<Vec<_>>(), names, "{version}: a meaning without its record");
        }
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[expect(clippy::disallowed_methods, reason = "a person's switch of a test, not configuration")]
    fn keeps_meanings() -> bool {
        std::env::var("KEEP_MEANINGS").is_ok()
    }

    #[test]
    fn bytes_of_another_version_are_opaque() {
        assert_eq!(Meaning::of(&[2, 0, 0]), Meaning::Opaque);
        assert_eq!(Meaning::of(&[]), Meaning::Opaque);
    }

    #[test]
    fn a_cut_keeps_whole_characters() {
        assert_eq!(cut("aä", 2), "a");
        assert_eq!(cut("aä", 3), "aä");
    }
}
