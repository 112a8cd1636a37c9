//! Beside the line: the verbs of dead letters: deliveries that wait for a person, because the destination refused them for
//! good, or because only a person can find out whether they were processed. Messages in quarantine are another thing: they
//! never became taps.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::{bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tap_protocol::ids::EventId;

use super::members::{self, Meant, Order, Which};
use super::reading::{open, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::view;
use crate::clock::Clock;
use crate::event_store::place::AnyStore;
use crate::event_store::replays::{Doing, Filter};
use crate::read_model::{explain, forecast};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// How many wait for a person, in groups, each with what the destination said last
    List {
        #[command(flatten)]
        which: Which,
        /// Groups by what
        #[arg(long, default_value = "reason")]
        by: By,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// One of them, with all that was sent and answered
    Show {
        /// The event's id
        id: EventId,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// What it would mean to send them again; changes nothing
    Preview {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Send them again under the same keys, as they are by what is known now
    Replay(Told),
    /// Never send them; whoever waits behind them goes on
    Discard(Told),
    /// Say that the destination has processed them: they count as delivered, by your word
    Delivered(Told),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    Reason,
    Site,
    Door,
    Day,
}

#[derive(Debug, Args)]
pub struct Told {
    #[command(flatten)]
    which: Which,
    /// All that wait at this destination
    #[arg(long)]
    all: bool,
    /// Why, for the log and for whoever asks
    #[arg(long)]
    why: String,
    /// Follow it to its end
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::List { which, by, config, output } => list(which, by, &config, output.output),
        Verb::Show { id, config, output } => show(id, &config, output.output),
        Verb::Preview { which, config, output } => preview(which, &config, output.output),
        Verb::Replay(told) => decide(told, Doing::Replay),
        Verb::Discard(told) => decide(told, Doing::Discard),
        Verb::Delivered(told) => decide(told, Doing::SaidDelivered),
    }
}

/// Letters that have something in common.
#[derive(Debug, Serialize)]
struct Group {
    destination: String,
    group: String,
    count: u64,
    newest: EventId,
    status: Option<u16>,
    said: Option<String>,
}

fn list(which: Which, by: By, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let loaded = config.load()?;
    let mut store = open(config)?;
    let destinations: Vec<String> = match which.destination() {
        Some(name) => vec![name.to_owned()],
        None => store.destinations()?.into_iter().map(|state| state.destination).collect(),
    };
    let mut groups = Vec::new();
    for destination in destinations {
        let Meant { filter, .. } = which.clone().at(&destination).meant(&loaded, &mut store)?;
        groups.extend(grouped(&mut store, &destination, &Filter { letters: true, ..filter }, by)?);
    }
    if form == Form::Json {
        print_json(&groups)?;
        return Ok(ExitCode::SUCCESS);
    }
    if groups.is_empty() {
        println!("nothing waits for a person");
        return Ok(ExitCode::SUCCESS);
    }
    let column = match by {
        By::Reason => "reason",
        By::Site => "site",
        By::Door => "door",
        By::Day => "day",
    };
    let mut table = table(["destination", column, "how many", "newest", "HTTP", "what was said"]);
    for Group { destination, group, count, newest, status, said } in groups {
        table.add_row([
            destination,
            group,
            count.to_string(),
            newest.to_string(),
            status.map_or_else(String::new, |status| status.to_string()),
            said.unwrap_or_default(),
        ]);
    }
    println!("{table}");
    println!(
        "`dlq preview` says what sending them again would mean; `dlq replay`, `discard` and `delivered` decide."
    );
    Ok(ExitCode::SUCCESS)
}

fn grouped(store: &mut AnyStore, destination: &str, filter: &Filter, by: By) -> anyhow::Result<Vec<Group>> {
    let zones: BTreeMap<String, String> =
        store.sites()?.into_iter().map(|site| (site.id, site.zone)).collect();
    let mut found: BTreeMap<String, (u64, EventId)> = BTreeMap::new();
    store.matching(destination, filter, &mut |one| {
        let group = match by {
            By::Reason => one.reason.clone().unwrap_or_default(),
            By::Site => one.site.clone(),
            By::Door => format!("{}/{}", one.controller, one.reader),
            By::Day => match (one.occurred, zones.get(&one.site)) {
                (Some(at), Some(zone)) => forecast::day(at, zone),
                _ => "not known".into(),
            },
        };
        let (count, newest) = found.entry(group).or_insert((0, one.event_id));
        (*count, *newest) = (*count + 1, one.event_id);
        ControlFlow::Continue(())
    })?;
    let groups = found.into_iter().map(|(group, (count, newest))| {
        let detail = store.event(newest)?;
        let last = detail.and_then(|detail| {
            detail.attempts.into_iter().rfind(|attempt| attempt.destination == destination)
        });
        let (status, said) = last.map_or((None, None), |last| (last.status, last.answer));
        Ok(Group { destination: destination.to_owned(), group, count, newest, status, said })
    });
    groups.collect()
}

fn show(id: EventId, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let mut store = open(config)?;
    let Some(detail) = store.event(id)? else { bail!("no event is stored under {id}") };
    let destinations = store.destinations()?;
    let now = Clock::system().now();
    if form == Form::Json {
        print_json(&view::Detail::of(&detail, &destinations, now))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", explain::sentence(&detail, &destinations, now));
    for (destination, body) in &detail.bodies {
        println!("sent to {destination}: {body}");
    }
    let mut table = table(["destination", "attempt", "when", "outcome", "HTTP", "what was said"]);
    for attempt in &detail.attempts {
        table.add_row([
            attempt.destination.clone(),
            attempt.number.to_string(),
            view::time(attempt.started),
            attempt.outcome.clone().unwrap_or_else(|| "no answer".into()),
            attempt.status.map_or_else(String::new, |status| status.to_string()),
            attempt.answer.clone().unwrap_or_default(),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn preview(which: Which, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let loaded = config.load()?;
    let mut store = open(config)?;
    let mut meant = which.meant(&loaded, &mut store)?;
    meant.filter.letters = true;
    let forecast = members::forecast(&meant, &loaded, &mut store)?;
    match form {
        Form::Json => print_json(&forecast)?,
        Form::Table => members::show(&forecast, &meant.destination)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn decide(told: Told, doing: Doing) -> anyhow::Result<ExitCode> {
    let Told { which, all, why, wait, config, output } = told;
    ensure!(
        which.says_which() || all,
        "say which are meant (--reason, --site, --door, --person, --event, --from, --to), or --all"
    );
    let loaded = config.load()?;
    let mut meant = which.meant(&loaded, &mut open(&config)?)?;
    meant.filter.letters = true;
    members::carry_out(meant, Order { doing, why, wait, form: output.output }, &loaded, &config)
}
