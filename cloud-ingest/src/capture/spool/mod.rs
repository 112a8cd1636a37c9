//! Step 7 of 12, over HTTP, while the store is away: the spool on a thread of its own, because its disk may be slow. Knows no
//! HTTP and no store.
//!
//! What arrives together is written together: one flush of the disk for all who wait. The number of those that wait is
//! watched by the desk, which sends nobody past them, and by whoever drains them.

pub mod frames;
pub mod shelf;

use std::io;
use std::path::Path;
use std::thread;

use tap_protocol::ids::EventId;
use tokio::sync::{mpsc, oneshot, watch};

use self::shelf::{Found, NotPut, Shelf, Waiting};
use crate::crash;
use crate::event_store::capture::{CapturedTap, Sitting};
use crate::keyring::random;

/// Requests that may wait for the disk. Each is a client that waits.
const MAX_WAITING_JOBS: usize = 256;

/// So many are written with one flush.
const MAX_WRITTEN_AT_ONCE: usize = 256;

/// A way to the spool. Clones lead to the same.
#[derive(Clone)]
pub struct Spool {
    jobs: mpsc::Sender<Job>,
    level: watch::Receiver<Level>,
}

/// How full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Level {
    /// Taps that wait for the store.
    pub taps: usize,
    /// Bytes on the disk.
    pub bytes: u64,
}

enum Job {
    Put(CapturedTap, oneshot::Sender<Result<EventId, NotPut>>),
    PutBehind(CapturedTap, oneshot::Sender<Result<EventId, NotPut>>),
    First(usize, oneshot::Sender<Vec<Waiting>>),
    Done(usize, oneshot::Sender<io::Result<()>>),
}

impl Spool {
    /// Opens the folder and gives it a thread, which ends with the last handle.
    pub fn open(dir: &Path, limit_bytes: u64) -> io::Result<(Spool, Found)> {
        let (shelf, found) = Shelf::open(dir, limit_bytes)?;
        let (jobs, waiting) = mpsc::channel(MAX_WAITING_JOBS);
        let (sender, level) = watch::channel(level_of(&shelf));
        thread::Builder::new().name("capture-spool".into()).spawn(move || work(shelf, waiting, &sender))?;
        Ok((Spool { jobs, level }, found))
    }

    /// How full it is.
    pub fn level(&self) -> Level {
        *self.level.borrow()
    }

    /// Waits until something waits. Never ends once the thread has.
    pub async fn has_some(&mut self) {
        if self.level.wait_for(|level| level.taps > 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Puts a tap in; returns when the disk has it.
    pub async fn put(&self, tap: CapturedTap) -> Result<EventId, NotPut> {
        self.ask(|reply| Job::Put(tap, reply)).await.unwrap_or_else(|error| Err(NotPut::Disk(error)))
    }

    /// As [`Self::put`], but only behind others: once all that waited is stored, the store knows best which of them this is.
    pub async fn put_behind(&self, tap: CapturedTap) -> Result<EventId, NotPut> {
        self.ask(|reply| Job::PutBehind(tap, reply)).await.unwrap_or_else(|error| Err(NotPut::Disk(error)))
    }

    /// The first of those that wait.
    pub async fn first(&self, count: usize) -> io::Result<Vec<Waiting>> {
        self.ask(|reply| Job::First(count, reply)).await
    }

    /// The first `count` are in the store for good.
    pub async fn done(&self, count: usize) -> io::Result<()> {
        self.ask(|reply| Job::Done(count, reply)).await?
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> io::Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spool's thread has ended");
        self.jobs.send(job(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

fn work(mut shelf: Shelf, mut jobs: mpsc::Receiver<Job>, level: &watch::Sender<Level>) {
    let mut next = None;
    while let Some(job) = next.take().or_else(|| jobs.blocking_recv()) {
        match job {
            Job::PutBehind(_, reply) if shelf.is_empty() => drop(reply.send(Err(NotPut::NobodyWaits))),
            Job::Put(tap, reply) | Job::PutBehind(tap, reply) => {
                let (mut taps, mut replies) = (vec![tap], vec![reply]);
                while taps.len() < MAX_WRITTEN_AT_ONCE && next.is_none() {
                    match jobs.try_recv() {
                        Ok(Job::PutBehind(_, reply)) if shelf.is_empty() => {
                            let _ = reply.send(Err(NotPut::NobodyWaits));
                        }
                        Ok(Job::Put(tap, reply) | Job::PutBehind(tap, reply)) => {
                            taps.push(tap);
                            replies.push(reply);
                        }
                        Ok(other) => next = Some(other),
                        Err(_) => break,
                    }
                }
                crash::point("before-spool-write");
                let answers = put(&mut shelf, taps);
                crash::point("after-spool-write");
                // Before anybody is answered, nobody can be sent past them.
                level.send_replace(level_of(&shelf));
                for (reply, answer) in replies.into_iter().zip(answers) {
                    // Who does not wait any more will ask again, with the same idempotency key.
                    let _ = reply.send(answer);
                }
            }
            Job::First(count, reply) => drop(reply.send(shelf.first(count))),
            Job::Done(count, reply) => {
                let done = shelf.done(count);
                level.send_replace(level_of(&shelf));
                let _ = reply.send(done);
            }
        }
    }
}

fn put(shelf: &mut Shelf, taps: Vec<CapturedTap>) -> Vec<Result<EventId, NotPut>> {
    match random() {
        Ok(sitting) => shelf.put(taps, Sitting(sitting)),
        Err(error) => taps.iter().map(|_| Err(NotPut::Disk(io::Error::other(error.to_string())))).collect(),
    }
}

fn level_of(shelf: &Shelf) -> Level {
    Level { taps: shelf.len(), bytes: shelf.used_bytes() }
}

#[cfg(test)]
mod tests {
    use super::frames::tests::tap;
    use super::*;

    #[tokio::test]
    async fn those_who_come_together_are_answered_each_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(dir.path(), 64 * 1024).unwrap();
        let puts: Vec<_> = (1..=50)
            .map(|n| {
                let spool = spool.clone();
                tokio::spawn(async move { spool.put(tap(n)).await.unwrap() })
            })
            .collect();
        let mut ids = Vec::new();
        for put in puts {
            ids.push(put.await.unwrap());
        }
        spool.has_some().await;
        assert_eq!(spool.level().taps, 50);
        let first = spool.first(50).await.unwrap();
        let kept = first.iter().map(|w| {
            let source = &w.entry.tap.source;
            EventId::new(source, w.sitting.outbox(source), w.entry.seq)
        });
        let (mut kept, mut told) = (kept.collect::<Vec<_>>(), ids);
        kept.sort();
        told.sort();
        assert_eq!(kept, told);
        spool.done(50).await.unwrap();
        assert_eq!(spool.level(), Level::default());
    }

    #[tokio::test]
    async fn a_request_that_is_repeated_while_others_wait_is_promised_nothing_new() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(dir.path(), 64 * 1024).unwrap();
        let first = spool.put(tap(1)).await.unwrap();
        spool.put_behind(tap(2)).await.unwrap();
        spool.done(1).await.unwrap();
        assert_eq!(spool.put_behind(tap(1)).await.unwrap(), first, "it is stored, and others wait");
        assert_eq!(spool.level().taps, 1);
        spool.done(1).await.unwrap();
        let asked_the_store = spool.put_behind(tap(1)).await;
        assert!(matches!(asked_the_store, Err(NotPut::NobodyWaits)), "{asked_the_store:?}");
        assert_eq!(spool.level(), Level::default());
    }
}
