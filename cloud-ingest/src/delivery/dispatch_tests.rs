//! The dispatcher against a store in memory, a destination that asks the test what to answer, and a clock that the test
//! moves. Nothing sleeps.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tap_protocol::ids::EventId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::destination::settings::Limits;
use crate::destination::{CannotRender, http_json};
use crate::event_store::handle::StoreThread;
use crate::event_store::{Change, Deed, DeliverableTap, DeliveryState, EventFilter, UtcMs};
use crate::fixture::{self, Door, LEGACY, START};
use crate::stop::{self, Stopper};

/// A person of whose taps no request can be made.
const UNRENDERABLE: &str = "P-6";

/// A request that waits for the test's answer.
#[derive(Debug)]
struct Request {
    event: EventId,
    body: String,
    answer: oneshot::Sender<Outcome>,
}

#[derive(Clone)]
struct AskTheTest {
    requests: mpsc::Sender<Request>,
    /// Whether it can be asked for what it has.
    looks_up: bool,
    has_it: Arc<AtomicBool>,
}

impl Destination for AskTheTest {
    fn render(&self, event: EventId, tap: &DeliverableTap) -> Result<String, CannotRender> {
        if tap.person.0 == UNRENDERABLE {
            return Err(CannotRender("nobody can".into()));
        }
        Ok(http_json::render(event, tap))
    }

    async fn send(&self, event: EventId, body: String) -> Answered {
        let (answer, outcome) = oneshot::channel();
        self.requests.send(Request { event, body, answer }).await.expect("the test listens");
        let outcome = outcome.await.expect("the test answers");
        Answered { outcome, status: None, answer: String::new() }
    }

    async fn look_up(&self, _: EventId, _: &str) -> LookedUp {
        match self.has_it.load(Ordering::SeqCst) {
            true => LookedUp::Found("17".into()),
            false => LookedUp::Absent,
        }
    }
}

struct World {
    requests: mpsc::Receiver<Request>,
    /// For another dispatcher.
    destination: AskTheTest,
    opened: watch::Sender<Arc<Opened<AskTheTest>>>,
    store: StoreHandle,
    thread: StoreThread,
    now: Arc<AtomicI64>,
    wake: Arc<Notify>,
    metrics: Arc<Metrics>,
    stopper: Stopper,
    running: JoinHandle<()>,
}

fn settings(max_in_flight: usize) -> DestinationSettings {
    let mut settings = DestinationSettings::http_json("http://127.0.0.1:9/").unwrap();
    settings.limits =
        Limits { per_second: 100.0, burst: 100, per_day: None, concurrency: max_in_flight as u32 };
    settings
}

fn world(max_in_flight: usize) -> World {
    world_of(settings(max_in_flight))
}

fn world_of(settings: DestinationSettings) -> World {
    let (store, thread) = StoreHandle::spawn("store", Box::new(fixture::store())).unwrap();
    let (ask, requests) = mpsc::channel(64);
    let now = Arc::new(AtomicI64::new(START.0 + 60_000));
    let (stopper, stop) = stop::pair();
    let looks_up = settings.after_unknown == AfterUnknown::LookUp;
    let destination = AskTheTest { requests: ask, looks_up, has_it: Arc::default() };
    let opened = Opened { version: 1, settings, destination: destination.clone() };
    let (opened, current) = watch::channel(Arc::new(opened));
    let metrics = Arc::new(Metrics::new());
    metrics.new_destination(LEGACY);
    let wake = Arc::new(Notify::new());
    let dispatcher = dispatcher(&store, &now, current, &metrics, &wake);
    let running = tokio::spawn(run(dispatcher, stop));
    World { requests, destination, opened, store, thread, now, wake, metrics, stopper, running }
}

fn dispatcher(
    store: &StoreHandle,
    now: &Arc<AtomicI64>,
    opened: watch::Receiver<Arc<Opened<AskTheTest>>>,
    metrics: &Arc<Metrics>,
    wake: &Arc<Notify>,
) -> Dispatcher<AskTheTest> {
    let (wall, monotonic) = (Arc::clone(now), Arc::clone(now));
    Dispatcher {
        name: LEGACY.into(),
        opened,
        store: store.clone(),
        clock: Clock::from_fn(move || UtcMs(wall.load(Ordering::SeqCst))),
        monotonic: Monotonic::from_fn(move || monotonic.load(Ordering::SeqCst).unsigned_abs()),
        chance: Chance::system(),
        metrics: Arc::clone(metrics),
        health: Arc::default(),
        wake: Arc::clone(wake),
    }
}

impl World {
    /// One door, at which these badges are shown in turn.
    async fn taps(&self, badges: &[u8]) {
        let mut door = Door::new(1);
        badges.iter().for_each(|badge| {
            door.tap(*badge);
        });
        let batch = door.batch();
        self.store.run(move |store| store.append(&[batch], START)).await.unwrap();
        self.wake.notify_one();
    }

    async fn request(&mut self) -> Request {
        self.requests.recv().await.expect("the dispatcher runs")
    }

    async fn answer(&mut self, outcome: Outcome) -> (EventId, String) {
        let Request { event, body, answer } = self.request().await;
        answer.send(outcome).expect("the dispatcher waits");
        (event, body)
    }

    fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
        self.wake.notify_one();
    }

    async fn count(&self, state: DeliveryState) -> u64 {
        let counts = self.store.run(|store| store.delivery_counts()).await.unwrap();
        counts.iter().filter(|count| count.state == state).map(|count| count.count).sum()
    }

    /// Asks the store, turn by turn, until so many are in that state.
    async fn until(&self, state: DeliveryState, wanted: u64) {
        while self.count(state).await != wanted {
            tokio::task::yield_now().await;
        }
    }

    async fn held_until(&self) -> Option<i64> {
        let destinations = self.store.run(|store| store.destinations()).await.unwrap();
        destinations[0].held_until.map(|until| until.0 - START.0 - 60_000)
    }

    /// The dispatcher had the time to do whatever it does.
    async fn a_turn_passes(&self) {
        for _ in 0..3 {
            self.wake.notify_one();
            for _ in 0..100 {
                self.store.run(|store| store.store_epoch()).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    }

    async fn why_nothing_is_sent(&self) -> Option<&'static str> {
        let destinations = self.store.run(|store| store.destinations()).await.unwrap();
        destinations[0].hindrance(UtcMs(self.now.load(Ordering::SeqCst))).map(|hindrance| hindrance.what)
    }

    async fn end(self) {
        self.stopper.stop();
        self.running.await.unwrap();
        self.thread.close().await;
    }
}

#[tokio::test]
async fn what_is_due_is_sent_once_and_done() {
    let mut world = world(8);
    world.taps(&[1, 2, 3]).await;
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.push(world.answer(Outcome::Delivered).await.0);
    }
    world.until(DeliveryState::Delivered, 3).await;
    sent.sort();
    sent.dedup();
    assert_eq!(sent.len(), 3);
    assert!(world.requests.try_recv().is_err());
    world.end().await;
}

#[tokio::test]
async fn taps_of_one_person_go_one_after_the_other() {
    let mut world = world(8);
    world.taps(&[1, 1, 1]).await;
    let mut seqs = Vec::new();
    for _ in 0..3 {
        let request = world.request().await;
        assert_eq!(world.count(DeliveryState::InFlight).await, 1);
        assert!(world.requests.try_recv().is_err());
        seqs.push(request.event.seq().0);
        request.answer.send(Outcome::Delivered).unwrap();
    }
    assert_eq!(seqs, [2, 3, 4]);
    world.until(DeliveryState::Delivered, 3).await;
    world.end().await;
}

#[tokio::test]
async fn no_more_than_the_limit_are_under_way() {
    let mut world = world(2);
    world.taps(&[1, 2, 3, 4, 5]).await;
    let (first, second) = (world.request().await, world.request().await);
    assert_eq!(world.count(DeliveryState::InFlight).await, 2);
    assert_eq!(world.count(DeliveryState::Pending).await, 3);
    first.answer.send(Outcome::Delivered).unwrap();
    let third = world.request().await;
    assert_eq!(world.count(DeliveryState::InFlight).await, 2);
    second.answer.send(Outcome::Delivered).unwrap();
    third.answer.send(Outcome::Delivered).unwrap();
    world.answer(Outcome::Delivered).await;
    world.answer(Outcome::Delivered).await;
    world.until(DeliveryState::Delivered, 5).await;
    world.end().await;
}

#[tokio::test]
async fn a_request_without_a_clear_answer_is_repeated_to_the_byte() {
    let mut world = world(8);
    world.taps(&[1]).await;
    let first = world.answer(Outcome::TimedOut).await;
    world.until(DeliveryState::Unknown, 1).await;
    world.pass(500);
    let second = world.answer(Outcome::NotUnderstood("html".into())).await;
    world.until(DeliveryState::Unknown, 1).await;
    world.pass(1_000);
    let third = world.answer(Outcome::Duplicate).await;
    world.until(DeliveryState::Delivered, 1).await;
    assert!(first == second && second == third);
    world.end().await;
}

#[tokio::test]
async fn retry_after_holds_everything_and_for_exactly_that_long() {
    let mut world = world(1);
    world.taps(&[1, 2, 3]).await;
    world.answer(Outcome::RateLimited { retry_after_ms: Some(7_000) }).await;
    world.until(DeliveryState::InFlight, 0).await;
    assert_eq!(world.held_until().await, Some(7_000));
    world.pass(6_999);
    world.a_turn_passes().await;
    assert!(world.requests.try_recv().is_err());
    world.pass(1);
    for _ in 0..3 {
        world.answer(Outcome::Delivered).await;
    }
    world.until(DeliveryState::Delivered, 3).await;
    world.end().await;
}

#[tokio::test]
async fn of_two_holds_the_later_counts() {
    let mut world = world(2);
    world.taps(&[1, 2]).await;
    let (first, second) = (world.request().await, world.request().await);
    first.answer.send(Outcome::RateLimited { retry_after_ms: Some(60_000) }).unwrap();
    world.until(DeliveryState::InFlight, 1).await;
    second.answer.send(Outcome::RateLimited { retry_after_ms: Some(1_000) }).unwrap();
    world.until(DeliveryState::InFlight, 0).await;
    assert_eq!(world.held_until().await, Some(60_000));
    world.end().await;
}

#[tokio::test]
async fn a_closed_door_stops_everything_nothing_dies_and_later_one_request_tries() {
    let mut world = world(2);
    world.taps(&[1, 2, 3]).await;
    let (first, second) = (world.request().await, world.request().await);
    first.answer.send(Outcome::Unauthorized).unwrap();
    world.until(DeliveryState::InFlight, 1).await;
    second.answer.send(Outcome::Unauthorized).unwrap();
    world.until(DeliveryState::Pending, 3).await;
    assert_eq!(world.why_nothing_is_sent().await, Some("stopped"));
    assert_eq!(world.count(DeliveryState::Dead).await, 0);
    world.pass(breaker::DENIED_OPEN_MS as i64);
    let probe = world.request().await;
    world.a_turn_passes().await;
    assert!(world.requests.try_recv().is_err(), "one is enough to find out");
    probe.answer.send(Outcome::Delivered).unwrap();
    world.answer(Outcome::Delivered).await;
    world.until(DeliveryState::Delivered, 2).await;
    assert_eq!(world.why_nothing_is_sent().await, None);
    world.answer(Outcome::Delivered).await;
    world.until(DeliveryState::Delivered, 3).await;
    world.end().await;
}

#[tokio::test]
async fn what_can_be_looked_up_is_and_is_sent_again_only_if_it_is_not_there() {
    let mut world = world_of(DestinationSettings { after_unknown: AfterUnknown::LookUp, ..settings(8) });
    assert!(world.destination.looks_up);
    world.taps(&[1, 2]).await;
    world.answer(Outcome::TimedOut).await;
    world.destination.has_it.store(true, Ordering::SeqCst);
    world.answer(Outcome::TimedOut).await;
    world.until(DeliveryState::Unknown, 2).await;
    world.pass(500);
    world.until(DeliveryState::Delivered, 2).await;
    assert!(world.requests.try_recv().is_err(), "both are there");
    world.destination.has_it.store(false, Ordering::SeqCst);
    world.end().await;
}

#[tokio::test]
async fn what_is_looked_up_and_not_there_is_sent_again() {
    let mut world = world_of(DestinationSettings { after_unknown: AfterUnknown::LookUp, ..settings(8) });
    world.taps(&[1]).await;
    let first = world.answer(Outcome::TimedOut).await;
    world.until(DeliveryState::Unknown, 1).await;
    world.pass(500);
    assert_eq!(world.answer(Outcome::Delivered).await, first);
    world.until(DeliveryState::Delivered, 1).await;
    world.end().await;
}

#[tokio::test]
async fn a_change_of_the_settings_counts_from_the_next_turn_on() {
    let mut world = world(8);
    let deed = Deed::by_itself(START, "set", LEGACY);
    world
        .store
        .run(move |store| store.change_destination(LEGACY, &Change::Settings("{}".into()), &deed))
        .await
        .unwrap();
    world.taps(&[1]).await;
    world.a_turn_passes().await;
    assert!(world.requests.try_recv().is_err(), "by settings that are gone nothing is sent");
    let (settings, destination) = (settings(8), world.destination.clone());
    world.opened.send_replace(Arc::new(Opened { version: 2, settings, destination }));
    world.answer(Outcome::Delivered).await;
    world.until(DeliveryState::Delivered, 1).await;
    world.end().await;
}

#[tokio::test]
async fn two_dispatchers_on_one_store_send_each_tap_once_and_each_persons_in_order() {
    let mut world = world(3);
    let (stopper, stop) = stop::pair();
    let wake = Arc::new(Notify::new());
    let second = dispatcher(&world.store, &world.now, world.opened.subscribe(), &world.metrics, &wake);
    let second = tokio::spawn(run(second, stop));
    let badges: Vec<u8> = (0..60).map(|n| n % 5).collect();
    world.taps(&badges).await;
    let mut seen = BTreeMap::<String, Vec<u64>>::new();
    for _ in 0..60 {
        wake.notify_one();
        world.pass(20);
        let Request { event, body, answer } = world.request().await;
        assert!(world.count(DeliveryState::InFlight).await <= 3, "both share one limit");
        let person = body.split("\"person\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        seen.entry(person).or_default().push(event.seq().0);
        answer.send(Outcome::Delivered).unwrap();
    }
    world.until(DeliveryState::Delivered, 60).await;
    assert_eq!(seen.len(), 5);
    assert!(seen.values().all(|seqs| seqs.len() == 12 && seqs.is_sorted()), "{seen:?}");
    stopper.stop();
    second.await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_refused_tap_lets_the_next_of_its_person_pass() {
    let mut world = world(8);
    world.taps(&[1, 1]).await;
    world.answer(Outcome::Refused(422)).await;
    world.answer(Outcome::Delivered).await;
    world.until(DeliveryState::Delivered, 1).await;
    assert_eq!(world.count(DeliveryState::Dead).await, 1);
    world.end().await;
}

#[tokio::test]
async fn a_tap_of_which_no_request_can_be_made_is_dead_at_once_and_holds_nobody_up() {
    let mut world = world(8);
    world.taps(&[6, 1]).await;
    let (event, _) = world.answer(Outcome::Delivered).await;
    world.until(DeliveryState::Dead, 1).await;
    world.until(DeliveryState::Delivered, 1).await;
    assert!(world.requests.try_recv().is_err(), "nothing was sent for it");
    let filter = EventFilter { state: Some(DeliveryState::Dead), limit: 9, ..EventFilter::default() };
    let rows = world.store.run(move |store| store.events(&filter)).await.unwrap();
    let dead = rows[0].event_id;
    assert_ne!(dead, event);
    let detail = world.store.run(move |store| store.event(dead)).await.unwrap().unwrap();
    let told: Vec<_> = detail.attempts.iter().map(|a| (a.outcome.as_deref(), a.answer.as_deref())).collect();
    assert_eq!(told, [(Some("impossible"), Some("no request can be made of this tap: nobody can"))]);
    world.end().await;
}

#[tokio::test]
async fn an_attempt_is_in_the_store_before_its_request_goes_out() {
    let mut world = world(8);
    world.taps(&[1]).await;
    let request = world.request().await;
    let event = request.event;
    let detail = world.store.run(move |store| store.event(event)).await.unwrap().unwrap();
    assert_eq!(detail.attempts.len(), 1);
    assert_eq!(detail.attempts[0].finished, None);
    assert_eq!(detail.bodies, [(LEGACY.to_owned(), request.body)]);
    request.answer.send(Outcome::Delivered).unwrap();
    world.until(DeliveryState::Delivered, 1).await;
    world.end().await;
}

#[tokio::test]
async fn told_to_stop_it_writes_the_last_answers_down_and_sends_no_more() {
    let mut world = world(1);
    world.taps(&[1, 2]).await;
    let request = world.request().await;
    world.stopper.stop();
    request.answer.send(Outcome::Delivered).unwrap();
    let World { running, store, mut requests, thread, .. } = world;
    running.await.unwrap();
    assert!(requests.try_recv().is_err());
    let rows = store
        .run(|store| {
            store.events(&EventFilter {
                state: Some(DeliveryState::Delivered),
                limit: 9,
                ..EventFilter::default()
            })
        })
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
    thread.close().await;
}

#[tokio::test]
async fn a_request_that_takes_longer_than_a_lease_keeps_it() {
    let mut world = world(8);
    world.taps(&[1]).await;
    let slow = world.request().await;
    for _ in 0..2 * LEASE_MS / BEAT_MS {
        world.pass(BEAT_MS as i64);
        world.a_turn_passes().await;
    }
    assert!(world.requests.try_recv().is_err(), "nobody else sends it");
    slow.answer.send(Outcome::Delivered).unwrap();
    world.until(DeliveryState::Delivered, 1).await;
    world.end().await;
}

#[tokio::test]
async fn a_request_whose_lease_cannot_be_kept_is_given_up_before_it_ends() {
    let mut world = world(8);
    world.taps(&[1]).await;
    let mut late = world.request().await;
    let (go_on, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let store = world.store.clone();
    let blocked = tokio::spawn(async move {
        let stand_still = move |_: &mut dyn crate::event_store::EventStore| {
            wait.recv().expect("the test lets it go");
            Ok(())
        };
        store.run(stand_still).await
    });
    world.pass((LEASE_MS - LEASE_MARGIN_MS) as i64);
    late.answer.closed().await;
    go_on.send(()).unwrap();
    blocked.await.unwrap().unwrap();
    world.until(DeliveryState::Unknown, 1).await;
    world.pass(500);
    let again = world.request().await;
    assert_eq!((again.event, &again.body), (late.event, &late.body));
    again.answer.send(Outcome::Duplicate).unwrap();
    world.until(DeliveryState::Delivered, 1).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_makes_no_hot_loop() {
    let World { thread, stopper, running, metrics, .. } = world(8);
    let turns_so_far = || -> u32 {
        let scrape = metrics.render(&Health::default());
        let counted = scrape
            .lines()
            .find_map(|line| line.strip_prefix("cloud_ingest_store_errors_total{loop=\"dispatch\"} "));
        counted.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    // While the thread ends, which takes real time, the paused clock runs.
    thread.close().await;
    let before = turns_so_far();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let turns = turns_so_far() - before;
    assert!((60..=140).contains(&turns), "{turns} turns in ten minutes");
    stopper.stop();
    running.await.unwrap();
}
