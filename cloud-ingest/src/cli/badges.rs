//! Beside the line: brings the list of who holds which badge in, and says of badges that they are revoked. Works while the
//! service runs: both write to one file in turns, and the service notices within a second what has changed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use tap_protocol::badge::{Credential, TokenKey};

use super::reading::{open, open_or_make, open_to_write, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::view;
use crate::clock::Clock;
use crate::directory::badges::{read_badges, seals};
use crate::event_store::{
    BadgeFilter, BadgeRow, Bound, ControllerState, Member, PersonId, Standing, Stood, StoreError, Which,
};
use crate::read_model::confirmed::{Confirmed, confirmed};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Read a CSV file with the columns badge and person
    Import {
        /// The file
        file: PathBuf,
        /// Badges in the file that were revoked are known again; otherwise they stay revoked
        #[arg(long)]
        reinstate: bool,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
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
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Show one badge, and on how many controllers it is revoked if it is
    Show {
        /// The badge, as it would stand in the file: 04A224B1C2D380
        badge: Credential,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
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
        Verb::Import { file, reinstate, config, output } => import(&file, reinstate, &config, output.output),
        Verb::Revoke { whose, reason, config, output } => revoke(whose, &reason, &config, output.output),
        Verb::List { person, revoked, limit, config, output } => {
            let which = person.map(|person| Which::Person(PersonId(person)));
            let filter = BadgeFilter { which, revoked_only: revoked, limit, after: None };
            list(&filter, &config, output.output)
        }
        Verb::Show { badge, config, output } => {
            let keys = token_keys(&config)?;
            let filter = BadgeFilter { which: Some(of(&badge, &keys)), limit: 1, ..BadgeFilter::default() };
            show(&filter, &config, output.output)
        }
    }
}

/// What an import did.
#[derive(Debug, Serialize)]
struct Imported {
    #[serde(flatten)]
    bound: Bound,
    reinstated: usize,
}

fn import(
    file: &std::path::Path,
    reinstate: bool,
    config: &ConfigFile,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let loaded = config.load()?;
    let keys = token_keys(config)?;
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let bindings = read_badges(&text, &keys).map_err(|bad| anyhow::anyhow!("{}: {bad}", file.display()))?;
    let now = Clock::system().now();
    let tokens = bindings.iter().flat_map(|binding| &binding.seals).map(|seal| seal.token).collect();
    let mut store = open_or_make(&loaded, now)?;
    let work = || {
        let reinstated = match reinstate {
            true => store.reinstate_badges(&Which::Badge(tokens))?.changed,
            false => 0,
        };
        Ok(Imported { bound: store.bind_badges(&bindings, now)?, reinstated })
    };
    let done: Result<Imported, StoreError> = work();
    let done = done.context("nothing was changed")?;
    if form == Form::Json {
        print_json(&done)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Imported { bound, reinstated } = done;
    println!(
        "{} badges: {} new, {} changed, {} unchanged; {} waiting deliveries released",
        bindings.len(),
        bound.new,
        bound.changed,
        bound.unchanged,
        bound.released
    );
    if reinstated > 0 {
        println!("{reinstated} of them were revoked and are known again");
    }
    if bound.revoked > 0 {
        println!("{} of them were revoked and stay so: --reinstate makes them known again", bound.revoked);
    }
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
struct Badge {
    person: String,
    since: String,
    standing: &'static str,
    tokens: Vec<String>,
    revoked_at: Option<String>,
    reason: Option<String>,
    confirmed: Option<Confirmed>,
}

impl Badge {
    fn of(row: BadgeRow, controllers: &[ControllerState]) -> Badge {
        let revoked = row.revoked.as_ref();
        Badge {
            person: row.person.0,
            since: view::time(row.since),
            standing: if revoked.is_some() { "revoked" } else { "known" },
            tokens: row.seals.iter().map(|seal| seal.token.to_string()).collect(),
            revoked_at: revoked.map(|revoked| view::time(revoked.at)),
            reason: revoked.map(|revoked| revoked.why.clone()),
            confirmed: revoked.map(|revoked| confirmed(revoked, controllers)),
        }
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

fn list(filter: &BadgeFilter, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let badges = read(filter, config)?;
    if form == Form::Json {
        print_json(&badges)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(["badge", "person", "since", "standing"]);
    for badge in &badges {
        let token = badge.tokens.first().cloned().unwrap_or_default();
        table.add_row([token, badge.person.clone(), badge.since.clone(), badge.standing()]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn show(filter: &BadgeFilter, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let badge = read(filter, config)?.pop();
    let badge = badge.context("nobody was given this badge: `badges import` binds it to a person")?;
    if form == Form::Json {
        print_json(&badge)?;
    } else {
        println!("{} since {}: {}", badge.person, badge.since, badge.standing());
        badge.tokens.iter().for_each(|token| println!("token {token}"));
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
    Ok(rows.into_iter().map(|row| Badge::of(row, &controllers)).collect())
}

/// The badge, under whichever key it may be known.
fn of(badge: &Credential, keys: &[TokenKey]) -> Which {
    Which::Badge(seals(badge, keys).into_iter().map(|seal| seal.token).collect())
}

/// All token keys there ever were: a badge is known under each, because old taps are.
fn token_keys(config: &ConfigFile) -> anyhow::Result<Vec<TokenKey>> {
    Ok(config.load()?.secrets(config.path())?.keys.token_keys().to_vec())
}
