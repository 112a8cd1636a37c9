//! cloud-ingest's dispatchers, two replicas on one store: their thin part played step by step as
//! `cloud_ingest::delivery::dispatch` does it; what is decided is decided by the real store with its limiter, breaker and
//! shares, the real judge of answers and the real `retry`.

use std::collections::BTreeMap;

use cloud_ingest::delivery::breaker::{self, Sign};
use cloud_ingest::delivery::limiter::Limits;
use cloud_ingest::delivery::retry::{self, Decision, Unknown};
use cloud_ingest::delivery::rules::{BEAT_MS, LEASE_MARGIN_MS, LEASE_MS, Rules};
use cloud_ingest::delivery::ticks::Ticker;
use cloud_ingest::destination::Outcome;
use cloud_ingest::destination::http_json::{judge, render};
use cloud_ingest::destination::settings::{AfterUnknown, DestinationSettings};
use cloud_ingest::event_store::{
    AttemptEnd, Claim, Claimed, Deliveries, Ended, GIVE_UP_ON_TIME_AFTER_MS, Lease, Next, Rendered, Turn,
    Turned, UtcMs,
};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};

use crate::bait::Bait;
use crate::stage::{DispatchEvent, Event, Stage};
use crate::vault::Vault;

/// The destination's name.
pub const LEGACY: &str = "legacy";

/// How many dispatchers there are.
pub const REPLICAS: u32 = 2;

/// Requests at once, over all of them.
const SLOTS: u32 = 4;

/// One request ends within this.
pub const TIMEOUT_MS: u64 = 20_000;

/// What the legacy API allows: so many calls a second, and so many more at once.
pub const PER_SECOND: f64 = 4.0;
/// As above.
pub const BURST: u32 = 3;

// As in the real dispatcher.
const LONGEST_WAIT_MS: u64 = 1_000;
const LONGEST_BUSY_WAIT_MS: u64 = 400;
const SHORTEST_WAIT_MS: u64 = 5;

/// Runs of different replicas have different numbers.
const RUNS_OF_ONE: u32 = 1 << 16;

/// What the destination is, as the store has it.
pub fn settings() -> String {
    let settings = DestinationSettings::http_json("http://127.0.0.1:9/").expect("it is an address");
    serde_json::to_string(&settings).expect("settings are JSON")
}

fn rules(across_ms: Option<u64>) -> Rules {
    Rules {
        limits: Limits { per_second: PER_SECOND, burst: BURST, per_day: None, concurrency: SLOTS },
        breaker: breaker::Settings { failures: 5, open_ms: 2_000, most_open_ms: 16_000, ramp_ms: 4_000 },
        is_followed: true,
        across_ms,
        ..Rules::default()
    }
}

const UNKNOWN: Unknown = Unknown { then: AfterUnknown::Repeat, settles_ms: 0 };

/// One dispatcher process.
pub struct Dispatcher {
    replica: u32,
    /// Which run; events for another run go nowhere.
    pub run: u32,
    /// So many more claims are sent late: the process stands still.
    pub late_workers: u32,
    /// It dies when the next call is answered.
    pub crash_before_finish: bool,
    /// A day on the cloud's clock passes for what waits for its true time, as if it had come a day earlier.
    pub a_day_passes: bool,
    up: bool,
    ticker: Ticker,
    /// Each machine's clock counts from somewhere else.
    monotonic_from_ms: u64,
    /// A tap waits for other doors no longer than that, if the destination wants order across controllers.
    across_ms: Option<u64>,
    calls: BTreeMap<u64, Call>,
    ended: Vec<Ended>,
    beat_ms: u64,
    next_call: u64,
    /// The turn that is planned, and when.
    turn: (u64, u64),
}

struct Call {
    claimed: Claimed,
    claimed_ms: u64,
    sent: bool,
}

impl Dispatcher {
    /// All replicas.
    pub fn all(across_ms: Option<u64>) -> Vec<Dispatcher> {
        (0..REPLICAS).map(|replica| Dispatcher::new(replica, across_ms)).collect()
    }

    fn new(replica: u32, across_ms: Option<u64>) -> Dispatcher {
        Dispatcher {
            replica,
            run: replica * RUNS_OF_ONE,
            late_workers: 0,
            crash_before_finish: false,
            a_day_passes: false,
            up: false,
            ticker: Ticker::new(0),
            monotonic_from_ms: 0,
            across_ms,
            calls: BTreeMap::new(),
            ended: Vec::new(),
            beat_ms: 0,
            next_call: 0,
            turn: (0, u64::MAX),
        }
    }

    /// Starts the process.
    pub fn start(&mut self, stage: &mut Stage, in_ms: u64) {
        stage.after(in_ms, Event::Dispatch(self.run, DispatchEvent::Start));
    }

    /// The process dies, and starts again. Requests that are under way arrive all the same.
    pub fn die(&mut self, stage: &mut Stage, back_in_ms: u64) {
        if self.up {
            stage.say(
                format_args!("dispatcher {}", self.replica + 1),
                format_args!("dies with {} calls", self.calls.len()),
            );
        }
        self.run += 1;
        self.up = false;
        self.calls.clear();
        self.ended.clear();
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
                self.ticker = Ticker::new(stage.dice.below(u64::from(u32::MAX)) as i64 * 1_000_000);
                self.monotonic_from_ms = stage.dice.below(1_000_000_000);
                self.beat_ms = stage.now_ms;
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
        }
    }

    /// Requests under way.
    pub fn under_way(&self) -> usize {
        self.calls.len()
    }

    /// The most there can be.
    pub const fn slots() -> usize {
        SLOTS as usize
    }

    fn plan_turn(&mut self, stage: &mut Stage, wait_ms: u64) {
        let at_ms = stage.now_ms + wait_ms;
        if at_ms < self.turn.1 {
            self.turn = (self.turn.0 + 1, at_ms);
            stage.at(at_ms, Event::Dispatch(self.run, DispatchEvent::Turn(self.turn.0)));
        }
    }

    /// One transaction: what has ended, what is under way, what is next.
    fn turn(&mut self, stage: &mut Stage, vault: &mut Vault) {
        self.turn.1 = u64::MAX;
        self.give_up_late(stage);
        let beats = stage.now_ms >= self.beat_ms + BEAT_MS;
        let under_way: Vec<Claim> = match beats {
            true => self.calls.values().map(|call| call.claimed.claim.clone()).collect(),
            false => Vec::new(),
        };
        let room = match self.a_day_passes {
            false => Dispatcher::slots().saturating_sub(self.calls.len() + self.ended.len()),
            // The day is for those who wait for their time: nothing begins a day from now.
            true => 0,
        };
        let now = stage.utc();
        let wall = UtcMs(now.0 + if self.a_day_passes { GIVE_UP_ON_TIME_AFTER_MS } else { 0 });
        // Nor does anything end a day from now: it would be due again only after that.
        let handed = if self.a_day_passes { 0 } else { self.ended.len() };
        // Bait: a clock that somebody can push.
        let pace = if stage.has(Bait::PushesTheTime) { 20 } else { 1 };
        let monotonic_ms = self.monotonic_from_ms + stage.now_ms * pace;
        let rules = rules(self.waits_for_doors(stage));
        let (ticker, new_bodies) = (self.ticker, stage.has(Bait::NewBodyPerAttempt));
        let mut taken: Option<Turned> = None;
        let asked = vault.call(stage.now_ms, |store| {
            let turned = store.turn(&Turn {
                destination: LEGACY,
                version: 1,
                rules: &rules,
                now: wall,
                vouch: &|| ticker.vouch(monotonic_ms),
                ended: &self.ended[..handed],
                under_way: &under_way,
                room,
                render: &|event, tap| Rendered::Body(render(event, tap)),
            })?;
            taken = Some(turned);
            Ok(())
        });
        let Some(turned) = taken else {
            stage.tally.count("store calls that failed");
            let wait_ms = stage.dice.between(100, 2_000);
            return self.plan_turn(stage, wait_ms);
        };
        if turned.given_up > 0 {
            stage.tally.add("taps set aside without time", turned.given_up as u64);
            stage.say(format_args!("dispatcher"), format_args!("{} taps are set aside", turned.given_up));
        }
        if turned.expired > 0 {
            stage.tally.add("leases that ran out", turned.expired as u64);
            stage.say(format_args!("dispatcher"), format_args!("{} leases ran out", turned.expired));
        }
        if !matches!(turned.breaker.state(), breaker::State::Closed { .. }) {
            stage.tally.count("turns with an open breaker");
        }
        for (ended, lease) in self.ended.iter().zip(&turned.ended) {
            match lease {
                Lease::Held => stage.oracle.finished(ended.claim.position, &ended.next),
                Lease::Lost => stage.tally.count("lost leases"),
            }
        }
        if !turned.more {
            stage.oracle.turned(now, &mut vault.store);
        }
        // Also when the answer was lost: then nobody knows of the claims, and their leases run out.
        for claimed in &turned.claimed {
            stage.oracle.claimed(claimed, stage.now_ms, &mut vault.store);
        }
        if asked.is_err() {
            stage.tally.count("store calls that failed");
            let wait_ms = stage.dice.between(100, 2_000);
            return self.plan_turn(stage, wait_ms);
        }
        self.a_day_passes = false;
        self.ended.drain(..handed);
        if let Some(passed) = &turned.passed {
            self.ticker.told(passed);
        }
        if beats {
            self.beat_ms = stage.now_ms;
        }
        for claim in &turned.lost {
            stage.tally.count("lost leases");
            self.calls.retain(|_, call| call.claimed.claim != *claim);
        }
        let busy = turned.passed.is_some();
        let wait_ms = match turned.again_in_ms {
            _ if turned.more => SHORTEST_WAIT_MS,
            Some(ms) => ms,
            None => LONGEST_WAIT_MS,
        };
        for mut claimed in turned.claimed {
            if stage.has(Bait::Overtaking) {
                self.overtake(stage, vault, &claimed);
            }
            if new_bodies {
                claimed.body = claimed.body.replacen('{', &format!("{{\"sent_at\":{},", now.0), 1);
            }
            let late = self.late_workers > 0 && stage.dice.percent(50);
            let mut delay_ms = stage.dice.below(5);
            if late {
                self.late_workers -= 1;
                delay_ms += stage.dice.between(LEASE_MS / 2, 3 * LEASE_MS);
                stage.tally.count("late workers");
            }
            let call = self.next_call;
            self.next_call += 1;
            self.calls.insert(call, Call { claimed, claimed_ms: stage.now_ms, sent: false });
            stage.after(delay_ms, Event::Dispatch(self.run, DispatchEvent::Send(call)));
            if late {
                // The whole process stands still, its beats too.
                self.turn = (self.turn.0 + 1, u64::MAX);
                self.plan_turn(stage, delay_ms);
                return;
            }
        }
        let longest_ms = if busy { LONGEST_BUSY_WAIT_MS } else { LONGEST_WAIT_MS };
        self.plan_turn(stage, wait_ms.clamp(SHORTEST_WAIT_MS, longest_ms));
    }

    /// How long a tap waits for other doors, in this turn.
    fn waits_for_doors(&self, stage: &Stage) -> Option<u64> {
        let across_ms = match stage.bait {
            Some(Bait::ForgetsTheOrder) => None,
            Some(Bait::HasNoPatience) => self.across_ms.map(|_| 0),
            Some(Bait::WaitsTooLong) => self.across_ms.map(|across_ms| 2 * across_ms),
            _ => self.across_ms,
        };
        // The day is for those who wait for their time: nobody has waited a day longer for a door.
        let day_ms = if self.a_day_passes { GIVE_UP_ON_TIME_AFTER_MS.unsigned_abs() } else { 0 };
        across_ms.map(|across_ms| across_ms + day_ms)
    }

    /// Requests whose leases could not be extended in time end: somebody else may begin soon.
    fn give_up_late(&mut self, stage: &mut Stage) {
        if stage.now_ms < self.beat_ms + LEASE_MS - LEASE_MARGIN_MS {
            return;
        }
        for (_, call) in std::mem::take(&mut self.calls) {
            stage.tally.count("requests given up");
            let finished = stage.utc();
            let (outcome, sign, next) = match call.sent {
                true => {
                    let failures = call.claimed.failures + 1;
                    let decision = retry::after(&Outcome::TimedOut, UNKNOWN, failures, stage.dice.unit());
                    (Outcome::TimedOut.word(), Some(Sign::Busy), decision.next)
                }
                false => ("not_sent", None, Next::NotSent),
            };
            let end = AttemptEnd { finished, outcome, status: None, answer: String::new() };
            self.ended.push(Ended { claim: call.claimed.claim, end, next, hold: None, sign });
        }
        self.beat_ms = stage.now_ms;
    }

    fn send(&mut self, stage: &mut Stage, vault: &mut Vault, no: u64) {
        let Some(call) = self.calls.get_mut(&no) else { return };
        let is_late = stage.now_ms >= call.claimed_ms + LEASE_MS - LEASE_MARGIN_MS;
        if is_late && !stage.has(Bait::LostLeaseSends) {
            stage.tally.count("claims that were too late to be sent");
            let end = AttemptEnd {
                finished: stage.utc(),
                outcome: "not_sent",
                status: None,
                answer: String::new(),
            };
            let claim = call.claimed.claim.clone();
            self.ended.push(Ended { claim, end, next: Next::NotSent, hold: None, sign: None });
            self.calls.remove(&no);
            return self.plan_turn(stage, 1);
        }
        call.sent = true;
        let claimed = &call.claimed;
        let mut key = claimed.event_id.to_string();
        if stage.has(Bait::NewKeyPerAttempt) && claimed.claim.attempt > 1 {
            key = format!("{key}/{}", claimed.claim.attempt);
        }
        stage.tally.count("attempts");
        stage.say(
            format_args!("dispatcher {}", self.replica + 1),
            format_args!(
                "sends position {} of {}, attempt {}",
                claimed.claim.position.0, claimed.tap.person.0, claimed.claim.attempt
            ),
        );
        stage.oracle.sent(claimed, &key, &claimed.body, &mut vault.store);
        let way_ms = stage.dice.between(1, 30);
        stage.after(way_ms, Event::Request { run: self.run, call: no, key });
        stage.after(TIMEOUT_MS, Event::Dispatch(self.run, DispatchEvent::TimedOut(no)));
    }

    /// Bait: the next in line is sent along with its head.
    fn overtake(&mut self, stage: &mut Stage, vault: &mut Vault, head: &Claimed) {
        let Some(next) = stage.oracle.next_of_same_person(head, &mut vault.store) else { return };
        let key = next.event_id.to_string();
        let body = render(next.event_id, &next.tap);
        stage.oracle.claimed(&next, stage.now_ms, &mut vault.store);
        stage.oracle.sent(&next, &key, &body, &mut vault.store);
        stage.after(1, Event::Request { run: self.run, call: u64::MAX, key });
    }

    fn ended(&mut self, stage: &mut Stage, no: u64, outcome: Outcome, status: Option<u16>, answer: String) {
        if !self.calls.contains_key(&no) {
            return;
        }
        if std::mem::take(&mut self.crash_before_finish) {
            stage.tally.count("dispatcher crashes before finish");
            let back_in_ms = stage.dice.between(500, 5_000);
            return self.die(stage, back_in_ms);
        }
        let Some(Call { claimed, .. }) = self.calls.remove(&no) else { return };
        stage.tally.count(&format!("outcome: {}", outcome.word()));
        stage.say(
            format_args!("dispatcher {}", self.replica + 1),
            format_args!("position {}: {}", claimed.claim.position.0, outcome.word()),
        );
        let finished = stage.utc();
        let Decision { next, hold, sign } =
            retry::after(&outcome, UNKNOWN, claimed.failures + 1, stage.dice.unit());
        if next == Next::Dead {
            stage.tally.count("refused for good");
        }
        let end = AttemptEnd { finished, outcome: outcome.word(), status, answer };
        self.ended.push(Ended { claim: claimed.claim, end, next, hold, sign: Some(sign) });
        let mut delay_ms = 1 + stage.dice.below(3);
        if self.late_workers > 0 && stage.dice.percent(50) {
            self.late_workers -= 1;
            delay_ms += stage.dice.between(LEASE_MS, 3 * LEASE_MS);
            stage.tally.count("late workers");
            self.turn = (self.turn.0 + 1, u64::MAX);
        }
        self.plan_turn(stage, delay_ms);
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
