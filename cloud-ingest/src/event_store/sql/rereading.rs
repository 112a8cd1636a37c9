//! Beside the line: records that could not be read when they were stored, as rows. What follows from a record that can be
//! read now is [`super::intake`]'s to say, as it is for one that comes.

use super::intake::{self, Late};
use super::session::{Session, execute, one};
use super::statements as sql;
use super::writing::Writing;
use crate::event_store::meaning::{self, Meaning};
use crate::event_store::rereading::{LOOKED_THROUGH_AT_ONCE, Portion, Reread};
use crate::event_store::{Position, StoreError, UtcMs};

pub fn state(snapshot: &dyn Session) -> Result<Reread, StoreError> {
    let state = one(snapshot, sql::REREADING, [], |row| {
        let (looked, look): (u64, u64) = (row.get(0)?, row.get(1)?);
        Ok(Reread {
            unreadable: row.get(2)?,
            read_later: row.get(3)?,
            to_look_through: look.saturating_sub(looked),
        })
    })?;
    state.ok_or_else(|| StoreError::broken("the row of what could not be read is gone"))
}

/// A record has come that this program cannot read.
pub fn note(writing: &Writing<'_>, position: Position) -> Result<(), StoreError> {
    execute(writing.aside(), sql::NEW_OPAQUE, (position, meaning::edition()))?;
    execute(writing.aside(), sql::COUNT_OPAQUE, [1i64])?;
    Ok(())
}

pub fn read_anew(writing: &mut Writing<'_>, room: usize, now: UtcMs) -> Result<Portion, StoreError> {
    if look_through(writing)? {
        // Older ones come first: what they say may decide what later ones mean.
        return Ok(Portion { more: true, ..Portion::default() });
    }
    let edition = meaning::edition();
    let untried = writing.all(sql::UNTRIED, (edition, room), |row| {
        Ok(Late {
            position: row.get(0)?,
            outbox_no: row.get(1)?,
            controller_no: row.get(2)?,
            received: row.get(3)?,
            meaning: Meaning::of(&row.get::<Vec<u8>>(4)?),
        })
    })?;
    let mut portion = Portion { more: untried.len() == room, ..Portion::default() };
    for late in &untried {
        match late.meaning {
            Meaning::Opaque => {
                writing.execute(sql::TRIED, (late.position, edition))?;
                portion.unreadable += 1;
            }
            _ => {
                writing.execute(sql::READ_NOW, (late.position, edition, late.meaning.kind(), now))?;
                portion.read += 1;
                portion.taps += usize::from(matches!(late.meaning, Meaning::Tap(..)));
            }
        }
    }
    if portion.read > 0 {
        writing.execute(sql::COUNT_READ, [portion.read])?;
        intake::in_their_places(writing, untried)?;
    }
    Ok(portion)
}

/// Finds the records among those of schema version 1 that could not be read. Says whether it did anything.
fn look_through(writing: &Writing<'_>) -> Result<bool, StoreError> {
    let state = state(writing.snapshot()?)?;
    if state.to_look_through == 0 {
        return Ok(false);
    }
    let looked: u64 = writing.one(sql::REREADING, [], |row| row.get(0))?.unwrap_or_default();
    let through = looked + state.to_look_through.min(LOOKED_THROUGH_AT_ONCE);
    let found = writing.execute(sql::FIND_OPAQUE, (looked, through))?;
    writing.execute(sql::LOOKED_THROUGH, (through, found))?;
    Ok(true)
}
