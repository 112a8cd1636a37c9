//! Beside the line: the verbs that look. They read the store's file beside a running service.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use tap_protocol::ids::{ControllerId, EventId};

use super::{ConfigFile, Form, Output, fleet, print_json};
use crate::api::filter::MAX_LIMIT;
use crate::api::view;
use crate::clock::Clock;
use crate::config::Config;
use crate::event_store::place::{AnyStore, Place};
use crate::event_store::{DeliveryState, EventFilter, Position, UtcMs};
use crate::read_model::ledger::ledger;
use crate::read_model::{explain, lag};

#[derive(Debug, Subcommand)]
pub enum EventsVerb {
    /// The newest first
    List(ListArgs),
    /// One event with everything that happened to it
    Get {
        /// Its id
        id: EventId,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Let old events leave the store for files, or look into such a file
    Archive(super::archive::ArchiveArgs),
    /// What destinations were told and came out otherwise later: whose a tap was, or which way it went
    Differences(super::differences::Differences),
    /// Prove every record again: chains, signatures, marks, totals; exit code 1 if something does not hold
    Verify(super::verify::VerifyArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only what was stored before this position
    #[arg(long)]
    before: Option<u64>,
    /// Only this controller's
    #[arg(long)]
    controller: Option<ControllerId>,
    /// Only taps with a delivery in this state
    #[arg(long, value_parser = state)]
    state: Option<DeliveryState>,
    /// Taps alone, without readers, clocks and starts
    #[arg(long)]
    taps: bool,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=MAX_LIMIT as i64))]
    limit: u16,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
pub enum ControllersVerb {
    /// All, with how far each is behind
    List {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// One, with all that is known of it
    Get(super::commands::One),
    /// Call it something else, or say that it hangs elsewhere
    Rename(fleet::Rename),
    /// It was taken down: give it no certificate any more
    Retire(fleet::OutOfTrust),
    /// It was stolen or is suspect: end its session and put new records aside
    Revoke(fleet::OutOfTrust),
    /// Who decided what about controllers, tokens and keys, when and why
    Log(fleet::Log),
    /// Write a file that proves a controller's records to anybody who has the public keys
    Proof(super::proof::ProofArgs),
    /// What it was told to do, and what came of that
    Commands(super::commands::One),
    /// Have it run all its checks and report what they say
    Check(super::commands::Told),
}

fn state(name: &str) -> Result<DeliveryState, String> {
    DeliveryState::from_name(name)
        .ok_or_else(|| format!("use one of {}", DeliveryState::ALL.map(DeliveryState::name).join(", ")))
}

pub fn events(verb: EventsVerb) -> anyhow::Result<ExitCode> {
    match verb {
        EventsVerb::List(args) => list(args),
        EventsVerb::Get { id, config, output } => get(id, &config, output.output),
        EventsVerb::Archive(args) => super::archive::run(args),
        EventsVerb::Differences(args) => super::differences::list(args),
        EventsVerb::Verify(args) => super::verify::verify(args),
    }
}

fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let filter = EventFilter {
        before: args.before.map(Position),
        controller: args.controller,
        taps_only: args.taps,
        state: args.state,
        limit: args.limit.into(),
    };
    let rows = open(&args.config)?.events(&filter)?;
    if args.output.output == Form::Json {
        print_json(&view::Events::of(&rows, filter.limit))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        table(["position", "stored", "controller", "seq", "what", "reader", "delivery", "event id"]);
    for row in &rows {
        let delivery = row.tap.iter().flat_map(|tap| &tap.deliveries).map(|d| d.state.name());
        table.add_row([
            row.position.0.to_string(),
            view::time(row.received),
            row.controller.to_string(),
            row.seq.to_string(),
            row.kind.clone(),
            row.tap.as_ref().map(|tap| tap.reader.to_string()).unwrap_or_default(),
            delivery.collect::<Vec<_>>().join(" "),
            row.event_id.to_string(),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn get(id: EventId, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let mut store = open(config)?;
    let Some(detail) = store.event(id)? else {
        match store.segment_with(id)? {
            Some(file) => bail!(
                "event {id} is archived in {file}: see `events archive show` and `events archive export`"
            ),
            None => bail!("no event is stored under {id}"),
        }
    };
    let destinations = store.destinations()?;
    let now = Clock::system().now();
    if form == Form::Json {
        print_json(&view::Detail::of(&detail, &destinations, now))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", explain::sentence(&detail, &destinations, now));
    detail.decided.iter().for_each(|decided| println!("{}", explain::direction(decided)));
    explain::differences(&detail).iter().for_each(|said| println!("{said}"));
    let mut table = table(["step", "when", "what"]);
    for step in explain::steps(&detail) {
        table.add_row([step.step.to_owned(), view::time(step.at), step.what]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

pub fn controllers(verb: ControllersVerb) -> anyhow::Result<ExitCode> {
    let (config, output) = match verb {
        ControllersVerb::List { config, output } => (config, output),
        ControllersVerb::Get(one) => return super::commands::get(one),
        ControllersVerb::Rename(args) => return fleet::rename(args),
        ControllersVerb::Retire(args) => return fleet::retire(args),
        ControllersVerb::Revoke(args) => return fleet::revoke(args),
        ControllersVerb::Log(args) => return fleet::log(args),
        ControllersVerb::Proof(args) => return super::proof::proof(args),
        ControllersVerb::Commands(one) => return super::commands::list(one),
        ControllersVerb::Check(told) => return super::commands::check(told),
    };
    let mut store = open(&config)?;
    let (states, fleet) = (store.controllers()?, store.fleet()?);
    let now = Clock::system().now();
    if output.output == Form::Json {
        print_json(&view::Controllers::of(&states, &fleet, now))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table([
        "controller",
        "label",
        "site",
        "standing",
        "certificate until",
        "status",
        "to come",
        "lag s",
        "last hello",
    ]);
    for (state, member) in states.iter().zip(&fleet) {
        let lag = lag::of(state, now);
        table.add_row([
            state.controller.id.to_string(),
            state.controller.label.clone(),
            state.controller.site.clone(),
            member.standing.name().to_owned(),
            member.certificate.map_or("none".into(), |certificate| view::time(certificate.not_after)),
            lag.cause.name().to_owned(),
            lag.records.to_string(),
            (lag.ms / 1000).to_string(),
            state.hello.as_ref().map_or("never".into(), |hello| view::time(hello.received)),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

pub fn the_ledger(config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let mut store = open(config)?;
    let ledger = ledger(store.totals()?, store.delivery_counts()?).with_archived(store.archived()?);
    if form == Form::Json {
        print_json(&ledger)?;
    } else {
        let mut table = table(["what", "count"]);
        let totals = &ledger.totals;
        for (what, count) in [
            ("records stored", totals.records),
            ("taps stored", totals.taps),
            ("records archived, of these", ledger.archived.records),
            ("taps archived, of these", ledger.archived.taps),
            ("deliveries archived, of those below", ledger.archived.deliveries),
            ("attempts started", totals.attempts),
            ("badges bound", totals.badges),
            ("messages quarantined", totals.quarantined),
            ("taps whose time is disputed", totals.disputed),
            ("taps set aside without time", totals.unresolved),
        ] {
            table.add_row([what.to_owned(), count.to_string()]);
        }
        for cell in &ledger.by_state {
            table.add_row([format!("{}: {}", cell.destination, cell.state), cell.count.to_string()]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
        match ledger.balanced {
            true => println!("it balances"),
            false => println!("IT DOES NOT BALANCE: {}", ledger.complaints.join("; ")),
        }
    }
    Ok(if ledger.balanced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The store, to read from it.
pub fn open(config: &ConfigFile) -> anyhow::Result<AnyStore> {
    let place = existing(&config.load()?)?;
    place.open_reader().with_context(|| format!("cannot read {place}"))
}

/// The store, to write to it; it must be there.
pub fn open_to_write(config: &Config, now: UtcMs) -> anyhow::Result<AnyStore> {
    let place = existing(config)?;
    place.open_existing(now).with_context(|| format!("cannot write to {place}"))
}

/// The store, to write to it; it is made if it is not there.
pub fn open_or_make(config: &Config, now: UtcMs) -> anyhow::Result<AnyStore> {
    let place = config.place()?;
    place.open(now).with_context(|| format!("cannot write to {place}"))
}

/// Where the store is; it must be there, as far as that can be told without opening it.
pub fn existing(config: &Config) -> anyhow::Result<Place> {
    let place = config.place()?;
    if let Place::File(path) = &place
        && !path.exists()
    {
        bail!("there is no store at {place} yet: start cloud-ingest serve once");
    }
    Ok(place)
}

pub fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    table
}
