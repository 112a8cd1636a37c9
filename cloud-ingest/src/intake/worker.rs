//! Steps 7, 8 and 10 of 12: what waits is proved, stored as one group, acknowledged, and answered with receipts, in
//! this order. Knows messages and the store; the connection is behind [`BrokerLink`].
//!
//! **Invariant**: nothing is acknowledged before it is committed: as records, or in quarantine with its reason. While
//! the store cannot, the worker waits and the broker keeps. Nothing is acknowledged, and no receipt goes out, while another
//! replica takes in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tap_protocol::envelope::VerifiedBatch;
use tap_protocol::hello::Hello;
use tap_protocol::ids::{ControllerId, Seq, StoreEpoch};
use tap_protocol::receipt::Receipt;
use tap_protocol::report::{Report, What};
use tap_protocol::topic::{Channel, Topic};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::admit::Admission;
use super::holding::Hold;
use super::revoked;
use super::roster::RosterDesk;
use super::twins::Twins;
use super::verify::{Arrival, Reject, verify};
use super::{BrokerLink, FromBroker, Message, Ticket};
use crate::backoff::Backoff;
use crate::capture::desk::{Arrived, StoreSays};
use crate::clock::{Clock, Stopwatch};
use crate::crash;
use crate::event_store::capture::{Place, Sitting, ToCapture};
use crate::event_store::handle::StoreHandle;
use crate::event_store::{
    Appended, DeadLetter, EventStore, MAX_DEAD_LETTER_BYTES, OutboxMark, RecordKey, StoreError, UtcMs,
    good_keys,
};
use crate::health::{Health, Loop};
use crate::keyring::live::LiveKeys;
use crate::receipts::{self, Stamp};
use crate::roll::Roll;
use crate::seldom::Seldom;
use crate::stop::Stop;
use crate::telemetry::{Intake, Metrics, with_causes};
use crate::usher::Bell;

/// One group has at most so many messages …
pub const MAX_GROUP_MESSAGES: usize = 64;

/// … so many taps that came over HTTP …
pub const MAX_GROUP_CAPTURES: usize = 256;

/// … and about so many records: a commit of these takes well under a second on slow disks.
pub const MAX_GROUP_RECORDS: usize = 8_192;

/// What the worker needs.
pub struct Worker<L> {
    /// The store.
    pub store: StoreHandle,
    /// The broker.
    pub link: L,
    /// Whether it is ours to take in from.
    pub hold: Hold,
    /// Signs receipts, rosters and commands.
    pub keys: LiveKeys,
    /// Who is revoked, as far as this process has noticed.
    pub roll: watch::Receiver<Arc<Roll>>,
    /// Ends the sessions of those who still speak though they are revoked.
    pub usher: Bell,
    /// Brings rosters to the doors.
    pub roster: RosterDesk,
    /// The time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where turns are noted.
    pub health: Arc<Health>,
    /// Wakes the dispatcher.
    pub wake: Arc<Notify>,
    /// Where the taps stand that come over HTTP, until this process ends.
    pub sitting: Sitting,
}

/// Runs until told to stop, or until the connection's side is gone.
pub async fn run<L: BrokerLink>(
    worker: Worker<L>,
    mut inbox: mpsc::Receiver<FromBroker>,
    mut captured: mpsc::Receiver<Arrived>,
    stop: Stop,
) {
    let mut running = Running {
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
        worker,
        stop,
        keys: HashMap::new(),
        complaints: Seldom::new(),
        epoch: None,
        twins: Twins::default(),
        captured: Vec::new(),
    };
    while let Some(group) = running.next_group(&mut inbox, &mut captured).await {
        match running.work_off(group).await {
            Ok(()) => {}
            Err(Stopped) => break,
        }
    }
}

/// Told to stop while the store could not: what was not stored was not acknowledged.
#[derive(Debug)]
struct Stopped;

struct Running<L> {
    worker: Worker<L>,
    stop: Stop,
    backoff: Backoff,
    /// Record keys seen, so that the store is not asked for each message.
    keys: HashMap<ControllerId, Vec<RecordKey>>,
    /// Which complaints were logged lately.
    complaints: Seldom<(&'static str, Option<ControllerId>)>,
    epoch: Option<StoreEpoch>,
    twins: Twins,
    /// Taps over HTTP that wait for the group's commit. Their clients wait, so they are told as soon as the store cannot.
    captured: Vec<Arrived>,
}

/// A group, sorted by what is to be done.
#[derive(Default)]
struct Group {
    connected: bool,
    batches: Vec<(VerifiedBatch, Message)>,
    hellos: Vec<Hello>,
    reports: Vec<Report>,
    gone: Vec<ControllerId>,
    rejected: Vec<(Reject, Message)>,
    /// In the order in which they came.
    tickets: Vec<Ticket>,
}

impl<L: BrokerLink> Running<L> {
    /// Waits for something, then takes what else is there.
    async fn next_group(
        &mut self,
        inbox: &mut mpsc::Receiver<FromBroker>,
        captured: &mut mpsc::Receiver<Arrived>,
    ) -> Option<Vec<FromBroker>> {
        let mut group = Vec::new();
        loop {
            self.worker.health.turned(Loop::Intake, self.worker.clock.now());
            tokio::select! {
                biased;
                () = self.stop.said() => return None,
                // Where nothing is captured, nobody holds the other end.
                Some(first) = captured.recv() => self.captured.push(first),
                first = timeout(Duration::from_secs(1), inbox.recv()) => match first {
                    Err(_idle) => continue,
                    Ok(None) => return None,
                    Ok(Some(first)) => group.push(first),
                },
            }
            while group.len() < MAX_GROUP_MESSAGES
                && let Ok(next) = inbox.try_recv()
            {
                group.push(next);
            }
            while self.captured.len() < MAX_GROUP_CAPTURES
                && let Ok(next) = captured.try_recv()
            {
                self.captured.push(next);
            }
            return Some(group);
        }
    }

    async fn work_off(&mut self, arrived: Vec<FromBroker>) -> Result<(), Stopped> {
        let mut group = Group::default();
        let mut records = 0;
        for event in arrived {
            match event {
                FromBroker::Connected => group.connected = true,
                FromBroker::Message(message) => {
                    group.tickets.extend(message.ticket);
                    let arrival = self.prove(&message).await?;
                    let (arrival, rest) = self.as_far_as_trusted(arrival).await?;
                    group.rejected.extend(rest.map(|reject| (reject, message.clone())));
                    match arrival {
                        Arrival::Records(batch) => {
                            records += batch.records().count();
                            group.batches.push((batch, message));
                        }
                        Arrival::Hello(hello) => group.hellos.push(*hello),
                        Arrival::Report(report) => group.reports.push(*report),
                        Arrival::Gone(controller) => group.gone.push(controller),
                        Arrival::Reject(reject) => group.rejected.push((reject, message)),
                    }
                    if records >= MAX_GROUP_RECORDS {
                        self.store_and_answer(std::mem::take(&mut group)).await?;
                        records = 0;
                    }
                }
            }
        }
        self.store_and_answer(group).await
    }

    /// Proves one message. A key that does not fit is looked up once more: it may have been changed.
    async fn prove(&mut self, message: &Message) -> Result<Arrival, Stopped> {
        let Ok(topic) = message.topic.parse::<Topic>() else {
            return Ok(verify(&message.topic, &message.payload, |_| vec![]));
        };
        if self.worker.roll.has_changed().unwrap_or(false) {
            // Keys may have changed with it.
            self.worker.roll.mark_unchanged();
            self.keys.clear();
        }
        let now = self.worker.clock.now();
        let known = self.keys.get(&topic.controller).map_or(vec![], |keys| good_keys(keys, now));
        let arrival = verify(&message.topic, &message.payload, |_| known.clone());
        let doubtful =
            matches!(&arrival, Arrival::Reject(r) if matches!(r.kind, "unknown_controller" | "unauthentic"));
        if !doubtful {
            return Ok(arrival);
        }
        let controller = topic.controller.clone();
        let found = self.persist("look a controller up", move |store| store.controller(&controller)).await?;
        let Some(keys) = found.ok().flatten().map(|controller| controller.record_keys) else {
            self.keys.remove(&topic.controller);
            return Ok(verify(&message.topic, &message.payload, |_| vec![]));
        };
        let good = good_keys(&keys, now);
        self.keys.insert(topic.controller, keys);
        Ok(if known == good { arrival } else { verify(&message.topic, &message.payload, |_| good) })
    }

    /// Of what a revoked controller says, only records that it had spoken of before are taken. Gives what is left, and
    /// why the rest is put aside.
    async fn as_far_as_trusted(&mut self, arrival: Arrival) -> Result<(Arrival, Option<Reject>), Stopped> {
        let controller = match &arrival {
            Arrival::Records(batch) => batch.controller(),
            Arrival::Hello(hello) => &hello.controller,
            Arrival::Report(report) => &report.controller,
            Arrival::Gone(_) | Arrival::Reject(_) => return Ok((arrival, None)),
        };
        if !self.worker.roll.borrow().revoked.contains(controller) {
            return Ok((arrival, None));
        }
        let id = controller.clone();
        // It is told first, so that it knows why the door is closed; once a session, however much else it says.
        if matches!(arrival, Arrival::Hello(_)) {
            self.send_next_command(&id).await?;
        }
        self.worker.usher.ring(&id);
        let Arrival::Records(batch) = arrival else {
            return Ok((Arrival::Reject(revoked::not_heard(&id)), None));
        };
        let (controller, outbox) = (batch.controller().clone(), batch.outbox());
        let through = self
            .persist("see how far a controller is trusted", move |store| {
                store.trusted_through(&controller, outbox)
            })
            .await?;
        // By now it may be trusted again; what the store cannot say is not trusted.
        let Some(through) = through.unwrap_or(Some(Seq::ZERO)) else {
            return Ok((Arrival::Records(batch), None));
        };
        Ok(match revoked::divide(batch, through) {
            (Some(trusted), rest) => (Arrival::Records(trusted), rest),
            (None, rest) => (Arrival::Reject(rest.expect("what is not trusted has a reason")), None),
        })
    }

    async fn store_and_answer(&mut self, group: Group) -> Result<(), Stopped> {
        let Group { connected, batches, hellos, reports, gone, rejected, tickets } = group;
        let received = self.worker.clock.now();
        for (reject, message) in rejected {
            self.put_aside(reject, message, received).await?;
        }
        let appended = self.append(batches, received).await?;
        let mut greeted = Vec::new();
        for hello in hellos {
            let noted = hello.clone();
            if let Ok(marks) =
                self.persist("note a hello", move |store| store.note_hello(&noted, received)).await?
            {
                self.worker.roster.greeted(&hello);
                greeted.push((hello, marks));
            }
        }
        for controller in gone {
            // What the store refuses for good was logged; a display misses a line, nothing else.
            let _ = self
                .persist("note a lost connection", move |store| store.note_gone(&controller, received))
                .await?;
        }
        if !self.may_acknowledge().await? {
            return Ok(());
        }
        self.acknowledge(&tickets);
        for report in reports {
            self.reported(report).await?;
        }
        self.answer(connected, &appended, &greeted).await?;
        for (hello, _) in &greeted {
            self.greeted(hello).await?;
        }
        Ok(())
    }

    /// Stores all batches and captured taps in one transaction. A batch that the store refuses for good keeps nobody
    /// else's from it.
    async fn append(
        &mut self,
        batches: Vec<(VerifiedBatch, Message)>,
        received: UtcMs,
    ) -> Result<Vec<Appended>, Stopped> {
        if batches.is_empty() && self.captured.is_empty() {
            return Ok(Vec::new());
        }
        let (batches, messages): (Vec<_>, Vec<_>) = batches.into_iter().unzip();
        let shared: Arc<[VerifiedBatch]> = batches.into();
        crash::point("before-append-commit");
        let watch = Stopwatch::start();
        let appended: Vec<Option<Appended>> = match self.take_in(&shared, received).await {
            Ok(appended) => appended.into_iter().map(Some).collect(),
            Err(error) if error.is_retryable() => {
                let group = Arc::clone(&shared);
                match self.persist("store a group", move |store| store.append(&group, received)).await? {
                    Ok(appended) => appended.into_iter().map(Some).collect(),
                    Err(_) => self.append_one_by_one(&shared, received).await?,
                }
            }
            Err(_) => self.append_one_by_one(&shared, received).await?,
        };
        self.worker.metrics.committed(watch.seconds());
        crash::point("after-append-commit");
        for ((batch, message), appended) in shared.iter().zip(messages).zip(&appended) {
            let admission = appended.as_ref().map(|appended| &appended.admission);
            self.count(batch, admission);
            if let Some(Admission::Fork { at }) = admission {
                self.forked(batch.controller(), batch.outbox(), *at).await?;
            }
            if let Some(reject) = Reject::not_admitted(batch, admission) {
                self.put_aside(reject, message, received).await?;
            }
        }
        self.worker.wake.notify_one();
        Ok(appended.into_iter().flatten().collect())
    }

    /// The first try, with what came over HTTP.
    async fn take_in(
        &mut self,
        batches: &Arc<[VerifiedBatch]>,
        received: UtcMs,
    ) -> Result<Vec<Appended>, StoreError> {
        let mut captured = std::mem::take(&mut self.captured);
        // Who does not wait any more has its tap in the spool.
        captured.retain(|one| !one.answer.is_closed());
        let (sitting, key) = (self.worker.sitting, self.worker.keys.now().capture());
        let to_capture = |Arrived { tap, claim, answer }: Arrived| {
            (ToCapture { tap, sitting, place: Place::Next(claim) }, answer)
        };
        let (taps, answers): (Vec<_>, Vec<_>) = captured.into_iter().map(to_capture).unzip();
        let batches = Arc::clone(batches);
        let job = move |store: &mut dyn EventStore| store.take_in(&batches, &taps, &key, received);
        let taken = self.worker.store.run(job).await;
        for (index, answer) in answers.into_iter().enumerate() {
            let said = match &taken {
                Ok(taken) => {
                    self.worker.metrics.captured(&taken.captured[index]);
                    StoreSays::Is(taken.captured[index])
                }
                Err(_) => StoreSays::CannotNow,
            };
            // Who waits no more repeats the request, or is in the spool: the idempotency key makes it one tap.
            let _ = answer.send(said);
        }
        if let Err(error) = &taken {
            self.worker.metrics.store_error(Loop::Intake);
            if self.complaints.speaks(("store", None), received) {
                tracing::warn!(
                    why = with_causes(error),
                    "a group cannot be stored as it is (said once a minute)"
                );
            }
        }
        taken.map(|taken| taken.appended)
    }

    async fn append_one_by_one(
        &mut self,
        batches: &Arc<[VerifiedBatch]>,
        received: UtcMs,
    ) -> Result<Vec<Option<Appended>>, Stopped> {
        let mut all = Vec::new();
        for index in 0..batches.len() {
            let batches = Arc::clone(batches);
            let one = self
                .persist("store a batch", move |store| store.append(&batches[index..=index], received))
                .await?;
            all.push(one.ok().and_then(|appended| appended.into_iter().next()));
        }
        Ok(all)
    }

    fn count(&self, batch: &VerifiedBatch, admission: Option<&Admission>) {
        let all = batch.records().count() as u64;
        let metrics = &self.worker.metrics;
        match admission {
            Some(Admission::Store { from }) => {
                let new = batch.last_seq().0 + 1 - from.0;
                metrics.took_in(Intake::Stored, new);
                metrics.took_in(Intake::Duplicate, all - new);
            }
            Some(Admission::Duplicate) => metrics.took_in(Intake::Duplicate, all),
            Some(Admission::Beyond) => metrics.took_in(Intake::Beyond, all),
            Some(Admission::Fork { .. }) => metrics.took_in(Intake::Fork, all),
            None => {}
        }
    }

    /// Quarantines, counts, and complains once a minute.
    async fn put_aside(&mut self, reject: Reject, message: Message, now: UtcMs) -> Result<(), Stopped> {
        let Reject { kind, reason, controller } = reject;
        self.worker.metrics.quarantined(kind);
        if self.complaints.speaks((kind, controller.clone()), now) {
            let controller = controller.as_ref().map_or("?", ControllerId::as_str);
            tracing::warn!(kind, controller, reason, "a message was put aside (said once a minute)");
        }
        let mut bytes = message.payload;
        bytes.truncate(MAX_DEAD_LETTER_BYTES);
        let letter = DeadLetter { received: now, topic: message.topic, kind: kind.into(), reason, bytes };
        // What the store refuses for good was logged: then it is lost, and counted as quarantined all the same.
        let _ = self.persist("quarantine a message", move |store| store.quarantine(&letter)).await?;
        Ok(())
    }

    /// Whether this process still is who takes in. If not, whoever is will be sent all of it again, and answers.
    async fn may_acknowledge(&mut self) -> Result<bool, Stopped> {
        if let Hold::Alone = self.worker.hold {
            return Ok(true);
        }
        let is_good = self.worker.hold.is_good();
        Ok(self.persist("see who takes in", is_good).await?.unwrap_or(false))
    }

    fn acknowledge(&self, tickets: &[Ticket]) {
        if !tickets.is_empty() {
            crash::point("before-puback");
        }
        for ticket in tickets {
            self.worker.link.acknowledge(*ticket);
        }
    }

    /// Receipts, stamped as late as can be.
    async fn answer(
        &mut self,
        connected: bool,
        appended: &[Appended],
        greeted: &[(Hello, Vec<OutboxMark>)],
    ) -> Result<(), Stopped> {
        if connected && let Ok(marks) = self.persist("read the marks", |store| store.marks()).await? {
            let stamp = self.stamp().await?;
            self.publish(receipts::on_take_over(&marks, stamp));
        }
        if !appended.is_empty() || !greeted.is_empty() {
            let stamp = self.stamp().await?;
            self.publish(receipts::after_append(appended, stamp));
            for (hello, marks) in greeted {
                self.publish(receipts::for_hello(hello, marks, stamp));
            }
        }
        Ok(())
    }

    async fn stamp(&mut self) -> Result<Stamp, Stopped> {
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => match self.persist("read the store's epoch", |store| store.store_epoch()).await? {
                Ok(epoch) => *self.epoch.insert(epoch),
                Err(_) => return Err(Stopped),
            },
        };
        Ok(Stamp { epoch, now: self.worker.clock.now() })
    }

    /// A controller asks for something, or tells what came of a command.
    async fn reported(&mut self, report: Report) -> Result<(), Stopped> {
        let Report { controller, what, .. } = report;
        tracing::debug!(%controller, ?what, "a report");
        match what {
            What::RosterWanted { version, from, count } => {
                self.worker.roster.wanted(controller, version, from, count);
                Ok(())
            }
            What::CommandDone { number, outcome, detail } => {
                self.command_done(controller, number, outcome, detail).await
            }
            What::HashesWanted { outbox, seqs } => self.hashes_wanted(controller, outbox, seqs).await,
        }
    }

    /// A receipt that finds no room is sent again at the next hello.
    fn publish(&self, receipts: Vec<Receipt>) {
        let receipt_key = self.worker.keys.now().receipt();
        for receipt in receipts {
            let topic = Topic::new(&receipt.controller, Channel::Receipt).to_string();
            let sent = self.worker.link.publish(topic, receipt.sign(&receipt_key));
            self.worker.metrics.receipt(sent);
        }
    }

    /// Asks the store until it answers: with a result, or with a refusal for good, which is logged here.
    async fn persist<T: Send + 'static>(
        &mut self,
        what: &'static str,
        job: impl Fn(&mut dyn EventStore) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<Result<T, StoreError>, Stopped> {
        self.backoff.reset();
        let mut said = false;
        loop {
            let answer = self.worker.store.run(job.clone()).await;
            self.worker.health.tries(Loop::Intake);
            let error = match answer {
                Ok(value) => return Ok(Ok(value)),
                Err(error) => error,
            };
            self.worker.metrics.store_error(Loop::Intake);
            for Arrived { answer, .. } in self.captured.drain(..) {
                // They go to the spool, and wait no longer for what may take hours.
                let _ = answer.send(StoreSays::CannotNow);
            }
            if !error.is_retryable() {
                tracing::error!(why = with_causes(&error), "the store refuses to {what}");
                return Ok(Err(error));
            }
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(
                    why = with_causes(&error),
                    "the store cannot {what} now; trying again until it can"
                );
            }
            tokio::select! {
                () = sleep(self.backoff.wait()) => {}
                () = self.stop.said() => return Err(Stopped),
            }
        }
    }
}

#[path = "commands.rs"]
mod commands;

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
