//! A machine that a replica runs on: its clocks, and whether it stands still.

use std::sync::Mutex;

use tokio::sync::Notify;

/// One machine.
#[derive(Debug)]
pub struct Machine {
    /// Which.
    pub no: usize,
    state: Mutex<State>,
    /// In the order in which they wait, unlike a watch channel's.
    goes_on: Notify,
}

#[derive(Debug, Default)]
struct State {
    wall_error_ms: i64,
    still_since_ms: Option<u64>,
    heard_from_store_ms: u64,
    hears_until_ms: u64,
    looked_at_time: u64,
}

impl Machine {
    /// Machine `no`.
    pub fn new(no: usize) -> Machine {
        Machine { no, state: Mutex::default(), goes_on: Notify::new() }
    }

    /// Its clock is wrong by so much.
    pub fn set_clock(&self, wall_error_ms: i64) {
        self.state().wall_error_ms = wall_error_ms;
    }

    /// What its clock shows.
    pub fn wall_ms(&self, now_ms: u64) -> i64 {
        let state = self.state();
        i64::try_from(state.still_since_ms.unwrap_or(now_ms)).expect("a day") + state.wall_error_ms
    }

    /// What it has counted; each machine counts from somewhere else. Whoever stands still does not see time pass.
    pub fn monotonic_ms(&self, now_ms: u64) -> u64 {
        self.state().still_since_ms.unwrap_or(now_ms) + 1_000_003 * (self.no as u64 + 1)
    }

    /// It looks what it has counted; `no` is the place of that among all that is heard and asked.
    pub fn looks_at_time(&self, no: u64) {
        self.state().looked_at_time = no;
    }

    /// When it last looked.
    pub fn looked_at_time(&self) -> u64 {
        self.state().looked_at_time
    }

    /// It stands still, or goes on.
    pub fn stand_still(&self, since_ms: Option<u64>) {
        self.state().still_since_ms = since_ms;
        if since_ms.is_none() {
            self.goes_on.notify_waiters();
        }
    }

    /// Whether it stands still.
    pub fn is_still(&self) -> bool {
        self.state().still_since_ms.is_some()
    }

    /// Waits until it does not stand still.
    pub async fn goes_on(&self) {
        while self.is_still() {
            self.goes_on.notified().await;
        }
    }

    /// What the store does for it until then, it hears of only then.
    pub fn hears_late(&self, until_ms: u64) {
        self.state().hears_until_ms = until_ms;
    }

    /// Before that it hears nothing from the store.
    pub fn hears_until_ms(&self) -> u64 {
        self.state().hears_until_ms
    }

    /// The store has run something for it.
    pub fn hears_from_store(&self, ran_ms: u64) {
        self.state().heard_from_store_ms = ran_ms;
    }

    /// When the last thing was run that it has heard of.
    pub fn heard_from_store_ms(&self) -> u64 {
        self.state().heard_from_store_ms
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }
}
