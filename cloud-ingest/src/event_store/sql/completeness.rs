//! Beside step 11, as far as it is rows: what hellos say of how far their controllers are complete, and how far destinations
//! were told so. What follows from what is for [`crate::delivery::complete`] to say.

use tap_protocol::codec;
use tap_protocol::hello::Hello;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::limits::{MAX_MESSAGE_BYTES, NEAREST_ANCHORS};
use tap_protocol::record::Stamp;
use tap_protocol::time_repair::{Neighbours, TrueTime, true_time};

use super::delivery::Desk;
use super::occurring::placed_anchor;
use super::session::{Row, Session, all, execute, one};
use super::statements as sql;
use super::values::capped;
use super::writing::Writing;
use super::{fleet, intake, reading};
use crate::delivery::complete::{self, Door, Known, Said};
use crate::delivery::ticks::Passed;
use crate::event_store::boots::BootNo;
use crate::event_store::completeness::WatermarkRow;
use crate::event_store::{Deed, Standing, StoreError, Turn, UtcMs, meaning};

/// What is known of a controller from before a hello.
pub struct Before {
    hello: Option<Hello>,
    said: Option<UtcMs>,
    complete: Option<UtcMs>,
}

pub fn before(writing: &Writing<'_>, controller_no: i64) -> Result<Before, StoreError> {
    let before = one(writing.aside(), sql::SAID, [controller_no], |row| {
        let hello = row.get::<Option<Vec<u8>>>(0)?.map(|bytes| decoded(&bytes)).transpose()?;
        Ok(Before { hello, said: row.get(1)?, complete: row.get(2)? })
    })?;
    before.ok_or_else(|| StoreError::broken("a controller has said hello and is gone"))
}

/// Takes in what a hello says of how far its controller is complete, once its outboxes are known.
pub fn heard(
    writing: &Writing<'_>,
    controller_no: i64,
    before: &Before,
    hello: &Hello,
    received: UtcMs,
) -> Result<(), StoreError> {
    let outboxes = outboxes(writing.aside(), controller_no)?;
    let time = when_said(writing.aside(), controller_no, hello)?;
    let at = complete::moment(hello, time, received);
    let earlier = before.hello.as_ref().map(|hello| Said { hello, at: before.said });
    let known: Vec<Known> = outboxes.iter().map(|(_, known)| *known).collect();
    let complete = complete::after(before.complete, earlier, Said { hello, at }, &known);
    if (at, complete) != (before.said, before.complete) {
        execute(writing.aside(), sql::PUT_COMPLETE, (controller_no, at, complete))?;
    }
    let written = hello.outboxes.last().map(|last| last.outbox);
    for (no, known) in outboxes {
        let Some(told) = hello.outboxes.iter().find(|told| told.outbox == known.outbox) else { continue };
        let (told_seq, is_written) = (meaning::spoken_of(told.last_seq), written == Some(known.outbox));
        if known != (Known { told_seq, is_written, is_waived: false, ..known }) {
            execute(writing.aside(), sql::PUT_TOLD, (no, told_seq.0, is_written))?;
        }
    }
    Ok(())
}

/// When a hello was made: by its own clock, if that is vouched for, and by what is known of its boot.
fn when_said(session: &dyn Session, controller_no: i64, hello: &Hello) -> Result<TrueTime, StoreError> {
    let at = Stamp { boot: 0, boottime_ms: hello.boottime_ms, wall_ms: hello.wall_ms, clock: hello.clock };
    let boot: Option<BootNo> =
        one(session, sql::BOOT_NAMED, (controller_no, hello.boot_id.0), |row| row.get(0))?;
    let mut anchors = Vec::new();
    if let Some(boot) = boot {
        let around = (boot, capped(at.boottime_ms), capped(NEAREST_ANCHORS as u64));
        for side in [sql::ANCHORS_BEFORE, sql::ANCHORS_AFTER] {
            anchors.extend(all(session, side, around, placed_anchor)?.into_iter().map(|(.., anchor)| anchor));
        }
    }
    Ok(true_time(&at, &anchors, Neighbours::default()))
}

fn outboxes(session: &dyn Session, controller_no: i64) -> Result<Vec<(i64, Known)>, StoreError> {
    all(session, sql::KNOWN_OUTBOXES, [controller_no], |row| {
        let known = Known {
            outbox: OutboxId(row.get(1)?),
            stored_through: Seq(row.get(2)?),
            told_seq: Seq(row.get(3)?),
            is_written: row.get(4)?,
            is_waived: row.get(5)?,
        };
        Ok((row.get(0)?, known))
    })
}

pub fn waive(writing: &mut Writing<'_>, controller: &ControllerId, deed: &Deed) -> Result<usize, StoreError> {
    let no = intake::controller_no(writing, controller)?;
    let hello = before(writing, no)?.hello;
    let standing = fleet::member(writing.snapshot()?, controller)?.map(|member| member.standing);
    let is_named = |known: &Known| {
        let named = hello.iter().flat_map(|hello| &hello.outboxes).any(|told| told.outbox == known.outbox);
        // Whoever is out of use names nothing any more.
        named && standing == Some(Standing::Active)
    };
    let missed = outboxes(writing.aside(), no)?.into_iter();
    let missed: Vec<i64> =
        missed.filter(|(_, known)| !is_named(known) && known.is_missed()).map(|(no, _)| no).collect();
    for no in &missed {
        writing.execute(sql::WAIVE, [*no])?;
    }
    fleet::note_deed(writing, deed)?;
    Ok(missed.len())
}

pub fn doors(snapshot: &dyn Session, destination: &str) -> Result<Option<Vec<Door>>, StoreError> {
    let follows = one(snapshot, sql::FOLLOWS, [destination], |row| {
        Ok((row.get::<i64>(0)?, row.get::<i64>(1)?, row.get::<bool>(2)?))
    })?;
    match follows.ok_or_else(|| super::delivery::unknown(destination))? {
        (_, 0, _) | (_, _, false) => Ok(None),
        (no, ..) => all(snapshot, sql::DOORS, [no], door).map(Some),
    }
}

/// A row of [`sql::DOORS`].
pub fn door(row: &Row<'_>) -> Result<Door, StoreError> {
    let standing = match row.get::<Option<String>>(2)? {
        None => Standing::Active,
        Some(name) => Standing::from_name(&name)
            .ok_or_else(|| StoreError::broken(format!("{name:?} is no standing of a controller")))?,
    };
    Ok(Door {
        controller: reading::controller_id(&row.get::<String>(0)?)?,
        site: row.get(1)?,
        standing,
        is_source: row.get(3)?,
        complete: row.get(4)?,
        is_missed: row.get(5)?,
        untold: row.get(6)?,
    })
}

pub fn watermarks(snapshot: &dyn Session) -> Result<Vec<WatermarkRow>, StoreError> {
    all(snapshot, sql::WATERMARKS, [], |row| {
        let held_back_by = row.get::<Option<String>>(5)?.map(|id| reading::controller_id(&id)).transpose()?;
        Ok(WatermarkRow {
            destination: row.get(0)?,
            name: row.get(1)?,
            stands_at: row.get(2)?,
            moved: row.get(3)?,
            complete: row.get(4)?,
            held_back_by,
            held_back_why: row.get(6)?,
            looked: row.get(7)?,
            trouble: row.get(8)?,
            failures: row.get(9)?,
            next: row.get(10)?,
        })
    })
}

pub fn put_watermark(writing: &mut Writing<'_>, row: &WatermarkRow, calls: u32) -> Result<(), StoreError> {
    let columns = (
        &row.destination,
        &row.name,
        &row.stands_at,
        row.moved,
        row.complete,
        row.held_back_by.as_ref().map(ControllerId::as_str),
        &row.held_back_why,
        row.looked,
        &row.trouble,
        row.failures,
        row.next,
    );
    writing.execute(sql::PUT_WATERMARK, columns)?;
    if calls > 0 {
        super::delivery::end_calls(writing, &row.destination, calls)?;
    }
    Ok(())
}

pub fn begin_watermark(
    writing: &mut Writing<'_>,
    turn: &Turn<'_>,
    name: &str,
    calls: u32,
    next: UtcMs,
) -> Result<Option<Passed>, StoreError> {
    let mut desk = Desk::open(writing, turn)?;
    let due: Option<UtcMs> = desk.writing.one(sql::WATERMARK_NEXT, (desk.no, name), |row| row.get(0))?;
    // A clock that was ahead and is right again must not stop it for years.
    let is_due = due.is_some_and(|due| due <= desk.now || due > next);
    if !is_due || !desk.takes_calls_aside(calls) {
        return Ok(None);
    }
    desk.writing.execute(sql::PUT_WATERMARK_NEXT, (desk.no, name, next))?;
    desk.close()
}

pub fn decoded(bytes: &[u8]) -> Result<Hello, StoreError> {
    codec::decode(bytes, MAX_MESSAGE_BYTES).map_err(|bad| StoreError::Broken(Box::new(bad)))
}
