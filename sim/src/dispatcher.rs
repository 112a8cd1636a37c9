//! cloud-ingest's dispatcher: its thin part played step by step as `cloud_ingest::delivery::dispatch` does it; what is
//! decided is decided by the real store, the real judge of answers and the real `retry`.

use std::collections::BTreeMap;

use cloud_ingest::delivery::dispatch::LEASE_MS;
use cloud_ingest::delivery::retry::{self, Decision};
use cloud_ingest::destination::Outcome;
use cloud_ingest::destination::http_json::{judge, render};
use cloud_ingest::event_store::{
    AttemptEnd, Claimed, EventStore, GIVE_UP_ON_TIME_AFTER_MS, Lease, Next, UtcMs,
};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};

use crate::bait::Bait;
use crate::stage::{DispatchEvent, Event, Stage};
use crate::vault::Vault;

/// The destination's name.
pub const LEGACY: &str = "legacy";

/// Requests at once.
const SLOTS: usize = 4;

/// One request ends within this.
pub const TIMEOUT_MS: u64 = 10_000;

// As in the real dispatcher.
const LEASE_MARGIN_MS: i64 = 5_000;
const LONGEST_WAIT_MS: u64 = 1_000;
const SHORTEST_WAIT_MS: u64 = 20;

/// The dispatcher process.
#[derive(Default)]
pub struct Dispatcher {
    /// Which run; events for another run go nowhere.
    pub run: u32,
    /// So many more calls stall for longer than their lease, before or after the request.
    pub late_workers: u32,
    /// It dies when the next call is answered.
    pub crash_before_finish: bool,
    /// A day on the cloud's clock passes for what waits for its true time, as if it had come a day earlier.
    pub a_day_passes: bool,
    up: bool,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    /// The turn that is planned, and when.
    turn: (u64, u64),
}

struct Call {
    claimed: Claimed,
    lease_until: UtcMs,
    end: Option<(AttemptEnd, Decision)>,
}

impl Dispatcher {
    /// Starts the process.
    pub fn start(&mut self, stage: &mut Stage, in_ms: u64) {
        stage.after(in_ms, Event::Dispatch(self.run, DispatchEvent::Start));
    }

    /// The process dies, and starts again. Requests that are under way arrive all the same.
    pub fn die(&mut self, stage: &mut Stage, back_in_ms: u64) {
        if self.up {
            stage.say(format_args!("dispatcher"), format_args!("dies with {} calls", self.calls.len()));
        }
        self.run += 1;
        self.up = false;
        self.calls.clear();
        self.start(stage, back_in_ms);
    }

    /// Something new is stored: a turn now.
    pub fn wake(&mut self, stage: &mut Stage) {
        if self.up {
            self.plan_turn(stage, 1);
        }
    }

    /// Something happens to the process.
    pub fn handle(&mut self, stage: &mut Stage, vault: &mut Vault, run: u32, what: DispatchEvent) {
        if run != self.run {
            return;
        }
        match what {
            DispatchEvent::Start => {
                self.up = true;
                self.turn = (self.turn.0 + 1, u64::MAX);
                self.plan_turn(stage, 0);
            }
            DispatchEvent::Turn(no) if no == self.turn.0 => self.turn(stage, vault),
            DispatchEvent::Turn(_) => {}
            DispatchEvent::Send(call) => self.send(stage, vault, call),
            DispatchEvent::Answer(call, status, retry_after_s, body) => {
                let outcome = judge(status, &headers(retry_after_s), body.as_bytes(), stage.utc());
                self.ended(stage, call, outcome, Some(status), body);
            }
            DispatchEvent::Unreachable(call) => {
                self.ended(stage, call, Outcome::Unreachable("refused".into()), None, String::new());
            }
            DispatchEvent::BrokenOff(call) => {
                self.ended(stage, call, Outcome::BrokenOff("reset".into()), None, String::new());
            }
            DispatchEvent::TimedOut(call) => self.ended(stage, call, Outcome::TimedOut, None, String::new()),
            DispatchEvent::Finish(call) => self.finish(stage, vault, call),
        }
    }

    /// Requests under way.
    pub fn under_way(&self) -> usize {
        self.calls.len()
    }

    /// The most there can be.
    pub const fn slots() -> usize {
        SLOTS
    }

    fn plan_turn(&mut self, stage: &mut Stage, wait_ms: u64) {
        let at_ms = stage.now_ms + wait_ms;
        if at_ms < self.turn.1 {
            self.turn = (self.turn.0 + 1, at_ms);
            stage.at(at_ms, Event::Dispatch(self.run, DispatchEvent::Turn(self.turn.0)));
        }
    }

    /// Claims what is due and has room; each claim goes its own way.
    fn turn(&mut self, stage: &mut Stage, vault: &mut Vault) {
        self.turn.1 = u64::MAX;
        let room = SLOTS - self.calls.len();
        if room == 0 {
            return self.plan_turn(stage, LONGEST_WAIT_MS);
        }
        let now = stage.utc();
        let lease_until = UtcMs(now.0 + LEASE_MS);
        let mut taken = Vec::new();
        let waited_until = UtcMs(now.0 + if self.a_day_passes { GIVE_UP_ON_TIME_AFTER_MS } else { 0 });
        let mut given_up = 0;
        let asked = vault.call(stage.now_ms, |store| {
            let expired = store.expire_leases(now)?;
            given_up = store.give_up_on_time(waited_until)?;
            let claimed = store.claim(LEGACY, now, lease_until, room)?;
            taken.clone_from(&claimed);
            Ok((expired, claimed, store.next_due(LEGACY)?))
        });
        if given_up > 0 {
            stage.tally.add("taps set aside without time", given_up as u64);
            stage.say(format_args!("dispatcher"), format_args!("{given_up} taps are set aside"));
        }
        // Also when the answer was lost: then nobody knows of the claims, and their leases run out.
        for claimed in &taken {
            stage.oracle.claimed(claimed, stage.now_ms, &mut vault.store);
        }
        let Ok((expired, claimed, next_due)) = asked else {
            stage.tally.count("store calls that failed");
            let wait_ms = stage.dice.between(100, 2_000);
            return self.plan_turn(stage, wait_ms);
        };
        self.a_day_passes = false;
        if expired > 0 {
            stage.tally.add("leases that ran out", expired as u64);
            stage.say(format_args!("dispatcher"), format_args!("{expired} leases ran out"));
        }
        let started = claimed.len();
        for claimed in claimed {
            if stage.has(Bait::Overtaking) {
                self.overtake(stage, vault, &claimed);
            }
            let late = self.late_workers > 0 && stage.dice.percent(50);
            let mut delay_ms = stage.dice.below(5);
            if late {
                self.late_workers -= 1;
                delay_ms += stage.dice.between(15_000, LEASE_MS as u64 + 20_000);
                stage.tally.count("late workers");
            }
            let call = self.next_call;
            self.next_call += 1;
            self.calls.insert(call, Call { claimed, lease_until, end: None });
            stage.after(delay_ms, Event::Dispatch(self.run, DispatchEvent::Send(call)));
        }
        let wait_ms = match next_due {
            _ if started == room => LONGEST_WAIT_MS,
            None => LONGEST_WAIT_MS,
            Some(due) => u64::try_from(due.0 - now.0).unwrap_or(0).clamp(SHORTEST_WAIT_MS, LONGEST_WAIT_MS),
        };
        self.plan_turn(stage, wait_ms);
    }

    fn send(&mut self, stage: &mut Stage, vault: &mut Vault, no: u64) {
        let Some(call) = self.calls.get(&no) else { return };
        let claimed = &call.claimed;
        let now = stage.utc();
        let first = claimed.body.clone().filter(|_| !stage.has(Bait::NewBodyPerAttempt));
        let mut body = first.unwrap_or_else(|| render(claimed.event_id, &claimed.tap));
        if stage.has(Bait::NewBodyPerAttempt) {
            body = body.replacen('{', &format!("{{\"sent_at\":{},", now.0), 1);
        }
        let kept = if stage.has(Bait::NewBodyPerAttempt) { claimed.body.clone() } else { None };
        let kept = kept.unwrap_or_else(|| body.clone());
        let last_start = UtcMs(call.lease_until.0 - LEASE_MARGIN_MS - TIMEOUT_MS as i64);
        let started = if now > last_start {
            Ok(Lease::Lost)
        } else {
            vault.call(stage.now_ms, |store| store.start_attempt(&claimed.claim, &kept, now))
        };
        match started {
            Ok(Lease::Held) => {}
            Ok(Lease::Lost) if stage.has(Bait::LostLeaseSends) => {}
            Ok(Lease::Lost) => {
                stage.tally.count("lost leases");
                self.calls.remove(&no);
                return self.plan_turn(stage, 1);
            }
            Err(_) if now < call.lease_until => {
                stage.tally.count("store calls that failed");
                let wait_ms = stage.dice.between(50, 2_000);
                return stage.after(wait_ms, Event::Dispatch(self.run, DispatchEvent::Send(no)));
            }
            Err(_) => {
                self.calls.remove(&no);
                return;
            }
        }
        let mut key = claimed.event_id.to_string();
        if stage.has(Bait::NewKeyPerAttempt) && claimed.attempts > 0 {
            key = format!("{key}/{}", claimed.attempts);
        }
        stage.tally.count("attempts");
        stage.say(
            format_args!("dispatcher"),
            format_args!(
                "sends position {} of {}, attempt {}",
                claimed.claim.position.0,
                claimed.tap.person.0,
                claimed.attempts + 1
            ),
        );
        stage.oracle.sent(claimed, &key, &body, &mut vault.store);
        let way_ms = stage.dice.between(1, 30);
        stage.after(way_ms, Event::Request { run: self.run, call: no, key });
        stage.after(TIMEOUT_MS, Event::Dispatch(self.run, DispatchEvent::TimedOut(no)));
    }

    /// Bait: the next in line is sent along with its head.
    fn overtake(&mut self, stage: &mut Stage, vault: &mut Vault, head: &Claimed) {
        let Some(next) = stage.oracle.next_of_same_person(head) else { return };
        let key = next.event_id.to_string();
        let body = render(next.event_id, &next.tap);
        stage.oracle.claimed(&next, stage.now_ms, &mut vault.store);
        stage.oracle.sent(&next, &key, &body, &mut vault.store);
        stage.after(1, Event::Request { run: self.run, call: u64::MAX, key });
    }

    fn ended(&mut self, stage: &mut Stage, no: u64, outcome: Outcome, status: Option<u16>, answer: String) {
        let Some(call) = self.calls.get_mut(&no).filter(|call| call.end.is_none()) else { return };
        stage.tally.count(&format!("outcome: {}", outcome.word()));
        stage.say(
            format_args!("dispatcher"),
            format_args!("position {}: {}", call.claimed.claim.position.0, outcome.word()),
        );
        if std::mem::take(&mut self.crash_before_finish) {
            stage.tally.count("dispatcher crashes before finish");
            let back_in_ms = stage.dice.between(500, 5_000);
            return self.die(stage, back_in_ms);
        }
        let finished = stage.utc();
        let decision = retry::after(&outcome, call.claimed.attempts + 1, finished, stage.dice.unit());
        call.end = Some((AttemptEnd { finished, outcome: outcome.word(), status, answer }, decision));
        let mut delay_ms = stage.dice.below(3);
        if self.late_workers > 0 && stage.dice.percent(50) {
            self.late_workers -= 1;
            delay_ms += stage.dice.between(LEASE_MS as u64, LEASE_MS as u64 + 20_000);
            stage.tally.count("late workers");
        }
        stage.after(delay_ms, Event::Dispatch(self.run, DispatchEvent::Finish(no)));
    }

    fn finish(&mut self, stage: &mut Stage, vault: &mut Vault, no: u64) {
        let Some(call) = self.calls.get(&no) else { return };
        let Some((end, Decision { next, hold })) = call.end.clone() else { return };
        let position = call.claimed.claim.position;
        let finished = vault.call(stage.now_ms, |store| {
            if let Some(hold) = &hold {
                let held = store.destinations()?.into_iter().find(|known| known.destination == LEGACY);
                if held.and_then(|known| known.held_until) < Some(hold.until) {
                    store.hold_destination(LEGACY, hold.until, &hold.why)?;
                }
            }
            store.finish(&call.claimed.claim, &end, next.clone())
        });
        match finished {
            Ok(Lease::Held) => stage.oracle.finished(position, &next),
            Ok(Lease::Lost) => {
                stage.tally.count("lost leases");
                stage.say(
                    format_args!("dispatcher"),
                    format_args!("position {}: its lease is lost", position.0),
                );
            }
            Err(_) if stage.utc().0 < end.finished.0 + 2 * LEASE_MS => {
                stage.tally.count("store calls that failed");
                let wait_ms = stage.dice.between(50, 2_000);
                return stage.after(wait_ms, Event::Dispatch(self.run, DispatchEvent::Finish(no)));
            }
            Err(_) => {}
        }
        if next == Next::Dead {
            stage.tally.count("refused for good");
        }
        self.calls.remove(&no);
        self.plan_turn(stage, 1);
    }
}

fn headers(retry_after_s: Option<u64>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    headers
}
