//! Step 11 of 12, as far as it is rows: leasing, attempts and their ends. Knows no HTTP; who is next is for
//! [`crate::delivery::order`] to say.

use std::collections::BTreeSet;

use tap_protocol::ids::{EventId, OutboxId, Seq};

use super::directions::Directions;
use super::session::Row;
use super::statements as sql;
use super::values::capped;
use super::writing::Writing;
use crate::delivery::order::{self, Standing};
use crate::event_store::meaning::{self, Meaning};
use crate::event_store::{
    AttemptEnd, Claim, Claimed, DeliverableTap, DeliveryState, GIVE_UP_ON_TIME_AFTER_MS, Lease,
    MAX_ANSWER_BYTES, MAX_GIVEN_UP_AT_ONCE, Next, OrderKey, Position, Site, StoreError, UtcMs,
};

pub fn put_destination(writing: &mut Writing<'_>, name: &str) -> Result<(), StoreError> {
    if let Some(no) = writing.one(sql::PUT_DESTINATION, [name], |row| row.get::<i64>(0))? {
        for state in DeliveryState::ALL {
            writing.execute(sql::NEW_COUNT, (no, state))?;
        }
    }
    Ok(())
}

pub fn hold_destination(
    writing: &mut Writing<'_>,
    name: &str,
    until: UtcMs,
    why: &str,
) -> Result<(), StoreError> {
    match writing.execute(sql::HOLD_DESTINATION, (name, until, why))? {
        0 => Err(unknown(name)),
        _ => Ok(()),
    }
}

pub fn claim(
    writing: &mut Writing<'_>,
    destination: &str,
    now: UtcMs,
    lease_until: UtcMs,
    limit: usize,
) -> Result<Vec<Claimed>, StoreError> {
    let (no, held_until) = writing
        .one(sql::DESTINATION, [destination], |row| Ok((row.get(0)?, row.get::<Option<UtcMs>>(1)?)))?
        .ok_or_else(|| unknown(destination))?;
    if held_until.is_some_and(|until| now < until) {
        return Ok(Vec::new());
    }
    let due: Vec<Due> = writing.all(sql::CLAIMABLE, (no, now, capped(limit as u64)), Due::read)?;
    let mut directions = Directions::default();
    let claimed = due.into_iter().map(|due| {
        writing.last_lease += 1;
        let lease = writing.last_lease;
        writing.execute(sql::LEASE, (no, due.position, lease, lease_until))?;
        writing.count_move(no, due.state, DeliveryState::InFlight);
        let mut claimed = due.claimed(destination, lease)?;
        directions.tell(writing, no, &mut claimed)?;
        Ok(claimed)
    });
    claimed.collect()
}

/// A row of [`sql::CLAIMABLE`].
struct Due {
    position: Position,
    key: OrderKey,
    state: DeliveryState,
    attempts: u32,
    body: Option<String>,
    seq: Seq,
    bytes: Vec<u8>,
    occurred: UtcMs,
    uncertainty_ms: u64,
    outbox: OutboxId,
    controller: String,
    site: Site,
}

impl Due {
    fn read(row: &Row<'_>) -> Result<Due, StoreError> {
        Ok(Due {
            position: row.get(0)?,
            key: row.get(1)?,
            state: row.get(2)?,
            attempts: row.get(3)?,
            body: row.get(4)?,
            seq: Seq(row.get(5)?),
            bytes: row.get(6)?,
            occurred: row.get(7)?,
            uncertainty_ms: row.get(8)?,
            outbox: OutboxId(row.get(9)?),
            controller: row.get(10)?,
            site: Site { id: row.get(11)?, label: row.get(12)?, zone: row.get(13)? },
        })
    }

    fn claimed(self, destination: &str, lease: u64) -> Result<Claimed, StoreError> {
        let (OrderKey::Person(person), Meaning::Tap(_, tap)) = (self.key, Meaning::of(&self.bytes)) else {
            return Err(StoreError::broken("a delivery is due that has no person or is of no tap"));
        };
        let controller = super::reading::controller_id(&self.controller)?;
        Ok(Claimed {
            event_id: EventId::new(&controller, self.outbox, self.seq),
            claim: Claim { destination: destination.to_owned(), position: self.position, lease },
            attempts: self.attempts,
            body: self.body,
            tap: DeliverableTap {
                person,
                controller,
                site: self.site,
                reader: tap.reader,
                direction: tap.direction,
                occurred: self.occurred,
                uncertainty_ms: self.uncertainty_ms,
            },
        })
    }
}

/// A delivery that is leased.
struct Leased {
    key: OrderKey,
    attempts: u32,
    until: UtcMs,
    body: Option<String>,
}

fn leased(writing: &Writing<'_>, no: i64, claim: &Claim) -> Result<Option<Leased>, StoreError> {
    writing.one(sql::LEASED, (no, claim.position, claim.lease), |row| {
        Ok(Leased { key: row.get(0)?, attempts: row.get(1)?, until: row.get(2)?, body: row.get(3)? })
    })
}

/// The attempt that was started under a claim, by number.
fn attempt_of(writing: &Writing<'_>, no: i64, claim: &Claim) -> Result<Option<u32>, StoreError> {
    writing.one(sql::ATTEMPT_OF, (no, claim.position, claim.lease), |row| row.get(0))
}

pub fn start_attempt(
    writing: &mut Writing<'_>,
    claim: &Claim,
    body: &str,
    now: UtcMs,
) -> Result<Lease, StoreError> {
    let no = destination_no(writing, &claim.destination)?;
    let Some(leased) = leased(writing, no, claim)?.filter(|leased| now < leased.until) else {
        return Ok(Lease::Lost);
    };
    if leased.body.as_ref().is_some_and(|first| first != body) {
        return Err(StoreError::broken(format!(
            "position {} was sent to {} with another body before",
            claim.position.0, claim.destination
        )));
    }
    if attempt_of(writing, no, claim)?.is_none() {
        new_attempt(writing, no, claim, leased.attempts + 1, Some(body), now)?;
    }
    Ok(Lease::Held)
}

fn new_attempt(
    writing: &mut Writing<'_>,
    no: i64,
    claim: &Claim,
    number: u32,
    body: Option<&str>,
    now: UtcMs,
) -> Result<(), StoreError> {
    writing.execute(sql::NEW_ATTEMPT, (no, claim.position, number, claim.lease, now))?;
    writing.execute(sql::START_ATTEMPT, (no, claim.position, number, body))?;
    writing.totals.attempts += 1;
    Ok(())
}

pub fn finish(
    writing: &mut Writing<'_>,
    claim: &Claim,
    attempt: &AttemptEnd,
    next: Next,
) -> Result<Lease, StoreError> {
    let no = destination_no(writing, &claim.destination)?;
    let leased = leased(writing, no, claim)?;
    let number = match (attempt_of(writing, no, claim)?, &leased) {
        (Some(number), _) => Some(number),
        (None, Some(leased)) => {
            let number = leased.attempts + 1;
            new_attempt(writing, no, claim, number, leased.body.as_deref(), attempt.finished)?;
            Some(number)
        }
        (None, None) => None,
    };
    if let Some(number) = number {
        let answer = meaning::cut(&attempt.answer, MAX_ANSWER_BYTES);
        writing.execute(
            sql::END_ATTEMPT,
            (no, claim.position, number, attempt.finished, attempt.outcome, attempt.status, answer),
        )?;
    }
    let Some(leased) = leased else { return Ok(Lease::Lost) };
    match next {
        Next::Delivered => end(writing, no, claim.position, &leased.key, DeliveryState::Delivered)?,
        Next::Dead => end(writing, no, claim.position, &leased.key, DeliveryState::Dead)?,
        Next::UnknownUntil(due) => unlease(writing, no, claim.position, DeliveryState::Unknown, Some(due))?,
        Next::RetryAt(due) => back_in_line(writing, no, claim.position, &leased.key, due)?,
    }
    Ok(Lease::Held)
}

/// Ends a delivery for good and calls the next in line.
fn end(
    writing: &mut Writing<'_>,
    no: i64,
    position: Position,
    key: &OrderKey,
    state: DeliveryState,
) -> Result<(), StoreError> {
    unlease(writing, no, position, state, None)?;
    let next = writing.first_in_lane(no, key)?.and_then(order::next_in_line);
    writing.change(no, next.as_slice())
}

/// Puts a delivery that was not processed back into its lane.
fn back_in_line(
    writing: &mut Writing<'_>,
    no: i64,
    position: Position,
    key: &OrderKey,
    due: UtcMs,
) -> Result<(), StoreError> {
    let back = Standing { position, state: DeliveryState::InFlight, held_for: None };
    let first = writing.first_in_lane(no, key)?.unwrap_or(back);
    writing.execute(sql::UNLEASE, (no, position, DeliveryState::InFlight, due))?;
    writing.change(no, &order::back_in_line(first, back))
}

fn unlease(
    writing: &mut Writing<'_>,
    no: i64,
    position: Position,
    to: DeliveryState,
    due: Option<UtcMs>,
) -> Result<(), StoreError> {
    writing.execute(sql::UNLEASE, (no, position, to, due))?;
    writing.count_move(no, DeliveryState::InFlight, to);
    Ok(())
}

pub fn expire_leases(writing: &mut Writing<'_>, now: UtcMs) -> Result<usize, StoreError> {
    let mut expired = 0;
    for no in writing.all(sql::DESTINATIONS, [], |row| row.get::<i64>(0))? {
        let ran_out = writing.all(sql::EXPIRED, (no, now), |row| {
            Ok((row.get::<Position>(0)?, row.get::<OrderKey>(1)?, row.get::<u32>(2)?))
        })?;
        expired += ran_out.len();
        for (position, key, attempts) in ran_out {
            match attempts {
                0 => back_in_line(writing, no, position, &key, now)?,
                _ => unlease(writing, no, position, DeliveryState::Unknown, Some(now))?,
            }
        }
    }
    Ok(expired)
}

pub fn give_up_on_time(writing: &mut Writing<'_>, now: UtcMs) -> Result<usize, StoreError> {
    let received_by = UtcMs(now.0 - GIVE_UP_ON_TIME_AFTER_MS);
    let mut given_up = 0;
    for no in writing.all(sql::DESTINATIONS, [], |row| row.get::<i64>(0))? {
        let limit = capped((MAX_GIVEN_UP_AT_ONCE - given_up) as u64);
        let old = writing.all(sql::WITHOUT_TIME, (no, received_by, limit), |row| {
            Ok((row.get::<Position>(0)?, row.get::<OrderKey>(1)?))
        })?;
        given_up += old.len();
        let mut lanes = BTreeSet::new();
        for (position, key) in old {
            writing.execute(sql::GIVE_UP, (no, position))?;
            writing.count_move(no, DeliveryState::Held, DeliveryState::Parked);
            lanes.insert((no, key));
        }
        writing.settle(&lanes)?;
    }
    writing.totals.unresolved += given_up as u64;
    Ok(given_up)
}

fn destination_no(writing: &Writing<'_>, name: &str) -> Result<i64, StoreError> {
    writing.one(sql::DESTINATION, [name], |row| row.get(0))?.ok_or_else(|| unknown(name))
}

fn unknown(destination: &str) -> StoreError {
    StoreError::NotFound { what: "destination", name: destination.to_owned() }
}
