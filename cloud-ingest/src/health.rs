//! Beside the line: whether this process does its work. Loops say when they turned; nobody has to ask them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use serde::Serialize;

use crate::clock::Stopwatch;
use crate::event_store::UtcMs;
use crate::watchdog::Seen;

pub use crate::loops::Loop;

/// A loop that has not turned for so long is taken for stuck: each turns at least every second when all is well.
pub const STUCK_AFTER_MS: i64 = 15_000;

/// What a process is to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Intake {
    /// It takes in.
    Here,
    /// Another does; this one takes over when that one ends.
    StandsBy,
    /// It never does.
    Elsewhere,
}

/// What the loops say of themselves.
#[derive(Debug)]
pub struct Health {
    /// Those that run in this process.
    loops: Vec<Loop>,
    turned: [AtomicI64; Loop::ALL.len()],
    began: Stopwatch,
    /// When each last gave a sign of life, for the watchdog: by a time that nobody sets, from `began` on.
    alive_ms: [AtomicU64; Loop::ALL.len()],
    store_answered_ms: AtomicU64,
    store_answers_since_ms: AtomicU64,
    takes_in: AtomicBool,
    broker: Mutex<Result<(), String>>,
    store: Mutex<Result<(), String>>,
    rewound: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Health {
        Health::of(Loop::ALL.into())
    }
}

impl Health {
    /// Of a process that runs these loops.
    pub fn of(loops: Vec<Loop>) -> Health {
        Health {
            loops,
            turned: Default::default(),
            began: Stopwatch::start(),
            alive_ms: Default::default(),
            store_answered_ms: AtomicU64::new(0),
            store_answers_since_ms: AtomicU64::new(0),
            takes_in: AtomicBool::new(false),
            broker: Mutex::new(Err("not connected yet".into())),
            store: Mutex::new(Err("not asked yet".into())),
            rewound: Mutex::default(),
        }
    }

    /// The loop made a turn, or is provably idle.
    pub fn turned(&self, which: Loop, now: UtcMs) {
        self.turned[which as usize].store(now.0, Ordering::Relaxed);
        self.tries(which);
    }

    /// The loop cannot get on, and it is not its own fault: it tries again. A restart would change nothing.
    pub fn tries(&self, which: Loop) {
        self.alive_ms[which as usize].store(self.ms(), Ordering::Relaxed);
    }

    /// The store's threads turn: one gave an answer, be it an error. `after_silence`: the one before was waited for in vain.
    pub fn store_answered(&self, after_silence: bool) {
        let now_ms = self.ms();
        self.store_answered_ms.store(now_ms, Ordering::Relaxed);
        if after_silence {
            self.store_answers_since_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// What the watchdog goes by. `store_is_here`: it is a file, and nobody else's machine can be why it is silent.
    pub fn seen(&self, store_is_here: bool) -> Seen {
        let read = |ms: &AtomicU64| ms.load(Ordering::Relaxed);
        Seen {
            now_ms: self.ms(),
            loops: self.loops.iter().map(|which| (*which, read(&self.alive_ms[*which as usize]))).collect(),
            store_answered_ms: read(&self.store_answered_ms),
            store_answers_since_ms: read(&self.store_answers_since_ms),
            store_is_here,
        }
    }

    fn ms(&self) -> u64 {
        (self.began.seconds() * 1_000.0) as u64
    }

    /// When the loop last turned; `None` if it never did.
    pub fn last_turn(&self, which: Loop) -> Option<UtcMs> {
        match self.turned[which as usize].load(Ordering::Relaxed) {
            0 => None,
            at => Some(UtcMs(at)),
        }
    }

    /// It is this process that takes in from the broker, or it only stands by.
    pub fn takes_in(&self, is_so: bool) {
        self.takes_in.store(is_so, Ordering::Relaxed);
    }

    /// What this process is to the broker.
    pub fn intake(&self) -> Intake {
        match (self.loops.contains(&Loop::Intake), self.takes_in.load(Ordering::Relaxed)) {
            (false, _) => Intake::Elsewhere,
            (true, false) => Intake::StandsBy,
            (true, true) => Intake::Here,
        }
    }

    /// Connected to the broker, or why not.
    pub fn broker(&self, state: Result<(), String>) {
        *self.broker.lock().expect("nobody panics while holding it") = state;
    }

    /// Whether the broker is connected.
    pub fn broker_state(&self) -> Result<(), String> {
        self.broker.lock().expect("nobody panics while holding it").clone()
    }

    /// The store answers, or why not.
    pub fn store(&self, state: Result<(), String>) {
        *self.store.lock().expect("nobody panics while holding it") = state;
    }

    /// The store is older than its receipts, in words; `None` if it is not.
    pub fn rewound(&self, why: Option<String>) {
        *self.rewound.lock().expect("nobody panics while holding it") = why;
    }

    /// Why this process is not ready, for people; empty if it is.
    pub fn complaints(&self, now: UtcMs) -> Vec<String> {
        let mut complaints = Vec::new();
        if let Err(why) = &*self.store.lock().expect("nobody panics while holding it") {
            complaints.push(format!("the store does not answer: {why}"));
        }
        if self.intake() == Intake::Here
            && let Err(why) = self.broker_state()
        {
            complaints.push(format!("the broker is not connected: {why}"));
        }
        complaints.extend(self.rewound.lock().expect("nobody panics while holding it").clone());
        for which in self.loops.iter().copied() {
            match self.last_turn(which) {
                None => complaints.push(format!("the {} loop has not turned yet", which.name())),
                Some(at) if now.0 - at.0 > STUCK_AFTER_MS => complaints.push(format!(
                    "the {} loop has not turned for {} s",
                    which.name(),
                    (now.0 - at.0) / 1000
                )),
                Some(_) => {}
            }
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_is_missing() {
        let health = Health::default();
        assert_eq!(health.complaints(UtcMs(1)).len(), 1 + Loop::ALL.len());
        health.takes_in(true);
        assert_eq!(health.complaints(UtcMs(1)).len(), 2 + Loop::ALL.len(), "the broker is to be connected");

        health.store(Ok(()));
        health.broker(Ok(()));
        Loop::ALL.into_iter().for_each(|which| health.turned(which, UtcMs(1_000)));
        assert!(health.complaints(UtcMs(1_000 + STUCK_AFTER_MS)).is_empty());

        health.turned(Loop::Broker, UtcMs(9_000));
        health.turned(Loop::Dispatch, UtcMs(9_000));
        health.turned(Loop::Watch, UtcMs(9_000));
        health.broker(Err("connection refused".into()));
        assert_eq!(
            health.complaints(UtcMs(20_000)),
            ["the broker is not connected: connection refused", "the intake loop has not turned for 19 s"]
        );
    }

    #[test]
    fn a_stand_by_and_a_process_without_intake_are_ready_without_the_broker() {
        let stands_by = Health::default();
        stands_by.store(Ok(()));
        Loop::ALL.into_iter().for_each(|which| stands_by.turned(which, UtcMs(1_000)));
        assert_eq!(stands_by.intake(), Intake::StandsBy);
        assert!(stands_by.complaints(UtcMs(1_000)).is_empty());

        let elsewhere = Health::of(vec![Loop::Dispatch]);
        elsewhere.store(Ok(()));
        assert_eq!(elsewhere.intake(), Intake::Elsewhere);
        assert_eq!(elsewhere.complaints(UtcMs(1_000)), ["the dispatch loop has not turned yet"]);
    }
}
