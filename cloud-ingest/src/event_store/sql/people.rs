//! Beside the line, as far as it is rows: how numbers are printed on cards, and which cards were ever seen.

use std::collections::BTreeSet;

use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};

use super::session::{Session, ToValue, all, one};
use super::statements as sql;
use super::writing::Writing;
use crate::event_store::StoreError;
use crate::event_store::meaning::Meaning;

/// Tokens in one statement.
const ASKED_AT_ONCE: usize = 500;

pub fn put_card_profiles(writing: &mut Writing<'_>, site: &str, profiles: &[&str]) -> Result<(), StoreError> {
    super::intake::site_is_known(writing, site)?;
    writing.execute(sql::FORGET_CARD_PROFILES, [site])?;
    for profile in profiles {
        writing.execute(sql::NEW_CARD_PROFILE, (site, *profile))?;
    }
    Ok(())
}

pub fn card_profiles(snapshot: &dyn Session, site: &str) -> Result<Vec<String>, StoreError> {
    all(snapshot, sql::CARD_PROFILES, [site], |row| row.get(0))
}

pub fn seen(snapshot: &dyn Session, tokens: &[Token]) -> Result<BTreeSet<Token>, StoreError> {
    let mut seen = BTreeSet::new();
    for some in tokens.chunks(ASKED_AT_ONCE) {
        let places: Vec<String> = (1..=some.len()).map(|number| format!("?{number}")).collect();
        let asked: Vec<_> = some.iter().map(|token| token.0.to_value()).collect();
        for statement in [sql::SEEN_IN_TAPS, sql::SEEN_IN_SEALS, sql::SEEN_IN_THE_PAST] {
            let statement = statement.replace("{tokens}", &places.join(", "));
            seen.extend(all(snapshot, &statement, asked.as_slice(), |row| row.get(0).map(Token))?);
        }
    }
    Ok(seen)
}

pub fn seal_of(snapshot: &dyn Session, token: Token) -> Result<Option<SealedBadge>, StoreError> {
    let known = one(snapshot, sql::SEAL, [token.0], |row| {
        Ok(SealedBadge { token, key_id: TokenKeyId(row.get(0)?), ciphertext: row.get(1)? })
    })?;
    if known.is_some() {
        return Ok(known);
    }
    let past = one(snapshot, sql::PAST_BADGE, [token.0], |row| {
        Ok(SealedBadge { token, key_id: TokenKeyId(row.get(0)?), ciphertext: row.get(1)? })
    })?;
    if past.is_some() {
        return Ok(past);
    }
    let bytes: Option<Vec<u8>> = one(snapshot, sql::TAP_OF_TOKEN, [token.0], |row| row.get(0))?;
    Ok(bytes.and_then(|bytes| match Meaning::of(&bytes) {
        Meaning::Tap(_, tap) => Some(tap.badge),
        Meaning::Anchor(..) | Meaning::Start(..) | Meaning::Other(..) | Meaning::Opaque => None,
    }))
}
