//! Step 11 of 12, as far as it is rows: what is due is claimed, as much of each kind as is allowed; and before that, old
//! events are given deliveries to a destination that came later.

use std::collections::BTreeSet;

use tap_protocol::badge::Token;
use tap_protocol::ids::{EventId, OutboxId, Seq};

use super::bindings;
use super::delivery::Desk;
use super::directions::Directions;
use super::following::{Follows, Happened};
use super::session::{Row, Rows};
use super::statements as sql;
use super::values::{capped, time};
use super::writing::Writing;
use crate::delivery::class::{Class, Waiting};
use crate::delivery::order::{self, Change, Standing};
use crate::delivery::rules::LEASE_MS;
use crate::event_store::meaning::{self, Meaning};
use crate::event_store::{
    Claim, Claimed, DeliverableTap, DeliveryState, MAX_MADE_AT_ONCE, Occurred, OrderKey, Position, Rendered,
    Site, StoreError, Timeless, UtcMs,
};

/// The outcome of a tap of which no request can be made.
const IMPOSSIBLE: &str = "impossible";

/// What was claimed, and when to ask again.
#[derive(Default)]
pub(super) struct Claims {
    pub claimed: Vec<Claimed>,
    pub impossible: Vec<(EventId, String)>,
    /// So many are sent for the first time, and before all other controllers were known to be complete past them.
    pub early: usize,
    /// Some were ended without a request: there may be others at once.
    pub more: bool,
    pub again_in_ms: Option<u64>,
}

pub(super) fn claim(desk: &mut Desk<'_, '_, '_>) -> Result<Claims, StoreError> {
    let (room, again_in_ms) = room(desk);
    if room == 0 {
        return Ok(Claims { again_in_ms, ..Claims::default() });
    }
    let now = desk.now;
    let mut due: [Vec<Due>; 4] = Default::default();
    for (class, one) in desk.writing.all(sql::CLAIMABLE, (desk.no, now, capped(room as u64)), Due::read)? {
        due[class as usize].push(one);
    }
    let waiting = [0, 1, 2, 3].map(|class| Waiting {
        count: due[class].len(),
        waited_ms: due[class].first().map_or(0, |first| u64::try_from(now.0 - first.due.0).unwrap_or(0)),
    });
    let starts = desk.row.shares.divide(waiting, room);
    let mut taking = Taking::default();
    for ((class, due), starts) in Class::ALL.into_iter().zip(due).zip(starts) {
        for due in due.into_iter().take(starts) {
            take(desk, class, due, &mut taking)?;
        }
    }
    let Taking { mut claims, rows, attempts, .. } = taking;
    desk.writing.change_each(&sql::CLAIM, &rows)?;
    desk.writing.snapshot()?.run_for_each(&sql::NEW_ATTEMPTS, attempts.values())?;
    desk.row.limiter.take(claims.claimed.len() as u32);
    claims.again_in_ms = match starts.iter().sum::<usize>() {
        // All that was due was taken.
        taken if taken < room => first_due(desk)?,
        _ => self::room(desk).1,
    };
    Ok(claims)
}

/// How many may be claimed; if none, how long that stays so.
fn room(desk: &mut Desk<'_, '_, '_>) -> (usize, Option<u64>) {
    let (turn, row) = (desk.turn, &mut desk.row);
    if row.is_paused
        || row.version != turn.version
        || row.make_next <= row.make_through
        || row.follow_next <= row.follow_through
        || turn.room == 0
    {
        return (0, None);
    }
    if desk.ticks < row.held_until {
        return (0, Some(row.held_until.since(desk.ticks)));
    }
    if turn.rules.shadow {
        return (turn.room, None);
    }
    let at_once = turn.rules.limits.concurrency;
    let by_breaker = row.breaker.room(&turn.rules.breaker, desk.ticks, at_once, desk.under_way);
    if by_breaker == 0 {
        return (0, row.breaker.again_in_ms(desk.ticks));
    }
    let by_limit = row.limiter.room(&turn.rules.limits, desk.under_way, desk.now);
    (turn.room.min(by_breaker.min(by_limit.calls) as usize), Some(by_limit.again_in_ms))
}

/// When the first that waits is due.
fn first_due(desk: &Desk<'_, '_, '_>) -> Result<Option<u64>, StoreError> {
    let firsts = desk.writing.all(sql::FIRST_DUE, [desk.no], |row| row.get::<UtcMs>(0))?;
    let first = firsts.into_iter().min();
    Ok(first.map(|due| u64::try_from(due.0.saturating_sub(desk.now.0)).unwrap_or(0)))
}

/// What is collected over one transaction.
#[derive(Default)]
struct Taking {
    claims: Claims,
    /// For [`sql::CLAIM`].
    rows: Rows,
    /// For [`sql::NEW_ATTEMPTS`].
    attempts: Rows,
    directions: Directions,
}

/// Claims one that is due, or ends it if there is nothing to be sent for it.
fn take(
    desk: &mut Desk<'_, '_, '_>,
    class: Class,
    due: Due,
    Taking { claims, rows, attempts, directions }: &mut Taking,
) -> Result<(), StoreError> {
    let Due {
        position,
        state,
        attempts: before,
        failures,
        body,
        seq,
        ref bytes,
        occurred,
        uncertainty_ms,
        ..
    } = due;
    let (OrderKey::Person(person), Meaning::Tap(_, tap)) = (&due.key, Meaning::of(bytes)) else {
        return Err(StoreError::broken("a delivery is due that has no person or is of no tap"));
    };
    let controller = super::reading::controller_id(&due.controller)?;
    let event_id = EventId::new(&controller, due.outbox, seq);
    let mut tap = DeliverableTap {
        person: person.clone(),
        controller,
        site: due.site,
        reader: tap.reader,
        direction: tap.direction,
        occurred,
        uncertainty_ms,
    };
    directions.tell(desk.writing, (desk.no, position), body.is_some(), &mut tap)?;
    let rendered = match body {
        Some(body) => Rendered::Body(body),
        None => (desk.turn.render)(event_id, &tap),
    };
    desk.writing.last_lease += 1;
    let (lease, attempt, now) = (desk.writing.last_lease, before + 1, desk.now);
    let mut started = |ended: Option<(&'static str, &str)>| {
        let (outcome, why) = ended.unzip();
        attempts.push((desk.no, position, attempt, lease, now, ended.map(|_| now), outcome, why));
    };
    let body = match rendered {
        Rendered::Body(body) if !desk.turn.rules.shadow => body,
        Rendered::Body(body) => {
            started(Some(("shadow", "in shadow mode nothing is sent")));
            return end(
                desk,
                &due.key,
                (position, state),
                DeliveryState::Discarded,
                attempt,
                Some(body),
                claims,
            );
        }
        Rendered::NotWanted(why) => {
            started(Some(("not_wanted", &why)));
            return end(desk, &due.key, (position, state), DeliveryState::Discarded, attempt, None, claims);
        }
        Rendered::Impossible(why) => {
            started(Some((IMPOSSIBLE, &why)));
            claims.impossible.push((event_id, why));
            return end(desk, &due.key, (position, state), DeliveryState::Dead, attempt, None, claims);
        }
    };
    started(None);
    claims.early += usize::from(due.is_early && before == 0);
    let until = desk.ticks.plus(LEASE_MS);
    rows.push((desk.no, position, lease, until, attempt, &body));
    desk.writing.count_move(desk.no, state, DeliveryState::InFlight);
    desk.writing.totals.attempts += 1;
    desk.under_way += 1;
    desk.row.breaker.claimed(lease, until);
    let claim = Claim {
        destination: desk.turn.destination.to_owned(),
        position,
        lease,
        attempt,
        generation: desk.row.breaker.generation(),
    };
    let was_unknown = state == DeliveryState::Unknown;
    claims.claimed.push(Claimed { claim, event_id, failures, was_unknown, body, class, tap });
    Ok(())
}

/// Ends one that was due without a request.
fn end(
    desk: &mut Desk<'_, '_, '_>,
    key: &OrderKey,
    (position, from): (Position, DeliveryState),
    to: DeliveryState,
    attempt: u32,
    body: Option<String>,
    claims: &mut Claims,
) -> Result<(), StoreError> {
    let (blocks_until, reason) = match to {
        DeliveryState::Dead => (desk.blocks_until(), Some(IMPOSSIBLE)),
        _ => (None, None),
    };
    desk.writing.execute(sql::TAKE_OUT, (desk.no, position, to, attempt, body, blocks_until, reason))?;
    desk.writing.count_move(desk.no, from, to);
    reason.iter().for_each(|reason| desk.writing.count_letters(desk.no, reason, 1));
    desk.writing.totals.attempts += 1;
    claims.more = true;
    desk.call_next(&BTreeSet::from([key.clone()]))
}

/// A row of [`sql::CLAIMABLE`].
struct Due {
    position: Position,
    key: OrderKey,
    state: DeliveryState,
    due: UtcMs,
    attempts: u32,
    failures: u32,
    body: Option<String>,
    seq: Seq,
    bytes: Vec<u8>,
    occurred: UtcMs,
    uncertainty_ms: u64,
    outbox: OutboxId,
    controller: String,
    site: Site,
    is_early: bool,
}

impl Due {
    fn read(row: &Row<'_>) -> Result<(Class, Due), StoreError> {
        let due = Due {
            position: row.get(1)?,
            key: row.get(2)?,
            state: row.get(3)?,
            due: row.get(4)?,
            attempts: row.get(5)?,
            failures: row.get(6)?,
            body: row.get(7)?,
            seq: Seq(row.get(8)?),
            bytes: row.get(9)?,
            occurred: row.get(10)?,
            uncertainty_ms: row.get(11)?,
            outbox: OutboxId(row.get(12)?),
            controller: row.get(13)?,
            site: Site { id: row.get(14)?, label: row.get(15)?, zone: row.get(16)? },
            is_early: row.get(17)?,
        };
        Ok((row.get(0)?, due))
    }
}

/// Makes deliveries of old events, some at a time: until all are made nothing is claimed, so that nobody's later tap
/// goes before. Whether there is more to do.
pub(super) fn make_old(desk: &mut Desk<'_, '_, '_>) -> Result<bool, StoreError> {
    let (next, through) = (desk.row.make_next, desk.row.make_through);
    if next > through {
        return Ok(false);
    }
    let limit = capped(MAX_MADE_AT_ONCE as u64);
    let old = desk.writing.all(sql::OLD_TAPS, (desk.no, next, through, limit), |row| {
        let made: Option<Position> = row.get(9)?;
        let (occurred, controller_no) = (time(row, 3)?, row.get::<i64>(10)?);
        let happened = Happened::new(controller_no, occurred);
        Ok((row.get::<Position>(0)?, row.get::<[u8; 16]>(1)?, row.get::<UtcMs>(2)?, occurred, made, happened))
    })?;
    desk.row.make_next = match old.last() {
        Some((last, ..)) if old.len() == MAX_MADE_AT_ONCE => Position(last.0 + 1),
        _ => Position(through.0 + 1),
    };
    for (position, token, received, occurred, made, happened) in old {
        if made.is_none() && !is_too_early(occurred, desk.row.make_from) {
            let old = Old { position, token: Token(token), received, occurred, happened };
            put_old(desk.writing, desk.no, &old)?;
        }
    }
    Ok(true)
}

/// A tap that was stored long ago, of which a destination has not been told.
pub(super) struct Old {
    pub position: Position,
    pub token: Token,
    pub received: UtcMs,
    pub occurred: Result<Occurred, Timeless>,
    pub happened: Happened,
}

fn is_too_early(occurred: Result<Occurred, Timeless>, make_from: Option<UtcMs>) -> bool {
    occurred.is_ok_and(|occurred| make_from.is_some_and(|from| occurred.at < from))
}

/// Stores its delivery where it belongs.
fn put_old(writing: &mut Writing<'_>, destination: i64, old: &Old) -> Result<(), StoreError> {
    let Old { position, token, received, occurred, happened } = *old;
    let timeline = bindings::timeline_of(writing.snapshot()?, token)?;
    let held_for = meaning::held_for(occurred, timeline.holder(occurred));
    let key = bindings::key(&timeline, token, occurred);
    // What came since then stands behind it, unless it was sent: that cannot be called back.
    let first = writing.first_in_lane(destination, &key)?;
    let (rank, controller_no, at) = happened.columns(writing.follows(destination));
    let is_head = match first {
        Some(first) if first.place() < (rank, position) => false,
        Some(_) => writing.one(sql::LANE_SENT, (destination, &key), |_| Ok(()))?.is_none(),
        None => true,
    };
    let state = order::resting(held_for, is_head);
    writing.execute(
        sql::NEW_OLD_DELIVERY,
        (destination, position, &key, state, held_for, received, rank, controller_no, at),
    )?;
    writing.count_new(destination, state);
    if let Some(Standing { position, state: DeliveryState::Pending, .. }) = first.filter(|_| is_head) {
        let back = Change::of_state(position, DeliveryState::Pending, DeliveryState::Parked);
        writing.change(destination, &[back])?;
    }
    // Old taps wait for nobody: whoever waits before this one does so no more.
    if writing.follows(destination) == Follows::Order && first.is_some() {
        writing.settle(&BTreeSet::from([(destination, key)]))?;
    }
    Ok(())
}

/// A tap that could not be read when it was stored: whoever would have been told of it is told now. A destination that is
/// still being told of old taps comes to it by itself.
pub(super) fn tell_of_late(writing: &mut Writing<'_>, old: &Old) -> Result<(), StoreError> {
    let destinations = writing.all(sql::DESTINATIONS_OF_LATE, [], |row| {
        let reach: (Position, Position, Option<UtcMs>, Position) =
            (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        Ok((row.get::<i64>(0)?, reach))
    })?;
    for (no, (make_next, make_through, make_from, added_after)) in destinations {
        let was_there = old.position > added_after;
        let was_told_later = old.position <= make_through
            && old.position < make_next
            && !is_too_early(old.occurred, make_from);
        if was_there || was_told_later {
            put_old(writing, no, old)?;
        }
    }
    Ok(())
}
