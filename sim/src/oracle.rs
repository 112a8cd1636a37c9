//! The oracle: it sees what really happens (lights, disks, commits, requests on the wire) and says when a promise is
//! broken; see `promises`. It decides nothing, and no actor ever asks it what to do.
//!
//! What cannot have changed is not looked at again: the store is looked at after every step that called it, a door after
//! every step that was its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use cloud_ingest::event_store::sqlite::SqliteStore;
use cloud_ingest::event_store::{
    Claimed, DeliveryRow, DeliveryState, EventFilter, EventRow, EventStore, HeldFor, Next, PersonId,
    Position, Timeless, UtcMs,
};
use tap_protocol::badge::Token;
use tap_protocol::ids::{BootId, EventId, OutboxId, Seq, StoreEpoch};
use tap_protocol::receipt::Receipt;

use crate::disk::{Disk, TapNo};
use crate::dispatcher::{BURST, PER_SECOND};
use crate::edge::Door;

mod promises;

/// A door that wakes more often than this within a second turns in circles.
const MAX_WAKES_PER_SECOND: u32 = 400;

/// It is looked who waits for doors after so many turns.
const LOOK_AT_WHO_WAITS_EVERY: u64 = 16;

/// What was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The promise: the name of the function that found it.
    pub promise: &'static str,
    /// What was seen.
    pub what: String,
}

/// Who knows the truth.
#[derive(Debug, Default)]
pub struct Oracle {
    /// The first promise that was broken.
    pub broken: Option<Broken>,
    taps: Vec<Fate>,
    /// Every version of every record that was ever on a medium.
    written: BTreeMap<(OutboxId, Seq), Vec<Version>>,
    door_of: BTreeMap<OutboxId, usize>,
    /// Position 1 is at index 0.
    stored: Vec<Stored>,
    marks: BTreeMap<OutboxId, Seq>,
    epoch: Option<StoreEpoch>,
    persons: BTreeMap<Token, PersonId>,
    /// First sent body of each key.
    bodies: BTreeMap<String, String>,
    /// Since when a position has been in front of its lane.
    in_front_since_ms: BTreeMap<Position, u64>,
    /// Messages that the store has decided about.
    decided: BTreeSet<u64>,
    states_seen: BTreeSet<DeliveryState>,
    /// What is set aside because its time did not become known, by index into `stored`.
    set_aside: BTreeSet<usize>,
    /// What the boot numbers of each outbox stand for.
    boots: BTreeMap<(OutboxId, u32), BootId>,
    /// How many found their time after they had been set aside.
    came_back: u64,
    wakes: BTreeMap<usize, (u64, u32)>,
    /// How far each door was complete when it was looked at last.
    complete: BTreeMap<usize, UtcMs>,
    /// The destination wants taps in the order in which they happened, and waits no longer than that for other doors.
    across_ms: Option<u64>,
    /// What was claimed for the first time and not marked as early, and not looked at yet: the door, and when it happened.
    in_time: Vec<(usize, UtcMs)>,
    /// How many went early, and how many before something that was stored earlier.
    went_early: u64,
    went_before: u64,
    turns: u64,
    /// Something may have been lost since all accepted taps were last looked for.
    pub look_for_all: bool,
}

/// A record's bytes, and which tap it is.
type Version = (Vec<u8>, Option<TapNo>);

/// What became of one tap.
#[derive(Debug)]
struct Fate {
    door: usize,
    utc: UtcMs,
    state: FateState,
    green: bool,
    stored: bool,
    said_again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FateState {
    /// On its way to the medium.
    Waiting,
    /// Accepted.
    Committed,
    /// Refused at the reader.
    Refused,
    /// The process died before the light; it may be on the medium, but then it is `Committed`.
    Interrupted,
    /// Accepted, and then a disaster took every copy: a disk put back to an older state, a store put back as well.
    Destroyed,
}

/// A boot. Its number alone says too little: a rewound outbox gives it out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Boot {
    Named(BootId),
    Numbered(OutboxId, u32),
}

#[derive(Debug)]
struct Stored {
    event_id: EventId,
    tap: Option<TapNo>,
    token: Option<Token>,
    received: UtcMs,
    /// Where it stands in its line, as soon as its time is known: after that it never changes.
    place: Option<(i64, Position)>,
    /// When it came into its person's lane.
    joined_ms: Option<u64>,
    ended: bool,
    /// Which boot it is of: by its id if an agent's start told it, else by its number.
    boot: Boot,
    is_anchor: bool,
}

/// What the actors do, as it is seen.
impl Oracle {
    /// Lanes are in the order of time, and a tap waits no longer than that for other doors.
    pub fn in_order_of_time(&mut self, across_ms: Option<u64>) {
        self.across_ms = across_ms;
    }

    /// A card was read, and it is a tap.
    pub fn read(&mut self, door: usize, utc: UtcMs) -> TapNo {
        let state = FateState::Waiting;
        self.taps.push(Fate { door, utc, state, green: false, stored: false, said_again: false });
        self.taps.len() - 1
    }

    /// A record is on the medium.
    pub fn committed(&mut self, door: usize, outbox: OutboxId, seq: Seq, bytes: Vec<u8>, tap: Option<TapNo>) {
        if let Some(tap) = tap {
            self.taps[tap].state = FateState::Committed;
        }
        self.door_of.insert(outbox, door);
        self.written.entry((outbox, seq)).or_default().push((bytes, tap));
    }

    /// The light was green.
    pub fn green(&mut self, tap: TapNo) {
        self.taps[tap].green = true;
        self.green_is_only_what_is_committed(tap);
    }

    /// The light was red.
    pub fn refused(&mut self, tap: TapNo) {
        self.taps[tap].state = FateState::Refused;
    }

    /// The process died before it could say anything.
    pub fn interrupted(&mut self, tap: TapNo) {
        self.taps[tap].state = FateState::Interrupted;
    }

    /// It was written once more, into a new outbox.
    pub fn said_again(&mut self, tap: TapNo) {
        self.taps[tap].said_again = true;
    }

    /// Records were deleted.
    pub fn pruned(&mut self, outbox: OutboxId, range: RangeInclusive<u64>) {
        if !range.is_empty() {
            self.look_for_all = true;
            self.what_is_pruned_is_stored(outbox, *range.end());
        }
    }

    /// The agent asked its outbox for what is deleted: the real one panics.
    pub fn read_of_pruned(&mut self, door: usize, from: Seq) {
        self.breaks("an_outbox_is_never_asked_for_what_is_pruned", format!("door {}: {from}", door + 1));
    }

    /// The first batch of a session is asked for.
    pub fn session_began(&mut self, door: usize, mark: Seq, first: Seq) {
        self.a_new_session_begins_at_the_mark(door, mark, first);
    }

    /// A door's loop turned.
    pub fn door_woke(&mut self, door: usize, now_ms: u64) {
        let (second, wakes) = self.wakes.entry(door).or_default();
        if *second != now_ms / 1_000 {
            (*second, *wakes) = (now_ms / 1_000, 0);
        }
        *wakes += 1;
        let wakes = *wakes;
        if wakes > MAX_WAKES_PER_SECOND {
            self.breaks(
                "no_loop_turns_in_circles",
                format!("door {} woke {wakes} times in a second", door + 1),
            );
        }
    }

    /// The store has answered for a message, or it was put aside.
    pub fn decided(&mut self, message: u64) {
        self.decided.insert(message);
    }

    /// A message with records was acknowledged to the broker.
    pub fn acknowledged(&mut self, message: u64) {
        self.what_is_acknowledged_is_decided(message);
    }

    /// A receipt was made.
    pub fn receipt_made(&mut self, receipt: &Receipt) {
        self.a_receipt_says_only_what_is_stored(receipt);
    }

    /// A badge was bound.
    pub fn bound(&mut self, token: Token, person: PersonId, now_ms: u64) {
        self.persons.insert(token, person);
        for stored in self.stored.iter_mut().filter(|stored| stored.token == Some(token)) {
            stored.joined_ms.get_or_insert(now_ms);
        }
    }

    /// A delivery was claimed.
    pub fn claimed(&mut self, claimed: &Claimed, now_ms: u64, store: &mut SqliteStore) {
        self.in_front_since_ms.entry(claimed.claim.position).or_insert(now_ms);
        self.only_the_first_in_line_is_sent(claimed, store);
        self.true_time_is_true(claimed);
        if self.across_ms.is_some() && claimed.claim.attempt == 1 {
            self.goes_for_the_first_time(claimed, now_ms, store);
        }
    }

    /// A turn has been taken, and there is nothing more to do at once.
    pub fn turned(&mut self, now: UtcMs, store: &mut SqliteStore) {
        self.turns += 1;
        if let Some(across_ms) = self.across_ms.filter(|_| self.turns.is_multiple_of(LOOK_AT_WHO_WAITS_EVERY))
        {
            self.nobody_waits_longer_than_was_agreed(UtcMs(now.0 - across_ms as i64), store);
        }
    }

    fn goes_for_the_first_time(&mut self, claimed: &Claimed, now_ms: u64, store: &mut SqliteStore) {
        let (at, id) = (index(claimed.claim.position), claimed.event_id);
        let is_early = delivery_of(id, store).is_some_and(|delivery| delivery.is_early);
        let goes_before = self.stored[..at].iter().any(|other| {
            !other.ended
                && self.person(other) == Some(&claimed.tap.person)
                && delivery_of(other.event_id, store).is_some_and(|delivery| delivery.state.is_open())
        });
        self.went_before += u64::from(goes_before);
        if is_early {
            self.went_early += 1;
            self.only_what_waited_for_long_enough_goes_early(claimed, now_ms, store);
        } else if let Some(tap) = self.stored[at].tap {
            self.in_time.push((self.taps[tap].door, claimed.tap.occurred));
        }
    }

    /// A request left.
    pub fn sent(&mut self, claimed: &Claimed, key: &str, body: &str, store: &mut SqliteStore) {
        self.only_the_first_in_line_is_sent(claimed, store);
        self.one_key_and_one_body_per_delivery(claimed, key, body);
        self.a_request_is_a_started_attempt(claimed, store);
    }

    /// An attempt was written down.
    pub fn finished(&mut self, position: Position, next: &Next) {
        if let Next::RetryIn(_) | Next::PatientFor(_) | Next::NotSent = next {
            self.in_front_since_ms.remove(&position);
        }
    }

    /// The legacy API has counted its calls within a minute.
    pub fn the_receiver_counts_no_more_than_was_promised(&mut self, calls: usize) {
        let most = (60.0 * PER_SECOND) as usize + BURST as usize;
        if calls > most {
            let what = format!("{calls} calls within a minute, of {most}");
            self.breaks("the_receiver_counts_no_more_than_was_promised", what);
        }
    }

    /// A disk was put back to an older state, or replaced: what only it had is destroyed.
    pub fn disk_replaced(&mut self, before: &Disk, doors: &[Door]) -> usize {
        let on_disk = self.on_disk(doors);
        let mut destroyed = 0;
        for tap in
            before.outboxes.iter().flat_map(|outbox| outbox.records()).filter_map(|(_, written)| written.tap)
        {
            if !on_disk.contains(&tap)
                && !self.taps[tap].stored
                && self.taps[tap].state == FateState::Committed
            {
                self.taps[tap].state = FateState::Destroyed;
                destroyed += 1;
            }
        }
        destroyed
    }

    /// The store was put back: what no disk has any more either is destroyed.
    pub fn store_replaced(&mut self, store: &mut SqliteStore, doors: &[Door], now_ms: u64) -> usize {
        self.stored.clear();
        self.set_aside.clear();
        self.boots.clear();
        self.marks.clear();
        self.bodies.clear();
        self.in_front_since_ms.clear();
        self.taps.iter_mut().for_each(|fate| fate.stored = false);
        self.look_at_store(store, now_ms);
        // What was sent when the backup was taken is in front; badges that are bound again come behind it.
        for state in [DeliveryState::InFlight, DeliveryState::Unknown] {
            let filter = EventFilter { state: Some(state), limit: usize::MAX, ..EventFilter::default() };
            let sent = store.events(&filter).unwrap_or_default();
            self.in_front_since_ms.extend(sent.iter().map(|row| (row.position, 0)));
        }
        let on_disk = self.on_disk(doors);
        let mut destroyed = 0;
        for (tap, fate) in self.taps.iter_mut().enumerate() {
            if fate.state == FateState::Committed && !fate.stored && !on_disk.contains(&tap) {
                fate.state = FateState::Destroyed;
                destroyed += 1;
            }
        }
        destroyed
    }

    /// The store's epoch.
    pub fn epoch(&self) -> Option<StoreEpoch> {
        self.epoch
    }

    /// After a step that called the store: what is new in it?
    pub fn look_at_store(&mut self, store: &mut SqliteStore, now_ms: u64) {
        self.epoch = store.store_epoch().ok();
        let totals = store.totals().unwrap_or_default();
        let new = usize::try_from(totals.records).unwrap_or(0).saturating_sub(self.stored.len());
        let filter = EventFilter { limit: new, ..EventFilter::default() };
        if new > 0 {
            for row in store.events(&filter).unwrap_or_default().into_iter().rev() {
                self.what_is_stored_is_what_was_written(&row, store, now_ms);
            }
        }
        if totals.unresolved > 0 || !self.set_aside.is_empty() {
            self.look_at_what_is_set_aside(store, now_ms);
        }
        self.every_delivery_is_in_one_state(store);
    }

    /// What found its time after all stands in line from now on.
    fn look_at_what_is_set_aside(&mut self, store: &mut SqliteStore, now_ms: u64) {
        let state = Some(DeliveryState::Parked);
        let parked = store.events(&EventFilter { state, limit: usize::MAX, ..EventFilter::default() });
        let is_aside = |row: &&EventRow| {
            delivery(row).is_some_and(|delivery| delivery.held_for == Some(HeldFor::TimeUnresolved))
        };
        let parked = parked.unwrap_or_default();
        let aside: BTreeSet<usize> = parked.iter().filter(is_aside).map(|row| index(row.position)).collect();
        for back in self.set_aside.difference(&aside) {
            // Where nobody is bound yet, the binding says when it joins.
            let has_person = self.person(&self.stored[*back]).is_some();
            self.stored[*back].joined_ms = has_person.then_some(now_ms);
            self.came_back += 1;
        }
        self.set_aside = aside;
    }

    /// After a step of a door.
    pub fn look_at_door(&mut self, door: &Door) {
        self.a_mark_says_only_what_is_stored(&door.machine.disk);
    }

    /// Bait for the dispatcher: who stands behind this one and was never sent?
    pub fn next_of_same_person(&self, head: &Claimed, store: &mut SqliteStore) -> Option<Claimed> {
        let behind = self.stored.iter().enumerate().skip(index(head.claim.position) + 1);
        let next = behind.map(|(at, stored)| (Position(at as u64 + 1), stored)).find(|(_, stored)| {
            !stored.ended
                && self.person(stored).is_some_and(|person| *person == head.tap.person)
                && delivery_of(stored.event_id, store).is_some_and(|delivery| {
                    delivery.state.is_open() && delivery.held_for.is_none() && delivery.attempts == 0
                })
        });
        next.map(|(position, stored)| {
            let mut claimed = head.clone();
            (claimed.claim.position, claimed.event_id) = (position, stored.event_id);
            // All about it is true but its turn.
            if let Some(tap) = stored.tap {
                claimed.tap.occurred = self.taps[tap].utc;
            }
            claimed
        })
    }
}

impl Oracle {
    fn breaks(&mut self, promise: &'static str, what: String) {
        self.broken.get_or_insert(Broken { promise, what });
    }

    fn mark(&self, outbox: OutboxId) -> Seq {
        self.marks.get(&outbox).copied().unwrap_or(Seq::ZERO)
    }

    fn person(&self, stored: &Stored) -> Option<&PersonId> {
        self.persons.get(&stored.token?)
    }

    fn on_disk(&self, doors: &[Door]) -> BTreeSet<TapNo> {
        let disks = doors.iter().flat_map(|door| door.machine.disks());
        let outboxes = disks.flat_map(|disk| &disk.outboxes);
        outboxes.flat_map(|outbox| outbox.records()).filter_map(|(_, written)| written.tap).collect()
    }

    /// Boots that have a stored anchor, in whichever outbox.
    fn boots_with_time(&self) -> BTreeSet<Boot> {
        self.stored.iter().filter(|stored| stored.is_anchor).map(|stored| stored.boot).collect()
    }
}

impl Stored {
    /// Where it stands in its line.
    fn place(&self, across_ms: Option<u64>, store: &mut SqliteStore) -> Option<(i64, Position)> {
        self.place.or_else(|| row_of(self.event_id, store).map(|row| place(&row, across_ms)))
    }
}

/// Where it stands in its line.
fn place(row: &EventRow, across_ms: Option<u64>) -> (i64, Position) {
    let rank = match row.tap.as_ref().map(|tap| tap.occurred) {
        _ if across_ms.is_none() => 0,
        Some(Ok(occurred)) => occurred.at.0,
        // It may have been then: whoever comes after that waits for it.
        Some(Err(Timeless::Between { not_before, .. })) => not_before.0,
        Some(Err(Timeless::Unknown | Timeless::Disputed)) | None => 0,
    };
    (rank, row.position)
}

fn row_of(event_id: EventId, store: &mut SqliteStore) -> Option<EventRow> {
    store.event(event_id).ok()?.map(|detail| detail.row)
}

fn delivery(row: &EventRow) -> Option<&DeliveryRow> {
    row.tap.as_ref()?.deliveries.first()
}

fn delivery_of(event_id: EventId, store: &mut SqliteStore) -> Option<DeliveryRow> {
    delivery(&row_of(event_id, store)?).cloned()
}

fn index(position: Position) -> usize {
    position.0 as usize - 1
}
