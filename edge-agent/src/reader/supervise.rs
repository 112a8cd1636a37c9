//! Step 1 of 12, for readers whose calls block: one thread, and somebody who notices when it hangs. Knows no PC/SC.
//!
//! pcscd that was stopped (SIGSTOP, a dead USB driver) answers nothing and reports no error: a call into it blocks
//! for ever, and a blocked thread cannot be killed. So the thread works for a *term*. The supervisor, a task, hears
//! it through a channel that belongs to the term, and looks at how long its present call has lasted. When that is
//! too long it says [`DownReason::Hanging`], ends the term by dropping the channel and starts a new thread. The old
//! one, when its call returns, finds nobody listening and ends; there is no moment at which it could still be heard.
//!
//! Why a new thread at all, when the old one would go on as soon as pcscd does? Because pcscd as a whole is not the
//! only thing that hangs: one connection may, and then a new one works at once. Why at most [`MOST_ABANDONED`] old
//! ones? Because if pcscd as a whole hangs, so does each new thread, and the second teaches nothing that the first
//! did not: everybody waits, `Hanging` stays said, and whichever call returns first goes on.
//!
//! Time that a thread spends waiting, be it for the next try or for room in the channel, is not a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as sync_mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tap_protocol::ids::ReaderName;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::{
    DownReason, ReaderEvent, ReaderKind, ReaderProgress, RecoveryStep, RunningReader, TURN_MS, Told,
};

/// A call that lasts longer than this hangs: ten times the longest wait, and longer than a card's slowest answer.
pub(super) const LIVENESS_MS: u64 = 5_000;

/// Threads that may be stuck in a call while a newer one works. See the top of this file.
const MOST_ABANDONED: usize = 1;

/// Events between a thread and its supervisor, who passes them on at once.
const TERM_QUEUE: usize = 16;

/// A thread that is asked to stop may finish its wait; then it is left behind.
const STOP_WITHIN_MS: u64 = 900;

const _: () = assert!(TURN_MS < STOP_WITHIN_MS, "a thread in a healthy wait must get the chance to end");
const _: () = assert!(TURN_MS * 2 < LIVENESS_MS, "a healthy wait must not look like a hanging one");

/// Nobody listens any more: stop working, quietly.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TermOver;

/// What a thread may do while its term lasts.
pub(super) struct Term {
    reader: ReaderName,
    events: mpsc::Sender<ReaderEvent>,
    over: sync_mpsc::Receiver<()>,
    in_call_since: Arc<AtomicU64>,
    progress: Arc<ReaderProgress>,
    clock: fn() -> u64,
    card_in_field: bool,
}

impl Term {
    /// Which reader of the controller.
    pub(super) fn reader(&self) -> &ReaderName {
        &self.reader
    }

    /// Whether the term before this one left a card in the field.
    pub(super) fn card_in_field(&self) -> bool {
        self.card_in_field
    }

    /// Milliseconds of CLOCK_BOOTTIME.
    pub(super) fn now(&self) -> u64 {
        (self.clock)()
    }

    /// Makes a call that may block for ever. Nothing else in a term may.
    pub(super) fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        self.in_call_since.store(self.now().max(1), Ordering::Relaxed);
        let answer = call();
        self.in_call_since.store(0, Ordering::Relaxed);
        answer
    }

    /// Says something; waits for room. Health may be said as often as one likes: only news is passed on.
    pub(super) fn say(&self, event: ReaderEvent) -> Result<(), TermOver> {
        self.pause(Duration::ZERO)?;
        self.events.blocking_send(event).map_err(|_| TermOver)
    }

    /// Waits without calling anything.
    pub(super) fn pause(&self, wait: Duration) -> Result<(), TermOver> {
        match self.over.recv_timeout(wait) {
            Err(sync_mpsc::RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(sync_mpsc::RecvTimeoutError::Disconnected) => Err(TermOver),
        }
    }

    /// A wait for a card was completed on working hardware.
    pub(super) fn waited(&self) -> Result<(), TermOver> {
        self.pause(Duration::ZERO)?;
        self.progress.waited(self.now());
        Ok(())
    }

    /// A step of recovery succeeded.
    pub(super) fn recovered(&self, step: RecoveryStep) {
        self.progress.recovered(step);
    }
}

/// The work of one term: returns only when the term is over.
pub(super) trait Work: Fn(&Term) -> TermOver + Send + Sync + 'static {}
impl<F: Fn(&Term) -> TermOver + Send + Sync + 'static> Work for F {}

/// Starts `work` under a supervisor.
pub(super) fn spawn(
    name: ReaderName,
    kind: ReaderKind,
    events: mpsc::Sender<ReaderEvent>,
    clock: fn() -> u64,
    work: impl Work,
) -> RunningReader {
    let progress = Arc::new(ReaderProgress::default());
    let (stop, stopped) = oneshot::channel();
    let supervisor = Supervisor {
        reader: name.clone(),
        events,
        clock,
        progress: Arc::clone(&progress),
        work: Arc::new(work),
        told: Told::default(),
        card_in_field: false,
        office: None,
        abandoned: Vec::new(),
    };
    let task = tokio::spawn(supervisor.run(stopped));
    RunningReader { name, kind, progress, stop, task, lamp: None }
}

struct Supervisor<W> {
    reader: ReaderName,
    events: mpsc::Sender<ReaderEvent>,
    clock: fn() -> u64,
    progress: Arc<ReaderProgress>,
    work: Arc<W>,
    told: Told,
    card_in_field: bool,
    /// The term that is running, if any.
    office: Option<Office>,
    abandoned: Vec<JoinHandle<()>>,
}

/// The supervisor's side of a term. Dropping it ends the term.
struct Office {
    heard: mpsc::Receiver<ReaderEvent>,
    /// Dropped to end the term and wake the thread from a pause; never sent through.
    _over: sync_mpsc::SyncSender<()>,
    in_call_since: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

enum Happened {
    Stop,
    Heard(ReaderEvent),
    ThreadEnded,
    Tick,
}

/// The agent's loop is gone, or wants the reader to stop.
struct Stopped;

impl<W: Work> Supervisor<W> {
    async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut ticks = tokio::time::interval(Duration::from_millis(TURN_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let happened = tokio::select! {
                biased;
                _ = &mut stop => Happened::Stop,
                heard = hear(&mut self.office) => heard.map_or(Happened::ThreadEnded, Happened::Heard),
                _ = ticks.tick() => Happened::Tick,
            };
            let done = match happened {
                Happened::Stop => Err(Stopped),
                Happened::Heard(event) => self.pass_on(event, &mut stop).await,
                Happened::ThreadEnded => self.after_a_defect(&mut stop).await,
                Happened::Tick => self.supervise(&mut stop).await,
            };
            if done.is_err() {
                break;
            }
        }
        self.end().await;
    }

    async fn supervise(&mut self, stop: &mut oneshot::Receiver<()>) -> Result<(), Stopped> {
        let now = (self.clock)();
        self.progress.turned(now);
        self.abandoned.retain(|thread| !thread.is_finished());
        let Some(office) = &self.office else { return self.start(stop).await };
        let Some(silent_ms) = silence(office.in_call_since.load(Ordering::Relaxed), now) else {
            return Ok(());
        };
        let hanging = DownReason::Hanging { silent_ms };
        if self.abandoned.len() < MOST_ABANDONED {
            self.abandon(stop).await?;
            self.down(hanging, stop).await?;
            self.start(stop).await
        } else {
            self.down(hanging, stop).await
        }
    }

    /// Ends the term of a thread that hangs. What it said before it hung still counts.
    async fn abandon(&mut self, stop: &mut oneshot::Receiver<()>) -> Result<(), Stopped> {
        let Some(Office { mut heard, thread, .. }) = self.office.take() else { return Ok(()) };
        heard.close();
        self.abandoned.push(thread);
        self.progress.recovered(RecoveryStep::Thread);
        while let Ok(event) = heard.try_recv() {
            self.pass_on(event, stop).await?;
        }
        Ok(())
    }

    async fn start(&mut self, stop: &mut oneshot::Receiver<()>) -> Result<(), Stopped> {
        let (events, heard) = mpsc::channel(TERM_QUEUE);
        let (over_sender, over) = sync_mpsc::sync_channel(0);
        let in_call_since = Arc::new(AtomicU64::new(0));
        let term = Term {
            reader: self.reader.clone(),
            events,
            over,
            in_call_since: Arc::clone(&in_call_since),
            progress: Arc::clone(&self.progress),
            clock: self.clock,
            card_in_field: self.card_in_field,
        };
        let work = Arc::clone(&self.work);
        let started = thread::Builder::new().name(format!("reader-{}", self.reader)).spawn(move || {
            let TermOver = work(&term);
        });
        match started {
            Ok(thread) => {
                self.office = Some(Office { heard, _over: over_sender, in_call_since, thread });
                Ok(())
            }
            // Tried again at the next tick.
            Err(error) => self.down(DownReason::NoThread { error: error.to_string() }, stop).await,
        }
    }

    /// The thread ended by itself, which only a panic makes it do. The next tick starts a new one.
    async fn after_a_defect(&mut self, stop: &mut oneshot::Receiver<()>) -> Result<(), Stopped> {
        self.office = None;
        self.down(DownReason::NoThread { error: "it ended by a defect".to_owned() }, stop).await
    }

    async fn down(&mut self, why: DownReason, stop: &mut oneshot::Receiver<()>) -> Result<(), Stopped> {
        self.pass_on(ReaderEvent::Down { reader: self.reader.clone(), why }, stop).await
    }

    async fn pass_on(&mut self, event: ReaderEvent, stop: &mut oneshot::Receiver<()>) -> Result<(), Stopped> {
        match &event {
            ReaderEvent::Card(_) => self.card_in_field = true,
            ReaderEvent::Removed { .. } => self.card_in_field = false,
            ReaderEvent::Rejected { .. }
            | ReaderEvent::Odd { .. }
            | ReaderEvent::Up { .. }
            | ReaderEvent::Down { .. } => {}
        }
        if !self.told.is_news(&event, &self.progress) {
            return Ok(());
        }
        tokio::select! {
            biased;
            _ = stop => Err(Stopped),
            sent = self.events.send(event) => sent.map_err(|_| Stopped),
        }
    }

    /// Waits for the thread to end, but not for ever. What it still says is not passed on: a read that nobody
    /// answered with a light was not accepted.
    async fn end(self) {
        let Some(Office { mut heard, _over: over, .. }) = self.office else { return };
        drop(over);
        // Silence comes when the thread has dropped its sender.
        let ended = async { while heard.recv().await.is_some() {} };
        if tokio::time::timeout(Duration::from_millis(STOP_WITHIN_MS), ended).await.is_err() {
            tracing::warn!(reader = %self.reader, "a reader's thread is stuck in the PC/SC service and was left behind");
        }
    }
}

async fn hear(office: &mut Option<Office>) -> Option<ReaderEvent> {
    match office {
        Some(office) => office.heard.recv().await,
        None => std::future::pending().await,
    }
}

/// How long a call that hangs has lasted. `in_call_since` 0: no call.
fn silence(in_call_since: u64, now: u64) -> Option<u64> {
    let lasted = now.saturating_sub(in_call_since);
    (in_call_since != 0 && lasted > LIVENESS_MS).then_some(lasted)
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicBool;

    use tap_protocol::badge::{Credential, Technology};

    use super::*;
    use crate::reader::CardRead;

    /// What a call hangs at until the test opens it.
    type Gate = Arc<OnceLock<()>>;

    fn name() -> ReaderName {
        "in".parse().unwrap()
    }

    fn up() -> ReaderEvent {
        ReaderEvent::Up { reader: name(), detail: String::new() }
    }

    fn card() -> ReaderEvent {
        ReaderEvent::Card(CardRead {
            reader: name(),
            credential: Credential::from_bytes(Technology::Hf, &[4, 1, 2, 3]).unwrap(),
            seen_at_boottime_ms: 0,
            atr: None,
            missed: 0,
        })
    }

    /// A clock by which a second passes whenever somebody looks at it.
    fn hasty_clock() -> u64 {
        static NOW_MS: AtomicU64 = AtomicU64::new(1_000);
        NOW_MS.fetch_add(1_000, Ordering::Relaxed)
    }

    fn start(capacity: usize, work: impl Work) -> (RunningReader, mpsc::Receiver<ReaderEvent>) {
        let (sender, events) = mpsc::channel(capacity);
        (spawn(name(), ReaderKind::Pcsc, sender, hasty_clock, work), events)
    }

    /// A healthy reader: turns until its term is over.
    fn turn(term: &Term) -> TermOver {
        loop {
            if term.say(up()).is_err() || term.pause(Duration::from_millis(1)).is_err() {
                return TermOver;
            }
        }
    }

    async fn next(events: &mut mpsc::Receiver<ReaderEvent>) -> &'static str {
        match events.recv().await.unwrap() {
            ReaderEvent::Up { .. } => "up",
            ReaderEvent::Down { why, .. } => why.kind(),
            ReaderEvent::Card(_) => "card",
            ReaderEvent::Removed { .. } | ReaderEvent::Rejected { .. } | ReaderEvent::Odd { .. } => "other",
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_hangs_is_replaced_and_cannot_be_heard_any_more() {
        let gate = Gate::default();
        let (late, heard) = sync_mpsc::sync_channel(1);
        let (terms, his) = (AtomicU64::new(0), Arc::clone(&gate));
        let (reader, mut events) = start(4, move |term: &Term| {
            if terms.fetch_add(1, Ordering::Relaxed) > 0 {
                assert!(term.card_in_field(), "the card of the term before is forgotten");
                return turn(term);
            }
            term.say(card()).unwrap();
            term.call(|| *his.wait());
            late.send(term.say(card())).unwrap();
            TermOver
        });
        assert_eq!(next(&mut events).await, "card");
        assert_eq!(next(&mut events).await, "hanging");
        assert_eq!(next(&mut events).await, "up");
        gate.set(()).unwrap();
        assert_eq!(heard.recv().unwrap(), Err(TermOver));
        assert_eq!(reader.progress().recoveries(RecoveryStep::Thread), 1);
        reader.stop().await;
        assert_eq!(events.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_thread_is_abandoned_and_the_next_goes_on_when_it_can() {
        let gate = Gate::default();
        let (entering, mut entered) = mpsc::channel(4);
        let his = Arc::clone(&gate);
        let (reader, mut events) = start(4, move |term: &Term| {
            term.call(|| {
                entering.blocking_send(()).unwrap();
                *his.wait()
            });
            turn(term)
        });
        entered.recv().await.unwrap();
        assert_eq!(next(&mut events).await, "hanging");
        entered.recv().await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(entered.try_recv().is_err(), "a third thread was started");
        assert!(events.try_recv().is_err(), "hanging was told again");
        gate.set(()).unwrap();
        assert_eq!(next(&mut events).await, "up");
        reader.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_leaves_a_hanging_thread_behind() {
        let gate = Gate::default();
        let (entering, mut entered) = mpsc::channel(1);
        let his = Arc::clone(&gate);
        let (reader, _events) = start(1, move |term: &Term| {
            term.call(|| {
                entering.blocking_send(()).unwrap();
                *his.wait()
            });
            TermOver
        });
        entered.recv().await.unwrap();
        reader.stop().await;
        gate.set(()).unwrap();
    }

    #[tokio::test]
    async fn a_stop_waits_for_a_healthy_thread() {
        let ended = Arc::new(AtomicBool::new(false));
        let his = Arc::clone(&ended);
        let (reader, mut events) = start(1, move |term: &Term| {
            let over = turn(term);
            his.store(true, Ordering::Relaxed);
            over
        });
        assert_eq!(next(&mut events).await, "up");
        reader.stop().await;
        assert!(ended.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_reader_stops_though_nobody_drains_its_events() {
        let (reader, events) = start(1, |term: &Term| {
            while term.say(card()).is_ok() {}
            TermOver
        });
        while events.is_empty() {
            tokio::task::yield_now().await;
        }
        reader.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_ends_by_a_defect_is_told_and_started_again() {
        let terms = AtomicU64::new(0);
        let (reader, mut events) =
            start(
                4,
                move |term: &Term| {
                    if terms.fetch_add(1, Ordering::Relaxed) == 0 { TermOver } else { turn(term) }
                },
            );
        assert_eq!(next(&mut events).await, "no_thread");
        assert_eq!(next(&mut events).await, "up");
        reader.stop().await;
    }

    #[test]
    fn only_a_call_that_lasts_too_long_hangs() {
        assert_eq!(silence(0, 1_000_000), None);
        assert_eq!(silence(1, LIVENESS_MS), None);
        assert_eq!(silence(1_000, 1_000 + LIVENESS_MS), None);
        assert_eq!(silence(1_000, 1_001 + LIVENESS_MS), Some(5_001));
        assert_eq!(silence(9_000, 1_000), None);
    }
}
