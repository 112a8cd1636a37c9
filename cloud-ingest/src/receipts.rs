//! Step 10 of 12: which receipts go back to the controllers. Pure: knows no keys (the caller signs), no broker, no clock.
//!
//! A receipt is made from a mark that the store gave **after** its commit, and from nothing else: it allows the
//! controller to prune. After a commit group there is one per touched outbox, however many batches it had. A batch
//! that was missed shows as [`Admission::Beyond`]; the receipt then asks for the records from the mark again, unless a
//! later batch of the same group was stored, for then the controller has gone back on its own account already. A
//! fork is not answered: what is disputed must not be pruned.

use std::collections::BTreeMap;

use tap_protocol::hello::Hello;
use tap_protocol::ids::StoreEpoch;
use tap_protocol::receipt::{Echo, Receipt};

use crate::event_store::{Appended, OutboxMark, UtcMs};
use crate::intake::admit::Admission;

/// What all receipts of one moment share.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Which life of the store speaks.
    pub epoch: StoreEpoch,
    /// The cloud's clock.
    pub now: UtcMs,
}

/// After a commit group: one per outbox that was touched, in the order of controller and outbox.
pub fn after_append(appended: &[Appended], stamp: Stamp) -> Vec<Receipt> {
    let mut answers = BTreeMap::new();
    for Appended { admission, mark } in appended {
        let key = (&mark.controller, mark.outbox);
        let missed = answers.get(&key).is_some_and(|(_, missed)| *missed);
        let missed = match admission {
            Admission::Store { .. } => false,
            Admission::Beyond => true,
            Admission::Duplicate => missed,
            Admission::Fork { .. } => continue,
        };
        answers.insert(key, (mark, missed));
    }
    answers.into_values().map(|(mark, missed)| receipt(mark, missed, None, stamp)).collect()
}

/// The answer to a hello: one per outbox it named, from the marks that noting it gave.
pub fn for_hello(hello: &Hello, marks: &[OutboxMark], stamp: Stamp) -> Vec<Receipt> {
    let echo = Echo { boot_id: hello.boot_id, boottime_ms: hello.boottime_ms };
    marks.iter().map(|mark| receipt(mark, false, Some(echo), stamp)).collect()
}

/// When this process takes over intake: one per known outbox, all asking for what may have been on its way to the one
/// before.
pub fn on_take_over(marks: &[OutboxMark], stamp: Stamp) -> Vec<Receipt> {
    marks.iter().map(|mark| receipt(mark, true, None, stamp)).collect()
}

/// What is stored at places that a controller asked for: each is the truth about its own place, and says nothing of others.
pub fn at_places(places: &[OutboxMark], stamp: Stamp) -> Vec<Receipt> {
    places.iter().map(|place| receipt(place, false, None, stamp)).collect()
}

fn receipt(mark: &OutboxMark, resend: bool, echo: Option<Echo>, stamp: Stamp) -> Receipt {
    Receipt {
        controller: mark.controller.clone(),
        store_epoch: stamp.epoch,
        outbox: mark.outbox,
        stored_through: mark.stored_through,
        hash: mark.hash,
        resend,
        echo,
        cloud_utc_ms: stamp.now.0,
    }
}

#[cfg(test)]
mod tests {
    use tap_protocol::chain::ChainHash;
    use tap_protocol::ids::{BootId, OutboxId, Seq};
    use tap_protocol::record::ClockState;

    use super::*;

    const STAMP: Stamp = Stamp { epoch: StoreEpoch(3), now: UtcMs(1_000) };
    const STORED: Admission = Admission::Store { from: Seq(1) };

    fn mark(outbox: u8, stored_through: u64) -> OutboxMark {
        OutboxMark {
            controller: "hq-door-12".parse().unwrap(),
            outbox: OutboxId([outbox; 16]),
            stored_through: Seq(stored_through),
            hash: ChainHash([stored_through as u8; 32]),
        }
    }

    fn appended(admission: Admission, outbox: u8, stored_through: u64) -> Appended {
        Appended { admission, mark: mark(outbox, stored_through) }
    }

    /// Outbox, mark and resend of each receipt.
    #[track_caller]
    fn check(group: &[Appended], expected: &[(u8, u64, bool)]) {
        let receipts = after_append(group, STAMP);
        let got: Vec<_> = receipts.iter().map(|r| (r.outbox.0[0], r.stored_through.0, r.resend)).collect();
        assert_eq!(got, expected);
        assert!(receipts.iter().all(|r| r.echo.is_none() && r.cloud_utc_ms == 1_000));
        assert!(receipts.iter().all(|r| r.store_epoch == StoreEpoch(3)));
        assert!(receipts.iter().all(|r| r.hash == ChainHash([r.stored_through.0 as u8; 32])));
    }

    #[test]
    fn an_empty_group_gives_no_receipt() {
        check(&[], &[]);
    }

    #[test]
    fn one_receipt_per_outbox_says_the_last_mark() {
        let group = [appended(STORED, 1, 256), appended(STORED, 2, 9), appended(STORED, 1, 512)];
        check(&group, &[(1, 512, false), (2, 9, false)]);
    }

    #[test]
    fn a_duplicate_is_answered_with_the_mark() {
        check(&[appended(Admission::Duplicate, 1, 256)], &[(1, 256, false)]);
    }

    #[test]
    fn a_missed_batch_asks_for_the_records_again() {
        check(&[appended(STORED, 1, 256), appended(Admission::Beyond, 1, 256)], &[(1, 256, true)]);
    }

    #[test]
    fn nothing_is_asked_again_once_the_hole_was_filled() {
        check(&[appended(Admission::Beyond, 1, 0), appended(STORED, 1, 256)], &[(1, 256, false)]);
    }

    #[test]
    fn a_hole_after_the_filled_one_asks_again() {
        let group = [
            appended(Admission::Beyond, 1, 0),
            appended(STORED, 1, 256),
            appended(Admission::Beyond, 1, 256),
            appended(Admission::Duplicate, 1, 256),
        ];
        check(&group, &[(1, 256, true)]);
    }

    #[test]
    fn a_hole_in_one_outbox_is_no_business_of_another() {
        check(
            &[appended(Admission::Beyond, 1, 0), appended(STORED, 2, 256)],
            &[(1, 0, true), (2, 256, false)],
        );
    }

    #[test]
    fn a_fork_is_not_answered() {
        check(&[appended(Admission::Fork { at: Seq(1) }, 1, 256)], &[]);
        let stored_before = [appended(STORED, 1, 256), appended(Admission::Fork { at: Seq(1) }, 1, 256)];
        check(&stored_before, &[(1, 256, false)]);
    }

    #[test]
    fn a_hello_is_answered_with_its_echo_for_every_outbox() {
        let hello = Hello {
            controller: "hq-door-12".parse().unwrap(),
            boot_id: BootId([4; 16]),
            boottime_ms: 77,
            wall_ms: 0,
            clock: ClockState::Unsynced,
            agent_version: String::new(),
            record_version: 1,
            roster_version: None,
            outboxes: vec![],
            readers: vec![],
        };
        let receipts = for_hello(&hello, &[mark(1, 256), mark(2, 0)], STAMP);
        let echo = Some(Echo { boot_id: BootId([4; 16]), boottime_ms: 77 });
        assert_eq!(receipts.iter().map(|r| r.stored_through).collect::<Vec<_>>(), [Seq(256), Seq(0)]);
        assert!(receipts.iter().all(|r| r.echo == echo && !r.resend));
    }

    #[test]
    fn taking_over_asks_every_known_outbox_to_send_again() {
        let receipts = on_take_over(&[mark(1, 256), mark(2, 0)], STAMP);
        assert_eq!(receipts.len(), 2);
        assert!(receipts.iter().all(|r| r.resend && r.echo.is_none()));
    }
}
