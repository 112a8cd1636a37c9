//! Beside the line: once a second, the numbers that monitoring and systemd show are read from the store. A scrape then
//! costs nothing, and a store that does not answer is noticed here.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::event_store::handle::StoreHandle;
use crate::event_store::replays::{Letters, ReplayState};
use crate::event_store::{
    ControllerState, DeliveryCount, DeliveryState, DestinationState, StoreError, Totals, UtcMs, WatermarkRow,
};
use crate::health::{Health, Loop};
use crate::read_model::{lag, rewound};
use crate::stop::Stop;
use crate::telemetry::{Metrics, with_causes};

const EVERY: Duration = Duration::from_secs(1);

/// A store that takes longer to answer a trifle is as good as away.
const PATIENCE: Duration = Duration::from_secs(5);

/// Replays that are not over are among so many of the latest.
const LATEST_REPLAYS: usize = 100;

/// A clock that differs from the server's by more is told of. Controllers that know the time contradict whoever tells them one
/// that is off by as much.
const WRONG_BY_MS: u64 = 10_000;

/// What the watch needs.
pub struct Watch {
    /// The store's writing side: asked a trifle, to see that it turns.
    pub writer: StoreHandle,
    /// The store's reading side.
    pub reader: StoreHandle,
    /// The time.
    pub clock: Clock,
    /// Where the numbers go.
    pub metrics: Arc<Metrics>,
    /// Where the verdict goes.
    pub health: Arc<Health>,
}

struct Numbers {
    totals: Totals,
    counts: Vec<DeliveryCount>,
    destinations: Vec<DestinationState>,
    controllers: Vec<ControllerState>,
    watermarks: Vec<WatermarkRow>,
    letters: Vec<Letters>,
    replays: Vec<ReplayState>,
    /// How far this machine's clock is ahead of the store's.
    ahead_ms: i64,
}

/// Runs until told to stop.
pub async fn run(watch: Watch, mut stop: Stop) {
    let mut backoff = Backoff::new(EVERY, Duration::from_secs(10));
    let mut said_down = false;
    let mut said_rewound = false;
    let mut said_wrong = false;
    let mut silent = false;
    while !stop.is_said() {
        let answer = timeout(PATIENCE, watch.read()).await;
        if answer.is_ok() {
            watch.health.store_answered(silent);
        }
        silent = answer.is_err();
        let verdict = match answer {
            Ok(Ok(numbers)) => {
                watch.show(&numbers);
                tell_of_clock(numbers.ahead_ms, &mut said_wrong);
                let rewound = rewound::complaint(&numbers.controllers);
                let is_news = rewound.is_some() != std::mem::replace(&mut said_rewound, rewound.is_some());
                if let Some(why) = rewound.as_ref().filter(|_| is_news) {
                    tracing::error!("{why}");
                }
                watch.health.rewound(rewound);
                Ok(())
            }
            Ok(Err(error)) => Err(with_causes(&error)),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        let wait = match &verdict {
            Ok(()) => {
                backoff.reset();
                said_down = false;
                EVERY
            }
            Err(why) => {
                if !std::mem::replace(&mut said_down, true) {
                    tracing::error!(why, "the store does not answer");
                }
                backoff.wait()
            }
        };
        watch.health.store(verdict);
        watch.health.turned(Loop::Watch, watch.clock.now());
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.said() => {}
        }
    }
}

impl Watch {
    async fn read(&self) -> Result<Numbers, StoreError> {
        self.writer.run(|store| store.store_epoch()).await?;
        let clock = self.clock.clone();
        self.reader
            .run(move |store| {
                let before = clock.now();
                let shown = store.clock(before)?;
                let ahead_ms = ahead_ms(before, shown, clock.now());
                Ok(Numbers {
                    ahead_ms,
                    totals: store.totals()?,
                    counts: store.delivery_counts()?,
                    destinations: store.destinations()?,
                    controllers: store.controllers()?,
                    watermarks: store.watermarks()?,
                    letters: store.letters()?,
                    replays: store.replays(LATEST_REPLAYS)?,
                })
            })
            .await
    }

    fn show(&self, numbers: &Numbers) {
        let now = self.clock.now();
        self.metrics.clock_ahead(numbers.ahead_ms);
        self.metrics.totals(&numbers.totals);
        for count in &numbers.counts {
            self.metrics.backlog(&count.destination, count.state, count.count);
        }
        for destination in &numbers.destinations {
            self.metrics.destination(destination, now);
            self.metrics.letters(&destination.destination, &numbers.letters, &numbers.replays);
        }
        self.metrics.watermarks(&numbers.watermarks, now);
        let lags = numbers.controllers.iter().map(|state| (&state.controller.id, lag::of(state, now)));
        self.metrics.controllers(lags);

        let delivered: u64 = numbers
            .counts
            .iter()
            .filter(|count| count.state == DeliveryState::Delivered)
            .map(|count| count.count)
            .sum();
        let status = format!("{} taps stored, {delivered} delivered", numbers.totals.taps);
        // Not under systemd, this does nothing.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&status)]);
    }
}

/// How far a clock that showed `before` and `after` is ahead of another that showed `shown` at some moment between: no further
/// than is certain.
fn ahead_ms(before: UtcMs, shown: UtcMs, after: UtcMs) -> i64 {
    shown.0.clamp(before.0.min(after.0), after.0.max(before.0)).saturating_sub(shown.0)
}

fn tell_of_clock(ahead_ms: i64, said_wrong: &mut bool) {
    let is_wrong = ahead_ms.unsigned_abs() > WRONG_BY_MS;
    if is_wrong == std::mem::replace(said_wrong, is_wrong) {
        return;
    }
    match is_wrong {
        true => tracing::warn!(
            ahead_ms,
            "this machine's clock and the database's disagree: what is due goes by the database's; controllers are told this \
             one's, and certificates are judged by it. Set the one that is wrong"
        ),
        false => tracing::info!("this machine's clock and the database's agree again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_ahead_by_no_more_than_is_certain() {
        let ahead = |before, shown, after| ahead_ms(UtcMs(before), UtcMs(shown), UtcMs(after));
        assert_eq!(ahead(1_000, 1_500, 2_000), 0, "the question took a second");
        assert_eq!(ahead(9_000, 1_500, 9_100), 7_500);
        assert_eq!(ahead(1_000, 9_000, 1_100), -7_900);
        assert_eq!(ahead(9_000, 5_000, 1_600), 0, "it was set meanwhile");
    }
}
