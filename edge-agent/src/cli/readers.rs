//! `edge-agent readers`: which readers there are, and what a card says to them. Both work while the agent runs.
//!
//! The only place where a clear number is printed: on the terminal of whoever stands at the door with the card.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use data_encoding::HEXUPPER;
use edge_agent::admission::{Admission, Admitted};
use edge_agent::config::{Config, PcscConfig, ReaderConfig, SerialConfig};
use edge_agent::control::{Request, Response, question};
use edge_agent::reader::card_read::CardRead;
use edge_agent::reader::interpret::{Interpretation, interpretations};
use edge_agent::reader::lamp::LampChoice;
use edge_agent::reader::{DownReason, ReaderEvent, RunningReader, atr, is_called};
use edge_agent::status::{ReaderStatus, Status};
use serde::Serialize;
use tap_protocol::hello::ReaderState;
use tokio::signal::ctrl_c;
use tokio::sync::mpsc::channel;

use super::run::start_reader;
use super::{ConfigArg, Output, complain, say, with_config};

mod signals;

/// Events of tested readers that may wait to be printed.
const MAX_WAITING_EVENTS: usize = 16;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show the readers that are connected, and which of them the configuration means.
    List {
        #[command(flatten)]
        config: ConfigArg,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show what cards say: every number in every way of writing it. Ends with Ctrl-C.
    ///
    /// The numbers are personal data. While the agent runs, a card at a PC/SC reader is recorded as a tap as well; a
    /// serial port has one user at a time, so for a serial reader the agent must be stopped.
    Test {
        /// Which of the configured readers; all of them if not said.
        name: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
        /// For people or for scripts: one line of JSON for each event.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
        /// End after so many cards.
        #[arg(long, value_name = "N")]
        cards: Option<u64>,
        /// Instead of reading cards, show every signal at the reader, so that its light and sound can be checked.
        #[arg(long, conflicts_with_all = ["cards", "output"])]
        signals: bool,
    },
}

impl Verb {
    pub fn run(self) -> ExitCode {
        match self {
            Verb::List { config, output } => with_config(&config, |config| list(&config, output)),
            Verb::Test { name, config, signals: true, .. } => {
                with_config(&config, |config| signals::show(&config, name.as_deref()))
            }
            Verb::Test { name, config, output, cards, signals: false } => {
                with_config(&config, |config| test(config, name.as_deref(), output, cards))
            }
        }
    }
}

// readers list

/// What is connected and what is configured.
#[derive(Debug, Serialize)]
struct Listing {
    pcsc: PcscListing,
    serial_ports: Vec<Port>,
    configured: Vec<Configured>,
}

#[derive(Debug, Default, Serialize)]
struct PcscListing {
    readers: Vec<PcscReader>,
    /// Why there is no list, and what to do.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct PcscReader {
    name: String,
    card: bool,
    /// Whether its light and sound can be used.
    lamp: bool,
}

#[derive(Debug, Serialize)]
struct Port {
    path: String,
    /// What its name below /dev/serial/by-id points to.
    device: Option<String>,
}

#[derive(Debug, Serialize)]
struct Configured {
    reader: String,
    /// How the configuration finds it.
    wanted: String,
    /// The connected reader or port that it is, if it is there.
    found: Option<String>,
    /// What the running agent says of it; `None` if no agent is running.
    agent: Option<ReaderStatus>,
}

fn list(config: &Config, output: Output) -> ExitCode {
    let pcsc = pcsc_listing();
    let agent = running_agent(config);
    let configured = config.readers.iter().map(|reader| {
        let (wanted, found) = match (&reader.serial, &reader.pcsc) {
            (Some(serial), _) => {
                let path = serial.port.display().to_string();
                (format!("serial {path}"), serial.port.exists().then_some(path))
            }
            (None, how) => pcsc_match(how.as_ref(), &pcsc),
        };
        let said =
            agent.as_ref().and_then(|agent| agent.readers.iter().find(|said| said.reader == reader.name));
        Configured { reader: reader.name.to_string(), wanted, found, agent: said.cloned() }
    });
    let configured = configured.collect();
    let listing = Listing { pcsc, serial_ports: serial_ports(), configured };
    match output {
        Output::Json => say(&(serde_json::to_string_pretty(&listing).unwrap_or_default() + "\n")),
        Output::Text => say(&listing_text(&listing)),
    }
    if listing.configured.iter().all(|reader| reader.found.is_some()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn running_agent(config: &Config) -> Option<Status> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    match runtime.block_on(question(&config.control_socket(), &Request::Status)) {
        Ok(Response::Status(status)) => Some(*status),
        _ => None,
    }
}

#[cfg(feature = "pcsc")]
fn pcsc_listing() -> PcscListing {
    use edge_agent::reader::pcsc;
    // A pcscd that hangs must not hang this as well; the thread is left behind.
    const PATIENCE_MS: u64 = 5_000;
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || tell.send(pcsc::present()));
    let present = told
        .recv_timeout(std::time::Duration::from_millis(PATIENCE_MS))
        .unwrap_or(Err(DownReason::Hanging { silent_ms: PATIENCE_MS }));
    match present {
        Err(why) => PcscListing { readers: vec![], problem: Some(why.to_string()) },
        Ok(present) => {
            let readers = present.into_iter().map(|reader| PcscReader {
                lamp: LampChoice::Auto.model(&reader.name).is_some(),
                name: reader.name,
                card: reader.card,
            });
            PcscListing { readers: readers.collect(), problem: None }
        }
    }
}

#[cfg(not(feature = "pcsc"))]
fn pcsc_listing() -> PcscListing {
    PcscListing { readers: vec![], problem: Some("this edge-agent was built without PC/SC".to_owned()) }
}

fn pcsc_match(how: Option<&PcscConfig>, listing: &PcscListing) -> (String, Option<String>) {
    let part = how.and_then(|pcsc| pcsc.matching.as_deref());
    let wanted = part.map_or("the first PC/SC reader".to_owned(), |part| format!("PC/SC \"{part}\""));
    let found = listing.readers.iter().find(|reader| is_called(&reader.name, part));
    (wanted, found.map(|reader| reader.name.clone()))
}

/// Ports that a reader may be at: by their lasting names, and the rest by their device names.
fn serial_ports() -> Vec<Port> {
    const KINDS: [&str; 4] = ["ttyUSB", "ttyACM", "ttyAMA", "serial"];
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.path().display().to_string()).collect();
        names.sort();
        names
    };
    let device = |path: &str| std::fs::canonicalize(path).ok().map(|device| device.display().to_string());
    let mut ports: Vec<Port> =
        names("/dev/serial/by-id").into_iter().map(|path| Port { device: device(&path), path }).collect();
    for path in names("/dev") {
        let name = path.trim_start_matches("/dev/");
        let numbered = |kind: &&str| {
            name.strip_prefix(kind).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        };
        let listed = ports.iter().any(|port| port.device.as_deref() == Some(&path));
        if KINDS.iter().any(numbered) && !listed {
            ports.push(Port { path, device: None });
        }
    }
    ports
}

fn listing_text(listing: &Listing) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "PC/SC readers");
    for reader in &listing.pcsc.readers {
        let card = if reader.card { ", a card is on it" } else { "" };
        let lamp = if reader.lamp { ", light and sound" } else { "" };
        let _ = writeln!(out, "  {}{card}{lamp}", reader.name);
    }
    match &listing.pcsc.problem {
        Some(problem) => _ = writeln!(out, "  {problem}"),
        None if listing.pcsc.readers.is_empty() => _ = writeln!(out, "  none"),
        None => {}
    }
    let _ = writeln!(out, "serial ports");
    for port in &listing.serial_ports {
        let device = port.device.as_ref().map(|device| format!(" ({device})")).unwrap_or_default();
        let _ = writeln!(out, "  {}{device}", port.path);
    }
    if listing.serial_ports.is_empty() {
        let _ = writeln!(out, "  none");
    }
    let _ = writeln!(out, "configured readers");
    for reader in &listing.configured {
        let found = match &reader.found {
            Some(found) if reader.wanted.ends_with(found.as_str()) => "is there".to_owned(),
            Some(found) => format!("is \"{found}\""),
            None => "is not there".to_owned(),
        };
        let agent = match reader.agent.as_ref().map(|said| (said.state, said.taps)) {
            None => "no agent is running".to_owned(),
            Some((ReaderState::Up, taps)) => format!("the agent reads it, {taps} taps"),
            Some((ReaderState::Starting, _)) => "the agent is starting it".to_owned(),
            Some((ReaderState::Down, _)) => "the agent cannot read it".to_owned(),
        };
        let _ = writeln!(out, "  {}: {} {found}; {agent}", reader.reader, reader.wanted);
    }
    if listing.configured.is_empty() {
        let _ = writeln!(out, "  none");
    }
    out
}

// readers test

/// One thing that a tested reader said.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Card(Box<Card>),
    Removed { reader: String },
    Rejected { reader: String, kind: &'static str, why: String },
    Odd { reader: String, kind: &'static str, what: String },
    Up { reader: String, detail: String },
    Down { reader: String, kind: &'static str, why: String },
}

#[derive(Debug, Serialize)]
struct Card {
    reader: String,
    /// As it is sealed, and as `cloud-ingest badges import` takes it.
    badge: String,
    technology: &'static str,
    bit_count: u16,
    /// Why it would be no tap.
    not_a_badge: Option<String>,
    atr: Option<String>,
    atr_meaning: Option<String>,
    interpretations: Vec<Interpretation>,
}

fn test(config: Config, name: Option<&str>, output: Output, cards: Option<u64>) -> ExitCode {
    let Some(mut readers) = chosen(&config, name) else { return nobody(&config, name) };
    // Nothing is recorded here, so nothing is promised by a light.
    readers
        .iter_mut()
        .filter_map(|reader| reader.pcsc.as_mut())
        .for_each(|pcsc| pcsc.lamp = LampChoice::None);
    let agent_runs = running_agent(&config).is_some();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map(|runtime| runtime.block_on(watch(readers, agent_runs, output, cards))) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The readers to test; where none is configured, the first PC/SC reader.
fn chosen(config: &Config, name: Option<&str>) -> Option<Vec<ReaderConfig>> {
    let is_meant = |reader: &&ReaderConfig| name.is_none_or(|name| reader.name.as_str() == name);
    let named: Vec<ReaderConfig> = config.readers.iter().filter(is_meant).cloned().collect();
    match (name, named.is_empty()) {
        (Some(_), true) => None,
        (None, true) => Some(vec![ReaderConfig {
            name: "first".parse().expect("it is a slug"),
            direction: Default::default(),
            pcsc: Some(PcscConfig::default()),
            serial: None,
        }]),
        (_, false) => Some(named),
    }
}

fn nobody(config: &Config, name: Option<&str>) -> ExitCode {
    let known: Vec<String> = config.readers.iter().map(|reader| reader.name.to_string()).collect();
    complain(&format!("no reader is called {}; configured: {}", name.unwrap_or_default(), known.join(", ")));
    ExitCode::FAILURE
}

async fn watch(readers: Vec<ReaderConfig>, agent_runs: bool, output: Output, cards: Option<u64>) -> ExitCode {
    let (events_in, mut events) = channel(MAX_WAITING_EVENTS);
    let mut still = readers.len();
    let ports: BTreeMap<String, SerialConfig> =
        readers.iter().filter_map(|reader| Some((reader.name.to_string(), reader.serial.clone()?))).collect();
    let running: Vec<RunningReader> =
        readers.iter().filter_map(|reader| start_reader(reader, events_in.clone())).collect();
    drop(events_in);
    note("Show cards; end with Ctrl-C. Numbers are personal data: they are shown here and written nowhere.");
    if agent_runs && ports.len() < readers.len() {
        note("The agent is running: a card at a PC/SC reader is recorded as a tap as well.");
    }
    let mut left = cards.unwrap_or(u64::MAX);
    while left > 0 && still > 0 {
        let event = tokio::select! {
            Some(event) = events.recv() => event,
            _ = ctrl_c() => break,
            else => break,
        };
        left -= u64::from(matches!(event, ReaderEvent::Card(_)));
        if let ReaderEvent::Down { reader, why: DownReason::PortBusy { path } } = &event
            && agent_runs
        {
            complain(&held(reader.as_str(), Path::new(path)));
            still -= 1;
            continue;
        }
        let line = line(event);
        match output {
            Output::Json => say(&(serde_json::to_string(&line).unwrap_or_default() + "\n")),
            Output::Text => say(&line_text(&line)),
        }
    }
    for reader in running {
        reader.stop().await;
    }
    if still == 0 || left > 0 && cards.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn held(reader: &str, path: &Path) -> String {
    format!(
        "reader {reader}: the running agent holds the serial port {}, and a serial port has one user at a time. To test \
         it: systemctl stop edge-agent, test, systemctl start edge-agent",
        path.display()
    )
}

fn line(event: ReaderEvent) -> Line {
    match event {
        ReaderEvent::Card(read) => Line::Card(Box::new(card(&read))),
        ReaderEvent::Removed { reader, .. } => Line::Removed { reader: reader.to_string() },
        ReaderEvent::Rejected { reader, why } => {
            Line::Rejected { reader: reader.to_string(), kind: why.kind(), why: why.to_string() }
        }
        ReaderEvent::Odd { reader, what } => {
            Line::Odd { reader: reader.to_string(), kind: what.kind(), what: what.to_string() }
        }
        ReaderEvent::Up { reader, detail } => Line::Up { reader: reader.to_string(), detail },
        ReaderEvent::Down { reader, why } => {
            Line::Down { reader: reader.to_string(), kind: why.kind(), why: why.to_string() }
        }
    }
}

fn card(read: &CardRead) -> Card {
    // The rule that the agent goes by, with no memory of earlier cards.
    let not_a_badge = match Admission::new(0, []).admit(read) {
        Admitted::NotABadge(why) => Some(why.to_string()),
        Admitted::Tap { .. } | Admitted::Repeat { .. } => None,
    };
    Card {
        reader: read.reader.to_string(),
        badge: read.credential.reveal(),
        technology: read.credential.technology().name(),
        bit_count: read.credential.bit_count(),
        not_a_badge,
        atr: read.atr.as_deref().map(|bytes| HEXUPPER.encode(bytes)),
        atr_meaning: read.atr.as_deref().map(|bytes| atr::read(bytes).to_string()),
        interpretations: interpretations(&read.credential),
    }
}

fn line_text(line: &Line) -> String {
    match line {
        Line::Card(card) => card_text(card),
        Line::Removed { reader } => format!("{reader}: the card left\n"),
        Line::Rejected { reader, why, .. } => format!("{reader}: no number: {why}\n"),
        Line::Odd { reader, what, .. } => format!("{reader}: {what}\n"),
        Line::Up { reader, detail } => format!("{reader}: ready ({detail})\n"),
        Line::Down { reader, why, .. } => format!("{reader}: {why}\n"),
    }
}

fn card_text(card: &Card) -> String {
    let mut out = format!("{}: {} ({} bits)\n", card.reader, card.badge, card.bit_count);
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "    {name:<40}{value}");
    };
    if let Some(why) = &card.not_a_badge {
        row("not a badge", why);
    }
    if let (Some(atr), Some(meaning)) = (&card.atr, &card.atr_meaning) {
        row("ATR", atr);
        row("", meaning);
    }
    card.interpretations.iter().for_each(|way| row(way.name, &way.value));
    out
}

/// For people, beside the output that scripts read.
fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
