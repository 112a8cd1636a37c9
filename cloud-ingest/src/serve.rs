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

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::api::{self, Served};
use crate::clock::{Clock, Monotonic};
use crate::config::{self, Config, EnrolmentEntry, Secrets};
use crate::delivery::supervise::{self, Open, Supervisor};
use crate::destination::guard::Guard;
use crate::destination::open::AnyDestination;
use crate::enrolment::listener::TlsListener;
use crate::enrolment::{self, Enrolling};
use crate::event_store::handle::StoreHandle;
use crate::event_store::place::{AnyStore, Place};
use crate::event_store::{Change, Deed, EventStore, NewDestination, Since, UtcMs};
use crate::health::Health;
use crate::intake::worker::{self, Worker};
use crate::intake::{inbox, mqtt, roster};
use crate::keyring::live::{self, LiveKeys};
use crate::lock;
use crate::roll::{self, Calling};
use crate::roster::librarian::{self, Librarian};
use crate::stop;
use crate::telemetry::{Metrics, with_causes};
use crate::usher;
use crate::watch::{self as health_watch, Watch};

/// Open HTTP connections may finish for so long.
const HTTP_GOODBYE: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT, or until a part fails that must not.
pub async fn serve(config: Config, secrets: Secrets) -> anyhow::Result<()> {
    let clock = Clock::system();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;

    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make {}", config.data_dir.display()))?;
    let _lock = lock::take(&config.data_dir)?;
    let place = config.place()?;
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
        crl_file: config.enrolment.as_ref().and_then(|enrolment| enrolment.crl_file.clone()),
        roll,
        usher: usher.clone(),
        written: None,
    };
    // Before the first message is taken, it is known who is revoked.
    calling.call().await.context("cannot find out who is revoked")?;

    let metrics = Arc::new(Metrics::new());
    let health = Arc::new(Health::default());
    let wake = Arc::new(Notify::new());
    let (to_worker, from_broker) = inbox();
    let (connection, link) = mqtt::connection(&config.broker, to_worker, Arc::clone(&health), clock.clone())?;
    let (desk, said) = roster::desk();
    let listener = TcpListener::bind(config.http.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.http.listen))?;
    let address = listener.local_addr()?;
    let enrolment = match config.enrolment.clone() {
        Some(settings) => Some(open_enrolment(settings, &keys, &writer, &clock).await?),
        None => None,
    };

    let (work_stopper, work_stop) = stop::pair();
    let (line_stopper, line_stop) = stop::pair();
    let mut parts = JoinSet::new();
    parts.spawn(worker::run(
        Worker {
            store: writer.clone(),
            link: link.clone(),
            roster: desk,
            keys: keys.clone(),
            roll: rolled,
            usher,
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
            wake: Arc::clone(&wake),
        },
        from_broker,
        work_stop.clone(),
    ));
    parts.spawn(supervise::run(
        Supervisor {
            open: opener(&config, &clock),
            writer: writer.clone(),
            reader: reader.clone(),
            clock: clock.clone(),
            monotonic: Monotonic::system(),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
            wake,
        },
        work_stop.clone(),
    ));
    parts.spawn(librarian::run(
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
    ));
    parts.spawn(looking.run(work_stop.clone()));
    parts.spawn(roll::run(calling, work_stop.clone()));
    parts.spawn(usher::run(config.broker.clone(), calls, clock.clone(), work_stop.clone()));
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
    let mut line = tokio::spawn(connection.run(line_stop.clone()));
    let router = api::router(Served { store: reader, metrics, health, clock });
    let enrolling = enrolment.map(|(listener, enrolling)| {
        let mut stop = line_stop.clone();
        tokio::spawn(enrolment::serve(listener, enrolling, async move { stop.said().await }))
    });
    let mut http_stop = line_stop;
    let http = tokio::spawn(async move {
        axum::serve(listener, router).with_graceful_shutdown(async move { http_stop.said().await }).await
    });

    tracing::info!(%address, store = %place, "ready");
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
    if timeout(HTTP_GOODBYE, http).await.is_err() {
        tracing::debug!("some HTTP connections were cut");
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
    let listener = TlsListener::new(tcp, settings.all_names(), keys.clone(), clock.clone())
        .context("cannot make the enrolment listener's certificate")?;
    let enrolling = Enrolling::new(store.clone(), keys.clone(), settings, clock.clone())?;
    Ok((listener, enrolling))
}

/// The store, to write and to read, with what the configuration names.
fn open(place: &Place, config: &Config, now: UtcMs) -> anyhow::Result<(AnyStore, AnyStore)> {
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

/// Makes what speaks to a destination. Whoever may write the configuration may name any address in it.
fn opener(config: &Config, clock: &Clock) -> Box<Open<AnyDestination>> {
    let declared = config.destination.as_ref().and_then(|declared| declared.settings().ok());
    let guard = declared.map_or_else(Guard::default, |settings| Guard::default().named_by(&settings.url));
    let clock = clock.clone();
    Box::new(move |settings, credentials| {
        AnyDestination::open(settings, credentials, &guard, clock.clone()).map_err(|error| with_causes(&error))
    })
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
