//! Beside the line: which card has a number printed on it, for the verbs that take such numbers. A card's clear number is
//! shown to whoever names that very card, and to nobody else.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use tap_protocol::badge::{Credential, TokenKey};

use super::reading::table;
use super::{Form, print_json};
use crate::directory::badges::seals;
use crate::directory::printed::{Reading, readings, the_one};
use crate::directory::profile::{self, PROFILES, Profile};
use crate::event_store::place::AnyStore;
use crate::event_store::{BadgeFilter, UtcMs, Which};

/// In which ways a printed number may be meant.
#[derive(Debug, Args)]
pub struct Prints {
    /// How the number is printed, such as em4100-10d; else as the sites' cards are (`sites list`), else in any way
    #[arg(long, value_name = "PROFILE", value_parser = profile_named)]
    profile: Vec<&'static Profile>,
    /// Only as this site's cards are
    #[arg(long, value_name = "SITE", conflicts_with = "profile")]
    cards_of: Option<String>,
}

/// A profile by its name.
pub fn profile_named(name: &str) -> Result<&'static Profile, String> {
    profile::named(name).ok_or_else(|| {
        let names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
        format!("there is no such card profile; use one of {}", names.join(", "))
    })
}

impl Prints {
    /// The profiles that are meant.
    pub fn profiles(&self, store: &mut AnyStore) -> anyhow::Result<Vec<&'static Profile>> {
        if !self.profile.is_empty() {
            return Ok(self.profile.clone());
        }
        let sites = store.sites()?;
        if let Some(named) = &self.cards_of {
            ensure!(sites.iter().any(|site| site.id == *named), "there is no site {named}; see `sites list`");
        }
        let mut found: Vec<&'static Profile> = Vec::new();
        for site in sites.iter().filter(|site| self.cards_of.as_ref().is_none_or(|named| site.id == *named)) {
            for name in store.card_profiles(&site.id)? {
                // A store may have been written by a version that knows more profiles than this one.
                found.extend(profile::named(&name).filter(|profile| !found.contains(profile)));
            }
        }
        Ok(if found.is_empty() { PROFILES.iter().collect() } else { found })
    }
}

/// All readings of a number.
pub fn all(
    store: &mut AnyStore,
    printed: &str,
    profiles: &[&'static Profile],
    keys: &[TokenKey],
) -> anyhow::Result<Vec<Reading>> {
    Ok(readings(printed, profiles, keys, &mut |tokens| store.seen(tokens))?)
}

/// The card that has this number.
pub fn find(
    store: &mut AnyStore,
    printed: &str,
    prints: &Prints,
    keys: &[TokenKey],
) -> anyhow::Result<Credential> {
    let profiles = prints.profiles(store)?;
    let readings = all(store, printed, &profiles, keys)?;
    Ok(the_one(&readings).context("the card cannot be told from its number")?.clone())
}

/// One way to read a number, for people.
#[derive(Debug, Serialize)]
struct Match {
    profile: &'static str,
    what: &'static str,
    reading: String,
    token: String,
    seen: bool,
    person: Option<String>,
}

/// Shows how a printed number can be read, and which of the readings is a card that was seen.
pub fn explain(
    store: &mut AnyStore,
    printed: &str,
    prints: &Prints,
    keys: &[TokenKey],
    now: UtcMs,
    form: Form,
) -> anyhow::Result<()> {
    let profiles = prints.profiles(store)?;
    let readings = all(store, printed, &profiles, keys)?;
    // Where bits are not printed there are too many to show, and most are of no card that exists.
    let is_told = |reading: &&Reading| reading.is_seen || reading.profile.unprinted_bits() == 0;
    let mut matches = Vec::new();
    for reading in readings.iter().filter(is_told) {
        let tokens: Vec<_> = seals(&reading.credential, keys).into_iter().map(|seal| seal.token).collect();
        let token = tokens[0].to_string();
        let filter = BadgeFilter { which: Some(Which::Badge(tokens)), limit: 1, ..BadgeFilter::default() };
        let holder = store.badges(&filter)?.pop();
        let holder = holder.and_then(|row| row.timeline.at(now).map(|span| span.person.0.clone()));
        matches.push(Match {
            profile: reading.profile.name,
            what: reading.profile.what,
            reading: reading.credential.reveal(),
            token,
            seen: reading.is_seen,
            person: holder,
        });
    }
    if form == Form::Json {
        return print_json(&matches);
    }
    let mut table = table(["profile", "what is printed", "a reader gives", "seen here", "person"]);
    for found in &matches {
        let seen = if found.seen { "yes" } else { "no" };
        let person = found.person.clone().unwrap_or_default();
        table.add_row([found.profile, found.what, &found.reading, seen, &person]);
    }
    println!("{table}");
    match the_one(&readings) {
        Ok(_) => println!("one card can be meant"),
        Err(why) => println!("{why}"),
    }
    Ok(())
}

/// Shows a card's clear number, as a reader gives it, and what would be printed on it.
pub fn reveal(card: &Credential, form: Form) -> anyhow::Result<()> {
    let prints = PROFILES.iter().filter_map(|profile| Some((profile.name, profile.printed(card)?)));
    if form == Form::Json {
        let prints: BTreeMap<&str, String> = prints.collect();
        return print_json(&serde_json::json!({ "badge": card.reveal(), "printed": prints }));
    }
    println!("a reader gives {}", card.reveal());
    let mut table = table(["profile", "would be printed as"]);
    prints.for_each(|(name, printed)| {
        table.add_row([name, &printed]);
    });
    println!("{table}");
    Ok(())
}
