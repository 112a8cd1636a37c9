//! Beside the line: brings the list of who holds which badge in, lists badges, and says of them that they are revoked. Works
//! while the service runs: both write to one store in turns, and the service notices within a second what has changed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use tap_protocol::badge::{Credential, Token, TokenKey};

use super::assign::{self, Assign, Unassign, said_of, token, zone_of};
use super::printed::{self, Prints};
use super::reading::{open, open_or_make, open_to_write, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::view;
use crate::clock::Clock;
use crate::directory::badges::{Columns, Problem, as_read, read_badges, seals};
use crate::directory::printed::{NotFound, readings, the_one};
use crate::directory::timeline::{EVER, FOR_EVER, Span};
use crate::event_store::{
    BadgeFilter, BadgeRow, Bound, ControllerState, Member, PersonId, Standing, Stood, UtcMs, Which,
};
use crate::read_model::confirmed::{Confirmed, confirmed};

/// Bindings in one transaction: intake waits some milliseconds for it.
const PORTION: usize = 500;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Read a CSV file with the columns badge and person, and from and to if it says when
    Import(Import),
    /// Say whose a badge is, from now on or in a stretch of time; taps of that time follow, as far as they are not sent
    Assign(Assign),
    /// Say that a badge is nobody's, from now on or in a stretch of time
    Unassign(Unassign),
    /// Revoke a badge, or all of a person's: the light at the door says so from then on; taps are recorded all the same
    Revoke {
        #[command(flatten)]
        whose: Whose,
        /// Why, for those who ask later
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// List badges and how they stand; tokens, never numbers
    List {
        /// Only this person's
        #[arg(long)]
        person: Option<String>,
        /// Only those that were revoked
        #[arg(long)]
        revoked: bool,
        /// Whose each was before, too
        #[arg(long)]
        history: bool,
        /// Only those with a higher number: the next page
        #[arg(long)]
        after: Option<u64>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Show one badge with its history, and on how many controllers it is revoked if it is; or how a printed number is read
    Show(Show),
}

#[derive(Debug, Args)]
pub struct Import {
    /// The file
    file: PathBuf,
    /// The column badge has the numbers that are printed on the cards
    #[arg(long)]
    printed: bool,
    #[command(flatten)]
    prints: Prints,
    /// In which time zone the columns from and to are, if that is not the sites' own
    #[arg(long)]
    zone: Option<String>,
    /// Badges in the file that were revoked are known again; otherwise they stay revoked
    #[arg(long)]
    reinstate: bool,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    prints: Prints,
    /// Show the card's clear number too, as a reader gives it and as it would be printed
    #[arg(long, conflicts_with = "card")]
    reveal: bool,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Shown {
    /// The badge, as it would stand in the file: 04A224B1C2D380
    badge: Option<Credential>,
    /// Its token, as lists and events show it
    #[arg(long, value_parser = token)]
    token: Option<Token>,
    /// The number that is printed on the card: in which ways it can be read, and which of them was seen here
    #[arg(long, value_name = "NUMBER")]
    card: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Whose {
    /// The badge, as it would stand in the file: 04A224B1C2D380
    badge: Option<Credential>,
    /// All badges of this person
    #[arg(long)]
    person: Option<String>,
}

pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Import(args) => import(args),
        Verb::Assign(args) => assign::assign(args),
        Verb::Unassign(args) => assign::unassign(args),
        Verb::Revoke { whose, reason, config, output } => revoke(whose, &reason, &config, output.output),
        Verb::List { person, revoked, history, after, limit, config, output } => {
            let which = person.map(|person| Which::Person(PersonId(person)));
            let filter = BadgeFilter { which, revoked_only: revoked, limit, after };
            list(&filter, history, &config, output.output)
        }
        Verb::Show(args) => show(args),
    }
}

/// What an import did.
#[derive(Debug, Serialize)]
struct Imported {
    #[serde(flatten)]
    bound: Bound,
    reinstated: usize,
}

fn import(args: Import) -> anyhow::Result<ExitCode> {
    let Import { file, printed, prints, zone, reinstate, config, output } = args;
    let loaded = config.load()?;
    let keys = token_keys(&config)?;
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let now = Clock::system().now();
    let mut store = open_or_make(&loaded, now)?;
    let zone = zone_of(zone.as_deref(), &loaded, &mut store)?;
    let profiles = prints.profiles(&mut store)?;
    let mut trouble = None;
    let mut by_print = |number: &str| {
        let readings = readings(number, &profiles, &keys, &mut |tokens| store.seen(tokens));
        match readings {
            Ok(readings) => the_one(&readings).cloned().map_err(Problem::Printed),
            Err(error) => {
                trouble = Some(error);
                Err(Problem::Printed(NotFound::NoSuchPrint))
            }
        }
    };
    let mut by_reading = as_read;
    let card: &mut dyn FnMut(&str) -> Result<Credential, Problem> =
        if printed { &mut by_print } else { &mut by_reading };
    let bindings = read_badges(&text, Columns { keys: &keys, zone: zone.as_ref(), card });
    if let Some(error) = trouble {
        return Err(error).context("cannot look cards up by their numbers; nothing was changed");
    }
    let bindings = bindings.map_err(|bad| anyhow::anyhow!("{}: {bad}", file.display()))?;
    let reinstated = match reinstate {
        true => {
            let tokens = bindings.iter().flat_map(|binding| &binding.seals).map(|seal| seal.token).collect();
            store.reinstate_badges(&Which::Badge(tokens)).context("nothing was changed")?.changed
        }
        false => 0,
    };
    let mut bound = Bound::default();
    for portion in bindings.chunks(PORTION) {
        let done = store.bind_badges(portion, now);
        let done = done.context("the list is in by a part; importing it again takes in the rest")?;
        bound = bound.and(done);
    }
    if output.output == Form::Json {
        print_json(&Imported { bound, reinstated })?;
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{} badges: {} new, {} changed, {} unchanged",
        bindings.len(),
        bound.new,
        bound.changed,
        bound.unchanged
    );
    if reinstated > 0 {
        println!("{reinstated} of them were revoked and are known again");
    }
    said_of(&bound).iter().for_each(|line| println!("{line}"));
    Ok(ExitCode::SUCCESS)
}

fn revoke(whose: Whose, reason: &str, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let which = match whose.badge {
        Some(badge) => of(&badge, &token_keys(config)?),
        None => Which::Person(PersonId(whose.person.unwrap_or_default())),
    };
    let now = Clock::system().now();
    let stood = open_to_write(&config.load()?, now)?
        .revoke_badges(&which, reason, now)
        .context("nothing was changed")?;
    ensure!(
        stood != Stood::default(),
        match which {
            Which::Badge(_) =>
                "nobody was given this badge, so nothing was revoked: at a door with a roster it is unknown already",
            Which::Person(_) => "nobody with this id has a badge, so nothing was revoked: see `badges list`",
        }
    );
    if form == Form::Json {
        print_json(&stood)?;
    } else {
        println!("{} badges revoked, {} were so before", stood.changed, stood.unchanged);
        println!("`badges show` and `badges list --revoked` say on how many controllers that is known");
    }
    Ok(ExitCode::SUCCESS)
}

/// A badge in words for programs.
#[derive(Debug, Serialize)]
pub struct Badge {
    no: u64,
    /// Whose it is now.
    person: Option<String>,
    since: Option<String>,
    standing: &'static str,
    tokens: Vec<String>,
    bindings: Vec<Held>,
    revoked_at: Option<String>,
    reason: Option<String>,
    confirmed: Option<Confirmed>,
}

/// Somebody held it, between two times if that is known.
#[derive(Debug, Serialize)]
struct Held {
    person: String,
    from: Option<String>,
    until: Option<String>,
}

impl Held {
    fn of(span: &Span) -> Held {
        Held {
            person: span.person.0.clone(),
            from: (span.from != EVER).then(|| view::time(span.from)),
            until: (span.until != FOR_EVER).then(|| view::time(span.until)),
        }
    }

    fn in_words(&self) -> String {
        let Held { person, from, until } = self;
        match (from, until) {
            (None, None) => format!("{person}'s"),
            (Some(from), None) => format!("{person}'s from {from}"),
            (None, Some(until)) => format!("{person}'s until {until}"),
            (Some(from), Some(until)) => format!("{person}'s from {from} until {until}"),
        }
    }
}

impl Badge {
    /// In words, with on how many of the controllers a revocation is known.
    pub fn of(row: BadgeRow, controllers: &[ControllerState], now: UtcMs) -> Badge {
        let revoked = row.revoked.as_ref();
        let held = row.timeline.at(now);
        Badge {
            no: row.no,
            person: held.map(|span| span.person.0.clone()),
            since: held.filter(|span| span.from != EVER).map(|span| view::time(span.from)),
            standing: if revoked.is_some() { "revoked" } else { "known" },
            tokens: row.seals.iter().map(|seal| seal.token.to_string()).collect(),
            bindings: row.timeline.spans().iter().map(Held::of).collect(),
            revoked_at: revoked.map(|revoked| view::time(revoked.at)),
            reason: revoked.map(|revoked| revoked.why.clone()),
            confirmed: revoked.map(|revoked| confirmed(revoked, controllers)),
        }
    }

    /// Whose it was and is, the first first.
    pub fn history(&self) -> Vec<String> {
        self.bindings.iter().map(Held::in_words).collect()
    }

    fn standing(&self) -> String {
        match (&self.confirmed, &self.revoked_at, &self.reason) {
            (Some(Confirmed { on, of }), Some(at), Some(why)) => {
                format!("revoked {at} ({why}), confirmed on {on} of {of} controllers")
            }
            _ => self.standing.to_owned(),
        }
    }
}

fn list(filter: &BadgeFilter, history: bool, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let badges = read(filter, config)?;
    if form == Form::Json {
        print_json(&badges)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(["no", "badge", "person", "since", "standing"]);
    for badge in &badges {
        let token = badge.tokens.first().cloned().unwrap_or_default();
        let person = match history {
            true => badge.history().join("\n"),
            false => badge.person.clone().unwrap_or_else(|| "nobody".into()),
        };
        let since = badge.since.clone().unwrap_or_default();
        table.add_row([badge.no.to_string(), token, person, since, badge.standing()]);
    }
    println!("{table}");
    if let Some(last) = badges.last().filter(|_| badges.len() == filter.limit) {
        println!("there may be more: --after {}", last.no);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(args: Show) -> anyhow::Result<ExitCode> {
    let Show { shown, prints, reveal, config, output } = args;
    let keys = token_keys(&config)?;
    if let Some(number) = &shown.card {
        let mut store = open(&config)?;
        printed::explain(&mut store, number, &prints, &keys, Clock::system().now(), output.output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let which = match &shown {
        Shown { badge: Some(badge), .. } => of(badge, &keys),
        Shown { token, .. } => Which::Badge(token.iter().copied().collect()),
    };
    let filter = BadgeFilter { which: Some(which), limit: 1, ..BadgeFilter::default() };
    let badge = read(&filter, &config)?.pop();
    let badge = badge.context("nobody was given this badge: `badges assign` binds it to a person")?;
    if output.output == Form::Json {
        print_json(&badge)?;
    } else {
        println!("{}: {}", badge.history().join("; "), badge.standing());
        badge.tokens.iter().for_each(|token| println!("token {token}"));
    }
    if reveal {
        let seals = open(&config)?.badges(&filter)?.pop().map(|row| row.seals).unwrap_or_default();
        let card = seals.iter().find_map(|seal| keys.iter().find_map(|key| key.open(seal).ok()));
        let card = card.context("none of the token keys here opens this badge")?;
        printed::reveal(&card, output.output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(filter: &BadgeFilter, config: &ConfigFile) -> anyhow::Result<Vec<Badge>> {
    let mut store = open(config)?;
    let mut controllers = store.controllers()?;
    // Who was taken down or is out of trust hears of nothing any more, and nobody waits for it.
    let fleet = store.fleet()?;
    controllers.retain(|state| {
        let is_it = |known: &&Member| known.controller.id == state.controller.id;
        fleet.iter().find(is_it).is_some_and(|known| known.standing == Standing::Active)
    });
    let rows = store.badges(filter)?;
    let now = Clock::system().now();
    Ok(rows.into_iter().map(|row| Badge::of(row, &controllers, now)).collect())
}

/// The badge, under whichever key it may be known.
fn of(badge: &Credential, keys: &[TokenKey]) -> Which {
    Which::Badge(seals(badge, keys).into_iter().map(|seal| seal.token).collect())
}

/// All token keys there ever were: a badge is known under each, because old taps are.
pub fn token_keys(config: &ConfigFile) -> anyhow::Result<Vec<TokenKey>> {
    Ok(config.load()?.secrets(config.path())?.keys.token_keys().to_vec())
}
