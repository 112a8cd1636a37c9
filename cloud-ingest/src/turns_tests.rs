//! For all loops that ask the store: while it is away, how often they turn. Time is paused, so ten minutes take none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::capture::drain::{self, Drain};
use crate::capture::keeper::Keeper;
use crate::capture::spool::Spool;
use crate::capture::spool::frames::tests::tap;
use crate::clock::Clock;
use crate::event_store::UtcMs;
use crate::event_store::capture::Sitting;
use crate::event_store::handle::{StoreHandle, away};
use crate::fixture::{self, Door, START};
use crate::intake::holding::Hold;
use crate::intake::worker::{self, Worker};
use crate::intake::{BrokerLink, FromBroker, Message, Ticket, inbox, roster};
use crate::roll::{self, Calling};
use crate::stop::{self, Stop};
use crate::telemetry::Metrics;
use crate::usher;
use crate::watch::{self as health_watch, Watch};

struct NoBroker;

impl BrokerLink for NoBroker {
    fn acknowledge(&self, ticket: Ticket) {
        panic!("{ticket:?} is acknowledged while the store is away");
    }

    fn publish(&self, _topic: String, _payload: Vec<u8>) -> bool {
        true
    }
}

/// The clock goes with the paused time.
fn clock() -> Clock {
    let began = tokio::time::Instant::now();
    Clock::from_fn(move || {
        let passed_ms = tokio::time::Instant::now().duration_since(began).as_millis();
        UtcMs(START.0 + i64::try_from(passed_ms).unwrap())
    })
}

/// Runs a loop for ten minutes without a store: how often it asked in the first minute, and in each later one.
async fn turns(start: impl FnOnce(StoreHandle, Stop) -> JoinHandle<()>) -> (u64, Vec<u64>) {
    let (store, asked) = away();
    let (stopper, stop) = stop::pair();
    let running = start(store, stop);
    // Time stands still as long as somebody is busy: nobody's first turn comes late.
    while asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let mut minutes = Vec::new();
    let count = |asked: &AtomicU64| asked.swap(0, Ordering::SeqCst);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        minutes.push(count(&asked));
    }
    assert!(!running.is_finished(), "it goes on");
    stopper.stop();
    running.await.unwrap();
    (minutes.remove(0), minutes)
}

/// After the first minute a loop waits five to ten seconds; it neither runs hot nor sleeps through the store's return.
#[track_caller]
fn backs_off((first, later): (u64, Vec<u64>)) {
    assert!((6..=30).contains(&first), "{first} turns in the first minute");
    assert!(later.iter().all(|turns| (5..=13).contains(turns)), "{later:?} turns a minute");
}

#[tokio::test(start_paused = true)]
async fn intake_backs_off_and_acknowledges_nothing() {
    let mut door = Door::new(1);
    door.tap(1);
    let message = Message {
        topic: "tap/v1/door-1/records".into(),
        payload: door.message(1, 2),
        ticket: Some(Ticket { connection: 1, packet_id: 1 }),
    };
    let (to_worker, from_broker) = inbox();
    to_worker.try_send(FromBroker::Message(message)).unwrap();
    let turned = turns(|store, stop| {
        let worker = Worker {
            store,
            link: NoBroker,
            hold: Hold::Alone,
            keys: fixture::keys(),
            roll: watch::channel(Arc::default()).1,
            usher: usher::bell().0,
            roster: roster::desk().0,
            clock: clock(),
            metrics: Arc::new(Metrics::new()),
            health: Arc::default(),
            wake: Arc::default(),
            sitting: Sitting([1; 16]),
        };
        tokio::spawn(worker::run(worker, from_broker, mpsc::channel(1).1, stop))
    });
    backs_off(turned.await);
    drop(to_worker);
}

#[tokio::test(start_paused = true)]
async fn the_drain_backs_off_and_keeps_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(dir.path(), 64 * 1024).unwrap();
    spool.put(tap(1)).await.unwrap();
    let waits = spool.clone();
    let turned = turns(|store, stop| {
        let metrics = Arc::new(Metrics::new());
        let (keys, clock, wake) = (fixture::keys(), clock(), Arc::default());
        tokio::spawn(drain::run(Drain { spool, store, keys, clock, metrics, wake }, stop))
    });
    backs_off(turned.await);
    assert_eq!(waits.level().taps, 1);
}

#[tokio::test(start_paused = true)]
async fn the_keeper_of_api_keys_backs_off() {
    backs_off(turns(|store, stop| tokio::spawn(Keeper::of(store).run(stop))).await);
}

#[tokio::test(start_paused = true)]
async fn the_roll_backs_off() {
    let turned = turns(|store, stop| {
        let calling = Calling {
            store,
            keys: fixture::keys(),
            clock: clock(),
            crl_file: None,
            roll: watch::channel(Arc::default()).0,
            usher: usher::bell().0,
            written: None,
        };
        tokio::spawn(roll::run(calling, stop))
    });
    backs_off(turned.await);
}

#[tokio::test(start_paused = true)]
async fn the_watch_backs_off() {
    let turned = turns(|store, stop| {
        let watch = Watch {
            writer: store.clone(),
            reader: store,
            clock: clock(),
            metrics: Arc::new(Metrics::new()),
            health: Arc::default(),
        };
        tokio::spawn(health_watch::run(watch, stop))
    });
    backs_off(turned.await);
}
