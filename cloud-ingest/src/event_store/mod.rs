//! Step 9 of 12: the append-only truth. This file is the seam: what a store can do, in words of the domain, with
//! nothing of SQL. It knows no MQTT and no HTTP.
//!
//! The trait is blocking and takes `&mut self`: one owner, no lock. Production gives a store its own thread
//! ([`handle`]); the simulator calls [`memory`] directly. All implementations pass the one suite in `contract`, and all
//! of them let the same pure functions decide: [`crate::intake::admit`] what is stored, `meaning` what it means,
//! [`crate::delivery::order`] who is next.

pub mod archive;
pub mod badges;
mod boots;
pub mod capture;
pub mod commands;
pub mod completeness;
mod deliveries;
pub mod exports;
mod fleet;
pub mod handle;
mod leases;
mod meaning;
pub mod migrations;
pub mod people;
pub mod place;
pub mod postgres;
mod proof;
pub mod replays;
pub mod rereading;
pub mod roles;
mod sql;
pub mod sqlite;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use tap_protocol::badge::{SealedBadge, Token};
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::VerifiedBatch;
use tap_protocol::hello::Hello;
use tap_protocol::ids::{ControllerId, EventId, OutboxId, ReaderName, Seq, StoreEpoch};
use tap_protocol::keys::PublicKey;
use tap_protocol::tap::{Direction, Verdict};

pub use self::archive::Archive;
pub use self::badges::{BadgeFilter, BadgeRow, Directory, Revocation, RosterState, Snapshot, Stood, Which};
pub use self::capture::Capture;
pub use self::commands::Commands;
pub use self::completeness::{Completeness, WatermarkRow};
pub use self::deliveries::{
    Change, Deliveries, DestinationState, Ended, Hindrance, MAX_MADE_AT_ONCE, NewDestination, Paused, Render,
    Rendered, Since, Turn, Turned,
};
pub use self::exports::Exports;
pub use self::leases::Leases;
pub use self::people::People;
pub use self::replays::Replays;
pub use self::rereading::Rereading;
use crate::delivery::class::Class;
use crate::directory::direction::Decided;
use crate::directory::timeline::When;
use crate::event_store::people::Difference;
use crate::intake::admit::Admission;

pub use self::proof::{Proof, SignedBatch, StoredRecord, Walked};
pub use meaning::{MAX_UNCERTAINTY_MS, cut};

pub use fleet::{
    CERTIFICATES_KEPT_MS, Certificate, Deed, DeviceKeys, Enrolment, Fetched, Fleet, Issue, Member, NewToken,
    Refusal, Renewal, RevokedCertificate, Serial, Standing, TokenId, TokenState, may_enroll, may_renew,
};

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UtcMs(pub i64);

/// The epoch of a store that is made at `now`: a store that is made later has a higher one.
pub fn first_epoch(now: UtcMs) -> StoreEpoch {
    StoreEpoch(now.0.max(1).unsigned_abs())
}

/// The epoch of the life after `before` that begins at `now`. From the clock, because a backup may be put back twice and
/// does not know of the life in between.
fn next_epoch(before: StoreEpoch, now: UtcMs) -> StoreEpoch {
    first_epoch(now).max(StoreEpoch(before.0 + 1))
}

/// Place in the global order of all records: 1, 2, 3 … without a gap, given in the append's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Position(pub u64);

/// The one destination's name, as configured.
pub type DestinationName = String;

/// A person as the directory and the legacy system name them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PersonId(pub String);

/// What a store can do. Every method that changes something is one transaction, durable when it returns.
pub trait EventStore:
    Archive
    + Capture
    + Commands
    + Completeness
    + Deliveries
    + Directory
    + Exports
    + Fleet
    + Leases
    + People
    + Proof
    + Replays
    + Rereading
{
    /// Which life of the store this is; receipts carry it.
    fn store_epoch(&mut self) -> Result<StoreEpoch, StoreError>;

    /// What time it is, for whatever several processes compare: by the clock of the server that they share. A store in a file
    /// has one process, and believes what that one says. Everything that writes goes by it, whatever time it is given.
    fn clock(&mut self, said: UtcMs) -> Result<UtcMs, StoreError>;

    // Fleet.

    /// Adds a controller or changes its site, label or record keys. The site must be known: without its zone no tap of
    /// the controller could be told to a person. A key that it had before and that is not named is good for nothing new
    /// any more; it stays for proofs.
    fn put_controller(&mut self, controller: &Controller) -> Result<(), StoreError>;

    /// Adds a site or changes its label or zone.
    fn put_site(&mut self, site: &Site) -> Result<(), StoreError>;

    /// The controller under that id, if it is known.
    fn controller(&mut self, id: &ControllerId) -> Result<Option<Controller>, StoreError>;

    /// All sites.
    fn sites(&mut self) -> Result<Vec<Site>, StoreError>;

    // Intake.

    /// Admits the batches in the order given and stores what continues an outbox: record, position, tap, and one
    /// delivery per destination, all in one transaction. One answer per batch, each as if the batch had come alone.
    fn append(&mut self, batches: &[VerifiedBatch], received: UtcMs) -> Result<Vec<Appended>, StoreError>;

    /// Remembers what a controller said of itself and gives the mark of every outbox it named (zero, with `h(0)`, for
    /// one of which nothing is stored).
    fn note_hello(&mut self, hello: &Hello, received: UtcMs) -> Result<Vec<OutboxMark>, StoreError>;

    /// The broker says that the controller's connection is gone. Nothing happens if the controller is not known.
    fn note_gone(&mut self, controller: &ControllerId, received: UtcMs) -> Result<(), StoreError>;

    /// The marks of all outboxes: what receipts say when this process takes over.
    fn marks(&mut self) -> Result<Vec<OutboxMark>, StoreError>;

    /// Keeps what cannot be stored as good, with the reason. Only the newest [`MAX_DEAD_LETTERS`] are kept.
    fn quarantine(&mut self, letter: &DeadLetter) -> Result<(), StoreError>;

    // Reading.

    /// Stored taps and other records, newest first.
    fn events(&mut self, filter: &EventFilter) -> Result<Vec<EventRow>, StoreError>;

    /// One event with everything that happened to it.
    fn event(&mut self, id: EventId) -> Result<Option<EventDetail>, StoreError>;

    /// A record's bytes as received.
    fn record_bytes(
        &mut self,
        controller: &ControllerId,
        outbox: OutboxId,
        seq: Seq,
    ) -> Result<Option<Vec<u8>>, StoreError>;

    /// All controllers, by id, with their outboxes.
    fn controllers(&mut self) -> Result<Vec<ControllerState>, StoreError>;

    /// How many deliveries are in which state, per destination, all states of the closed list named. Maintained
    /// counters: never a scan.
    fn delivery_counts(&mut self) -> Result<Vec<DeliveryCount>, StoreError>;

    /// The totals that must balance.
    fn totals(&mut self) -> Result<Totals, StoreError>;

    /// The newest dead letters first.
    fn dead_letters(&mut self, limit: usize) -> Result<Vec<DeadLetter>, StoreError>;
}

/// Only so many quarantined messages are kept; older ones make room (they are counted for ever in [`Totals`]).
pub const MAX_DEAD_LETTERS: usize = 10_000;

/// A dead letter keeps this much of the message: all of any message that the protocol allows.
pub const MAX_DEAD_LETTER_BYTES: usize = 64 * 1024;

/// After this long on the cloud's clock nobody waits any more behind a tap whose time is not known.
pub const GIVE_UP_ON_TIME_AFTER_MS: i64 = 24 * 60 * 60 * 1_000;

/// So many deliveries are set aside in one transaction: a door may have been without time for weeks.
pub const MAX_GIVEN_UP_AT_ONCE: usize = 1_000;

/// Of what a destination answered, this much is kept per attempt: enough to see what it complains about.
pub const MAX_ANSWER_BYTES: usize = 1024;

/// A door controller as the cloud knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// Who.
    pub id: ControllerId,
    /// What people call it.
    pub label: String,
    /// Where it hangs.
    pub site: String,
    /// What its messages are checked with, the newest first: one, or two while a new one takes over; and those of
    /// old, for proofs.
    pub record_keys: Vec<RecordKey>,
}

/// One of a controller's record keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordKey {
    /// The key.
    pub key: PublicKey,
    /// Until when messages under it are taken, if that has an end.
    pub good_until: Option<UtcMs>,
}

impl RecordKey {
    /// One whose end nobody has set.
    pub fn new(key: PublicKey) -> RecordKey {
        RecordKey { key, good_until: None }
    }

    /// Whether messages under it are taken at `now`.
    pub fn is_good(&self, now: UtcMs) -> bool {
        self.good_until.is_none_or(|until| now < until)
    }
}

/// Those that are good at `now`, in their order.
pub fn good_keys(keys: &[RecordKey], now: UtcMs) -> Vec<PublicKey> {
    keys.iter().filter(|key| key.is_good(now)).map(|key| key.key).collect()
}

/// A place with one time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Site {
    /// Short name, such as `hq`.
    pub id: String,
    /// What people call it.
    pub label: String,
    /// IANA name, such as `Europe/Berlin`.
    pub zone: String,
}

/// What became of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Stored, duplicate, beyond or fork.
    pub admission: Admission,
    /// The outbox's mark after it: what a receipt says.
    pub mark: OutboxMark,
}

/// How far an outbox is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxMark {
    /// Whose.
    pub controller: ControllerId,
    /// Which.
    pub outbox: OutboxId,
    /// Records 1 ..= this are stored.
    pub stored_through: Seq,
    /// `h(stored_through)`.
    pub hash: ChainHash,
}

/// Something that came in and cannot be stored as good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// When.
    pub received: UtcMs,
    /// Under which topic.
    pub topic: String,
    /// Which kind, for counters: `undecodable`, `unknown_controller`, `unauthentic`, `fork`, `oversized`, …
    pub kind: Cow<'static, str>,
    /// Why, for people.
    pub reason: String,
    /// The bytes, cut to [`MAX_DEAD_LETTER_BYTES`].
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

/// A badge and whose it is, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Which badge: its seal under every token key in use, at least one.
    pub seals: Vec<SealedBadge>,
    /// Whose; `None` that it is nobody's.
    pub person: Option<PersonId>,
    /// When.
    pub when: When,
}

impl Binding {
    /// A badge as a list says it that knows no times.
    pub fn new(seals: Vec<SealedBadge>, person: PersonId) -> Binding {
        Binding { seals, person: Some(person), when: When::default() }
    }
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Bound {
    /// Bindings of badges that nobody had known.
    pub new: usize,
    /// Bindings that changed the history of a badge.
    pub changed: usize,
    /// Bindings that were there already.
    pub unchanged: usize,
    /// Bindings that would end before they begin: left out.
    pub backwards: usize,
    /// Bindings, among all these, of badges that were revoked before and stay so.
    pub revoked: usize,
    /// Deliveries that were held for a binding and are not any more.
    pub released: usize,
    /// Deliveries that stood in one person's line, not sent yet, and stand in another's or in nobody's.
    pub moved: usize,
    /// Deliveries that were sent and told of another person than who held the badge then.
    pub told_otherwise: usize,
}

impl Bound {
    /// All that several changes did.
    #[must_use]
    pub fn and(self, more: Bound) -> Bound {
        Bound {
            new: self.new + more.new,
            changed: self.changed + more.changed,
            unchanged: self.unchanged + more.unchanged,
            backwards: self.backwards + more.backwards,
            revoked: self.revoked + more.revoked,
            released: self.released + more.released,
            moved: self.moved + more.moved,
            told_otherwise: self.told_otherwise + more.told_otherwise,
        }
    }
}

/// Where a delivery is: the closed list. Stored, counted, served and shown under these names and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waits for its true time, for its badge to be bound or for other controllers.
    Held,
    /// Head of its order key: sent when due.
    Pending,
    /// Leased; a request may be under way.
    InFlight,
    /// Sent, and no answer that could be understood: sent again under the same key when due.
    Unknown,
    /// Behind another of its order key, or set aside by policy.
    Parked,
    /// Refused for good by the destination: waits for a person.
    Dead,
    /// Set aside by a person, with a reason.
    Discarded,
    /// Answered 2xx, or as the destination documents a duplicate.
    Delivered,
}

impl DeliveryState {
    /// The closed list, in order.
    pub const ALL: [DeliveryState; 8] = [
        DeliveryState::Held,
        DeliveryState::Pending,
        DeliveryState::InFlight,
        DeliveryState::Unknown,
        DeliveryState::Parked,
        DeliveryState::Dead,
        DeliveryState::Discarded,
        DeliveryState::Delivered,
    ];

    /// The name in the store, the API, metrics and screens.
    pub fn name(self) -> &'static str {
        match self {
            DeliveryState::Held => "held",
            DeliveryState::Pending => "pending",
            DeliveryState::InFlight => "in_flight",
            DeliveryState::Unknown => "unknown",
            DeliveryState::Parked => "parked",
            DeliveryState::Dead => "dead",
            DeliveryState::Discarded => "discarded",
            DeliveryState::Delivered => "delivered",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<DeliveryState> {
        DeliveryState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether it still stands in its order key's queue.
    pub fn is_open(self) -> bool {
        match self {
            DeliveryState::Held
            | DeliveryState::Pending
            | DeliveryState::InFlight
            | DeliveryState::Unknown
            | DeliveryState::Parked => true,
            DeliveryState::Dead | DeliveryState::Discarded | DeliveryState::Delivered => false,
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a delivery waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldFor {
    /// The tap's clock was wrong and its true time is not known closely enough yet.
    Time,
    /// Nobody has said whose badge it is.
    Binding,
    /// Its time did not become known within [`GIVE_UP_ON_TIME_AFTER_MS`]: `parked`, out of its person's line, so that it
    /// keeps nobody waiting. Should its time become known after all, it takes its place again.
    TimeUnresolved,
    /// It may have been processed or not, and the destination cannot tell: `unknown`, until a person says.
    Person,
    /// Other controllers of its site may have taps of its person from before it, and the destination wants them in order.
    Completeness,
}

impl HeldFor {
    /// The name in the store, the API, metrics and screens.
    pub fn name(self) -> &'static str {
        match self {
            HeldFor::Time => "time",
            HeldFor::Binding => "binding",
            HeldFor::TimeUnresolved => "time_unresolved",
            HeldFor::Person => "person",
            HeldFor::Completeness => "completeness",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<HeldFor> {
        let all = [
            HeldFor::Time,
            HeldFor::Binding,
            HeldFor::TimeUnresolved,
            HeldFor::Person,
            HeldFor::Completeness,
        ];
        all.into_iter().find(|held_for| held_for.name() == name)
    }
}

/// What deliveries stand in line by: the person the badge was bound to, else the token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrderKey {
    /// Bound.
    Person(PersonId),
    /// Not bound yet.
    Token(Token),
}

/// The right to send one delivery: which, and under which lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Where to.
    pub destination: DestinationName,
    /// Which event.
    pub position: Position,
    /// Never given twice: a late worker's token matches nothing.
    pub lease: u64,
    /// Which attempt of this delivery it is: 1, 2, 3 …
    pub attempt: u32,
    /// In which state of the destination's breaker it was made.
    pub generation: u64,
}

/// A leased delivery with all that a destination needs to make a request of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The right to send it.
    pub claim: Claim,
    /// The idempotency key.
    pub event_id: EventId,
    /// Attempts that failed before this one: being told to be patient is none.
    pub failures: u32,
    /// It may have been processed before.
    pub was_unknown: bool,
    /// The request, fixed at the first attempt: every attempt sends the same.
    pub body: String,
    /// What kind of work it is.
    pub class: Class,
    /// The tap.
    pub tap: DeliverableTap,
}

/// A tap in the cloud's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverableTap {
    /// Whose.
    pub person: PersonId,
    /// At which controller.
    pub controller: ControllerId,
    /// At which site.
    pub site: Site,
    /// At which reader.
    pub reader: ReaderName,
    /// Which way.
    pub direction: Direction,
    /// When, true time.
    pub occurred: UtcMs,
    /// Give or take, milliseconds.
    pub uncertainty_ms: u64,
}

/// Whether a claim still held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Lease {
    /// It did; the change was made.
    Held,
    /// It ran out and somebody else may have it; nothing was changed.
    Lost,
}

/// How one attempt ended, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptEnd {
    /// When the answer (or the lack of one) was known.
    pub finished: UtcMs,
    /// One word for counters: `delivered`, `duplicate`, `rate_limited`, `server_error`, `timed_out`, …
    pub outcome: &'static str,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What the destination said, cut to [`MAX_ANSWER_BYTES`], or what went wrong.
    pub answer: String,
}

/// What follows from an attempt. Waits begin when it is written down, by the clock of whoever stores it: nobody else's counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Done; the next in line becomes due.
    Delivered,
    /// The answer (or its absence) leaves open whether it was processed: `unknown`, due again after so many milliseconds.
    UnknownFor(u64),
    /// It is open whether it was processed, and only a person can find out: `unknown`, and its line waits.
    AskPerson,
    /// Not processed, and that is a failure: `pending`, due again after so many milliseconds.
    RetryIn(u64),
    /// Not processed, because the destination asked for patience: `pending`, due again after so many milliseconds.
    PatientFor(u64),
    /// No request was sent: as if it had never been claimed.
    NotSent,
    /// Refused for good: `dead`; what that means for those behind it is the destination's policy.
    Dead,
    /// By a person's rule it is not to be sent: `discarded`; the next in line becomes due.
    Discarded,
}

/// Which events to list.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only positions below this (the cursor of a page).
    pub before: Option<Position>,
    /// Only this controller's.
    pub controller: Option<ControllerId>,
    /// Only taps.
    pub taps_only: bool,
    /// Only taps with a delivery in this state.
    pub state: Option<DeliveryState>,
    /// At most so many.
    pub limit: usize,
}

/// One line of the event list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Its place.
    pub position: Position,
    /// Its name.
    pub event_id: EventId,
    /// From which controller.
    pub controller: ControllerId,
    /// From which outbox.
    pub outbox: OutboxId,
    /// Under which number.
    pub seq: Seq,
    /// When the cloud stored it.
    pub received: UtcMs,
    /// `tap`, `agent_started`, …; `opaque` for authentic bytes that this version cannot read.
    pub kind: String,
    /// It was stored while its controller was revoked: recorded before that, and worth a look.
    pub after_revocation: bool,
    /// If it is a tap.
    pub tap: Option<TapRow>,
}

/// What a tap adds to its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapRow {
    /// At which reader.
    pub reader: ReaderName,
    /// Which badge: the token; never clear.
    pub badge: SealedBadge,
    /// Which way.
    pub direction: Direction,
    /// What the roster said.
    pub verdict: Verdict,
    /// What the controller's clock showed.
    pub recorded_wall: UtcMs,
    /// When, true time, or why that is not known.
    pub occurred: Result<Occurred, Timeless>,
    /// Its deliveries.
    pub deliveries: Vec<DeliveryRow>,
}

/// True time as worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Occurred {
    /// When.
    pub at: UtcMs,
    /// Give or take, milliseconds.
    pub uncertainty_ms: u64,
    /// Nothing told the time in this tap's boot: it is the middle between what is known before and after that boot.
    pub estimated: bool,
}

/// Why a tap has no true time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Timeless {
    /// Nothing has said yet when its boot was.
    Unknown,
    /// It lies between these, and that is too far apart to be told to anybody.
    Between {
        /// Not before.
        not_before: UtcMs,
        /// Not after.
        not_after: UtcMs,
    },
    /// What is known contradicts itself: a person has to look.
    Disputed,
}

/// One delivery of one tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Where to.
    pub destination: DestinationName,
    /// Where it is.
    pub state: DeliveryState,
    /// What it waits for, if held; why it was set aside, if it was.
    pub held_for: Option<HeldFor>,
    /// Whose, if the badge was bound.
    pub person: Option<PersonId>,
    /// Attempts started.
    pub attempts: u32,
    /// When it is due again, if it waits.
    pub next_attempt: Option<UtcMs>,
    /// The event ahead of it in line, if parked behind one.
    pub behind: Option<EventId>,
    /// If it is dead and those behind it wait: until when at the latest.
    pub blocks_until: Option<UtcMs>,
    /// What kind of work it is.
    pub class: Class,
    /// It went, or goes, before all controllers of its site were known to be complete past its tap.
    pub is_early: bool,
}

/// One event with everything that happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventDetail {
    /// Its line in the list.
    pub row: EventRow,
    /// `h(seq)`.
    pub hash: ChainHash,
    /// Per destination: the body that is sent, and every attempt in order.
    pub attempts: Vec<AttemptRow>,
    /// Per destination, the rendered body.
    pub bodies: Vec<(DestinationName, String)>,
    /// If it is a tap: which way it goes, by what is known now.
    pub decided: Option<Decided>,
    /// What destinations were told of it and came out otherwise.
    pub differences: Vec<Difference>,
    /// If it could not be read when it was stored: when it was.
    pub reread: Option<UtcMs>,
}

/// One attempt, as written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptRow {
    /// Where to.
    pub destination: DestinationName,
    /// 1, 2, 3 …
    pub number: u32,
    /// When it started.
    pub started: UtcMs,
    /// When its end was known; `None` while it runs, or if the process died in it.
    pub finished: Option<UtcMs>,
    /// One word; `None` as above.
    pub outcome: Option<String>,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What was answered or went wrong.
    pub answer: Option<String>,
}

/// One controller with its outboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerState {
    /// Who.
    pub controller: Controller,
    /// The last hello, if any ever came.
    pub hello: Option<HelloState>,
    /// When the broker last said that its connection is gone, if that was after the last hello.
    pub gone: Option<UtcMs>,
    /// Its outboxes, in the order they were first seen.
    pub outboxes: Vec<OutboxState>,
    /// Which life of the store says so.
    pub store_epoch: StoreEpoch,
}

/// What the last hello said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloState {
    /// When it came.
    pub received: UtcMs,
    /// The hello itself.
    pub hello: Hello,
}

/// One outbox as the cloud sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxState {
    /// Which.
    pub outbox: OutboxId,
    /// The highest seq the controller ever spoke of: in a hello or in a batch.
    pub last_seq: Seq,
    /// Stored without a gap up to here.
    pub stored_through: Seq,
    /// When its mark last moved.
    pub last_stored: Option<UtcMs>,
    /// True time of the last stored record, where known.
    pub last_occurred: Option<UtcMs>,
}

/// One cell of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveryCount {
    /// Where to.
    pub destination: DestinationName,
    /// In which state.
    pub state: DeliveryState,
    /// How many.
    pub count: u64,
}

/// The totals that must balance: `last_position = records`, and `deliveries` = the sum over all delivery states (taps ×
/// destinations, where every destination was there from the first tap on).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Totals {
    /// Records stored, of every kind.
    pub records: u64,
    /// Taps among them.
    pub taps: u64,
    /// Deliveries ever made: one per tap and destination known when it was stored.
    pub deliveries: u64,
    /// The last position given: equals `records` as long as positions are gapless.
    pub last_position: u64,
    /// Attempts ever started.
    pub attempts: u64,
    /// Messages ever quarantined.
    pub quarantined: u64,
    /// Badges bound.
    pub badges: u64,
    /// Taps whose time is in dispute now.
    pub disputed: u64,
    /// Deliveries that are set aside now because their tap's time did not become known.
    pub unresolved: u64,
}

/// Why the store could not do it. The transaction was rolled back: nothing of it is visible.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Busy, full, or the connection is gone: the same call may work later.
    #[error("the store cannot do it now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file is damaged or of another version, or a rule of the schema was broken: a person must look.
    #[error("the store is broken")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It was asked about something that was never made known to it.
    #[error("the store knows no {what} {name:?}")]
    NotFound {
        /// A controller, a site or a destination.
        what: &'static str,
        /// The name it was asked for.
        name: String,
    },
}

impl StoreError {
    /// What is stored, or we, broke a rule: said in a sentence.
    fn broken(what: impl Into<String>) -> StoreError {
        StoreError::Broken(what.into().into())
    }

    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            StoreError::Unavailable(_) => true,
            StoreError::Broken(_) | StoreError::NotFound { .. } => false,
        }
    }
}

#[cfg(test)]
mod contract;
