//! Beside the line, as far as it is rows: where a destination was told something that came out otherwise later. Knows
//! neither histories nor directions; those who do say what was told and what is so.

use tap_protocol::ids::{EventId, OutboxId, Seq};

use super::reading::controller_id;
use super::session::{Row, Session, all};
use super::statements as sql;
use super::values::capped;
use super::writing::Writing;
use crate::event_store::people::{Difference, DifferenceFilter, What};
use crate::event_store::{Position, StoreError, UtcMs};

/// One thing that a destination was told of a tap.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    /// Whom.
    pub destination: i64,
    /// Of which tap.
    pub position: Position,
    /// What of it.
    pub what: What,
}

/// Writes down that it is otherwise, or that it is not any more.
pub fn note(
    writing: &Writing<'_>,
    Told { destination, position, what }: Told,
    told: &str,
    is: Option<&str>,
    now: UtcMs,
) -> Result<(), StoreError> {
    if is == Some(told) {
        writing.execute(sql::FORGET_DIFFERENCE, (destination, position, what))?;
    } else {
        writing.execute(sql::PUT_DIFFERENCE, (position, destination, what, told, is, now))?;
    }
    Ok(())
}

pub fn differences(snapshot: &dyn Session, filter: &DifferenceFilter) -> Result<Vec<Difference>, StoreError> {
    let before = filter.before.map_or(i64::MAX, |before| capped(before.0));
    let rows = all(snapshot, sql::DIFFERENCES, (before, capped(filter.limit as u64)), difference)?;
    Ok(rows)
}

/// What was told otherwise of one tap.
pub fn of(snapshot: &dyn Session, position: Position) -> Result<Vec<Difference>, StoreError> {
    all(snapshot, sql::DIFFERENCES_OF, [position], difference)
}

/// `position, destination, what, told, is_so, noted_ms, occurred_ms, controller, outbox, seq`.
fn difference(row: &Row<'_>) -> Result<Difference, StoreError> {
    let controller = controller_id(&row.get::<String>(7)?)?;
    Ok(Difference {
        position: row.get(0)?,
        event_id: EventId::new(&controller, OutboxId(row.get(8)?), Seq(row.get(9)?)),
        controller,
        destination: row.get(1)?,
        what: row.get(2)?,
        told: row.get(3)?,
        is: row.get(4)?,
        noted: row.get(5)?,
        occurred: row.get(6)?,
    })
}
