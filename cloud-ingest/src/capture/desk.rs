//! Step 7 of 12, over HTTP: to the store with a captured tap, or into the spool while the store is away. Knows no HTTP.
//!
//! The store is asked first, by the worker that stores what the broker brings, so that both share commits. It is taken to
//! be away when the worker says so, or says nothing for [`PATIENCE`]. From the first tap in the spool on, all go there
//! until it is drained, so that taps are stored in the order in which they came.
//!
//! A tap may go both ways: into the worker's hands, which did not answer in time, and into the spool. Its idempotency key
//! makes it one.

use std::sync::Arc;
use std::time::Duration;

use tap_protocol::ids::EventId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::spool::Spool;
use super::spool::shelf::NotPut;
use crate::event_store::capture::{Captured, CapturedTap};
use crate::telemetry::{Metrics, with_causes};

/// So long the store may take: a group behind a large one takes a second on a slow disk.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Requests that may wait for the worker.
pub const MAX_WAITING: usize = 512;

/// A tap in the worker's hands.
pub struct Arrived {
    /// The tap.
    pub tap: CapturedTap,
    /// Where the answer goes. Nobody waits any more once it is closed: then the tap is in the spool.
    pub answer: oneshot::Sender<StoreSays>,
}

/// What the worker says of a captured tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreSays {
    /// This became of it.
    Is(Captured),
    /// The store cannot now, or refuses it: see the log.
    CannotNow,
}

/// Where captured taps are taken in.
#[derive(Clone)]
pub struct Desk {
    to_worker: mpsc::Sender<Arrived>,
    spool: Spool,
    metrics: Arc<Metrics>,
    patience: Duration,
}

/// Why a tap was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// Another tap came before under the same idempotency key.
    #[error("another tap came before under the same idempotency key")]
    OtherUnderKey,
    /// The API key is not good any more.
    #[error("the API key is not good any more")]
    KeyEnded,
    /// The store is away, and the spool cannot take it either.
    #[error("neither the store nor the spool can take a tap now")]
    NoRoom(#[source] NotPut),
}

impl Desk {
    /// Between the worker, which is given so long, and the spool.
    pub fn new(
        to_worker: mpsc::Sender<Arrived>,
        spool: Spool,
        metrics: Arc<Metrics>,
        patience: Duration,
    ) -> Desk {
        Desk { to_worker, spool, metrics, patience }
    }

    /// Takes a tap for good: it is in the store, or on the local disk, when this returns its id.
    pub async fn take(&self, tap: CapturedTap) -> Result<EventId, NotTaken> {
        if self.spool.level().taps == 0 {
            match self.ask_the_store(tap.clone()).await {
                StoreSays::Is(
                    Captured::Stored(id)
                    | Captured::Before(id)
                    | Captured::SameAs { tap: id, .. }
                    | Captured::Both { stored: id, .. },
                ) => return Ok(id),
                StoreSays::Is(Captured::OtherBefore(_)) => return Err(NotTaken::OtherUnderKey),
                StoreSays::Is(Captured::Refused) => return Err(NotTaken::KeyEnded),
                StoreSays::CannotNow => {}
            }
        }
        let put = self.spool.put(tap).await;
        self.metrics.spool(self.spool.level());
        put.map_err(|error| match error {
            NotPut::OtherUnderKey => NotTaken::OtherUnderKey,
            NotPut::Full => NotTaken::NoRoom(NotPut::Full),
            NotPut::Disk(why) => {
                tracing::error!(why = with_causes(&why), "the spool cannot be written: a tap was not taken");
                NotTaken::NoRoom(NotPut::Disk(why))
            }
        })
    }

    async fn ask_the_store(&self, tap: CapturedTap) -> StoreSays {
        let (answer, said) = oneshot::channel();
        let asked = async {
            // A worker that has ended stores nothing more: this process is stopping.
            self.to_worker.send(Arrived { tap, answer }).await.ok()?;
            said.await.ok()
        };
        timeout(self.patience, asked).await.ok().flatten().unwrap_or(StoreSays::CannotNow)
    }
}
