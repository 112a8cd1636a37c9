//! The worker against a store in memory and a broker's connection that remembers what it was told.

use std::sync::Mutex;

use tap_protocol::command::{Command, Order};
use tap_protocol::ids::{BootId, OutboxId, Seq};
use tap_protocol::keys::{PublicKey, SigningKey};
use tap_protocol::report::Outcome;
use tokio::task::JoinHandle;

use tap_protocol::badge::TokenKeyId;
use tap_protocol::record::{Body, ClockState, Record, Stamp};
use tap_protocol::tap::{Direction, Tap, Verdict};
use tokio::sync::oneshot;

use super::*;
use crate::event_store::capture::{Captured, CapturedTap, Claim, NewApiKey, Print, Source};
use crate::event_store::handle::StoreThread;
use crate::event_store::{Deed, EventFilter, RecordKey, Standing};
use crate::fixture::{self, Door, START};
use crate::intake::holding::holding;
use crate::intake::inbox;
use crate::stop::{self, Stopper};
use crate::usher::{self, Calls};

/// What the worker told the connection, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Acknowledged(u16),
    /// Outbox (its first byte), mark, resend, the echoed boottime.
    Receipt(u8, u64, bool, Option<u64>),
    Command(u64, Order),
}

#[derive(Clone)]
struct Remembering {
    told: Arc<Mutex<Vec<Told>>>,
    receipt_key: PublicKey,
    control_key: PublicKey,
}

impl BrokerLink for Remembering {
    fn acknowledge(&self, ticket: Ticket) {
        self.told.lock().unwrap().push(Told::Acknowledged(ticket.packet_id));
    }

    fn publish(&self, topic: String, payload: Vec<u8>) -> bool {
        let topic: Topic = topic.parse().unwrap();
        if topic.channel == Channel::Command {
            let command = Command::open(&payload, &topic.controller, &[self.control_key]).unwrap();
            self.told.lock().unwrap().push(Told::Command(command.number, command.order));
            return true;
        }
        assert_eq!(topic.channel, Channel::Receipt);
        let receipt = Receipt::open(&payload, &topic.controller, &[self.receipt_key]).unwrap();
        assert_eq!(receipt.cloud_utc_ms, START.0 + 5);
        let echo = receipt.echo.map(|echo| echo.boottime_ms);
        let told = Told::Receipt(receipt.outbox.0[0], receipt.stored_through.0, receipt.resend, echo);
        self.told.lock().unwrap().push(told);
        true
    }
}

struct World {
    inbox: mpsc::Sender<FromBroker>,
    captures: mpsc::Sender<Arrived>,
    metrics: Arc<Metrics>,
    told: Arc<Mutex<Vec<Told>>>,
    store: StoreHandle,
    thread: StoreThread,
    stopper: Stopper,
    running: JoinHandle<()>,
    roll: watch::Sender<Arc<Roll>>,
    calls: Calls,
}

/// A worker that finds these messages waiting; packet ids count from 1.
async fn world(waiting: Vec<(&str, Vec<u8>)>) -> World {
    let (store, thread) = StoreHandle::spawn("store", Box::new(fixture::store())).unwrap();
    world_that_holds(Hold::Alone, (store, thread), waiting).await
}

/// The same with a store at hand, by which it may or may not take in.
async fn world_that_holds(
    hold: Hold,
    (store, thread): (StoreHandle, StoreThread),
    waiting: Vec<(&str, Vec<u8>)>,
) -> World {
    let (inbox, from_broker) = inbox();
    for (i, (topic, payload)) in waiting.into_iter().enumerate() {
        let ticket = Some(Ticket { connection: 1, packet_id: i as u16 + 1 });
        inbox.send(FromBroker::Message(Message { topic: topic.into(), payload, ticket })).await.unwrap();
    }
    let keys = fixture::keys();
    let (roll, rolled) = watch::channel(Arc::default());
    let (usher, calls) = usher::bell();
    let told = Arc::default();
    let metrics = Arc::new(Metrics::new());
    let (stopper, stop) = stop::pair();
    let worker = Worker {
        store: store.clone(),
        hold,
        link: Remembering {
            told: Arc::clone(&told),
            receipt_key: keys.now().receipt().public(),
            control_key: keys.now().control().public(),
        },
        keys: keys.clone(),
        roll: rolled,
        usher,
        roster: crate::intake::roster::desk().0,
        clock: Clock::from_fn(|| UtcMs(START.0 + 5)),
        metrics: Arc::clone(&metrics),
        health: Arc::default(),
        wake: Arc::default(),
        sitting: Sitting([9; 16]),
    };
    let (captures, captured) = mpsc::channel(MAX_GROUP_CAPTURES);
    let running = tokio::spawn(run(worker, from_broker, captured, stop));
    World { inbox, captures, metrics, told, store, thread, stopper, running, roll, calls }
}

impl World {
    /// No more messages: the worker ends when it has worked off what waits.
    async fn told(self) -> (Vec<Told>, StoreHandle, StoreThread) {
        drop(self.inbox);
        self.running.await.unwrap();
        let told = self.told.lock().unwrap().clone();
        (told, self.store, self.thread)
    }
}

fn door_with(taps: u8) -> Door {
    let mut door = Door::new(1);
    (0..taps).for_each(|n| {
        door.tap(n);
    });
    door
}

const RECORDS: &str = "tap/v1/door-1/records";
const HELLO: &str = "tap/v1/door-1/hello";

#[tokio::test]
async fn a_group_is_stored_then_acknowledged_in_order_then_answered_once() {
    let door = door_with(5);
    let world = world(vec![
        (RECORDS, door.message(1, 2)),
        (RECORDS, door.message(3, 4)),
        (RECORDS, door.message(5, 6)),
    ])
    .await;
    let (told, store, thread) = world.told().await;
    use Told::*;
    assert_eq!(told, [Acknowledged(1), Acknowledged(2), Acknowledged(3), Receipt(1, 6, false, None)]);
    assert_eq!(store.run(|store| store.totals()).await.unwrap().records, 6);
    thread.close().await;
}

/// It was stopped, and another took over: what it has in its hands is the other one's to answer. What is stored stays.
#[tokio::test]
async fn nothing_is_acknowledged_or_answered_once_another_takes_in() {
    let door = door_with(5);
    for is_taken in [false, true] {
        let (store, thread) = StoreHandle::spawn("store", Box::new(fixture::store())).unwrap();
        let (holding, mut hold) = holding(store.clone(), "broker".into(), "this one".into());
        let (stopper, stop) = stop::pair();
        let holding = tokio::spawn(holding.run(stop));
        hold.granted().await;
        if is_taken {
            let take_over = |store: &mut dyn EventStore| {
                let seen = store.intake_claim("broker")?;
                store.take_intake("broker", "another one", seen.as_ref())
            };
            assert!(store.run(take_over).await.unwrap().is_some());
        }
        let waiting = vec![(RECORDS, door.message(1, 6)), (HELLO, door.hello())];
        let (told, store, thread) = world_that_holds(hold, (store, thread), waiting).await.told().await;
        assert_eq!(told.is_empty(), is_taken, "{told:?}");
        assert_eq!(store.run(|store| store.totals()).await.unwrap().records, 6);
        stopper.stop();
        holding.await.unwrap();
        let claim = store.run(|store| store.intake_claim("broker")).await.unwrap().unwrap();
        assert_eq!(claim.holder.as_deref(), is_taken.then_some("another one"), "an end leaves only its own");
        thread.close().await;
    }
}

#[tokio::test]
async fn what_came_before_or_twice_is_answered_with_the_mark() {
    let door = door_with(5);
    let world = world(vec![
        (RECORDS, door.message(1, 2)),
        (RECORDS, door.message(1, 2)),
        (RECORDS, door.message(5, 6)),
    ])
    .await;
    let (told, store, thread) = world.told().await;
    assert_eq!(told.last(), Some(&Told::Receipt(1, 2, true, None)));
    assert_eq!(store.run(|store| store.totals()).await.unwrap().records, 2);
    thread.close().await;
}

#[tokio::test]
async fn rubbish_is_quarantined_and_acknowledged_and_keeps_nobody_from_being_stored() {
    let door = door_with(1);
    let mut forged = door_with(1);
    forged.key = SigningKey::from_seed(&[77; 32]);
    let world = world(vec![
        (RECORDS, b"rubbish".to_vec()),
        ("tap/v1/nobody/records", door.message(1, 2)),
        ("some/where/else", vec![]),
        (RECORDS, forged.message(1, 2)),
        (RECORDS, door.message(1, 2)),
    ])
    .await;
    let (told, store, thread) = world.told().await;
    let mut expected: Vec<Told> = (1..=5).map(Told::Acknowledged).collect();
    expected.push(Told::Receipt(1, 2, false, None));
    assert_eq!(told, expected);
    let letters = store.run(|store| store.dead_letters(9)).await.unwrap();
    let mut kinds: Vec<&str> = letters.iter().map(|letter| &*letter.kind).collect();
    kinds.reverse();
    assert_eq!(kinds, ["undecodable", "unknown_controller", "unknown_topic", "unauthentic"]);
    thread.close().await;
}

#[tokio::test]
async fn a_fork_is_quarantined_and_gets_no_receipt() {
    let mut other_life = Door::new(1);
    other_life.tap(7);
    let world = world(vec![(RECORDS, door_with(1).message(1, 2)), (RECORDS, other_life.message(1, 2))]).await;
    let (told, store, thread) = world.told().await;
    assert_eq!(told.last(), Some(&Told::Receipt(1, 2, false, None)));
    let letters = store.run(|store| store.dead_letters(9)).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].kind, "fork");
    thread.close().await;
}

fn report(door: &Door, what: What) -> Vec<u8> {
    let controller = "door-1".parse().unwrap();
    Report { controller, boot_id: BootId([1; 16]), boottime_ms: 5, what }.sign(&door.key)
}

#[tokio::test]
async fn a_fork_is_noted_and_the_controller_is_told_once_to_leave_that_outbox() {
    let mut other_life = Door::new(1);
    other_life.tap(7);
    let forked = other_life.message(1, 2);
    let world = world(vec![
        (RECORDS, door_with(1).message(1, 2)),
        (RECORDS, forked.clone()),
        (RECORDS, forked),
        (HELLO, door_with(1).hello()),
    ])
    .await;
    let (told, store, thread) = world.told().await;
    let outbox = OutboxId([1; 16]);
    let number = START.0 as u64 + 5;
    assert_eq!(told.last(), Some(&Told::Command(number, Order::StartNewOutbox { outbox })));
    let id = "door-1".parse().unwrap();
    let (commands, troubles) =
        store.run(move |store| Ok((store.commands(&id)?, store.troubles(&id)?))).await.unwrap();
    assert_eq!(commands.len(), 1);
    assert_eq!((troubles.len(), troubles[0].count, troubles[0].outbox), (1, 2, Some(outbox)));
    thread.close().await;
}

const LEAVE: Order = Order::StartNewOutbox { outbox: OutboxId([9; 16]) };

/// What is sent to a trusted door with its hello, of these orders given at these times.
async fn sent_of(orders: &[(Order, UtcMs)]) -> Vec<Order> {
    let orders = orders.to_vec();
    let world = world(vec![]).await;
    let queue = move |store: &mut dyn EventStore| {
        let id = "door-1".parse().unwrap();
        orders.iter().try_for_each(|(order, at)| store.queue_command(&id, order, "", *at).map(drop))
    };
    world.store.run(queue).await.unwrap();
    let (topic, payload) = (HELLO.into(), door_with(0).hello());
    world.inbox.send(FromBroker::Message(Message { topic, payload, ticket: None })).await.unwrap();
    let (told, _store, thread) = world.told().await;
    thread.close().await;
    told.into_iter()
        .filter_map(|told| match told {
            Told::Command(_, order) => Some(order),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn nobody_is_sent_for_keys_before_the_service_itself_has_seen_them() {
    assert_eq!(sent_of(&[(Order::FetchKeys, START)]).await, []);
    let before = UtcMs(START.0 - 10_000);
    assert_eq!(sent_of(&[(Order::FetchKeys, before)]).await, [Order::FetchKeys]);
}

#[tokio::test]
async fn a_door_that_is_trusted_again_does_not_hear_of_its_revocation() {
    assert_eq!(sent_of(&[(Order::Revoke, START)]).await, []);
    assert_eq!(sent_of(&[(Order::Revoke, START), (Order::RunChecks, START)]).await, [Order::RunChecks]);
}

#[tokio::test]
async fn a_command_goes_out_with_every_hello_until_its_end_is_told_and_then_the_next() {
    let door = door_with(0);
    let world = world(vec![]).await;
    let (first, second) = (START.0 as u64, START.0 as u64 + 1);
    world
        .store
        .run(|store| {
            let id = "door-1".parse().unwrap();
            store.queue_command(&id, &Order::RunChecks, "", START)?;
            store.queue_command(&id, &LEAVE, "", START)
        })
        .await
        .unwrap();
    let done = What::CommandDone { number: first, outcome: Outcome::Done, detail: "fine".into() };
    for (topic, payload) in [(HELLO, door.hello()), ("tap/v1/door-1/report", report(&door, done))] {
        let before = world.told.lock().unwrap().len();
        let ticket = Some(Ticket { connection: 1, packet_id: 1 });
        world
            .inbox
            .send(FromBroker::Message(Message { topic: topic.into(), payload, ticket }))
            .await
            .unwrap();
        while !world.told.lock().unwrap()[before..].iter().any(|told| matches!(told, Told::Command(..))) {
            tokio::task::yield_now().await;
        }
    }
    let (told, _store, thread) = world.told().await;
    let commands: Vec<_> = told.into_iter().filter(|told| matches!(told, Told::Command(..))).collect();
    assert_eq!(commands, [Told::Command(first, Order::RunChecks), Told::Command(second, LEAVE)]);
    thread.close().await;
}

#[tokio::test]
async fn places_are_answered_with_receipts_that_echo_nothing_and_none_above_the_mark() {
    let door = door_with(5);
    let wanted = What::HashesWanted { outbox: OutboxId([1; 16]), seqs: vec![Seq(1), Seq(4), Seq(9)] };
    let world =
        world(vec![(RECORDS, door.message(1, 6)), ("tap/v1/door-1/report", report(&door, wanted))]).await;
    let (told, _store, thread) = world.told().await;
    use Told::*;
    let receipts: Vec<_> = told.into_iter().filter(|told| matches!(told, Receipt(..))).collect();
    assert_eq!(
        receipts,
        [Receipt(1, 1, false, None), Receipt(1, 4, false, None), Receipt(1, 6, false, None)]
    );
    thread.close().await;
}

#[tokio::test]
async fn a_hello_is_answered_with_its_echo() {
    let door = door_with(1);
    let world = world(vec![(HELLO, door.hello()), (RECORDS, door.message(1, 2))]).await;
    let (told, store, thread) = world.told().await;
    use Told::*;
    assert_eq!(
        told,
        [Acknowledged(1), Acknowledged(2), Receipt(1, 2, false, None), Receipt(1, 2, false, Some(123))]
    );
    let controllers = store.run(|store| store.controllers()).await.unwrap();
    assert!(controllers[0].hello.is_some());
    thread.close().await;
}

#[tokio::test]
async fn on_every_connection_all_known_outboxes_are_asked_to_send_again() {
    let door = door_with(1);
    let world = world(vec![(RECORDS, door.message(1, 2))]).await;
    world.inbox.send(FromBroker::Connected).await.unwrap();
    let (told, _store, thread) = world.told().await;
    assert!(told.contains(&Told::Receipt(1, 2, true, None)), "{told:?}");
    thread.close().await;
}

#[tokio::test]
async fn a_lost_connection_is_noted() {
    let world = world(vec![(HELLO, door_with(0).hello()), ("tap/v1/door-1/gone", vec![])]).await;
    let (_told, store, thread) = world.told().await;
    let controllers = store.run(|store| store.controllers()).await.unwrap();
    assert_eq!(controllers[0].gone, Some(UtcMs(START.0 + 5)));
    thread.close().await;
}

#[tokio::test]
async fn a_changed_record_key_is_noticed() {
    let mut door = door_with(1);
    let world = world(vec![(RECORDS, door.message(1, 1))]).await;
    while world.told.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    door.key = SigningKey::from_seed(&[55; 32]);
    let key = door.key.public();
    world
        .store
        .run(move |store| {
            let mut controller = store.controller(&"door-1".parse().unwrap())?.unwrap();
            controller.record_keys = vec![RecordKey::new(key)];
            store.put_controller(&controller)
        })
        .await
        .unwrap();
    let payload = door.message(2, 2);
    let ticket = Some(Ticket { connection: 1, packet_id: 2 });
    world.inbox.send(FromBroker::Message(Message { topic: RECORDS.into(), payload, ticket })).await.unwrap();
    let (told, store, thread) = world.told().await;
    assert_eq!(told.last(), Some(&Told::Receipt(1, 2, false, None)));
    let marks = store.run(|store| store.marks()).await.unwrap();
    assert_eq!(marks[0].stored_through, Seq(2));
    thread.close().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_while_the_store_is_away() {
    let World { inbox, told, thread, stopper, running, .. } = world(vec![]).await;
    thread.close().await;
    let message = Message {
        topic: RECORDS.into(),
        payload: door_with(1).message(1, 2),
        ticket: Some(Ticket { connection: 1, packet_id: 1 }),
    };
    inbox.send(FromBroker::Message(message)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!running.is_finished());
    assert_eq!(*told.lock().unwrap(), []);
    stopper.stop();
    running.await.unwrap();
    assert_eq!(*told.lock().unwrap(), []);
}

/// Revoked, in the store and on the roll.
async fn revoke(world: &World) {
    let deed = Deed::by_itself(START, "revoke", "door-1");
    let id: ControllerId = "door-1".parse().unwrap();
    let revoked = id.clone();
    world.store.run(move |store| store.set_standing(&id, Standing::Revoked, &deed)).await.unwrap();
    world.roll.send_replace(Arc::new(Roll { deeds: 1, revoked: [revoked].into() }));
}

#[tokio::test]
async fn what_a_revoked_controller_had_spoken_of_is_stored_and_the_rest_put_aside() {
    let door = door_with(4);
    let mut world = world(vec![(RECORDS, door.message(1, 3))]).await;
    while world.told.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    let mut spoken = Door::new(1);
    spoken.tap(0).tap(1).tap(2);
    let hello = Hello::open(&spoken.hello(), &door.id, &door.key.public()).unwrap();
    world.store.run(move |store| store.note_hello(&hello, START)).await.unwrap();
    revoke(&world).await;
    let id = door.id.clone();
    world.store.run(move |store| store.queue_command(&id, &Order::Revoke, "", START)).await.unwrap();
    for (id, (topic, payload)) in
        [(RECORDS, door.message(4, 5)), (HELLO, door.hello())].into_iter().enumerate()
    {
        let ticket = Some(Ticket { connection: 1, packet_id: id as u16 + 2 });
        let message = Message { topic: topic.into(), payload, ticket };
        world.inbox.send(FromBroker::Message(message)).await.unwrap();
    }
    let called = loop {
        match world.calls.heard() {
            Some(called) => break called,
            None => tokio::task::yield_now().await,
        }
    };
    assert_eq!(called.as_str(), "door-1");
    let (told, store, thread) = world.told().await;
    let receipts: Vec<_> = told.iter().filter(|told| matches!(told, Told::Receipt(..))).collect();
    assert_eq!(receipts.last(), Some(&&Told::Receipt(1, 4, false, None)), "of the two it had spoken of one");
    let commands = told.iter().filter(|told| matches!(told, Told::Command(_, Order::Revoke))).count();
    assert_eq!(commands, 1, "it is told with its hello, not with everything that it says");
    for packet in [2, 3] {
        assert!(told.contains(&Told::Acknowledged(packet)), "the broker is rid of it: {told:?}");
    }
    let letters = store.run(|store| store.dead_letters(9)).await.unwrap();
    let kinds: Vec<_> = letters.iter().map(|letter| letter.kind.as_ref()).collect();
    assert_eq!(kinds, ["revoked", "revoked"]);
    assert!(letters.iter().any(|letter| letter.reason.contains("up to 4 of this outbox alone: 5 to 5")));
    let rows =
        store.run(|store| store.events(&EventFilter { limit: 9, ..EventFilter::default() })).await.unwrap();
    let flagged: Vec<bool> = rows.iter().map(|row| row.after_revocation).collect();
    assert_eq!(flagged, [true, true, true, true], "all came at one moment of this test's clock");
    thread.close().await;
}

#[tokio::test]
async fn a_key_that_ended_is_not_taken_from_memory() {
    let door = door_with(2);
    let world = world(vec![(RECORDS, door.message(1, 1))]).await;
    while world.told.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    let other = SigningKey::from_seed(&[56; 32]).public();
    let put = move |store: &mut dyn EventStore| {
        let mut controller = store.controller(&"door-1".parse().unwrap())?.unwrap();
        controller.record_keys = vec![RecordKey::new(other)];
        store.put_controller(&controller)
    };
    world.store.run(put).await.unwrap();
    world.roll.send_replace(Arc::new(Roll { deeds: 1, ..Roll::default() }));
    let ticket = Some(Ticket { connection: 1, packet_id: 2 });
    let message = Message { topic: RECORDS.into(), payload: door.message(2, 2), ticket };
    world.inbox.send(FromBroker::Message(message)).await.unwrap();
    let (_, store, thread) = world.told().await;
    let letters = store.run(|store| store.dead_letters(9)).await.unwrap();
    assert_eq!(letters[0].kind, "unauthentic");
    thread.close().await;
}

/// The kiosk's tap under the `n`th idempotency key.
fn captured(n: u8) -> (Arrived, oneshot::Receiver<StoreSays>) {
    let at = Stamp { boot: 1, boottime_ms: 0, wall_ms: START.0, clock: ClockState::Synced };
    let badge = fixture::token_key().seal(&"04A224B1C2D380".parse().unwrap());
    let reader = "api".parse().unwrap();
    let body = Body::Tap(Tap { reader, badge, direction: Direction::In, verdict: Verdict::NoRoster });
    let tap = CapturedTap {
        source: "api-kiosk".parse().unwrap(),
        api_key: [1; 5],
        key_sha256: [n; 32],
        prints: vec![Print { token_key: TokenKeyId(1), sha256: [n; 32] }],
        received: START,
        record: Record { at, body }.encode(),
    };
    let (answer, said) = oneshot::channel();
    (Arrived { tap, claim: Claim::default(), answer }, said)
}

async fn put_kiosk(store: &StoreHandle) {
    let source = Source { id: "api-kiosk".parse().unwrap(), label: "Kiosk".into(), site: "hq".into() };
    let key = NewApiKey { id: [1; 5], secret_sha256: [1; 32], source: source.id.clone(), expires: None };
    let deed = Deed::by_itself(START, "create_api_key", "api-kiosk");
    store.run(move |store| store.put_api_key(&key, &source, &deed)).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_comes_over_http_shares_the_commit_of_what_the_broker_brings() {
    let world = world(vec![]).await;
    put_kiosk(&world.store).await;
    let (first, first_said) = captured(1);
    let (second, second_said) = captured(2);
    // It came too late: its client is answered from the spool.
    let (third, _) = captured(3);
    let payload = door_with(1).message(1, 2);
    let message =
        Message { topic: RECORDS.into(), payload, ticket: Some(Ticket { connection: 1, packet_id: 7 }) };
    world.inbox.try_send(FromBroker::Message(message)).unwrap();
    for arrived in [first, second, third] {
        world.captures.try_send(arrived).unwrap_or_else(|_| panic!("there is room"));
    }
    let saying = |said: StoreSays| match said {
        StoreSays::Is(Captured::Stored(id)) => id,
        other => panic!("{other:?}"),
    };
    let ids = [saying(first_said.await.unwrap()), saying(second_said.await.unwrap())];
    assert_eq!(ids.map(|id| id.seq().0), [1, 2]);
    let metrics = Arc::clone(&world.metrics);
    let (told, store, thread) = world.told().await;
    assert_eq!(told, [Told::Acknowledged(7), Told::Receipt(1, 2, false, None)], "a source gets no receipt");
    assert_eq!(store.run(|store| store.totals()).await.unwrap().taps, 3);
    let text = metrics.render(&Health::default());
    assert!(text.contains("cloud_ingest_commit_seconds_count 1\n"), "one group, one commit: {text}");
    assert!(text.contains("events_total{source=\"http\",result=\"stored\"} 2\n"), "{text}");
    thread.close().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_http_is_told_at_once_and_the_broker_waits() {
    let World { inbox, captures, told, thread, stopper, running, .. } = world(vec![]).await;
    thread.close().await;
    let payload = door_with(1).message(1, 2);
    let message =
        Message { topic: RECORDS.into(), payload, ticket: Some(Ticket { connection: 1, packet_id: 1 }) };
    let (tap, said) = captured(1);
    captures.try_send(tap).unwrap_or_else(|_| panic!("there is room"));
    inbox.try_send(FromBroker::Message(message)).unwrap();
    let asked = tokio::time::Instant::now();
    assert_eq!(said.await, Ok(StoreSays::CannotNow));
    assert!(asked.elapsed() < Duration::from_millis(100), "whoever waits over HTTP goes to the spool");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(*told.lock().unwrap(), [], "what the broker brought is not acknowledged");
    stopper.stop();
    running.await.unwrap();
}
