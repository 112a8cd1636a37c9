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
    ControllerState, DeliveryCount, DeliveryState, DestinationState, StoreError, Totals, WatermarkRow,
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
}

/// Runs until told to stop.
pub async fn run(watch: Watch, mut stop: Stop) {
    let mut backoff = Backoff::new(EVERY, Duration::from_secs(10));
    let mut said_down = false;
    let mut said_rewound = false;
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
        self.reader
            .run(|store| {
                Ok(Numbers {
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
