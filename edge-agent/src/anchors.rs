//! Which clock anchors are worth a record. Pure: takes readings of clocks and receipts, gives bodies to commit.
//!
//! An anchor lets the cloud work out the true time of every tap of the same boot, also of those before it. Two sources:
//! the kernel begins to vouch for the wall clock, or a receipt answers a hello and brings the cloud's time, which works
//! where NTP is blocked.

use std::collections::VecDeque;

use tap_protocol::ids::BootId;
use tap_protocol::limits::{MAX_ANCHOR_WIDTH_MS, MAX_DRIFT_PPM};
use tap_protocol::receipt::Receipt;
use tap_protocol::record::{AnchorSource, Body, ClockState};

use crate::now::Now;

/// Hellos whose answers are still awaited.
const MAX_HELLOS: usize = 8;

/// How far a clock that the kernel vouches for may be off, milliseconds.
const KERNEL_UNCERTAINTY_MS: u32 = 500;

/// The clocks of one run of the agent.
#[derive(Debug)]
pub struct Anchors {
    boot_id: BootId,
    was_synced: bool,
    /// CLOCK_BOOTTIME in the hellos last sent.
    hellos: VecDeque<u64>,
    /// Width and boottime of the best receipt anchor that was recorded.
    best: Option<(u64, u64)>,
}

impl Anchors {
    /// Nothing known yet.
    pub fn new(boot_id: BootId) -> Anchors {
        Anchors { boot_id, was_synced: false, hellos: VecDeque::new(), best: None }
    }

    /// What was recorded so far does not count any more: it could not be committed, or another outbox is written from now
    /// on, and an anchor says nothing about records of another outbox. The next opportunities are taken anew.
    pub fn start_over(&mut self) {
        self.was_synced = false;
        self.best = None;
    }

    /// The clocks were read. Gives an anchor when the kernel begins to vouch for the wall clock.
    pub fn clock_read(&mut self, now: &Now) -> Option<Body> {
        let is_synced = now.clock == ClockState::Synced;
        let begins = is_synced && !self.was_synced;
        self.was_synced = is_synced;
        begins.then_some(Body::ClockAnchor {
            source: AnchorSource::Kernel,
            earliest_boottime_ms: now.boottime_ms,
            latest_boottime_ms: now.boottime_ms,
            utc_ms: now.wall_ms,
            uncertainty_ms: KERNEL_UNCERTAINTY_MS,
        })
    }

    /// A hello with this boottime was sent.
    pub fn hello_sent(&mut self, boottime_ms: u64) {
        if self.hellos.len() == MAX_HELLOS {
            self.hellos.pop_front();
        }
        self.hellos.push_back(boottime_ms);
    }

    /// An authentic receipt came. Gives an anchor if it answers a hello of ours, the wall clock is not vouched for, and
    /// it says more than the best anchor so far has come to say after drifting.
    pub fn receipt_came(&mut self, receipt: &Receipt, now: &Now) -> Option<Body> {
        let echo = receipt.echo.filter(|echo| echo.boot_id == self.boot_id)?;
        if !self.hellos.contains(&echo.boottime_ms) || now.clock == ClockState::Synced {
            return None;
        }
        let width_ms = now.boottime_ms.saturating_sub(echo.boottime_ms);
        let worth_it = match self.best {
            None => true,
            Some((best_width_ms, at_ms)) => {
                let drifted_ms = now.boottime_ms.saturating_sub(at_ms) * MAX_DRIFT_PPM / 1_000_000;
                2 * width_ms < best_width_ms + 2 * drifted_ms
            }
        };
        if width_ms > MAX_ANCHOR_WIDTH_MS || !worth_it {
            return None;
        }
        self.best = Some((width_ms, now.boottime_ms));
        Some(Body::ClockAnchor {
            source: AnchorSource::Receipt,
            earliest_boottime_ms: echo.boottime_ms,
            latest_boottime_ms: now.boottime_ms,
            utc_ms: receipt.cloud_utc_ms,
            uncertainty_ms: 0,
        })
    }
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
        assert_eq!(
            anchors.receipt_came(&receipt(BOOT, 100), &now(140, ClockState::Synced)),
            None,
            "needless"
        );
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
}
