//! cloud-ingest's intake: its thin part played step by step as `cloud_ingest::intake::worker` does it, so that it can die
//! between any two steps; what is decided is decided by the real `verify`, the real store and the real `receipts`.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use cloud_ingest::event_store::{
    Appended, Commands, DeadLetter, EventStore, OutboxMark, StoreError, UtcMs, good_keys,
};
use cloud_ingest::intake::MAX_WAITING;
use cloud_ingest::intake::admit::Admission;
use cloud_ingest::intake::verify::{Arrival, Reject, verify};
use cloud_ingest::intake::worker::MAX_GROUP_MESSAGES;
use cloud_ingest::receipts::{self, Stamp};
use tap_protocol::envelope::VerifiedBatch;
use tap_protocol::hello::Hello;
use tap_protocol::ids::{ControllerId, OutboxId, Seq, StoreEpoch};
use tap_protocol::keys::{PublicKey, SigningKey};
use tap_protocol::receipt::Receipt;
use tap_protocol::report::What;
use tap_protocol::topic::{Channel, Topic};

use crate::bait::Bait;
use crate::edge::short;
use crate::net::{Client, ConnNo, Message, Packet, Way};
use crate::stage::{Event, IntakeEvent, Stage};
use crate::vault::Vault;

/// Between which two steps it dies next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashAt {
    /// Before the group is committed.
    BeforeCommit,
    /// After the commit, before the acknowledgement.
    AfterCommit,
    /// After the acknowledgement, before the receipts.
    AfterAck,
}

/// The intake process.
pub struct Intake {
    receipt_key: SigningKey,
    /// Which run; events for another run go nowhere.
    pub run: u32,
    /// Where it dies next.
    pub crash_at: Option<CrashAt>,
    process: Option<Process>,
}

#[derive(Default)]
struct Process {
    conn: Option<ConnNo>,
    connecting: Option<ConnNo>,
    pause_ms: u64,
    next_id: u16,
    inbox: VecDeque<Arrived>,
    /// Messages that found the inbox full: the connection's task waits with them.
    held_back: VecDeque<Arrived>,
    keys: BTreeMap<ControllerId, Vec<PublicKey>>,
    epoch: Option<StoreEpoch>,
    work: Option<Work>,
    /// The next step is planned.
    planned: bool,
}

/// What the connection hands over.
enum Arrived {
    Connected,
    Message(ConnNo, u16, Rc<Message>),
}

/// A group on its way through.
#[derive(Default)]
struct Work {
    steps: VecDeque<Step>,
    connected: bool,
    batches: Vec<(VerifiedBatch, Rc<Message>)>,
    hellos: Vec<Hello>,
    gone: Vec<ControllerId>,
    rejected: Vec<(Reject, Rc<Message>)>,
    tickets: Vec<(ConnNo, u16, Rc<Message>)>,
    appended: Vec<Appended>,
    greeted: Vec<(Hello, Vec<OutboxMark>)>,
    wanted: Vec<(ControllerId, OutboxId, Vec<Seq>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Store,
    Acknowledge,
    Answer,
}

impl Intake {
    /// An intake that has not started.
    pub fn new(receipt_key: SigningKey) -> Intake {
        Intake { receipt_key, run: 0, crash_at: None, process: None }
    }

    /// Starts the process.
    pub fn start(&mut self, stage: &mut Stage, in_ms: u64) {
        stage.after(in_ms, Event::Intake(self.run, IntakeEvent::Start));
    }

    /// The process dies, and starts again.
    pub fn die(&mut self, stage: &mut Stage, back_in_ms: u64) {
        self.run += 1;
        if let Some(process) = self.process.take() {
            stage.say(format_args!("intake"), format_args!("dies"));
            if let Some(conn) = process.conn.or(process.connecting) {
                stage.cut(conn, 500);
            }
        }
        self.start(stage, back_in_ms);
    }

    /// Something happens to the process. Says whether something new is stored.
    pub fn handle(&mut self, stage: &mut Stage, vault: &mut Vault, run: u32, what: IntakeEvent) -> bool {
        if run != self.run {
            return false;
        }
        match what {
            IntakeEvent::Start => {
                stage.say(format_args!("intake"), format_args!("starts"));
                self.process = Some(Process { pause_ms: 100, ..Process::default() });
                stage.after(0, Event::Intake(run, IntakeEvent::Connect));
                false
            }
            IntakeEvent::Connect => {
                if let Some(process) = &mut self.process {
                    process.connect(stage, run);
                }
                false
            }
            IntakeEvent::Step => self.step(stage, vault),
        }
    }

    /// A packet for the process.
    pub fn packet(&mut self, stage: &mut Stage, conn: ConnNo, packet: Packet) {
        let Some(process) = &mut self.process else { return };
        let arrived = match packet {
            Packet::ConnAck if process.connecting == Some(conn) => {
                stage.say(format_args!("intake"), format_args!("session {conn} is up"));
                stage.tally.count("intake sessions");
                process.connecting = None;
                process.conn = Some(conn);
                process.pause_ms = 100;
                Arrived::Connected
            }
            Packet::Publish(id, message) if process.conn == Some(conn) => Arrived::Message(conn, id, message),
            _ => return,
        };
        process.take(arrived);
        let delay_ms = stage.dice.below(10);
        process.plan(stage, self.run, delay_ms);
    }

    /// The connection is gone, or (`unanswered`) was never answered.
    pub fn notices(&mut self, stage: &mut Stage, conn: ConnNo, unanswered: bool) {
        let Some(process) = &mut self.process else { return };
        if process.connecting == Some(conn) || (process.conn == Some(conn) && !unanswered) {
            process.lost(stage, self.run);
        }
    }

    /// Messages that wait.
    pub fn waiting(&self) -> usize {
        self.process.as_ref().map_or(0, |process| process.inbox.len())
    }

    fn step(&mut self, stage: &mut Stage, vault: &mut Vault) -> bool {
        let Some(process) = &mut self.process else { return false };
        process.planned = false;
        if process.work.is_none() {
            match process.next_group(stage, vault) {
                Ok(work) => process.work = Some(work),
                Err(_) => {
                    stage.tally.count("store calls that failed");
                    process.plan(stage, self.run, 1_000);
                    return false;
                }
            }
        }
        let Some(mut work) = process.work.take() else { return false };
        let Some(step) = work.steps.pop_front() else { return false };
        let crash = match step {
            Step::Store => CrashAt::BeforeCommit,
            Step::Acknowledge => CrashAt::AfterCommit,
            Step::Answer => CrashAt::AfterAck,
        };
        if self.crash_at == Some(crash) && !work.tickets.is_empty() {
            self.crash_at = None;
            stage.tally.count(&format!("intake crashes: {crash:?}"));
            let back_in_ms = stage.dice.between(500, 10_000);
            self.die(stage, back_in_ms);
            return false;
        }
        let done = match step {
            Step::Store => work.store(stage, vault),
            Step::Acknowledge => {
                process.acknowledge(&work, stage);
                Ok(())
            }
            Step::Answer => process.answer(&mut work, stage, vault, &self.receipt_key),
        };
        let pause_ms = match done {
            Ok(()) => stage.dice.below(15),
            Err(_) => {
                stage.tally.count("store calls that failed");
                work.steps.push_front(step);
                stage.dice.between(100, 2_000)
            }
        };
        process.work = (!work.steps.is_empty()).then_some(work);
        process.plan(stage, self.run, pause_ms);
        step == Step::Store
    }
}

impl Process {
    fn connect(&mut self, stage: &mut Stage, run: u32) {
        if self.conn.is_some() || self.connecting.is_some() {
            return;
        }
        if !stage.net.lets_in(Client::Cloud, stage.now_ms) {
            return self.lost(stage, run);
        }
        let conn = stage.net.open(Client::Cloud);
        self.connecting = Some(conn);
        stage.send(conn, Way::Up, Packet::Connect);
        stage.after(10_000, Event::GivesUp(conn));
    }

    fn lost(&mut self, stage: &mut Stage, run: u32) {
        (self.conn, self.connecting) = (None, None);
        let pause_ms = stage.dice.between(self.pause_ms / 2, self.pause_ms);
        self.pause_ms = (2 * self.pause_ms).min(10_000);
        stage.after(pause_ms, Event::Intake(run, IntakeEvent::Connect));
    }

    fn take(&mut self, arrived: Arrived) {
        match self.inbox.len() < MAX_WAITING {
            true => self.inbox.push_back(arrived),
            false => self.held_back.push_back(arrived),
        }
    }

    /// Plans the next step if there is something to do and none is planned.
    fn plan(&mut self, stage: &mut Stage, run: u32, delay_ms: u64) {
        if !self.planned && (self.work.is_some() || !self.inbox.is_empty()) {
            self.planned = true;
            stage.after(delay_ms, Event::Intake(run, IntakeEvent::Step));
        }
    }

    /// Takes what waits and proves it. If the store cannot be asked for a key, everything stays where it was.
    fn next_group(&mut self, stage: &mut Stage, vault: &mut Vault) -> Result<Work, StoreError> {
        let count = self.inbox.len().min(MAX_GROUP_MESSAGES);
        let mut work = Work::default();
        for arrived in self.inbox.iter().take(count) {
            match arrived {
                Arrived::Connected => work.connected = true,
                Arrived::Message(conn, id, message) => {
                    work.tickets.push((*conn, *id, Rc::clone(message)));
                    match prove(&mut self.keys, message, stage, vault)? {
                        Arrival::Records(batch) => work.batches.push((batch, Rc::clone(message))),
                        Arrival::Hello(hello) => work.hellos.push(*hello),
                        Arrival::Report(report) => {
                            if let What::HashesWanted { outbox, seqs } = report.what {
                                work.wanted.push((report.controller, outbox, seqs));
                            }
                        }
                        Arrival::Gone(controller) => work.gone.push(controller),
                        Arrival::Reject(reject) => work.rejected.push((reject, Rc::clone(message))),
                    }
                }
            }
        }
        self.inbox.drain(..count);
        let room = MAX_WAITING - self.inbox.len();
        self.inbox.extend(self.held_back.drain(..room.min(self.held_back.len())));
        let order = match stage.bait {
            Some(Bait::AckBeforeCommit) => [Step::Acknowledge, Step::Store, Step::Answer],
            Some(Bait::ReceiptBeforeCommit) => [Step::Answer, Step::Store, Step::Acknowledge],
            _ => [Step::Store, Step::Acknowledge, Step::Answer],
        };
        work.steps = order.into();
        Ok(work)
    }

    fn acknowledge(&mut self, work: &Work, stage: &mut Stage) {
        for (conn, id, message) in &work.tickets {
            if work.has_records(message.no) {
                stage.oracle.acknowledged(message.no);
            }
            if self.conn == Some(*conn) {
                stage.send(*conn, Way::Up, Packet::PubAck(*id));
            }
        }
    }

    /// Receipts, stamped as late as can be.
    fn answer(
        &mut self,
        work: &mut Work,
        stage: &mut Stage,
        vault: &mut Vault,
        key: &SigningKey,
    ) -> Result<(), StoreError> {
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => *self.epoch.insert(vault.call(stage.now_ms, |store| store.store_epoch())?),
        };
        let stamp = Stamp { epoch, now: stage.utc() };
        let mut receipts = Vec::new();
        if work.connected {
            let marks = vault.call(stage.now_ms, |store| store.marks())?;
            stage.tally.add("receipts at a take-over", marks.len() as u64);
            receipts.extend(receipts::on_take_over(&marks, stamp));
            work.connected = false;
        }
        if stage.has(Bait::ReceiptBeforeCommit) {
            let batches: Vec<_> = work.batches.iter().map(|(batch, _)| batch.clone()).collect();
            work.appended = vault.store.copy()?.append(&batches, stage.utc())?;
        }
        if stage.has(Bait::ReceiptIsMax) {
            for (appended, (batch, _)) in work.appended.iter_mut().zip(&work.batches) {
                if let (Admission::Beyond, Some(hash)) =
                    (&appended.admission, batch.hash_at(batch.last_seq()))
                {
                    (appended.mark.stored_through, appended.mark.hash) = (batch.last_seq(), hash);
                }
            }
        }
        for (controller, outbox, seqs) in &work.wanted {
            let places = vault.call(stage.now_ms, |store| store.places(controller, *outbox, seqs))?;
            stage.tally.add("answers where an outbox and the store go apart", places.len() as u64);
            receipts.extend(receipts::at_places(&places, stamp));
        }
        receipts.extend(receipts::after_append(&work.appended, stamp));
        for (hello, marks) in &work.greeted {
            receipts.extend(receipts::for_hello(hello, marks, stamp));
        }
        for receipt in receipts {
            self.publish(&receipt, stage, key);
        }
        Ok(())
    }

    fn publish(&mut self, receipt: &Receipt, stage: &mut Stage, key: &SigningKey) {
        stage.tally.count("receipts");
        if receipt.resend {
            stage.tally.count("receipts that ask to send again");
        }
        let (outbox, through) = (short(receipt.outbox), receipt.stored_through);
        stage.say(format_args!("intake"), format_args!("receipt for {outbox} through {through}"));
        stage.oracle.receipt_made(receipt);
        let Some(conn) = self.conn else { return };
        let topic = Topic::new(&receipt.controller, Channel::Receipt).to_string();
        self.next_id = self.next_id.wrapping_add(1);
        let message = stage.message(topic, receipt.sign(key));
        stage.publish(conn, Way::Up, self.next_id, &message);
    }
}

impl Work {
    fn has_records(&self, message: u64) -> bool {
        self.batches.iter().any(|(_, records)| records.no == message)
    }

    /// All that is to be committed. What is done once is not done again if a later part fails.
    fn store(&mut self, stage: &mut Stage, vault: &mut Vault) -> Result<(), StoreError> {
        let (now_ms, now) = (stage.now_ms, stage.utc());
        self.put_aside(stage, vault)?;
        let is_appended = !self.appended.is_empty() && !stage.has(Bait::ReceiptBeforeCommit);
        if !is_appended && !self.batches.is_empty() {
            let batches: Vec<_> = self.batches.iter().map(|(batch, _)| batch.clone()).collect();
            self.appended = vault.call(now_ms, |store| store.append(&batches, now))?;
            for (appended, (batch, message)) in self.appended.iter().zip(&self.batches) {
                let (outbox, from, to) = (short(batch.outbox()), batch.first_seq(), batch.last_seq());
                let what = match appended.admission {
                    Admission::Store { .. } => "store",
                    Admission::Duplicate => "duplicate",
                    Admission::Beyond => "beyond",
                    Admission::Fork { at } => {
                        let reason = format!("record {at} is stored with another content");
                        let reject = Reject { kind: "fork", reason, controller: None };
                        self.rejected.push((reject, Rc::clone(message)));
                        "fork"
                    }
                };
                stage.oracle.decided(message.no);
                stage.tally.count(&format!("admission: {what}"));
                stage.say(format_args!("intake"), format_args!("{what}: {outbox} {from} to {to}"));
            }
        }
        self.put_aside(stage, vault)?;
        while let Some(hello) = self.hellos.first() {
            let marks = vault.call(now_ms, |store| store.note_hello(hello, now))?;
            self.greeted.push((self.hellos.remove(0), marks));
        }
        while let Some(controller) = self.gone.last() {
            vault.call(now_ms, |store| store.note_gone(controller, now))?;
            self.gone.pop();
        }
        Ok(())
    }

    fn put_aside(&mut self, stage: &mut Stage, vault: &mut Vault) -> Result<(), StoreError> {
        while let Some((reject, message)) = self.rejected.last() {
            let letter = letter(reject, message, stage.utc());
            vault.call(stage.now_ms, |store| store.quarantine(&letter))?;
            stage.oracle.decided(message.no);
            stage.tally.count(&format!("quarantined: {}", letter.kind));
            stage.say(format_args!("intake"), format_args!("puts aside: {}", letter.kind));
            self.rejected.pop();
        }
        Ok(())
    }
}

/// Proves one message. A key that does not fit is looked up once more, as the real worker does.
fn prove(
    keys: &mut BTreeMap<ControllerId, Vec<PublicKey>>,
    message: &Message,
    stage: &Stage,
    vault: &mut Vault,
) -> Result<Arrival, StoreError> {
    let Ok(topic) = message.topic.parse::<Topic>() else {
        return Ok(verify(&message.topic, &message.payload, |_| vec![]));
    };
    let known = keys.get(&topic.controller).cloned().unwrap_or_default();
    let arrival = verify(&message.topic, &message.payload, |_| known.clone());
    let doubtful =
        matches!(&arrival, Arrival::Reject(r) if matches!(r.kind, "unknown_controller" | "unauthentic"));
    if !doubtful {
        return Ok(arrival);
    }
    let found = vault.call(stage.now_ms, |store| store.controller(&topic.controller))?;
    let Some(controller) = found else { return Ok(arrival) };
    let good = good_keys(&controller.record_keys, stage.utc());
    keys.insert(topic.controller, good.clone());
    Ok(if known == good { arrival } else { verify(&message.topic, &message.payload, |_| good) })
}

fn letter(reject: &Reject, message: &Message, received: UtcMs) -> DeadLetter {
    DeadLetter {
        received,
        topic: message.topic.clone(),
        kind: reject.kind.into(),
        reason: reject.reason.clone(),
        bytes: message.payload.clone(),
    }
}
