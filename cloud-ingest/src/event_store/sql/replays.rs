//! Beside the line, as far as it is rows: letters, and replays as they are made, looked at and stopped. Carried out they are
//! by [`super::feeding`].

use std::ops::ControlFlow;

use tap_protocol::badge::Token;
use tap_protocol::ids::{EventId, OutboxId, ReaderName, Seq};

use super::bindings;
use super::delivery::unknown;
use super::directions::{self, Directions};
use super::fleet;
use super::reading::controller_id;
use super::session::{Row, Session, Value, all, one};
use super::statements as sql;
use super::values::{self, capped};
use super::writing::{Writing, counters};
use crate::directory::direction::Shown;
use crate::event_store::meaning::Meaning;
use crate::event_store::replays::{
    Doing, Example, Filter, Letters, MAX_GATHERED_AT_ONCE, NewReplay, ReplayChange, ReplayRow,
    ReplayStanding, ReplayState, Retold, RowCounts, RowOutcome, Sifted,
};
use crate::event_store::{
    Deed, DeliverableTap, DeliveryState, Occurred, OrderKey, Position, Site, StoreError, Timeless, UtcMs,
};

pub fn letters(snapshot: &dyn Session) -> Result<Vec<Letters>, StoreError> {
    let counted = all(snapshot, sql::DEAD_COUNTS, [], |row| {
        let letters =
            Letters { destination: row.get(1)?, reason: row.get(2)?, count: row.get(3)?, newest: None };
        Ok((row.get::<i64>(0)?, letters))
    })?;
    let with_newest = counted.into_iter().map(|(no, letters)| {
        let newest = one(snapshot, sql::NEWEST_LETTER, (no, &letters.reason), |row| {
            Ok((row.get::<Position>(0)?, event_id(row, 1)?))
        })?;
        let newest = match newest {
            None => None,
            Some((position, event_id)) => {
                let said = one(snapshot, sql::LAST_ATTEMPT, (no, position), |row| {
                    Ok((row.get::<Option<u16>>(1)?, row.get::<Option<String>>(2)?))
                })?;
                let (status, answer) = said.unwrap_or_default();
                Some(Example { event_id, status, answer })
            }
        };
        Ok(Letters { newest, ..letters })
    });
    with_newest.collect()
}

pub fn matching(
    snapshot: &dyn Session,
    destination: &str,
    filter: &Filter,
    each: &mut dyn FnMut(&Sifted) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let no = destination_no(snapshot, destination)?;
    let (first, through) = reach(snapshot, filter)?;
    let mut after = Position(first.0.saturating_sub(1));
    loop {
        let portion = candidates(snapshot, no, filter, (after, through))?;
        for (one, _) in portion.iter().filter(|(one, _)| filter.takes(one)) {
            if each(one).is_break() {
                return Ok(());
            }
        }
        match portion.last() {
            Some((last, _)) if portion.len() == MAX_GATHERED_AT_ONCE => after = last.position,
            _ => return Ok(()),
        }
    }
}

pub fn retold(
    snapshot: &dyn Session,
    destination: &str,
    positions: &[Position],
) -> Result<Vec<Retold>, StoreError> {
    let no = destination_no(snapshot, destination)?;
    let mut rules = Directions::default();
    let mut retold = Vec::new();
    for position in positions {
        if let Some(again) = Again::of(snapshot, no, *position)? {
            let tap = again.tap_now(snapshot, *position, &mut rules)?;
            retold.push(Retold { position: *position, event_id: again.event_id, body: again.body, tap });
        }
    }
    Ok(retold)
}

pub fn make(writing: &mut Writing<'_>, new: &NewReplay, deed: &Deed) -> Result<u64, StoreError> {
    let NewReplay { destination, doing, filter } = new;
    let snapshot = writing.snapshot()?;
    let no = destination_no(snapshot, destination)?;
    let (first, through) = reach(snapshot, filter)?;
    let json = serde_json::to_string(filter).map_err(|bad| StoreError::Broken(bad.into()))?;
    let columns = (no, *doing, json, &deed.who, &deed.why, deed.at, first, through);
    let replay = writing.insert(sql::NEW_REPLAY, columns)?;
    fleet::note_deed(writing, deed)?;
    u64::try_from(replay).map_err(|bad| StoreError::Broken(bad.into()))
}

pub fn gather(writing: &mut Writing<'_>, replay: u64) -> Result<bool, StoreError> {
    match read(writing.snapshot()?, replay)? {
        None => Err(StoreError::NotFound { what: "replay", name: replay.to_string() }),
        Some(one) => gather_more(writing, &one),
    }
}

/// Goes through the next portion. Whether there is another.
pub(super) fn gather_more(writing: &mut Writing<'_>, replay: &Kept) -> Result<bool, StoreError> {
    let ended = matches!(replay.state.standing, ReplayStanding::Cancelled | ReplayStanding::Done);
    if replay.gather_next > replay.gather_through || ended {
        return Ok(false);
    }
    let (no, filter) = (replay.state.no, &replay.state.filter);
    let after = Position(replay.gather_next.0 - 1);
    let portion =
        candidates(writing.snapshot()?, replay.destination_no, filter, (after, replay.gather_through))?;
    let next = match portion.last() {
        Some((last, _)) if portion.len() == MAX_GATHERED_AT_ONCE => Position(last.position.0 + 1),
        _ => Position(replay.gather_through.0 + 1),
    };
    let counts = replay.state.counts;
    let mut members = counts.members;
    let mut rows = Vec::new();
    for (one, key) in portion.into_iter().filter(|(one, _)| filter.takes(one)) {
        members += 1;
        let int = |number: u64| Value::Int(capped(number));
        let key = super::session::ToValue::to_value(&key).into_owned();
        let waiting = Value::Text(RowOutcome::Waiting.name().into());
        rows.extend([int(no), int(members), int(one.position.0), key, waiting]);
    }
    writing.snapshot()?.run_for_each(&sql::NEW_REPLAY_ROWS, &rows)?;
    let waiting = counts.waiting + (members - counts.members);
    writing.execute(sql::REPLAY_GATHERED, (no, next, members, waiting))?;
    Ok(next <= replay.gather_through)
}

pub fn replays(snapshot: &dyn Session, limit: usize) -> Result<Vec<ReplayState>, StoreError> {
    let kept = all(snapshot, sql::REPLAYS, [capped(limit as u64)], Kept::read)?;
    Ok(kept.into_iter().map(|kept| kept.state).collect())
}

pub fn replay(snapshot: &dyn Session, replay: u64) -> Result<Option<ReplayState>, StoreError> {
    Ok(read(snapshot, replay)?.map(|kept| kept.state))
}

fn read(snapshot: &dyn Session, replay: u64) -> Result<Option<Kept>, StoreError> {
    one(snapshot, sql::REPLAY, [capped(replay)], Kept::read)
}

pub fn rows(
    snapshot: &dyn Session,
    replay: u64,
    after: u64,
    limit: usize,
) -> Result<Vec<ReplayRow>, StoreError> {
    let wanted = (capped(replay), capped(after), capped(limit as u64));
    all(snapshot, sql::REPLAY_ROWS, wanted, |row| {
        Ok(ReplayRow {
            n: row.get(0)?,
            position: row.get(1)?,
            event_id: event_id(row, 2)?,
            outcome: row.get(5)?,
            detail: row.get(6)?,
            ended: row.get(7)?,
            state_before: row.get(8)?,
            body_before: row.get(9)?,
        })
    })
}

pub fn change(
    writing: &mut Writing<'_>,
    replay: u64,
    change: ReplayChange,
    deed: &Deed,
) -> Result<bool, StoreError> {
    use ReplayStanding::{Cancelled, Paused, Running};
    let Some(Kept { state, .. }) = read(writing.snapshot()?, replay)? else {
        return Err(StoreError::NotFound { what: "replay", name: replay.to_string() });
    };
    let (to, ended) = match (change, state.standing) {
        (ReplayChange::Pause, Running) => (Paused, None),
        (ReplayChange::Resume, Paused) => (Running, None),
        (ReplayChange::Cancel, Running | Paused) => (Cancelled, Some(deed.at)),
        _ => return Ok(false),
    };
    writing.execute(sql::PUT_REPLAY_STATE, (capped(replay), to, ended))?;
    fleet::note_deed(writing, deed)?;
    Ok(true)
}

fn destination_no(snapshot: &dyn Session, destination: &str) -> Result<i64, StoreError> {
    let no = one(snapshot, sql::DESTINATION, [destination], |row| row.get(0))?;
    no.ok_or_else(|| unknown(destination))
}

/// From which position to which a filter can take anything.
fn reach(snapshot: &dyn Session, filter: &Filter) -> Result<(Position, Position), StoreError> {
    let last = Position(counters(snapshot, false)?.totals.last_position);
    if filter.events.is_empty() {
        return Ok((Position(1), last));
    }
    let mut named: Vec<Position> = Vec::new();
    for id in filter.events.iter().filter_map(|id| id.parse::<EventId>().ok()) {
        let key = (id.outbox_prefix().to_bytes(), id.seq().0);
        named.extend(one(snapshot, sql::POSITION_OF, key, |row| row.get::<Position>(0))?);
    }
    let reach = named.iter().min().copied().zip(named.iter().max().copied());
    Ok(reach.unwrap_or((Position(1), Position(0))))
}

/// The next portion of what a filter may take, with the lines in which they stand.
fn candidates(
    snapshot: &dyn Session,
    destination_no: i64,
    filter: &Filter,
    (after, through): (Position, Position),
) -> Result<Vec<(Sifted, OrderKey)>, StoreError> {
    let sql = if filter.letters { sql::LETTERS_AFTER } else { sql::DELIVERIES_AFTER };
    let wanted = (destination_no, after, through, capped(MAX_GATHERED_AT_ONCE as u64));
    all(snapshot, sql, wanted, |row| {
        let key: OrderKey = row.get(1)?;
        let person = match &key {
            OrderKey::Person(person) => Some(person.clone()),
            OrderKey::Token(_) => None,
        };
        let reader: String = row.get(5)?;
        let candidate = Sifted {
            position: row.get(0)?,
            event_id: event_id(row, 6)?,
            state: row.get(2)?,
            reason: row.get(3)?,
            person,
            controller: controller_id(&row.get::<String>(8)?)?,
            site: row.get(9)?,
            reader: reader.parse::<ReaderName>().map_err(|bad| StoreError::Broken(Box::new(bad)))?,
            occurred: row.get(4)?,
        };
        Ok((candidate, key))
    })
}

/// `seq, outbox, controller`, from that column on.
fn event_id(row: &Row<'_>, first: usize) -> Result<EventId, StoreError> {
    let controller = controller_id(&row.get::<String>(first + 2)?)?;
    Ok(EventId::new(&controller, OutboxId(row.get(first + 1)?), Seq(row.get(first)?)))
}

/// A row of `replays`.
pub(super) struct Kept {
    pub state: ReplayState,
    pub destination_no: i64,
    pub gather_next: Position,
    pub gather_through: Position,
    pub looked_through: u64,
}

impl Kept {
    pub fn read(row: &Row<'_>) -> Result<Kept, StoreError> {
        let (gather_next, gather_through): (Position, Position) = (row.get(9)?, row.get(10)?);
        let filter: String = row.get(3)?;
        let state = ReplayState {
            no: row.get(0)?,
            destination: row.get(1)?,
            doing: row.get::<Doing>(2)?,
            filter: serde_json::from_str(&filter).map_err(|bad| StoreError::Broken(bad.into()))?,
            who: row.get(4)?,
            why: row.get(5)?,
            made: row.get(6)?,
            ended: row.get(7)?,
            standing: row.get(8)?,
            to_gather: (gather_through.0 + 1).saturating_sub(gather_next.0),
            counts: RowCounts {
                members: row.get(11)?,
                waiting: row.get(12)?,
                sending: row.get(13)?,
                delivered: row.get(14)?,
                dead: row.get(15)?,
                discarded: row.get(16)?,
                skipped: row.get(17)?,
            },
        };
        Ok(Kept {
            state,
            destination_no: row.get(18)?,
            gather_next,
            gather_through,
            looked_through: row.get(19)?,
        })
    }
}

/// A delivery with all that it takes to tell its tap anew.
pub(super) struct Again {
    pub event_id: EventId,
    pub state: DeliveryState,
    pub reason: Option<String>,
    pub blocks: bool,
    pub key: OrderKey,
    pub attempts: u32,
    pub body: Option<String>,
    pub direction: Option<String>,
    bytes: Vec<u8>,
    token: Token,
    occurred: Result<Occurred, Timeless>,
    controller: String,
    site: Site,
}

impl Again {
    pub fn of(snapshot: &dyn Session, no: i64, position: Position) -> Result<Option<Again>, StoreError> {
        one(snapshot, sql::AGAIN, (no, position), |row| {
            let controller: String = row.get(17)?;
            let outbox = OutboxId(row.get(16)?);
            Ok(Again {
                event_id: EventId::new(&controller_id(&controller)?, outbox, Seq(row.get(7)?)),
                state: row.get(0)?,
                reason: row.get(1)?,
                blocks: row.get::<Option<UtcMs>>(2)?.is_some(),
                key: row.get(3)?,
                attempts: row.get(4)?,
                body: row.get(5)?,
                direction: row.get(6)?,
                bytes: row.get(8)?,
                token: Token(row.get(9)?),
                occurred: values::time(row, 10)?,
                controller,
                site: Site { id: row.get(18)?, label: row.get(19)?, zone: row.get(20)? },
            })
        })
    }

    /// What would be told by what is known now; or why nothing can be.
    pub fn tap_now(
        &self,
        session: &dyn Session,
        position: Position,
        directions: &mut Directions,
    ) -> Result<Result<DeliverableTap, &'static str>, StoreError> {
        let Ok(occurred) = self.occurred else { return Ok(Err("its true time is not known")) };
        let timeline = bindings::timeline_of(session, self.token)?;
        let Some(person) = timeline.holder(self.occurred) else {
            return Ok(Err("its badge is nobody's, as far as is known now"));
        };
        let Meaning::Tap(_, tap) = Meaning::of(&self.bytes) else {
            return Err(StoreError::broken("a delivery is of no tap"));
        };
        let rules = directions.rules(session, &self.site.id)?;
        let direction = match rules.0.is_empty() {
            true => tap.direction,
            false => {
                let shown = Shown { at: occurred.at, position, placed: tap.direction.into() };
                directions::decide(session, person, &self.site.id, shown, rules)?.direction
            }
        };
        Ok(Ok(DeliverableTap {
            person: person.clone(),
            controller: controller_id(&self.controller)?,
            site: self.site.clone(),
            reader: tap.reader,
            direction,
            occurred: occurred.at,
            uncertainty_ms: occurred.uncertainty_ms,
        }))
    }
}
