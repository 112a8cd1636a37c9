//! Beside the line: whether this process does its work, for the service manager's watchdog. Pure: takes what was last seen of
//! its parts.
//!
//! A feed means: every loop turned lately or tries again what others keep it from, and the store's threads answer. A broker, a
//! database server or a destination that is away is no reason for a restart: taps that come over HTTP are taken into the spool
//! meanwhile, and the rest waits. A part that stands is one.

use crate::loops::Loop;

/// A loop turns at least every second when all is well, and tries again every ten seconds when it is not.
pub const LOOP_WITHIN_MS: u64 = 60_000;

/// The watch asks the store at least every fifteen seconds. A commit may take long on a disk that is failing.
pub const STORE_WITHIN_MS: u64 = 120_000;

/// What was last seen of the parts. All moments are milliseconds since the start.
#[derive(Debug)]
pub struct Seen {
    /// Now.
    pub now_ms: u64,
    /// The loops of this process, and when each last gave a sign of life; 0: not yet.
    pub loops: Vec<(Loop, u64)>,
    /// When the store's threads last answered; 0: not yet.
    pub store_answered_ms: u64,
    /// Since when they answer again; 0: since the start.
    pub store_answers_since_ms: u64,
    /// The store is a file of this machine.
    pub store_is_here: bool,
}

/// What stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// A loop.
    #[error("the {} loop has not turned for {still_ms} ms", which.name())]
    Loop {
        /// Which.
        which: Loop,
        /// For how long.
        still_ms: u64,
    },
    /// The threads of a store that is a file.
    #[error("the store has not answered for {0} ms")]
    Store(u64),
}

/// What stands, if anything does.
pub fn stuck(seen: &Seen) -> Option<Stuck> {
    let store_silent_ms = seen.now_ms.saturating_sub(seen.store_answered_ms);
    if seen.store_is_here && store_silent_ms > STORE_WITHIN_MS {
        return Some(Stuck::Store(store_silent_ms));
    }
    seen.loops.iter().find_map(|(which, alive_ms)| {
        let since_ms = match which {
            // It waits for the store no longer than it says.
            Loop::Watch => *alive_ms,
            // The others wait for an answer as long as it takes: their time begins when there are answers.
            _ if store_silent_ms > LOOP_WITHIN_MS => return None,
            _ => (*alive_ms).max(seen.store_answers_since_ms),
        };
        let still_ms = seen.now_ms.saturating_sub(since_ms);
        (still_ms > LOOP_WITHIN_MS).then_some(Stuck::Loop { which: *which, still_ms })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    /// An hour after the start everything turned a second ago.
    fn well() -> Seen {
        let lately_ms = HOUR_MS - 1_000;
        Seen {
            now_ms: HOUR_MS,
            loops: Loop::ALL.map(|which| (which, lately_ms)).into(),
            store_answered_ms: lately_ms,
            store_answers_since_ms: 0,
            store_is_here: true,
        }
    }

    #[track_caller]
    fn check(seen: Seen, expect: Option<&str>) {
        assert_eq!(stuck(&seen).map(|stuck| stuck.to_string()).as_deref(), expect);
    }

    fn silent(which: Loop, since_ms: u64) -> Vec<(Loop, u64)> {
        Loop::ALL.map(|each| (each, HOUR_MS - if each == which { since_ms } else { 1_000 })).into()
    }

    #[test]
    fn what_turns_is_alive_and_a_loop_that_stands_is_named() {
        check(well(), None);
        for which in Loop::ALL {
            check(Seen { loops: silent(which, 60_000), ..well() }, None);
            let stands = format!("the {} loop has not turned for 60001 ms", which.name());
            check(Seen { loops: silent(which, 60_001), ..well() }, Some(&stands));
        }
    }

    #[test]
    fn a_process_that_has_just_started_is_alive() {
        let never = Loop::ALL.map(|which| (which, 0)).into();
        check(Seen { now_ms: 60_000, loops: never, store_answered_ms: 0, ..well() }, None);
    }

    #[test]
    fn a_server_that_is_silent_for_hours_stops_nothing_but_a_file_that_is_stands() {
        let away =
            || Seen { store_answered_ms: 1_000, loops: silent(Loop::Intake, HOUR_MS - 1_000), ..well() };
        check(Seen { store_is_here: false, ..away() }, None);
        check(away(), Some("the store has not answered for 3599000 ms"));
        check(Seen { store_answered_ms: HOUR_MS - 120_000, ..well() }, None);
        // The watch itself is not excused.
        let watch = Seen { store_is_here: false, loops: silent(Loop::Watch, 60_001), ..away() };
        check(watch, Some("the watch loop has not turned for 60001 ms"));
    }

    #[test]
    fn who_waited_for_the_store_has_time_when_it_is_back() {
        let waited = || Seen { loops: silent(Loop::Intake, HOUR_MS - 1_000), store_is_here: false, ..well() };
        check(Seen { store_answers_since_ms: HOUR_MS - 60_000, ..waited() }, None);
        let stands = "the intake loop has not turned for 60001 ms";
        check(Seen { store_answers_since_ms: HOUR_MS - 60_001, ..waited() }, Some(stands));
    }
}
