//! Step 9 of 12: what the store knows of boots and of their time, for one append. Knows no batches and no deliveries.
//!
//! What an append asks again and again (which boot, what is known of it, its anchors if they are few) is kept until its
//! end: a bound on memory per boot, and no statement per record where a boot has a handful of anchors.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use tap_protocol::limits::NEAREST_ANCHORS;
use tap_protocol::record::{ClockState, Stamp};
use tap_protocol::time_repair::{Anchor, BootTime, Neighbours, TrueTime, true_time};

use super::session::{Row, all, execute, one};
use super::statements as sql;
use super::values::{capped, witness_name, witness_named};
use super::writing::Writing;
use crate::event_store::boots::{self, BootNo, Boots, Side};
use crate::event_store::meaning::{self, Meaning, PlacedAnchor};
use crate::event_store::{Position, StoreError, UtcMs};

/// A boot with more anchors than this is asked for the nearest each time: an unsynced door records some hundreds a day.
const MAX_ANCHORS_KEPT: usize = 4 * NEAREST_ANCHORS;

/// What is known of boots, during one append.
#[derive(Default)]
pub struct Occurring {
    /// By outbox and number.
    boots: BTreeMap<(i64, u32), BootNo>,
    times: BTreeMap<BootNo, Known>,
    /// All anchors of a boot in order; `None` if they are too many.
    anchors: BTreeMap<BootNo, Option<Vec<PlacedAnchor>>>,
}

#[derive(Clone, Copy)]
struct Known {
    stored: BootTime,
    now: BootTime,
}

/// What a record says of its boot.
pub struct Seen {
    /// When it was, as far as its own clock and its own boot's anchors say.
    pub time: TrueTime,
    /// Boots of which more is known now.
    pub concerns: Vec<BootNo>,
}

impl Occurring {
    /// The boot of a record. An agent's start says which one its number stands for from here on.
    pub fn boot_of(
        &mut self,
        writing: &Writing<'_>,
        (controller_no, outbox_no): (i64, i64),
        meaning: &Meaning,
    ) -> Result<Option<BootNo>, StoreError> {
        let Some(number) = meaning.stamp().map(|at| at.boot) else { return Ok(None) };
        let known = match self.boots.get(&(outbox_no, number)) {
            Some(known) => Some(*known),
            None => one(writing.aside(), sql::BOOT_OF, (outbox_no, number), |row| row.get(0))?,
        };
        let said = match meaning {
            Meaning::Start(_, id) => Some(*id),
            _ => None,
        };
        let boot = match (known, said) {
            (Some(known), None) => known,
            (known, said) => {
                let boot = boot_named(writing, controller_no, known, said.map(|id| id.0))?;
                execute(writing.aside(), sql::PUT_BOOT_OF, (outbox_no, number, boot))?;
                boot
            }
        };
        self.boots.insert((outbox_no, number), boot);
        Ok(Some(boot))
    }

    /// If that is an agent's start: its boot's number, and what stands behind that number so far.
    pub fn stood_for(
        &self,
        writing: &Writing<'_>,
        outbox_no: i64,
        meaning: &Meaning,
    ) -> Result<Option<(u32, BootNo)>, StoreError> {
        let Meaning::Start(at, _) = meaning else { return Ok(None) };
        let before = one(writing.aside(), sql::BOOT_OF, (outbox_no, at.boot), |row| row.get(0))?;
        Ok(before.map(|before| (at.boot, before)))
    }

    /// A start was read that could not be read when it came, and what came after it under its number had been taken for
    /// another boot's. Gives the boots of which more is known by that.
    pub fn became(
        &mut self,
        writing: &Writing<'_>,
        (outbox_no, number): (i64, u32),
        before: BootNo,
    ) -> Result<Vec<BootNo>, StoreError> {
        let Some(boot) = self.boots.get(&(outbox_no, number)).copied() else { return Ok(Vec::new()) };
        let was_named = one(writing.aside(), sql::BOOT_IS_NAMED, [before], |row| row.get(0))?;
        if boot != before && was_named == Some(false) {
            let other = self.known(writing, before)?.now;
            writing.execute(sql::MOVE_TAPS, (before, boot))?;
            writing.execute(sql::MOVE_ANCHORS, (before, boot))?;
            self.anchors.remove(&before);
            self.anchors.remove(&boot);
            self.known(writing, boot)?;
            if let Some(known) = self.times.get_mut(&boot) {
                known.now = known.now.and(other);
            }
        }
        let mut concerns = vec![boot];
        concerns.extend(boots::concerned(&mut (self, writing), boot)?);
        Ok(concerns)
    }

    /// Takes in a record, which may be an anchor at that position.
    pub fn record(
        &mut self,
        writing: &Writing<'_>,
        boot: BootNo,
        at: &Stamp,
        anchor: Option<(Position, &Anchor)>,
    ) -> Result<Seen, StoreError> {
        if let Some((position, anchor)) = anchor {
            self.new_anchor(writing, boot, position, anchor)?;
        }
        let before = self.known(writing, boot)?.now;
        let mut after = before;
        let time = true_time(at, &self.nearest(writing, boot, at.boottime_ms)?, Neighbours::default());
        after.saw(at.boottime_ms, time);
        if anchor.is_some() {
            let last = Stamp { boottime_ms: after.last_boottime_ms, clock: ClockState::Unsynced, ..*at };
            let anchors = self.nearest(writing, boot, last.boottime_ms)?;
            after.saw(last.boottime_ms, true_time(&last, &anchors, Neighbours::default()));
        }
        if let Some(known) = self.times.get_mut(&boot) {
            known.now = after;
        }
        let mut concerns: Vec<BootNo> = anchor.map(|_| boot).into_iter().collect();
        if !before.is_known() && after.is_known() {
            concerns.extend(boots::concerned(&mut (self, writing), boot)?);
        }
        Ok(Seen { time, concerns })
    }

    /// What is known around a boot.
    pub fn around(&mut self, writing: &Writing<'_>, boot: BootNo) -> Result<Neighbours, StoreError> {
        boots::neighbours(&mut (self, writing), boot)
    }

    /// When a record was, with what is known around its boot.
    pub fn time(
        &mut self,
        writing: &Writing<'_>,
        boot: BootNo,
        at: &Stamp,
        around: Neighbours,
    ) -> Result<TrueTime, StoreError> {
        Ok(true_time(at, &self.nearest(writing, boot, at.boottime_ms)?, around))
    }

    /// The end of the append: what has become known of boots.
    pub fn write_down(&self, writing: &Writing<'_>) -> Result<(), StoreError> {
        for (boot, known) in self.times.iter().filter(|(_, known)| known.now != known.stored) {
            let BootTime { last_boottime_ms, began_by_utc_ms, seen_utc_ms } = known.now;
            writing.execute(
                sql::PUT_BOOT_TIME,
                (boot, capped(last_boottime_ms), began_by_utc_ms, seen_utc_ms),
            )?;
        }
        Ok(())
    }

    fn known(&mut self, writing: &Writing<'_>, boot: BootNo) -> Result<Known, StoreError> {
        if let Some(known) = self.times.get(&boot) {
            return Ok(*known);
        }
        let stored = one(writing.aside(), sql::BOOT_TIME, [boot], |row| {
            Ok(BootTime {
                last_boottime_ms: row.get(0)?,
                began_by_utc_ms: row.get(1)?,
                seen_utc_ms: row.get(2)?,
            })
        })?;
        let stored = stored.ok_or_else(|| StoreError::broken(format!("there is no boot {}", boot.0)))?;
        let known = Known { stored, now: stored };
        self.times.insert(boot, known);
        Ok(known)
    }

    fn new_anchor(
        &mut self,
        writing: &Writing<'_>,
        boot: BootNo,
        position: Position,
        anchor: &Anchor,
    ) -> Result<(), StoreError> {
        let Anchor { witness, earliest_boottime_ms, latest_boottime_ms, utc_ms, uncertainty_ms } = *anchor;
        writing.execute(
            sql::NEW_ANCHOR,
            (
                boot,
                latest_boottime_ms,
                position,
                earliest_boottime_ms,
                utc_ms,
                uncertainty_ms,
                witness_name(witness),
            ),
        )?;
        self.anchors.remove(&boot);
        Ok(())
    }

    /// The anchors that say when something at `boottime_ms` was.
    fn nearest(
        &mut self,
        writing: &Writing<'_>,
        boot: BootNo,
        boottime_ms: u64,
    ) -> Result<Vec<Anchor>, StoreError> {
        let kept = match self.anchors.entry(boot) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let limit = capped(MAX_ANCHORS_KEPT as u64 + 1);
                let some = all(writing.aside(), sql::SOME_ANCHORS, (boot, limit), placed_anchor)?;
                unknown.insert((some.len() <= MAX_ANCHORS_KEPT).then_some(some))
            }
        };
        if let Some(kept) = kept {
            return Ok(meaning::nearest(kept, boottime_ms));
        }
        let around = (boot, capped(boottime_ms), capped(NEAREST_ANCHORS as u64));
        let mut nearest = all(writing.aside(), sql::ANCHORS_BEFORE, around, placed_anchor)?;
        nearest.extend(all(writing.aside(), sql::ANCHORS_AFTER, around, placed_anchor)?);
        Ok(nearest.into_iter().map(|(.., anchor)| anchor).collect())
    }
}

/// The boot of that id. A boot that has no id so far is given it, unless another one has it.
fn boot_named(
    writing: &Writing<'_>,
    controller_no: i64,
    known: Option<BootNo>,
    id: Option<[u8; 16]>,
) -> Result<BootNo, StoreError> {
    if let Some(id) = id {
        if let Some(same) = one(writing.aside(), sql::BOOT_NAMED, (controller_no, id), |row| row.get(0))? {
            return Ok(same);
        }
        if let Some(known) = known
            && one(writing.aside(), sql::BOOT_IS_NAMED, [known], |row| row.get(0))? == Some(false)
        {
            execute(writing.aside(), sql::NAME_BOOT, (known, id))?;
            return Ok(known);
        }
    }
    Ok(BootNo(writing.insert(sql::NEW_BOOT, (controller_no, id))?))
}

pub fn placed_anchor(row: &Row<'_>) -> Result<PlacedAnchor, StoreError> {
    let latest_boottime_ms = row.get(0)?;
    let anchor = Anchor {
        witness: witness_named(&row.get::<String>(5)?)?,
        earliest_boottime_ms: row.get(2)?,
        latest_boottime_ms,
        utc_ms: row.get::<UtcMs>(3)?.0,
        uncertainty_ms: row.get(4)?,
    };
    Ok((latest_boottime_ms, row.get(1)?, anchor))
}

impl Boots for (&mut Occurring, &Writing<'_>) {
    type Error = StoreError;

    fn time_of(&mut self, boot: BootNo) -> Result<BootTime, StoreError> {
        Ok(self.0.known(self.1, boot)?.now)
    }

    fn next_to(&mut self, boot: BootNo, side: Side) -> Result<Vec<BootNo>, StoreError> {
        let sql = match side {
            Side::Before => sql::BOOTS_BEFORE,
            Side::After => sql::BOOTS_AFTER,
        };
        let next = all(self.1.aside(), sql, [boot], |row| row.get::<Option<BootNo>>(0))?;
        Ok(next.into_iter().flatten().collect())
    }
}
