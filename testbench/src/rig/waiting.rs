//! Waiting for a condition instead of sleeping; it doesn't know what is waited for.

use std::{fs, panic::Location, path::Path, time::Duration};

use crate::stopwatch::Stopwatch;

/// How often a condition is looked at: unnoticed by a person, cheap for a small machine.
pub(super) const POLL_EVERY: Duration = Duration::from_millis(20);

/// How much of a log an error quotes.
const LOG_TAIL_LINES: usize = 40;

/// Polls `condition` until it holds.
///
/// ```no_run
/// # use std::time::Duration;
/// # async fn example(sim: testbench::legacy_sim::LegacySim, agent: testbench::rig::Running) {
/// testbench::rig::wait_until("ten check-ins", Duration::from_secs(5), &[agent.log()], async || {
///     sim.report().processed.len() == 10
/// })
/// .await;
/// # }
/// ```
///
/// # Panics
///
/// When it doesn't hold `within` that time; the message says `what` was waited for, from where, and how `logs` end.
#[track_caller]
pub fn wait_until(
    what: &str,
    within: Duration,
    logs: &[&Path],
    mut condition: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    wait_for(what, within, logs, async move || condition().await.then_some(()))
}

/// Polls `look` until it finds something.
///
/// # Panics
///
/// Like [`wait_until`].
#[track_caller]
pub fn wait_for<T>(
    what: &str,
    within: Duration,
    logs: &[&Path],
    mut look: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let waited = Stopwatch::start();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if waited.elapsed() > within {
                let logs: String = logs.iter().map(|log| log_tail(log)).collect();
                panic!("{caller}: waited {within:?} in vain for {what}\n{logs}");
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

/// The end of a log, with a heading.
pub(super) fn log_tail(path: &Path) -> String {
    let log = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) => format!("(unreadable: {e})"),
    };
    let lines: Vec<_> = log.lines().collect();
    let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
    format!("--- {}\n{tail}\n", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_late_is_found() {
        let mut looks = 0;
        let found = wait_for("the third look", Duration::from_secs(5), &[], async || {
            looks += 1;
            (looks == 3).then_some("found")
        });
        assert_eq!(found.await, "found");
    }

    #[tokio::test]
    async fn waiting_in_vain_says_for_what_from_where_and_how_the_log_ends() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        fs::write(&log, (1..=100).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        let waiting = tokio::spawn(async move {
            wait_until("Godot", Duration::ZERO, &[&log], async || false).await;
        });
        let message = *waiting.await.unwrap_err().into_panic().downcast::<String>().unwrap();
        assert!(message.contains("waiting.rs") && message.contains("Godot"), "{message}");
        assert!(message.contains("line 61\n") && !message.contains("line 60\n"), "{message}");
    }
}
