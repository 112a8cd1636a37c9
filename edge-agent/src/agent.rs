//! The agent's one loop: everything that can happen comes in as an [`Event`], is decided by pure parts ([`Admission`],
//! [`Relay`], [`Anchors`]) and carried out here. One owner, no lock, nothing in here waits: what takes time has its own
//! thread or task and answers with an event.
//!
//! A tap's way through this file: [`Agent::card`] → [`Agent::record`] → (the outbox's thread) → [`Agent::committed`].

use std::collections::{BTreeMap, VecDeque};

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
use crate::anchors::Anchors;
use crate::broker_link::{LinkEvent, Session};
use crate::clock;
use crate::config::SIMULATED_READER;
use crate::control::{Asked, Request, Response};
use crate::identity::Identity;
use crate::now::Now;
use crate::outbox::Chunk;
use crate::outbox::shelf::News;
use crate::outbox::space::Level;
use crate::outbox::worker::{Committed, Done, Job, OutboxThread, OutboxView, Ticket, told_in_hello};
use crate::reader::ReaderEvent;
use crate::reader::card_read::CardRead;
use crate::relay::{Relay, Send, Verdict};
use crate::signal::Signals;
use crate::status::{BrokerStatus, Counters, OutboxStatus, ReaderStatus, Status};

/// After something refused to be sent or read, sending pauses for this long.
const SEND_PAUSE_MS: u64 = 20;

/// After a damaged outbox refused to be read, sending pauses for this long.
const DAMAGE_PAUSE_MS: u64 = 5_000;

/// Dirty marks are written and history is pruned this often.
const HOUSEKEEP_EVERY_MS: u64 = 30_000;

/// The same complaint is logged this often, with a count of what was not logged.
const COMPLAIN_EVERY_MS: u64 = 60_000;

/// How finely the age of what waits for a receipt is remembered: at most so many points, at least so far apart.
const MAX_AGE_POINTS: usize = 1024;
const AGE_POINT_MS: u64 = 1_000;

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
    outbox: OutboxThread,
    shelf: Vec<OutboxView>,
    session: Option<Session>,
    link_why: Option<String>,
    /// A rewound outbox is being left; nothing else is decided about receipts until the new shelf is known.
    starting_new: bool,
    /// Records on their way to the medium.
    waiting: BTreeMap<Ticket, Waiting>,
    next_ticket: u64,
    readers: Vec<Reader>,
    simulated_reader: ReaderName,
    ages: Ages,
    send_not_before_ms: u64,
    housekeep_due_ms: u64,
    complaints: Complaints,
    counters: Counters,
    sessions: u64,
    started_ms: u64,
    last_receipt_ms: Option<u64>,
    /// What a person should know, by subject.
    problems: BTreeMap<&'static str, String>,
}

/// Somebody who waits for a commit.
struct Waiting {
    started_us: u64,
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
    rejected: BTreeMap<String, u64>,
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
            housekeep_due_ms: now_ms + HOUSEKEEP_EVERY_MS,
            complaints: Complaints::default(),
            counters: Counters::default(),
            sessions: 0,
            started_ms: now_ms,
            last_receipt_ms: None,
            problems: BTreeMap::new(),
        }
    }

    /// Takes in one thing that happened and does everything that follows from it.
    pub fn handle(&mut self, event: Event) {
        let now = clock::read();
        match event {
            Event::Reader(event) => self.reader(event, &now),
            Event::Asked(Asked { request: Request::Status, answer }) => {
                let _ = answer.send(Response::Status(Box::new(self.status(&now))));
            }
            Event::Asked(Asked { request: Request::Tap { uid, direction }, answer }) => {
                self.simulated_tap(&uid, direction, answer, &now);
            }
            Event::Outbox(done) => self.outbox_answered(done, &now),
            Event::Link(event) => self.link(event, &now),
            Event::Tick => self.tick(&now),
        }
        self.send_what_is_due(&now);
    }

    /// When [`Event::Tick`] is due at the latest, CLOCK_BOOTTIME milliseconds.
    pub fn wake_at_ms(&self) -> u64 {
        let now_ms = clock::boottime_ms();
        let second = now_ms + 1_000;
        // While sending pauses, the relay is not asked; it may want to be long since.
        let sending = match self.send_not_before_ms > now_ms {
            true => self.send_not_before_ms,
            false => self.relay.wake_at_ms().unwrap_or(second),
        };
        sending.min(second)
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
            ReaderEvent::Rejected { reader, why } => self.reject(&reader, why.kind(), &why.to_string(), now),
            ReaderEvent::Up { reader, detail } => {
                tracing::info!(%reader, "reader is up: {detail}");
                if self.reader_is_now(&reader, ReaderState::Up, detail) {
                    self.record(Body::ReaderUp { reader }, Waiting::for_nobody(), now);
                }
            }
            ReaderEvent::Down { reader, why } => {
                tracing::warn!(%reader, why = why.kind(), "{why}");
                if self.reader_is_now(&reader, ReaderState::Down, why.to_string()) {
                    let why = short_text(why.kind());
                    self.record(Body::ReaderDown { reader, why }, Waiting::for_nobody(), now);
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
                let waiting = Waiting { started_us, key: Some(key), reader: Some(reader), answer };
                self.record(Body::Tap(tap), waiting, now);
            }
            Admitted::Repeat { .. } => {
                self.counters.repeats += 1;
                refuse(answer, "the same card, still there".into());
            }
            Admitted::NotABadge(why) => {
                self.signals.not_a_badge(&read.reader);
                self.reject(&read.reader, why.kind(), &why.to_string(), now);
                refuse(answer, why.to_string());
            }
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
        let signal = self.signals.recorded(&tap, self.session.is_some());
        let tap_to_signal_us = clock::boottime_us() - waiting.started_us;
        self.counters.taps_recorded += 1;
        if let Some(reader) = self.reader_named(&tap.value().reader) {
            reader.taps += 1;
            reader.last_tap_ms = Some(now.boottime_ms);
        }
        let event_id = EventId::new(&self.setup.controller, tap.outbox(), seq);
        // Not at info: a line per tap would wear the SD card out faster than the taps themselves do.
        tracing::debug!(reader = %tap.value().reader, seq = seq.0, %event_id, "tap recorded");
        if let Some(answer) = waiting.answer {
            let (event_id, signal) = (event_id.to_string(), signal.to_string());
            let _ = answer.send(Response::Recorded { seq: seq.0, event_id, signal, tap_to_signal_us });
        }
    }

    fn not_committed(&mut self, ticket: Ticket, why: &str, now: &Now) {
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        // It may have been an anchor; one too many costs nothing.
        self.anchors.start_over();
        if let Some(reader) = waiting.reader {
            self.counters.taps_refused += 1;
            self.signals.out_of_service(&reader);
            self.reject(&reader, "not_durable", why, now);
        }
        if let Some(key) = waiting.key {
            self.admission.refused(key);
        }
        refuse(waiting.answer, format!("the tap could not be made durable: {why}"));
    }

    // Outbox.

    fn outbox_answered(&mut self, done: Done, now: &Now) {
        match done {
            Done::Appended { records, .. } => {
                self.problems.remove("outbox");
                self.counters.commits += 1;
                if let Some((_, last)) = records.last() {
                    self.grew(last.outbox(), last.seq(), now);
                }
                records.into_iter().for_each(|(ticket, record)| self.committed(ticket, record, now));
            }
            Done::AppendFailed { tickets, error } => {
                let why = with_causes(&error);
                if self.complaints.due("append", now.boottime_ms).is_some() {
                    tracing::error!(why, "taps cannot be recorded");
                }
                self.problems.insert("outbox", format!("taps cannot be recorded: {why}"));
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

    fn shelf_is_now(&mut self, shelf: Vec<OutboxView>, now: &Now) {
        if self.shelf.is_empty() {
            let sent = shelf.iter().filter(|view| !view.is_retired && view.is_sound);
            self.relay = Relay::new(sent.map(|view| (view.id, view.last_seq, view.mark)));
            if self.session.is_some() {
                self.relay.connected(now.boottime_ms);
            }
            self.ages.began(&shelf, now.boottime_ms);
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
                self.counters.lost_ranges += ranges.len() as u64;
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
                if let Some(anchor) = self.anchors.receipt_came(&receipt, now) {
                    self.record(anchor, Waiting::for_nobody(), now);
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

    fn tick(&mut self, now: &Now) {
        if let Some(anchor) = self.anchors.clock_read(now) {
            self.record(anchor, Waiting::for_nobody(), now);
        }
        for run in self.admission.expire(now.boottime_ms) {
            self.record(Body::Repeats { seq: run.seq, n: run.repeats }, Waiting::for_nobody(), now);
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
    fn for_nobody() -> Waiting {
        Waiting { started_us: 0, key: None, reader: None, answer: None }
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
            rejected: BTreeMap::new(),
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
        }
    }
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

/// Since when records of the newest outbox have waited for a receipt: a few points, oldest first, so that a million
/// waiting records cost no more memory than a thousand.
#[derive(Debug, Default)]
struct Ages {
    /// (first record, when): records from here on to the next point were committed at about that time.
    points: VecDeque<(Seq, u64)>,
    last_seq: Seq,
    receipted: Seq,
}

impl Ages {
    fn began(&mut self, shelf: &[OutboxView], now_ms: u64) {
        if let Some(newest) = shelf.last() {
            self.receipted = newest.mark.receipted_through;
            self.grew(newest.last_seq, now_ms);
        }
    }

    fn grew(&mut self, last_seq: Seq, now_ms: u64) {
        let first_new = self.last_seq.max(self.receipted).next();
        self.last_seq = last_seq;
        if self.points.back().is_none_or(|(_, at_ms)| now_ms >= at_ms + AGE_POINT_MS) {
            self.points.push_back((first_new, now_ms));
        }
        if self.points.len() > MAX_AGE_POINTS {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    fn receipted(&mut self, through: Seq) {
        self.receipted = through;
        while self.points.get(1).is_some_and(|(first, _)| *first <= through.next()) {
            self.points.pop_front();
        }
        if self.receipted >= self.last_seq {
            self.points.clear();
        }
    }

    fn oldest_ms(&self, now_ms: u64) -> Option<u64> {
        self.points.front().map(|(_, at_ms)| now_ms.saturating_sub(*at_ms))
    }
}

/// Says each kind of complaint once a minute at most, with a count of how often there was reason to.
#[derive(Debug, Default)]
struct Complaints(BTreeMap<&'static str, (u64, u64)>);

impl Complaints {
    /// `Some(how often since the last time)` if it is to be said now.
    fn due(&mut self, kind: &'static str, now_ms: u64) -> Option<u64> {
        let (last_ms, unsaid) = self.0.entry(kind).or_insert((0, 0));
        *unsaid += 1;
        let is_due = *last_ms == 0 || now_ms >= *last_ms + COMPLAIN_EVERY_MS;
        is_due.then(|| {
            *last_ms = now_ms;
            std::mem::take(unsaid)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_said_once_a_minute_with_its_count() {
        let mut complaints = Complaints::default();
        assert_eq!(complaints.due("a", 1), Some(1));
        assert_eq!(complaints.due("a", 2), None);
        assert_eq!(complaints.due("b", 3), Some(1));
        assert_eq!(complaints.due("a", 1 + COMPLAIN_EVERY_MS), Some(2));
    }

    #[test]
    fn the_age_of_what_waits_is_known_to_a_second() {
        let mut ages = Ages::default();
        assert_eq!(ages.oldest_ms(0), None);
        ages.grew(Seq(10), 1_000);
        ages.grew(Seq(20), 5_000);
        assert_eq!(ages.oldest_ms(6_000), Some(5_000));
        ages.receipted(Seq(10));
        assert_eq!(ages.oldest_ms(6_000), Some(1_000));
        ages.receipted(Seq(20));
        assert_eq!(ages.oldest_ms(6_000), None);
    }

    #[test]
    fn a_year_of_waiting_takes_no_more_memory() {
        let mut ages = Ages::default();
        (1..100_000).for_each(|n| ages.grew(Seq(n), n * AGE_POINT_MS));
        assert!(ages.points.len() <= MAX_AGE_POINTS);
        assert_eq!(ages.oldest_ms(100_000 * AGE_POINT_MS), Some(99_999 * AGE_POINT_MS));
    }
}
