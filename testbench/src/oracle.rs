//! The judge: compares what the controller committed with what the cloud stored and what the legacy API was told. It
//! reads the outboxes and the event store from their files, and asks no program whether it did well.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, ensure};
use cloud_ingest::event_store::{EventFilter, place::Place};
use rusqlite::{Connection, OpenFlags};
use tap_protocol::{
    badge::Token,
    ids::{EventId, OutboxId, Seq},
    record::{Body, Record},
};

use crate::{
    legacy_sim::{Answer, Effect, Garbage, Mode},
    site::{Green, Site},
};

/// A tap on the medium, with its record's bytes.
#[derive(Clone, Debug)]
pub struct CommittedTap {
    /// In which outbox.
    pub outbox: OutboxId,
    /// Under which number.
    pub seq: Seq,
    /// Whose badge.
    pub token: Token,
    /// Its name.
    pub event_id: EventId,
}

/// What was committed on the controller's disk.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// Every record.
    pub records: BTreeMap<(OutboxId, Seq), Vec<u8>>,
    /// The taps among them, per outbox in order.
    pub taps: Vec<CommittedTap>,
}

/// Reads all outboxes of the site's controller.
///
/// # Errors
///
/// When a file cannot be read, or its numbers have a gap.
pub fn committed(site: &Site) -> anyhow::Result<Committed> {
    let mut all = Committed::default();
    for entry in std::fs::read_dir(site.outbox_dir())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "outbox") {
            read_outbox(site, &path, &mut all).with_context(|| path.display().to_string())?;
        }
    }
    Ok(all)
}

fn read_outbox(site: &Site, path: &Path, all: &mut Committed) -> anyhow::Result<()> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let outbox = OutboxId(db.query_row("SELECT outbox_id FROM outbox", [], |row| row.get(0))?);
    let mut rows = db.prepare("SELECT seq, bytes FROM record ORDER BY seq")?;
    let mut rows = rows.query([])?;
    let mut expected = Seq(1);
    while let Some(row) = rows.next()? {
        let (seq, bytes): (u64, Vec<u8>) = row.try_into()?;
        ensure!(seq == expected.0, "record {expected} is missing");
        if let Body::Tap(tap) = Record::decode(&bytes)?.body {
            let event_id = EventId::new(&site.controller(), outbox, expected);
            all.taps.push(CommittedTap { outbox, seq: expected, token: tap.badge.token, event_id });
        }
        all.records.insert((outbox, expected), bytes);
        expected = expected.next();
    }
    Ok(())
}

/// Checks the promise: every committed record is in the store once and byte for byte; every committed tap was answered
/// 2xx by the legacy API under exactly one key, in order per badge; nothing else was stored or delivered; green was
/// shown for committed taps only; the ledger balances.
///
/// # Errors
///
/// What of it does not hold.
pub async fn check_promise(site: &Site, greens: &[Green]) -> anyhow::Result<Committed> {
    let committed = committed(site)?;
    check_greens(&committed, greens)?;
    check_store(site, &committed).await?;
    check_deliveries(site, &committed)?;
    let ledger = site.cloud_ledger().await?;
    ensure!(ledger.balanced, "the ledger does not balance: {:?}", ledger.complaints);
    let taps = committed.taps.len() as u64;
    ensure!(ledger.taps == taps, "{taps} taps committed, {} in the ledger", ledger.taps);
    ensure!(ledger.in_state("delivered") == taps, "not all delivered: {:?}", ledger.by_state);
    Ok(committed)
}

fn check_greens(committed: &Committed, greens: &[Green]) -> anyhow::Result<()> {
    let ids: BTreeSet<String> = committed.taps.iter().map(|tap| tap.event_id.to_string()).collect();
    for green in greens {
        ensure!(
            ids.contains(&green.event_id),
            "green was shown for record {}, which is not on the medium",
            green.seq
        );
    }
    Ok(())
}

async fn check_store(site: &Site, committed: &Committed) -> anyhow::Result<()> {
    let place = site.place()?;
    // The store's calls block.
    let stored = tokio::task::spawn_blocking(move || stored(&place)).await??;
    for (key, bytes) in &stored {
        let (seq, original) = (key.1, committed.records.get(key));
        ensure!(original.is_some(), "record {seq} is stored and was never committed");
        ensure!(bytes.as_ref() == original, "record {seq} is stored with other bytes");
    }
    let missing: Vec<u64> =
        committed.records.keys().filter(|key| !stored.contains_key(key)).map(|key| key.1.0).collect();
    ensure!(missing.is_empty(), "committed and not stored: {missing:?}");
    Ok(())
}

/// The bytes of each record.
type Stored = BTreeMap<(OutboxId, Seq), Option<Vec<u8>>>;

/// What is there, from the store itself.
fn stored(place: &Place) -> anyhow::Result<Stored> {
    let mut store = place.open_reader()?;
    let (mut stored, mut before) = (BTreeMap::new(), None);
    loop {
        let page = store.events(&EventFilter { before, limit: 500, ..EventFilter::default() })?;
        let Some(last) = page.last() else { break };
        before = Some(last.position);
        for row in page {
            let bytes = store.record_bytes(&row.controller, row.outbox, row.seq)?;
            let before = stored.insert((row.outbox, row.seq), bytes);
            ensure!(before.is_none(), "record {} is stored twice", row.seq);
        }
    }
    Ok(stored)
}

fn check_deliveries(site: &Site, committed: &Committed) -> anyhow::Result<()> {
    let report = site.legacy.report();
    ensure!(report.conflicts.is_empty(), "one key with two bodies: {:?}", report.conflicts);
    ensure!(report.malformed == 0, "{} malformed requests", report.malformed);
    let mut answered_2xx = BTreeSet::new();
    for request in site.legacy.requests() {
        let booked = matches!(request.effect, Effect::Processed | Effect::Duplicate);
        let answered_well = match request.mode {
            Some(Mode::Ok | Mode::Slow { .. }) => true,
            // A body that reads as documented is documented, whatever its label says of a compression.
            Some(Mode::Garbage { kind, .. }) => kind == Garbage::FalseEncoding,
            _ => false,
        };
        if booked && answered_well && matches!(request.answer, Answer::Status(200..300)) {
            answered_2xx.extend(request.key);
        }
    }
    let by_id: BTreeMap<String, &CommittedTap> =
        committed.taps.iter().map(|tap| (tap.event_id.to_string(), tap)).collect();
    let mut last_seq: BTreeMap<(OutboxId, Token), Seq> = BTreeMap::new();
    let mut processed = BTreeSet::new();
    for check_in in &report.processed {
        let key = &check_in.key;
        let tap = by_id.get(key).with_context(|| format!("{key} was delivered and never committed"))?;
        ensure!(processed.insert(key.clone()), "{key} was processed twice");
        let last = last_seq.insert((tap.outbox, tap.token), tap.seq);
        ensure!(
            last < Some(tap.seq),
            "{key} (record {}) was processed after {last:?} of the same badge",
            tap.seq
        );
    }
    for id in by_id.keys() {
        ensure!(processed.contains(id), "{id} was committed and never processed");
        ensure!(answered_2xx.contains(id), "{id} was never answered 2xx");
    }
    Ok(())
}
