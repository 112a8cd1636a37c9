//! Step 11 of 12, as far as it is rows: what replays have to do in a dispatcher's turn. Some members are put in line, never
//! more than a few at a time, and only where nobody stands in line; what became of those before is written down. Knows no
//! HTTP; what is sent, and when, is for the rest of the turn as for any other delivery.
//!
//! All that is remembered is in the rows, so a process may die between any two turns.

use super::delivery::Desk;
use super::differences::{self, Told};
use super::directions::Directions;
use super::replays::{Again, Kept, gather_more};
use super::session::{Row, all};
use super::statements as sql;
use super::values::capped;
use crate::delivery::breaker;
use crate::delivery::class::Class;
use crate::event_store::people::What;
use crate::event_store::replays::{
    Doing, MAX_DECIDED_AT_ONCE, MAX_LOOKED_AT, MAX_OPEN_ROWS, ReplayStanding, RowCounts, RowOutcome, UNKNOWN,
};
use crate::event_store::{DeliveryState, HeldFor, OrderKey, Position, Rendered, StoreError, UtcMs};
use std::collections::BTreeSet;

/// Does what replays have to do here. Whether there is more to do at once.
pub(super) fn feed(desk: &mut Desk<'_, '_, '_>) -> Result<bool, StoreError> {
    if !desk.row.has_replays {
        return Ok(false);
    }
    let active = all(desk.writing.snapshot()?, sql::ACTIVE_REPLAYS, [desk.no], Kept::read)?;
    let mut open = 0;
    let mut running = Vec::new();
    for kept in active {
        let mut replay = Replay::new(kept);
        open += replay.look_at_sent(desk)?;
        running.push(replay);
    }
    let mut more = false;
    for mut replay in running {
        more |= replay.go_on(desk, &mut open)?;
        replay.close(desk)?;
    }
    Ok(more)
}

/// One replay in one turn.
struct Replay {
    kept: Kept,
    before: (RowCounts, u64),
    directions: Directions,
}

impl Replay {
    fn new(kept: Kept) -> Replay {
        Replay { before: (kept.state.counts, kept.looked_through), kept, directions: Directions::default() }
    }

    fn no(&self) -> i64 {
        capped(self.kept.state.no)
    }

    /// Writes down what became of the members that were put in line. Returns how many still are, in front of theirs.
    fn look_at_sent(&mut self, desk: &mut Desk<'_, '_, '_>) -> Result<usize, StoreError> {
        if self.kept.state.counts.sending == 0 {
            return Ok(0);
        }
        let sent = desk.writing.all(sql::SENDING_ROWS, (desk.no, self.no()), Sent::read)?;
        let mut open = 0;
        for one in sent {
            let (outcome, detail) = match (one.state, one.held_for) {
                (DeliveryState::Delivered, _) => (RowOutcome::Delivered, one.last_outcome.clone()),
                (DeliveryState::Discarded, _) => (RowOutcome::Discarded, one.last_outcome.clone()),
                (DeliveryState::Dead, _) => (RowOutcome::Dead, one.reason.clone()),
                (DeliveryState::Unknown, Some(HeldFor::Person)) => (RowOutcome::Dead, one.reason.clone()),
                (DeliveryState::Held, _) => {
                    let why = "its badge is nobody's by now: it is sent when somebody says whose it is";
                    (RowOutcome::Skipped, Some(why.to_owned()))
                }
                // Something that must go before has come into its line: it keeps no place from anybody.
                (DeliveryState::Parked, _) => continue,
                (DeliveryState::Pending | DeliveryState::InFlight | DeliveryState::Unknown, _) => {
                    open += 1;
                    continue;
                }
            };
            if one.is_still_told() {
                one.note_difference(desk)?;
            }
            self.end_row(desk, one.n, (RowOutcome::Sending, outcome), detail.as_deref(), None)?;
        }
        Ok(open)
    }

    /// Begins what can begin. Whether there is more to do at once.
    fn go_on(&mut self, desk: &mut Desk<'_, '_, '_>, open: &mut usize) -> Result<bool, StoreError> {
        if self.kept.state.standing != ReplayStanding::Running {
            return Ok(false);
        }
        if self.kept.gather_next <= self.kept.gather_through {
            return gather_more(desk.writing, &self.kept).map(|_| true);
        }
        let counts = self.kept.state.counts;
        if counts.waiting == 0 {
            return Ok(false);
        }
        if self.kept.state.doing != Doing::Replay {
            let waiting = self.rows_after(desk, 0, MAX_DECIDED_AT_ONCE)?;
            for Waiting { n, position, .. } in &waiting {
                self.begin(desk, *n, *position)?;
            }
            return Ok(waiting.len() == MAX_DECIDED_AT_ONCE);
        }
        let room = room(desk).saturating_sub(*open);
        if room == 0 {
            return Ok(false);
        }
        let (begun, ended) = self.begin_some(desk, room)?;
        *open += begun;
        // Some ended here and now: there may be others of the kind. What was put in line goes on by itself.
        Ok(ended > 0)
    }

    /// Looks at the first that wait, and at some others in turn: the first may all stand behind somebody.
    fn begin_some(&mut self, desk: &mut Desk<'_, '_, '_>, room: usize) -> Result<(usize, usize), StoreError> {
        let (mut begun, mut ended, mut last) = (0, 0, 0);
        for in_turn in [false, true] {
            let after = if in_turn { self.kept.looked_through.max(last) } else { 0 };
            let waiting =
                if begun == room { Vec::new() } else { self.rows_after(desk, after, MAX_LOOKED_AT)? };
            let was_last = waiting.len() < MAX_LOOKED_AT && begun < room;
            for Waiting { n, position, is_behind } in waiting {
                if begun == room {
                    break;
                }
                last = n;
                if is_behind {
                    continue;
                }
                match self.begin(desk, n, position)? {
                    Begun::Sending => begun += 1,
                    Begun::Ended => ended += 1,
                    Begun::Later => {}
                }
            }
            if was_last {
                self.kept.looked_through = 0;
                break;
            }
            if in_turn {
                self.kept.looked_through = last;
            }
        }
        Ok((begun, ended))
    }

    fn rows_after(
        &self,
        desk: &mut Desk<'_, '_, '_>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Waiting>, StoreError> {
        desk.writing.all(sql::WAITING_ROWS, (self.no(), after, capped(limit as u64)), |row| {
            Ok(Waiting { n: row.get(0)?, position: row.get(1)?, is_behind: row.get(2)? })
        })
    }

    fn begin(
        &mut self,
        desk: &mut Desk<'_, '_, '_>,
        n: u64,
        position: Position,
    ) -> Result<Begun, StoreError> {
        let Some(again) = Again::of(desk.writing.snapshot()?, desk.no, position)? else {
            return self.skip(desk, n, None, "its delivery is not in the store any more");
        };
        let doing = self.kept.state.doing;
        let is_letter = again.reason.is_some();
        if !is_letter && (self.kept.state.filter.letters || doing != Doing::Replay) {
            return self.skip(desk, n, Some(again.state), "it does not wait for a person any more");
        }
        if !is_letter && again.state.is_open() {
            return self.skip(desk, n, Some(again.state), "it is in line already");
        }
        match doing {
            Doing::Replay if again.state == DeliveryState::Unknown => {
                self.ask_again(desk, n, position, again)
            }
            Doing::Replay => self.put_in_line(desk, n, position, again),
            Doing::Discard => self.decide(desk, n, position, again, RowOutcome::Discarded),
            Doing::SaidDelivered => self.decide(desk, n, position, again, RowOutcome::Delivered),
        }
    }

    /// Sends it once more as if it had never been, by what is known now.
    fn put_in_line(
        &mut self,
        desk: &mut Desk<'_, '_, '_>,
        n: u64,
        position: Position,
        again: Again,
    ) -> Result<Begun, StoreError> {
        let session = desk.writing.snapshot()?;
        let tap = match again.tap_now(session, position, &mut self.directions)? {
            Ok(tap) => tap,
            Err(why) => return self.skip(desk, n, Some(again.state), why),
        };
        let key = OrderKey::Person(tap.person.clone());
        // One that keeps its line back is in the way of whatever else stands there: it goes first.
        if !again.blocks && desk.writing.first_in_lane(desk.no, &key)?.is_some() {
            return Ok(Begun::Later);
        }
        match (desk.turn.render)(again.event_id, &tap) {
            Rendered::Body(_) => {}
            Rendered::NotWanted(why) | Rendered::Impossible(why) => {
                return self.skip(desk, n, Some(again.state), &why);
            }
        }
        self.begin_row(desk, n, &again)?;
        let was_told = again.state == DeliveryState::Delivered;
        let otherwise = desk.writing.one(sql::IS_OTHERWISE, (desk.no, position), |_| Ok(()))?.is_some();
        let class = match (again.blocks, was_told && (otherwise || key != again.key)) {
            // Live taps wait behind it: as urgent as they are.
            (true, _) => Class::Live,
            (false, true) => Class::Corrections,
            (false, false) => Class::Replay,
        };
        let state = if again.blocks { DeliveryState::Parked } else { DeliveryState::Pending };
        desk.writing.execute(sql::FEED, (desk.no, position, state, desk.now, class, &key))?;
        desk.writing.execute(sql::FORGET_DIFFERENCES, (desk.no, position))?;
        desk.writing.count_move(desk.no, again.state, state);
        again.reason.iter().for_each(|reason| desk.writing.count_letters(desk.no, reason, -1));
        if again.blocks {
            let lanes = BTreeSet::from([(desk.no, again.key), (desk.no, key)]);
            desk.writing.settle(&lanes)?;
        }
        Ok(Begun::Sending)
    }

    /// Sends the very same once more, from the place in line that it never left.
    fn ask_again(
        &mut self,
        desk: &mut Desk<'_, '_, '_>,
        n: u64,
        position: Position,
        again: Again,
    ) -> Result<Begun, StoreError> {
        self.begin_row(desk, n, &again)?;
        desk.writing.execute(sql::ASK_AGAIN, (desk.no, position, desk.now))?;
        desk.writing.count_letters(desk.no, UNKNOWN, -1);
        Ok(Begun::Sending)
    }

    /// Ends a letter by a person's word, which is kept as an attempt that needed no request.
    fn decide(
        &mut self,
        desk: &mut Desk<'_, '_, '_>,
        n: u64,
        position: Position,
        again: Again,
        outcome: RowOutcome,
    ) -> Result<Begun, StoreError> {
        let (to, word) = match outcome {
            RowOutcome::Delivered => (DeliveryState::Delivered, "said_delivered"),
            _ => (DeliveryState::Discarded, "discarded"),
        };
        let (who, why) = (&self.kept.state.who, &self.kept.state.why);
        let said = format!("{who}: {why}");
        let attempt = again.attempts + 1;
        desk.writing.last_lease += 1;
        let (lease, now) = (desk.writing.last_lease, desk.now);
        desk.writing.execute(sql::NEW_WORD, (desk.no, position, attempt, lease, now, word, said.as_str()))?;
        desk.writing.totals.attempts += 1;
        desk.writing.execute(sql::DECIDE, (desk.no, position, to, attempt))?;
        desk.writing.count_move(desk.no, again.state, to);
        again.reason.iter().for_each(|reason| desk.writing.count_letters(desk.no, reason, -1));
        desk.call_next(&BTreeSet::from([again.key]))?;
        let ends = (RowOutcome::Waiting, outcome);
        self.end_row(desk, n, ends, None, Some(again.state))?;
        Ok(Begun::Ended)
    }

    fn begin_row(&mut self, desk: &mut Desk<'_, '_, '_>, n: u64, again: &Again) -> Result<(), StoreError> {
        let Again { state, key, body, direction, reason, .. } = again;
        let columns = (self.no(), n, reason.as_deref(), *state, key, body.as_deref(), direction.as_deref());
        desk.writing.execute(sql::BEGIN_ROW, columns)?;
        self.count(RowOutcome::Waiting, RowOutcome::Sending);
        Ok(())
    }

    fn skip(
        &mut self,
        desk: &mut Desk<'_, '_, '_>,
        n: u64,
        state: Option<DeliveryState>,
        why: &str,
    ) -> Result<Begun, StoreError> {
        self.end_row(desk, n, (RowOutcome::Waiting, RowOutcome::Skipped), Some(why), state)?;
        Ok(Begun::Ended)
    }

    fn end_row(
        &mut self,
        desk: &mut Desk<'_, '_, '_>,
        n: u64,
        (from, to): (RowOutcome, RowOutcome),
        detail: Option<&str>,
        state: Option<DeliveryState>,
    ) -> Result<(), StoreError> {
        desk.writing.execute(sql::END_ROW, (self.no(), n, to, detail, desk.now, state))?;
        self.count(from, to);
        Ok(())
    }

    fn count(&mut self, from: RowOutcome, to: RowOutcome) {
        *self.kept.state.counts.of(from) -= 1;
        *self.kept.state.counts.of(to) += 1;
    }

    /// Writes down what has changed, and that it is done.
    fn close(&self, desk: &mut Desk<'_, '_, '_>) -> Result<(), StoreError> {
        let counts = self.kept.state.counts;
        if self.before != (counts, self.kept.looked_through) {
            let RowCounts { waiting, sending, delivered, dead, discarded, skipped, .. } = counts;
            let looked_through = self.kept.looked_through;
            let columns = (self.no(), looked_through, waiting, sending, delivered, dead, discarded, skipped);
            desk.writing.execute(sql::PUT_REPLAY_COUNTS, columns)?;
        }
        let gathered = self.kept.gather_next > self.kept.gather_through;
        let runs = self.kept.state.standing == ReplayStanding::Running;
        if runs && gathered && counts.waiting + counts.sending == 0 {
            let columns = (self.no(), ReplayStanding::Done, desk.now);
            desk.writing.execute(sql::PUT_REPLAY_STATE, columns)?;
        }
        Ok(())
    }
}

/// A member that waits.
struct Waiting {
    n: u64,
    position: Position,
    /// Another of its line waits before it.
    is_behind: bool,
}

/// What came of looking at a member whose turn may have come.
enum Begun {
    /// It is in line.
    Sending,
    /// It came to its end.
    Ended,
    /// Somebody stands in its line: it is looked at again.
    Later,
}

/// How many members may be open here: none while nothing is sent anyway.
fn room(desk: &Desk<'_, '_, '_>) -> usize {
    let (turn, row) = (desk.turn, &desk.row);
    let is_closed = matches!(row.breaker.state(), breaker::State::Closed { .. });
    let makes = row.make_next <= row.make_through;
    if row.is_paused
        || row.version != turn.version
        || makes
        || turn.rules.shadow
        || turn.room == 0
        || desk.ticks < row.held_until
        || !is_closed
    {
        return 0;
    }
    (turn.rules.limits.concurrency as usize).min(MAX_OPEN_ROWS)
}

/// A row of [`sql::SENDING_ROWS`].
struct Sent {
    n: u64,
    position: Position,
    state: DeliveryState,
    held_for: Option<HeldFor>,
    reason: Option<String>,
    key: OrderKey,
    direction: Option<String>,
    state_before: Option<DeliveryState>,
    key_before: Option<OrderKey>,
    direction_before: Option<String>,
    placed: String,
    last_outcome: Option<String>,
}

impl Sent {
    fn read(row: &Row<'_>) -> Result<Sent, StoreError> {
        Ok(Sent {
            n: row.get(0)?,
            position: row.get(1)?,
            state: row.get(2)?,
            held_for: row.get(3)?,
            reason: row.get(4)?,
            key: row.get(5)?,
            direction: row.get(6)?,
            state_before: row.get(7)?,
            key_before: row.get(8)?,
            direction_before: row.get(9)?,
            placed: row.get(10)?,
            last_outcome: row.get(11)?,
        })
    }

    /// What the destination was told before is still what it knows: the correction was not taken.
    fn is_still_told(&self) -> bool {
        let not_taken = matches!(self.state, DeliveryState::Dead | DeliveryState::Discarded);
        self.state_before == Some(DeliveryState::Delivered) && not_taken
    }

    /// Puts back what was taken off the list of differences when the correction began.
    fn note_difference(&self, desk: &Desk<'_, '_, '_>) -> Result<(), StoreError> {
        let now: UtcMs = desk.now;
        let about = |what| Told { destination: desk.no, position: self.position, what };
        if let (Some(OrderKey::Person(told)), OrderKey::Person(is)) = (&self.key_before, &self.key) {
            differences::note(desk.writing, about(What::Person), &told.0, Some(&is.0), now)?;
        }
        let told = self.direction_before.as_ref().unwrap_or(&self.placed);
        let is = self.direction.as_ref().unwrap_or(&self.placed);
        differences::note(desk.writing, about(What::Direction), told, Some(is), now)
    }
}
