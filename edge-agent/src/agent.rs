//! The agent's one loop: everything that can happen comes in as an [`Event`], is decided by pure parts ([`Admission`],
//! [`Relay`], [`Anchors`]) and carried out here. One owner, no lock, nothing in here waits: what takes time has its own
//! thread or task and answers with an event.
//!
//! A tap's way through this file: [`Agent::card`] → [`Agent::record`] → (the outbox's thread) → [`Agent::committed`].

use std::collections::BTreeMap;
use std::sync::Arc;

use tap_protocol::badge::Credential;
use tap_protocol::envelope::Batch;
use tap_protocol::hello::{Hello, ReaderHello, ReaderKind, ReaderState};
use tap_protocol::ids::{BootId, ControllerId, EventId, OutboxId, ReaderName, Seq};
use tap_protocol::receipt::Receipt;
use tap_protocol::record::{Body, short_text};
use tap_protocol::tap::{Direction, Tap, Verdict as RosterVerdict};
use tap_protocol::topic::{Channel, Topic};
use tokio::sync::oneshot;

use crate::admission::{Admission, Admitted, TapKey};
use crate::ages::Ages;
use crate::anchors::Anchors;
use crate::broker_link::{LinkEvent, Session};
use crate::clock;
use crate::complaints::Complaints;
use crate::config::SIMULATED_READER;
use crate::control::{Asked, Request, Response};
use crate::feedback::{Audience, Due, Feedback};
use crate::identity::Identity;
use crate::metrics::{self, Measured};
use crate::now::Now;
use crate::outbox::carve::MAX_SEQ;
use crate::outbox::shelf::News;
use crate::outbox::space::Level;
use crate::outbox::worker::{Committed, Done, Job, OutboxThread, OutboxView, Ticket, told_in_hello};
use crate::outbox::{Chunk, OutboxError};
use crate::reader::card_read::{CardRead, Oddity, Reject, reports_removal};
use crate::reader::{ReaderEvent, ReaderProgress, RecoveryStep, RunningReader};
use crate::relay::{Relay, Send, Verdict};
use crate::round_trip::RoundTrips;
use crate::service::Service;
use crate::signal::Signals;
use crate::status::{BrokerStatus, Counters, OutboxStatus, ReaderStatus, Status};
use crate::watchdog;

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
    /// The broker link said something.
    Link(LinkEvent),
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
    session: Option<Session>,
    link_why: Option<String>,
    /// A rewound outbox is being left; nothing else is decided about receipts until the new shelf is known.
    starting_new: bool,
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
    ) -> Agent {
        let simulated_reader: ReaderName = SIMULATED_READER.parse().expect("it is a slug");
        let mut readers: Vec<Reader> =
            setup.readers.iter().map(|(name, kind)| Reader::new(name, *kind)).collect();
        let mut simulated = Reader::new(&simulated_reader, ReaderKind::Simulated);
        simulated.state = ReaderState::Up;
        simulated.detail = "edge-agent tap --simulate".into();
        readers.push(simulated);
        let now_ms = clock::boottime_ms();
        Agent {
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
            session: None,
            link_why: Some("not connected yet".into()),
            starting_new: false,
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
            problems: BTreeMap::new(),
        }
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
            Event::Outbox(done) => self.outbox_answered(done, &now),
            Event::Link(event) => self.link(event, &now),
            Event::ClockSet => self.record_anchor(&now),
            Event::Tick => {}
        }
        if now.boottime_ms >= self.tick_due_ms {
            self.tick(&now);
        }
        self.show_what_is_due(&now);
        self.send_what_is_due(&now);
    }

    /// When [`Event::Tick`] is due at the latest, CLOCK_BOOTTIME milliseconds.
    pub fn wake_at_ms(&self) -> u64 {
        // While sending pauses, the relay is not asked; it may want to be long since.
        let sending = match self.send_not_before_ms > clock::boottime_ms() {
            true => Some(self.send_not_before_ms),
            false => self.relay.wake_at_ms(),
        };
        sending.into_iter().chain(self.feedback.wake_at_ms()).fold(self.tick_due_ms, u64::min)
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
    }

    /// Since when the oldest outstanding commit has been.
    fn commit_since_ms(&self) -> Option<u64> {
        self.waiting.values().next().map(|waiting| waiting.since_ms)
    }

    // Taps.

    fn reader(&mut self, event: ReaderEvent, now: &Now) {
        match event {
            ReaderEvent::Card(read) => {
                if read.missed > 0 {
                    self.reject(&read.reader, "missed", "cards came and went before they could be read", now);
                }
                self.card(&read, None, None, now);
            }
            ReaderEvent::Removed { reader, at_boottime_ms } => {
                self.admission.removed(&reader, at_boottime_ms)
            }
            ReaderEvent::Rejected { reader, why } => {
                if is_no_badge(&why) {
                    self.feedback.something_else(&reader);
                    self.signals.not_a_badge(&reader);
                }
                self.reject(&reader, why.kind(), &why.to_string(), now);
            }
            ReaderEvent::Odd { reader, what } => {
                let kind = what.kind();
                if let Some(reader) = self.reader_named(&reader) {
                    *reader.odd.entry(kind.to_owned()).or_default() += 1;
                }
                // A lamp says by itself what is wrong with it, once and with what to do.
                if what == Oddity::SameNumberAgain
                    && let Some(count) = self.complaints.due(kind, now.boottime_ms)
                {
                    tracing::warn!(%reader, count, "{what}");
                }
            }
            ReaderEvent::Up { reader, detail } => {
                tracing::info!(%reader, "reader is up: {detail}");
                if self.reader_is_now(&reader, ReaderState::Up, detail) {
                    self.record(Body::ReaderUp { reader }, Waiting::for_nobody(now.boottime_ms), now);
                }
            }
            ReaderEvent::Down { reader, why } => {
                tracing::warn!(%reader, why = why.kind(), "{why}");
                if self.reader_is_now(&reader, ReaderState::Down, why.to_string()) {
                    let why = short_text(why.kind());
                    self.record(Body::ReaderDown { reader, why }, Waiting::for_nobody(now.boottime_ms), now);
                }
            }
        }
    }

    fn simulated_tap(
        &mut self,
        uid: &str,
        direction: Direction,
        answer: oneshot::Sender<Response>,
        now: &Now,
    ) {
        let credential: Credential = match uid.parse() {
            Ok(credential) => credential,
            Err(error) => {
                let _ = answer.send(Response::Refused { why: format!("{uid:?}: {error}") });
                return;
            }
        };
        let read = CardRead {
            reader: self.simulated_reader.clone(),
            credential,
            seen_at_boottime_ms: now.boottime_ms,
            atr: None,
            missed: 0,
        };
        self.card(&read, Some(direction), Some(answer), now);
    }

    /// Somebody wants to know whether the cloud answers.
    fn round_trip(&mut self, answer: oneshot::Sender<Response>, now: &Now) {
        if let Some(why) = &self.link_why {
            refuse(Some(answer), format!("there is no session with the broker: {why}"));
        } else if let Err(answer) = self.round_trips.asked(answer, now.boottime_ms) {
            refuse(Some(answer), "others wait for the same answer already: try again in ten seconds".into());
        } else {
            self.relay.hello_now(now.boottime_ms);
        }
    }

    /// From a read to a record on its way to the medium, or to a refusal.
    fn card(
        &mut self,
        read: &CardRead,
        said_direction: Option<Direction>,
        answer: Option<oneshot::Sender<Response>>,
        now: &Now,
    ) {
        let started_us = clock::boottime_us();
        match self.admission.admit(read) {
            Admitted::Tap { key, credential, reader, direction } => {
                let badge = self.identity.token_key.seal(&credential);
                let direction = said_direction.unwrap_or(direction);
                let tap = Tap { reader: reader.clone(), badge, direction, verdict: RosterVerdict::NoRoster };
                if answer.is_none() {
                    self.feedback.tap(&reader, key, now.boottime_ms);
                }
                let since_ms = now.boottime_ms;
                let waiting = Waiting { started_us, since_ms, key: Some(key), reader: Some(reader), answer };
                self.record(Body::Tap(tap), waiting, now);
            }
            Admitted::Repeat { of, .. } => {
                self.counters.repeats += 1;
                if answer.is_none() {
                    self.shown_again(&read.reader, of, now);
                }
                refuse(answer, "the same card, still there".into());
            }
            Admitted::NotABadge(why) => {
                self.feedback.something_else(&read.reader);
                self.signals.not_a_badge(&read.reader);
                self.reject(&read.reader, why.kind(), &why.to_string(), now);
                refuse(answer, why.to_string());
            }
        }
    }

    /// The card of a tap was shown again. Whoever does that wants to know, and the answer is the same.
    fn shown_again(&mut self, reader: &ReaderName, tap: TapKey, now: &Now) {
        let online = self.session.is_some();
        let Some(desk) = self.readers.iter().find(|desk| desk.name == *reader) else { return };
        let committed = desk.last_tap.as_ref().filter(|(key, _)| *key == tap).map(|(_, tap)| tap);
        match (committed, reports_removal(desk.kind)) {
            (Some(committed), true) => {
                self.feedback.something_else(reader);
                self.signals.recorded(committed, online);
            }
            // A reader that repeats itself says nothing new.
            (Some(_), false) => {}
            (None, true) => self.feedback.again(reader, tap, now.boottime_ms),
            (None, false) => self.feedback.still_there(reader, tap, now.boottime_ms),
        }
    }

    /// Gives a record to the outbox's thread. If that takes no more, the record is refused here and now.
    fn record(&mut self, body: Body, waiting: Waiting, now: &Now) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.insert(ticket, waiting);
        if self.outbox.submit(Job::Append { ticket, now: *now, body }).is_err() {
            self.not_committed(ticket, "more waits to be written than can be", now);
        }
    }

    fn committed(&mut self, ticket: Ticket, record: Committed<tap_protocol::record::Record>, now: &Now) {
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        let seq = record.seq();
        if let Some(key) = waiting.key {
            self.admission.committed(key, seq);
        }
        let Some(tap) = record.into_tap() else { return };
        let reader = &tap.value().reader;
        // A simulated tap has somebody who waits for it on the socket, whoever else taps.
        let audience = match (&waiting.answer, waiting.key) {
            (None, Some(key)) => self.feedback.answer(reader, key, now.boottime_ms),
            _ => Audience::Waits,
        };
        let signal = match audience {
            Audience::Waits => Some(self.signals.recorded(&tap, self.session.is_some())),
            Audience::Superseded | Audience::Gone => {
                self.counters.signals_withheld += 1;
                None
            }
        };
        let tap_to_signal_us = clock::boottime_us() - waiting.started_us;
        self.counters.taps_recorded += 1;
        self.measured.tap_to_signal.observe_us(tap_to_signal_us);
        let event_id = EventId::new(&self.setup.controller, tap.outbox(), seq);
        // Not at info: a line per tap would wear the SD card out faster than the taps themselves do.
        tracing::debug!(%reader, seq = seq.0, %event_id, "tap recorded");
        if let (Some(answer), Some(signal)) = (waiting.answer, signal) {
            let (event_id, signal) = (event_id.to_string(), signal.to_string());
            let _ = answer.send(Response::Recorded { seq: seq.0, event_id, signal, tap_to_signal_us });
        }
        if let Some(reader) = self.readers.iter_mut().find(|known| known.name == tap.value().reader) {
            reader.taps += 1;
            reader.last_tap_ms = Some(now.boottime_ms);
            reader.last_tap = waiting.key.map(|key| (key, tap));
        }
    }

    fn not_committed(&mut self, ticket: Ticket, why: &str, now: &Now) {
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        // It may have been an anchor; one too many costs nothing.
        self.anchors.start_over();
        if let (Some(reader), Some(key)) = (waiting.reader, waiting.key) {
            self.counters.taps_refused += 1;
            if waiting.answer.is_some()
                || self.feedback.answer(&reader, key, now.boottime_ms) == Audience::Waits
            {
                self.signals.out_of_service(&reader);
            }
            self.reject(&reader, "not_durable", why, now);
            self.admission.refused(key);
        }
        refuse(waiting.answer, format!("the tap could not be made durable: {why}"));
    }

    /// What people at the readers are to see because time passed.
    fn show_what_is_due(&mut self, now: &Now) {
        for due in self.feedback.due(now.boottime_ms) {
            match due {
                Due::Wait(reader) => self.signals.wait(&reader),
                Due::GiveUp(reader) => self.signals.out_of_service(&reader),
            }
        }
        let commit_since_ms = self.commit_since_ms();
        if let Some(in_service) = self.service.change(commit_since_ms, now.boottime_ms) {
            tracing::info!(
                "{}",
                if in_service { "in service" } else { "out of service: taps would not be recorded" }
            );
            self.readers.iter().for_each(|reader| self.signals.in_service(&reader.name, in_service));
        }
        if self.service.trial_is_due(commit_since_ms, now.boottime_ms) {
            // Without room there is enough to write that shows how writing goes.
            let _ = self.outbox.submit(Job::Try);
        }
    }

    // Outbox.

    fn outbox_answered(&mut self, done: Done, now: &Now) {
        match done {
            Done::Appended { records, commit_us } => {
                self.writing_works();
                self.measured.commit.observe_us(commit_us);
                self.counters.commits += 1;
                if let Some((_, last)) = records.last() {
                    self.grew(last.outbox(), last.seq(), now);
                }
                records.into_iter().for_each(|(ticket, record)| self.committed(ticket, record, now));
            }
            Done::Tried(Ok(())) => self.writing_works(),
            Done::Tried(Err(error)) => {
                self.writing_fails(&error, now);
            }
            Done::AppendFailed { tickets, error } => {
                let why = self.writing_fails(&error, now);
                tickets.into_iter().for_each(|ticket| self.not_committed(ticket, &why, now));
            }
            Done::Chunk { outbox, chunk: Ok(chunk) } => self.send_batch(outbox, chunk, now),
            Done::Chunk { outbox, chunk: Err(error) } => {
                let why = with_causes(&error);
                if self.complaints.due("read", now.boottime_ms).is_some() {
                    tracing::error!(%outbox, why, "the outbox cannot be read; its records stay and wait");
                }
                self.problems.insert("read", format!("the outbox {outbox} cannot be read: {why}"));
                self.relay.not_sent();
                self.send_not_before_ms = now.boottime_ms + DAMAGE_PAUSE_MS;
            }
            Done::HashAt { receipt, own: Ok(own) } => self.receipt_compared(&receipt, own, now),
            Done::StartFailed(error) => {
                let why = with_causes(&error);
                self.problems.insert("start", format!("no new outbox can be started: {why}"));
                if let Some(count) = self.complaints.due("start", now.boottime_ms) {
                    tracing::error!(why, count, "no new outbox can be started");
                }
            }
            Done::HashAt { own: Err(error), .. } | Done::HousekeepingFailed(error) => {
                if let Some(count) = self.complaints.due("housekeep", now.boottime_ms) {
                    tracing::error!(why = with_causes(&error), count, "the outbox cannot be kept in order");
                }
            }
            Done::Gone { .. } => self.relay.not_sent(),
            Done::News(news) => self.hear(&news),
            Done::Shelf(shelf) => self.shelf_is_now(shelf, now),
            Done::Stopped => {}
        }
    }

    fn writing_works(&mut self) {
        self.problems.remove("outbox");
        self.service.wrote();
    }

    fn writing_fails(&mut self, error: &OutboxError, now: &Now) -> String {
        let why = with_causes(error);
        if let Some(count) = self.complaints.due("append", now.boottime_ms) {
            tracing::error!(why, count, "taps cannot be recorded");
        }
        self.problems.insert("outbox", format!("taps cannot be recorded: {why}"));
        self.service.failed();
        why
    }

    fn shelf_is_now(&mut self, shelf: Vec<OutboxView>, now: &Now) {
        if self.shelf.is_empty() {
            let sent = shelf.iter().filter(|view| !view.is_retired && view.is_sound);
            self.relay = Relay::new(sent.map(|view| (view.id, view.last_seq, view.mark)));
            if self.session.is_some() {
                self.relay.connected(now.boottime_ms);
            }
            if let Some(newest) = shelf.last() {
                self.ages.began(newest.last_seq, newest.mark.receipted_through, now.boottime_ms);
            }
        }
        for view in &shelf {
            if view.is_retired || !view.is_sound {
                self.relay.retired(view.id);
            } else {
                self.relay.started(view.id, view.last_seq, view.mark);
                self.relay.appended(view.id, view.last_seq, now.boottime_ms);
            }
        }
        self.relay.shelf_is(shelf.iter().map(|view| view.id));
        // Nothing may overtake what is being salvaged; the cloud is asked what it has of it.
        self.relay.hold(shelf.iter().any(|view| !view.is_sound));
        let is_new = self.shelf.last().map(|view| view.id) != shelf.last().map(|view| view.id);
        if let (true, Some(newest)) = (is_new, shelf.last()) {
            tracing::info!(outbox = %newest.id, seq = newest.last_seq.0, "writing to this outbox");
            self.anchors.start_over();
        }
        self.starting_new = false;
        self.shelf = shelf;
    }

    /// Damage, and what became of it.
    fn hear(&mut self, news: &News) {
        let text = news.to_string();
        match news {
            News::SetAside { .. } | News::Disputed(_) => {
                tracing::error!("{text}");
                self.problems.insert("damage", text);
            }
            News::Lost { ranges, .. } if !ranges.is_empty() => {
                // Where nobody knows how many there were, one stands for them.
                let records = |(from, to): &(Seq, Seq)| if *to < MAX_SEQ { to.0 - from.0 + 1 } else { 1 };
                let lost = self.counters.lost.entry("damaged".into()).or_default();
                *lost += ranges.iter().map(records).sum::<u64>();
                tracing::error!("{text}");
                self.problems.insert("lost", text);
            }
            News::Lost { .. } | News::Salvaged(_) => tracing::warn!("{text}"),
            News::Room(verdict) => match verdict.level {
                Level::Fine => {
                    tracing::info!("{text}");
                    self.problems.remove("room");
                    self.problems.remove("outbox");
                }
                Level::High | Level::Full => {
                    tracing::warn!("{text}");
                    self.problems.insert("room", text);
                }
            },
            News::Mended(_) => {
                tracing::info!("{text}");
                self.problems.remove("damage");
            }
        }
    }

    fn grew(&mut self, outbox: OutboxId, last_seq: Seq, now: &Now) {
        self.relay.appended(outbox, last_seq, now.boottime_ms);
        self.ages.grew(last_seq, now.boottime_ms);
        if let Some(view) = self.shelf.iter_mut().find(|view| view.id == outbox) {
            view.last_seq = last_seq;
        }
    }

    // Sync.

    fn link(&mut self, event: LinkEvent, now: &Now) {
        match event {
            LinkEvent::Up(session) => {
                tracing::info!("connected to the broker at {}", self.setup.broker_address);
                self.session = Some(session);
                self.link_why = None;
                self.sessions += 1;
                self.relay.connected(now.boottime_ms);
            }
            LinkEvent::Down { why } => {
                let changed = self.link_why.as_deref() != Some(&why);
                if self.session.take().is_some()
                    || changed
                    || self.complaints.due("link", now.boottime_ms).is_some()
                {
                    tracing::warn!(why, "no broker at {}; taps are kept", self.setup.broker_address);
                }
                for answer in self.round_trips.all() {
                    refuse(
                        Some(answer),
                        format!("the session with the broker ended before an answer came: {why}"),
                    );
                }
                self.link_why = Some(why);
                self.relay.disconnected();
            }
            LinkEvent::Message { topic, payload } => self.message(&topic, &payload, now),
        }
    }

    fn message(&mut self, topic: &str, payload: &[u8], now: &Now) {
        let own =
            |topic: &Topic| topic.controller == self.setup.controller && topic.channel == Channel::Receipt;
        let receipt = match topic.parse::<Topic>() {
            Ok(topic) if own(&topic) => {
                Receipt::open(payload, &self.setup.controller, &self.identity.receipt_key)
                    .map_err(|e| with_causes(&e))
            }
            _ => Err(format!("nothing is expected on {}", short_text(topic))),
        };
        match receipt {
            Ok(receipt) => {
                self.counters.receipts += 1;
                self.last_receipt_ms = Some(now.boottime_ms);
                if let Some(echo) = receipt.echo.filter(|echo| echo.boot_id == self.setup.boot_id) {
                    let (then_ms, cloud_ms) = (echo.boottime_ms, receipt.cloud_utc_ms);
                    let told = self.round_trips.receipt_came(then_ms, cloud_ms, now);
                    for (answer, trip) in told {
                        let _ = answer.send(Response::RoundTrip(trip));
                    }
                }
                if let Some(anchor) = self.anchors.receipt_came(&receipt, now) {
                    self.record(anchor, Waiting::for_nobody(now.boottime_ms), now);
                }
                // Without room for the look-up the receipt is lost; the next hello brings another.
                let _ = self.outbox.submit(Job::HashAt { receipt: Box::new(receipt) });
            }
            Err(why) => {
                self.counters.messages_refused += 1;
                if let Some(count) = self.complaints.due("message", now.boottime_ms) {
                    tracing::warn!(why, count, "a message from the broker is refused");
                }
            }
        }
    }

    fn receipt_compared(
        &mut self,
        receipt: &Receipt,
        own: Option<tap_protocol::chain::ChainHash>,
        now: &Now,
    ) {
        if self.starting_new {
            return;
        }
        match self.relay.receipt(receipt, own, now.boottime_ms) {
            Verdict::Advanced(mark) | Verdict::Restored(mark) => {
                if let Some(view) = self.shelf.iter_mut().find(|view| view.id == receipt.outbox) {
                    view.mark = mark;
                }
                if self.shelf.last().is_some_and(|newest| newest.id == receipt.outbox) {
                    self.ages.receipted(mark.receipted_through);
                }
                self.problems.remove("fork");
                let _ = self.outbox.submit(Job::SetMark { outbox: receipt.outbox, mark });
            }
            Verdict::Nothing => {}
            Verdict::Rewound => {
                tracing::error!(outbox = %receipt.outbox, "this outbox was put back to an older state; starting a new one");
                self.starting_new =
                    self.outbox.submit(Job::StartNew { rewound: receipt.outbox, now: *now }).is_ok();
            }
            Verdict::Forked => {
                let what = "the cloud has other records under this outbox's numbers: nothing is deleted, and somebody must look";
                self.problems.insert("fork", format!("outbox {}: {what}", receipt.outbox));
                if let Some(count) = self.complaints.due("fork", now.boottime_ms) {
                    tracing::error!(outbox = %receipt.outbox, count, "{what}");
                }
            }
            Verdict::HistoryGone => {
                let what = "the cloud was restored to before what is still kept here: somebody must look";
                self.problems.insert("history", format!("outbox {}: {what}", receipt.outbox));
                if let Some(count) = self.complaints.due("history", now.boottime_ms) {
                    tracing::error!(outbox = %receipt.outbox, count, "{what}");
                }
            }
            Verdict::Foreign => self.counters.messages_refused += 1,
        }
    }

    fn send_what_is_due(&mut self, now: &Now) {
        if now.boottime_ms < self.send_not_before_ms {
            return;
        }
        while let Some(send) = self.relay.next(now.boottime_ms) {
            match send {
                Send::Hello => self.send_hello(now),
                Send::Batch { outbox, from } => {
                    if self.outbox.submit(Job::Read { outbox, from }).is_err() {
                        self.relay.not_sent();
                        self.send_not_before_ms = now.boottime_ms + SEND_PAUSE_MS;
                        return;
                    }
                }
            }
        }
    }

    fn send_hello(&mut self, now: &Now) {
        let Some(session) = &self.session else { return };
        let oldest_ms = self.ages.oldest_ms(now.boottime_ms);
        let newest = self.shelf.last().map(|view| view.id);
        let outboxes = told_in_hello(&self.shelf)
            .into_iter()
            .map(|view| view.hello(oldest_ms.filter(|_| newest == Some(view.id))));
        let hello = Hello {
            controller: self.setup.controller.clone(),
            boot_id: self.setup.boot_id,
            boottime_ms: now.boottime_ms,
            wall_ms: now.wall_ms,
            clock: now.clock,
            agent_version: short_text(env!("CARGO_PKG_VERSION")),
            record_version: tap_protocol::codec::VERSION_1,
            roster_version: None,
            outboxes: outboxes.collect(),
            readers: self
                .readers
                .iter()
                .map(|r| ReaderHello { reader: r.name.clone(), kind: r.kind, state: r.state })
                .collect(),
        };
        let message = hello.sign(&self.identity.record_key);
        if session.try_publish(&Topic::new(&self.setup.controller, Channel::Hello), message).is_ok() {
            self.anchors.hello_sent(now.boottime_ms);
            self.round_trips.hello_sent(now.boottime_ms);
        }
    }

    fn send_batch(&mut self, outbox: OutboxId, chunk: Chunk, now: &Now) {
        self.problems.remove("read");
        let count = chunk.records.len() as u64;
        let (Some(session), true) = (&self.session, count > 0) else { return self.relay.not_sent() };
        let first_seq = chunk.first_seq;
        let batch = Batch {
            controller: self.setup.controller.clone(),
            outbox,
            first_seq,
            hash_before: chunk.hash_before,
            records: chunk.records,
        };
        let message = batch.sign(&self.identity.record_key);
        match session.try_publish(&Topic::new(&self.setup.controller, Channel::Records), message) {
            Ok(()) => {
                self.counters.batches_sent += 1;
                self.counters.records_sent += count;
                self.relay.sent(outbox, first_seq, first_seq.plus(count - 1));
            }
            Err(_) => {
                self.relay.not_sent();
                self.send_not_before_ms = now.boottime_ms + SEND_PAUSE_MS;
            }
        }
    }

    // The rest.

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

    fn reader_named(&mut self, name: &ReaderName) -> Option<&mut Reader> {
        self.readers.iter_mut().find(|reader| reader.name == *name)
    }

    /// Returns whether that is a change.
    fn reader_is_now(&mut self, name: &ReaderName, state: ReaderState, detail: String) -> bool {
        let Some(reader) = self.reader_named(name) else { return false };
        let changed = reader.state != state;
        (reader.state, reader.detail) = (state, detail);
        changed
    }

    /// Counts something that gave no tap, and logs it once with a bound.
    fn reject(&mut self, name: &ReaderName, kind: &'static str, why: &str, now: &Now) {
        if let Some(reader) = self.reader_named(name) {
            *reader.rejected.entry(kind.to_owned()).or_default() += 1;
        }
        if let Some(count) = self.complaints.due(kind, now.boottime_ms) {
            tracing::warn!(reader = %name, why, count, "no tap");
        }
    }

    fn status(&self, now: &Now) -> Status {
        let age = |at_ms: u64| now.boottime_ms.saturating_sub(at_ms);
        let reader_problems = self.readers.iter().filter(|reader| reader.state == ReaderState::Down);
        let problems = reader_problems.map(|reader| format!("reader {}: {}", reader.name, reader.detail));
        let link_problem =
            self.link_why.iter().map(|why| format!("broker {}: {why}", self.setup.broker_address));
        Status {
            controller: self.setup.controller.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            instance: format!("{}-{}", self.setup.boot_id, self.started_ms),
            uptime_ms: age(self.started_ms),
            boot_id: self.setup.boot_id,
            clock: now.clock,
            broker: BrokerStatus {
                connected: self.session.is_some(),
                address: self.setup.broker_address.clone(),
                why: self.link_why.clone(),
                sessions: self.sessions,
                last_receipt_age_ms: self.last_receipt_ms.map(age),
            },
            outboxes: self.shelf.iter().map(OutboxStatus::from).collect(),
            pending: self.relay.pending(),
            oldest_unreceipted_age_ms: self.ages.oldest_ms(now.boottime_ms),
            readers: self.readers.iter().map(|reader| reader.status(now.boottime_ms)).collect(),
            counters: Counters { log_lines_dropped: crate::log::dropped_lines(), ..self.counters.clone() },
            problems: problems.chain(link_problem).chain(self.problems.values().cloned()).collect(),
        }
    }
}

impl Waiting {
    fn for_nobody(since_ms: u64) -> Waiting {
        Waiting { started_us: 0, since_ms, key: None, reader: None, answer: None }
    }
}

impl Reader {
    fn new(name: &ReaderName, kind: ReaderKind) -> Reader {
        Reader {
            name: name.clone(),
            kind,
            state: ReaderState::Starting,
            detail: "starting".into(),
            taps: 0,
            last_tap_ms: None,
            last_tap: None,
            rejected: BTreeMap::new(),
            odd: BTreeMap::new(),
            progress: None,
        }
    }

    fn status(&self, now_ms: u64) -> ReaderStatus {
        ReaderStatus {
            reader: self.name.clone(),
            kind: self.kind,
            state: self.state,
            detail: self.detail.clone(),
            taps: self.taps,
            last_tap_age_ms: self.last_tap_ms.map(|at_ms| now_ms.saturating_sub(at_ms)),
            rejected: self.rejected.clone(),
            odd: self.odd.clone(),
            recoveries: self.progress.as_deref().map(recoveries).unwrap_or_default(),
        }
    }
}

fn recoveries(progress: &ReaderProgress) -> BTreeMap<String, u64> {
    RecoveryStep::ALL.map(|step| (step.name().to_owned(), progress.recoveries(step))).into()
}

impl From<&OutboxView> for OutboxStatus {
    fn from(view: &OutboxView) -> OutboxStatus {
        OutboxStatus {
            outbox: view.id,
            last_seq: view.last_seq.0,
            receipted_through: view.mark.receipted_through.0,
            pruned_through: view.pruned_through.0,
        }
    }
}

/// Whether a person who shows this must be told that it is no badge: the card answered, and has no number to give.
fn is_no_badge(why: &Reject) -> bool {
    matches!(why, Reject::StatusWord(_) | Reject::BadUidLength(_))
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
