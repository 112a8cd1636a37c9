//! Whether the agent does its work, for the service manager's watchdog. Pure: takes what was last seen of the parts.
//!
//! A feed means: the loop turned, every commit that was asked for came back lately or none is outstanding, and every
//! reader's own loop turned. Missing hardware is no reason for a restart and stops nothing here; a part that stands is.

use tap_protocol::ids::ReaderName;

/// A commit may take so long: an SD card that wears out has been seen to take 10 s.
pub const COMMIT_WITHIN_MS: u64 = 20_000;

/// A reader's loop turns twice a second, whatever its hardware does.
pub const READER_TURNS_WITHIN_MS: u64 = 10_000;

/// What was last seen of the parts; all moments are CLOCK_BOOTTIME milliseconds.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The outbox's thread has ended though nobody told it to.
    pub outbox_ended: bool,
    /// Since when the oldest outstanding commit has been; `None`: nothing is outstanding, the thread may rest.
    pub commit_since_ms: Option<u64>,
    /// Each reader and when its loop last turned; 0: not yet.
    pub readers: Vec<(&'a ReaderName, u64)>,
}

/// What stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// The thread is gone.
    #[error("the outbox's thread has ended")]
    OutboxEnded,
    /// A commit does not come back.
    #[error("a commit has not come back for {0} ms")]
    Commit(u64),
    /// A reader's loop stands.
    #[error("the loop of reader {0} has not turned for {1} ms")]
    Reader(ReaderName, u64),
}

/// What stands at `now_ms`, if anything does. `started_ms`: when the agent started.
pub fn stuck(seen: &Seen<'_>, started_ms: u64, now_ms: u64) -> Option<Stuck> {
    if seen.outbox_ended {
        return Some(Stuck::OutboxEnded);
    }
    if let Some(since_ms) = seen.commit_since_ms {
        let waited_ms = now_ms.saturating_sub(since_ms);
        if waited_ms > COMMIT_WITHIN_MS {
            return Some(Stuck::Commit(waited_ms));
        }
    }
    seen.readers.iter().find_map(|(reader, turned_ms)| {
        let still_ms = now_ms.saturating_sub((*turned_ms).max(started_ms));
        (still_ms > READER_TURNS_WITHIN_MS).then(|| Stuck::Reader((*reader).clone(), still_ms))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTED_MS: u64 = 100_000;

    #[track_caller]
    fn check(now_ms: u64, commit_since_ms: Option<u64>, reader_turned_ms: u64, expect: Option<&str>) {
        let reader = "in".parse().unwrap();
        let seen = Seen { outbox_ended: false, commit_since_ms, readers: vec![(&reader, reader_turned_ms)] };
        let got = stuck(&seen, STARTED_MS, now_ms).map(|stuck| stuck.to_string());
        assert_eq!(got.as_deref(), expect);
    }

    #[test]
    fn an_idle_door_is_alive_for_ever() {
        check(STARTED_MS + 86_400_000, None, STARTED_MS + 86_399_500, None);
    }

    #[test]
    fn a_slow_commit_is_alive_and_one_that_hangs_is_not() {
        check(STARTED_MS + 20_000, Some(STARTED_MS), STARTED_MS + 20_000, None);
        let hangs = "a commit has not come back for 20001 ms";
        check(STARTED_MS + 20_001, Some(STARTED_MS), STARTED_MS + 20_001, Some(hangs));
    }

    #[test]
    fn a_reader_whose_loop_stands_is_named_and_one_that_only_starts_is_not() {
        check(STARTED_MS + 10_000, None, 0, None);
        let stands = "the loop of reader in has not turned for 10001 ms";
        check(STARTED_MS + 10_001, None, 0, Some(stands));
        check(STARTED_MS + 50_001, None, STARTED_MS + 40_000, Some(stands));
    }

    #[test]
    fn a_thread_that_is_gone_stands() {
        let seen = Seen { outbox_ended: true, commit_since_ms: None, readers: vec![] };
        assert_eq!(stuck(&seen, 0, 0), Some(Stuck::OutboxEnded));
    }
}
