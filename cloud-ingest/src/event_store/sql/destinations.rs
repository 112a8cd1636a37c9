//! Step 11 of 12, as far as it is rows: destinations as objects. Knows none of their languages.

use super::delivery::unknown;
use super::following::Follows;
use super::session::{Session, all};
use super::statements as sql;
use super::writing::Writing;
use super::{fleet, reading};
use crate::event_store::{
    Change, Deed, DeliveryState, DestinationState, NewDestination, Paused, Position, Since, StoreError, UtcMs,
};

pub fn add(writing: &mut Writing<'_>, new: &NewDestination, deed: &Deed) -> Result<bool, StoreError> {
    let NewDestination { name, settings, credentials_file, from } = new;
    let (make_through, make_from) = match from {
        Since::Now => (0, None),
        Since::Beginning => (writing.totals.last_position, None),
        Since::Time(at) => (writing.totals.last_position, Some(*at)),
    };
    let added = writing.one(
        sql::ADD_DESTINATION,
        (name, settings, credentials_file.as_deref(), make_through, make_from, writing.totals.last_position),
        |row| row.get::<i64>(0),
    )?;
    let Some(no) = added else { return Ok(false) };
    for state in DeliveryState::ALL {
        writing.execute(sql::NEW_COUNT, (no, state))?;
    }
    fleet::note_deed(writing, deed)?;
    Ok(true)
}

pub fn change(writing: &mut Writing<'_>, name: &str, change: &Change, deed: &Deed) -> Result<(), StoreError> {
    let changed = match change {
        Change::Settings(settings) => writing.execute(sql::CHANGE_SETTINGS, (name, settings))?,
        Change::Credentials(file) => writing.execute(sql::CHANGE_CREDENTIALS, (name, file.as_deref()))?,
        Change::Pause => writing.execute(sql::PAUSE, (name, deed.at, &deed.who, &deed.why))?,
        Change::Resume => writing.execute(sql::RESUME, [name])?,
    };
    match changed {
        0 => Err(unknown(name)),
        _ => fleet::note_deed(writing, deed),
    }
}

pub fn destinations(snapshot: &dyn Session) -> Result<Vec<DestinationState>, StoreError> {
    let known = all(snapshot, sql::DESTINATION_STATES, [], |row| {
        let paused = match row.get::<Option<UtcMs>>(5)? {
            None => None,
            Some(at) => Some(Paused { at, by: row.get(6)?, why: row.get(7)? }),
        };
        let (next, through): (Position, Position) = (row.get(11)?, row.get(12)?);
        let state = DestinationState {
            destination: row.get(1)?,
            settings: row.get(2)?,
            version: row.get(3)?,
            credentials_file: row.get(4)?,
            paused,
            held_until: row.get(8)?,
            held_why: row.get(9)?,
            breaker: super::delivery::remembered(row.get(10)?)?.unwrap_or_default(),
            to_make: (through.0 + 1).saturating_sub(next.0),
            in_order_of_time: row.get::<i64>(13)? == Follows::Order.column(),
            to_order: (row.get::<Position>(15)?.0 + 1).saturating_sub(row.get::<Position>(14)?.0),
            oldest_open_received: None,
        };
        Ok((row.get::<i64>(0)?, state))
    })?;
    let states = known.into_iter().map(|(no, state)| {
        let oldest_open_received = reading::oldest_open_received(snapshot, no)?;
        Ok(DestinationState { oldest_open_received, ..state })
    });
    states.collect()
}
