//! Beside step 6: the time that certificates are checked against, as everybody here shares it, and its one line on the
//! disk. What follows from which clock is decided in [`crate::verification_time`].
//!
//! It is written rarely, because the card's life matters more than an hour: when the last word on the disk is an hour
//! old, and at the end.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tap_protocol::ids::BootId;
use tap_protocol::record::ClockState;
use tokio::task::JoinHandle;

use crate::clock;
use crate::enrolment::folder::give_to_owner_of;
use crate::now::Now;
use crate::verification_time::{CheckAt, GoodTime, VerificationTime};

/// Below the state folder.
const FILE: &str = "last-good-time";

/// How far the disk may be behind.
const WRITE_EVERY_MS: i64 = 3_600_000;

/// At the end a smaller gain is not worth a write.
const WORTH_WRITING_MS: i64 = 60_000;

/// How often the kernel is asked.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is known of the time, shared by all connections.
#[derive(Debug)]
pub struct KnownTime {
    file: PathBuf,
    /// [`clock::read`]; another one in tests.
    clock: fn() -> Now,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    time: VerificationTime,
    /// What the disk says.
    written: Option<GoodTime>,
}

impl KnownTime {
    /// With what the disk says; a file that is not there or makes no sense says nothing.
    pub fn load(state_dir: &Path, boot_id: BootId) -> Arc<KnownTime> {
        let file = state_dir.join(FILE);
        let written = std::fs::read_to_string(&file).ok().and_then(|text| parse(&text));
        let time = VerificationTime::new(boot_id, written);
        Arc::new(KnownTime { file, clock: clock::read, state: Mutex::new(State { time, written }) })
    }

    /// For a command that only looks: whatever boot this is.
    pub fn to_look_with(state_dir: &Path) -> Arc<KnownTime> {
        KnownTime::load(state_dir, clock::boot_id().unwrap_or(BootId([0; 16])))
    }

    /// Somebody who can be believed said the time at this moment of this boot.
    pub fn learn(&self, utc_ms: i64, boottime_ms: u64) {
        self.with(|state| state.time.learn(utc_ms, boottime_ms));
    }

    /// What to check certificates against now.
    pub fn check_at(&self) -> CheckAt {
        let now = (self.clock)();
        self.with(|state| {
            if now.clock == ClockState::Synced {
                state.time.learn(now.wall_ms, now.boottime_ms);
            }
            state.time.at(&now)
        })
    }

    /// Looks at the clock from time to time and writes down what is worth it.
    pub fn keep(self: &Arc<Self>) -> JoinHandle<()> {
        let known = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                known.check_at();
                let writing = Arc::clone(&known);
                let written = tokio::task::spawn_blocking(move || writing.write(WRITE_EVERY_MS)).await;
                if let Ok(Err(error)) = written {
                    // The next start begins with an older time: nothing that a door stands or falls with.
                    tracing::debug!("the time is not written down: {error}");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
    }

    /// The last word before the end.
    pub fn write_last(&self) {
        self.check_at();
        let _ = self.write(WORTH_WRITING_MS);
    }

    fn write(&self, worth_ms: i64) -> std::io::Result<()> {
        let Some(good) = self.with(|state| {
            let known = state.time.last_good()?;
            let gain_ms = state.written.map_or(i64::MAX, |old| known.utc_ms.saturating_sub(old.utc_ms));
            (gain_ms.saturating_abs() >= worth_ms).then_some(known)
        }) else {
            return Ok(());
        };
        let draft = self.file.with_extension("new");
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(format(&good).as_bytes())?;
        file.sync_all()?;
        give_to_owner_of(self.file.parent().unwrap_or(&self.file), &draft)?;
        std::fs::rename(&draft, &self.file)?;
        self.with(|state| state.written = Some(good));
        Ok(())
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl TimeProvider for KnownTime {
    fn current_time(&self) -> Option<UnixTime> {
        let since = u64::try_from(self.check_at().utc_ms).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(since)))
    }
}

fn format(good: &GoodTime) -> String {
    format!("{} {} {}\n", good.utc_ms, good.boot_id, good.boottime_ms)
}

fn parse(text: &str) -> Option<GoodTime> {
    let mut words = text.split_whitespace();
    let good = GoodTime {
        utc_ms: words.next()?.parse().ok()?,
        boot_id: words.next()?.parse().ok()?,
        boottime_ms: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(good)
}

#[cfg(test)]
impl KnownTime {
    /// In a first boot whose clock is in 2063, vouched for by nobody.
    pub(crate) fn in_the_dark() -> KnownTime {
        let wild = || Now { boottime_ms: 60_000, wall_ms: 2_934_748_800_000, clock: ClockState::Unsynced };
        let time = VerificationTime::new(BootId([1; 16]), None);
        KnownTime { file: "/nowhere".into(), clock: wild, state: Mutex::new(State { time, written: None }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verification_time::BUILT_UTC_S;

    const THIS: BootId = BootId([1; 16]);
    const BEFORE: BootId = BootId([2; 16]);
    const TRUE_MS: i64 = (BUILT_UTC_S + 90 * 86_400) * 1000;

    #[test]
    fn what_was_known_is_known_after_the_next_start_and_junk_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownTime::load(folder.path(), BEFORE);
        known.learn(TRUE_MS, 5_000);
        known.write(WORTH_WRITING_MS).unwrap();
        let again = KnownTime::load(folder.path(), THIS);
        let good = again.with(|state| state.time.last_good());
        assert_eq!(good, Some(GoodTime { utc_ms: TRUE_MS, boot_id: BEFORE, boottime_ms: 5_000 }));
        for junk in ["", "1 2 3", "\0\0\0\0", "99 x 1", &format!("{} 1", format(&good.unwrap()))] {
            assert_eq!(parse(junk), None, "{junk:?}");
        }
    }

    #[test]
    fn the_disk_is_written_to_once_an_hour_and_when_the_time_was_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownTime::load(folder.path(), THIS);
        let on_disk = || {
            std::fs::read_to_string(folder.path().join(FILE))
                .ok()
                .and_then(|text| parse(&text)?.utc_ms.into())
        };
        let learnt = |utc_ms, boottime_ms| {
            known.learn(utc_ms, boottime_ms);
            known.write(WRITE_EVERY_MS).unwrap();
            on_disk()
        };
        assert_eq!(learnt(TRUE_MS, 1), Some(TRUE_MS), "the first word is written at once");
        assert_eq!(learnt(TRUE_MS + WRITE_EVERY_MS - 1, 2), Some(TRUE_MS));
        assert_eq!(learnt(TRUE_MS + WRITE_EVERY_MS, 3), Some(TRUE_MS + WRITE_EVERY_MS));
        assert_eq!(learnt(TRUE_MS - WRITE_EVERY_MS, 4), Some(TRUE_MS - WRITE_EVERY_MS));
    }
}
