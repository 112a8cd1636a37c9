//! Step 9 of 12: who takes in from a broker, in a row. Knows no clock.

use super::session::{Session, one};
use super::statements as sql;
use super::writing::Writing;
use crate::event_store::StoreError;
use crate::intake::lease::{Claim, Fence};

pub fn intake_claim(session: &dyn Session, broker: &str) -> Result<Option<Claim>, StoreError> {
    one(session, sql::INTAKE_CLAIM, [broker], |row| {
        Ok(Claim { fence: Fence(row.get(0)?), holder: row.get(1)?, beat: row.get(2)? })
    })
}

pub fn take_intake(
    writing: &Writing<'_>,
    broker: &str,
    holder: &str,
    seen: Option<&Claim>,
) -> Result<Option<Fence>, StoreError> {
    if intake_claim(writing.aside(), broker)?.as_ref() != seen {
        return Ok(None);
    }
    let fence = Fence(seen.map_or(1, |seen| seen.fence.0 + 1));
    writing.execute(sql::TAKE_INTAKE, (broker, fence.0, holder))?;
    Ok(Some(fence))
}

pub fn beat_intake(writing: &Writing<'_>, broker: &str, fence: Fence) -> Result<bool, StoreError> {
    Ok(writing.execute(sql::BEAT_INTAKE, (broker, fence.0))? > 0)
}

pub fn leave_intake(writing: &Writing<'_>, broker: &str, fence: Fence) -> Result<(), StoreError> {
    writing.execute(sql::LEAVE_INTAKE, (broker, fence.0))?;
    Ok(())
}
