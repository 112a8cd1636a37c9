//! The agent's loop, driven as `edge_agent::agent` drives it: over the real [`Relay`], [`Anchors`] and [`Admission`]. The
//! outbox's thread and the MQTT session are played here. It knows nothing of what the cloud has.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use edge_agent::admission::{Admission, Admitted, DEFAULT_DEBOUNCE_MS, Place, TapKey};
use edge_agent::anchors::Anchors;
use edge_agent::now::Now;
use edge_agent::outbox::worker::{OutboxView, told_in_hello};
use edge_agent::reader::card_read::CardRead;
use edge_agent::relay::{Relay, Send, Verdict};
use edge_agent::settlement::{Heard, Here, How, Settlement, Step};
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::Batch;
use tap_protocol::hello::{Hello, ReaderKind};
use tap_protocol::ids::{OutboxId, Seq, StoreEpoch};
use tap_protocol::limits::MAX_UNRECEIPTED_BATCHES;
use tap_protocol::receipt::Receipt;
use tap_protocol::record::{AnchorSource, Body};
use tap_protocol::report::{Report, What};
use tap_protocol::tap::{Direction, Tap, Verdict as RosterVerdict};
use tap_protocol::topic::{Channel, Topic};

use super::{Badge, Machine, short};
use crate::bait::Bait;
use crate::disk::TapNo;
use crate::net::{Client, ConnNo, Message, Packet, Way};
use crate::stage::{DoorEvent, Event, Job, Stage};
// Bounds of the agent that are private there.
const MAX_WAITING_JOBS: usize = 1024;
const MAX_WAITING_PACKETS: usize = MAX_UNRECEIPTED_BATCHES + 8;
const MAX_GROUP: usize = 256;
const SEND_PAUSE_MS: u64 = 20;
const HOUSEKEEP_EVERY_MS: u64 = 30_000;
const LONGEST_RECONNECT_MS: u64 = 15_000;

/// A record on its way to the medium.
#[derive(Debug)]
pub struct Pending {
    pub(super) now: Now,
    pub(super) body: Body,
    pub(super) tap: Option<(TapNo, TapKey)>,
}

/// The process.
pub(super) struct Agent {
    admission: Admission,
    relay: Relay,
    anchors: Anchors,
    views: Vec<OutboxView>,
    /// As the relay has them, for the oracle.
    marks: BTreeMap<OutboxId, Seq>,
    pub(super) session: Option<Session>,
    had_session: bool,
    starting_new: bool,
    settlement: Settlement,
    pub(super) jobs: VecDeque<Job>,
    pub(super) in_hand: InHand,
    send_not_before_ms: u64,
    housekeep_due_ms: u64,
    pub(super) next_wake_ms: Option<u64>,
    connect_pause_ms: u64,
    pub(super) connecting: Option<ConnNo>,
}

/// What the outbox's thread is doing.
pub(super) enum InHand {
    Nothing,
    Commit(Vec<Pending>),
    Other(Job),
}

/// A packet that waits, and what a batch in it goes up to.
type Outgoing = (Rc<Message>, Option<(OutboxId, Seq)>);

/// One MQTT session.
pub(super) struct Session {
    pub(super) conn: ConnNo,
    next_id: u16,
    unacked: BTreeMap<u16, Option<(OutboxId, Seq)>>,
    waiting: VecDeque<Outgoing>,
    /// It has begun at the mark, be it with a batch that was asked for in the session before.
    has_begun: bool,
}

impl Agent {
    pub(super) fn start(machine: &mut Machine, stage: &mut Stage) -> Agent {
        stage.say(format_args!("door {}", machine.no + 1), format_args!("agent starts"));
        let now = machine.now(stage);
        machine.started = None;
        if machine.disk.outboxes.is_empty() || std::mem::take(&mut machine.moved) {
            machine.mint_outbox(stage);
        }
        if !machine.is_full(stage) {
            machine.begin_run(stage, now);
        }
        let place = |reader: &str, direction| Place {
            reader: reader.parse().expect("it is a slug"),
            kind: ReaderKind::Serial,
            direction,
        };
        let views = machine.views();
        let mut agent = Agent {
            admission: Admission::new(
                DEFAULT_DEBOUNCE_MS,
                [place("in", Direction::In), place("out", Direction::Out)],
            ),
            relay: Relay::new(
                views.iter().filter(|view| !view.is_retired).map(|view| (view.id, view.last_seq, view.mark)),
            ),
            marks: views.iter().map(|view| (view.id, view.mark.receipted_through)).collect(),
            anchors: Anchors::new(machine.boot_id),
            views,
            session: None,
            had_session: false,
            starting_new: false,
            settlement: Settlement::default(),
            jobs: VecDeque::new(),
            in_hand: InHand::Nothing,
            send_not_before_ms: 0,
            housekeep_due_ms: now.boottime_ms + HOUSEKEEP_EVERY_MS,
            next_wake_ms: None,
            connect_pause_ms: 200,
            connecting: None,
        };
        agent.shelf_is_now(machine, now.boottime_ms);
        machine.plan(stage, 0, DoorEvent::Connect);
        agent
    }

    // Taps.

    pub(super) fn card(&mut self, machine: &mut Machine, stage: &mut Stage, badge: &Badge, inwards: bool) {
        let now = self.clocks(machine, stage);
        let read = CardRead {
            reader: if inwards { "in" } else { "out" }.parse().expect("it is a slug"),
            credential: badge.credential.clone(),
            seen_at_boottime_ms: now.boottime_ms,
            atr: None,
            missed: 0,
        };
        match self.admission.admit(&read) {
            Admitted::Tap { key, reader, direction, .. } => {
                let no = stage.tap_read(machine.no);
                stage.say(format_args!("door {}", machine.no + 1), format_args!("tap {no} at {reader}"));
                let badge = badge.sealed.clone();
                let body = Body::Tap(Tap { reader, badge, direction, verdict: RosterVerdict::NoRoster });
                if stage.has(Bait::GreenBeforeCommit) {
                    stage.oracle.green(no);
                }
                self.record(body, Some((no, key)), now, stage);
            }
            Admitted::Repeat { .. } => stage.tally.count("repeats"),
            Admitted::NotABadge(_) => stage.tally.count("no badges"),
        }
    }

    fn record(&mut self, body: Body, tap: Option<(TapNo, TapKey)>, now: Now, stage: &mut Stage) {
        let pending = Pending { now, body, tap };
        match self.jobs.len() < MAX_WAITING_JOBS {
            true => self.jobs.push_back(Job::Append(pending)),
            false => self.not_committed(&pending, stage),
        }
    }

    fn not_committed(&mut self, pending: &Pending, stage: &mut Stage) {
        self.anchors.start_over();
        if let Some((no, key)) = pending.tap {
            self.admission.refused(key);
            stage.oracle.refused(no);
            stage.tally.count("taps refused");
        }
    }

    // Outbox.

    /// Now or not at all.
    fn submit(&mut self, job: Job) -> bool {
        let has_room = self.jobs.len() < MAX_WAITING_JOBS;
        if has_room {
            self.jobs.push_back(job);
        }
        has_room
    }

    /// The outbox's thread takes the next job in hand; appends that wait share one commit.
    fn work_on(&mut self, machine: &Machine, stage: &mut Stage) {
        if !matches!(self.in_hand, InHand::Nothing) {
            return;
        }
        let Some(job) = self.jobs.pop_front() else { return };
        let slow = stage.now_ms < machine.disk_slow_until_ms;
        let delay_ms = match job {
            Job::Append(first) => {
                let mut group = vec![first];
                while group.len() < MAX_GROUP
                    && let Some(Job::Append(_)) = self.jobs.front()
                    && let Some(Job::Append(next)) = self.jobs.pop_front()
                {
                    group.push(next);
                }
                self.in_hand = InHand::Commit(group);
                if slow { stage.dice.between(1_000, 10_000) } else { stage.dice.between(3, 30) }
            }
            other => {
                self.in_hand = InHand::Other(other);
                stage.dice.below(3)
            }
        };
        machine.plan(stage, delay_ms, DoorEvent::DiskDone);
    }

    pub(super) fn disk_done(&mut self, machine: &mut Machine, stage: &mut Stage) {
        let now = self.clocks(machine, stage);
        match std::mem::replace(&mut self.in_hand, InHand::Nothing) {
            InHand::Nothing => {}
            InHand::Commit(group) if stage.now_ms < machine.disk_full_until_ms => {
                stage.say(
                    format_args!("door {}", machine.no + 1),
                    format_args!("cannot commit {} records", group.len()),
                );
                group.iter().for_each(|pending| self.not_committed(pending, stage));
            }
            InHand::Commit(group) => {
                let first = machine.commit(stage, &group);
                stage.tally.count("commits");
                let last = first.plus(group.len() as u64 - 1);
                stage.say(
                    format_args!("door {}", machine.no + 1),
                    format_args!("committed {first} to {last}"),
                );
                self.grew(machine.disk.newest().id, last, now.boottime_ms);
                for (pending, n) in group.iter().zip(0..) {
                    if let Some((no, key)) = pending.tap {
                        self.admission.committed(key, first.plus(n));
                        stage.oracle.green(no);
                    }
                }
            }
            InHand::Other(job) => self.served(machine, stage, job, now),
        }
    }

    fn served(&mut self, machine: &mut Machine, stage: &mut Stage, job: Job, now: Now) {
        match job {
            Job::Append(_) => unreachable!("appends are committed in groups"),
            Job::Read(outbox, from) => self.send_batch(machine, stage, outbox, from),
            Job::HashAt(receipt) => {
                let own = machine
                    .disk
                    .find(receipt.outbox)
                    .and_then(|outbox| outbox.hash_at(receipt.stored_through));
                self.receipt_compared(machine, stage, &receipt, own, now);
            }
            Job::SetMark(id, mark) => {
                if let Some(outbox) = machine.disk.find(id) {
                    outbox.mark = mark;
                }
            }
            Job::Housekeep => {
                machine.disk.flush_marks();
                let unreceipted_too = stage.has(Bait::PruneWithoutReceipt);
                let mut gone = 0;
                for outbox in &mut machine.disk.outboxes {
                    let range = outbox.prune(machine.keep_receipted, unreceipted_too);
                    gone += range.clone().count();
                    stage.oracle.pruned(outbox.id, range);
                }
                if gone > 0 {
                    stage.tally.add("records pruned", gone as u64);
                    self.shelf_is_now(machine, now.boottime_ms);
                }
            }
            Job::StartNew(settled, at) => {
                let is_done = machine.leave(stage, &settled, at);
                self.shelf_is_now(machine, now.boottime_ms);
                self.left(settled.outbox, is_done, now);
            }
        }
    }

    fn shelf_is_now(&mut self, machine: &Machine, now_ms: u64) {
        let views = machine.views();
        for view in &views {
            if view.is_retired {
                self.relay.retired(view.id);
            } else if view.is_settled {
                if self.relay.settled_at(view.id) != Some(view.last_seq) {
                    self.relay.settled(view.id, view.last_seq, view.mark);
                    self.marks.insert(view.id, view.mark.receipted_through);
                }
            } else {
                self.relay.started(view.id, view.last_seq, view.mark);
                self.relay.appended(view.id, view.last_seq, now_ms);
            }
        }
        if self.views.last().map(|view| view.id) != views.last().map(|view| view.id) {
            self.anchors.start_over();
        }
        self.views = views;
    }

    fn grew(&mut self, outbox: OutboxId, last_seq: Seq, now_ms: u64) {
        self.relay.appended(outbox, last_seq, now_ms);
        if let Some(view) = self.views.iter_mut().find(|view| view.id == outbox) {
            view.last_seq = last_seq;
        }
    }

    // Link.

    pub(super) fn connect(&mut self, machine: &Machine, stage: &mut Stage) {
        if self.session.is_some() || self.connecting.is_some() {
            return;
        }
        let client = Client::Door(machine.no);
        if !stage.net.lets_in(client, stage.now_ms) {
            self.connect_pause_ms = (2 * self.connect_pause_ms).min(LONGEST_RECONNECT_MS);
            let pause_ms = stage.dice.between(self.connect_pause_ms / 2, self.connect_pause_ms);
            return machine.plan(stage, pause_ms, DoorEvent::Connect);
        }
        let conn = stage.net.open(client);
        self.connecting = Some(conn);
        stage.send(conn, Way::Up, Packet::Connect);
        // No answer within ten seconds: given up.
        stage.after(10_000, Event::GivesUp(conn));
    }

    pub(super) fn link_down(&mut self, machine: &Machine, stage: &mut Stage) {
        if let Some(session) = self.session.take() {
            stage.say(
                format_args!("door {}", machine.no + 1),
                format_args!("session {} is over", session.conn),
            );
            if !stage.has(Bait::NoGoBack) {
                self.relay.disconnected();
            }
        }
        self.connecting = None;
        let pause_ms = stage.dice.between(self.connect_pause_ms / 2, self.connect_pause_ms);
        self.connect_pause_ms = (2 * self.connect_pause_ms).min(LONGEST_RECONNECT_MS);
        machine.plan(stage, pause_ms, DoorEvent::Connect);
    }

    pub(super) fn packet(&mut self, machine: &mut Machine, stage: &mut Stage, conn: ConnNo, packet: Packet) {
        let now = self.clocks(machine, stage);
        if self.connecting == Some(conn) && matches!(packet, Packet::ConnAck) {
            self.connecting = None;
            self.connect_pause_ms = 200;
            stage.tally.count("door sessions");
            stage.say(format_args!("door {}", machine.no + 1), format_args!("session {conn} is up"));
            self.session = Some(Session {
                conn,
                next_id: 0,
                unacked: BTreeMap::new(),
                waiting: VecDeque::new(),
                has_begun: false,
            });
            if !(stage.has(Bait::NoGoBack) && self.had_session) {
                self.relay.connected(now.boottime_ms);
            }
            self.settlement.connected();
            self.had_session = true;
            return;
        }
        let Some(session) = self.session.as_mut().filter(|session| session.conn == conn) else { return };
        match packet {
            Packet::PubAck(id) => {
                let batch = session.unacked.remove(&id).flatten();
                session.pump(stage);
                if let (true, Some((outbox, through))) = (stage.has(Bait::MarkOnPuback), batch) {
                    self.take_puback_for_receipt(machine, stage, outbox, through, now);
                }
            }
            Packet::Publish(id, message) => {
                stage.send(conn, Way::Up, Packet::PubAck(id));
                self.message(machine, stage, &message, now);
            }
            Packet::Connect | Packet::ConnAck => {}
        }
    }

    fn message(&mut self, machine: &Machine, stage: &mut Stage, message: &Message, now: Now) {
        let topic: Option<Topic> = message.topic.parse().ok();
        let own =
            topic.is_some_and(|topic| topic.controller == machine.id && topic.channel == Channel::Receipt);
        let receipt = own.then(|| Receipt::open(&message.payload, &machine.id, &[machine.receipt_key]));
        let Some(Ok(receipt)) = receipt else {
            stage.tally.count("messages refused at a door");
            return;
        };
        stage.tally.count("receipts taken");
        if let Some(anchor) = self.anchors.receipt_came(&receipt, &now) {
            stage.tally.count("anchors from receipts");
            stage.say(format_args!("door {}", machine.no + 1), format_args!("has an anchor"));
            self.record(anchor, None, now, stage);
        }
        self.submit(Job::HashAt(Box::new(receipt)));
    }

    fn take_puback_for_receipt(
        &mut self,
        machine: &mut Machine,
        stage: &mut Stage,
        outbox: OutboxId,
        stored_through: Seq,
        now: Now,
    ) {
        let Some(hash) = machine.disk.find(outbox).and_then(|outbox| outbox.hash_at(stored_through)) else {
            return;
        };
        let epoch = self.views.iter().find(|view| view.id == outbox).and_then(|view| view.mark.store_epoch);
        let receipt = Receipt {
            controller: machine.id.clone(),
            store_epoch: epoch.or(stage.oracle.epoch()).unwrap_or(StoreEpoch(1)),
            outbox,
            stored_through,
            hash,
            resend: false,
            echo: None,
            cloud_utc_ms: 0,
        };
        self.receipt_compared(machine, stage, &receipt, Some(hash), now);
    }

    fn receipt_compared(
        &mut self,
        machine: &Machine,
        stage: &mut Stage,
        receipt: &Receipt,
        own: Option<ChainHash>,
        now: Now,
    ) {
        if self.starting_new {
            return;
        }
        match self.settlement.receipt(receipt, own) {
            Heard::NotMine => {}
            Heard::Taken => return,
            Heard::Over => stage.tally.count("settlements that a restored store ended"),
        }
        let verdict = self.relay.receipt(receipt, own, now.boottime_ms);
        let outbox = short(receipt.outbox);
        let what = match verdict {
            Verdict::Advanced(mark) | Verdict::Restored(mark) => {
                if let Some(view) = self.views.iter_mut().find(|view| view.id == receipt.outbox) {
                    view.mark = mark;
                }
                self.marks.insert(receipt.outbox, mark.receipted_through);
                self.submit(Job::SetMark(receipt.outbox, mark));
                if matches!(verdict, Verdict::Restored(_)) { "restored" } else { "advanced" }
            }
            Verdict::Nothing => "nothing",
            Verdict::Rewound | Verdict::Forked => {
                if let Some(view) = self.views.iter().find(|view| view.id == receipt.outbox) {
                    let mark = (view.mark.receipted_through, view.mark.store_epoch);
                    let here = Here { floor: view.pruned_through, last: view.last_seq, mark };
                    self.settlement.begin(receipt, here);
                }
                if verdict == Verdict::Rewound { "rewound" } else { "forked" }
            }
            Verdict::HistoryGone => "history gone",
            Verdict::Foreign => "foreign",
        };
        stage.tally.count(&format!("verdict: {what}"));
        let (through, resend) = (receipt.stored_through, if receipt.resend { ", resend" } else { "" });
        stage.say(
            format_args!("door {}", machine.no + 1),
            format_args!("receipt {outbox} through {through}{resend}: {what}"),
        );
    }

    fn send_what_is_due(&mut self, machine: &mut Machine, stage: &mut Stage) {
        let now = self.clocks(machine, stage);
        if now.boottime_ms < self.send_not_before_ms {
            return;
        }
        self.settle_what_is_due(machine, stage, now);
        while let Some(send) = self.relay.next(now.boottime_ms) {
            match send {
                Send::Hello => self.send_hello(machine, stage, now),
                Send::Batch { outbox, from } => {
                    if let Some(session) = self.session.as_mut().filter(|session| !session.has_begun) {
                        session.has_begun = true;
                        let mark = self.marks.get(&outbox).copied().unwrap_or(Seq::ZERO);
                        stage.oracle.session_began(machine.no, mark, from);
                    }
                    if !self.submit(Job::Read(outbox, from)) {
                        self.relay.not_sent();
                        self.send_not_before_ms = now.boottime_ms + SEND_PAUSE_MS;
                        return;
                    }
                }
            }
        }
    }

    /// As `Agent::settle_what_is_due`.
    fn settle_what_is_due(&mut self, machine: &Machine, stage: &mut Stage, now: Now) {
        let Some(session) = self.session.as_mut().filter(|_| !self.starting_new) else { return };
        match self.settlement.next(now.boottime_ms) {
            None => {}
            Some(Step::Ask { outbox, seqs, is_repeated }) => {
                stage.tally.count("questions where an outbox and the store go apart");
                stage.say(
                    format_args!("door {}", machine.no + 1),
                    format_args!("asks for {} at {seqs:?}", short(outbox)),
                );
                let what = What::HashesWanted { outbox, seqs };
                let (controller, boottime_ms) = (machine.id.clone(), now.boottime_ms);
                let report = Report { controller, boot_id: machine.boot_id, boottime_ms, what };
                let topic = Topic::new(&machine.id, Channel::Report).to_string();
                let message = stage.message(topic, report.sign(&machine.key));
                session.try_publish(stage, message, None);
                if is_repeated {
                    self.relay.hello_now(now.boottime_ms);
                }
            }
            Some(Step::Settle(settled)) => {
                let how = match settled.how {
                    How::Exact(_) => "exactly",
                    How::BeforeWhatIsKept => "before what is kept",
                    How::Unanswered => "without an answer",
                };
                stage.tally.count(&format!("settled: {how}"));
                stage.say(
                    format_args!("door {}", machine.no + 1),
                    format_args!("settles {} after {}, {how}", short(settled.outbox), settled.after),
                );
                self.starting_new = self.submit(Job::StartNew(settled, now));
            }
        }
    }

    /// As `Agent::left`.
    fn left(&mut self, outbox: OutboxId, is_done: bool, now: Now) {
        self.starting_new = false;
        if !is_done {
            return;
        }
        let newest = self.views.last().map(|view| view.id);
        let view = self.views.iter().find(|view| view.id == outbox && !view.is_retired);
        if let Some(view) = view.filter(|view| newest != Some(view.id)) {
            self.relay.settled(view.id, view.last_seq, view.mark);
            self.marks.insert(view.id, view.mark.receipted_through);
        }
        self.relay.hello_now(now.boottime_ms);
    }

    fn send_hello(&mut self, machine: &Machine, stage: &mut Stage, now: Now) {
        // It speaks for a moment of which nothing is on its way to the medium any more.
        let waiting = self.jobs.iter().filter_map(|job| match job {
            Job::Append(pending) => Some(pending.now.boottime_ms),
            _ => None,
        });
        let in_hand = match &self.in_hand {
            InHand::Commit(group) => group.first().map(|pending| pending.now.boottime_ms),
            InHand::Nothing | InHand::Other(_) => None,
        };
        let oldest_ms = waiting.chain(in_hand).min();
        let now = now.before(oldest_ms);
        let Some(session) = &mut self.session else { return };
        let outboxes = told_in_hello(&self.views).into_iter().map(|view| view.hello(None));
        let hello = Hello {
            controller: machine.id.clone(),
            boot_id: machine.boot_id,
            boottime_ms: now.boottime_ms,
            wall_ms: now.wall_ms,
            clock: now.clock,
            agent_version: "sim".into(),
            record_version: tap_protocol::codec::VERSION_1,
            roster_version: None,
            outboxes: outboxes.collect(),
            readers: Vec::new(),
        };
        let topic = Topic::new(&machine.id, Channel::Hello).to_string();
        let message = stage.message(topic, hello.sign(&machine.key));
        if session.try_publish(stage, message, None) {
            stage.tally.count("hellos");
            self.anchors.hello_sent(now.boottime_ms);
        }
    }

    fn send_batch(&mut self, machine: &mut Machine, stage: &mut Stage, outbox: OutboxId, first_seq: Seq) {
        let now = self.clocks(machine, stage);
        let Some(file) = machine.disk.find(outbox) else { return self.relay.not_sent() };
        let Some(mut chunk) = file.read(first_seq) else {
            stage.oracle.read_of_pruned(machine.no, first_seq);
            return self.relay.not_sent();
        };
        if let Some(file) = machine.disk.outboxes.iter().find(|file| file.id == outbox) {
            chunk.end_at(machine.disk.says_through(file).unwrap_or(Seq::ZERO));
        }
        let count = chunk.records.len() as u64;
        let (Some(session), true) = (&mut self.session, count > 0) else { return self.relay.not_sent() };
        let through = first_seq.plus(count - 1);
        session.has_begun |= self.marks.get(&outbox).is_none_or(|mark| mark.next() == first_seq);
        let batch = Batch {
            controller: machine.id.clone(),
            outbox,
            first_seq,
            hash_before: chunk.hash_before,
            records: chunk.records,
        };
        let topic = Topic::new(&machine.id, Channel::Records).to_string();
        let message = stage.message(topic, batch.sign(&machine.key));
        if session.try_publish(stage, message, Some((outbox, through))) {
            stage.tally.count("batches");
            stage.tally.add("records sent", count);
            stage.say(
                format_args!("door {}", machine.no + 1),
                format_args!("sends {} {first_seq} to {through}", short(outbox)),
            );
            self.relay.sent(outbox, first_seq, through);
        } else {
            stage.tally.count("batches that found no room");
            self.relay.not_sent();
            self.send_not_before_ms = now.boottime_ms + SEND_PAUSE_MS;
        }
    }

    // The rest.

    /// As `Agent::read_clocks`.
    fn clocks(&mut self, machine: &Machine, stage: &Stage) -> Now {
        self.anchors.read(machine.now(stage)).now
    }

    pub(super) fn tick(&mut self, machine: &mut Machine, stage: &mut Stage) {
        self.next_wake_ms = None;
        let now = self.clocks(machine, stage);
        if let Some(anchor) = self.anchors.clock_read(&now) {
            let is_step = matches!(anchor, Body::ClockAnchor { source: AnchorSource::Step { .. }, .. });
            let source = if is_step { "a step" } else { "the kernel" };
            stage.tally.count(&format!("anchors from {source}"));
            stage.say(format_args!("door {}", machine.no + 1), format_args!("has an anchor from {source}"));
            self.record(anchor, None, now, stage);
        }
        for run in self.admission.expire(now.boottime_ms) {
            self.record(Body::Repeats { seq: run.seq, n: run.repeats }, None, now, stage);
        }
        if now.boottime_ms >= self.housekeep_due_ms {
            self.housekeep_due_ms = now.boottime_ms + HOUSEKEEP_EVERY_MS;
            self.submit(Job::Housekeep);
        }
    }

    /// What follows every event, as in `Agent::handle`; then the disk goes on, and the next tick is planned.
    pub(super) fn after_all(&mut self, machine: &mut Machine, stage: &mut Stage) {
        self.send_what_is_due(machine, stage);
        self.work_on(machine, stage);
        let now_ms = machine.now(stage).boottime_ms;
        let second = now_ms + 1_000;
        let sending_ms = match self.send_not_before_ms > now_ms {
            true => self.send_not_before_ms,
            false => {
                let settling_ms = self.settlement.wake_at_ms();
                let settling_ms = settling_ms.filter(|_| self.session.is_some() && !self.starting_new);
                self.relay.wake_at_ms().into_iter().chain(settling_ms).min().unwrap_or(second)
            }
        };
        let wake_ms = sending_ms.min(second);
        // Boottime drifts against true time by less than a millisecond a second.
        let at_ms = stage.now_ms + wake_ms.saturating_sub(now_ms) + 1;
        if self.next_wake_ms.is_none_or(|planned_ms| at_ms < planned_ms) {
            self.next_wake_ms = Some(at_ms);
            machine.plan(stage, at_ms - stage.now_ms, DoorEvent::Wake);
        }
    }
}

impl Session {
    /// Now or not at all, as the real session.
    fn try_publish(
        &mut self,
        stage: &mut Stage,
        message: Rc<Message>,
        batch: Option<(OutboxId, Seq)>,
    ) -> bool {
        if self.waiting.len() >= MAX_WAITING_PACKETS {
            return false;
        }
        self.waiting.push_back((message, batch));
        self.pump(stage);
        true
    }

    fn pump(&mut self, stage: &mut Stage) {
        while self.unacked.len() < MAX_UNRECEIPTED_BATCHES
            && let Some((message, batch)) = self.waiting.pop_front()
        {
            self.next_id = self.next_id.wrapping_add(1);
            self.unacked.insert(self.next_id, batch);
            stage.publish(self.conn, Way::Up, self.next_id, &message);
        }
    }
}
