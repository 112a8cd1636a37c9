//! Beside the line: puts the parts together and takes them apart again. The only place that knows them all.
//!
//! ```text
//! broker ── connection ──▶ inbox ──▶ worker ──▶ store ──▶ dispatcher ──▶ destination
//!               ▲                      │ acknowledgements, receipts
//!               └──────────────────────┘
//! ```
//!
//! The end comes in the order of the taps' way: nothing new is stored, requests under way are answered, what was
//! acknowledged leaves, and the store closes last.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::api::{self, Served};
use crate::capture;
use crate::capture::allowance::Allowance;
use crate::capture::desk::{self, Desk};
use crate::capture::drain::{self, Drain};
use crate::capture::http::Capturing;
use crate::capture::keeper::Keeper;
use crate::capture::spool::Spool;
use crate::capture::spool::shelf::Found;
use crate::chance::Chance;
use crate::clock::{Clock, Monotonic};
use crate::config::{self, CaptureEntry, Config, EnrolmentEntry, Secrets};
use crate::delivery::supervise::{self, Open, Supervisor};
use crate::destination::open::AnyDestination;
use crate::enrolment::{self, Enrolling};
use crate::event_store::capture::Sitting;
use crate::event_store::handle::StoreHandle;
use crate::event_store::migrations;
use crate::event_store::place::{AnyStore, Place};
use crate::event_store::{Change, Deed, EventStore, NewDestination, Since, UtcMs};
use crate::health::Health;
use crate::intake::holding::{Hold, holding};
use crate::intake::worker::{self, Worker};
use crate::intake::{inbox, mqtt, roster};
use crate::keyring::live::{self, LiveKeys};
use crate::keyring::random;
use crate::lock;
use crate::rereading::{self, Rereader};
use crate::roles::Roles;
use crate::roll::{self, Calling};
use crate::roster::librarian::{self, Librarian};
use crate::service_manager;
use crate::stop::{self, Stop};
use crate::telemetry::{Metrics, with_causes};
use crate::tls_listener::TlsListener;
use crate::usher;
use crate::watch::{self as health_watch, Watch};

/// Open HTTP connections may finish for so long.
const HTTP_GOODBYE: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT, or until a part fails that must not.
pub async fn serve(config: Config, secrets: Secrets, roles: Roles) -> anyhow::Result<()> {
    let clock = Clock::system();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;

    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make {}", config.data_dir.display()))?;
    let _lock = lock::take(&config.data_dir)?;
    let place = config.place()?;
    if let Place::File(path) = &place {
        let path = path.display();
        ensure!(roles.are_all(), "the store is a file, {path}: one process does everything (--role all)");
    }
    let (store, reading_store) = tokio::task::spawn_blocking({
        let (config, place, now) = (config.clone(), place.clone(), clock.now());
        move || open(&place, &config, now)
    })
    .await??;
    let (writer, writer_thread) = StoreHandle::spawn("store-writer", store)?;
    let (reader, reader_thread) = StoreHandle::spawn("store-reader", reading_store)?;

    let (keys, looking) = live::open(config.keys.dir.clone(), secrets.keys);
    let (roll, rolled) = watch::channel(Arc::default());
    let (usher, calls) = usher::bell();
    let mut calling = Calling {
        store: reader.clone(),
        keys: keys.clone(),
        clock: clock.clone(),
        crl_file: config.crl_file(),
        roll,
        usher: usher.clone(),
        written: None,
    };
    if roles.ingest {
        // Before the first message is taken, it is known who is revoked.
        calling.call().await.context("cannot find out who is revoked")?;
    }

    let metrics = Arc::new(Metrics::new());
    let health = Arc::new(Health::of(roles.loops()));
    let wake = Arc::new(Notify::new());
    let reread_wake = Arc::clone(&wake);
    let (to_worker, from_broker) = inbox();
    let store_is_here = matches!(place, Place::File(_));
    let (hold, holding) = match place {
        Place::File(_) => (Hold::Alone, None),
        Place::Server(_) => {
            let (holding, hold) = holding(writer.clone(), config.broker.name(), own_name(&config));
            (hold, roles.ingest.then_some(holding))
        }
    };
    let (connection, link) = mqtt::connection(&config.broker, to_worker, Arc::clone(&health), clock.clone())?;
    let (desk, said) = roster::desk();
    let listener = TcpListener::bind(config.http.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.http.listen))?;
    let address = listener.local_addr()?;
    let enrolment = match config.enrolment.clone() {
        Some(settings) if roles.api => Some(open_enrolment(settings, &keys, &writer, &clock).await?),
        Some(_) | None => None,
    };

    let sitting = Sitting(random()?);
    let (to_worker_captured, captured) = mpsc::channel(desk::MAX_WAITING);
    let wiring = Wiring { store: &writer, keys: &keys, clock: &clock, metrics: &metrics, wake: &wake };
    let entry = config.capture.as_ref().filter(|_| roles.api);
    let capture = open_capture((&config, entry), wiring, to_worker_captured).await?;

    let (work_stopper, work_stop) = stop::pair();
    let (line_stopper, line_stop) = stop::pair();
    let (claim_stopper, claim_stop) = stop::pair();
    let mut parts = JoinSet::new();
    let intake = worker::run(
        Worker {
            store: writer.clone(),
            link: link.clone(),
            hold: hold.clone(),
            roster: desk,
            keys: keys.clone(),
            roll: rolled,
            usher,
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
            wake: Arc::clone(&wake),
            sitting,
        },
        from_broker,
        captured,
        work_stop.clone(),
    );
    let dispatch = supervise::run(
        Supervisor {
            open: opener(&config, &clock),
            writer: writer.clone(),
            reader: reader.clone(),
            clock: clock.clone(),
            monotonic: Monotonic::system(),
            chance: Chance::system(),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
            wake,
        },
        work_stop.clone(),
    );
    let librarian = librarian::run(
        Librarian {
            writer: writer.clone(),
            reader: reader.clone(),
            link,
            keys: keys.clone(),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
        },
        said,
        work_stop.clone(),
    );
    if roles.ingest || roles.api {
        // Where nobody takes in from the broker, it stores what comes over HTTP.
        parts.spawn(intake);
    }
    if roles.ingest {
        parts.spawn(librarian);
        parts.spawn(roll::run(calling, work_stop.clone()));
        parts.spawn(usher::run(config.broker.clone(), calls, clock.clone(), work_stop.clone()));
    }
    if roles.dispatch {
        parts.spawn(dispatch);
    }
    if roles.ingest {
        parts.spawn(rereading::run(
            Rereader { store: writer.clone(), clock: clock.clone(), wake: Arc::clone(&reread_wake) },
            work_stop.clone(),
        ));
    }
    let OpenCapture { drain, keeper, listening } = capture;
    parts.spawn(drain::run(drain, work_stop.clone()));
    parts.spawn(keeper.run(work_stop.clone()));
    parts.spawn(looking.run(work_stop.clone()));
    parts.spawn(service_manager::run(Arc::clone(&health), store_is_here, work_stop.clone()));
    parts.spawn(health_watch::run(
        Watch {
            writer,
            reader: reader.clone(),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
        },
        work_stop,
    ));
    let claim = holding.map(|holding| tokio::spawn(holding.run(claim_stop)));
    let mut line = match roles.ingest {
        true => tokio::spawn(connection.run(hold, line_stop.clone())),
        false => {
            let stop = line_stop.clone();
            tokio::spawn(async move {
                // Its end of the worker's inbox stays open.
                let _unused = connection;
                until(stop).await;
            })
        }
    };
    let served = Served { store: reader, metrics, health, clock };
    let router = if roles.api { api::router(served) } else { api::monitoring(served) };
    let enrolling = enrolment.map(|(listener, enrolling)| {
        let mut stop = line_stop.clone();
        tokio::spawn(enrolment::serve(listener, enrolling, async move { stop.said().await }))
    });
    let capturing = listening.map(|(listener, capturing)| {
        let mut stop = line_stop.clone();
        tokio::spawn(capture::http::serve(listener, capturing, async move { stop.said().await }))
    });
    let mut http_stop = line_stop;
    let http = tokio::spawn(async move {
        axum::serve(listener, router).with_graceful_shutdown(async move { http_stop.said().await }).await
    });

    tracing::info!(%address, store = %place, %roles, "ready");
    // Not under systemd, these do nothing.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let why = tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
        ended = parts.join_next() => Err(failure(ended)),
        ended = &mut line => Err(failure(Some(ended))),
    };
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    if let Ok(signal) = why {
        tracing::info!(signal, "stopping");
    }

    work_stopper.stop();
    let mut failed = why.err();
    while let Some(ended) = parts.join_next().await {
        if ended.is_err() {
            failed.get_or_insert(failure(Some(ended)));
        }
    }
    line_stopper.stop();
    if !line.is_finished() {
        wait(line).await;
    }
    // The next one may take the broker's session now, and waits for nothing.
    claim_stopper.stop();
    if let Some(claim) = claim {
        wait(claim).await;
    }
    if timeout(HTTP_GOODBYE, http).await.is_err() {
        tracing::debug!("some HTTP connections were cut");
    }
    if let Some(capturing) = capturing
        && timeout(HTTP_GOODBYE, capturing).await.is_err()
    {
        tracing::debug!("some connections that bring taps were cut");
    }
    if let Some(enrolling) = enrolling
        && timeout(HTTP_GOODBYE, enrolling).await.is_err()
    {
        tracing::debug!("some connections for enrolment were cut");
    }
    reader_thread.close().await;
    writer_thread.close().await;
    match failed {
        None => Ok(()),
        Some(failure) => Err(failure),
    }
}

/// What capture needs of the rest.
struct Wiring<'p> {
    store: &'p StoreHandle,
    keys: &'p LiveKeys,
    clock: &'p Clock,
    metrics: &'p Arc<Metrics>,
    wake: &'p Arc<Notify>,
}

/// The parts of capture. What waits in the spool is stored also where nobody listens any more.
struct OpenCapture {
    drain: Drain,
    keeper: Keeper,
    listening: Option<(TlsListener, Capturing)>,
}

async fn open_capture(
    (config, entry): (&Config, Option<&CaptureEntry>),
    Wiring { store, keys, clock, metrics, wake }: Wiring<'_>,
    to_worker: mpsc::Sender<desk::Arrived>,
) -> anyhow::Result<OpenCapture> {
    let dir = config.spool();
    let limit_bytes = config.capture.as_ref().map_or(0, |entry| entry.spool_max_bytes);
    let (spool, found) = Spool::open(&dir, limit_bytes)
        .with_context(|| format!("cannot open the spool in {}", dir.display()))?;
    if found != Found::default() {
        let Found { waiting, damaged_bytes, unreadable } = found;
        tracing::warn!(waiting, damaged_bytes, ?unreadable, "taps wait in the spool from before");
    }
    let (keeper, book) = Keeper::open(store.clone()).await.context("cannot read the API keys")?;
    let drain = Drain {
        spool: spool.clone(),
        store: store.clone(),
        keys: keys.clone(),
        clock: clock.clone(),
        metrics: Arc::clone(metrics),
        wake: Arc::clone(wake),
    };
    let Some(entry) = entry else { return Ok(OpenCapture { drain, keeper, listening: None }) };
    let tcp = TcpListener::bind(entry.listen)
        .await
        .with_context(|| format!("cannot listen on {} for taps", entry.listen))?;
    let listener = TlsListener::new(tcp, capture::listening(entry, keys), clock.clone())
        .context("cannot open the listener for taps")?;
    let capturing = Capturing {
        book,
        allowance: Arc::new(Mutex::new(Allowance::new(capture::rate(entry)))),
        keys: keys.clone(),
        desk: Desk::new(to_worker, spool, Arc::clone(metrics), desk::PATIENCE),
        clock: clock.clone(),
        metrics: Arc::clone(metrics),
    };
    tracing::info!(address = %entry.listen, "taps come in over HTTPS");
    Ok(OpenCapture { drain, keeper, listening: Some((listener, capturing)) })
}

/// The listener where controllers come by their certificates.
async fn open_enrolment(
    settings: EnrolmentEntry,
    keys: &LiveKeys,
    store: &StoreHandle,
    clock: &Clock,
) -> anyhow::Result<(TlsListener, Enrolling)> {
    let tcp = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {} for enrolment", settings.listen))?;
    let listener =
        TlsListener::new(tcp, enrolment::listening(settings.all_names(), keys.clone()), clock.clone())
            .context("cannot make the enrolment listener's certificate")?;
    let enrolling = Enrolling::new(store.clone(), keys.clone(), settings, clock.clone())?;
    Ok((listener, enrolling))
}

/// The store, to write and to read, with what the configuration names.
fn open(place: &Place, config: &Config, now: UtcMs) -> anyhow::Result<(AnyStore, AnyStore)> {
    if config.migrates_at_start() {
        let migrated = place.migrate(now, &mut |told| tracing::info!("{}", migrations::sentence(&told)));
        migrated.with_context(|| format!("cannot open {place}"))?;
    }
    let mut store = place.open(now).with_context(|| format!("cannot open {place}"))?;
    introduce(store.as_mut(), config, now).context("cannot tell the store about the configuration")?;
    let reader = place.open_reader().with_context(|| format!("cannot read {place}"))?;
    Ok((store, reader))
}

/// What the configuration names is known to the store before anything runs.
fn introduce(store: &mut dyn EventStore, config: &Config, now: UtcMs) -> anyhow::Result<()> {
    for site in config.sites() {
        store.put_site(&site)?;
    }
    for controller in config.controllers() {
        let known = store.member(&controller.id)?;
        if known.is_some_and(|member| member.certificate.is_some()) {
            tracing::warn!(
                controller = %controller.id,
                "was enrolled: its [[controller]] in the configuration counts no more, take it out"
            );
        } else {
            store.put_controller(&controller)?;
        }
    }
    match &config.destination {
        Some(declared) => declare(store, declared, now),
        None => Ok(()),
    }
}

/// The destination that the configuration declares is in the store as it is declared, whoever changed it there.
fn declare(store: &mut dyn EventStore, declared: &config::Destination, now: UtcMs) -> anyhow::Result<()> {
    let settings = serde_json::to_string(&declared.settings()?)?;
    let credentials_file = declared.authorization_file.as_ref().map(|file| file.display().to_string());
    let (name, deed) = (&declared.name, Deed::by_itself(now, "declare", &declared.name));
    let known = store.destinations()?.into_iter().find(|known| known.destination == *name);
    let Some(known) = known else {
        let new = NewDestination { name: name.clone(), settings, credentials_file, from: Since::Now };
        store.add_destination(&new, &deed)?;
        return Ok(());
    };
    if known.settings != settings {
        store.change_destination(name, &Change::Settings(settings), &deed)?;
    }
    if known.credentials_file != credentials_file {
        store.change_destination(name, &Change::Credentials(credentials_file), &deed)?;
    }
    Ok(())
}

/// Makes what speaks to a destination.
fn opener(config: &Config, clock: &Clock) -> Box<Open<AnyDestination>> {
    let guard = config.guard();
    let clock = clock.clone();
    Box::new(move |settings, credentials| {
        AnyDestination::open(settings, credentials, &guard, clock.clone())
            .map_err(|error| with_causes(&error))
    })
}

/// Who this is among several processes on one store, over all restarts: the folder is locked, so nobody else has it.
fn own_name(config: &Config) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), config.data_dir.display())
}

/// Stands for the broker's connection where there is none.
async fn until(mut stop: Stop) {
    stop.said().await;
}

async fn wait(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "the broker's connection ended badly");
    }
}

/// No part ends by itself: if one does, systemd had better start us anew.
fn failure(ended: Option<Result<(), JoinError>>) -> anyhow::Error {
    match ended {
        Some(Err(error)) => anyhow::Error::new(error).context("a part of the service failed"),
        Some(Ok(())) | None => anyhow::anyhow!("a part of the service ended by itself"),
    }
}
