//! Beside the line, as far as it is rows: who held a badge when, and what follows for taps that are stored already. What a
//! history means is for [`crate::directory::timeline`] to say.
//!
//! A change of a history moves what is not sent yet into the lines of those who hold the badge by now, in the same
//! transaction. What was sent stays where it is; where it was told of somebody else, that is written down as a difference.

use std::collections::{BTreeMap, BTreeSet};

use tap_protocol::badge::Token;

use super::differences::{self, Told};
use super::directions;
use super::session::{Row, Session, ToValue, all, all_of};
use super::statements as sql;
use super::values;
use super::writing::{Lane, Writing};
use crate::directory::timeline::{EVER, FOR_EVER, Span, Stretch, Timeline};
use crate::event_store::meaning;
use crate::event_store::people::What;
use crate::event_store::{
    DeliveryState, HeldFor, Occurred, OrderKey, PersonId, Position, StoreError, Timeless, UtcMs,
};

/// What became of taps that were stored before a badge's history was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Followed {
    /// Deliveries that waited for somebody to say whose badge it is, and do not any more.
    pub released: usize,
    /// Deliveries that stood in one person's line and stand in another's.
    pub moved: usize,
    /// Deliveries that were sent and told of another person than who held the badge.
    pub told_otherwise: usize,
}

/// A badge whose history has changed.
pub struct Changed<'a> {
    /// Its number.
    pub no: i64,
    /// Everybody who stands in its history, or stood there before.
    pub persons: &'a BTreeSet<PersonId>,
    /// As it is.
    pub after: &'a Timeline,
    /// Where it was otherwise.
    pub stretch: Stretch,
}

pub fn timeline(session: &dyn Session, badge_no: i64) -> Result<Timeline, StoreError> {
    Ok(Timeline::of(all(session, sql::BINDINGS, [badge_no], span)?))
}

/// The history of the badge that has this token; of nobody, if there is none.
pub fn timeline_of(session: &dyn Session, token: Token) -> Result<Timeline, StoreError> {
    Ok(Timeline::of(all(session, sql::BINDINGS_OF, [token.0], span)?))
}

/// The histories of many badges, by token; of nobody where there is none.
pub fn timelines_of(
    session: &dyn Session,
    tokens: &BTreeSet<Token>,
) -> Result<BTreeMap<Token, Timeline>, StoreError> {
    let keys: Vec<_> = tokens.iter().map(|token| token.0.to_value()).collect();
    let found = all_of(session, sql::BINDINGS_OF_MANY, 0i64, &keys, |row| {
        let person = PersonId(row.get(3)?);
        Ok((Token(row.get(0)?), Span { from: row.get(1)?, until: row.get(2)?, person }))
    })?;
    let mut spans: BTreeMap<Token, Vec<Span>> = tokens.iter().map(|token| (*token, Vec::new())).collect();
    for (token, span) in found {
        spans.entry(token).or_default().push(span);
    }
    Ok(spans.into_iter().map(|(token, spans)| (token, Timeline::of(spans))).collect())
}

pub fn put_timeline(writing: &Writing<'_>, badge_no: i64, timeline: &Timeline) -> Result<(), StoreError> {
    writing.execute(sql::FORGET_BINDINGS, [badge_no])?;
    for Span { from, until, person } in timeline.spans() {
        writing.execute(sql::NEW_BINDING, (badge_no, from, until, &person.0))?;
    }
    Ok(())
}

/// `from_ms, until_ms, person`.
fn span(row: &Row<'_>) -> Result<Span, StoreError> {
    Ok(Span { from: row.get(0)?, until: row.get(1)?, person: PersonId(row.get(2)?) })
}

/// Whose line a tap stands in.
pub fn key(timeline: &Timeline, token: Token, occurred: Result<Occurred, Timeless>) -> OrderKey {
    match timeline.holder(occurred) {
        Some(person) => OrderKey::Person(person.clone()),
        None => OrderKey::Token(token),
    }
}

/// Carries a changed history through to all taps of the badge. `lanes` are those to be settled when all is done.
pub fn follow(
    writing: &mut Writing<'_>,
    destinations: &[i64],
    changed: &Changed<'_>,
    now: UtcMs,
    lanes: &mut BTreeSet<Lane>,
) -> Result<Followed, StoreError> {
    let tokens: BTreeSet<Token> =
        writing.all(sql::TOKENS_OF, [changed.no], |row| row.get(0).map(Token))?.into_iter().collect();
    let mut followed = place(writing, destinations, changed, &tokens, lanes)?;
    for destination in destinations {
        for token in &tokens {
            followed.told_otherwise += compare(writing, *destination, *token, changed, now)?;
        }
    }
    for person in changed.persons {
        directions::review_everywhere(writing, person, changed.stretch, now)?;
    }
    Ok(followed)
}

/// Has all that is not sent yet stand in the lines where it belongs by now.
pub fn place(
    writing: &Writing<'_>,
    destinations: &[i64],
    changed: &Changed<'_>,
    tokens: &BTreeSet<Token>,
    lanes: &mut BTreeSet<Lane>,
) -> Result<Followed, StoreError> {
    let persons = changed.persons.iter().cloned().map(OrderKey::Person);
    let keys: BTreeSet<OrderKey> = tokens.iter().copied().map(OrderKey::Token).chain(persons).collect();
    let mut followed = Followed::default();
    for destination in destinations {
        for old in &keys {
            let standing = writing.all(sql::LANE_WITH_TAPS, (destination, old), Standing::read)?;
            for one in standing.iter().filter(|one| tokens.contains(&one.token) && !one.is_sent()) {
                let new = key(changed.after, one.token, one.occurred);
                if new == *old {
                    continue;
                }
                let person = changed.after.holder(one.occurred);
                let held_for = meaning::held_for(one.occurred, person);
                writing.execute(sql::REKEY, (destination, one.position, &new))?;
                let waits_for = writing.follows(*destination).waits(held_for);
                writing.execute(sql::HOLD, (destination, one.position, waits_for))?;
                followed.released +=
                    usize::from(one.held_for == Some(HeldFor::Binding) && held_for.is_none());
                followed.moved += usize::from(matches!(old, OrderKey::Person(_)));
                lanes.insert((*destination, old.clone()));
                lanes.insert((*destination, new));
            }
        }
    }
    Ok(followed)
}

/// One open delivery of a tap, for [`place`].
struct Standing {
    position: Position,
    state: DeliveryState,
    held_for: Option<HeldFor>,
    has_body: bool,
    token: Token,
    occurred: Result<Occurred, Timeless>,
}

impl Standing {
    fn read(row: &Row<'_>) -> Result<Standing, StoreError> {
        Ok(Standing {
            position: row.get(0)?,
            state: row.get(1)?,
            held_for: row.get(2)?,
            has_body: row.get(3)?,
            token: Token(row.get(4)?),
            occurred: values::time(row, 5)?,
        })
    }

    /// Whether somebody may have been told of it: it has a body that names a person, or is about to be given one.
    fn is_sent(&self) -> bool {
        self.has_body
            || matches!(self.state, DeliveryState::InFlight | DeliveryState::Unknown | DeliveryState::Dead)
    }
}

/// Compares what was told of a badge's taps with who held it. Returns how many were told of another person.
fn compare(
    writing: &Writing<'_>,
    destination: i64,
    token: Token,
    changed: &Changed<'_>,
    now: UtcMs,
) -> Result<usize, StoreError> {
    let Stretch { from, until } = changed.stretch;
    let until = if until == FOR_EVER { until } else { UtcMs(until.0 - 1) };
    let told = writing.all(sql::TOLD_OF_BADGE, (destination, token.0, from, until), |row| {
        Ok((row.get::<Position>(0)?, row.get::<OrderKey>(1)?, row.get::<UtcMs>(2)?))
    })?;
    let mut otherwise = 0;
    for (position, key, at) in told {
        // Only what has a person was ever sent.
        let OrderKey::Person(person) = key else { continue };
        let holder = changed.after.at(at).map(|span| &span.person);
        let told = Told { destination, position, what: What::Person };
        let differs = holder != Some(&person);
        differences::note(writing, told, &person.0, holder.map(|holder| holder.0.as_str()), now)?;
        otherwise += usize::from(differs);
        if holder.is_none() {
            // A tap of nobody goes no way that could be another.
            writing.execute(sql::FORGET_DIFFERENCE, (destination, position, What::Direction))?;
        }
    }
    Ok(otherwise)
}

/// All of time.
pub const ALWAYS: Stretch = Stretch { from: EVER, until: FOR_EVER };

/// Everybody in these histories.
pub fn persons<'a>(timelines: impl IntoIterator<Item = &'a Timeline>) -> BTreeSet<PersonId> {
    timelines.into_iter().flat_map(Timeline::spans).map(|span| span.person.clone()).collect()
}
