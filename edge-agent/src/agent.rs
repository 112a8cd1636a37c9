//! The agent's one loop: everything that can happen comes in as an [`Event`], is decided by pure parts ([`Admission`],
//! [`Relay`], [`Anchors`]) and carried out here. One owner, no lock, nothing in here waits: what takes time has its own
//! thread or task and answers with an event.
//!
//! What follows from each kind of event has a file of its own: `agent/taps.rs`, `agent/outboxes.rs`, `agent/sync.rs`. A tap's
//! way: `Agent::card` → `Agent::record` → (the outbox's thread) → `Agent::committed`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tap_protocol::hello::{ReaderKind, ReaderState};
use tap_protocol::ids::{BootId, ControllerId, OutboxId, ReaderName};
use tap_protocol::record::Body;
use tap_protocol::tap::Tap;
use tokio::sync::oneshot;

use self::commands::Commands;
use crate::admission::{Admission, TapKey};
use crate::ages::Ages;
use crate::anchors::Anchors;
use crate::broker_link::{LinkEvent, Session};
use crate::complaints::Complaints;
use crate::config::SIMULATED_READER;
use crate::control::{Asked, Request, Response};
use crate::feedback::Feedback;
use crate::identity::Identity;
use crate::known_time::KnownTime;
use crate::metrics::{self, Measured};
use crate::now::Now;
use crate::outbox::worker::{Committed, Done, Job, OutboxThread, OutboxView, Ticket};
use crate::reader::{ReaderEvent, ReaderProgress, RunningReader};
use crate::relay::Relay;
use crate::renewal_task::{self, RenewalHandle};
use crate::roster::keeper::{Kept, RosterThread};
use crate::round_trip::RoundTrips;
use crate::service::Service;
use crate::settlement::Settlement;
use crate::signal::Signals;
use crate::status::{Counters, SettledStatus};
use crate::{clock, orders, watchdog};

pub mod commands;
mod keys;
mod outboxes;
mod roster;
mod said;
mod settling;
mod sync;
mod taps;

/// After something refused to be sent or read, sending pauses for this long.
const SEND_PAUSE_MS: u64 = 20;

/// After a damaged outbox refused to be read, sending pauses for this long.
const DAMAGE_PAUSE_MS: u64 = 5_000;

/// Clocks are looked at and what time alone brings is done this often, however much else happens.
const TICK_EVERY_MS: u64 = 1_000;

/// Dirty marks are written and history is pruned this often.
const HOUSEKEEP_EVERY_MS: u64 = 30_000;

/// Everything that can happen to the agent.
#[derive(Debug)]
pub enum Event {
    /// A reader said something.
    Reader(ReaderEvent),
    /// Somebody asked something over the local socket.
    Asked(Asked),
    /// The outbox's thread answered.
    Outbox(Done),
    /// The thread of orders said something.
    Ordered(orders::Done),
    /// The broker link said something.
    Link(LinkEvent),
    /// The renewal of certificate and keys said something.
    Renewal(renewal_task::News),
    /// The roster's thread answered.
    Roster(Kept),
    /// Somebody may have set the wall clock.
    ClockSet,
    /// Time has passed.
    Tick,
}

/// What the agent needs to know of itself.
#[derive(Debug)]
pub struct Setup {
    /// Who it is.
    pub controller: ControllerId,
    /// Which boot this is.
    pub boot_id: BootId,
    /// Where the broker is, for status.
    pub broker_address: String,
    /// The configured readers.
    pub readers: Vec<(ReaderName, ReaderKind)>,
}

/// The agent's state.
pub struct Agent {
    setup: Setup,
    identity: Identity,
    admission: Admission,
    relay: Relay,
    anchors: Anchors,
    signals: Signals,
    feedback: Feedback,
    service: Service,
    outbox: OutboxThread,
    shelf: Vec<OutboxView>,
    rosters: roster::Rosters,
    session: Option<Session>,
    link_why: Option<String>,
    /// This outbox is being left; nothing else is decided about receipts until the new shelf is known.
    starting_new: Option<OutboxId>,
    settlement: Settlement,
    settled: Vec<SettledStatus>,
    wanted: Option<commands::WantedOutbox>,
    commands: Commands,
    /// Records on their way to the medium, oldest first.
    waiting: BTreeMap<Ticket, Waiting>,
    next_ticket: u64,
    readers: Vec<Reader>,
    simulated_reader: ReaderName,
    ages: Ages,
    send_not_before_ms: u64,
    tick_due_ms: u64,
    housekeep_due_ms: u64,
    complaints: Complaints,
    counters: Counters,
    sessions: u64,
    started_ms: u64,
    last_receipt_ms: Option<u64>,
    /// People who wait for the receipt that answers a hello.
    round_trips: RoundTrips<oneshot::Sender<Response>>,
    measured: Measured,
    /// The way to ask for other keys, where there is one.
    renewal: Option<RenewalHandle>,
    /// Told of the time when a receipt brings it.
    known_time: Option<Arc<KnownTime>>,
    /// What a person should know, by subject.
    problems: BTreeMap<&'static str, String>,
}

/// Somebody who waits for a commit.
struct Waiting {
    started_us: u64,
    since_ms: u64,
    key: Option<TapKey>,
    reader: Option<ReaderName>,
    answer: Option<oneshot::Sender<Response>>,
}

struct Reader {
    name: ReaderName,
    kind: ReaderKind,
    state: ReaderState,
    detail: String,
    taps: u64,
    last_tap_ms: Option<u64>,
    /// The last tap here, to be told again to a person who taps again.
    last_tap: Option<(TapKey, Committed<Tap>)>,
    rejected: BTreeMap<String, u64>,
    odd: BTreeMap<String, u64>,
    /// Of the thread behind it, for counters.
    progress: Option<Arc<ReaderProgress>>,
}

impl Agent {
    /// An agent that has just started.
    pub fn new(
        setup: Setup,
        identity: Identity,
        admission: Admission,
        signals: Signals,
        outbox: OutboxThread,
        rosters: RosterThread,
        commands: Commands,
    ) -> Agent {
        let simulated_reader: ReaderName = SIMULATED_READER.parse().expect("it is a slug");
        let mut readers: Vec<Reader> =
            setup.readers.iter().map(|(name, kind)| Reader::new(name, *kind)).collect();
        let mut simulated = Reader::new(&simulated_reader, ReaderKind::Simulated);
        simulated.state = ReaderState::Up;
        simulated.detail = "edge-agent tap --simulate".into();
        readers.push(simulated);
        let now_ms = clock::boottime_ms();
        let mut agent = Agent {
            anchors: Anchors::new(setup.boot_id),
            setup,
            identity,
            admission,
            relay: Relay::new([]),
            signals,
            feedback: Feedback::default(),
            service: Service::default(),
            outbox,
            shelf: Vec::new(),
            rosters: roster::Rosters::new(rosters),
            session: None,
            link_why: Some("not connected yet".into()),
            starting_new: None,
            settlement: Settlement::default(),
            settled: Vec::new(),
            wanted: None,
            commands,
            waiting: BTreeMap::new(),
            next_ticket: 0,
            readers,
            simulated_reader,
            ages: Ages::default(),
            send_not_before_ms: 0,
            tick_due_ms: now_ms,
            housekeep_due_ms: now_ms + HOUSEKEEP_EVERY_MS,
            complaints: Complaints::default(),
            counters: Counters::default(),
            sessions: 0,
            started_ms: now_ms,
            last_receipt_ms: None,
            round_trips: RoundTrips::default(),
            measured: Measured::default(),
            renewal: None,
            known_time: None,
            problems: BTreeMap::new(),
        };
        agent.is_revoked_now();
        agent
    }

    /// Certificate and keys are the cloud's to renew.
    pub fn renews_with(&mut self, renewal: RenewalHandle) {
        self.renewal = Some(renewal);
    }

    /// Receipts tell the time to others too.
    pub fn tells_time_to(&mut self, known: Arc<KnownTime>) {
        self.known_time = Some(known);
    }

    /// Shows in `status` how often this reader had to be brought back.
    pub fn follow(&mut self, reader: &RunningReader) {
        if let Some(known) = self.reader_named(reader.name()) {
            known.progress = Some(Arc::clone(reader.progress()));
        }
    }

    /// Takes in one thing that happened and does everything that follows from it.
    pub fn handle(&mut self, event: Event) {
        let now = self.read_clocks();
        match event {
            Event::Reader(event) => self.reader(event, &now),
            Event::Asked(Asked { request: Request::Status, answer }) => {
                let _ = answer.send(Response::Status(Box::new(self.status(&now))));
            }
            Event::Asked(Asked { request: Request::Clock, answer }) => {
                let _ = answer.send(Response::Clock(Box::new(self.anchors.report(&now))));
            }
            Event::Asked(Asked { request: Request::Tap { uid, direction }, answer }) => {
                self.simulated_tap(&uid, direction, answer, &now);
            }
            Event::Asked(Asked { request: Request::RoundTrip, answer }) => self.round_trip(answer, &now),
            Event::Asked(Asked { request: Request::Metrics, answer }) => {
                let _ = answer.send(Response::Metrics(metrics::text(&self.status(&now), &self.measured)));
            }
            Event::Asked(Asked { request: Request::Renew { new_record_key }, answer }) => {
                self.renew(new_record_key, answer);
            }
            Event::Outbox(done) => self.outbox_answered(done, &now),
            Event::Ordered(done) => self.ordered(done, &now),
            Event::Link(event) => self.link(event, &now),
            Event::Renewal(news) => self.renewal_told(news),
            Event::Roster(kept) => self.kept(kept, &now),
            Event::ClockSet => self.record_anchor(&now),
            Event::Tick => {}
        }
        if now.boottime_ms >= self.tick_due_ms {
            self.tick(&now);
        }
        self.show_what_is_due(&now);
        self.send_what_is_due(&now);
        self.fetch_roster(&now);
    }

    /// When [`Event::Tick`] is due at the latest, CLOCK_BOOTTIME milliseconds.
    pub fn wake_at_ms(&self) -> u64 {
        // While sending pauses, the relay is not asked; it may want to be long since.
        let sending = match self.send_not_before_ms > clock::boottime_ms() {
            true => Some(self.send_not_before_ms),
            false => self.relay.wake_at_ms().into_iter().chain(self.settlement_wakes_at_ms()).min(),
        };
        let rosters = self.rosters.assembler.wake_at_ms();
        sending.into_iter().chain(self.feedback.wake_at_ms()).chain(rosters).fold(self.tick_due_ms, u64::min)
    }

    /// What stands and should not, if anything: then the service manager's watchdog is left hungry.
    pub fn stuck(&self) -> Option<watchdog::Stuck> {
        let turned =
            |reader: &'_ Reader| reader.progress.as_ref().map(|progress| progress.last_turn_boottime_ms());
        let readers = self.readers.iter().filter_map(|reader| Some((&reader.name, turned(reader)?)));
        let seen = watchdog::Seen {
            outbox_ended: self.outbox.has_ended(),
            commit_since_ms: self.commit_since_ms(),
            readers: readers.collect(),
        };
        watchdog::stuck(&seen, self.started_ms, clock::boottime_ms())
    }

    /// One line for the service manager.
    pub fn status_line(&self) -> String {
        let link = if self.session.is_some() { "connected" } else { "offline" };
        format!(
            "{} taps recorded, {} records pending, {link}",
            self.counters.taps_recorded,
            self.relay.pending()
        )
    }

    /// Ends the session in good order and waits until everything that was accepted is written.
    pub fn stop(self) {
        if let Some(session) = &self.session {
            session.close();
        }
        self.outbox.stop();
        self.rosters.stop();
    }

    /// Since when the oldest outstanding commit has been.
    fn commit_since_ms(&self) -> Option<u64> {
        self.waiting.values().next().map(|waiting| waiting.since_ms)
    }

    fn read_clocks(&mut self) -> Now {
        let reading = self.anchors.read(clock::read());
        self.counters.clock_steps += u64::from(reading.set_by_ms.is_some());
        if let Some(by_ms) = reading.set_by_ms
            && let Some(count) = self.complaints.due("clock", reading.now.boottime_ms)
        {
            tracing::info!(by_ms, count, "the wall clock was set; it is {} now", reading.now.clock.name());
        }
        reading.now
    }

    fn record_anchor(&mut self, now: &Now) {
        if let Some(anchor) = self.anchors.clock_read(now) {
            self.record(anchor, Waiting::for_nobody(now.boottime_ms), now);
        }
    }

    fn tick(&mut self, now: &Now) {
        self.tick_due_ms = now.boottime_ms + TICK_EVERY_MS;
        self.record_anchor(now);
        self.roster_grows_old(now);
        for answer in self.round_trips.expired(now.boottime_ms) {
            let why = "a hello was sent, and the broker took it, but no receipt came from the cloud within 10 s: cloud-ingest may be down, or it may not know this controller's record key";
            refuse(Some(answer), why.into());
        }
        for run in self.admission.expire(now.boottime_ms) {
            self.record(
                Body::Repeats { seq: run.seq, n: run.repeats },
                Waiting::for_nobody(now.boottime_ms),
                now,
            );
        }
        if now.boottime_ms >= self.housekeep_due_ms {
            self.housekeep_due_ms = now.boottime_ms + HOUSEKEEP_EVERY_MS;
            let _ = self.outbox.submit(Job::Housekeep);
        }
    }
}

impl Waiting {
    fn for_nobody(since_ms: u64) -> Waiting {
        Waiting { started_us: 0, since_ms, key: None, reader: None, answer: None }
    }
}

fn refuse(answer: Option<oneshot::Sender<Response>>, why: String) {
    if let Some(answer) = answer {
        let _ = answer.send(Response::Refused { why });
    }
}

/// An error and everything behind it, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
