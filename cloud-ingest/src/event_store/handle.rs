//! Beside the line: a store on a thread of its own, for the asynchronous rest of the process. Knows no SQL.
//!
//! The thread owns the store and takes jobs from a bounded queue, one after another; a job is a closure over the
//! store, so every method of [`EventStore`] is at hand and several can follow each other without another job between
//! them. Reads go through a second handle over a reader, so that a long list never waits for, or delays, a commit.
//!
//! ```no_run
//! # use cloud_ingest::event_store::{EventStore, StoreError, UtcMs, handle::StoreHandle, sqlite::SqliteStore};
//! # async fn example() -> Result<(), StoreError> {
//! let store = Box::new(SqliteStore::open("store.db".as_ref(), UtcMs(0))?);
//! let (handle, thread) = StoreHandle::spawn("store-writer", store)?;
//! let marks = handle.run(|store| store.marks()).await?;
//! thread.close().await;
//! # Ok(())
//! # }
//! ```

use std::thread;

use tokio::sync::{mpsc, oneshot};

use super::place::AnyStore;
use super::{EventStore, StoreError};

/// Jobs that may wait: each waiting job is a task that waits, so the number is about how many tasks there are.
const MAX_WAITING_JOBS: usize = 64;

/// A way to a store on its own thread. Clones lead to the same store.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    jobs: mpsc::Sender<Message>,
}

/// The thread itself: whoever has it decides when it ends.
#[derive(Debug)]
pub struct StoreThread {
    jobs: mpsc::Sender<Message>,
    ended: oneshot::Receiver<()>,
}

type Job = Box<dyn FnOnce(&mut dyn EventStore) -> Reply + Send>;

enum Message {
    Run(Job),
    Close,
}

/// The answer to a job that has been run. Whoever drops it loses it: its caller is told that nobody is there.
pub struct Reply(Box<dyn FnOnce() + Send>);

impl Reply {
    /// Gives it to whoever asked.
    pub fn tell(self) {
        (self.0)();
    }
}

/// Jobs for a store that has no thread: a model of time decides when each is run, and whether its answer arrives.
pub struct Jobs(mpsc::Receiver<Message>);

/// One of [`Jobs`]. Dropped, it was never run.
pub struct Queued(Job);

impl Jobs {
    /// The next, when there is one; `None` when nobody can ask any more.
    pub async fn next(&mut self) -> Option<Queued> {
        match self.0.recv().await? {
            Message::Run(job) => Some(Queued(job)),
            Message::Close => None,
        }
    }
}

impl Queued {
    /// Does it.
    pub fn run(self, store: &mut dyn EventStore) -> Reply {
        (self.0)(store)
    }
}

/// The store's thread has ended: this process is shutting down, or a job panicked.
#[derive(Debug, thiserror::Error)]
#[error("the store's thread has ended")]
struct ThreadEnded;

impl StoreHandle {
    /// Gives `store` a thread of that name.
    pub fn spawn(name: &str, store: AnyStore) -> Result<(StoreHandle, StoreThread), StoreError> {
        let (jobs, waiting) = mpsc::channel(MAX_WAITING_JOBS);
        let (end, ended) = oneshot::channel();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Dropped last, whether the work ends or panics: then the store is closed.
                let _end = end;
                work(store, waiting);
            })
            .map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        Ok((StoreHandle { jobs: jobs.clone() }, StoreThread { jobs, ended }))
    }

    /// A way to a store whose jobs somebody else runs.
    pub fn queue() -> (StoreHandle, Jobs) {
        let (jobs, waiting) = mpsc::channel(MAX_WAITING_JOBS);
        (StoreHandle { jobs }, Jobs(waiting))
    }

    /// Runs `job` on the store and gives its answer. Waits while the queue is full. A job that was queued is run even
    /// if its caller no longer waits.
    pub async fn run<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut dyn EventStore) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |store| {
            let answer = job(store);
            // Nobody may be waiting any more; what was done stays done.
            Reply(Box::new(move || drop(reply.send(answer))))
        });
        self.jobs.send(Message::Run(job)).await.map_err(|_| thread_ended())?;
        answer.await.unwrap_or_else(|_| Err(thread_ended()))
    }
}

impl StoreThread {
    /// Does what was queued so far, refuses what comes later, and closes the store. Returns when that is done.
    pub async fn close(self) {
        // Either fails only when the thread has ended before: then there is nothing to wait for.
        let _ = self.jobs.send(Message::Close).await;
        let _ = self.ended.await;
    }
}

fn work(mut store: AnyStore, mut waiting: mpsc::Receiver<Message>) {
    while let Some(message) = waiting.blocking_recv() {
        match message {
            Message::Run(job) => job(store.as_mut()).tell(),
            Message::Close => waiting.close(),
        }
    }
}

/// A way to a store that is away, and how often it was asked.
#[cfg(test)]
pub fn away() -> (StoreHandle, std::sync::Arc<std::sync::atomic::AtomicU64>) {
    let (jobs, mut waiting) = mpsc::channel(MAX_WAITING_JOBS);
    let asked = std::sync::Arc::<std::sync::atomic::AtomicU64>::default();
    let count = std::sync::Arc::clone(&asked);
    tokio::spawn(async move {
        // A job that is dropped tells its caller that nobody is there.
        while waiting.recv().await.is_some() {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    (StoreHandle { jobs }, asked)
}

fn thread_ended() -> StoreError {
    StoreError::Unavailable(Box::new(ThreadEnded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_store::sqlite::SqliteStore;
    use crate::event_store::{Change, Deed, Site, UtcMs};

    fn site(n: usize) -> Site {
        Site { id: format!("site-{n}"), label: String::new(), zone: "UTC".into() }
    }

    fn spawn() -> (StoreHandle, StoreThread) {
        StoreHandle::spawn("store-under-test", Box::new(SqliteStore::in_memory(UtcMs(1)))).unwrap()
    }

    #[tokio::test]
    async fn jobs_are_run_in_their_order_and_answered() {
        let (handle, thread) = spawn();
        for n in 0..3 {
            handle.run(move |store| store.put_site(&site(n))).await.unwrap();
        }
        let sites = handle.run(|store| store.sites()).await.unwrap();
        assert_eq!(sites, [site(0), site(1), site(2)]);
        thread.close().await;
    }

    #[tokio::test]
    async fn an_error_comes_back_to_its_caller_and_the_store_goes_on() {
        let (handle, thread) = spawn();
        let deed = Deed::by_itself(UtcMs(1), "pause", "nowhere");
        let refused =
            handle.run(move |store| store.change_destination("nowhere", &Change::Pause, &deed)).await;
        assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
        assert_eq!(handle.run(|store| store.sites()).await.unwrap(), []);
        thread.close().await;
    }

    #[tokio::test]
    async fn what_was_queued_is_done_before_the_store_closes() {
        let (handle, thread) = spawn();
        let (go, wait) = oneshot::channel::<()>();
        let blocked = tokio::spawn({
            let handle = handle.clone();
            async move {
                let job = move |_: &mut dyn EventStore| {
                    wait.blocking_recv().expect("the test lets it go");
                    Ok(())
                };
                handle.run(job).await
            }
        });
        let queued = tokio::spawn({
            let handle = handle.clone();
            async move { handle.run(|store| store.put_site(&site(1))).await }
        });
        // On this one-threaded runtime both have queued their job once they had their turn.
        tokio::task::yield_now().await;
        let closed = tokio::spawn(thread.close());
        tokio::task::yield_now().await;
        go.send(()).unwrap();
        closed.await.unwrap();
        blocked.await.unwrap().unwrap();
        queued.await.unwrap().unwrap();
        let late = handle.run(|store| store.sites()).await;
        assert!(late.is_err_and(|error| error.is_retryable()));
    }
}
