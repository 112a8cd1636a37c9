//! Beside the line: the verbs that say whose a badge is, and when it was. Taps that were stored before follow: what is not
//! sent yet goes to whom it belongs by now, and what was told otherwise is counted.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;
use jiff::tz::TimeZone;
use serde::Serialize;
use tap_protocol::badge::{Credential, SealedBadge, Token, TokenKey};
use tap_protocol::ids::ControllerId;

use super::badges::{Badge, token_keys};
use super::deed::{Why, deed};
use super::printed::{Prints, find};
use super::reading::open_or_make;
use super::{ConfigFile, Form, Output, print_json};
use crate::api::view;
use crate::clock::Clock;
use crate::config::Config;
use crate::directory::badges::{person_id, seals};
use crate::directory::moment::{self, End, shared_zone};
use crate::directory::timeline::{Timeline, When};
use crate::directory::unknown::last_unknown;
use crate::event_store::place::AnyStore;
use crate::event_store::{BadgeFilter, Binding, Bound, PersonId, UtcMs, Which};

#[derive(Debug, Args)]
pub struct Assign {
    #[command(flatten)]
    card: CardOrTap,
    /// Whose it is
    #[arg(long)]
    person: String,
    #[command(flatten)]
    time: Time,
    /// Do not ask before the last unknown tap's card is given away
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    prints: Prints,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub struct Unassign {
    #[command(flatten)]
    card: Card,
    #[command(flatten)]
    time: Time,
    #[command(flatten)]
    prints: Prints,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct CardOrTap {
    /// The badge as readers read it: 04A224B1C2D380
    badge: Option<Credential>,
    /// The badge's token, as lists and events show it
    #[arg(long, value_parser = token)]
    token: Option<Token>,
    /// The number that is printed on the card
    #[arg(long, value_name = "NUMBER")]
    printed: Option<String>,
    /// The card of the last tap at this controller that is nobody's
    #[arg(long, value_name = "CONTROLLER")]
    last_unknown: Option<ControllerId>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Card {
    /// The badge as readers read it: 04A224B1C2D380
    badge: Option<Credential>,
    /// The badge's token, as lists and events show it
    #[arg(long, value_parser = token)]
    token: Option<Token>,
    /// The number that is printed on the card
    #[arg(long, value_name = "NUMBER")]
    printed: Option<String>,
}

#[derive(Debug, Args)]
struct Time {
    /// From when on: 2026-03-02, "2026-03-02 08:00", 2026-03-02T08:00:00+01:00, or ever. Without it: from ever if the
    /// badge never was anybody's, else from now
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Until when; of a date, the whole day is meant
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// In which time zone both are, if that is not the sites' own
    #[arg(long)]
    zone: Option<String>,
}

impl Time {
    fn when(&self, loaded: &Config, store: &mut AnyStore) -> anyhow::Result<When> {
        let zone = zone_of(self.zone.as_deref(), loaded, store)?;
        let read = |text: &Option<String>, end| {
            text.as_ref().map(|text| moment::read(text, zone.as_ref(), end)).transpose()
        };
        let from = read(&self.from, End::From).context("--from cannot be read")?;
        let until = read(&self.to, End::To).context("--to cannot be read")?;
        Ok(When { from, until })
    }
}

/// The time zone that was named, else the one that all sites share.
pub fn zone_of(
    named: Option<&str>,
    loaded: &Config,
    store: &mut AnyStore,
) -> anyhow::Result<Option<TimeZone>> {
    match named {
        Some(name) => {
            let zone = TimeZone::get(name);
            let zone =
                zone.with_context(|| format!("{name} is no time zone: write it like Europe/Berlin"))?;
            Ok(Some(zone))
        }
        None => {
            // The configuration's count too: the service may not have run yet.
            let zones: Vec<String> =
                store.sites()?.into_iter().chain(loaded.sites()).map(|site| site.zone).collect();
            Ok(shared_zone(zones.iter().map(String::as_str)))
        }
    }
}

/// 32 hexadecimal digits.
pub fn token(text: &str) -> Result<Token, String> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok();
    let token = bytes.and_then(|bytes| bytes.try_into().ok()).map(Token);
    token.ok_or_else(|| "a token has 32 hexadecimal digits, as `badges list` and `events get` show it".into())
}

pub fn assign(args: Assign) -> anyhow::Result<ExitCode> {
    let Assign { card, person, time, yes, prints, config, output } = args;
    let person = person_id(person.trim()).context("--person cannot be used")?;
    let now = Clock::system().now();
    let loaded = config.load()?;
    let mut store = open_or_make(&loaded, now)?;
    let keys = token_keys(&config)?;
    let mut when = time.when(&loaded, &mut store)?;
    let CardOrTap { badge, token, printed, last_unknown } = card;
    let seals = match last_unknown {
        Some(controller) => {
            let (seals, from) = of_last_tap(&mut store, &controller, &person, &keys, yes, now)?;
            when.from = when.from.or(from);
            seals
        }
        None => found(&mut store, Card { badge, token, printed }, &prints, &keys)?,
    };
    change(store, seals, Some(person), when, now, output.output)
}

pub fn unassign(args: Unassign) -> anyhow::Result<ExitCode> {
    let Unassign { card, time, prints, config, output } = args;
    let now = Clock::system().now();
    let loaded = config.load()?;
    let mut store = open_or_make(&loaded, now)?;
    let keys = token_keys(&config)?;
    let when = time.when(&loaded, &mut store)?;
    let seals = found(&mut store, card, &prints, &keys)?;
    change(store, seals, None, when, now, output.output)
}

/// The badge under all keys.
fn found(
    store: &mut AnyStore,
    card: Card,
    prints: &Prints,
    keys: &[TokenKey],
) -> anyhow::Result<Vec<SealedBadge>> {
    match card {
        Card { badge: Some(badge), .. } => Ok(seals(&badge, keys)),
        Card { printed: Some(printed), .. } => Ok(seals(&find(store, &printed, prints, keys)?, keys)),
        Card { token: Some(token), .. } => {
            let seal = store.seal_of(token)?;
            let seal =
                seal.context("no tap and no badge has this token; see `badges list` and `events list`")?;
            opened(&seal, keys)
        }
        Card { .. } => bail!("say which badge"),
    }
}

/// A sealed badge under all keys there are.
fn opened(seal: &SealedBadge, keys: &[TokenKey]) -> anyhow::Result<Vec<SealedBadge>> {
    let credential = keys.iter().find_map(|key| key.open(seal).ok());
    let credential = credential.with_context(|| {
        format!("the badge was sealed under token key {}, which is not among the keys here", seal.key_id.0)
    })?;
    Ok(seals(&credential, keys))
}

/// The card of the last unknown tap, once a person has said that it is meant; and from when on, if the badge has a
/// history already.
fn of_last_tap(
    store: &mut AnyStore,
    controller: &ControllerId,
    person: &PersonId,
    keys: &[TokenKey],
    yes: bool,
    now: UtcMs,
) -> anyhow::Result<(Vec<SealedBadge>, Option<UtcMs>)> {
    ensure!(
        store.controller(controller)?.is_some(),
        "there is no controller {controller}; see `controllers list`"
    );
    let found = last_unknown(store.as_mut(), controller)?;
    let (row, tap) = found.with_context(|| {
        format!("no tap of an unknown badge came from {controller} lately; show the card at its reader and try again")
    })?;
    let when = match tap.occurred {
        Ok(occurred) => {
            format!("{} ({} ago)", view::time(occurred.at), ago(occurred.at, now))
        }
        Err(_) => format!("at a time that is not known yet; it came in {} ago", ago(row.received, now)),
    };
    eprintln!("the last unknown badge at {controller}, reader {}: {when}", tap.reader);
    eprintln!("event {}, token {}", row.event_id, tap.badge.token);
    if !yes {
        confirm(&format!("Is this {}'s badge?", person.0))?;
    }
    let seals = opened(&tap.badge, keys)?;
    let tokens = seals.iter().map(|seal| seal.token).collect();
    let known = timeline(store, tokens)?.is_some_and(|timeline| !timeline.spans().is_empty());
    // A badge that was somebody's before is the next one's from this tap on; what was between is nobody's.
    Ok((seals, tap.occurred.ok().filter(|_| known).map(|occurred| occurred.at)))
}

fn confirm(question: &str) -> anyhow::Result<()> {
    ensure!(
        std::io::stdin().is_terminal(),
        "nothing was changed: there is nobody to ask whether this is the card that is meant; say --yes if it is"
    );
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let is_yes = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    ensure!(is_yes, "nothing was changed");
    Ok(())
}

/// `12 s`, `5 min`, `3 h` or `4 days`.
fn ago(at: UtcMs, now: UtcMs) -> String {
    match now.0.saturating_sub(at.0) / 1_000 {
        s @ ..120 => format!("{} s", s.max(0)),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    badge: Option<Badge>,
    #[serde(flatten)]
    bound: Bound,
}

fn change(
    mut store: AnyStore,
    seals: Vec<SealedBadge>,
    person: Option<PersonId>,
    when: When,
    now: UtcMs,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let tokens: Vec<Token> = seals.iter().map(|seal| seal.token).collect();
    let before = timeline(&mut store, tokens.clone())?;
    ensure!(
        person.is_some() || before.is_some(),
        "nobody was ever given this badge, so there is nothing to take back"
    );
    before.clone().unwrap_or_default().give(when, person.as_ref(), now).context("nothing was changed")?;
    let about = tokens[0].to_string();
    let binding = Binding { seals, person: person.clone(), when };
    let bound = store.bind_badges(&[binding], now).context("nothing was changed")?;
    let badge = row(&mut store, tokens)?;
    let history = badge.as_ref().map(|badge| badge.history().join("; ")).unwrap_or_default();
    if bound.new + bound.changed > 0 {
        let what = if person.is_some() { "assign badge" } else { "unassign badge" };
        store.note_deed(&deed(now, what, &about, Why(history.clone())))?;
    }
    if form == Form::Json {
        print_json(&Done { badge, bound })?;
        return Ok(ExitCode::SUCCESS);
    }
    match bound.new + bound.changed {
        0 => println!("it was so already"),
        _ => println!("badge {about} is {}", if history.is_empty() { "nobody's" } else { &history }),
    }
    said_of(&bound).iter().for_each(|line| println!("{line}"));
    Ok(ExitCode::SUCCESS)
}

/// What a change of bindings meant for taps that were stored before.
pub fn said_of(bound: &Bound) -> Vec<String> {
    let mut said = Vec::new();
    let mut say = |count: usize, what: &str| said.extend((count > 0).then(|| format!("{count} {what}")));
    say(bound.released, "waiting deliveries released");
    say(bound.moved, "deliveries that are not sent yet went to whom they belong by now");
    say(
        bound.told_otherwise,
        "deliveries were sent under another person already and stay as they are: `events differences` lists them",
    );
    say(
        bound.backwards,
        "bindings would end before they begin and were left out: say from when, or an end that is yet to come",
    );
    say(
        bound.revoked,
        "of the badges were revoked before and stay so: `badges import --reinstate` makes them known again",
    );
    said
}

fn timeline(store: &mut AnyStore, tokens: Vec<Token>) -> anyhow::Result<Option<Timeline>> {
    let filter = BadgeFilter { which: Some(Which::Badge(tokens)), limit: 1, ..BadgeFilter::default() };
    Ok(store.badges(&filter)?.pop().map(|row| row.timeline))
}

fn row(store: &mut AnyStore, tokens: Vec<Token>) -> anyhow::Result<Option<Badge>> {
    let filter = BadgeFilter { which: Some(Which::Badge(tokens)), limit: 1, ..BadgeFilter::default() };
    let now = Clock::system().now();
    Ok(store.badges(&filter)?.pop().map(|row| Badge::of(row, &[], now)))
}
