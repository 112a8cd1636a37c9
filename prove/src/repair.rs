//! A damaged shelf is repaired, as the outbox's thread does it between jobs; then an own look at what was salvaged.

use std::collections::BTreeMap;
use std::sync::Arc;

use edge_agent::outbox::head::Stage;
use edge_agent::outbox::shelf::Shelf;
use edge_agent::outbox::{Outbox, OutboxError};
use power_loss_vfs::Disk;
use rusqlite::{Connection, OpenFlags};
use tap_protocol::ids::{OutboxId, Seq};

use crate::promise::{Promises, Wrong, read_all};

/// Pages salvaged at a time.
const PAGES: usize = 256;

/// More steps than any salvage here takes.
const MAX_STEPS: usize = 10_000;

/// What was salvaged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Records brought over.
    pub records: u64,
    /// Records without a receipt that are gone, and told to be.
    pub lost: u64,
}

/// Sets aside what cannot be read and salvages all of it. Whatever was salvaged must be what was
/// accepted, under the same number; whatever is missing must have a receipt or be told as lost.
pub fn repair(shelf: &mut Shelf, promises: &Promises, disk: &Arc<Disk>) -> Result<Repaired, Wrong> {
    let damaged = |error: OutboxError| {
        Wrong::Silently(format!("it is not repaired: {}", edge_agent::agent::with_causes(&error)))
    };
    let unreadable: Vec<(OutboxId, OutboxError)> =
        shelf.all().filter_map(|outbox| Some((outbox.id(), unreadable(outbox)?))).collect();
    for (id, error) in unreadable {
        if !shelf.look_again(id).map_err(damaged)?
            || shelf.find(id).is_some_and(|again| unreadable_again(again))
        {
            shelf.set_aside(id, &error).map_err(damaged)?;
        }
    }
    shelf.writable().map_err(damaged)?;
    for _ in 0..MAX_STEPS {
        if !shelf.repair(PAGES).map_err(damaged)? {
            break;
        }
    }
    let mut repaired = Repaired::default();
    let untold = shelf.untold().map_err(damaged)?;
    for outbox in shelf.all().filter(|outbox| outbox.stage() != Stage::Whole) {
        let id = outbox.id();
        let rows =
            rows_of(outbox, disk).map_err(|error| Wrong::Silently(format!("what was salvaged: {error}")))?;
        let accepted = promises.records(id);
        for (seq, bytes) in &rows {
            if accepted.get(*seq as usize - 1) != Some(bytes) {
                let what = format!("record {seq} was salvaged with other bytes than were accepted");
                return Err(Wrong::Silently(what));
            }
        }
        repaired.records += rows.len() as u64;
        let ranges = untold.iter().filter(|(told, _)| *told == id).flat_map(|(_, ranges)| ranges);
        let ranges: Vec<_> = ranges.collect();
        let without_receipt = promises.receipted(id).0 + 1..=accepted.len() as u64;
        for seq in without_receipt.filter(|seq| !rows.contains_key(seq)) {
            let is_told = ranges.iter().any(|(from, to)| (*from..=*to).contains(&Seq(seq)));
            if outbox.stage() == Stage::Found && !is_told {
                return Err(Wrong::Silently(format!("record {seq} is lost, and nobody is told")));
            }
            repaired.lost += 1;
        }
    }
    for id in promises.made() {
        if shelf.find(id).is_none() {
            return Err(Wrong::Silently(format!("outbox {id} is neither on the shelf nor salvaged")));
        }
    }
    Ok(repaired)
}

/// One that was salvaged before has holes and is not read.
fn unreadable(outbox: &Outbox) -> Option<OutboxError> {
    if outbox.stage() != Stage::Whole {
        return None;
    }
    read_all(outbox).map(drop).and_then(|()| outbox.boots().map(drop)).err()
}

fn unreadable_again(outbox: &Outbox) -> bool {
    unreadable(outbox).is_some()
}

/// The rows of a salvaged outbox, by our own connection: it has holes, so that it reads none of them itself.
fn rows_of(outbox: &Outbox, disk: &Arc<Disk>) -> rusqlite::Result<BTreeMap<u64, Vec<u8>>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let db = Connection::open_with_flags_and_vfs(outbox.path(), flags, disk.vfs_name())?;
    let mut rows = db.prepare("SELECT seq, bytes FROM record")?;
    let rows = rows.query_map([], |row| row.try_into())?;
    rows.collect()
}
