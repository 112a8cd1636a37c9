//! Step 9 of 12, over HTTP, after the store was away: what waits in the spool goes into the store, in its order, each tap
//! once. Knows no HTTP.
//!
//! A tap is taken out of the spool after the store has committed it. A crash between the two brings it again; the store
//! finds its number taken and does nothing. Which of two promises to the same request becomes the tap is settled in the
//! store's transaction, and said here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::spool::Spool;
use super::spool::shelf::Waiting;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::crash;
use crate::event_store::capture::{Captured, ToCapture};
use crate::event_store::handle::StoreHandle;
use crate::event_store::{DeadLetter, StoreError};
use crate::keyring::live::LiveKeys;
use crate::stop::Stop;
use crate::telemetry::{Metrics, with_causes};

/// So many in one transaction: as a batch of the protocol.
const AT_ONCE: usize = 256;

/// What the drain needs.
pub struct Drain {
    /// From here …
    pub spool: Spool,
    /// … to here.
    pub store: StoreHandle,
    /// Signs.
    pub keys: LiveKeys,
    /// The time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Wakes the dispatcher.
    pub wake: Arc<Notify>,
}

/// Runs until told to stop; what is left waits on the disk for the next start.
pub async fn run(mut drain: Drain, mut stop: Stop) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    let mut said = false;
    loop {
        tokio::select! {
            biased;
            () = stop.said() => return,
            () = drain.spool.has_some() => {}
        }
        match drain.some().await {
            Ok(settled) => {
                backoff.reset();
                if std::mem::take(&mut said) {
                    tracing::info!(settled, "the store is back: what waits in the spool is being stored");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(why = with_causes(error.as_ref()), "taps wait in the spool; trying again");
                }
                tokio::select! {
                    () = sleep(backoff.wait()) => {}
                    () = stop.said() => return,
                }
            }
        }
    }
}

impl Drain {
    /// Brings the first of those that wait into the store.
    async fn some(&self) -> anyhow::Result<usize> {
        let waiting = self.spool.first(AT_ONCE).await?;
        match self.store(&waiting).await {
            Ok(()) => {}
            Err(error) if error.is_retryable() => return Err(error.into()),
            // One that the store refuses for good keeps nobody else from it.
            Err(_) => self.store_one_by_one(&waiting).await?,
        }
        self.wake.notify_one();
        crash::point("after-drain-commit");
        self.spool.done(waiting.len()).await?;
        crash::point("after-spool-done");
        self.metrics.spool(self.spool.level());
        Ok(waiting.len())
    }

    async fn store(&self, waiting: &[Waiting]) -> Result<(), StoreError> {
        let captures: Vec<ToCapture> = waiting.iter().map(to_capture).collect();
        let (key, now) = (self.keys.now().capture(), self.clock.now());
        let taken = self.store.run(move |store| store.take_in(&[], &captures, &key, now)).await?;
        for (captured, waiting) in taken.captured.into_iter().zip(waiting) {
            self.metrics.captured(&captured);
            let source = &waiting.entry.tap.source;
            match captured {
                Captured::SameAs { promised, tap } => tracing::warn!(
                    %source, %promised, %tap,
                    "a request came twice under one idempotency key while the store was away, and was promised two ids: it \
                     is one tap, and a record stands at the other id"
                ),
                Captured::Both { stored, other } => tracing::error!(
                    %source, %stored, %other,
                    "two different taps came under one idempotency key while the store was away: both are stored, because \
                     both were promised; whoever sends them uses a key twice"
                ),
                Captured::Stored(_) | Captured::Before(_) | Captured::OtherBefore(_) | Captured::Refused => {}
            }
        }
        Ok(())
    }

    async fn store_one_by_one(&self, waiting: &[Waiting]) -> Result<(), StoreError> {
        for one in waiting {
            let Err(error) = self.store(std::slice::from_ref(one)).await else { continue };
            if error.is_retryable() {
                return Err(error);
            }
            let tap = &one.entry.tap;
            let why = with_causes(&error);
            tracing::error!(source = %tap.source, why, "the store refuses a tap of the spool: it is put aside");
            let letter = DeadLetter {
                received: tap.received,
                topic: format!("capture/{}", tap.source),
                kind: "refused_by_store".into(),
                reason: why,
                bytes: tap.record.clone(),
            };
            self.metrics.quarantined("refused_by_store");
            self.store
                .run(move |store| match store.is_quarantined(&letter)? {
                    true => Ok(()),
                    false => store.quarantine(&letter),
                })
                .await?;
        }
        Ok(())
    }
}

fn to_capture(waiting: &Waiting) -> ToCapture {
    let entry = &waiting.entry;
    ToCapture { tap: entry.tap.clone(), sitting: waiting.sitting, promised: Some(entry.seq) }
}
