//! Step 11 of 12: the loop that sends. It claims what is due, and for each claim: fixes the body and writes down that an
//! attempt starts, sends, writes down how it ended. Whose turn it is, the store says; what follows, [`retry`] says.
//!
//! **Invariants**: a request goes out only after the start of its attempt is committed, so a crash leaves `unknown`,
//! never a request that nobody knows of. A request ends before its lease does. No transaction is open while one is
//! under way.

use std::sync::Arc;
use std::time::Duration;

use ring::rand::SecureRandom;
use tap_protocol::ids::EventId;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;

use super::retry::{self, Decision};
use crate::backoff::Backoff;
use crate::clock::{Clock, Stopwatch};
use crate::config::MAX_TIMEOUT_MS;
use crate::crash;
use crate::destination::{Answered, CannotRender, Destination};
use crate::event_store::handle::StoreHandle;
use crate::event_store::{AttemptEnd, Claim, Claimed, EventStore, Lease, Next, StoreError, UtcMs};
use crate::health::{Health, Loop};
use crate::seldom::Seldom;
use crate::stop::Stop;
use crate::telemetry::{Metrics, with_causes};

/// How long a claim is ours. Far more than the longest request, and short enough that what a dead process had claimed
/// goes on soon.
pub const LEASE_MS: i64 = 30_000;

/// Between the end of the longest request and the end of its lease: for writing down the start and the end.
const LEASE_MARGIN_MS: i64 = 5_000;

const _: () =
    assert!(MAX_TIMEOUT_MS as i64 + LEASE_MARGIN_MS < LEASE_MS, "a request must end before its lease");

/// The store is asked at least this often: badges may have been bound by another process.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Something was due and nothing could be claimed: it is on its way by another hand.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// What the dispatcher needs.
pub struct Dispatcher<D> {
    /// The destination's name in the store.
    pub name: String,
    /// The destination.
    pub destination: D,
    /// One request ends within this.
    pub timeout: Duration,
    /// So many requests at once.
    pub max_in_flight: usize,
    /// The store.
    pub store: StoreHandle,
    /// The time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where turns are noted.
    pub health: Arc<Health>,
    /// Says that something new is there.
    pub wake: Arc<Notify>,
}

/// Attempts that run, each on its own task.
type UnderWay = JoinSet<Option<Refusal>>;

/// What a person should hear of an attempt.
#[derive(Debug)]
struct Refusal {
    event: EventId,
    status: Option<u16>,
}

/// Runs until told to stop; then waits for the requests that are under way.
pub async fn run<D: Destination>(dispatcher: Dispatcher<D>, mut stop: Stop) {
    let dispatcher = Arc::new(dispatcher);
    let mut under_way = UnderWay::new();
    let mut refusals = Seldom::new();
    let mut report = |ended: Result<Option<Refusal>, JoinError>, now: UtcMs| match ended {
        Ok(Some(refusal)) if refusals.speaks(refusal.status, now) => tracing::warn!(
            event = %refusal.event,
            status = refusal.status,
            "refused for good: a person has to look (said once a minute per status)"
        ),
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "an attempt ended unexpectedly; its lease will run out"),
    };
    let mut trouble = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    let mut said = false;
    while !stop.is_said() {
        dispatcher.health.turned(Loop::Dispatch, dispatcher.clock.now());
        let wait = match dispatcher.turn(&mut under_way).await {
            Ok(wait) => {
                trouble.reset();
                said = false;
                wait
            }
            Err(error) => {
                dispatcher.metrics.store_error(Loop::Dispatch);
                if !std::mem::replace(&mut said, true) {
                    tracing::error!(
                        why = with_causes(&error),
                        "cannot ask the store what is due; trying again"
                    );
                }
                trouble.wait()
            }
        };
        tokio::select! {
            () = stop.said() => {}
            () = sleep(wait) => {}
            () = dispatcher.wake.notified(), if !said => {}
            Some(ended) = under_way.join_next(), if !said => report(ended, dispatcher.clock.now()),
        }
        while let Some(ended) = under_way.try_join_next() {
            report(ended, dispatcher.clock.now());
        }
    }
    while let Some(ended) = under_way.join_next().await {
        report(ended, dispatcher.clock.now());
    }
}

impl<D: Destination> Dispatcher<D> {
    /// Starts what is due and has room. Gives how long nothing more can be due.
    async fn turn(self: &Arc<Self>, under_way: &mut UnderWay) -> Result<Duration, StoreError> {
        let room = self.max_in_flight - under_way.len();
        if room == 0 {
            return Ok(LONGEST_WAIT);
        }
        let now = self.clock.now();
        let lease_until = UtcMs(now.0 + LEASE_MS);
        let name = self.name.clone();
        let (expired, given_up, claimed, next_due) = self
            .store
            .run(move |store| {
                let (expired, given_up) = (store.expire_leases(now)?, store.give_up_on_time(now)?);
                Ok((expired, given_up, store.claim(&name, now, lease_until, room)?, store.next_due(&name)?))
            })
            .await?;
        if expired > 0 {
            tracing::warn!(
                expired,
                "leases ran out: their requests died with their process, or the store was slow"
            );
        }
        if given_up > 0 {
            tracing::warn!(
                given_up,
                "taps are set aside: a day has passed, and nothing has said when they were. They are sent if it \
                 becomes known; GET /api/v1/events?state=parked lists them"
            );
        }
        let started = claimed.len();
        for claimed in claimed {
            under_way.spawn(Arc::clone(self).attempt(claimed, lease_until));
        }
        Ok(match next_due {
            // With no room left, the end of a request says when to go on.
            _ if started == room => LONGEST_WAIT,
            None => LONGEST_WAIT,
            Some(due) => {
                let ms = u64::try_from(due.0.saturating_sub(now.0)).unwrap_or(0);
                Duration::from_millis(ms).clamp(SHORTEST_WAIT, LONGEST_WAIT)
            }
        })
    }

    async fn attempt(self: Arc<Self>, claimed: Claimed, lease_until: UtcMs) -> Option<Refusal> {
        let Claimed { claim, event_id, attempts, body, tap } = claimed;
        let body = match body.map_or_else(|| self.destination.render(event_id, &tap), Ok) {
            Ok(body) => body,
            Err(why) => return self.give_up(claim, event_id, why).await,
        };
        let started = {
            let (claim, body) = (claim.clone(), body.clone());
            let clock = self.clock.clone();
            let last_start = UtcMs(lease_until.0 - LEASE_MARGIN_MS - self.timeout.as_millis() as i64);
            // Too late to be answered within the lease: better not at all than twice at once.
            self.persist("start an attempt", lease_until, move |store| match clock.now() {
                now if now > last_start => Ok(Lease::Lost),
                now => store.start_attempt(&claim, &body, now),
            })
            .await
        };
        match started {
            Some(Lease::Held) => {}
            Some(Lease::Lost) => {
                self.metrics.lost_lease(&self.name);
                return None;
            }
            None => return None,
        }
        crash::point("after-start-attempt");

        let watch = Stopwatch::start();
        let Answered { outcome, status, answer } = self.destination.send(event_id, body).await;
        let finished = self.clock.now();
        self.metrics.attempt(&self.name, outcome.word(), watch.seconds());
        crash::point("after-answer-before-finish");

        let Decision { next, hold } = retry::after(&outcome, attempts + 1, finished, jitter());
        let delivered = next == Next::Delivered;
        let refusal = (next == Next::Dead).then_some(Refusal { event: event_id, status });
        let end = AttemptEnd { finished, outcome: outcome.word(), status, answer };
        // Written down as long as it may matter: after the lease, others have expired it.
        let give_up = UtcMs(finished.0 + 2 * LEASE_MS);
        if let Some(hold) = hold {
            let name = self.name.clone();
            let extended = self
                .persist("hold the destination", give_up, move |store| {
                    extend_hold(store, &name, hold.until, &hold.why)
                })
                .await;
            if extended == Some(true) {
                tracing::warn!(
                    destination = self.name,
                    outcome = outcome.word(),
                    "the destination is held back"
                );
            }
        }
        let ended = self
            .persist("write an answer down", give_up, move |store| store.finish(&claim, &end, next.clone()))
            .await;
        crash::point("after-finish");
        match ended {
            Some(Lease::Held) if delivered => {
                self.metrics.delivered((finished.0 - tap.occurred.0).max(0) as f64 / 1000.0);
            }
            Some(Lease::Lost) => self.metrics.lost_lease(&self.name),
            Some(Lease::Held) | None => {}
        }
        refusal
    }

    /// No request can be made of this tap: nothing was sent, and a person has to look.
    async fn give_up(&self, claim: Claim, event: EventId, why: CannotRender) -> Option<Refusal> {
        let Answered { outcome, status, answer } = why.into_answered();
        let finished = self.clock.now();
        self.metrics.attempt(&self.name, outcome.word(), 0.0);
        let end = AttemptEnd { finished, outcome: outcome.word(), status, answer };
        let ended = self
            .persist("give a tap up", UtcMs(finished.0 + LEASE_MS), move |store| {
                store.finish(&claim, &end, Next::Dead)
            })
            .await;
        match ended {
            Some(Lease::Lost) => self.metrics.lost_lease(&self.name),
            Some(Lease::Held) | None => {}
        }
        Some(Refusal { event, status })
    }

    /// Asks the store until it answers, or until `give_up`; `None` if it never did or refuses for good.
    async fn persist<T: Send + 'static>(
        &self,
        what: &'static str,
        give_up: UtcMs,
        job: impl Fn(&mut dyn EventStore) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Option<T> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            match self.store.run(job.clone()).await {
                Ok(value) => return Some(value),
                Err(error) if error.is_retryable() && self.clock.now() < give_up => {
                    self.metrics.store_error(Loop::Dispatch);
                    sleep(backoff.wait()).await;
                }
                Err(error) => {
                    self.metrics.store_error(Loop::Dispatch);
                    tracing::error!(why = with_causes(&error), "could not {what}; the lease will run out");
                    return None;
                }
            }
        }
    }
}

/// Several requests under way may each be told to come back later: the latest counts. Says whether this one did.
fn extend_hold(
    store: &mut dyn EventStore,
    destination: &str,
    until: UtcMs,
    why: &str,
) -> Result<bool, StoreError> {
    let held = store.destinations()?.into_iter().find(|d| d.destination == destination);
    if held.and_then(|d| d.held_until) >= Some(until) {
        return Ok(false);
    }
    store.hold_destination(destination, until, why)?;
    Ok(true)
}

/// In [0, 1).
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without chance, the middle is as good as any.
    match ring::rand::SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
