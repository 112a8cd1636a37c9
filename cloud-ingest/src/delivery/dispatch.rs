//! Step 11 of 12: the loop that sends, one for each destination. A turn is one transaction of the store: what has ended is
//! written down, and what is due, allowed and next is claimed. Whose turn it is, and how much, the store finds out with
//! the pure parts beside this; what follows from an answer, [`retry`] says.
//!
//! **Invariants**: a request goes out only after its claim, which is the start of its attempt, is committed, so a crash
//! leaves `unknown`, never a request that nobody knows of. A request ends before its lease does: leases are extended
//! while it is under way, and where that fails it is given up. No transaction is open while one is under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tap_protocol::ids::EventId;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::sleep;

use super::breaker;
use super::retry::{self, Decision};
use super::rules::{BEAT_MS, LEASE_MARGIN_MS, LEASE_MS, Rules};
use super::ticks::Ticker;
use crate::backoff::Backoff;
use crate::chance::Chance;
use crate::clock::{Clock, Monotonic, Stopwatch};
use crate::crash;
use crate::destination::settings::{AfterUnknown, DestinationSettings};
use crate::destination::{Answered, Destination, LookedUp, Outcome, cut};
use crate::event_store::handle::StoreHandle;
use crate::event_store::{
    AttemptEnd, Claim, Claimed, DeliverableTap, Ended, Lease, MAX_ANSWER_BYTES, Next, Rendered, StoreError,
    Turn, Turned,
};
use crate::health::{Health, Loop};
use crate::seldom::Seldom;
use crate::stop::Stop;
use crate::telemetry::{Metrics, with_causes};

/// The store is asked at least this often: taps may have been stored and badges bound by another process.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// While anything is under way or limited, time must be vouched for more often than others forget it
/// ([`super::ticks::SLACK_MS`]).
const LONGEST_BUSY_WAIT: Duration = Duration::from_millis(400);

/// A turn follows a turn after this long: what ends meanwhile is written down together.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// While the store does not answer, it is looked this often whether leases run out.
const LATE_CHECK: Duration = Duration::from_millis(250);

/// A destination as it is at the moment.
pub struct Opened<D> {
    /// Which version of its settings this is.
    pub version: u64,
    /// What it is.
    pub settings: DestinationSettings,
    /// What speaks to it.
    pub destination: D,
}

impl<D: Destination> Opened<D> {
    pub(super) fn rules(&self) -> Rules {
        Rules::of(&self.settings, self.destination.settles_after_ms())
    }

    fn render(&self, event: EventId, tap: &DeliverableTap) -> Rendered {
        if !self.settings.takes(tap) {
            return Rendered::NotWanted("its rules do not send such taps here".into());
        }
        match self.destination.render(event, tap) {
            Ok(body) => Rendered::Body(body),
            Err(why) => Rendered::Impossible(why.to_string()),
        }
    }
}

/// What a dispatcher needs.
pub struct Dispatcher<D> {
    /// The destination's name in the store.
    pub name: String,
    /// The destination; another one as soon as it was changed.
    pub opened: watch::Receiver<Arc<Opened<D>>>,
    /// The store.
    pub store: StoreHandle,
    /// The time on the wall.
    pub clock: Clock,
    /// The time that passes.
    pub monotonic: Monotonic,
    /// What nobody can foresee.
    pub chance: Chance,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where turns are noted.
    pub health: Arc<Health>,
    /// Says that something new is there.
    pub wake: Arc<Notify>,
}

/// A request that is under way.
struct Call {
    claim: Claim,
    event: EventId,
    failures: u32,
    /// Ends it.
    abort: AbortHandle,
}

/// How a call went: its lease, and its end.
struct Done {
    lease: u64,
    end: AttemptEnd,
    decision: Decision,
}

/// Runs until told to stop; then waits for the requests that are under way.
pub async fn run<D: Destination>(dispatcher: Dispatcher<D>, mut stop: Stop) {
    let mut desk = Desk::new(dispatcher);
    let trouble = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    let mut trouble = trouble.with_seed(desk.dispatcher.chance.bits());
    let mut said = false;
    while !(stop.is_said() && desk.calls.is_empty() && desk.ended.is_empty()) {
        desk.dispatcher.health.turned(Loop::Dispatch, desk.dispatcher.clock.now());
        let wait = match desk.turn(stop.is_said()).await {
            Ok(wait) => {
                trouble.reset();
                said = false;
                wait
            }
            Err(error) => {
                desk.dispatcher.metrics.store_error(Loop::Dispatch);
                if !std::mem::replace(&mut said, true) {
                    let (destination, why) = (&desk.dispatcher.name, with_causes(&error));
                    tracing::error!(destination, why, "cannot ask the store what is due; trying again");
                }
                // Without the store nothing goes on but what is under way, and nobody waits for that.
                if stop.is_said() && !error.is_retryable() {
                    break;
                }
                trouble.wait()
            }
        };
        desk.wait(wait, said, &mut stop).await;
        desk.give_up_late();
    }
}

/// The loop's own things.
struct Desk<D> {
    dispatcher: Dispatcher<D>,
    ticker: Ticker,
    calls: BTreeMap<u64, Call>,
    running: JoinSet<Done>,
    ended: Vec<Ended>,
    /// When leases were last extended, and when that was asked for.
    beat_ms: u64,
    /// In which state of the breaker a person was last told of it.
    generation: u64,
    refusals: Seldom<Option<u16>>,
}

impl<D: Destination> Desk<D> {
    fn new(dispatcher: Dispatcher<D>) -> Desk<D> {
        let beat_ms = dispatcher.monotonic.ms();
        // A number that no other process has.
        let ticker = Ticker::new(dispatcher.chance.bits().cast_signed());
        Desk {
            dispatcher,
            ticker,
            calls: BTreeMap::new(),
            running: JoinSet::new(),
            ended: Vec::new(),
            beat_ms,
            generation: 0,
            refusals: Seldom::new(),
        }
    }

    /// One transaction, and what follows from it. Gives how long nothing more can be due.
    async fn turn(&mut self, stopping: bool) -> Result<Duration, StoreError> {
        while let Some(done) = self.running.try_join_next() {
            self.done(done);
        }
        let opened = Arc::clone(&self.dispatcher.opened.borrow_and_update());
        let asked_ms = self.dispatcher.monotonic.ms();
        let beats = asked_ms >= self.beat_ms + BEAT_MS;
        let under_way: Vec<Claim> = match beats {
            true => self.calls.values().map(|call| call.claim.clone()).collect(),
            false => Vec::new(),
        };
        let taken = self.calls.len() + self.ended.len();
        let room = (opened.settings.limits.concurrency as usize).saturating_sub(taken);
        let handed = self.ended.len();
        let job = {
            let (name, opened, ended) =
                (self.dispatcher.name.clone(), Arc::clone(&opened), self.ended.clone());
            let (ticker, monotonic) = (self.ticker, self.dispatcher.monotonic.clone());
            let now = self.dispatcher.clock.now();
            let room = if stopping { 0 } else { room };
            move |store: &mut dyn crate::event_store::EventStore| {
                store.turn(&Turn {
                    destination: &name,
                    version: opened.version,
                    rules: &opened.rules(),
                    now,
                    vouch: &|| ticker.vouch(monotonic.ms()),
                    ended: &ended,
                    under_way: &under_way,
                    room,
                    render: &|event, tap| opened.render(event, tap),
                })
            }
        };
        if !self.ended.is_empty() {
            crash::point("before-finish-commit");
        }
        let turned = self.ask(job).await?;
        if handed > 0 {
            crash::point("after-finish");
        }
        if let Some(passed) = &turned.passed {
            self.ticker.told(passed);
        }
        if beats {
            self.beat_ms = asked_ms;
        }
        self.tell(&turned);
        self.forget(&turned, handed);
        let busy = turned.passed.is_some();
        let wait = match turned.again_in_ms {
            _ if turned.more => SHORTEST_WAIT,
            // With no room left, the end of a request says when to go on.
            Some(ms)
                if self.calls.len() + turned.claimed.len() < opened.settings.limits.concurrency as usize =>
            {
                Duration::from_millis(ms)
            }
            Some(_) | None => LONGEST_WAIT,
        };
        let is_late = self.dispatcher.monotonic.ms() >= asked_ms + LEASE_MS - LEASE_MARGIN_MS;
        for claimed in turned.claimed {
            crash::point("after-start-attempt");
            match is_late {
                false => self.start(Arc::clone(&opened), claimed),
                // This process stood still, or the store did: the lease may end before any answer.
                true => self.never_sent(claimed.claim),
            }
        }
        Ok(wait.clamp(SHORTEST_WAIT, if busy { LONGEST_BUSY_WAIT } else { LONGEST_WAIT }))
    }

    /// Asks the store, however long that takes: requests do not wait for it.
    async fn ask(
        &mut self,
        job: impl FnOnce(&mut dyn crate::event_store::EventStore) -> Result<Turned, StoreError> + Send + 'static,
    ) -> Result<Turned, StoreError> {
        let store = self.dispatcher.store.clone();
        let mut answer = std::pin::pin!(store.run(job));
        loop {
            tokio::select! {
                biased;
                answered = &mut answer => return answered,
                () = sleep(LATE_CHECK) => self.give_up_late(),
            }
        }
    }

    /// What was handed over in this turn is written down, or nobody's any more.
    fn forget(&mut self, turned: &Turned, handed: usize) {
        let name = &self.dispatcher.name;
        self.ended.drain(..handed);
        for _ in turned.ended.iter().filter(|lease| **lease == Lease::Lost) {
            self.dispatcher.metrics.lost_lease(name);
        }
        for claim in &turned.lost {
            if let Some(call) = self.calls.remove(&claim.lease) {
                call.abort.abort();
                self.dispatcher.metrics.lost_lease(name);
            }
        }
    }

    /// What people should hear of.
    fn tell(&mut self, turned: &Turned) {
        let destination = &self.dispatcher.name;
        let Turned { expired, given_up, early, breaker, .. } = turned;
        if *expired > 0 {
            tracing::warn!(
                destination,
                expired,
                "leases ran out: their requests died with their process, or the store was slow"
            );
        }
        if *given_up > 0 {
            tracing::warn!(
                destination,
                given_up,
                "taps are set aside: a day has passed, and nothing has said when they were. They are sent if it \
                 becomes known; GET /api/v1/events?state=parked lists them"
            );
        }
        if *early > 0 {
            self.dispatcher.metrics.early(destination, *early);
            tracing::warn!(
                destination,
                early,
                "taps go that doors that are away have kept waiting for as long as was agreed: earlier ones may come after them"
            );
        }
        for (event, why) in &turned.impossible {
            tracing::warn!(destination, %event, why, "no request can be made of a tap: a person has to look");
        }
        if breaker.generation() != self.generation {
            let why = breaker.why();
            match breaker.state() {
                breaker::State::Open { .. } => {
                    tracing::error!(
                        destination,
                        why,
                        "nothing is sent any more: the destination does not answer as it should"
                    );
                }
                breaker::State::HalfOpen { .. } => {
                    tracing::info!(destination, "one request tries whether it answers again")
                }
                breaker::State::Closed { .. } if self.generation > 0 => {
                    tracing::info!(destination, "it answers again: taps are sent");
                }
                breaker::State::Closed { .. } => {}
            }
            self.generation = breaker.generation();
        }
    }

    fn never_sent(&mut self, claim: Claim) {
        let finished = self.dispatcher.clock.now();
        let answer = "its claim was about to end: nothing was sent".to_owned();
        let end = AttemptEnd { finished, outcome: "not_sent", status: None, answer };
        self.ended.push(Ended { claim, end, next: Next::NotSent, hold: None, sign: None });
    }

    /// Sends one that is claimed, or asks about it.
    fn start(&mut self, opened: Arc<Opened<D>>, claimed: Claimed) {
        let Claimed { claim, event_id: event, failures, was_unknown, body, tap, .. } = claimed;
        let Dispatcher { name, metrics, clock, chance, .. } = &self.dispatcher;
        let (name, metrics, clock, chance) =
            (name.clone(), Arc::clone(metrics), clock.clone(), chance.clone());
        let lease = claim.lease;
        let abort = self.running.spawn(async move {
            let watch = Stopwatch::start();
            let unknown = opened.rules().unknown;
            let looked_up = if was_unknown && unknown.then == AfterUnknown::LookUp {
                Some(opened.destination.look_up(event, &body).await)
            } else {
                None
            };
            let (answered, decision, finished) = match looked_up {
                None => {
                    let answered = opened.destination.send(event, body).await;
                    let finished = clock.now();
                    let jitter = chance.unit();
                    let decision = retry::after(&answered.outcome, unknown, failures + 1, jitter);
                    (answered, decision, finished)
                }
                Some(found) => {
                    let finished = clock.now();
                    let decision = retry::after_look_up(&found, unknown, failures + 1, chance.unit());
                    (of_look_up(found), decision, finished)
                }
            };
            let Answered { outcome, status, answer } = answered;
            metrics.attempt(&name, outcome.word(), watch.seconds());
            if decision.next == Next::Delivered {
                metrics.delivered((finished.0 - tap.occurred.0).max(0) as f64 / 1000.0);
            }
            crash::point("after-answer-before-finish");
            Done { lease, end: AttemptEnd { finished, outcome: outcome.word(), status, answer }, decision }
        });
        self.calls.insert(lease, Call { claim, event, failures, abort });
    }

    /// A request has ended: it is written down with the next turn.
    fn done(&mut self, done: Result<Done, JoinError>) {
        let Done { lease, end, decision } = match done {
            Ok(done) => done,
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                tracing::error!(%error, "an attempt ended unexpectedly; its lease will run out");
                // Which one it was, only its absence from the running ones tells.
                self.calls.retain(|_, call| !call.abort.is_finished());
                return;
            }
        };
        // One that was given up, or lost its lease, has ended already.
        let Some(Call { claim, event, .. }) = self.calls.remove(&lease) else { return };
        let Decision { next, hold, sign } = decision;
        if next == Next::Dead && self.refusals.speaks(end.status, end.finished) {
            tracing::warn!(
                destination = self.dispatcher.name,
                %event,
                status = end.status,
                "refused for good: a person has to look (said once a minute per status)"
            );
        }
        if let Some(hold) = &hold {
            tracing::warn!(
                destination = self.dispatcher.name,
                outcome = end.outcome,
                for_ms = hold.for_ms,
                "the destination is held back"
            );
        }
        self.ended.push(Ended { claim, end, next, hold, sign: Some(sign) });
    }

    /// Ends the requests whose leases could not be extended in time: somebody else may begin soon.
    fn give_up_late(&mut self) {
        let now_ms = self.dispatcher.monotonic.ms();
        if now_ms < self.beat_ms + LEASE_MS - LEASE_MARGIN_MS {
            return;
        }
        let unknown = self.dispatcher.opened.borrow().rules().unknown;
        for (_, call) in std::mem::take(&mut self.calls) {
            call.abort.abort();
            let finished = self.dispatcher.clock.now();
            let answer =
                "given up: the store was away for so long that the claim could not be kept".to_owned();
            let jitter = self.dispatcher.chance.unit();
            let Decision { next, hold, .. } =
                retry::after(&Outcome::TimedOut, unknown, call.failures + 1, jitter);
            let outcome = Outcome::TimedOut.word();
            let end = AttemptEnd { finished, outcome, status: None, answer };
            // It says nothing about the destination.
            self.ended.push(Ended { claim: call.claim, end, next, hold, sign: Some(breaker::Sign::Busy) });
        }
        self.beat_ms = now_ms;
    }

    async fn wait(&mut self, wait: Duration, store_is_away: bool, stop: &mut Stop) {
        let stopping = stop.is_said();
        // In one order, so that what happens follows from what came alone: after each of them comes a turn.
        tokio::select! {
            biased;
            () = stop.said(), if !stopping => {}
            Some(done) = self.running.join_next(), if !store_is_away => self.done(done),
            Ok(()) = self.dispatcher.opened.changed(), if !store_is_away && !stopping => {}
            () = self.dispatcher.wake.notified(), if !store_is_away && !stopping => {}
            () = sleep(wait) => {}
        }
    }
}

/// What is written down of a look-up.
fn of_look_up(found: LookedUp) -> Answered {
    let said = |outcome: Outcome, answer: String| Answered { outcome, status: None, answer };
    match found {
        LookedUp::Found(what) => {
            said(Outcome::Duplicate, cut(&format!("looked up: it is there as {what}"), MAX_ANSWER_BYTES))
        }
        LookedUp::Absent => said(Outcome::NotUnderstood(String::new()), "looked up: it is not there".into()),
        LookedUp::CannotTell => said(Outcome::NotUnderstood(String::new()), "it cannot be looked up".into()),
        LookedUp::Unclear(answered) => answered,
    }
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
