//! The outbox's thread. It owns the [`Shelf`], takes jobs over a bounded queue and answers into the agent's loop.
//!
//! Group commit: records that arrive while a commit is running share the next one, so a hundred people at once cost
//! two or three syncs and not a hundred. [`Committed`] can be made here and nowhere else, which is why a green light
//! cannot come before the commit.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tap_protocol::chain::ChainHash;
use tap_protocol::hello::OutboxHello;
use tap_protocol::ids::{BootId, OutboxId, Seq, StoreEpoch};
use tap_protocol::limits::MAX_HELLO_OUTBOXES;
use tap_protocol::record::{Body, Record};
use tap_protocol::tap::Tap;
use tokio::sync::mpsc::Sender;

use super::keeper::{Appended, Keeper};
use super::shelf::{News, Shelf};
use super::space::Limits;
use super::{Chunk, OutboxError};
use crate::clock;
use crate::now::Now;
use crate::relay::Mark;

/// Jobs that may wait. A tap that finds the queue full is refused at the reader, with its own signal.
const MAX_WAITING_JOBS: usize = 1024;

/// Records in one commit: a bound on how long a tap can wait for others.
const MAX_GROUP: usize = 256;

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
    /// The cloud was put back to before what was deleted here: say what is gone, and what is left once more.
    Refill {
        /// Its word for what it has.
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
    Housekeep,
    /// The store and this outbox go apart: start a new one and say again in it what the store lacks.
    StartNew {
        /// Which.
        rewound: OutboxId,
        /// What follows this record is said again.
        after: Seq,
        /// The life of the store that has the records up to there, if one was found to have exactly these.
        epoch: Option<StoreEpoch>,
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
    /// What was to be read is of an outbox that is no longer on the shelf.
    Gone {
        /// Which.
        outbox: OutboxId,
    },
    /// Something happened that people should hear of.
    News(News),
    /// The outboxes changed: what is on the shelf now.
    Shelf(Vec<OutboxView>),
    /// No new outbox could be started; the next receipt gives reason to try again.
    StartFailed(OutboxError),
    /// What [`Job::StartNew`] asked for is done, or it failed; [`Done::Shelf`] came before.
    Left {
        /// Which outbox was left.
        outbox: OutboxId,
        /// Whether it was.
        is_done: bool,
    },
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
    /// The last record on the medium; where another outbox says its end again, the last before that.
    pub last_seq: Seq,
    /// How far receipts go.
    pub mark: Mark,
    /// The last record deleted.
    pub pruned_through: Seq,
    /// Another outbox says its end again: nothing is added to it, and nothing after `last_seq` is sent.
    pub is_settled: bool,
    /// Nothing of it is sent any more.
    pub is_retired: bool,
    /// It has no holes; if not, it is not sent yet, and nothing may overtake it.
    pub is_sound: bool,
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
    let waits = |view: &OutboxView| !view.is_sound || view.mark.receipted_through < view.last_seq;
    let told = older.iter().enumerate().filter(|(_, view)| !view.is_retired);
    let (waiting, drained): (Vec<_>, Vec<_>) = told.partition(|(_, view)| waits(view));
    // A salvaged one waits for the cloud's word in any case: nothing of it is sent before it has that.
    let (salvaged, sound): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, view)| !view.is_sound);
    let first = salvaged.into_iter().chain(sound).chain(drained.into_iter().rev());
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
        limits: Limits,
        boot_id: BootId,
        answers: Sender<Done>,
    ) -> std::io::Result<OutboxThread> {
        let (jobs, queue) = sync_channel(MAX_WAITING_JOBS);
        let worker = Worker { keeper: Keeper::new(shelf, limits, boot_id, clock::read()), answers };
        let thread = std::thread::Builder::new().name("outbox".into()).spawn(move || worker.run(&queue))?;
        Ok(OutboxThread { jobs, thread })
    }

    /// Starts a thread that records nothing: an agent that is out of service, and can say why.
    pub fn out_of_service(
        why: impl Fn() -> OutboxError + Send + 'static,
        answers: Sender<Done>,
    ) -> std::io::Result<OutboxThread> {
        let (jobs, queue) = sync_channel(MAX_WAITING_JOBS);
        let refuse = move || {
            let _ = answers.blocking_send(Done::AppendFailed { tickets: Vec::new(), error: why() });
            while let Ok(job) = queue.recv() {
                let done = match job {
                    Job::Append { ticket, .. } => Done::AppendFailed { tickets: vec![ticket], error: why() },
                    Job::Read { outbox, .. } => Done::Gone { outbox },
                    Job::HashAt { receipt } => Done::HashAt { receipt, own: Ok(None) },
                    Job::Refill { .. } | Job::SetMark { .. } | Job::Housekeep => continue,
                    Job::StartNew { rewound, .. } => {
                        let _ = answers.blocking_send(Done::StartFailed(why()));
                        Done::Left { outbox: rewound, is_done: false }
                    }
                    Job::Try => Done::Tried(Err(why())),
                    Job::Stop => break,
                };
                let _ = answers.blocking_send(done);
            }
            let _ = answers.try_send(Done::Stopped);
        };
        let thread = std::thread::Builder::new().name("outbox".into()).spawn(refuse)?;
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
    keeper: Keeper,
    answers: Sender<Done>,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Job>) {
        if let Err(error) = self.keeper.begin_run(clock::read()) {
            self.answer(Done::AppendFailed { tickets: Vec::new(), error });
        }
        self.tell_news();
        self.answer_shelf();
        let mut group = Vec::new();
        while let Some(job) = self.next_job(queue) {
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

    /// The next job. While there is none, damage is repaired step by step.
    fn next_job(&mut self, queue: &Receiver<Job>) -> Option<Job> {
        loop {
            match queue.try_recv() {
                Ok(job) => return Some(job),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            match self.keeper.repair(clock::read()) {
                Ok(true) => self.tell_news(),
                Ok(false) => return queue.recv().ok(),
                Err(error) => self.answer(Done::HousekeepingFailed(error)),
            }
        }
    }

    fn end_run(mut self) {
        if let Err(error) = self.keeper.end_run() {
            self.answer(Done::HousekeepingFailed(error));
        }
        drop(self.keeper);
        let _ = self.answers.try_send(Done::Stopped);
    }

    /// One transaction for all that wait.
    fn commit(&mut self, group: &mut Vec<(Ticket, Now, Body)>) {
        if group.is_empty() {
            return;
        }
        let (tickets, records): (Vec<Ticket>, Vec<(Now, Body)>) =
            group.drain(..).map(|(ticket, now, body)| (ticket, (now, body))).unzip();
        let started_us = clock::boottime_us();
        let appended = self.keeper.append(&records);
        self.tell_news();
        match appended {
            Ok(Appended { outbox, first, records }) => {
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
        let now = clock::read();
        match job {
            Job::Append { .. } | Job::Stop => unreachable!("handled by the loop"),
            Job::Read { outbox, from } => match self.keeper.read(outbox, from, now).transpose() {
                Some(chunk) => self.answer(Done::Chunk { outbox, chunk }),
                None => {
                    self.answer(Done::Gone { outbox });
                    self.answer_shelf();
                }
            },
            Job::HashAt { receipt } => {
                let own = self.keeper.receipt(&receipt, now);
                self.tell_news();
                self.answer(Done::HashAt { receipt, own });
            }
            Job::Refill { receipt } => {
                if let Err(error) = self.keeper.refill(&receipt, now) {
                    self.answer(Done::HousekeepingFailed(error));
                }
            }
            Job::SetMark { outbox, mark } => self.keeper.set_mark(outbox, mark),
            Job::Housekeep => match self.keeper.housekeep(now) {
                Ok(false) => {}
                Ok(true) => self.answer_shelf(),
                Err(error) => self.answer(Done::HousekeepingFailed(error)),
            },
            Job::StartNew { rewound, after, epoch, now } => {
                let done = self.keeper.start_new(rewound, after, epoch, now);
                let is_done = done.is_ok();
                if let Err(error) = done {
                    self.answer(Done::StartFailed(error));
                }
                self.answer_shelf();
                self.answer(Done::Left { outbox: rewound, is_done });
            }
            Job::Try => {
                let tried = self.keeper.try_write(now);
                self.answer(Done::Tried(tried));
            }
        }
        self.tell_news();
    }

    /// What people should hear of, and what is on the shelf after it.
    fn tell_news(&mut self) {
        let news = self.keeper.take_news();
        if !news.is_empty() {
            news.into_iter().for_each(|news| self.answer(Done::News(news)));
            self.answer_shelf();
        }
    }

    fn answer_shelf(&mut self) {
        let shelf = self.keeper.shelf();
        let views = shelf.all().map(|outbox| {
            let says_through = shelf.says_through(outbox);
            OutboxView {
                id: outbox.id(),
                last_seq: says_through.unwrap_or(outbox.last_seq()),
                mark: outbox.mark(),
                pruned_through: outbox.pruned_through(),
                is_settled: shelf.is_retired(outbox.id()),
                is_retired: says_through.is_none(),
                is_sound: outbox.stage().is_sound(),
            }
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
pub fn mint_outbox_id() -> OutboxId {
    let mut id = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut id)
        .expect("a kernel that runs an agent gives random bytes");
    OutboxId(id)
}

#[cfg(test)]
mod tests {
    use super::super::medium::Disk;
    use super::super::shelf::Owner;
    use super::*;
    use crate::config::OutboxConfig;
    use tap_protocol::record::{ClockState, PreviousStop};
    use tokio::sync::mpsc::{Receiver, channel};

    const NOW: Now = Now { boottime_ms: 1, wall_ms: 2, clock: ClockState::Unsynced };

    fn start(folder: &std::path::Path) -> (OutboxThread, Receiver<Done>) {
        let owner = Owner { controller: "hq-door-1".parse().unwrap(), machine: b"pi".to_vec() };
        let shelf = Shelf::open(Disk::shared(), folder, &owner, mint_outbox_id).unwrap();
        let (answers, done) = channel(64);
        (
            OutboxThread::start(shelf, OutboxConfig::default().limits(), BootId([1; 16]), answers).unwrap(),
            done,
        )
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
            is_settled: is_retired,
            is_retired,
            is_sound: true,
        };
        let mut shelf = vec![view(0, 5, false), view(1, 2, true)];
        shelf.extend((2..29).map(|n| view(n, 2, false)));
        shelf.push(OutboxView { is_sound: false, ..view(29, 5, false) });
        shelf.push(view(30, 5, false));
        let told: Vec<u8> = told_in_hello(&shelf).iter().map(|view| view.id.0[0]).collect();
        assert_eq!(
            told,
            [(2..16).collect(), vec![29, 30]].concat(),
            "neither the drained nor the retired one"
        );
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
    fn a_rewound_outbox_is_left_and_what_had_no_receipt_is_said_again() {
        let folder = tempfile::tempdir().unwrap();
        let (thread, mut done) = start(folder.path());
        let old = shelf(&mut done)[0].id;
        (0..3).for_each(|ticket| append(&thread, ticket));
        thread
            .submit(Job::SetMark { outbox: old, mark: Mark { receipted_through: Seq(2), store_epoch: None } })
            .unwrap();
        let again = |after| Job::StartNew { rewound: old, after, epoch: Some(StoreEpoch(7)), now: NOW };
        thread.submit(again(Seq(2))).unwrap();
        let views = shelf(&mut done);
        assert_eq!(views.len(), 2);
        assert!(views[0].is_settled && !views[0].is_retired && !views[1].is_settled);
        assert_eq!(views[0].last_seq, Seq(2), "the rest is the other one's to say");
        assert_eq!(views[1].last_seq, Seq(3), "which boot it was, and records 3 and 4 of the old one");
        thread.submit(again(Seq(2))).unwrap();
        assert_eq!(shelf(&mut done), views, "what is done is not done again");
        thread.stop();
    }
}
