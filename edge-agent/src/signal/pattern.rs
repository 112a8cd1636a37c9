//! Step 4 of 12, what it looks and sounds like: one table of six signals and two standing lights. Pure: knows no lamp.
//!
//! Two rules a person can learn: short beeps mean *recorded*, long ones *not recorded*; and no two signals share a
//! rhythm of light or a rhythm of sound. So neither the colour (one man in twelve cannot tell red from green) nor the
//! sound (a loud hall) nor the light (a reader behind a bag) is needed to tell them apart.
//!
//! Every signal is one flash or several equal ones, because that is what readers can do by themselves; one that a
//! reader is kept busy with is short, because meanwhile it may see no other card.

use std::fmt;

use serde::Serialize;

/// What a person can be told. Six different signals, none of which can be mistaken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Recorded for good, and the cloud can be reached.
    Recorded,
    /// Recorded for good; the cloud will hear of it later.
    RecordedOffline,
    /// Recorded, but the badge is not on the roster.
    UnknownBadge,
    /// Not a badge (a bank card, a phone). Nothing was recorded.
    NotABadge,
    /// Not recorded yet: please wait.
    Wait,
    /// Nothing can be recorded here.
    OutOfService,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Signal; 6] = [
        Signal::Recorded,
        Signal::RecordedOffline,
        Signal::UnknownBadge,
        Signal::NotABadge,
        Signal::Wait,
        Signal::OutOfService,
    ];

    /// How it is shown.
    pub const fn pattern(self) -> &'static Pattern {
        &TABLE[self as usize].1
    }

    /// Whether it says that a tap is on the medium, which takes a committed tap.
    pub fn promises(self) -> bool {
        matches!(self, Signal::Recorded | Signal::RecordedOffline | Signal::UnknownBadge)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Recorded => "recorded",
            Signal::RecordedOffline => "recorded offline",
            Signal::UnknownBadge => "unknown badge",
            Signal::NotABadge => "not a badge",
            Signal::Wait => "wait",
            Signal::OutOfService => "out of service",
        })
    }
}

/// What a lamp of two colours can show. Amber is red and green together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// Recorded.
    Green,
    /// In between: waiting, or recorded for somebody who is not known.
    Amber,
    /// Not recorded.
    Red,
}

/// When it sounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Beep {
    /// Never.
    Silent,
    /// While it is lit.
    WithLight,
    /// From the first flash to the last.
    Throughout,
}

/// Equal flashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Pattern {
    /// Of the light.
    pub colour: Colour,
    /// One flash, milliseconds.
    pub lit_ms: u16,
    /// The dark after it, milliseconds.
    pub dark_ms: u16,
    /// How many.
    pub flashes: u8,
    /// The sound.
    pub beep: Beep,
    /// Again and again, until something else is to be shown.
    pub until_replaced: bool,
}

impl Pattern {
    /// How long it takes, once.
    pub const fn total_ms(&self) -> u16 {
        (self.lit_ms + self.dark_ms) * self.flashes as u16
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colour = match self.colour {
            Colour::Green => "green",
            Colour::Amber => "amber",
            Colour::Red => "red",
        };
        let length = if self.lit_ms < 200 { "short" } else { "long" };
        match (self.until_replaced, self.flashes) {
            (true, _) => write!(f, "blinking {colour}")?,
            (false, 1) => write!(f, "one {length} flash of {colour}")?,
            (false, n) => write!(f, "{n} {length} flashes of {colour}")?,
        }
        f.write_str(match self.beep {
            Beep::Silent => ", no sound",
            Beep::WithLight => ", a beep with each",
            Beep::Throughout => ", one long beep over all of them",
        })
    }
}

const fn flashes(flashes: u8, colour: Colour, lit_ms: u16, dark_ms: u16, beep: Beep) -> Pattern {
    Pattern { colour, lit_ms, dark_ms, flashes, beep, until_replaced: false }
}

/// The table.
const TABLE: [(Signal, Pattern); 6] = [
    (Signal::Recorded, flashes(1, Colour::Green, 300, 0, Beep::WithLight)),
    (Signal::RecordedOffline, flashes(2, Colour::Green, 100, 100, Beep::WithLight)),
    (Signal::UnknownBadge, flashes(3, Colour::Amber, 100, 100, Beep::WithLight)),
    (Signal::NotABadge, flashes(4, Colour::Red, 100, 100, Beep::Throughout)),
    (Signal::Wait, Pattern { until_replaced: true, ..flashes(1, Colour::Amber, 200, 300, Beep::Silent) }),
    (Signal::OutOfService, flashes(3, Colour::Red, 300, 100, Beep::WithLight)),
];

/// The standing light of a reader that can record: steady amber. A light at all, because a reader without power or
/// agent is dark; and never green, which is kept for what was recorded.
pub const IN_SERVICE: Colour = Colour::Amber;

/// The standing light of a reader at which nothing can be recorded: it blinks slowly, so that no colour needs to be
/// seen to tell it from [`IN_SERVICE`].
pub const OUT_OF_SERVICE: Pattern =
    Pattern { until_replaced: true, ..flashes(1, Colour::Red, 500, 500, Beep::Silent) };

/// What the coarsest reader counts in.
const TICK_MS: u16 = 100;

/// A reader that shows a signal may see no card meanwhile.
const LONGEST_MS: u16 = 1_200;

const _: () = {
    let mut at = 0;
    while at < TABLE.len() {
        let (signal, pattern) = &TABLE[at];
        assert!(*signal as usize == at, "the table is in the order of the signals");
        assert!(pattern.lit_ms.is_multiple_of(TICK_MS) && pattern.dark_ms.is_multiple_of(TICK_MS));
        assert!(pattern.total_ms() <= LONGEST_MS, "the next card may be kept waiting no longer");
        at += 1;
    }
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::Hash;

    use super::*;

    /// What can be told of the light without colours: lit and dark, in turn.
    fn light_rhythm(pattern: &Pattern) -> Vec<u16> {
        let mut rhythm: Vec<u16> =
            (0..pattern.flashes).flat_map(|_| [pattern.lit_ms, pattern.dark_ms]).collect();
        if !pattern.until_replaced {
            // Nobody sees when the last dark ends.
            rhythm.pop();
        }
        rhythm
    }

    /// What can be told with closed eyes: sound and silence, in turn.
    fn sound_rhythm(pattern: &Pattern) -> Vec<u16> {
        match pattern.beep {
            Beep::Silent => vec![],
            Beep::Throughout => vec![pattern.total_ms()],
            Beep::WithLight => light_rhythm(pattern),
        }
    }

    #[track_caller]
    fn all_differ<T: Eq + Hash + fmt::Debug>(of: impl Fn(&Pattern) -> T) {
        let all: Vec<T> = Signal::ALL.map(|signal| of(signal.pattern())).into();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), Signal::ALL.len(), "{all:?}");
    }

    #[test]
    fn no_two_signals_share_a_light_a_rhythm_of_light_or_a_rhythm_of_sound() {
        all_differ(|pattern| (pattern.colour, light_rhythm(pattern)));
        all_differ(light_rhythm);
        all_differ(sound_rhythm);
    }

    #[test]
    fn the_longest_sound_tells_recorded_from_not_recorded() {
        for signal in Signal::ALL {
            let longest = sound_rhythm(signal.pattern()).into_iter().step_by(2).max();
            match signal {
                Signal::Recorded | Signal::RecordedOffline | Signal::UnknownBadge => {
                    assert!(longest.is_some_and(|ms| ms <= 300), "{signal}: {longest:?}");
                }
                Signal::NotABadge | Signal::OutOfService => {
                    assert!(sound_rhythm(signal.pattern()).into_iter().sum::<u16>() >= 800, "{signal}");
                }
                Signal::Wait => assert_eq!(longest, None),
            }
        }
    }

    #[test]
    fn green_is_what_was_recorded_for_somebody_and_nothing_else() {
        for signal in Signal::ALL {
            let green = signal.pattern().colour == Colour::Green;
            assert_eq!(green, matches!(signal, Signal::Recorded | Signal::RecordedOffline), "{signal}");
            assert!(!green || signal.promises());
        }
        assert_ne!(IN_SERVICE, Colour::Green);
    }

    #[test]
    fn out_of_service_blinks_where_in_service_is_steady() {
        const { assert!(OUT_OF_SERVICE.dark_ms > 0 && OUT_OF_SERVICE.until_replaced) };
        assert!(
            Signal::ALL.iter().all(|signal| light_rhythm(signal.pattern()) != light_rhythm(&OUT_OF_SERVICE))
        );
    }
}
