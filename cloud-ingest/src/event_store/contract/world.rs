//! What the cases are written in: doors that send, cards that are shown, and a world that checks itself.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::{Batch, UnverifiedBatch, VerifiedBatch};
use tap_protocol::hello::{Hello, OutboxHello};
use tap_protocol::ids::{BootId, ControllerId, EventId, OutboxId, Seq};
use tap_protocol::keys::SigningKey;
use tap_protocol::record::{AnchorSource, Body, ClockState, PreviousStop, Record, Stamp};
use tap_protocol::tap::{Direction, Tap, Verdict};

use super::UnderTest;
use crate::delivery::breaker::{self, Sign};
use crate::delivery::limiter::Limits;
use crate::delivery::order::{self, Standing};
use crate::delivery::rules::{self, Rules};
use crate::delivery::ticks::{Ticker, Vouch};
use crate::directory::timeline::Timeline;
use crate::event_store::archive::{Archived, Segment};
use crate::event_store::people::{Difference, DifferenceFilter, What};
use crate::event_store::replays::{Filter, ReplayStanding, RowCounts};
use crate::event_store::{
    Appended, AttemptEnd, BadgeFilter, Binding, Bound, Claim, Claimed, Controller, DeliveryRow,
    DeliveryState, Ended, EventDetail, EventFilter, EventRow, EventStore, GIVE_UP_ON_TIME_AFTER_MS, HeldFor,
    Lease, Next, PersonId, Position, RecordKey, Rendered, Site, StoreError, TapRow, Timeless, Turn, Turned,
    UtcMs,
};
use crate::fixture;
use crate::read_model::audit::{Audit, Audited};

/// The one destination that is there from the start.
pub const HR: &str = "hr";

/// How long claims are leased, milliseconds.
pub const LEASE_MS: i64 = rules::LEASE_MS as i64;

/// True time when a door's boottime is zero.
pub const BOOT_UTC_MS: i64 = 1_700_000_000_000;

/// A store with a site, the doors `hq-door-1` to `hq-door-3` and the destination [`HR`].
pub struct World {
    under_test: Box<dyn UnderTest>,
    /// The cloud's clock; moves a second with every append.
    pub now: UtcMs,
    /// What the dispatcher goes by: nothing is limited, unless a case says so.
    pub rules: Rules,
    /// What a request looks like.
    pub body: Rendered,
    worker: Worker,
}

/// A dispatcher's process, as far as the store knows of it, and how far its clock is ahead of the [`World`]'s own process.
pub struct Worker {
    ticker: Ticker,
    ahead_ms: i64,
}

impl Worker {
    /// One that has just started.
    pub fn new(by: i64) -> Worker {
        Worker { ticker: Ticker::new(by), ahead_ms: 0 }
    }

    /// One on a machine with another clock.
    pub fn ahead(by: i64, ahead_ms: i64) -> Worker {
        Worker { ticker: Ticker::new(by), ahead_ms }
    }

    /// What it can vouch for when it is asked for the first time.
    pub fn vouch(&self) -> Vouch {
        self.ticker.vouch(0)
    }
}

/// No limit of any kind.
pub fn boundless() -> Rules {
    let limits = Limits { per_second: 1_000_000.0, burst: 1_000_000, per_day: None, concurrency: 1_000_000 };
    let breaker =
        breaker::Settings { failures: u32::MAX, open_ms: 1_000, most_open_ms: 8_000, ramp_ms: 1_000 };
    Rules { limits, breaker, ..Rules::default() }
}

impl World {
    pub fn new(under_test: Box<dyn UnderTest>) -> World {
        let body = Rendered::Body("{}".into());
        let now = UtcMs(BOOT_UTC_MS + 3_600_000);
        let mut world = World { under_test, now, rules: boundless(), body, worker: Worker::new(1) };
        world.store().put_site(&hq()).unwrap();
        for name in ["hq-door-1", "hq-door-2", "hq-door-3"] {
            world.store().put_controller(&controller(name)).unwrap();
        }
        fixture::add_destination(world.store(), HR);
        // The first turn makes the process known: from here on it can vouch for time.
        world.turn_at(HR, &[], 0);
        world
    }

    /// The store itself, for what has no sentence here.
    pub fn store(&mut self) -> &mut dyn EventStore {
        self.under_test.set_clock(self.now);
        self.under_test.store()
    }

    /// The same for whoever archives.
    pub fn archivist(&mut self) -> &mut dyn EventStore {
        self.under_test.set_clock(self.now);
        self.under_test.archivist()
    }

    /// Ranges have so many positions; nothing may be stored yet.
    pub fn small_ranges(&mut self, size: u64) {
        self.under_test.small_ranges(size);
    }

    /// Runs a statement as the service could.
    pub fn run(&mut self, statement: &str) -> Result<usize, StoreError> {
        self.under_test.run(statement)
    }

    /// Closes the store without a word and opens it again.
    pub fn restart(&mut self) {
        self.under_test.restart();
        self.worker = Worker::new(self.now.0 + 1);
        self.check();
    }

    /// What the clock of this world's own process shows.
    pub fn shown(&self) -> UtcMs {
        UtcMs(self.now.0 + self.under_test.caller_is_ahead_ms())
    }

    pub fn append(&mut self, batches: &[VerifiedBatch]) -> Vec<Appended> {
        self.now.0 += 1_000;
        let now = self.shown();
        let appended = self.store().append(batches, now).unwrap();
        assert_eq!(appended.len(), batches.len());
        self.check();
        appended
    }

    /// Stores all that the door has not sent yet; returns the positions.
    pub fn store_all_of(&mut self, door: &mut Door) -> Vec<Position> {
        let first = self.store().totals().unwrap().last_position + 1;
        let batch = door.unsent();
        let count = batch.records().count() as u64;
        let mark = self.append(&[batch]).remove(0).mark;
        assert_eq!(mark.stored_through, door.last_seq());
        (first..first + count).map(Position).collect()
    }

    /// Records and stores one tap of that card, in a batch of its own.
    pub fn tap(&mut self, door: &mut Door, card: u8) -> Position {
        door.tap(card);
        self.store_all_of(door)[0]
    }

    pub fn bind(&mut self, bindings: &[(u8, &str)]) -> Bound {
        let bindings: Vec<Binding> = bindings.iter().map(|(card, who)| binding(*card, who)).collect();
        let now = self.shown();
        let bound = self.store().bind_badges(&bindings, now).unwrap();
        self.check();
        bound
    }

    /// Claims all that is due at [`HR`].
    pub fn claim(&mut self) -> Vec<Claimed> {
        self.claim_at(HR, 100)
    }

    pub fn claim_at(&mut self, destination: &str, limit: usize) -> Vec<Claimed> {
        self.turn_at(destination, &[], limit).claimed
    }

    /// A turn of this world's own worker.
    pub fn turn_at(&mut self, destination: &str, ended: &[Ended], room: usize) -> Turned {
        let mut worker = std::mem::replace(&mut self.worker, Worker::new(0));
        let turned = self.turn_of(&mut worker, destination, ended, &[], room);
        self.worker = worker;
        turned
    }

    /// A turn of any worker.
    pub fn turn_of(
        &mut self,
        worker: &mut Worker,
        destination: &str,
        ended: &[Ended],
        under_way: &[Claim],
        room: usize,
    ) -> Turned {
        let monotonic_ms = self.now.0.unsigned_abs();
        let (rules, body) = (self.rules.clone(), self.body.clone());
        let now = UtcMs(self.shown().0 + worker.ahead_ms);
        let states = self.store().destinations().unwrap();
        let version =
            states.iter().find(|state| state.destination == destination).map_or(1, |state| state.version);
        let turned = self.store().turn(&Turn {
            destination,
            version,
            rules: &rules,
            now,
            vouch: &|| worker.ticker.vouch(monotonic_ms),
            ended,
            under_way,
            room,
            render: &|_, _| body.clone(),
        });
        let turned = turned.unwrap();
        if let Some(passed) = &turned.passed {
            worker.ticker.told(passed);
        }
        self.check();
        turned
    }

    /// Claims the one that is due at [`HR`], and there must be one.
    #[track_caller]
    pub fn claim_one(&mut self) -> Claimed {
        let mut claimed = self.claim();
        assert_eq!(claimed.len(), 1, "{claimed:?}");
        claimed.remove(0)
    }

    pub fn finish(&mut self, claimed: &Claimed, next: Next) -> Lease {
        let ended = self.ended(claimed, next);
        self.turn_at(&claimed.claim.destination, &[ended], 0).ended[0]
    }

    /// The end of an attempt, without a word about its destination.
    pub fn ended(&self, claimed: &Claimed, next: Next) -> Ended {
        let outcome = match next {
            Next::Delivered => "delivered",
            Next::UnknownFor(_) | Next::AskPerson => "timed_out",
            Next::RetryIn(_) => "server_error",
            Next::PatientFor(_) => "rate_limited",
            Next::Dead => "refused",
            Next::NotSent | Next::Discarded => "not_sent",
        };
        let end = AttemptEnd { finished: self.shown(), outcome, status: None, answer: String::new() };
        let sign = (next != Next::NotSent).then_some(Sign::Answered);
        Ended { claim: claimed.claim.clone(), end, next, hold: None, sign }
    }

    /// Sends a claimed delivery to the end.
    #[track_caller]
    pub fn send(&mut self, claimed: &Claimed, next: Next) {
        assert_eq!(self.finish(claimed, next), Lease::Held);
    }

    /// A day passes; what has no time by then is set aside. Says how many.
    pub fn a_day_passes(&mut self) -> usize {
        self.now.0 += GIVE_UP_ON_TIME_AFTER_MS;
        self.give_up_on_time()
    }

    pub fn give_up_on_time(&mut self) -> usize {
        let destinations = self.store().destinations().unwrap();
        destinations.iter().map(|known| self.turn_at(&known.destination, &[], 0).given_up).sum()
    }

    pub fn expire_leases(&mut self) -> usize {
        self.turn_at(HR, &[], 0).expired
    }

    pub fn events(&mut self) -> Vec<EventRow> {
        self.store().events(&EventFilter { limit: usize::MAX, ..EventFilter::default() }).unwrap()
    }

    /// Where each tap's delivery to [`HR`] is, in the order of positions: `pending`, `held for time`, ….
    pub fn states(&mut self) -> Vec<String> {
        let rows = self.events().into_iter().rev().filter_map(|row| row.tap);
        let deliveries = rows.flat_map(|tap| tap.deliveries.into_iter().filter(|d| d.destination == HR));
        let named = deliveries.map(|delivery| match delivery.held_for {
            Some(held_for) => format!("{} for {}", delivery.state, held_for.name()),
            None => delivery.state.to_string(),
        });
        named.collect()
    }

    #[track_caller]
    pub fn detail(&mut self, position: Position) -> EventDetail {
        let id = self.row(position).event_id;
        self.store().event(id).unwrap().unwrap()
    }

    #[track_caller]
    pub fn row(&mut self, position: Position) -> EventRow {
        let row = self.events().into_iter().find(|row| row.position == position);
        row.expect("there is an event at that position")
    }

    #[track_caller]
    pub fn delivery(&mut self, position: Position) -> DeliveryRow {
        self.row(position).tap.unwrap().deliveries.remove(0)
    }

    /// What must hold after every step.
    #[track_caller]
    pub fn check(&mut self) {
        check(self.store());
    }
}

/// What must hold in every store at any time.
#[track_caller]
pub fn check(store: &mut dyn EventStore) {
    let everything = EventFilter { limit: usize::MAX, ..EventFilter::default() };
    let mut events = store.events(&everything).unwrap();
    events.reverse();
    let totals = store.totals().unwrap();
    let (archived, segments) = (store.archived().unwrap(), store.segments().unwrap());
    let positions: Vec<u64> = events.iter().map(|row| row.position.0).collect();
    let left = archived.through + 1..=totals.last_position;
    assert_eq!(positions, left.collect::<Vec<_>>(), "positions have no gap");
    assert_eq!(totals.records, archived.records + events.len() as u64);
    assert_eq!(totals.taps, archived.taps + events.iter().filter(|row| row.tap.is_some()).count() as u64);
    segments_follow_each_other(&segments, archived);
    let rereading = store.rereading().unwrap();
    if rereading.to_look_through == 0 {
        let opaque = events.iter().filter(|row| row.kind == "opaque").count();
        assert_eq!(rereading.unreadable, opaque as u64, "what could not be read equals a scan");
    }

    let audited = audit(store);
    assert!(audited.holds, "{:#?}", audited.findings);
    assert_eq!(audited.records + archived.records, totals.records);

    for mark in store.marks().unwrap() {
        let seqs = events.iter().filter(|row| row.controller == mark.controller && row.outbox == mark.outbox);
        let seqs: Vec<u64> = seqs.map(|row| row.seq.0).collect();
        let gone = segments.iter().flat_map(|segment| &segment.outboxes);
        let gone = gone.filter(|gone| gone.controller == mark.controller && gone.outbox == mark.outbox);
        let gone = gone.map(|gone| gone.to.0).max().unwrap_or(0);
        assert_eq!(seqs, (gone + 1..=mark.stored_through.0).collect::<Vec<_>>(), "an outbox has no gap");
    }

    let counts = store.delivery_counts().unwrap();
    assert_eq!(counts.iter().map(|cell| cell.count).sum::<u64>(), totals.deliveries);
    for cell in &counts {
        let scanned = events.iter().filter_map(|row| row.tap.as_ref()).flat_map(|tap| &tap.deliveries);
        let scanned = scanned.filter(|d| d.destination == cell.destination && d.state == cell.state).count();
        let gone = segments.iter().flat_map(|segment| &segment.deliveries);
        let gone = gone.filter(|gone| (&gone.destination, gone.state) == (&cell.destination, cell.state));
        let gone: u64 = gone.map(|gone| gone.count).sum();
        assert_eq!(cell.count, scanned as u64 + gone, "{cell:?} equals a scan");
    }

    check_letters(store, &events);
    check_replays(store);

    let badges = store.badges(&BadgeFilter { limit: usize::MAX, ..BadgeFilter::default() }).unwrap();
    let histories: BTreeMap<Token, &Timeline> =
        badges.iter().flat_map(|row| row.seals.iter().map(|seal| (seal.token, &row.timeline))).collect();
    let differences = store.differences(&DifferenceFilter { before: None, limit: usize::MAX }).unwrap();
    let known = store.destinations().unwrap();
    let in_order_of_time =
        |name: &str| known.iter().any(|one| one.destination == name && one.in_order_of_time);
    let is_ready = |name: &str| known.iter().any(|one| one.destination == name && one.to_order == 0);
    let mut lanes: BTreeMap<(String, Option<PersonId>, Option<Token>), Vec<Standing>> = BTreeMap::new();
    let (mut disputed, mut unresolved) = (0, 0);
    for (row, tap) in events.iter().filter_map(|row| Some((row, row.tap.as_ref()?))) {
        disputed += u64::from(tap.occurred == Err(Timeless::Disputed));
        let in_line = |delivery: &&DeliveryRow| delivery.state.is_open() || delivery.blocks_until.is_some();
        for delivery in tap.deliveries.iter().filter(in_line) {
            let token = delivery.person.is_none().then_some(tap.badge.token);
            let waits_for = match (delivery.state, delivery.held_for) {
                (DeliveryState::Unknown, Some(HeldFor::Person)) => Some(HeldFor::Person),
                (DeliveryState::Held, Some(HeldFor::Completeness)) => {
                    assert!(in_order_of_time(&delivery.destination) || !is_ready(&delivery.destination));
                    assert_eq!(
                        waits_for(tap, delivery),
                        None,
                        "whoever waits for others has its time and its person"
                    );
                    Some(HeldFor::Completeness)
                }
                _ => waits_for(tap, delivery),
            };
            assert_eq!(delivery.held_for, waits_for, "{delivery:?}");
            let holder = histories.get(&tap.badge.token).and_then(|history| history.holder(tap.occurred));
            let is_told =
                |one: &&Difference| one.position == row.position && one.destination == delivery.destination;
            let told = differences.iter().filter(is_told).find(|one| one.what == What::Person);
            match told {
                Some(told) => {
                    assert_eq!(Some(&told.told), delivery.person.as_ref().map(|person| &person.0));
                    assert_eq!(told.is.as_ref(), holder.map(|person| &person.0));
                }
                None if waits_for == Some(HeldFor::TimeUnresolved) => {}
                // Refused, it was told to nobody; it stays in the line that it keeps back until a person decides.
                None if delivery.state == DeliveryState::Dead => {}
                None => assert_eq!(delivery.person.as_ref(), holder, "{delivery:?} of {tap:?}"),
            }
            if waits_for == Some(HeldFor::TimeUnresolved) {
                unresolved += 1;
                assert_eq!(delivery.behind, None, "what is set aside stands in no line");
                continue;
            }
            let lane =
                lanes.entry((delivery.destination.clone(), delivery.person.clone(), token)).or_default();
            let DeliveryRow { state, held_for, is_early, .. } = *delivery;
            let position = row.position;
            // Nobody has told the time that it stands by, so it is worked out anew.
            let rank = match tap.occurred {
                _ if !in_order_of_time(&delivery.destination) => 0,
                Ok(occurred) => occurred.at.0,
                Err(Timeless::Between { not_before, .. }) => not_before.0,
                Err(Timeless::Unknown | Timeless::Disputed) => 0,
            };
            lane.push(Standing { rank, position, state, held_for, is_early });
        }
    }
    assert_eq!((totals.disputed, totals.unresolved), (disputed, unresolved), "both equal a scan");
    for (key, lane) in lanes.iter_mut().filter(|(key, _)| is_ready(&key.0)) {
        lane.sort_by_key(Standing::place);
        assert_eq!(order::settle(lane), vec![], "{key:?} is settled: {lane:?}");
    }
}

/// What waits for a person is counted by destination and reason, and nothing else.
#[track_caller]
fn check_letters(store: &mut dyn EventStore, events: &[EventRow]) {
    let mut scanned: BTreeMap<&str, u64> = BTreeMap::new();
    for delivery in events.iter().filter_map(|row| row.tap.as_ref()).flat_map(|tap| &tap.deliveries) {
        let waits = delivery.state == DeliveryState::Dead || delivery.held_for == Some(HeldFor::Person);
        *scanned.entry(&delivery.destination).or_default() += u64::from(waits);
    }
    let letters = store.letters().unwrap();
    for (destination, count) in scanned {
        let counted = letters.iter().filter(|letters| letters.destination == destination);
        assert_eq!(counted.map(|letters| letters.count).sum::<u64>(), count, "{letters:#?}");
        let mut seen = BTreeMap::new();
        let filter = Filter { letters: true, ..Filter::default() };
        let matching = store.matching(destination, &filter, &mut |one| {
            *seen.entry(one.reason.clone().unwrap()).or_default() += 1;
            ControlFlow::Continue(())
        });
        matching.unwrap();
        let counted = letters.iter().filter(|letters| letters.destination == destination);
        let counted = counted.map(|letters| (letters.reason.clone(), letters.count)).collect();
        assert_eq!(seen, counted, "each counter equals a scan");
    }
    assert!(letters.iter().all(|letters| letters.newest.is_some()));
}

/// Every member of a replay is in one state of the closed list, and its counters say so.
#[track_caller]
fn check_replays(store: &mut dyn EventStore) {
    for replay in store.replays(usize::MAX).unwrap() {
        let rows = store.replay_rows(replay.no, 0, usize::MAX).unwrap();
        assert_eq!(
            rows.iter().map(|row| row.n).collect::<Vec<_>>(),
            (1..=rows.len() as u64).collect::<Vec<_>>()
        );
        assert!(rows.is_sorted_by(|one, next| one.position < next.position));
        let mut scanned = RowCounts { members: rows.len() as u64, ..RowCounts::default() };
        rows.iter().for_each(|row| *scanned.of(row.outcome) += 1);
        assert_eq!(replay.counts, scanned, "each counter equals a scan");
        if replay.standing == ReplayStanding::Done {
            assert_eq!((scanned.waiting + scanned.sending, replay.to_gather), (0, 0), "{replay:?}");
        }
    }
}

/// Segments leave nothing out, neither of the positions nor of any outbox.
#[track_caller]
fn segments_follow_each_other(segments: &[Segment], archived: Archived) {
    let (mut last, mut hashes) = (0, BTreeMap::new());
    for segment in segments {
        assert_eq!(segment.range.from.0, last + 1, "segments leave no position out");
        last = segment.range.to.0;
        for outbox in &segment.outboxes {
            let before = hashes
                .insert((outbox.controller.clone(), outbox.outbox), (outbox.to.next(), outbox.hash_after));
            let before = before.unwrap_or((Seq(1), ChainHash::start(outbox.outbox)));
            assert_eq!((outbox.from, outbox.hash_before), before, "{outbox:?} continues");
        }
        let records: u64 = segment.outboxes.iter().map(|outbox| outbox.to.0 + 1 - outbox.from.0).sum();
        assert_eq!((records, records), (segment.records, segment.range.len()));
    }
    assert_eq!((archived.through, archived.records), (last, last));
    assert_eq!(archived.segments, segments.len() as u64);
    let deliveries = segments.iter().flat_map(|segment| &segment.deliveries).map(|cell| cell.count);
    assert_eq!(archived.deliveries, deliveries.sum::<u64>());
}

/// What a delivery waits for before it is ever sent.
fn waits_for(tap: &TapRow, delivery: &DeliveryRow) -> Option<HeldFor> {
    match (tap.occurred.is_err(), delivery.person.is_none(), delivery.state) {
        (true, _, DeliveryState::Parked) => Some(HeldFor::TimeUnresolved),
        (true, ..) => Some(HeldFor::Time),
        (false, true, _) => Some(HeldFor::Binding),
        (false, false, _) => None,
    }
}

/// Chains, signatures and marks prove themselves again, as `events verify` wants it.
#[track_caller]
pub fn audit(store: &mut dyn EventStore) -> Audited {
    let mut audit = Audit::default();
    store.walk(None, &mut |walked| audit.take(walked)).unwrap();
    audit.end()
}

pub fn hq() -> Site {
    Site { id: "hq".into(), label: "Headquarters".into(), zone: "Europe/Berlin".into() }
}

pub fn controller(name: &str) -> Controller {
    Controller {
        id: id(name),
        label: format!("Door {name}"),
        site: "hq".into(),
        record_keys: vec![RecordKey::new(key().public())],
    }
}

pub fn id(name: &str) -> ControllerId {
    name.parse().unwrap()
}

pub fn person(name: &str) -> PersonId {
    PersonId(name.into())
}

/// The badge as doors of the old days seal it, and nobody else.
pub fn binding(card: u8, who: &str) -> Binding {
    Binding::new(vec![sealed(card, OLD)], person(who))
}

/// The token key that all doors have at first, and one that follows it.
pub const OLD: TokenKeyId = TokenKeyId(1);
pub const NEW: TokenKeyId = TokenKeyId(2);

pub fn sealed(card: u8, key_id: TokenKeyId) -> SealedBadge {
    let mut token = token(card);
    token.0[15] = token.0[15].wrapping_add(key_id.0 as u8 - 1);
    SealedBadge { key_id, token, ciphertext: vec![card; 7] }
}

pub fn token(card: u8) -> Token {
    Token([card; 16])
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[9; 32])
}

/// A door controller with one outbox: what it recorded, and how much of that it has sent.
#[derive(Debug, Clone)]
pub struct Door {
    pub controller: ControllerId,
    pub outbox: OutboxId,
    pub boot: u32,
    records: Vec<Vec<u8>>,
    sent: usize,
    /// Grows a second per record.
    pub boottime_ms: u64,
    /// True time when boottime was zero.
    pub began_utc_ms: i64,
    key_id: TokenKeyId,
    /// What the reader says of its way.
    pub placed: Direction,
}

impl Door {
    /// `hq-door-{number}` with outbox `number`.
    pub fn new(number: u8) -> Door {
        Door {
            controller: id(&format!("hq-door-{number}")),
            outbox: OutboxId([number; 16]),
            boot: 1,
            records: Vec::new(),
            sent: 0,
            boottime_ms: 0,
            began_utc_ms: BOOT_UTC_MS,
            key_id: OLD,
            placed: Direction::In,
        }
    }

    /// The door has fetched this token key.
    pub fn seals_under(&mut self, key_id: TokenKeyId) {
        self.key_id = key_id;
    }

    pub fn last_seq(&self) -> Seq {
        Seq(self.records.len() as u64)
    }

    pub fn event_id(&self, seq: u64) -> EventId {
        EventId::new(&self.controller, self.outbox, Seq(seq))
    }

    pub fn bytes(&self, seq: u64) -> &[u8] {
        &self.records[seq as usize - 1]
    }

    pub fn hash_through(&self, seq: u64) -> ChainHash {
        let records = &self.records[..seq as usize];
        records.iter().fold(ChainHash::start(self.outbox), |hash, record| hash.next(record))
    }

    /// Records bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.records.push(bytes.to_vec());
    }

    /// True time of the next record.
    pub fn next_utc(&self) -> UtcMs {
        UtcMs(self.began_utc_ms + self.boottime_ms as i64 + 1_000)
    }

    pub fn record(&mut self, clock: ClockState, body: Body) {
        self.boottime_ms += 1_000;
        let wall_ms = match clock {
            ClockState::Synced => self.began_utc_ms + self.boottime_ms as i64,
            ClockState::Unsynced | ClockState::Stepped => 0,
        };
        let at = Stamp { boot: self.boot, boottime_ms: self.boottime_ms, wall_ms, clock };
        self.raw(&Record { at, body }.encode());
    }

    /// Somebody shows a card while the clock is right.
    pub fn tap(&mut self, card: u8) {
        self.record(ClockState::Synced, tap(sealed(card, self.key_id), self.placed));
    }

    /// Somebody shows a card while the clock says 1970.
    pub fn unsynced_tap(&mut self, card: u8) {
        self.record(ClockState::Unsynced, tap(sealed(card, self.key_id), self.placed));
    }

    /// The power is gone for so long, and the agent starts in a boot of that id, with the right time or without.
    pub fn reboot(&mut self, dark_ms: i64, id: u8, clock: ClockState) {
        self.began_utc_ms += self.boottime_ms as i64 + dark_ms;
        self.boottime_ms = 0;
        self.boot += 1;
        self.start(id, clock);
    }

    /// The agent starts, in the boot of that id.
    pub fn start(&mut self, id: u8, clock: ClockState) {
        let previous_stop = PreviousStop::Unclean;
        let body = Body::AgentStarted { boot_id: BootId([id; 16]), version: "0.1.0".into(), previous_stop };
        self.record(clock, body);
    }

    /// Another outbox is written from now on, in the same boot.
    pub fn new_outbox(&self, id: u8) -> Door {
        let outbox = OutboxId([id; 16]);
        Door { outbox, boot: 1, records: Vec::new(), sent: 0, ..self.clone() }
    }

    /// The true time becomes known, to the millisecond.
    pub fn anchor(&mut self) {
        self.anchor_off_by(0, 0);
    }

    /// A time becomes known that is off by so much, and says of itself how far it may be off.
    pub fn anchor_off_by(&mut self, off_ms: i64, uncertainty_ms: u32) {
        let boottime_ms = self.boottime_ms + 1_000;
        let body = Body::ClockAnchor {
            source: AnchorSource::Receipt,
            earliest_boottime_ms: boottime_ms,
            latest_boottime_ms: boottime_ms,
            utc_ms: self.began_utc_ms + boottime_ms as i64 + off_ms,
            uncertainty_ms,
        };
        self.record(ClockState::Unsynced, body);
    }

    /// Something that is no tap.
    pub fn buffer_high(&mut self) {
        self.record(ClockState::Unsynced, Body::BufferHigh { used_bytes: 1, limit_bytes: 2 });
    }

    /// The batch of these records, as proved.
    pub fn batch(&self, first_seq: u64, last_seq: u64) -> VerifiedBatch {
        let message = Batch {
            controller: self.controller.clone(),
            outbox: self.outbox,
            first_seq: Seq(first_seq),
            hash_before: self.hash_through(first_seq - 1),
            records: self.records[first_seq as usize - 1..last_seq as usize].to_vec(),
        }
        .sign(&key());
        let parsed = UnverifiedBatch::parse(&message).unwrap();
        parsed.verify(&self.controller, &key().public()).unwrap()
    }

    /// All that was recorded since this was asked last.
    pub fn unsent(&mut self) -> VerifiedBatch {
        let first_seq = self.sent as u64 + 1;
        self.sent = self.records.len();
        self.batch(first_seq, self.last_seq().0)
    }

    /// True time by now.
    pub fn utc(&self) -> UtcMs {
        UtcMs(self.began_utc_ms + self.boottime_ms as i64)
    }

    /// What it says of itself by a clock that is right, having receipts through there.
    pub fn says(&self, receipted_through: u64) -> Hello {
        let hello = self.says_unsynced(receipted_through);
        Hello { wall_ms: self.utc().0, clock: ClockState::Synced, ..hello }
    }

    /// The same by a clock that nobody vouches for.
    pub fn says_unsynced(&self, receipted_through: u64) -> Hello {
        let mut hello = self.hello(&[(self.outbox, self.last_seq().0)]);
        hello.outboxes[0].receipted_through = Seq(receipted_through);
        hello
    }

    pub fn hello(&self, outboxes: &[(OutboxId, u64)]) -> Hello {
        let outboxes = outboxes.iter().map(|(outbox, last_seq)| OutboxHello {
            outbox: *outbox,
            last_seq: Seq(*last_seq),
            receipted_through: Seq::ZERO,
            store_epoch: None,
            oldest_unreceipted_age_ms: None,
        });
        Hello {
            controller: self.controller.clone(),
            boot_id: BootId([4; 16]),
            boottime_ms: self.boottime_ms,
            wall_ms: 0,
            clock: ClockState::Unsynced,
            agent_version: "0.1.0".into(),
            record_version: 1,
            roster_version: None,
            outboxes: outboxes.collect(),
            readers: vec![],
        }
    }
}

/// The batch as its controller had it before it was signed.
pub fn rebuilt(batch: &VerifiedBatch) -> Batch {
    Batch {
        controller: batch.controller().clone(),
        outbox: batch.outbox(),
        first_seq: batch.first_seq(),
        hash_before: batch.hash_before(),
        records: batch.records().map(|(_, record)| record.bytes.clone()).collect(),
    }
}

fn tap(badge: SealedBadge, direction: Direction) -> Body {
    Body::Tap(Tap { reader: "in".parse().unwrap(), badge, direction, verdict: Verdict::Known })
}
