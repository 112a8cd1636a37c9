//! How full the outboxes are and what follows: receipted history goes first, records without a receipt never; at 80 % there
//! is a warning, and when there is no room left the next tap is refused at the reader. And how long history is kept. Pure:
//! knows no disk and no clock.
//!
//! Age is not read from a clock. A controller's may say anything, and the cloud's may be wrong for a moment too; so a day
//! has passed when the cloud's signed time has moved on by a day since the last one that was counted. A jump of ten years
//! counts as one day, a jump back as none: a wrong clock keeps history longer, never shorter.

use tap_protocol::ids::Seq;

/// Room that one commit and the log may need: below that the outbox counts as full.
pub const HEADROOM_BYTES: u64 = 192 * 1024;

/// From here on it is worth a warning.
const HIGH_PERCENT: u64 = 80;

/// The warning ends only below this, so that it does not flicker.
const LOW_PERCENT: u64 = 75;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Days that are remembered at most, whatever is configured.
pub const MAX_DAYS: usize = 93;

/// What is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that all outboxes together may use.
    pub max_bytes: u64,
    /// Bytes of the file system that are left to others.
    pub min_free_bytes: u64,
    /// Receipted records that are kept per outbox.
    pub keep_receipted: u64,
    /// Days that they are kept.
    pub keep_receipted_days: u16,
}

/// What is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use in all outboxes.
    pub used_bytes: u64,
    /// Bytes of their files that are not in use and can be filled again.
    pub spare_bytes: u64,
    /// Bytes that can still be written to the file system.
    pub disk_free_bytes: u64,
}

/// How full that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is room.
    Fine,
    /// Worth a warning.
    High,
    /// The next record is refused.
    Full,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// How full.
    pub level: Level,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes that may be in use, as things are.
    pub limit_bytes: u64,
}

/// Decides. `before` is the level until now.
pub fn decide(usage: &Usage, limits: &Limits, before: Level) -> Verdict {
    let used_bytes = usage.used_bytes;
    let growth = usage.disk_free_bytes.saturating_sub(limits.min_free_bytes);
    let limit_bytes =
        limits.max_bytes.min(used_bytes.saturating_add(usage.spare_bytes).saturating_add(growth));
    let percent = if before == Level::Fine { HIGH_PERCENT } else { LOW_PERCENT };
    let level = if used_bytes + HEADROOM_BYTES > limit_bytes {
        Level::Full
    } else if used_bytes.saturating_mul(100) >= limit_bytes.saturating_mul(percent) {
        Level::High
    } else {
        Level::Fine
    };
    Verdict { level, used_bytes, limit_bytes }
}

/// How far receipts went, day by day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Days {
    /// The cloud's time when the last day was counted.
    last_utc_ms: Option<i64>,
    /// Oldest first.
    through: Vec<Seq>,
}

impl Days {
    /// From the bytes in the outbox's own row.
    pub fn from_bytes(bytes: &[u8]) -> Days {
        let (numbers, _) = bytes.as_chunks::<8>();
        let mut numbers = numbers.iter().copied();
        let last_utc_ms = numbers.next().map(i64::from_be_bytes);
        Days { last_utc_ms, through: numbers.map(|seq| Seq(u64::from_be_bytes(seq))).collect() }
    }

    /// For the outbox's own row.
    pub fn to_bytes(&self) -> Vec<u8> {
        let time = self.last_utc_ms.map(i64::to_be_bytes);
        time.into_iter().chain(self.through.iter().map(|seq| seq.0.to_be_bytes())).flatten().collect()
    }

    /// A receipt went up to here, at this time of the cloud. Returns whether that is worth remembering.
    pub fn receipted(&mut self, through: Seq, cloud_utc_ms: i64) -> bool {
        match self.last_utc_ms {
            Some(last) if cloud_utc_ms >= last && cloud_utc_ms - last < DAY_MS => return false,
            // It went back: no day has passed, and days are counted from here.
            Some(last) if cloud_utc_ms < last => {}
            _ => {
                self.through.push(through);
                if self.through.len() > MAX_DAYS {
                    self.through.remove(0);
                }
            }
        }
        self.last_utc_ms = Some(cloud_utc_ms);
        true
    }

    /// What had its receipt at least so many days ago.
    pub fn old_through(&self, days: u16) -> Seq {
        let newer = usize::from(days).min(MAX_DAYS - 1);
        let at = self.through.len().checked_sub(newer + 1);
        at.map_or(Seq::ZERO, |at| self.through[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_bytes: 10_000_000,
        min_free_bytes: 1_000_000,
        keep_receipted: 5,
        keep_receipted_days: 30,
    };

    #[track_caller]
    fn check(used: u64, spare: u64, free: u64, before: Level, level: Level, limit: u64) {
        let usage = Usage { used_bytes: used, spare_bytes: spare, disk_free_bytes: free };
        let verdict = decide(&usage, &LIMITS, before);
        assert_eq!((verdict.level, verdict.limit_bytes), (level, limit));
    }

    #[test]
    fn the_tighter_of_size_and_disk_is_the_limit() {
        check(1_000_000, 0, 90_000_000, Level::Fine, Level::Fine, 10_000_000);
        check(8_000_000, 0, 90_000_000, Level::Fine, Level::High, 10_000_000);
        check(9_900_000, 0, 90_000_000, Level::High, Level::Full, 10_000_000);
        check(1_000_000, 0, 2_000_000, Level::Fine, Level::Fine, 2_000_000);
        check(1_000_000, 0, 1_100_000, Level::Fine, Level::Full, 1_100_000);
        check(1_000_000, 0, 500_000, Level::Fine, Level::Full, 1_000_000);
    }

    #[test]
    fn pages_that_were_pruned_are_room_on_a_full_disk() {
        check(1_000_000, 4_000_000, 0, Level::Full, Level::Fine, 5_000_000);
    }

    #[test]
    fn the_warning_does_not_flicker() {
        check(7_800_000, 0, 90_000_000, Level::Fine, Level::Fine, 10_000_000);
        check(7_800_000, 0, 90_000_000, Level::High, Level::High, 10_000_000);
        check(7_400_000, 0, 90_000_000, Level::High, Level::Fine, 10_000_000);
    }

    #[test]
    fn thirty_days_are_thirty_days_that_the_cloud_has_seen() {
        let mut days = Days::default();
        for day in 0..40 {
            assert!(days.receipted(Seq(day * 10), day as i64 * DAY_MS));
            assert!(!days.receipted(Seq(day * 10 + 5), day as i64 * DAY_MS + 1_000));
        }
        assert_eq!(days.old_through(30), Seq(90), "the receipt of 30 days before the last");
        assert_eq!(Days::from_bytes(&days.to_bytes()), days);
    }

    #[test]
    fn a_clock_that_jumps_ages_nothing() {
        let mut days = Days::default();
        days.receipted(Seq(10), 0);
        days.receipted(Seq(20), 3_650 * DAY_MS);
        assert_eq!(days.old_through(30), Seq::ZERO, "ten years ahead is one day");
        days.receipted(Seq(30), DAY_MS);
        assert_eq!(days.old_through(1), Seq(10), "and back is none");
        days.receipted(Seq(40), 2 * DAY_MS);
        assert_eq!(days.old_through(1), Seq(20));
    }

    #[test]
    fn years_of_receipts_stay_small() {
        let mut days = Days::default();
        (0..2_000).for_each(|day| {
            days.receipted(Seq(day), day as i64 * DAY_MS);
        });
        assert!(days.to_bytes().len() <= 8 * (MAX_DAYS + 1));
    }
}
