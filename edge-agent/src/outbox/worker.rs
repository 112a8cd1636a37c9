//! The outbox's thread. It owns the [`Shelf`], takes jobs over a bounded queue and answers into the agent's loop.
//!
//! Group commit: records that arrive while a commit is running share the next one, so a hundred people at once cost
//! two or three syncs and not a hundred. [`Committed`] can be made here and nowhere else, which is why a green light
//! cannot come before the commit.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tap_protocol::chain::ChainHash;
use tap_protocol::hello::OutboxHello;
use tap_protocol::ids::{BootId, OutboxId, Seq};
use tap_protocol::limits::MAX_HELLO_OUTBOXES;
use tap_protocol::record::{Body, PreviousStop, Record, short_text};
use tap_protocol::tap::Tap;
use tokio::sync::mpsc::Sender;

use super::shelf::{Owner, Shelf};
use super::{Chunk, OutboxError};
use crate::clock;
use crate::now::Now;
use crate::relay::Mark;

/// Jobs that may wait. A tap that finds the queue full is refused at the reader, with its own signal.
const MAX_WAITING_JOBS: usize = 1024;

/// Records in one commit: a bound on how long a tap can wait for others.
const MAX_GROUP: usize = 256;

/// Records deleted at a time, so that a tap never waits for a long deletion.
const PRUNE_STEP: u32 = 256;

/// Names one job's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the thread can be asked for.
#[derive(Debug)]
pub enum Job {
    /// Commit this record to the newest outbox.
    Append {
        /// Comes back with the answer.
        ticket: Ticket,
        /// What to commit. Its stamp's boot number is filled in here, where the outbox is known.
        now: Now,
        /// What happened.
        body: Body,
    },
    /// Read a batch's worth from `from` on.
    Read {
        /// Of which outbox.
        outbox: OutboxId,
        /// From which record on.
        from: Seq,
    },
    /// Look up `h(seq)`, with a receipt that wants to be compared with it.
    HashAt {
        /// The receipt, handed back with the answer.
        receipt: Box<tap_protocol::receipt::Receipt>,
    },
    /// Receipts go this far now.
    SetMark {
        /// In which outbox.
        outbox: OutboxId,
        /// This far.
        mark: Mark,
    },
    /// Write dirty marks and prune a little of what is receipted and old.
    Housekeep {
        /// How many receipted records each outbox keeps.
        keep_receipted: u64,
    },
    /// An outbox was put back to an older state: start a new one and say again in it what has no receipt.
    StartNew {
        /// Which.
        rewound: OutboxId,
        /// Time and place for the first record.
        now: Now,
    },
    /// Write something that changes nothing, the way a record is written: does the medium take it?
    Try,
    /// Write what is left to write and end.
    Stop,
}

/// What the thread answers.
#[derive(Debug)]
pub enum Done {
    /// Committed, in the order of their numbers, all in one commit.
    Appended {
        /// The proofs.
        records: Vec<(Ticket, Committed<Record>)>,
        /// How long the commit took, microseconds.
        commit_us: u64,
    },
    /// Not committed; nothing of it is on the medium.
    AppendFailed {
        /// Which.
        tickets: Vec<Ticket>,
        /// Why.
        error: OutboxError,
    },
    /// What was read.
    Chunk {
        /// From which outbox.
        outbox: OutboxId,
        /// The records; an error is a damaged file.
        chunk: Result<Chunk, OutboxError>,
    },
    /// The receipt and this outbox's own `h(stored_through)`, if it still has it.
    HashAt {
        /// The receipt.
        receipt: Box<tap_protocol::receipt::Receipt>,
        /// Ours.
        own: Result<Option<ChainHash>, OutboxError>,
    },
    /// A trial write came to this end.
    Tried(Result<(), OutboxError>),
    /// The outboxes changed: what is on the shelf now.
    Shelf(Vec<OutboxView>),
    /// No new outbox could be started; the next receipt gives reason to try again.
    StartFailed(OutboxError),
    /// Housekeeping failed; it is tried again.
    HousekeepingFailed(OutboxError),
    /// The thread has ended and everything is written.
    Stopped,
}

/// Proof that `value` is on the medium. Made by the outbox's thread after the commit, and by nobody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed<T> {
    value: T,
    outbox: OutboxId,
    seq: Seq,
}

impl<T> Committed<T> {
    /// What was committed.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Where.
    pub fn outbox(&self) -> OutboxId {
        self.outbox
    }

    /// Under which number.
    pub fn seq(&self) -> Seq {
        self.seq
    }
}

impl Committed<Record> {
    /// The tap, if this record is one.
    pub fn into_tap(self) -> Option<Committed<Tap>> {
        match self.value.body {
            Body::Tap(value) => Some(Committed { value, outbox: self.outbox, seq: self.seq }),
            _ => None,
        }
    }
}

/// An outbox as the rest of the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxView {
    /// Which.
    pub id: OutboxId,
    /// The last record on the medium.
    pub last_seq: Seq,
    /// How far receipts go.
    pub mark: Mark,
    /// The last record deleted.
    pub pruned_through: Seq,
    /// Another outbox says it again: it is not sent any more.
    pub is_retired: bool,
}

impl OutboxView {
    /// How a hello tells it.
    pub fn hello(&self, oldest_unreceipted_age_ms: Option<u64>) -> OutboxHello {
        OutboxHello {
            outbox: self.id,
            last_seq: self.last_seq,
            receipted_through: self.mark.receipted_through,
            store_epoch: self.mark.store_epoch,
            oldest_unreceipted_age_ms,
        }
    }
}

/// The outboxes that a hello names, oldest first: the newest; the oldest of those that still wait for a receipt, because
/// they are drained first; and, as far as there is room, the latest of those that are drained, because a cloud that was
/// restored from a backup learns of them only here. A retired one is said again elsewhere.
pub fn told_in_hello(shelf: &[OutboxView]) -> Vec<&OutboxView> {
    let Some((newest, older)) = shelf.split_last() else { return Vec::new() };
    let waits = |view: &OutboxView| view.mark.receipted_through < view.last_seq;
    let (waiting, drained): (Vec<_>, Vec<_>) =
        older.iter().enumerate().filter(|(_, view)| !view.is_retired).partition(|(_, view)| waits(view));
    let first = waiting.into_iter().chain(drained.into_iter().rev());
    let mut told: Vec<_> = first.take(MAX_HELLO_OUTBOXES - 1).collect();
    told.sort_unstable_by_key(|(place, _)| *place);
    told.into_iter().map(|(_, view)| view).chain([newest]).collect()
}

/// The running thread.
#[derive(Debug)]
pub struct OutboxThread {
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
}

/// The queue is full, or the thread is gone. The job is handed back.
#[derive(Debug)]
pub struct Refused(pub Job);

impl OutboxThread {
    /// Starts the thread. The first answers are [`Done::Shelf`] and the commit of [`Body::AgentStarted`].
    pub fn start(
        shelf: Shelf,
        owner: Owner,
        boot_id: BootId,
        answers: Sender<Done>,
    ) -> std::io::Result<OutboxThread> {
        let (jobs, queue) = sync_channel(MAX_WAITING_JOBS);
        let worker = Worker { shelf, owner, boot_id, started: None, answers };
        let thread = std::thread::Builder::new().name("outbox".into()).spawn(move || worker.run(&queue))?;
        Ok(OutboxThread { jobs, thread })
    }

    /// Asks for something, now or not at all.
    pub fn submit(&self, job: Job) -> Result<(), Refused> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => Refused(job),
        })
    }

    /// Whether the thread has ended, which only a defect makes it do before [`OutboxThread::stop`].
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until everything that was submitted is written, then ends the thread.
    pub fn stop(self) {
        // A full queue drains by itself: the worker never waits for us while it runs.
        let _ = self.jobs.send(Job::Stop);
        let _ = self.thread.join();
    }
}

struct Worker {
    shelf: Shelf,
    owner: Owner,
    boot_id: BootId,
    /// The outbox in which this run's start is written, and what stands for `boot_id` there.
    started: Option<(OutboxId, u32)>,
    answers: Sender<Done>,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Job>) {
        if let Err(error) = self.begin_run(clock::read()) {
            self.answer(Done::AppendFailed { tickets: Vec::new(), error });
        }
        self.answer_shelf();
        let mut group = Vec::new();
        while let Ok(job) = queue.recv() {
            let mut next = Some(job);
            while let Some(job) = next.take() {
                match job {
                    Job::Append { ticket, now, body } => {
                        group.push((ticket, now, body));
                        if group.len() < MAX_GROUP {
                            next = queue.try_recv().ok();
                        }
                    }
                    Job::Stop => {
                        self.commit(&mut group);
                        return self.end_run();
                    }
                    // Taps do not wait for anything else that was asked for meanwhile.
                    other => {
                        self.commit(&mut group);
                        self.serve(other);
                    }
                }
            }
            self.commit(&mut group);
        }
        self.end_run();
    }

    fn begin_run(&mut self, now: Now) -> Result<(), OutboxError> {
        let newest = self.shelf.newest();
        let boot = newest.boot_number(self.boot_id)?;
        let previous_stop = match (newest.last_seq(), newest.stopped_cleanly()) {
            (Seq::ZERO, _) => PreviousStop::None,
            (_, true) => PreviousStop::Clean,
            (_, false) => PreviousStop::Unclean,
        };
        newest.set_stopped_cleanly(false)?;
        let version = short_text(env!("CARGO_PKG_VERSION"));
        let body = Body::AgentStarted { boot_id: self.boot_id, version, previous_stop };
        newest.append(&[Record { at: now.stamp(boot), body }.encode()])?;
        self.started = Some((newest.id(), boot));
        Ok(())
    }

    fn end_run(mut self) {
        let ended = self.shelf.flush_marks().and_then(|()| self.shelf.newest().set_stopped_cleanly(true));
        if let Err(error) = ended {
            self.answer(Done::HousekeepingFailed(error));
        }
        drop(self.shelf);
        let _ = self.answers.try_send(Done::Stopped);
    }

    /// The boot's number in the newest outbox. If the start could not be written when it happened (the disk was full), it
    /// is written now: a record under a number that stands for no boot, or for two, would be given a wrong time.
    fn boot_started(&mut self, now: Now) -> Result<u32, OutboxError> {
        let newest = self.shelf.newest().id();
        match self.started {
            Some((outbox, boot)) if outbox == newest => Ok(boot),
            _ => {
                self.begin_run(now)?;
                Ok(self.started.expect("a run that began is noted").1)
            }
        }
    }

    /// One transaction for all that wait.
    fn commit(&mut self, group: &mut Vec<(Ticket, Now, Body)>) {
        let Some((_, now, _)) = group.first() else { return };
        let boot = match self.boot_started(*now) {
            Ok(boot) => boot,
            Err(error) => {
                let tickets = group.drain(..).map(|(ticket, _, _)| ticket).collect();
                return self.answer(Done::AppendFailed { tickets, error });
            }
        };
        let (tickets, records): (Vec<Ticket>, Vec<Record>) =
            group.drain(..).map(|(ticket, now, body)| (ticket, Record { at: now.stamp(boot), body })).unzip();
        let bytes: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
        let started_us = clock::boottime_us();
        let newest = self.shelf.newest();
        let outbox = newest.id();
        match newest.append(&bytes) {
            Ok(first) => {
                let commit_us = clock::boottime_us() - started_us;
                let numbered = tickets.into_iter().zip(records).enumerate();
                let records = numbered.map(|(i, (ticket, value))| {
                    (ticket, Committed { value, outbox, seq: first.plus(i as u64) })
                });
                let records = records.collect();
                self.answer(Done::Appended { records, commit_us });
            }
            Err(error) => self.answer(Done::AppendFailed { tickets, error }),
        }
    }

    fn serve(&mut self, job: Job) {
        match job {
            Job::Append { .. } | Job::Stop => unreachable!("handled by the loop"),
            Job::Read { outbox, from } => match self.shelf.read(outbox, from).transpose() {
                Some(chunk) => self.answer(Done::Chunk { outbox, chunk }),
                None => self.answer_shelf(),
            },
            Job::HashAt { receipt } => {
                let own = self.shelf.hash_at(receipt.outbox, receipt.stored_through);
                self.answer(Done::HashAt { receipt, own });
            }
            Job::SetMark { outbox, mark } => self.shelf.set_mark(outbox, mark),
            Job::Housekeep { keep_receipted } => {
                let kept =
                    self.shelf.flush_marks().and_then(|()| self.shelf.prune(keep_receipted, PRUNE_STEP));
                match kept {
                    Ok(0) => {}
                    Ok(_) => self.answer_shelf(),
                    Err(error) => self.answer(Done::HousekeepingFailed(error)),
                }
            }
            Job::Try => {
                let tried = self.shelf.newest().try_write();
                self.answer(Done::Tried(tried));
            }
            Job::StartNew { rewound, now } => self.start_new(rewound, now),
        }
    }

    /// An outbox was rewound: what it says without a receipt is said again in a new one, so that it reaches the cloud
    /// under numbers that were never used. The old one stays on the disk, retired.
    fn start_new(&mut self, rewound: OutboxId, now: Now) {
        if self.shelf.is_retired(rewound) {
            return self.answer_shelf();
        }
        let started = mint_outbox_id()
            .map_err(|source| OutboxError::Folder { path: "/dev/urandom".into(), source })
            .and_then(|id| self.shelf.start_new(&self.owner, id))
            .and_then(|()| self.say_again(rewound, now));
        if let Err(error) = started {
            self.answer(Done::StartFailed(error));
        }
        self.answer_shelf();
    }

    /// The same records in the newest outbox's terms: boots and taps have other numbers there. A record that this agent
    /// cannot read is said again as it is.
    fn say_again(&mut self, rewound: OutboxId, now: Now) -> Result<(), OutboxError> {
        let Some((newest, old)) = self.shelf.newest_and(rewound) else { return Ok(()) };
        // The old boots first: numbers ascend with time, and the cloud bounds a boot by those around it.
        let mut boots = BTreeMap::new();
        for (number, boot_id) in old.boots()? {
            boots.insert(number, newest.boot_number(boot_id)?);
        }
        let boot = newest.boot_number(self.boot_id)?;
        let old_mark = old.mark().receipted_through;
        // The new outbox begins with its own start; then the old records follow in their order.
        let renumbered = |seq: Seq| if seq > old_mark { Seq(seq.0 - old_mark.0 + 1) } else { Seq::ZERO };
        let translate = |bytes: &Vec<u8>| {
            let Ok(mut record) = Record::decode(bytes) else { return bytes.clone() };
            record.at.boot = boots.get(&record.at.boot).copied().unwrap_or(record.at.boot);
            if let Body::Repeats { seq, .. } = &mut record.body {
                *seq = renumbered(*seq);
            }
            record.encode()
        };
        let version = short_text(env!("CARGO_PKG_VERSION"));
        let body = Body::AgentStarted { boot_id: self.boot_id, version, previous_stop: PreviousStop::None };
        let mut own_start = Some(vec![Record { at: now.stamp(boot), body }.encode()]);
        let mut from = old_mark.next();
        newest.append_continuing(rewound, || {
            if let Some(start) = own_start.take() {
                return Ok(Some(start));
            }
            let chunk = old.read(from)?;
            from = from.plus(chunk.records.len() as u64);
            Ok((!chunk.records.is_empty()).then(|| chunk.records.iter().map(translate).collect()))
        })?;
        self.started = Some((newest.id(), boot));
        Ok(())
    }

    fn answer_shelf(&mut self) {
        let views = self.shelf.all().map(|outbox| OutboxView {
            id: outbox.id(),
            last_seq: outbox.last_seq(),
            mark: outbox.mark(),
            pruned_through: outbox.pruned_through(),
            is_retired: self.shelf.is_retired(outbox.id()),
        });
        let views = views.collect();
        self.answer(Done::Shelf(views));
    }

    fn answer(&self, done: Done) {
        // Waits if the loop is behind. The loop never waits for us: it submits with `try_send`.
        let _ = self.answers.blocking_send(done);
    }
}

/// 128 random bits for a new outbox.
pub fn mint_outbox_id() -> std::io::Result<OutboxId> {
    let mut id = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut id)
        .map_err(|_| std::io::Error::other("the kernel gives no random bytes"))?;
    Ok(OutboxId(id))
}

#[cfg(test)]
mod tests {
    use super::super::medium::Disk;
    use super::*;
    use tap_protocol::record::ClockState;
    use tokio::sync::mpsc::{Receiver, channel};

    const NOW: Now = Now { boottime_ms: 1, wall_ms: 2, clock: ClockState::Unsynced };

    fn start(folder: &std::path::Path) -> (OutboxThread, Receiver<Done>) {
        let owner = Owner { controller: "hq-door-1".parse().unwrap(), machine: b"pi".to_vec() };
        let shelf = Shelf::open(Disk::shared(), folder, &owner, || mint_outbox_id().unwrap()).unwrap();
        let (answers, done) = channel(64);
        (OutboxThread::start(shelf, owner, BootId([1; 16]), answers).unwrap(), done)
    }

    fn append(thread: &OutboxThread, ticket: u64) {
        let body = Body::ReaderUp { reader: "in".parse().unwrap() };
        thread.submit(Job::Append { ticket: Ticket(ticket), now: NOW, body }).unwrap();
    }

    fn shelf(done: &mut Receiver<Done>) -> Vec<OutboxView> {
        loop {
            if let Done::Shelf(views) = done.blocking_recv().unwrap() {
                return views;
            }
        }
    }

    #[test]
    fn a_hello_names_the_newest_and_the_oldest_that_wait() {
        let view = |n: u8, receipted: u64, is_retired: bool| OutboxView {
            id: OutboxId([n; 16]),
            last_seq: Seq(5),
            mark: Mark { receipted_through: Seq(receipted), store_epoch: None },
            pruned_through: Seq(0),
            is_retired,
        };
        let mut shelf = vec![view(0, 5, false), view(1, 2, true)];
        shelf.extend((2..30).map(|n| view(n, 2, false)));
        shelf.push(view(30, 5, false));
        let told: Vec<u8> = told_in_hello(&shelf).iter().map(|view| view.id.0[0]).collect();
        assert_eq!(told, [(2..17).collect(), vec![30]].concat(), "neither the drained nor the retired one");
        // A restored cloud asks only for what it hears of.
        let shelf =
            [view(0, 5, false), view(1, 2, true), view(2, 2, false), view(3, 5, false), view(4, 5, false)];
        let told: Vec<u8> = told_in_hello(&shelf).iter().map(|view| view.id.0[0]).collect();
        assert_eq!(told, [0, 2, 3, 4], "the drained ones too, where there is room");
        assert!(told_in_hello(&[]).is_empty());
    }

    #[test]
    fn every_ticket_is_answered_once_with_the_next_number() {
        let folder = tempfile::tempdir().unwrap();
        let (thread, mut done) = start(folder.path());
        assert_eq!(shelf(&mut done)[0].last_seq, Seq(1), "the start itself is the first record");
        (0..100).for_each(|ticket| append(&thread, ticket));
        let mut seen = Vec::new();
        while seen.len() < 100 {
            if let Done::Appended { records, .. } = done.blocking_recv().unwrap() {
                seen.extend(records.iter().map(|(ticket, record)| (ticket.0, record.seq().0)));
            }
        }
        assert_eq!(seen, (0..100).map(|n| (n, n + 2)).collect::<Vec<_>>());
        thread.stop();
    }

    #[test]
    fn a_start_that_could_not_be_written_is_written_before_the_first_record() {
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner { controller: "hq-door-1".parse().unwrap(), machine: b"pi".to_vec() };
        let shelf = Shelf::open(Disk::shared(), folder.path(), &owner, || mint_outbox_id().unwrap()).unwrap();
        let (answers, _done) = channel(64);
        let mut worker = Worker { shelf, owner, boot_id: BootId([1; 16]), started: None, answers };
        let body = Body::ReaderUp { reader: "in".parse().unwrap() };
        worker.commit(&mut vec![(Ticket(1), NOW, body.clone())]);
        worker.commit(&mut vec![(Ticket(2), NOW, body)]);
        let outbox = worker.shelf.newest().id();
        let chunk = worker.shelf.read(outbox, Seq(1)).unwrap().unwrap();
        let records: Vec<Record> = chunk.records.iter().map(|bytes| Record::decode(bytes).unwrap()).collect();
        let kinds: Vec<_> = records.iter().map(|record| (record.body.kind(), record.at.boot)).collect();
        assert_eq!(kinds, [("agent_started", 1), ("reader_up", 1), ("reader_up", 1)]);
    }

    #[test]
    fn a_clean_stop_is_told_from_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let previous_stop = |n: u64| {
            let (thread, mut done) = start(folder.path());
            let outbox = shelf(&mut done)[0].id;
            thread.submit(Job::Read { outbox, from: Seq(n) }).unwrap();
            let Some(Done::Chunk { chunk, .. }) = done.blocking_recv() else {
                panic!("a chunk was asked for")
            };
            let record = Record::decode(&chunk.unwrap().records[0]).unwrap();
            let Body::AgentStarted { previous_stop, .. } = record.body else { panic!("{record:?}") };
            (thread, previous_stop)
        };
        let (thread, first) = previous_stop(1);
        thread.stop();
        let (thread, second) = previous_stop(2);
        drop(thread.jobs); // the queue closes without a stop, as at a crash of the loop …
        thread.thread.join().unwrap();
        assert_eq!((first, second), (PreviousStop::None, PreviousStop::Clean));
    }

    #[test]
    fn boots_are_numbered_in_their_order_in_what_is_said_again() {
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner { controller: "hq-door-1".parse().unwrap(), machine: b"pi".to_vec() };
        let mut shelf =
            Shelf::open(Disk::shared(), folder.path(), &owner, || mint_outbox_id().unwrap()).unwrap();
        let [first, second, now] = [7, 3, 5].map(|id| BootId([id; 16]));
        let rewound = shelf.newest().id();
        for boot in [first, second] {
            shelf.newest().boot_number(boot).unwrap();
        }
        let (answers, _done) = channel(64);
        let mut worker = Worker { shelf, owner, boot_id: now, started: None, answers };
        worker.start_new(rewound, NOW);
        assert_eq!(worker.shelf.newest().boots().unwrap(), [(1, first), (2, second), (3, now)]);
        let newest = worker.shelf.newest().id();
        let chunk = worker.shelf.read(newest, Seq(1)).unwrap().unwrap();
        assert_eq!(
            Record::decode(&chunk.records[0]).unwrap().at.boot,
            3,
            "its own start is the first record"
        );
    }

    #[test]
    fn a_rewound_outbox_is_left_and_what_had_no_receipt_is_said_again() {
        let folder = tempfile::tempdir().unwrap();
        let (thread, mut done) = start(folder.path());
        let old = shelf(&mut done)[0].id;
        (0..3).for_each(|ticket| append(&thread, ticket));
        thread
            .submit(Job::SetMark { outbox: old, mark: Mark { receipted_through: Seq(2), store_epoch: None } })
            .unwrap();
        thread.submit(Job::StartNew { rewound: old, now: NOW }).unwrap();
        let views = shelf(&mut done);
        assert_eq!(views.len(), 2);
        assert!(views[0].is_retired && !views[1].is_retired);
        assert_eq!(views[1].last_seq, Seq(3), "its own start, and records 3 and 4 of the old one");
        thread.stop();
    }
}
