//! Which clock anchors are worth a record, and whether the wall clock was set. Pure: takes readings of clocks and
//! receipts, gives bodies to commit.
//!
//! An anchor lets the cloud work out the true time of every tap of the same boot, also of those before it. The sources:
//! the kernel begins to vouch for the wall clock, or vouches for it after it was set; or a receipt answers a hello and
//! brings the cloud's time, which works where NTP is blocked. A clock that was set while nobody vouches for it proves
//! nothing, whoever set it: that is said in the stamps ([`ClockState::Stepped`]) and nowhere else.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tap_protocol::ids::BootId;
use tap_protocol::limits::{MAX_ANCHOR_WIDTH_MS, MAX_DRIFT_PPM, MAX_VOUCHED_ERROR_MS};
use tap_protocol::receipt::Receipt;
use tap_protocol::record::{AnchorSource, Body, ClockState};

use crate::now::Now;

/// Hellos whose answers are still awaited.
const MAX_HELLOS: usize = 8;

/// How far a clock that the kernel vouches for may be off, milliseconds.
const KERNEL_UNCERTAINTY_MS: u32 = 500;

/// A wall clock that moves by more than this against boottime was set. Less says nothing that the uncertainty does not.
const STEP_MS: u64 = 500;

/// No daemon slews faster than a tenth (chrony: a twelfth): what moves slower was not set.
const FASTEST_SLEW: u64 = 10;

/// A kernel that begins to vouch so soon after the clock was set vouches for what was set then.
const STEP_BELONGS_TO_SYNC_MS: u64 = 60_000;

/// So many of the anchors that this run recorded are shown.
const MAX_SHOWN: usize = 4;

/// The clocks of one run of the agent.
#[derive(Debug)]
pub struct Anchors {
    boot_id: BootId,
    was_synced: bool,
    /// Wall clock minus boottime at the last reading, and that boottime.
    last_reading: Option<(i64, u64)>,
    /// The wall clock was set since boot, and nobody vouches for it.
    stepped: bool,
    /// What the wall clock minus boottime was before it was set, and when that was.
    set_from: Option<(i64, u64)>,
    steps: u64,
    /// CLOCK_BOOTTIME in the hellos last sent.
    hellos: VecDeque<u64>,
    /// Width and boottime of the best receipt anchor that was recorded.
    best: Option<(u64, u64)>,
    recorded: VecDeque<Body>,
    last_receipt: Option<CloudTime>,
}

/// One reading of the clocks, looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The clocks; the state says so if the wall clock was set and nobody vouches for it.
    pub now: Now,
    /// By how much the wall clock was set since the reading before, if it was.
    pub set_by_ms: Option<i64>,
}

/// The cloud's time as an answer to a hello brought it.
#[derive(Debug, Clone, Copy)]
struct CloudTime {
    at_boottime_ms: u64,
    /// How long hello and answer took together.
    width_ms: u64,
    /// At arrival it was this by the cloud's clock, and up to the width later.
    earliest_utc_ms: i64,
    /// How far the wall clock was from all of that; ahead is positive.
    wall_off_ms: i64,
}

/// What is known of time here: the shape of `edge-agent clock --output json`, which scripts rely on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReport {
    /// Which boot.
    pub boot_id: BootId,
    /// CLOCK_BOOTTIME, milliseconds.
    pub boottime_ms: u64,
    /// The wall clock, milliseconds since 1970-01-01 UTC, right or wrong.
    pub wall_ms: i64,
    /// Whether the kernel vouches for it.
    pub clock: ClockState,
    /// How often it was set since the agent started.
    pub steps: u64,
    /// The last anchors that this run of the agent recorded, the newest first.
    pub anchors: Vec<AnchorReport>,
    /// What the last receipt that answered a hello said.
    pub last_receipt: Option<ReceiptReport>,
    /// Where taps that are recorded now get their true time from.
    pub taps: TapTime,
}

/// One anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorReport {
    /// `kernel`, `step` or `receipt`.
    pub source: String,
    /// How long ago, milliseconds.
    pub age_ms: u64,
    /// How far it may be off, milliseconds.
    pub uncertainty_ms: u64,
}

/// The cloud's time against ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptReport {
    /// How long ago it came, milliseconds.
    pub age_ms: u64,
    /// How long hello and answer took together, milliseconds: up to 2 s it tells the time.
    pub round_trip_ms: u64,
    /// How far the wall clock was from the cloud's time then, at the least; ahead is positive, 0 is "they agree".
    pub wall_off_ms: i64,
}

/// Where taps get their true time from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TapTime {
    /// From the wall clock, for which the kernel vouches.
    Kernel,
    /// From what the kernel vouched for earlier in this boot.
    KernelEarlier,
    /// From the cloud's receipts.
    Receipts,
    /// The kernel vouches for a wall clock that the cloud's receipts contradict.
    Disputed,
    /// From nothing yet: they are recorded, and wait in the cloud.
    Nothing,
}

impl TapTime {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            TapTime::Kernel => "taps recorded now get their true time from this clock",
            TapTime::KernelEarlier => {
                "taps recorded now get their true time from what this clock showed while it was synchronised"
            }
            TapTime::Receipts => "taps recorded now get their true time from the cloud's receipts",
            TapTime::Disputed => {
                "taps recorded now wait for a person: this clock is said to be synchronised, and the cloud's receipts \
                 contradict it; look at the NTP server that is used here, and at the cloud's clock"
            }
            TapTime::Nothing => {
                "taps are recorded, and wait in the cloud for their true time: it comes with NTP, or with the first \
                 quick answer to a hello; see `edge-agent status` for the connection"
            }
        }
    }

    /// Whether they get one.
    pub fn is_known(self) -> bool {
        match self {
            TapTime::Kernel | TapTime::KernelEarlier | TapTime::Receipts => true,
            TapTime::Disputed | TapTime::Nothing => false,
        }
    }
}

impl Anchors {
    /// Nothing known yet.
    pub fn new(boot_id: BootId) -> Anchors {
        Anchors {
            boot_id,
            was_synced: false,
            last_reading: None,
            stepped: false,
            set_from: None,
            steps: 0,
            hellos: VecDeque::new(),
            best: None,
            recorded: VecDeque::new(),
            last_receipt: None,
        }
    }

    /// The best time there is: the wall clock's while the kernel vouches for it, else the cloud's last word carried on; if
    /// neither, none.
    pub fn best_utc_ms(&self, now: &Now) -> Option<i64> {
        if now.clock == ClockState::Synced {
            return Some(now.wall_ms);
        }
        let cloud = self.last_receipt.as_ref()?;
        let since_ms = now.boottime_ms.saturating_sub(cloud.at_boottime_ms);
        Some(cloud.earliest_utc_ms.saturating_add(signed(since_ms)))
    }

    /// What was recorded so far does not count any more: it could not be committed, or another outbox is written from now
    /// on, which shall say for itself when its records were. The next opportunities are taken anew.
    pub fn start_over(&mut self) {
        self.was_synced = false;
        self.best = None;
        self.recorded.clear();
    }

    /// The clocks were read. Every reading goes through here: what is stamped next must know that the clock was set.
    pub fn read(&mut self, now: Now) -> Reading {
        let offset_ms = now.wall_ms.saturating_sub(signed(now.boottime_ms));
        let before = self.last_reading.replace((offset_ms, now.boottime_ms));
        let set = before.filter(|(before_ms, at_ms)| {
            let slewed_ms = now.boottime_ms.saturating_sub(*at_ms) / FASTEST_SLEW;
            offset_ms.abs_diff(*before_ms) > STEP_MS + slewed_ms
        });
        if let Some((before_ms, _)) = set {
            self.set_from = Some((before_ms, now.boottime_ms));
            self.stepped = true;
            self.steps += 1;
        }
        // Whoever vouches now vouches for what it was set to.
        self.stepped &= now.clock != ClockState::Synced;
        let clock = if self.stepped { ClockState::Stepped } else { now.clock };
        let set_by_ms = set.map(|(before_ms, _)| offset_ms.saturating_sub(before_ms));
        Reading { now: Now { clock, ..now }, set_by_ms }
    }

    /// Time has passed, or the clock was set. Gives an anchor when the kernel begins to vouch for the wall clock, and when
    /// it vouches for one that was set.
    pub fn clock_read(&mut self, now: &Now) -> Option<Body> {
        let is_synced = now.clock == ClockState::Synced;
        let was_synced = std::mem::replace(&mut self.was_synced, is_synced);
        let begins = is_synced && !was_synced;
        if !is_synced || (!begins && self.set_from.is_none()) {
            return None;
        }
        let belongs =
            |(_, at_ms): &(i64, u64)| now.boottime_ms.saturating_sub(*at_ms) <= STEP_BELONGS_TO_SYNC_MS;
        let source = match self.set_from.take().filter(belongs) {
            Some((before_ms, _)) => {
                AnchorSource::Step { wall_before_ms: before_ms.saturating_add(signed(now.boottime_ms)) }
            }
            None if begins => AnchorSource::Kernel,
            None => return None,
        };
        Some(self.recorded(Body::ClockAnchor {
            source,
            earliest_boottime_ms: now.boottime_ms,
            latest_boottime_ms: now.boottime_ms,
            utc_ms: now.wall_ms,
            uncertainty_ms: KERNEL_UNCERTAINTY_MS,
        }))
    }

    /// A hello with this boottime was sent.
    pub fn hello_sent(&mut self, boottime_ms: u64) {
        if self.hellos.len() == MAX_HELLOS {
            self.hellos.pop_front();
        }
        self.hellos.push_back(boottime_ms);
    }

    /// An authentic receipt came. Gives an anchor if it answers a hello of ours, the wall clock is not vouched for (or
    /// wrongly so), and it says more than the best anchor so far has come to say after drifting.
    pub fn receipt_came(&mut self, receipt: &Receipt, now: &Now) -> Option<Body> {
        let echo = receipt.echo.filter(|echo| echo.boot_id == self.boot_id)?;
        if !self.hellos.contains(&echo.boottime_ms) {
            return None;
        }
        let width_ms = now.boottime_ms.saturating_sub(echo.boottime_ms);
        let wall_off_ms = off(now.wall_ms, receipt.cloud_utc_ms, width_ms);
        self.last_receipt = Some(CloudTime {
            at_boottime_ms: now.boottime_ms,
            width_ms,
            earliest_utc_ms: receipt.cloud_utc_ms,
            wall_off_ms,
        });
        let is_needless =
            now.clock == ClockState::Synced && wall_off_ms.unsigned_abs() <= MAX_VOUCHED_ERROR_MS;
        let says_more = match self.best {
            None => true,
            Some((best_width_ms, at_ms)) => {
                let drifted_ms = now.boottime_ms.saturating_sub(at_ms) * MAX_DRIFT_PPM / 1_000_000;
                2 * width_ms < best_width_ms + 2 * drifted_ms
            }
        };
        if width_ms > MAX_ANCHOR_WIDTH_MS || is_needless || !says_more {
            return None;
        }
        self.best = Some((width_ms, now.boottime_ms));
        Some(self.recorded(Body::ClockAnchor {
            source: AnchorSource::Receipt,
            earliest_boottime_ms: echo.boottime_ms,
            latest_boottime_ms: now.boottime_ms,
            utc_ms: receipt.cloud_utc_ms,
            uncertainty_ms: 0,
        }))
    }

    /// What is known of time here.
    pub fn report(&self, now: &Now) -> ClockReport {
        let age = |at_ms: u64| now.boottime_ms.saturating_sub(at_ms);
        let anchors = self.recorded.iter().filter_map(|body| match body {
            Body::ClockAnchor {
                source, earliest_boottime_ms, latest_boottime_ms, uncertainty_ms, ..
            } => Some(AnchorReport {
                source: source_name(source).into(),
                age_ms: age(*latest_boottime_ms),
                uncertainty_ms: u64::from(*uncertainty_ms)
                    + latest_boottime_ms.saturating_sub(*earliest_boottime_ms).div_ceil(2),
            }),
            _ => None,
        });
        ClockReport {
            boot_id: self.boot_id,
            boottime_ms: now.boottime_ms,
            wall_ms: now.wall_ms,
            clock: now.clock,
            steps: self.steps,
            anchors: anchors.collect(),
            last_receipt: self.last_receipt.map(|cloud| ReceiptReport {
                age_ms: age(cloud.at_boottime_ms),
                round_trip_ms: cloud.width_ms,
                wall_off_ms: cloud.wall_off_ms,
            }),
            taps: self.taps(now),
        }
    }

    fn taps(&self, now: &Now) -> TapTime {
        // Where the cloud's clock, as the last answer brought it, would be now; the wall clock may have been set since.
        let contradicts = |cloud: &CloudTime| {
            let cloud_ms =
                cloud.earliest_utc_ms.saturating_add(signed(now.boottime_ms - cloud.at_boottime_ms));
            cloud.width_ms <= MAX_ANCHOR_WIDTH_MS
                && off(now.wall_ms, cloud_ms, cloud.width_ms).unsigned_abs() > MAX_VOUCHED_ERROR_MS
        };
        let is_receipt =
            |body: &Body| matches!(body, Body::ClockAnchor { source: AnchorSource::Receipt, .. });
        match (now.clock, self.recorded.front()) {
            (ClockState::Synced, _) if self.last_receipt.as_ref().is_some_and(contradicts) => {
                TapTime::Disputed
            }
            (ClockState::Synced, _) => TapTime::Kernel,
            (_, Some(_)) if self.recorded.iter().any(is_receipt) => TapTime::Receipts,
            (_, Some(_)) => TapTime::KernelEarlier,
            (_, None) => TapTime::Nothing,
        }
    }

    fn recorded(&mut self, anchor: Body) -> Body {
        self.recorded.truncate(MAX_SHOWN - 1);
        self.recorded.push_front(anchor.clone());
        anchor
    }
}

/// How far `wall_ms` is from [`earliest_ms`, `earliest_ms` + `width_ms`]; ahead is positive.
fn off(wall_ms: i64, earliest_ms: i64, width_ms: u64) -> i64 {
    let latest_ms = earliest_ms.saturating_add(signed(width_ms));
    wall_ms.saturating_sub(wall_ms.clamp(earliest_ms, latest_ms))
}

fn source_name(source: &AnchorSource) -> &'static str {
    match source {
        AnchorSource::Kernel => "kernel",
        AnchorSource::Step { .. } => "step",
        AnchorSource::Receipt => "receipt",
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tap_protocol::chain::ChainHash;
    use tap_protocol::ids::{OutboxId, Seq, StoreEpoch};
    use tap_protocol::receipt::Echo;

    const BOOT: BootId = BootId([1; 16]);

    fn now(boottime_ms: u64, clock: ClockState) -> Now {
        Now { boottime_ms, wall_ms: 1_000_000, clock }
    }

    fn receipt(boot_id: BootId, boottime_ms: u64) -> Receipt {
        Receipt {
            controller: "hq-door-1".parse().unwrap(),
            store_epoch: StoreEpoch(1),
            outbox: OutboxId([1; 16]),
            stored_through: Seq(0),
            hash: ChainHash([0; 32]),
            resend: false,
            echo: Some(Echo { boot_id, boottime_ms }),
            cloud_utc_ms: 5_000_000,
        }
    }

    #[test]
    fn the_kernel_is_believed_once_each_time_it_begins_to_vouch() {
        let mut anchors = Anchors::new(BOOT);
        assert_eq!(anchors.clock_read(&now(1, ClockState::Unsynced)), None);
        assert!(anchors.clock_read(&now(2, ClockState::Synced)).is_some());
        assert_eq!(anchors.clock_read(&now(3, ClockState::Synced)), None);
        assert_eq!(anchors.clock_read(&now(4, ClockState::Unsynced)), None);
        assert!(anchors.clock_read(&now(5, ClockState::Synced)).is_some());
    }

    #[test]
    fn a_receipt_for_our_hello_is_an_anchor_as_wide_as_the_round_trip() {
        let mut anchors = Anchors::new(BOOT);
        anchors.hello_sent(100);
        let expected = Body::ClockAnchor {
            source: AnchorSource::Receipt,
            earliest_boottime_ms: 100,
            latest_boottime_ms: 140,
            utc_ms: 5_000_000,
            uncertainty_ms: 0,
        };
        assert_eq!(
            anchors.receipt_came(&receipt(BOOT, 100), &now(140, ClockState::Unsynced)),
            Some(expected)
        );
    }

    #[test]
    fn an_anchor_that_was_not_recorded_is_made_again() {
        let mut anchors = Anchors::new(BOOT);
        anchors.hello_sent(100);
        assert!(anchors.receipt_came(&receipt(BOOT, 100), &now(140, ClockState::Unsynced)).is_some());
        assert!(anchors.receipt_came(&receipt(BOOT, 100), &now(150, ClockState::Unsynced)).is_none());
        anchors.start_over();
        assert!(anchors.receipt_came(&receipt(BOOT, 100), &now(160, ClockState::Unsynced)).is_some());
        assert!(anchors.clock_read(&now(170, ClockState::Synced)).is_some());
        anchors.start_over();
        assert!(anchors.clock_read(&now(180, ClockState::Synced)).is_some());
    }

    #[test]
    fn strange_slow_and_needless_answers_are_no_anchors() {
        let mut anchors = Anchors::new(BOOT);
        anchors.hello_sent(100);
        let unsynced = |ms| now(ms, ClockState::Unsynced);
        assert_eq!(anchors.receipt_came(&receipt(BOOT, 99), &unsynced(140)), None, "not our hello");
        assert_eq!(
            anchors.receipt_came(&receipt(BootId([2; 16]), 100), &unsynced(140)),
            None,
            "another boot"
        );
        assert_eq!(anchors.receipt_came(&receipt(BOOT, 100), &unsynced(2_101)), None, "too slow");
        let agrees = Now { wall_ms: 5_000_000, ..now(140, ClockState::Synced) };
        assert_eq!(anchors.receipt_came(&receipt(BOOT, 100), &agrees), None, "needless");
    }

    #[test]
    fn a_better_answer_is_recorded_and_a_like_one_only_after_drift() {
        let mut anchors = Anchors::new(BOOT);
        let unsynced = |ms| now(ms, ClockState::Unsynced);
        anchors.hello_sent(0);
        assert!(anchors.receipt_came(&receipt(BOOT, 0), &unsynced(400)).is_some());
        anchors.hello_sent(60_000);
        assert!(anchors.receipt_came(&receipt(BOOT, 60_000), &unsynced(60_390)).is_none(), "hardly better");
        anchors.hello_sent(120_000);
        assert!(
            anchors.receipt_came(&receipt(BOOT, 120_000), &unsynced(120_040)).is_some(),
            "ten times better"
        );
        let hour_ms = 3_600_000;
        anchors.hello_sent(hour_ms);
        assert!(
            anchors.receipt_came(&receipt(BOOT, hour_ms), &unsynced(hour_ms + 40)).is_some(),
            "an hour of drift"
        );
    }

    /// The wall clock shows boottime and so much.
    fn wall(boottime_ms: u64, ahead_ms: i64, clock: ClockState) -> Now {
        Now { boottime_ms, wall_ms: boottime_ms as i64 + ahead_ms, clock }
    }

    fn source(anchor: Option<Body>) -> Option<AnchorSource> {
        match anchor {
            Some(Body::ClockAnchor { source, .. }) => Some(source),
            None => None,
            Some(other) => panic!("{other:?} is no anchor"),
        }
    }

    #[test]
    fn a_clock_that_is_set_by_hand_is_stepped_and_proves_nothing() {
        let mut anchors = Anchors::new(BOOT);
        let mut looks = |now: Now| {
            let reading = anchors.read(now);
            (reading.now.clock, reading.set_by_ms, anchors.clock_read(&reading.now))
        };
        assert_eq!(looks(wall(1_000, 0, ClockState::Unsynced)), (ClockState::Unsynced, None, None));
        assert_eq!(
            looks(wall(2_000, 600, ClockState::Unsynced)),
            (ClockState::Unsynced, None, None),
            "a slew"
        );
        let ahead = 315_576_000_000;
        let stepped = looks(wall(3_000, ahead, ClockState::Unsynced));
        assert_eq!(stepped, (ClockState::Stepped, Some(ahead - 600), None));
        assert_eq!(looks(wall(4_000, ahead, ClockState::Unsynced)), (ClockState::Stepped, None, None));
        let back = looks(wall(4_001, 0, ClockState::Unsynced));
        assert_eq!(back, (ClockState::Stepped, Some(-ahead), None));
    }

    #[test]
    fn a_step_that_the_kernel_vouches_for_is_an_anchor_and_says_what_was_shown_before() {
        // The kernel vouches with the step, or soon after it.
        for vouches_at_ms in [10_000, 12_000] {
            let mut anchors = Anchors::new(BOOT);
            anchors.read(wall(9_000, -3_600_000, ClockState::Unsynced));
            if vouches_at_ms > 10_000 {
                let reading = anchors.read(wall(10_000, 0, ClockState::Unsynced));
                assert_eq!(reading.now.clock, ClockState::Stepped);
                assert_eq!(anchors.clock_read(&reading.now), None);
            }
            let reading = anchors.read(wall(vouches_at_ms, 0, ClockState::Synced));
            assert_eq!(reading.now.clock, ClockState::Synced);
            let wall_before_ms = vouches_at_ms as i64 - 3_600_000;
            let step = AnchorSource::Step { wall_before_ms };
            assert_eq!(source(anchors.clock_read(&reading.now)), Some(step));
            let later = anchors.read(wall(vouches_at_ms + 1_000, 0, ClockState::Synced));
            assert_eq!(anchors.clock_read(&later.now), None);
        }
    }

    #[test]
    fn a_vouched_clock_that_is_set_gives_another_anchor() {
        let mut anchors = Anchors::new(BOOT);
        let first = anchors.read(wall(1_000, 0, ClockState::Synced));
        assert_eq!(source(anchors.clock_read(&first.now)), Some(AnchorSource::Kernel));
        let set = anchors.read(wall(2_000, 3_600_000, ClockState::Synced));
        assert_eq!(set.now.clock, ClockState::Synced);
        let step = AnchorSource::Step { wall_before_ms: 2_000 };
        assert_eq!(source(anchors.clock_read(&set.now)), Some(step));
    }

    #[test]
    fn a_step_long_before_the_kernel_vouches_is_not_its_step() {
        let mut anchors = Anchors::new(BOOT);
        anchors.read(wall(1_000, 0, ClockState::Unsynced));
        anchors.read(wall(2_000, 90_000, ClockState::Unsynced));
        let reading = anchors.read(wall(62_001, 90_000, ClockState::Synced));
        assert_eq!(source(anchors.clock_read(&reading.now)), Some(AnchorSource::Kernel));
    }

    #[test]
    fn a_receipt_is_recorded_against_a_vouched_clock_that_is_far_off() {
        let mut anchors = Anchors::new(BOOT);
        anchors.hello_sent(100);
        let vouched = |wall_ms| Now { wall_ms, ..now(140, ClockState::Synced) };
        for near in [5_000_000, 5_010_040, 4_990_000] {
            assert_eq!(anchors.receipt_came(&receipt(BOOT, 100), &vouched(near)), None, "{near}");
            assert_eq!(anchors.report(&vouched(near)).taps, TapTime::Kernel);
        }
        for far in [5_010_041, 4_989_999] {
            anchors.start_over();
            assert!(anchors.receipt_came(&receipt(BOOT, 100), &vouched(far)).is_some(), "{far}");
            assert_eq!(anchors.report(&vouched(far)).taps, TapTime::Disputed);
        }
    }

    #[test]
    fn the_best_time_is_the_vouched_clocks_then_the_clouds_then_none() {
        let mut anchors = Anchors::new(BOOT);
        let unsynced = |boottime_ms| now(boottime_ms, ClockState::Unsynced);
        assert_eq!(anchors.best_utc_ms(&unsynced(100)), None);
        assert_eq!(
            anchors.best_utc_ms(&now(100, ClockState::Synced)),
            Some(now(100, ClockState::Synced).wall_ms)
        );
        anchors.hello_sent(100);
        anchors.receipt_came(&receipt(BOOT, 100), &unsynced(140));
        assert_eq!(anchors.best_utc_ms(&unsynced(1_140)), Some(receipt(BOOT, 100).cloud_utc_ms + 1_000));
    }

    #[test]
    fn the_report_says_where_taps_get_their_time_from() {
        let mut anchors = Anchors::new(BOOT);
        let unsynced = now(100, ClockState::Unsynced);
        let report = anchors.report(&unsynced);
        assert_eq!((report.taps, report.anchors.len(), report.last_receipt), (TapTime::Nothing, 0, None));
        anchors.hello_sent(100);
        anchors.receipt_came(&receipt(BOOT, 100), &now(140, ClockState::Unsynced));
        let report = anchors.report(&now(1_140, ClockState::Unsynced));
        let anchor = AnchorReport { source: "receipt".into(), age_ms: 1_000, uncertainty_ms: 20 };
        assert_eq!((report.taps, report.anchors), (TapTime::Receipts, vec![anchor]));
        let said = ReceiptReport { age_ms: 1_000, round_trip_ms: 40, wall_off_ms: -4_000_000 };
        assert_eq!(report.last_receipt, Some(said));

        let mut anchors = Anchors::new(BOOT);
        anchors.clock_read(&now(100, ClockState::Synced));
        assert_eq!(anchors.report(&now(200, ClockState::Synced)).taps, TapTime::Kernel);
        assert_eq!(anchors.report(&now(200, ClockState::Unsynced)).taps, TapTime::KernelEarlier);
        anchors.start_over();
        assert_eq!(anchors.report(&now(200, ClockState::Unsynced)).taps, TapTime::Nothing);
        assert!(!TapTime::Nothing.is_known() && TapTime::KernelEarlier.is_known());
    }
}
