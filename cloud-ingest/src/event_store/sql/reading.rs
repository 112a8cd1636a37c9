//! Beside the line: rows into answers, from one snapshot each. Changes nothing.

use tap_protocol::chain::ChainHash;
use tap_protocol::codec;
use tap_protocol::hello::Hello;
use tap_protocol::ids::{ControllerId, EventId, OutboxId, Seq, StoreEpoch};
use tap_protocol::keys::PublicKey;
use tap_protocol::limits::MAX_MESSAGE_BYTES;

use super::session::{Dialect, Row, Session, all, one};
use super::statements as sql;
use super::values::{self, capped};
use super::writing::counters;
use super::{archive, bindings, differences, directions};
use crate::directory::direction::{Decided, Shown};
use crate::event_store::meaning::{Meaning, OPAQUE};
use crate::event_store::{
    AttemptRow, Controller, ControllerState, DeadLetter, DeliveryCount, DeliveryRow, DeliveryState,
    DestinationName, EventDetail, EventFilter, EventRow, HeldFor, HelloState, OrderKey, OutboxMark,
    OutboxState, Position, RecordKey, Site, StoreError, TapRow, Totals, UtcMs,
};

pub fn store_epoch(snapshot: &dyn Session) -> Result<StoreEpoch, StoreError> {
    let epoch = one(snapshot, sql::EPOCH, [], |row| row.get(0).map(StoreEpoch))?;
    epoch.ok_or_else(|| StoreError::broken("the store's counter row is gone"))
}

pub fn clock(snapshot: &dyn Session, said: UtcMs) -> Result<UtcMs, StoreError> {
    match snapshot.dialect() {
        Dialect::Postgres => Ok(one(snapshot, sql::CLOCK, [], |row| row.get(0))?.unwrap_or(said)),
        Dialect::Sqlite => Ok(said),
    }
}

pub fn totals(snapshot: &dyn Session) -> Result<Totals, StoreError> {
    Ok(counters(snapshot, false)?.totals)
}

pub fn sites(snapshot: &dyn Session) -> Result<Vec<Site>, StoreError> {
    all(snapshot, sql::SITES, [], |row| Ok(Site { id: row.get(0)?, label: row.get(1)?, zone: row.get(2)? }))
}

pub fn controller(snapshot: &dyn Session, id: &ControllerId) -> Result<Option<Controller>, StoreError> {
    let found: Option<(i64, String, String)> =
        one(snapshot, sql::CONTROLLER, [id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let Some((no, label, site)) = found else { return Ok(None) };
    Ok(Some(Controller { id: id.clone(), label, site, record_keys: record_keys(snapshot, no)? }))
}

/// A controller's record keys, those of old included.
pub fn record_keys(snapshot: &dyn Session, controller_no: i64) -> Result<Vec<RecordKey>, StoreError> {
    all(snapshot, sql::RECORD_KEYS, [controller_no], |row| {
        Ok(RecordKey { key: PublicKey(row.get(0)?), good_until: row.get(1)? })
    })
}

/// A controller id as it was stored.
pub fn controller_id(stored: &str) -> Result<ControllerId, StoreError> {
    stored.parse().map_err(|bad| StoreError::Broken(Box::new(bad)))
}

pub fn marks(snapshot: &dyn Session) -> Result<Vec<OutboxMark>, StoreError> {
    let rows = all(snapshot, sql::MARKS, [], |row| {
        Ok((row.get::<String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    let marks = rows.into_iter().map(|(controller, outbox, stored_through, hash)| {
        Ok(OutboxMark {
            controller: controller_id(&controller)?,
            outbox: OutboxId(outbox),
            stored_through: Seq(stored_through),
            hash: ChainHash(hash),
        })
    });
    marks.collect()
}

pub fn controllers(snapshot: &dyn Session) -> Result<Vec<ControllerState>, StoreError> {
    let store_epoch = store_epoch(snapshot)?;
    let known = all(snapshot, sql::CONTROLLERS, [], |row| {
        let hello = row.get::<Option<Vec<u8>>>(4)?.zip(row.get(5)?).map(hello_state).transpose()?;
        let state = ControllerState {
            controller: Controller {
                id: controller_id(&row.get::<String>(1)?)?,
                label: row.get(2)?,
                site: row.get(3)?,
                record_keys: Vec::new(),
            },
            hello,
            gone: row.get(6)?,
            outboxes: Vec::new(),
            store_epoch,
        };
        Ok((row.get::<i64>(0)?, state))
    })?;
    let known = known.into_iter().map(|(no, mut state)| {
        state.controller.record_keys = record_keys(snapshot, no)?;
        state.outboxes = all(snapshot, sql::OUTBOXES, [no], outbox_state)?;
        Ok(state)
    });
    known.collect()
}

fn hello_state((bytes, received): (Vec<u8>, UtcMs)) -> Result<HelloState, StoreError> {
    let hello: Hello =
        codec::decode(&bytes, MAX_MESSAGE_BYTES).map_err(|bad| StoreError::Broken(Box::new(bad)))?;
    Ok(HelloState { received, hello })
}

fn outbox_state(row: &Row<'_>) -> Result<OutboxState, StoreError> {
    Ok(OutboxState {
        outbox: OutboxId(row.get(0)?),
        last_seq: Seq(row.get(1)?),
        stored_through: Seq(row.get(2)?),
        last_stored: row.get(3)?,
        last_occurred: row.get(4)?,
    })
}

pub fn dead_letters(snapshot: &dyn Session, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
    all(snapshot, sql::DEAD_LETTERS, [capped(limit as u64)], |row| {
        Ok(DeadLetter {
            received: row.get(0)?,
            topic: row.get(1)?,
            kind: row.get::<String>(2)?.into(),
            reason: row.get(3)?,
            bytes: row.get(4)?,
        })
    })
}

/// A destination's row.
struct Destination {
    no: i64,
    name: DestinationName,
}

fn known_destinations(snapshot: &dyn Session) -> Result<Vec<Destination>, StoreError> {
    all(snapshot, sql::DESTINATIONS, [], |row| Ok(Destination { no: row.get(0)?, name: row.get(1)? }))
}

pub(super) fn oldest_open_received(snapshot: &dyn Session, no: i64) -> Result<Option<UtcMs>, StoreError> {
    let mut oldest: Option<Position> = None;
    for state in DeliveryState::ALL.into_iter().filter(|state| state.is_open()) {
        let first = one(snapshot, sql::FIRST_IN_STATE, (no, state), |row| row.get(0))?;
        oldest = oldest.into_iter().chain(first).min();
    }
    match oldest {
        Some(position) => one(snapshot, sql::RECEIVED, [position], |row| row.get(0)),
        None => Ok(None),
    }
}

pub fn delivery_counts(snapshot: &dyn Session) -> Result<Vec<DeliveryCount>, StoreError> {
    let mut counts = Vec::new();
    for Destination { no, name } in known_destinations(snapshot)? {
        for state in DeliveryState::ALL {
            let count = one(snapshot, sql::COUNT, (no, state), |row| row.get(0))?.unwrap_or(0);
            counts.push(DeliveryCount { destination: name.clone(), state, count });
        }
    }
    Ok(counts)
}

pub fn record_bytes(
    snapshot: &dyn Session,
    controller: &ControllerId,
    outbox: OutboxId,
    seq: Seq,
) -> Result<Option<Vec<u8>>, StoreError> {
    one(snapshot, sql::RECORD_BYTES, (controller.as_str(), outbox.0, capped(seq.0)), |row| row.get(0))
}

pub fn events(snapshot: &dyn Session, filter: &EventFilter) -> Result<Vec<EventRow>, StoreError> {
    let destinations = known_destinations(snapshot)?;
    let rows = newest(snapshot, filter, &destinations)?.into_iter().map(|position| {
        let (row, _) = event_row(snapshot, position, &destinations)?;
        Ok(row)
    });
    rows.collect()
}

/// The positions that a list shows, each way by the index that finds them without a scan.
fn newest(
    snapshot: &dyn Session,
    filter: &EventFilter,
    destinations: &[Destination],
) -> Result<Vec<Position>, StoreError> {
    let before = filter.before.map_or(i64::MAX, |before| capped(before.0));
    let (limit, taps_only) = (capped(filter.limit as u64), filter.taps_only);
    let controller = filter.controller.as_ref().map(ControllerId::as_str);
    let mut found: Vec<Position> = Vec::new();
    match (filter.state, controller) {
        (Some(state), _) => {
            let sql = match state {
                DeliveryState::Delivered => sql::NEWEST_IN_STATE,
                _ => sql::NEWEST_UNDONE,
            };
            for Destination { no, .. } in destinations {
                let wanted = (before, controller, limit, no, state);
                found.extend(all(snapshot, sql, wanted, |row| row.get::<Position>(0))?);
            }
        }
        (None, Some(controller)) => {
            for outbox_no in all(snapshot, sql::OUTBOX_NOS, [controller], |row| row.get::<i64>(0))? {
                let wanted = (before, taps_only, limit, outbox_no);
                found.extend(all(snapshot, sql::NEWEST_OF_OUTBOX, wanted, |row| row.get::<Position>(0))?);
            }
        }
        (None, None) => {
            found = all(snapshot, sql::NEWEST, (before, taps_only, limit), |row| row.get(0))?;
        }
    }
    // What is archived may still lie here until it is removed.
    let archived = archive::through(snapshot)?;
    found.retain(|position| *position > archived);
    found.sort_unstable_by(|one, other| other.cmp(one));
    found.dedup();
    found.truncate(filter.limit);
    Ok(found)
}

pub fn event(snapshot: &dyn Session, id: EventId) -> Result<Option<EventDetail>, StoreError> {
    let key = (id.outbox_prefix().to_bytes(), id.seq().0);
    let Some(position) = one(snapshot, sql::POSITION_OF, key, |row| row.get(0))? else { return Ok(None) };
    if position <= archive::through(snapshot)? {
        return Ok(None);
    }
    let destinations = known_destinations(snapshot)?;
    let (row, hash) = event_row(snapshot, position, &destinations)?;
    let mut attempts = Vec::new();
    let mut bodies = Vec::new();
    for Destination { no, name } in &destinations {
        attempts.extend(all(snapshot, sql::ATTEMPTS, (no, position), |row| {
            Ok(AttemptRow {
                destination: name.clone(),
                number: row.get(0)?,
                started: row.get(1)?,
                finished: row.get(2)?,
                outcome: row.get(3)?,
                status: row.get(4)?,
                answer: row.get(5)?,
            })
        })?);
        let body: Option<Option<String>> = one(snapshot, sql::BODY, (no, position), |row| row.get(0))?;
        bodies.extend(body.flatten().map(|body| (name.clone(), body)));
    }
    let decided = row.tap.as_ref().map(|tap| decided(snapshot, &row, tap)).transpose()?;
    let differences = differences::of(snapshot, position)?;
    let reread = one(snapshot, sql::REREAD_AT, [position], |row| row.get(0))?.flatten();
    Ok(Some(EventDetail { row, hash, attempts, bodies, decided, differences, reread }))
}

/// Which way a tap goes, by what is known now.
fn decided(snapshot: &dyn Session, row: &EventRow, tap: &TapRow) -> Result<Decided, StoreError> {
    let holder = bindings::timeline_of(snapshot, tap.badge.token)?.holder(tap.occurred).cloned();
    let site: Option<String> = one(snapshot, sql::SITE_OF, [row.controller.as_str()], |row| row.get(0))?;
    let (Ok(occurred), Some(holder), Some(site)) = (tap.occurred, holder, site) else {
        return Ok(directions::not_yet(tap.direction));
    };
    let shown = Shown { at: occurred.at, position: row.position, placed: tap.direction.into() };
    let rules = directions::rules(snapshot, &site)?;
    directions::decide(snapshot, &holder, &site, shown, &rules)
}

fn event_row(
    snapshot: &dyn Session,
    position: Position,
    destinations: &[Destination],
) -> Result<(EventRow, ChainHash), StoreError> {
    let found = one(snapshot, sql::EVENT, [position], |row| {
        let (seq, bytes): (u64, Vec<u8>) = (row.get(1)?, row.get(4)?);
        let hash = ChainHash(row.get(5)?);
        let outbox = OutboxId(row.get(6)?);
        let controller = controller_id(&row.get::<String>(7)?)?;
        let kind: String = row.get(3)?;
        let tap = match Meaning::of(&bytes) {
            // What could not be read when it came is nothing else before it was read anew.
            Meaning::Tap(at, tap) if kind != OPAQUE => Some(TapRow {
                reader: tap.reader,
                badge: tap.badge,
                direction: tap.direction,
                verdict: tap.verdict,
                recorded_wall: UtcMs(at.wall_ms),
                occurred: values::time(row, 8)?,
                deliveries: Vec::new(),
            }),
            Meaning::Tap(..)
            | Meaning::Anchor(..)
            | Meaning::Start(..)
            | Meaning::Other(..)
            | Meaning::Opaque => None,
        };
        let row = EventRow {
            position,
            event_id: EventId::new(&controller, outbox, Seq(seq)),
            controller,
            outbox,
            seq: Seq(seq),
            received: row.get(2)?,
            kind,
            after_revocation: row.get(14)?,
            tap,
        };
        Ok((row, hash))
    })?;
    let Some((mut row, hash)) = found else {
        return Err(StoreError::broken(format!("there is no event at position {}", position.0)));
    };
    if let Some(tap) = &mut row.tap {
        tap.deliveries = deliveries(snapshot, position, destinations)?;
    }
    Ok((row, hash))
}

fn deliveries(
    snapshot: &dyn Session,
    position: Position,
    destinations: &[Destination],
) -> Result<Vec<DeliveryRow>, StoreError> {
    let mut deliveries = Vec::new();
    for Destination { no, name } in destinations {
        let row = one(snapshot, sql::DELIVERY, (no, position), |row| {
            let key: OrderKey = row.get(0)?;
            let state: DeliveryState = row.get(1)?;
            let held_for: Option<HeldFor> = row.get(2)?;
            let waits =
                matches!(state, DeliveryState::Pending | DeliveryState::Unknown) && held_for.is_none();
            let delivery = DeliveryRow {
                destination: name.clone(),
                state,
                held_for,
                person: None,
                attempts: row.get(4)?,
                next_attempt: waits.then_some(row.get(3)?),
                behind: None,
                blocks_until: row.get(5)?,
                class: row.get(6)?,
                is_early: row.get(8)?,
            };
            Ok((key, delivery, row.get::<i64>(7)?))
        })?;
        let Some((key, mut delivery, rank)) = row else { continue };
        if delivery.state == DeliveryState::Parked && delivery.held_for.is_none() {
            delivery.behind = ahead(snapshot, *no, &key, (rank, position))?;
        }
        delivery.person = match key {
            OrderKey::Person(person) => Some(person),
            OrderKey::Token(_) => None,
        };
        deliveries.push(delivery);
    }
    Ok(deliveries)
}

/// Who stands before a parked delivery: the one next before it, or, for the first, the one that is being sent.
fn ahead(
    snapshot: &dyn Session,
    no: i64,
    key: &OrderKey,
    (rank, position): (i64, Position),
) -> Result<Option<EventId>, StoreError> {
    let before: Option<Position> =
        one(snapshot, sql::LANE_BEFORE, (no, key, rank, position), |row| row.get(0))?;
    let ahead = match before {
        Some(before) => Some(before),
        None => one(snapshot, sql::LANE_SENT, (no, key), |row| row.get(0))?,
    };
    let Some(ahead) = ahead else { return Ok(None) };
    let name = one(snapshot, sql::EVENT, [ahead], |row| {
        Ok((row.get::<String>(7)?, OutboxId(row.get(6)?), Seq(row.get(1)?)))
    })?;
    let Some((controller, outbox, seq)) = name else { return Ok(None) };
    Ok(Some(EventId::new(&controller_id(&controller)?, outbox, seq)))
}
