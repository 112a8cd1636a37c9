//! Beside the line: which way a tap goes, by the policy of its site. Pure: knows no store, no clock.
//!
//! What a reader says of itself (`in`, `out`) is the best there is, and it wins. Where one reader serves both ways, a site
//! may have its persons' taps alternate: in, out, in, out. That is decided here and never at the door, because a door
//! does not know what the others saw, and from stored facts alone: the person's taps at that site in the order of their
//! true time, and the rules that were in force then. So the same facts give the same direction whenever it is asked, and
//! a tap that arrives late changes what was worked out for those after it, up to the next that starts over.

use serde::Serialize;
use tap_protocol::tap::Direction;

use crate::event_store::{Position, UtcMs};

/// The version of what stands in [`Walk::next`]: told with each direction, so that one can say later how it came about.
pub const WORKED_OUT_BY: u32 = 1;

/// A shift is no longer than this, pauses included: after a longer gap the next tap is the first of another.
pub const RESET_AFTER_H: u32 = 14;

/// A second tap within so many seconds is somebody who was not sure about the first.
pub const DOUBLE_WITHIN_S: u32 = 60;

/// The bounds of both: a gap below an hour would be a pause, one above two days no shift; and whoever comes back after
/// half an hour has been away.
pub const RESET_AFTER_H_RANGE: std::ops::RangeInclusive<u32> = 1..=48;
/// See [`RESET_AFTER_H_RANGE`].
pub const DOUBLE_WITHIN_S_RANGE: std::ops::RangeInclusive<u32> = 0..=1_800;

/// How a site wants directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// What the reader says of itself, which may be nothing.
    AsPlaced,
    /// Where the reader says nothing: in, out, in, out.
    Alternating,
    /// None is told: the destination works it out.
    None,
}

impl Policy {
    /// All there are.
    pub const ALL: [Policy; 3] = [Policy::AsPlaced, Policy::Alternating, Policy::None];

    /// The name on the command line, in JSON and in the store.
    pub fn name(self) -> &'static str {
        match self {
            Policy::AsPlaced => "as_placed",
            Policy::Alternating => "alternating",
            Policy::None => "none",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Policy> {
        Policy::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

/// A site's rule from a moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// 1, 2, 3 … at its site; 0 is what holds where nobody ever said anything.
    pub version: u32,
    /// From when on, by the true time of taps.
    pub from: UtcMs,
    /// How.
    pub policy: Policy,
    /// After a longer gap the next tap is `in` again, hours.
    pub reset_after_h: u32,
    /// A second tap within this says what the one before it said, seconds.
    pub double_within_s: u32,
}

impl Rule {
    /// What holds at a site of which nobody has said anything.
    pub const UNSAID: Rule = Rule {
        version: 0,
        from: UtcMs(i64::MIN),
        policy: Policy::AsPlaced,
        reset_after_h: RESET_AFTER_H,
        double_within_s: DOUBLE_WITHIN_S,
    };

    fn reset_after_ms(&self) -> u64 {
        u64::from(self.reset_after_h) * 3_600_000
    }
}

/// All rules that a site ever had, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// The one that was in force then.
    pub fn at(&self, moment: UtcMs) -> Rule {
        self.0.iter().rfind(|rule| rule.from <= moment).copied().unwrap_or(Rule::UNSAID)
    }

    /// Whether any of them needs to know more than the tap itself.
    pub fn alternate(&self) -> bool {
        self.0.iter().any(|rule| rule.policy == Policy::Alternating)
    }
}

/// One tap of the person at the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    /// When, true time.
    pub at: UtcMs,
    /// Which; it decides between two of one millisecond.
    pub position: Position,
    /// What the reader says of itself.
    pub placed: Placed,
}

/// A [`Direction`] that can stand in an ordered [`Shown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placed {
    /// The reader is at the way in.
    In,
    /// The reader is at the way out.
    Out,
    /// It serves both ways.
    Both,
}

impl From<Direction> for Placed {
    fn from(direction: Direction) -> Placed {
        match direction {
            Direction::In => Placed::In,
            Direction::Out => Placed::Out,
            Direction::Unspecified => Placed::Both,
        }
    }
}

/// A direction, and how it came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Decided {
    /// Which way.
    #[serde(serialize_with = "by_name")]
    pub direction: Direction,
    /// Why.
    #[serde(flatten)]
    pub why: Why,
    /// Under which of the site's rules.
    pub rule: u32,
}

fn by_name<S: serde::Serializer>(direction: &Direction, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(direction.name())
}

/// How a direction came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Why {
    /// The reader says so.
    Placed,
    /// The reader says nothing, and nobody asked for more.
    Unplaced,
    /// The site tells none.
    NotTold,
    /// The person's first at this site, or the first after a long gap.
    First,
    /// The other way than this one.
    Follows {
        /// The tap before.
        previous: Position,
    },
    /// Once more, right after this one.
    Again {
        /// The tap before.
        previous: Position,
    },
    /// Whose tap it is, or when it was, is not known.
    NotYet,
}

/// Whether a tap's direction depends on nothing before it. `gap_ms` is how long before it the person's previous tap at the
/// site was, if there is one.
pub fn starts_over(shown: &Shown, gap_ms: Option<u64>, rules: &Rules) -> bool {
    let rule = rules.at(shown.at);
    let long_ago = gap_ms.is_none_or(|gap_ms| gap_ms > rule.reset_after_ms());
    shown.placed != Placed::Both || rule.policy != Policy::Alternating || long_ago
}

/// Goes through the taps of one person at one site, in order, from one that starts over.
#[derive(Debug, Clone, Default)]
pub struct Walk {
    /// The last that counts: not one that was shown again.
    last: Option<(Shown, Direction)>,
}

impl Walk {
    /// Which way the next tap goes.
    pub fn next(&mut self, shown: Shown, rules: &Rules) -> Decided {
        let rule = rules.at(shown.at);
        let placed = match shown.placed {
            Placed::In => Some(Direction::In),
            Placed::Out => Some(Direction::Out),
            Placed::Both => None,
        };
        let (direction, why) = match (rule.policy, placed) {
            (Policy::None, _) => (Direction::Unspecified, Why::NotTold),
            (_, Some(placed)) => (placed, Why::Placed),
            (Policy::AsPlaced, None) => (Direction::Unspecified, Why::Unplaced),
            (Policy::Alternating, None) => self.alternate(shown, &rule),
        };
        if !matches!(why, Why::Again { .. }) {
            self.last = (direction != Direction::Unspecified).then_some((shown, direction));
        }
        Decided { direction, why, rule: rule.version }
    }

    fn alternate(&self, shown: Shown, rule: &Rule) -> (Direction, Why) {
        let Some((last, direction)) = self.last else { return (Direction::In, Why::First) };
        let previous = last.position;
        let gap_ms = shown.at.0.abs_diff(last.at.0);
        if gap_ms > rule.reset_after_ms() {
            (Direction::In, Why::First)
        } else if gap_ms <= u64::from(rule.double_within_s) * 1_000 {
            (direction, Why::Again { previous })
        } else if direction == Direction::In {
            (Direction::Out, Why::Follows { previous })
        } else {
            (Direction::In, Why::Follows { previous })
        }
    }
}

/// Which way each of a person's taps at one site goes; `taps` are in order, and the first starts over.
pub fn decide(taps: &[Shown], rules: &Rules) -> Vec<Decided> {
    debug_assert!(taps.is_sorted(), "in the order of their time");
    let mut walk = Walk::default();
    taps.iter().map(|shown| walk.next(*shown, rules)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;

    fn rules(policy: Policy) -> Rules {
        Rules(vec![Rule { version: 1, policy, ..Rule::UNSAID }])
    }

    /// `08:00 12:00:30i 1+07:00o`: day, time of day, where the reader is placed.
    fn taps(text: &str) -> Vec<Shown> {
        let shown = text.split_whitespace().zip(1..).map(|(tap, n)| {
            let (day, tap) = tap.split_once('+').unwrap_or(("0", tap));
            let placed = match tap.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':') {
                "i" => Placed::In,
                "o" => Placed::Out,
                _ => Placed::Both,
            };
            let parts = tap.trim_end_matches(['i', 'o']).split(':');
            let ms: i64 =
                parts.zip([HOUR, 60_000, 1_000]).map(|(n, ms)| n.parse::<i64>().unwrap() * ms).sum();
            let day: i64 = day.parse().unwrap();
            Shown { at: UtcMs(day * 24 * HOUR + ms), position: Position(n), placed }
        });
        shown.collect()
    }

    /// What comes of the taps: `i`, `o`, `-` for none, in capitals where it is shown again.
    fn said(decided: &[Decided]) -> String {
        let letter = |decided: &Decided| match (decided.direction, decided.why) {
            (Direction::In, Why::Again { .. }) => 'I',
            (Direction::Out, Why::Again { .. }) => 'O',
            (Direction::In, _) => 'i',
            (Direction::Out, _) => 'o',
            (Direction::Unspecified, _) => '-',
        };
        decided.iter().map(letter).collect()
    }

    #[track_caller]
    fn alternates(shown: &str, expected: &str) {
        assert_eq!(said(&decide(&taps(shown), &rules(Policy::Alternating))), expected);
    }

    #[test]
    fn a_day_alternates() {
        alternates("08:00 12:00 12:45 17:00", "ioio");
    }

    #[test]
    fn a_night_shift_ends_the_next_morning() {
        alternates("22:00 1+02:00 1+02:30 1+06:00 1+22:00 2+06:00", "ioioio");
    }

    #[test]
    fn a_forgotten_way_out_ends_with_the_long_gap() {
        alternates("08:00 1+08:00 1+17:00", "iio");
        alternates("08:00 12:00 12:45 1+08:00 1+17:00", "ioiio");
    }

    #[test]
    fn a_gap_of_just_the_limit_is_no_long_gap() {
        alternates("08:00 22:00", "io");
        alternates("08:00 22:00:01", "ii");
    }

    #[test]
    fn whoever_taps_twice_goes_one_way() {
        alternates("08:00 08:00:30 17:00", "iIo");
        alternates("08:00 08:00:30 08:01:01 17:00", "iIoi");
        alternates("08:00 17:00 17:01", "ioO");
        alternates("08:00 17:00 17:01:01", "ioi");
    }

    #[test]
    fn a_reader_that_knows_its_way_wins_and_the_next_goes_the_other() {
        alternates("08:00o 08:10 08:20", "oio");
        alternates("08:00 08:10i 08:20", "iio");
        alternates("08:00i 08:00:20 17:00", "iIo");
        alternates("08:00 08:00:20o 17:00", "ioi");
    }

    #[test]
    fn as_placed_says_what_the_reader_says_and_none_says_nothing() {
        let shown = taps("08:00i 12:00 17:00o");
        assert_eq!(said(&decide(&shown, &rules(Policy::AsPlaced))), "i-o");
        assert_eq!(said(&decide(&shown, &rules(Policy::None))), "---");
        assert_eq!(said(&decide(&shown, &Rules::default())), "i-o");
    }

    #[test]
    fn what_counts_is_the_rule_that_was_in_force_then() {
        let from =
            |version, hours: i64, policy| Rule { version, from: UtcMs(hours * HOUR), policy, ..Rule::UNSAID };
        let rules = Rules(vec![
            from(1, 10, Policy::Alternating),
            from(2, 18, Policy::None),
            from(3, 20, Policy::Alternating),
        ]);
        let decided = decide(&taps("08:00 11:00 17:00 19:00 21:00"), &rules);
        assert_eq!(said(&decided), "-io-i");
        assert_eq!(decided.iter().map(|decided| decided.rule).collect::<Vec<_>>(), [0, 1, 1, 2, 3]);
        assert_eq!(decided[2].why, Why::Follows { previous: Position(2) });
    }

    #[test]
    fn every_policy_is_found_under_its_name() {
        assert!(Policy::ALL.iter().all(|policy| Policy::from_name(policy.name()) == Some(*policy)));
        assert_eq!(Policy::from_name("toggle"), None);
    }

    proptest! {
        /// What allows to look at a few taps instead of all there ever were.
        #[test]
        fn from_a_tap_that_starts_over_the_rest_comes_out_the_same(
            steps in prop::collection::vec((0..20 * HOUR, 0..8u8), 1..40),
        ) {
            let mut at = 0;
            let all: Vec<Shown> = steps.iter().zip(1..).map(|((gap, placed), n)| {
                at += gap;
                let placed = match placed { 0 => Placed::In, 1 => Placed::Out, _ => Placed::Both };
                Shown { at: UtcMs(at), position: Position(n), placed }
            }).collect();
            let rule = |version, hours: i64, policy| Rule { version, from: UtcMs(hours * HOUR), policy, ..Rule::UNSAID };
            let rules = Rules(vec![rule(1, 20, Policy::Alternating), rule(2, 100, Policy::AsPlaced), rule(3, 130, Policy::Alternating)]);
            let decided = decide(&all, &rules);
            for start in 1..all.len() {
                let gap_ms = all[start].at.0.abs_diff(all[start - 1].at.0);
                if starts_over(&all[start], Some(gap_ms), &rules) {
                    prop_assert_eq!(&decide(&all[start..], &rules), &decided[start..]);
                }
            }
        }
    }
}
