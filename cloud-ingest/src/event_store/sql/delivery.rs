//! Step 11 of 12, as far as it is rows: a dispatcher's turn. What has ended is written down first, then what time has
//! ended, then what is due is claimed. Knows no HTTP; who is next, and how much, is for [`crate::delivery`] to say.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::following::{self, Follows};
use super::session::Rows;
use super::statements as sql;
use super::values::capped;
use super::writing::{Lane, Writing};
use crate::delivery::breaker::{self, Breaker};
use crate::delivery::class::{Class, Shares};
use crate::delivery::limiter::Limiter;
use crate::delivery::order::{self, Change, Standing};
use crate::delivery::retry::MAX_HOLD_MS;
use crate::delivery::rules::LEASE_MS;
use crate::delivery::ticks::{Kept, Passed, Ticks};
use crate::destination::settings::{AfterUnknown, OnDead};
use crate::event_store::meaning;
use crate::event_store::replays::UNKNOWN;
use crate::event_store::{
    AttemptEnd, Claim, DeliveryState, Ended, GIVE_UP_ON_TIME_AFTER_MS, HeldFor, Lease, MAX_ANSWER_BYTES,
    MAX_GIVEN_UP_AT_ONCE, Next, OrderKey, Position, StoreError, Turn, Turned, UtcMs,
};

/// Of an answer, so much goes into a reason.
const MAX_REASON_BYTES: usize = 200;

const HOUR_MS: i64 = 60 * 60 * 1_000;

const MINUTE_MS: u64 = 60_000;

/// Nothing is put off for longer than a day ([`MAX_HOLD_MS`]) and what clocks may differ by.
const MOST_PUT_OFF_MS: i64 = MAX_HOLD_MS as i64 + HOUR_MS;

pub fn turn(writing: &mut Writing<'_>, turn: &Turn<'_>) -> Result<Turned, StoreError> {
    let mut desk = Desk::open(writing, turn)?;
    let ended = desk.end()?;
    let lost = desk.extend()?;
    let expired = desk.expire()?;
    let given_up = desk.give_up_on_time()?;
    desk.mend_dues()?;
    let more = desk.unblock()? | desk.make()? | following::follow(&mut desk)?;
    let more = more | following::release(&mut desk)? | super::feeding::feed(&mut desk)?;
    let claims = desk.claim()?;
    let passed = desk.close()?;
    Ok(Turned {
        passed,
        ended,
        lost,
        claimed: claims.claimed,
        impossible: claims.impossible,
        expired,
        given_up,
        early: claims.early,
        more: more || claims.more || given_up == MAX_GIVEN_UP_AT_ONCE,
        again_in_ms: claims.again_in_ms,
        breaker: desk.row.breaker,
        version: desk.row.version,
    })
}

/// One turn at one destination.
pub(super) struct Desk<'w, 's, 't> {
    pub writing: &'w mut Writing<'s>,
    pub turn: &'t Turn<'t>,
    /// The time on the wall for all replicas: [`Writing::now`].
    pub now: UtcMs,
    pub no: i64,
    pub row: Shared,
    pub ticks: Ticks,
    /// Leases that run, over all replicas.
    pub under_way: u64,
    /// Another minute has begun.
    is_new_minute: bool,
    before: Shared,
    kept: Kept,
    passed: Passed,
}

/// What all replicas share of a destination.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shared {
    pub version: u64,
    pub is_paused: bool,
    pub held_until: Ticks,
    held_until_ms: Option<UtcMs>,
    held_why: Option<String>,
    pub make_next: Position,
    pub make_through: Position,
    pub make_from: Option<UtcMs>,
    pub limiter: Limiter,
    pub breaker: Breaker,
    pub shares: Shares,
    pub follows: Follows,
    pub follow_next: Position,
    pub follow_through: Position,
    /// A replay has something to be done here.
    pub has_replays: bool,
}

impl<'w, 's, 't> Desk<'w, 's, 't> {
    pub(super) fn open(
        writing: &'w mut Writing<'s>,
        turn: &'t Turn<'t>,
    ) -> Result<Desk<'w, 's, 't>, StoreError> {
        let mut kept = writing
            .one(sql::TICKS, [], |row| Ok(Kept { ticks: row.get(0)?, by: row.get(1)? }))?
            .ok_or_else(|| StoreError::broken("the store's row of time is gone"))?;
        let minute = kept.ticks.0 / MINUTE_MS;
        let passed = kept.pass(&(turn.vouch)());
        let ticks = passed.ticks;
        let is_new_minute = ticks.0 / MINUTE_MS != minute;
        let limits = &turn.rules.limits;
        let (no, row) = writing
            .one(sql::DESTINATION, [turn.destination], |row| {
                let shared = Shared {
                    version: row.get(1)?,
                    is_paused: row.get(2)?,
                    held_until: row.get(3)?,
                    held_until_ms: row.get(4)?,
                    held_why: row.get(5)?,
                    make_next: row.get(6)?,
                    make_through: row.get(7)?,
                    make_from: row.get(8)?,
                    limiter: remembered(row.get(9)?)?.unwrap_or_else(|| Limiter::new(limits, ticks)),
                    breaker: remembered(row.get(10)?)?.unwrap_or_default(),
                    shares: remembered(row.get(11)?)?.unwrap_or_default(),
                    follows: Follows::from_column(row.get(12)?)?,
                    follow_next: row.get(13)?,
                    follow_through: row.get(14)?,
                    has_replays: row.get(15)?,
                };
                Ok((row.get::<i64>(0)?, shared))
            })?
            .ok_or_else(|| unknown(turn.destination))?;
        let under_way = writing.one(sql::COUNT, (no, DeliveryState::InFlight), |row| row.get(0))?;
        let before = row.clone();
        writing.changed_follows(no, row.follows);
        let under_way = under_way.unwrap_or(0);
        let now = writing.now(turn.now);
        let mut desk =
            Desk { writing, turn, now, no, row, ticks, under_way, is_new_minute, before, kept, passed };
        desk.row.limiter.pass(limits, ticks, now);
        Ok(desk)
    }

    /// So much later than now.
    fn in_ms(&self, ms: u64) -> UtcMs {
        UtcMs(self.now.0.saturating_add_unsigned(ms))
    }

    /// Writes down what has changed. Time is written down while it matters to somebody.
    pub(super) fn close(&mut self) -> Result<Option<Passed>, StoreError> {
        let limits = &self.turn.rules.limits;
        let waits = self.row.breaker.waits() || self.row.held_until > self.ticks;
        let matters = waits || self.under_way > 0 || self.row.limiter.remembers(limits);
        let moved = !self.turn.ended.is_empty() || self.before.breaker != self.row.breaker;
        let followed = (self.before.follows, self.before.follow_next, self.before.follow_through)
            != (self.row.follows, self.row.follow_next, self.row.follow_through);
        if !matters && !moved && !followed && self.before.make_next == self.row.make_next {
            return Ok(None);
        }
        self.writing.execute(sql::PUT_TICKS, (self.kept.ticks, self.kept.by))?;
        let Shared { held_until, held_until_ms, held_why, make_next, limiter, breaker, shares, .. } =
            &self.row;
        let (limiter, breaker, shares) = (to_remember(limiter)?, to_remember(breaker)?, to_remember(shares)?);
        let follows = self.row.follows.column();
        let (next, through) = (self.row.follow_next, self.row.follow_through);
        let columns = (
            self.no,
            held_until,
            held_until_ms,
            held_why,
            make_next,
            limiter,
            breaker,
            shares,
            follows,
            next,
            through,
        );
        self.writing.execute(sql::PUT_DESTINATION, columns)?;
        Ok(Some(self.passed))
    }

    /// Takes calls that are no delivery's, if they may be made. They count as ended at once, and once more when they have
    /// ([`end_calls`]): should this process die, nobody else would say so.
    pub(super) fn takes_calls_aside(&mut self, calls: u32) -> bool {
        let (turn, row) = (self.turn, &mut self.row);
        let is_ready = row.version == turn.version && row.make_next > row.make_through;
        let is_open = matches!(row.breaker.state(), breaker::State::Closed { .. });
        if row.is_paused || !is_ready || !is_open || turn.rules.shadow || self.ticks < row.held_until {
            return false;
        }
        let fits = row.limiter.has_room_aside(&turn.rules.limits, self.under_way, self.now, calls);
        if fits {
            row.limiter.take(calls);
            row.limiter.end(calls);
        }
        fits
    }

    /// Writes down what has ended, and who is next because of it. Whether each still held its claim.
    fn end(&mut self) -> Result<Vec<Lease>, StoreError> {
        let mut leases = Vec::new();
        let mut rest = self.turn.ended;
        // No two of one delivery at once: of them one may hold its claim, and it matters which.
        while !rest.is_empty() {
            let mut seen = BTreeSet::new();
            let some = rest.iter().take_while(|one| seen.insert(one.claim.position)).count();
            let (first, others) = rest.split_at(some);
            leases.extend(self.end_some(first)?);
            rest = others;
        }
        Ok(leases)
    }

    fn end_some(&mut self, ended: &[Ended]) -> Result<Vec<Lease>, StoreError> {
        let (mut attempts, mut deliveries) = (Rows::default(), Rows::default());
        for one in ended {
            let Ended { claim, end, next, .. } = one;
            let Claim { position, attempt, lease, .. } = claim;
            let answer = meaning::cut(&end.answer, MAX_ANSWER_BYTES);
            let AttemptEnd { finished, outcome, status, .. } = end;
            // Beside when it was started, by the same clock.
            let finished = UtcMs(finished.0.saturating_add(self.now.0.saturating_sub(self.turn.now.0)));
            attempts.push((self.no, position, attempt, lease, finished, *outcome, status, answer));
            let (state, due, held_for, failures) = self.consequence(next);
            let blocks_until = if state == DeliveryState::Dead { self.blocks_until() } else { None };
            let why = dead_reason(one);
            deliveries.push((self.no, position, lease, state, due, held_for, failures, blocks_until, why));
        }
        self.writing.change_each(&sql::END_ATTEMPT, &attempts)?;
        let held: BTreeMap<Position, OrderKey> = self
            .writing
            .changed_each(&sql::UNLEASE, &deliveries, |row| Ok((row.get(0)?, row.get(1)?)))?
            .into_iter()
            .collect();
        let (mut lanes, mut back, mut crowded) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        for one in ended.iter().filter(|one| held.contains_key(&one.claim.position)) {
            let (position, (state, ..)) = (one.claim.position, self.consequence(&one.next));
            self.writing.count_move(self.no, DeliveryState::InFlight, state);
            dead_reason(one).iter().for_each(|reason| self.writing.count_letters(self.no, reason, 1));
            self.learn(one);
            let key = held[&position].clone();
            match state {
                // Two of one lane are never sent at a time; should they have been, all of it is looked at.
                DeliveryState::Pending if back.contains_key(&key) => drop(crowded.insert((self.no, key))),
                DeliveryState::Pending => drop(back.insert(key, position)),
                DeliveryState::Unknown => {}
                _ => drop(lanes.insert(key)),
            }
        }
        self.call_next(&lanes)?;
        self.back_in_line(&back, &mut crowded)?;
        self.writing.settle(&crowded)?;
        let lease = |one: &Ended| match held.contains_key(&one.claim.position) {
            true => Lease::Held,
            false => Lease::Lost,
        };
        Ok(ended.iter().map(lease).collect())
    }

    /// The state that follows from an attempt, when it is due again, what it waits for, and how many failures more it has.
    fn consequence(&self, next: &Next) -> (DeliveryState, Option<UtcMs>, Option<HeldFor>, i64) {
        let after = |ms: u64| Some(self.in_ms(ms));
        match next {
            Next::Delivered => (DeliveryState::Delivered, None, None, 0),
            Next::Discarded => (DeliveryState::Discarded, None, None, 0),
            Next::Dead => (DeliveryState::Dead, None, None, 0),
            Next::UnknownFor(ms) => (DeliveryState::Unknown, after(*ms), None, 1),
            Next::AskPerson => (DeliveryState::Unknown, after(0), Some(HeldFor::Person), 1),
            Next::RetryIn(ms) => (DeliveryState::Pending, after(*ms), None, 1),
            Next::PatientFor(ms) => (DeliveryState::Pending, after(*ms), None, 0),
            Next::NotSent => (DeliveryState::Pending, after(0), None, 0),
        }
    }

    /// What all replicas learn from an attempt whose claim held: its limit, its breaker, how long to leave it alone.
    fn learn(&mut self, ended: &Ended) {
        let Ended { claim, sign, hold, .. } = ended;
        self.under_way = self.under_way.saturating_sub(1);
        match sign {
            Some(sign) => {
                self.row.limiter.end(1);
                let settings = &self.turn.rules.breaker;
                let (generation, lease) = (claim.generation, claim.lease);
                self.row.breaker.ended(settings, generation, *sign, self.ticks, lease, &reason(ended));
            }
            None => {
                self.row.limiter.give_back(1);
                self.row.breaker.released(claim.lease);
            }
        }
        if let Some(hold) = hold {
            let until = self.ticks.plus(hold.for_ms);
            // Several requests under way may each be told to come back later: the latest counts.
            if until > self.row.held_until {
                self.row.held_until = until;
                self.row.held_until_ms = Some(self.in_ms(hold.for_ms));
                self.row.held_why = Some(hold.why.to_owned());
            }
        }
    }

    /// Until when a dead one is in the way of those behind it.
    pub(super) fn blocks_until(&self) -> Option<i64> {
        match self.turn.rules.on_dead {
            OnDead::Skip => None,
            OnDead::Hold => Some(i64::MAX),
            OnDead::HoldHours(hours) => Some(self.now.0.saturating_add(i64::from(hours) * HOUR_MS)),
        }
    }

    /// One of each of these lanes has ended: the first of it is due now, unless it is held, or somebody dead is in the way.
    pub(super) fn call_next(&mut self, lanes: &BTreeSet<OrderKey>) -> Result<(), StoreError> {
        let firsts = self.writing.first_in_lanes(self.no, lanes)?;
        let changes: Vec<_> = firsts.into_values().filter_map(order::next_in_line).collect();
        self.writing.change(self.no, &changes)
    }

    /// These were not processed, are pending by now, and stand in line again: mostly first. Where lanes are in the order of time
    /// and one is not first, all of its lane is to be looked at: whoever came before it meanwhile makes it wait no longer.
    fn back_in_line(
        &mut self,
        back: &BTreeMap<OrderKey, Position>,
        crowded: &mut BTreeSet<Lane>,
    ) -> Result<(), StoreError> {
        let firsts = self.writing.first_in_lanes(self.no, &back.keys().cloned().collect())?;
        let state = DeliveryState::Pending;
        if self.row.follows == Follows::Order {
            let is_first = |(key, position): &(&OrderKey, &Position)| {
                firsts.get(*key).is_some_and(|first| first.position == **position)
            };
            let behind = back.iter().filter(|one| !is_first(one));
            crowded.extend(behind.map(|(key, _)| (self.no, key.clone())));
            return Ok(());
        }
        let changes = back.iter().flat_map(|(key, position)| match firsts.get(key) {
            Some(first) => {
                let back = Standing { rank: 0, position: *position, state, held_for: None, is_early: false };
                order::back_in_line(*first, back)
            }
            None => vec![Change::of_state(*position, state, DeliveryState::Parked)],
        });
        let changes: Vec<_> = changes.filter(|change| change.from != change.to).collect();
        self.writing.change(self.no, &changes)
    }

    /// The requests of this process that are under way stay its own. Gives those that are not, any more.
    fn extend(&mut self) -> Result<Vec<Claim>, StoreError> {
        let until = self.ticks.plus(LEASE_MS);
        let mut lost = Vec::new();
        for claim in self.turn.under_way {
            match self.writing.execute(sql::EXTEND, (self.no, claim.position, claim.lease, until))? {
                0 => lost.push(claim.clone()),
                _ => self.row.breaker.extended(claim.lease, until),
            }
        }
        Ok(lost)
    }

    /// Takes back what was leased until now: whether it was processed, nobody knows.
    fn expire(&mut self) -> Result<usize, StoreError> {
        if self.under_way == 0 {
            return Ok(0);
        }
        let ran_out = self.writing.all(sql::EXPIRED, (self.no, self.ticks), |row| {
            Ok((row.get::<Position>(0)?, row.get::<u64>(1)?))
        })?;
        let held_for = match self.turn.rules.unknown.then {
            AfterUnknown::Repeat | AfterUnknown::LookUp => None,
            AfterUnknown::AskPerson => Some(HeldFor::Person),
        };
        let settled = self.in_ms(self.turn.rules.unknown.settles_ms);
        let (due, state) = (Some(settled), DeliveryState::Unknown);
        let mut rows = Rows::default();
        for (position, lease) in &ran_out {
            let why = held_for.map(|_| UNKNOWN);
            rows.push((self.no, position, lease, state, due, held_for, 0, None::<i64>, why));
            why.iter().for_each(|reason| self.writing.count_letters(self.no, reason, 1));
            self.writing.count_move(self.no, DeliveryState::InFlight, state);
            self.row.limiter.end(1);
            self.row.breaker.released(*lease);
            self.under_way = self.under_way.saturating_sub(1);
        }
        self.writing.change_each(&sql::UNLEASE, &rows)?;
        Ok(ran_out.len())
    }

    /// Sets aside what has waited for its true time for too long.
    fn give_up_on_time(&mut self) -> Result<usize, StoreError> {
        let received_by = UtcMs(self.now.0 - GIVE_UP_ON_TIME_AFTER_MS);
        let limit = capped(MAX_GIVEN_UP_AT_ONCE as u64);
        let old = self.writing.all(sql::WITHOUT_TIME, (self.no, received_by, limit), |row| {
            Ok((row.get::<Position>(0)?, row.get::<OrderKey>(1)?))
        })?;
        let given_up = old.len();
        let mut lanes = BTreeSet::new();
        for (position, key) in old {
            self.writing.execute(sql::GIVE_UP, (self.no, position))?;
            self.writing.count_move(self.no, DeliveryState::Held, DeliveryState::Parked);
            lanes.insert((self.no, key));
        }
        self.writing.settle(&lanes)?;
        self.writing.totals.unresolved += given_up as u64;
        Ok(given_up)
    }

    /// Whatever is due later than anything is put off was put off by a clock that was wrong, on this machine or another's:
    /// it must not wait for years. Once a minute, as it costs a statement.
    fn mend_dues(&mut self) -> Result<(), StoreError> {
        if self.is_new_minute {
            let now = self.now;
            if self.row.follows == Follows::Order {
                let by_then = UtcMs(now.0.saturating_add(HOUR_MS));
                self.writing.execute(sql::MEND_INCOMPLETE, (self.no, now, by_then))?;
            }
            let by_then = UtcMs(now.0.saturating_add(MOST_PUT_OFF_MS));
            for class in Class::ALL {
                self.writing.execute(sql::MEND_DUES, (self.no, class, now, by_then))?;
            }
        }
        Ok(())
    }

    /// Those behind a dead one have waited for as long as the policy says. Whether there may be more.
    fn unblock(&mut self) -> Result<bool, StoreError> {
        let limit = capped(MAX_GIVEN_UP_AT_ONCE as u64);
        let over = self.writing.all(sql::UNBLOCKED, (self.no, self.now, limit), |row| {
            Ok((row.get::<Position>(0)?, row.get::<OrderKey>(1)?))
        })?;
        for (position, _) in &over {
            self.writing.execute(sql::UNBLOCK, (self.no, position))?;
        }
        let freed = over.len();
        self.call_next(&over.into_iter().map(|(_, key)| key).collect())?;
        Ok(freed == MAX_GIVEN_UP_AT_ONCE)
    }

    /// Passes on to [`super::claiming`].
    fn claim(&mut self) -> Result<super::claiming::Claims, StoreError> {
        super::claiming::claim(self)
    }

    fn make(&mut self) -> Result<bool, StoreError> {
        super::claiming::make_old(self)
    }
}

/// Calls that are no delivery's have ended. They count from the last turn on, which was a moment ago: time is kept while any
/// call counts.
pub(super) fn end_calls(writing: &Writing<'_>, destination: &str, calls: u32) -> Result<(), StoreError> {
    let limiter = writing.one(sql::LIMITER, [destination], |row| remembered::<Limiter>(row.get(0)?))?;
    if let Some(mut limiter) = limiter.flatten() {
        limiter.end(calls);
        writing.execute(sql::PUT_LIMITER, (destination, to_remember(&limiter)?))?;
    }
    Ok(())
}

/// Why it waits for a person from now on, if it does.
fn dead_reason(ended: &Ended) -> Option<&'static str> {
    match ended.next {
        Next::Dead => Some(ended.end.outcome),
        Next::AskPerson => Some(UNKNOWN),
        _ => None,
    }
}

/// What a person reads if this attempt opens the breaker.
fn reason(ended: &Ended) -> String {
    let AttemptEnd { outcome, status, answer, .. } = &ended.end;
    let status = status.map_or_else(String::new, |status| format!(" {status}"));
    format!("{outcome}{status}: {}", meaning::cut(answer, MAX_REASON_BYTES))
}

pub(super) fn remembered<T: DeserializeOwned>(json: Option<String>) -> Result<Option<T>, StoreError> {
    json.map(|json| serde_json::from_str(&json)).transpose().map_err(|bad| StoreError::Broken(bad.into()))
}

fn to_remember(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|bad| StoreError::Broken(bad.into()))
}

pub(super) fn unknown(destination: &str) -> StoreError {
    StoreError::NotFound { what: "destination", name: destination.to_owned() }
}
