//! A door: hardware, disk, and the agent's loop driven as `edge_agent::agent` drives it, over the real [`Relay`],
//! [`Anchors`] and [`Admission`] and with really signed messages. The thin parts (outbox thread, MQTT session) are played
//! here. It knows nothing of what the cloud has.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use edge_agent::admission::{Admission, Admitted, DEFAULT_DEBOUNCE_MS, Place, TapKey};
use edge_agent::anchors::Anchors;
use edge_agent::now::Now;
use edge_agent::reader::card_read::CardRead;
use edge_agent::relay::{Mark, Relay, Send, Verdict};
use tap_protocol::badge::{Credential, SealedBadge};
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::Batch;
use tap_protocol::hello::{Hello, OutboxHello, ReaderKind};
use tap_protocol::ids::{BootId, ControllerId, OutboxId, Seq, StoreEpoch};
use tap_protocol::keys::{PublicKey, SigningKey};
use tap_protocol::limits::{MAX_HELLO_OUTBOXES, MAX_UNRECEIPTED_BATCHES};
use tap_protocol::receipt::Receipt;
use tap_protocol::record::{Body, ClockState, PreviousStop, Record};
use tap_protocol::tap::{Direction, Tap, Verdict as RosterVerdict};
use tap_protocol::topic::{Channel, Topic};

use crate::bait::Bait;
use crate::disk::{Disk, TapNo};
use crate::net::{Client, ConnNo, Message, Packet, Way};
use crate::stage::{DoorEvent, Event, Job, Stage};

// Bounds of the agent that are private there.
const MAX_WAITING_JOBS: usize = 1024;
const MAX_WAITING_PACKETS: usize = MAX_UNRECEIPTED_BATCHES + 8;
const MAX_GROUP: usize = 256;
const SEND_PAUSE_MS: u64 = 20;
const HOUSEKEEP_EVERY_MS: u64 = 30_000;
const LONGEST_RECONNECT_MS: u64 = 15_000;

/// A badge of the world.
#[derive(Debug)]
pub struct Badge {
    /// What the card gives.
    pub credential: Credential,
    /// As it is recorded.
    pub sealed: SealedBadge,
}

/// A door and everything at it.
pub struct Door {
    /// All but the process.
    pub machine: Machine,
    agent: Option<Agent>,
}

/// Hardware and disk: what outlives the process.
pub struct Machine {
    /// Its number.
    pub no: usize,
    /// Its name.
    pub id: ControllerId,
    /// Its record key.
    pub key: SigningKey,
    /// Its disk.
    pub disk: Disk,
    /// A copy of the disk.
    pub backup: Option<Disk>,
    /// Which run of the process; events for another run go nowhere.
    pub run: u32,
    /// Which boot.
    pub boot_id: BootId,
    /// Appends fail until then.
    pub disk_full_until_ms: u64,
    /// Commits are slow until then.
    pub disk_slow_until_ms: u64,
    /// At the next start the disk is in another machine.
    pub moved: bool,
    receipt_key: PublicKey,
    booted_at_ms: u64,
    drift_ppm: i64,
    wall_error_ms: i64,
    /// The wall clock stands still at this.
    frozen_ms: Option<i64>,
    clock: ClockState,
    keep_receipted: u64,
    /// What stands for this boot in the newest outbox, as the outbox's thread last learned it; 0 before that.
    boot: u32,
}

/// A record on its way to the medium.
#[derive(Debug)]
pub struct Pending {
    now: Now,
    body: Body,
    tap: Option<(TapNo, TapKey)>,
}

/// The process.
struct Agent {
    admission: Admission,
    relay: Relay,
    anchors: Anchors,
    views: Vec<View>,
    /// As the relay has them, for the oracle.
    marks: BTreeMap<OutboxId, Seq>,
    session: Option<Session>,
    had_session: bool,
    starting_new: bool,
    jobs: VecDeque<Job>,
    in_hand: InHand,
    send_not_before_ms: u64,
    housekeep_due_ms: u64,
    next_wake_ms: Option<u64>,
    connect_pause_ms: u64,
    connecting: Option<ConnNo>,
}

enum InHand {
    Nothing,
    Commit(Vec<Pending>),
    Other(Job),
}

#[derive(Debug, Clone, Copy)]
struct View {
    id: OutboxId,
    last_seq: Seq,
    mark: Mark,
    is_retired: bool,
}

struct Session {
    conn: ConnNo,
    next_id: u16,
    unacked: BTreeMap<u16, Option<(OutboxId, Seq)>>,
    waiting: VecDeque<(Rc<Message>, Option<(OutboxId, Seq)>)>,
    /// It has begun at the mark, be it with a batch that was asked for in the session before.
    has_begun: bool,
}

impl Door {
    /// A door that is switched on at `booted_at_ms`.
    pub fn new(no: usize, seed: &mut crate::dice::Dice, receipt_key: PublicKey, keep_receipted: u64) -> Door {
        let synced = seed.percent(50);
        let machine = Machine {
            no,
            id: crate::broker::door_name(no).parse().expect("it is a slug"),
            key: SigningKey::from_seed(&seed.bytes()),
            disk: Disk::default(),
            backup: None,
            run: 0,
            boot_id: BootId(seed.bytes()),
            disk_full_until_ms: 0,
            disk_slow_until_ms: 0,
            moved: false,
            receipt_key,
            booted_at_ms: 0,
            drift_ppm: seed.between(0, 160) as i64 - 80,
            wall_error_ms: if synced { 0 } else { -3_600_000 },
            frozen_ms: None,
            clock: if synced { ClockState::Synced } else { ClockState::Unsynced },
            keep_receipted,
            boot: 0,
        };
        Door { machine, agent: None }
    }

    /// A card at the reader.
    pub fn card(&mut self, stage: &mut Stage, badge: &Badge, inwards: bool) {
        let Some(agent) = &mut self.agent else {
            stage.tally.count("cards shown to a dead door");
            return;
        };
        agent.card(&mut self.machine, stage, badge, inwards);
        agent.after_all(&mut self.machine, stage);
    }

    /// Something happens to the process.
    pub fn handle(&mut self, stage: &mut Stage, run: u32, what: DoorEvent) {
        let machine = &mut self.machine;
        if run != machine.run {
            return;
        }
        if let DoorEvent::Start = what {
            self.agent = Some(Agent::start(machine, stage));
        }
        let Some(agent) = &mut self.agent else { return };
        match what {
            DoorEvent::Start => {}
            // An earlier tick was planned meanwhile, and has planned the next one.
            DoorEvent::Wake if agent.next_wake_ms.is_some_and(|planned_ms| stage.now_ms < planned_ms) => {
                return;
            }
            DoorEvent::Wake => {
                stage.oracle.door_woke(machine.no, stage.now_ms);
                agent.tick(machine, stage);
            }
            DoorEvent::DiskDone => agent.disk_done(machine, stage),
            DoorEvent::Connect => agent.connect(machine, stage),
        }
        agent.after_all(machine, stage);
    }

    /// A packet for this door.
    pub fn packet(&mut self, stage: &mut Stage, conn: ConnNo, packet: Packet) {
        let Some(agent) = &mut self.agent else { return };
        agent.packet(&mut self.machine, stage, conn, packet);
        agent.after_all(&mut self.machine, stage);
    }

    /// The connection is gone, or (`unanswered`) was never answered.
    pub fn notices(&mut self, stage: &mut Stage, conn: ConnNo, unanswered: bool) {
        let Some(agent) = &mut self.agent else { return };
        let is_up = agent.session.as_ref().is_some_and(|session| session.conn == conn);
        if agent.connecting == Some(conn) || (is_up && !unanswered) {
            agent.link_down(&mut self.machine, stage);
            agent.after_all(&mut self.machine, stage);
        }
    }

    /// The process dies. What was being committed may be on the medium or not.
    pub fn die(&mut self, stage: &mut Stage) {
        let machine = &mut self.machine;
        machine.run += 1;
        machine.disk.crash();
        let Some(mut agent) = self.agent.take() else { return };
        let in_hand = std::mem::replace(&mut agent.in_hand, InHand::Nothing);
        if let InHand::Commit(group) = in_hand {
            if stage.dice.percent(50) && stage.now_ms >= machine.disk_full_until_ms {
                machine.commit(stage, &group);
                stage.tally.count("commits that nobody was told of");
            } else {
                group
                    .iter()
                    .filter_map(|pending| pending.tap)
                    .for_each(|(tap, _)| stage.oracle.interrupted(tap));
            }
        }
        for job in agent.jobs {
            if let Job::Append(Pending { tap: Some((tap, _)), .. }) = job {
                stage.oracle.interrupted(tap);
            }
        }
        let conn = agent.session.map(|session| session.conn).or(agent.connecting);
        if let Some(conn) = conn {
            stage.cut(conn, 500);
        }
    }

    /// Starts the process.
    pub fn start(&mut self, stage: &mut Stage, in_ms: u64) {
        let (door, run) = (self.machine.no, self.machine.run);
        stage.after(in_ms, Event::Door { door, run, what: DoorEvent::Start });
    }

    /// Whether the process runs.
    pub fn is_up(&self) -> bool {
        self.agent.is_some()
    }

    /// How many jobs wait for the disk.
    pub fn waiting_jobs(&self) -> usize {
        self.agent.as_ref().map_or(0, |agent| agent.jobs.len())
    }
}

impl Machine {
    /// Another boot begins now: boottime starts from zero, and a Pi has no clock of its own.
    pub fn reboot(&mut self, stage: &mut Stage, in_ms: u64) {
        self.boot_id = BootId(stage.dice.bytes());
        self.booted_at_ms = stage.now_ms + in_ms;
        let error_ms = *stage.dice.pick(&[0, -60_000, -600_000, -86_400_000]);
        self.set_clock(error_ms, ClockState::Unsynced);
    }

    /// Somebody, or something, sets the wall clock off by so much.
    pub fn set_clock(&mut self, error_ms: i64, clock: ClockState) {
        (self.wall_error_ms, self.clock) = (error_ms, clock);
        self.frozen_ms = None;
    }

    /// Sets the wall clock to 1970.
    pub fn set_clock_to_1970(&mut self, stage: &Stage) {
        self.set_clock(-stage.utc().0, ClockState::Unsynced);
    }

    /// The wall clock stops where it is.
    pub fn freeze_clock(&mut self, stage: &Stage) {
        self.frozen_ms = Some(stage.utc().0 + self.wall_error_ms);
        self.clock = ClockState::Unsynced;
    }

    /// How far the wall clock is off.
    pub fn clock_error_ms(&self) -> i64 {
        self.wall_error_ms
    }

    fn now(&self, stage: &Stage) -> Now {
        let since_boot_ms = stage.now_ms.saturating_sub(self.booted_at_ms) as i64;
        let boottime_ms = (since_boot_ms + since_boot_ms * self.drift_ppm / 1_000_000).unsigned_abs();
        let wall_ms = self.frozen_ms.unwrap_or(stage.utc().0 + self.wall_error_ms);
        Now { boottime_ms, wall_ms, clock: self.clock }
    }

    /// Appends in one commit and tells the oracle.
    fn append(&mut self, stage: &mut Stage, records: Vec<(Vec<u8>, Option<TapNo>)>) -> Seq {
        let newest = self.disk.newest();
        let first = newest.append(records.clone());
        for (n, (bytes, tap)) in records.into_iter().enumerate() {
            stage.oracle.committed(self.no, newest.id, first.plus(n as u64), bytes, tap);
        }
        first
    }

    fn commit(&mut self, stage: &mut Stage, group: &[Pending]) -> Seq {
        let boot = self.boot;
        let encode = |pending: &Pending| {
            let record = Record { at: pending.now.stamp(boot), body: pending.body.clone() };
            (record.encode(), pending.tap.map(|(tap, _)| tap))
        };
        self.append(stage, group.iter().map(encode).collect())
    }

    /// As `Worker::begin_run`: the first record of every run.
    fn begin_run(&mut self, stage: &mut Stage, now: Now) {
        if !self.learn_boot(stage) {
            return;
        }
        let (boot, newest) = (self.boot, self.disk.newest());
        let previous_stop = match (newest.last().0, newest.stopped_cleanly) {
            (Seq::ZERO, _) => PreviousStop::None,
            (_, true) => PreviousStop::Clean,
            (_, false) => PreviousStop::Unclean,
        };
        newest.stopped_cleanly = false;
        let body = Body::AgentStarted { boot_id: self.boot_id, version: "sim".into(), previous_stop };
        self.append(stage, vec![(Record { at: now.stamp(boot), body }.encode(), None)]);
    }

    /// The number of this boot in the newest outbox. A full disk cannot mint one, and cannot write anything else either.
    fn learn_boot(&mut self, stage: &Stage) -> bool {
        let is_full = stage.now_ms < self.disk_full_until_ms;
        let newest = self.disk.newest();
        let number =
            if is_full { newest.known_boot(self.boot_id) } else { Some(newest.boot_number(self.boot_id)) };
        self.boot = number.unwrap_or(self.boot);
        !is_full
    }

    /// As `Worker::start_new` and `Worker::say_again`: all of it in one commit.
    fn say_again(&mut self, stage: &mut Stage, rewound: OutboxId, at: Now) {
        self.mint_outbox(stage);
        if !self.learn_boot(stage) {
            return;
        }
        let body = Body::AgentStarted {
            boot_id: self.boot_id,
            version: "sim".into(),
            previous_stop: PreviousStop::None,
        };
        let mut records = vec![(Record { at: at.stamp(self.boot), body }.encode(), None)];
        records.extend(self.disk.say_again(rewound));
        stage.tally.add("records said again in a new outbox", records.len() as u64 - 1);
        records.iter().filter_map(|(_, tap)| *tap).for_each(|tap| stage.oracle.said_again(tap));
        self.append(stage, records);
    }

    fn mint_outbox(&mut self, stage: &mut Stage) {
        let id = OutboxId(stage.dice.bytes());
        stage.tally.count("outboxes");
        stage.say(format_args!("door {}", self.no + 1), format_args!("starts outbox {}", short(id)));
        self.disk.start_new(id);
    }

    fn views(&self) -> Vec<View> {
        let view = |outbox: &crate::disk::DiskOutbox| View {
            id: outbox.id,
            last_seq: outbox.last().0,
            mark: outbox.mark,
            is_retired: self.disk.is_retired(outbox.id),
        };
        self.disk.outboxes.iter().map(view).collect()
    }
}

impl Agent {
    fn start(machine: &mut Machine, stage: &mut Stage) -> Agent {
        stage.say(format_args!("door {}", machine.no + 1), format_args!("agent starts"));
        let now = machine.now(stage);
        machine.boot = 0;
        if machine.disk.outboxes.is_empty() || std::mem::take(&mut machine.moved) {
            machine.mint_outbox(stage);
        }
        machine.begin_run(stage, now);
        let place = |reader: &str, direction| Place {
            reader: reader.parse().expect("it is a slug"),
            kind: ReaderKind::Serial,
            direction,
        };
        let views = machine.views();
        let agent = Agent {
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
            jobs: VecDeque::new(),
            in_hand: InHand::Nothing,
            send_not_before_ms: 0,
            housekeep_due_ms: now.boottime_ms + HOUSEKEEP_EVERY_MS,
            next_wake_ms: None,
            connect_pause_ms: 200,
            connecting: None,
        };
        machine.plan(stage, 0, DoorEvent::Connect);
        agent
    }

    // Taps.

    fn card(&mut self, machine: &mut Machine, stage: &mut Stage, badge: &Badge, inwards: bool) {
        let now = machine.now(stage);
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
        if let Err(Job::Append(pending)) = self.submit(Job::Append(Pending { now, body, tap })) {
            self.not_committed(&pending, stage);
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

    fn submit(&mut self, job: Job) -> Result<(), Job> {
        if self.jobs.len() >= MAX_WAITING_JOBS {
            return Err(job);
        }
        self.jobs.push_back(job);
        Ok(())
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

    fn disk_done(&mut self, machine: &mut Machine, stage: &mut Stage) {
        let now = machine.now(stage);
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
            Job::StartNew(rewound, at) => {
                machine.say_again(stage, rewound, at);
                self.shelf_is_now(machine, now.boottime_ms);
            }
        }
    }

    fn shelf_is_now(&mut self, machine: &Machine, now_ms: u64) {
        let views = machine.views();
        for view in &views {
            if view.is_retired {
                self.relay.retired(view.id);
            } else {
                self.relay.started(view.id, view.last_seq, view.mark);
                self.relay.appended(view.id, view.last_seq, now_ms);
            }
        }
        if self.views.last().map(|view| view.id) != views.last().map(|view| view.id) {
            self.anchors.start_over();
        }
        self.starting_new = false;
        self.views = views;
    }

    fn grew(&mut self, outbox: OutboxId, last_seq: Seq, now_ms: u64) {
        self.relay.appended(outbox, last_seq, now_ms);
        if let Some(view) = self.views.iter_mut().find(|view| view.id == outbox) {
            view.last_seq = last_seq;
        }
    }

    // Link.

    fn connect(&mut self, machine: &Machine, stage: &mut Stage) {
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

    fn link_down(&mut self, machine: &Machine, stage: &mut Stage) {
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

    fn packet(&mut self, machine: &mut Machine, stage: &mut Stage, conn: ConnNo, packet: Packet) {
        let now = machine.now(stage);
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
        let receipt = own.then(|| Receipt::open(&message.payload, &machine.id, &machine.receipt_key));
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
        let _ = self.submit(Job::HashAt(Box::new(receipt)));
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
        let verdict = self.relay.receipt(receipt, own, now.boottime_ms);
        let outbox = short(receipt.outbox);
        let what = match verdict {
            Verdict::Advanced(mark) | Verdict::Restored(mark) => {
                if let Some(view) = self.views.iter_mut().find(|view| view.id == receipt.outbox) {
                    view.mark = mark;
                }
                self.marks.insert(receipt.outbox, mark.receipted_through);
                let _ = self.submit(Job::SetMark(receipt.outbox, mark));
                if matches!(verdict, Verdict::Restored(_)) { "restored" } else { "advanced" }
            }
            Verdict::Nothing => "nothing",
            Verdict::Rewound => {
                self.starting_new = self.submit(Job::StartNew(receipt.outbox, now)).is_ok();
                "rewound"
            }
            Verdict::Forked => "forked",
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
        let now = machine.now(stage);
        if now.boottime_ms < self.send_not_before_ms {
            return;
        }
        while let Some(send) = self.relay.next(now.boottime_ms) {
            match send {
                Send::Hello => self.send_hello(machine, stage, now),
                Send::Batch { outbox, from } => {
                    if let Some(session) = self.session.as_mut().filter(|session| !session.has_begun) {
                        session.has_begun = true;
                        let mark = self.marks.get(&outbox).copied().unwrap_or(Seq::ZERO);
                        stage.oracle.session_began(machine.no, mark, from);
                    }
                    if self.submit(Job::Read(outbox, from)).is_err() {
                        self.relay.not_sent();
                        self.send_not_before_ms = now.boottime_ms + SEND_PAUSE_MS;
                        return;
                    }
                }
            }
        }
    }

    fn send_hello(&mut self, machine: &Machine, stage: &mut Stage, now: Now) {
        let Some(session) = &mut self.session else { return };
        let skipped = self.views.len().saturating_sub(MAX_HELLO_OUTBOXES);
        let outboxes = self.views.iter().skip(skipped).map(|view| OutboxHello {
            outbox: view.id,
            last_seq: view.last_seq,
            receipted_through: view.mark.receipted_through,
            store_epoch: view.mark.store_epoch,
            oldest_unreceipted_age_ms: None,
        });
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
        let now = machine.now(stage);
        let Some(file) = machine.disk.find(outbox) else { return self.relay.not_sent() };
        let Some(chunk) = file.read(first_seq) else {
            stage.oracle.read_of_pruned(machine.no, first_seq);
            return self.relay.not_sent();
        };
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

    fn tick(&mut self, machine: &mut Machine, stage: &mut Stage) {
        self.next_wake_ms = None;
        let now = machine.now(stage);
        if let Some(anchor) = self.anchors.clock_read(&now) {
            stage.tally.count("anchors from the kernel");
            stage.say(format_args!("door {}", machine.no + 1), format_args!("has an anchor from the kernel"));
            self.record(anchor, None, now, stage);
        }
        for run in self.admission.expire(now.boottime_ms) {
            self.record(Body::Repeats { seq: run.seq, n: run.repeats }, None, now, stage);
        }
        if now.boottime_ms >= self.housekeep_due_ms {
            self.housekeep_due_ms = now.boottime_ms + HOUSEKEEP_EVERY_MS;
            let _ = self.submit(Job::Housekeep);
        }
    }

    /// What follows every event, as in `Agent::handle`; then the disk goes on, and the next tick is planned.
    fn after_all(&mut self, machine: &mut Machine, stage: &mut Stage) {
        self.send_what_is_due(machine, stage);
        self.work_on(machine, stage);
        let now_ms = machine.now(stage).boottime_ms;
        let second = now_ms + 1_000;
        let sending_ms = match self.send_not_before_ms > now_ms {
            true => self.send_not_before_ms,
            false => self.relay.wake_at_ms().unwrap_or(second),
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

impl Machine {
    fn plan(&self, stage: &mut Stage, delay_ms: u64, what: DoorEvent) {
        stage.after(delay_ms, Event::Door { door: self.no, run: self.run, what });
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

/// The beginning of an outbox's id: enough to tell them apart in a trace.
pub fn short(outbox: OutboxId) -> String {
    outbox.to_string()[..6].to_owned()
}
