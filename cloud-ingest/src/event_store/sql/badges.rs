//! Beside the line, as far as it is rows: badges, their seals, their standing, and the roster that is made of them.

use std::collections::BTreeSet;

use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};
use tap_protocol::roster::{Standing, entry};

use super::delivery::rekey;
use super::session::{Row, Session, ToValue, all, one};
use super::statements as sql;
use super::values::capped;
use super::writing::{Lane, Writing};
use crate::event_store::badges::{is_newest, next_version};
use crate::event_store::{
    BadgeFilter, BadgeRow, Binding, Bound, OrderKey, PersonId, Revocation, RosterState, Snapshot, Stood,
    StoreError, UtcMs, Which,
};

pub fn bind_badges(writing: &mut Writing<'_>, bindings: &[Binding], now: UtcMs) -> Result<Bound, StoreError> {
    let destinations = destinations(writing)?;
    let mut bound = Bound::default();
    let mut lanes = BTreeSet::new();
    let mut changes = 0;
    for Binding { seals, person } in bindings {
        let mut known = BTreeSet::new();
        for seal in seals {
            known.extend(badge_of(writing, seal.token)?);
        }
        let no = match known.pop_first() {
            None => {
                bound.new += 1;
                changes += 1;
                writing.insert(sql::NEW_BADGE, (&person.0, now))?
            }
            Some(no) => {
                // One badge became known twice, under a key each: from here on it is one.
                for other in known {
                    writing.execute(sql::MOVE_SEALS, (other, no))?;
                    writing.execute(sql::TAKE_OVER_REVOCATION, (other, no))?;
                    writing.execute(sql::FORGET_BADGE, [other])?;
                    writing.totals.badges -= 1;
                    changes += 1;
                }
                let (before, is_revoked): (String, bool) =
                    writing.one(sql::BADGE, [no], |row| Ok((row.get(0)?, row.get(1)?)))?.unwrap_or_default();
                bound.revoked += usize::from(is_revoked);
                if before == person.0 {
                    bound.unchanged += 1;
                } else {
                    writing.execute(sql::REBIND, (no, &person.0, now))?;
                    bound.changed += 1;
                    changes += 1;
                }
                no
            }
        };
        for seal in seals {
            if put_seal(writing, no, seal)? {
                changes += 1;
                bound.released += release(writing, &destinations, seal.token, person, &mut lanes)?;
            }
        }
    }
    writing.settle(&lanes)?;
    writing.totals.badges += bound.new as u64;
    changed(writing, changes)?;
    Ok(bound)
}

pub fn add_seals(writing: &mut Writing<'_>, seals: &[(Token, SealedBadge)]) -> Result<usize, StoreError> {
    let destinations = destinations(writing)?;
    let mut lanes = BTreeSet::new();
    let mut added = 0;
    for (token, seal) in seals {
        let Some(no) = badge_of(writing, *token)? else { continue };
        if badge_of(writing, seal.token)?.is_some() || !put_seal(writing, no, seal)? {
            continue;
        }
        added += 1;
        if let Some(person) = writing.one(sql::PERSON, [token.0], |row| row.get(0).map(PersonId))? {
            release(writing, &destinations, seal.token, &person, &mut lanes)?;
        }
    }
    writing.settle(&lanes)?;
    changed(writing, added)?;
    Ok(added)
}

pub fn revoke(writing: &mut Writing<'_>, which: &Which, why: &str, now: UtcMs) -> Result<Stood, StoreError> {
    stand(writing, which, |writing, no| writing.execute(sql::REVOKE, (no, now, why)))
}

pub fn reinstate(writing: &mut Writing<'_>, which: &Which) -> Result<Stood, StoreError> {
    stand(writing, which, |writing, no| writing.execute(sql::REINSTATE, [no]))
}

fn stand(
    writing: &mut Writing<'_>,
    which: &Which,
    change: impl Fn(&Writing<'_>, i64) -> Result<usize, StoreError>,
) -> Result<Stood, StoreError> {
    let mut nos = BTreeSet::new();
    match which {
        Which::Person(person) => {
            nos.extend(writing.all(sql::BADGES_OF, [&person.0], |row| row.get::<i64>(0))?)
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
    let holders: Vec<String> = (1..=keys.len()).map(|number| format!("?{number}")).collect();
    let statement = sql::ENTRIES.replace("{keys}", &holders.join(", "));
    let keys: Vec<_> = keys.iter().map(|key| key.0.to_value()).collect();
    let mut entries = Vec::new();
    writing.all(&statement, keys.as_slice(), |row| {
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

/// What waited for a token to be bound stands in its person's lines from now on.
fn release(
    writing: &Writing<'_>,
    destinations: &[i64],
    token: Token,
    person: &PersonId,
    lanes: &mut BTreeSet<Lane>,
) -> Result<usize, StoreError> {
    let mut released = 0;
    for destination in destinations {
        let to = (*destination, OrderKey::Person(person.clone()));
        released += rekey(writing, &OrderKey::Token(token), &to)?;
        lanes.insert(to);
    }
    Ok(released)
}

fn destinations(writing: &Writing<'_>) -> Result<Vec<i64>, StoreError> {
    writing.all(sql::DESTINATIONS, [], |row| row.get(0))
}

fn changed(writing: &Writing<'_>, changes: usize) -> Result<(), StoreError> {
    if changes > 0 {
        writing.execute(sql::BADGES_CHANGED, [capped(changes as u64)])?;
    }
    Ok(())
}

/// `no, person, since_ms, revoked_ms, revoked_why, revoked_in`.
fn badge(row: &Row<'_>) -> Result<BadgeRow, StoreError> {
    let revoked = match row.get::<Option<UtcMs>>(3)? {
        None => None,
        Some(at) => Some(Revocation { at, why: row.get(4)?, roster: row.get(5)? }),
    };
    let (no, person, since) = (row.get(0)?, PersonId(row.get(1)?), row.get(2)?);
    Ok(BadgeRow { no, person, since, revoked, seals: Vec::new() })
}
