//! Beside the line, as far as it is rows: what leaves the store. Knows no file and decides nothing about when.
//!
//! A range is read from one snapshot; the cut is one short transaction that makes the range archived for everybody; its
//! rows are removed after that, some at a time, and beside the service.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::Batch;
use tap_protocol::ids::{EventId, OutboxId, Seq};
use tap_protocol::limits::MAX_BATCH_RECORDS;

use super::proof::{Signatures, signed_batch, stored_record};
use super::session::{Dialect, Session, all, execute, one};
use super::values::{self, capped};
use super::writing::Writing;
use super::{reading, rereading, statements as sql};
use crate::event_store::archive::{
    Archived, ArchivedDelivery, ArchivedDifference, Candidate, Cut, KeptFor, NewSegment, Range, Segment,
    SegmentOutbox, Told,
};
use crate::event_store::meaning::Meaning;
use crate::event_store::{
    AttemptRow, DeliveryCount, DeliveryState, OutboxMark, Position, SignedBatch, StoreError, UtcMs,
};

/// So many rows are read at once.
const ROWS_AT_ONCE: usize = 1_000;

/// So many positions are removed in one transaction: on SQLite it keeps the service's writer waiting.
const POSITIONS_AT_ONCE: u64 = 1_000;

/// Who is told, until no more is wanted.
type Teller<'t> = &'t mut dyn FnMut(Told) -> ControlFlow<()>;

/// `range_size, through`.
fn archiving(session: &dyn Session) -> Result<(u64, Position), StoreError> {
    let row = one(session, sql::ARCHIVING, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    row.ok_or_else(|| StoreError::broken("the row that says what is archived is gone"))
}

/// Events up to this position are archived.
pub fn through(session: &dyn Session) -> Result<Position, StoreError> {
    Ok(archiving(session)?.1)
}

pub fn archived(snapshot: &dyn Session) -> Result<Archived, StoreError> {
    let through = through(snapshot)?.0;
    let sums = one(snapshot, sql::ARCHIVED_SUMS, [], |row| {
        Ok(Archived {
            through,
            segments: row.get(0)?,
            records: row.get(1)?,
            taps: row.get(2)?,
            deliveries: row.get(3)?,
            attempts: row.get(4)?,
        })
    })?;
    Ok(sums.unwrap_or_default())
}

pub fn range_after(
    snapshot: &dyn Session,
    after: Position,
    before: UtcMs,
) -> Result<Option<Candidate>, StoreError> {
    let (size, through) = archiving(snapshot)?;
    let from = Position(after.max(through).0 + 1);
    let to = match snapshot.dialect() {
        Dialect::Sqlite => Some(from.0 + size - 1),
        Dialect::Postgres => {
            one(snapshot, sql::RANGE_FROM, [from], |row| row.get::<u64>(0))?.map(|end| end - 1)
        }
    };
    let Some(to) = to.filter(|to| *to <= reading::totals(snapshot).map_or(0, |totals| totals.last_position))
    else {
        return Ok(None);
    };
    let range = Range { from, to: Position(to) };
    let received = one(snapshot, sql::RANGE_RECEIVED, (range.from, range.to), |row| {
        Ok((row.get::<u64>(0)?, row.get(1)?, row.get(2)?))
    })?;
    let (records, received_from, received_to) =
        received.ok_or_else(|| StoreError::broken("a sum over no rows has no row"))?;
    if records != range.len() {
        let (from, to) = (range.from.0, range.to.0);
        return Err(StoreError::broken(format!(
            "of the positions {from} to {to} only {records} are there: run cloud-ingest events verify"
        )));
    }
    let mut kept_for = Vec::new();
    if received_to >= before {
        kept_for.push(KeptFor::Young { before });
    }
    kept_for.extend(still_needed(snapshot, range)?);
    Ok(Some(Candidate { range, received_from, received_to, kept_for }))
}

/// What is still needed of a range. Whatever else may come to need old events has its line here.
fn still_needed(snapshot: &dyn Session, range: Range) -> Result<Vec<KeptFor>, StoreError> {
    let mut kept_for = Vec::new();
    for (no, destination, make_next, make_through) in destinations(snapshot)? {
        for state in DeliveryState::ALL.into_iter().filter(|state| !has_ended(*state)) {
            let wanted = (no, state, range.from, range.to);
            let found = one(snapshot, sql::RANGE_IN_STATE, wanted, |row| {
                Ok((row.get::<u64>(0)?, row.get::<Option<Position>>(1)?))
            })?;
            if let Some((count, Some(first))) = found {
                let destination = destination.clone();
                kept_for.push(KeptFor::Deliveries { destination, state, count, first });
            }
        }
        if make_next <= make_through && make_next <= range.to {
            kept_for.push(KeptFor::Backfill { destination, from: make_next });
        }
    }
    if rereading::state(snapshot)?.to_look_through > 0 {
        kept_for.push(KeptFor::NotLookedThrough);
    }
    let replayed = one(snapshot, sql::RANGE_REPLAYED, (range.from, range.to), |row| {
        Ok((row.get::<u64>(0)?, row.get::<Option<Position>>(1)?))
    })?;
    if let Some((count, Some(first))) = replayed {
        kept_for.push(KeptFor::Replays { count, first });
    }
    let unread = one(snapshot, sql::RANGE_UNREAD, (range.from, range.to), |row| {
        Ok((row.get::<u64>(0)?, row.get::<Option<Position>>(1)?))
    })?;
    if let Some((count, Some(first))) = unread {
        kept_for.push(KeptFor::Unread { count, first });
    }
    Ok(kept_for)
}

/// Whether nothing comes of it any more. A dead one waits for a person.
fn has_ended(state: DeliveryState) -> bool {
    match state {
        DeliveryState::Delivered | DeliveryState::Discarded => true,
        DeliveryState::Held
        | DeliveryState::Pending
        | DeliveryState::InFlight
        | DeliveryState::Unknown
        | DeliveryState::Parked
        | DeliveryState::Dead => false,
    }
}

/// `no, name, make_next, make_through`.
fn destinations(session: &dyn Session) -> Result<Vec<(i64, String, Position, Position)>, StoreError> {
    all(session, sql::DESTINATION_STATES, [], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(11)?, row.get(12)?))
    })
}

pub fn read_range(snapshot: &dyn Session, range: Range, told: Teller<'_>) -> Result<(), StoreError> {
    for outbox in range_outboxes(snapshot)? {
        if outbox.read(snapshot, range, told)?.is_break() {
            return Ok(());
        }
    }
    for (no, name, ..) in destinations(snapshot)? {
        let went_on = match told(Told::Destination(name)) {
            ControlFlow::Continue(()) => read_destination(snapshot, no, range, told)?,
            ended => ended,
        };
        if went_on.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// An outbox of which something is not archived.
struct RangeOutbox {
    no: i64,
    mark: OutboxMark,
    prefix: [u8; 16],
    controller_no: i64,
}

fn range_outboxes(snapshot: &dyn Session) -> Result<Vec<RangeOutbox>, StoreError> {
    let rows = all(snapshot, sql::RANGE_OUTBOXES, [], |row| {
        let outbox = OutboxId(row.get(2)?);
        let hash = row.get::<Option<[u8; 32]>>(5)?.map_or(ChainHash::start(outbox), ChainHash);
        let mark = OutboxMark {
            controller: reading::controller_id(&row.get::<String>(1)?)?,
            outbox,
            stored_through: Seq(row.get(4)?),
            hash,
        };
        Ok(RangeOutbox { no: row.get(0)?, mark, prefix: row.get(3)?, controller_no: row.get(6)? })
    })?;
    Ok(rows)
}

impl RangeOutbox {
    /// Its records in the range, which come next after what is archived of it, and their signatures.
    fn read(
        self,
        snapshot: &dyn Session,
        range: Range,
        told: Teller<'_>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let OutboxMark { controller, outbox, stored_through, hash } = self.mark;
        let mut signatures = Signatures::after(snapshot, self.no, stored_through);
        let mut last = stored_through;
        'pages: loop {
            let page = all(snapshot, sql::RANGE_RECORDS, (self.no, last.0, ROWS_AT_ONCE), |row| {
                let record = stored_record(row)?;
                let time = record.token.map(|_| values::time(row, 7)).transpose()?;
                Ok((record, time))
            })?;
            if page.is_empty() {
                break;
            }
            for (record, time) in page {
                if record.position > range.to {
                    break 'pages;
                }
                if last == stored_through {
                    let record_keys = reading::record_keys(snapshot, self.controller_no)?;
                    let record_keys = record_keys.into_iter().map(|known| known.key).collect();
                    let (controller, before) = (controller.clone(), (stored_through, hash));
                    let prefix = self.prefix;
                    if told(Told::Outbox { controller, outbox, prefix, record_keys, before }).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                last = record.seq;
                let tap = match (Meaning::of(&record.bytes), time) {
                    (Meaning::Tap(_, tap), Some(time)) => Some((time, tap.badge)),
                    _ => None,
                };
                if told(Told::Record(record, tap)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                for batch in signatures.through(last)? {
                    let batch = whole(snapshot, self.no, &controller, outbox, stored_through, batch)?;
                    if told(Told::Signature(batch)).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        if last == stored_through {
            return Ok(ControlFlow::Continue(()));
        }
        for batch in straddling(snapshot, self.no, last)? {
            let batch = with_message(snapshot, self.no, &controller, outbox, batch)?;
            if told(Told::Signature(batch)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// A signature that begins before what is left has its message, since the cut there.
fn whole(
    snapshot: &dyn Session,
    outbox_no: i64,
    controller: &tap_protocol::ids::ControllerId,
    outbox: OutboxId,
    archived: Seq,
    batch: SignedBatch,
) -> Result<SignedBatch, StoreError> {
    match batch.first_seq <= archived {
        true => with_message(snapshot, outbox_no, controller, outbox, batch),
        false => Ok(batch),
    }
}

/// Signatures over records on both sides of a cut after `last`.
fn straddling(session: &dyn Session, outbox_no: i64, last: Seq) -> Result<Vec<SignedBatch>, StoreError> {
    all(session, sql::STRADDLING, (outbox_no, last.0, MAX_BATCH_RECORDS as u64), signed_batch)
}

/// The same with the message that was signed, written again from the records where it was not kept.
fn with_message(
    session: &dyn Session,
    outbox_no: i64,
    controller: &tap_protocol::ids::ControllerId,
    outbox: OutboxId,
    mut batch: SignedBatch,
) -> Result<SignedBatch, StoreError> {
    if batch.proof.message.is_some() {
        return Ok(batch);
    }
    let (from, to) = (batch.first_seq, batch.last_seq);
    let before = from.0.saturating_sub(1);
    let hash_before = match before {
        0 => Some(ChainHash::start(outbox)),
        seq => one(session, sql::HASH_AT, (outbox_no, seq), |row| row.get(0))?.map(ChainHash),
    };
    // The place before may be archived, and its hash with it.
    let hash_before = match hash_before {
        Some(hash) => hash,
        None => range_outboxes(session)?
            .into_iter()
            .find(|known| known.no == outbox_no && known.mark.stored_through.0 == before)
            .map(|known| known.mark.hash)
            .ok_or_else(|| lacking(controller, from, to))?,
    };
    let records = all(session, sql::RECORDS_BETWEEN, (outbox_no, from.0, to.0), |row| row.get::<Vec<u8>>(0))?;
    if Some(records.len() as u64) != (to.0 + 1).checked_sub(from.0) {
        return Err(lacking(controller, from, to));
    }
    let rebuilt = Batch { controller: controller.clone(), outbox, first_seq: from, hash_before, records };
    batch.proof.message = Some(rebuilt.signed_before(&batch.proof.signature));
    Ok(batch)
}

fn lacking(controller: &tap_protocol::ids::ControllerId, from: Seq, to: Seq) -> StoreError {
    StoreError::broken(format!(
        "{controller}'s records {from} to {to} are not all there: run cloud-ingest events verify"
    ))
}

fn read_destination(
    snapshot: &dyn Session,
    no: i64,
    range: Range,
    told: Teller<'_>,
) -> Result<ControlFlow<()>, StoreError> {
    let before = Position(range.from.0 - 1);
    let mut after = before;
    loop {
        let page = all(snapshot, sql::RANGE_DELIVERIES, (no, after, range.to, ROWS_AT_ONCE), |row| {
            Ok(ArchivedDelivery {
                position: row.get(0)?,
                order_key: row.get(1)?,
                state: row.get(2)?,
                due: row.get(3)?,
                attempts: row.get(4)?,
                failures: row.get(5)?,
                class: row.get(6)?,
                body: row.get(7)?,
                direction: row.get(8)?,
            })
        })?;
        let Some(last) = page.last() else { break };
        after = last.position;
        if page.into_iter().any(|delivery| told(Told::Delivery(delivery)).is_break()) {
            return Ok(ControlFlow::Break(()));
        }
    }
    let destination: String = match destinations(snapshot)?.into_iter().find(|(known, ..)| *known == no) {
        Some((_, name, ..)) => name,
        None => return Ok(ControlFlow::Continue(())),
    };
    let mut after = (before, u32::MAX);
    loop {
        let wanted = (no, after.0, after.1, range.to, ROWS_AT_ONCE);
        let page = all(snapshot, sql::RANGE_ATTEMPTS, wanted, |row| {
            let attempt = AttemptRow {
                destination: destination.clone(),
                number: row.get(1)?,
                started: row.get(2)?,
                finished: row.get(3)?,
                outcome: row.get(4)?,
                status: row.get(5)?,
                answer: row.get(6)?,
            };
            Ok((row.get::<Position>(0)?, attempt))
        })?;
        let Some((position, last)) = page.last() else { break };
        after = (*position, last.number);
        if page.into_iter().any(|(position, attempt)| told(Told::Attempt(position, attempt)).is_break()) {
            return Ok(ControlFlow::Break(()));
        }
    }
    let mut differences = all(snapshot, sql::RANGE_DIFFERENCES, (no, range.from, range.to), |row| {
        Ok(ArchivedDifference {
            position: row.get(0)?,
            what: row.get(1)?,
            told: row.get(2)?,
            is: row.get(3)?,
            noted: row.get(4)?,
        })
    })?;
    differences.sort_by(|one, other| (one.position, &one.what).cmp(&(other.position, &other.what)));
    Ok(match differences.into_iter().any(|difference| told(Told::Difference(difference)).is_break()) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    })
}

/// The cut.
pub fn archive(writing: &mut Writing<'_>, segment: &NewSegment) -> Result<Cut, StoreError> {
    let (range, session) = (segment.range, writing.snapshot()?);
    if let Some(what) = changed(session, segment)? {
        return Ok(Cut::Changed(what));
    }
    let no: i64 = writing.insert(
        sql::NEW_SEGMENT,
        (
            range.from,
            range.to,
            &segment.file,
            segment.sha256,
            segment.bytes,
            range.len(),
            segment.taps,
            segment.deliveries.iter().map(|cell| cell.count).sum::<u64>(),
            segment.attempts,
            segment.received.0,
            segment.received.1,
            segment.made,
            &segment.made_by,
        ),
    )?;
    let known: BTreeMap<_, _> = range_outboxes(session)?
        .into_iter()
        .map(|known| ((known.mark.controller.clone(), known.mark.outbox), known))
        .collect();
    for SegmentOutbox { controller, outbox, from, to, hash_before, hash_after } in &segment.outboxes {
        let Some(known) = known.get(&(controller.clone(), *outbox)) else {
            return Err(StoreError::broken(format!("there is no outbox {outbox} of {controller} any more")));
        };
        let outbox_no = known.no;
        writing
            .execute(sql::NEW_SEGMENT_OUTBOX, (no, outbox_no, from.0, to.0, hash_before.0, hash_after.0))?;
        // What is left must prove itself without what goes.
        for batch in straddling(session, outbox_no, *to)? {
            let batch = with_message(session, outbox_no, controller, *outbox, batch)?;
            writing.execute(sql::KEEP_MESSAGE, (outbox_no, batch.last_seq.0, batch.proof.message))?;
        }
        let archived = (outbox_no, to.0, hash_after.0, known.mark.stored_through.0);
        writing.execute(sql::OUTBOX_ARCHIVED, archived)?;
    }
    for (destination_no, name, ..) in destinations(session)? {
        for cell in segment.deliveries.iter().filter(|cell| cell.destination == name) {
            writing.execute(sql::NEW_SEGMENT_DELIVERIES, (no, destination_no, cell.state, cell.count))?;
        }
    }
    for badge in &segment.badges {
        writing.execute(sql::NEW_PAST_BADGE, (badge.token.0, badge.key_id.0, &badge.ciphertext))?;
    }
    if writing.totals.disputed > 0 {
        let disputed = one(session, sql::RANGE_DISPUTED, (range.from, range.to), |row| row.get::<u64>(0))?;
        writing.totals.disputed -= disputed.unwrap_or(0);
    }
    writing.execute(sql::ARCHIVED_THROUGH, [range.to])?;
    Ok(Cut::Done)
}

/// What is not as it was read.
fn changed(session: &dyn Session, segment: &NewSegment) -> Result<Option<String>, StoreError> {
    let range = segment.range;
    let through = through(session)?;
    if range.from.0 != through.0 + 1 {
        return Ok(Some(format!("the store is archived up to position {} by now", through.0)));
    }
    let kept_for = still_needed(session, range)?;
    if let Some(kept_for) = kept_for.first() {
        return Ok(Some(format!("the range is needed again: {kept_for}")));
    }
    let (mut attempts, mut found) = (0u64, Vec::new());
    for (no, name, ..) in destinations(session)? {
        let rows = all(session, sql::RANGE_COUNTS, (no, range.from, range.to), |row| {
            let (state, count) = (row.get(0)?, row.get(1)?);
            Ok((DeliveryCount { destination: name.clone(), state, count }, row.get::<u64>(2)?))
        })?;
        attempts += rows.iter().map(|(_, attempts)| attempts).sum::<u64>();
        found.extend(rows.into_iter().map(|(cell, _)| cell));
    }
    let is_read = |cell: &DeliveryCount| segment.deliveries.contains(cell);
    if found.len() != segment.deliveries.len() || !found.iter().all(is_read) || attempts != segment.attempts {
        return Ok(Some("its deliveries have changed since they were read".into()));
    }
    Ok(None)
}

/// The partitions of a range go first, with most of its space; then what hangs on it, some positions at a time.
pub fn remove_archived(session: &dyn Session) -> Result<bool, StoreError> {
    let segment = one(session, sql::TO_REMOVE, [], |row| {
        let range = Range { from: row.get(1)?, to: row.get(2)? };
        Ok((row.get::<i64>(0)?, range, row.get::<Position>(3)?))
    })?;
    let Some((no, range, removed)) = segment else { return Ok(false) };
    let destinations = destinations(session)?;
    if removed.0 + 1 == range.from.0 && session.dialect() == Dialect::Postgres {
        for statement in sql::DROP_RANGE {
            execute(session, &statement.replace("{from}", &range.from.0.to_string()), [])?;
        }
    }
    let from = Position(removed.0 + 1);
    let to = range.to.min(Position(removed.0 + POSITIONS_AT_ONCE));
    for (destination_no, ..) in &destinations {
        execute(session, sql::REMOVE_ATTEMPTS, (destination_no, from, to))?;
        execute(session, sql::REMOVE_DELIVERIES, (destination_no, from, to))?;
    }
    execute(session, sql::REMOVE_DIFFERENCES, (from, to))?;
    if session.dialect() == Dialect::Sqlite {
        execute(session, sql::REMOVE_TAPS, (from, to))?;
        execute(session, sql::REMOVE_EVENTS, (from, to))?;
    }
    if to == range.to {
        let outboxes =
            all(session, sql::SEGMENT_OUTBOX_NOS, [no], |row| Ok((row.get::<i64>(0)?, row.get::<u64>(1)?)))?;
        for (outbox_no, last) in outboxes {
            execute(session, sql::REMOVE_BATCHES, (outbox_no, last))?;
        }
    }
    execute(session, sql::REMOVED, (no, to))?;
    Ok(true)
}

pub fn segments(snapshot: &dyn Session) -> Result<Vec<Segment>, StoreError> {
    let rows = all(snapshot, sql::SEGMENTS, [], |row| {
        let range = Range { from: row.get(1)?, to: row.get(2)? };
        let sha256: [u8; 32] = row.get(4)?;
        let segment = Segment {
            range,
            file: row.get(3)?,
            sha256: data_encoding::HEXLOWER.encode(&sha256),
            bytes: row.get(5)?,
            records: row.get(6)?,
            taps: row.get(7)?,
            received_from: row.get(10)?,
            received_to: row.get(11)?,
            outboxes: Vec::new(),
            deliveries: Vec::new(),
            attempts: row.get(9)?,
            made: row.get(12)?,
            made_by: row.get(13)?,
            is_removed: row.get::<Position>(14)? == range.to,
        };
        Ok((row.get::<i64>(0)?, segment))
    })?;
    let segments = rows.into_iter().map(|(no, mut segment)| {
        segment.outboxes = all(snapshot, sql::SEGMENT_OUTBOXES, [no], |row| {
            Ok(SegmentOutbox {
                controller: reading::controller_id(&row.get::<String>(0)?)?,
                outbox: OutboxId(row.get(1)?),
                from: Seq(row.get(2)?),
                to: Seq(row.get(3)?),
                hash_before: ChainHash(row.get(4)?),
                hash_after: ChainHash(row.get(5)?),
            })
        })?;
        segment.deliveries = all(snapshot, sql::SEGMENT_DELIVERIES, [no], |row| {
            Ok(DeliveryCount { destination: row.get(0)?, state: row.get(1)?, count: row.get(2)? })
        })?;
        Ok(segment)
    });
    segments.collect()
}

pub fn segment_with(snapshot: &dyn Session, id: EventId) -> Result<Option<String>, StoreError> {
    let key = (id.outbox_prefix().to_bytes(), capped(id.seq().0));
    one(snapshot, sql::SEGMENT_WITH, key, |row| row.get(0))
}
