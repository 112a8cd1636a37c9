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
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::api::{self, Served};
use crate::clock::Clock;
use crate::config::{Config, Secrets};
use crate::delivery::dispatch::{self, Dispatcher};
use crate::destination::http_json::HttpJson;
use crate::event_store::EventStore;
use crate::event_store::handle::StoreHandle;
use crate::event_store::sqlite::SqliteStore;
use crate::health::Health;
use crate::intake::worker::{self, Worker};
use crate::intake::{inbox, mqtt};
use crate::lock;
use crate::intake::{inbox, mqtt, roster};
use crate::roster::librarian::{self, Librarian};
use crate::stop;
use crate::telemetry::Metrics;
use crate::watch::{self, Watch};

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
    let path = config.database();
    let mut store =
        SqliteStore::open(&path, clock.now()).with_context(|| format!("cannot open {}", path.display()))?;
    introduce(&mut store, &config).context("cannot tell the store about the configuration")?;
    let (writer, writer_thread) = StoreHandle::spawn("store-writer", store)?;
    let (reader, reader_thread) = StoreHandle::spawn("store-reader", SqliteStore::open_reader(&path)?)?;

    let metrics = Arc::new(Metrics::new(&config.destination.name));
    let health = Arc::new(Health::default());
    let wake = Arc::new(Notify::new());
    let (to_worker, from_broker) = inbox();
    let (connection, link) = mqtt::connection(&config.broker, to_worker, Arc::clone(&health), clock.clone())?;
    let (desk, said) = roster::desk();
    let destination = HttpJson::new(
        &config.destination.url,
        config.destination.timeout(),
        secrets.authorization.as_deref(),
        clock.clone(),
    )?;
    let listener = TcpListener::bind(config.http.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.http.listen))?;
    let address = listener.local_addr()?;

    let (work_stopper, work_stop) = stop::pair();
    let (line_stopper, line_stop) = stop::pair();
    let mut parts = JoinSet::new();
    parts.spawn(worker::run(
        Worker {
            store: writer.clone(),
            link: link.clone(),
            roster: desk,
            receipt_key: secrets.receipt_key,
            control_key: secrets.control_key.clone(),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
            wake: Arc::clone(&wake),
        },
        from_broker,
        work_stop.clone(),
    ));
    parts.spawn(dispatch::run(
        Dispatcher {
            name: config.destination.name.clone(),
            destination,
            timeout: config.destination.timeout(),
            max_in_flight: config.destination.max_in_flight,
            store: writer.clone(),
            clock: clock.clone(),
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
            control_key: secrets.control_key,
            token_keys: vec![secrets.token_key],
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
        },
        said,
        work_stop.clone(),
    ));
    parts.spawn(watch::run(
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
    let mut http_stop = line_stop;
    let http = tokio::spawn(async move {
        axum::serve(listener, router).with_graceful_shutdown(async move { http_stop.said().await }).await
    });

    tracing::info!(%address, store = %path.display(), "ready");
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
    reader_thread.close().await;
    writer_thread.close().await;
    match failed {
        None => Ok(()),
        Some(failure) => Err(failure),
    }
}

/// What the configuration names is known to the store before anything runs.
fn introduce(store: &mut dyn EventStore, config: &Config) -> anyhow::Result<()> {
    for site in config.sites() {
        store.put_site(&site)?;
    }
    for controller in config.controllers() {
        store.put_controller(&controller)?;
    }
    store.put_destination(&config.destination.name)?;
    Ok(())
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
