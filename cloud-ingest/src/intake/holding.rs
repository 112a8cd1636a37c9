//! Beside step 7 of 12: keeps this replica's claim to the broker, or has it stand by. Asks the store; what follows is
//! decided by [`lease`](super::lease).

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::lease::{BEAT_MS, Candidate, Claim, Fence, Turn};
use crate::event_store::handle::StoreHandle;
use crate::event_store::{EventStore, StoreError};
use crate::stop::Stop;
use crate::telemetry::with_causes;

/// What keeps the claim.
pub struct Holding {
    store: StoreHandle,
    broker: String,
    holder: String,
    candidate: Candidate,
    began: Instant,
    held: watch::Sender<Option<Held>>,
    /// Who takes in, as it was last said.
    said: Option<String>,
}

/// Whether this replica takes in, for those who do the work. Clones say the same.
#[derive(Debug, Clone)]
pub enum Hold {
    /// It does: nobody else has this store.
    Alone,
    /// It does as long as the store says so.
    Among {
        /// From which broker.
        broker: Arc<str>,
        /// What the store said last.
        held: watch::Receiver<Option<Held>>,
    },
}

/// What the store said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    fence: Fence,
    until: Instant,
}

/// Prepares the claim of `holder`, a name of this very process, to what comes from `broker`.
pub fn holding(store: StoreHandle, broker: String, holder: String) -> (Holding, Hold) {
    let (held, hold) = watch::channel(None);
    let hold = Hold::Among { broker: broker.clone().into(), held: hold };
    let candidate = Candidate::default();
    (Holding { store, broker, holder, candidate, began: Instant::now(), held, said: None }, hold)
}

impl Holding {
    /// Runs until told to stop; then leaves the claim to whoever stands by.
    pub async fn run(mut self, mut stop: Stop) {
        let mut tick = interval(Duration::from_millis(BEAT_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_said() {
            tokio::select! {
                biased;
                () = stop.said() => break,
                _ = tick.tick() => {}
            }
            if let Err(error) = self.turn().await {
                // Whoever stores says so loudly; here it only means that the claim may run out.
                tracing::debug!(why = with_causes(&error), "the claim to the broker cannot be seen to now");
            }
        }
        self.leave().await;
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn turn(&mut self) -> Result<(), StoreError> {
        let asked_ms = self.now_ms();
        let broker = self.broker.clone();
        match self.candidate.turn(asked_ms) {
            Turn::Beat(fence) => {
                let kept = self.store.run(move |store| store.beat_intake(&broker, fence)).await?;
                self.changed(kept.then_some(fence), asked_ms);
            }
            Turn::Look => {
                let row = self.store.run(move |store| store.intake_claim(&broker)).await?;
                if self.candidate.look(row.as_ref(), asked_ms, self.now_ms()) {
                    self.take(row).await?;
                } else {
                    self.say(row.and_then(|row| row.holder));
                }
            }
        }
        Ok(())
    }

    async fn take(&mut self, over: Option<Claim>) -> Result<(), StoreError> {
        let asked_ms = self.now_ms();
        let (broker, holder) = (self.broker.clone(), self.holder.clone());
        let taken = self.store.run(move |store| store.take_intake(&broker, &holder, over.as_ref())).await?;
        self.changed(taken, asked_ms);
        if taken.is_some() {
            self.say(Some(self.holder.clone()));
        }
        Ok(())
    }

    fn changed(&mut self, fence: Option<Fence>, asked_ms: u64) {
        let held = fence.map(|fence| {
            let until_ms = self.candidate.took(fence, asked_ms);
            Held { fence, until: self.began + Duration::from_millis(until_ms) }
        });
        if held.is_none() {
            self.candidate.lost();
        }
        self.held.send_replace(held);
    }

    /// Each change once.
    fn say(&mut self, holder: Option<String>) {
        if self.said == holder {
            return;
        }
        match &holder {
            Some(holder) if *holder == self.holder => {
                tracing::info!(broker = self.broker, "this process takes in from the broker");
            }
            Some(holder) => {
                tracing::info!(broker = self.broker, holder, "another process takes in; this one stands by");
            }
            None => {}
        }
        self.said = holder;
    }

    async fn leave(&mut self) {
        let Some(Held { fence, .. }) = self.held.send_replace(None) else { return };
        let broker = self.broker.clone();
        if let Err(error) = self.store.run(move |store| store.leave_intake(&broker, fence)).await {
            tracing::debug!(why = with_causes(&error), "the claim to the broker was not left: it runs out");
        }
    }
}

impl Hold {
    /// Returns as soon as this replica takes in.
    pub async fn granted(&mut self) {
        while let Hold::Among { held, .. } = self
            && current(held).is_none()
        {
            changed(held).await;
        }
    }

    /// Returns as soon as this replica takes in no more.
    pub async fn lost(&mut self) {
        match self {
            Hold::Alone => pending().await,
            Hold::Among { held, .. } => {
                while let Some(Held { until, .. }) = current(held) {
                    // Either way it is looked at again: it may have been prolonged just now.
                    let _ = timeout_at(until, changed(held)).await;
                }
            }
        }
    }

    /// Asks the store whether this replica still takes in: this process may have been stopped since it was told, for
    /// longer than it knows.
    pub fn is_good(
        &self,
    ) -> impl Fn(&mut dyn EventStore) -> Result<bool, StoreError> + Clone + Send + 'static {
        let this = self.clone();
        move |store| match &this {
            Hold::Alone => Ok(true),
            Hold::Among { broker, held } => {
                let Some(ours) = *held.borrow() else { return Ok(false) };
                Ok(store.intake_claim(broker)?.is_some_and(|claim| claim.fence == ours.fence))
            }
        }
    }
}

fn current(held: &mut watch::Receiver<Option<Held>>) -> Option<Held> {
    held.borrow_and_update().filter(|held| Instant::now() < held.until)
}

/// Never returns once nothing can change any more: whoever waits is told to stop by other means.
async fn changed(held: &mut watch::Receiver<Option<Held>>) {
    if held.changed().await.is_err() {
        pending().await
    }
}
