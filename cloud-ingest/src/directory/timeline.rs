//! Beside the line: who held a badge when. Pure: knows no store, no clock and no badge's number.
//!
//! A badge's history is a row of spans that do not overlap; between them it is nobody's. What counts for a tap is the
//! tap's own true time, however late it arrives: a badge that was handed on from Anna to Ben on Monday at eight gives
//! Friday's taps to Anna, whenever they come in.
//!
//! There is one way to change a history: a stretch of time is given to somebody, or to nobody, and whatever stood there
//! gives way. So no order of changes can make two persons hold one badge at once.

use serde::Serialize;

use crate::event_store::{Occurred, PersonId, Timeless, UtcMs};

/// Before all that ever happened.
pub const EVER: UtcMs = UtcMs(i64::MIN);

/// After all that will ever happen.
pub const FOR_EVER: UtcMs = UtcMs(i64::MAX);

/// So many spans in one badge's history: a pool badge that is handed out twice a day for a year, and some.
pub const MAX_SPANS: usize = 1_000;

/// Somebody holds the badge at `from` and after it, and not any more at `until`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first moment; [`EVER`] if nobody said.
    pub from: UtcMs,
    /// The first moment after; [`FOR_EVER`] if nobody said.
    pub until: UtcMs,
    /// Who.
    pub person: PersonId,
}

/// When somebody is to hold a badge, as people say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct When {
    /// From here on. Without it: from ever if nobody ever held the badge, else from now, up to what is planned next.
    pub from: Option<UtcMs>,
    /// Not any more from here on.
    pub until: Option<UtcMs>,
}

impl When {
    /// In just this stretch.
    pub fn between(from: UtcMs, until: UtcMs) -> When {
        When { from: Some(from), until: Some(until) }
    }
}

/// A stretch of time that was given to somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first moment.
    pub from: UtcMs,
    /// The first moment after.
    pub until: UtcMs,
}

/// Why a history cannot be changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWhen {
    /// The end is not after the beginning.
    #[error("the binding would end before it begins")]
    Backwards,
    /// Nobody hands a badge on so often.
    #[error("this badge would have more than {MAX_SPANS} bindings in its history")]
    TooMany,
}

/// The history of one badge, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeline(Vec<Span>);

impl Timeline {
    /// The history that a store kept: in order, without an overlap.
    pub fn of(spans: Vec<Span>) -> Timeline {
        debug_assert!(spans.iter().all(|span| span.from < span.until), "no span is empty: {spans:?}");
        debug_assert!(spans.is_sorted_by(|one, next| one.until <= next.from), "no overlap: {spans:?}");
        Timeline(spans)
    }

    /// In order, the oldest first.
    pub fn spans(&self) -> &[Span] {
        &self.0
    }

    /// Who holds the badge at that moment.
    pub fn at(&self, moment: UtcMs) -> Option<&Span> {
        self.0.iter().find(|span| span.from <= moment && moment < span.until)
    }

    /// Whose tap it is: the person who held the badge at its true time. Where that is not known, whoever held it all the
    /// while in which it can have been; and nobody where that is not one person.
    pub fn holder(&self, occurred: Result<Occurred, Timeless>) -> Option<&PersonId> {
        let holder = match occurred {
            Ok(occurred) => self.at(occurred.at),
            Err(Timeless::Between { not_before, not_after }) => {
                self.at(not_before).filter(|span| not_after < span.until)
            }
            Err(Timeless::Unknown | Timeless::Disputed) => {
                self.at(EVER).filter(|span| span.until == FOR_EVER)
            }
        };
        holder.map(|span| &span.person)
    }

    /// Gives the badge to `person`, or to nobody, for that time. Says which stretch that is; `None` if nothing changed.
    pub fn give(
        &mut self,
        when: When,
        person: Option<&PersonId>,
        now: UtcMs,
    ) -> Result<Option<Stretch>, BadWhen> {
        let stretch = self.meant(when, person, now);
        if stretch.from >= stretch.until {
            return Err(BadWhen::Backwards);
        }
        let mut spans = Vec::with_capacity(self.0.len() + 2);
        spans.extend(self.0.iter().filter_map(|span| cut(span, EVER, stretch.from)));
        spans.extend(person.map(|person| Span {
            from: stretch.from,
            until: stretch.until,
            person: person.clone(),
        }));
        spans.extend(self.0.iter().filter_map(|span| cut(span, stretch.until, FOR_EVER)));
        spans.dedup_by(|next, one| {
            let goes_on = one.person == next.person && one.until == next.from;
            if goes_on {
                one.until = next.until;
            }
            goes_on
        });
        if spans.len() > MAX_SPANS {
            return Err(BadWhen::TooMany);
        }
        let changed = spans != self.0;
        self.0 = spans;
        Ok(changed.then_some(stretch))
    }

    fn meant(&self, When { from, until }: When, person: Option<&PersonId>, now: UtcMs) -> Stretch {
        match (from, self.0.is_empty()) {
            (Some(from), _) => Stretch { from, until: until.unwrap_or(FOR_EVER) },
            (None, true) => Stretch { from: EVER, until: until.unwrap_or(FOR_EVER) },
            (None, false) => {
                // Who holds it already goes on holding it: a list that is read every night changes nothing.
                let holds = self.at(now).filter(|span| Some(&span.person) == person);
                let planned = self.0.iter().map(|span| span.from).find(|from| *from > now);
                Stretch {
                    from: holds.map_or(now, |span| span.from),
                    until: until.or(holds.map(|span| span.until)).or(planned).unwrap_or(FOR_EVER),
                }
            }
        }
    }

    /// Two badges turn out to be one: `other` counts where this says nothing.
    pub fn join(&mut self, other: &Timeline) {
        let mut own = std::mem::take(&mut self.0);
        let mut joined = other.clone();
        for span in own.drain(..) {
            // A stretch of a history that held before cannot be backwards; and one too many is left out.
            let _ = joined.give(When::between(span.from, span.until), Some(&span.person), span.from);
        }
        *self = joined;
    }
}

/// What of a span lies between two moments.
fn cut(span: &Span, from: UtcMs, until: UtcMs) -> Option<Span> {
    let (from, until) = (span.from.max(from), span.until.min(until));
    (from < until).then(|| Span { from, until, person: span.person.clone() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn person(name: &str) -> PersonId {
        PersonId(name.into())
    }

    /// `anna:..10 ben:10..20 cleo:30..`
    fn history(text: &str) -> Timeline {
        let moment = |text: &str, otherwise| text.parse().map_or(otherwise, UtcMs);
        let spans = text.split_whitespace().map(|span| {
            let (name, when) = span.split_once(':').unwrap();
            let (from, until) = when.split_once("..").unwrap();
            Span { from: moment(from, EVER), until: moment(until, FOR_EVER), person: person(name) }
        });
        Timeline::of(spans.collect())
    }

    const NOW: UtcMs = UtcMs(100);

    #[track_caller]
    fn gives(before: &str, when: (Option<i64>, Option<i64>), who: &str, after: &str) {
        let mut timeline = history(before);
        let who = (who != "nobody").then(|| person(who));
        let when = When { from: when.0.map(UtcMs), until: when.1.map(UtcMs) };
        let changed = timeline.give(when, who.as_ref(), NOW).unwrap();
        assert_eq!(timeline, history(after));
        assert_eq!(changed.is_some(), before != after, "{changed:?}");
    }

    #[test]
    fn a_badge_of_nobody_is_somebodys_from_ever() {
        gives("", (None, None), "anna", "anna:..");
        gives("", (None, Some(200)), "anna", "anna:..200");
        gives("", (Some(50), None), "anna", "anna:50..");
        gives("", (None, None), "nobody", "");
    }

    #[test]
    fn a_badge_of_another_is_handed_on_now_or_when_it_was() {
        gives("anna:..", (None, None), "ben", "anna:..100 ben:100..");
        gives("anna:..", (Some(50), None), "ben", "anna:..50 ben:50..");
        gives("anna:..", (Some(50), Some(60)), "ben", "anna:..50 ben:50..60 anna:60..");
        gives("anna:..", (None, None), "nobody", "anna:..100");
        gives("anna:..", (Some(50), Some(60)), "nobody", "anna:..50 anna:60..");
    }

    #[test]
    fn who_holds_it_goes_on_holding_it() {
        gives("anna:..", (None, None), "anna", "anna:..");
        gives("anna:..50 ben:50..", (None, None), "ben", "anna:..50 ben:50..");
        gives("ben:50..150", (None, None), "ben", "ben:50..150");
        gives("ben:50..150", (None, Some(300)), "ben", "ben:50..300");
        gives("anna:..50 ben:50..", (None, None), "anna", "anna:..50 ben:50..100 anna:100..");
    }

    #[test]
    fn what_is_planned_stays_unless_it_is_meant() {
        gives("anna:.. ".trim(), (Some(150), None), "ben", "anna:..150 ben:150..");
        gives("anna:..150 ben:150..", (None, None), "cleo", "anna:..100 cleo:100..150 ben:150..");
        gives("anna:..150 ben:150..", (Some(120), None), "cleo", "anna:..120 cleo:120..");
    }

    #[test]
    fn spans_of_one_person_that_touch_are_one() {
        gives("anna:..50 ben:50..60 anna:60..", (Some(50), Some(60)), "anna", "anna:..");
        gives("anna:..50", (Some(50), None), "anna", "anna:..");
    }

    #[test]
    fn a_binding_does_not_end_before_it_begins() {
        let backwards = When::between(UtcMs(5), UtcMs(5));
        assert_eq!(history("").give(backwards, Some(&person("anna")), NOW), Err(BadWhen::Backwards));
        let over = When { from: None, until: Some(UtcMs(50)) };
        assert_eq!(history("anna:..").give(over, Some(&person("ben")), NOW), Err(BadWhen::Backwards));
    }

    #[test]
    fn a_history_has_an_end() {
        let mut timeline = Timeline::default();
        let mut give = |n: i64| {
            timeline.give(When::between(UtcMs(n * 10), UtcMs(n * 10 + 5)), Some(&person("anna")), NOW)
        };
        (0..MAX_SPANS as i64).for_each(|n| assert!(give(n).unwrap().is_some()));
        assert_eq!(give(MAX_SPANS as i64), Err(BadWhen::TooMany));
    }

    #[track_caller]
    fn holds(timeline: &str, occurred: Result<i64, Timeless>, expected: Option<&str>) {
        let occurred = occurred.map(|at| Occurred { at: UtcMs(at), uncertainty_ms: 0, estimated: false });
        assert_eq!(history(timeline).holder(occurred), expected.map(person).as_ref());
    }

    #[test]
    fn a_tap_is_theirs_who_held_the_badge_at_its_time() {
        let history = "anna:..50 ben:60..";
        holds(history, Ok(49), Some("anna"));
        holds(history, Ok(50), None);
        holds(history, Ok(60), Some("ben"));
        let between = |from, until| Timeless::Between { not_before: UtcMs(from), not_after: UtcMs(until) };
        holds(history, Err(between(10, 49)), Some("anna"));
        holds(history, Err(between(10, 50)), None);
        holds(history, Err(between(49, 61)), None);
        holds(history, Err(Timeless::Unknown), None);
        holds("anna:..", Err(Timeless::Unknown), Some("anna"));
        holds("anna:..", Err(Timeless::Disputed), Some("anna"));
        holds("anna:1..", Err(Timeless::Unknown), None);
    }

    #[test]
    fn where_two_badges_become_one_the_first_one_counts() {
        let mut one = history("anna:..50 ben:60..");
        one.join(&history("cleo:40..70"));
        assert_eq!(one, history("anna:..50 cleo:50..60 ben:60.."));
    }

    proptest! {
        /// Against the plainest model: a person per moment.
        #[test]
        fn a_history_says_of_every_moment_what_was_said_last(
            given in prop::collection::vec((0..20i64, 1..10i64, 0..4usize), 0..30),
        ) {
            let names = [None, Some(person("anna")), Some(person("ben")), Some(person("cleo"))];
            let mut model: [usize; 32] = [0; 32];
            let mut timeline = Timeline::default();
            for (from, long, who) in given {
                let when = When::between(UtcMs(from), UtcMs(from + long));
                timeline.give(when, names[who].as_ref(), NOW).unwrap();
                model[from as usize..(from + long) as usize].fill(who);
                prop_assert!(timeline.spans().is_sorted_by(|one, next| one.until <= next.from));
                for (moment, who) in (0..).zip(&model) {
                    let said = timeline.at(UtcMs(moment)).map(|span| &span.person);
                    prop_assert_eq!(said, names[*who].as_ref());
                }
            }
        }
    }
}
