//! Step 11 of 12: how many calls a destination may get. Pure: its whole memory is a few numbers in the destination's row,
//! so all replicas share it, and time is the store's [`Ticks`].
//!
//! A delivery is claimed and its permit taken in one transaction, and nothing stands between a claim and its call: this
//! is the innermost gate. What is promised is what the *receiver* may count: over any sliding minute no more than
//! `60 × per_second + burst`. A permit is used a while after it was taken, and the call arrives later still, so counting
//! permits by when they were taken would let calls bunch up. Therefore a call counts from its claim until a minute after
//! its end is written down: whatever arrives within one minute was, when the last of it was claimed, either under way or
//! had ended within that minute.
//!
//! Beside that hard bound, tokens pace the calls, so that a minute's worth does not go out at its start; they are topped
//! up a little beyond the burst, so that a wake-up that comes late loses nothing. A day is the calendar's, in UTC, and
//! believes the wall clock.

use serde::{Deserialize, Serialize};

use super::ticks::{self, Ticks};
use crate::event_store::UtcMs;

/// Ends are counted by the half second.
const SLOT_MS: u64 = 500;

/// A minute, the slot that has only begun, and what ticks may be wrong by.
const SLOTS: usize = ((60_000 + ticks::SLACK_MS) / SLOT_MS) as usize + 1;

/// What was called longer ago counts for nothing any more.
pub const REMEMBERS_MS: u64 = SLOTS as u64 * SLOT_MS;

/// A turn may come so much late without losing a token.
const LATE_MS: f64 = 250.0;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// What a destination allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Calls per second, on the whole.
    pub per_second: f64,
    /// So many more at once after a quiet time.
    pub burst: u32,
    /// Calls per calendar day, UTC; no bound if not given.
    pub per_day: Option<u64>,
    /// Calls at the same time.
    pub concurrency: u32,
}

impl Limits {
    /// The most calls that the receiver may count within a minute.
    pub fn per_minute(&self) -> u64 {
        ((60.0 * self.per_second + f64::from(self.burst)).floor() as u64).max(1)
    }

    fn most_tokens(&self) -> f64 {
        f64::from(self.burst).max(1.0) + self.per_second * LATE_MS / 1_000.0
    }
}

/// What is remembered of a destination's calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limiter {
    /// As of when.
    at: Ticks,
    tokens: f64,
    /// Calls that ended, by the slot; the last is the one that runs.
    ended: Vec<u32>,
    /// Which day, counted from 1970.
    day: i64,
    /// Calls on that day.
    today: u64,
}

/// How many calls may start now, and when it is worth asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// So many.
    pub calls: u32,
    /// If there are none: not before so much time has passed, or a call has ended.
    pub again_in_ms: u64,
}

impl Limiter {
    /// Of a destination that was never called: all tokens are there.
    pub fn new(limits: &Limits, at: Ticks) -> Limiter {
        Limiter { at, tokens: f64::from(limits.burst).max(1.0), ended: vec![0; SLOTS], day: 0, today: 0 }
    }

    /// Brings it up to the present. Whatever the limits were before: more tokens than they allow now are gone.
    pub fn pass(&mut self, limits: &Limits, ticks: Ticks, now: UtcMs) {
        let passed_ms = ticks.since(self.at);
        self.tokens =
            (self.tokens + passed_ms as f64 * limits.per_second / 1_000.0).min(limits.most_tokens());
        let slots = ticks.0 / SLOT_MS - self.at.0.min(ticks.0) / SLOT_MS;
        self.ended.resize(SLOTS, 0);
        let gone = usize::try_from(slots).unwrap_or(SLOTS).min(SLOTS);
        self.ended.rotate_left(gone);
        self.ended[SLOTS - gone..].fill(0);
        self.at = self.at.max(ticks);
        let day = now.0.div_euclid(DAY_MS);
        // A clock that was ahead and is right again must not close the destination for years.
        if day > self.day {
            (self.day, self.today) = (day, 0);
        } else if day < self.day - 1 {
            self.day = day;
        }
    }

    /// How many calls may start, `under_way` being under way over all replicas.
    pub fn room(&self, limits: &Limits, under_way: u64, now: UtcMs) -> Room {
        let within_a_minute = self.ended.iter().map(|count| u64::from(*count)).sum::<u64>() + under_way;
        let by_minute = limits.per_minute().saturating_sub(within_a_minute);
        let by_day = limits.per_day.map_or(u64::MAX, |most| most.saturating_sub(self.today));
        let at_once = u64::from(limits.concurrency).saturating_sub(under_way);
        let calls = (self.tokens as u64).min(by_minute).min(by_day).min(at_once);
        let again_in_ms = if calls > 0 {
            0
        } else if by_day == 0 {
            u64::try_from((self.day + 1).saturating_mul(DAY_MS).saturating_sub(now.0)).unwrap_or(0)
        } else if by_minute == 0 {
            SLOT_MS - self.at.0 % SLOT_MS
        } else {
            ((1.0 - self.tokens).max(0.0) * 1_000.0 / limits.per_second).ceil() as u64
        };
        Room { calls: u32::try_from(calls).unwrap_or(u32::MAX), again_in_ms }
    }

    /// Whether so many calls that are no deliveries may be made, one after the other.
    pub fn has_room_aside(&self, limits: &Limits, under_way: u64, now: UtcMs, calls: u32) -> bool {
        let room = self.room(limits, under_way, now).calls;
        let within_a_minute = self.ended.iter().map(|count| u64::from(*count)).sum::<u64>() + under_way;
        let by_day = limits.per_day.is_none_or(|most| self.today + u64::from(calls) <= most);
        // Where there is never more than one token, one is enough: the second call owes its own.
        room >= limits.burst.clamp(1, calls)
            && within_a_minute + u64::from(calls) <= limits.per_minute()
            && by_day
    }

    /// Whether anything of what was called still counts: as long as it does, time must be kept.
    pub fn remembers(&self, limits: &Limits) -> bool {
        self.tokens < f64::from(limits.burst).max(1.0) || self.ended.iter().any(|count| *count > 0)
    }

    /// So many calls are claimed.
    pub fn take(&mut self, calls: u32) {
        self.tokens -= f64::from(calls);
        self.today += u64::from(calls);
    }

    /// So many calls have ended, or nobody can say any more whether they have.
    pub fn end(&mut self, calls: u32) {
        self.ended[SLOTS - 1] = self.ended[SLOTS - 1].saturating_add(calls);
    }

    /// So many were claimed and never called.
    pub fn give_back(&mut self, calls: u32) {
        self.tokens += f64::from(calls);
        self.today = self.today.saturating_sub(u64::from(calls));
    }
}

#[cfg(test)]
#[path = "limiter_tests.rs"]
mod tests;
