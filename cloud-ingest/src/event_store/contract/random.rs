//! All stores are one: whatever is done to them in whatever order, they answer the same and show the same. And whatever
//! was told of a tap and is otherwise by now is listed, and nothing else.
//!
//! A failing sequence is printed in its shortest form, and kept in `proptest-regressions/`, from where it is run first
//! ever after: `cargo test -p cloud-ingest random`.

use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::prelude::*;
use proptest::sample::Index;
use tap_protocol::envelope::VerifiedBatch;
use tap_protocol::record::ClockState;
use tap_protocol::tap::Direction;

use super::world::{self, Door, HR, hq};
use super::{InFile, InMemory, OnServer, UnderTest};
use crate::delivery::breaker::{self, Sign};
use crate::delivery::limiter::Limits;
use crate::delivery::retry::Hold;
use crate::delivery::rules::Rules;
use crate::delivery::ticks::{Passed, Ticker};
use crate::destination::settings::OnDead;
use crate::directory::direction::{Policy, Rule, Why};
use crate::directory::timeline::When;
use crate::event_store::people::{DifferenceFilter, What};
use crate::event_store::replays::{Doing, Filter, NewReplay, ReplayChange};
use crate::event_store::{
    AttemptEnd, BadgeFilter, Binding, Change, Claim, Claimed, DeadLetter, Deed, DeliveryState, Ended,
    EventDetail, EventFilter, EventRow, EventStore, GIVE_UP_ON_TIME_AFTER_MS, NewDestination, Next, Position,
    Rendered, Since, StoreError, Turn, UtcMs,
};

const CASES: u32 = 32;
const ALONE_CASES: u32 = 256;
const TOLD_CASES: u32 = 128;
const STEPS: std::ops::Range<usize> = 1..40;
const DAYS: std::ops::Range<usize> = 5..25;
const DESTINATIONS: [&str; 2] = [HR, "payroll"];
const PERSONS: [&str; 2] = ["anna", "ben"];

/// One thing that is recorded at a door.
#[derive(Debug, Clone)]
enum Recorded {
    Tap(u8),
    UnsyncedTap(u8),
    Anchor,
    AnchorOffBy(i64),
    BufferHigh,
    Opaque,
    Boot { dark_s: u8, id: u8, synced: bool },
    Start(u8),
    Placed(Direction),
    Later { h: u8 },
}

/// How a door's batch relates to what is stored.
#[derive(Debug, Clone)]
enum Sent {
    New(Vec<Recorded>),
    Again(Index, Index),
    Beyond,
    Fork,
}

/// One thing that happens to a store.
#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(usize, Sent)>),
    Bind(Vec<(u8, usize)>),
    Turn { destination: usize, room: usize, ends: Vec<(Index, u8)>, beats: bool },
    Give { card: u8, who: usize, from_s: Option<i64>, for_s: Option<i64> },
    NewOutbox { door: usize },
    Wait { ms: i64 },
    Change { destination: usize, pause: bool },
    AddDestination { destination: usize, old: bool },
    Replay { destination: usize, doing: Doing, letters: bool },
    ChangeReplay { number: u64, change: ReplayChange },
    Hello { door: usize, last_seq: u64 },
    Follow { place: bool, order: bool },
    Gone { door: usize },
    Quarantine,
    Restart,
}

fn recorded() -> impl Strategy<Value = Recorded> {
    let placed =
        prop_oneof![4 => Just(Direction::Unspecified), 1 => Just(Direction::In), 1 => Just(Direction::Out)];
    prop_oneof![
        4 => (1..4u8).prop_map(Recorded::Tap),
        3 => (1..4u8).prop_map(Recorded::UnsyncedTap),
        1 => Just(Recorded::Anchor),
        1 => prop_oneof![Just(1_000), Just(90_000)].prop_map(Recorded::AnchorOffBy),
        1 => Just(Recorded::BufferHigh),
        1 => Just(Recorded::Opaque),
        2 => (0..50u8, 1..6u8, any::<bool>()).prop_map(|(dark_s, id, synced)| Recorded::Boot { dark_s, id, synced }),
        1 => (1..6u8).prop_map(Recorded::Start),
        1 => placed.prop_map(Recorded::Placed),
        1 => (1..3u8).prop_map(|h| Recorded::Later { h }),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        8 => prop::collection::vec(recorded(), 1..6).prop_map(Sent::New),
        1 => any::<(Index, Index)>().prop_map(|(first, last)| Sent::Again(first, last)),
        1 => Just(Sent::Beyond),
        1 => Just(Sent::Fork),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let wait_ms = prop_oneof![
        3 => Just(1_000),
        3 => Just(10_000),
        3 => Just(world::LEASE_MS),
        1 => Just(GIVE_UP_ON_TIME_AFTER_MS),
    ];
    prop_oneof![
        8 => prop::collection::vec((0..3usize, sent()), 1..4).prop_map(Step::Append),
        3 => prop::collection::vec((1..4u8, 0..2usize), 0..3).prop_map(Step::Bind),
        14 => (0..2usize, 0..4usize, prop::collection::vec(any::<(Index, u8)>(), 0..4), any::<bool>())
            .prop_map(|(destination, room, ends, beats)| Step::Turn { destination, room, ends, beats }),
        3 => (1..4u8, 0..3usize, prop::option::of(-5..30i64), prop::option::of(1..20i64))
            .prop_map(|(card, who, from_s, for_s)| Step::Give { card, who, from_s, for_s }),
        1 => (0..3usize).prop_map(|door| Step::NewOutbox { door }),
        3 => wait_ms.prop_map(|ms| Step::Wait { ms }),
        1 => (0..2usize, any::<bool>()).prop_map(|(destination, pause)| Step::Change { destination, pause }),
        1 => (0..2usize, any::<bool>()).prop_map(|(destination, old)| Step::AddDestination { destination, old }),
        2 => (0..2usize, doing(), any::<bool>())
            .prop_map(|(destination, doing, letters)| Step::Replay { destination, doing, letters }),
        1 => (1..4u64, changed()).prop_map(|(number, change)| Step::ChangeReplay { number, change }),
        3 => (0..3usize, 0..20u64).prop_map(|(door, last_seq)| Step::Hello { door, last_seq }),
        1 => any::<(bool, bool)>().prop_map(|(place, order)| Step::Follow { place, order }),
        1 => (0..3usize).prop_map(|door| Step::Gone { door }),
        1 => Just(Step::Quarantine),
        1 => Just(Step::Restart),
    ]
}

fn doing() -> impl Strategy<Value = Doing> {
    prop_oneof![3 => Just(Doing::Replay), 1 => Just(Doing::Discard), 1 => Just(Doing::SaidDelivered)]
}

fn changed() -> impl Strategy<Value = ReplayChange> {
    prop_oneof![Just(ReplayChange::Pause), Just(ReplayChange::Resume), Just(ReplayChange::Cancel)]
}

/// What sends to both stores, and what they gave out.
struct Outside {
    doors: Vec<Door>,
    claims: Vec<Claimed>,
    now: UtcMs,
    ticker: Ticker,
    rules: Rules,
}

impl Outside {
    fn new() -> Outside {
        let doors = (1..=3).map(Door::new).collect();
        Outside {
            doors,
            claims: Vec::new(),
            now: UtcMs(world::BOOT_UTC_MS + 3_600_000),
            ticker: Ticker::new(1),
            rules: rules(),
        }
    }

    fn batch(&mut self, (door, sent): &(usize, Sent)) -> Option<VerifiedBatch> {
        let door = &mut self.doors[*door];
        let stored = door.last_seq().0;
        match sent {
            Sent::New(records) => {
                records.iter().for_each(|one| record(door, one));
                (door.last_seq().0 > stored).then(|| door.unsent())
            }
            Sent::Again(first, last) if stored > 0 => {
                let first = first.index(stored as usize) as u64 + 1;
                let last = first + last.index((stored - first + 1) as usize) as u64;
                Some(door.batch(first, last))
            }
            Sent::Again(..) => None,
            Sent::Beyond => {
                let mut ahead = door.clone();
                [1, 2].iter().for_each(|card| ahead.tap(*card));
                Some(ahead.batch(stored + 2, stored + 2))
            }
            Sent::Fork => {
                let mut other = Door::new(door.outbox.0[0]);
                other.controller = door.controller.clone();
                (0..=stored).for_each(|_| other.tap(9));
                Some(other.batch(stored + 1, stored + 1))
            }
        }
    }

    fn ended(&self, claimed: &Claimed, next: u8) -> Ended {
        let now = self.now;
        let wait_ms = 1_000 * u64::from(next % 16);
        let (outcome, sign, next) = match next % 8 {
            0..=2 => ("delivered", Some(Sign::Answered), Next::Delivered),
            3 => ("timed_out", Some(Sign::Failed), Next::UnknownFor(wait_ms)),
            4 => ("rate_limited", Some(Sign::Busy), Next::PatientFor(wait_ms)),
            5 => ("server_error", Some(Sign::Failed), Next::RetryIn(wait_ms)),
            6 => ("not_sent", None, Next::NotSent),
            _ if next < 192 => ("refused", Some(Sign::Answered), Next::Dead),
            _ => ("timed_out", Some(Sign::Failed), Next::AskPerson),
        };
        let hold = (sign == Some(Sign::Busy)).then_some(Hold { for_ms: 3_000, why: "busy" });
        let end = AttemptEnd { finished: now, outcome, status: Some(200), answer: format!("{next:?}") };
        Ended { claim: claimed.claim.clone(), end, next, hold, sign }
    }

    /// Sends what is due to the first destination; it is taken, or it was too early.
    fn send(&mut self, limit: usize, is_taken: bool, store: &mut dyn UnderTest, told: &mut Told) {
        let answer = self.take(&turn(limit), &[], store);
        let sent = answer.given.clone();
        self.given(answer, told);
        let ended: Vec<Ended> =
            sent.iter().map(|claimed| self.ended(claimed, if is_taken { 0 } else { 5 })).collect();
        let rules = rules();
        store.set_clock(self.now);
        let turned = store.store().turn(&Turn {
            destination: HR,
            version: 1,
            rules: &rules,
            now: self.now,
            vouch: &|| self.ticker.vouch(self.now.0.unsigned_abs()),
            ended: &ended,
            under_way: &[],
            room: 0,
            render: &|_, _| Rendered::Impossible("nothing is begun".into()),
        });
        if let Some(passed) = turned.unwrap().passed {
            self.ticker.told(&passed);
        }
    }

    /// What a store gave out to be sent: what was told once is told again.
    fn given(&mut self, answer: Answer, told: &mut Told) {
        for claimed in &answer.given {
            let key = (claimed.claim.destination.clone(), claimed.claim.position);
            assert_eq!(*told.entry(key).or_insert(claimed.tap.direction), claimed.tap.direction);
        }
        self.heard(answer);
    }

    /// What a store gave out.
    fn heard(&mut self, answer: Answer) {
        self.claims.extend(answer.given);
        if let Some(passed) = answer.passed {
            self.ticker.told(&passed);
        }
    }

    /// What happens outside of all stores; gives what is sent to them.
    fn prepare(&mut self, step: &Step) -> Vec<VerifiedBatch> {
        match step {
            Step::Append(sent) => return sent.iter().filter_map(|one| self.batch(one)).collect(),
            Step::Wait { ms } => self.now.0 += ms,
            Step::Follow { place, order } => {
                self.rules.is_followed = *place;
                self.rules.across_ms = order.then_some(30_000);
            }
            Step::NewOutbox { door } => {
                let door = &mut self.doors[*door];
                *door = door.new_outbox(door.outbox.0[0] + 10);
            }
            _ => {}
        }
        Vec::new()
    }

    /// Does the step to one store; says what it answered.
    fn take(&self, step: &Step, batches: &[VerifiedBatch], under_test: &mut dyn UnderTest) -> Answer {
        let now = self.now;
        let claim = |index: &Index| (!self.claims.is_empty()).then(|| index.get(&self.claims));
        under_test.set_clock(now);
        let store = under_test.store();
        match step {
            Step::Append(_) => answer(store.append(batches, now)),
            Step::Bind(bindings) => {
                let bindings: Vec<Binding> =
                    bindings.iter().map(|(card, who)| world::binding(*card, PERSONS[*who])).collect();
                answer(store.bind_badges(&bindings, now))
            }
            Step::Give { card, who, from_s, for_s } => {
                let from = from_s.map(|s| UtcMs(world::BOOT_UTC_MS + s * 1_000 + 500));
                let until = for_s.map(|s| UtcMs(from.unwrap_or(now).0 + s * 1_000));
                let when = When { from, until };
                let person = PERSONS.get(*who).map(|who| world::person(who));
                answer(store.bind_badges(&[Binding { person, when, ..world::binding(*card, "") }], now))
            }
            Step::Turn { destination, room, ends, beats } => {
                let name = DESTINATIONS[*destination];
                let ours = |claimed: &&Claimed| claimed.claim.destination == name;
                let ended: Vec<Ended> = ends
                    .iter()
                    .filter_map(|(index, next)| Some(self.ended(claim(index).filter(ours)?, *next)))
                    .collect();
                let under_way: Vec<Claim> = match beats {
                    true => self.claims.iter().filter(ours).map(|claimed| claimed.claim.clone()).collect(),
                    false => Vec::new(),
                };
                let turned = store.turn(&Turn {
                    destination: name,
                    version: 1,
                    rules: &self.rules,
                    now,
                    vouch: &|| self.ticker.vouch(now.0.unsigned_abs()),
                    ended: &ended,
                    under_way: &under_way,
                    room: *room,
                    render: &|event, tap| match event.seq().0 % 11 {
                        5 => Rendered::NotWanted("not such".into()),
                        7 => Rendered::Impossible("nobody can".into()),
                        _ => Rendered::Body(format!("{} {}", tap.person.0, self.now.0)),
                    },
                });
                let passed = turned.as_ref().ok().and_then(|turned| turned.passed);
                let given = turned.as_ref().map(|turned| turned.claimed.clone()).unwrap_or_default();
                Answer { given, passed, ..answer(turned) }
            }
            Step::NewOutbox { .. } | Step::Wait { .. } | Step::Follow { .. } => Answer::default(),
            Step::Change { destination, pause } => {
                let change = if *pause { Change::Pause } else { Change::Resume };
                answer(store.change_destination(
                    DESTINATIONS[*destination],
                    &change,
                    &Deed::by_itself(now, "x", "y"),
                ))
            }
            Step::AddDestination { destination, old } => {
                let from = if *old { Since::Beginning } else { Since::Now };
                let new =
                    NewDestination { from, ..NewDestination::from_now(DESTINATIONS[*destination], "{}") };
                answer(store.add_destination(&new, &Deed::by_itself(now, "x", "y")))
            }
            Step::Replay { destination, doing, letters } => {
                let filter = Filter { letters: *letters, ..Filter::default() };
                let new = NewReplay { destination: DESTINATIONS[*destination].into(), doing: *doing, filter };
                let made = store.make_replay(&new, &Deed::by_itself(now, "x", "y"));
                if let Ok(number) = made {
                    while store.gather(number).unwrap() {}
                }
                answer(made)
            }
            Step::ChangeReplay { number, change } => {
                answer(store.change_replay(*number, *change, &Deed::by_itself(now, "x", "y")))
            }
            Step::Hello { door, last_seq } => {
                let door = &self.doors[*door];
                // Every other one has receipts for all that it tells of.
                let hello = match last_seq % 2 {
                    0 => door.says(door.last_seq().0),
                    _ => door.hello(&[(door.outbox, *last_seq)]),
                };
                answer(store.note_hello(&hello, now))
            }
            Step::Gone { door } => answer(store.note_gone(&self.doors[*door].controller, now)),
            Step::Quarantine => answer(store.quarantine(&DeadLetter {
                received: now,
                topic: "tap/v1/hq-door-1/records".into(),
                kind: "fork".into(),
                reason: "random".into(),
                bytes: vec![7],
            })),
            Step::Restart => {
                under_test.restart();
                Answer::default()
            }
        }
    }
}

/// Few calls and short tempers, so that all of it happens.
fn rules() -> Rules {
    Rules {
        limits: Limits { per_second: 0.5, burst: 6, per_day: None, concurrency: 5 },
        breaker: breaker::Settings { failures: 2, open_ms: 2_000, most_open_ms: 8_000, ramp_ms: 5_000 },
        on_dead: OnDead::HoldHours(1),
        ..Rules::default()
    }
}

fn record(door: &mut Door, one: &Recorded) {
    match one {
        Recorded::Tap(card) => door.tap(*card),
        Recorded::UnsyncedTap(card) => door.unsynced_tap(*card),
        Recorded::Anchor => door.anchor(),
        Recorded::AnchorOffBy(ms) => door.anchor_off_by(*ms, 0),
        Recorded::BufferHigh => door.buffer_high(),
        Recorded::Opaque => door.raw(&[2, 0]),
        Recorded::Boot { dark_s, id, synced } => {
            let clock = if *synced { ClockState::Synced } else { ClockState::Unsynced };
            door.reboot(i64::from(*dark_s) * 1_000, *id, clock);
        }
        Recorded::Start(id) => door.start(*id, ClockState::Unsynced),
        Recorded::Placed(placed) => door.placed = *placed,
        Recorded::Later { h } => door.boottime_ms += u64::from(*h) * 3_600_000,
    }
}

/// What a store answered: in words for comparing, and the claims it gave out. An error counts by what it is, not by
/// how the store words it.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    said: String,
    given: Vec<Claimed>,
    passed: Option<Passed>,
}

fn answer<T: Debug>(result: Result<T, StoreError>) -> Answer {
    let said = match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    };
    Answer { said, given: Vec::new(), passed: None }
}

/// What a store shows of everything, in lists.
fn lists(store: &mut dyn EventStore, doors: &[Door]) -> (Vec<EventRow>, Vec<String>) {
    let all = EventFilter { limit: 1_000, ..EventFilter::default() };
    let events = store.events(&all).unwrap();
    let mut lists = vec![
        format!("{:?}", store.marks().unwrap()),
        format!("{:?}", store.controllers().unwrap()),
        format!("{:?}", store.delivery_counts().unwrap()),
        format!("{:?}", store.destinations().unwrap()),
        format!("{:?}", store.totals().unwrap()),
        format!("{:?}", DESTINATIONS.map(|name| store.doors(name).ok())),
        format!("{:?}", store.dead_letters(10).unwrap()),
        format!("{:?}", store.letters().unwrap()),
        format!("{:?}", store.replays(100).unwrap()),
        format!("{:?}", store.badges(&BadgeFilter { limit: 100, ..BadgeFilter::default() }).unwrap()),
        format!("{:?}", store.differences(&DifferenceFilter { before: None, limit: 100 }).unwrap()),
    ];
    for state in DeliveryState::ALL {
        let before = events.get(1).map(|row| row.position);
        lists.push(positions(store, &EventFilter { state: Some(state), before, limit: 3, ..all.clone() }));
    }
    for door in doors {
        let controller = Some(door.controller.clone());
        lists.push(positions(store, &EventFilter { controller, taps_only: true, limit: 3, ..all.clone() }));
    }
    (events, lists)
}

/// What a store shows of each event by itself.
fn details(store: &mut dyn EventStore) -> Vec<Option<EventDetail>> {
    let all = EventFilter { limit: 1_000, ..EventFilter::default() };
    let events = store.events(&all).unwrap();
    events.iter().map(|row| store.event(row.event_id).unwrap()).collect()
}

fn positions(store: &mut dyn EventStore, filter: &EventFilter) -> String {
    let rows = store.events(filter).unwrap();
    format!("{:?}", rows.iter().map(|row| row.position).collect::<Vec<Position>>())
}

/// A store as all of them begin: with one site, whose taps alternate if there is a rule.
fn prepared(under_test: &mut dyn UnderTest, rule: Option<Rule>) {
    let store = under_test.store();
    store.put_site(&hq()).unwrap();
    (1..=3).for_each(|n| store.put_controller(&world::controller(&format!("hq-door-{n}"))).unwrap());
    crate::fixture::add_destination(store, HR);
    rule.iter().for_each(|rule| {
        store.put_rule("hq", rule).unwrap();
    });
}

/// Taps are told to go as their readers are placed, or in turns; and a short gap starts over now and then.
fn rule() -> impl Strategy<Value = Option<Rule>> {
    let alternating = |(reset_after_h, double_within_s)| Rule {
        from: UtcMs(0),
        policy: Policy::Alternating,
        reset_after_h,
        double_within_s,
        ..Rule::UNSAID
    };
    prop_oneof![1 => Just(None), 3 => (1..4u32, 0..3u32).prop_map(move |rule| Some(alternating(rule)))]
}

/// Which way each delivery was told to go when its body was fixed.
type Told = BTreeMap<(String, Position), Direction>;

/// That what is listed as told otherwise is just what was told otherwise.
fn check_told(store: &mut dyn EventStore, told: &Told) {
    for detail in details(store).into_iter().flatten() {
        let Some(tap) = &detail.row.tap else { continue };
        let decided = detail.decided.unwrap();
        for delivery in &tap.deliveries {
            let key = (delivery.destination.clone(), detail.row.position);
            let Some(told) = told.get(&key).filter(|_| !matches!(delivery.state, DeliveryState::Dead)) else {
                continue;
            };
            let is_otherwise = decided.why != Why::NotYet && decided.direction != *told;
            let listed = detail.differences.iter().filter(|one| one.what == What::Direction);
            let listed: Vec<_> = listed.filter(|one| one.destination == delivery.destination).collect();
            assert_eq!(listed.len(), usize::from(is_otherwise), "{told:?} was told of {detail:#?}");
            assert!(listed.iter().all(|one| one.told == told.name()), "{listed:?}");
        }
    }
}

/// What the taps of persons are told by: few cards at several doors that send one after the other, so that most come late.
#[derive(Debug, Clone)]
enum Day {
    Do(Step),
    /// So many are claimed and sent, and answered with success or "try again".
    Send {
        limit: usize,
        is_taken: bool,
    },
}

fn day() -> impl Strategy<Value = Day> {
    let shown = prop_oneof![
        6 => (1..3u8).prop_map(Recorded::Tap),
        1 => (1..3u8).prop_map(Recorded::UnsyncedTap),
        1 => Just(Recorded::Anchor),
        1 => Just(Recorded::Placed(Direction::Unspecified)),
        1 => Just(Recorded::Placed(Direction::Out)),
        1 => (1..3u8).prop_map(|h| Recorded::Later { h }),
    ];
    let sent = prop::collection::vec(shown, 1..4).prop_map(Sent::New);
    let give = (1..3u8, 0..3usize, prop::option::of(-1..15i64), prop::option::of(1..8i64));
    prop_oneof![
        5 => (0..3usize, sent).prop_map(|one| Day::Do(Step::Append(vec![one]))),
        5 => (1..4usize, any::<bool>()).prop_map(|(limit, is_taken)| Day::Send { limit, is_taken }),
        3 => give.prop_map(|(card, who, from_s, for_s)| Day::Do(Step::Give { card, who, from_s, for_s })),
        1 => Just(Day::Do(turn(1))),
        1 => Just(Day::Do(Step::Wait { ms: world::LEASE_MS })),
        1 => Just(Day::Do(turn(0))),
    ]
}

/// A turn in which nothing has ended.
fn turn(room: usize) -> Step {
    Step::Turn { destination: 0, room, ends: Vec::new(), beats: false }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(TOLD_CASES))]

    #[test]
    fn what_was_told_and_is_otherwise_is_listed(rule in rule(), days in prop::collection::vec(day(), DAYS)) {
        let mut store = InMemory::new();
        prepared(&mut store, rule);
        let mut outside = Outside::new();
        outside.doors.iter_mut().for_each(|door| door.placed = Direction::Unspecified);
        let mut told = Told::new();
        let all = Step::Bind(vec![(1, 0), (2, 0)]);
        for day in std::iter::once(&Day::Do(all)).chain(&days) {
            match day {
                Day::Do(step) => {
                    let batches = outside.prepare(step);
                    let answer = outside.take(step, &batches, &mut store);
                    outside.given(answer, &mut told);
                }
                Day::Send { limit, is_taken } => outside.send(*limit, *is_taken, &mut store, &mut told),
            }
            world::check(store.store());
            check_told(store.store(), &told);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ALONE_CASES))]

    /// Where it must hold more often than there is time to ask a server.
    #[test]
    fn whatever_is_done_to_a_store_all_in_it_agrees(rule in rule(), steps in prop::collection::vec(step(), STEPS)) {
        let mut store = InMemory::new();
        prepared(&mut store, rule);
        let mut outside = Outside::new();
        for step in &steps {
            let batches = outside.prepare(step);
            let given = outside.take(step, &batches, &mut store);
            outside.heard(given);
            world::check(store.store());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn all_stores_answer_and_show_the_same(rule in rule(), steps in prop::collection::vec(step(), STEPS)) {
        let mut stores: [Box<dyn UnderTest>; 2] = [Box::new(InFile::new()), Box::new(OnServer::new())];
        stores.iter_mut().for_each(|store| prepared(store.as_mut(), rule));
        let mut outside = Outside::new();
        for step in &steps {
            let batches = outside.prepare(step);
            let [memory, file] = &mut stores;
            let given = outside.take(step, &batches, memory.as_mut());
            prop_assert_eq!(&given, &outside.take(step, &batches, file.as_mut()), "{:?}", step);
            outside.heard(given);
            world::check(memory.store());
            let expected = lists(memory.store(), &outside.doors);
            prop_assert_eq!(expected, lists(file.store(), &outside.doors), "after {:?}", step);
        }
        let [memory, file] = &mut stores;
        prop_assert_eq!(details(memory.store()), details(file.store()));
    }
}
