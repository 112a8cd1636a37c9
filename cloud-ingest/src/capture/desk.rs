//! Step 7 of 12, over HTTP: to the store with a captured tap, or into the spool while the store is away. Knows no HTTP.
//!
//! The store is asked first, by the worker that stores what the broker brings, so that both share commits. It is taken to
//! be away when the worker says so, or says nothing for [`PATIENCE`]. From the first tap in the spool on, all go there
//! until it is drained, so that taps are stored in the order in which they came.
//!
//! A tap goes one way: whoever takes its [`Claim`] has it, the store's transaction or this desk when its patience ends. So
//! the id that is answered is the one that the tap gets.

use std::sync::Arc;
use std::time::Duration;

use tap_protocol::ids::EventId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::spool::Spool;
use super::spool::shelf::NotPut;
use crate::event_store::capture::{Captured, CapturedTap, Claim};
use crate::telemetry::{Metrics, with_causes};

/// So long the store may take: a group behind a large one takes a second on a slow disk.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// So long a transaction may take that has the tap in hand.
const COMMIT_TIME: Duration = Duration::from_secs(10);

/// Requests that may wait for the worker.
pub const MAX_WAITING: usize = 512;

/// A tap in the worker's hands.
pub struct Arrived {
    /// The tap.
    pub tap: CapturedTap,
    /// Taken by the transaction that stores it.
    pub claim: Claim,
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
    /// The store has it in hand and does not say what became of it.
    #[error("the store has the tap in hand and does not answer")]
    Unanswered,
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
        if self.spool.level().taps > 0 {
            match self.spool.put_behind(tap.clone()).await {
                // The last of them was stored meanwhile, and may have been this tap.
                Err(NotPut::NobodyWaits) => {}
                put => return self.told(put),
            }
        }
        match self.ask_the_store(tap.clone()).await? {
            StoreSays::Is(
                Captured::Stored(id)
                | Captured::Before(id)
                | Captured::SameAs { tap: id, .. }
                | Captured::Both { stored: id, .. },
            ) => Ok(id),
            StoreSays::Is(Captured::OtherBefore(_)) => Err(NotTaken::OtherUnderKey),
            StoreSays::Is(Captured::Refused) => Err(NotTaken::KeyEnded),
            StoreSays::Is(Captured::TakenElsewhere) | StoreSays::CannotNow => {
                self.told(self.spool.put(tap).await)
            }
        }
    }

    fn told(&self, put: Result<EventId, NotPut>) -> Result<EventId, NotTaken> {
        self.metrics.spool(self.spool.level());
        put.map_err(|error| match error {
            NotPut::OtherUnderKey => NotTaken::OtherUnderKey,
            NotPut::Disk(why) => {
                tracing::error!(why = with_causes(&why), "the spool cannot be written: a tap was not taken");
                NotTaken::NoRoom(NotPut::Disk(why))
            }
            full @ (NotPut::Full | NotPut::NobodyWaits) => NotTaken::NoRoom(full),
        })
    }

    async fn ask_the_store(&self, tap: CapturedTap) -> Result<StoreSays, NotTaken> {
        let (answer, mut said) = oneshot::channel();
        let claim = Claim::default();
        let arrived = Arrived { tap, claim: claim.clone(), answer };
        let asked = async {
            // A worker that has ended stores nothing more: this process is stopping.
            self.to_worker.send(arrived).await.ok()?;
            (&mut said).await.ok()
        };
        if let Ok(Some(says)) = timeout(self.patience, asked).await {
            return Ok(says);
        }
        if claim.take() {
            return Ok(StoreSays::CannotNow);
        }
        // It is in a transaction that may commit at any moment.
        match timeout(COMMIT_TIME, said).await {
            Ok(Ok(says)) => Ok(says),
            Ok(Err(_)) | Err(_) => Err(NotTaken::Unanswered),
        }
    }
}
