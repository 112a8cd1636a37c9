//! Step 9 of 12: commands and contradictions in rows. Knows no key and no broker.

use tap_protocol::chain::ChainHash;
use tap_protocol::codec::{self, VERSION_1};
use tap_protocol::command::Order;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::limits::MAX_MESSAGE_BYTES;

use super::intake::controller_no;
use super::session::{Row, Session, all, one};
use super::statements as sql;
use super::writing::Writing;
use crate::event_store::commands::{
    CommandEnd, CommandRow, MAX_COMMANDS, MAX_TROUBLES, TroubleKind, TroubleRow, next_number, outcome_name,
    outcome_named, stands_for,
};
use crate::event_store::{OutboxMark, StoreError, UtcMs};

pub fn places(
    snapshot: &dyn Session,
    controller: &ControllerId,
    outbox: OutboxId,
    seqs: &[Seq],
) -> Result<Vec<OutboxMark>, StoreError> {
    let mut marks = Vec::new();
    for seq in seqs {
        let hash = one(snapshot, sql::PLACE, (controller.as_str(), outbox.0, seq.0), |row| row.get(0))?;
        marks.extend(hash.map(|hash| OutboxMark {
            controller: controller.clone(),
            outbox,
            stored_through: *seq,
            hash: ChainHash(hash),
        }));
    }
    Ok(marks)
}

pub fn queue(
    writing: &Writing<'_>,
    controller: &ControllerId,
    order: &Order,
    why: &str,
    now: UtcMs,
) -> Result<u64, StoreError> {
    let no = controller_no(writing, controller)?;
    let kept = rows(writing.all(sql::COMMANDS, [no], columns)?)?;
    // The oldest, as a list that is read from its beginning finds it.
    if let Some(kept) = kept.iter().rev().find(|kept| stands_for(kept, order)) {
        return Ok(kept.number);
    }
    let number = next_number(kept.first().map(|last| last.number), now);
    writing.execute(sql::NEW_COMMAND, (no, number, codec::encode(VERSION_1, order), why, now))?;
    if let Some(oldest) = kept.get(MAX_COMMANDS - 1) {
        writing.execute(sql::FORGET_COMMAND, (no, oldest.number))?;
    }
    Ok(number)
}

pub fn next(snapshot: &dyn Session, controller: &ControllerId) -> Result<Option<CommandRow>, StoreError> {
    let open = one(snapshot, sql::NEXT_COMMAND, [controller.as_str()], columns)?;
    Ok(rows(open.into_iter().collect())?.pop())
}

pub fn end(
    writing: &Writing<'_>,
    controller: &ControllerId,
    number: u64,
    end: &CommandEnd,
) -> Result<bool, StoreError> {
    let no = controller_no(writing, controller)?;
    let Ok(number) = i64::try_from(number) else { return Ok(false) };
    let CommandEnd { at, outcome, detail } = end;
    Ok(writing.execute(sql::END_COMMAND, (no, number, at, outcome_name(*outcome), detail))? > 0)
}

pub fn commands(snapshot: &dyn Session, controller: &ControllerId) -> Result<Vec<CommandRow>, StoreError> {
    rows(all(snapshot, sql::COMMANDS_OF, [controller.as_str()], columns)?)
}

pub fn trouble(
    writing: &Writing<'_>,
    controller: &ControllerId,
    kind: TroubleKind,
    outbox: Option<OutboxId>,
    at: Option<Seq>,
    now: UtcMs,
) -> Result<bool, StoreError> {
    let no = controller_no(writing, controller)?;
    let outbox = outbox.map_or(Vec::new(), |outbox| outbox.0.to_vec());
    if writing.execute(sql::TROUBLE_AGAIN, (no, kind.name(), &outbox, now))? > 0 {
        return Ok(false);
    }
    writing.execute(sql::FORGET_TROUBLE, (no, MAX_TROUBLES as i64 - 1))?;
    writing.execute(sql::NEW_TROUBLE, (no, kind.name(), &outbox, at.map(|at| at.0), now))?;
    Ok(true)
}

pub fn troubles(snapshot: &dyn Session, controller: &ControllerId) -> Result<Vec<TroubleRow>, StoreError> {
    all(snapshot, sql::TROUBLES_OF, [controller.as_str()], |row| {
        let outbox: Vec<u8> = row.get(1)?;
        Ok(TroubleRow {
            kind: TroubleKind::from_name(&row.get::<String>(0)?)
                .ok_or_else(|| StoreError::broken("a trouble of no known kind"))?,
            outbox: <[u8; 16]>::try_from(outbox).ok().map(OutboxId),
            at: row.get::<Option<u64>>(2)?.map(Seq),
            first: row.get(3)?,
            last: row.get(4)?,
            count: row.get(5)?,
        })
    })
}

/// A command's columns, its order not read yet.
type Columns = (u64, Vec<u8>, String, UtcMs, Option<UtcMs>, Option<String>, Option<String>);

fn columns(row: &Row<'_>) -> Result<Columns, StoreError> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
}

fn rows(columns: Vec<Columns>) -> Result<Vec<CommandRow>, StoreError> {
    let rows = columns.into_iter().map(|(number, order, why, issued, ended, outcome, detail)| {
        let order =
            codec::decode(&order, MAX_MESSAGE_BYTES).map_err(|bad| StoreError::Broken(Box::new(bad)))?;
        let outcome = outcome.as_deref().and_then(outcome_named);
        let end = ended.zip(outcome).zip(detail);
        let end = end.map(|((at, outcome), detail)| CommandEnd { at, outcome, detail });
        Ok(CommandRow { number, order, why, issued, end })
    });
    rows.collect()
}
