//! `edge-agent run`: opens what the configuration names, starts threads and tasks, and turns the agent's loop.
//!
//! Nothing here waits for the network, for a reader or for the time: the first tap can come as soon as the outbox is
//! open.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use edge_agent::admission::{Admission, Place};
use edge_agent::agent::commands::Commands;
use edge_agent::agent::{Agent, Event, Setup, with_causes};
use edge_agent::clock_watch::ClockWatch;
use edge_agent::config::{Config, EXIT_CONFIG, ReaderConfig};
use edge_agent::control::Response;
use edge_agent::credentials::Credentials;
use edge_agent::enrolment::folder::RecordKey;
use edge_agent::identity::Identity;
use edge_agent::known_time::KnownTime;
use edge_agent::orders::{self, Book, FetchKeys, Orders};
use edge_agent::outbox::medium::Disk;
use edge_agent::outbox::shelf::{Owner, Shelf};
use edge_agent::outbox::worker::{OutboxThread, mint_outbox_id};
use edge_agent::outbox::{OutboxError, lock, mounts};
use edge_agent::reader::{ReaderEvent, RunningReader, serial};
use edge_agent::renewal_task::{self, RenewalHandle, Renewer};
use edge_agent::roster::keeper::RosterThread;
use edge_agent::service_manager::ServiceManager;
use edge_agent::signal::{Lamp, LogLamp, Signals};
use edge_agent::{broker_link, clock, control, log, metrics_out};
use ring::digest;
use tap_protocol::hello::ReaderKind;
use tap_protocol::report::Outcome;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::oneshot;
use tokio::time::{Duration, sleep};

use super::{ConfigArg, check, complain};

/// Events of one kind that may wait for the loop.
const MAX_WAITING_EVENTS: usize = 256;

/// How long the broker is given to hear the leave-taking.
const FAREWELL: Duration = Duration::from_millis(300);

pub fn run(file: PathBuf, config: Config, verbose: bool) -> ExitCode {
    if let Err(error) = log::install(verbose) {
        complain(&format!("cannot log: {error}"));
        return ExitCode::FAILURE;
    }
    let identity = match Identity::load(&config.keys) {
        Ok(identity) => identity,
        Err(error) => {
            complain(&edge_agent::agent::with_causes(&error));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended =
        runtime.context("cannot start").and_then(|runtime| runtime.block_on(serve(file, config, identity)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(file: PathBuf, config: Config, identity: Identity) -> anyhow::Result<()> {
    let boot_id = clock::boot_id().context("cannot read the kernel's boot id")?;
    let owner = Owner { controller: config.controller.clone(), machine: machine() };
    let folder = config.outbox_dir();
    let _lock = lock::take(&folder)?.with_context(|| {
        format!("another edge-agent uses {}: stop it, or give each its own state_dir", folder.display())
    })?;

    let (done_in, mut done) = channel(MAX_WAITING_EVENTS);
    let (asked_in, mut asked) = channel(MAX_WAITING_EVENTS);
    let (link_in, mut link) = channel(MAX_WAITING_EVENTS);
    let (read_in, mut reads) = channel(MAX_WAITING_EVENTS);
    let (renewal_in, mut renewals) = channel(MAX_WAITING_EVENTS);
    let (kept_in, mut kept) = channel(MAX_WAITING_EVENTS);
    let (ordered_in, mut ordered) = channel(MAX_WAITING_EVENTS);

    let listening = control::listen(&config.control_socket(), asked_in.clone())
        .await
        .with_context(|| format!("cannot make the control socket {}", config.control_socket().display()))?;
    let outbox = match volatile(&config)? {
        Some(why) => {
            let refusal = move || OutboxError::Volatile { folder: folder.clone(), why: why.clone() };
            tracing::error!("out of service: {}", refusal());
            OutboxThread::out_of_service(refusal, done_in)?
        }
        None => {
            let shelf = Shelf::open(Disk::shared(), &folder, &owner, mint_outbox_id)?;
            OutboxThread::start(shelf, config.outbox.limits(), boot_id, done_in)?
        }
    };
    let rosters = RosterThread::start(
        config.roster_dir(),
        config.controller.clone(),
        identity.control_keys.clone(),
        kept_in,
    )?;
    let places = config.readers.iter().map(place);
    let setup = Setup {
        controller: config.controller.clone(),
        boot_id,
        broker_address: format!("{}:{}", config.broker.url.host, config.broker.url.port),
        readers: config.readers.iter().map(|reader| (reader.name.clone(), kind(reader))).collect(),
    };
    let book = Book::load(&config.state_dir).unwrap_or_else(|error| {
        tracing::error!("{}: as if the cloud had never ordered anything", with_causes(&error));
        Book::default()
    });
    let known_time = KnownTime::load(&config.state_dir, boot_id);
    let credentials = Credentials::new(config.broker.clone(), Arc::clone(&known_time));
    let (renewal, renewing) = match &config.enrolment {
        Some(_) => {
            let renewer = Renewer::new(config.state_dir.clone(), Arc::clone(&known_time));
            let (renewal, task) = renewal_task::start(renewer, Arc::clone(&credentials), renewal_in.clone());
            (Some(renewal), Some(task))
        }
        // Files that a person named are looked at now, while the person is there.
        None => credentials.attempt().map(|_| (None, None)).map_err(|(_, error)| error)?,
    };
    let checked = ConfigArg { config: file };
    let fetch_keys = fetch_keys(renewal.clone());
    let orders =
        Orders::start(config.state_dir.clone(), move || check::subject(&checked), fetch_keys, ordered_in)?;
    let commands = Commands::new(orders, book);
    let admission = Admission::new(config.debounce_ms, places);
    let readers: Vec<RunningReader> =
        config.readers.iter().filter_map(|reader| start_reader(reader, read_in.clone())).collect();
    let log: Box<dyn Lamp> = Box::new(LogLamp);
    let lamps = readers.iter().filter_map(RunningReader::lamp).chain([log]).collect();
    let mut agent = Agent::new(setup, identity, admission, Signals::new(lamps), outbox, rosters, commands);
    readers.iter().for_each(|reader| agent.follow(reader));
    if let Some(renewal) = renewal {
        agent.renews_with(renewal);
    }
    agent.tells_time_to(Arc::clone(&known_time));
    let keeping_time = known_time.keep();
    let measuring = metrics_out::start(&config, asked_in);
    let linking = broker_link::start(credentials, &config.controller, link_in);

    let mut clock_watch = ClockWatch::start();
    let mut manager = ServiceManager::start()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tracing::info!("edge-agent {} is ready as {}", env!("CARGO_PKG_VERSION"), config.controller);
    manager.ready();
    loop {
        let nap = Duration::from_millis(agent.wake_at_ms().saturating_sub(clock::boottime_ms()));
        // Not biased: no source can starve another. Every branch only takes from a channel, which loses nothing.
        let event = tokio::select! {
            Some(done) = done.recv() => Event::Outbox(done),
            Some(read) = reads.recv() => Event::Reader(read),
            Some(asked) = asked.recv() => Event::Asked(asked),
            Some(done) = ordered.recv() => Event::Ordered(done),
            Some(event) = link.recv() => Event::Link(event),
            Some(news) = renewals.recv() => Event::Renewal(news),
            Some(kept) = kept.recv() => Event::Roster(kept),
            () = clock_watch.is_set() => Event::ClockSet,
            () = sleep(nap) => Event::Tick,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let is_tick = matches!(event, Event::Tick);
        agent.handle(event);
        if is_tick {
            manager.status(agent.status_line());
        }
        manager.feed(clock::boottime_ms(), || agent.stuck());
    }

    tracing::info!("stopping");
    manager.stopping();
    listening.abort();
    measuring.iter().for_each(|task| task.abort());
    renewing.iter().for_each(|task| task.abort());
    keeping_time.abort();
    for reader in readers {
        reader.stop().await;
    }
    // What the readers and the socket still gave is written too; then nothing more can come.
    while let Ok(read) = reads.try_recv() {
        agent.handle(Event::Reader(read));
    }
    // The roster's thread ends when nobody takes its answers.
    drop(kept);
    // The outbox's thread must find somebody who takes its answers while it ends.
    let draining = tokio::spawn(async move { while done.recv().await.is_some() {} });
    tokio::task::spawn_blocking(move || agent.stop()).await?;
    let _ = draining.await;
    sleep(FAREWELL).await;
    linking.abort();
    let _ = tokio::task::spawn_blocking(move || known_time.write_last()).await;
    let _ = std::fs::remove_file(config.control_socket());
    Ok(())
}

/// What the cloud's order to fetch keys does.
fn fetch_keys(renewal: Option<RenewalHandle>) -> FetchKeys {
    let Some(renewal) = renewal else { return Box::new(orders::provisioned_by_hand) };
    Box::new(move || {
        let (answer, answered) = oneshot::channel();
        renewal.ask(RecordKey::Same, answer);
        match answered.blocking_recv() {
            Ok(Response::Renewed(_)) => {
                (Outcome::Done, "certificate and keys were fetched; the certificate is being tried".into())
            }
            Ok(Response::Refused { why }) => (Outcome::Failed, why),
            Ok(_) | Err(_) => (Outcome::Failed, "the renewal gave no answer".into()),
        }
    })
}

/// Why what is committed in the outboxes' folder would not be durable, if so and not allowed.
fn volatile(config: &Config) -> anyhow::Result<Option<String>> {
    if config.outbox.allow_volatile {
        return Ok(None);
    }
    let folder = config.outbox_dir().canonicalize().context("cannot find the outboxes' folder")?;
    let table = std::fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(mounts::why_not_durable(&String::from_utf8_lossy(&table), &folder))
}

fn kind(reader: &ReaderConfig) -> ReaderKind {
    if reader.serial.is_some() { ReaderKind::Serial } else { ReaderKind::Pcsc }
}

fn place(reader: &ReaderConfig) -> Place {
    Place { reader: reader.name.clone(), kind: kind(reader), direction: reader.direction }
}

pub fn start_reader(reader: &ReaderConfig, events: Sender<ReaderEvent>) -> Option<RunningReader> {
    let name = reader.name.clone();
    if let Some(port) = &reader.serial {
        let path = port.port.display().to_string();
        let framing = port.framing().expect("the configuration was checked");
        let config = serial::SerialConfig { name, path, baud: port.baud, framing };
        return Some(serial::spawn(config, events, clock::boottime_ms));
    }
    start_pcsc(reader, events)
}

#[cfg(feature = "pcsc")]
fn start_pcsc(reader: &ReaderConfig, events: Sender<ReaderEvent>) -> Option<RunningReader> {
    use edge_agent::reader::pcsc;
    let how = reader.pcsc.clone().unwrap_or_default();
    let config = pcsc::PcscConfig { name: reader.name.clone(), name_contains: how.matching, lamp: how.lamp };
    Some(pcsc::spawn(config, events, clock::boottime_ms))
}

#[cfg(not(feature = "pcsc"))]
fn start_pcsc(reader: &ReaderConfig, _: Sender<ReaderEvent>) -> Option<RunningReader> {
    tracing::error!(reader = %reader.name, "this edge-agent was built without PC/SC: the reader stays unused");
    None
}

/// What tells this machine from a clone of its disk: the board's serial number where there is one (a Raspberry Pi's
/// device tree), else systemd's machine id, which a careless clone shares. Hashed, so that it can be shown.
pub fn machine() -> Vec<u8> {
    let sources = ["/sys/firmware/devicetree/base/serial-number", "/etc/machine-id"];
    let found = sources.iter().find_map(|path| std::fs::read(path).ok().filter(|text| !text.is_empty()));
    let text = [b"tapline/machine/v1\0".as_slice(), &found.unwrap_or_default()].concat();
    digest::digest(&digest::SHA256, &text).as_ref()[..16].to_vec()
}
