//! Beside the line: which deliveries a person means, what it would mean to replay them, and doing it. Shared by the verbs of
//! letters and of replays.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use tap_protocol::ids::EventId;

use super::assign::zone_of;
use super::deed::{Why, deed};
use super::destinations::try_to_open;
use super::progress;
use super::reading::{open, open_to_write, table};
use super::{ConfigFile, Form, print_json};
use crate::api::replays::Replay;
use crate::clock::Clock;
use crate::config::Config;
use crate::destination::Destination;
use crate::destination::settings::{AfterUnknown, DestinationSettings};
use crate::directory::moment::{self, End};
use crate::event_store::place::AnyStore;
use crate::event_store::replays::{Doing, Filter, NewReplay, ReplayStanding, ReplayState};
use crate::event_store::{DestinationState, Position};
use crate::read_model::forecast::{COMPARED, Forecast, in_words};

/// So often it is looked how far a replay is.
const LOOKS_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Where to; may be left out if there is one destination only
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Only what waits for this reason, such as refused; may be said more than once
    #[arg(long)]
    reason: Vec<String>,
    /// Only taps at this site; may be said more than once
    #[arg(long)]
    site: Vec<String>,
    /// Only taps at this controller, or controller/reader; may be said more than once
    #[arg(long, value_name = "CONTROLLER[/READER]")]
    door: Vec<String>,
    /// Only what stands in the line of this person; may be said more than once
    #[arg(long)]
    person: Vec<String>,
    /// Only this event; may be said more than once
    #[arg(long, value_name = "ID")]
    event: Vec<EventId>,
    /// Only taps that happened at this time or later: 2026-03-02 (the whole day), "2026-03-02 08:00", or with an offset
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only taps that happened before this time; of a date, the whole day is meant
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// In which time zone both are, if that is not the sites' own
    #[arg(long)]
    zone: Option<String>,
}

/// Which deliveries a person means, at which destination.
pub struct Meant {
    pub destination: DestinationState,
    pub filter: Filter,
}

impl Which {
    /// Whether anything narrows it down.
    pub fn says_which(&self) -> bool {
        let Which { destination: _, reason, site, door, person, event, from, to, zone: _ } = self;
        [reason, site, door, person].iter().any(|list| !list.is_empty())
            || !event.is_empty()
            || from.is_some()
            || to.is_some()
    }

    /// The destination that is named.
    pub fn destination(&self) -> Option<&str> {
        self.destination.as_deref()
    }

    /// The same at that destination.
    pub fn at(self, destination: &str) -> Which {
        Which { destination: Some(destination.to_owned()), ..self }
    }

    /// Puts it into the store's words.
    pub fn meant(self, config: &Config, store: &mut AnyStore) -> anyhow::Result<Meant> {
        let destination = the_destination(self.destination.as_deref(), store)?;
        let zone = zone_of(self.zone.as_deref(), config, store)?;
        let read = |text: &Option<String>, end| {
            text.as_ref().map(|text| moment::read(text, zone.as_ref(), end)).transpose()
        };
        let from = read(&self.from, End::From).context("--from cannot be read")?;
        let until = read(&self.to, End::To).context("--to cannot be read")?;
        ensure!(
            from.zip(until).is_none_or(|(from, until)| from < until),
            "--to is before --from: no tap is between them"
        );
        let sites: Vec<String> = store.sites()?.into_iter().map(|site| site.id).collect();
        if let Some(unknown) = self.site.iter().find(|site| !sites.contains(site)) {
            bail!("there is no site {unknown}: `cloud-ingest sites list` has all");
        }
        for event in &self.event {
            ensure!(store.event(*event)?.is_some(), "no event is stored under {event}");
        }
        let filter = Filter {
            reasons: self.reason,
            sites: self.site,
            readers: self.door,
            persons: self.person,
            events: self.event.iter().map(EventId::to_string).collect(),
            from,
            until,
            ..Filter::default()
        };
        Ok(Meant { destination, filter })
    }
}

/// The one that is named, or the only one.
fn the_destination(name: Option<&str>, store: &mut AnyStore) -> anyhow::Result<DestinationState> {
    let mut known = store.destinations()?;
    match name {
        Some(name) => {
            let found = known.into_iter().find(|one| one.destination == name);
            found.with_context(|| {
                format!("there is no destination {name}: `cloud-ingest destinations list` has all")
            })
        }
        None if known.len() == 1 => Ok(known.remove(0)),
        None => {
            let names: Vec<&str> = known.iter().map(|one| one.destination.as_str()).collect();
            bail!("say which destination is meant: --destination with one of {}", names.join(", "))
        }
    }
}

fn settings_of(destination: &DestinationState) -> anyhow::Result<DestinationSettings> {
    let name = &destination.destination;
    serde_json::from_str(&destination.settings)
        .with_context(|| format!("the settings of {name} cannot be read: mend them with `destinations set`"))
}

/// Whether the destination can tell that it has a tap already.
pub fn tells_repeats(destination: &DestinationState) -> anyhow::Result<bool> {
    Ok(settings_of(destination)?.after_unknown != AfterUnknown::AskPerson)
}

/// What it would mean to replay these.
pub fn forecast(
    Meant { destination, filter }: &Meant,
    config: &Config,
    store: &mut AnyStore,
) -> anyhow::Result<Forecast> {
    let zones: BTreeMap<String, String> =
        store.sites()?.into_iter().map(|site| (site.id, site.zone)).collect();
    let name = &destination.destination;
    let mut forecast = Forecast::default();
    let mut first: Vec<Position> = Vec::new();
    store.matching(name, filter, &mut |one| {
        forecast.add(one, zones.get(&one.site).map_or("UTC", String::as_str));
        if first.len() < COMPARED {
            first.push(one.position);
        }
        ControlFlow::Continue(())
    })?;
    let settings = settings_of(destination)?;
    forecast.takes(&settings.limits);
    let opened = try_to_open(&settings, destination.credentials_file.as_deref(), config)?;
    for one in store.retold(name, &first)? {
        let rendered = match &one.tap {
            Err(why) => Err((*why).to_owned()),
            Ok(tap) if !settings.takes(tap) => Err("its rules do not send such taps here".to_owned()),
            Ok(tap) => opened.render(one.event_id, tap).map_err(|why| why.to_string()),
        };
        forecast.compared.add(&one, rendered);
    }
    Ok(forecast)
}

/// Shows it to people.
pub fn show(forecast: &Forecast, destination: &DestinationState) -> anyhow::Result<()> {
    let settings = settings_of(destination)?;
    let name = &destination.destination;
    if forecast.members == 0 {
        println!("No delivery to {name} is meant by that.");
        return Ok(());
    }
    let mut counts = table(["what", "which", "how many"]);
    for (what, by) in [("type", &forecast.by_type), ("door", &forecast.by_door), ("day", &forecast.by_day)] {
        for (which, count) in by {
            counts.add_row([what.to_owned(), which.clone(), count.to_string()]);
        }
    }
    println!("{counts}");
    let compared = &forecast.compared;
    println!(
        "Of the first {}: {} would be told as before, {} otherwise, {} for the first time, {} not at all.",
        compared.looked_at,
        compared.same,
        compared.otherwise,
        compared.never_sent,
        compared.left_out.values().sum::<u64>()
    );
    for (why, count) in &compared.left_out {
        println!("  not at all: {why} ({count})");
    }
    for one in &compared.examples {
        println!("  {}\n    was {}\n    now {}", one.event_id, one.before, one.now);
    }
    println!(
        "{} deliveries take at least {} at the limits of {name} ({} a second). Live taps go first: of 40 requests 1 is \
         the replay's while live taps wait, and no live tap waits for more than one replayed tap of its person.",
        forecast.members,
        in_words(forecast.at_least_s),
        settings.limits.per_second
    );
    if forecast.taken_before > 0 {
        let repeats = match tells_repeats(destination)? {
            true => "it knows a repeat by the key (or is looked up) and answers it as before",
            false => "it CANNOT tell repeats: each would be there twice",
        };
        println!("{} of them {name} has taken already: {repeats}.", forecast.taken_before);
    }
    Ok(())
}

/// What a person wants done.
pub struct Order {
    pub doing: Doing,
    pub why: String,
    /// Follow it to its end.
    pub wait: bool,
    pub form: Form,
}

/// Makes the replay, and tells how far it is.
pub fn carry_out(
    Meant { destination, filter }: Meant,
    Order { doing, why, wait, form }: Order,
    loaded: &Config,
    config: &ConfigFile,
) -> anyhow::Result<ExitCode> {
    ensure!(!why.trim().is_empty(), "say why (--why): it is kept with what is done");
    let now = Clock::system().now();
    let name = destination.destination;
    let mut store = open_to_write(loaded, now)?;
    let new = NewReplay { destination: name.clone(), doing, filter };
    let no = store.make_replay(&new, &deed(now, doing.name(), &name, Why(why)))?;
    while store.gather(no)? {}
    let made = state(&mut store, no)?;
    drop(store);
    let ended = if wait { follow(config, no)? } else { made };
    match form {
        Form::Json => print_json(&Replay::of(&ended))?,
        Form::Table => {
            println!("replay {no}: {}", in_a_line(&ended));
            if !wait {
                println!(
                    "The running service does it. `cloud-ingest replay show {no}` says how far it is; `replay pause` and \
                     `replay cancel` stop it."
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn state(store: &mut AnyStore, no: u64) -> anyhow::Result<ReplayState> {
    let found = store.replay(no)?;
    found.with_context(|| format!("there is no replay {no}: `cloud-ingest replay list` has all"))
}

/// Looks until it is over.
pub fn follow(config: &ConfigFile, no: u64) -> anyhow::Result<ReplayState> {
    let mut store = open(config)?;
    let bar = progress::bar(&format!("replay {no}"), state(&mut store, no)?.counts.members);
    loop {
        let now = state(&mut store, no)?;
        bar.set_position(now.counts.ended());
        let goes_on = now.standing == ReplayStanding::Running || now.counts.sending > 0;
        if !goes_on {
            bar.finish_and_clear();
            return Ok(now);
        }
        sleep(LOOKS_EVERY);
    }
}

/// Where it is, for people.
pub fn in_a_line(state: &ReplayState) -> String {
    let counts = &state.counts;
    let parts = [
        (counts.delivered, "delivered"),
        (counts.discarded, "discarded"),
        (counts.dead, "wait for a person again"),
        (counts.skipped, "left as they were"),
        (counts.sending, "under way"),
        (counts.waiting, if state.standing == ReplayStanding::Cancelled { "never begun" } else { "waiting" }),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    format!("{}, {} deliveries to {}{parts}", state.standing.name(), counts.members, state.destination)
}
