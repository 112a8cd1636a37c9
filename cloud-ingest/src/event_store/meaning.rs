//! Step 9 of 12: what a record's bytes mean to a store, and what its tap must wait for. Pure: knows no SQL, no clock.
//!
//! Both stores ask here, so that they cannot read the same bytes in two ways.
//!
//! Not here yet: bounds for a boot that never synced, and giving up after 24 h. Such taps stay held for time.

use tap_protocol::ids::Seq;
use tap_protocol::record::{Body, Record, Stamp};
use tap_protocol::tap::Tap;
use tap_protocol::time_repair::{self, Anchor, Neighbours, TrueTime};

use super::{HeldFor, Occurred, PersonId, UtcMs};

/// A tap whose time is known no better than this is held: no destination so far can amend what it was told.
pub const MAX_UNCERTAINTY_MS: u64 = 60_000;

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
    /// Kept for people: readers, starts, losses. The name is the record's kind.
    Other(Stamp, &'static str),
    /// Authentic, and of a version that is not known here.
    Opaque,
}

impl Meaning {
    /// Reads a record. Never fails: one odd record must not block a door.
    pub fn of(bytes: &[u8]) -> Meaning {
        match Record::decode(bytes) {
            Ok(Record { at, body: Body::Tap(tap) }) => Meaning::Tap(at, tap),
            Ok(Record {
                at,
                body:
                    Body::ClockAnchor {
                        source: _,
                        earliest_boottime_ms,
                        latest_boottime_ms,
                        utc_ms,
                        uncertainty_ms,
                    },
            }) => Meaning::Anchor(
                at,
                Anchor { earliest_boottime_ms, latest_boottime_ms, utc_ms, uncertainty_ms },
            ),
            Ok(Record { at, body }) => Meaning::Other(at, body.kind()),
            Err(_) => Meaning::Opaque,
        }
    }

    /// The kind's name in the store.
    pub fn kind(&self) -> &'static str {
        match self {
            Meaning::Tap(..) => "tap",
            Meaning::Anchor(..) => "clock_anchor",
            Meaning::Other(_, kind) => kind,
            Meaning::Opaque => OPAQUE,
        }
    }

    /// When, as the controller knew it.
    pub fn stamp(&self) -> Option<&Stamp> {
        match self {
            Meaning::Tap(at, _) | Meaning::Anchor(at, _) | Meaning::Other(at, _) => Some(at),
            Meaning::Opaque => None,
        }
    }
}

/// True time, if it is known closely enough: from the record's own clock, or from the anchors of its own boot.
pub fn occurred(at: &Stamp, anchors: &[Anchor]) -> Option<Occurred> {
    match time_repair::true_time(at, anchors, Neighbours::default()) {
        TrueTime::Known { utc_ms, uncertainty_ms } if uncertainty_ms <= MAX_UNCERTAINTY_MS => {
            Some(Occurred { at: UtcMs(utc_ms), uncertainty_ms })
        }
        TrueTime::Known { .. } | TrueTime::Estimated { .. } | TrueTime::Unknown | TrueTime::Disputed => None,
    }
}

/// What a tap's deliveries wait for: time first, then the binding.
pub fn held_for(occurred: Option<Occurred>, person: Option<&PersonId>) -> Option<HeldFor> {
    match (occurred, person) {
        (None, _) => Some(HeldFor::Time),
        (Some(_), None) => Some(HeldFor::Binding),
        (Some(_), Some(_)) => None,
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

#[cfg(test)]
mod tests {
    use tap_protocol::record::ClockState;

    use super::*;

    const UNSYNCED: Stamp = Stamp { boot: 1, boottime_ms: 60_000, wall_ms: 0, clock: ClockState::Unsynced };

    fn anchor(uncertainty_ms: u32) -> Anchor {
        Anchor { earliest_boottime_ms: 60_000, latest_boottime_ms: 60_000, utc_ms: 5, uncertainty_ms }
    }

    #[test]
    fn a_time_counts_as_known_up_to_a_minute_of_doubt() {
        let known = Occurred { at: UtcMs(5), uncertainty_ms: 60_000 };
        assert_eq!(occurred(&UNSYNCED, &[anchor(60_000)]), Some(known));
        assert_eq!(occurred(&UNSYNCED, &[anchor(60_001)]), None);
        assert_eq!(occurred(&UNSYNCED, &[]), None);
    }

    #[test]
    fn a_tap_waits_for_its_time_before_it_waits_for_its_person() {
        let time = Some(Occurred { at: UtcMs(5), uncertainty_ms: 0 });
        let person = PersonId("E-1".into());
        assert_eq!(held_for(None, None), Some(HeldFor::Time));
        assert_eq!(held_for(None, Some(&person)), Some(HeldFor::Time));
        assert_eq!(held_for(time, None), Some(HeldFor::Binding));
        assert_eq!(held_for(time, Some(&person)), None);
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
