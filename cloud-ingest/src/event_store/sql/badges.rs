//! Beside the line, as far as it is rows: badges, their seals, their standing, and the roster that is made of them.

use std::collections::BTreeSet;

use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};
use tap_protocol::roster::{Standing, entry};

use super::bindings::{self, ALWAYS, Changed};
use super::session::{Row, Session, ToValue, all, one};
use super::statements as sql;
use super::values::capped;
use super::writing::{Lane, Writing};
use crate::directory::timeline::{FOR_EVER, Timeline};
use crate::event_store::badges::{is_newest, next_version};
use crate::event_store::{
    BadgeFilter, BadgeRow, Binding, Bound, Revocation, RosterState, Snapshot, Stood, StoreError, UtcMs, Which,
};

pub fn bind_badges(writing: &mut Writing<'_>, bindings: &[Binding], now: UtcMs) -> Result<Bound, StoreError> {
    let now = writing.now(now);
    let destinations = writing.destinations()?;
    let mut bound = Bound::default();
    let mut lanes = BTreeSet::new();
    for binding in bindings {
        bind(writing, &destinations, binding, now, &mut bound, &mut lanes)?;
    }
    writing.settle(&lanes)?;
    Ok(bound)
}

fn bind(
    writing: &mut Writing<'_>,
    destinations: &[i64],
    Binding { seals, person, when }: &Binding,
    now: UtcMs,
    bound: &mut Bound,
    lanes: &mut BTreeSet<Lane>,
) -> Result<(), StoreError> {
    let mut known = BTreeSet::new();
    for seal in seals {
        known.extend(badge_of(writing, seal.token)?);
    }
    let (first, is_one_of_several) = (known.pop_first(), !known.is_empty());
    let mut histories = Vec::new();
    for no in first.iter().chain(&known) {
        histories.push(bindings::timeline(writing.snapshot()?, *no)?);
    }
    let own = histories.first().cloned().unwrap_or_default();
    let mut after = own.clone();
    histories.iter().skip(1).for_each(|other| after.join(other));
    let Ok(given) = after.give(*when, person.as_ref(), now) else {
        bound.backwards += 1;
        return Ok(());
    };
    let no = match first {
        None if person.is_none() => {
            bound.unchanged += 1;
            return Ok(());
        }
        None => {
            bound.new += 1;
            writing.totals.badges += 1;
            writing.insert(sql::NEW_BADGE, [])?
        }
        Some(no) => {
            let is_revoked = writing.one(sql::IS_REVOKED, [no], |row| row.get(0))?.unwrap_or_default();
            match given {
                Some(_) => bound.changed += 1,
                None => bound.unchanged += 1,
            }
            // One badge became known twice, under a key each: from here on it is one.
            for other in known {
                take_over(writing, other, no)?;
            }
            let is_revoked =
                is_revoked || writing.one(sql::IS_REVOKED, [no], |row| row.get(0))?.unwrap_or(false);
            bound.revoked += usize::from(is_revoked);
            no
        }
    };
    let mut has_new_seal = false;
    for seal in seals {
        has_new_seal |= put_seal(writing, no, seal)?;
    }
    // What was under a token that becomes known only now, or under that of a badge that is this one, is all to be looked at.
    let stretch = match given {
        _ if has_new_seal || is_one_of_several => ALWAYS,
        Some(stretch) => stretch,
        None => return Ok(()),
    };
    if after != own {
        bindings::put_timeline(writing, no, &after)?;
    }
    let persons = bindings::persons(histories.iter().chain([&after]));
    let changed = Changed { no, persons: &persons, after: &after, stretch };
    let followed = bindings::follow(writing, destinations, &changed, now, lanes)?;
    bound.released += followed.released;
    bound.moved += followed.moved;
    bound.told_otherwise += followed.told_otherwise;
    changed_once(writing)
}

fn take_over(writing: &mut Writing<'_>, other: i64, no: i64) -> Result<(), StoreError> {
    writing.execute(sql::MOVE_SEALS, (other, no))?;
    writing.execute(sql::TAKE_OVER_REVOCATION, (other, no))?;
    writing.execute(sql::FORGET_BINDINGS, [other])?;
    writing.execute(sql::FORGET_BADGE, [other])?;
    writing.totals.badges -= 1;
    Ok(())
}

pub fn add_seals(writing: &mut Writing<'_>, seals: &[(Token, SealedBadge)]) -> Result<usize, StoreError> {
    let destinations = writing.destinations()?;
    let mut lanes = BTreeSet::new();
    let mut added = 0;
    for (token, seal) in seals {
        let Some(no) = badge_of(writing, *token)? else { continue };
        if badge_of(writing, seal.token)?.is_some() || !put_seal(writing, no, seal)? {
            continue;
        }
        added += 1;
        let timeline = bindings::timeline(writing.snapshot()?, no)?;
        let persons = bindings::persons([&timeline]);
        let changed = Changed { no, persons: &persons, after: &timeline, stretch: ALWAYS };
        bindings::place(writing, &destinations, &changed, &BTreeSet::from([seal.token]), &mut lanes)?;
    }
    writing.settle(&lanes)?;
    changed(writing, added)?;
    Ok(added)
}

pub fn revoke(writing: &mut Writing<'_>, which: &Which, why: &str, now: UtcMs) -> Result<Stood, StoreError> {
    let now = writing.now(now);
    stand(writing, which, now, |writing, no| writing.execute(sql::REVOKE, (no, now, why)))
}

/// Of a person's badges, those that they have for good.
pub fn reinstate(writing: &mut Writing<'_>, which: &Which) -> Result<Stood, StoreError> {
    let at_last = UtcMs(FOR_EVER.0 - 1);
    stand(writing, which, at_last, |writing, no| writing.execute(sql::REINSTATE, [no]))
}

fn stand(
    writing: &mut Writing<'_>,
    which: &Which,
    held_at: UtcMs,
    change: impl Fn(&Writing<'_>, i64) -> Result<usize, StoreError>,
) -> Result<Stood, StoreError> {
    let mut nos = BTreeSet::new();
    match which {
        Which::Person(person) => {
            nos.extend(writing.all(sql::BADGES_OF, (&person.0, held_at), |row| row.get::<i64>(0))?)
        }
        Which::Badge(tokens) => {
            for token in tokens {
                nos.extend(badge_of(writing, *token)?);
            }
        }
    }
    let mut stood = Stood::default();
    for no in nos {
        match change(writing, no)? {
            0 => stood.unchanged += 1,
            _ => stood.changed += 1,
        }
    }
    changed(writing, stood.changed)?;
    Ok(stood)
}

pub fn badges(conn: &dyn Session, filter: &BadgeFilter) -> Result<Vec<BadgeRow>, StoreError> {
    let (of_person, tokens) = match &filter.which {
        None => (None, None),
        Some(Which::Person(person)) => (Some(&person.0), None),
        Some(Which::Badge(tokens)) => (None, Some(tokens)),
    };
    let after = capped(filter.after.unwrap_or(0));
    let limit = capped(filter.limit as u64);
    let mut rows: Vec<BadgeRow> = match (tokens, of_person) {
        (Some(tokens), _) => {
            let mut nos = BTreeSet::new();
            for token in tokens {
                nos.extend(one(conn, sql::BADGE_OF, [token.0], |row| row.get::<i64>(0))?);
            }
            let mut found = Vec::new();
            for no in nos.into_iter().filter(|no| *no > after).take(filter.limit) {
                found.extend(one(conn, sql::BADGE_ROW, [no], badge)?);
            }
            found
        }
        (None, Some(person)) => all(conn, sql::BADGE_ROWS_OF, (person, after, limit), badge)?,
        (None, None) if filter.revoked_only => all(conn, sql::REVOKED_ROWS, (after, limit), badge)?,
        (None, None) => all(conn, sql::BADGE_ROWS, (after, limit), badge)?,
    };
    if filter.revoked_only {
        rows.retain(|row| row.revoked.is_some());
    }
    for row in &mut rows {
        row.timeline = bindings::timeline(conn, capped(row.no))?;
        row.seals = all(conn, sql::SEALS_OF, [capped(row.no)], |row| {
            Ok(SealedBadge {
                token: Token(row.get(0)?),
                key_id: TokenKeyId(row.get(1)?),
                ciphertext: row.get(2)?,
            })
        })?;
    }
    Ok(rows)
}

pub fn roster_state(conn: &dyn Session) -> Result<RosterState, StoreError> {
    let state = one(conn, sql::ROSTER_STATE, [], |row| {
        Ok(RosterState { version: row.get(0)?, changes: row.get(1)?, made_of: row.get(2)? })
    })?;
    state.ok_or_else(|| StoreError::broken("the store's roster row is gone"))
}

pub fn roster(
    writing: &mut Writing<'_>,
    keys: &[TokenKeyId],
    claimed: Option<u64>,
    now: UtcMs,
) -> Result<Snapshot, StoreError> {
    let now = writing.now(now);
    let made_for: Vec<u8> = keys.iter().flat_map(|key| key.0.to_be_bytes()).collect();
    let (previous, changes, made_of, made_for_before): (Option<u64>, u64, u64, Option<Vec<u8>>) = writing
        .one(sql::ROSTER, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .ok_or_else(|| StoreError::broken("the store's roster row is gone"))?;
    let is_new = changes != made_of || made_for_before.as_ref() != Some(&made_for);
    let version = match previous {
        Some(previous) if !is_new && is_newest(previous, claimed, now) => previous,
        previous => {
            let version = next_version(previous, claimed, now);
            writing.execute(sql::PUT_ROSTER, (version, changes, &made_for))?;
            writing.execute(sql::REVOKED_IN, [version])?;
            version
        }
    };
    let holders: Vec<String> = (2..keys.len() + 2).map(|number| format!("?{number}")).collect();
    let statement = sql::ENTRIES.replace("{keys}", &holders.join(", "));
    let wanted: Vec<_> =
        std::iter::once(now.to_value()).chain(keys.iter().map(|key| key.0.to_value())).collect();
    let mut entries = Vec::new();
    writing.all(&statement, wanted.as_slice(), |row| {
        let standing = if row.get(1)? { Standing::Revoked } else { Standing::Known };
        entries.extend_from_slice(&entry(Token(row.get(0)?), standing));
        Ok(())
    })?;
    Ok(Snapshot { version, entries })
}

fn badge_of(writing: &Writing<'_>, token: Token) -> Result<Option<i64>, StoreError> {
    writing.one(sql::BADGE_OF, [token.0], |row| row.get(0))
}

/// Returns whether it is new.
fn put_seal(writing: &Writing<'_>, no: i64, seal: &SealedBadge) -> Result<bool, StoreError> {
    Ok(writing.execute(sql::PUT_SEAL, (seal.token.0, no, seal.key_id.0, &seal.ciphertext))? == 1)
}

fn changed(writing: &Writing<'_>, changes: usize) -> Result<(), StoreError> {
    if changes > 0 {
        writing.execute(sql::BADGES_CHANGED, [capped(changes as u64)])?;
    }
    Ok(())
}

/// One badge was changed.
fn changed_once(writing: &Writing<'_>) -> Result<(), StoreError> {
    changed(writing, 1)
}

/// `no, revoked_ms, revoked_why, revoked_in`.
fn badge(row: &Row<'_>) -> Result<BadgeRow, StoreError> {
    let revoked = match row.get::<Option<UtcMs>>(1)? {
        None => None,
        Some(at) => Some(Revocation { at, why: row.get(2)?, roster: row.get(3)? }),
    };
    Ok(BadgeRow { no: row.get(0)?, timeline: Timeline::default(), revoked, seals: Vec::new() })
}
