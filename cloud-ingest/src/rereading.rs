//! Beside the line: reads anew what an earlier program could not read, portion by portion beside the taps that come. Knows no
//! SQL and no record: [`crate::event_store::rereading`] says what that means.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::event_store::handle::StoreHandle;
use crate::event_store::rereading::{MAX_READ_AT_ONCE, Portion};
use crate::stop::Stop;
use crate::telemetry::with_causes;

/// Of the time, at least so much is left to everybody else after each portion.
const PAUSE: Duration = Duration::from_millis(20);

/// The part that reads anew.
pub struct Rereader {
    /// The store, to write.
    pub store: StoreHandle,
    /// The time.
    pub clock: Clock,
    /// Wakes the dispatchers: there may be taps to deliver.
    pub wake: Arc<Notify>,
}

/// Reads all there is, and then waits for the end.
pub async fn run(rereader: Rereader, mut stop: Stop) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let (mut all, mut said) = (Portion::default(), false);
    while !stop.is_said() {
        let now = rereader.clock.now();
        let wait = match rereader.store.run(move |store| store.read_anew(MAX_READ_AT_ONCE, now)).await {
            Ok(portion) => {
                (all, said) = (all.and(portion), false);
                backoff.reset();
                if portion.taps > 0 {
                    rereader.wake.notify_one();
                }
                if !portion.more {
                    break;
                }
                PAUSE
            }
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    let why = with_causes(&error);
                    tracing::warn!(why, "records that could not be read before cannot be read anew now");
                }
                backoff.wait()
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.said() => {}
        }
    }
    let Portion { read, taps, unreadable, .. } = all;
    if read > 0 {
        tracing::info!(
            read,
            taps,
            "records that no earlier version could read were read and take their places"
        );
    }
    if unreadable > 0 {
        tracing::warn!(
            unreadable,
            "records of newer controllers cannot be read by this version: install a newer one"
        );
    }
    stop.said().await;
}
