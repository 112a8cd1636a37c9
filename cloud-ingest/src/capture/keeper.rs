//! Beside step 7 of 12, over HTTP: which API keys there are, kept in memory, so that a request can be answered while the
//! store is away. Knows no HTTP.
//!
//! Every change of a key is in the fleet's log, so one number says whether to read them again. Until this process has
//! noticed a revocation, the store refuses in the transaction that would store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::key::KeyBook;
use crate::backoff::Backoff;
use crate::event_store::StoreError;
use crate::event_store::handle::StoreHandle;
use crate::stop::Stop;
use crate::telemetry::with_causes;

/// Seldom enough to cost nothing, often enough for a key that somebody has just made.
const EVERY: Duration = Duration::from_secs(1);

/// Who looks.
pub struct Keeper {
    store: StoreHandle,
    deeds: Option<u64>,
    book: watch::Sender<Arc<KeyBook>>,
}

impl Keeper {
    /// With the keys as they are now.
    pub async fn open(store: StoreHandle) -> Result<(Keeper, watch::Receiver<Arc<KeyBook>>), StoreError> {
        let (book, reading) = watch::channel(Arc::default());
        let mut keeper = Keeper { store, deeds: None, book };
        keeper.look().await?;
        Ok((keeper, reading))
    }

    /// Looks until told to stop. What cannot be read changes nothing: the keys in hand stay good.
    pub async fn run(mut self, mut stop: Stop) {
        let mut backoff = Backoff::new(EVERY, Duration::from_secs(10));
        let mut said = false;
        while !stop.is_said() {
            let wait = match self.look().await {
                Ok(()) => {
                    backoff.reset();
                    said = false;
                    EVERY
                }
                Err(error) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(
                            why = with_causes(&error),
                            "API keys cannot be read again: those in use stay"
                        );
                    }
                    backoff.wait()
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.said() => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let seen = self.deeds;
        let read = self.store.run(move |store| {
            let deeds = store.deed_count()?;
            if seen == Some(deeds) { Ok(None) } else { Ok(Some((deeds, store.api_keys()?))) }
        });
        if let Some((deeds, keys)) = read.await? {
            self.deeds = Some(deeds);
            self.book.send_replace(Arc::new(KeyBook::new(keys)));
        }
        Ok(())
    }
}
