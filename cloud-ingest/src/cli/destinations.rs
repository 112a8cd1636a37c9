//! Beside the line: the verbs of destinations: what they are, whether they are sent to, and why not. The running service
//! notices within a second. What a destination can be is in `docs/destinations.md`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use tap_protocol::ids::{EventId, OutboxId, Seq};
use tap_protocol::tap::Direction;

use super::deed::{Why, deed};
use super::reading::{open, open_to_write, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::view;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::config::{Config, DESTINATION_NAMES, is_destination_name};
use crate::delivery::supervise::credentials;
use crate::destination::open::AnyDestination;
use crate::destination::settings::{DeliverFrom, DestinationSettings};
use crate::destination::{Destination, Finding, Sample};
use crate::event_store::{
    Change, DeliverableTap, DestinationState, NewDestination, PersonId, Since, Site, UtcMs, WatermarkRow,
};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Add a destination: taps go there from then on, or from where its settings say
    Add(Settings),
    /// All destinations, and what keeps them back
    List {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// One destination with all its settings
    Show {
        /// Which
        name: String,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Try whether it can be reached and lets us in; exit code 1 if not
    Test {
        /// Which
        name: String,
        /// Tell it a tap of this person, too: somebody who is there for trials. Frappe's is deleted again
        #[arg(long, value_name = "PERSON")]
        send: Option<String>,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Send nothing for now; everything waits in its order
    Pause(Told),
    /// Send again, whatever kept it: a pause, a hold, or that it did not answer
    Resume(Told),
    /// Say where its credentials are, or that the file holds others now
    Rotate {
        /// A file that the service can read
        #[arg(long, value_name = "FILE")]
        credentials_file: PathBuf,
        #[command(flatten)]
        told: Told,
    },
    /// Change what it is; what was rendered for it before stays as it is
    Set(Settings),
}

#[derive(Debug, Args)]
pub struct Settings {
    /// Which
    name: String,
    /// What it is, as JSON; see docs/destinations.md
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
    /// Where its credentials are: a file that the service can read
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// Why, for the log
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Debug, Args)]
pub struct Told {
    /// Which
    name: String,
    /// Why, for the log and for whoever asks
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    config: ConfigFile,
}

pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Add(args) => add(args)?,
        Verb::List { config, output } => list(&config, output.output)?,
        Verb::Show { name, config, output } => show(&name, &config, output.output)?,
        Verb::Test { name, send, config, output } => return test(&name, send, &config, output.output),
        Verb::Pause(told) => change(told, "pause", &Change::Pause)?,
        Verb::Resume(told) => change(told, "resume", &Change::Resume)?,
        Verb::Rotate { credentials_file, told } => {
            let file = readable(&credentials_file)?;
            change(told, "rotate", &Change::Credentials(Some(file)))?;
        }
        Verb::Set(args) => set(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn add(args: Settings) -> anyhow::Result<()> {
    ensure!(is_destination_name(&args.name), "{} is no name: {DESTINATION_NAMES}", args.name);
    let loaded = args.config.load()?;
    let settings = read(&args.settings)?;
    let credentials_file = args.credentials_file.as_deref().map(readable).transpose()?;
    try_to_open(&settings, credentials_file.as_deref(), &loaded)?;
    let from = match settings.deliver_from {
        DeliverFrom::Now => Since::Now,
        DeliverFrom::Beginning => Since::Beginning,
        DeliverFrom::Time(at) => Since::Time(at),
    };
    let now = Clock::system().now();
    let settings = serde_json::to_string(&settings)?;
    let new = NewDestination { name: args.name.clone(), settings, credentials_file, from };
    let added = open_to_write(&loaded, now)?
        .add_destination(&new, &deed(now, "add_destination", &args.name, Why(args.reason)))?;
    ensure!(added, "there is a destination {} already: change it with `destinations set`", args.name);
    println!("{} is added: the running service sends to it within a second", args.name);
    Ok(())
}

fn set(args: Settings) -> anyhow::Result<()> {
    let loaded = args.config.load()?;
    is_not_declared(&args.name, &loaded)?;
    let settings = read(&args.settings)?;
    let now = Clock::system().now();
    let mut store = open_to_write(&loaded, now)?;
    let known = find(store.destinations()?, &args.name)?;
    let new_file = args.credentials_file.as_deref().map(readable).transpose()?;
    try_to_open(&settings, new_file.as_deref().or(known.credentials_file.as_deref()), &loaded)?;
    let deed = deed(now, "set_destination", &args.name, Why(args.reason));
    store.change_destination(&args.name, &Change::Settings(serde_json::to_string(&settings)?), &deed)?;
    if new_file.is_some() {
        store.change_destination(&args.name, &Change::Credentials(new_file), &deed)?;
    }
    println!("{} is changed, from the next request on", args.name);
    Ok(())
}

fn change(told: Told, what: &str, change: &Change) -> anyhow::Result<()> {
    let Told { name, reason, config } = told;
    let loaded = config.load()?;
    let now = Clock::system().now();
    let deed = deed(now, &format!("{what}_destination"), &name, Why(reason));
    open_to_write(&loaded, now)?.change_destination(&name, change, &deed)?;
    println!("{what}: {name}");
    Ok(())
}

/// A destination as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    version: u64,
    settings: serde_json::Value,
    credentials_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_back: Option<KeptBack>,
    oldest_open_received: Option<String>,
    /// How far it was told that taps are complete.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    watermarks: Vec<view::Watermark>,
}

#[derive(Debug, Serialize)]
struct KeptBack {
    what: &'static str,
    why: String,
    until: Option<String>,
}

impl Shown {
    fn of(state: DestinationState, watermarks: &[WatermarkRow], now: UtcMs) -> Shown {
        let own = watermarks.iter().filter(|row| row.destination == state.destination);
        let watermarks = own.map(|row| view::Watermark::of(row, now)).collect();
        let kept_back = state.hindrance(now).map(|hindrance| KeptBack {
            what: hindrance.what,
            why: hindrance.why,
            until: hindrance.until.map(view::time),
        });
        Shown {
            kept_back,
            settings: serde_json::from_str(&state.settings).unwrap_or(serde_json::Value::Null),
            name: state.destination,
            version: state.version,
            credentials_file: state.credentials_file,
            oldest_open_received: state.oldest_open_received.map(view::time),
            watermarks,
        }
    }

    fn setting(&self, key: &str) -> &str {
        self.settings.get(key).and_then(serde_json::Value::as_str).unwrap_or("?")
    }
}

fn list(config: &ConfigFile, form: Form) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let mut store = open(config)?;
    let (states, watermarks) = (store.destinations()?, store.watermarks()?);
    let shown: Vec<Shown> = states.into_iter().map(|state| Shown::of(state, &watermarks, now)).collect();
    match form {
        Form::Json => print_json(&shown),
        Form::Table => {
            let mut table = table(["name", "kind", "mode", "url", "state", "oldest open"]);
            for one in &shown {
                let state = one
                    .kept_back
                    .as_ref()
                    .map_or("sending".to_owned(), |kept| format!("{}: {}", kept.what, kept.why));
                let oldest = one.oldest_open_received.as_deref().unwrap_or("");
                let (kind, mode, url) = (one.setting("kind"), one.setting("mode"), one.setting("url"));
                table.add_row([one.name.as_str(), kind, mode, url, state.as_str(), oldest]);
            }
            println!("{table}");
            shown.iter().flat_map(|one| &one.watermarks).for_each(|one| println!("{}", one.sentence()));
            Ok(())
        }
    }
}

fn show(name: &str, config: &ConfigFile, form: Form) -> anyhow::Result<()> {
    let mut store = open(config)?;
    let state = find(store.destinations()?, name)?;
    let shown = Shown::of(state, &store.watermarks()?, Clock::system().now());
    if form == Form::Table
        && let Some(KeptBack { what, why, .. }) = &shown.kept_back
    {
        println!("{name} is {what}: {why}\n");
    }
    if form == Form::Table {
        shown.watermarks.iter().for_each(|one| println!("{}\n", one.sentence()));
    }
    print_json(&shown)
}

fn test(name: &str, person: Option<String>, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let loaded = config.load()?;
    let mut store = open(config)?;
    let state = find(store.destinations()?, name)?;
    let sample = person.map(|person| sample(PersonId(person), store.sites()?)).transpose()?;
    let settings = serde_json::from_str(&state.settings).context("its settings cannot be read")?;
    let destination = try_to_open(&settings, state.credentials_file.as_deref(), &loaded)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let probe = runtime.block_on(destination.probe(sample.as_ref()));
    match form {
        Form::Json => print_json(&probe)?,
        Form::Table => {
            for step in &probe.steps {
                let mark = match step.finding {
                    Finding::Good => "ok",
                    Finding::Doubtful => "look",
                    Finding::Bad => "BAD",
                };
                println!("{mark:4} {}: {}", step.what, step.says);
            }
        }
    }
    Ok(if probe.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A tap that never was, under a key that no tap has.
fn sample(person: PersonId, sites: Vec<Site>) -> anyhow::Result<Sample> {
    let site = sites.into_iter().next().context("there is no site yet: a tap happens at one")?;
    let (controller, reader) = ("trial".parse()?, "trial".parse()?);
    let chance = Chance::system();
    let outbox = (u128::from(chance.bits()) << 64 | u128::from(chance.bits())).to_be_bytes();
    let event = EventId::new(&controller, OutboxId(outbox), Seq(1));
    let (direction, occurred) = (Direction::In, Clock::system().now());
    let tap = DeliverableTap { person, controller, site, reader, direction, occurred, uncertainty_ms: 0 };
    Ok(Sample { event, tap })
}

fn read(file: &Path) -> anyhow::Result<DestinationSettings> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no settings", file.display()))
}

/// A wrong template or a missing file is found here, and not at the first tap.
pub fn try_to_open(
    settings: &DestinationSettings,
    credentials_file: Option<&str>,
    config: &Config,
) -> anyhow::Result<AnyDestination> {
    let credentials = match credentials_file {
        None => None,
        Some(file) => Some(credentials(Path::new(file)).map_err(anyhow::Error::msg)?),
    };
    Ok(AnyDestination::open(settings, credentials.as_deref(), &config.guard(), Clock::system())?)
}

fn readable(file: &Path) -> anyhow::Result<String> {
    let file = std::fs::canonicalize(file).with_context(|| format!("cannot find {}", file.display()))?;
    credentials(&file).map_err(anyhow::Error::msg)?;
    Ok(file.display().to_string())
}

fn find(states: Vec<DestinationState>, name: &str) -> anyhow::Result<DestinationState> {
    let known = states.into_iter().find(|state| state.destination == name);
    known.with_context(|| format!("there is no destination {name}: see `cloud-ingest destinations list`"))
}

/// At its next start the service would put back what the configuration says.
fn is_not_declared(name: &str, config: &Config) -> anyhow::Result<()> {
    if config.destination.as_ref().is_some_and(|declared| declared.name == name) {
        bail!(
            "{name} is declared by [destination] in the configuration: change it there, and restart the service"
        );
    }
    Ok(())
}
