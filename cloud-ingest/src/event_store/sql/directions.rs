//! Beside the line, as far as it is rows: the rules of sites, and which way a tap goes by them. What follows from the taps
//! of a person is for [`crate::directory::direction`] to say; here are the few of them found that it needs.
//!
//! A direction is worked out when it is asked for and kept nowhere but with a delivery, from the moment it is claimed to
//! be sent. A tap that comes in late changes those after it: what was told of them by then is compared.

use std::collections::BTreeMap;

use tap_protocol::badge::Token;
use tap_protocol::tap::Direction;

use super::differences::{self, Told};
use super::session::{Row, Session, all, one};
use super::statements as sql;
use super::writing::Writing;
use crate::directory::direction::{Decided, Placed, Policy, Rule, Rules, Shown, Walk, Why, starts_over};
use crate::directory::timeline::Stretch;
use crate::event_store::people::What;
use crate::event_store::{DeliverableTap, PersonId, Position, StoreError, UtcMs};

/// After all taps of one moment.
const LAST: Position = Position(i64::MAX.unsigned_abs());

/// The rules of a site, the oldest first.
pub fn rules(session: &dyn Session, site: &str) -> Result<Rules, StoreError> {
    let rules = all(session, sql::RULES, [site], |row| {
        Ok(Rule {
            version: row.get(0)?,
            from: row.get(1)?,
            policy: row.get::<Policy>(2)?,
            reset_after_h: row.get(3)?,
            double_within_s: row.get(4)?,
        })
    })?;
    Ok(Rules(rules))
}

/// Gives a site a rule from `rule.from` on, under the next number; the one that holds already is no new one.
pub fn put_rule(writing: &mut Writing<'_>, site: &str, rule: &Rule) -> Result<Rule, StoreError> {
    super::intake::site_is_known(writing, site)?;
    let Rules(before) = rules(writing.snapshot()?, site)?;
    let last = before.last().copied().unwrap_or(Rule::UNSAID);
    // The clock may have gone back; a rule never holds before the one that it follows.
    let rule = Rule { version: last.version + 1, from: rule.from.max(last.from), ..*rule };
    if (Rule { version: last.version, from: last.from, ..rule }) == last {
        return Ok(last);
    }
    writing.execute(
        sql::NEW_RULE,
        (site, rule.version, rule.from, rule.policy, rule.reset_after_h, rule.double_within_s),
    )?;
    Ok(rule)
}

/// The rules of the sites that were asked for in one transaction.
#[derive(Debug, Default)]
pub struct Directions {
    rules: BTreeMap<String, Rules>,
}

impl Directions {
    /// The rules of that site.
    pub fn rules(&mut self, session: &dyn Session, site: &str) -> Result<&Rules, StoreError> {
        if !self.rules.contains_key(site) {
            self.rules.insert(site.to_owned(), rules(session, site)?);
        }
        Ok(&self.rules[site])
    }

    /// Puts the direction into what is about to be sent: the one that was told before, if it was; else what it is now,
    /// written down with the delivery. Where a site has no rules, that is what the reader says, and there is nothing to do.
    pub fn tell(
        &mut self,
        writing: &Writing<'_>,
        (destination, position): (i64, Position),
        was_told: bool,
        tap: &mut DeliverableTap,
    ) -> Result<(), StoreError> {
        let rules = self.rules(writing.aside(), &tap.site.id)?;
        if rules.0.is_empty() {
            return Ok(());
        }
        if was_told {
            let told = writing
                .one(sql::TOLD_DIRECTION, (destination, position), |row| row.get::<Option<Direction>>(0))?;
            tap.direction = told.flatten().unwrap_or(tap.direction);
            return Ok(());
        }
        let DeliverableTap { person, site, direction, occurred, .. } = &*tap;
        let shown = Shown { at: *occurred, position, placed: (*direction).into() };
        let decided = decide(writing.snapshot()?, person, &site.id, shown, rules)?;
        tap.direction = decided.direction;
        writing.execute(sql::TELL_DIRECTION, (destination, position, decided.direction))?;
        writing.execute(sql::FORGET_DIFFERENCE, (destination, position, What::Direction))?;
        Ok(())
    }
}

/// Which way a tap of that person at that site goes.
pub fn decide(
    session: &dyn Session,
    person: &PersonId,
    site: &str,
    shown: Shown,
    rules: &Rules,
) -> Result<Decided, StoreError> {
    if !rules.alternate() {
        return Ok(Walk::default().next(shown, rules));
    }
    let trace = Trace { session, site, rules, badges: badges_of(session, person)? };
    Ok(trace.walk_to(shown)?.next(shown, rules))
}

/// Which way a tap goes whose person or time is not known.
pub fn not_yet(placed: Direction) -> Decided {
    Decided { direction: placed, why: Why::NotYet, rule: 0 }
}

/// Compares what was told of a person's taps with what it is by now, at all sites whose taps alternate, because the taps
/// in that stretch are others than they were.
pub fn review_everywhere(
    writing: &Writing<'_>,
    person: &PersonId,
    stretch: Stretch,
    now: UtcMs,
) -> Result<(), StoreError> {
    for site in writing.all(sql::ALTERNATING_SITES, [], |row| row.get::<String>(0))? {
        let rules = rules(writing.snapshot()?, &site)?;
        review(writing, person, &site, &rules, stretch, now)?;
    }
    Ok(())
}

/// As [`review_everywhere`], at one site.
pub fn review(
    writing: &Writing<'_>,
    person: &PersonId,
    site: &str,
    rules: &Rules,
    stretch: Stretch,
    now: UtcMs,
) -> Result<(), StoreError> {
    let session = writing.snapshot()?;
    let trace = Trace { session, site, rules, badges: badges_of(session, person)? };
    let reach_ms = trace.reach_ms();
    let last = UtcMs(stretch.until.0.saturating_add(reach_ms));
    // Mostly it is one tap, and the last there is.
    if stretch.from == stretch.until && trace.next(stretch.until, LAST, last)?.is_none() {
        return Ok(());
    }
    let Some(first) = trace.next(stretch.from, Position(0), last)? else { return Ok(()) };
    let destinations: Vec<i64> = writing.all(sql::DESTINATIONS, [], |row| row.get(0))?;
    let (mut walk, mut shown) = (trace.walk_to(first)?, first);
    loop {
        let decided = walk.next(shown, rules);
        for destination in &destinations {
            compare(writing, *destination, shown, decided, now)?;
        }
        // Within its reach lies all that can depend on this one; beyond the stretch, only that is of interest.
        let end = UtcMs(shown.at.0.max(stretch.until.0).saturating_add(reach_ms));
        let Some(next) = trace.next(shown.at, shown.position, end)? else { break };
        let gap_ms = next.at.0.abs_diff(shown.at.0);
        if next.at > stretch.until && starts_over(&next, Some(gap_ms), rules) {
            break;
        }
        shown = next;
    }
    Ok(())
}

fn compare(
    writing: &Writing<'_>,
    destination: i64,
    shown: Shown,
    decided: Decided,
    now: UtcMs,
) -> Result<(), StoreError> {
    let told = writing.one(sql::IS_TOLD, (destination, shown.position), |row| {
        Ok((row.get::<bool>(0)?, row.get::<Option<Direction>>(1)?))
    })?;
    let Some((true, told)) = told else { return Ok(()) };
    let placed = match shown.placed {
        Placed::In => Direction::In,
        Placed::Out => Direction::Out,
        Placed::Both => Direction::Unspecified,
    };
    let told = told.unwrap_or(placed);
    let about = Told { destination, position: shown.position, what: What::Direction };
    differences::note(writing, about, told.name(), Some(decided.direction.name()), now)
}

/// A token that is a person's, and when.
struct Badge {
    token: Token,
    from: UtcMs,
    until: UtcMs,
}

fn badges_of(session: &dyn Session, person: &PersonId) -> Result<Vec<Badge>, StoreError> {
    all(session, sql::TOKENS_OF_PERSON, [&person.0], |row| {
        Ok(Badge { token: Token(row.get(0)?), from: row.get(1)?, until: row.get(2)? })
    })
}

/// The taps of one person at one site, in the order of their time.
struct Trace<'a> {
    session: &'a dyn Session,
    site: &'a str,
    rules: &'a Rules,
    badges: Vec<Badge>,
}

impl Trace<'_> {
    /// A gap that is longer than this is a long one under every rule there ever was.
    fn reach_ms(&self) -> i64 {
        let longest = self.rules.0.iter().map(|rule| rule.reset_after_h).max().unwrap_or(0);
        i64::from(longest) * 3_600_000
    }

    /// A walk that has gone over all before `shown` on which it depends.
    fn walk_to(&self, shown: Shown) -> Result<Walk, StoreError> {
        let mut before: Vec<Shown> = Vec::new();
        let mut first = shown;
        while let Some(previous) = self.previous(first)? {
            if starts_over(&first, Some(first.at.0.abs_diff(previous.at.0)), self.rules) {
                break;
            }
            before.push(previous);
            first = previous;
        }
        let mut walk = Walk::default();
        before.into_iter().rev().for_each(|shown| {
            walk.next(shown, self.rules);
        });
        Ok(walk)
    }

    /// The last one before `shown`, if it is within reach.
    fn previous(&self, shown: Shown) -> Result<Option<Shown>, StoreError> {
        let earliest = UtcMs(shown.at.0.saturating_sub(self.reach_ms()));
        let mut last: Option<Shown> = None;
        for Badge { token, from, until } in &self.badges {
            let (from, to) = (earliest.max(*from), shown.at.min(UtcMs(until.0.saturating_sub(1))));
            let wanted = (token.0, from, to, shown.at, shown.position, self.site);
            last = last.max(one(self.session, sql::TAP_BEFORE, wanted, read_shown)?);
        }
        Ok(last)
    }

    /// The first one after that place, and not after `last`.
    fn next(&self, at: UtcMs, position: Position, last: UtcMs) -> Result<Option<Shown>, StoreError> {
        let mut first: Option<Shown> = None;
        for Badge { token, from, until } in &self.badges {
            let (from, to) = (at.max(*from), last.min(UtcMs(until.0.saturating_sub(1))));
            let wanted = (token.0, from, to, at, position, self.site);
            let found = one(self.session, sql::TAP_AFTER, wanted, read_shown)?;
            first = first.into_iter().chain(found).min();
        }
        Ok(first)
    }
}

/// `occurred_ms, position, direction`.
fn read_shown(row: &Row<'_>) -> Result<Shown, StoreError> {
    let placed: Direction = row.get(2)?;
    Ok(Shown { at: row.get(0)?, position: row.get(1)?, placed: placed.into() })
}
